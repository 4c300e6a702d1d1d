//! The tables, and the version of their layout.

use super::StoreError;
use redb::{Database, ReadTransaction, ReadableTable, TableDefinition};
use tobj::Timestamp;

/// The layout that this version writes.
pub const SCHEMA: u64 = 1;

/// A row as JSON, so that a later version can add to it and an earlier one, after a fall-back, still reads it.
pub type Row = &'static [u8];
/// An ID of 128 bits.
pub type Key = &'static [u8; 16];

/// `schema` → [`SCHEMA`], `made` → when the store was made (seconds since 1970), which those of the first versions do not have.
pub const META: TableDefinition<&str, u64> = TableDefinition::new("meta");
/// Customer → [`CustomerRow`](super::rows::CustomerRow).
pub const CUSTOMERS: TableDefinition<&str, Row> = TableDefinition::new("customers");
/// Product → [`ProductRow`](super::rows::ProductRow).
pub const PRODUCTS: TableDefinition<&str, Row> = TableDefinition::new("products");
/// Product, version → [`ObjectRow`](super::rows::ObjectRow).
pub const OBJECTS: TableDefinition<(&str, &str), Row> = TableDefinition::new("objects");
/// Customer, product, version or nothing for all of them → [`EntitlementRow`](super::rows::EntitlementRow).
pub const ENTITLEMENTS: TableDefinition<(&str, &str, &str), Row> = TableDefinition::new("entitlements");
/// Number, from 1 → [`RevocationRow`](super::rows::RevocationRow).
pub const REVOCATIONS: TableDefinition<u64, Row> = TableDefinition::new("revocations");
/// Index, from 1 → [`AuditRow`](super::rows::AuditRow).
pub const AUDIT: TableDefinition<u64, Row> = TableDefinition::new("audit");
/// Appliance, its number → index.
pub const AUDIT_NUMBERS: TableDefinition<(&str, u64), u64> = TableDefinition::new("audit-numbers");
/// Grant → [`GrantRow`](super::rows::GrantRow).
pub const GRANTS: TableDefinition<Key, Row> = TableDefinition::new("grants");
/// End of the lease, grant: the order in which grants are forgotten.
pub const GRANT_ENDS: TableDefinition<(u64, Key), ()> = TableDefinition::new("grant-ends");
/// Request → the grant that answered it.
pub const GRANT_REQUESTS: TableDefinition<Key, Key> = TableDefinition::new("grant-requests");
/// Request of an operator → [`RequestRow`](super::rows::RequestRow).
pub const REQUESTS: TableDefinition<Key, Row> = TableDefinition::new("requests");
/// Number → request: the order in which requests are forgotten.
pub const REQUEST_ORDER: TableDefinition<u64, Key> = TableDefinition::new("request-order");

/// Makes the tables that are missing and checks the layout.
///
/// # Errors
/// [`StoreError::Newer`] for a layout that this version does not know.
pub(super) fn prepare(database: &Database) -> Result<(), StoreError> {
    let txn = database.begin_write()?;
    let found = txn.open_table(META)?.get("schema")?.map(|v| v.value());
    match found {
        Some(found) if found > SCHEMA => return Err(StoreError::Newer { found, known: SCHEMA }),
        Some(_) => {}
        None => {
            let mut meta = txn.open_table(META)?;
            meta.insert("schema", SCHEMA)?;
            meta.insert("made", Timestamp::now().0)?;
        }
    }
    txn.open_table(CUSTOMERS)?;
    txn.open_table(PRODUCTS)?;
    txn.open_table(OBJECTS)?;
    txn.open_table(ENTITLEMENTS)?;
    txn.open_table(REVOCATIONS)?;
    txn.open_table(AUDIT)?;
    txn.open_table(AUDIT_NUMBERS)?;
    txn.open_table(GRANTS)?;
    txn.open_table(GRANT_ENDS)?;
    txn.open_table(GRANT_REQUESTS)?;
    txn.open_table(REQUESTS)?;
    txn.open_table(REQUEST_ORDER)?;
    txn.commit()?;
    Ok(())
}

/// When the store was made, if it knows.
///
/// # Errors
/// [`StoreError`] when the table cannot be read.
pub fn made(txn: &ReadTransaction) -> Result<Option<Timestamp>, StoreError> {
    Ok(txn.open_table(META)?.get("made")?.map(|at| Timestamp(at.value())))
}
