//! The file of the store, which is made once and never in the place of one that was there.
//!
//! Beside it lies a mark, which says that there is a store. It comes after the store is whole on the disk and stays: a mark without a
//! store is that of one that was lost, and a new one in its place would refuse every customer as if nothing had happened. Disks that
//! an operator had made anew have neither.

use super::{CACHE, StoreError, tables};
use redb::{Builder, Database};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// What is behind the store's name in that of the mark.
const MARK: &str = "made";
/// The same of a store that is not complete yet.
const NEW: &str = "new";
/// What the mark says to who finds it.
const WORDS: &[u8] = b"There is a store beside this file, or there was: then a copy of it is to be put back.\n";

/// The path with this behind its name.
fn beside(path: &Path, what: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(what);
    name.into()
}

/// Opens the store; makes one where nothing says that there was one before.
///
/// # Errors
/// [`StoreError::Lost`] where it was; [`StoreError`] when it cannot be made or opened, or is of a newer version.
pub(super) fn open(path: &Path) -> Result<Database, StoreError> {
    let failed = |source: redb::Error| StoreError::Open { path: path.to_owned(), source: Box::new(source) };
    let io = |error: io::Error| failed(error.into());
    let mark = beside(path, MARK);
    if !has_bytes(path).map_err(io)? {
        if mark.try_exists().map_err(io)? {
            return Err(StoreError::Lost { path: path.to_owned(), mark });
        }
        make(path, failed)?;
        tracing::warn!(store = %path.display(), "there was no store; an empty one was made");
    }
    let database = Builder::new().set_cache_size(CACHE).open(path).map_err(|e| failed(e.into()))?;
    tables::prepare(&database)?;
    if let Err(error) = set(&mark) {
        // The store is there, and its customers are served.
        tracing::warn!(mark = %mark.display(), "if this store is lost nobody will notice, since it could not be marked: {error}");
    }
    Ok(database)
}

/// Whether there is anything in a file. One without a byte is no store: it was cut off, now or when it was first made.
fn has_bytes(path: &Path) -> io::Result<bool> {
    match fs::metadata(path) {
        Ok(found) => Ok(found.len() > 0),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

fn folder(path: &Path) -> &Path {
    path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// A new file of its owner's, in place of what a cut left.
fn create(path: &Path) -> io::Result<File> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
}

/// Makes an empty store under another name and gives it its own once it is on the disk.
fn make(path: &Path, failed: impl Fn(redb::Error) -> StoreError) -> Result<(), StoreError> {
    let new = beside(path, NEW);
    // Made first, so that there is no moment in which others could open it.
    let file = create(&new).map_err(|e| failed(e.into()))?;
    let database = Builder::new().create(&new).map_err(|e| failed(e.into()))?;
    tables::prepare(&database)?;
    drop(database);
    let put = || {
        file.sync_all()?;
        fs::rename(&new, path)?;
        File::open(folder(path))?.sync_all()
    };
    put().map_err(|e: io::Error| failed(e.into()))
}

/// Sets the mark of a store that is there, once.
fn set(mark: &Path) -> io::Result<()> {
    if mark.try_exists()? {
        return Ok(());
    }
    // Half of it is as good: that it is there is what counts.
    let mut file = create(mark)?;
    file.write_all(WORDS)?;
    file.sync_all()?;
    File::open(folder(mark))?.sync_all()
}
