//! Which time to believe.
//!
//! The appliance's own clock may be wrong by years. What deletes something therefore needs a time that the database vouches for:
//! its newest sealed answer, carried forward by a clock that nobody sets (CLOCK_BOOTTIME). The wall clock is used while it is
//! within [`PLAUSIBLE`] of that, otherwise the carried time is. Before the first answer since start-up nothing is deleted, and what
//! looks expired by the wall clock or by the highest time that the ledger has kept starts no download.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// How far the wall clock may be from the database's in seconds (design, section 4).
pub const PLAUSIBLE: u64 = 300;

/// Where time comes from.
pub trait Source: Send + Sync + std::fmt::Debug {
    /// The wall clock, in seconds since 1970.
    fn wall(&self) -> u64;
    /// Time since the machine was started, suspends included.
    fn boot(&self) -> Duration;
}

/// The kernel's clocks.
#[derive(Debug, Clone, Copy)]
pub struct System;

impl Source for System {
    fn wall(&self) -> u64 {
        tobj::Timestamp::now().0
    }

    fn boot(&self) -> Duration {
        use nix::time::{ClockId, clock_gettime};
        clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(Duration::ZERO, Duration::from)
    }
}

/// The time, and whether the database vouches for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// Seconds since 1970.
    pub at: u64,
    /// Whether it may be used to delete.
    pub trusted: bool,
}

/// Decides which time holds.
#[derive(Debug, Clone)]
pub struct Clock {
    source: Arc<dyn Source>,
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct State {
    /// The database's time, and ours since start-up when it came.
    anchor: Option<(u64, Duration)>,
    /// Highest time that was trusted.
    kept: u64,
}

impl Clock {
    /// A clock that knows the highest time the ledger kept, and has heard nothing from the database yet.
    pub fn new(source: Arc<dyn Source>, kept: u64) -> Self {
        Self { source, state: Arc::new(Mutex::new(State { anchor: None, kept })) }
    }

    /// Takes the time of a sealed answer of the database that has just come.
    pub fn anchor(&self, database: u64) {
        self.lock().anchor = Some((database, self.source.boot()));
    }

    /// The time.
    pub fn now(&self) -> Now {
        let (wall, boot) = (self.source.wall(), self.source.boot());
        let mut state = self.lock();
        match state.anchor {
            Some((database, then)) => {
                let carried = database.saturating_add(boot.saturating_sub(then).as_secs());
                let at = if wall.abs_diff(carried) <= PLAUSIBLE { wall } else { carried };
                state.kept = state.kept.max(at);
                Now { at, trusted: true }
            }
            None => Now { at: wall.max(state.kept), trusted: false },
        }
    }

    /// The highest time that was trusted, for the ledger (seconds since 1970).
    pub fn kept(&self) -> u64 {
        self.lock().kept
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

    /// Clocks that a test sets.
    #[derive(Debug, Default)]
    pub(crate) struct Fake {
        pub(crate) wall: AtomicU64,
        pub(crate) boot: AtomicU64,
    }

    impl Fake {
        pub(crate) fn at(wall: u64) -> Arc<Self> {
            Arc::new(Self { wall: AtomicU64::new(wall), boot: AtomicU64::new(10) })
        }
        pub(crate) fn pass(&self, seconds: u64) {
            self.wall.fetch_add(seconds, SeqCst);
            self.boot.fetch_add(seconds, SeqCst);
        }
    }

    impl Source for Fake {
        fn wall(&self) -> u64 {
            self.wall.load(SeqCst)
        }
        fn boot(&self) -> Duration {
            Duration::from_secs(self.boot.load(SeqCst))
        }
    }

    #[test]
    fn nothing_is_trusted_before_the_first_answer() {
        let fake = Fake::at(1000);
        let clock = Clock::new(fake.clone(), 2000);
        assert_eq!(clock.now(), Now { at: 2000, trusted: false });
        fake.pass(5000);
        assert_eq!(clock.now(), Now { at: 6000, trusted: false });
        assert_eq!(clock.kept(), 2000);
    }

    #[test]
    fn a_year_ahead_and_back_changes_nothing() {
        const YEAR: u64 = 365 * 86_400;
        let fake = Fake::at(YEAR + 1000);
        let clock = Clock::new(fake.clone(), 0);
        clock.anchor(YEAR + 1000);
        for (wall, expected) in [
            (YEAR + 1000 + PLAUSIBLE, YEAR + 1000 + PLAUSIBLE),
            (YEAR + 1000 - PLAUSIBLE, YEAR + 1000 - PLAUSIBLE),
            (YEAR + 1000 + PLAUSIBLE + 1, YEAR + 1000),
            (2 * YEAR, YEAR + 1000),
            (0, YEAR + 1000),
        ] {
            fake.wall.store(wall, SeqCst);
            assert_eq!(clock.now(), Now { at: expected, trusted: true }, "{wall}");
        }
        fake.pass(60);
        assert_eq!(clock.now().at, YEAR + 1060);
        assert_eq!(clock.kept(), YEAR + 1000 + PLAUSIBLE);
    }

    #[test]
    fn the_system_has_a_time() {
        assert!(System.wall() > 1_600_000_000 && System.boot() > Duration::ZERO);
    }
}
