//! What the database keeps, on redb.
//!
//! One thread writes. Requests that come while a commit is under way share the next one, so that many requests cost few
//! synchronisations of the disk; each gets its answer after the commit that holds its change. Every commit is durable before it is
//! acknowledged and in two phases with the allocator's state, so that opening after a power cut takes no walk over the whole trail.

pub mod audit;
pub mod customers;
pub mod entitlements;
mod file;
pub mod grants;
pub mod objects;
pub mod requests;
pub mod revocations;
pub mod rows;
pub mod tables;

use redb::{Database, Durability, ReadTransaction, ReadableDatabase, WriteTransaction};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use tokio::sync::{mpsc, oneshot, watch};

/// Most changes that share one commit.
pub const MAX_BATCH: usize = 128;
/// Most changes that wait for a commit; who comes then waits before he is queued.
const QUEUE: usize = 1024;
/// Memory that redb may use for pages, in bytes.
const CACHE: usize = 32 << 20;

/// Why the store did not do something.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The file cannot be made or opened.
    #[error("cannot open the store {path}")]
    Open {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: Box<redb::Error>,
    },
    /// There is none any more.
    #[error(
        "the store {path} is gone, and {mark} says that there was one: with it all customers, entitlements and the audit trail, so that \
         nobody could log in; put a copy of it back, or remove {mark} to begin with nothing, and start anew"
    )]
    Lost {
        /// The file.
        path: PathBuf,
        /// What says so.
        mark: PathBuf,
    },
    /// It was written by a later version of this software.
    #[error("the store has schema {found}, newer than {known}, the newest that this version knows")]
    Newer {
        /// What the store has.
        found: u64,
        /// What this version knows.
        known: u64,
    },
    /// Reading, writing or committing failed.
    #[error("the store could not be read or written")]
    Redb(#[source] Box<redb::Error>),
    /// A row is not what was written.
    #[error("a row of table {table} cannot be understood")]
    Row {
        /// The table.
        table: &'static str,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// There is no randomness for a new ID.
    #[error("no randomness")]
    Random(#[from] getrandom::Error),
    /// The store has stopped, or the change went down with another one of the same commit.
    #[error("the change was not committed")]
    Stopped,
}

macro_rules! from_redb {
    ($($error:ident)*) => {$(
        impl From<redb::$error> for StoreError {
            fn from(error: redb::$error) -> Self {
                Self::Redb(Box::new(error.into()))
            }
        }
    )*};
}
from_redb!(StorageError TableError TransactionError CommitError SetDurabilityError);

/// Tells the waiting request that its change is durable.
type Answer = Box<dyn FnOnce() + Send>;
/// A change to be made within the next commit.
type Job = Box<dyn FnOnce(&WriteTransaction) -> Result<Answer, StoreError> + Send>;

/// The open store.
#[derive(Debug)]
pub struct Store {
    database: Arc<Database>,
    jobs: mpsc::Sender<Job>,
    running: watch::Receiver<()>,
    writer: JoinHandle<()>,
}

impl Store {
    /// Opens the store, or makes an empty one where there has never been one.
    ///
    /// # Errors
    /// [`StoreError`] when that fails, the store was lost, or is of a newer version.
    pub async fn open(path: &Path) -> Result<Self, StoreError> {
        let path = path.to_owned();
        let opened = tokio::task::spawn_blocking(move || file::open(&path));
        let database = Arc::new(opened.await.map_err(|_| StoreError::Stopped)??);
        let (jobs, queue) = mpsc::channel(QUEUE);
        let (alive, running) = watch::channel(());
        let for_writer = database.clone();
        let writer = std::thread::Builder::new()
            .name("store".to_owned())
            .spawn(move || {
                let _alive = alive;
                write_all(&for_writer, queue);
            })
            .map_err(redb::StorageError::from)?;
        Ok(Self { database, jobs, running, writer })
    }

    /// Makes a change and waits until it is durable.
    ///
    /// `change` must make up its mind before it writes: what it wrote stands, whatever it returns, unless that is an error, which
    /// undoes the whole commit with all changes that share it.
    ///
    /// # Errors
    /// What the change returns, or [`StoreError::Stopped`].
    pub async fn write<T, F>(&self, change: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&WriteTransaction) -> Result<T, StoreError> + Send + 'static,
    {
        let (tell, told) = oneshot::channel();
        let job: Job = Box::new(move |txn| {
            let value = change(txn)?;
            // A caller that went away does not need the answer.
            Ok(Box::new(move || drop(tell.send(value))) as Answer)
        });
        self.jobs.send(job).await.map_err(|_| StoreError::Stopped)?;
        told.await.map_err(|_| StoreError::Stopped)
    }

    /// Reads the last committed state, away from the threads of the runtime.
    ///
    /// # Errors
    /// What `look` returns, or [`StoreError`] when no transaction can begin.
    pub async fn read<T, F>(&self, look: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&ReadTransaction) -> Result<T, StoreError> + Send + 'static,
    {
        let database = self.database.clone();
        let looked = tokio::task::spawn_blocking(move || look(&database.begin_read()?));
        looked.await.map_err(|_| StoreError::Stopped)?
    }

    /// Waits until the store does not work any more.
    pub async fn stopped(&self) {
        let mut running = self.running.clone();
        while running.changed().await.is_ok() {}
    }

    /// Commits what is queued and closes the file.
    pub async fn close(self) {
        let Self { database, jobs, writer, .. } = self;
        drop(jobs);
        let closed = tokio::task::spawn_blocking(move || {
            let finished = writer.join();
            drop(database);
            finished.is_ok()
        });
        if !closed.await.unwrap_or(false) {
            tracing::error!("the store was not closed in order");
        }
    }
}

fn write_all(database: &Database, mut queue: mpsc::Receiver<Job>) {
    while let Some(first) = queue.blocking_recv() {
        let mut batch = vec![first];
        while batch.len() < MAX_BATCH {
            let Ok(job) = queue.try_recv() else { break };
            batch.push(job);
        }
        match commit(database, batch) {
            Ok(()) => {}
            Err(error @ (StoreError::Row { .. } | StoreError::Random(_))) => {
                tracing::error!("changes were not committed: {}", daemon::report(&error));
            }
            Err(error) => {
                tracing::error!("the store stops: {}", daemon::report(&error));
                return;
            }
        }
    }
}

fn commit(database: &Database, batch: Vec<Job>) -> Result<(), StoreError> {
    let mut txn = database.begin_write()?;
    txn.set_durability(Durability::Immediate)?;
    txn.set_quick_repair(true);
    let answers = batch.into_iter().map(|job| job(&txn)).collect::<Result<Vec<_>, _>>()?;
    txn.commit()?;
    answers.into_iter().for_each(|answer| answer());
    Ok(())
}

#[cfg(test)]
mod tests;
