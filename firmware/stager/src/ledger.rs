//! The ledger: what is leased, what was used, what the database has still to be told. One redb file beside the tree.
//!
//! # Tables
//!
//! | table | key | value |
//! |---|---|---|
//! | `meta` | name | number: `schema`, last audit number, last transfer, kept time, last revocation, … ([`Number`]) |
//! | `objects` | SHA-256 | [`Object`] |
//! | `leases` | id | [`Lease`] |
//! | `paths` | customer/product/version/file, for a one-time lease also its id | id of the lease |
//! | `due` | (time, id) | nothing: when the sweep looks at a lease |
//! | `holders` | (SHA-256, id) | nothing: which leases are for an object |
//! | `uploads` | SHA-256 | [`Upload`]: an object that has come in in part |
//! | `withdrawn` | (customer, number) | [`Withdrawn`]: rights that were taken away lately |
//! | `grants` | (use-by, id) | [`UsedGrant`]; both are in the signed token, and by the time they can be forgotten in order |
//! | `transfers` | number | [`Transfer`] that has not ended |
//! | `outbox` | audit number | [`Event`] that the database has not acknowledged |
//!
//! Every change is one transaction of [`Ledger::write`], durable when it returns; `paths`, `due` and `holders` follow `leases` by
//! themselves.

use crate::rows::{Event, Lease, Object, Transfer, Upload, UsedGrant, Withdrawn};
use redb::{Database, ReadableDatabase, ReadableTable, Table, TableDefinition};
use serde::{Serialize, de::DeserializeOwned};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use tobj::{Id, LeaseKind, Sha256};

mod read;
pub use read::Reader;

const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
const OBJECTS: TableDefinition<'_, &[u8; 32], &[u8]> = TableDefinition::new("objects");
const LEASES: TableDefinition<'_, u128, &[u8]> = TableDefinition::new("leases");
const PATHS: TableDefinition<'_, &str, u128> = TableDefinition::new("paths");
const DUE: TableDefinition<'_, (u64, u128), ()> = TableDefinition::new("due");
const HOLDERS: TableDefinition<'_, (&[u8; 32], u128), ()> = TableDefinition::new("holders");
const UPLOADS: TableDefinition<'_, &[u8; 32], &[u8]> = TableDefinition::new("uploads");
const WITHDRAWN: TableDefinition<'_, (&str, u64), &[u8]> = TableDefinition::new("withdrawn");
const GRANTS: TableDefinition<'_, (u64, u128), &[u8]> = TableDefinition::new("grants");
const TRANSFERS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("transfers");
const OUTBOX: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("outbox");

/// The form of the tables that this version knows.
const SCHEMA: u64 = 2;
/// The form before: without `holders`, `uploads` and `withdrawn`.
const BEFORE: u64 = 1;
/// The ledger's file, in the root of the tree.
pub const FILE: &str = "ledger.redb";

/// The numbers that the ledger keeps beside its rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Number {
    /// The form of the tables.
    Schema,
    /// The last audit record's number.
    Audit,
    /// The last transfer's number.
    Transfer,
    /// The highest time that was trusted (seconds since 1970).
    Clock,
    /// The last revocation that was carried out.
    Revocation,
    /// The pass over the storeroom that is under way or was the last: see [`crate::verify`].
    Pass,
    /// When it began (seconds since 1970).
    PassBegan,
    /// Logins that were refused and are to be told as a number: see [`crate::engine::Work::Refused`].
    FoldedLogins,
    /// Requests to stage, the same.
    FoldedStagings,
    /// 1 in a ledger that is new, until the first of its audit records may be sent: see [`crate::outbox`].
    Unsent,
}

impl Number {
    fn key(self) -> &'static str {
        match self {
            Self::Schema => "schema",
            Self::Audit => "audit",
            Self::Transfer => "transfer",
            Self::Clock => "clock",
            Self::Revocation => "revocation",
            Self::Pass => "pass",
            Self::PassBegan => "pass-began",
            Self::FoldedLogins => "folded-logins",
            Self::FoldedStagings => "folded-stagings",
            Self::Unsent => "unsent",
        }
    }
}

/// Why the ledger cannot go on. After any of these, the process has to end and start anew.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// There is none, but there are files that only a ledger explains.
    #[error(
        "there is no ledger at {0}, but the storeroom or an account is not empty: put the ledger back; a new one is never made over them"
    )]
    Missing(PathBuf),
    /// It cannot be opened.
    #[error("the ledger {path} cannot be opened: put a good copy back; a new one is never made in its place")]
    Open {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: Box<redb::Error>,
    },
    /// It is of another version.
    #[error("the ledger has schema {0}, this version knows {SCHEMA}")]
    Schema(u64),
    /// A new one cannot be made.
    #[error("a new ledger cannot be made at {path}")]
    Create {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Reading or writing failed.
    #[error("the ledger failed")]
    Redb(#[source] Box<redb::Error>),
    /// A row is not what was written.
    #[error("a row of table {table} is damaged")]
    Row {
        /// The table.
        table: &'static str,
        /// Why it cannot be read.
        #[source]
        source: serde_json::Error,
    },
}

impl LedgerError {
    /// Whether it is the disk that failed, and not what is on it.
    pub fn is_of_the_disk(&self) -> bool {
        match self {
            Self::Create { .. } => true,
            Self::Open { source, .. } | Self::Redb(source) => matches!(
                **source,
                redb::Error::Io(_)
                    | redb::Error::PreviousIo
                    | redb::Error::DatabaseAlreadyOpen
                    | redb::Error::LockPoisoned(_)
            ),
            Self::Missing(_) | Self::Schema(_) | Self::Row { .. } => false,
        }
    }
}

macro_rules! from_redb {
    ($($error:ident),*) => {$(
        impl From<redb::$error> for LedgerError {
            fn from(error: redb::$error) -> Self {
                Self::Redb(Box::new(error.into()))
            }
        }
    )*};
}
from_redb!(CommitError, StorageError, TableError, TransactionError);

type Result<T> = std::result::Result<T, LedgerError>;

/// The open ledger.
#[derive(Debug)]
pub struct Ledger {
    db: Database,
}

impl Ledger {
    /// Opens the ledger of a tree; makes one where there is none and the tree holds nothing that one would explain.
    /// `scratch` is a directory on the same file system, for the ledger that is not complete yet.
    ///
    /// # Errors
    /// [`LedgerError`]; what is there is never replaced.
    pub fn open(root: &Path, scratch: &Path, tree_is_empty: bool, cache: usize) -> Result<Self> {
        let path = root.join(FILE);
        let found = path.try_exists().map_err(|source| LedgerError::Create { path: path.clone(), source })?;
        if !found {
            if !tree_is_empty {
                return Err(LedgerError::Missing(path));
            }
            Self::make(root, &scratch.join("ledger.new"), &path)?;
        }
        let opened = redb::Builder::new().set_cache_size(cache).open(&path);
        let db = opened.map_err(|e| LedgerError::Open { path, source: Box::new(e.into()) })?;
        let ledger = Self { db };
        match ledger.read()?.number(Number::Schema)? {
            SCHEMA => Ok(ledger),
            BEFORE => ledger.upgrade(),
            other => Err(LedgerError::Schema(other)),
        }
    }

    /// Brings a ledger of the form before to the present one, all of it or nothing.
    fn upgrade(self) -> Result<Self> {
        let leases: Vec<_> = self.read()?.leases(0)?.collect::<Result<_>>()?;
        self.write(|txn| {
            for (id, lease) in &leases {
                txn.holders.insert((lease.sha256.as_bytes(), key(*id)), ())?;
            }
            txn.set_number(Number::Schema, SCHEMA)
        })?;
        tracing::info!(leases = leases.len(), "the ledger was brought from schema {BEFORE} to {SCHEMA}");
        Ok(self)
    }

    /// Makes an empty ledger under another name, so that a half-made one is never taken for one.
    fn make(root: &Path, scratch: &Path, path: &Path) -> Result<()> {
        let create = |source| LedgerError::Create { path: path.to_owned(), source };
        match std::fs::remove_file(scratch) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(create(error)),
            _ => {}
        }
        std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(scratch).map_err(create)?;
        let db = redb::Builder::new().create(scratch);
        let db = db.map_err(|e| LedgerError::Open { path: scratch.to_owned(), source: Box::new(e.into()) })?;
        let ledger = Self { db };
        ledger.write(|txn| {
            txn.set_number(Number::Unsent, 1)?;
            txn.set_number(Number::Schema, SCHEMA)
        })?;
        drop(ledger);
        crate::killpoint::hit(crate::killpoint::Point::BeforeLedgerName);
        std::fs::File::open(scratch).and_then(|f| f.sync_all()).map_err(create)?;
        std::fs::rename(scratch, path).map_err(create)?;
        std::fs::File::open(root).and_then(|d| d.sync_all()).map_err(create)
    }

    /// A ledger on another store, for tests of failing disks.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn on_backend(backend: impl redb::StorageBackend) -> Result<Self> {
        let db = redb::Builder::new().create_with_backend(backend);
        let db = db.map_err(|e| LedgerError::Open { path: PathBuf::new(), source: Box::new(e.into()) })?;
        let ledger = Self { db };
        ledger.write(|txn| txn.set_number(Number::Schema, SCHEMA))?;
        Ok(ledger)
    }

    /// Makes one change, all of it or nothing; durable when this returns.
    ///
    /// # Errors
    /// What `change` gives, or [`LedgerError`] when it cannot be committed.
    pub fn write<T>(&self, change: impl FnOnce(&mut Txn<'_>) -> Result<T>) -> Result<T> {
        let mut write = self.db.begin_write()?;
        // The default, but the whole design stands on it.
        let durable = write.set_durability(redb::Durability::Immediate);
        debug_assert!(durable.is_ok(), "only savepoints make this fail");
        let value = {
            let mut txn = Txn::new(&write)?;
            let value = change(&mut txn)?;
            txn.finish()?;
            value
        };
        write.commit()?;
        Ok(value)
    }

    /// A look at what was last committed.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn read(&self) -> Result<Reader> {
        Reader::new(&self.db.begin_read()?)
    }
}

/// A change under way.
pub struct Txn<'t> {
    meta: Table<'t, &'static str, u64>,
    objects: Table<'t, &'static [u8; 32], &'static [u8]>,
    leases: Table<'t, u128, &'static [u8]>,
    paths: Table<'t, &'static str, u128>,
    due: Table<'t, (u64, u128), ()>,
    holders: Table<'t, (&'static [u8; 32], u128), ()>,
    uploads: Table<'t, &'static [u8; 32], &'static [u8]>,
    withdrawn: Table<'t, (&'static str, u64), &'static [u8]>,
    grants: Table<'t, (u64, u128), &'static [u8]>,
    transfers: Table<'t, u64, &'static [u8]>,
    outbox: Table<'t, u64, &'static [u8]>,
    /// The last audit number, once it was asked for; written at the end.
    audit: Option<u64>,
}

impl<'t> Txn<'t> {
    fn new(write: &'t redb::WriteTransaction) -> Result<Self> {
        Ok(Self {
            meta: write.open_table(META)?,
            objects: write.open_table(OBJECTS)?,
            leases: write.open_table(LEASES)?,
            paths: write.open_table(PATHS)?,
            due: write.open_table(DUE)?,
            holders: write.open_table(HOLDERS)?,
            uploads: write.open_table(UPLOADS)?,
            withdrawn: write.open_table(WITHDRAWN)?,
            grants: write.open_table(GRANTS)?,
            transfers: write.open_table(TRANSFERS)?,
            outbox: write.open_table(OUTBOX)?,
            audit: None,
        })
    }

    fn finish(mut self) -> Result<()> {
        if let Some(last) = self.audit.take() {
            self.set_number(Number::Audit, last)?;
        }
        Ok(())
    }

    /// One of the numbers; 0 where it was never set.
    ///
    /// # Errors
    /// When the ledger cannot be read; so with all that follow.
    pub fn number(&self, which: Number) -> Result<u64> {
        Ok(self.meta.get(which.key())?.map_or(0, |n| n.value()))
    }

    /// Sets one of the numbers.
    pub fn set_number(&mut self, which: Number, value: u64) -> Result<()> {
        self.meta.insert(which.key(), value)?;
        Ok(())
    }

    /// An object.
    pub fn object(&self, sha256: Sha256) -> Result<Option<Object>> {
        self.objects.get(sha256.as_bytes())?.map(|row| parse("objects", row.value())).transpose()
    }

    /// Adds or changes an object.
    pub fn put_object(&mut self, sha256: Sha256, object: &Object) -> Result<()> {
        self.objects.insert(sha256.as_bytes(), &*render("objects", object)?)?;
        Ok(())
    }

    /// Drops an object.
    pub fn remove_object(&mut self, sha256: Sha256) -> Result<()> {
        self.objects.remove(sha256.as_bytes())?;
        Ok(())
    }

    /// The leases for an object from after this one on, at most `limit`.
    pub fn holders(&self, sha256: Sha256, after: Option<Id>, limit: usize) -> Result<Vec<Id>> {
        let first = after.map_or(Some(0), |id| key(id).checked_add(1));
        let Some(first) = first else { return Ok(Vec::new()) };
        let hash = sha256.as_bytes();
        let range = self.holders.range((hash, first)..=(hash, u128::MAX))?;
        range.take(limit).map(|entry| Ok(unkey(entry?.0.value().1))).collect()
    }

    /// What is known of an object that has come in in part.
    pub fn upload(&self, sha256: Sha256) -> Result<Option<Upload>> {
        self.uploads.get(sha256.as_bytes())?.map(|row| parse("uploads", row.value())).transpose()
    }

    /// Notes how far an object has come in.
    pub fn put_upload(&mut self, sha256: Sha256, upload: &Upload) -> Result<()> {
        self.uploads.insert(sha256.as_bytes(), &*render("uploads", upload)?)?;
        Ok(())
    }

    /// Forgets that an object has come in in part.
    pub fn remove_upload(&mut self, sha256: Sha256) -> Result<()> {
        self.uploads.remove(sha256.as_bytes())?;
        Ok(())
    }

    /// The objects that have come in in part, and of which nothing came since before this time.
    pub fn uploads_before(&self, time: u64) -> Result<Vec<Sha256>> {
        let mut old = Vec::new();
        for entry in self.uploads.iter()? {
            let (sha256, row) = entry?;
            if parse::<Upload>("uploads", row.value())?.at < time {
                old.push(Sha256::from(*sha256.value()));
            }
        }
        Ok(old)
    }

    /// What was withdrawn from a customer lately.
    pub fn withdrawn(&self, customer: &str) -> Result<Vec<Withdrawn>> {
        let range = self.withdrawn.range((customer, 0)..=(customer, u64::MAX))?;
        range.map(|entry| parse("withdrawn", entry?.1.value())).collect()
    }

    /// Notes what was withdrawn from a customer, and forgets what was before `old`.
    pub fn withdraw(&mut self, customer: &str, what: &Withdrawn, old: u64) -> Result<()> {
        let mut kept: Vec<Withdrawn> = self.withdrawn(customer)?;
        self.withdrawn.retain_in((customer, 0)..=(customer, u64::MAX), |_, _| false)?;
        kept.retain(|row| row.at >= old && row != what);
        kept.push(what.clone());
        for (number, row) in (0..).zip(&kept) {
            self.withdrawn.insert((customer, number), &*render("withdrawn", row)?)?;
        }
        Ok(())
    }

    /// A lease.
    pub fn lease(&self, id: Id) -> Result<Option<Lease>> {
        self.leases.get(key(id))?.map(|row| parse("leases", row.value())).transpose()
    }

    /// The standing lease at this path.
    pub fn lease_at(&self, path: &str) -> Result<Option<(Id, Lease)>> {
        let Some(id) = self.paths.get(path)?.map(|id| unkey(id.value())) else { return Ok(None) };
        Ok(self.lease(id)?.map(|lease| (id, lease)))
    }

    /// Adds or changes a lease.
    pub fn put_lease(&mut self, id: Id, lease: &Lease) -> Result<()> {
        let row = render("leases", lease)?;
        let old: Option<Lease> =
            self.leases.insert(key(id), &*row)?.map(|row| parse("leases", row.value())).transpose()?;
        match &old {
            Some(old) if old.due() == lease.due() => {}
            Some(old) => {
                self.due.remove((old.due(), key(id)))?;
                self.due.insert((lease.due(), key(id)), ())?;
            }
            None => {
                self.due.insert((lease.due(), key(id)), ())?;
                self.paths.insert(&*path_key(id, lease), key(id))?;
                self.holders.insert((lease.sha256.as_bytes(), key(id)), ())?;
            }
        }
        Ok(())
    }

    /// Drops a lease.
    pub fn remove_lease(&mut self, id: Id) -> Result<Option<Lease>> {
        let old: Option<Lease> = self.leases.remove(key(id))?.map(|row| parse("leases", row.value())).transpose()?;
        if let Some(old) = &old {
            self.due.remove((old.due(), key(id)))?;
            self.paths.remove(&*path_key(id, old))?;
            self.holders.remove((old.sha256.as_bytes(), key(id)))?;
        }
        Ok(old)
    }

    /// The leases that the sweep has to look at by this time, at most `limit`.
    pub fn due(&self, now: u64, limit: usize) -> Result<Vec<Id>> {
        let range = self.due.range(..=(now, u128::MAX))?;
        range.take(limit).map(|entry| Ok(unkey(entry?.0.value().1))).collect()
    }

    /// The leases of a customer whose product and version, where given, are these.
    pub fn leases_of(&self, customer: &str, product: Option<&str>, version: Option<&str>) -> Result<Vec<Id>> {
        let mut prefix = format!("{customer}/");
        for part in product.into_iter().chain(version.filter(|_| product.is_some())) {
            prefix.push_str(part);
            prefix.push('/');
        }
        let mut found = Vec::new();
        for entry in self.paths.range(&*prefix..)? {
            let (path, id) = entry?;
            if !path.value().starts_with(&prefix) {
                break;
            }
            found.push(unkey(id.value()));
        }
        Ok(found)
    }

    /// A used grant.
    pub fn grant(&self, use_by: u64, id: Id) -> Result<Option<UsedGrant>> {
        self.grants.get((use_by, key(id)))?.map(|row| parse("grants", row.value())).transpose()
    }

    /// Marks a grant as used.
    pub fn put_grant(&mut self, use_by: u64, id: Id, used: &UsedGrant) -> Result<()> {
        self.grants.insert((use_by, key(id)), &*render("grants", used)?)?;
        Ok(())
    }

    /// Makes a grant one that was not used.
    pub fn remove_grant(&mut self, use_by: u64, id: Id) -> Result<()> {
        self.grants.remove((use_by, key(id)))?;
        Ok(())
    }

    /// Forgets grants that could be used until before this time, at most `limit` of them; says how many.
    pub fn forget_grants(&mut self, before: u64, limit: usize) -> Result<usize> {
        let old: std::result::Result<Vec<_>, redb::StorageError> =
            self.grants.range(..(before, 0))?.take(limit).map(|entry| Ok(entry?.0.value())).collect();
        let old = old?;
        for grant in &old {
            self.grants.remove(*grant)?;
        }
        Ok(old.len())
    }

    /// Records a transfer that begins; its number is a new one.
    pub fn begin_transfer(&mut self, transfer: &Transfer) -> Result<u64> {
        let number = self.number(Number::Transfer)? + 1;
        self.set_number(Number::Transfer, number)?;
        self.transfers.insert(number, &*render("transfers", transfer)?)?;
        Ok(number)
    }

    /// Notes how far a transfer is; nothing when it has ended.
    pub fn note_transfer(&mut self, number: u64, bytes: u64, milliseconds: u64) -> Result<()> {
        let row = self.transfers.get(number)?.map(|row| parse::<Transfer>("transfers", row.value())).transpose()?;
        if let Some(mut transfer) = row {
            transfer.bytes = transfer.bytes.max(bytes);
            transfer.milliseconds = transfer.milliseconds.max(milliseconds);
            self.transfers.insert(number, &*render("transfers", &transfer)?)?;
        }
        Ok(())
    }

    /// Takes a transfer that ends.
    pub fn end_transfer(&mut self, number: u64) -> Result<Option<Transfer>> {
        self.transfers.remove(number)?.map(|row| parse("transfers", row.value())).transpose()
    }

    /// The transfers that have not ended.
    pub fn open_transfers(&self) -> Result<Vec<u64>> {
        self.transfers.iter()?.map(|entry| Ok(entry?.0.value())).collect()
    }

    /// Puts an event into the outbox, with the next number.
    pub fn log(&mut self, event: &Event) -> Result<u64> {
        let seq = self.last_logged()? + 1;
        self.outbox.insert(seq, &*render("outbox", event)?)?;
        self.audit = Some(seq);
        Ok(seq)
    }

    fn last_logged(&self) -> Result<u64> {
        match self.audit {
            Some(last) => Ok(last),
            None => self.number(Number::Audit),
        }
    }

    /// Has the events of the outbox, and those to come, follow this number. For a ledger that has sent none of them.
    pub fn number_after(&mut self, after: u64) -> Result<()> {
        let last = self.last_logged()?;
        if after > 0 {
            // The last one first: what it moves to is above all others, or was left just now.
            for seq in (1..=last).rev() {
                let row = self.outbox.remove(seq)?.map(|row| row.value().to_vec());
                if let Some(row) = row {
                    self.outbox.insert(seq + after, &*row)?;
                }
            }
            self.audit = Some(last + after);
        }
        self.set_number(Number::Unsent, 0)
    }

    /// Drops what the database has acknowledged.
    pub fn acknowledge(&mut self, upto: u64) -> Result<()> {
        self.outbox.retain_in(..=upto, |_, _| false)?;
        Ok(())
    }
}

/// The path of a lease as a key. That of a one-time lease has the lease as one more part, so that it is not that of a standing one.
fn path_key(id: Id, lease: &Lease) -> String {
    let path = format!("{}/{}/{}/{}", lease.customer, lease.product, lease.version, lease.file);
    match lease.kind {
        LeaseKind::Standing => path,
        LeaseKind::OneTime => format!("{path}/{id}"),
    }
}

fn key(id: Id) -> u128 {
    u128::from_be_bytes(*id.as_bytes())
}

fn unkey(key: u128) -> Id {
    Id::from(key.to_be_bytes())
}

fn parse<T: DeserializeOwned>(table: &'static str, row: &[u8]) -> Result<T> {
    serde_json::from_slice(row).map_err(|source| LedgerError::Row { table, source })
}

fn render<T: Serialize>(table: &'static str, row: &T) -> Result<Vec<u8>> {
    serde_json::to_vec(row).map_err(|source| LedgerError::Row { table, source })
}

#[cfg(test)]
mod tests;
