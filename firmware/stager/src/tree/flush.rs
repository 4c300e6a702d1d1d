//! Syncs many directories at once.
//!
//! One after the other, each would wait for a flush of the disk of its own; at the same time, the file system and the disk do
//! them together.

use super::{Faults, Op};
use nix::unistd::fsync;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};

/// Syncs that are under way at once.
const THREADS: usize = 16;

type Task = (OwnedFd, String, Sender<(String, nix::Result<()>)>);

/// Threads that wait for something to sync. They end with it.
#[derive(Debug)]
pub(super) struct Flusher {
    tasks: Sender<Task>,
    faults: Faults,
}

impl Flusher {
    /// Starts the threads. With none at all, what is synced is synced by the caller.
    pub(super) fn new(faults: Faults) -> Self {
        let (tasks, queue) = channel::<Task>();
        let queue = Arc::new(Mutex::new(queue));
        for _ in 0..THREADS {
            let queue = queue.clone();
            let thread =
                std::thread::Builder::new().name("flush".into()).stack_size(64 << 10).spawn(move || work(&queue));
            if let Err(error) = thread {
                tracing::warn!(%error, "fewer directories are synced at once");
            }
        }
        Self { tasks, faults }
    }

    /// Syncs all of these, and gives the first that failed with the reason.
    pub(super) fn sync(&self, mut dirs: Vec<(OwnedFd, String)>) -> Result<(), (String, nix::errno::Errno)> {
        let Some((mine, path)) = dirs.pop() else { return Ok(()) };
        let (done, results) = channel();
        for (dir, path) in dirs {
            // Without a thread left, the task comes back.
            if let Err(back) = self.tasks.send((dir, path, done.clone())) {
                let (dir, path, done) = back.0;
                let _ = done.send((path, fsync(dir.as_fd())));
            }
        }
        drop(done);
        let own = self.faults.check(Op::Sync).and_then(|()| fsync(mine.as_fd())).map_err(|error| (path, error));
        results.into_iter().fold(own, |first, (path, result)| first.and(result.map_err(|error| (path, error))))
    }
}

fn work(queue: &Mutex<Receiver<Task>>) {
    loop {
        let task = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok((dir, path, done)) = task else { return };
        let _ = done.send((path, fsync(dir.as_fd())));
    }
}
