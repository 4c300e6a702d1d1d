//! An array whose disks were all replaced by larger ones becomes larger, and its file system with it. Looked at when the machine starts:
//! both are steps that may be cut off, and the next start then does the rest.

use super::array::{self, Array};
use super::{StorageError, log, tool};
use crate::block;
use crate::setup::STORAGE;
use std::path::Path;

/// By how much disks must be larger for it to be worth anything, in bytes: rounding gives less.
const WORTH: u64 = 64 << 20;

/// Makes array and file system as large as their disks allow. What they are is served all the same if that fails.
pub(super) fn run() {
    let sys = Path::new(block::SYS);
    // Each also where the one before failed. xfs_growfs says so itself where there is nothing to do, and only it knows how much is enough.
    let steps =
        [enlarge(sys), log::keep(sys), tool("xfs_growfs", "the file system was not made larger", &["-d", STORAGE])];
    for error in steps.into_iter().filter_map(Result::err) {
        tracing::warn!("the array stays as it is: {}", daemon::report(&error));
    }
}

fn enlarge(sys: &Path) -> Result<(), StorageError> {
    if !array::look(sys).is_some_and(|array| may_grow(&array, |disk| room(sys, disk))) {
        return Ok(());
    }
    tracing::warn!("all disks of the array are larger than what it uses of them: it becomes larger");
    // The kernel does not change the size of an array that has a log of partial parity. It comes back once what is new agrees.
    log::put_away(sys)?;
    array::mdadm("--grow", "the array did not become larger", &["--size=max"])
}

/// Bytes that an array could use of a member.
fn room(sys: &Path, disk: &str) -> Option<u64> {
    let kib: u64 = array::said(sys, &format!("dev-{disk}/size"))?.parse().ok()?;
    kib.checked_mul(1024)
}

/// Whether all members are there, up to date and larger than what is used of them. While anything is being copied it can wait.
fn may_grow(array: &Array, room: impl Fn(&str) -> Option<u64>) -> bool {
    let large = |disk: &str| room(disk).is_some_and(|bytes| bytes >= array.component.saturating_add(WORTH));
    let members = array.members.iter().filter(|m| !m.is("faulty"));
    array.runs()
        && array.missing == 0
        && array.action == "idle"
        && array.component > 0
        && members.clone().count() > 0
        && members.into_iter().all(|m| large(&m.disk))
}

#[cfg(test)]
mod tests {
    use super::super::array::tests::sample;
    use super::*;

    const USED: u64 = 1 << 30;

    fn array() -> Array {
        sample(&[("a", "in_sync"), ("b", "in_sync"), ("s", "spare"), ("old", "faulty")])
    }

    #[test]
    fn an_array_grows_when_all_its_disks_are_larger() {
        let with = |a: u64, b: u64, s: u64| {
            move |disk: &str| {
                Some(match disk {
                    "a" => a,
                    "b" => b,
                    "s" => s,
                    _ => 0,
                })
            }
        };
        let more = USED + WORTH;
        assert!(may_grow(&array(), with(more, 2 * USED, more)));
        for (a, b, s) in [(more - 1, more, more), (more, USED, more), (more, more, more - 1)] {
            assert!(!may_grow(&array(), with(a, b, s)), "{a} {b} {s}");
        }
        assert!(!may_grow(&array(), |_| None), "nobody knows how large they are");
        let all = with(more, more, more);
        assert!(!may_grow(&Array { missing: 1, ..array() }, all));
        assert!(!may_grow(&Array { action: "resync".into(), ..array() }, all));
        assert!(!may_grow(&Array { state: "inactive".into(), ..array() }, all));
    }

    #[test]
    fn what_a_member_has_room_for() {
        let sys =
            crate::block::tests::sysfs(&[("devices/md0/dev", "9:0\n"), ("devices/md0/md/dev-vda/size", "1048576\n")]);
        assert_eq!(room(sys.path(), "vda"), Some(1 << 30));
        assert_eq!(room(sys.path(), "vdb"), None);
    }
}
