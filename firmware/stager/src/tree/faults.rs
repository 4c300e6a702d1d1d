//! Places where a test can have the file system fail, as a disk does that breaks or fills up.
//!
//! Nothing arms them but a test that holds the [`Tree`](super::Tree): there is no switch for it in the daemon.

use nix::errno::Errno;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// What can be made to fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op {
    /// Making a directory for a lease.
    MakeDir,
    /// Making the link of a lease.
    Link,
    /// Removing the link of a lease.
    Unlink,
    /// Writing the bytes of an object.
    Write,
    /// Giving an object its name.
    Rename,
    /// Syncing an object or a directory.
    Sync,
}

impl Op {
    /// All of them.
    pub const ALL: &'static [Self] = &[Self::MakeDir, Self::Link, Self::Unlink, Self::Write, Self::Rename, Self::Sync];
}

#[derive(Debug, Clone, Copy)]
struct Fault {
    op: Op,
    left: u32,
    errno: Errno,
    once: bool,
}

/// What is to fail, or to wait.
#[derive(Debug, Clone, Default)]
pub struct Faults {
    armed: Arc<AtomicBool>,
    faults: Arc<Mutex<Vec<Fault>>>,
    hang: Arc<(Mutex<Hang>, Condvar)>,
}

#[derive(Debug, Default)]
struct Hang {
    hangs: bool,
    /// Operations that wait.
    waiting: usize,
    /// How many of those that waited may go on.
    passes: usize,
}

impl Faults {
    /// Has the `nth` operation of this kind from now (from 1) fail in this way, and every one after it until [`Faults::disarm`].
    pub fn arm(&self, op: Op, nth: u32, errno: Errno) {
        self.add(Fault { op, left: nth, errno, once: false });
    }

    /// Has the `nth` operation of this kind from now (from 1) fail in this way, and none after it: so a kernel tells of bytes that
    /// it could not write, once.
    pub fn arm_once(&self, op: Op, nth: u32, errno: Errno) {
        self.add(Fault { op, left: nth, errno, once: true });
    }

    fn add(&self, fault: Fault) {
        self.faults.lock().unwrap_or_else(PoisonError::into_inner).push(fault);
        self.armed.store(true, Relaxed);
    }

    /// Has every operation from now on wait, as a disk does that hangs, until [`Faults::let_pass`] or [`Faults::disarm`].
    pub fn hang(&self) {
        self.hanging().hangs = true;
        self.armed.store(true, Relaxed);
    }

    /// How many operations wait.
    pub fn waiting(&self) -> usize {
        self.hanging().waiting
    }

    /// Lets one of those go on that wait.
    pub fn let_pass(&self) {
        let mut hang = self.hanging();
        if hang.waiting > 0 {
            hang.waiting -= 1;
            hang.passes += 1;
            self.hang.1.notify_one();
        }
    }

    /// Has nothing fail or wait any more.
    pub fn disarm(&self) {
        self.faults.lock().unwrap_or_else(PoisonError::into_inner).clear();
        self.armed.store(false, Relaxed);
        *self.hanging() = Hang::default();
        self.hang.1.notify_all();
    }

    fn hanging(&self) -> MutexGuard<'_, Hang> {
        self.hang.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// To be asked before an operation that can only be made to wait.
    pub(crate) fn wait(&self) {
        if !self.armed.load(Relaxed) {
            return;
        }
        let mut hang = self.hanging();
        if hang.hangs {
            hang.waiting += 1;
            while hang.hangs && hang.passes == 0 {
                hang = self.hang.1.wait(hang).unwrap_or_else(PoisonError::into_inner);
            }
            hang.passes = hang.passes.saturating_sub(1);
        }
    }

    /// To be asked before an operation.
    pub(crate) fn check(&self, op: Op) -> nix::Result<()> {
        if !self.armed.load(Relaxed) {
            return Ok(());
        }
        self.wait();
        let mut faults = self.faults.lock().unwrap_or_else(PoisonError::into_inner);
        let due = faults.iter_mut().position(|fault| {
            if fault.op == op {
                fault.left = fault.left.saturating_sub(1);
            }
            fault.op == op && fault.left == 0
        });
        let Some(due) = due else { return Ok(()) };
        let Fault { errno, once, .. } = faults[due];
        if once {
            faults.remove(due);
        }
        Err(errno)
    }
}
