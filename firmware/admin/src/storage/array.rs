//! The running array, as the kernel shows it in sysfs (Documentation/admin-guide/md.rst).

use super::superblock::Uuid;
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
    /// `idle`, `resync`, `recover`, `check` …
    pub(crate) action: String,
    /// How much of that is done, in percent.
    pub(crate) done: Option<u64>,
    /// Its members.
    pub(crate) members: Vec<Member>,
}

impl Array {
    /// Whether it can be read and written.
    pub(crate) fn runs(&self) -> bool {
        !matches!(&*self.state, "inactive" | "clear" | "suspended" | "broken")
    }
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
    let mut members = Vec::new();
    for entry in fs::read_dir(&dir).ok()?.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let Some(disk) = name.strip_prefix("dev-") else { continue };
        members.push(Member {
            disk: disk.to_owned(),
            state: text(&entry.path().join("state")).unwrap_or_default(),
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
        missing: number(&dir.join("degraded")).unwrap_or(0),
        action: text(&dir.join("sync_action")).unwrap_or_else(|| "idle".into()),
        done,
        members,
    })
}
