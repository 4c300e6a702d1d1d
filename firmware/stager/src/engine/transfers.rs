//! Transfers: what they may fetch, and what they leave behind.

use super::{Grace, Plan, leases};
use crate::clock::Now;
use crate::ledger::{LedgerError, Reader, Txn};
use crate::rows::{Event, Lease, State, Transfer};
use tobj::{AuditEvent, Fault, FileName, Id, LeaseKind, Name, ObjectState, Reply, TlsVersion};

/// What a login may fetch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Access {
    /// All that is staged in this customer's account.
    Account(Name),
    /// What this one-time lease is for.
    Ticket(Id),
}

/// A transfer that is to begin.
#[derive(Debug, Clone)]
pub struct Begin {
    /// What the login may fetch.
    pub access: Access,
    /// The path as the customer sees it.
    pub path: String,
    /// The first byte to be sent.
    pub offset: u64,
    /// The TLS under which it is to go.
    pub tls: Option<TlsVersion>,
    /// The client's address.
    pub address: String,
}

pub(super) fn begin(txn: &mut Txn<'_>, begin: Begin, grace: Grace, now: Now) -> Result<Plan, LedgerError> {
    let Some((id, lease)) = find(txn, &begin.access, &begin.path)? else {
        return Ok(Plan::refused(Fault::NotFound, "nothing is staged at this path"));
    };
    if !may_start(&lease, begin.offset, grace, now) {
        return Ok(Plan::refused(Fault::Expired, "the lease is over"));
    }
    if txn.object(lease.sha256)?.is_none_or(|object| object.state != ObjectState::Good) {
        return Ok(Plan::refused(Fault::Unavailable, super::objects::DAMAGED));
    }
    if begin.offset > lease.size {
        return Ok(Plan::refused(Fault::Invalid, "the transfer would begin beyond the end of the file"));
    }
    let transfer = Transfer {
        lease: id,
        customer: lease.customer,
        address: begin.address,
        sha256: lease.sha256,
        size: lease.size,
        offset: begin.offset,
        at: now.at,
        tls: begin.tls,
        bytes: 0,
        milliseconds: 0,
    };
    Ok(Plan::answer(Reply::Transfer { transfer: txn.begin_transfer(&transfer)? }))
}

/// Whether a lease lets a transfer start now. One that is over but for its grace time serves only those who have a part of it.
pub(crate) fn may_start(lease: &Lease, offset: u64, grace: Grace, now: Now) -> bool {
    let resumes = offset > 0 && !lease.covered.is_empty();
    match lease.state {
        State::Pending | State::Active => {
            lease.expires > now.at || (resumes && lease.expires.saturating_add(grace.of(lease.kind)) > now.at)
        }
        State::Ending(_) => resumes && serves_resumes(lease, now),
        State::Removing => false,
    }
}

/// Whether a lease is in its grace time, and there is something to resume.
pub(super) fn serves_resumes(lease: &Lease, now: Now) -> bool {
    matches!(lease.state, State::Ending(until) if until > now.at) && !lease.covered.is_empty()
}

/// Where leases are looked up.
pub(crate) trait Leases {
    /// A lease.
    fn lease(&self, id: Id) -> Result<Option<Lease>, LedgerError>;
    /// The standing lease at customer/product/version/file.
    fn lease_at(&self, path: &str) -> Result<Option<(Id, Lease)>, LedgerError>;
}

impl Leases for Txn<'_> {
    fn lease(&self, id: Id) -> Result<Option<Lease>, LedgerError> {
        Txn::lease(self, id)
    }
    fn lease_at(&self, path: &str) -> Result<Option<(Id, Lease)>, LedgerError> {
        Txn::lease_at(self, path)
    }
}

impl Leases for Reader {
    fn lease(&self, id: Id) -> Result<Option<Lease>, LedgerError> {
        Reader::lease(self, id)
    }
    fn lease_at(&self, path: &str) -> Result<Option<(Id, Lease)>, LedgerError> {
        Reader::lease_at(self, path)
    }
}

/// The lease that a login means by a path.
pub(crate) fn find(leases: &impl Leases, access: &Access, path: &str) -> Result<Option<(Id, Lease)>, LedgerError> {
    let Some(below) = path.strip_prefix('/') else { return Ok(None) };
    match access {
        Access::Ticket(id) => {
            Ok(leases.lease(*id)?.filter(|lease| lease.file.as_str() == below).map(|lease| (*id, lease)))
        }
        Access::Account(customer) => {
            let parts: Vec<&str> = below.split('/').collect();
            let &[product, version, file] = &parts[..] else { return Ok(None) };
            if Name::new(product).is_err() || Name::new(version).is_err() || FileName::new(file).is_err() {
                return Ok(None);
            }
            leases.lease_at(&format!("{customer}/{below}"))
        }
    }
}

/// How a transfer ended.
#[derive(Debug, Clone, Default)]
pub(crate) struct End {
    /// Bytes that were sent; more may be known of it already.
    pub(crate) bytes: u64,
    /// How long it took; the same holds.
    pub(crate) milliseconds: u64,
    /// The TLS of its data connection, where it is known to have had one.
    pub(crate) tls: Option<TlsVersion>,
    /// In a word.
    pub(crate) outcome: &'static str,
}

/// Closes a transfer: its record goes into the outbox, what it sent counts for the lease.
pub(crate) fn end(txn: &mut Txn<'_>, number: u64, end: &End, grace: Grace, now: Now) -> Result<(), LedgerError> {
    let Some(transfer) = txn.end_transfer(number)? else {
        tracing::warn!(transfer = number, "a transfer ended that is not known or has ended before");
        return Ok(());
    };
    let bytes = end.bytes.max(transfer.bytes).min(transfer.size - transfer.offset);
    let mut event = Event::new(now.at, AuditEvent::Transfer).outcome(end.outcome);
    event.customer = Some(transfer.customer.to_string());
    event.address = Some(transfer.address);
    event.lease = Some(transfer.lease);
    event.sha256 = Some(transfer.sha256);
    event.offset = Some(transfer.offset);
    event.bytes = Some(bytes);
    event.milliseconds = Some(end.milliseconds.max(transfer.milliseconds));
    event.tls = end.tls.or(transfer.tls);
    txn.log(&event)?;
    let Some(mut lease) = txn.lease(transfer.lease)? else { return Ok(()) };
    lease.covered.add(transfer.offset, transfer.offset + bytes);
    let all = lease.covered.is_all_of(lease.size) || (lease.size == 0 && end.outcome == COMPLETE);
    if lease.kind == LeaseKind::OneTime && all && matches!(lease.state, State::Pending | State::Active) {
        leases::wind_down(txn, transfer.lease, lease, "fetched in full", grace, now)
    } else {
        txn.put_lease(transfer.lease, &lease)
    }
}

/// The outcome of a transfer that sent all it was to send.
pub(crate) const COMPLETE: &str = "complete";
