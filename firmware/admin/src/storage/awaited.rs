//! Whether disks that are not there yet may still come.
//!
//! What an array is made of is settled for good by its first start, so that one waits until all disks are there. A driver that udev
//! loads is not done before its hosts have looked for disks: the kernel ends no `finit_module` with probing under way, also where
//! disks spin up one after the other. So while udev works, disks may come; once it is done and nothing has come for [`QUIET`], all are
//! there. Only the firmware of HBAs and RAID controllers goes on by itself and tells of disks as they are ready, hence
//! [`QUIET_HBA`] where there is one: half a minute, once in the life of a machine.

use super::APPEARS;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

/// How long no new disk may have appeared before an array is made of those that are there.
const QUIET: Duration = Duration::from_secs(3);
/// The same where a controller tells of its disks as they spin up, for an array that nobody has ordered.
const QUIET_HBA: Duration = Duration::from_secs(30);
/// How long is waited for that at most. A disk that has udev wait for longer is broken.
const FIRST: Duration = Duration::from_secs(180);
/// There while udev works.
const QUEUE: &str = "run/udev/queue";
/// Drivers whose hosts have told of all their disks once they are loaded, and those of USB, which is not for data.
const PROMPT: [&str; 7] = ["ahci", "ata_piix", "virtio_scsi", "vmw_pvscsi", "storvsc_host", "usb-storage", "uas"];

/// What the disks are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Case {
    /// The array of this machine, which starts without a part of its members.
    Known,
    /// What an operator has ordered: he knows what is there.
    Order,
    /// An array to be made of all that are there.
    First,
}

/// What was seen so far.
#[derive(Debug)]
pub(super) struct Awaited {
    case: Case,
    begin: Instant,
    seen: Vec<String>,
    quiet_since: Instant,
}

impl Awaited {
    pub(super) fn new(case: Case, now: Instant) -> Self {
        Self { case, begin: now, seen: Vec::new(), quiet_since: now }
    }

    /// Whether these disks have had their time. `root`: where the machine's `/sys` and `/run` are.
    pub(super) fn all_there(&mut self, names: Vec<String>, root: &Path, now: Instant) -> bool {
        if names != self.seen || root.join(QUEUE).exists() {
            (self.seen, self.quiet_since) = (names, now);
        }
        let (since, quiet) = (now - self.begin, now - self.quiet_since);
        match self.case {
            Case::Known => since >= APPEARS,
            Case::Order => since >= APPEARS || quiet >= QUIET,
            Case::First => since >= FIRST || quiet >= if has_hba(root) { QUIET_HBA } else { QUIET },
        }
    }
}

/// Whether there is a controller whose disks may come at any time. One without a name is none that is known to be prompt.
fn has_hba(root: &Path) -> bool {
    let hosts = fs::read_dir(root.join("sys/class/scsi_host")).into_iter().flatten().flatten();
    let mut drivers = hosts.map(|host| fs::read_to_string(host.path().join("proc_name")).unwrap_or_default());
    drivers.any(|driver| !PROMPT.contains(&driver.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAMES: [&str; 2] = ["sda", "sdb"];

    /// After how many seconds disks have had their time, of which the second comes after so many.
    fn over(case: Case, second: u64, root: &Path, mut each: impl FnMut(u64)) -> u64 {
        let begin = Instant::now();
        let mut awaited = Awaited::new(case, begin);
        let names = |at| NAMES[..if at < second { 1 } else { 2 }].iter().map(|n| (*n).to_owned()).collect();
        let there = |at: &u64| {
            each(*at);
            awaited.all_there(names(*at), root, begin + Duration::from_secs(*at))
        };
        (0..1000).find(there).unwrap()
    }

    fn host(root: &Path, name: &str, driver: &str) {
        let dir = root.join("sys/class/scsi_host").join(name);
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join("proc_name"), format!("{driver}\n")).unwrap();
    }

    #[test]
    fn an_array_is_not_made_of_the_first_disks_of_many() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        assert_eq!(over(Case::First, 0, root, |_| ()), 3, "no host of SCSI");
        for (n, driver) in PROMPT.iter().enumerate() {
            host(root, &format!("host{n}"), driver);
        }
        assert_eq!(over(Case::First, 2, root, |_| ()), 5, "its driver is loaded, so it has looked");
        for driver in ["mpt3sas", "(null)"] {
            host(root, "host99", driver);
            assert_eq!(over(Case::First, 20, root, |_| ()), 50, "{driver}: spun up late");
            assert_eq!(over(Case::Order, 0, root, |_| ()), 3, "an operator knows what there is");
        }
    }

    #[test]
    fn while_udev_loads_drivers_disks_may_come() {
        let root = tempfile::tempdir().unwrap();
        let queue = root.path().join(QUEUE);
        fs::create_dir_all(queue.parent().unwrap()).unwrap();
        let busy = |from: u64, to: u64| {
            let queue = queue.clone();
            move |at: u64| {
                if (from..to).contains(&at) {
                    fs::write(&queue, "").unwrap();
                } else {
                    let _ = fs::remove_file(&queue);
                }
            }
        };
        assert_eq!(over(Case::First, 0, root.path(), busy(0, 40)), 42);
        assert_eq!(over(Case::First, 0, root.path(), busy(2, 10)), 12);
        assert_eq!(over(Case::First, 0, root.path(), busy(0, 999)), 180, "not for ever");
        assert_eq!(over(Case::Order, 0, root.path(), busy(0, 999)), 20);
        assert_eq!(over(Case::Known, 0, root.path(), busy(0, 999)), 20);
    }

    #[test]
    fn members_that_are_missing_have_their_time_and_no_more() {
        let root = tempfile::tempdir().unwrap();
        host(root.path(), "host0", "mpt3sas");
        assert_eq!(over(Case::Known, 500, root.path(), |_| ()), 20);
        assert_eq!(over(Case::Known, 19, root.path(), |_| ()), 20);
    }
}
