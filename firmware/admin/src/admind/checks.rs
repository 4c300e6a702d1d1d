//! What a machine says of itself in a status report.

use super::{Config, boot, tls};
use crate::block;
use crate::setup::STORAGE;
use crate::storage::array::{self, Array};
use crate::storage::cache;
use crate::storage::health::Health;
use crate::storage::log;
use crate::storage::record;
use crate::storage::scrub::{self, Scrub};
use crate::tools;
use crate::update::package::MEMORY_MIB;
use crate::update::slots::enough_memory;
use nix::sys::statvfs::statvfs;
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;
use std::time::{Duration, SystemTime};
use tobj::{Check, Name, Text};

/// Where the kernel shows its watchdogs.
const WATCHDOGS: &str = "/sys/class/watchdog";
/// Is there once timesyncd has heard of a server, and as old as the last answer that it went by.
const SYNCHRONISED: &str = "/run/systemd/timesync/synchronized";
/// A server that has not answered for so long is told of. timesyncd asks every 34 minutes at least, and may pass one answer over.
const SILENT: Duration = Duration::from_secs(2 * 3600);
/// The kernel's account of its memory.
const MEMINFO: &str = "/proc/meminfo";
/// The mounts of the system; those of this daemon are its own.
const MOUNTS: &str = "/proc/1/mountinfo";

fn check(name: &str, healthy: bool, detail: &str) -> Option<Check> {
    Some(Check { name: Name::new(name).ok()?, healthy, detail: Text::lossy(detail) })
}

fn check_of(name: &str, (healthy, detail): (bool, String)) -> Option<Check> {
    check(name, healthy, &detail)
}

/// The checks of a machine; `disks`: how disks say that they are, on one that keeps data.
pub(super) fn all(config: &Config, disks: Option<&BTreeMap<String, Health>>) -> Vec<Check> {
    let version = check("version", true, env!("CARGO_PKG_VERSION"));
    let disks = disks.and_then(|health| {
        let (healthy, detail) = storage(array::look(Path::new(block::SYS)).as_ref(), health);
        check("storage", healthy, &detail)
    });
    let watchdog = check_of("watchdog", self::watchdog(Path::new(WATCHDOGS)));
    let time = check_of("time", (true, time(Path::new(SYNCHRONISED), SystemTime::now())));
    let mounts = check_of("mounts", mounts(fs::read_to_string(MOUNTS)));
    let boot = boot::words().and_then(|words| check("boot", true, words));
    let certificate = config.tls.as_ref().and_then(|tls| check_of("certificate-end", tls::end(tls, &config.name)));
    [version, check_of("memory", memory()), units(), mounts, watchdog, time, boot, disks, certificate]
        .into_iter()
        .flatten()
        .collect()
}

/// Memory that is in use and cannot be had back, of all there is. What the root file system takes is in it.
fn memory() -> (bool, String) {
    memory_of(read_memory())
}

fn memory_of(read: io::Result<(u64, u64)>) -> (bool, String) {
    match read {
        Ok((used, all)) if enough_memory(all, MEMORY_MIB) => (true, format!("{used} MiB of {all} in use")),
        Ok((used, all)) => {
            let why = format!("{used} MiB of {all} in use; a machine needs {MEMORY_MIB} MiB, give it more");
            (false, why)
        }
        Err(error) => (false, format!("{MEMINFO} cannot be read: {error}")),
    }
}

/// MiB of memory that the system has.
pub(super) fn memory_mib() -> io::Result<u64> {
    read_memory().map(|(_, all)| all)
}

fn read_memory() -> io::Result<(u64, u64)> {
    parse_memory(&fs::read_to_string(MEMINFO)?).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

fn parse_memory(meminfo: &str) -> Option<(u64, u64)> {
    let field = |name: &str| {
        let line = meminfo.lines().find_map(|l| l.strip_prefix(name))?;
        line.trim_start_matches(':').trim().strip_suffix(" kB")?.trim().parse::<u64>().ok()
    };
    let (all, available) = (field("MemTotal")?, field("MemAvailable")?);
    Some((all.saturating_sub(available) >> 10, all >> 10))
}

/// Whoever gets a file onto the machine is not to run it from there.
fn mounts(shown: io::Result<String>) -> (bool, String) {
    match shown.map(|shown| block::writable_and_executable(&shown)) {
        Ok(all) if all.is_empty() => (true, "none is both writable and executable".into()),
        Ok(all) => (false, format!("both writable and executable: {}", all.join(", "))),
        Err(error) => (false, format!("{MOUNTS} cannot be read: {error}")),
    }
}

/// What ends a hang of the machine. A machine may have none; one that it has must be armed.
fn watchdog(class: &Path) -> (bool, String) {
    let read = |dir: &Path, file: &str| fs::read_to_string(dir.join(file)).unwrap_or_default().trim().to_owned();
    let all = fs::read_dir(class).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut all: Vec<_> = all.map(|dir| (read(&dir, "state"), read(&dir, "identity"), read(&dir, "timeout"))).collect();
    all.sort();
    match &all[..] {
        [] => (true, "none: a hang waits for somebody who presses the button".into()),
        all => match all.iter().find(|(state, ..)| state == "active") {
            Some((_, identity, seconds)) => (true, format!("{identity}, {seconds} s")),
            None => (false, format!("{} is not armed", all[0].1)),
        },
    }
}

/// Where the time comes from. A server that does not answer is no fault of this machine's.
fn time(synchronised: &Path, now: SystemTime) -> String {
    let Ok(answered) = fs::metadata(synchronised).and_then(|file| file.modified()) else {
        return "by the machine's own clock: no server of the plan has answered".to_owned();
    };
    // One that lies ahead was before the clock was put back.
    match now.duration_since(answered).unwrap_or_default() {
        since if since >= SILENT => {
            let hours = since.as_secs() / 3600;
            format!("by the machine's own clock: no server of the plan has answered for {hours} hours")
        }
        _ => "by the servers of the plan".to_owned(),
    }
}

/// Units of systemd that failed.
fn units() -> Option<Check> {
    let Some(systemctl) = tools::find("systemctl") else { return check("units", false, "systemctl is not there") };
    let arguments = ["list-units", "--failed", "--plain", "--no-legend", "--no-pager"];
    match tools::run(&systemctl, &arguments, b"") {
        Ok(said) => {
            let said = String::from_utf8_lossy(&said);
            let failed: Vec<&str> = said.lines().filter_map(|l| l.split_whitespace().next()).collect();
            match &failed[..] {
                [] => check("units", true, "none failed"),
                names => check("units", false, &format!("failed: {}", names.join(", "))),
            }
        }
        Err(error) => check("units", false, &daemon::report(&error)),
    }
}

/// Room on the data disks; `None` where nothing is mounted.
fn free() -> Option<String> {
    let mounted = std::fs::read_to_string("/proc/self/mountinfo").ok()?;
    if !block::mounts(&mounted).iter().any(|(_, at)| at == STORAGE) {
        return None;
    }
    let stat = statvfs(STORAGE).ok()?;
    let mib = |blocks: u64| blocks.saturating_mul(stat.fragment_size()) >> 20;
    Some(format!("{} of {} MiB free", mib(stat.blocks_available()), mib(stat.blocks())))
}

/// How the data disks are, also by what they say themselves.
pub(super) fn storage(array: Option<&Array>, health: &BTreeMap<String, Health>) -> (bool, String) {
    let (mut healthy, mut words) = describe(array, free().as_deref());
    for disk in failing(array, health) {
        healthy = false;
        words =
            format!("{words}; {disk} says that it fails: `ffsctl storage replace` copies it to another while it works");
    }
    for disk in array.into_iter().flat_map(|a| cache::volatile(Path::new(block::SYS), a)) {
        healthy = false;
        words = format!(
            "{words}; the write cache of {disk} cannot be switched off, so that a power cut takes what was just written: \
             `ffsctl storage replace` it"
        );
    }
    if array.is_some_and(|a| log::is_missing(Path::new(block::SYS), a)) {
        words = format!("{words}, no log of partial parity yet");
    }
    let scrub: Option<Scrub> = record::load(Path::new(scrub::RECORD)).ok().flatten();
    if let Some(said) = array.and_then(|a| scrub?.describe(a.array, scrub::now())) {
        words = format!("{words}, {said}");
    }
    (healthy, words)
}

/// Members that say that they fail.
fn failing<'a>(array: Option<&'a Array>, health: &'a BTreeMap<String, Health>) -> impl Iterator<Item = &'a str> {
    let members = array.into_iter().flat_map(|a| &a.members).map(|m| &*m.disk);
    members.filter(|disk| health.get(*disk).is_some_and(|h| h.failing))
}

/// How the array is. One without a part of its members serves, but somebody has to do something before another goes.
fn describe(array: Option<&Array>, free: Option<&str>) -> (bool, String) {
    let Some(a) = array else { return (false, "no array is in use; see `ffsctl storage status`".into()) };
    let present = a.whole.saturating_sub(a.missing);
    let mut words = vec![a.level.clone(), a.state.clone(), format!("{present} of {} members", a.whole)];
    if a.missing > 0 {
        words.push("DEGRADED".into());
    }
    if a.action != "idle" {
        let done = a.done.map(|n| format!(" {n} %")).unwrap_or_default();
        words.push(format!("{}{done}", a.action));
    }
    let errors: u64 = a.members.iter().map(|m| m.errors).sum();
    if errors > 0 {
        words.push(format!("{errors} read errors corrected"));
    }
    words.push(free.map_or("not mounted".into(), str::to_owned));
    // md says "recover" also while it only looks for something to recover onto, so the members decide.
    let spare = a.members.iter().any(|m| m.state.split(',').any(|flag| flag == "spare"));
    let advice = match (a.missing > 0, spare) {
        (false, _) => "",
        (true, true) => "; all of it is served, and what is missing is being made up for",
        (true, false) => {
            "; all of it is served, but a further disk that goes may take data with it: put a disk in, then \
             `ffsctl storage add-spare`"
        }
    };
    (a.runs() && free.is_some() && a.missing == 0, words.join(", ") + advice)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::array::Member;
    use crate::storage::array::tests::sample;

    #[test]
    fn memory_in_use() {
        let text = "MemTotal:        1004736 kB\nMemFree:          300000 kB\nMemAvailable:     859000 kB\n";
        assert_eq!(parse_memory(text), Some((142, 981)));
        assert_eq!(memory_of(Ok((142, 981))), (true, "142 MiB of 981 in use".into()));
        assert!(memory_of(Ok((142, 896))).0);
        let (healthy, words) = memory_of(Ok((142, 895)));
        assert!(!healthy && words.contains("a machine needs 1024 MiB"), "{words}");
        assert_eq!(parse_memory("MemTotal: 1 kB\n"), None);
        assert_eq!(parse_memory("MemTotal: x kB\nMemAvailable: 1 kB\n"), None);
    }

    #[test]
    fn the_time_is_by_the_servers_while_they_answer() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("synchronized");
        let now = SystemTime::now();
        assert!(time(&file, now).ends_with("no server of the plan has answered"));
        fs::write(&file, "").unwrap();
        let after = |hours: u64| {
            let answered = now - Duration::from_secs(hours * 3600);
            fs::File::options().write(true).open(&file).unwrap().set_modified(answered).unwrap();
            time(&file, now)
        };
        assert_eq!(after(1), "by the servers of the plan");
        assert_eq!(time(&file, now - Duration::from_secs(9 * 3600)), "by the servers of the plan", "it was put back");
        assert!(after(2).ends_with("has answered for 2 hours") && after(900).ends_with("for 900 hours"));
    }

    #[test]
    fn mounts_in_words() {
        let line = |options: &str| Ok(format!("4 1 0:5 / /tmp {options} - tmpfs tmpfs rw\n"));
        assert_eq!(mounts(line("rw,noexec")), (true, "none is both writable and executable".into()));
        assert_eq!(mounts(line("rw,nosuid")), (false, "both writable and executable: /tmp".into()));
        assert!(!mounts(Err(io::ErrorKind::PermissionDenied.into())).0);
    }

    #[test]
    fn watchdogs_in_words() {
        let class = tempfile::tempdir().unwrap();
        let (healthy, words) = watchdog(class.path());
        assert!(healthy && words.starts_with("none"), "{words}");
        let put = |name: &str, state: &str, identity: &str| {
            let dir = class.path().join(name);
            fs::create_dir_all(&dir).unwrap();
            for (file, text) in [("state", state), ("identity", identity), ("timeout", "60")] {
                fs::write(dir.join(file), format!("{text}\n")).unwrap();
            }
        };
        put("watchdog0", "inactive", "iTCO_wdt");
        assert_eq!(watchdog(class.path()), (false, "iTCO_wdt is not armed".into()));
        put("watchdog1", "active", "i6300ESB timer");
        assert_eq!(watchdog(class.path()), (true, "i6300ESB timer, 60 s".into()));
        assert!(watchdog(Path::new("/nonexistent")).0);
    }

    fn array(disks: &[(&str, &str)]) -> Array {
        let member =
            |&(disk, state): &(&str, &str)| Member { disk: disk.into(), state: state.into(), slot: Some(0), errors: 0 };
        let members = disks.iter().map(member).collect();
        Array { level: "raid10".into(), whole: 4, members, ..sample(&[]) }
    }

    #[test]
    fn arrays_in_words() {
        let whole = array(&[]);
        let free = Some("900 of 1000 MiB free");
        let (healthy, words) = describe(Some(&whole), free);
        assert!(healthy);
        assert_eq!(words, "raid10, clean, 4 of 4 members, 900 of 1000 MiB free");
        let short = Array { missing: 1, action: "recover".into(), done: Some(42), ..whole.clone() };
        let rebuilt = Array { members: array(&[("vda", "in_sync"), ("vdb", "spare")]).members, ..short.clone() };
        let (healthy, words) = describe(Some(&rebuilt), free);
        assert!(!healthy, "somebody should know");
        let said = "raid10, clean, 3 of 4 members, DEGRADED, recover 42 %, 900 of 1000 MiB free; all of it is served";
        assert!(words.starts_with(said) && words.ends_with("is being made up for"), "{words}");
        let faulty = Array { members: array(&[("vda", "in_sync"), ("vdb", "faulty")]).members, ..short };
        assert!(describe(Some(&faulty), free).1.contains("add-spare"), "md looks for a disk and there is none");
        let alone = Array { missing: 1, ..whole.clone() };
        assert!(describe(Some(&alone), free).1.ends_with("put a disk in, then `ffsctl storage add-spare`"));
        assert!(!describe(Some(&whole), None).0 && !describe(None, free).0);
        assert!(!describe(Some(&Array { state: "inactive".into(), ..whole }), free).0);
    }

    #[test]
    fn a_member_that_says_that_it_fails() {
        let array = array(&[("sda", "in_sync"), ("sdb", "in_sync")]);
        let says = |disk: &str, failing| (disk.to_owned(), Health { failing, said: String::new() });
        let health = [says("sda", false), says("sdb", true), says("sdz", true)].into();
        assert_eq!(failing(Some(&array), &health).collect::<Vec<_>>(), ["sdb"], "others are not its business");
        let (healthy, words) = storage(Some(&array), &health);
        assert!(!healthy && words.contains("sdb says that it fails"), "{words}");
    }
}
