//! Requests about updates.

use super::checks;
use super::service::{Answer, Refused, unavailable};
use super::storage::{self, Data};
use crate::tools;
use crate::update::esp::{EspError, Mounted, running};
use crate::update::install::InstallError;
use crate::update::package::{self, KEYS, PackageError, ReleaseKeys};
use crate::update::record::{RECORD, Record};
use crate::update::slots::{Entry, Insist, Plan, Refusal, Slots, Tries};
use keys::site::Role;
use std::error::Error;
use std::io;
use std::path::Path;
use tobj::{EntryInfo, Fault, Name, Reply, Text};
use tokio::io::{AsyncRead, BufReader};

/// Whether it is the update that is wrong, or the machine.
fn refused(error: EspError) -> Refused {
    match error {
        EspError::Direct => Refused(Fault::Invalid, error.to_string()),
        EspError::Entries(error) => not_installed(error),
        other => unavailable(other),
    }
}

fn not_installed(error: InstallError) -> Refused {
    let fault = match &error {
        InstallError::Package(PackageError::Io(_) | PackageError::Keys { .. }) | InstallError::Io { .. } => {
            Fault::Unavailable
        }
        InstallError::ReadBack => Fault::Unavailable,
        InstallError::Package(_) | InstallError::Room { .. } => Fault::Invalid,
    };
    Refused(fault, daemon::report(&error))
}

fn invalid(refusal: Refusal) -> Refused {
    Refused(Fault::Invalid, refusal.to_string())
}

/// What is remembered, as far as the entries tell: the health gate may not have noted it yet.
fn record(slots: &Slots) -> Result<Record, Refused> {
    let mut record = Record::load(Path::new(RECORD)).map_err(unavailable)?;
    record.settle(slots);
    Ok(record)
}

/// An update on a machine whose array is missing would be given up for that, and which of the two is at fault would not be known.
fn with_data(data: &Data) -> Result<(), Refusal> {
    match data {
        Data::None | Data::InUse => Ok(()),
        Data::Missing(why) => Err(Refusal::NoArray(why)),
    }
}

/// Writes down what became of a version that was tried, as far as the entries of this machine tell.
pub(super) fn settle(role: Role) -> Result<(), Box<dyn Error>> {
    // The boot partition is left alone where there is nothing to find out.
    if Record::load(Path::new(RECORD))?.trying.is_none() {
        return Ok(());
    }
    match Mounted::new() {
        Ok(mounted) => settle_on(&mounted, role),
        Err(EspError::Direct) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// The same for who has the boot partition already.
pub(super) fn settle_on(mounted: &Mounted, role: Role) -> Result<(), Box<dyn Error>> {
    Ok(note(Path::new(RECORD), &mounted.slots(role)?)?)
}

fn note(path: &Path, slots: &Slots) -> io::Result<()> {
    let mut record = Record::load(path)?;
    if record.settle(slots) {
        for failure in &record.failed {
            tracing::warn!(version = %failure.version, reason = failure.reason, "a version that failed on this machine");
        }
        record.save(path)?;
    }
    Ok(())
}

/// Puts an update beside what runs.
pub(super) async fn push(
    role: Role,
    from: &str,
    insist: Insist,
    literal: &mut (dyn AsyncRead + Send + Unpin),
) -> Answer {
    let keys = ReleaseKeys::load(Path::new(KEYS)).map_err(|e| not_installed(e.into()))?;
    let mut body = BufReader::new(literal);
    let manifest = package::open(&mut body, &keys).await.map_err(|e| not_installed(e.into()))?;
    let mounted = Mounted::new().map_err(refused)?;
    let slots = mounted.slots(role).map_err(refused)?;
    let mut record = record(&slots)?;
    let plan =
        slots.update(&manifest, checks::memory_mib().map_err(unavailable)?, &record.failed, insist).map_err(invalid)?;
    with_data(&storage::data(role).map_err(unavailable)?).map_err(invalid)?;
    tracing::warn!(from, version = %manifest.version, running = %slots.running, "an update is put in");
    let before = record.clone();
    record.begin(manifest.version);
    record.save(Path::new(RECORD)).map_err(unavailable)?;
    if let Err(error) = mounted.esp().apply(&plan, Some((&manifest, &mut body))).await {
        // It was never there; unless the power goes right now, nobody is told that it was lost.
        before.save(Path::new(RECORD)).map_err(unavailable)?;
        return Err(not_installed(error));
    }
    record.named();
    record.save(Path::new(RECORD)).map_err(unavailable)?;
    tracing::warn!(version = %manifest.version, "the update is in; it starts with the next boot");
    status(&mounted.slots(role).map_err(refused)?)
}

/// What there is.
pub(super) fn show(role: Role) -> Answer {
    match Mounted::new() {
        Ok(mounted) => status(&mounted.slots(role).map_err(refused)?),
        // A machine that was started directly runs something too.
        Err(EspError::Direct) => {
            let running = running().ok_or_else(|| refused(EspError::Version))?;
            status(&Slots { role, running, entries: Vec::new() })
        }
        Err(error) => Err(refused(error)),
    }
}

/// Makes the other version the one that starts next.
pub(super) async fn roll_back(role: Role, from: &str) -> Answer {
    let mounted = Mounted::new().map_err(refused)?;
    let plan = mounted.slots(role).map_err(refused)?.roll_back().map_err(invalid)?;
    tracing::warn!(from, ?plan, "rolling back");
    mounted.esp().apply(&plan, None::<(_, &mut tokio::io::Empty)>).await.map_err(not_installed)?;
    let slots = mounted.slots(role).map_err(refused)?;
    record(&slots)?.save(Path::new(RECORD)).map_err(unavailable)?;
    status(&slots)
}

/// Takes the running version as good, on an operator's word.
pub(super) async fn confirm(role: Role, from: &str) -> Answer {
    let mounted = Mounted::new().map_err(refused)?;
    let slots = mounted.slots(role).map_err(refused)?;
    let current = slots.entries.iter().find(|e| e.version == slots.running).copied();
    let current = current.ok_or_else(|| invalid(Refusal::Unknown(slots.running)))?;
    if current.tries != Tries::Blessed {
        tracing::warn!(from, version = %slots.running, "an operator takes the running version as good");
        let blessed = Entry { tries: Tries::Blessed, ..current };
        let plan = Plan { remove: Vec::new(), write: None, rename: vec![(current, blessed)] };
        mounted.esp().apply(&plan, None::<(_, &mut tokio::io::Empty)>).await.map_err(not_installed)?;
    }
    let slots = mounted.slots(role).map_err(refused)?;
    record(&slots)?.save(Path::new(RECORD)).map_err(unavailable)?;
    status(&slots)
}

/// Starts the machine anew: always cold, so that what starts is what is on the disk.
pub(super) fn reboot(from: &str) -> Answer {
    tracing::warn!(from, "the machine starts anew, on an operator's order");
    end("reboot")
}

/// Ends all work and switches the machine off.
pub(super) fn power_off(from: &str) -> Answer {
    tracing::warn!(from, "the machine is switched off, on an operator's order");
    end("poweroff")
}

fn end(how: &str) -> Answer {
    let systemctl =
        tools::find("systemctl").ok_or_else(|| Refused(Fault::Unavailable, "systemctl is not there".into()))?;
    tools::run(&systemctl, &["--no-block", how], b"").map_err(unavailable)?;
    Ok(Reply::Done {})
}

/// How an entry is, in words.
fn state(slots: &Slots, entry: &Entry) -> String {
    let starts = slots.next().is_some_and(|next| next.version == entry.version);
    match entry.tries {
        Tries::Blessed => "good".to_owned(),
        Tries::Counted { left: 0, .. } if entry.version == slots.running && starts => {
            "not proven; there is nothing better to start".to_owned()
        }
        Tries::Counted { left: 0, done: 0 } => "set aside".to_owned(),
        Tries::Counted { left: 0, done } => format!("given up after {done} tries"),
        Tries::Counted { left, done } => format!("on trial, {done} tries used, {left} left"),
    }
}

fn status(slots: &Slots) -> Answer {
    let record = record(slots)?;
    let next = slots.next().map(|e| e.version);
    let text = |version: &dyn ToString| Name::new(&version.to_string()).map_err(unavailable);
    let mut entries = Vec::new();
    for entry in &slots.entries {
        entries.push(EntryInfo {
            version: text(&entry.version)?,
            running: entry.version == slots.running,
            next: Some(entry.version) == next,
            state: Text::lossy(&state(slots, entry)),
        });
    }
    let failed = record.complaints().map(|(version, why)| Text::lossy(&format!("{version}: {why}"))).collect();
    Ok(Reply::Updates { running: text(&slots.running)?, entries, failed })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_update_without_the_array() {
        assert_eq!(with_data(&Data::None), Ok(()));
        assert_eq!(with_data(&Data::InUse), Ok(()));
        let refused = with_data(&Data::Missing("the array does not run")).unwrap_err();
        assert_eq!(refused, Refusal::NoArray("the array does not run"));
        let said = refused.to_string();
        assert!(said.starts_with("the array does not run, ") && said.contains("ffsctl storage status"), "{said}");
    }

    /// What console and others read afterwards is the record alone.
    #[test]
    fn what_was_given_up_is_written_down() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("update.toml");
        let mut record = Record::default();
        record.begin("1.1.0".parse().unwrap());
        record.found("1.1.0".parse().unwrap(), "no ftp banner");
        record.save(&path).unwrap();
        let slots = |running: &str, names: &[&str]| Slots {
            role: Role::Web,
            running: running.parse().unwrap(),
            entries: names.iter().map(|name| Entry::parse(name).unwrap()).collect(),
        };
        note(&path, &slots("1.1.0", &["web_1.0.0.efi", "web_1.1.0+0-3.efi"])).unwrap();
        assert_eq!(Record::load(&path).unwrap(), record, "it is being tried");
        note(&path, &slots("1.0.0", &["web_1.0.0.efi", "web_1.1.0+0-3.efi"])).unwrap();
        let record = Record::load(&path).unwrap();
        let complaints: Vec<_> = record.complaints().map(|(version, why)| format!("{version}: {why}")).collect();
        assert_eq!((record.trying.as_ref(), complaints), (None, vec!["1.1.0: no ftp banner".to_owned()]));
    }

    #[test]
    fn states_of_entries() {
        let states = |running: &str, names: &[&str]| {
            let entries: Vec<Entry> = names.iter().map(|name| Entry::parse(name).unwrap()).collect();
            let slots = Slots { role: Role::Web, running: running.parse().unwrap(), entries };
            slots.entries.iter().map(|entry| state(&slots, entry)).collect::<Vec<_>>()
        };
        let trial = ["web_1.0.0.efi", "web_1.1.0+0-3.efi"];
        assert_eq!(states("1.1.0", &trial), ["good", "given up after 3 tries"]);
        let back = ["web_0.9.0+0-3.efi", "web_1.0.0+0-1.efi"];
        assert_eq!(states("1.0.0", &back), ["given up after 3 tries", "not proven; there is nothing better to start"]);
        let young = ["web_1.0.0+0.efi", "web_1.1.0+2-1.efi"];
        assert_eq!(states("1.1.0", &young), ["set aside", "on trial, 1 tries used, 2 left"]);
    }
}
