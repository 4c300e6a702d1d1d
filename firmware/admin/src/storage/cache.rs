//! Write caches of disks.
//!
//! A file system is told that something is durable when the array has flushed it. A RAID5 with a partial parity log does not pass that
//! on: the kernel answers a flush at once, and flushes a member by itself only behind writes that its log has taken, a moment later
//! (`ppl_handle_flush_request` and `ppl_do_flush` in drivers/md/raid5-ppl.c). What belongs to a stripe whose parity is on a missing disk
//! is in no log, and then not flushed at all: a power cut took the ledger of a minute out of the cache of a disk. So the members of
//! such an array work without volatile caches. Other levels flush, and keep them.

use super::StorageError;
use super::array::Array;
use super::plan::Level;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// What the kernel calls a cache that loses what it holds.
const VOLATILE: &str = "write back";
/// What it is told, for there to be none.
const NONE: &str = "write through";

/// Whether an array of this level needs disks without volatile caches; by the kernel's name of the level.
fn is_too_much_for(level: &str) -> bool {
    level == Level::Raid5.as_str()
}

fn dir(sys: &Path, disk: &str) -> PathBuf {
    sys.join("class/block").join(disk)
}

/// Whether a disk has a volatile cache that is in use. One that does not say has none, for the kernel would not flush it either.
fn is_volatile(sys: &Path, disk: &str) -> bool {
    fs::read_to_string(dir(sys, disk).join("queue/write_cache")).is_ok_and(|text| text.trim() == VOLATILE)
}

/// Where drivers let a cache be switched: that of virtio, and that of SCSI, which is also that of SATA. That of the queue would only
/// have the kernel believe it.
fn switches(sys: &Path, disk: &str) -> Vec<PathBuf> {
    let dir = dir(sys, disk);
    let scsi = fs::read_dir(dir.join("device/scsi_disk")).into_iter().flatten().flatten();
    let scsi = scsi.map(|entry| entry.path().join("cache_type"));
    [dir.join("cache_type")].into_iter().chain(scsi).filter(|path| path.exists()).collect()
}

/// Switches the volatile caches of these disks off, if an array of this level needs that.
///
/// # Errors
/// [`StorageError::Cache`] with those of which it cannot be: drives of NVMe, and what sits behind some controllers.
pub(crate) fn switch_off(sys: &Path, level: &str, disks: &[String]) -> Result<(), StorageError> {
    let mut left = Vec::new();
    for disk in disks.iter().filter(|disk| is_too_much_for(level) && is_volatile(sys, disk)) {
        let switched: Vec<io::Result<()>> = switches(sys, disk).iter().map(|path| fs::write(path, NONE)).collect();
        if is_volatile(sys, disk) {
            tracing::warn!(disk, ?switched, "its write cache stays");
            left.push(disk.clone());
        } else {
            tracing::info!(disk, "its write cache is switched off");
        }
    }
    if left.is_empty() { Ok(()) } else { Err(StorageError::Cache(left.join(", "))) }
}

/// The members whose caches are too much for their array.
pub(crate) fn volatile<'a>(sys: &'a Path, array: &'a Array) -> impl Iterator<Item = &'a str> {
    let members = array.members.iter().filter(|_| is_too_much_for(&array.level)).map(|m| &*m.disk);
    members.filter(|disk| is_volatile(sys, disk))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::tests::sysfs;

    /// A kernel that looks at its switches only when it is asked: what is written to them is what it says afterwards.
    fn kernel(sys: &Path, disk: &str, switch: &str) {
        let dir = dir(sys, disk);
        fs::remove_file(dir.join("queue/write_cache")).unwrap();
        std::os::unix::fs::symlink(dir.join(switch), dir.join("queue/write_cache")).unwrap();
    }

    #[test]
    fn caches_are_switched_off_where_they_can_be() {
        let sys = sysfs(&[
            ("devices/a/vda/dev", "253:0\n"),
            ("devices/a/vda/queue/write_cache", "write back\n"),
            ("devices/a/vda/cache_type", "write back\n"),
            ("devices/b/sda/dev", "8:0\n"),
            ("devices/b/sda/queue/write_cache", "write back\n"),
            ("devices/b/sda/device/scsi_disk/0:0:0:0/cache_type", "write back\n"),
            ("devices/c/nvme0n1/dev", "259:0\n"),
            ("devices/c/nvme0n1/queue/write_cache", "write back\n"),
            ("devices/d/nvme1n1/dev", "259:1\n"),
            ("devices/d/nvme1n1/queue/write_cache", "write through\n"),
        ]);
        let sys = sys.path();
        kernel(sys, "vda", "cache_type");
        kernel(sys, "sda", "device/scsi_disk/0:0:0:0/cache_type");
        let names = |disks: &[&str]| disks.iter().map(|d| (*d).to_owned()).collect::<Vec<_>>();
        switch_off(sys, "raid6", &names(&["vda", "nvme0n1"])).unwrap();
        assert!(is_volatile(sys, "vda"), "others flush");
        switch_off(sys, "raid5", &names(&["vda", "sda", "nvme1n1", "gone"])).unwrap();
        assert!(["vda", "sda", "nvme1n1"].iter().all(|disk| !is_volatile(sys, disk)));
        let error = switch_off(sys, "raid5", &names(&["vda", "nvme0n1"])).unwrap_err();
        assert!(error.to_string().contains("nvme0n1") && !error.to_string().contains("vda"), "{error}");
        let queue = fs::read_to_string(dir(sys, "nvme0n1").join("queue/write_cache")).unwrap();
        assert_eq!(queue.trim(), VOLATILE, "the kernel is not told a lie");
    }

    #[test]
    fn only_raid5_minds() {
        let levels = ["raid1", "raid5", "raid6", "raid10"];
        assert_eq!(levels.map(is_too_much_for), [false, true, false, false]);
    }
}
