//! Customers.

use super::rows::{self, CustomerRow};
use super::tables::{CUSTOMERS, Row};
use super::{StoreError, revocations};
use crate::page::{self, Page};
use redb::{ReadTransaction, ReadableTable, WriteTransaction};
use tobj::{Name, Timestamp};

/// A customer in an open table.
///
/// # Errors
/// [`StoreError`] when the table cannot be read.
pub fn get(table: &impl ReadableTable<&'static str, Row>, customer: &str) -> Result<Option<CustomerRow>, StoreError> {
    table.get(customer)?.map(|row| rows::read("customers", row.value())).transpose()
}

/// A customer as last committed.
///
/// # Errors
/// [`StoreError`] when the table cannot be read.
pub fn find(txn: &ReadTransaction, customer: &str) -> Result<Option<CustomerRow>, StoreError> {
    get(&txn.open_table(CUSTOMERS)?, customer)
}

/// Adds a customer; `false` when there is one of that name.
///
/// # Errors
/// [`StoreError`] when the store fails.
pub fn add(txn: &WriteTransaction, customer: &Name, hash: String, now: Timestamp) -> Result<bool, StoreError> {
    let mut table = txn.open_table(CUSTOMERS)?;
    if table.get(customer.as_str())?.is_some() {
        return Ok(false);
    }
    let row = CustomerRow { hash, generation: 1, added: now };
    table.insert(customer.as_str(), rows::write("customers", &row)?.as_slice())?;
    Ok(true)
}

/// Gives a customer another password and withdraws what rests on the old one; `false` when there is no such customer.
///
/// # Errors
/// [`StoreError`] when the store fails.
pub fn set_password(txn: &WriteTransaction, customer: &Name, hash: String, now: Timestamp) -> Result<bool, StoreError> {
    let mut table = txn.open_table(CUSTOMERS)?;
    let Some(old) = get(&table, customer.as_str())? else { return Ok(false) };
    let row = CustomerRow { hash, generation: old.generation.saturating_add(1), ..old };
    table.insert(customer.as_str(), rows::write("customers", &row)?.as_slice())?;
    revocations::add(txn, customer, None, None, now)?;
    Ok(true)
}

/// A page of the names, in order, and whether there are more.
///
/// # Errors
/// [`StoreError`] when the table cannot be read.
pub fn list(txn: &ReadTransaction, offset: u64) -> Result<(Vec<Name>, bool), StoreError> {
    let table = txn.open_table(CUSTOMERS)?;
    let mut page = Page::new();
    for row in table.iter()?.skip(page::offset(offset)) {
        if !page.push(rows::key("customers", row?.0.value())?, 0) {
            break;
        }
    }
    Ok(page.finish())
}
