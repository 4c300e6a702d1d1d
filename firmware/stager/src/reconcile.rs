//! What start-up does before anything is served: ledger and tree are made to say the same.
//!
//! | found | done |
//! |---|---|
//! | a file in incoming | removed: nobody has an answer for it |
//! | an object that the ledger does not know | taken in: it has its name only after its bytes are durable |
//! | an object of the ledger without file | reported; `status` is unhealthy |
//! | a pending lease | its link is made, it becomes active; where that cannot be, the lease ends |
//! | a lease that goes | its link is removed, its row dropped |
//! | a lease whose link is gone or is another file | the link is made again |
//! | a name in an account that no lease explains | removed |
//! | a transfer that has not ended | closed as `interrupted`, with the last count that was durable |

use crate::clock::Now;
use crate::engine::{EngineError, Grace, transfers_end};
use crate::killpoint::{Point, hit};
use crate::ledger::{Ledger, LedgerError};
use crate::rows::{Event, Lease, Object, State};
use crate::tree::{Batch, Place, Stat, Tree, TreeError};
use std::collections::HashMap;
use tobj::{AuditEvent, Id, Sha256};

/// What was found and repaired.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Files removed from incoming.
    pub incoming: usize,
    /// Objects that the ledger did not know.
    pub adopted: usize,
    /// Objects without a file.
    pub missing: Vec<Sha256>,
    /// Pending leases whose link is there now.
    pub finished: usize,
    /// Leases that could not get their link and ended.
    pub given_up: usize,
    /// Leases that were going and are gone now.
    pub removed: usize,
    /// Leases whose link had to be made again.
    pub relinked: usize,
    /// Leases whose link is gone and cannot be made.
    pub broken: usize,
    /// Names that no lease explained.
    pub strays: usize,
    /// Transfers that were closed.
    pub interrupted: usize,
    /// Leases that were looked at.
    pub leases: usize,
}

/// Most leases whose outcome goes into one commit.
const CHUNK: usize = 1000;

enum Todo {
    Finish,
    Remove,
    Relink { foreign: bool },
}

/// Makes ledger and tree agree.
///
/// # Errors
/// [`EngineError`] when either cannot be read or changed.
pub fn reconcile(ledger: &Ledger, tree: &Tree, grace: Grace, now: Now) -> Result<Report, EngineError> {
    let mut report = Report::default();
    for name in tree.list_incoming()? {
        tree.drop_incoming(&name)?;
        report.incoming += 1;
    }
    storeroom(ledger, tree, now, &mut report)?;
    // Before the leases: a stray name may stand where one of their directories belongs.
    strays(ledger, tree, &mut report)?;
    let mut todo = Vec::new();
    let mut objects = HashMap::new();
    for entry in ledger.read()?.leases(0)? {
        let (id, lease) = entry?;
        report.leases += 1;
        if let Some(what) = examine(tree, id, &lease, &mut objects)? {
            todo.push((id, lease, what));
        }
    }
    while !todo.is_empty() {
        let rest = todo.split_off(todo.len().min(CHUNK));
        repair(ledger, tree, now, todo, &mut report)?;
        todo = rest;
    }
    report.interrupted = ledger.write(|txn| {
        let open = txn.open_transfers()?;
        for number in &open {
            transfers_end(txn, *number, 0, INTERRUPTED, grace, now)?;
        }
        Ok(open.len())
    })?;
    Ok(report)
}

/// The outcome of a transfer that was cut; its count is a lower bound.
pub(crate) const INTERRUPTED: &str = "interrupted";

fn storeroom(ledger: &Ledger, tree: &Tree, now: Now, report: &mut Report) -> Result<(), EngineError> {
    let read = ledger.read()?;
    for (path, sha256) in tree.list_storeroom()? {
        let Some(sha256) = sha256 else {
            tracing::warn!(path, "the storeroom has a file whose name is not a hash; it is left alone");
            continue;
        };
        if read.object(sha256)?.is_some() {
            continue;
        }
        let Some(stat) = tree.object(sha256)?.filter(|stat| stat.regular) else { continue };
        tree.sync_storeroom(&path[..2])?;
        ledger.write(|txn| {
            txn.put_object(sha256, &Object { size: stat.size, at: now.at })?;
            let mut event = Event::new(now.at, AuditEvent::Stored).outcome("found at start-up");
            (event.sha256, event.bytes) = (Some(sha256), Some(stat.size));
            txn.log(&event)
        })?;
        report.adopted += 1;
    }
    for entry in ledger.read()?.objects()? {
        let (sha256, object) = entry?;
        if tree.object(sha256)?.is_none_or(|stat| stat.size != object.size) {
            tracing::error!(%sha256, "an object of the ledger is not in the storeroom, or not whole");
            report.missing.push(sha256);
        }
    }
    Ok(())
}

fn examine(
    tree: &Tree,
    id: Id,
    lease: &Lease,
    objects: &mut HashMap<Sha256, Option<Stat>>,
) -> Result<Option<Todo>, TreeError> {
    match lease.state {
        State::Pending => return Ok(Some(Todo::Finish)),
        State::Removing => return Ok(Some(Todo::Remove)),
        State::Active | State::Ending(_) => {}
    }
    let object = match objects.get(&lease.sha256) {
        Some(stat) => *stat,
        None => {
            let stat = tree.object(lease.sha256)?;
            objects.insert(lease.sha256, stat);
            stat
        }
    };
    let link = tree.look(&Place::of(id, lease))?;
    Ok(match (link, object) {
        (Some(link), Some(object)) if (link.inode, link.device) == (object.inode, object.device) => None,
        (Some(link), None) if link.regular => None, // the customer still has it; the object was reported
        (Some(_), _) => Some(Todo::Relink { foreign: true }),
        (None, _) => Some(Todo::Relink { foreign: false }),
    })
}

fn repair(
    ledger: &Ledger,
    tree: &Tree,
    now: Now,
    todo: Vec<(Id, Lease, Todo)>,
    report: &mut Report,
) -> Result<(), EngineError> {
    let mut batch = Batch::default();
    let mut outcome = Vec::new();
    for (id, lease, what) in todo {
        if batch.is_large() {
            tree.sync(&mut batch)?;
        }
        let place = Place::of(id, &lease);
        if matches!(what, Todo::Remove | Todo::Relink { foreign: true }) {
            tree.unlink(&place, &mut batch)?;
        }
        let linked = match what {
            Todo::Remove => Ok(()),
            Todo::Finish | Todo::Relink { .. } => tree.link(&place, lease.sha256, true, &mut batch),
        };
        match linked {
            Err(error @ (TreeError::Io { .. } | TreeError::ReadOnly)) => return Err(error.into()),
            linked => outcome.push((id, lease, what, linked.err())),
        }
    }
    tree.sync(&mut batch)?;
    hit(Point::BeforeAnswer);
    ledger.write(|txn| {
        for (id, lease, what, failed) in &outcome {
            match (what, failed) {
                (Todo::Finish, None) => {
                    txn.put_lease(*id, &Lease { state: State::Active, ..lease.clone() })?;
                    report.finished += 1;
                }
                (Todo::Finish, Some(error)) => {
                    let event = Event::new(now.at, AuditEvent::LeaseEnded).about(*id, lease);
                    txn.log(&event.outcome(format!("not staged: {error}")))?;
                    txn.remove_lease(*id)?;
                    report.given_up += 1;
                }
                (Todo::Remove, _) => {
                    txn.remove_lease(*id)?;
                    report.removed += 1;
                }
                (Todo::Relink { .. }, None) => {
                    tracing::warn!(lease = %id, "a link that a lease has was not there; it was made again");
                    report.relinked += 1;
                }
                (Todo::Relink { .. }, Some(error)) => {
                    tracing::error!(lease = %id, %error, "a link that a lease has is not there and cannot be made");
                    report.broken += 1;
                }
            }
        }
        Ok::<_, LedgerError>(())
    })?;
    Ok(())
}

fn strays(ledger: &Ledger, tree: &Tree, report: &mut Report) -> Result<(), EngineError> {
    let read = ledger.read()?;
    let mut strays = Vec::new();
    let mut failed = None;
    tree.walk(&mut |dir, name| {
        match explained(&read, dir, name) {
            Ok(true) => {}
            Ok(false) => strays.push((dir.to_owned(), name.to_owned())),
            Err(error) => failed = Some(error),
        }
        Ok(())
    })?;
    if let Some(error) = failed {
        return Err(error.into());
    }
    let mut batch = Batch::default();
    for (dir, name) in strays {
        tracing::warn!(dir, name, "a name that no lease explains is removed");
        if let Err(error) = tree.remove_stray(&dir, &name, &mut batch) {
            tracing::error!("it could not be removed: {}", daemon::report(&error));
            continue;
        }
        report.strays += 1;
        if batch.is_large() {
            tree.sync(&mut batch)?;
        }
    }
    Ok(tree.sync(&mut batch)?)
}

fn explained(read: &crate::ledger::Reader, dir: &str, name: &str) -> Result<bool, LedgerError> {
    let parts: Vec<&str> = dir.split('/').collect();
    match parts[..] {
        ["accounts", customer, product, version] => {
            Ok(read.lease_at(&format!("{customer}/{product}/{version}/{name}"))?.is_some())
        }
        ["tickets", lease] => {
            let Ok(id) = lease.parse() else { return Ok(false) };
            Ok(read.lease(id)?.is_some_and(|lease| lease.file.as_str() == name))
        }
        _ => Ok(false),
    }
}

#[cfg(test)]
mod tests;
