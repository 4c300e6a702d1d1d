//! The files of an account: opened and listed within the root, without following links.

use crate::reply::MAX_REPLY;
use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::stat::{FileStat, SFlag, fstat, fstatat};
use std::fs::File;
use std::io::Write;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};
use unftp_core::storage::{self, Error, ErrorKind, Fileinfo, Metadata, Permissions};

/// Most entries of one listing.
pub(super) const MAX_ENTRIES: usize = 100_000;

/// Most bytes of one listing. A STAT of a directory is one reply of libunftp's, which holds twice as many.
pub(super) const MAX_LISTING: usize = MAX_REPLY / 2;

/// A line of a listing.
pub(super) type Entry = Fileinfo<PathBuf, Meta>;

/// What stat(2) says of a file or directory.
#[derive(Debug, Clone, Copy)]
pub(super) struct Meta {
    kind: SFlag,
    mode: u32,
    links: u64,
    size: u64,
    modified: i64,
}

impl From<FileStat> for Meta {
    fn from(stat: FileStat) -> Self {
        Self {
            kind: SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT,
            mode: stat.st_mode & 0o555,
            links: stat.st_nlink,
            size: u64::try_from(stat.st_size).unwrap_or(0),
            modified: stat.st_mtime,
        }
    }
}

impl Metadata for Meta {
    fn len(&self) -> u64 {
        self.size
    }
    fn is_dir(&self) -> bool {
        self.kind == SFlag::S_IFDIR
    }
    fn is_file(&self) -> bool {
        self.kind == SFlag::S_IFREG
    }
    fn is_symlink(&self) -> bool {
        false
    }
    fn modified(&self) -> storage::Result<SystemTime> {
        let since = Duration::from_secs(u64::try_from(self.modified).unwrap_or(0));
        Ok(SystemTime::UNIX_EPOCH + since)
    }
    fn uid(&self) -> u32 {
        0
    }
    fn gid(&self) -> u32 {
        0
    }
    fn links(&self) -> u64 {
        self.links
    }
    fn permissions(&self) -> Permissions {
        Permissions(self.mode)
    }
}

/// An error for libunftp; `why` is what the client is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Missing {
    pub(super) kind: ErrorKind,
    pub(super) why: &'static str,
}

impl Missing {
    pub(super) const fn gone(why: &'static str) -> Self {
        Self { kind: ErrorKind::PermanentFileNotAvailable, why }
    }

    /// The reply's code.
    pub(super) fn code(self) -> u16 {
        match self.kind {
            ErrorKind::LocalError => 451,
            _ => 550,
        }
    }
}

impl From<Errno> for Missing {
    fn from(errno: Errno) -> Self {
        match errno {
            Errno::ENOENT | Errno::ENOTDIR | Errno::ENAMETOOLONG => Self::gone("No such file or directory"),
            // Links are not followed, so they are nothing here.
            Errno::ELOOP | Errno::EXDEV => Self::gone("No such file or directory"),
            Errno::EAGAIN => ASK_THE_DISK,
            Errno::EACCES | Errno::EPERM => Self { kind: ErrorKind::PermissionDenied, why: "Not allowed" },
            errno => {
                tracing::error!(error = %errno, "the account cannot be read");
                Self { kind: ErrorKind::LocalError, why: "Cannot be read now" }
            }
        }
    }
}

impl From<Missing> for Error {
    fn from(missing: Missing) -> Self {
        Self::new(missing.kind, missing.why)
    }
}

/// Where absolute paths begin: the working directory, which is the root (see [`crate::confine`]).
pub(super) const ROOT: BorrowedFd<'static> = nix::fcntl::AT_FDCWD;

/// Whether a question may wait for the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wait {
    /// It is answered from what the kernel has in memory, or by [`ASK_THE_DISK`].
    Never,
    /// It is answered.
    Allowed,
}

/// RESOLVE_CACHED of openat2(2), since Linux 5.12.
const RESOLVE_CACHED: u64 = 0x20;

/// The kernel does not have it in memory.
pub(super) const ASK_THE_DISK: Missing = Missing { kind: ErrorKind::LocalError, why: "Not in memory" };

/// Opens what is meant by the absolute path. No link, no other file system and nothing above is reached.
fn open(root: BorrowedFd<'_>, path: &Path, flags: OFlag, wait: Wait) -> Result<OwnedFd, Errno> {
    let below = path.strip_prefix("/").unwrap_or(path);
    let below = if below.as_os_str().is_empty() { Path::new(".") } else { below };
    let resolve = ResolveFlag::RESOLVE_BENEATH
        | ResolveFlag::RESOLVE_NO_SYMLINKS
        | ResolveFlag::RESOLVE_NO_MAGICLINKS
        | ResolveFlag::RESOLVE_NO_XDEV;
    let resolve = match wait {
        Wait::Never => resolve | ResolveFlag::from_bits_retain(RESOLVE_CACHED),
        Wait::Allowed => resolve,
    };
    openat2(root, below, OpenHow::new().flags(flags | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW).resolve(resolve))
}

/// What is there under this path.
pub(super) fn metadata(root: BorrowedFd<'_>, path: &Path, wait: Wait) -> Result<Meta, Missing> {
    let meta = Meta::from(fstat(open(root, path, OFlag::O_PATH, wait)?)?);
    if meta.is_dir() || meta.is_file() { Ok(meta) } else { Err(Missing::gone("No such file or directory")) }
}

/// A plain file for reading. A fifo in its place would not block.
pub(super) fn file(root: BorrowedFd<'_>, path: &Path) -> Result<(File, u64), Missing> {
    let file = open(root, path, OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY, Wait::Allowed)?;
    let meta = Meta::from(fstat(&file)?);
    if !meta.is_file() {
        return Err(Missing::gone("Not a plain file"));
    }
    Ok((file.into(), meta.size))
}

/// What a name stands for in a listing: the file itself, or each entry of a directory, by name.
pub(super) fn entries(root: BorrowedFd<'_>, path: &Path) -> Result<Vec<Entry>, Missing> {
    let meta = metadata(root, path, Wait::Allowed)?;
    if !meta.is_dir() {
        return Ok(vec![Fileinfo { path: path.into(), metadata: meta }]);
    }
    directory(root, path, MAX_ENTRIES)
}

/// The listing of what a name stands for, each entry written by `line`.
pub(super) fn lines(
    root: BorrowedFd<'_>,
    path: &Path,
    line: impl Fn(&mut Vec<u8>, &Entry),
) -> Result<Vec<u8>, Missing> {
    write_lines(&entries(root, path)?, line, MAX_LISTING)
}

fn write_lines(entries: &[Entry], line: impl Fn(&mut Vec<u8>, &Entry), most: usize) -> Result<Vec<u8>, Missing> {
    let mut bytes = Vec::new();
    for entry in entries {
        line(&mut bytes, entry);
        if bytes.len() > most {
            return Err(TOO_MANY);
        }
    }
    Ok(bytes)
}

const TOO_MANY: Missing = Missing { kind: ErrorKind::InsufficientStorageSpaceError, why: "Too many entries to list" };

fn directory(root: BorrowedFd<'_>, path: &Path, most: usize) -> Result<Vec<Entry>, Missing> {
    let mut directory = Dir::from_fd(open(root, path, OFlag::O_RDONLY | OFlag::O_DIRECTORY, Wait::Allowed)?)?;
    let mut names = Vec::new();
    for entry in directory.iter() {
        let Ok(name) = entry?.file_name().to_owned().into_string() else { continue };
        if name == "." || name == ".." || name.contains(char::is_control) {
            continue;
        }
        if names.len() == most {
            return Err(TOO_MANY);
        }
        names.push(name);
    }
    names.sort_unstable();
    let mut all = Vec::with_capacity(names.len());
    for name in names {
        // An entry may go while the directory is read.
        let Ok(stat) = fstatat(&directory, name.as_str(), AtFlags::AT_SYMLINK_NOFOLLOW) else { continue };
        let metadata = Meta::from(stat);
        if metadata.is_dir() || metadata.is_file() {
            all.push(Fileinfo { path: name.into(), metadata });
        }
    }
    Ok(all)
}

/// A line of MLSD (RFC 3659 section 7.2) with all facts that are offered.
pub(super) fn write_facts(out: &mut Vec<u8>, entry: &Entry) {
    let kind = if entry.metadata.is_dir() { "dir" } else { "file" };
    let modified = time(entry.metadata.modified);
    // Writing to a Vec does not fail.
    let _ = write!(out, "type={kind};size={};modify={modified}; {}\r\n", entry.metadata.size, entry.path.display());
}

/// RFC 3659 section 2.3: YYYYMMDDHHMMSS in UTC.
fn time(seconds: i64) -> String {
    let time = jiff::Timestamp::from_second(seconds).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
    time.strftime("%Y%m%d%H%M%S").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::os::fd::AsFd;

    struct Tree {
        _dir: tempfile::TempDir,
        root: File,
    }

    impl Tree {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            for name in ["b", "a\nb", "Ü c"] {
                std::fs::write(dir.path().join(name), name).unwrap();
            }
            std::fs::create_dir_all(dir.path().join("d/e")).unwrap();
            for (name, target) in [("out", "/etc/passwd"), ("up", "../.."), ("in", "b"), ("dirlink", "d")] {
                std::os::unix::fs::symlink(target, dir.path().join(name)).unwrap();
            }
            nix::unistd::mkfifo(&dir.path().join("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
            let root = File::open(dir.path()).unwrap();
            Self { _dir: dir, root }
        }

        fn names(&self, path: &str, most: usize) -> Result<Vec<String>, Missing> {
            let all = directory(self.root.as_fd(), Path::new(path), most)?;
            Ok(all.into_iter().map(|e| e.path.display().to_string()).collect())
        }
    }

    #[test]
    fn times() {
        for (seconds, text) in
            [(0, "19700101000000"), (951_782_400, "20000229000000"), (4_102_444_799, "20991231235959")]
        {
            assert_eq!(time(seconds), text);
        }
    }

    #[test]
    fn files_and_directories_only() {
        let tree = Tree::new();
        assert_eq!(tree.names("/", MAX_ENTRIES).unwrap(), ["b", "d", "Ü c"]);
        assert_eq!(tree.names("/d", MAX_ENTRIES).unwrap(), ["e"]);
        let (file, size) = file(tree.root.as_fd(), Path::new("/Ü c")).unwrap();
        assert_eq!((size, file.metadata().unwrap().len()), (4, 4));
    }

    #[test]
    fn links_and_everything_outside_are_not_there() {
        let tree = Tree::new();
        let absent = Missing::gone("No such file or directory");
        for path in
            ["/out", "/up", "/in", "/dirlink/e", "/..", "/../etc/passwd", "/d/../../x", "/none", "/b/x", "/fifo"]
        {
            assert_eq!(metadata(tree.root.as_fd(), Path::new(path), Wait::Allowed).unwrap_err(), absent, "{path}");
        }
        for path in ["/out", "/up", "/in", "/none"] {
            assert_eq!(file(tree.root.as_fd(), Path::new(path)).unwrap_err(), absent, "{path}");
        }
        for path in ["/d", "/fifo", "/"] {
            assert_eq!(file(tree.root.as_fd(), Path::new(path)).unwrap_err().why, "Not a plain file", "{path}");
        }
        let all = File::open("/").unwrap();
        let other = Path::new("/proc/version");
        assert!(std::fs::metadata(other).is_ok());
        assert_eq!(metadata(all.as_fd(), other, Wait::Allowed).unwrap_err(), absent, "another file system");
    }

    #[test]
    fn what_is_in_memory_needs_no_disk() {
        let tree = Tree::new();
        let path = Path::new("/d");
        assert!(metadata(tree.root.as_fd(), path, Wait::Allowed).unwrap().is_dir());
        assert!(metadata(tree.root.as_fd(), path, Wait::Never).unwrap().is_dir(), "it was looked up a moment ago");
        let absent = metadata(tree.root.as_fd(), Path::new("/nobody/asked/before"), Wait::Never).unwrap_err();
        assert!([ASK_THE_DISK, Missing::gone("No such file or directory")].contains(&absent), "{absent:?}");
    }

    #[test]
    fn a_listing_is_bounded() {
        let tree = Tree::new();
        // b, d, out, up, in, dirlink, fifo and the one with the umlaut; links count, since they are read
        assert_eq!(tree.names("/", 8).unwrap().len(), 3);
        assert_eq!(tree.names("/", 7).unwrap_err(), TOO_MANY);
        let entries = entries(tree.root.as_fd(), Path::new("/")).unwrap();
        let line = |out: &mut Vec<u8>, entry: &Entry| out.extend_from_slice(entry.path.as_os_str().as_encoded_bytes());
        assert_eq!(write_lines(&entries, line, 6).unwrap().len(), "bdÜ c".len());
        assert_eq!(write_lines(&entries, line, 5).unwrap_err(), TOO_MANY);
        assert_eq!((TOO_MANY.code(), Missing::from(Errno::EIO).code()), (550, 451));
    }

    #[test]
    fn lines_of_mlsd() {
        let tree = Tree::new();
        let mut out = Vec::new();
        for mut entry in entries(tree.root.as_fd(), Path::new("/")).unwrap() {
            entry.metadata.modified = 0;
            if entry.metadata.is_dir() {
                entry.metadata.size = 6;
            }
            write_facts(&mut out, &entry);
        }
        let text = "type=file;size=1;modify=19700101000000; b\r\ntype=dir;size=6;modify=19700101000000; d\r\n\
                    type=file;size=4;modify=19700101000000; Ü c\r\n";
        assert_eq!(String::from_utf8(out).unwrap(), text);
    }
}
