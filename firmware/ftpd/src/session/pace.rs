//! How fast a transfer may be, without I/O and without a clock of its own.

use std::time::{Duration, Instant};

/// How far a transfer may be behind and catch up, and how long one piece of it takes at its rate.
pub(super) const SPAN: Duration = Duration::from_millis(100);

/// Smallest piece that is sent at once, in bytes: rates below ten times that come in jumps.
pub(super) const LEAST: u64 = 4096;

/// A bound in bytes per second; no bound without a rate.
#[derive(Debug)]
pub(super) struct Pace {
    rate: Option<u64>,
    /// When all that was sent so far is paid for.
    paid: Instant,
}

impl Pace {
    /// Starts at its rate; 0 is none.
    pub(super) fn new(rate: u64, now: Instant) -> Self {
        Self { rate: Some(rate).filter(|rate| *rate > 0), paid: now }
    }

    /// The rate from now on; 0 is none.
    pub(super) fn set(&mut self, rate: u64) {
        self.rate = Some(rate).filter(|rate| *rate > 0);
    }

    /// Most bytes of the next piece.
    pub(super) fn piece(&self, most: u64) -> u64 {
        self.rate.map_or(most, |rate| most.min((rate / 10).max(LEAST)))
    }

    /// So many bytes were sent; gives how long to wait before the next.
    pub(super) fn sent(&mut self, bytes: u64, now: Instant) -> Duration {
        let Some(rate) = self.rate else { return Duration::ZERO };
        // What was not used is lost, but for a moment: a slow client does not save up for a burst.
        let start = now.checked_sub(SPAN).map_or(self.paid, |earliest| self.paid.max(earliest));
        let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(rate);
        self.paid = start + Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        self.paid.saturating_duration_since(now)
    }
}

/// The lower of two rates, of which 0 is none.
pub(super) fn lower(a: u64, b: u64) -> u64 {
    match (a, b) {
        (0, rate) | (rate, 0) => rate,
        (a, b) => a.min(b),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_kept_over_many_pieces() {
        let begin = Instant::now();
        let (mut pace, mut now, mut sent) = (Pace::new(1_000_000, begin), begin, 0);
        for _ in 0..50 {
            let piece = pace.piece(8 << 20);
            assert_eq!(piece, 100_000);
            now += pace.sent(piece, now);
            sent += piece;
        }
        assert_eq!((sent, now.duration_since(begin)), (5_000_000, Duration::from_secs(5)));
    }

    #[test]
    fn nothing_is_saved_up() {
        let begin = Instant::now();
        let mut pace = Pace::new(1_000_000, begin);
        let later = begin + Duration::from_secs(60);
        assert_eq!(pace.sent(100_000, later), Duration::ZERO, "a tenth of a second may be caught up");
        assert_eq!(pace.sent(100_000, later), Duration::from_millis(100));
    }

    #[test]
    fn no_rate_no_wait_and_the_lower_one_counts() {
        let now = Instant::now();
        let mut pace = Pace::new(0, now);
        assert_eq!((pace.piece(77), pace.sent(u64::MAX, now)), (77, Duration::ZERO));
        pace.set(1);
        assert_eq!(pace.piece(1 << 20), LEAST);
        assert_eq!([lower(0, 0), lower(0, 5), lower(5, 0), lower(5, 6)], [0, 5, 5, 5]);
    }
}
