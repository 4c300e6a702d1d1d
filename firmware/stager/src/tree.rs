//! The tree of files: storeroom, accounts, tickets, incoming. Everything is done relative to open directories and without following
//! symbolic links.
//!
//! Every operation may be repeated: a link that is there already, a name that is gone already are fine. Nothing here is durable
//! before [`Tree::sync`].

use crate::killpoint::{Point, hit};
use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat, renameat};
use nix::sys::stat::{FileStat, Mode, SFlag, fchmod, fstat, fstatat, mkdirat};
use nix::unistd::{UnlinkatFlags, fsync, linkat, unlinkat};
use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use tobj::{Id, Name, Sha256};
use walk::entries;

mod faults;
mod objects;
mod place;
mod walk;

pub use faults::{Faults, Op};
pub use place::Place;
pub use walk::Visit;

const DIRECTORY: OFlag = OFlag::O_RDONLY.union(OFlag::O_DIRECTORY).union(OFlag::O_NOFOLLOW).union(OFlag::O_CLOEXEC);
const PRIVATE: Mode = Mode::S_IRWXU;
/// Mode of what customers see: 0755. Who has no descriptor from us does not get that far.
const PUBLIC: Mode = Mode::S_IRWXU.union(Mode::S_IRGRP).union(Mode::S_IXGRP).union(Mode::S_IROTH).union(Mode::S_IXOTH);
/// Mode of an object: 0444.
const OBJECT: Mode = Mode::S_IRUSR.union(Mode::S_IRGRP).union(Mode::S_IROTH);

/// Why the tree could not be changed.
#[derive(Debug, thiserror::Error)]
pub enum TreeError {
    /// The object of a link is not in the storeroom.
    #[error("the object is not in the storeroom")]
    NoObject,
    /// The object has as many names as the file system allows.
    #[error("the object has as many links as this file system allows")]
    TooManyLinks,
    /// No space, or no quota.
    #[error("the file system is full")]
    Full,
    /// Something else has the name.
    #[error("something else is at this path")]
    Occupied,
    /// The file system does not let itself be written.
    #[error("the file system is read-only")]
    ReadOnly,
    /// Anything else.
    #[error("cannot {doing} {path}")]
    Io {
        /// What was tried.
        doing: &'static str,
        /// Where.
        path: PathBuf,
        /// Why not.
        #[source]
        source: Errno,
    },
}

impl TreeError {
    fn new(doing: &'static str, path: impl Into<PathBuf>, source: Errno) -> Self {
        match source {
            Errno::EMLINK => Self::TooManyLinks,
            Errno::ENOSPC | Errno::EDQUOT => Self::Full,
            Errno::EROFS => Self::ReadOnly,
            source => Self::Io { doing, path: path.into(), source },
        }
    }
}

type Result<T> = std::result::Result<T, TreeError>;

const STOREROOM: &str = "storeroom";
const ACCOUNTS: &str = "accounts";
const TICKETS: &str = "tickets";
const INCOMING: &str = "incoming";
const QUARANTINE: &str = "quarantine";

/// The open tree.
#[derive(Debug)]
pub struct Tree {
    path: PathBuf,
    root: OwnedFd,
    storeroom: OwnedFd,
    accounts: OwnedFd,
    tickets: OwnedFd,
    incoming: OwnedFd,
    quarantine: OwnedFd,
    /// Held while an object gets a name that another file may have, or one that is damaged loses it.
    shelves: Mutex<()>,
    faults: Faults,
}

/// What the file system says of a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stat {
    /// Inode number.
    pub inode: u64,
    /// Names of the inode.
    pub links: u64,
    /// Device number.
    pub device: u64,
    /// Bytes.
    pub size: u64,
    /// Whether it is a regular file.
    pub regular: bool,
}

impl Stat {
    fn new(stat: &FileStat) -> Self {
        let kind = SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT;
        Self {
            inode: stat.st_ino,
            links: stat.st_nlink,
            device: stat.st_dev,
            size: u64::try_from(stat.st_size).unwrap_or(0),
            regular: kind == SFlag::S_IFREG,
        }
    }
}

impl Tree {
    /// Opens a tree, after making the directories that are not there yet.
    ///
    /// # Errors
    /// When a directory cannot be made or opened.
    pub fn open(path: &Path) -> Result<Self> {
        let root = nix::fcntl::open(path, OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())
            .map_err(|e| TreeError::new("open", path, e))?;
        let private = |name: &str| {
            let (dir, _) = enter(root.as_fd(), name, Some(PRIVATE)).map_err(|e| TreeError::new("open", name, e))?;
            // What is beneath is open to others; this is what keeps them out.
            fchmod(&dir, PRIVATE).map_err(|e| TreeError::new("protect", name, e))?;
            Ok(dir)
        };
        let storeroom = private(STOREROOM)?;
        let (accounts, tickets, incoming) = (private(ACCOUNTS)?, private(TICKETS)?, private(INCOMING)?);
        let quarantine = private(QUARANTINE)?;
        fsync(&root).map_err(|e| TreeError::new("sync", path, e))?;
        let (path, shelves, faults) = (path.to_owned(), Mutex::default(), Faults::default());
        Ok(Self { path, root, storeroom, accounts, tickets, incoming, quarantine, shelves, faults })
    }

    /// Where a test has it fail.
    pub fn faults(&self) -> &Faults {
        &self.faults
    }

    /// Whether it holds no object and no link.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn is_empty(&self) -> Result<bool> {
        for (dir, name) in [(&self.storeroom, STOREROOM), (&self.accounts, ACCOUNTS), (&self.tickets, TICKETS)] {
            let first = Dir::openat(dir, ".", DIRECTORY, Mode::empty()).and_then(|dir| entries(dir).next().transpose());
            if first.map_err(|e| TreeError::new("read", name, e))?.is_some() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The root's path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The path of the directory for what is not complete yet.
    pub fn incoming_path(&self) -> PathBuf {
        self.path.join(INCOMING)
    }

    /// Makes the link of a lease.
    ///
    /// `thorough` has all directories on the way synced, not only those that got an entry now: after a start, what is there may
    /// have been made by a process that was killed before it could sync.
    ///
    /// # Errors
    /// [`TreeError`]; directories that were made stay.
    pub fn link(&self, place: &Place, sha256: Sha256, thorough: bool, batch: &mut Batch) -> Result<()> {
        self.link_at(place, sha256, thorough, false, batch)
    }

    /// The same in place of a link to another file, at no moment without either.
    ///
    /// # Errors
    /// [`TreeError`].
    pub fn relink(&self, place: &Place, sha256: Sha256, batch: &mut Batch) -> Result<()> {
        self.link_at(place, sha256, false, true, batch)
    }

    fn link_at(&self, place: &Place, sha256: Sha256, thorough: bool, replace: bool, batch: &mut Batch) -> Result<()> {
        let (dirs, file) = place.parts();
        let mut path = String::new();
        let mut dir = dup(&self.root, "")?;
        for name in &dirs {
            let parent = path.clone();
            path = join(&path, name);
            let (next, made) = match batch.open.get(&path) {
                Some(open) => (dup(open, &path)?, false),
                None => self.make(dir.as_fd(), name).map_err(|e| TreeError::new("make", &path, e))?,
            };
            batch.open.entry(parent.clone()).or_insert(dir);
            dir = next;
            if made || thorough {
                batch.dirty.insert(parent);
            }
        }
        hit(Point::BetweenMkdirAndLink);
        let source = Self::object_path(sha256);
        let linked =
            self.faults.check(Op::Link).and_then(|()| linkat(&self.storeroom, &*source, &dir, file, AtFlags::empty()));
        match linked {
            Ok(()) => {}
            Err(Errno::ENOENT) => return Err(TreeError::NoObject),
            Err(Errno::EEXIST) => {
                let there = stat(dir.as_fd(), file).map_err(|e| TreeError::new("look at", &path, e))?;
                let object = self.object(sha256)?.ok_or(TreeError::NoObject)?;
                if (there.inode, there.device) != (object.inode, object.device) {
                    if !replace {
                        return Err(TreeError::Occupied);
                    }
                    self.replace(&source, &dir, file).map_err(|e| TreeError::new("replace in", &path, e))?;
                }
            }
            Err(error) => return Err(TreeError::new("link into", &path, error)),
        }
        hit(Point::AfterLink);
        batch.changed(path, dir);
        Ok(())
    }

    /// Gives an object a name that another file has. One that was left half way is removed by the next start.
    fn replace(&self, source: &str, dir: &OwnedFd, file: &str) -> nix::Result<()> {
        const ON_ITS_WAY: &str = "relink";
        match unlinkat(&self.incoming, ON_ITS_WAY, UnlinkatFlags::NoRemoveDir) {
            Ok(()) | Err(Errno::ENOENT) => {}
            Err(error) => return Err(error),
        }
        linkat(&self.storeroom, source, &self.incoming, ON_ITS_WAY, AtFlags::empty())?;
        renameat(&self.incoming, ON_ITS_WAY, dir, file)
    }

    fn make(&self, parent: BorrowedFd<'_>, name: &str) -> nix::Result<(OwnedFd, bool)> {
        self.faults.check(Op::MakeDir)?;
        enter(parent, name, Some(PUBLIC))
    }

    /// Removes the link of a lease, and the directories that are empty without it.
    ///
    /// # Errors
    /// [`TreeError`].
    pub fn unlink(&self, place: &Place, batch: &mut Batch) -> Result<()> {
        let (dirs, file) = place.parts();
        // The directories that are there, from the root down: path and descriptor.
        let mut chain: Vec<(String, OwnedFd)> = vec![(String::new(), dup(&self.root, "")?)];
        for name in &dirs {
            let Some((parent, dir)) = chain.last() else { break };
            let path = join(parent, name);
            match enter(dir.as_fd(), name, None) {
                Ok((next, _)) => chain.push((path, next)),
                Err(Errno::ENOENT) => break,
                Err(error) => return Err(TreeError::new("open", path, error)),
            }
        }
        if chain.len() == dirs.len() + 1
            && let Some((path, dir)) = chain.last()
        {
            match self.faults.check(Op::Unlink).and_then(|()| unlinkat(dir, file, UnlinkatFlags::NoRemoveDir)) {
                Ok(()) | Err(Errno::ENOENT) => {}
                Err(error) => return Err(TreeError::new("remove from", path, error)),
            }
            hit(Point::AfterUnlink);
            for name in dirs.iter().rev().take(place.prunable()) {
                let Some((path, dir)) = chain.pop() else { break };
                let Some((_, parent)) = chain.last() else { break };
                match unlinkat(parent, name.as_str(), UnlinkatFlags::RemoveDir) {
                    Ok(()) | Err(Errno::ENOENT) => batch.forget(&path),
                    Err(Errno::ENOTEMPTY | Errno::EEXIST) => {
                        chain.push((path, dir));
                        break;
                    }
                    Err(error) => return Err(TreeError::new("remove", path, error)),
                }
            }
        }
        // Where nothing was there, an earlier try may have removed it without syncing.
        if let Some((path, dir)) = chain.pop() {
            batch.changed(path, dir);
        }
        Ok(())
    }

    /// The directory that a session gets: a customer's account, made if it is not there.
    ///
    /// # Errors
    /// [`TreeError`].
    pub fn account(&self, customer: &Name) -> Result<OwnedFd> {
        let open = enter(self.accounts.as_fd(), customer.as_str(), Some(PUBLIC));
        Ok(open.map_err(|e| TreeError::new("make", customer.as_str(), e))?.0)
    }

    /// The directory that a session gets: that of a one-time lease, if it is there.
    ///
    /// # Errors
    /// [`TreeError`].
    pub fn ticket(&self, lease: Id) -> Result<Option<OwnedFd>> {
        match enter(self.tickets.as_fd(), &lease.to_string(), None) {
            Ok((dir, _)) => Ok(Some(dir)),
            Err(Errno::ENOENT) => Ok(None),
            Err(error) => Err(TreeError::new("open", lease.to_string(), error)),
        }
    }

    /// What is at a lease's place, if anything.
    ///
    /// # Errors
    /// [`TreeError`].
    pub fn look(&self, place: &Place) -> Result<Option<Stat>> {
        self.faults.wait();
        let path = place.path();
        found(stat(self.root.as_fd(), &path), &path)
    }

    /// Whether the file system lets itself be written, as far as it says so.
    ///
    /// # Errors
    /// [`TreeError`].
    pub fn is_read_only(&self) -> Result<bool> {
        self.faults.wait();
        let stat = nix::sys::statvfs::fstatvfs(&self.root).map_err(|e| TreeError::new("measure", &self.path, e))?;
        Ok(stat.flags().contains(nix::sys::statvfs::FsFlags::ST_RDONLY))
    }

    /// Bytes that a service without privileges may still use, and all there are.
    ///
    /// # Errors
    /// [`TreeError`].
    pub fn space(&self) -> Result<(u64, u64)> {
        self.faults.wait();
        let stat = nix::sys::statvfs::fstatvfs(&self.root).map_err(|e| TreeError::new("measure", &self.path, e))?;
        let unit = stat.fragment_size();
        Ok((stat.blocks_available().saturating_mul(unit), stat.blocks().saturating_mul(unit)))
    }

    /// The type of the file system; its magic number in hex where it is not one of the usual.
    ///
    /// # Errors
    /// [`TreeError`].
    pub fn file_system(&self) -> Result<String> {
        use nix::sys::statfs::{self, fstatfs};
        self.faults.wait();
        let kind = fstatfs(&self.root).map_err(|e| TreeError::new("measure", &self.path, e))?.filesystem_type();
        Ok(match kind {
            statfs::XFS_SUPER_MAGIC => "xfs".into(),
            statfs::EXT4_SUPER_MAGIC => "ext4".into(),
            statfs::TMPFS_MAGIC => "tmpfs".into(),
            statfs::BTRFS_SUPER_MAGIC => "btrfs".into(),
            statfs::OVERLAYFS_SUPER_MAGIC => "overlayfs".into(),
            statfs::FsType(number) => format!("{number:#x}"),
        })
    }

    /// Makes everything durable that was done with this batch. After a failure nothing is known of it.
    ///
    /// The directory that was changed last comes first: XFS writes its log up to there, which is all that the others have
    /// to wait for, so that their own syncs cost a system call each.
    ///
    /// # Errors
    /// When a directory cannot be synced.
    pub fn sync(&self, batch: &mut Batch) -> Result<()> {
        let dirty = std::mem::take(&mut batch.dirty);
        for path in batch.last.take().into_iter().chain(dirty) {
            // What was last is among the others, too, and no longer open then.
            let Some(dir) = batch.open.remove(&path) else { continue };
            let synced = self.faults.check(Op::Sync).and_then(|()| fsync(&dir));
            synced.map_err(|error| TreeError::new("sync", path, error))?;
        }
        batch.open.clear();
        Ok(())
    }

    /// Removes a name that no lease explains, and the directories that are empty without it; a customer's own stays.
    ///
    /// # Errors
    /// [`TreeError`]; a directory is not removed unless it is empty.
    pub fn remove_stray(&self, dir: &str, name: &str, batch: &mut Batch) -> Result<()> {
        let path = join(dir, name);
        match unlinkat(&self.root, path.as_str(), UnlinkatFlags::NoRemoveDir) {
            Err(Errno::EISDIR | Errno::EPERM) => match unlinkat(&self.root, path.as_str(), UnlinkatFlags::RemoveDir) {
                Ok(()) => batch.forget(&path),
                Err(error) => return Err(TreeError::new("remove", path, error)),
            },
            Ok(()) | Err(Errno::ENOENT) => {}
            Err(error) => return Err(TreeError::new("remove", path, error)),
        }
        let stay = if dir.starts_with(ACCOUNTS) { 2 } else { 1 };
        let mut dir = dir;
        while let Some((parent, _)) = dir.rsplit_once('/').filter(|_| dir.split('/').count() > stay) {
            match unlinkat(&self.root, dir, UnlinkatFlags::RemoveDir) {
                Ok(()) | Err(Errno::ENOENT) => batch.forget(dir),
                Err(Errno::ENOTEMPTY | Errno::EEXIST) => break,
                Err(error) => return Err(TreeError::new("remove", dir, error)),
            }
            dir = parent;
        }
        let open = openat(&self.root, dir, DIRECTORY, Mode::empty()).map_err(|e| TreeError::new("open", dir, e))?;
        batch.changed(dir.to_owned(), open);
        Ok(())
    }
}

/// The directories that changes left to be synced, by [`Tree::sync`].
#[derive(Debug, Default)]
pub struct Batch {
    /// Directories that are open, by path below the root.
    open: BTreeMap<String, OwnedFd>,
    /// Those with an entry that came or went.
    dirty: BTreeSet<String>,
    /// Where one did last.
    last: Option<String>,
}

impl Batch {
    /// Most directories that are kept open before [`Batch::is_large`] advises to sync.
    const LARGE: usize = 512;

    /// Whether it should be synced before more is added.
    pub fn is_large(&self) -> bool {
        self.open.len() >= Self::LARGE
    }

    fn changed(&mut self, path: String, dir: OwnedFd) {
        self.dirty.insert(path.clone());
        self.last = Some(path.clone());
        self.open.entry(path).or_insert(dir);
    }

    fn forget(&mut self, path: &str) {
        self.open.remove(path);
        self.dirty.remove(path);
    }
}

/// Opens a directory, made first if it is not there and a mode says so; whether it was made.
fn enter(parent: BorrowedFd<'_>, name: &str, make: Option<Mode>) -> nix::Result<(OwnedFd, bool)> {
    match openat(parent, name, DIRECTORY, Mode::empty()) {
        Err(Errno::ENOENT) => {}
        other => return other.map(|dir| (dir, false)),
    }
    let Some(mode) = make else { return Err(Errno::ENOENT) };
    let made = match mkdirat(parent, name, mode) {
        Ok(()) => true,
        Err(Errno::EEXIST) => false,
        Err(error) => return Err(error),
    };
    let dir = openat(parent, name, DIRECTORY, Mode::empty())?;
    if made && fstat(&dir)?.st_mode & 0o777 != mode.bits() {
        fchmod(&dir, mode)?; // a umask took something away
    }
    Ok((dir, made))
}

fn dup(dir: &OwnedFd, path: &str) -> Result<OwnedFd> {
    dir.try_clone().map_err(|e| TreeError::new("open", path, errno(&e)))
}

fn errno(error: &std::io::Error) -> Errno {
    Errno::from_raw(error.raw_os_error().unwrap_or(0))
}

fn stat(dir: BorrowedFd<'_>, path: &str) -> nix::Result<Stat> {
    fstatat(dir, path, AtFlags::AT_SYMLINK_NOFOLLOW).map(|stat| Stat::new(&stat))
}

fn found(stat: nix::Result<Stat>, path: &str) -> Result<Option<Stat>> {
    match stat {
        Ok(stat) => Ok(Some(stat)),
        Err(Errno::ENOENT | Errno::ENOTDIR) => Ok(None),
        Err(error) => Err(TreeError::new("look at", path, error)),
    }
}

/// The names in a directory, sorted.
fn list(dir: BorrowedFd<'_>, path: &str) -> nix::Result<Vec<String>> {
    let names = entries(Dir::openat(dir, path, DIRECTORY, Mode::empty())?);
    // A name that is not UTF-8 is not ours.
    let names = names.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
    let mut names = names.collect::<nix::Result<Vec<_>>>()?;
    names.sort();
    Ok(names)
}

fn join(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}/{name}") }
}

#[cfg(test)]
mod tests;
