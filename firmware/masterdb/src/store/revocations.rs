//! Rights that were withdrawn, numbered, for the download appliances to learn of.
//!
//! Their times never go back, so that a grant can be told from the withdrawals before it by its own. A withdrawal that was made while
//! the clock was ahead would keep all grants from then on as far in the future, where no download appliance takes them: [`redate`]
//! ends that once the clock is right again.

use super::StoreError;
use super::rows::{self, RevocationRow};
use super::tables::REVOCATIONS;
use crate::page::Page;
use redb::{ReadTransaction, ReadableTable, WriteTransaction};
use tobj::{Name, Revocation, Timestamp};

/// How far the last withdrawal may be in the future before it is dated anew (seconds): as far as a download appliance takes a grant's
/// time for plausible.
pub const AHEAD: u64 = 300;

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
    let last = newest(&table)?;
    let seq = last.as_ref().map_or(0, |(seq, _)| *seq).saturating_add(1);
    let at = last.map_or(now, |(_, row)| row.at.max(now));
    let row = RevocationRow { customer: customer.clone(), product: product.cloned(), version: version.cloned(), at };
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
    Ok(newest(&txn.open_table(REVOCATIONS)?)?.map(|(_, row)| row.at))
}

/// Whether the last one is so far in the future that the clock must have been set back since: see [`redate`].
///
/// # Errors
/// [`StoreError`] when the table cannot be read.
pub fn ahead(txn: &ReadTransaction, now: Timestamp) -> Result<bool, StoreError> {
    Ok(newest(&txn.open_table(REVOCATIONS)?)?.is_some_and(|(_, row)| row.at > now.plus(AHEAD)))
}

/// Gives what was withdrawn in the future new numbers and this time, so that it is told again with it. Gives the last number.
///
/// # Errors
/// [`StoreError`] when the store fails.
pub fn redate(txn: &WriteTransaction, now: Timestamp) -> Result<u64, StoreError> {
    let mut table = txn.open_table(REVOCATIONS)?;
    let mut future = Vec::new();
    for entry in table.iter()?.rev() {
        let (seq, row) = entry?;
        let row: RevocationRow = rows::read("revocations", row.value())?;
        if row.at <= now.plus(AHEAD) {
            break;
        }
        future.push((seq.value(), row));
    }
    let mut last = future.first().map_or(0, |(seq, _)| *seq);
    for (seq, row) in future.into_iter().rev() {
        last = last.saturating_add(1);
        table.remove(seq)?;
        table.insert(last, rows::write("revocations", &RevocationRow { at: now, ..row })?.as_slice())?;
    }
    Ok(last)
}

fn newest(table: &impl ReadableTable<u64, &'static [u8]>) -> Result<Option<(u64, RevocationRow)>, StoreError> {
    let last = table.last()?;
    last.map(|(seq, row)| Ok((seq.value(), rows::read("revocations", row.value())?))).transpose()
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
