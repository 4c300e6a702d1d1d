//! The sealed transport: a Noise session over any stream, bound to a key bag.
//!
//! # On the wire
//! ```text
//! client → server   "FFS/2 <link> <generation>[,<generation>]" CR LF     in clear, 64 bytes at most
//! server → client   "FFS/2 <P> <generation>" CR LF                       in clear, 64 bytes at most
//! client → server   0x0030 ‖ Noise: psk, e                               48 bytes, empty payload
//! server → client   0x0030 ‖ Noise: e, ee                                48 bytes, empty payload
//! both              u16 length ‖ record                                  any number
//! both              0x0010 ‖ record of no plaintext                      this direction has ended
//! ```
//! - `Noise_NNpsk0_25519_ChaChaPoly_BLAKE2s`; the pre-shared key is the seal key of bag entry I = P mod 128.
//! - The [prologue](commlink_proto::greeting::prologue) binds both lines and both names, which are those in one's own
//!   bag: a session exists only between the two ends that the bag was made for, in these roles.
//! - Lengths are two bytes, most significant first; a record is 16 to 65535 bytes, its plaintext up to 65519.
//! - A record that does not open, a length below 16 and an end of the transport without the empty record are breaches:
//!   the session is over, and nothing is said about why.
//!
//! # States
//! ```text
//! client: hello sent ─ answer ─▶ e sent ─ e, ee ─▶ open ─▶ ended | failed
//! server: waiting ─ hello ─▶ answered ─ psk, e ─▶ open, e, ee sent ─▶ ended | failed
//! ```
//! A message recorded from an earlier session can bring a server to `open`, but not open a record there, since the
//! server's key is new: so nothing is done before the first record has opened.

mod handshake;
mod record;
mod stream;

use std::fmt;
use std::io;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use commlink_proto::greeting::GreetingError;
use commlink_proto::{PacketKey, key_index};
use keys::Bag;
use thiserror::Error;
use tokio::time::Instant;

pub use handshake::{accept, open};
pub use record::{MAX_PLAIN, MAX_RECORD, RecordError, TAG};
pub use stream::SealedStream;

/// The protocol, as snow knows it.
pub(crate) const NOISE: &str = "Noise_NNpsk0_25519_ChaChaPoly_BLAKE2s";

/// How long the greeting and the handshake may take together.
pub const HANDSHAKE: Duration = Duration::from_secs(10);

/// How long a session may live; a transaction under way is finished first.
pub const MAX_SESSION: Duration = Duration::from_secs(60 * 60);

/// N: the entries of a bag.
const ENTRIES: NonZeroUsize = NonZeroUsize::new(keys::ENTRIES).expect("a bag has entries");

/// Why there is no session. For our own log only: the peer sees the connection close.
#[derive(Debug, Error)]
pub enum SealError {
    /// The transport failed or ended.
    #[error("the transport failed during the handshake")]
    Io(#[from] io::Error),
    /// A greeting line that is none.
    #[error("bad greeting")]
    Greeting(#[from] GreetingError),
    /// The peer names a link of which there is no bag here.
    #[error("the peer asks for link {0:?}, of which no bag is here")]
    UnknownLink(String),
    /// The two ends have no generation of the bag in common.
    #[error("no generation of the bag for link {0:?} is held by both ends")]
    Generation(String),
    /// A handshake message of a wrong size.
    #[error("a handshake message of {0} bytes")]
    Size(usize),
    /// The handshake failed: another key, another name, or altered on the way.
    #[error("the handshake failed: the ends do not hold the same keys and names, or something on the way altered it")]
    Noise(#[from] snow::Error),
    /// Not done within [`HANDSHAKE`].
    #[error("the handshake was not finished within {HANDSHAKE:?}")]
    Late,
}

/// What a session was made from.
#[derive(Clone)]
pub struct Session {
    bag: Arc<Bag>,
    port: u16,
    opened: Instant,
}

impl Session {
    pub(crate) fn new(bag: Arc<Bag>, port: u16) -> Self {
        Self { bag, port, opened: Instant::now() }
    }

    /// The bag in use. Its [`Bag::peer`] is who is at the other end.
    pub fn bag(&self) -> &Arc<Bag> {
        &self.bag
    }

    /// P: the client's port as the server sees it.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// I: the entry in use.
    pub fn index(&self) -> usize {
        key_index(self.port, ENTRIES)
    }

    /// The packet key of this connection.
    pub fn packet_key(&self) -> PacketKey {
        PacketKey::new(self.bag.des_key(self.index()))
    }

    /// Whether the session is past [`MAX_SESSION`]: it takes no further transaction.
    pub fn is_over(&self) -> bool {
        self.opened.elapsed() >= MAX_SESSION
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session")
            .field("link", &self.bag.link())
            .field("peer", &self.bag.peer())
            .field("generation", &self.bag.generation())
            .field("port", &self.port)
            .finish_non_exhaustive()
    }
}
