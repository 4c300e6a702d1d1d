//! The superblock of md, format 1.2: 4096 bytes from the begin of a member (linux/raid/md_p.h). No I/O.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

/// Where it is on a member, in bytes.
pub(crate) const OFFSET: u64 = 4096;
/// Its bytes without the roles of members.
pub(crate) const SIZE: usize = 256;
/// Roles from here on are none: journal, faulty, spare.
const NO_ROLE: u16 = 0xfffd;
/// Feature: a member that is being filled, and is right up to a place in it only.
const RECOVERING: u32 = 2;
/// Features: a journal, a partial parity log, several of these.
const LOGS: u32 = 512 | 1024 | 2048;
const MAGIC: u32 = 0xa92b_4efc;

/// The identifier of an array, in mdadm's form: four groups of eight hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Uuid(pub(crate) [u8; 16]);

impl Uuid {
    /// A new random one.
    pub(crate) fn random() -> Result<Self, getrandom::Error> {
        let mut bytes = [0; 16];
        getrandom::fill(&mut bytes)?;
        Ok(Self(bytes))
    }
}

impl fmt::Display for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let groups: Vec<String> = self.0.chunks(4).map(hex::encode).collect();
        f.write_str(&groups.join(":"))
    }
}

impl fmt::Debug for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Uuid {
    type Err = hex::FromHexError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut bytes = [0; 16];
        // Also with dashes, as the kernel writes it.
        hex::decode_to_slice(text.replace([':', '-'], ""), &mut bytes)?;
        Ok(Self(bytes))
    }
}

/// What a member says of its array.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Superblock {
    /// Which array.
    pub(crate) array: Uuid,
    /// Its name.
    pub(crate) name: String,
    /// Its level: 1, 4, 5, 6, 10.
    pub(crate) level: i32,
    /// How many members it has when whole.
    pub(crate) members: u32,
    /// How often it had changed when this member was last in it.
    pub(crate) events: u64,
    /// Whether what is derived from the data, parity or copies, may not agree with it: it was not stopped in order, or not made right yet.
    pub(crate) unclean: bool,
    /// Whether a log closes that gap: a journal, or a log of partial parity.
    pub(crate) logged: bool,
    /// Which of its members this one is; none for a spare and for one that failed.
    pub(crate) role: Option<u16>,
    /// Whether this member was still being filled when it was last in it: not all of what it should have is on it.
    pub(crate) filling: bool,
    /// The roles that somebody had when this member was last in it.
    pub(crate) taken: BTreeSet<u16>,
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|b| u32::from_le_bytes(*b))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..)?.first_chunk().map(|b| u64::from_le_bytes(*b))
}

/// As the kernel sums it: words of 32 bits, with the checksum's own place as zero, carries added.
fn checksum(bytes: &[u8]) -> u32 {
    let words = bytes.chunks(4).enumerate().filter(|(i, _)| *i != 216 / 4);
    let sum: u64 = words
        .map(|(_, c)| match c {
            [a, b, c, d] => u64::from(u32::from_le_bytes([*a, *b, *c, *d])),
            [a, b, ..] => u64::from(u16::from_le_bytes([*a, *b])),
            _ => 0,
        })
        .sum();
    let [a, b, c, d, e, f, g, h] = sum.to_le_bytes();
    u32::from_le_bytes([a, b, c, d]).wrapping_add(u32::from_le_bytes([e, f, g, h]))
}

impl Superblock {
    /// Reads it; `None` where there is none. Bytes after [`SIZE`] are needed for the checksum: two for each device number used.
    pub(crate) fn parse(bytes: &[u8]) -> Option<Self> {
        if u32_at(bytes, 0)? != MAGIC || u32_at(bytes, 4)? != 1 || u64_at(bytes, 144)? != OFFSET / 512 {
            return None;
        }
        let roles = usize::try_from(u32_at(bytes, 220)?).ok()?.checked_mul(2)?;
        let whole = bytes.get(..SIZE.checked_add(roles)?)?;
        if checksum(whole) != u32_at(bytes, 216)? {
            return None;
        }
        // The table of roles goes by the number of the device; the last values say that it has none.
        let own = SIZE + 2 * usize::try_from(u32_at(bytes, 160)?).ok()?;
        let role = whole.get(own..).and_then(|b| b.first_chunk()).map(|b| u16::from_le_bytes(*b));
        let table = whole[SIZE..].chunks_exact(2).map(|b| u16::from_le_bytes([b[0], b[1]]));
        let name = bytes[32..64].split(|b| *b == 0).next().unwrap_or_default();
        Some(Self {
            array: Uuid(*bytes[16..].first_chunk()?),
            name: String::from_utf8_lossy(name).into_owned(),
            level: i32::from_le_bytes(*bytes[72..].first_chunk()?),
            members: u32_at(bytes, 92)?,
            events: u64_at(bytes, 200)?,
            unclean: u64_at(bytes, 208)? != u64::MAX,
            logged: u32_at(bytes, 8)? & LOGS != 0,
            role: role.filter(|r| *r < NO_ROLE),
            filling: u32_at(bytes, 8)? & RECOVERING != 0,
            taken: table.filter(|r| *r < NO_ROLE).collect(),
        })
    }

    /// Whether a missing member cannot be made up for where something was being written: the parity that stands for it may be wrong.
    pub(crate) fn parity_may_be_wrong(&self) -> bool {
        matches!(self.level, 4..=6) && self.unclean && !self.logged
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A superblock as mdadm writes it, with room for 128 roles.
    pub(crate) fn sample(array: Uuid, level: i32, members: u32) -> Vec<u8> {
        let mut b = vec![0; SIZE + 256];
        b[..4].copy_from_slice(&MAGIC.to_le_bytes());
        b[4] = 1;
        b[16..32].copy_from_slice(&array.0);
        b[32..35].copy_from_slice(b"ffs");
        b[72..76].copy_from_slice(&level.to_le_bytes());
        b[92..96].copy_from_slice(&members.to_le_bytes());
        b[144] = 8;
        b[200] = 17;
        b[208..216].fill(0xff);
        b[220] = 128;
        // The device 3 has role 2, all others are spares.
        b[160] = 3;
        b[SIZE..].fill(0xff);
        b[SIZE + 6..SIZE + 8].copy_from_slice(&[2, 0]);
        let sum = checksum(&b);
        b[216..220].copy_from_slice(&sum.to_le_bytes());
        b
    }

    #[test]
    fn reads_what_is_there() {
        let uuid: Uuid = "00112233:44556677:8899aabb:ccddeeff".parse().unwrap();
        assert_eq!(uuid.to_string(), "00112233:44556677:8899aabb:ccddeeff");
        assert_eq!("00112233-4455-6677-8899-aabbccddeeff".parse(), Ok(uuid));
        assert!("0011".parse::<Uuid>().is_err());
        let bytes = sample(uuid, 10, 4);
        let found = Superblock::parse(&bytes).unwrap();
        let expected = Superblock {
            array: uuid,
            name: "ffs".into(),
            level: 10,
            members: 4,
            events: 17,
            unclean: false,
            logged: false,
            role: Some(2),
            filling: false,
            taken: [2].into(),
        };
        assert_eq!(found, expected);
        let with = |at: usize, byte: u8| {
            let mut other = bytes.clone();
            other[at] = byte;
            let sum = checksum(&other);
            other[216..220].copy_from_slice(&sum.to_le_bytes());
            Superblock::parse(&other).unwrap().role
        };
        assert_eq!((with(160, 4), with(SIZE + 7, 0xff)), (None, Some(0xff02)));
        assert_eq!(with(160, 200), None, "beyond the table");
        let with_features = |features: u8| {
            let mut other = bytes.clone();
            other[8] = features;
            let sum = checksum(&other);
            other[216..220].copy_from_slice(&sum.to_le_bytes());
            Superblock::parse(&other).unwrap().filling
        };
        assert_eq!((with_features(1), with_features(3)), (false, true));
        let unsure = |level, features: u32, synced: u64| {
            let mut other = sample(uuid, level, 4);
            other[8..12].copy_from_slice(&features.to_le_bytes());
            other[208..216].copy_from_slice(&synced.to_le_bytes());
            let sum = checksum(&other);
            other[216..220].copy_from_slice(&sum.to_le_bytes());
            Superblock::parse(&other).unwrap().parity_may_be_wrong()
        };
        assert!(unsure(6, 1, 0) && unsure(5, 0, 4096), "a bitmap does not help");
        assert!(!unsure(6, 1, u64::MAX) && !unsure(10, 1, 0) && !unsure(1, 1, 0) && !unsure(5, 1024, 0));
        for at in [0, 4, 16, 92, 144, 220, 300] {
            let mut bad = bytes.clone();
            bad[at] ^= 1;
            assert_eq!(Superblock::parse(&bad), None, "{at}");
        }
        assert_eq!(Superblock::parse(&bytes[..bytes.len() - 1]), None);
    }

    proptest! {
        #[test]
        fn anything_can_be_parsed(noise in prop::collection::vec(any::<u8>(), 0..600), at in 0usize..500) {
            let _ = Superblock::parse(&noise);
            let mut bytes = sample(Uuid([7; 16]), 1, 2);
            let n = noise.len().min(bytes.len() - at);
            bytes[at..at + n].copy_from_slice(&noise[..n]);
            let _ = Superblock::parse(&bytes);
        }
    }
}
