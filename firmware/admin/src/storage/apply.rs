//! Doing what the plan says (`admind storage`).

use super::awaited::{Awaited, Case};
use super::inventory;
use super::plan::{self, Level, Plan};
use super::record::{self, ORDER, Order, Progress, RECORD, Record};
use super::superblock::Uuid;
use super::{StorageError, array, cache, io_error, keeps_data, tool};
use crate::block;
use crate::setup::{Appliance, Daemon, Layout, STORAGE};
use keys::site::Role;
use nix::mount::{MsFlags, mount};
use nix::unistd::{Gid, Uid, chown};
use std::collections::BTreeSet;
use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

/// How often is looked while disks may still appear.
const LOOK: Duration = Duration::from_millis(100);
/// The name of our arrays, for people; machines go by the identifier.
const NAME: &str = "ffs";
/// The file that asks stagerd to verify every object (stagerd's `verify::ORDER`).
const VERIFY: &str = "verify-all";
/// Label of the file system; 12 bytes at most (xfs).
const LABEL: &str = "ffs-data";

/// Brings the data disks of a machine of this role into use.
///
/// # Errors
/// [`StorageError`], with what an operator can do.
pub(crate) fn run(role: Role) -> Result<(), StorageError> {
    if !keeps_data(role) {
        return Ok(());
    }
    let order: Option<Order> = record::load(Path::new(ORDER))?;
    if order.is_some() {
        // Tried once, whatever comes of it.
        fs::remove_file(ORDER).map_err(io_error(ORDER))?;
    }
    let plan = decide(order.as_ref())?;
    tracing::info!(?plan, "data disks");
    let doubtful = matches!(plan, Plan::Assemble { dirty: true, .. });
    carry_out(plan, order.and_then(|o| o.request))?;
    attach(role)?;
    super::grow::run();
    if doubtful {
        ask_to_verify(role)?;
    }
    take_back();
    Ok(())
}

/// Waits for disks as long as the plan wants to.
fn decide(order: Option<&Order>) -> Result<Plan, StorageError> {
    let record: Option<Record> = record::load(Path::new(RECORD))?;
    let fresh = Uuid::random()?;
    let case = match &record {
        _ if order.is_some() => Case::Order,
        Some(record) if record.progress == Progress::Ready => Case::Known,
        _ => Case::First,
    };
    let mut awaited = Awaited::new(case, Instant::now());
    loop {
        let waited = awaited.all_there(disks()?, Path::new("/"), Instant::now());
        // Only where an array may have to be made does it matter what is blank.
        let inventory = inventory::take(waited && case != Case::Known)?;
        match plan::plan(&inventory, record.as_ref(), order, waited, fresh)? {
            Plan::Wait if !waited => std::thread::sleep(LOOK),
            Plan::Adopt(record) => {
                let record = Record { request: order.and_then(|o| o.request.clone()), ..record };
                record::save(Path::new(RECORD), &record)?;
                return Ok(plan::plan(&inventory, Some(&record), None, true, fresh)?);
            }
            plan => return Ok(plan),
        }
    }
}

/// The names of the disks that are there.
fn disks() -> Result<Vec<String>, StorageError> {
    let blocks = block::all(Path::new(block::SYS)).map_err(io_error(block::SYS))?;
    Ok(blocks.into_iter().filter(|b| b.physical && b.size > 0).map(|b| b.name).collect())
}

fn paths(disks: &[String]) -> Vec<String> {
    disks.iter().map(|d| format!("/dev/{d}")).collect()
}

fn carry_out(plan: Plan, request: Option<String>) -> Result<(), StorageError> {
    match plan {
        Plan::Keep | Plan::Wait | Plan::Adopt(_) => Ok(()),
        Plan::Assemble { array, disks, degraded, format, dirty } => {
            if degraded {
                tracing::warn!(%array, ?disks, dirty, "members are missing or not up to date; the array starts without them");
            }
            // Data that is there is served all the same; `status` says what is wrong with that.
            let level = record::load::<Record>(Path::new(RECORD))?.map(|r| r.level);
            if let Some(Err(error)) =
                level.map(|level| cache::switch_off(Path::new(block::SYS), level.as_str(), &disks))
            {
                tracing::error!("{}", daemon::report(&error));
            }
            assemble(array, &disks, dirty)?;
            if format { finish(array) } else { Ok(()) }
        }
        Plan::Create { array, level, disks, spares, zero } => {
            cache::switch_off(Path::new(block::SYS), level.as_str(), &disks)?;
            let request = request.or_else(|| record::load::<Record>(Path::new(RECORD)).ok().flatten()?.request);
            let (progress, chosen) = (Progress::Creating, serials(&disks)?);
            record::save(Path::new(RECORD), &Record { array, level, spares, progress, disks: chosen, request })?;
            tracing::info!(%array, %level, ?disks, spares, zero, "the array is made");
            let arguments = creation(array, level, &disks, spares, zero);
            let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
            tool("mdadm", "the array was not made", &arguments)?;
            finish(array)
        }
    }
}

/// The serial numbers of disks; none where one has none, or the one of another.
fn serials(disks: &[String]) -> Result<Vec<String>, StorageError> {
    let blocks = block::all(Path::new(block::SYS)).map_err(io_error(block::SYS))?;
    let serial = |disk: &String| blocks.iter().find(|b| b.name == *disk)?.serial.clone();
    let all: Option<BTreeSet<String>> = disks.iter().map(serial).collect();
    Ok(all.filter(|all| all.len() == disks.len()).into_iter().flatten().collect())
}

/// `dirty`: also where the parity may be wrong, which is then taken for right.
fn assemble(array: Uuid, disks: &[String], dirty: bool) -> Result<(), StorageError> {
    let (uuid, disks) = (format!("--uuid={array}"), paths(disks));
    let mut arguments = vec!["--config=none", "--run", &uuid];
    if dirty {
        arguments.push("--force");
    }
    arguments.extend(disks.iter().map(String::as_str));
    // Its exit status does not tell "started degraded" from "not started"; the kernel does.
    let said = array::mdadm("--assemble", "the array was not assembled", &arguments);
    match array::look(Path::new(block::SYS)) {
        Some(found) if found.array == array && found.runs() => Ok(()),
        found => {
            if found.is_some() {
                // So that a later try finds the disks free.
                array::mdadm("--stop", "the array was not stopped", &[])?;
            }
            said.and(Err(StorageError::NotStarted(array.to_string())))
        }
    }
}

/// What mdadm is told to make an array.
fn creation(array: Uuid, level: Level, disks: &[String], spares: usize, zero: bool) -> Vec<String> {
    let device = array::device().to_string_lossy().into_owned();
    let mut arguments: Vec<String> =
        ["--create", &device, "--config=none", "--run", "--metadata=1.2", "--homehost=any"].map(str::to_owned).to_vec();
    arguments.extend([
        format!("--uuid={array}"),
        format!("--name={NAME}"),
        format!("--level={level}"),
        format!("--raid-devices={}", disks.len() - spares),
    ]);
    if spares > 0 {
        arguments.push(format!("--spare-devices={spares}"));
    }
    let of_level: &[&str] = match level {
        Level::Raid1 | Level::Raid6 => &["--bitmap=internal"],
        Level::Raid10 => &["--bitmap=internal", "--layout=n2"],
        // A log of partial parity in place of a bitmap, which excludes it; once the parity is right (`log::keep`). Without force it
        // would be made degraded, with a spare to be filled, since that is faster.
        Level::Raid5 if zero => &["--bitmap=none", "--consistency-policy=ppl", "--force"],
        Level::Raid5 => &["--bitmap=none", "--consistency-policy=resync", "--force"],
    };
    arguments.extend(of_level.iter().map(|a| (*a).to_owned()));
    if zero {
        arguments.push("--write-zeroes".into());
    }
    arguments.extend(paths(disks));
    arguments
}

/// Makes the file system, and remembers that it is there.
fn finish(array: Uuid) -> Result<(), StorageError> {
    let device = array::device();
    // Without discarding: it may take minutes of each terabyte.
    tool("mkfs.xfs", "the file system was not made", &["-q", "-f", "-K", "-L", LABEL, &device.to_string_lossy()])?;
    let record: Option<Record> = record::load(Path::new(RECORD))?;
    match record {
        Some(record) if record.array == array => {
            record::save(Path::new(RECORD), &Record { progress: Progress::Ready, disks: Vec::new(), ..record })
        }
        _ => Err(io_error(RECORD)(io::ErrorKind::NotFound.into())),
    }
}

/// Mounts the file system, and gives the role's daemon its place on it.
fn attach(role: Role) -> Result<(), StorageError> {
    let at = Path::new(STORAGE);
    let mountinfo = "/proc/self/mountinfo";
    let mounted = fs::read_to_string(mountinfo).map_err(io_error(mountinfo))?;
    if !block::mounts(&mounted).iter().any(|(_, point)| point == STORAGE) {
        let flags = MsFlags::MS_NODEV | MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC | MsFlags::MS_NOATIME;
        // The largest buffers of its log: links that are made together need fewer writes.
        mount(Some(&array::device()), at, Some("xfs"), flags, Some("logbsize=256k"))
            .map_err(|e| io_error(at)(e.into()))?;
    }
    let daemon = Daemon::main_of(role);
    let (dir, uid) = (Appliance.data(daemon), Appliance.uid(daemon));
    if !dir.is_dir() {
        fs::create_dir(&dir).map_err(io_error(&dir))?;
    }
    // The root of the file system is passed by others on their way to a descriptor that stagerd gave them; what is of stagerd alone it
    // makes itself, for itself. The database's folder is nobody else's.
    let mode = if dir == at { 0o755 } else { 0o700 };
    chown(&dir, Some(Uid::from_raw(uid)), Some(Gid::from_raw(uid))).map_err(|e| io_error(&dir)(e.into()))?;
    fs::set_permissions(&dir, Permissions::from_mode(mode)).map_err(io_error(&dir))?;
    fs::File::open(&dir).and_then(|d| d.sync_all()).map_err(io_error(&dir))
}

/// Leaves word for stagerd that every object is to be read and compared with its hash; it removes that once it has begun.
fn ask_to_verify(role: Role) -> Result<(), StorageError> {
    if role != Role::Download {
        return Ok(());
    }
    let path = Appliance.data(Daemon::main_of(role)).join(VERIFY);
    tracing::warn!("the parity of the array may be wrong: every object is verified");
    crate::durable::write(&path, b"", 0o600).map_err(io_error(&path))?;
    let uid = Some(Uid::from_raw(Appliance.uid(Daemon::main_of(role))));
    chown(&path, uid, None).map_err(|e| io_error(&path)(e.into()))
}

/// Takes members back that had fallen behind, such as a disk that was away for a while: what they missed is copied to them in the
/// background. A disk that cannot be brought up to date in this way is left for an operator; the array serves without it.
pub(super) fn take_back() {
    let Some(running) = array::look(Path::new(block::SYS)).filter(|a| a.missing > 0) else { return };
    let Ok(inventory) = inventory::take(false) else { return };
    for disk in inventory.disks.iter().filter(|d| plan::went_on_alone(d, &running)) {
        tracing::warn!(disk.name, "it {}", plan::ALONE);
    }
    for disk in plan::fallen_behind(&inventory, &running) {
        if let Err(error) = cache::switch_off(Path::new(block::SYS), &running.level, std::slice::from_ref(&disk)) {
            tracing::warn!(disk, "{}", daemon::report(&error));
            continue;
        }
        let member = format!("/dev/{disk}");
        match array::mdadm("--manage", "a member was not taken back", &["--re-add", &member]) {
            Ok(()) => tracing::warn!(disk, "a member that had fallen behind is brought up to date"),
            Err(error) => tracing::warn!(disk, "{}", daemon::report(&error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_mdadm_is_told() {
        let disks = ["vdb", "vdc", "vdd", "vde"].map(str::to_owned);
        let told = |level, spares, zero| creation(Uuid([1; 16]), level, &disks, spares, zero).join(" ");
        let begin = "--create /dev/md0 --config=none --run --metadata=1.2 --homehost=any \
                     --uuid=01010101:01010101:01010101:01010101 --name=ffs";
        let end = "/dev/vdb /dev/vdc /dev/vdd /dev/vde";
        let cases = [
            (Level::Raid1, 0, false, "--level=raid1 --raid-devices=4 --bitmap=internal"),
            (
                Level::Raid10,
                1,
                false,
                "--level=raid10 --raid-devices=3 --spare-devices=1 --bitmap=internal --layout=n2",
            ),
            (Level::Raid6, 0, true, "--level=raid6 --raid-devices=4 --bitmap=internal --write-zeroes"),
            (
                Level::Raid5,
                0,
                false,
                "--level=raid5 --raid-devices=4 --bitmap=none --consistency-policy=resync --force",
            ),
            (
                Level::Raid5,
                0,
                true,
                "--level=raid5 --raid-devices=4 --bitmap=none --consistency-policy=ppl --force --write-zeroes",
            ),
        ];
        for (level, spares, zero, middle) in cases {
            assert_eq!(told(level, spares, zero), format!("{begin} {middle} {end}"));
        }
    }
}
