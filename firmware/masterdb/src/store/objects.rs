//! Products and the objects that are their versions.

use super::StoreError;
use super::rows::{self, ObjectRow, ProductRow};
use super::tables::{OBJECTS, PRODUCTS, Row};
use crate::page::{self, Page};
use redb::{ReadTransaction, ReadableTable, WriteTransaction};
use std::collections::BTreeSet;
use tobj::{CatalogueItem, Name, Timestamp};

/// What became of an object that was to be added.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Added {
    /// It is new.
    New,
    /// That version was this object already.
    Known,
    /// That version is another object.
    Conflict(Box<ObjectRow>),
}

/// An object in an open table.
///
/// # Errors
/// [`StoreError`] when the table cannot be read.
pub fn get(
    table: &impl ReadableTable<(&'static str, &'static str), Row>,
    product: &str,
    version: &str,
) -> Result<Option<ObjectRow>, StoreError> {
    table.get((product, version))?.map(|row| rows::read("objects", row.value())).transpose()
}

/// Makes an object a version of a product, and the product if it is new.
///
/// # Errors
/// [`StoreError`] when the store fails.
pub fn add(txn: &WriteTransaction, product: &Name, version: &Name, row: &ObjectRow) -> Result<Added, StoreError> {
    let mut objects = txn.open_table(OBJECTS)?;
    if let Some(old) = get(&objects, product.as_str(), version.as_str())? {
        let same = ObjectRow { added: old.added, ..row.clone() } == old;
        return Ok(if same { Added::Known } else { Added::Conflict(Box::new(old)) });
    }
    let mut products = txn.open_table(PRODUCTS)?;
    if products.get(product.as_str())?.is_none() {
        let row = ProductRow { added: row.added };
        products.insert(product.as_str(), rows::write("products", &row)?.as_slice())?;
    }
    objects.insert((product.as_str(), version.as_str()), rows::write("objects", row)?.as_slice())?;
    Ok(Added::New)
}

/// Offers a version of a product no more; `false` when there is no such version. The product stays, and so do entitlements: what
/// becomes that version next is meant by them.
///
/// # Errors
/// [`StoreError`] when the store fails.
pub fn remove(txn: &WriteTransaction, product: &Name, version: &Name) -> Result<bool, StoreError> {
    Ok(txn.open_table(OBJECTS)?.remove((product.as_str(), version.as_str()))?.is_some())
}

/// The versions of a product that are offered.
///
/// # Errors
/// [`StoreError`] when the store fails.
pub fn versions(txn: &WriteTransaction, product: &Name) -> Result<BTreeSet<String>, StoreError> {
    let mut versions = BTreeSet::new();
    for row in txn.open_table(OBJECTS)?.range((product.as_str(), "")..)? {
        let (key, _) = row?;
        let (of, version) = key.value();
        if of != product.as_str() {
            break;
        }
        versions.insert(version.to_owned());
    }
    Ok(versions)
}

/// Whether there is this product, or this version of it.
///
/// # Errors
/// [`StoreError`] when the store fails.
pub fn exists(txn: &WriteTransaction, product: &Name, version: Option<&Name>) -> Result<bool, StoreError> {
    Ok(match version {
        None => txn.open_table(PRODUCTS)?.get(product.as_str())?.is_some(),
        Some(version) => txn.open_table(OBJECTS)?.get((product.as_str(), version.as_str()))?.is_some(),
    })
}

/// A page of all objects, by product and version, and whether there are more.
///
/// # Errors
/// [`StoreError`] when the table cannot be read.
pub fn list(txn: &ReadTransaction, offset: u64) -> Result<(Vec<CatalogueItem>, bool), StoreError> {
    let table = txn.open_table(OBJECTS)?;
    let mut page = Page::new();
    for row in table.iter()?.skip(page::offset(offset)) {
        let (key, row) = row?;
        let (product, version) = key.value();
        let item = item(product, version, rows::read("objects", row.value())?, None)?;
        let text = item.file.as_str().len();
        if !page.push(item, text) {
            break;
        }
    }
    Ok(page.finish())
}

/// An object as a line of a catalogue.
///
/// # Errors
/// [`StoreError::Row`] when its key does not hold names.
pub(super) fn item(
    product: &str,
    version: &str,
    row: ObjectRow,
    until: Option<Timestamp>,
) -> Result<CatalogueItem, StoreError> {
    Ok(CatalogueItem {
        product: rows::key("objects", product)?,
        version: rows::key("objects", version)?,
        file: row.file,
        size: row.size,
        sha256: row.sha256,
        download: row.download,
        until,
    })
}
