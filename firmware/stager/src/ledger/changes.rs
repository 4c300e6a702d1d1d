//! What a transaction changes, written down for the log, and made again from there.
//!
//! A change is the number of the table (one byte, [`REMOVED`] added where the row goes), the length of the key (four bytes), with a row
//! that comes or changes the length of the value (four bytes), then key and value in redb's own form. It says what is there after it,
//! not what was done: made again, once or often, it comes to the same.

use super::log::{HEADER, LogError};
use super::{LedgerError, Result};
use redb::{AccessGuard, Key, ReadableTable, StorageError, Table, Value};
use std::borrow::Borrow;
use std::cell::RefCell;
use std::ops::{Deref, RangeBounds};
use std::rc::Rc;

const REMOVED: u8 = 0x80;

/// The changes of one transaction so far, behind room for the header of a record.
#[derive(Debug, Clone)]
pub(super) struct Changes(Rc<RefCell<Vec<u8>>>);

impl Changes {
    pub(super) fn new() -> Self {
        Self(Rc::new(RefCell::new(vec![0; HEADER])))
    }

    /// All of them; none where nothing was changed.
    pub(super) fn take(&self) -> Option<Vec<u8>> {
        let all = std::mem::take(&mut *self.0.borrow_mut());
        (all.len() > HEADER).then_some(all)
    }

    fn add(&self, table: u8, key: &[u8], value: Option<&[u8]>) {
        // Keys and values are rows of a few hundred bytes.
        let len = |bytes: &[u8]| u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_le_bytes();
        let mut all = self.0.borrow_mut();
        all.push(if value.is_some() { table } else { table | REMOVED });
        all.extend(len(key));
        all.extend(value.map(len).iter().flatten());
        all.extend(key);
        all.extend(value.unwrap_or_default());
    }
}

/// A change that was read: table, key, and the value unless the row goes.
pub(super) type Change<'a> = (u8, &'a [u8], Option<&'a [u8]>);

/// The changes of a record.
pub(super) fn read(mut changes: &[u8]) -> impl Iterator<Item = Result<Change<'_>>> {
    std::iter::from_fn(move || (!changes.is_empty()).then(|| take(&mut changes).ok_or(unreadable())))
}

/// Its hash was right: it was written by another version.
pub(super) fn unreadable() -> LedgerError {
    LedgerError::Log(LogError::Form)
}

fn take<'a>(from: &mut &'a [u8]) -> Option<Change<'a>> {
    let [table] = *from.split_off(..1)? else { return None };
    let length = |from: &mut &'a [u8]| {
        let bytes = from.split_off(..4)?.try_into().ok()?;
        usize::try_from(u32::from_le_bytes(bytes)).ok()
    };
    let key = length(from)?;
    let value = if table & REMOVED == 0 { Some(length(from)?) } else { None };
    let key = from.split_off(..key)?;
    let value = match value {
        Some(len) => Some(from.split_off(..len)?),
        None => None,
    };
    Some((table & !REMOVED, key, value))
}

/// A table whose changes are written down. It is read as itself.
pub(super) struct Logged<'t, K: Key + 'static, V: Value + 'static> {
    table: Table<'t, K, V>,
    number: u8,
    changes: Changes,
}

impl<'t, K: Key + 'static, V: Value + 'static> Deref for Logged<'t, K, V> {
    type Target = Table<'t, K, V>;

    fn deref(&self) -> &Self::Target {
        &self.table
    }
}

impl<'t, K: Key + 'static, V: Value + 'static> Logged<'t, K, V> {
    pub(super) fn new(table: Table<'t, K, V>, number: u8, changes: &Changes) -> Self {
        Self { table, number, changes: changes.clone() }
    }

    pub(super) fn insert<'k, 'v>(
        &mut self,
        key: impl Borrow<K::SelfType<'k>>,
        value: impl Borrow<V::SelfType<'v>>,
    ) -> std::result::Result<Option<AccessGuard<'_, V>>, StorageError> {
        let (bytes, row) = (K::as_bytes(key.borrow()), V::as_bytes(value.borrow()));
        self.changes.add(self.number, bytes.as_ref(), Some(row.as_ref()));
        drop((bytes, row));
        self.table.insert(key, value)
    }

    pub(super) fn remove<'k>(
        &mut self,
        key: impl Borrow<K::SelfType<'k>>,
    ) -> std::result::Result<Option<AccessGuard<'_, V>>, StorageError> {
        self.changes.add(self.number, K::as_bytes(key.borrow()).as_ref(), None);
        self.table.remove(key)
    }

    /// Removes all rows with such keys.
    pub(super) fn remove_range<'k, KR: Borrow<K::SelfType<'k>> + 'k>(
        &mut self,
        range: impl RangeBounds<KR> + 'k,
    ) -> std::result::Result<(), StorageError> {
        let keys = self.table.range(range)?;
        let keys = keys.map(|entry| Ok::<_, StorageError>(K::as_bytes(&entry?.0.value()).as_ref().to_vec()));
        for key in keys.collect::<std::result::Result<Vec<_>, _>>()? {
            self.remove(K::from_bytes(&key))?;
        }
        Ok(())
    }

    /// Makes a change again.
    pub(super) fn replay(&mut self, key: &[u8], value: Option<&[u8]>) -> Result<()> {
        match value {
            Some(value) => drop(self.table.insert(K::from_bytes(key), V::from_bytes(value))?),
            None => drop(self.table.remove(K::from_bytes(key))?),
        }
        Ok(())
    }
}
