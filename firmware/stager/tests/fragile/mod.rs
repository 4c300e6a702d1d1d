//! A disk in memory that fails at a sync: of what was written since the one before, a random part is on it.

use redb::StorageBackend;
use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

const PAGE: usize = 512;

#[derive(Debug)]
struct State {
    /// What has surely been written.
    durable: Vec<u8>,
    /// What reads see.
    now: Vec<u8>,
    /// Sectors written since the last sync.
    dirty: BTreeMap<usize, ()>,
    syncs: u32,
    fail_at: u32,
    failed: bool,
    random: u64,
}

#[derive(Debug, Clone)]
pub(crate) struct Disk(Arc<Mutex<State>>);

#[derive(Debug)]
struct Backend(Disk);

impl Disk {
    pub(crate) fn new(seed: u64) -> Self {
        let (durable, now, dirty) = (Vec::new(), Vec::new(), BTreeMap::new());
        let random = seed | 1;
        Self(Arc::new(Mutex::new(State { durable, now, dirty, syncs: 0, fail_at: u32::MAX, failed: false, random })))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    pub(crate) fn backend(&self) -> impl StorageBackend {
        Backend(self.clone())
    }

    /// The `n`th sync from now fails, and everything after it.
    pub(crate) fn fail_at(&self, n: u32) {
        let mut state = self.lock();
        state.fail_at = state.syncs + n;
    }

    pub(crate) fn failed(&self) -> bool {
        self.lock().failed
    }

    /// A machine that starts again: only what is on the disk is there.
    pub(crate) fn revive(&self) {
        let mut state = self.lock();
        if state.failed {
            state.lose();
        }
        (state.fail_at, state.failed) = (u32::MAX, false);
    }
}

impl State {
    fn lose(&mut self) {
        let mut image = std::mem::take(&mut self.durable);
        image.resize(self.now.len().max(image.len()), 0);
        for sector in std::mem::take(&mut self.dirty).into_keys() {
            self.random ^= self.random << 13;
            self.random ^= self.random >> 7;
            self.random ^= self.random << 17;
            let range = sector * PAGE..((sector + 1) * PAGE).min(self.now.len());
            if self.random.is_multiple_of(2) && !range.is_empty() {
                image[range.clone()].copy_from_slice(&self.now[range]);
            }
        }
        self.durable = image.clone();
        self.now = image;
    }

    fn alive(&self) -> io::Result<()> {
        if self.failed { Err(io::Error::other("the disk has failed")) } else { Ok(()) }
    }
}

impl StorageBackend for Backend {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.lock().now.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let state = self.0.lock();
        state.alive()?;
        let start = usize::try_from(offset).unwrap();
        out.copy_from_slice(&state.now[start..start + out.len()]);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut state = self.0.lock();
        state.alive()?;
        state.now.resize(usize::try_from(len).unwrap(), 0);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut state = self.0.lock();
        state.alive()?;
        state.syncs += 1;
        if state.syncs == state.fail_at {
            state.failed = true;
        }
        state.alive()?;
        state.durable = state.now.clone();
        state.dirty.clear();
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut state = self.0.lock();
        state.alive()?;
        let start = usize::try_from(offset).unwrap();
        let end = start + data.len();
        state.now[start..end].copy_from_slice(data);
        state.dirty.extend((start / PAGE..end.div_ceil(PAGE)).map(|sector| (sector, ())));
        Ok(())
    }
}
