//! Places where a test can have the file system fail, as a disk does that breaks or fills up.
//!
//! Nothing arms them but a test that holds the [`Tree`](super::Tree): there is no switch for it in the daemon.

use nix::errno::Errno;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

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

/// What is to fail.
#[derive(Debug, Clone, Default)]
pub struct Faults {
    armed: Arc<AtomicBool>,
    faults: Arc<Mutex<Vec<Fault>>>,
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

    /// Has nothing fail any more.
    pub fn disarm(&self) {
        self.faults.lock().unwrap_or_else(PoisonError::into_inner).clear();
        self.armed.store(false, Relaxed);
    }

    /// To be asked before an operation.
    pub(crate) fn check(&self, op: Op) -> nix::Result<()> {
        if !self.armed.load(Relaxed) {
            return Ok(());
        }
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
