//! What admind publishes for the console ([`crate::console`]): what is not well, and what is to be said of versions.

use super::storage::{Watch, known};
use super::{Config, checks};
use crate::console::facts::{self, REPORT, Report};
use crate::storage::health::Health;
use crate::update::esp;
use crate::update::record::{LOST, RECORD, Record};
use crate::update::slots::Version;
use std::collections::BTreeMap;
use std::error::Error;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tobj::Check;

/// How often is looked: it takes a process of systemctl each time.
const LOOK: Duration = Duration::from_secs(10);

/// Publishes for as long as the daemon runs; `disks`: what is known of the data disks, on a machine that keeps data.
pub(super) async fn publish(config: Arc<Config>, disks: Option<Watch>) {
    let mut tick = tokio::time::interval(LOOK);
    let mut failed = String::new();
    loop {
        tick.tick().await;
        // A daemon must not die of a console that cannot be told; once is enough to say so.
        let health = disks.as_ref().map(|watch| known(watch).health);
        let config = config.clone();
        let now =
            tokio::task::spawn_blocking(move || look(&config, health.as_ref()).map_err(|e| daemon::report(&*e))).await;
        match now {
            Ok(Ok(())) => failed.clear(),
            Ok(Err(why)) if why != failed => {
                tracing::error!("the console is not told: {why}");
                failed = why;
            }
            Ok(Err(_)) | Err(_) => {}
        }
    }
}

fn look(config: &Config, disks: Option<&BTreeMap<String, Health>>) -> Result<(), Box<dyn Error>> {
    let record = Record::load(Path::new(RECORD))?;
    let at = facts::seconds(&fs::read_to_string("/proc/uptime")?).ok_or("/proc/uptime makes no sense")?;
    let report = report(at, &checks::all(config, disks), &record, esp::running());
    Ok(facts::publish(Path::new(REPORT), &toml::to_string(&report)?)?)
}

fn report(at: u64, checks: &[Check], record: &Record, running: Option<Version>) -> Report {
    let unwell = checks.iter().filter(|c| !c.healthy).map(|c| format!("{}: {}", c.name, c.detail)).collect();
    let trial = record.trying.as_ref().map(|trial| {
        let how = if running == Some(trial.version) { "is on trial" } else { "is to be tried" };
        let why = trial.reason.as_ref().map(|reason| format!("; last time: {reason}"));
        format!("{} {how}{}", trial.version, why.unwrap_or_default())
    });
    let failed = record.failed.iter().rev().map(|f| format!("{} failed: {}", f.version, f.reason));
    let lost = record.lost.map(|version| format!("{version}: {LOST}"));
    Report { at, unwell, updates: trial.into_iter().chain(lost).chain(failed).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tobj::{Name, Text};

    #[test]
    fn what_is_said() {
        let check = |name: &str, healthy| Check { name: Name::new(name).unwrap(), healthy, detail: Text::lossy("so") };
        let checks = [check("memory", true), check("storage", false)];
        let (old, new): (Version, Version) = ("1.0.0".parse().unwrap(), "1.1.0".parse().unwrap());
        let none = report(3, &checks, &Record::default(), Some(old));
        assert_eq!((none.at, none.unwell, none.updates), (3, vec!["storage: so".to_owned()], vec![]));
        let text = "[trying]\nversion = '1.1.0'\nreason = 'no banner'\n\
                    [[failed]]\nversion = '0.9.0'\nreason = 'first'\n[[failed]]\nversion = '0.9.1'\nreason = 'then'\n";
        let record: Record = toml::from_str(text).unwrap();
        let updates = |running| report(3, &[], &record, Some(running)).updates;
        let failed = ["0.9.1 failed: then", "0.9.0 failed: first"];
        assert_eq!(updates(new), [&["1.1.0 is on trial; last time: no banner"][..], &failed].concat());
        assert_eq!(updates(old), [&["1.1.0 is to be tried; last time: no banner"][..], &failed].concat());
    }
}
