//! The running array, as the kernel shows it in sysfs (Documentation/admin-guide/md.rst).

use super::superblock::Uuid;
use super::{StorageError, tool};
use std::fs;
use std::path::{Path, PathBuf};

/// The kernel's name of our array.
pub(crate) const NAME: &str = "md0";

/// Where it is opened.
pub(crate) fn device() -> PathBuf {
    Path::new("/dev").join(NAME)
}

/// A member of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Member {
    /// The kernel's name of the disk.
    pub(crate) disk: String,
    /// Its states, such as `in_sync`, `faulty`, `spare`.
    pub(crate) state: String,
    /// Its place among the members; none for a spare and for one that failed.
    pub(crate) slot: Option<u16>,
    /// Read errors that were corrected from the other copy.
    pub(crate) errors: u64,
}

/// What the kernel says of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Array {
    /// Its identifier.
    pub(crate) array: Uuid,
    /// `raid1`, `raid10` …
    pub(crate) level: String,
    /// `clean`, `active`, `inactive` …
    pub(crate) state: String,
    /// How many members it has when whole.
    pub(crate) whole: u64,
    /// How many are missing.
    pub(crate) missing: u64,
    /// Bytes that the array uses of each member.
    pub(crate) component: u64,
    /// Sectors that differed between the copies when they were last compared.
    pub(crate) mismatches: u64,
    /// `idle`, `resync`, `recover`, `check` …
    pub(crate) action: String,
    /// How much of that is done, in percent.
    pub(crate) done: Option<u64>,
    /// Its members.
    pub(crate) members: Vec<Member>,
}

impl Member {
    /// Whether this is one of its states.
    pub(crate) fn is(&self, state: &str) -> bool {
        self.state.split(',').any(|s| s == state)
    }
}

impl Array {
    /// Whether this disk is in it and has not failed.
    pub(crate) fn has(&self, disk: &str) -> bool {
        self.members.iter().any(|m| m.disk == disk && !m.is("faulty"))
    }

    /// Whether this disk is a spare that waits for a member to fail.
    pub(crate) fn waits(&self, disk: &str) -> bool {
        self.members.iter().any(|m| m.disk == disk && m.is("spare") && m.slot.is_none())
    }

    /// Whether it can be read and written.
    pub(crate) fn runs(&self) -> bool {
        !matches!(&*self.state, "inactive" | "clear" | "suspended" | "broken")
    }
}

/// Calls mdadm on it, in this mode; `what` says what has not happened if that fails.
///
/// # Errors
/// When mdadm refuses, or is not there.
pub(super) fn mdadm(mode: &str, what: &'static str, arguments: &[&str]) -> Result<(), StorageError> {
    tool("mdadm", what, &[&[mode, &device().to_string_lossy()], arguments].concat())
}

/// What the kernel says of it in one of its files.
pub(super) fn said(sys: &Path, file: &str) -> Option<String> {
    text(&sys.join("class/block").join(NAME).join("md").join(file))
}

fn text(path: &Path) -> Option<String> {
    fs::read_to_string(path).ok().map(|t| t.trim().to_owned())
}

fn number(path: &Path) -> Option<u64> {
    // "4" or, while it is reshaped, "5 (4)".
    text(path)?.split_whitespace().next()?.parse().ok()
}

/// Looks; `None` when there is none.
pub(crate) fn look(sys: &Path) -> Option<Array> {
    let dir = sys.join("class/block").join(NAME).join("md");
    let degraded = || number(&dir.join("degraded")).unwrap_or(0);
    let before = degraded();
    let mut members = Vec::new();
    for entry in fs::read_dir(&dir).ok()?.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let Some(disk) = name.strip_prefix("dev-") else { continue };
        members.push(Member {
            disk: disk.to_owned(),
            state: text(&entry.path().join("state")).unwrap_or_default(),
            slot: text(&entry.path().join("slot")).and_then(|t| t.parse().ok()),
            errors: number(&entry.path().join("errors")).unwrap_or(0),
        });
    }
    members.sort_by(|a, b| a.disk.cmp(&b.disk));
    let done = text(&dir.join("sync_completed")).and_then(|t| {
        let (done, all) = t.split_once(" / ")?;
        done.trim().parse::<u64>().ok()?.checked_mul(100)?.checked_div(all.trim().parse().ok()?)
    });
    Some(Array {
        array: text(&dir.join("uuid")).and_then(|t| t.parse().ok())?,
        level: text(&dir.join("level"))?,
        state: text(&dir.join("array_state"))?,
        whole: number(&dir.join("raid_disks"))?,
        // A copy may have ended, or a member failed, while they were looked at: never whole beside one that is not in it.
        missing: before.max(degraded()),
        // In KiB.
        component: number(&dir.join("component_size")).unwrap_or(0) << 10,
        mismatches: number(&dir.join("mismatch_cnt")).unwrap_or(0),
        action: text(&dir.join("sync_action")).unwrap_or_else(|| "idle".into()),
        done,
        members,
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::block::tests::sysfs;
    use std::io::Write as _;
    use tempfile::TempDir;

    const MD: &str = "devices/virtual/block/md0/md";

    /// A whole mirror of two with these members and their states; those that are in sync have their places in this order.
    pub(crate) fn sample(members: &[(&str, &str)]) -> Array {
        let member = |(slot, (disk, state)): (u16, &(&str, &str))| Member {
            disk: (*disk).into(),
            state: (*state).into(),
            slot: state.starts_with("in_sync").then_some(slot),
            errors: 0,
        };
        Array {
            array: Uuid([1; 16]),
            level: "raid1".into(),
            state: "clean".into(),
            whole: 2,
            missing: 0,
            component: 1 << 30,
            mismatches: 0,
            action: "idle".into(),
            done: None,
            members: (0..).zip(members).map(member).collect(),
        }
    }

    /// An array of which the kernel says this.
    fn md0(files: &[(&str, &str)]) -> TempDir {
        let paths: Vec<_> = files.iter().map(|(file, text)| (format!("{MD}/{file}"), *text)).collect();
        let mut said = vec![
            ("devices/virtual/block/md0/dev", "9:0\n"),
            ("devices/virtual/block/md0/md/uuid", "01020304-0506-0708-090a-0b0c0d0e0f10\n"),
            ("devices/virtual/block/md0/md/array_state", "clean\n"),
        ];
        said.extend(paths.iter().map(|(path, text)| (&**path, *text)));
        sysfs(&said)
    }

    #[test]
    fn what_the_kernel_says() {
        let sys = md0(&[
            ("level", "raid10\n"),
            ("raid_disks", "5 (4)\n"),
            ("degraded", "1\n"),
            ("component_size", "1048576\n"),
            ("mismatch_cnt", "128\n"),
            ("sync_action", "recover\n"),
            ("sync_completed", "512 / 2048\n"),
            ("dev-sdb/state", "in_sync\n"),
            ("dev-sdb/errors", "3\n"),
            ("dev-sdb/slot", "2\n"),
            ("dev-sda/state", "spare\n"),
            ("dev-sda/slot", "none\n"),
        ]);
        let array = look(sys.path()).unwrap();
        assert_eq!(array.array.to_string(), "01020304:05060708:090a0b0c:0d0e0f10");
        assert_eq!((array.whole, array.missing, array.done, array.runs()), (5, 1, Some(25), true));
        let members: Vec<_> = array.members.iter().map(|m| (&*m.disk, &*m.state, m.slot, m.errors)).collect();
        assert_eq!(members, [("sda", "spare", None, 0), ("sdb", "in_sync", Some(2), 3)]);
        assert_eq!((array.component, array.mismatches), (1 << 30, 128));
        let write = |file: &str, text: &str| fs::write(sys.path().join(MD).join(file), text).unwrap();
        write("sync_completed", "none\n");
        write("array_state", "inactive\n");
        let array = look(sys.path()).unwrap();
        assert_eq!((array.done, array.runs()), (None, false));
        fs::remove_dir_all(sys.path().join(MD)).unwrap();
        assert_eq!(look(sys.path()), None);
    }

    /// What is missing when the array is looked at, and it changes from one number to another while a member is.
    fn missing_while(from: &str, to: &str, state: &str) -> u64 {
        let sys = md0(&[("level", "raid1\n"), ("raid_disks", "2\n"), ("degraded", from), ("dev-sda/slot", "0\n")]);
        let md = sys.path().join(MD);
        let pipe = md.join("dev-sda/state");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let looking = std::thread::spawn(move || look(sys.path()).unwrap());
        // Opens when the other side is at the member.
        let mut at_the_member = fs::OpenOptions::new().write(true).open(&pipe).unwrap();
        fs::write(md.join("degraded"), to).unwrap();
        at_the_member.write_all(state.as_bytes()).unwrap();
        drop(at_the_member);
        let array = looking.join().unwrap();
        assert!(array.members[0].is(state));
        array.missing
    }

    #[test]
    fn an_array_is_not_whole_beside_a_member_that_is_not_in_it() {
        assert_eq!(missing_while("1\n", "0\n", "spare"), 1, "the copy ended");
        assert_eq!(missing_while("0\n", "1\n", "faulty"), 1, "the member failed");
    }
}
