//! Partition tables: GPT as UEFI 2.10 §5 has it, on disks with sectors of 512 bytes. No I/O.

use std::fmt;

/// Bytes of a sector.
pub const SECTOR: u64 = 512;
/// Sectors at the begin of a disk that the table takes: protective MBR, header, entries.
pub const HEAD: u64 = 34;
/// Sectors at the end of a disk that the table's copy takes: entries, header.
pub const TAIL: u64 = 33;
/// Most partitions; every tool makes tables of this size.
pub const MAX_PARTITIONS: usize = 128;
/// The type of a Linux file system.
pub const LINUX: Guid = Guid(0x0fc6_3daf_8483_4772_8e79_3d69_d847_7de4);

const ENTRY: usize = 128;
const HEADER: usize = 92;
const SIGNATURE: &[u8; 8] = b"EFI PART";
const REVISION: u32 = 0x0001_0000;
/// UTF-16 units of a name.
const NAME: usize = 36;

/// An identifier, as it is written in text.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Guid(pub u128);

impl Guid {
    /// A new random one (version 4).
    ///
    /// # Errors
    /// When the system has no randomness.
    pub fn random() -> Result<Self, getrandom::Error> {
        let mut bytes = [0; 16];
        getrandom::fill(&mut bytes)?;
        let value = u128::from_be_bytes(bytes);
        Ok(Self(value & !(0xf << 76) & !(0x3 << 62) | 0x4 << 76 | 0x2 << 62))
    }

    /// On disk the first three groups are little-endian.
    fn swapped(mut b: [u8; 16]) -> [u8; 16] {
        b[..4].reverse();
        b[4..6].reverse();
        b[6..8].reverse();
        b
    }

    /// The bytes of it on a disk, and in the variables of UEFI.
    pub fn encode(self) -> [u8; 16] {
        Self::swapped(self.0.to_be_bytes())
    }

    fn decode(bytes: [u8; 16]) -> Self {
        Self(u128::from_be_bytes(Self::swapped(bytes)))
    }
}

impl fmt::Display for Guid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hex = format!("{:032x}", self.0);
        write!(f, "{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
    }
}

impl fmt::Debug for Guid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Partition {
    /// What it is for.
    pub kind: Guid,
    /// Which it is.
    pub id: Guid,
    /// Its first sector.
    pub first: u64,
    /// Its last sector.
    pub last: u64,
    /// Its attribute bits.
    pub attributes: u64,
    /// Its name, 36 UTF-16 units at most.
    pub name: String,
}

/// The table of a disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    /// Which disk it is.
    pub id: Guid,
    /// Its partitions, in the order of the table.
    pub partitions: Vec<Partition>,
}

/// A table as bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Encoded {
    /// For the first [`HEAD`] sectors.
    pub head: Vec<u8>,
    /// For the last [`TAIL`] sectors.
    pub tail: Vec<u8>,
}

/// Why bytes are no table, or a table does not fit a disk.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GptError {
    /// No header, or one of another kind.
    #[error("there is no partition table (GPT) for sectors of 512 bytes")]
    Missing,
    /// A checksum is wrong.
    #[error("the checksum of the partition table is wrong")]
    Checksum,
    /// A partition is where none can be.
    #[error("partition {0} overlaps another or does not fit the disk")]
    Place(String),
    /// A name or the number of partitions is beyond its limit.
    #[error("more than {MAX_PARTITIONS} partitions, or a name of more than {NAME} characters")]
    Limit,
}

/// CRC-32 of IEEE 802.3, as UEFI uses it.
pub(crate) fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |c, _| (c >> 1) ^ (0xedb8_8320 & (c & 1).wrapping_neg()))
    })
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes[at..].first_chunk().map_or(0, |b| u32::from_le_bytes(*b))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes[at..].first_chunk().map_or(0, |b| u64::from_le_bytes(*b))
}

fn guid_at(bytes: &[u8], at: usize) -> Guid {
    bytes[at..].first_chunk().map_or(Guid(0), |b| Guid::decode(*b))
}

impl Table {
    /// Reads the table in the first [`HEAD`] sectors of a disk.
    ///
    /// # Errors
    /// [`GptError`].
    pub fn parse(head: &[u8]) -> Result<Self, GptError> {
        let header = head.get(512..1024).ok_or(GptError::Missing)?;
        let entries = head.get(1024..1024 + ENTRY * MAX_PARTITIONS).ok_or(GptError::Missing)?;
        Self::decode(header, entries, 1, 2)
    }

    /// Reads the table's copy in the last [`TAIL`] sectors of a disk of so many.
    ///
    /// # Errors
    /// [`GptError`].
    pub fn parse_copy(tail: &[u8], sectors: u64) -> Result<Self, GptError> {
        let (entries, header) = tail.split_at_checked(ENTRY * MAX_PARTITIONS).ok_or(GptError::Missing)?;
        let header = header.get(..512).ok_or(GptError::Missing)?;
        Self::decode(header, entries, sectors.saturating_sub(1), sectors.saturating_sub(TAIL))
    }

    /// Reads a header that is in the sector `own`, with its entries, which begin at the sector `at`.
    fn decode(header: &[u8], entries: &[u8], own: u64, at: u64) -> Result<Self, GptError> {
        let shape =
            (u32_at(header, 12), u64_at(header, 24), u64_at(header, 72), u32_at(header, 80), u32_at(header, 84));
        if !header.starts_with(SIGNATURE) || shape != (92, own, at, 128, 128) {
            return Err(GptError::Missing);
        }
        let mut plain = header[..HEADER].to_vec();
        plain[16..20].fill(0);
        if crc32(&plain) != u32_at(header, 16) || crc32(entries) != u32_at(header, 88) {
            return Err(GptError::Checksum);
        }
        let used = entries.chunks_exact(ENTRY).filter(|entry| guid_at(entry, 0) != Guid(0));
        let partitions = used
            .map(|entry| {
                let units =
                    entry[56..].chunks_exact(2).map(|u| u16::from_le_bytes([u[0], u[1]])).take_while(|u| *u != 0);
                let name = char::decode_utf16(units).map(|c| c.unwrap_or(char::REPLACEMENT_CHARACTER)).collect();
                Partition {
                    kind: guid_at(entry, 0),
                    id: guid_at(entry, 16),
                    first: u64_at(entry, 32),
                    last: u64_at(entry, 40),
                    attributes: u64_at(entry, 48),
                    name,
                }
            })
            .collect();
        Ok(Self { id: guid_at(header, 56), partitions })
    }

    /// Gives the disk and each partition an identifier of its own.
    ///
    /// # Errors
    /// When the system has no randomness.
    pub fn renew(&mut self) -> Result<(), getrandom::Error> {
        self.id = Guid::random()?;
        self.partitions.iter_mut().try_for_each(|p| {
            p.id = Guid::random()?;
            Ok(())
        })
    }

    /// The partition that begins last.
    pub fn last(&self) -> Option<&Partition> {
        self.partitions.iter().max_by_key(|p| p.first)
    }

    /// The table for a disk of so many sectors.
    ///
    /// # Errors
    /// [`GptError::Place`], [`GptError::Limit`].
    pub fn encode(&self, sectors: u64) -> Result<Encoded, GptError> {
        if sectors < HEAD + TAIL {
            return Err(GptError::Place("table".into()));
        }
        let end = sectors - TAIL - 1;
        for (i, p) in self.partitions.iter().enumerate() {
            let apart = self.partitions[..i].iter().all(|q| p.last < q.first || q.last < p.first);
            if p.first < HEAD || p.first > p.last || p.last > end || !apart {
                return Err(GptError::Place(p.name.clone()));
            }
        }
        if self.partitions.len() > MAX_PARTITIONS {
            return Err(GptError::Limit);
        }
        let mut entries = Vec::with_capacity(ENTRY * MAX_PARTITIONS);
        for p in &self.partitions {
            let begin = entries.len();
            entries.extend(p.kind.encode());
            entries.extend(p.id.encode());
            entries.extend([p.first, p.last, p.attributes].map(u64::to_le_bytes).as_flattened());
            let name: Vec<u16> = p.name.encode_utf16().collect();
            if name.len() > NAME {
                return Err(GptError::Limit);
            }
            entries.extend(name.iter().flat_map(|unit| unit.to_le_bytes()));
            entries.resize(begin + ENTRY, 0);
        }
        entries.resize(ENTRY * MAX_PARTITIONS, 0);
        let mut head = protective(sectors);
        head.extend(self.header(&entries, 1, sectors, 2));
        head.extend(&entries);
        let backup = self.header(&entries, sectors - 1, sectors, sectors - TAIL);
        let tail = [entries, backup].concat();
        Ok(Encoded { head, tail })
    }

    /// The header in the sector `own`, for a disk of so many sectors, with the entries at the sector `at`.
    fn header(&self, entries: &[u8], own: u64, sectors: u64, at: u64) -> Vec<u8> {
        let mut header = SIGNATURE.to_vec();
        header.extend([REVISION, 92, 0, 0].map(u32::to_le_bytes).as_flattened());
        let other = sectors - own;
        header.extend([own, other, HEAD, sectors - TAIL - 1].map(u64::to_le_bytes).as_flattened());
        header.extend(self.id.encode());
        header.extend(at.to_le_bytes());
        header.extend([128, 128, crc32(entries)].map(u32::to_le_bytes).as_flattened());
        let crc = crc32(&header);
        header[16..20].copy_from_slice(&crc.to_le_bytes());
        header.resize(512, 0);
        header
    }
}

/// An MBR that keeps old tools from taking the disk for an empty one.
fn protective(sectors: u64) -> Vec<u8> {
    let mut mbr = vec![0; 512];
    let size = u32::try_from(sectors - 1).unwrap_or(u32::MAX);
    mbr[446..454].copy_from_slice(&[0, 0, 2, 0, 0xee, 0xff, 0xff, 0xff]);
    mbr[454..458].copy_from_slice(&1u32.to_le_bytes());
    mbr[458..462].copy_from_slice(&size.to_le_bytes());
    mbr[510..].copy_from_slice(&[0x55, 0xaa]);
    mbr
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn table() -> Table {
        let part = |first, last, name: &str| Partition {
            kind: LINUX,
            id: Guid(0x1111_2222_3333_4444_5555_6666_7777_8888 + u128::from(first)),
            first,
            last,
            attributes: 0,
            name: name.to_owned(),
        };
        let id = Guid(0x1234_5678_9abc_def0_1234_5678_9abc_def0);
        Table { id, partitions: vec![part(2048, 4095, "esp"), part(4096, 8190, "FFS-STATE")] }
    }

    #[test]
    fn the_checksum_is_the_standard_one() {
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
    }

    #[test]
    fn identifiers() {
        assert_eq!(LINUX.to_string(), "0fc63daf-8483-4772-8e79-3d69d8477de4");
        assert_eq!(LINUX.encode()[..8], [0xaf, 0x3d, 0xc6, 0x0f, 0x83, 0x84, 0x72, 0x47]);
        let (a, b) = (Guid::random().unwrap().to_string(), Guid::random().unwrap().to_string());
        assert!(a != b && a.as_bytes()[14] == b'4' && matches!(a.as_bytes()[19], b'8' | b'9' | b'a' | b'b'), "{a}");
    }

    #[test]
    fn what_is_written_is_read() {
        let encoded = table().encode(16_384).unwrap();
        assert_eq!((encoded.head.len(), encoded.tail.len()), (34 * 512, 33 * 512));
        assert_eq!(Table::parse(&encoded.head), Ok(table()));
        // The copy's header names its own place and the first one's.
        let backup = &encoded.tail[32 * 512..];
        assert_eq!((u64_at(backup, 24), u64_at(backup, 32), u64_at(backup, 72)), (16_383, 1, 16_351));
        assert_eq!(Table::parse_copy(&encoded.tail, 16_384), Ok(table()));
        assert_eq!(Table::parse_copy(&encoded.tail, 16_385), Err(GptError::Missing));
        assert_eq!(Table::parse_copy(&encoded.tail[1..], 16_384), Err(GptError::Missing));
        let mut other = table();
        other.renew().unwrap();
        assert!(other.id != table().id && other.partitions[0].id != table().partitions[0].id);
        assert_eq!(other.last().map(|p| &*p.name), Some("FFS-STATE"));
    }

    #[test]
    fn a_changed_byte_is_noticed() {
        let good = table().encode(16_384).unwrap().head;
        for at in [512, 512 + 40, 512 + 60, 1024, 1024 + 200, 33 * 512] {
            let mut bad = good.clone();
            bad[at] ^= 1;
            assert!(Table::parse(&bad).is_err(), "{at}");
        }
        assert_eq!(Table::parse(&good[..good.len() - 1]), Err(GptError::Missing));
    }

    #[test]
    fn partitions_at_their_edges() {
        let change = |edit: fn(&mut Table)| {
            let mut table = table();
            edit(&mut table);
            table.encode(8224)
        };
        assert!(change(|_| {}).is_ok());
        assert!(change(|t| t.partitions[1].last = 8191).is_err(), "the copy's first sector");
        assert!(change(|t| t.partitions[0].first = 33).is_err());
        assert!(change(|t| t.partitions[0].first = 34).is_ok());
        assert!(change(|t| t.partitions[0].last = 4096).is_err());
        assert!(change(|t| t.partitions[0].first = 4096).is_err());
        assert!(change(|t| t.partitions[0].name = "x".repeat(36)).is_ok());
        assert_eq!(change(|t| t.partitions[0].name = "x".repeat(37)), Err(GptError::Limit));
        let empty = Table { partitions: vec![], ..table() };
        assert!(empty.encode(67).is_ok() && empty.encode(66).is_err());
    }

    proptest! {
        #[test]
        fn anything_can_be_parsed(bytes in prop::collection::vec(any::<u8>(), 0..2048), at in 0usize..17_000) {
            let _ = (Table::parse(&bytes), Table::parse_copy(&bytes, 16_384));
            let mut head = table().encode(16_384).unwrap().head;
            let n = bytes.len().min(head.len() - at);
            head[at..at + n].copy_from_slice(&bytes[..n]);
            let _ = Table::parse(&head);
        }
    }
}
