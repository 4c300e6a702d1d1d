//! What may have to wait for the disk, on a thread of its own: a disk that hangs holds up who waits for it, and not the session,
//! which goes on answering ABOR and QUIT and keeps its deadlines.
//!
//! Names that the kernel has in memory are not asked here. The thread starts with the first question, after the session was
//! confined, so that it has what the session has: nothing. A session that only waits has none.
//!
//! It comes after the other threads in the processor's queue ([`NICE`]), for it is the one that sends: commands are answered and
//! transfers begun before what is under way goes on. Of many transfers that are asked for at once the first would otherwise be over
//! before the last has begun.

use crate::confine::ConfineError;
use rustix::process::nice;
use std::io;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::timeout;

/// How long a question about names may take. After that the client is told to try again later.
pub(super) const ANSWER: Duration = Duration::from_secs(20);

/// Stack of the thread in bytes; pages that are never touched cost nothing.
const STACK: usize = 256 << 10;

/// How much nicer the thread is than the rest of its session; see nice(2).
const NICE: i32 = 5;

type Job = Box<dyn FnOnce() + Send>;

/// The thread's queue.
#[derive(Debug)]
pub(super) struct Disk {
    queue: Mutex<Option<Sender<Job>>>,
    /// Called once the thread runs: no further one is needed.
    enough: fn() -> Result<(), ConfineError>,
    within: Duration,
}

impl Disk {
    /// Without a thread yet; `enough` is called once there is one. Questions have to be answered `within` this time.
    pub(super) fn new(enough: fn() -> Result<(), ConfineError>, within: Duration) -> Self {
        Self { queue: Mutex::default(), enough, within }
    }

    /// Has this done after what was asked before; the receiver fails if it panicked. Who drops the receiver does not stop it.
    pub(super) fn begin<T: Send + 'static>(
        &self,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> io::Result<oneshot::Receiver<T>> {
        let (answer, receiver) = oneshot::channel();
        let job = Box::new(move || {
            // Who asked may have given up.
            let _ = answer.send(job());
        });
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        let sender = match &mut *queue {
            Some(sender) => sender,
            empty => {
                let (sender, jobs) = channel();
                std::thread::Builder::new().name("disk".into()).stack_size(STACK).spawn(move || work(&jobs))?;
                (self.enough)().map_err(io::Error::other)?;
                empty.insert(sender)
            }
        };
        sender.send(job).map_err(|_| io::Error::other("the thread for the disk is gone"))?;
        Ok(receiver)
    }

    /// Asks something that should take no time, and does not wait for ever.
    ///
    /// # Errors
    /// `TimedOut` when the disk does not answer.
    pub(super) async fn ask<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
        timeout(self.within, self.begin(job)?).await?.map_err(io::Error::other)
    }
}

fn work(jobs: &Receiver<Job>) {
    // On Linux that is the thread, not the process. It works as well, if not as fairly, without.
    if let Err(error) = nice(NICE) {
        tracing::warn!(%error, "the thread for the disk is as urgent as all others");
    }
    while let Ok(job) = jobs.recv() {
        job();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Barrier;
    use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

    static CALLS: AtomicU32 = AtomicU32::new(0);

    fn counted() -> Result<(), ConfineError> {
        CALLS.fetch_add(1, Relaxed);
        Ok(())
    }

    #[tokio::test]
    async fn one_thread_for_all_questions_and_none_before() {
        let disk = Disk::new(counted, ANSWER);
        assert_eq!(CALLS.load(Relaxed), 0);
        let here = std::thread::current().id();
        let first = disk.ask(|| std::thread::current().id()).await.unwrap();
        let second = disk.ask(|| std::thread::current().id()).await.unwrap();
        assert!(first == second && first != here);
        assert_eq!(CALLS.load(Relaxed), 1);
    }

    #[tokio::test]
    async fn the_thread_comes_after_the_others() {
        let disk = Disk::new(|| Ok(()), ANSWER);
        let priority = || rustix::process::getpriority_process(None).unwrap();
        assert_eq!(disk.ask(priority).await.unwrap(), (priority() + NICE).min(19));
    }

    #[tokio::test]
    async fn one_that_hangs_is_given_up_and_what_comes_after_it_too() {
        let mut disk = Disk::new(|| Ok(()), Duration::from_millis(10));
        let barrier = std::sync::Arc::new(Barrier::new(2));
        let hang = barrier.clone();
        let hung = disk.ask(move || hang.wait()).await.unwrap_err();
        assert_eq!(hung.kind(), io::ErrorKind::TimedOut);
        assert_eq!(disk.ask(|| 1).await.unwrap_err().kind(), io::ErrorKind::TimedOut);
        barrier.wait();
        disk.within = ANSWER;
        assert_eq!(disk.ask(|| 2).await.unwrap(), 2);
    }
}
