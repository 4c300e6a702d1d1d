//! How objects come into use, are found to be damaged, are mended, and leave.
//!
//! | state | its file | what is served |
//! |---|---|---|
//! | good | in the storeroom, every link is to it | everything |
//! | damaged | in quarantine, as are the links | nothing: stagings and transfers are refused |
//! | healing | put in again; links are made to it one after the other | nothing yet |
//! | retiring | goes once the links have gone | nothing |
//!
//! A state is committed before the tree follows it, and left after it has: the start-up repairs what is between. An object goes on healing
//! while a link is refused (no space, too many links): what would be served there is the damaged file.

use super::leases::{SWEEP, remove};
use super::{Plan, Step, Work};
use crate::clock::Now;
use crate::ledger::{LedgerError, Number, Txn};
use crate::rows::{Event, Object, State};
use crate::tree::{Place, TreeError};
use std::collections::BTreeMap;
use tobj::{AuditEvent, Fault, Id, ObjectState, Reply, Sha256};

type Result<T> = std::result::Result<T, LedgerError>;

/// Why an object is not served.
pub(super) const DAMAGED: &str = "the object is damaged; put it in again";
/// Why one that came in is not taken.
const GONE: &str = "the object went out of the storeroom meanwhile; put it in once more";

/// `there`: whether the storeroom has the file now.
pub(super) fn store(
    txn: &mut Txn<'_>,
    sha256: Sha256,
    size: u64,
    fresh: bool,
    there: bool,
    by: &str,
    now: Now,
) -> Result<Plan> {
    txn.remove_upload(sha256)?;
    let pass = txn.number(Number::Pass)?;
    let old = txn.object(sha256)?;
    let mut plan = Plan::answer(Reply::Stored { sha256, size, known: old.is_some() });
    let state = match (old, fresh) {
        (Some(Object { state: ObjectState::Retiring, .. }), _) => {
            let mut plan =
                Plan::refused(Fault::Busy, "the object is on its way out of the storeroom; put it in after that");
            plan.follow.push(Work::Clear { sha256 });
            return Ok(plan);
        }
        (Some(Object { state: ObjectState::Damaged, .. }), false) => {
            return Ok(Plan::refused(Fault::Busy, "the object has just been found to be damaged; put it in once more"));
        }
        // The object may have been retired since its file, or the one that was there when it came in, was seen in the storeroom.
        (None, false) => return Ok(Plan::refused(Fault::Busy, GONE)),
        _ if !there => return Ok(Plan::refused(Fault::Busy, GONE)),
        (None, true) => ObjectState::Good,
        // It was gone, or is mended: what links there are may be to another file.
        (Some(_), true) => {
            plan.follow.push(Work::Heal { sha256, after: None });
            ObjectState::Healing
        }
        (Some(_), false) => return Ok(plan),
    };
    txn.put_object(sha256, &Object { state, ..Object::new(size, now.at, pass) })?;
    let mut event = Event::new(now.at, AuditEvent::Stored).outcome(format!("by {by}"));
    (event.sha256, event.bytes) = (Some(sha256), Some(size));
    txn.log(&event)?;
    Ok(plan)
}

/// Objects that are healing and do not get on.
#[derive(Debug, Default)]
pub(super) struct Stalled(BTreeMap<Sha256, Stall>);

#[derive(Debug)]
struct Stall {
    /// Behind which lease to go on.
    after: Option<Id>,
    why: String,
    /// Whether somebody is at it.
    tried: bool,
}

impl Stalled {
    /// A link was refused.
    pub(super) fn add(&mut self, sha256: Sha256, after: Option<Id>, error: &TreeError) {
        let what_to_do = super::remedy(error).unwrap_or("put it in again");
        let why = format!("{error}; {what_to_do}");
        self.0.insert(sha256, Stall { after, why, tried: false });
    }

    /// What is to be done so that they get on.
    pub(super) fn try_again(&mut self) -> Vec<Work> {
        let waiting = self.0.iter_mut().filter(|(_, stall)| !stall.tried);
        waiting
            .map(|(sha256, stall)| {
                stall.tried = true;
                Work::Heal { sha256: *sha256, after: stall.after }
            })
            .collect()
    }

    /// Somebody is at it by himself.
    pub(super) fn tried(&mut self, sha256: Sha256) {
        if let Some(stall) = self.0.get_mut(&sha256) {
            stall.tried = true;
        }
    }

    /// It is no longer healing.
    pub(super) fn over(&mut self, sha256: Sha256) {
        self.0.remove(&sha256);
    }

    /// What is wrong, if anything.
    pub(super) fn why(&self) -> Option<String> {
        let (count, first) = (self.0.len(), self.0.values().next()?);
        Some(format!("{count} were put in again and wait for the links of their leases: {}", first.why))
    }
}

/// Gives the next leases of an object their links anew.
pub(super) fn heal(txn: &mut Txn<'_>, sha256: Sha256, after: Option<Id>) -> Result<Plan> {
    let mut plan = Plan::done();
    if txn.object(sha256)?.is_none_or(|object| object.state != ObjectState::Healing) {
        return Ok(plan);
    }
    let ids = txn.holders(sha256, after, SWEEP)?;
    for id in &ids {
        if let Some(lease) = txn.lease(*id)?.filter(|lease| lease.state != State::Removing) {
            plan.steps.push(Step::Relink { place: Place::of(*id, &lease), sha256, after });
        }
    }
    plan.follow.push(match ids.last() {
        Some(last) if ids.len() == SWEEP => Work::Heal { sha256, after: Some(*last) },
        _ => Work::Healed { sha256 },
    });
    Ok(plan)
}

/// Every link is to the new file, and that is durable.
pub(super) fn healed(txn: &mut Txn<'_>, sha256: Sha256) -> Result<Plan> {
    let mut plan = Plan::done();
    if let Some(object) = txn.object(sha256)?.filter(|object| object.state == ObjectState::Healing) {
        txn.put_object(sha256, &Object { state: ObjectState::Good, ..object })?;
        plan.steps.push(Step::DropQuarantined { sha256 });
    }
    Ok(plan)
}

pub(super) fn verify(txn: &mut Txn<'_>, sha256: Option<Sha256>, by: &str, now: Now) -> Result<Plan> {
    match sha256 {
        None => {
            let pass = txn.number(Number::Pass)? + 1;
            txn.set_number(Number::Pass, pass)?;
            txn.set_number(Number::PassBegan, now.at)?;
            tracing::info!(by, pass, "all objects are read again and compared with their hashes");
        }
        Some(sha256) => {
            let Some(object) = txn.object(sha256)? else { return Ok(Plan::refused(Fault::NotFound, UNKNOWN)) };
            // The number of no pass: the next look finds it due.
            if txn.number(Number::Pass)? == 0 {
                txn.set_number(Number::Pass, 1)?;
            }
            txn.put_object(sha256, &Object { pass: 0, ..object })?;
        }
    }
    Ok(Plan::done())
}

const UNKNOWN: &str = "there is no such object in this storeroom";

pub(super) fn verified(txn: &mut Txn<'_>, sha256: Sha256, pass: u64, now: Now) -> Result<Plan> {
    if let Some(object) = txn.object(sha256)? {
        txn.put_object(sha256, &Object { verified: now.at, pass, ..object })?;
    }
    Ok(Plan::done())
}

pub(super) fn quarantine(txn: &mut Txn<'_>, sha256: Sha256, inode: Option<u64>, why: &str, now: Now) -> Result<Plan> {
    let mut plan = Plan::done();
    // One that is healing has another file by now, one that goes needs none.
    let Some(object) = txn.object(sha256)?.filter(|object| object.state == ObjectState::Good) else { return Ok(plan) };
    let mut event = Event::new(now.at, AuditEvent::Quarantined).outcome(why);
    (event.sha256, event.bytes) = (Some(sha256), Some(object.size));
    txn.log(&event)?;
    txn.put_object(sha256, &Object { state: ObjectState::Damaged, ..object })?;
    plan.steps.push(Step::Quarantine { sha256, inode });
    Ok(plan)
}

pub(super) fn retire(txn: &mut Txn<'_>, sha256: Sha256, force: bool, by: &str, now: Now) -> Result<Plan> {
    let Some(object) = txn.object(sha256)? else { return Ok(Plan::refused(Fault::NotFound, UNKNOWN)) };
    if object.state == ObjectState::Retiring {
        return clear(txn, sha256, now); // a repeated request
    }
    if !force {
        let held = live(txn, sha256)?;
        if held > 0 {
            let more = if held == SWEEP { " or more" } else { "" };
            return Ok(Plan::refused(Fault::Busy, format!("{held}{more} leases are for this object")));
        }
    }
    txn.put_object(sha256, &Object { state: ObjectState::Retiring, ..object })?;
    let mut event = Event::new(now.at, AuditEvent::Retired).outcome(format!("by {by}"));
    event.sha256 = Some(sha256);
    txn.log(&event)?;
    clear(txn, sha256, now)
}

/// How many leases hold an object, counted up to [`SWEEP`].
fn live(txn: &Txn<'_>, sha256: Sha256) -> Result<usize> {
    let (mut live, mut after) = (0, None);
    while live < SWEEP {
        let ids = txn.holders(sha256, after, SWEEP)?;
        let Some(last) = ids.last() else { break };
        after = Some(*last);
        for id in &ids {
            live += usize::from(txn.lease(*id)?.is_some_and(|lease| lease.state != State::Removing));
        }
    }
    Ok(live.min(SWEEP))
}

/// Ends the next leases of an object that goes; without any, its file goes.
pub(super) fn clear(txn: &mut Txn<'_>, sha256: Sha256, now: Now) -> Result<Plan> {
    let mut plan = Plan::done();
    if txn.object(sha256)?.is_none_or(|object| object.state != ObjectState::Retiring) {
        return Ok(plan);
    }
    let ids = txn.holders(sha256, None, SWEEP)?;
    for id in &ids {
        if let Some(lease) = txn.lease(*id)? {
            remove(txn, *id, lease, "the object was retired", now, &mut plan.steps)?;
        }
    }
    match ids.len() {
        0 => plan.steps.push(Step::Discard { sha256 }),
        // Their rows go with the commit of the next round; then there are others to look at, or none.
        _ => plan.follow.push(Work::Clear { sha256 }),
    }
    Ok(plan)
}

/// The file of an object is gone for good.
pub(super) fn discarded(txn: &mut Txn<'_>, sha256: Sha256) -> Result<()> {
    match txn.object(sha256)? {
        Some(object) if object.state == ObjectState::Retiring => txn.remove_object(sha256),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
