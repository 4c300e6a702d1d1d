//! The state partition: what makes an image this machine of this site. The same code writes it for tests, for VMs and for disks.
//!
//! An ext4 file system labelled [`LABEL`], mounted at `/state` by the image:
//! ```text
//! site/            the machine's folder of `ffsctl site new`: site.toml, bags/, tls.pem, tls.key, grant.*
//! site/machine     the machine's name
//! site/tls.renewed the certificate and key that an operator has sent in place of those that the machine came with
//! ```
//! All of it belongs to root, whoever wrote it. The file system is made by mkfs.ext4 of e2fsprogs, without mounting anything, so
//! that an operator needs no privilege for a file.

mod clock;
pub mod mount;
pub(crate) mod reset;

use crate::gpt::{self, GptError, Guid, Partition, SECTOR, Table};
use crate::tools::{self, ToolError};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// Label of the file system and name of the partition.
pub const LABEL: &str = "FFS-STATE";
/// Size of the disk that [`small_disk`] makes, in bytes.
pub const SMALL_DISK: u64 = 128 << 20;
/// Partitions begin at multiples of this many bytes.
pub const ALIGN: u64 = 1 << 20;
/// One inode for so many bytes. There are few files, and where the file system grows onto a large disk the kernel writes all inodes.
const BYTES_PER_INODE: &str = "65536";
/// Smallest state partition in bytes.
pub const MIN_SIZE: u64 = 16 << 20;

/// Why a state partition was not written.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The folder is not one of a machine.
    #[error("{path} is no folder of a machine: {why}")]
    Folder {
        /// The folder.
        path: PathBuf,
        /// What is missing.
        why: String,
    },
    /// A file or device cannot be read or written.
    #[error("cannot read or write {path}")]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A program of e2fsprogs is missing.
    #[error("{0} is not installed; it is in the package e2fsprogs")]
    Missing(&'static str),
    /// A program failed.
    #[error("the file system was not made")]
    Tool(#[from] ToolError),
    /// The partition is too small, or not where partitions begin.
    #[error("a state partition of {size} bytes at {offset}: it needs {MIN_SIZE} bytes, and both in units of {SECTOR}")]
    Place {
        /// Where it begins, in bytes.
        offset: u64,
        /// How large it is, in bytes.
        size: u64,
    },
    /// What was read back is not what was written.
    #[error("{0} in the state partition is not what was written")]
    Differs(String),
    /// The partition table.
    #[error("the partition table was not made")]
    Gpt(#[from] GptError),
    /// No randomness.
    #[error("no randomness")]
    Random(#[from] getrandom::Error),
}

fn io_error(path: &Path) -> impl FnOnce(io::Error) -> StateError {
    let path = path.to_owned();
    move |source| StateError::Io { path, source }
}

/// The files of a machine's folder, relative to it, directories before what is in them.
fn entries(dir: &Path) -> Result<Vec<PathBuf>, StateError> {
    let folder = |why: &str| StateError::Folder { path: dir.into(), why: why.into() };
    if !dir.join("site.toml").is_file() || !dir.join("bags").is_dir() {
        return Err(folder("it needs site.toml and bags/"));
    }
    let (mut all, mut todo) = (Vec::new(), vec![dir.to_owned()]);
    while let Some(next) = todo.pop() {
        for entry in fs::read_dir(&next).map_err(io_error(&next))? {
            let entry = entry.map_err(io_error(&next))?;
            let (path, kind) = (entry.path(), entry.file_type().map_err(io_error(&next))?);
            let relative = path.strip_prefix(dir).unwrap_or(&path).to_owned();
            // They go into a command file of debugfs.
            let plain = |c: char| c.is_ascii_alphanumeric() || "._-/".contains(c);
            if !relative.to_str().is_some_and(|r| r.chars().all(plain)) {
                return Err(folder(&format!("{} has a name that is none of its files", relative.display())));
            }
            if kind.is_dir() {
                todo.push(path);
            } else if !kind.is_file() {
                return Err(folder(&format!("{} is neither file nor directory", relative.display())));
            }
            all.push(relative);
        }
    }
    all.sort();
    Ok(all)
}

fn tool(program: &'static str) -> Result<PathBuf, StateError> {
    tools::find(program).ok_or(StateError::Missing(program))
}

/// Copies the folder below `root`, as the partition has it.
fn stage(dir: &Path, machine: &str, root: &Path) -> Result<Vec<String>, StateError> {
    use std::os::unix::fs::PermissionsExt;
    let site = root.join("site");
    fs::create_dir(&site).map_err(io_error(&site))?;
    let mut names = vec!["site".to_owned()];
    for entry in entries(dir)? {
        let (from, to) = (dir.join(&entry), site.join(&entry));
        let is_dir = from.is_dir();
        if is_dir { fs::create_dir(&to) } else { fs::copy(&from, &to).map(|_| ()) }.map_err(io_error(&from))?;
        fs::set_permissions(&to, fs::Permissions::from_mode(if is_dir { 0o700 } else { 0o600 }))
            .map_err(io_error(&to))?;
        names.push(format!("site/{}", entry.display()));
    }
    let name = site.join("machine");
    fs::write(&name, format!("{machine}\n")).map_err(io_error(&name))?;
    fs::set_permissions(&site, fs::Permissions::from_mode(0o700)).map_err(io_error(&site))?;
    names.push("site/machine".into());
    Ok(names)
}

/// Writes the state partition of a machine into a file or device, `offset` bytes from its begin, and reads it back.
///
/// `dir` is the machine's folder, `machine` its name.
///
/// # Errors
/// [`StateError`]; what is in the place of the partition is of no use then.
pub fn write_partition(dir: &Path, machine: &str, out: &Path, offset: u64, size: u64) -> Result<(), StateError> {
    if size < MIN_SIZE || !offset.is_multiple_of(SECTOR) || !size.is_multiple_of(SECTOR) {
        return Err(StateError::Place { offset, size });
    }
    let (mkfs, debugfs, e2fsck) = (tool("mkfs.ext4")?, tool("debugfs")?, tool("e2fsck")?);
    let root = tempfile::tempdir().map_err(io_error(Path::new("a temporary directory")))?;
    let names = stage(dir, machine, root.path())?;
    let text = |path: &Path| {
        path.to_str().map(str::to_owned).ok_or_else(|| io_error(path)(io::Error::from(io::ErrorKind::InvalidFilename)))
    };
    let (root_text, out_text) = (text(root.path())?, text(out)?);
    let (place, kib) = (format!("offset={offset},root_owner=0:0"), format!("{}k", size / 1024));
    let arguments = [
        ["-q", "-F", "-b", "4096", "-m", "0", "-i", BYTES_PER_INODE, "-L", LABEL, "-d", &root_text, "-E", &place]
            .as_slice(),
        &[&out_text, &kib],
    ]
    .concat();
    tools::run(&mkfs, &arguments, b"")?;
    // The owner of the copies is whoever runs this; in the machine it is root.
    let fields = names.iter().flat_map(|n| ["uid", "gid"].map(|field| format!("sif /{n} {field} 0\n")));
    let at = format!("{out_text}?offset={offset}");
    tools::run(&debugfs, &["-w", "-f", "-", &at], fields.collect::<String>().as_bytes())?;
    forget(out)?;
    tools::run(&e2fsck, &["-f", "-n", &at], b"")?;
    for name in &names {
        let path = root.path().join(name);
        if path.is_dir() {
            continue;
        }
        let expected = fs::read(&path).map_err(io_error(&path))?;
        if tools::run(&debugfs, &["-R", &format!("cat /{name}"), &at], b"")? != expected {
            return Err(StateError::Differs(name.clone()));
        }
    }
    Ok(())
}

/// Makes what was written durable, then forgets it, so that reading it comes from the disk.
pub(crate) fn forget(path: &Path) -> Result<(), StateError> {
    let file = File::open(path).map_err(io_error(path))?;
    file.sync_all().map_err(io_error(path))?;
    // Advice only; a file system that keeps everything in memory has nothing to forget.
    let _ = nix::fcntl::posix_fadvise(&file, 0, 0, nix::fcntl::PosixFadviseAdvice::POSIX_FADV_DONTNEED);
    Ok(())
}

/// Makes a file that is a disk with a machine's state partition and nothing else, for a machine that gets its kernel otherwise.
///
/// # Errors
/// [`StateError`].
pub fn small_disk(dir: &Path, machine: &str, out: &Path) -> Result<(), StateError> {
    let sectors = SMALL_DISK / SECTOR;
    let (first, last) = (ALIGN / SECTOR, (SMALL_DISK - ALIGN) / SECTOR - 1);
    let state = Partition { kind: gpt::LINUX, id: Guid::random()?, first, last, attributes: 0, name: LABEL.to_owned() };
    let table = Table { id: Guid::random()?, partitions: vec![state] }.encode(sectors)?;
    let file = OpenOptions::new().write(true).create(true).truncate(true).open(out).map_err(io_error(out))?;
    file.set_len(SMALL_DISK).map_err(io_error(out))?;
    file.write_all_at(&table.head, 0).map_err(io_error(out))?;
    file.write_all_at(&table.tail, (sectors - gpt::TAIL) * SECTOR).map_err(io_error(out))?;
    write_partition(dir, machine, out, first * SECTOR, (last + 1 - first) * SECTOR)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(home: &Path) -> PathBuf {
        let dir = home.join("web");
        fs::create_dir_all(dir.join("bags")).unwrap();
        fs::write(dir.join("site.toml"), "name = 'x'\n").unwrap();
        fs::write(dir.join("bags/web-database.bag"), [7; 9000]).unwrap();
        dir
    }

    /// What debugfs says about a path in the partition.
    fn look(disk: &Path, command: &str) -> String {
        let at = format!("{}?offset={ALIGN}", disk.display());
        String::from_utf8(tools::run(&tool("debugfs").unwrap(), &["-R", command, &at], b"").unwrap()).unwrap()
    }

    #[test]
    fn a_small_disk_holds_the_folder_as_roots() {
        let home = tempfile::tempdir().unwrap();
        let (dir, disk) = (folder(home.path()), home.path().join("disk"));
        small_disk(&dir, "web", &disk).unwrap();
        let bytes = fs::read(&disk).unwrap();
        assert_eq!(u64::try_from(bytes.len()).unwrap(), SMALL_DISK);
        let table = Table::parse(&bytes[..34 * 512]).unwrap();
        assert_eq!((table.partitions.len(), &*table.partitions[0].name), (1, LABEL));
        // ext4's superblock is 1024 bytes into the partition: magic at 56, label at 120.
        let superblock = &bytes[usize::try_from(ALIGN).unwrap() + 1024..];
        assert_eq!((&superblock[56..58], &superblock[120..129]), (&[0x53, 0xef][..], LABEL.as_bytes()));
        assert_eq!(look(&disk, "cat /site/machine"), "web\n");
        for path in ["/site", "/site/machine", "/site/bags", "/site/bags/web-database.bag"] {
            let stat = look(&disk, &format!("stat {path}"));
            let owner = stat.split_whitespace().skip_while(|w| *w != "User:").take(4).collect::<Vec<_>>().join(" ");
            assert_eq!(owner, "User: 0 Group: 0", "{path}");
        }
        assert!(look(&disk, "stat /site/bags/web-database.bag").contains("Mode:  0600"));
        // It may be made anew in place of an old one.
        small_disk(&dir, "web", &disk).unwrap();
    }

    #[test]
    fn what_is_no_folder_of_a_machine() {
        let home = tempfile::tempdir().unwrap();
        let (dir, disk) = (folder(home.path()), home.path().join("disk"));
        assert!(matches!(small_disk(home.path(), "web", &disk), Err(StateError::Folder { .. })));
        std::os::unix::fs::symlink("/etc/shadow", dir.join("bags/x.bag")).unwrap();
        assert!(matches!(small_disk(&dir, "web", &disk), Err(StateError::Folder { .. })));
        fs::remove_file(dir.join("bags/x.bag")).unwrap();
        fs::write(dir.join("bags/a b"), "").unwrap();
        assert!(matches!(small_disk(&dir, "web", &disk), Err(StateError::Folder { .. })));
    }

    #[test]
    fn places_at_their_edges() {
        let home = tempfile::tempdir().unwrap();
        let (dir, out) = (folder(home.path()), home.path().join("disk"));
        File::create(&out).unwrap().set_len(MIN_SIZE + SECTOR).unwrap();
        assert!(write_partition(&dir, "web", &out, SECTOR, MIN_SIZE).is_ok());
        for (offset, size) in [(0, MIN_SIZE - SECTOR), (1, MIN_SIZE), (0, MIN_SIZE + 1)] {
            assert!(matches!(write_partition(&dir, "web", &out, offset, size), Err(StateError::Place { .. })));
        }
    }
}
