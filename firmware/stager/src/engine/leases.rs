//! How leases end.

use super::{Grace, Mark, Plan, Refusal, Rules, Step, Work};
use crate::clock::{Now, PLAUSIBLE};
use crate::ledger::{LedgerError, Number, Txn};
use crate::rows::{Event, Lease, State, Withdrawn};
use crate::tree::Place;
use std::collections::HashSet;
use tobj::{AuditEvent, Fault, Id, Revocation, Sha256};

/// Most leases and grants that one sweep takes; the next one follows at once.
pub(super) const SWEEP: usize = 256;
/// Why a lease ends whose right was taken away.
pub(super) const WITHDRAWN: &str = "withdrawn by the database";
/// How long a withdrawal is kept in mind, in seconds: as long as a grant from before could still be used.
pub(super) const MIND: u64 = crate::grants::MAX_LIFE + 2 * PLAUSIBLE;

/// Notes what the tree has come to. A lease that was changed again since then is left as it is.
pub(super) fn settle(
    txn: &mut Txn<'_>,
    id: Id,
    mark: &Mark,
    now: Now,
    steps: &mut Vec<Step>,
) -> Result<(), LedgerError> {
    let Some(lease) = txn.lease(id)? else { return Ok(()) };
    match (mark, lease.state) {
        (Mark::Linked, State::Pending) => txn.put_lease(id, &lease.linked()),
        (Mark::Unlinked, State::Removing) => txn.remove_lease(id).map(drop),
        (Mark::Failed { why }, State::Pending) => {
            give_back(txn, &lease)?;
            remove(txn, id, lease, &format!("not staged: {why}"), now, steps)
        }
        _ => Ok(()),
    }
}

/// Makes the grants of a lease that came to nothing ones that were not used.
pub(crate) fn give_back(txn: &mut Txn<'_>, lease: &Lease) -> Result<(), LedgerError> {
    lease.grants.iter().try_for_each(|grant| txn.remove_grant(grant.use_by, grant.id))
}

/// Takes a lease away now, with what is left of it in the tree.
pub(crate) fn remove(
    txn: &mut Txn<'_>,
    id: Id,
    lease: Lease,
    why: &str,
    now: Now,
    steps: &mut Vec<Step>,
) -> Result<(), LedgerError> {
    // One that is ending was recorded when that began.
    if matches!(lease.state, State::Pending | State::Active) {
        txn.log(&Event::new(now.at, AuditEvent::LeaseEnded).about(id, &lease).outcome(why))?;
    }
    steps.push(Step::Unlink { lease: id, place: Place::of(id, &lease) });
    txn.put_lease(id, &Lease { state: State::Removing, secret: None, grants: Vec::new(), ..lease })
}

/// Ends a lease but for resumes.
pub(super) fn wind_down(
    txn: &mut Txn<'_>,
    id: Id,
    lease: Lease,
    why: &str,
    grace: Grace,
    now: Now,
) -> Result<(), LedgerError> {
    txn.log(&Event::new(now.at, AuditEvent::LeaseEnded).about(id, &lease).outcome(why))?;
    let state = State::Ending(now.at.saturating_add(grace.of(lease.kind)));
    txn.put_lease(id, &Lease { state, grants: Vec::new(), ..lease })
}

pub(super) fn revoke(txn: &mut Txn<'_>, id: Id, by: &str, now: Now) -> Result<Plan, LedgerError> {
    match txn.lease(id)? {
        None | Some(Lease { state: State::Removing, .. }) => {
            Ok(Plan::refused(Fault::NotFound, "there is no such lease"))
        }
        Some(lease) => {
            let mut plan = Plan::done();
            remove(txn, id, lease, &format!("revoked by {by}"), now, &mut plan.steps)?;
            Ok(plan)
        }
    }
}

/// Ends the next leases of withdrawn rights, but for what was granted anew since the first of them ended. The number stands for all of
/// them: it is kept with the last.
pub(super) fn withdraw(txn: &mut Txn<'_>, items: &[Revocation], upto: u64, now: Now) -> Result<Plan, LedgerError> {
    let (mut plan, mut room) = (Plan::done(), SWEEP);
    for item in items {
        let (product, version) = (item.product.clone(), item.version.clone());
        let what = Withdrawn { product, version, at: item.at.0, seq: item.seq, record: txn.last_logged()? };
        let what = txn.withdraw(item.customer.as_str(), what, now.at.saturating_sub(MIND))?;
        let ended = txn.ended_by(item.customer.as_str(), &what, room)?;
        room -= ended.len();
        for (id, lease) in ended {
            remove(txn, id, lease, WITHDRAWN, now, &mut plan.steps)?;
        }
    }
    if room == 0 {
        plan.answer = Err(Refusal::new(Fault::Busy, "more leases end than one commit takes; ask again"));
        return Ok(plan);
    }
    // It may also go back: a database that was restored from a copy counts anew.
    txn.set_number(Number::Revocation, upto)?;
    Ok(plan)
}

/// Looks at the leases that are due, and at uploads that nobody goes on with. Without a trusted time nothing expires and nothing is
/// deleted.
pub(super) fn sweep(
    txn: &mut Txn<'_>,
    rules: Rules,
    receiving: &HashSet<Sha256>,
    now: Now,
) -> Result<Plan, LedgerError> {
    let (mut plan, grace) = (Plan::done(), rules.grace);
    if !now.trusted {
        return Ok(plan);
    }
    let due = txn.due(now.at, SWEEP)?;
    let mut again = due.len() == SWEEP;
    for id in due {
        let Some(lease) = txn.lease(id)? else { continue };
        match lease.state {
            State::Pending => {} // its mark comes first
            State::Active if grace.of(lease.kind) == 0 => remove(txn, id, lease, "expired", now, &mut plan.steps)?,
            State::Active => wind_down(txn, id, lease, "expired", grace, now)?,
            State::Ending(_) | State::Removing => remove(txn, id, lease, "", now, &mut plan.steps)?,
        }
    }
    // A grant that can no longer be used needs no memory; a clock may be behind by as much as is plausible.
    again |= txn.forget_grants(now.at.saturating_sub(2 * PLAUSIBLE), SWEEP)? == SWEEP;
    for sha256 in txn.uploads_before(now.at.saturating_sub(rules.upload_keep))? {
        // Its checkpoints may be further apart than that.
        if receiving.contains(&sha256) {
            continue;
        }
        txn.remove_upload(sha256)?;
        plan.steps.push(Step::DropUpload { sha256 });
    }
    if again {
        plan.follow.push(Work::Sweep);
    }
    Ok(plan)
}
