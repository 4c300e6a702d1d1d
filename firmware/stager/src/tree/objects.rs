//! The storeroom's side of the tree: objects that come in, stay, and leave.

use super::{
    Batch, INCOMING, OBJECT, Op, PRIVATE, QUARANTINE, Result, Stat, Tree, TreeError, enter, errno, found, join, list,
    stat,
};
use crate::killpoint::{Point, hit};
use nix::errno::Errno;
use nix::fcntl::{OFlag, RenameFlags, openat, renameat2};
use nix::sys::stat::{Mode, fchmod};
use nix::unistd::{UnlinkatFlags, fsync, unlinkat};
use std::fs::File;
use std::io::{Seek, SeekFrom};
use std::os::fd::AsFd;
use std::sync::PoisonError;
use tobj::{Id, Sha256};

impl Tree {
    /// The path of an object below the storeroom.
    pub(super) fn object_path(sha256: Sha256) -> String {
        let name = sha256.to_string();
        format!("{}/{name}", &name[..2])
    }

    /// What the storeroom has of an object, if anything.
    ///
    /// # Errors
    /// [`TreeError`].
    pub fn object(&self, sha256: Sha256) -> Result<Option<Stat>> {
        self.faults.wait();
        let path = Self::object_path(sha256);
        found(stat(self.storeroom.as_fd(), &path), &path)
    }

    /// A new file for what comes in.
    ///
    /// # Errors
    /// [`TreeError`].
    pub fn incoming(&self, name: Id) -> Result<File> {
        self.faults.wait();
        let flags = OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let file = openat(&self.incoming, name.to_string().as_str(), flags, Mode::S_IRUSR | Mode::S_IWUSR);
        Ok(file.map_err(|e| TreeError::new("create", name.to_string(), e))?.into())
    }

    /// Drops what did not come in whole.
    ///
    /// # Errors
    /// [`TreeError`].
    pub fn drop_incoming(&self, name: &str) -> Result<()> {
        self.faults.wait();
        match unlinkat(&self.incoming, name, UnlinkatFlags::NoRemoveDir) {
            Ok(()) | Err(Errno::ENOENT) => Ok(()),
            Err(error) => Err(TreeError::new("remove", name, error)),
        }
    }

    /// Gives a file that came in its mode and its name in the storeroom; durable when this returns, if the file's bytes were
    /// synced before. One of the same size that is there already stays: links share its inode. One of another size is not what was
    /// put in: it goes into quarantine first, since what is in the storeroom may be missing at any moment, but not be wrong. Whether
    /// it was this one that got the name.
    ///
    /// # Errors
    /// [`TreeError`].
    pub fn keep(&self, label: &str, file: &File, sha256: Sha256) -> Result<bool> {
        let fail = |doing| move |e| TreeError::new(doing, sha256.to_string(), e);
        fchmod(file, OBJECT).map_err(fail("protect"))?;
        self.faults.check(Op::Sync).and_then(|()| fsync(file)).map_err(fail("sync"))?;
        hit(Point::AfterIncoming);
        let path = Self::object_path(sha256);
        let (dir, made) = enter(self.storeroom.as_fd(), &path[..2], Some(PRIVATE)).map_err(fail("make"))?;
        let size = File::metadata(file).map_err(|e| fail("look at")(errno(&e)))?.len();
        let place = || {
            let rename = || renameat2(&self.incoming, label, &dir, &path[3..], RenameFlags::RENAME_NOREPLACE);
            match self.faults.check(Op::Rename).and_then(|()| rename()) {
                Ok(()) => Ok(true),
                Err(Errno::EEXIST) => Ok(false),
                Err(error) => Err(fail("rename")(error)),
            }
        };
        let _shelves = self.shelves.lock().unwrap_or_else(PoisonError::into_inner);
        let mut fresh = place()?;
        if !fresh && self.object(sha256)?.is_some_and(|there| there.size != size) {
            self.set_aside(sha256)?;
            hit(Point::AfterSetAside);
            fresh = place()?;
        }
        if !fresh {
            self.drop_incoming(label)?;
        }
        hit(Point::AfterRename);
        fsync(&dir).map_err(fail("sync"))?;
        if made {
            fsync(&self.storeroom).map_err(fail("sync"))?;
        }
        fsync(&self.incoming).map_err(fail("sync"))?;
        Ok(fresh)
    }

    /// Opens an object of the storeroom for reading, if it is there.
    ///
    /// # Errors
    /// [`TreeError`].
    pub fn open_object(&self, sha256: Sha256) -> Result<Option<File>> {
        let path = Self::object_path(sha256);
        let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC | OFlag::O_NOATIME;
        let open = |flags| openat(&self.storeroom, &*path, flags, Mode::empty());
        // Only the owner may ask for no access times.
        let file = open(flags).or_else(|error| match error {
            Errno::EPERM => open(flags - OFlag::O_NOATIME),
            other => Err(other),
        });
        match file {
            Ok(file) => Ok(Some(file.into())),
            Err(Errno::ENOENT) => Ok(None),
            Err(error) => Err(TreeError::new("open", path, error)),
        }
    }

    /// Opens the file of an object that comes in in parts, with the first `durable` bytes of it and at their end.
    ///
    /// # Errors
    /// [`TreeError`]; also when there are fewer bytes than that.
    pub fn upload(&self, sha256: Sha256, durable: u64) -> Result<File> {
        self.faults.wait();
        let label = sha256.to_string();
        let made = if durable == 0 { OFlag::O_CREAT } else { OFlag::empty() };
        let flags = OFlag::O_RDWR | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC | made;
        let file = openat(&self.incoming, &*label, flags, Mode::S_IRUSR | Mode::S_IWUSR);
        let mut file = File::from(file.map_err(|e| TreeError::new("open", &label, e))?);
        let io = |doing| {
            let label = label.clone();
            move |e: std::io::Error| TreeError::new(doing, label, errno(&e))
        };
        if file.metadata().map_err(io("look at"))?.len() < durable {
            return Err(TreeError::new("go on with", &label, Errno::ENODATA));
        }
        file.set_len(durable).map_err(io("cut"))?;
        if durable == 0 {
            fsync(&self.incoming).map_err(|e| TreeError::new("sync", INCOMING, e))?;
        }
        file.seek(SeekFrom::End(0)).map_err(io("seek in"))?;
        Ok(file)
    }

    /// How much of an object that comes in in parts is in its file; none without one.
    ///
    /// # Errors
    /// [`TreeError`].
    pub fn upload_len(&self, sha256: Sha256) -> Result<Option<u64>> {
        let label = sha256.to_string();
        Ok(found(stat(self.incoming.as_fd(), &label), &label)?.map(|stat| stat.size))
    }

    /// Takes a damaged object out of the storeroom; what is left of it is kept. Nothing when it is gone already, or when another
    /// file than that with this inode is there.
    ///
    /// # Errors
    /// [`TreeError`].
    pub fn quarantine(&self, sha256: Sha256, inode: Option<u64>, batch: &mut Batch) -> Result<()> {
        {
            let _shelves = self.shelves.lock().unwrap_or_else(PoisonError::into_inner);
            if self.object(sha256)?.is_some_and(|there| Some(there.inode) == inode) {
                self.set_aside(sha256)?;
            }
        }
        self.shelf_changed(sha256, batch)
    }

    /// Moves an object from the storeroom into quarantine; the directory that lost it is not synced.
    fn set_aside(&self, sha256: Sha256) -> Result<()> {
        let (path, name) = (Self::object_path(sha256), sha256.to_string());
        let fail = |doing| move |e| TreeError::new(doing, sha256.to_string(), e);
        match renameat2(&self.storeroom, &*path, &self.quarantine, &*name, RenameFlags::empty()) {
            Ok(()) | Err(Errno::ENOENT) => {}
            Err(error) => return Err(fail("put into quarantine")(error)),
        }
        fsync(&self.quarantine).map_err(fail("sync"))
    }

    /// Takes an object out of the storeroom, and out of quarantine, for good.
    ///
    /// # Errors
    /// [`TreeError`].
    pub fn discard(&self, sha256: Sha256, batch: &mut Batch) -> Result<()> {
        match unlinkat(&self.storeroom, &*Self::object_path(sha256), UnlinkatFlags::NoRemoveDir) {
            Ok(()) | Err(Errno::ENOENT) => {}
            Err(error) => return Err(TreeError::new("remove", sha256.to_string(), error)),
        }
        self.drop_quarantined(sha256)?;
        self.shelf_changed(sha256, batch)
    }

    /// Drops what quarantine has of an object, if anything.
    ///
    /// # Errors
    /// [`TreeError`].
    pub fn drop_quarantined(&self, sha256: Sha256) -> Result<()> {
        match unlinkat(&self.quarantine, &*sha256.to_string(), UnlinkatFlags::NoRemoveDir) {
            Ok(()) | Err(Errno::ENOENT) => Ok(()),
            Err(error) => Err(TreeError::new("remove", sha256.to_string(), error)),
        }
    }

    /// The objects of which quarantine has something.
    ///
    /// # Errors
    /// [`TreeError`].
    pub fn list_quarantine(&self) -> Result<Vec<Sha256>> {
        let names = list(self.quarantine.as_fd(), ".").map_err(|e| TreeError::new("read", QUARANTINE, e))?;
        Ok(names.iter().filter_map(|name| name.parse().ok()).collect())
    }

    /// Has the directory of an object synced, where there is one.
    fn shelf_changed(&self, sha256: Sha256, batch: &mut Batch) -> Result<()> {
        let shelf = &sha256.to_string()[..2];
        match enter(self.storeroom.as_fd(), shelf, None) {
            Ok((dir, _)) => batch.changed(join(super::STOREROOM, shelf), dir),
            Err(Errno::ENOENT) => {}
            Err(error) => return Err(TreeError::new("open", shelf, error)),
        }
        Ok(())
    }

    /// What incoming holds.
    ///
    /// # Errors
    /// [`TreeError`].
    pub fn list_incoming(&self) -> Result<Vec<String>> {
        list(self.incoming.as_fd(), ".").map_err(|e| TreeError::new("read", INCOMING, e))
    }

    /// Everything in the storeroom: the path below it, and the object that the name stands for, if it does.
    ///
    /// # Errors
    /// [`TreeError`].
    pub fn list_storeroom(&self) -> Result<Vec<(String, Option<Sha256>)>> {
        let mut found = Vec::new();
        let read = |path: &str| list(self.storeroom.as_fd(), path).map_err(|e| TreeError::new("read", path, e));
        for shelf in read(".")? {
            for name in read(&shelf)? {
                let sha256 = name.parse().ok().filter(|_| name.starts_with(&shelf) && shelf.len() == 2);
                found.push((join(&shelf, &name), sha256));
            }
        }
        Ok(found)
    }

    /// Syncs every directory of the storeroom: after a start, one may hold a name that was not synced.
    ///
    /// # Errors
    /// [`TreeError`].
    pub fn sync_storeroom(&self, shelf: &str) -> Result<()> {
        let (dir, _) = enter(self.storeroom.as_fd(), shelf, None).map_err(|e| TreeError::new("open", shelf, e))?;
        fsync(&dir).and_then(|()| fsync(&self.storeroom)).map_err(|e| TreeError::new("sync", shelf, e))
    }
}
