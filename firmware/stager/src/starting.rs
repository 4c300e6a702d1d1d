//! What the service manager hears of a start that takes its time.
//!
//! It ends a start after a time that is too short for some: there are many leases to be looked at, or a disk that does not work yet and
//! is tried again without end. A start that gets on asks for more time; one that does not for [`STALL`], on a disk that hangs, is
//! ended and begun anew.

use sd_notify::NotifyState;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// How long a start may take without getting on: what the unit gives all of it without a word (`TimeoutStartSec`).
pub const STALL: Duration = Duration::from_secs(600);
/// How often more time is asked for at most.
const EVERY: Duration = Duration::from_secs(10);

/// Told with everything that a start has done: it gets on. Several threads tell.
pub type Advance<'a> = &'a (dyn Fn() + Sync);

/// A start.
#[derive(Debug)]
pub(crate) struct Starting {
    begun: Instant,
    /// From when on more time is asked for (milliseconds since `begun`).
    next: AtomicU64,
}

impl Starting {
    pub(crate) fn new() -> Self {
        Self { begun: Instant::now(), next: AtomicU64::new(0) }
    }

    /// It gets on.
    pub(crate) fn advance(&self) {
        if self.is_due(self.begun.elapsed()) {
            let more = NotifyState::ExtendTimeoutUsec(u32::try_from(STALL.as_micros()).unwrap_or(u32::MAX));
            if let Err(error) = sd_notify::notify(&[more]) {
                tracing::debug!(%error, "systemd was not told");
            }
        }
    }

    /// It is over. What is asked for after that would be time for the watchdog.
    pub(crate) fn over(&self) {
        self.next.store(u64::MAX, Relaxed);
    }

    fn is_due(&self, elapsed: Duration) -> bool {
        let (now, next) = (millis(elapsed), self.next.load(Relaxed));
        // Of several threads, one asks.
        now >= next && self.next.compare_exchange(next, now + millis(EVERY), Relaxed, Relaxed).is_ok()
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_time_is_asked_for_now_and_then_and_not_after_the_start() {
        let start = Starting::new();
        let (first, just_before) = (Duration::from_secs(3), EVERY - Duration::from_millis(1));
        for (elapsed, is_due) in [
            (first, true),
            (first, false),
            (first + just_before, false),
            (first + EVERY, true),
            (first + EVERY + just_before, false),
            (first + 9 * EVERY, true),
        ] {
            assert_eq!(start.is_due(elapsed), is_due, "{elapsed:?}");
        }
        start.over();
        assert!(!start.is_due(STALL * 1000));
    }

    #[test]
    fn the_unit_gives_as_much() {
        let unit = "../../image/rootfs/download/usr/lib/systemd/system/stagerd.service.d/20-own.conf";
        let unit = std::fs::read_to_string(std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(unit)).unwrap();
        assert!(unit.lines().any(|line| line == format!("TimeoutStartSec={}s", STALL.as_secs())), "{unit}");
        assert!(STALL.as_micros() <= u128::from(u32::MAX), "it fits what is told");
    }
}
