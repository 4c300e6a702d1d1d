//! What strangers can cause, so often a minute; the rest is counted.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// Lets so many pass in each [`RateLimit::INTERVAL`]. Nothing wakes up for it: what was suppressed is told to the next one that passes.
#[derive(Debug)]
pub struct RateLimit {
    most: u32,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    begun: Option<Instant>,
    passed: u32,
    suppressed: u64,
}

impl RateLimit {
    /// The time that a limit is for.
    pub const INTERVAL: Duration = Duration::from_secs(60);

    /// One that lets so many pass.
    #[must_use]
    pub const fn new(most: u32) -> Self {
        Self { most, state: Mutex::new(State { begun: None, passed: 0, suppressed: 0 }) }
    }

    /// How many were suppressed since the last one that passed; `None` for one that does not pass itself.
    pub fn pass(&self, now: Instant) -> Option<u64> {
        let mut state = self.lock();
        if state.begun.is_none_or(|begun| now.saturating_duration_since(begun) >= Self::INTERVAL) {
            (state.begun, state.passed) = (Some(now), 0);
        }
        if state.passed >= self.most {
            state.suppressed = state.suppressed.saturating_add(1);
            return None;
        }
        state.passed += 1;
        Some(std::mem::take(&mut state.suppressed))
    }

    /// Counts one that is not to pass.
    pub fn suppress(&self) {
        let mut state = self.lock();
        state.suppressed = state.suppressed.saturating_add(1);
    }

    /// How many were suppressed since the last one that passed; they are not told again.
    pub fn take(&self) -> u64 {
        std::mem::take(&mut self.lock().suppressed)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_pass_and_the_rest_is_counted() {
        let (limit, now) = (RateLimit::new(2), Instant::now());
        let later = now + RateLimit::INTERVAL;
        let passed = [now, now, now, later - Duration::from_millis(1), later, later, later].map(|at| limit.pass(at));
        assert_eq!(passed, [Some(0), Some(0), None, None, Some(2), Some(0), None]);
        limit.suppress();
        assert_eq!((limit.take(), limit.take()), (2, 0));
    }
}
