//! The log of partial parity of a RAID5: what the parity of a stripe was before it is changed, so that a power cut leaves it right also
//! when a disk is missing. An array has it from when all of its parity is right.

use super::array::{self, Array};
use super::plan::Level;
use super::{StorageError, cache};
use std::path::Path;

/// How an array is made right after it was not stopped in order.
const POLICY: &str = "consistency_policy";

/// Gives a RAID5 its log as soon as that can be.
///
/// # Errors
/// [`StorageError`].
pub(crate) fn keep(sys: &Path) -> Result<(), StorageError> {
    if !array::look(sys).is_some_and(|array| is_wanted(sys, &array)) {
        return Ok(());
    }
    tracing::info!("the array gets its log of partial parity");
    set_policy("ppl")
}

/// Takes it from the array, if there is one.
///
/// # Errors
/// [`StorageError`].
pub(super) fn put_away(sys: &Path) -> Result<(), StorageError> {
    if array::said(sys, POLICY).as_deref() == Some("ppl") { set_policy("resync") } else { Ok(()) }
}

/// Whether a RAID5 is without its log.
pub(crate) fn is_missing(sys: &Path, array: &Array) -> bool {
    array.level == Level::Raid5.as_str()
        && array.runs()
        && array::said(sys, POLICY).is_some_and(|policy| policy != "ppl")
}

/// Whether a RAID5 is without its log, and can have it: all of its parity is right. While it is still being made, the kernel would take a
/// log that it can replay after a power cut for the proof that all of it is (`ppl_init_log` in drivers/md/raid5-ppl.c). Not where disks
/// have [caches](cache) that the array would no longer flush.
pub(crate) fn is_wanted(sys: &Path, array: &Array) -> bool {
    is_missing(sys, array)
        && array.missing == 0
        && array.action == "idle"
        && array::said(sys, POLICY).as_deref() == Some("resync")
        && array::said(sys, "resync_start").as_deref() == Some("none")
        && cache::volatile(sys, array).next().is_none()
}

fn set_policy(policy: &str) -> Result<(), StorageError> {
    array::mdadm("--grow", "the log of partial parity stays as it is", &[&format!("--consistency-policy={policy}")])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::array::tests::sample;

    fn array() -> Array {
        let members = [("a", "in_sync"), ("b", "in_sync"), ("c", "in_sync")];
        Array { level: "raid5".into(), whole: 3, ..sample(&members) }
    }

    #[test]
    fn a_raid5_gets_its_log_once_its_parity_is_right() {
        let wanted = |policy: &str, resync: &str, cache: &str, array: &Array| {
            let sys = crate::block::tests::sysfs(&[
                ("devices/md0/dev", "9:0\n"),
                ("devices/md0/md/consistency_policy", policy),
                ("devices/md0/md/resync_start", resync),
                ("devices/pci/a/dev", "8:0\n"),
                ("devices/pci/a/queue/write_cache", cache),
            ]);
            assert_eq!(is_missing(sys.path(), array), array.level == "raid5" && array.runs() && policy != "ppl\n");
            is_wanted(sys.path(), array)
        };
        let raid5 = array();
        assert!(wanted("resync\n", "none\n", "write through\n", &raid5));
        assert!(!wanted("resync\n", "none\n", "write back\n", &raid5), "it would not be flushed any more");
        assert!(!wanted("resync\n", "1024\n", "write through\n", &raid5), "its parity is still made");
        for policy in ["ppl\n", "bitmap\n", "journal\n"] {
            assert!(!wanted(policy, "none\n", "write through\n", &raid5), "{policy}");
        }
        let others = [
            Array { level: "raid1".into(), ..array() },
            Array { missing: 1, ..raid5.clone() },
            Array { action: "resync".into(), ..raid5.clone() },
            Array { state: "inactive".into(), ..raid5 },
        ];
        for other in &others {
            assert!(!wanted("resync\n", "none\n", "write through\n", other), "{other:?}");
        }
    }
}
