//! All that a machine wrote to a disk, in order, so that a test can have the power cut at any instant of one run ([`Writes`]).
//!
//! QEMU writes the log (its block driver `blklogwrites`) in the format of Linux's dm-log-writes: a head, then entries, each of a sector
//! with four numbers and, for writes, the data. What was not flushed at the instant of a cut may be there or not, in any mixture of
//! blocks; a test says which.

use crate::Error;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// What the log begins with.
const MAGIC: u64 = 0x006a_7366_7773_6872;
/// The version of its format.
const VERSION: u64 = 1;
/// Bytes that a disk writes whole or not at all; file systems may rely on no more.
pub const BLOCK: u64 = 512;

/// Bits of an entry.
const FLUSH: u64 = 1;
const FUA: u64 = 2;
const DISCARD: u64 = 4;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum What {
    /// Data, at this place of the log.
    Data(u64),
    /// Zeroes.
    Discard,
    Nothing,
}

/// An entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Entry {
    /// Where in the log.
    head: u64,
    /// Where on the disk, in bytes.
    at: u64,
    /// How many bytes.
    length: u64,
    what: What,
    /// Whether all before it is on the disk for good.
    flushes: bool,
    /// Whether it is itself.
    durable: bool,
}

/// A log that is read.
#[derive(Debug)]
pub struct Writes {
    file: File,
    path: PathBuf,
    entries: Vec<Entry>,
}

impl Writes {
    /// Reads a log; what QEMU had not written to its end is not in it.
    ///
    /// # Errors
    /// When it cannot be read, or is none.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let file = File::open(path).map_err(Error::io(path))?;
        let size = file.metadata().map_err(Error::io(path))?.len();
        let number = |at: u64| {
            let mut bytes = [0; 8];
            file.read_exact_at(&mut bytes, at).map(|()| u64::from_le_bytes(bytes)).map_err(Error::io(path))
        };
        let none = || Error::Description(format!("{} is no log of writes", path.display()));
        let sector = number(24)? & u64::from(u32::MAX);
        if number(0)? != MAGIC || number(8)? != VERSION || !sector.is_power_of_two() || sector < 32 {
            return Err(none());
        }
        let (count, mut at, mut entries) = (number(16)?, sector, Vec::new());
        while entries.len() < usize::try_from(count).unwrap_or(usize::MAX) && at + sector <= size {
            let [place, sectors, flags] = [number(at)?, number(at + 8)?, number(at + 16)?];
            let length = sectors.checked_mul(sector).ok_or_else(none)?;
            let head = at;
            at += sector;
            let what = match flags {
                _ if length == 0 => What::Nothing,
                _ if flags & DISCARD != 0 => What::Discard,
                _ => What::Data(at),
            };
            if matches!(what, What::Data(_)) {
                at = at.checked_add(length).filter(|end| *end <= size).ok_or_else(none)?;
            }
            let place = place.checked_mul(sector).ok_or_else(none)?;
            entries.push(Entry {
                head,
                at: place,
                length,
                what,
                flushes: flags & FLUSH != 0,
                durable: flags & FUA != 0,
            });
        }
        Ok(Self { file, path: path.into(), entries })
    }

    /// How many entries there are: the instants at which the power may be cut are before each of them, and after the last.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether nothing was written.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The instant at which the log had so many bytes.
    pub fn instant(&self, bytes: u64) -> usize {
        self.entries.iter().take_while(|entry| entry.head < bytes).count()
    }

    /// How many bytes were written from this instant on.
    pub fn bytes_from(&self, instant: usize) -> u64 {
        self.entries[instant.min(self.len())..]
            .iter()
            .filter(|e| matches!(e.what, What::Data(_)))
            .map(|e| e.length)
            .sum()
    }

    /// Makes a copy of the disk what the disk was after a cut before entry `instant`: with all that was durable, and of the rest those
    /// blocks for which `kept` says so.
    ///
    /// # Errors
    /// When log or disk cannot be read or written.
    pub fn replay(&self, disk: &File, instant: usize, mut kept: impl FnMut() -> bool) -> Result<(), Error> {
        let done = &self.entries[..instant.min(self.len())];
        let flushed = done.iter().rposition(|e| e.flushes).unwrap_or(0);
        for (n, entry) in done.iter().enumerate() {
            let sure = n < flushed || entry.durable;
            let mut at = 0;
            while at < entry.length {
                // Whole where it is sure, block by block where it is not.
                let part = if sure { entry.length.min(1 << 20) } else { BLOCK }.min(entry.length - at);
                if sure || kept() {
                    self.copy(disk, *entry, at, part).map_err(Error::io(&self.path))?;
                }
                at += part;
            }
        }
        disk.sync_all().map_err(Error::io(&self.path))
    }

    fn copy(&self, disk: &File, entry: Entry, from: u64, length: u64) -> io::Result<()> {
        let mut bytes = vec![0; usize::try_from(length).map_err(io::Error::other)?];
        match entry.what {
            What::Nothing => return Ok(()),
            What::Discard => {}
            What::Data(at) => self.file.read_exact_at(&mut bytes, at + from)?,
        }
        disk.write_all_at(&bytes, entry.at + from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    const SECTOR: u64 = 512;

    /// A log of entries: place and length in sectors, flags, the byte that is written.
    fn log(path: &Path, entries: &[(u64, u64, u64, u8)]) {
        let mut bytes = Vec::new();
        for number in [MAGIC, VERSION, entries.len() as u64, SECTOR] {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        bytes.resize(512, 0);
        for (at, length, flags, byte) in entries {
            let head = bytes.len();
            let data = if flags & DISCARD == 0 { *length } else { 0 };
            for number in [*at, *length, *flags, data * SECTOR] {
                bytes.extend_from_slice(&number.to_le_bytes());
            }
            bytes.resize(head + 512, 0);
            bytes.resize(bytes.len() + usize::try_from(data * SECTOR).unwrap(), *byte);
        }
        fs::write(path, bytes).unwrap();
    }

    /// The first byte of each sector of a disk of eight, all 9 before.
    fn after(writes: &Writes, instant: usize, kept: impl FnMut() -> bool) -> Vec<u8> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("disk");
        fs::write(&path, [9; 8 * 512]).unwrap();
        writes.replay(&File::options().write(true).open(&path).unwrap(), instant, kept).unwrap();
        fs::read(&path).unwrap().chunks(512).map(|c| c[0]).collect()
    }

    #[test]
    fn what_is_on_the_disk_after_a_cut() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        log(
            &path,
            &[(0, 2, 0, 1), (4, 1, FUA, 2), (0, 0, FLUSH, 0), (1, 3, 0, 3), (7, 1, DISCARD, 0), (0, 0, FLUSH, 0)],
        );
        let writes = Writes::open(&path).unwrap();
        assert_eq!((writes.len(), writes.bytes_from(0), writes.bytes_from(3)), (6, 6 * 512, 3 * 512));
        // The head of the log, the first entry with its two sectors, the second with its one.
        assert_eq!([512, 513, 2048, 2049, 3072].map(|bytes| writes.instant(bytes)), [0, 1, 1, 2, 2]);
        let (all, none) = (|| true, || false);
        assert_eq!(after(&writes, 0, all), [9; 8]);
        assert_eq!(after(&writes, 2, none), [9, 9, 9, 9, 2, 9, 9, 9], "one that goes around the cache");
        assert_eq!(after(&writes, 2, all), [1, 1, 9, 9, 2, 9, 9, 9]);
        assert_eq!(after(&writes, 3, none), [1, 1, 9, 9, 2, 9, 9, 9], "flushed");
        assert_eq!(after(&writes, 5, none), [1, 1, 9, 9, 2, 9, 9, 9]);
        let mut second = false;
        let every_other = || {
            second = !second;
            second
        };
        assert_eq!(after(&writes, 4, every_other), [1, 3, 9, 3, 2, 9, 9, 9], "block by block");
        assert_eq!(after(&writes, 6, none), [1, 3, 3, 3, 2, 9, 9, 0]);
        assert_eq!(after(&writes, 99, none), after(&writes, 6, none));
    }

    #[test]
    fn what_is_no_log() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        fs::write(&path, [0; 4096]).unwrap();
        assert!(Writes::open(&path).is_err());
        log(&path, &[(0, 2, 0, 1)]);
        let bytes = fs::read(&path).unwrap();
        fs::write(&path, &bytes[..bytes.len() - 1]).unwrap();
        assert!(Writes::open(&path).is_err(), "the last entry is cut off");
        assert!(Writes::open(Path::new("/nonexistent")).is_err());
    }
}
