//! Looks at what was last committed.

use super::{
    HOLDERS, LEASES, LedgerError, META, Number, OBJECTS, OUTBOX, PATHS, Result, TRANSFERS, UPLOADS, key, parse, unkey,
};
use crate::rows::{Event, Lease, Object, Upload};
use redb::{ReadOnlyTable, ReadTransaction, ReadableTable, ReadableTableMetadata, TableError};
use std::ops::Bound;
use tobj::{Id, Sha256};

/// A look at the ledger as it was last committed.
pub struct Reader {
    meta: Option<ReadOnlyTable<&'static str, u64>>,
    objects: Option<ReadOnlyTable<&'static [u8; 32], &'static [u8]>>,
    leases: Option<ReadOnlyTable<u128, &'static [u8]>>,
    paths: Option<ReadOnlyTable<&'static str, u128>>,
    holders: Option<ReadOnlyTable<(&'static [u8; 32], u128), ()>>,
    uploads: Option<ReadOnlyTable<&'static [u8; 32], &'static [u8]>>,
    transfers: Option<ReadOnlyTable<u64, &'static [u8]>>,
    outbox: Option<ReadOnlyTable<u64, &'static [u8]>>,
}

/// A table, or none where nothing was ever written.
fn table<T>(opened: std::result::Result<T, TableError>) -> Result<Option<T>> {
    match opened {
        Ok(table) => Ok(Some(table)),
        Err(TableError::TableDoesNotExist(_)) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

impl Reader {
    pub(super) fn new(read: &ReadTransaction) -> Result<Self> {
        Ok(Self {
            meta: table(read.open_table(META))?,
            objects: table(read.open_table(OBJECTS))?,
            leases: table(read.open_table(LEASES))?,
            paths: table(read.open_table(PATHS))?,
            holders: table(read.open_table(HOLDERS))?,
            uploads: table(read.open_table(UPLOADS))?,
            transfers: table(read.open_table(TRANSFERS))?,
            outbox: table(read.open_table(OUTBOX))?,
        })
    }

    /// One of the numbers; 0 where it was never set.
    ///
    /// # Errors
    /// When the ledger cannot be read; so with all that follow.
    pub fn number(&self, which: Number) -> Result<u64> {
        let Some(meta) = &self.meta else { return Ok(0) };
        Ok(meta.get(which.key())?.map_or(0, |n| n.value()))
    }

    /// A lease.
    pub fn lease(&self, id: Id) -> Result<Option<Lease>> {
        let Some(leases) = &self.leases else { return Ok(None) };
        leases.get(key(id))?.map(|row| parse("leases", row.value())).transpose()
    }

    /// The standing lease at customer/product/version/file.
    pub fn lease_at(&self, path: &str) -> Result<Option<(Id, Lease)>> {
        let Some(paths) = &self.paths else { return Ok(None) };
        let Some(id) = paths.get(path)?.map(|id| unkey(id.value())) else { return Ok(None) };
        Ok(self.lease(id)?.map(|lease| (id, lease)))
    }

    /// The leases, oldest first, from the one with this index on.
    pub fn leases(&self, offset: usize) -> Result<impl Iterator<Item = Result<(Id, Lease)>>> {
        let range = self.leases.as_ref().map(ReadableTable::iter).transpose()?;
        Ok(range.into_iter().flatten().skip(offset).map(|entry| {
            let (id, row) = entry?;
            Ok::<_, LedgerError>((unkey(id.value()), parse("leases", row.value())?))
        }))
    }

    /// The object.
    pub fn object(&self, sha256: Sha256) -> Result<Option<Object>> {
        let Some(objects) = &self.objects else { return Ok(None) };
        objects.get(sha256.as_bytes())?.map(|row| parse("objects", row.value())).transpose()
    }

    /// How many leases are for an object.
    pub fn holders(&self, sha256: Sha256) -> Result<u64> {
        let Some(holders) = &self.holders else { return Ok(0) };
        let hash = sha256.as_bytes();
        holders.range((hash, 0)..=(hash, u128::MAX))?.try_fold(0, |n, entry| entry.map(|_| n + 1).map_err(Into::into))
    }

    /// What is known of an object that has come in in part.
    pub fn upload(&self, sha256: Sha256) -> Result<Option<Upload>> {
        let Some(uploads) = &self.uploads else { return Ok(None) };
        uploads.get(sha256.as_bytes())?.map(|row| parse("uploads", row.value())).transpose()
    }

    /// The objects that have come in in part.
    pub fn uploads(&self) -> Result<Vec<(Sha256, Upload)>> {
        let range = self.uploads.as_ref().map(ReadableTable::iter).transpose()?;
        let rows = range.into_iter().flatten().map(|entry| {
            let (sha256, row) = entry?;
            Ok((Sha256::from(*sha256.value()), parse("uploads", row.value())?))
        });
        rows.collect()
    }

    /// The objects, by hash, from after this one on.
    pub fn objects(&self, after: Option<Sha256>) -> Result<impl Iterator<Item = Result<(Sha256, Object)>>> {
        use std::ops::Bound::{Excluded, Unbounded};
        let from = after.as_ref().map_or(Unbounded, |sha256| Excluded(sha256.as_bytes()));
        let range = self.objects.as_ref().map(|t| t.range::<&[u8; 32]>((from, Unbounded))).transpose()?;
        Ok(range.into_iter().flatten().map(|entry| {
            let (sha256, row) = entry?;
            Ok::<_, LedgerError>((Sha256::from(*sha256.value()), parse("objects", row.value())?))
        }))
    }

    /// What the database has not acknowledged, oldest first, beginning after this number.
    pub fn outbox(&self, after: u64) -> Result<impl Iterator<Item = Result<(u64, Event)>>> {
        let others = self.number(Number::Others)?;
        let after = Bound::Excluded(after.saturating_sub(others));
        let range = self.outbox.as_ref().map(|table| table.range((after, Bound::Unbounded))).transpose()?;
        Ok(range.into_iter().flatten().map(move |entry| {
            let (key, row) = entry?;
            Ok::<_, LedgerError>((others + key.value(), parse("outbox", row.value())?))
        }))
    }

    /// How many leases, unacknowledged records and open transfers there are.
    pub fn counts(&self) -> Result<(u64, u64, u64)> {
        let count = |table: Option<std::result::Result<u64, redb::StorageError>>| table.transpose();
        Ok((
            count(self.leases.as_ref().map(ReadableTableMetadata::len))?.unwrap_or(0),
            count(self.outbox.as_ref().map(ReadableTableMetadata::len))?.unwrap_or(0),
            count(self.transfers.as_ref().map(ReadableTableMetadata::len))?.unwrap_or(0),
        ))
    }
}
