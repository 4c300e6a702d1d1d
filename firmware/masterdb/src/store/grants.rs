//! Grants that were issued.
//!
//! A grant is known for as long as a lease made with it may last, so that a repeated request gets the same one; what was granted
//! is in the audit trail for good.

use super::StoreError;
use super::rows::{self, GrantRow};
use super::tables::{CUSTOMERS, ENTITLEMENTS, GRANT_ENDS, GRANT_REQUESTS, GRANTS, OBJECTS};
use super::{customers, entitlements, objects, revocations};
use crate::config::Lifetimes;
use redb::{ReadableTable, WriteTransaction};
use std::collections::BTreeSet;
use tobj::{Id, LeaseKind, Name, Timestamp};

/// How many grants of the past are forgotten with each new one: more than one, so that their number comes down.
const FORGET: usize = 4;

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wish {
    /// The request.
    pub request: Id,
    /// Whose session it is.
    pub customer: Name,
    /// The generation of the password that opened the session.
    pub generation: u64,
    /// The product.
    pub product: Name,
    /// The version of the product.
    pub version: Name,
    /// What kind of lease.
    pub kind: LeaseKind,
    /// The download appliance that asks, where it is one: it gets grants for itself only.
    pub only: Option<Name>,
}

/// What became of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// A new grant.
    Issued(GrantRow),
    /// The grant that this request got before.
    Repeated(GrantRow),
    /// The customer has another password since the session began.
    SessionOver,
    /// The customer is not entitled.
    NotEntitled,
    /// There is no such object.
    NoObject,
    /// The request's ID has been used for something else.
    OtherRequest,
    /// There is no room for another grant.
    NoSpace,
}

/// Issues a grant.
///
/// # Errors
/// [`StoreError`] when the store fails.
pub fn issue(txn: &WriteTransaction, wish: &Wish, lives: &Lifetimes, now: Timestamp) -> Result<Outcome, StoreError> {
    if let Some(outcome) = known(txn, wish)? {
        return Ok(outcome);
    }
    let right = entitlements::right(&txn.open_table(ENTITLEMENTS)?, &wish.customer, &wish.product, &wish.version, now)?;
    let Some(end) = right else { return Ok(Outcome::NotEntitled) };
    let object = objects::get(&txn.open_table(OBJECTS)?, wish.product.as_str(), wish.version.as_str())?;
    let Some(object) = object.filter(|object| wish.only.as_ref().is_none_or(|only| *only == object.download)) else {
        return Ok(Outcome::NoObject);
    };
    // A grant from before a withdrawal is worth nothing: one of the same second has to be told apart from that.
    let issued = revocations::last_at(txn)?.map_or(now, |last| now.max(last.plus(1)));
    let within = |at: Timestamp| end.until().map_or(at, |until| until.min(at));
    let row = GrantRow {
        id: Id::random()?,
        request: wish.request,
        customer: wish.customer.clone(),
        product: wish.product.clone(),
        version: wish.version.clone(),
        kind: wish.kind,
        file: object.file,
        size: object.size,
        sha256: object.sha256,
        download: object.download,
        issued,
        use_by: within(now.plus(lives.grant)),
        lease_expires: within(now.plus(lives.lease(wish.kind))),
    };
    keep(txn, &row)?;
    forget(txn, now)?;
    Ok(Outcome::Issued(row))
}

/// What became of it before anything is issued: the session is over, or the request was made before.
///
/// # Errors
/// [`StoreError`] when the store fails.
pub fn known(txn: &WriteTransaction, wish: &Wish) -> Result<Option<Outcome>, StoreError> {
    let customer = customers::get(&txn.open_table(CUSTOMERS)?, wish.customer.as_str())?;
    if customer.is_none_or(|c| c.disabled || c.generation != wish.generation) {
        return Ok(Some(Outcome::SessionOver));
    }
    Ok(of_request(txn, wish.request)?.map(|row| {
        let same = (&row.customer, &row.product, &row.version, row.kind)
            == (&wish.customer, &wish.product, &wish.version, wish.kind);
        if same { Outcome::Repeated(row) } else { Outcome::OtherRequest }
    }))
}

fn of_request(txn: &WriteTransaction, request: Id) -> Result<Option<GrantRow>, StoreError> {
    let requests = txn.open_table(GRANT_REQUESTS)?;
    let Some(id) = requests.get(request.as_bytes())? else { return Ok(None) };
    let grants = txn.open_table(GRANTS)?;
    let row = grants.get(id.value())?;
    row.map(|row| rows::read("grants", row.value())).transpose()
}

fn keep(txn: &WriteTransaction, row: &GrantRow) -> Result<(), StoreError> {
    let id = row.id.as_bytes();
    txn.open_table(GRANTS)?.insert(id, rows::write("grants", row)?.as_slice())?;
    txn.open_table(GRANT_ENDS)?.insert((kept_until(row).0, id), ())?;
    txn.open_table(GRANT_REQUESTS)?.insert(row.request.as_bytes(), id)?;
    Ok(())
}

fn kept_until(row: &GrantRow) -> Timestamp {
    row.use_by.max(row.lease_expires)
}

/// When the last lease ends that may have been granted by now: by the grants that are known, also such as a clock that was ahead has
/// made; by how long leases last, where a store that was put back from a copy does not know all of them.
///
/// # Errors
/// [`StoreError`] when the store fails.
pub(super) fn last_end(txn: &WriteTransaction, lives: &Lifetimes, now: Timestamp) -> Result<Timestamp, StoreError> {
    let longest = now.plus(lives.standing.max(lives.one_time).max(lives.grant));
    let ends = txn.open_table(GRANT_ENDS)?;
    Ok(ends.last()?.map_or(longest, |(key, _)| longest.max(Timestamp(key.value().0))))
}

/// The versions of a product of which a customer may have leases, as far as grants are known. Looks at all of them.
///
/// # Errors
/// [`StoreError`] when the store fails.
pub(super) fn versions(
    txn: &WriteTransaction,
    customer: &Name,
    product: &Name,
) -> Result<BTreeSet<String>, StoreError> {
    let mut versions = BTreeSet::new();
    for row in txn.open_table(GRANTS)?.iter()? {
        let row: GrantRow = rows::read("grants", row?.1.value())?;
        if (&row.customer, &row.product) == (customer, product) {
            versions.insert(row.version.to_string());
        }
    }
    Ok(versions)
}

fn forget(txn: &WriteTransaction, now: Timestamp) -> Result<(), StoreError> {
    let mut ends = txn.open_table(GRANT_ENDS)?;
    let mut over = Vec::with_capacity(FORGET);
    for end in ends.range(..(now.0, &[0; 16]))?.take(FORGET) {
        let (key, _) = end?;
        let (at, id) = key.value();
        over.push((at, *id));
    }
    let mut grants = txn.open_table(GRANTS)?;
    let mut requests = txn.open_table(GRANT_REQUESTS)?;
    for (at, id) in over {
        ends.remove((at, &id))?;
        let row = grants.remove(&id)?.map(|row| rows::read::<GrantRow>("grants", row.value())).transpose()?;
        if let Some(row) = row {
            requests.remove(row.request.as_bytes())?;
        }
    }
    Ok(())
}
