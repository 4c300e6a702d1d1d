//! The ledger's log: the changes since redb itself was last synced, one behind the other.
//!
//! A durable commit of redb writes a page for each table and each level of its trees, all over its file. A disk of its own takes
//! that well; an array reads, computes and writes parity for each of them. So a change is made durable here, with one write and one
//! sync, and redb gets it without a sync of its own. It is synced once for a whole log: when that is full, and at the end.
//!
//! # The file
//!
//! `ledger.log`, beside the ledger, as long as it was made; nothing is ever added to it, so that a sync has nothing to write but what
//! was written. Records begin at multiples of [`UNIT`], the first at 0, each where the one before ends:
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
//! The ledger has the number of the last record that it holds for good. Those that count begin at 0 with the number after it and
//! follow each other without a gap; what lies behind them is from before. The last one may be cut: then nobody was told of it. One
//! that is damaged while a later one is whole was acknowledged, and the ledger stops.

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

    /// Opens the log of the ledger with this mark, which holds every record up to `held`. Gives the changes of those after it.
    ///
    /// The log takes no record before [`Log::begin`].
    pub(super) fn open(store: Box<dyn StorageBackend>, mark: u64, held: u64) -> Result<(Self, Vec<Vec<u8>>), LogError> {
        let len = store.len()?.min(*BOUNDS.end());
        let mut bytes = vec![0; usize::try_from(len).unwrap_or(0)];
        store.read(0, &mut bytes)?;
        let mut found = Vec::new();
        let (mut next, mut at) = (held + 1, 0);
        while let Some((number, changes)) = record(&bytes, at, mark).filter(|(number, _)| *number == next) {
            found.push(changes.to_vec());
            (next, at) = (number + 1, at + room(changes.len()));
        }
        let later = |at: &usize| record(&bytes, *at, mark).is_some_and(|(number, _)| number >= next);
        if (at..bytes.len()).step_by(UNIT).any(|at| later(&at)) {
            return Err(LogError::Damaged(next));
        }
        Ok((Self { store, len, mark, next, at: len, sound: true }, found))
    }

    /// The last record's number.
    pub(super) fn last(&self) -> u64 {
        self.next - 1
    }

    /// Takes records from here on, the next one at the beginning: the ledger holds all there were. The log is made anew if it is not
    /// as long as this.
    pub(super) fn begin(&mut self, len: u64) -> io::Result<()> {
        if self.store.len()? != len {
            Self::make(&*self.store, len)?;
            self.len = len;
        }
        self.restart();
        Ok(())
    }

    /// The next record goes to the beginning: the ledger holds all there were.
    pub(super) fn restart(&mut self) {
        self.at = 0;
        self.sound = true;
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

/// Number and changes of the record at this place, if there is one.
fn record(bytes: &[u8], at: usize, mark: u64) -> Option<(u64, &[u8])> {
    let rest = bytes.get(at..)?;
    let number = |from: usize| rest.get(from..from + 8)?.try_into().ok().map(u64::from_le_bytes);
    if number(HASH)? != mark {
        return None;
    }
    let size = u32::from_le_bytes(rest.get(NUMBER..HEADER)?.try_into().ok()?);
    let end = HEADER.checked_add(usize::try_from(size).ok()?)?;
    let hashed = rest.get(HASH..end)?;
    (Sha256::digest(hashed).as_slice() == &rest[..HASH]).then(|| Some((number(MARK)?, &rest[HEADER..end])))?
}

#[cfg(test)]
mod tests;
