//! What start-up does before anything is served: ledger and tree are made to say the same.
//!
//! | found | done |
//! |---|---|
//! | a file in incoming | removed: nobody has an answer for it; a part of an upload stays, cut to what is durable |
//! | an object that the ledger does not know | taken in: it has its name only after its bytes are durable |
//! | an object of the ledger without file | reported; `status` is unhealthy until it is put in again or retired |
//! | a damaged object in the storeroom | put into quarantine |
//! | something in quarantine whose object is good and whole, or unknown | removed: it was mended or has gone, and then came a kill |
//! | an object that heals | the links of its leases are made anew, it is good |
//! | an object that retires | its leases end, its file goes, its row is dropped |
//! | a pending lease | its link is made, it becomes active; where that cannot be and none is there, the lease ends and its grant is as unused |
//! | a lease that goes | its link is removed, its row dropped |
//! | a lease whose link is gone or is another file | the link is made again |
//! | a name in an account that no lease explains | removed |
//! | a transfer that has not ended | closed as `interrupted`, with the last count that was durable |
//!
//! There may be millions of leases, and little memory for what the disk holds: every lease and every directory is read once, and only
//! what does not agree is looked at again.

use crate::clock::Now;
use crate::engine::{End, EngineError, Grace, give_back, remove_lease, transfers_end};
use crate::killpoint::{Point, hit};
use crate::ledger::{Ledger, LedgerError, Number};
use crate::rows::{Event, Lease, Object, State};
use crate::starting::Advance;
use crate::tree::{Batch, Place, Tree, TreeError};
use links::Links;
use std::collections::{HashMap, HashSet};
use std::sync::mpsc::channel;
use std::time::Instant;
use tobj::{AuditEvent, Id, ObjectState, Sha256};

mod amiss;
mod links;
mod report;
pub use amiss::Amiss;
pub use report::Report;

/// Most leases that are looked at, and whose outcome goes into a commit, together.
const CHUNK: usize = 1000;

enum Todo {
    Finish,
    Remove,
    Relink { foreign: bool },
}

/// Makes ledger and tree agree; `advance` hears of each name, lease and object that was looked at.
///
/// # Errors
/// [`EngineError`] when either cannot be read or changed.
pub fn reconcile(
    ledger: &Ledger,
    tree: &Tree,
    grace: Grace,
    now: Now,
    advance: Advance<'_>,
) -> Result<Report, EngineError> {
    let begun = Instant::now();
    let mut report = Report::default();
    incoming(ledger, tree, &mut report)?;
    advance();
    let unfinished = storeroom(ledger, tree, now, advance, &mut report)?;
    for (sha256, _) in unfinished.iter().filter(|(_, state)| *state == ObjectState::Retiring) {
        end_leases(ledger, *sha256, now, advance)?;
    }
    let links = Links::of(ledger, tree, advance)?;
    report.leases = links.len();
    // Before what is to be repaired: a stray name may stand where one of its directories belongs.
    strays(tree, &links, advance, &mut report)?;
    for ids in links.rest().chunks(CHUNK) {
        repair(ledger, tree, now, ids, advance, &mut report)?;
    }
    finish_objects(ledger, tree, &unfinished, &mut report)?;
    quarantined(ledger, tree, &mut report)?;
    advance();
    report.interrupted = ledger.write(|txn| {
        let open = txn.open_transfers()?;
        // What the ledger knows of it is the best that is known.
        let cut = End { outcome: INTERRUPTED, ..End::default() };
        for number in &open {
            transfers_end(txn, *number, &cut, grace, now)?;
        }
        Ok(open.len())
    })?;
    report.milliseconds = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
    Ok(report)
}

/// What came in in part stays as far as the ledger knows it to be durable; everything else goes.
fn incoming(ledger: &Ledger, tree: &Tree, report: &mut Report) -> Result<(), EngineError> {
    let mut known: HashMap<_, _> = ledger.read()?.uploads()?.into_iter().collect();
    for name in tree.list_incoming()? {
        if let Ok(sha256) = name.parse::<Sha256>()
            && let Some(upload) = known.get(&sha256)
            && upload.durable > 0
            && tree.upload_len(sha256)?.is_some_and(|len| len >= upload.durable)
        {
            tree.upload(sha256, upload.durable)?;
            known.remove(&sha256);
            report.uploads += 1;
            continue;
        }
        tree.drop_incoming(&name)?;
        report.incoming += 1;
    }
    if !known.is_empty() {
        ledger.write(|txn| known.keys().try_for_each(|sha256| txn.remove_upload(*sha256)))?;
    }
    Ok(())
}

/// Ends all leases of an object that goes.
fn end_leases(ledger: &Ledger, sha256: Sha256, now: Now, advance: Advance<'_>) -> Result<(), EngineError> {
    let mut after = None;
    loop {
        let ids = ledger.write(|txn| {
            let ids = txn.holders(sha256, after, CHUNK)?;
            for id in &ids {
                if let Some(lease) = txn.lease(*id)? {
                    // Its link is removed with those of all leases that go.
                    remove_lease(txn, *id, lease, "the object was retired", now, &mut Vec::new())?;
                }
            }
            Ok::<_, LedgerError>(ids)
        })?;
        advance();
        match ids.last() {
            Some(last) if ids.len() == CHUNK => after = Some(*last),
            _ => return Ok(()),
        }
    }
}

/// Leaves the states that objects were in between.
fn finish_objects(
    ledger: &Ledger,
    tree: &Tree,
    unfinished: &[(Sha256, ObjectState)],
    report: &mut Report,
) -> Result<(), EngineError> {
    let mut batch = Batch::default();
    for (sha256, state) in unfinished {
        match state {
            ObjectState::Retiring => tree.discard(*sha256, &mut batch)?,
            ObjectState::Healing => tree.drop_quarantined(*sha256)?,
            ObjectState::Good | ObjectState::Damaged => {}
        }
    }
    tree.sync(&mut batch)?;
    if unfinished.is_empty() {
        return Ok(());
    }
    ledger.write(|txn| {
        for (sha256, state) in unfinished {
            match (state, txn.object(*sha256)?) {
                (ObjectState::Retiring, _) => {
                    txn.remove_object(*sha256)?;
                    report.retired += 1;
                }
                (ObjectState::Healing, Some(object)) => {
                    txn.put_object(*sha256, &Object { state: ObjectState::Good, ..object })?;
                    report.healed += 1;
                }
                _ => {}
            }
        }
        Ok::<_, LedgerError>(())
    })?;
    Ok(())
}

/// Drops from quarantine what has been replaced since.
fn quarantined(ledger: &Ledger, tree: &Tree, report: &mut Report) -> Result<(), EngineError> {
    let read = ledger.read()?;
    for sha256 in tree.list_quarantine()? {
        let over = match read.object(sha256)? {
            None => true,
            // Without its file, this is all that there is of it.
            Some(object) => {
                object.state == ObjectState::Good && tree.object(sha256)?.is_some_and(|stat| stat.size == object.size)
            }
        };
        if over {
            tree.drop_quarantined(sha256)?;
            report.replaced += 1;
        }
    }
    Ok(())
}

/// The outcome of a transfer that was cut; its count is a lower bound.
pub(crate) const INTERRUPTED: &str = "interrupted";

/// Gives the objects that are between two states.
fn storeroom(
    ledger: &Ledger,
    tree: &Tree,
    now: Now,
    advance: Advance<'_>,
    report: &mut Report,
) -> Result<Vec<(Sha256, ObjectState)>, EngineError> {
    let read = ledger.read()?;
    for (path, sha256) in tree.list_storeroom()? {
        advance();
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
            let pass = txn.number(Number::Pass)?;
            txn.put_object(sha256, &Object::new(stat.size, now.at, pass))?;
            let mut event = Event::new(now.at, AuditEvent::Stored).outcome("found at start-up");
            (event.sha256, event.bytes) = (Some(sha256), Some(stat.size));
            txn.log(&event)
        })?;
        report.adopted += 1;
    }
    let (mut unfinished, mut batch) = (Vec::new(), Batch::default());
    for entry in ledger.read()?.objects(None)? {
        advance();
        let (sha256, object) = entry?;
        let file = tree.object(sha256)?;
        match object.state {
            ObjectState::Good if file.is_none_or(|stat| stat.size != object.size) => {
                tracing::error!(%sha256, "an object of the ledger is not in the storeroom, or not whole; put it in again");
                report.missing.push(sha256);
            }
            ObjectState::Good => {}
            // It cannot be told from one that came in without an answer; neither is to be served.
            ObjectState::Damaged if file.is_some() => {
                tree.quarantine(sha256, file.map(|stat| stat.inode), &mut batch)?;
                report.quarantined += 1;
            }
            ObjectState::Damaged => {}
            ObjectState::Healing | ObjectState::Retiring => unfinished.push((sha256, object.state)),
        }
    }
    tree.sync(&mut batch)?;
    Ok(unfinished)
}

/// What there is to do for a lease.
fn examine(tree: &Tree, place: &Place, lease: &Lease) -> Result<Option<Todo>, TreeError> {
    match lease.state {
        State::Pending => return Ok(Some(Todo::Finish)),
        State::Removing => return Ok(Some(Todo::Remove)),
        State::Active | State::Ending(_) => {}
    }
    Ok(match (tree.look(place)?, tree.object(lease.sha256)?) {
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
    ids: &[Id],
    advance: Advance<'_>,
    report: &mut Report,
) -> Result<(), EngineError> {
    let mut batch = Batch::default();
    let mut outcome = Vec::new();
    let read = ledger.read()?;
    for &id in ids {
        advance();
        let Some(lease) = read.lease(id)? else { continue };
        let place = Place::of(id, &lease);
        let Some(what) = examine(tree, &place, &lease)? else { continue };
        if batch.is_large() {
            tree.sync(&mut batch)?;
        }
        if matches!(what, Todo::Remove | Todo::Relink { foreign: true }) {
            tree.unlink(&place, &mut batch)?;
        }
        let linked = match what {
            Todo::Remove => Ok(()),
            Todo::Finish | Todo::Relink { .. } => tree.link(&place, lease.sha256, true, &mut batch),
        };
        let linked = match linked {
            // It may have been acknowledged: what the customer has may be the last of an object that was lost since then.
            Err(TreeError::NoObject)
                if matches!(what, Todo::Finish) && tree.look(&place)?.is_some_and(|link| link.regular) =>
            {
                Ok(())
            }
            linked => linked,
        };
        match linked {
            Err(error @ (TreeError::Io { .. } | TreeError::ReadOnly)) => return Err(error.into()),
            linked => outcome.push((id, lease, what, linked.err())),
        }
    }
    tree.sync(&mut batch)?;
    hit(Point::BeforeAnswer);
    let missing: HashSet<_> = report.missing.iter().copied().collect();
    ledger.write(|txn| {
        for (id, lease, what, failed) in &outcome {
            match (what, failed) {
                (Todo::Finish, None) => {
                    txn.put_lease(*id, &lease.clone().linked())?;
                    report.finished += 1;
                }
                (Todo::Finish, Some(error)) => {
                    let event = Event::new(now.at, AuditEvent::LeaseEnded).about(*id, lease);
                    txn.log(&event.outcome(format!("not staged: {error}")))?;
                    give_back(txn, lease)?;
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
                    if !missing.contains(&lease.sha256) {
                        report.unlinked.push(*id);
                    }
                }
            }
        }
        Ok::<_, LedgerError>(())
    })?;
    Ok(())
}

fn strays(tree: &Tree, links: &Links, advance: Advance<'_>, report: &mut Report) -> Result<(), EngineError> {
    let (sender, strays) = channel();
    tree.walk(&|dir, name, inode| {
        advance();
        if !links.meet(&format!("{dir}/{name}"), inode) {
            let _ = sender.send((dir.to_owned(), name.to_owned()));
        }
    })?;
    drop(sender);
    let mut batch = Batch::default();
    for (dir, name) in strays {
        advance();
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

#[cfg(test)]
mod tests;
