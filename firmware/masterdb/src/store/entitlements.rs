//! Who may have what.
//!
//! An entitlement is to one version of a product or, with no version named, to all of them, those to come included. The two kinds
//! stand beside each other, each with its own end; the later end counts.

use super::rows::{self, EntitlementRow};
use super::tables::{CUSTOMERS, ENTITLEMENTS, OBJECTS, Row};
use super::{StoreError, objects, revocations};
use crate::page::{self, Page};
use redb::{ReadTransaction, ReadableTable, WriteTransaction};
use std::collections::BTreeMap;
use tobj::{CatalogueItem, EntitlementInfo, Name, Timestamp};

/// In place of a version: all of them. No name is empty.
const ALL: &str = "";

/// The end of a right: a time, or never. `Never` is the later of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum End {
    /// It ends at this second, and is over in it.
    At(Timestamp),
    /// It does not end.
    Never,
}

impl From<Option<Timestamp>> for End {
    fn from(until: Option<Timestamp>) -> Self {
        until.map_or(Self::Never, Self::At)
    }
}

impl End {
    /// The time, if there is one.
    pub fn until(self) -> Option<Timestamp> {
        match self {
            Self::At(at) => Some(at),
            Self::Never => None,
        }
    }

    fn is_after(self, now: Timestamp) -> bool {
        self > Self::At(now)
    }
}

fn version_key(version: Option<&Name>) -> &str {
    version.map_or(ALL, Name::as_str)
}

/// Gives a right, or another end to one that is there. An earlier end than before withdraws what was built on the later one.
/// `false` when there is no such customer, product or version.
///
/// # Errors
/// [`StoreError`] when the store fails.
pub fn add(
    txn: &WriteTransaction,
    customer: &Name,
    product: &Name,
    version: Option<&Name>,
    until: Option<Timestamp>,
    now: Timestamp,
) -> Result<bool, StoreError> {
    let known = txn.open_table(CUSTOMERS)?.get(customer.as_str())?.is_some();
    if !known || !objects::exists(txn, product, version)? {
        return Ok(false);
    }
    let mut table = txn.open_table(ENTITLEMENTS)?;
    let key = (customer.as_str(), product.as_str(), version_key(version));
    let old = table.get(key)?.map(|row| rows::read::<EntitlementRow>("entitlements", row.value())).transpose()?;
    let row = EntitlementRow { until, added: now };
    table.insert(key, rows::write("entitlements", &row)?.as_slice())?;
    if old.is_some_and(|old| End::from(until) < End::from(old.until)) {
        revocations::add(txn, customer, Some(product), version, now)?;
    }
    Ok(true)
}

/// Takes a right away and withdraws what was built on it; `false` when there is no such right.
///
/// # Errors
/// [`StoreError`] when the store fails.
pub fn remove(
    txn: &WriteTransaction,
    customer: &Name,
    product: &Name,
    version: Option<&Name>,
    now: Timestamp,
) -> Result<bool, StoreError> {
    let mut table = txn.open_table(ENTITLEMENTS)?;
    let there = table.remove((customer.as_str(), product.as_str(), version_key(version)))?.is_some();
    if there {
        revocations::add(txn, customer, Some(product), version, now)?;
    }
    Ok(there)
}

/// Until when the customer may have this version, or `None` when he may not.
///
/// # Errors
/// [`StoreError`] when the table cannot be read.
pub fn right(
    table: &impl ReadableTable<(&'static str, &'static str, &'static str), Row>,
    customer: &Name,
    product: &Name,
    version: &Name,
    now: Timestamp,
) -> Result<Option<End>, StoreError> {
    let mut best = None;
    for version in [ALL, version.as_str()] {
        if let Some(row) = table.get((customer.as_str(), product.as_str(), version))? {
            let row: EntitlementRow = rows::read("entitlements", row.value())?;
            best = best.max(Some(End::from(row.until)).filter(|end| end.is_after(now)));
        }
    }
    Ok(best)
}

/// A page of what the customer may have, by product and version, and whether there is more; with `only`, of what that appliance has.
///
/// # Errors
/// [`StoreError`] when a table cannot be read.
pub fn catalogue(
    txn: &ReadTransaction,
    customer: &Name,
    only: Option<&Name>,
    offset: u64,
    now: Timestamp,
) -> Result<(Vec<CatalogueItem>, bool), StoreError> {
    let objects = txn.open_table(OBJECTS)?;
    let mut found: BTreeMap<(String, String), End> = BTreeMap::new();
    let mut allow = |product: &str, version: &str, end: End| {
        let best = found.entry((product.to_owned(), version.to_owned())).or_insert(end);
        *best = end.max(*best);
    };
    for row in txn.open_table(ENTITLEMENTS)?.range((customer.as_str(), "", "")..)? {
        let (key, row) = row?;
        let (whose, product, version) = key.value();
        if whose != customer.as_str() {
            break;
        }
        let end = End::from(rows::read::<EntitlementRow>("entitlements", row.value())?.until);
        if !end.is_after(now) {
            continue;
        }
        if version != ALL {
            allow(product, version, end);
            continue;
        }
        for row in objects.range((product, "")..)? {
            let (key, _) = row?;
            if key.value().0 != product {
                break;
            }
            allow(product, key.value().1, end);
        }
    }
    let mut page = Page::new();
    let mut skip = page::offset(offset);
    for ((product, version), end) in found {
        let Some(row) = objects::get(&objects, &product, &version)? else { continue };
        if only.is_some_and(|only| *only != row.download) {
            continue;
        }
        // What is not shown does not count: the offset is a number of entries that were.
        if skip > 0 {
            skip -= 1;
            continue;
        }
        let item = objects::item(&product, &version, row, end.until())?;
        let text = item.file.as_str().len();
        if !page.push(item, text) {
            break;
        }
    }
    Ok(page.finish())
}

/// A page of all entitlements, by customer, product and version, and whether there are more. Ended ones are among them.
///
/// # Errors
/// [`StoreError`] when the table cannot be read.
pub fn list(txn: &ReadTransaction, offset: u64) -> Result<(Vec<EntitlementInfo>, bool), StoreError> {
    let table = txn.open_table(ENTITLEMENTS)?;
    let mut page = Page::new();
    for row in table.iter()?.skip(page::offset(offset)) {
        let (key, row) = row?;
        let (customer, product, version) = key.value();
        let info = EntitlementInfo {
            customer: rows::key("entitlements", customer)?,
            product: rows::key("entitlements", product)?,
            version: if version == ALL { None } else { Some(rows::key("entitlements", version)?) },
            until: rows::read::<EntitlementRow>("entitlements", row.value())?.until,
        };
        if !page.push(info, 0) {
            break;
        }
    }
    Ok(page.finish())
}
