//! Which time to believe.
//!
//! The appliance's own clock may be wrong by years. What deletes something therefore needs a time that the database vouches for.
//! Step by step:
//!
//! 1. Each answer of the database to [`crate::revocations`] brings its time; with it goes our CLOCK_BOOTTIME, which nobody sets and
//!    which goes on in a suspend. The time now is the one, *carried* forward by the other.
//! 2. The wall clock is *plausible* while it is within [`PLAUSIBLE`] of the carried time. Then it is the time, otherwise the carried
//!    time is. Either is *trusted*.
//! 3. Only a trusted time raises the highest time, which is kept in the ledger. What was trusted is not taken back: while the highest
//!    time is plausible itself, it is the least. (It is not when the database's own clock was wrong and was set back.)
//! 4. Before the first answer since start-up no time is trusted: nothing expires, nothing is deleted. What looks expired by the wall
//!    clock or by the highest time starts no download and no staging.
//!
//! So a clock that is set ahead makes nothing vanish and one that is set back prolongs nothing, before and after a restart.

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
                let at = if state.kept.abs_diff(carried) <= PLAUSIBLE { at.max(state.kept) } else { at };
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
            (YEAR + 1000 - PLAUSIBLE, YEAR + 1000 - PLAUSIBLE),
            (YEAR + 1000 - PLAUSIBLE - 1, YEAR + 1000),
            (YEAR + 1000 - PLAUSIBLE, YEAR + 1000), // a little back: what was trusted stays
            (YEAR + 1000 + PLAUSIBLE + 1, YEAR + 1000),
            (2 * YEAR, YEAR + 1000),
            (0, YEAR + 1000),
            (YEAR + 1000 + PLAUSIBLE, YEAR + 1000 + PLAUSIBLE),
            (YEAR + 1000, YEAR + 1000 + PLAUSIBLE),
        ] {
            fake.wall.store(wall, SeqCst);
            assert_eq!(clock.now(), Now { at: expected, trusted: true }, "{wall}");
        }
        fake.pass(PLAUSIBLE + 60);
        assert_eq!(clock.now().at, YEAR + 1000 + PLAUSIBLE + 60);
        assert_eq!(clock.kept(), YEAR + 1000 + PLAUSIBLE + 60);
        // After a restart: the highest time holds until the database has answered.
        let fake = Fake::at(0);
        let clock = Clock::new(fake, YEAR + 1000);
        assert_eq!(clock.now(), Now { at: YEAR + 1000, trusted: false });
    }

    #[test]
    fn a_database_that_was_ahead_does_not_bind_for_ever() {
        let fake = Fake::at(5000);
        let clock = Clock::new(fake, 0);
        clock.anchor(90_000);
        assert_eq!(clock.now(), Now { at: 90_000, trusted: true });
        clock.anchor(5000);
        assert_eq!(clock.now(), Now { at: 5000, trusted: true });
    }

    #[test]
    fn the_system_has_a_time() {
        assert!(System.wall() > 1_600_000_000 && System.boot() > Duration::ZERO);
    }
}
