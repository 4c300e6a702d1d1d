//! The count of bytes that have come to the client, in memory that stagerd shares: it survives this process.
//!
//! What the kernel still holds for the client does not count: a lease is used up by bytes that he has, and of those he has none.

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
    /// Handed to the kernel.
    sent: u64,
    /// How much of it that was when the count was written last.
    looked: u64,
    /// The count.
    written: u64,
    when: Instant,
    allowance: u64,
}

/// What a counter says at this place, 0 if it does not reach so far.
fn number(counter: &File, at: u64) -> u64 {
    let mut bytes = [0; 8];
    counter.read_exact_at(&mut bytes, at).map_or(0, |()| u64::from_le_bytes(bytes))
}

/// The bytes that are known to have come to the client, also while somebody else counts.
pub(super) fn counted(counter: &File) -> u64 {
    number(counter, 0)
}

impl Progress {
    /// Starts at zero.
    pub fn new(counter: Arc<File>) -> Self {
        let mut progress = Self { counter, sent: 0, looked: 0, written: 0, when: Instant::now(), allowance: 0 };
        progress.write(0);
        progress
    }

    /// These many bytes more have been handed to the kernel; `left` tells how many it still holds.
    pub fn add(&mut self, bytes: u64, left: impl FnOnce() -> u64) {
        self.sent += bytes;
        if self.sent - self.looked >= EVERY_BYTES || self.when.elapsed() >= EVERY {
            self.write(left());
        }
    }

    /// The kernel holds only so many now.
    pub fn taken(&mut self, left: u64) {
        if self.when.elapsed() >= EVERY {
            self.write(left);
        }
    }

    /// The bytes per second that stagerd allows, as of the last time that the count was written; 0 is no bound.
    pub fn allowance(&self) -> u64 {
        self.allowance
    }

    /// The count at the end, with so many bytes that the client has not got.
    pub fn finish(&mut self, left: u64) -> u64 {
        self.write(left);
        self.written
    }

    fn write(&mut self, left: u64) {
        // What has come to the client is with him: that the kernel holds more than was sent, or more than before, may be, since under
        // TLS these are the bytes of the records.
        self.written = self.written.max(self.sent.saturating_sub(left));
        // It is memory, and its size is fixed: this does not fail unless stagerd gave us something else.
        if let Err(error) = self.counter.write_all_at(&self.written.to_le_bytes(), 0) {
            tracing::warn!(%error, "the count of bytes cannot be written");
        }
        (self.looked, self.when) = (self.sent, Instant::now());
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
        progress.add(EVERY_BYTES, || 0);
        assert_eq!(progress.allowance(), 5000);
    }

    #[test]
    fn written_at_its_steps_and_at_the_end() {
        let file = Arc::new(tempfile::tempfile().unwrap());
        let mut progress = Progress::new(file.clone());
        assert_eq!(count(&file), 0);
        progress.add(EVERY_BYTES, || 0);
        assert_eq!(count(&file), EVERY_BYTES);
        progress.when = Instant::now();
        progress.add(EVERY_BYTES - 1, || 0);
        // A machine that sleeps here for the whole interval would write: that is right as well.
        assert!(count(&file) == EVERY_BYTES || progress.looked == progress.sent);
        assert_eq!(progress.finish(0), 2 * EVERY_BYTES - 1);
        assert_eq!(count(&file), 2 * EVERY_BYTES - 1);
        progress.when = Instant::now().checked_sub(EVERY).unwrap();
        progress.add(1, || 0);
        assert_eq!(count(&file), 2 * EVERY_BYTES);
        assert_eq!((Progress::new(file.clone()).sent, count(&file)), (0, 0));
    }
    #[test]
    fn what_the_kernel_holds_does_not_count() {
        let file = Arc::new(tempfile::tempfile().unwrap());
        let mut progress = Progress::new(file.clone());
        progress.add(EVERY_BYTES, || 1000);
        assert_eq!(count(&file), EVERY_BYTES - 1000);
        progress.when = Instant::now().checked_sub(EVERY).unwrap();
        progress.taken(400);
        assert_eq!(count(&file), EVERY_BYTES - 400);
        // What he has he keeps.
        progress.add(5, || 500);
        assert_eq!((progress.finish(500), count(&file)), (EVERY_BYTES - 400, EVERY_BYTES - 400));
        assert_eq!((progress.finish(0), count(&file)), (EVERY_BYTES + 5, EVERY_BYTES + 5));
        assert_eq!(Progress::new(file.clone()).finish(u64::MAX), 0);
    }
}
