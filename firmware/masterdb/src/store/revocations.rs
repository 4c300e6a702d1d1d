//! Rights that were withdrawn, numbered, for the download appliances to learn of.

use super::StoreError;
use super::rows::{self, RevocationRow};
use super::tables::REVOCATIONS;
use crate::page::Page;
use redb::{ReadTransaction, ReadableTable, WriteTransaction};
use tobj::{Name, Revocation, Timestamp};

/// Withdraws a right: to a version, to all versions of a product, or everything.
///
/// # Errors
/// [`StoreError`] when the store fails.
pub fn add(
    txn: &WriteTransaction,
    customer: &Name,
    product: Option<&Name>,
    version: Option<&Name>,
    now: Timestamp,
) -> Result<u64, StoreError> {
    let mut table = txn.open_table(REVOCATIONS)?;
    let seq = table.last()?.map_or(0, |(seq, _)| seq.value()).saturating_add(1);
    let row =
        RevocationRow { customer: customer.clone(), product: product.cloned(), version: version.cloned(), at: now };
    table.insert(seq, rows::write("revocations", &row)?.as_slice())?;
    Ok(seq)
}

/// The number of the last one, 0 when there is none.
///
/// # Errors
/// [`StoreError`] when the store fails.
pub fn last(txn: &WriteTransaction) -> Result<u64, StoreError> {
    Ok(txn.open_table(REVOCATIONS)?.last()?.map_or(0, |(seq, _)| seq.value()))
}

/// When the last one was, if there is any.
///
/// # Errors
/// [`StoreError`] when the store fails.
pub fn last_at(txn: &WriteTransaction) -> Result<Option<Timestamp>, StoreError> {
    let table = txn.open_table(REVOCATIONS)?;
    let last = table.last()?.map(|(_, row)| rows::read::<RevocationRow>("revocations", row.value())).transpose()?;
    Ok(last.map(|row| row.at))
}

/// As [`last`], of the last committed state.
///
/// # Errors
/// [`StoreError`] when the table cannot be read.
pub fn last_committed(txn: &ReadTransaction) -> Result<u64, StoreError> {
    Ok(txn.open_table(REVOCATIONS)?.last()?.map_or(0, |(seq, _)| seq.value()))
}

/// The revocations after this number, as many as fit an answer, and the number to ask after next.
///
/// A number that is still to come can only be of another life of this store, before it was restored from a copy: then all are told
/// again, since withdrawing too much only means to stage again, and withdrawing too little lets somebody keep what he may not.
///
/// # Errors
/// [`StoreError`] when the table cannot be read.
pub fn after(txn: &ReadTransaction, after: u64) -> Result<(Vec<Revocation>, u64), StoreError> {
    let table = txn.open_table(REVOCATIONS)?;
    let last = table.last()?.map_or(0, |(seq, _)| seq.value());
    let after = if after > last { 0 } else { after };
    let mut page = Page::new();
    for row in table.range(after.saturating_add(1)..)? {
        let (seq, row) = row?;
        let RevocationRow { customer, product, version, at } = rows::read("revocations", row.value())?;
        if !page.push(Revocation { seq: seq.value(), customer, product, version, at }, 0) {
            break;
        }
    }
    let (items, _) = page.finish();
    let upto = items.last().map_or(after, |r| r.seq);
    Ok((items, upto))
}
