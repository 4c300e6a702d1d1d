//! A disk in memory with two files, which fails at a sync: of what was written since the one before, a random part is on it.

use redb::StorageBackend;
use std::collections::BTreeSet;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

const PAGE: usize = 512;

#[derive(Debug, Default)]
struct File {
    /// What has surely been written.
    durable: Vec<u8>,
    /// What reads see.
    now: Vec<u8>,
    /// Sectors written since the last sync.
    dirty: BTreeSet<usize>,
}

#[derive(Debug)]
struct State {
    files: [File; 2],
    syncs: u32,
    fail_at: u32,
    failed: bool,
    random: u64,
}

#[derive(Debug, Clone)]
pub(crate) struct Disk(Arc<Mutex<State>>);

#[derive(Debug)]
struct Backend(Disk, usize);

impl Disk {
    pub(crate) fn new(seed: u64) -> Self {
        let (files, random) = (Default::default(), seed | 1);
        Self(Arc::new(Mutex::new(State { files, syncs: 0, fail_at: u32::MAX, failed: false, random })))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    pub(crate) fn ledger(&self) -> impl StorageBackend {
        Backend(self.clone(), 0)
    }

    pub(crate) fn log(&self) -> impl StorageBackend {
        Backend(self.clone(), 1)
    }

    /// The `n`th sync from now fails, and everything after it.
    pub(crate) fn fail_at(&self, n: u32) {
        let mut state = self.lock();
        state.fail_at = state.syncs + n;
    }

    pub(crate) fn failed(&self) -> bool {
        self.lock().failed
    }

    /// The disk works again. Who opens its files anew finds what was written, also what never reached the disk.
    pub(crate) fn mend(&self) {
        let mut state = self.lock();
        (state.fail_at, state.failed) = (u32::MAX, false);
    }

    /// The power goes: only what is on the disk is there.
    pub(crate) fn cut(&self) {
        self.lock().lose();
        self.mend();
    }
}

impl State {
    fn lose(&mut self) {
        for file in &mut self.files {
            let mut image = std::mem::take(&mut file.durable);
            image.resize(file.now.len().max(image.len()), 0);
            for sector in std::mem::take(&mut file.dirty) {
                self.random ^= self.random << 13;
                self.random ^= self.random >> 7;
                self.random ^= self.random << 17;
                let range = sector * PAGE..((sector + 1) * PAGE).min(file.now.len());
                if self.random.is_multiple_of(2) && !range.is_empty() {
                    image[range.clone()].copy_from_slice(&file.now[range]);
                }
            }
            file.durable = image.clone();
            file.now = image;
        }
    }

    fn alive(&self) -> io::Result<()> {
        if self.failed { Err(io::Error::other("the disk has failed")) } else { Ok(()) }
    }
}

impl StorageBackend for Backend {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.lock().files[self.1].now.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let state = self.0.lock();
        state.alive()?;
        let start = usize::try_from(offset).unwrap();
        out.copy_from_slice(&state.files[self.1].now[start..start + out.len()]);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut state = self.0.lock();
        state.alive()?;
        state.files[self.1].now.resize(usize::try_from(len).unwrap(), 0);
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
        let file = &mut state.files[self.1];
        file.durable = file.now.clone();
        file.dirty.clear();
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut state = self.0.lock();
        state.alive()?;
        let start = usize::try_from(offset).unwrap();
        let end = start + data.len();
        let file = &mut state.files[self.1];
        file.now[start..end].copy_from_slice(data);
        file.dirty.extend(start / PAGE..end.div_ceil(PAGE));
        Ok(())
    }
}
