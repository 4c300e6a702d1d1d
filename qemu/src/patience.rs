//! How long to wait, and who may end the wait earlier.

use std::time::{Duration, Instant};

/// How a wait ended that did not end with the event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Waited {
    /// It took too long.
    #[error("nothing within {0:?}")]
    InVain(Duration),
    /// Somebody asked us to end.
    #[error("interrupted")]
    Cancelled,
}

/// A deadline, and a look at whether somebody wants us to end.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    begin: Instant,
    limit: Duration,
    cancelled: fn() -> bool,
}

impl Patience {
    /// From now on, this long.
    pub fn of(limit: Duration) -> Self {
        Self { begin: Instant::now(), limit, cancelled: || false }
    }

    /// Also ends when this says so.
    #[must_use]
    pub fn unless(self, cancelled: fn() -> bool) -> Self {
        Self { cancelled, ..self }
    }

    /// How long it has been.
    pub fn spent(&self) -> Duration {
        self.begin.elapsed()
    }

    /// What is left.
    pub fn left(&self) -> Duration {
        self.limit.saturating_sub(self.spent())
    }

    /// Whether to go on waiting.
    ///
    /// # Errors
    /// [`Waited`], when not.
    pub fn check(&self) -> Result<(), Waited> {
        if (self.cancelled)() {
            Err(Waited::Cancelled)
        } else if self.left().is_zero() {
            Err(Waited::InVain(self.limit))
        } else {
            Ok(())
        }
    }

    /// Waits a moment before the next look, at most this long.
    ///
    /// # Errors
    /// [`Waited`], when there is no patience left.
    pub fn pause(&self, moment: Duration) -> Result<(), Waited> {
        self.check()?;
        std::thread::sleep(moment.min(self.left()));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_ends() {
        assert_eq!(Patience::of(Duration::ZERO).check(), Err(Waited::InVain(Duration::ZERO)));
        let long = Patience::of(Duration::from_secs(3600));
        assert_eq!(long.check(), Ok(()));
        assert_eq!(long.unless(|| true).pause(Duration::from_secs(3600)), Err(Waited::Cancelled));
    }
}
