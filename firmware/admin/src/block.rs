//! Disks and partitions as the kernel shows them in sysfs.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Where the kernel shows them.
pub(crate) const SYS: &str = "/sys";
/// sysfs counts in units of this many bytes, whatever the device does.
pub(crate) const UNIT: u64 = 512;

/// A disk or partition.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Block {
    /// The kernel's name of it, such as `sda1`.
    pub(crate) name: String,
    /// The disk that it is a partition of.
    pub(crate) parent: Option<String>,
    /// Major and minor number, as sysfs writes them: `8:1`.
    pub(crate) number: String,
    /// Bytes.
    pub(crate) size: u64,
    /// Where it begins on its disk, in bytes.
    pub(crate) start: u64,
    /// The least that it reads and writes at once, in bytes; 0 for a partition.
    pub(crate) sector: u64,
    /// Whether it cannot be written.
    pub(crate) read_only: bool,
    /// Whether its medium can be taken out.
    pub(crate) removable: bool,
    /// Whether a piece of hardware is behind it, not another device or a file.
    pub(crate) physical: bool,
    /// Whether discarding and zeroing are done by the device itself.
    pub(crate) discards: bool,
    /// What is built on it: md, device mapper.
    pub(crate) holders: Vec<String>,
    /// What tells it from all other disks, its serial number as a rule.
    pub(crate) serial: Option<String>,
    /// Its model, where it says one.
    pub(crate) model: Option<String>,
}

impl Block {
    /// Where it is opened.
    pub(crate) fn path(&self) -> PathBuf {
        Path::new("/dev").join(&self.name)
    }
}

fn text(path: &Path) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    let text = text.trim();
    (!text.is_empty()).then(|| text.to_owned())
}

fn number(path: &Path) -> u64 {
    text(path).and_then(|t| t.parse().ok()).unwrap_or(0)
}

fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries.filter_map(|e| e.file_name().into_string().ok()).collect();
    names.sort();
    names
}

/// Reads one entry of `class/block`; `None` when it went meanwhile.
fn look(sys: &Path, name: &str) -> Option<Block> {
    let dir = fs::canonicalize(sys.join("class/block").join(name)).ok()?;
    let parent =
        dir.join("partition").exists().then(|| dir.parent()?.file_name()?.to_str().map(str::to_owned)).flatten();
    let queue = dir.join("queue");
    Some(Block {
        name: name.to_owned(),
        number: text(&dir.join("dev"))?,
        size: number(&dir.join("size")) * UNIT,
        start: number(&dir.join("start")) * UNIT,
        sector: number(&queue.join("logical_block_size")),
        read_only: number(&dir.join("ro")) != 0,
        removable: number(&dir.join("removable")) != 0,
        physical: parent.is_none() && dir.join("device").exists() && number(&dir.join("hidden")) == 0,
        discards: number(&queue.join("discard_max_bytes")) > 0 && number(&queue.join("write_zeroes_max_bytes")) > 0,
        holders: names(&dir.join("holders")),
        // Disks of SATA and SAS have what is as good, the name of the unit in all the world.
        serial: ["serial", "device/serial", "device/wwid"].iter().find_map(|file| text(&dir.join(file))),
        model: text(&dir.join("device/model")),
        parent,
    })
}

/// All disks and partitions, by name.
///
/// # Errors
/// When sysfs cannot be read.
pub(crate) fn all(sys: &Path) -> io::Result<Vec<Block>> {
    let dir = sys.join("class/block");
    fs::read_dir(&dir)?;
    Ok(names(&dir).iter().filter_map(|name| look(sys, name)).collect())
}

/// The numbers of the devices that file systems are mounted from, out of `/proc/self/mountinfo`, with their mount points.
pub(crate) fn mounts(mountinfo: &str) -> Vec<(String, String)> {
    let fields = mountinfo.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    fields.filter_map(|f| Some(((*f.get(2)?).to_owned(), (*f.get(4)?).to_owned()))).collect()
}

/// What is mounted from devices, by the paths that it was mounted from: some file systems (btrfs) show no number of a device.
pub(crate) fn mount_sources(mountinfo: &str) -> Vec<(String, String)> {
    let one = |line: &str| {
        let (before, after) = line.split_once(" - ")?;
        let (source, at) = (after.split(' ').nth(1)?, before.split(' ').nth(4)?);
        source.starts_with("/dev/").then(|| (source.to_owned(), at.to_owned()))
    };
    mountinfo.lines().filter_map(one).collect()
}

/// Where file systems are mounted that can be both written to and run from, out of a mountinfo (proc_pid_mountinfo(5)).
pub(crate) fn writable_and_executable(mountinfo: &str) -> Vec<String> {
    let one = |line: &str| {
        let (before, after) = line.split_once(" - ")?;
        // What is said of the mount, and what of the file system.
        let (at, mount) = (before.split(' ').nth(4)?, before.split(' ').nth(5)?);
        let system = after.split(' ').nth(2)?;
        let has = |options: &str, option| options.split(',').any(|o| o == option);
        (has(mount, "rw") && has(system, "rw") && !has(mount, "noexec")).then(|| at.to_owned())
    };
    mountinfo.lines().filter_map(one).collect()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A sysfs with these files in it.
    pub(crate) fn sysfs(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (path, content) in files {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
        let class = dir.path().join("class/block");
        fs::create_dir_all(&class).unwrap();
        let mut todo = vec![dir.path().join("devices")];
        while let Some(next) = todo.pop() {
            for entry in fs::read_dir(next).into_iter().flatten().flatten().filter(|e| e.path().is_dir()) {
                if entry.path().join("dev").exists() {
                    std::os::unix::fs::symlink(entry.path(), class.join(entry.file_name())).unwrap();
                }
                todo.push(entry.path());
            }
        }
        dir
    }

    #[test]
    fn mounts_that_are_writable_and_executable() {
        let shown = "1 1 0:2 / / ro,relatime shared:1 - rootfs rootfs ro,size=9k\n\
                     2 1 0:3 / /ro ro,relatime - tmpfs tmpfs rw\n\
                     3 1 0:4 / /run rw,nosuid,nodev,noexec shared:2 - tmpfs tmpfs rw,mode=755\n\
                     4 1 0:5 / /tmp rw,nosuid,nodev shared:3 master:1 - tmpfs tmpfs rw,size=5k\n\
                     5 1 0:6 / /sys rw,noexec - sysfs sysfs rw\nnonsense\n\
                     6 1 0:7 / /x rw - ext4 /dev/vda ro,noexec\n\
                     7 1 0:8 / /y rw - ext4 /dev/vda rw\n";
        assert_eq!(writable_and_executable(shown), ["/tmp", "/y"]);
    }

    #[test]
    fn disks_and_partitions() {
        let sys = sysfs(&[
            ("devices/pci/vda/dev", "254:0\n"),
            ("devices/pci/vda/size", "4096\n"),
            ("devices/pci/vda/ro", "0\n"),
            ("devices/pci/vda/serial", "disk0\n"),
            ("devices/pci/vda/device/vendor", "x"),
            ("devices/pci/vda/queue/discard_max_bytes", "512\n"),
            ("devices/pci/vda/queue/write_zeroes_max_bytes", "512\n"),
            ("devices/pci/vda/vda2/dev", "254:2\n"),
            ("devices/pci/vda/vda2/partition", "2\n"),
            ("devices/pci/vda/vda2/start", "2048\n"),
            ("devices/pci/vda/vda2/size", "1024\n"),
            ("devices/pci/vda/vda2/ro", "1\n"),
            ("devices/pci/vda/vda2/holders/md0/dev", "9:0"),
        ]);
        let blocks = all(sys.path()).unwrap();
        let vda = blocks.iter().find(|b| b.name == "vda").unwrap();
        assert_eq!((vda.size, vda.physical, vda.discards, vda.parent.as_deref()), (4096 * 512, true, true, None));
        assert_eq!((vda.serial.as_deref(), vda.number.as_str(), vda.read_only), (Some("disk0"), "254:0", false));
        let part = blocks.iter().find(|b| b.name == "vda2").unwrap();
        assert_eq!((part.parent.as_deref(), part.start, part.size), (Some("vda"), 2048 * 512, 1024 * 512));
        assert!(part.read_only && !part.physical && part.holders == ["md0"]);
        assert!(all(Path::new("/nonexistent")).is_err());
    }

    #[test]
    fn what_is_mounted() {
        let info = "24 1 0:22 / /sys rw,nosuid shared:7 - sysfs sysfs rw\n25 1 254:2 / /state rw - ext4 /dev/vda2 rw\n";
        assert_eq!(mounts(info), [("0:22".into(), "/sys".into()), ("254:2".into(), "/state".to_owned())]);
        assert_eq!(mount_sources(info), [("/dev/vda2".to_owned(), "/state".to_owned())]);
        let tagged = "30 1 0:30 /@ /home rw shared:1 master:2 - btrfs /dev/sda3 rw,subvol=/@\nnonsense\n";
        assert_eq!(mount_sources(tagged), [("/dev/sda3".to_owned(), "/home".to_owned())]);
    }
}
