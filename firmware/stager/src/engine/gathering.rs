//! When a batch is complete.

use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

/// Longest time that a batch waits for the next of those whom the one before has answered.
const NEXT: Duration = Duration::from_millis(1);
/// Longest time that it waits for all of them.
const GATHER: Duration = Duration::from_millis(8);

/// A batch that waits a little for more to come. Those who were answered together ask again one after the other, and who asked meanwhile
/// finds them gone: without this there would be two halves, each of which waits for the commit of the other. Who is alone never waits.
pub(super) struct Gathering {
    /// How many the batch before had.
    before: usize,
    /// Whether somebody was there already when it was done.
    contended: bool,
    /// How many there may be; known once it is known who is there.
    all: Option<usize>,
    next: Duration,
    until: Instant,
}

impl Gathering {
    /// After a batch of so many that took so long; none where nobody is waited for.
    pub(super) fn after((before, took): (usize, Duration), contended: bool) -> Option<Self> {
        let (next, until) = ((took / 16).min(NEXT), Instant::now() + (took / 2).min(GATHER));
        (contended || before > 1).then_some(Self { before, contended, all: None, next, until })
    }

    /// The next of them; none when all are there or nobody comes any more.
    pub(super) fn next<T>(&mut self, queue: &Receiver<T>, here: usize) -> Option<T> {
        let others = if self.contended { here } else { 0 };
        let all = *self.all.get_or_insert(others + self.before);
        if here >= all {
            return None;
        }
        queue.recv_timeout(self.next.min(self.until.saturating_duration_since(Instant::now()))).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::channel;

    const TOOK: Duration = Duration::from_secs(1);

    #[test]
    fn who_is_alone_is_not_kept_waiting() {
        assert!(Gathering::after((1, TOOK), false).is_none());
        assert!(Gathering::after((0, TOOK), false).is_none());
    }

    #[test]
    fn those_who_were_answered_together_are_waited_for() {
        let (sender, queue) = channel();
        let mut gathering = Gathering::after((3, TOOK), false).unwrap();
        (2..6).for_each(|n| sender.send(n).unwrap());
        assert_eq!((gathering.next(&queue, 1), gathering.next(&queue, 2)), (Some(2), Some(3)));
        assert_eq!(gathering.next(&queue, 3), None, "all three are there; who comes now is none of them");
    }

    #[test]
    fn who_was_waiting_is_joined_by_those_who_were_answered() {
        let (sender, queue) = channel();
        let mut gathering = Gathering::after((1, TOOK), true).unwrap();
        sender.send(3).unwrap();
        assert_eq!(gathering.next(&queue, 2), Some(3));
        assert_eq!(gathering.next(&queue, 3), None);
    }

    #[test]
    fn nobody_is_waited_for_long() {
        let (_sender, queue) = channel::<u8>();
        let mut gathering = Gathering::after((64, TOOK), true).unwrap();
        assert_eq!(gathering.next(&queue, 1), None, "nobody comes");
        gathering.until = Instant::now();
        assert_eq!(gathering.next(&queue, 1), None, "it is over");
        // A disk that is quick is not made slow.
        let quick = Gathering::after((64, Duration::from_micros(160)), true).unwrap();
        assert_eq!(
            (quick.next, quick.until <= Instant::now() + Duration::from_micros(80)),
            (Duration::from_micros(10), true)
        );
    }
}
