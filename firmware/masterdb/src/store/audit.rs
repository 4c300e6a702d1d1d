//! The audit trail.
//!
//! It only grows. An appliance numbers its records from 1 without gaps and sends them until they are acknowledged; the trail keeps
//! each (appliance, number) once. The database's own records are in it under its own name.

use super::StoreError;
use super::rows::{self, AuditRow};
use super::tables::{AUDIT, AUDIT_NUMBERS, Row};
use crate::page::Page;
use redb::{ReadTransaction, ReadableTable, Table, WriteTransaction};
use tobj::{AuditEntry, AuditEvent, AuditRecord, Name, Sha256, Text, Timestamp};

/// What became of records that an appliance reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reported {
    /// All records of the appliance up to this number are in the trail.
    Upto(u64),
    /// This number was expected next, that one came. Nothing was added.
    Gap {
        /// The next one.
        expected: u64,
        /// What came in its place.
        found: u64,
    },
    /// A record of this number is in the trail and says something else. Nothing was added: to acknowledge it would lose it.
    Conflict(u64),
}

/// What the database has to say itself.
#[derive(Debug, Clone)]
pub struct Own {
    /// What happened.
    pub event: AuditEvent,
    /// The customer, as far as known; for a refused login what was typed.
    pub customer: Option<Text>,
    /// The address of the client.
    pub address: Option<Text>,
    /// The object.
    pub sha256: Option<Sha256>,
    /// In words.
    pub outcome: Text,
}

struct Trail<'txn> {
    entries: Table<'txn, u64, Row>,
    numbers: Table<'txn, (&'static str, u64), u64>,
}

impl<'txn> Trail<'txn> {
    fn open(txn: &'txn WriteTransaction) -> Result<Self, StoreError> {
        Ok(Self { entries: txn.open_table(AUDIT)?, numbers: txn.open_table(AUDIT_NUMBERS)? })
    }

    fn last_of(&self, appliance: &Name) -> Result<u64, StoreError> {
        let name = appliance.as_str();
        let last = self.numbers.range((name, 0)..=(name, u64::MAX))?.next_back().transpose()?;
        Ok(last.map_or(0, |(key, _)| key.value().1))
    }

    fn find(&self, appliance: &Name, seq: u64) -> Result<Option<AuditRow>, StoreError> {
        let Some(index) = self.numbers.get((appliance.as_str(), seq))? else { return Ok(None) };
        self.entries.get(index.value())?.map(|row| rows::read("audit", row.value())).transpose()
    }

    fn append(&mut self, row: &AuditRow, appliance: &Name, seq: u64) -> Result<(), StoreError> {
        let index = self.entries.last()?.map_or(0, |(index, _)| index.value()).saturating_add(1);
        self.entries.insert(index, rows::write("audit", row)?.as_slice())?;
        self.numbers.insert((appliance.as_str(), seq), index)?;
        Ok(())
    }
}

/// Adds what an appliance reports, as far as it is not in the trail yet. Without any record it tells how far the trail is: so an
/// appliance whose ledger is new, or went back, finds out before it numbers anything.
///
/// # Errors
/// [`StoreError`] when the store fails.
pub fn report(txn: &WriteTransaction, appliance: &Name, records: Vec<AuditRecord>) -> Result<Reported, StoreError> {
    let mut trail = Trail::open(txn)?;
    let last = trail.last_of(appliance)?;
    let mut expected = last.saturating_add(1);
    let mut new = Vec::with_capacity(records.len());
    for record in records {
        let seq = record.seq;
        let row = AuditRow::new(appliance.clone(), record);
        if seq > last {
            if seq != expected {
                return Ok(Reported::Gap { expected, found: seq });
            }
            expected = expected.saturating_add(1);
            new.push((seq, row));
        } else if trail.find(appliance, seq)?.as_ref() != Some(&row) {
            return Ok(Reported::Conflict(seq));
        }
    }
    for (seq, row) in &new {
        trail.append(row, appliance, *seq)?;
    }
    Ok(Reported::Upto(expected - 1))
}

/// Adds a record of the database itself.
///
/// # Errors
/// [`StoreError`] when the store fails.
pub fn own(txn: &WriteTransaction, name: &Name, what: Own, now: Timestamp) -> Result<(), StoreError> {
    let mut trail = Trail::open(txn)?;
    let seq = trail.last_of(name)?.saturating_add(1);
    let record = AuditRecord {
        seq,
        at: now,
        event: what.event,
        customer: what.customer,
        address: what.address,
        lease: None,
        sha256: what.sha256,
        offset: None,
        bytes: None,
        milliseconds: None,
        tls: None,
        outcome: Some(what.outcome),
    };
    trail.append(&AuditRow::new(name.clone(), record), name, seq)
}

/// A page of the trail after this index, and whether there is more.
///
/// # Errors
/// [`StoreError`] when the table cannot be read.
pub fn list(txn: &ReadTransaction, after: u64) -> Result<(Vec<AuditEntry>, bool), StoreError> {
    let table = txn.open_table(AUDIT)?;
    let mut page = Page::new();
    let Some(first) = after.checked_add(1) else { return Ok(page.finish()) };
    for row in table.range(first..)? {
        let (index, row) = row?;
        let entry = rows::read::<AuditRow>("audit", row.value())?.entry(index.value());
        let text = [&entry.record.customer, &entry.record.address, &entry.record.outcome];
        let text = text.into_iter().flatten().map(|t| t.as_str().len()).sum();
        if !page.push(entry, text) {
            break;
        }
    }
    Ok(page.finish())
}
