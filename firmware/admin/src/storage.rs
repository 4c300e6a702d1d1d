//! The data disks: one array of md, one file system, mounted at [`STORAGE`](crate::setup::STORAGE).
//!
//! `admind storage` runs before the daemons that keep data and does what [`plan::plan`] says of what it finds ([`inventory`]):
//! it assembles this machine's array, by the identifier that [`record`] keeps on the state partition, degraded if members stay away
//! for [`APPEARS`]; it makes one where there never was one and at least two disks are blank, once all are there as far as that can be
//! known ([`awaited`]); or it refuses, with what an operator can do. An operator's order ([`record::Order`]) comes the same way: admind writes it and starts the unit, because what a daemon mounts
//! in its sandbox nobody else would see.
//!
//! Durable steps of making an array: record "creating" with its identifier → array → file system → record "ready". A run that was cut
//! goes on with the disks that carry this identifier.

pub(crate) mod apply;
pub(crate) mod array;
pub(crate) mod awaited;
pub(crate) mod cache;
pub(crate) mod change;
pub(crate) mod events;
pub(crate) mod grow;
pub(crate) mod health;
pub(crate) mod inventory;
pub(crate) mod log;
pub(crate) mod plan;
pub(crate) mod record;
pub(crate) mod scrub;
pub(crate) mod superblock;

use crate::tools;
use keys::site::Role;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// How long missing members may take to appear before the array starts without them.
pub const APPEARS: Duration = Duration::from_secs(20);

/// Why there is no storage.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    /// There is nothing to be done without an operator.
    #[error(transparent)]
    Refused(#[from] plan::Refusal),
    /// A file.
    #[error("cannot read or write {path}")]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The record is not one.
    #[error(
        "{path} is not what admind wrote there; if it is lost, remove it and adopt the array with `ffsctl storage create --adopt`"
    )]
    Record {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: Box<toml::de::Error>,
    },
    /// A program is not in this image.
    #[error("{0} is not there")]
    Missing(&'static str),
    /// A program failed.
    #[error("{what}")]
    Tool {
        /// What was being done.
        what: &'static str,
        /// What it said.
        #[source]
        source: crate::ToolError,
    },
    /// The array did not start.
    #[error("{0} was not started: too few of its disks are there, or the kernel found it both dirty and degraded")]
    NotStarted(String),
    /// A disk cannot be what the array needs.
    #[error(
        "the write cache of {0} cannot be switched off, and RAID5 would lose what was just written when the power goes: take other \
         disks, or the level raid1, raid10 or raid6"
    )]
    Cache(String),
    /// No randomness.
    #[error("no randomness")]
    Random(#[from] getrandom::Error),
}

/// Where a unit of ours leaves word of why it failed: who started it only learns an exit status otherwise.
pub(crate) const FAILED: &str = "/run/ffs/admind/storage-failed";

/// Leaves that word, if there is something to say.
pub(crate) fn told(done: Result<(), StorageError>) -> Result<(), StorageError> {
    if let Err(error) = &done {
        let _ = std::fs::write(FAILED, daemon::report(error)); // it is in the journal as well
    }
    done
}

pub(crate) fn io_error(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> StorageError {
    let path = path.into();
    move |source| StorageError::Io { path, source }
}

/// Runs a program to its end; `what` says what has not happened if that fails.
fn tool(program: &'static str, what: &'static str, arguments: &[&str]) -> Result<(), StorageError> {
    let path = tools::find(program).ok_or(StorageError::Missing(program))?;
    tools::run(&path, arguments, b"").map(|_| ()).map_err(|source| StorageError::Tool { what, source })
}

/// Whether machines of this role keep data on disks of their own.
pub fn keeps_data(role: Role) -> bool {
    matches!(role, Role::Download | Role::Database)
}
