//! What operators ask about data disks. What changes something is done by units of its own: what a daemon mounts in its sandbox nobody
//! else would see, and the kernel's settings are read-only there.

use super::checks;
use super::service::{Answer, Refused, unavailable};
use crate::block;
use crate::storage::array::{self, Array};
use crate::storage::change::{self, Change};
use crate::storage::plan::{Content, Plan, Refusal};
use crate::storage::record::{self, ORDER, Order, Progress, RECORD, Record};
use crate::storage::superblock::Uuid;
use crate::storage::{inventory, plan};
use crate::tools;
use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;
use tobj::{DiskInfo, Fault, Name, Reply, Text};

/// The unit that brings data disks into use.
const STORAGE: &str = "ffs-storage.service";
/// The unit that changes the array.
const CHANGE: &str = "ffs-storage-change.service";
/// The unit that reads all of the array.
const SCRUB: &str = "ffs-scrub.service";
/// The same by order.
const SCRUB_NOW: &str = "ffs-scrub-now.service";
/// The unit that wants everything that runs on an appliance.
const ALL: &str = "ffs.target";
/// How often is looked how the array is.
const LOOK: Duration = Duration::from_secs(5);

fn systemctl(arguments: &[&str]) -> Result<(), Refused> {
    let systemctl = tools::find("systemctl");
    let systemctl = systemctl.ok_or_else(|| Refused(Fault::Unavailable, "systemctl is not there".into()))?;
    tools::run(&systemctl, arguments, b"").map(|_| ()).map_err(unavailable)
}

fn invalid(why: &Refusal) -> Refused {
    Refused(Fault::Invalid, why.to_string())
}

/// Brings data disks into use by order.
pub(super) fn create(order: &Order) -> Answer {
    let record: Option<Record> = record::load(Path::new(RECORD)).map_err(unavailable)?;
    if record.as_ref().is_some_and(|r| r.request == order.request && r.progress == Progress::Ready) {
        return Ok(Reply::Done {});
    }
    let inventory = inventory::take(true).map_err(unavailable)?;
    // Refused here where possible, with the reason; the unit only has an exit status.
    match plan::plan(&inventory, record.as_ref(), Some(order), true, Uuid([0; 16])) {
        Ok(Plan::Create { .. } | Plan::Adopt(_)) => {}
        Ok(_) => return Err(Refused(Fault::Invalid, "there is nothing to do".into())),
        Err(why) => return Err(invalid(&why)),
    }
    record::save(Path::new(ORDER), order).map_err(unavailable)?;
    systemctl(&["restart", STORAGE])?;
    // What could not start without the disks does now; nobody has to wait for it.
    systemctl(&["start", "--no-block", ALL])?;
    Ok(Reply::Done {})
}

/// Changes the array by order.
pub(super) fn change(change: &Change) -> Answer {
    let running = array::look(Path::new(block::SYS)).filter(Array::runs);
    let running = running.ok_or_else(|| Refused(Fault::Invalid, "no array is in use".into()))?;
    let inventory = inventory::take(true).map_err(unavailable)?;
    change::steps(&running, &inventory, change).map_err(|why| invalid(&why))?;
    record::save(Path::new(change::ORDER), change).map_err(unavailable)?;
    systemctl(&["start", CHANGE])?;
    Ok(Reply::Done {})
}

/// Reads all of the array by order, or stops that.
pub(super) fn scrub(pause: bool) -> Answer {
    if pause {
        systemctl(&["stop", SCRUB, SCRUB_NOW])?;
    } else {
        systemctl(&["start", "--no-block", SCRUB_NOW])?;
    }
    Ok(Reply::Done {})
}

/// Writes into the journal what happens to the array, for as long as the daemon runs.
pub(super) async fn watch() {
    let mut before = None;
    let mut tick = tokio::time::interval(LOOK);
    loop {
        tick.tick().await;
        let now = array::look(Path::new(block::SYS));
        for said in events(before.as_ref(), now.as_ref()) {
            tracing::warn!("the array {said}");
        }
        before = now;
    }
}

/// What happened between two looks at the array.
fn events(before: Option<&Array>, now: Option<&Array>) -> Vec<String> {
    let mut said = Vec::new();
    let (before, now) = match (before, now) {
        (Some(before), Some(now)) => (before, now),
        (None, Some(now)) if now.missing > 0 => {
            return vec![format!("is degraded: {} of {} members are missing", now.missing, now.whole)];
        }
        (Some(_), None) => return vec!["is gone".into()],
        _ => return said,
    };
    let state = |array: &Array, disk: &str| array.members.iter().find(|m| m.disk == disk).map(|m| m.state.clone());
    for member in &before.members {
        match state(now, &member.disk) {
            None => said.push(format!("lost {}", member.disk)),
            Some(state) if state != member.state => {
                said.push(format!("has {} {state}, before {}", member.disk, member.state))
            }
            Some(_) => {}
        }
    }
    for member in &now.members {
        match before.members.iter().find(|m| m.disk == member.disk) {
            None => said.push(format!("got {} ({})", member.disk, member.state)),
            Some(old) if member.errors > old.errors => {
                said.push(format!("corrected {} read errors of {}", member.errors - old.errors, member.disk));
            }
            Some(_) => {}
        }
    }
    if now.missing != before.missing {
        said.push(match now.missing {
            0 => "is whole again".into(),
            n => format!("is degraded: {n} of {} members are missing", now.whole),
        });
    }
    if now.action != before.action {
        said.push(format!("went from {} to {}", before.action, now.action));
    }
    said
}

/// The data disks, in the array and beside it.
pub(super) fn show() -> Answer {
    let blocks = block::all(Path::new(block::SYS)).map_err(unavailable)?;
    let array = array::look(Path::new(block::SYS));
    let (healthy, detail) = checks::storage(array.as_ref());
    let name = |text: &str| Name::new(text).map_err(unavailable);
    let model = |disk: &str| {
        let block = blocks.iter().find(|b| b.name == disk);
        let words = block.map(|b| [b.model.as_deref(), b.serial.as_deref()].into_iter().flatten().collect::<Vec<_>>());
        Text::lossy(&words.unwrap_or_default().join(" "))
    };
    let size = |disk: &str| blocks.iter().find(|b| b.name == disk).map_or(0, |b| b.size);
    let mut disks = Vec::new();
    for member in array.iter().flat_map(|a| &a.members) {
        let errors = if member.errors > 0 { format!(", {} errors", member.errors) } else { String::new() };
        disks.push(DiskInfo {
            name: name(&member.disk)?,
            size: size(&member.disk),
            model: model(&member.disk),
            member: true,
            state: Text::lossy(&format!("{}{errors}", member.state)),
        });
    }
    let seen: BTreeSet<String> = disks.iter().map(|d| d.name.to_string()).collect();
    for disk in inventory::take(true).map_err(unavailable)?.disks.into_iter().filter(|d| !seen.contains(&d.name)) {
        let state = match disk.content {
            Content::Blank => "blank".to_owned(),
            Content::Member(s) => format!("of the array {} ({})", s.array, s.name),
            Content::Other(what) => what,
        };
        disks.push(DiskInfo {
            name: name(&disk.name)?,
            size: disk.size,
            model: model(&disk.name),
            member: false,
            state: Text::lossy(&state),
        });
    }
    Ok(Reply::Storage {
        device: array.as_ref().map(|_| name(array::NAME)).transpose()?,
        array: array.as_ref().map(|a| Text::lossy(&a.array.to_string())),
        level: array.as_ref().map(|a| name(&a.level)).transpose()?,
        healthy,
        detail: Text::lossy(&detail),
        disks,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::array::Member;

    fn array(members: &[(&str, &str, u64)], missing: u64, action: &str) -> Array {
        let member = |m: &(&str, &str, u64)| Member { disk: m.0.into(), state: m.1.into(), slot: None, errors: m.2 };
        Array {
            array: Uuid([1; 16]),
            level: "raid1".into(),
            state: "clean".into(),
            whole: 2,
            missing,
            component: 0,
            mismatches: 0,
            action: action.into(),
            done: None,
            members: members.iter().map(member).collect(),
        }
    }

    #[test]
    fn what_happens_is_said_once() {
        let whole = array(&[("a", "in_sync", 0), ("b", "in_sync", 0)], 0, "idle");
        assert_eq!(events(None, Some(&whole)), Vec::<String>::new());
        assert_eq!(events(Some(&whole), Some(&whole)), Vec::<String>::new());
        assert_eq!(events(Some(&whole), None), ["is gone"]);
        let failed = array(&[("a", "in_sync", 2), ("b", "faulty", 0)], 1, "idle");
        let said = events(Some(&whole), Some(&failed));
        let expected =
            ["has b faulty, before in_sync", "corrected 2 read errors of a", "is degraded: 1 of 2 members are missing"];
        assert_eq!(said, expected);
        assert_eq!(events(None, Some(&failed)), ["is degraded: 1 of 2 members are missing"]);
        let rebuilt = array(&[("a", "in_sync", 2), ("c", "spare", 0)], 1, "recover");
        assert_eq!(events(Some(&failed), Some(&rebuilt)), ["lost b", "got c (spare)", "went from idle to recover"]);
        let again = array(&[("a", "in_sync", 2), ("c", "in_sync", 0)], 0, "idle");
        let expected = ["has c in_sync, before spare", "is whole again", "went from recover to idle"];
        assert_eq!(events(Some(&rebuilt), Some(&again)), expected);
    }
}
