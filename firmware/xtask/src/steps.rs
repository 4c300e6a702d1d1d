//! Steps that take their time, each shown with it.

use crate::interrupt;
use anyhow::{Context, Result};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

/// After this long, and again and again, a step tells that it is still at it.
const EVERY: Duration = Duration::from_secs(5);

/// The time of the steps so far.
#[derive(Debug, Default)]
pub(crate) struct Steps(Duration);

impl Steps {
    /// Takes one, and tells once in a while that it is still at it.
    pub(crate) fn run<T>(&mut self, what: &'static str, step: impl FnOnce() -> Result<T>) -> Result<T> {
        let begin = Instant::now();
        self.run_that_tells(what, || {
            let (end, ended) = channel::<()>();
            std::thread::scope(|scope| {
                scope.spawn(move || {
                    while ended.recv_timeout(EVERY) == Err(RecvTimeoutError::Timeout) {
                        eprintln!("{:>8.1} s  … {what}", begin.elapsed().as_secs_f64());
                    }
                });
                let done = step();
                drop(end);
                done
            })
        })
    }

    /// Takes one that tells about itself.
    pub(crate) fn run_that_tells<T>(&mut self, what: &'static str, step: impl FnOnce() -> Result<T>) -> Result<T> {
        let begin = Instant::now();
        let done = step().with_context(|| format!("failed to {what}"))?;
        let took = begin.elapsed();
        println!("{:>8.2} s  {what}", took.as_secs_f64());
        self.0 += took;
        interrupt::check()?;
        Ok(done)
    }

    /// All of them.
    pub(crate) fn total(&self) -> Duration {
        self.0
    }
}
