//! A disk with a volatile cache: what was not flushed is kept apart from the file, and can get lost.
//!
//! Like a real disk, it may make things durable earlier than it was asked to: what is more than [`MOST`] goes to the file, oldest
//! first, and large discards go there at once.

use fastrand::Rng;
use nix::fcntl::{FallocateFlags, fallocate};
use std::collections::{HashMap, VecDeque};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// What is kept apart at most, in bytes: as much as large disks have in memory.
pub const MOST: usize = 64 << 20;
/// The part of a write that a disk writes as a whole or not at all.
pub const SECTOR: usize = 512;
/// The unit in which newer bytes are found again.
const BLOCK: u64 = BYTES as u64;
/// The same as a length in memory.
const BYTES: usize = 4096;
/// Zeros up to this many bytes are kept apart like any other write.
const SMALL: u64 = 1 << 20;
/// Of how many writes that survive in part, one is torn.
const TORN: u32 = 8;

/// What a power cut takes of what was not flushed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loss {
    /// All of it.
    All,
    /// Part of it: each write by chance, in part also single sectors of one. The number makes the same choice again.
    Part(u64),
}

/// What a power cut took.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Lost {
    /// Writes that were not flushed.
    pub pending: usize,
    /// Those of them that are gone.
    pub gone: usize,
    /// Those that are there in part.
    pub torn: usize,
}

#[derive(Debug)]
struct Write {
    offset: u64,
    data: Vec<u8>,
}

/// The disk.
#[derive(Debug)]
pub(super) struct Cache {
    file: File,
    size: u64,
    /// What was not flushed, in the order in which it came.
    pending: VecDeque<Write>,
    bytes: usize,
    /// The blocks that pending writes touch, as they are with them.
    newer: HashMap<u64, Box<[u8; BYTES]>>,
}

impl Cache {
    pub(super) fn new(file: File) -> io::Result<Self> {
        let size = file.metadata()?.len();
        Ok(Self { file, size, pending: VecDeque::new(), bytes: 0, newer: HashMap::new() })
    }

    pub(super) fn size(&self) -> u64 {
        self.size
    }

    /// Writes that were not flushed.
    pub(super) fn pending(&self) -> usize {
        self.pending.len()
    }

    fn within(&self, offset: u64, length: u64) -> io::Result<()> {
        if offset.checked_add(length).is_some_and(|end| end <= self.size) {
            return Ok(());
        }
        Err(io::ErrorKind::InvalidInput.into())
    }

    pub(super) fn read(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        self.within(offset, into.len() as u64)?;
        self.file.read_exact_at(into, offset)?;
        if self.newer.is_empty() {
            return Ok(());
        }
        for (block, at, part) in blocks(offset, into.len()) {
            if let Some(newer) = self.newer.get(&block) {
                let length = part.len();
                into[part].copy_from_slice(&newer[at..at + length]);
            }
        }
        Ok(())
    }

    pub(super) fn write(&mut self, offset: u64, data: Vec<u8>) -> io::Result<()> {
        self.within(offset, data.len() as u64)?;
        for (block, at, part) in blocks(offset, data.len()) {
            let newer = match self.newer.entry(block) {
                std::collections::hash_map::Entry::Occupied(entry) => entry.into_mut(),
                std::collections::hash_map::Entry::Vacant(entry) => {
                    let mut bytes = Box::new([0; BYTES]);
                    let start = block * BLOCK;
                    let length = usize::try_from((self.size - start).min(BLOCK)).expect("at most a block");
                    self.file.read_exact_at(&mut bytes[..length], start)?;
                    entry.insert(bytes)
                }
            };
            let length = part.len();
            newer[at..at + length].copy_from_slice(&data[part]);
        }
        self.bytes += data.len();
        self.pending.push_back(Write { offset, data });
        if self.bytes > MOST { self.settle(MOST / 2) } else { Ok(()) }
    }

    /// The same for zeros.
    pub(super) fn zero(&mut self, offset: u64, length: u64) -> io::Result<()> {
        self.within(offset, length)?;
        if length <= SMALL {
            return self.write(offset, vec![0; usize::try_from(length).expect("a small length")]);
        }
        self.flush()?;
        let (from, length) = (to_i64(offset)?, to_i64(length)?);
        let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        Ok(fallocate(&self.file, flags, from, length)?)
    }

    /// Makes all of it durable.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        self.settle(0)
    }

    /// Makes the oldest durable, until no more than this is left.
    fn settle(&mut self, most: usize) -> io::Result<()> {
        while self.bytes > most
            && let Some(write) = self.pending.front()
        {
            self.file.write_all_at(&write.data, write.offset)?;
            self.bytes -= write.data.len();
            self.pending.pop_front();
        }
        if self.pending.is_empty() {
            self.newer.clear();
        }
        Ok(())
    }

    /// The power goes.
    pub(super) fn cut(&mut self, loss: Loss) -> io::Result<Lost> {
        let mut lost = Lost { pending: self.pending.len(), ..Lost::default() };
        let Loss::Part(seed) = loss else {
            lost.gone = lost.pending;
            self.forget();
            return Ok(lost);
        };
        let mut rng = Rng::with_seed(seed);
        // Sometimes most of it is there, sometimes next to nothing.
        let kept = rng.f64();
        for write in std::mem::take(&mut self.pending) {
            if rng.f64() >= kept {
                lost.gone += 1;
            } else if write.data.len() > SECTOR && rng.u32(..TORN) == 0 {
                lost.torn += 1;
                for (n, sector) in write.data.chunks(SECTOR).enumerate().filter(|_| rng.bool()) {
                    self.file.write_all_at(sector, write.offset + (n * SECTOR) as u64)?;
                }
            } else {
                self.file.write_all_at(&write.data, write.offset)?;
            }
        }
        self.forget();
        Ok(lost)
    }

    fn forget(&mut self) {
        self.pending.clear();
        self.newer.clear();
        self.bytes = 0;
    }
}

fn to_i64(n: u64) -> io::Result<i64> {
    i64::try_from(n).map_err(|_| io::ErrorKind::InvalidInput.into())
}

/// The blocks that a range touches: the block, where in it the range begins, and the part of the range.
fn blocks(offset: u64, length: usize) -> impl Iterator<Item = (u64, usize, std::ops::Range<usize>)> {
    let mut done = 0;
    std::iter::from_fn(move || {
        if done == length {
            return None;
        }
        let position = offset + done as u64;
        let at = usize::try_from(position % BLOCK).expect("less than a block");
        let n = (length - done).min(BYTES - at);
        done += n;
        Some((position / BLOCK, at, done - n..done))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SIZE: u64 = 4 << 20;

    fn disk() -> (Cache, File) {
        let file = tempfile::tempfile().unwrap();
        file.set_len(SIZE).unwrap();
        (Cache::new(file.try_clone().unwrap()).unwrap(), file)
    }

    fn read(cache: &Cache, offset: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0xee; length];
        cache.read(offset, &mut bytes).unwrap();
        bytes
    }

    fn durable(file: &File) -> Vec<u8> {
        let mut bytes = vec![0; usize::try_from(SIZE).unwrap()];
        file.read_exact_at(&mut bytes, 0).unwrap();
        bytes
    }

    #[test]
    fn what_was_not_flushed_is_read_and_gets_lost() {
        let (mut cache, file) = disk();
        cache.write(0, b"kept".to_vec()).unwrap();
        cache.flush().unwrap();
        cache.write(2, b"lost".to_vec()).unwrap();
        assert_eq!(read(&cache, 0, 8), b"kelost\0\0");
        assert_eq!(&durable(&file)[..8], b"kept\0\0\0\0");
        assert_eq!(cache.cut(Loss::All).unwrap(), Lost { pending: 1, gone: 1, torn: 0 });
        assert_eq!(read(&cache, 0, 8), b"kept\0\0\0\0");
    }

    #[test]
    fn a_cut_takes_whole_writes_or_sectors_and_the_same_again() {
        let cut = |seed| {
            let (mut cache, file) = disk();
            for n in 0..64u8 {
                cache.write(u64::from(n) * 2048, vec![n + 1; 2048]).unwrap();
            }
            (cache.cut(Loss::Part(seed)).unwrap(), durable(&file))
        };
        let mut seen = Lost::default();
        for seed in 0..40 {
            let (lost, bytes) = cut(seed);
            assert_eq!((lost, &bytes), (cut(seed).0, &cut(seed).1));
            assert_eq!(lost.pending, 64);
            let (mut gone, mut torn) = (0, 0);
            for (n, write) in bytes[..64 * 2048].chunks(2048).enumerate() {
                let sectors = write.chunks(SECTOR);
                let there = sectors.filter(|s| s.iter().all(|b| usize::from(*b) == n + 1)).count();
                assert!(write.chunks(SECTOR).all(|s| s.iter().all(|b| *b == s[0])), "a sector is written as a whole");
                gone += usize::from(there == 0);
                torn += usize::from(there > 0 && there < 4);
            }
            // A torn one may by chance have none or all of its sectors.
            assert!(gone >= lost.gone && gone <= lost.gone + lost.torn && torn <= lost.torn, "{lost:?} {gone} {torn}");
            seen.gone += lost.gone;
            seen.torn += lost.torn;
        }
        assert!(seen.torn > 0 && seen.gone > 200 && seen.gone < 64 * 40 - 200, "{seen:?}");
    }

    #[test]
    fn the_cache_is_no_larger_than_it_says() {
        let (mut cache, file) = disk();
        let block = vec![7; 1 << 20];
        for _ in 0..MOST >> 20 {
            cache.write(0, block.clone()).unwrap();
        }
        assert_eq!((cache.pending(), durable(&file)[0]), (64, 0));
        cache.write(0, block).unwrap();
        assert_eq!((cache.pending(), durable(&file)[0]), (32, 7), "half of it went to the disk");
    }

    #[test]
    fn nothing_is_beyond_the_end() {
        let (mut cache, _) = disk();
        assert!(cache.write(SIZE - 1, vec![1, 2]).is_err());
        assert!(cache.read(SIZE, &mut [0]).is_err() && cache.read(u64::MAX, &mut [0]).is_err());
        assert!(cache.zero(SIZE - 1, 2).is_err());
        cache.write(SIZE - 1, vec![1]).unwrap();
        cache.zero(0, SIZE).unwrap();
        assert_eq!(read(&cache, SIZE - 1, 1), [0], "large zeros are at once, after what came before");
        assert_eq!(cache.pending(), 0);
    }

    proptest! {
        #[test]
        fn it_reads_like_memory(steps in prop::collection::vec((0u64..40_000, 1usize..9000, any::<u8>()), 1..30)) {
            let (mut cache, file) = disk();
            let mut memory = vec![0; usize::try_from(SIZE).unwrap()];
            for (offset, length, byte) in steps {
                let range = usize::try_from(offset).unwrap()..usize::try_from(offset).unwrap() + length;
                match byte {
                    0..10 => cache.flush().unwrap(),
                    10..20 => {
                        cache.zero(offset, length as u64).unwrap();
                        memory[range.clone()].fill(0);
                    }
                    _ => {
                        cache.write(offset, vec![byte; length]).unwrap();
                        memory[range.clone()].fill(byte);
                    }
                }
                prop_assert_eq!(&read(&cache, offset, length), &memory[range]);
            }
            cache.flush().unwrap();
            prop_assert!(durable(&file) == memory);
        }
    }
}
