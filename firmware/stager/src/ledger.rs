//! The ledger: what is leased, what was used, what the database has still to be told. A redb file and its log, beside the tree.
//!
//! # Tables
//!
//! | table | key | value |
//! |---|---|---|
//! | `meta` | name | number: `schema`, last audit number, last transfer, kept time, last revocation, … ([`Number`]) |
//! | `objects` | SHA-256 | [`Object`](crate::rows::Object) |
//! | `leases` | id | [`Lease`] |
//! | `paths` | customer/product/version/file, for a one-time lease also its id | id of the lease |
//! | `due` | (time, id) | nothing: when the sweep looks at a lease |
//! | `holders` | (SHA-256, id) | nothing: which leases are for an object |
//! | `uploads` | SHA-256 | [`Upload`](crate::rows::Upload): an object that has come in in part |
//! | `withdrawn` | (customer, number) | [`Withdrawn`](crate::rows::Withdrawn): rights that were taken away lately |
//! | `grants` | (use-by, id) | [`UsedGrant`](crate::rows::UsedGrant); both are in the signed token, and by the time they can be forgotten in order |
//! | `grants` | (2⁶⁴ - 1, request) and (2⁶⁴ - 2, number) | [`DoneOrder`](crate::rows::DoneOrder) of an operator, and in which order they came |
//! | `transfers` | number | [`Transfer`](crate::rows::Transfer) that has not ended |
//! | `outbox` | audit number less [`Number::Others`] | [`Event`](crate::rows::Event) that the database has not acknowledged |
//!
//! Every change is one transaction of [`Ledger::write`], durable when it returns; `paths`, `due` and `holders` follow `leases` by
//! themselves.
//!
//! # Order of durable steps
//!
//! 1. The change is made in a transaction of redb, which nobody sees yet.
//! 2. What it changes goes into the [`log`], with one write and one sync. **Now it is durable.**
//! 3. The transaction is committed in memory, so that readers see it.
//!
//! Where the log has no room, the transaction itself is committed durably instead, with all before it: a *checkpoint*. From then on the
//! log is written from its beginning. There is one at the end of the daemon, and at a start that finds records which redb does not have.
//!
//! Each transaction has a number, which is that of its record, and is committed with it. So redb knows up to which record it holds
//! everything, whatever became durable in it and when.
//!
//! Killed before 2 was done, nothing has happened. Killed after it, the next start finds the record behind those that redb holds, and
//! makes its changes again. Killed in a checkpoint, redb has all of it or nothing of it; what it does not have then is still in the log,
//! but for the change that the checkpoint was made with, of which nobody was told.

use crate::killpoint::{Point, hit};
use crate::rows::Lease;
use log::{Log, LogError};
use redb::backends::FileBackend;
use redb::{Database, Durability, ReadableDatabase, StorageBackend, TableDefinition, WriteTransaction};
use serde::{Serialize, de::DeserializeOwned};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;
use tobj::{Id, LeaseKind};

mod changes;
pub mod log;
mod read;
mod txn;

pub use read::Reader;
pub use txn::Txn;

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

/// Orders that were done are kept with the grants, under times that no token can name. So they are in a ledger of any form, and in its log,
/// and a version that knows nothing of them leaves them alone.
const ORDERS: u64 = u64::MAX;
/// The same, under numbers that rise.
const ORDER_NUMBERS: u64 = u64::MAX - 1;
/// How many orders are known; the oldest is forgotten for one more. Nobody retries for as long as so many take.
pub const ORDERS_KEPT: u128 = 10_000;

/// The form of the tables that this version knows.
const SCHEMA: u64 = 3;
/// The first form: without `holders`, `uploads` and `withdrawn`.
const FIRST: u64 = 1;
/// The form before: without a log.
const BEFORE: u64 = 2;
/// The ledger's file, in the root of the tree.
pub const FILE: &str = "ledger.redb";
/// Its log's.
pub const LOG: &str = "ledger.log";

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
    /// How many audit records the database had of the ledger before this one: the first of this one's follows them.
    Others,
    /// 1 in a ledger that is new, until the first of its audit records may be sent: see [`crate::outbox`].
    Unsent,
    /// What the records of this ledger's log have in front, so that they are not taken for those of another.
    Mark,
    /// The last record of the log that redb holds.
    Held,
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
            Self::Others => "others",
            Self::Unsent => "unsent",
            Self::Mark => "mark",
            Self::Held => "held",
        }
    }
}

/// Why the ledger cannot go on. After any of these, it has to be opened anew.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// There is none, but there are files that only a ledger explains.
    #[error(
        "there is no ledger at {0}, but the storeroom, an account or the ledger's log is not empty: put the ledger back; a new one is never made over them"
    )]
    Missing(PathBuf),
    /// It cannot be opened.
    #[error(
        "the ledger {path} cannot be opened: put a good copy of it and its log back; a new one is never made in its place"
    )]
    Open {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: Box<redb::Error>,
    },
    /// It is of another version.
    #[error(
        "the ledger has schema {0}, this version knows {SCHEMA}: update the machine to the version that wrote it, or put back a ledger and \
         its log that this one knows"
    )]
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
    /// The ledger's log is not there.
    #[error(
        "the ledger's log {0} is missing: what was acknowledged last may be in it alone; put it back beside the ledger"
    )]
    NoLog(PathBuf),
    /// The log cannot be read or written.
    #[error(transparent)]
    Log(#[from] LogError),
    /// A row is not what was written.
    #[error("a row of the ledger's table {table} is damaged: put back ledger and log of one moment")]
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
            Self::Create { .. } | Self::Log(LogError::Io(_) | LogError::Failed) => true,
            Self::Open { source, .. } | Self::Redb(source) => matches!(
                **source,
                redb::Error::Io(_)
                    | redb::Error::PreviousIo
                    | redb::Error::DatabaseAlreadyOpen
                    | redb::Error::LockPoisoned(_)
            ),
            Self::Missing(_) | Self::NoLog(_) | Self::Schema(_) | Self::Row { .. } => false,
            Self::Log(LogError::Damaged(_) | LogError::Foreign | LogError::Short(_) | LogError::Form) => false,
        }
    }
}

/// What tells whether somebody has put ledger or log there, or is still about it.
pub(crate) fn files(root: &Path) -> [Option<(u64, u64, SystemTime)>; 2] {
    [FILE, LOG].map(|name| {
        let file = std::fs::metadata(root.join(name)).ok()?;
        Some((file.ino(), file.len(), file.modified().ok()?))
    })
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

/// How much of the machine a ledger may use.
#[derive(Debug, Clone, Copy)]
pub struct Sizes {
    /// Memory for its pages (bytes).
    pub cache: usize,
    /// Bytes of its log, within [`log::BOUNDS`].
    pub log: u64,
}

/// The open ledger.
#[derive(Debug)]
pub struct Ledger {
    db: Database,
    /// Held from the beginning of a transaction to its end: records come in the order of commits.
    log: Mutex<Log>,
}

impl Ledger {
    /// Opens the ledger of a tree; makes one where there is none and the tree holds nothing that one would explain.
    /// `scratch` is a directory on the same file system, for the ledger that is not complete yet.
    ///
    /// # Errors
    /// [`LedgerError`]; what is there is never replaced.
    pub fn open(root: &Path, scratch: &Path, tree_is_empty: bool, sizes: Sizes) -> Result<Self> {
        let path = root.join(FILE);
        let found = path.try_exists().map_err(|source| LedgerError::Create { path: path.clone(), source })?;
        if !found {
            if !tree_is_empty {
                return Err(LedgerError::Missing(path));
            }
            make(root, scratch, &path, sizes.log)?;
        }
        let opened = redb::Builder::new().set_cache_size(sizes.cache).open(&path);
        let db = opened.map_err(|e| LedgerError::Open { path, source: Box::new(e.into()) })?;
        match number(&db, Number::Schema)? {
            SCHEMA => {}
            before @ (FIRST | BEFORE) => upgrade(&db, before, root, scratch, sizes.log)?,
            other => return Err(LedgerError::Schema(other)),
        }
        let mut log = take_log(&db, open_log(root)?)?;
        if log.len() != sizes.log {
            // The ledger holds all that was in it.
            make_log(root, scratch, sizes.log)?;
            log = take_log(&db, open_log(root)?)?;
        }
        Ok(Self { db, log: Mutex::new(log) })
    }

    /// A ledger and its log on other stores, for tests of failing disks.
    ///
    /// # Errors
    /// When they cannot be opened.
    pub fn on_backends(ledger: impl StorageBackend, log: impl StorageBackend, log_bytes: u64) -> Result<Self> {
        let db = redb::Builder::new().create_with_backend(ledger);
        let db = db.map_err(|e| LedgerError::Open { path: PathBuf::new(), source: Box::new(e.into()) })?;
        if number(&db, Number::Schema)? == 0 {
            Log::make(&log, log_bytes).map_err(LogError::Io)?;
            durably(&db, |txn| txn.set_number(Number::Schema, SCHEMA))?;
        }
        let log = take_log(&db, Box::new(log))?;
        Ok(Self { db, log: Mutex::new(log) })
    }

    /// Makes one change, all of it or nothing; durable when this returns.
    ///
    /// # Errors
    /// What `change` gives; then nothing was done. [`LedgerError`] when it cannot be committed; then it is not known whether it was, and
    /// no other change is made.
    pub fn write<T>(&self, change: impl FnOnce(&mut Txn<'_>) -> Result<T>) -> Result<T> {
        let mut log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        let mut write = self.db.begin_write()?;
        let (value, changes) = apply(&write, change)?;
        let Some(changes) = changes else {
            write.abort()?;
            return Ok(value);
        };
        log.hold()?;
        if log.append(changes)? {
            hit(Point::AfterLog);
            note_last(&write, &log)?;
            set_durability(&mut write, Durability::None);
            write.commit()?;
            log.release();
        } else {
            log.pass_over();
            checkpoint(&mut log, write)?;
        }
        Ok(value)
    }

    /// Has redb hold everything itself, so that nothing is left in the log.
    ///
    /// # Errors
    /// When it cannot be committed.
    pub fn checkpoint(&self) -> Result<()> {
        let mut log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        let write = self.db.begin_write()?;
        log.hold()?;
        checkpoint(&mut log, write)
    }

    /// A look at what was last committed.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn read(&self) -> Result<Reader> {
        Reader::new(&self.db.begin_read()?)
    }
}

/// Makes a change in a transaction; also gives what is changed by it, if anything.
fn apply<T>(write: &WriteTransaction, change: impl FnOnce(&mut Txn<'_>) -> Result<T>) -> Result<(T, Option<Vec<u8>>)> {
    let mut txn = Txn::new(write)?;
    let value = change(&mut txn)?;
    Ok((value, txn.finish()?))
}

/// Notes with a transaction that redb has everything up to it then.
fn note_last(write: &WriteTransaction, log: &Log) -> Result<()> {
    write.open_table(META)?.insert(Number::Held.key(), log.last())?;
    Ok(())
}

/// Commits a transaction so that redb holds it and all before it for good.
fn checkpoint(log: &mut Log, write: WriteTransaction) -> Result<()> {
    note_last(&write, log)?;
    commit(write)?;
    log.restart();
    Ok(())
}

fn commit(mut write: WriteTransaction) -> Result<()> {
    hit(Point::BeforeLedgerSync);
    set_durability(&mut write, Durability::Immediate);
    // A start after a kill need not read all of it: that is worth another sync, at this rate.
    write.set_quick_repair(true);
    write.commit()?;
    hit(Point::AfterLedgerSync);
    Ok(())
}

fn set_durability(write: &mut WriteTransaction, durability: Durability) {
    let set = write.set_durability(durability);
    debug_assert!(set.is_ok(), "only savepoints make this fail");
}

/// A change of a ledger whose log is not open yet.
fn durably<T>(db: &Database, change: impl FnOnce(&mut Txn<'_>) -> Result<T>) -> Result<T> {
    let write = db.begin_write()?;
    let (value, _) = apply(&write, change)?;
    commit(write)?;
    Ok(value)
}

fn number(db: &Database, which: Number) -> Result<u64> {
    Reader::new(&db.begin_read()?)?.number(which)
}

/// Makes an empty ledger under another name, so that a half-made one is never taken for one. Its log comes first: without the
/// ledger it is nothing.
fn make(root: &Path, scratch: &Path, path: &Path, log_bytes: u64) -> Result<()> {
    let create = |source| LedgerError::Create { path: path.to_owned(), source };
    // One that was made and never used is all that a start leaves which was cut here.
    match open_log(root) {
        Ok(left) if Log::has_records(&*left).map_err(create)? => return Err(LedgerError::Missing(path.to_owned())),
        Ok(_) | Err(LedgerError::NoLog(_)) => {}
        Err(error) => return Err(error),
    }
    make_log(root, scratch, log_bytes)?;
    let scratch = &scratch.join("ledger.new");
    match std::fs::remove_file(scratch) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(create(error)),
        _ => {}
    }
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(scratch).map_err(create)?;
    let db = redb::Builder::new().create(scratch);
    let db = db.map_err(|e| LedgerError::Open { path: scratch.to_owned(), source: Box::new(e.into()) })?;
    let mark = new_mark(path)?;
    durably(&db, |txn| {
        txn.set_number(Number::Unsent, 1)?;
        txn.set_number(Number::Mark, mark)?;
        txn.set_number(Number::Schema, SCHEMA)
    })?;
    drop(db);
    hit(Point::BeforeLedgerName);
    File::open(scratch).and_then(|f| f.sync_all()).map_err(create)?;
    std::fs::rename(scratch, path).map_err(create)?;
    File::open(root).and_then(|d| d.sync_all()).map_err(create)
}

/// The mark of a ledger that gets one.
fn new_mark(path: &Path) -> Result<u64> {
    getrandom::u64().map_err(|e| LedgerError::Create { path: path.to_owned(), source: io::Error::other(e) })
}

/// Makes a log in place of whatever is there. It has its name once it is whole.
fn make_log(root: &Path, scratch: &Path, bytes: u64) -> Result<()> {
    let (path, scratch) = (root.join(LOG), scratch.join("log.new"));
    let create = |source| LedgerError::Create { path: path.clone(), source };
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).mode(0o600).open(&scratch);
    file.and_then(|file| Log::make(&*backend(file)?, bytes)).map_err(create)?;
    hit(Point::BeforeLogName);
    std::fs::rename(scratch, &path).map_err(create)?;
    File::open(root).and_then(|dir| dir.sync_all()).map_err(create)
}

fn open_log(root: &Path) -> Result<Box<dyn StorageBackend>> {
    let path = root.join(LOG);
    match OpenOptions::new().read(true).write(true).open(&path) {
        Ok(file) => Ok(backend(file).map_err(LogError::Io)?),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(LedgerError::NoLog(path)),
        Err(error) => Err(LogError::Io(error).into()),
    }
}

/// Has the ledger take what is in its log, which begins anew then.
fn take_log(db: &Database, store: Box<dyn StorageBackend>) -> Result<Log> {
    let (mut log, records) = Log::open(store, number(db, Number::Mark)?, number(db, Number::Held)?)?;
    if !records.is_empty() {
        durably(db, |txn| {
            records.iter().try_for_each(|record| txn.replay(record))?;
            txn.set_number(Number::Held, log.last())
        })?;
        tracing::info!(records = records.len(), "the ledger took what was in its log");
    }
    log.restart();
    Ok(log)
}

fn backend(file: File) -> io::Result<Box<dyn StorageBackend>> {
    Ok(Box::new(FileBackend::new(file).map_err(io::Error::other)?))
}

/// Brings a ledger of a form before to the present one, all of it or nothing.
fn upgrade(db: &Database, before: u64, root: &Path, scratch: &Path, log_bytes: u64) -> Result<()> {
    // It counts from the moment that the ledger says so.
    make_log(root, scratch, log_bytes)?;
    let mut leases = Vec::new();
    if before == FIRST {
        leases = Reader::new(&db.begin_read()?)?.leases(0)?.collect::<Result<_>>()?;
    }
    let mark = new_mark(&root.join(LOG))?;
    durably(db, |txn| {
        leases.iter().try_for_each(|(id, lease)| txn.put_holder(*id, lease))?;
        txn.set_number(Number::Mark, mark)?;
        txn.set_number(Number::Schema, SCHEMA)
    })?;
    tracing::info!("the ledger was brought from schema {before} to {SCHEMA}");
    Ok(())
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
