//! Who may have what.
//!
//! An entitlement is to one version of a product or, with no version named, to all of them, those to come included. The two kinds
//! stand beside each other, each with its own end; the later end counts. So a right that is taken away, or ends earlier than before,
//! takes along only what the other kind does not cover for as long: see [`withdraw`].

use super::rows::{self, EntitlementRow};
use super::tables::{CUSTOMERS, ENTITLEMENTS, OBJECTS, Row};
use super::{StoreError, grants, objects, revocations};
use crate::config::Lifetimes;
use crate::page::{self, Page};
use redb::{ReadTransaction, ReadableTable, WriteTransaction};
use std::collections::{BTreeMap, BTreeSet};
use tobj::{CatalogueItem, EntitlementInfo, Name, Timestamp};

/// In place of a version: all of them. No name is empty.
const ALL: &str = "";

/// Most versions that are withdrawn one by one, to spare others of the product; beyond it all of them are, and what is still covered is
/// to be staged anew.
pub const ONE_BY_ONE: usize = 100;

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

/// Gives a right, or another end to one that is there. An earlier end than before withdraws what was built on the later one
/// and no other right covers as long.
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
    lives: &Lifetimes,
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
    drop(table);
    if let Some(old) = old {
        let change = Change { was: old.until.into(), is: Some(until.into()) };
        withdraw(txn, (customer, product, version), change, lives, now)?;
    }
    Ok(true)
}

/// Takes a right away and withdraws what was built on it and no other right covers as long; `false` when there is no such right.
///
/// # Errors
/// [`StoreError`] when the store fails.
pub fn remove(
    txn: &WriteTransaction,
    customer: &Name,
    product: &Name,
    version: Option<&Name>,
    lives: &Lifetimes,
    now: Timestamp,
) -> Result<bool, StoreError> {
    let key = (customer.as_str(), product.as_str(), version_key(version));
    let old =
        txn.open_table(ENTITLEMENTS)?.remove(key)?.map(|row| rows::read("entitlements", row.value())).transpose()?;
    let Some(EntitlementRow { until, .. }) = old else { return Ok(false) };
    withdraw(txn, (customer, product, version), Change { was: until.into(), is: None }, lives, now)?;
    Ok(true)
}

/// The end of a right as it was and as it is, which is none where the right was taken away.
#[derive(Clone, Copy)]
struct Change {
    was: End,
    is: Option<End>,
}

impl Change {
    /// The same of what also another right covers, up to this end.
    fn beside(self, other: Option<End>) -> Self {
        Self { was: other.map_or(self.was, |other| other.max(self.was)), is: self.is.max(other) }
    }

    /// Whether something that lasts to `last` at most is not covered as long as it was.
    fn shortens(self, last: Timestamp) -> bool {
        self.is < Some(self.was.min(End::At(last)))
    }
}

/// Withdraws what was built on a right that has changed and is not covered as long any more, neither by it nor by what stands beside it.
/// What that would be for all versions of a product is withdrawn version by version where some of them are to stay.
fn withdraw(
    txn: &WriteTransaction,
    (customer, product, version): (&Name, &Name, Option<&Name>),
    change: Change,
    lives: &Lifetimes,
    now: Timestamp,
) -> Result<(), StoreError> {
    let last = grants::last_end(txn, lives, now)?;
    let rights = of_product(txn, customer, product)?;
    if let Some(version) = version {
        if change.beside(rights.get(ALL).copied()).shortens(last) {
            revocations::add(txn, customer, Some(product), Some(version), now)?;
        }
        return Ok(());
    }
    if !change.shortens(last) {
        return Ok(());
    }
    let beside = rights.into_iter().filter(|(version, _)| version != ALL);
    let spared: BTreeSet<String> =
        beside.filter(|(_, end)| !change.beside(Some(*end)).shortens(last)).map(|(version, _)| version).collect();
    if !spared.is_empty() {
        // What is offered no more may still be staged.
        let mut over = grants::versions(txn, customer, product)?;
        over.extend(objects::versions(txn, product)?);
        over.retain(|version| !spared.contains(version));
        if over.len() <= ONE_BY_ONE {
            for version in over {
                revocations::add(txn, customer, Some(product), Some(&rows::key("grants", &version)?), now)?;
            }
            return Ok(());
        }
    }
    revocations::add(txn, customer, Some(product), None, now)?;
    Ok(())
}

/// What rights a customer has to a product, by version, with the ends that they have, in the past or not.
fn of_product(txn: &WriteTransaction, customer: &Name, product: &Name) -> Result<BTreeMap<String, End>, StoreError> {
    let mut rights = BTreeMap::new();
    for row in txn.open_table(ENTITLEMENTS)?.range((customer.as_str(), product.as_str(), ALL)..)? {
        let (key, row) = row?;
        let (whose, of, version) = key.value();
        if (whose, of) != (customer.as_str(), product.as_str()) {
            break;
        }
        rights.insert(version.to_owned(), rows::read::<EntitlementRow>("entitlements", row.value())?.until.into());
    }
    Ok(rights)
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
