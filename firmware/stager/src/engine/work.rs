//! What the writer can be asked, and what it answers.

use super::transfers::Begin;
use crate::grants::Grant;
use crate::rows::{Event, Upload};
use tobj::{Fault, Id, LeaseKind, Reply, Revocation, Sha256, TlsVersion};

/// Why a request was not done.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{fault}: {why}")]
pub struct Refusal {
    /// What the peer learns.
    pub fault: Fault,
    /// What an operator and the log learn.
    pub why: String,
}

impl Refusal {
    pub(crate) fn new(fault: Fault, why: impl Into<String>) -> Self {
        Self { fault, why: why.into() }
    }
}

/// What a request comes to.
pub type Answer = Result<Reply, Refusal>;

/// What the writer can be asked.
#[derive(Debug)]
pub enum Work {
    /// An operator's order, done once however often the request comes: [`Reply::Done`]. What was refused is as new the next time.
    Once {
        /// The request's ID. With another order than before: [`Fault::Invalid`].
        request: Id,
        /// [`Work::Retire`], [`Work::Verify`] or [`Work::Revoke`].
        order: Box<Work>,
    },
    /// Make or renew the lease of a grant whose signature was checked: [`Reply::Staged`].
    Stage {
        /// The request's ID.
        request: Id,
        /// The grant.
        grant: Grant,
    },
    /// An object has its place in the storeroom: [`Reply::Stored`].
    Store {
        /// Its hash.
        sha256: Sha256,
        /// Its bytes.
        size: u64,
        /// Whether it is the file that has just come in, not one that was there before.
        fresh: bool,
        /// Who brought it.
        by: String,
    },
    /// So much of an object is there for good: [`Reply::Done`].
    Upload {
        /// Its hash.
        sha256: Sha256,
        /// What there is; nothing forgets it.
        upload: Option<Upload>,
    },
    /// Take an object out of the storeroom for good: [`Reply::Done`] once that cannot be undone.
    Retire {
        /// Its hash.
        sha256: Sha256,
        /// Whether to end its leases, too.
        force: bool,
        /// Who wants it.
        by: String,
    },
    /// Read objects again and compare them with their hashes, whenever there is time: [`Reply::Done`].
    Verify {
        /// The object; without one, all of them.
        sha256: Option<Sha256>,
        /// Who wants it.
        by: String,
    },
    /// The bytes of an object are what they should be: [`Reply::Done`].
    Verified {
        /// Its hash.
        sha256: Sha256,
        /// The pass that this was part of.
        pass: u64,
    },
    /// The bytes of an object are not what they should be: [`Reply::Done`].
    Quarantine {
        /// Its hash.
        sha256: Sha256,
        /// The inode that was looked at, if there was one.
        inode: Option<u64>,
        /// What is wrong with it.
        why: String,
    },
    /// The next leases of an object that was put in again get their links anew. Those that do not are tried again with the sweep. The
    /// writer's own.
    Heal {
        /// Its hash.
        sha256: Sha256,
        /// The last lease that has its link.
        after: Option<Id>,
    },
    /// All of them have theirs. The writer's own.
    Healed {
        /// Its hash.
        sha256: Sha256,
    },
    /// The next leases of an object that goes end. The writer's own.
    Clear {
        /// Its hash.
        sha256: Sha256,
    },
    /// End a lease now: [`Reply::Done`].
    Revoke {
        /// The lease.
        lease: Id,
        /// Who wants it.
        by: String,
    },
    /// End the leases of rights that were withdrawn: [`Reply::Done`]; [`Fault::Busy`] while there are more than one commit takes, to
    /// be asked again.
    Withdraw {
        /// The rights.
        items: Vec<Revocation>,
        /// The last of them.
        upto: u64,
    },
    /// End what has expired, remove what is over: [`Reply::Done`].
    Sweep,
    /// Begin a transfer: [`Reply::Transfer`].
    Begin(Begin),
    /// A transfer is over: [`Reply::Done`].
    End {
        /// Its number.
        transfer: u64,
        /// Bytes that were sent.
        bytes: u64,
        /// How long it took.
        milliseconds: u64,
        /// The TLS of its data connection, where it is known to have had one.
        tls: Option<TlsVersion>,
        /// How it ended.
        outcome: &'static str,
    },
    /// A transfer under way has come so far: [`Reply::Done`].
    Progress {
        /// Its number.
        transfer: u64,
        /// Bytes that were sent.
        bytes: u64,
        /// How long it took so far.
        milliseconds: u64,
    },
    /// Something happened that the database is to know: [`Reply::Done`].
    Note(Event),
    /// Somebody was refused whom nobody has to know: [`Reply::Done`]. What he can do as often as he likes must not fill the disk: while
    /// there is no space, such refusals are counted, and the sweep that finds some again records their number.
    Refused {
        /// What happened.
        event: Event,
        /// Whether it is only counted in any case.
        fold: bool,
    },
    /// None of this ledger's records was sent so far; they follow those that the database has: [`Reply::Done`].
    NumberAfter {
        /// The last that it has; 0 for none.
        last: u64,
    },
    /// The database has all records up to this one: [`Reply::Done`].
    Acknowledge {
        /// The number.
        upto: u64,
    },
}

impl Work {
    /// What tells an order of an operator from another one; none for what is not remembered.
    pub(super) fn order(&self) -> Option<String> {
        match self {
            Self::Retire { sha256, force, by } => Some(format!("{by} retire {sha256} {force}")),
            Self::Verify { sha256: Some(sha256), by } => Some(format!("{by} verify {sha256}")),
            Self::Verify { sha256: None, by } => Some(format!("{by} verify all")),
            Self::Revoke { lease, by } => Some(format!("{by} revoke {lease}")),
            _ => None,
        }
    }

    /// The object whose leases get their links anew by it.
    pub(super) fn heals(&self) -> Option<Sha256> {
        match self {
            Self::Heal { sha256, .. } | Self::Healed { sha256 } => Some(*sha256),
            _ => None,
        }
    }
}

/// How long leases go on being served for resumes, in seconds.
#[derive(Debug, Clone, Copy)]
pub struct Grace {
    /// A standing lease that has expired.
    pub standing: u64,
    /// A one-time lease that was covered or has expired.
    pub one_time: u64,
}

impl Grace {
    /// That of this kind of lease.
    pub fn of(self, kind: LeaseKind) -> u64 {
        match kind {
            LeaseKind::Standing => self.standing,
            LeaseKind::OneTime => self.one_time,
        }
    }
}

/// What the writer keeps to.
#[derive(Debug, Clone, Copy)]
pub struct Rules {
    /// How long leases serve resumes.
    pub grace: Grace,
    /// Space that is left for leases to end and records to be kept (bytes): with less, nothing new is staged or
    /// fetched, and refusals are counted only.
    pub reserve: u64,
    /// How long an object that has come in in part is kept for the rest of it (seconds).
    pub upload_keep: u64,
}
