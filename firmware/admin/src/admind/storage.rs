//! What operators ask about data disks. What changes something is done by units of its own: what a daemon mounts in its sandbox nobody
//! else would see, and the kernel's settings are read-only there.

use super::checks;
use super::service::{Answer, Refused, unavailable};
use crate::block;
use crate::questions::Questions;
use crate::storage::array::{self, Array};
use crate::storage::change::{self, Change};
use crate::storage::events::{self, Counts};
use crate::storage::health::{self, Health};
use crate::storage::log;
use crate::storage::plan::{Content, Inventory, Plan, Refusal};
use crate::storage::record::{self, CURRENT, Current, ORDER, Order, Progress, RECORD, Record};
use crate::storage::superblock::Uuid;
use crate::storage::{FAILED, StorageError, inventory, io_error, keeps_data, plan};
use crate::tools;
use keys::site::Role;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tobj::{CountInfo, DiskInfo, Fault, Name, Reply, Text};

/// The unit that brings data disks into use.
pub(super) const STORAGE: &str = "ffs-storage.service";
/// The unit that changes the array.
pub(super) const CHANGE: &str = "ffs-storage-change.service";
/// The unit that reads all of the array.
const SCRUB: &str = "ffs-scrub.service";
/// The same by order.
pub(super) const SCRUB_NOW: &str = "ffs-scrub-now.service";
/// The unit that wants everything that runs on an appliance.
const ALL: &str = "ffs.target";
/// The unit that finds out whether a start is a good one, and what waits for that.
const GATE: [&str; 2] = ["ffs-health.service", "boot-complete.target"];
/// How often is looked how the array is.
const LOOK: Duration = Duration::from_secs(5);
/// How long after the start a member may still come by itself.
const LATE: Duration = Duration::from_secs(300);
/// How often disks are asked how they are.
const ASK: Duration = Duration::from_secs(3600);
/// How long is waited for what they say.
const SAID: Duration = Duration::from_secs(3);

fn systemctl(arguments: &[&str]) -> Result<(), Refused> {
    let systemctl = tools::find("systemctl");
    let systemctl = systemctl.ok_or_else(|| Refused(Fault::Unavailable, "systemctl is not there".into()))?;
    tools::run(&systemctl, arguments, b"").map(|_| ()).map_err(unavailable)
}

/// Has a unit carry an order out; where it fails, says why.
fn carried_out(arguments: &[&str]) -> Result<(), Refused> {
    let _ = std::fs::remove_file(FAILED); // of an earlier one
    systemctl(arguments).map_err(|refused| match std::fs::read_to_string(FAILED) {
        Ok(why) => Refused(refused.0, why),
        Err(_) => refused,
    })
}

fn invalid(why: &Refusal) -> Refused {
    Refused(Fault::Invalid, why.to_string())
}

/// Brings data disks into use by order.
pub(super) fn create(order: &Order) -> Answer {
    let record: Option<Record> = record::load(Path::new(RECORD)).map_err(unavailable)?;
    let same = |r: &Record| order.request.is_some() && r.request == order.request && r.progress == Progress::Ready;
    if record.as_ref().is_some_and(same) {
        return Ok(Reply::Done {});
    }
    let inventory = inventory::take(true).map_err(unavailable)?;
    // Refused here where possible, with the reason; the unit only has an exit status.
    match plan::plan(&inventory, record.as_ref(), Some(order), true, Uuid([0; 16])) {
        Ok(Plan::Create { .. } | Plan::Adopt(_) | Plan::Assemble { .. }) => {}
        Ok(_) => return Err(Refused(Fault::Invalid, "there is nothing to do".into())),
        Err(why) => return Err(invalid(&why)),
    }
    record::save(Path::new(ORDER), order).map_err(unavailable)?;
    carried_out(&["restart", STORAGE])?;
    // What could not start without the disks does now; nobody has to wait for it. If the health gate has given up waiting for them, it
    // looks again, or the machine would be said to be unwell until its next start.
    let [health, good] = GATE;
    systemctl(&["start", "--no-block", ALL, health, good])?;
    Ok(Reply::Done {})
}

/// How the data disks of a machine are, as far as it must have some.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Data {
    /// There are none: its role keeps no data, or it never had an array and waits for an operator, which is no fault of its software.
    None,
    /// They are in use.
    InUse,
    /// They are not, and this is why.
    Missing(&'static str),
}

/// The data disks of a machine of this role.
pub(super) fn data(role: Role) -> Result<Data, StorageError> {
    if !keeps_data(role) {
        return Ok(Data::None);
    }
    let record: Option<Record> = record::load(Path::new(RECORD))?;
    let runs = array::look(Path::new(block::SYS)).is_some_and(|a| a.runs());
    let mounted = std::fs::read_to_string("/proc/self/mountinfo").map_err(io_error("/proc/self/mountinfo"))?;
    let mounted = block::mounts(&mounted).iter().any(|(_, at)| at == crate::setup::STORAGE);
    Ok(judge(record.as_ref(), runs, mounted))
}

fn judge(record: Option<&Record>, runs: bool, mounted: bool) -> Data {
    match (record.map(|r| r.progress), runs, mounted) {
        (None | Some(Progress::Creating), ..) => Data::None,
        (Some(Progress::Ready), false, _) => Data::Missing("the array does not run"),
        (Some(Progress::Ready), true, false) => Data::Missing("the array is not mounted"),
        (Some(Progress::Ready), true, true) => Data::InUse,
    }
}

/// Changes the array by order.
pub(super) fn change(change: &Change) -> Answer {
    let running = array::look(Path::new(block::SYS)).filter(Array::runs);
    let running = running.ok_or_else(|| Refused(Fault::Invalid, "no array is in use".into()))?;
    let inventory = inventory::take(true).map_err(unavailable)?;
    change::steps(&running, &inventory, change).map_err(|why| invalid(&why))?;
    let order = Path::new(change::ORDER);
    record::save(order, change).map_err(unavailable)?;
    read(order, || carried_out(&["start", CHANGE]))?;
    Ok(Reply::Done {})
}

/// Starts the unit that takes this order away, until it has: it may be at work already for something else, after it looked for orders.
fn read(order: &Path, mut start: impl FnMut() -> Result<(), Refused>) -> Result<(), Refused> {
    for _ in 0..2 {
        let done = start();
        if !order.exists() {
            return done;
        }
    }
    // Not at some later time, when nobody expects it any more.
    std::fs::remove_file(order).map_err(unavailable)?;
    Err(Refused(Fault::Unavailable, "the order was not read; give it again".into()))
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

/// What is known of the data disks from watching them.
#[derive(Debug, Clone, Default)]
pub(super) struct Watched {
    /// What happened to the array.
    pub(super) counts: Counts,
    /// How disks say that they are, by their names.
    pub(super) health: BTreeMap<String, Health>,
    questions: Questions,
}

/// Held for a moment only.
pub(super) type Watch = Arc<Mutex<Watched>>;

/// The present state of it.
pub(super) fn known(watch: &Watch) -> Watched {
    watch.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

/// Writes into the journal what happens to the array and its disks, and counts it, for as long as the daemon runs.
pub(super) async fn watch(watch: Watch) {
    let (mut before, mut asked, mut lacked_log) = (None, None::<Instant>, false);
    let mut remembered = record::load::<Current>(Path::new(CURRENT)).ok().flatten();
    let mut late = Late::new(Instant::now());
    let mut tick = tokio::time::interval(LOOK);
    loop {
        tick.tick().await;
        let now = array::look(Path::new(block::SYS));
        let mut happened = events::between(before.as_ref(), now.as_ref());
        if asked.is_none_or(|at| at.elapsed() >= ASK) {
            asked = Some(Instant::now());
            let asker = watch.clone();
            let health = tokio::task::spawn_blocking(move || ask(&asker)).await.unwrap_or_default();
            let mut watched = watch.lock().unwrap_or_else(PoisonError::into_inner);
            happened.extend(events::of_health(&watched.health, &health));
            watched.health = health;
        }
        for event in &happened {
            tracing::warn!("{}", event.said);
        }
        watch.lock().unwrap_or_else(PoisonError::into_inner).counts.add(&happened);
        remembered = remember(now.as_ref(), remembered).await;
        // It is made right in the background, and when that is done there is nobody else to see it.
        let lacks_log = now.as_ref().is_some_and(|array| log::is_wanted(Path::new(block::SYS), array));
        let came = late.came(disks, now.as_ref().is_some_and(|array| array.missing > 0), Instant::now());
        if came || lacks_log && !lacked_log {
            let started = tokio::task::spawn_blocking(|| systemctl(&["start", "--no-block", CHANGE])).await;
            if let Ok(Err(Refused(_, why))) = started {
                tracing::warn!("the array gets neither its log nor a member that came late: {why}");
            }
        }
        (before, lacked_log) = (now, lacks_log);
    }
}

/// Disks that come after the array has started without one: a member among them is taken back as one that was there in time would have
/// been. One that was there before and is put in again is a matter of operators.
struct Late {
    begin: Instant,
    seen: Option<BTreeSet<String>>,
}

impl Late {
    fn new(now: Instant) -> Self {
        Self { begin: now, seen: None }
    }

    /// Whether one came, of the disks that are there now. Once it is too late for that, nobody looks any more.
    fn came(&mut self, disks: impl FnOnce() -> Vec<String>, degraded: bool, now: Instant) -> bool {
        if now - self.begin >= LATE {
            return false;
        }
        let disks = disks();
        let seen = self.seen.get_or_insert_with(|| disks.iter().cloned().collect());
        let before = seen.len();
        seen.extend(disks);
        seen.len() > before && degraded
    }
}

/// The names of the disks that are there.
fn disks() -> Vec<String> {
    let blocks = block::all(Path::new(block::SYS)).unwrap_or_default();
    blocks.into_iter().filter(|b| b.physical && b.size > 0).map(|b| b.name).collect()
}

/// Remembers which disks are up to date, for a start at which none of them is there; gives what is remembered then.
async fn remember(array: Option<&Array>, remembered: Option<Current>) -> Option<Current> {
    let blocks = block::all(Path::new(block::SYS)).unwrap_or_default();
    let Some(now) = array.and_then(|array| Current::of(array, &blocks)) else { return remembered };
    if remembered.as_ref() == Some(&now) {
        return remembered;
    }
    let saved = tokio::task::spawn_blocking(move || record::save(Path::new(CURRENT), &now).map(|()| now)).await;
    match saved {
        Ok(Ok(now)) => Some(now),
        Ok(Err(error)) => {
            tracing::warn!("which disks are up to date is not remembered: {}", daemon::report(&error));
            remembered
        }
        Err(_) => remembered,
    }
}

/// Asks all disks how they are; of one that does not answer what it said last.
fn ask(watch: &Watch) -> BTreeMap<String, Health> {
    let disks = disks();
    let Watched { questions, health: last, .. } = known(watch);
    let mut said = questions.ask(&disks, SAID, health::of);
    let health = |disk: String| {
        let now = said.remove(&disk).unwrap_or_else(|| last.get(&disk).cloned())?;
        Some((disk, now))
    };
    disks.into_iter().filter_map(health).collect()
}

/// The data disks, in the array and beside it.
pub(super) fn show(watch: &Watch) -> Answer {
    let blocks = block::all(Path::new(block::SYS)).map_err(unavailable)?;
    let array = array::look(Path::new(block::SYS));
    let told = ask(watch);
    let (healthy, mut detail) = checks::storage(array.as_ref(), &told);
    let health = |disk: &str| told.get(disk).map(|h| Text::lossy(&h.said));
    let inventory = inventory::take(true).map_err(unavailable)?;
    if array.as_ref().is_none_or(|a| !a.runs())
        && let Some(why) = refusal(&inventory)
    {
        detail = why;
    }
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
            health: health(&member.disk),
        });
    }
    let seen: BTreeSet<String> = disks.iter().map(|d| d.name.to_string()).collect();
    for disk in inventory.disks.into_iter().filter(|d| !seen.contains(&d.name)) {
        let alone = array.as_ref().is_some_and(|array| plan::went_on_alone(&disk, array));
        let state = match disk.content {
            Content::Member(_) if alone => plan::ALONE.to_owned(),
            Content::Blank if disk.usb => "blank, at USB: used only where it is named".to_owned(),
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
            health: health(&disk.name),
        });
    }
    let count = |(event, n): (&'static str, u64)| Ok(CountInfo { name: name(event)?, n });
    Ok(Reply::Storage {
        device: array.as_ref().map(|_| name(array::NAME)).transpose()?,
        array: array.as_ref().map(|a| Text::lossy(&a.array.to_string())),
        level: array.as_ref().map(|a| name(&a.level)).transpose()?,
        healthy,
        detail: Text::lossy(&detail),
        disks,
        counts: known(watch).counts.all().map(count).collect::<Result<_, Refused>>()?,
    })
}

/// Why the array is not in use, as far as that is known from what is on the disks.
fn refusal(inventory: &Inventory) -> Option<String> {
    let record: Option<Record> = record::load(Path::new(RECORD)).ok()?;
    plan::plan(inventory, record.as_ref(), None, true, Uuid([0; 16])).err().map(|why| why.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::plan::Level;

    #[test]
    fn an_order_is_read_also_by_a_unit_that_was_at_work() {
        let dir = tempfile::tempdir().unwrap();
        let order = dir.path().join("order");
        // How often the unit starts until it takes the order away, and whether it then can do what it says.
        let ordered = |takes_at: u32, works: bool| {
            std::fs::write(&order, "").unwrap();
            let mut starts = 0;
            let done = read(&order, || {
                starts += 1;
                if starts == takes_at {
                    std::fs::remove_file(&order).unwrap();
                    return if works { Ok(()) } else { Err(Refused(Fault::Unavailable, "no".into())) };
                }
                Ok(())
            });
            assert!(!order.exists());
            (done.map_err(|refused| refused.1), starts)
        };
        assert_eq!(ordered(1, true), (Ok(()), 1));
        assert_eq!(ordered(1, false), (Err("no".into()), 1));
        assert_eq!(ordered(2, true), (Ok(()), 2));
        let (refused, starts) = ordered(3, true);
        assert!(refused.unwrap_err().contains("give it again") && starts == 2);
    }

    #[test]
    fn members_that_come_late() {
        let begin = Instant::now();
        let names = |disks: &[&str]| disks.iter().map(|d| (*d).to_owned()).collect::<Vec<_>>();
        let mut late = Late::new(begin);
        let mut came =
            |disks: &[&str], degraded, at| late.came(|| names(disks), degraded, begin + Duration::from_secs(at));
        assert!(!came(&["sda", "sdb"], true, 0), "they were there");
        assert!(!came(&["sda", "sdb"], true, 5));
        assert!(came(&["sda", "sdb", "sdc"], true, 10));
        assert!(!came(&["sda", "sdb", "sdc"], true, 15), "once");
        assert!(!came(&["sda", "sdb"], true, 20) && !came(&["sda", "sdb", "sdc"], true, 25), "it was pulled");
        assert!(!came(&["sda", "sdb", "sdc", "sdd"], false, 30), "nothing is missing");
        assert!(!came(&["sda", "sdb", "sdc", "sdd", "sde"], true, 300), "that is an operator's");
    }

    #[test]
    fn what_a_machine_must_have() {
        let record = |progress| Record {
            array: Uuid([1; 16]),
            level: Level::Raid1,
            spares: 0,
            progress,
            disks: Vec::new(),
            request: None,
        };
        let (creating, ready) = (record(Progress::Creating), record(Progress::Ready));
        assert_eq!(judge(None, false, false), Data::None);
        assert_eq!(judge(Some(&creating), true, false), Data::None);
        assert_eq!(judge(Some(&ready), true, true), Data::InUse);
        assert_eq!(judge(Some(&ready), true, false), Data::Missing("the array is not mounted"));
        assert_eq!(judge(Some(&ready), false, false), Data::Missing("the array does not run"));
    }
}
