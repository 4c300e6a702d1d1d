//! How long to wait before the next try.

use std::time::Duration;

use tokio::time::Instant;

/// The first pause, at most.
const FIRST: Duration = Duration::from_millis(20);

/// The longest pause, at most.
const LONGEST: Duration = Duration::from_millis(640);

/// Pauses that double, each cut by up to half by chance, so that those who lost the same peer do not come back at once.
pub(super) struct Backoff {
    deadline: Instant,
    next: Duration,
}

impl Backoff {
    /// Pauses for this long.
    pub(super) fn new(limit: Duration) -> Self {
        Self { deadline: Instant::now() + limit, next: FIRST }
    }

    /// The next pause; `None` when the time is up.
    ///
    /// # Errors
    /// When the system gives no randomness.
    pub(super) fn next(&mut self) -> Result<Option<Duration>, getrandom::Error> {
        let chance = f64::from(getrandom::u32()?) / f64::from(u32::MAX);
        let pause = self.next.mul_f64(1.0 - chance / 2.0);
        self.next = (self.next * 2).min(LONGEST);
        Ok((Instant::now() + pause <= self.deadline).then_some(pause))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn pauses_grow_differ_and_end() {
        let limit = Duration::from_secs(5);
        let (start, mut backoff, mut pauses) = (Instant::now(), Backoff::new(limit), Vec::new());
        while let Some(pause) = backoff.next().unwrap() {
            tokio::time::sleep(pause).await;
            pauses.push(pause);
        }
        assert!(
            start.elapsed() <= limit + Duration::from_millis(50) && start.elapsed() > limit - LONGEST,
            "{pauses:?}"
        );
        assert!(pauses[0] <= FIRST && pauses[0] >= FIRST / 2 && pauses.iter().all(|pause| *pause <= LONGEST));
        assert!((8..30).contains(&pauses.len()), "{pauses:?}");
        let mut other = Backoff::new(limit);
        let again: Vec<_> = (0..4).map(|_| other.next().unwrap().unwrap()).collect();
        assert_ne!(again, pauses[..4], "by chance");
    }
}
