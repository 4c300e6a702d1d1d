//! What is to be done about the data disks: a pure function of what is there.

use super::array::Array;
use super::record::{Current, Order, Progress, Record};
use super::superblock::{Superblock, Uuid};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

/// The largest disks in bytes that are zeroed before an array is made of them. mdadm waits for that, of all of them at once, and so does
/// the start, whose time is limited (`ffs-storage.service`); many disks write their zeros no faster than other bytes. The copies of
/// larger ones are made to agree in the background.
pub(crate) const ZEROED: u64 = 32 << 30;

/// How an array keeps data twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Level {
    /// Mirror.
    Raid1,
    /// One disk's worth of parity, with a log of what it was before it is changed, so that a power cut leaves it right.
    Raid5,
    /// Two disks' worth of parity. What was being written when the power went is made right from all members; if one is missing then,
    /// that cannot be done, and the array starts on an operator's order only.
    Raid6,
    /// Near layout, two copies; any number of disks from two on.
    Raid10,
}

impl Level {
    const ALL: [Self; 4] = [Self::Raid1, Self::Raid5, Self::Raid6, Self::Raid10];

    /// Members that it has at least.
    pub(crate) fn least(self) -> usize {
        match self {
            Self::Raid1 | Self::Raid10 => 2,
            Self::Raid5 => 3,
            Self::Raid6 => 4,
        }
    }

    /// mdadm's and the kernel's word.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Raid1 => "raid1",
            Self::Raid5 => "raid5",
            Self::Raid6 => "raid6",
            Self::Raid10 => "raid10",
        }
    }

    /// What so many disks get unless an operator says otherwise.
    fn of(disks: usize) -> Self {
        if disks > 2 { Self::Raid10 } else { Self::Raid1 }
    }

    /// The one that a superblock names.
    fn of_number(number: i32) -> Option<Self> {
        match number {
            1 => Some(Self::Raid1),
            5 => Some(Self::Raid5),
            6 => Some(Self::Raid6),
            10 => Some(Self::Raid10),
            _ => None,
        }
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Level {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let names = Self::ALL.map(Self::as_str).join(", ");
        Self::ALL.into_iter().find(|l| l.as_str() == text).ok_or_else(|| format!("{text} is no level: {names}"))
    }
}

/// What is on a disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Content {
    /// Nothing: no signature, its first and last 16 MiB are zeros.
    Blank,
    /// It is a member of an array.
    Member(Superblock),
    /// Something else, it cannot be read, or it is another disk of the list seen once more.
    Other(String),
}

/// A disk for data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Disk {
    /// The kernel's name.
    pub(crate) name: String,
    /// Its serial number, where it has one.
    pub(crate) serial: Option<String>,
    /// Bytes.
    pub(crate) size: u64,
    /// Whether the device itself can zero it quickly.
    pub(crate) discards: bool,
    /// Whether it is at USB: data goes there only where somebody names it.
    pub(crate) usb: bool,
    /// What is on it.
    pub(crate) content: Content,
}

/// What there is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Inventory {
    /// The disks that are neither the boot disk nor in use.
    pub(crate) disks: Vec<Disk>,
    /// The array that runs already, if any.
    pub(crate) running: Option<Uuid>,
    /// The disks that were up to date when they were last in use, where that is known.
    pub(crate) current: Option<Current>,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Plan {
    /// It runs.
    Keep,
    /// Members are missing; they may still come.
    Wait,
    /// Put it together.
    Assemble {
        /// Which.
        array: Uuid,
        /// From these.
        disks: Vec<String>,
        /// Whether it starts without a part of its members.
        degraded: bool,
        /// Whether a file system is still to be made.
        format: bool,
        /// Whether it starts although its parity may be wrong.
        dirty: bool,
    },
    /// Remember a foreign array as this machine's, then put it together.
    Adopt(Record),
    /// Make it.
    Create {
        /// Which.
        array: Uuid,
        /// How.
        level: Level,
        /// From these.
        disks: Vec<String>,
        /// How many of them, the last ones, wait for a member to fail.
        spares: usize,
        /// Whether the disks can zero themselves quickly, so that the copies agree from the start.
        zero: bool,
    },
}

/// Why nothing is done.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// There never was an array, and there are not two blank disks.
    #[error(
        "this machine needs two blank disks for its data and has {blank}{}; look with `ffsctl storage status`, then choose disks \
         with `ffsctl storage create --disk …`",
        listed(.others)
    )]
    NoDisks {
        /// How many are blank.
        blank: usize,
        /// What else is there.
        others: Vec<String>,
    },
    /// Disks carry an array, and this machine does not know that it is its own.
    #[error(
        "the array {array} ({name}, {members} disks) was found, but this machine has not used it before; if it is to, say so with \
         `ffsctl storage create --adopt`"
    )]
    Foreign {
        /// Its identifier.
        array: String,
        /// Its name.
        name: String,
        /// How many members it has when whole.
        members: u32,
    },
    /// None of the members is there.
    #[error("none of the disks of the array {0} is there; are they connected?")]
    NoMembers(String),
    /// A creation was cut, and not all of its disks are there.
    #[error(
        "the array {array} was being made of {of} disks when the machine stopped, and {missing} of them are missing or not blank any \
         more; connect them and start the machine again, or choose others with `ffsctl storage create --disk …`"
    )]
    Unfinished {
        /// Its identifier.
        array: String,
        /// How many disks it is to have.
        of: usize,
        /// How many cannot be used.
        missing: usize,
    },
    /// Parity may be wrong, and cannot be made right.
    #[error(
        "the array {array} ({level}) was not stopped in order and {missing} of its disks are missing or not filled yet: what was being \
         written then may have changed files that nobody wrote to, and without the missing disk that cannot be made right. Connect it \
         and start the machine again; if it is lost, start the array with `ffsctl storage start`: every object is then verified"
    )]
    DirtyDegraded {
        /// Its identifier.
        array: String,
        /// Its level.
        level: String,
        /// How many members are missing, or filled in part only.
        missing: usize,
    },
    /// What is there had fallen out of use before the array was last in use.
    #[error(
        "none of the disks of the array {array} that are there was up to date when this machine last used it, and what was written since \
         then is not on them. Connect one of those that were ({current}) and start the machine again; if they are lost, start the \
         array with `ffsctl storage start`, and it is as it was when these disks left it"
    )]
    Stale {
        /// Its identifier.
        array: String,
        /// The serial numbers of those that were.
        current: String,
    },
    /// The order cannot be carried out.
    #[error("the order cannot be carried out: {0}")]
    Order(String),
}

fn listed(others: &[String]) -> String {
    if others.is_empty() { String::new() } else { format!(" ({})", others.join("; ")) }
}

/// What is to be done. `waited`: whether disks have had their time to appear. `fresh` names an array that is to be made.
///
/// # Errors
/// [`Refusal`] where an operator has to decide.
pub(crate) fn plan(
    inventory: &Inventory,
    record: Option<&Record>,
    order: Option<&Order>,
    waited: bool,
    fresh: Uuid,
) -> Result<Plan, Refusal> {
    match (record, order) {
        (Some(record), _) if inventory.running == Some(record.array) && record.progress == Progress::Ready => {
            order.map_or(Ok(Plan::Keep), |_| Err(Refusal::Order("this machine has an array".into())))
        }
        (Some(record), None) if record.progress == Progress::Ready => known(inventory, record, waited, false),
        (Some(record), Some(order)) if order.start && record.progress == Progress::Ready => {
            known(inventory, record, waited, true)
        }
        (_, Some(order)) if order.start => {
            Err(Refusal::Order("this machine has no array that could be started".into()))
        }
        (Some(record), None) => unfinished(inventory, record, waited),
        (Some(_), Some(order)) if !order.adopt && order.disks.is_empty() => {
            Err(Refusal::Order("this machine had an array; name the disks for a new one".into()))
        }
        (_, Some(order)) if order.adopt => adopt(inventory, waited),
        // What is on disks is only known once they have had their time.
        (_, Some(_)) if !waited => Ok(Plan::Wait),
        (_, Some(order)) => ordered(inventory, order, fresh),
        (None, None) => first(inventory, waited, fresh),
    }
}

/// What there is of an array.
struct Found {
    /// The disks that carry it.
    disks: Vec<String>,
    /// How many of its members are not among them. A spare is no member; one that was replaced and its successor are the same.
    absent: usize,
    /// How many of its members are not up to date, only filled in part, or absent.
    missing: usize,
    /// Whether its parity may be wrong.
    dirty: bool,
}

fn found(inventory: &Inventory, array: Uuid) -> Found {
    let of_it = |d: &Disk| match &d.content {
        Content::Member(s) if s.array == array => Some((d.name.clone(), s.clone())),
        _ => None,
    };
    let all: Vec<(String, Superblock)> = inventory.disks.iter().filter_map(of_it).collect();
    let newest = all.iter().map(|(_, s)| s).max_by_key(|s| s.events);
    let whole = newest.map_or(0, |s| usize::try_from(s.members).unwrap_or(usize::MAX));
    // Of one that is one event behind the kernel still makes use.
    let current = |s: &&Superblock| !s.filling && newest.is_some_and(|n| s.events + 1 >= n.events);
    let places: BTreeSet<u16> = all.iter().filter_map(|(_, s)| s.role).collect();
    let current: BTreeSet<u16> = all.iter().map(|(_, s)| s).filter(current).filter_map(|s| s.role).collect();
    Found {
        absent: whole.saturating_sub(places.len()),
        missing: whole.saturating_sub(current.len()),
        dirty: newest.is_some_and(Superblock::parity_may_be_wrong),
        disks: all.into_iter().map(|(name, _)| name).collect(),
    }
}

/// Disks that were members of a running array, and whose places nobody has taken since. One that was replaced stays out, and so does one
/// that went on [by itself](went_on_alone).
pub(crate) fn fallen_behind(inventory: &Inventory, array: &Array) -> Vec<String> {
    let free = |role: u16| array.members.iter().all(|m| m.slot != Some(role));
    let ours =
        |d: &&Disk| matches!(&d.content, Content::Member(s) if s.array == array.array && s.role.is_some_and(free));
    inventory.disks.iter().filter(ours).filter(|d| !went_on_alone(d, array)).map(|d| d.name.clone()).collect()
}

/// What is to be said of such a disk.
pub(crate) const ALONE: &str = "was in use while another member was not, and may have what no other has; `ffsctl storage add-spare` copies \
                                all of it anew, and that is lost then";

/// Whether a disk of the array was in use while one that is up to date now was not. Each may then have what the other does not know of,
/// and the record of changes of the one says nothing of those on the other: what is copied by it would leave a mixture of both. A
/// disk of several that failed one after the other cannot be told from that.
pub(crate) fn went_on_alone(disk: &Disk, array: &Array) -> bool {
    let Content::Member(s) = &disk.content else { return false };
    let mut up_to_date = array.members.iter().filter(|m| m.is("in_sync")).filter_map(|m| m.slot);
    s.array == array.array && s.role.is_some() && up_to_date.any(|slot| !s.taken.contains(&slot))
}

/// The serial numbers of the disks that were up to date, where none of those that are there is among them.
fn lacking(inventory: &Inventory, there: &Found, array: Uuid) -> Option<String> {
    let current = inventory.current.as_ref().filter(|c| c.array == array && !c.disks.is_empty())?;
    let is_current = |d: &Disk| d.serial.as_ref().is_some_and(|s| current.disks.contains(s));
    let some = inventory.disks.iter().any(|d| there.disks.contains(&d.name) && is_current(d));
    (!some).then(|| current.disks.join(", "))
}

/// `ordered`: whether an operator wants it to start all the same.
fn known(inventory: &Inventory, record: &Record, waited: bool, ordered: bool) -> Result<Plan, Refusal> {
    let there = found(inventory, record.array);
    match (there.disks.is_empty(), waited) {
        (true, true) => return Err(Refusal::NoMembers(record.array.to_string())),
        (true, false) => return Ok(Plan::Wait),
        _ => {}
    }
    if let Some(current) = lacking(inventory, &there, record.array).filter(|_| !ordered) {
        return if waited { Err(Refusal::Stale { array: record.array.to_string(), current }) } else { Ok(Plan::Wait) };
    }
    match waited {
        false if there.absent > 0 => Ok(Plan::Wait),
        true if there.missing > 0 && there.dirty && !ordered => Err(Refusal::DirtyDegraded {
            array: record.array.to_string(),
            level: record.level.to_string(),
            missing: there.missing,
        }),
        // One that is there but behind may still be made up for by one that comes.
        false if there.missing > 0 && there.dirty => Ok(Plan::Wait),
        _ => Ok(Plan::Assemble {
            array: record.array,
            dirty: there.missing > 0 && there.dirty,
            degraded: there.missing > 0,
            disks: there.disks,
            format: false,
        }),
    }
}

/// A run that was cut while it made the array: nothing is on it yet, so that it is made again from the same disks.
fn unfinished(inventory: &Inventory, record: &Record, waited: bool) -> Result<Plan, Refusal> {
    if !waited {
        return Ok(Plan::Wait);
    }
    let there = found(inventory, record.array);
    if !there.disks.is_empty() && there.absent == 0 {
        let (array, disks) = (record.array, there.disks);
        return Ok(Plan::Assemble { array, disks, degraded: false, format: true, dirty: false });
    }
    let usable = |d: &&Disk| match &d.content {
        Content::Blank => true,
        Content::Member(s) => s.array == record.array,
        Content::Other(_) => false,
    };
    // Only those that were chosen then, as far as they can be told from others.
    let known = |d: &&Disk| d.serial.as_ref().is_some_and(|s| record.disks.contains(s));
    let chosen = |d: &&Disk| if record.disks.is_empty() { !d.usb } else { known(d) };
    let disks: Vec<&Disk> = inventory.disks.iter().filter(usable).filter(chosen).collect();
    if disks.len() < record.disks.len() {
        let (array, of) = (record.array.to_string(), record.disks.len());
        return Err(Refusal::Unfinished { array, of, missing: of - disks.len() });
    }
    create(disks, Some(record.level), record.spares, inventory, record.array)
}

fn first(inventory: &Inventory, waited: bool, fresh: Uuid) -> Result<Plan, Refusal> {
    if !waited {
        return Ok(Plan::Wait);
    }
    let foreign = inventory.disks.iter().find_map(|d| match &d.content {
        Content::Member(s) => Some(s),
        _ => None,
    });
    // Also beside blank disks: somebody may have put the disks of another machine in.
    if let Some(s) = foreign {
        let (array, name) = (s.array.to_string(), s.name.clone());
        return Err(Refusal::Foreign { array, name, members: s.members });
    }
    create(blank(inventory), None, 0, inventory, fresh)
}

/// The disks of which an array is made unless somebody names others.
fn blank(inventory: &Inventory) -> Vec<&Disk> {
    inventory.disks.iter().filter(|d| d.content == Content::Blank && !d.usb).collect()
}

fn adopt(inventory: &Inventory, waited: bool) -> Result<Plan, Refusal> {
    let mut arrays: Vec<&Superblock> = Vec::new();
    for disk in &inventory.disks {
        if let Content::Member(s) = &disk.content
            && arrays.iter().all(|a| a.array != s.array)
        {
            arrays.push(s);
        }
    }
    match &arrays[..] {
        [] if !waited => Ok(Plan::Wait),
        [] => Err(Refusal::Order("there is no array to adopt".into())),
        [one] => {
            let level = Level::of_number(one.level);
            let level = level.ok_or_else(|| Refusal::Order(format!("an array of level {} is not ours", one.level)))?;
            let (array, progress) = (one.array, Progress::Ready);
            Ok(Plan::Adopt(Record { array, level, spares: 0, progress, request: None, disks: Vec::new() }))
        }
        several => {
            let names: Vec<String> = several.iter().map(|s| s.array.to_string()).collect();
            Err(Refusal::Order(format!("there are several arrays: {}; leave only one connected", names.join(", "))))
        }
    }
}

fn ordered(inventory: &Inventory, order: &Order, fresh: Uuid) -> Result<Plan, Refusal> {
    let mut disks: Vec<&Disk> = Vec::new();
    for name in &order.disks {
        if disks.iter().any(|d| d.name == *name) {
            return Err(Refusal::Order(format!("{name} was named twice")));
        }
        let found = inventory.disks.iter().find(|d| d.name == *name);
        let disk = found.ok_or_else(|| Refusal::Order(format!("{name} is not there, in use, or the boot disk")))?;
        match &disk.content {
            Content::Blank => disks.push(disk),
            Content::Member(s) => {
                return Err(Refusal::Order(format!("{name} belongs to the array {} ({})", s.array, s.name)));
            }
            Content::Other(what) => return Err(Refusal::Order(format!("{name} is not blank: {what}"))),
        }
    }
    if order.disks.is_empty() {
        disks = blank(inventory);
    }
    create(disks, order.level, order.spares, inventory, fresh)
}

fn create(
    disks: Vec<&Disk>,
    level: Option<Level>,
    spares: usize,
    inventory: &Inventory,
    array: Uuid,
) -> Result<Plan, Refusal> {
    if disks.len() < 2 {
        let others = inventory.disks.iter().filter_map(|d| match &d.content {
            Content::Blank => d.usb.then(|| format!("{}: at USB, which is used only where it is named", d.name)),
            Content::Member(s) => Some(format!("{} belongs to the array {}", d.name, s.array)),
            Content::Other(what) => Some(format!("{}: {what}", d.name)),
        });
        return Err(Refusal::NoDisks { blank: disks.len(), others: others.collect() });
    }
    let members = disks.len().saturating_sub(spares);
    let level = level.unwrap_or_else(|| Level::of(members));
    if members < level.least() {
        let (least, all) = (level.least(), disks.len());
        let why = format!("{level} needs {least} disks beside the spares, and of {all} disks {spares} would be spares");
        return Err(Refusal::Order(why));
    }
    Ok(Plan::Create {
        array,
        level,
        spares,
        zero: disks.iter().all(|d| d.discards && d.size <= ZEROED),
        disks: disks.into_iter().map(|d| d.name.clone()).collect(),
    })
}

#[cfg(test)]
mod tests;
