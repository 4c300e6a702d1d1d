//! Requests of operators that were done, so that a retry is not done again.

use super::StoreError;
use super::rows::{self, RequestRow};
use super::tables::{REQUEST_ORDER, REQUESTS};
use redb::{ReadableTable, ReadableTableMetadata, WriteTransaction};
use tobj::{Id, Timestamp};

/// For how long a request is known, in seconds: nobody retries for longer.
pub const AGE: u64 = 7 * 24 * 3600;
/// Most requests that are known; beyond it the oldest is forgotten first.
pub const COUNT: u64 = 100_000;
/// How many requests of the past are forgotten with each new one: more than one, so that their number comes down.
const FORGET: usize = 4;

/// What is known of a request's ID.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Known {
    /// Nothing.
    No,
    /// This request was done.
    Done,
    /// Another request with this ID was done.
    Other,
}

/// Looks for a request.
///
/// # Errors
/// [`StoreError`] when the store fails.
pub fn find(txn: &WriteTransaction, id: Id, fingerprint: &str) -> Result<Known, StoreError> {
    let table = txn.open_table(REQUESTS)?;
    let Some(row) = table.get(id.as_bytes())? else { return Ok(Known::No) };
    let row: RequestRow = rows::read("requests", row.value())?;
    Ok(if row.fingerprint == fingerprint { Known::Done } else { Known::Other })
}

/// Remembers a request that is done with this transaction.
///
/// # Errors
/// [`StoreError`] when the store fails.
pub fn remember(txn: &WriteTransaction, id: Id, fingerprint: String, now: Timestamp) -> Result<(), StoreError> {
    remember_up_to(txn, id, fingerprint, now, COUNT)
}

pub(super) fn remember_up_to(
    txn: &WriteTransaction,
    id: Id,
    fingerprint: String,
    now: Timestamp,
    count: u64,
) -> Result<(), StoreError> {
    let mut table = txn.open_table(REQUESTS)?;
    let mut order = txn.open_table(REQUEST_ORDER)?;
    let number = order.last()?.map_or(0, |(number, _)| number.value()).saturating_add(1);
    order.insert(number, id.as_bytes())?;
    table.insert(id.as_bytes(), rows::write("requests", &RequestRow { at: now, fingerprint })?.as_slice())?;
    for _ in 0..FORGET {
        let Some((number, id)) = order.first()?.map(|(number, id)| (number.value(), *id.value())) else { break };
        let row = table.get(&id)?.map(|row| rows::read::<RequestRow>("requests", row.value())).transpose()?;
        let old = row.is_none_or(|row| row.at.plus(AGE) < now);
        if !old && table.len()? <= count {
            break;
        }
        order.remove(number)?;
        table.remove(&id)?;
    }
    Ok(())
}
