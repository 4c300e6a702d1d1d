//! What each request changes in the ledger, and the steps in the tree that follow from it. No I/O but the transaction, and a look at
//! the storeroom where a damaged object may have been replaced, or one that came in may be gone again.

use super::transfers::{End, serves_resumes};
use super::{Engine, Plan, Refusal, Step, Work, lock, objects};
use crate::clock::Now;
use crate::grants::Grant;
use crate::ledger::{LedgerError, Number, Txn};
use crate::ranges::Ranges;
use crate::rows::{DoneOrder, Event, Lease, PendingGrant, State, Upload, UsedGrant, user_of};
use crate::tree::Place;
use std::time::UNIX_EPOCH;
use tobj::{AuditEvent, Fault, Id, LeaseKind, ObjectState, Reply, Secret, Sha256, Timestamp};

impl Plan {
    pub(super) fn done() -> Self {
        Self::answer(Reply::Done {})
    }

    pub(super) fn answer(reply: Reply) -> Self {
        Self { answer: Ok(reply), steps: Vec::new(), follow: Vec::new() }
    }

    pub(super) fn refused(fault: Fault, why: impl Into<String>) -> Self {
        Self { answer: Err(Refusal::new(fault, why)), steps: Vec::new(), follow: Vec::new() }
    }
}

impl Engine {
    /// `full`: there is no space for what grows the ledger.
    pub(super) fn plan(&self, txn: &mut Txn<'_>, work: Work, full: bool, now: Now) -> Result<Plan, LedgerError> {
        let grace = self.rules.grace;
        match work {
            Work::Stage { .. } | Work::Begin(_) if full => Ok(Plan::refused(Fault::Unavailable, FULL)),
            Work::Once { request, order } => self.once(txn, request, *order, full, now),
            Work::Stage { request, grant } => stage(txn, request, &grant, now),
            Work::Store { sha256, size, fresh, by } => match self.tree.object(sha256) {
                // Only the writer takes a file out of the storeroom: one that is there stays until the steps of this batch.
                Ok(there) => objects::store(txn, sha256, size, fresh, there.is_some(), &by, now),
                Err(error) => Ok(Plan::refused(super::fault_of(&error), error.to_string())),
            },
            Work::Upload { sha256, upload } => {
                match upload {
                    Some(upload) => txn.put_upload(sha256, &Upload { at: now.at, ..upload })?,
                    None => txn.remove_upload(sha256)?,
                }
                Ok(Plan::done())
            }
            Work::Retire { sha256, force, by } => objects::retire(txn, sha256, force, &by, now),
            Work::Clear { sha256 } => objects::clear(txn, sha256, now),
            Work::Verify { sha256, by } => objects::verify(txn, sha256, &by, now),
            Work::Verified { sha256, pass } => objects::verified(txn, sha256, pass, now),
            // It was put in again after it was looked at.
            Work::Quarantine { sha256, inode, .. } if self.has_another(sha256, inode) => Ok(Plan::done()),
            Work::Quarantine { sha256, inode, why } => objects::quarantine(txn, sha256, inode, &why, now),
            Work::Heal { sha256, after } => {
                let plan = objects::heal(txn, sha256, after)?;
                if plan.follow.is_empty() {
                    lock(&self.stalled).over(sha256);
                }
                Ok(plan)
            }
            Work::Healed { sha256 } => {
                lock(&self.stalled).over(sha256);
                objects::healed(txn, sha256)
            }
            Work::Revoke { lease, by } => super::leases::revoke(txn, lease, &by, now),
            Work::Withdraw { items, upto } => super::leases::withdraw(txn, &items, upto, now),
            Work::Sweep => {
                if !full {
                    tell_folded(txn, now)?;
                }
                // A copy: who begins an upload does not wait for what the sweep reads.
                let receiving = lock(&self.receiving).clone();
                let mut plan = super::leases::sweep(txn, self.rules, &receiving, now)?;
                plan.follow.extend(lock(&self.stalled).try_again());
                Ok(plan)
            }
            Work::Begin(begin) => super::transfers::begin(txn, begin, grace, now),
            Work::End { transfer, bytes, milliseconds, tls, outcome } => {
                let end = End { bytes, milliseconds, tls, outcome };
                super::transfers::end(txn, transfer, &end, grace, now)?;
                Ok(Plan::done())
            }
            Work::Progress { transfer, bytes, milliseconds } => {
                txn.note_transfer(transfer, bytes, milliseconds)?;
                Ok(Plan::done())
            }
            Work::Note(event) => {
                txn.log(&event)?;
                Ok(Plan::done())
            }
            Work::Refused { event, fold } => {
                if fold || full {
                    let number = folded(event.event);
                    txn.set_number(number, txn.number(number)? + 1)?;
                } else {
                    txn.log(&event)?;
                }
                Ok(Plan::done())
            }
            Work::NumberAfter { last } => number_after(txn, last, now),
            Work::Acknowledge { upto } => {
                let last = txn.number(Number::Audit)?;
                if upto > last {
                    let why = format!("record {upto} was acknowledged, but the last one is {last}");
                    return Ok(Plan::refused(Fault::Invalid, why));
                }
                txn.acknowledge(upto)?;
                Ok(Plan::done())
            }
        }
    }
}

impl Engine {
    /// Does an order and remembers it, or gives one that was done its answer again.
    fn once(&self, txn: &mut Txn<'_>, request: Id, work: Work, full: bool, now: Now) -> Result<Plan, LedgerError> {
        let Some(order) = work.order() else { return self.plan(txn, work, full, now) };
        match txn.order(request)? {
            None => {}
            Some(done) if done.order == order => return Ok(Plan::done()),
            Some(_) => return Ok(Plan::refused(Fault::Invalid, "another request has had this ID")),
        }
        let plan = self.plan(txn, work, full, now)?;
        if plan.answer.is_ok() {
            txn.put_order(&DoneOrder { request, order })?;
        }
        Ok(plan)
    }

    /// Whether the storeroom has a file of the object, and not this one.
    fn has_another(&self, sha256: Sha256, inode: Option<u64>) -> bool {
        let there = self.tree.object(sha256).ok().flatten();
        there.is_some_and(|there| Some(there.inode) != inode)
    }
}

/// Why nothing new is begun.
const FULL: &str = "the file system is full but for what is kept for the ledger; retire objects or make it larger";

/// Whether it matters to a request if there is space.
pub(super) fn minds_space(work: &Work) -> bool {
    matches!(work, Work::Stage { .. } | Work::Begin(_) | Work::Refused { .. } | Work::Sweep)
}

/// Where refusals of a kind are counted.
fn folded(event: AuditEvent) -> Number {
    if event == AuditEvent::StageRefused { Number::FoldedStagings } else { Number::FoldedLogins }
}

/// Records how many refusals were counted only.
fn tell_folded(txn: &mut Txn<'_>, now: Now) -> Result<(), LedgerError> {
    for event in [AuditEvent::LoginRefused, AuditEvent::StageRefused] {
        let number = folded(event);
        let count = txn.number(number)?;
        if count > 0 {
            let outcome = format!("{count} that were not recorded one by one: too many at once, or no space for them");
            txn.log(&Event::new(now.at, event).outcome(outcome))?;
            txn.set_number(number, 0)?;
        }
    }
    Ok(())
}

/// Gives a new ledger its place in the appliance's one sequence of records.
fn number_after(txn: &mut Txn<'_>, last: u64, now: Now) -> Result<Plan, LedgerError> {
    if txn.number(Number::Unsent)? == 0 {
        return Ok(Plan::refused(Fault::Invalid, "records of this ledger were sent under their numbers"));
    }
    if last > u64::MAX / 2 {
        return Ok(Plan::refused(Fault::Invalid, "there would be no numbers left"));
    }
    txn.number_after(last)?;
    if last > 0 {
        let outcome = format!("the ledger is new; what follows record {last} is its own");
        tracing::warn!(
            last,
            "the ledger is new: its audit records follow those that the database has of this appliance"
        );
        txn.log(&Event::new(now.at, AuditEvent::Admin).outcome(outcome))?;
    }
    Ok(Plan::done())
}

/// A grant's request: a new lease, a renewed one, or the answer that it got before.
fn stage(txn: &mut Txn<'_>, request: Id, grant: &Grant, now: Now) -> Result<Plan, LedgerError> {
    if let Some(used) = txn.grant(grant.use_by, grant.id)? {
        return repeated(txn, request, grant, &used, now);
    }
    let withdrawn = txn.withdrawn(grant.customer.as_str())?;
    if withdrawn.iter().any(|row| row.at >= grant.issued && row.covers(&grant.product, &grant.version)) {
        return refuse(txn, grant, now, Fault::Denied, "the right was withdrawn after the grant was issued");
    }
    match txn.object(grant.sha256)? {
        None => return refuse(txn, grant, now, Fault::NotFound, "the object is not in this storeroom"),
        Some(object) if object.size != grant.size => {
            return refuse(txn, grant, now, Fault::Invalid, "the object has another size than the grant says");
        }
        Some(object) => match object.state {
            ObjectState::Good => {}
            ObjectState::Retiring => {
                return refuse(txn, grant, now, Fault::NotFound, "the object is on its way out of this storeroom");
            }
            ObjectState::Damaged | ObjectState::Healing => {
                return refuse(txn, grant, now, Fault::Unavailable, objects::DAMAGED);
            }
        },
    }
    let (id, mut lease) = match standing(txn, grant)? {
        Some((_, old)) if old.sha256 != grant.sha256 => {
            return refuse(txn, grant, now, Fault::Invalid, "another object is staged at this path");
        }
        Some((id, old)) => {
            // Its end is under way. What is granted after that is neither ended with it, nor lasts as long as it.
            let over = withdrawn.iter().any(|row| row.ends(old.begun) && row.covers(&old.product, &old.version));
            if over && matches!(old.state, State::Pending | State::Active) {
                txn.log(&Event::new(now.at, AuditEvent::LeaseEnded).about(id, &old).outcome(super::leases::WITHDRAWN))?;
            }
            (id, if over { anew(old, grant) } else { renewed(old, grant) })
        }
        None => match fresh(grant) {
            Ok(new) => new,
            Err(_) => return refuse(txn, grant, now, Fault::Unavailable, "the system has no randomness to give"),
        },
    };
    txn.put_grant(grant.use_by, grant.id, &UsedGrant { request, lease: id, expires: lease.expires })?;
    let until = jiff::Timestamp::from_second(i64::try_from(lease.expires).unwrap_or(i64::MAX));
    let until = until.map_or_else(|_| lease.expires.to_string(), |t| t.to_string());
    let outcome = format!("{} until {until}", lease.kind.as_str().to_lowercase());
    let record = txn.log(&Event::new(now.at, AuditEvent::Staged).about(id, &lease).outcome(outcome))?;
    if lease.begun == 0 {
        lease.begun = record;
    }
    txn.put_lease(id, &lease)?;
    Ok(staged(id, &lease, lease.expires))
}

fn standing(txn: &Txn<'_>, grant: &Grant) -> Result<Option<(Id, Lease)>, LedgerError> {
    match grant.kind {
        LeaseKind::OneTime => Ok(None),
        LeaseKind::Standing => {
            txn.lease_at(&format!("{}/{}/{}/{}", grant.customer, grant.product, grant.version, grant.file))
        }
    }
}

fn renewed(old: Lease, grant: &Grant) -> Lease {
    // What was revoked begins anew; what has run out goes on. Of two grants the longer one holds, in whatever order they came.
    // A link that is there stays as it is: were it made again, a failure of that would have to be told from one of a new lease,
    // also after a crash, so as not to take away what the customer had.
    let longer = old.expires.max(grant.lease_expires);
    let this = PendingGrant::of(grant);
    match old.state {
        State::Removing => anew(old, grant),
        State::Pending => Lease { expires: longer, grants: old.grants.iter().copied().chain([this]).collect(), ..old },
        State::Active | State::Ending(_) => Lease { state: State::Active, expires: longer, ..old },
    }
}

/// The same path with another lease's right: only a link that is there stays.
fn anew(old: Lease, grant: &Grant) -> Lease {
    let (state, grants) = match old.state {
        State::Active | State::Ending(_) => (State::Active, Vec::new()),
        State::Pending | State::Removing => {
            (State::Pending, old.grants.iter().copied().chain([PendingGrant::of(grant)]).collect())
        }
    };
    Lease { state, expires: grant.lease_expires, covered: Ranges::default(), grants, begun: 0, ..old }
}

fn fresh(grant: &Grant) -> Result<(Id, Lease), getrandom::Error> {
    // The time first, so that leases are kept in the order they were made; 80 random bits make it unique.
    let millis = UNIX_EPOCH.elapsed().map_or(0, |d| d.as_millis());
    let mut id = [0u8; 16];
    getrandom::fill(&mut id)?;
    id[..6].copy_from_slice(&millis.to_be_bytes()[10..]);
    let secret = match grant.kind {
        LeaseKind::Standing => None,
        LeaseKind::OneTime => Some(Secret::random()?),
    };
    let lease = Lease {
        kind: grant.kind,
        state: State::Pending,
        customer: grant.customer.clone(),
        product: grant.product.clone(),
        version: grant.version.clone(),
        file: grant.file.clone(),
        size: grant.size,
        sha256: grant.sha256,
        expires: grant.lease_expires,
        covered: Ranges::default(),
        secret,
        grants: vec![PendingGrant::of(grant)],
        begun: 0,
    };
    Ok((id.into(), lease))
}

/// A grant that was used before: its own request gets the first answer, as long as that holds; nobody else gets any.
fn repeated(txn: &mut Txn<'_>, request: Id, grant: &Grant, used: &UsedGrant, now: Now) -> Result<Plan, LedgerError> {
    if used.request != request {
        return refuse(txn, grant, now, Fault::Denied, "the grant was used by another request");
    }
    match txn.lease(used.lease)? {
        Some(lease) if matches!(lease.state, State::Pending | State::Active) || serves_resumes(&lease, now) => {
            Ok(staged(used.lease, &lease, used.expires))
        }
        _ => Ok(Plan::refused(Fault::Expired, "the lease of this grant is over")),
    }
}

/// The answer, and the link where there is none yet.
fn staged(id: Id, lease: &Lease, expires: u64) -> Plan {
    let user = lease.secret.as_ref().and_then(|_| user_of(id).parse().ok());
    let reply = Reply::Staged {
        lease: id,
        path: lease.visible_path(),
        size: lease.size,
        sha256: lease.sha256,
        expires: Timestamp(expires),
        user,
        secret: lease.secret.clone(),
    };
    let mut plan = Plan::answer(reply);
    if lease.state == State::Pending {
        plan.steps.push(Step::Link { lease: id, place: Place::of(id, lease), sha256: lease.sha256 });
    }
    plan
}

fn refuse(txn: &mut Txn<'_>, grant: &Grant, now: Now, fault: Fault, why: &str) -> Result<Plan, LedgerError> {
    let mut event = Event::new(now.at, AuditEvent::StageRefused).outcome(why);
    event.customer = Some(grant.customer.to_string());
    event.sha256 = Some(grant.sha256);
    txn.log(&event)?;
    Ok(Plan::refused(fault, why))
}
