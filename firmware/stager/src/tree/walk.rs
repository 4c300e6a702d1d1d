//! A look at every name that customers could see.

use super::{ACCOUNTS, DIRECTORY, Result, TICKETS, Tree, TreeError, errno, join};
use nix::dir::{Dir, Entry, Type};
use nix::fcntl::AtFlags;
use nix::sys::stat::{Mode, SFlag, fstatat};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::panic::resume_unwind;
use std::sync::{Mutex, PoisonError};

/// What is told of a name: its directories below the root, itself, and the inode that it stands for. Several threads tell.
pub type Visit<'v> = &'v (dyn Fn(&str, &str, u64) + Sync);

/// Threads that read directories: they wait for the disk, which does several things at a time. With more, they wait for each other at
/// the one directory that has all the names.
const READERS: usize = 4;
/// Names that one of them takes at a time. XFS reads a few dozen inodes together; threads that take turns within those wait for each
/// other, too.
const TOGETHER: usize = 256;

impl Tree {
    /// Visits every name that customers could see, in no order. Names that are not directories where directories belong are visited
    /// too.
    ///
    /// What a directory says of its names is all that is asked for: no file's inode is read.
    ///
    /// # Errors
    /// [`TreeError`].
    pub fn walk(&self, visit: Visit<'_>) -> Result<()> {
        for (path, depth) in [(ACCOUNTS, 3), (TICKETS, 1)] {
            let dir = Dir::openat(&self.root, path, DIRECTORY, Mode::empty());
            side_by_side(dir.map_err(|e| TreeError::new("open", path, e))?, path, depth, visit)?;
        }
        Ok(())
    }
}

/// Visits what is in a directory with several threads.
fn side_by_side(dir: Dir, path: &str, depth: usize, visit: Visit<'_>) -> Result<()> {
    let here = Here::of(&dir, path, depth)?;
    let names = Mutex::new(entries(dir));
    let read = || {
        loop {
            let some = names.lock().unwrap_or_else(PoisonError::into_inner).by_ref().take(TOGETHER).collect::<Vec<_>>();
            if some.is_empty() {
                return Ok(());
            }
            some.into_iter().try_for_each(|entry| here.visit(entry, visit))?;
        }
    };
    std::thread::scope(|scope| {
        let readers: Vec<_> = (0..READERS).map(|_| scope.spawn(read)).collect();
        readers.into_iter().try_for_each(|reader| reader.join().unwrap_or_else(|panic| resume_unwind(panic)))
    })
}

/// A directory whose names are visited.
struct Here<'p> {
    dir: OwnedFd,
    path: &'p str,
    /// How many levels of directories are below it.
    depth: usize,
}

impl<'p> Here<'p> {
    fn of(dir: &Dir, path: &'p str, depth: usize) -> Result<Self> {
        let dir = dir.as_fd().try_clone_to_owned().map_err(|e| TreeError::new("open", path, errno(&e)))?;
        Ok(Self { dir, path, depth })
    }

    fn visit(&self, entry: nix::Result<Entry>, visit: Visit<'_>) -> Result<()> {
        let entry = entry.map_err(|e| TreeError::new("read", self.path, e))?;
        // A name that is not UTF-8 is not ours; it shows up as one that no lease explains.
        let name = entry.file_name().to_string_lossy();
        if self.depth == 0 || !is_directory(self.dir.as_fd(), &entry) {
            visit(self.path, &name, entry.ino());
            return Ok(());
        }
        let path = join(self.path, &name);
        let dir = Dir::openat(&self.dir, entry.file_name(), DIRECTORY, Mode::empty());
        let dir = dir.map_err(|e| TreeError::new("open", &path, e))?;
        let here = Here::of(&dir, &path, self.depth - 1)?;
        entries(dir).try_for_each(|entry| here.visit(entry, visit))
    }
}

/// What is in a directory, in its own order.
pub(super) fn entries(dir: Dir) -> impl Iterator<Item = nix::Result<Entry>> {
    let is_itself = |entry: &Entry| matches!(entry.file_name().to_bytes(), b"." | b"..");
    dir.into_iter().filter(move |entry| !entry.as_ref().is_ok_and(is_itself))
}

/// Most file systems say so with the name.
fn is_directory(dir: BorrowedFd<'_>, entry: &Entry) -> bool {
    match entry.file_type() {
        Some(kind) => kind == Type::Directory,
        None => fstatat(dir, entry.file_name(), AtFlags::AT_SYMLINK_NOFOLLOW)
            .is_ok_and(|stat| SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT == SFlag::S_IFDIR),
    }
}
