//! Customers.

use super::rows::{self, CustomerRow};
use super::tables::{CUSTOMERS, ENTITLEMENTS, Row};
use super::{StoreError, revocations};
use crate::page::{self, Page};
use redb::{ReadTransaction, ReadableTable, WriteTransaction};
use tobj::{CustomerInfo, Name, Timestamp};

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
    let row = CustomerRow { hash, generation: 1, added: now, disabled: false };
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

/// What became of a customer who was to be let in or kept out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Enabled {
    /// It is so now.
    Changed,
    /// It was so already.
    Same,
    /// There is no such customer.
    Unknown,
}

/// Lets a customer log in, or keeps him out and withdraws what he has: his sessions are of another generation then.
///
/// # Errors
/// [`StoreError`] when the store fails.
pub fn enable(txn: &WriteTransaction, customer: &Name, enabled: bool, now: Timestamp) -> Result<Enabled, StoreError> {
    let mut table = txn.open_table(CUSTOMERS)?;
    let Some(old) = get(&table, customer.as_str())? else { return Ok(Enabled::Unknown) };
    if old.disabled != enabled {
        return Ok(Enabled::Same);
    }
    let row = CustomerRow { disabled: !enabled, generation: old.generation.saturating_add(1), ..old };
    table.insert(customer.as_str(), rows::write("customers", &row)?.as_slice())?;
    if !enabled {
        revocations::add(txn, customer, None, None, now)?;
    }
    Ok(Enabled::Changed)
}

/// Removes a customer with his entitlements and withdraws what he has; `false` when there is no such customer.
///
/// # Errors
/// [`StoreError`] when the store fails.
pub fn remove(txn: &WriteTransaction, customer: &Name, now: Timestamp) -> Result<bool, StoreError> {
    if txn.open_table(CUSTOMERS)?.remove(customer.as_str())?.is_none() {
        return Ok(false);
    }
    let mut entitlements = txn.open_table(ENTITLEMENTS)?;
    let mut his = Vec::new();
    for row in entitlements.range((customer.as_str(), "", "")..)? {
        let (key, _) = row?;
        let (whose, product, version) = key.value();
        if whose != customer.as_str() {
            break;
        }
        his.push((product.to_owned(), version.to_owned()));
    }
    for (product, version) in &his {
        entitlements.remove((customer.as_str(), product.as_str(), version.as_str()))?;
    }
    revocations::add(txn, customer, None, None, now)?;
    Ok(true)
}

/// A page of the customers, by name, and whether there are more.
///
/// # Errors
/// [`StoreError`] when the table cannot be read.
pub fn list(txn: &ReadTransaction, offset: u64) -> Result<(Vec<CustomerInfo>, bool), StoreError> {
    let table = txn.open_table(CUSTOMERS)?;
    let mut page = Page::new();
    for entry in table.iter()?.skip(page::offset(offset)) {
        let (name, row) = entry?;
        let row: CustomerRow = rows::read("customers", row.value())?;
        let name = rows::key("customers", name.value())?;
        if !page.push(CustomerInfo { name, enabled: !row.disabled, added: row.added }, 0) {
            break;
        }
    }
    Ok(page.finish())
}
