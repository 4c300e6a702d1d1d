//! Changes to an array that runs: a disk comes in, or takes another one's place. What is to be done is a pure function of what is there
//! ([`steps`]); mdadm does it ([`run`], `admind storage-change`), in a unit of its own, since admind's sandbox sees the kernel's
//! settings read-only.
//!
//! A member that still works is copied to its successor before it leaves, so that the array is never short of a copy; one that failed
//! or is gone is made up for from the other copies.

use super::array::{Array, Member};
use super::plan::{self, Content, Inventory, Refusal};
use super::record;
use super::{StorageError, apply, array, cache, inventory, log};
use crate::block;
use serde::{Deserialize, Serialize};
use std::path::Path;

/// Where an order waits for the unit.
pub(crate) const ORDER: &str = "/run/ffs/admind/storage-change.toml";

/// What an operator wants.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) enum Change {
    /// A disk comes in: in the place of a missing member, else as a spare.
    Add {
        /// The disk.
        disk: String,
    },
    /// A disk takes the place of a member.
    Replace {
        /// The member.
        old: String,
        /// The disk.
        new: String,
    },
}

/// One call of mdadm on the array.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    /// A member that failed leaves.
    Remove(String),
    /// A blank disk comes in.
    Add(String),
    /// A disk that was a member comes back; only what it missed is copied.
    Return(String),
    /// A disk that was a member, and [may have gone on without others](plan::went_on_alone), comes back as a new one: what only it has is
    /// lost.
    Renew(String),
    /// A member is copied to a disk that has come in, then leaves.
    Copy {
        /// The member.
        from: String,
        /// The disk.
        to: String,
    },
}

fn no(why: String) -> Refusal {
    Refusal::Order(why)
}

/// The calls that make a change.
///
/// # Errors
/// [`Refusal::Order`] when what is there does not allow it.
pub(crate) fn steps(array: &Array, inventory: &Inventory, change: &Change) -> Result<Vec<Step>, Refusal> {
    // Members that failed keep their place until they are removed, and md then takes no other disk of the same name.
    let failed = array.members.iter().filter(|m| m.is("faulty"));
    let mut steps: Vec<Step> = failed.map(|m| Step::Remove(m.disk.clone())).collect();
    match change {
        // What is so already need not be done: a request may come twice.
        Change::Add { disk } if array.has(disk) => {}
        Change::Add { disk } => steps.push(come_in(array, inventory, disk)?),
        Change::Replace { old, new } if array.has(new) => {
            let works = |m: &&Member| m.disk == *old && !m.is("want_replacement") && !m.is("faulty");
            match array.members.iter().find(works) {
                // A spare that waits, also one that was added by an order which was cut then.
                Some(member) if !member.is("spare") && array.waits(new) => {
                    steps.push(Step::Copy { from: old.clone(), to: new.clone() });
                }
                Some(_) => return Err(no(format!("{new} is in the array already"))),
                None => {}
            }
        }
        Change::Replace { old, new } => {
            let member = array.members.iter().find(|m| m.disk == *old);
            let member = member
                .ok_or_else(|| no(format!("{old} is not in the array; `add-spare` makes up for a missing one")))?;
            if member.is("spare") {
                return Err(no(format!("{old} is a spare and has nothing to be copied")));
            }
            let step = come_in(array, inventory, new)?;
            let blank = matches!(step, Step::Add(_));
            steps.push(step);
            if !member.is("faulty") {
                if !blank {
                    return Err(no(format!("{new} was a member itself; it comes back with `add-spare`")));
                }
                steps.push(Step::Copy { from: old.clone(), to: new.clone() });
            }
        }
    }
    Ok(steps)
}

/// How a disk comes in.
fn come_in(array: &Array, inventory: &Inventory, name: &str) -> Result<Step, Refusal> {
    // Still held by the array, hence not in the inventory; the step before lets go of it.
    if array.members.iter().any(|m| m.disk == name && m.is("faulty")) {
        return Ok(Step::Return(name.to_owned()));
    }
    let disk = inventory.disks.iter().find(|d| d.name == name);
    let disk = disk.ok_or_else(|| no(format!("{name} is not there, in use, or the boot disk")))?;
    if disk.size < array.component {
        return Err(no(format!("{name} has {} MiB, and a member needs {}", disk.size >> 20, array.component >> 20)));
    }
    match &disk.content {
        Content::Blank => Ok(Step::Add(name.to_owned())),
        Content::Member(_) if plan::went_on_alone(disk, array) => Ok(Step::Renew(name.to_owned())),
        Content::Member(s) if s.array == array.array => Ok(Step::Return(name.to_owned())),
        Content::Member(s) => Err(no(format!("{name} belongs to the array {} ({})", s.array, s.name))),
        Content::Other(what) => Err(no(format!("{name} is not blank: {what}"))),
    }
}

/// Carries out the order that waits; where there is none, a member may have come late, or a RAID5 may want its log.
///
/// # Errors
/// [`StorageError`].
pub(crate) fn run() -> Result<(), StorageError> {
    let order: Option<Change> = record::load(Path::new(ORDER))?;
    let Some(change) = order else {
        apply::take_back();
        return log::keep(Path::new(block::SYS));
    };
    std::fs::remove_file(ORDER).map_err(super::io_error(ORDER))?;
    let running = array::look(Path::new(block::SYS)).filter(Array::runs);
    let running = running.ok_or_else(|| no("no array is in use".into()))?;
    for step in steps(&running, &inventory::take(true)?, &change)? {
        if let Step::Add(disk) | Step::Return(disk) | Step::Renew(disk) = &step {
            cache::switch_off(Path::new(block::SYS), &running.level, std::slice::from_ref(disk))?;
        }
        tracing::warn!(?step, "the array changes");
        carry_out(&step)?;
    }
    Ok(())
}

fn manage(arguments: &[&str]) -> Result<(), StorageError> {
    array::mdadm("--manage", "the array was not changed", arguments)
}

/// Adds a disk that was a member as a new one.
fn renew(device: &str) -> Result<(), StorageError> {
    inventory::wipe(Path::new(device)).map_err(super::io_error(device))?;
    manage(&["--add", device])
}

fn carry_out(step: &Step) -> Result<(), StorageError> {
    let path = |disk: &str| format!("/dev/{disk}");
    match step {
        // One whose disk is gone has no node any more.
        Step::Remove(disk) => manage(&["--remove", &path(disk)]).or_else(|_| manage(&["--remove", "failed"])),
        Step::Add(disk) => manage(&["--add", &path(disk)]),
        // Where the record of changes does not reach back far enough, it is a disk like any other.
        Step::Return(disk) => manage(&["--re-add", &path(disk)]).or_else(|error| {
            tracing::warn!(disk, "all of it is copied: {}", daemon::report(&error));
            renew(&path(disk))
        }),
        Step::Renew(disk) => renew(&path(disk)),
        Step::Copy { from, to } => manage(&["--replace", &path(from), "--with", &path(to)]),
    }
}

#[cfg(test)]
mod tests {
    use super::super::array::tests::sample as array;
    use super::super::plan::Disk;
    use super::super::superblock::{Superblock, Uuid};
    use super::*;

    const OURS: Uuid = Uuid([1; 16]);

    fn disks() -> Inventory {
        let disk = |name: &str, size: u64, content| Disk {
            name: name.into(),
            serial: None,
            size,
            discards: false,
            usb: false,
            content,
        };
        let member = |array, taken: &[u16]| {
            Content::Member(Superblock {
                array,
                name: "ffs".into(),
                level: 1,
                members: 2,
                events: 1,
                unclean: false,
                logged: false,
                role: Some(1),
                filling: false,
                taken: taken.iter().copied().collect(),
            })
        };
        Inventory {
            disks: vec![
                disk("new", 2 << 30, Content::Blank),
                disk("exact", 1 << 30, Content::Blank),
                disk("small", (1 << 30) - 1, Content::Blank),
                disk("back", 2 << 30, member(OURS, &[0, 1])),
                disk("alone", 2 << 30, member(OURS, &[1])),
                disk("alien", 2 << 30, member(Uuid([2; 16]), &[0, 1])),
                disk("full", 2 << 30, Content::Other("there is something at byte 0".into())),
            ],
            running: Some(OURS),
            current: None,
        }
    }

    fn made(array: &Array, change: &Change) -> Option<Vec<Step>> {
        steps(array, &disks(), change).ok()
    }

    fn add(disk: &str) -> Change {
        Change::Add { disk: disk.into() }
    }

    fn replace(old: &str, new: &str) -> Change {
        Change::Replace { old: old.into(), new: new.into() }
    }

    #[test]
    fn disks_come_in() {
        let whole = array(&[("a", "in_sync"), ("b", "in_sync")]);
        assert_eq!(made(&whole, &add("new")), Some(vec![Step::Add("new".into())]));
        assert_eq!(made(&whole, &add("exact")), Some(vec![Step::Add("exact".into())]));
        assert_eq!(made(&whole, &add("back")), Some(vec![Step::Return("back".into())]));
        assert_eq!(made(&whole, &add("alone")), Some(vec![Step::Renew("alone".into())]));
        assert_eq!(made(&whole, &add("a")), Some(vec![]), "it is in already");
        for refused in ["small", "alien", "full", "nowhere"] {
            assert_eq!(made(&whole, &add(refused)), None, "{refused}");
        }
        let failed = array(&[("a", "in_sync"), ("b", "faulty,write_error")]);
        let expected = vec![Step::Remove("b".into()), Step::Add("new".into())];
        assert_eq!(made(&failed, &add("new")), Some(expected));
        let expected = vec![Step::Remove("b".into()), Step::Return("b".into())];
        assert_eq!(made(&failed, &add("b")), Some(expected), "one that failed for a while");
    }

    #[test]
    fn a_member_that_works_is_copied_before_it_leaves() {
        let whole = array(&[("a", "in_sync"), ("b", "in_sync,write_mostly"), ("s", "spare")]);
        let copied = Step::Copy { from: "b".into(), to: "new".into() };
        assert_eq!(made(&whole, &replace("b", "new")), Some(vec![Step::Add("new".into()), copied]));
        let to_spare = Step::Copy { from: "b".into(), to: "s".into() };
        assert_eq!(made(&whole, &replace("b", "s")), Some(vec![to_spare]));
        let failed = array(&[("a", "in_sync"), ("b", "faulty")]);
        let made_up = vec![Step::Remove("b".into()), Step::Add("new".into())];
        assert_eq!(made(&failed, &replace("b", "new")), Some(made_up));
        assert_eq!(
            made(&failed, &replace("b", "back")),
            Some(vec![Step::Remove("b".into()), Step::Return("back".into())])
        );
        let under_way = array(&[("a", "in_sync"), ("b", "in_sync,want_replacement"), ("new", "replacement")]);
        assert_eq!(made(&under_way, &replace("b", "new")), Some(vec![]), "it has begun");
        for (old, new) in
            [("s", "new"), ("x", "new"), ("b", "small"), ("b", "a"), ("b", "b"), ("b", "back"), ("b", "alone")]
        {
            assert_eq!(made(&whole, &replace(old, new)), None, "{old} {new}");
        }
    }

    #[test]
    fn orders_are_written_and_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("order");
        for order in [add("sda"), replace("sda", "sdb")] {
            record::save(&path, &order).unwrap();
            assert_eq!(record::load::<Change>(&path).unwrap(), Some(order));
        }
    }
}
