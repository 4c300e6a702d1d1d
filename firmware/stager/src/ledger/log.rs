//! The ledger's log: the changes since redb itself was last synced, one behind the other.
//!
//! A durable commit of redb writes a page for each table and each level of its trees, all over its file. A disk of its own takes
//! that well; an array reads, computes and writes parity for each of them. So a change is made durable here, with one write and one
//! sync, and redb gets it without a sync of its own. It is synced once for a whole log: when that is full, and at the end.
//!
//! # The file
//!
//! `ledger.log`, beside the ledger. It has its full length and all of its blocks from the moment that it has its name, so that a sync has
//! nothing to write but what was written. Records begin at multiples of [`UNIT`], the first at 0, each where the one before ends:
//!
//! | offset | bytes | |
//! |---|---|---|
//! | 0 | 32 | SHA-256 of the rest up to the last change |
//! | 32 | 8 | the ledger's mark, so that no other ledger's log is taken for this one's |
//! | 40 | 8 | number; each record's is one more than the last one's, from 1 |
//! | 48 | 4 | bytes of the changes |
//! | 52 | | the changes (see the module `changes`) |
//! | | | zeros up to the next record |
//!
//! Numbers are little-endian. No record shares a block with another, so that none is written again once it was acknowledged.
//!
//! # Which records count
//!
//! Those at the beginning that follow each other without a gap; what lies behind them is from before. The ledger has the number of the
//! last record that it holds: those after it are missing there. The last record may be cut, for then nobody was told of it; that it was
//! acknowledged and went bad on the disk since cannot be told from that. One that is damaged while a later one is whole was
//! acknowledged, and the ledger stops. So it does when the file is another ledger's, or is shorter than any that was made.

use redb::StorageBackend;
use sha2::{Digest, Sha256};
use std::io;
use std::ops::RangeInclusive;

/// What a record's place and length are multiples of (bytes): the block of all file systems and disks in question.
pub const UNIT: usize = 4096;
/// The shortest and the longest log (bytes).
pub const BOUNDS: RangeInclusive<u64> = 64 << 10..=64 << 20;

const HASH: usize = 32;
const MARK: usize = 40;
const NUMBER: usize = 48;
/// Bytes before the changes.
pub(super) const HEADER: usize = 52;

/// What is wrong with a log.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The disk.
    #[error("the ledger's log cannot be used")]
    Io(#[from] io::Error),
    /// A record that was acknowledged cannot be read.
    #[error(
        "record {0} of the ledger's log is damaged or missing, and later ones are there: the ledger is an older copy, or the disk lost \
         what was acknowledged; put back ledger and log of one moment"
    )]
    Damaged(u64),
    /// It has whole records that another ledger wrote.
    #[error("the ledger's log is that of another ledger; put ledger and log of one moment back")]
    Foreign,
    /// It is no log that was ever made.
    #[error("the ledger's log has {0} bytes, fewer than one has that was made; put ledger and log of one moment back")]
    Short(u64),
    /// A whole record is not understood.
    #[error(
        "a record of the ledger's log is not of the form that this version knows: update the machine to the version that wrote it"
    )]
    Form,
    /// An earlier failure left open what is on the disk.
    #[error("the ledger's log has failed before")]
    Failed,
}

/// The open log.
#[derive(Debug)]
pub(super) struct Log {
    store: Box<dyn StorageBackend>,
    len: u64,
    mark: u64,
    next: u64,
    /// Where the next record goes.
    at: u64,
    /// Cleared while something is done, and for good when that fails.
    sound: bool,
}

impl Log {
    /// Makes a log without records: zeros, so that every block is there.
    pub(super) fn make(store: &dyn StorageBackend, len: u64) -> io::Result<()> {
        let zeros = vec![0; 64 << 10];
        store.set_len(len)?;
        for at in (0..len).step_by(zeros.len()) {
            let most = usize::try_from(len - at).map_or(zeros.len(), |left| left.min(zeros.len()));
            store.write(at, &zeros[..most])?;
        }
        store.sync_data()
    }

    /// Opens the log of the ledger with this mark, which holds every record up to `held`. Gives the changes of those after it; once
    /// the ledger has them, [`Log::restart`] begins it anew.
    pub(super) fn open(store: Box<dyn StorageBackend>, mark: u64, held: u64) -> Result<(Self, Vec<Vec<u8>>), LogError> {
        let len = store.len()?;
        if len < *BOUNDS.start() {
            return Err(LogError::Short(len));
        }
        let bytes = read(&*store)?;
        let (mut missing, mut last, mut at) = (Vec::new(), None, 0);
        while let Some(found) = record(&bytes, at) {
            let follows = last.is_none_or(|last| found.number == last + 1);
            if !follows || found.number > held + 1 + missing.len() as u64 {
                break;
            }
            if found.number > held {
                missing.push(found.changes.to_vec());
            }
            (last, at) = (Some(found.number), at + room(found.changes.len()));
        }
        let next = held + 1 + missing.len() as u64;
        for found in (0..bytes.len()).step_by(UNIT).filter_map(|at| record(&bytes, at)) {
            if found.mark != mark {
                return Err(LogError::Foreign);
            }
            if found.number >= next {
                return Err(LogError::Damaged(next));
            }
        }
        Ok((Self { store, len, mark, next, at: len, sound: true }, missing))
    }

    /// Whether there is a whole record of any ledger in it.
    pub(super) fn has_records(store: &dyn StorageBackend) -> io::Result<bool> {
        let bytes = read(store)?;
        Ok((0..bytes.len()).step_by(UNIT).any(|at| record(&bytes, at).is_some()))
    }

    /// Its bytes from beginning to end.
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// The last record's number.
    pub(super) fn last(&self) -> u64 {
        self.next - 1
    }

    /// The next record goes to the beginning: the ledger holds all there were.
    pub(super) fn restart(&mut self) {
        self.at = 0;
        self.sound = true;
    }

    /// The next number stands for a change that goes to the ledger without a record.
    pub(super) fn pass_over(&mut self) {
        self.next += 1;
    }

    /// Nothing is added from here on unless it is released: somebody does what may fail.
    pub(super) fn hold(&mut self) -> Result<(), LogError> {
        if std::mem::take(&mut self.sound) { Ok(()) } else { Err(LogError::Failed) }
    }

    /// What was done since [`Log::hold`] has worked.
    pub(super) fn release(&mut self) {
        self.sound = true;
    }

    /// Adds a record, durable when this returns; false when it does not fit in. `record` has room for a header in front of the
    /// changes.
    pub(super) fn append(&mut self, mut record: Vec<u8>) -> Result<bool, LogError> {
        let changes = record.len() - HEADER;
        let len = room(changes) as u64;
        let Ok(size) = u32::try_from(changes) else { return Ok(false) };
        if len > self.len - self.at {
            return Ok(false);
        }
        record[HASH..MARK].copy_from_slice(&self.mark.to_le_bytes());
        record[MARK..NUMBER].copy_from_slice(&self.next.to_le_bytes());
        record[NUMBER..HEADER].copy_from_slice(&size.to_le_bytes());
        let hash = Sha256::digest(&record[HASH..]);
        record[..HASH].copy_from_slice(&hash);
        // Whole blocks: a part of one would have to be read before it can be written.
        record.resize(room(changes), 0);
        self.store.write(self.at, &record)?;
        self.store.sync_data()?;
        self.at += len;
        self.next += 1;
        Ok(true)
    }
}

/// Bytes that a record with so many bytes of changes takes.
fn room(changes: usize) -> usize {
    (HEADER + changes).next_multiple_of(UNIT)
}

/// A whole record.
struct Record<'a> {
    mark: u64,
    number: u64,
    changes: &'a [u8],
}

/// The record at this place, if there is one.
fn record(bytes: &[u8], at: usize) -> Option<Record<'_>> {
    let rest = bytes.get(at..)?;
    let number = |from: usize| rest.get(from..from + 8)?.try_into().ok().map(u64::from_le_bytes);
    let size = u32::from_le_bytes(rest.get(NUMBER..HEADER)?.try_into().ok()?);
    let end = HEADER.checked_add(usize::try_from(size).ok()?)?;
    if Sha256::digest(rest.get(HASH..end)?).as_slice() != &rest[..HASH] {
        return None;
    }
    Some(Record { mark: number(HASH)?, number: number(MARK)?, changes: &rest[HEADER..end] })
}

fn read(store: &dyn StorageBackend) -> io::Result<Vec<u8>> {
    let len = store.len()?.min(*BOUNDS.end());
    let mut bytes = vec![0; usize::try_from(len).unwrap_or(0)];
    store.read(0, &mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests;
