//! What gate, authenticator and storage backend know in common: one process serves one session, and libunftp gives them no other way.

use super::disk::Disk;
use crate::gatekeeper::{Admission, Gatekeeper, Refusal};
use std::fs::File;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Mutex, PoisonError};
use tobj::{Name, Secret};
use tokio::sync::{mpsc, oneshot};

/// A place for one thing, put by one side and taken by the other.
#[derive(Debug)]
pub(super) struct Slot<T>(Mutex<Option<T>>);

impl<T> Default for Slot<T> {
    fn default() -> Self {
        Self(Mutex::new(None))
    }
}

impl<T> Slot<T> {
    pub(super) fn put(&self, value: T) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(value);
    }

    pub(super) fn take(&self) -> Option<T> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// What the gate is to send. libunftp learns from `done` that it is over.
#[derive(Debug)]
pub(super) struct Work {
    pub(super) body: Body,
    pub(super) done: oneshot::Sender<()>,
}

/// The bytes of [`Work`].
#[derive(Debug)]
pub(super) enum Body {
    /// A part of a file, up to its present end.
    File { file: File, from: u64, to: u64 },
    /// A listing.
    Bytes(Vec<u8>),
}

/// How a login went, beside what libunftp says.
#[derive(Debug)]
pub(super) enum Verdict {
    /// stagerd said no, or could not be asked.
    Refused(Refusal),
    /// stagerd said yes to this customer.
    Admitted(Name),
    /// stagerd said yes, and this process could not be confined: it must not go on.
    Unconfined,
}

/// Common knowledge.
pub(super) struct Shared {
    /// The client's address; libunftp only sees 127.0.0.1.
    pub(super) peer: IpAddr,
    /// The control connection is under TLS; libunftp only sees clear text.
    pub(super) tls: AtomicBool,
    /// The command in flight is SIZE: directories have none.
    pub(super) size: AtomicBool,
    /// REST's offset for the RETR in flight. libunftp's own survives a failure.
    pub(super) offset: AtomicU64,
    /// The password of the PASS in flight. It does not pass through libunftp.
    pub(super) password: Slot<Secret>,
    /// How that login went.
    pub(super) verdict: Slot<Verdict>,
    /// What came with the yes, until `enter`.
    pub(super) admission: Slot<Admission>,
    /// The counter of that admission.
    pub(super) counter: Slot<File>,
    /// Code and words for an error by which the storage has answered the last question.
    pub(super) reason: Slot<(u16, &'static str)>,
    /// Where everything is done that may wait for the disk.
    pub(super) disk: Disk,
    /// stagerd.
    pub(super) gatekeeper: tokio::sync::Mutex<Box<dyn Gatekeeper>>,
    /// To the gate.
    pub(super) work: mpsc::Sender<Work>,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("peer", &self.peer).finish_non_exhaustive()
    }
}
