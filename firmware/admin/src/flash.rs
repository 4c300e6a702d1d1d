//! Writing a machine's boot disk: the image of its role, compressed or not, with its part of the site (`ffsctl flash`).
//!
//! In this order, so that a disk that was not finished does not boot: the old partition table goes; the ESP is copied; the state
//! partition is made ([`state::write_partition`]) and read back; what was copied is read back from the disk, past the page cache, and
//! compared; last the table is written, with identifiers of its own, its copy at the end of the disk. The state partition keeps its
//! size in the image and grows on the machine's first start.

mod source;
pub(crate) mod target;

use crate::gpt::{self, GptError, SECTOR, Table};
use crate::setup::{self, SetupError};
use crate::state::mount::write_table;
use crate::state::{self, StateError};
use keys::site::Role;
use sha2::{Digest, Sha256};
use source::Source;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// What the name of an image's ESP begins with; the role follows.
pub const ESP_NAME: &str = "FFS-ESP ";
/// Bytes that are copied at once.
const BLOCK: usize = 4 << 20;

/// Why a disk was not written.
#[derive(Debug, thiserror::Error)]
pub enum FlashError {
    /// The file is no image.
    #[error("{path} is no image of an FFS machine: {why}")]
    Image {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The machine has another role than the image.
    #[error("{machine} is a {wanted} machine, and this is the image of a {found} machine")]
    Role {
        /// The machine.
        machine: String,
        /// Its role.
        wanted: &'static str,
        /// The image's.
        found: &'static str,
    },
    /// The machine could not be set up from this folder.
    #[error("{path} is not the folder of a machine of a site")]
    Folder {
        /// The folder.
        path: PathBuf,
        /// What is missing.
        #[source]
        source: SetupError,
    },
    /// The target is not one.
    #[error("{path} is not written: {why}")]
    Target {
        /// The target.
        path: PathBuf,
        /// What speaks against it.
        why: String,
    },
    /// A file or device.
    #[error("cannot read or write {path}")]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The state partition.
    #[error("the state partition was not written")]
    State(#[from] StateError),
    /// The table does not fit.
    #[error("the partition table was not written")]
    Table(#[from] GptError),
    /// No randomness.
    #[error("no randomness")]
    Random(#[from] getrandom::Error),
    /// What was read back is something else.
    #[error("what was read back from {0} is not what was written: the disk is not to be trusted")]
    Differs(PathBuf),
}

pub(crate) fn io_error(path: &Path) -> impl FnOnce(io::Error) -> FlashError {
    let path = path.to_owned();
    move |source| FlashError::Io { path, source }
}

/// An image.
#[derive(Debug)]
pub struct Image {
    path: PathBuf,
    table: Table,
    /// Of which role it is.
    pub role: Role,
    /// Its bytes, unpacked.
    pub size: u64,
}

impl Image {
    /// Opens it.
    ///
    /// # Errors
    /// [`FlashError::Image`], [`FlashError::Io`].
    pub fn open(path: &Path) -> Result<Self, FlashError> {
        let bad = |why: &str| FlashError::Image { path: path.into(), why: why.into() };
        if !path.metadata().map_err(io_error(path))?.is_file() {
            return Err(bad("it is not a file"));
        }
        let (mut source, size) = Source::open(path).map_err(io_error(path))?;
        let size = size.ok_or_else(|| bad("it does not say how large it is when unpacked"))?;
        let mut head = vec![0; usize::try_from(gpt::HEAD * SECTOR).unwrap_or(0)];
        source.read(0, &mut head).map_err(|_| bad("it has no partition table"))?;
        let table = Table::parse(&head).map_err(|e| bad(&e.to_string()))?;
        let role = table.partitions.iter().find_map(|p| p.name.strip_prefix(ESP_NAME));
        let role = role.and_then(|name| Role::ALL.into_iter().find(|r| r.as_str() == name));
        let role = role.ok_or_else(|| bad("its partitions do not say of which role it is"))?;
        let state = table.last().filter(|p| p.name == state::LABEL && p.kind == gpt::LINUX);
        let end = size / SECTOR;
        if state.is_none() || table.partitions.iter().any(|p| p.first > p.last || p.last >= end) {
            return Err(bad("its last partition is not the one for the state, or it is cut off"));
        }
        Ok(Self { path: path.into(), table, role, size })
    }

    /// The sectors to be copied: those of all partitions but the last.
    fn copied(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        let state = self.table.last().map(|p| p.first);
        self.table.partitions.iter().filter(move |p| Some(p.first) != state).map(|p| (p.first, p.last + 1))
    }
}

/// What is to be written.
#[derive(Debug)]
pub struct Job<'a> {
    /// The image.
    pub image: &'a Image,
    /// The machine's folder of its site.
    pub folder: &'a Path,
    /// The machine's name.
    pub machine: &'a str,
}

/// What was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// The disk's new identifier.
    pub disk: gpt::Guid,
    /// SHA-256 of what was copied of the image and read back.
    pub sha256: String,
    /// Bytes of the disk.
    pub size: u64,
}

impl<'a> Job<'a> {
    /// Checks that image and machine fit each other.
    ///
    /// # Errors
    /// [`FlashError::Folder`], [`FlashError::Role`].
    pub fn new(image: &'a Image, folder: &'a Path, machine: &'a str) -> Result<Self, FlashError> {
        let wrong = |source| FlashError::Folder { path: folder.into(), source };
        let role = setup::check(folder, machine).map_err(wrong)?;
        if role != image.role {
            let (wanted, found) = (role.as_str(), image.role.as_str());
            return Err(FlashError::Role { machine: machine.into(), wanted, found });
        }
        Ok(Self { image, folder, machine })
    }

    /// Writes it to a target that [`target`] allowed, of so many bytes. `progress` is told what is done, and how many bytes of how many.
    ///
    /// # Errors
    /// [`FlashError`]; the target does not boot then.
    pub fn write(
        &self,
        to: &Path,
        size: u64,
        device: bool,
        progress: &mut dyn FnMut(&'static str, u64, u64),
    ) -> Result<Written, FlashError> {
        let mut options = OpenOptions::new();
        options.read(true).write(true);
        if device {
            // For block devices: fails when anybody has mounted or claimed it (open(2)).
            options.custom_flags(nix::libc::O_EXCL);
        }
        let out = options.open(to).map_err(io_error(to))?;
        let (sectors, image) = (size / SECTOR, self.image);
        let mut table = image.table.clone();
        table.renew()?;
        let encoded = table.encode(sectors)?;
        let state = image.table.last().ok_or_else(|| FlashError::Differs(image.path.clone()))?;
        // The old table and whatever else old tools would find at both ends.
        let zeros = vec![0; 1 << 20];
        for at in [0, sectors * SECTOR - zeros.len() as u64] {
            out.write_all_at(&zeros, at).map_err(io_error(to))?;
        }
        out.sync_all().map_err(io_error(to))?;
        let all: u64 = image.copied().map(|(first, end)| (end - first) * SECTOR).sum();
        let written = self.copy(&out, to, device, all, progress)?;
        out.sync_all().map_err(io_error(to))?;
        // Another process makes the file system, through a descriptor of its own.
        drop(out);
        progress("state", 0, 1);
        let place = (state.first * SECTOR, (state.last + 1 - state.first) * SECTOR);
        state::write_partition(self.folder, self.machine, to, place.0, place.1)?;
        progress("state", 1, 1);
        state::forget(to)?;
        if self.read_back(to, all, progress)? != written {
            return Err(FlashError::Differs(to.into()));
        }
        let out = OpenOptions::new().read(true).write(true).open(to).map_err(io_error(to))?;
        write_table(&out, &encoded, sectors * SECTOR).map_err(io_error(to))?;
        state::forget(to)?;
        let mut head = vec![0; encoded.head.len()];
        let mut tail = vec![0; encoded.tail.len()];
        out.read_exact_at(&mut head, 0).map_err(io_error(to))?;
        out.read_exact_at(&mut tail, (sectors - gpt::TAIL) * SECTOR).map_err(io_error(to))?;
        if head != encoded.head || tail != encoded.tail {
            return Err(FlashError::Differs(to.into()));
        }
        Ok(Written { disk: table.id, sha256: hex::encode(written), size: sectors * SECTOR })
    }

    /// Copies what is to be copied; gives the hash of it.
    fn copy(
        &self,
        out: &File,
        to: &Path,
        device: bool,
        all: u64,
        progress: &mut dyn FnMut(&'static str, u64, u64),
    ) -> Result<Vec<u8>, FlashError> {
        let image = self.image;
        let (mut source, _) = Source::open(&image.path).map_err(io_error(&image.path))?;
        let hash = each(image.copied(), |at, block, done| {
            source.read(at, block).map_err(io_error(&image.path))?;
            // A new file has zeros already; a disk has what was on it before.
            if device || block.iter().any(|b| *b != 0) {
                out.write_all_at(block, at).map_err(io_error(to))?;
            }
            progress("write", done, all);
            Ok(())
        })?;
        source.finish(image.size).map_err(io_error(&image.path))?;
        Ok(hash)
    }

    /// Reads the same back; gives the hash of it.
    fn read_back(
        &self,
        to: &Path,
        all: u64,
        progress: &mut dyn FnMut(&'static str, u64, u64),
    ) -> Result<Vec<u8>, FlashError> {
        let file = File::open(to).map_err(io_error(to))?;
        each(self.image.copied(), |at, block, done| {
            file.read_exact_at(block, at).map_err(io_error(to))?;
            progress("verify", done, all);
            Ok(())
        })
    }
}

/// Walks over sectors in blocks; `work` fills the block, and is told where it is and how much is done with it.
fn each(
    ranges: impl Iterator<Item = (u64, u64)>,
    mut work: impl FnMut(u64, &mut [u8], u64) -> Result<(), FlashError>,
) -> Result<Vec<u8>, FlashError> {
    let (mut hash, mut block, mut done) = (Sha256::new(), vec![0; BLOCK], 0);
    for (first, end) in ranges {
        let (mut at, end) = (first * SECTOR, end * SECTOR);
        while at < end {
            let n = usize::try_from(end - at).map_or(BLOCK, |n| n.min(BLOCK));
            done += n as u64;
            work(at, &mut block[..n], done)?;
            hash.update(&block[..n]);
            at += n as u64;
        }
    }
    Ok(hash.finalize().to_vec())
}

#[cfg(test)]
mod tests;
