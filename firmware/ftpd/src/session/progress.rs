//! The count of bytes sent, in memory that stagerd shares: it survives this process.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Bytes after which the count is written again.
pub(super) const EVERY_BYTES: u64 = 1 << 20;

/// Time after which the count is written again.
pub(super) const EVERY: Duration = Duration::from_millis(100);

/// The count of one transfer: eight bytes, little-endian, at the start of the file that came with the admission. The eight behind
/// them are stagerd's word to us: the bytes per second that this transfer may have, 0 if there is no bound.
#[derive(Debug)]
pub struct Progress {
    counter: Arc<File>,
    sent: u64,
    written: u64,
    when: Instant,
    allowance: u64,
}

/// What a counter says at this place, 0 if it does not reach so far.
fn number(counter: &File, at: u64) -> u64 {
    let mut bytes = [0; 8];
    counter.read_exact_at(&mut bytes, at).map_or(0, |()| u64::from_le_bytes(bytes))
}

/// The bytes that are known to have been sent, also while somebody else counts.
pub(super) fn counted(counter: &File) -> u64 {
    number(counter, 0)
}

impl Progress {
    /// Starts at zero.
    pub fn new(counter: Arc<File>) -> Self {
        let mut progress = Self { counter, sent: 0, written: 0, when: Instant::now(), allowance: 0 };
        progress.write();
        progress
    }

    /// These many bytes more have been handed to the kernel.
    pub fn add(&mut self, bytes: u64) {
        self.sent += bytes;
        if self.sent - self.written >= EVERY_BYTES || self.when.elapsed() >= EVERY {
            self.write();
        }
    }

    /// The bytes per second that stagerd allows, as of the last time that the count was written; 0 is no bound.
    pub fn allowance(&self) -> u64 {
        self.allowance
    }

    /// The exact count, at the end.
    pub fn finish(&mut self) -> u64 {
        self.write();
        self.sent
    }

    fn write(&mut self) {
        // It is memory, and its size is fixed: this does not fail unless stagerd gave us something else.
        if let Err(error) = self.counter.write_all_at(&self.sent.to_le_bytes(), 0) {
            tracing::warn!(%error, "the count of bytes cannot be written");
        }
        (self.written, self.when) = (self.sent, Instant::now());
        self.allowance = number(&self.counter, 8);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(file: &File) -> u64 {
        counted(file)
    }

    #[test]
    fn what_stagerd_allows_is_read_with_each_count() {
        let file = Arc::new(tempfile::tempfile().unwrap());
        let mut progress = Progress::new(file.clone());
        assert_eq!(progress.allowance(), 0);
        file.write_all_at(&5000u64.to_le_bytes(), 8).unwrap();
        progress.add(EVERY_BYTES);
        assert_eq!(progress.allowance(), 5000);
    }

    #[test]
    fn written_at_its_steps_and_at_the_end() {
        let file = Arc::new(tempfile::tempfile().unwrap());
        let mut progress = Progress::new(file.clone());
        assert_eq!(count(&file), 0);
        progress.add(EVERY_BYTES);
        assert_eq!(count(&file), EVERY_BYTES);
        progress.when = Instant::now();
        progress.add(EVERY_BYTES - 1);
        // A machine that sleeps here for the whole interval would write: that is right as well.
        assert!(count(&file) == EVERY_BYTES || progress.written == progress.sent);
        assert_eq!(progress.finish(), 2 * EVERY_BYTES - 1);
        assert_eq!(count(&file), 2 * EVERY_BYTES - 1);
        progress.when = Instant::now().checked_sub(EVERY).unwrap();
        progress.add(1);
        assert_eq!(count(&file), 2 * EVERY_BYTES);
        assert_eq!((Progress::new(file.clone()).sent, count(&file)), (0, 0));
    }
}
