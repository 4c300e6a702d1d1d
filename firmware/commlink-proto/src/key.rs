//! The packet key and the rule by which both ends choose it.

use core::fmt;
use core::num::NonZeroUsize;

use cipher::KeyInit;
use des::Des;

/// The DES key of one bag entry, ready for use. Zeroed when dropped.
#[derive(Clone)]
pub struct PacketKey(pub(crate) Des);

impl PacketKey {
    /// Expands an 8-byte DES key. Parity bits are ignored here; whether a key is fit for use (parity, weak keys) is
    /// judged where key bags are loaded.
    pub fn new(key: &[u8; 8]) -> Self {
        Self(Des::new(&(*key).into()))
    }
}

impl fmt::Debug for PacketKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PacketKey(..)")
    }
}

/// I = P mod N: the bag entry that a connection uses.
///
/// `port` is P, the port from which the client connected *as the server sees it*; `entries` is N.
///
/// ```
/// use core::num::NonZeroUsize;
/// let n = NonZeroUsize::new(128).unwrap();
/// assert_eq!(commlink_proto::key_index(49_153, n), 1);
/// ```
pub fn key_index(port: u16, entries: NonZeroUsize) -> usize {
    usize::from(port) % entries
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;

    #[test]
    fn debug_shows_no_key() {
        assert_eq!(std::format!("{:?}", PacketKey::new(&[7; 8])), "PacketKey(..)");
    }

    #[test]
    fn index_is_the_remainder() {
        let n = NonZeroUsize::new(128).unwrap();
        for (port, index) in [(0, 0), (127, 127), (128, 0), (7640, 88), (65535, 127)] {
            assert_eq!(key_index(port, n), index);
        }
        assert_eq!(key_index(65535, NonZeroUsize::MIN), 0);
    }
}
