//! Whether something may be written over.

use super::{FlashError, io_error};
use crate::block::{self, Block};
use nix::sys::stat::{major, minor};
use std::collections::BTreeSet;
use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

/// Something that may be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Target {
    /// Its path; of a device without symbolic links.
    pub(crate) path: PathBuf,
    /// Bytes that it has, or will have.
    pub(crate) size: u64,
    /// Whether it is a disk; else a file.
    pub(crate) device: bool,
    /// What a person recognises it by.
    pub(crate) description: String,
}

/// What the user allows beyond the usual.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Allowed {
    /// To replace a file that is there.
    pub(crate) force: bool,
    /// How large a new file is to be.
    pub(crate) size: Option<u64>,
}

/// Looks at a target; makes the file if it is one.
///
/// # Errors
/// [`FlashError::Target`] with what speaks against it.
pub(crate) fn choose(path: &Path, least: u64, allowed: Allowed) -> Result<Target, FlashError> {
    let no = |why: String| FlashError::Target { path: path.into(), why };
    let meta = match fs::metadata(path) {
        Ok(meta) => meta,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return file(path, least, allowed),
        Err(error) => return Err(io_error(path)(error)),
    };
    let kind = meta.file_type();
    if kind.is_block_device() {
        if allowed.size.is_some() {
            return Err(no("a disk has the size that it has".into()));
        }
        let number = format!("{}:{}", major(meta.rdev()), minor(meta.rdev()));
        let device = disk(&number, least).map_err(no)?;
        let path = fs::canonicalize(path).map_err(io_error(path))?;
        return Ok(Target { path, ..device });
    }
    if !kind.is_file() {
        return Err(no("it is neither a disk nor a file".into()));
    }
    if !allowed.force {
        return Err(no("the file is there already; --force replaces it".into()));
    }
    file(path, least, allowed)
}

/// Makes a file that reads as zeros. One that is there is replaced, not changed: it may have other names.
fn file(path: &Path, least: u64, allowed: Allowed) -> Result<Target, FlashError> {
    let size = allowed.size.unwrap_or(least);
    if size < least || !size.is_multiple_of(super::SECTOR) {
        let why = format!("a disk for this image has at least {least} bytes, and a multiple of {}", super::SECTOR);
        return Err(FlashError::Target { path: path.into(), why });
    }
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(io_error(path)(error)),
        _ => {}
    }
    // Keys will be in it.
    let mode =
        std::os::unix::fs::OpenOptionsExt::mode(OpenOptions::new().write(true).create_new(true), 0o600).open(path);
    mode.and_then(|f| f.set_len(size)).map_err(io_error(path))?;
    Ok(Target { path: path.into(), size, device: false, description: "a file".into() })
}

/// What the host says of the disk with this number.
fn disk(number: &str, least: u64) -> Result<Target, String> {
    let said = |e: io::Error| format!("its state cannot be found out: {e}");
    let blocks = block::all(Path::new(block::SYS)).map_err(said)?;
    let mountinfo = fs::read_to_string("/proc/self/mountinfo").map_err(said)?;
    let swaps = fs::read_to_string("/proc/swaps").map_err(said)?;
    let mut mounts = block::mounts(&mountinfo);
    let sources = block::mount_sources(&mountinfo);
    mounts.extend(sources.into_iter().filter_map(|(source, at)| Some((device_number(&source)?, at))));
    let swaps = swap_numbers(&swaps, device_number);
    let found = judge(&blocks, number, &mounts, &swaps, least)?;
    let words = [found.model.as_deref(), found.serial.as_deref()].into_iter().flatten().collect::<Vec<_>>().join(" ");
    let description = format!("{}{} {} MiB", if words.is_empty() { "" } else { " " }, words, found.size >> 20);
    Ok(Target { path: PathBuf::new(), size: found.size, device: true, description: description.trim().to_owned() })
}

/// The number of a device, as sysfs writes it; `None` where the path is no device.
fn device_number(path: &str) -> Option<String> {
    let meta = fs::metadata(path).ok()?;
    meta.file_type().is_block_device().then(|| format!("{}:{}", major(meta.rdev()), minor(meta.rdev())))
}

/// The numbers of the devices in `/proc/swaps`.
fn swap_numbers(swaps: &str, number: impl Fn(&str) -> Option<String>) -> BTreeSet<String> {
    let paths = swaps.lines().skip(1).filter_map(|line| line.split_whitespace().next());
    paths.filter_map(number).collect()
}

/// Whether a disk may be written: a whole, writable, large enough disk of which nothing is in use.
fn judge<'a>(
    blocks: &'a [Block],
    number: &str,
    mounts: &[(String, String)],
    swaps: &BTreeSet<String>,
    least: u64,
) -> Result<&'a Block, String> {
    let disk = blocks.iter().find(|b| b.number == number).ok_or("the kernel does not know it as a disk")?;
    if let Some(parent) = &disk.parent {
        return Err(format!("it is a partition; the disk is /dev/{parent}"));
    }
    if disk.read_only {
        return Err("it cannot be written".into());
    }
    for part in blocks.iter().filter(|b| b.name == disk.name || b.parent.as_ref() == Some(&disk.name)) {
        let name = &part.name;
        if let Some((_, at)) = mounts.iter().find(|(n, _)| *n == part.number) {
            return Err(format!("/dev/{name} is mounted at {at}"));
        }
        if swaps.contains(&part.number) {
            return Err(format!("/dev/{name} is used for swap"));
        }
        if !part.holders.is_empty() {
            return Err(format!("/dev/{name} is a part of {}", part.holders.join(", ")));
        }
    }
    if disk.sector != super::SECTOR {
        let (sector, ours) = (disk.sector, super::SECTOR);
        return Err(format!(
            "it has sectors of {sector} bytes, and images are made for disks of {ours}: no machine would boot from it"
        ));
    }
    if disk.size < least {
        return Err(format!("it has {} bytes, and the image needs {least}", disk.size));
    }
    Ok(disk)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk(name: &str, number: &str) -> Block {
        Block {
            name: name.into(),
            number: number.into(),
            size: 1 << 30,
            sector: 512,
            physical: true,
            ..Block::default()
        }
    }

    #[test]
    fn disks_that_are_in_use() {
        let part = |name: &str, number: &str| Block { parent: Some("sda".into()), ..disk(name, number) };
        let plain = vec![disk("sda", "8:0"), part("sda1", "8:1"), part("sda2", "8:2"), disk("sdb", "8:16")];
        let none = BTreeSet::new();
        assert_eq!(judge(&plain, "8:0", &[], &none, 1 << 30).unwrap().name, "sda");
        assert!(judge(&plain, "8:0", &[], &none, (1 << 30) + 1).unwrap_err().contains("needs 1073741825"));
        assert!(judge(&plain, "8:1", &[], &none, 1).unwrap_err().contains("/dev/sda"));
        assert!(judge(&plain, "9:9", &[], &none, 1).is_err());
        let mounts = [("8:2".to_owned(), "/boot".to_owned())];
        assert!(judge(&plain, "8:0", &mounts, &none, 1).unwrap_err().contains("/dev/sda2 is mounted at /boot"));
        assert!(judge(&plain, "8:16", &mounts, &none, 1).is_ok(), "another disk");
        let swap = ["8:1".to_owned()].into();
        assert!(judge(&plain, "8:0", &[], &swap, 1).unwrap_err().contains("swap"));
        let mut held = plain.clone();
        held[2].holders = vec!["md0".into()];
        assert!(judge(&held, "8:0", &[], &none, 1).unwrap_err().contains("/dev/sda2 is a part of md0"));
        let mut locked = plain.clone();
        locked[0].read_only = true;
        assert!(judge(&locked, "8:0", &[], &none, 1).is_err());
        let mut large = plain.clone();
        large[0].sector = 4096;
        assert!(judge(&large, "8:0", &[], &none, 1).unwrap_err().contains("sectors of 4096 bytes"));
    }

    #[test]
    fn swaps() {
        let text = "Filename\tType\tSize\tUsed\tPriority\n/dev/sda1 partition 1 0 -2\n/swapfile file 1 0 -3\n";
        let number = |path: &str| (path == "/dev/sda1").then(|| "8:1".to_owned());
        assert_eq!(swap_numbers(text, number), ["8:1".to_owned()].into());
    }

    #[test]
    fn files() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("disk");
        let plain = Allowed::default();
        let made = choose(&path, 4096, plain).unwrap();
        assert_eq!((made.size, made.device, fs::metadata(&path).unwrap().len()), (4096, false, 4096));
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        fs::hard_link(&path, dir.path().join("other")).unwrap();
        let again = choose(&path, 4096, plain).unwrap_err().to_string();
        assert!(again.contains("--force"), "{again}");
        let force = |size| choose(&path, 4096, Allowed { force: true, size });
        assert_eq!(force(Some(8192)).unwrap().size, 8192);
        assert_eq!(fs::metadata(dir.path().join("other")).unwrap().len(), 4096, "its other name is left alone");
        assert!(force(Some(4095)).is_err() && force(Some(4097)).is_err() && force(Some(4096)).is_ok());
        assert!(choose(dir.path(), 4096, plain).is_err());
        assert!(choose(Path::new("/dev/null"), 4096, Allowed { force: true, size: None }).is_err());
        assert!(choose(&dir.path().join("no/disk"), 4096, plain).is_err());
    }
}
