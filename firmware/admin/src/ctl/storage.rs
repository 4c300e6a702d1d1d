//! Data disks.

use super::args::Storage;
use super::link::Operator;
use super::{CtlError, show};
use serde_json::json;
use std::fmt::Write;
use tobj::{CountInfo, Reply, Request, Text};

/// How the state of disks is shown.
enum Form {
    Table,
    Json,
    Prometheus,
}

pub(crate) async fn run(operator: &Operator, command: Storage, as_json: bool) -> Result<(), CtlError> {
    let (machine, request) = match command {
        Storage::Status { machine, prometheus } => {
            let form = match (as_json, prometheus) {
                (true, _) => Form::Json,
                (_, true) => Form::Prometheus,
                _ => Form::Table,
            };
            return status(operator, machine.as_deref(), form).await;
        }
        Storage::Create { machine, level, disks, spares, adopt } => {
            (machine, Request::StorageCreate { level, disks, spares, adopt })
        }
        Storage::Start { machine } => (machine, Request::StorageStart {}),
        Storage::AddSpare { machine, disk } => (machine, Request::StorageAdd { disk }),
        Storage::Replace { machine, old, new } => (machine, Request::StorageReplace { old, new }),
        Storage::Scrub { machine, pause } => (machine, Request::StorageScrub { pause }),
    };
    let machine = named(operator, Some(&machine))?.remove(0);
    match operator.ask(&machine, request).await? {
        Reply::Done {} => Ok(()),
        _ => Err(CtlError::Mismatch(machine)),
    }
}

/// The machines that are meant.
fn named(operator: &Operator, wanted: Option<&str>) -> Result<Vec<String>, CtlError> {
    let with_disks = operator.plan().machines.iter().filter(|m| crate::storage::keeps_data(m.role));
    let names: Vec<String> = with_disks.map(|m| m.name.clone()).collect();
    match wanted {
        None => Ok(names),
        Some(wanted) if names.iter().any(|n| n == wanted) => Ok(vec![wanted.to_owned()]),
        Some(wanted) => {
            Err(CtlError::Usage(format!("{wanted} is no machine with data disks of this site: {}", names.join(", "))))
        }
    }
}

async fn status(operator: &Operator, machine: Option<&str>, form: Form) -> Result<(), CtlError> {
    let (mut values, mut rows, mut metrics, mut well) = (Vec::new(), Vec::new(), Metrics::default(), true);
    let all = machine.is_none();
    for machine in named(operator, machine)? {
        let reply = match operator.ask(&machine, Request::StorageStatus {}).await {
            // What the others say is worth no less.
            Err(error) if all => silent(&daemon::report(&error)),
            reply => reply?,
        };
        let Reply::Storage { device, array, level, healthy, detail, disks, counts } = reply else {
            return Err(CtlError::Mismatch(machine));
        };
        well &= healthy;
        metrics.add(&machine, healthy, &counts);
        values.push(json!({
            "machine": machine, "device": device.as_ref().map(|d| format!("/dev/{d}")),
            "array": array.as_ref().map(tobj::Text::as_str), "level": level.as_ref().map(tobj::Name::as_str),
            "healthy": healthy, "detail": detail.as_str(),
            "disks": disks.iter().map(|d| json!({
                "name": d.name.as_str(), "size": d.size, "model": d.model.as_str(), "member": d.member,
                "state": d.state.as_str(), "health": d.health.as_ref().map(tobj::Text::as_str),
            })).collect::<Vec<_>>(),
            "counts": counts.iter().map(|c| (c.name.to_string(), c.n.into())).collect::<serde_json::Map<_, _>>(),
        }));
        let of_array = if healthy { "ok" } else { "FAILED" };
        let device = device.map_or("-".to_owned(), |d| d.to_string());
        rows.push(vec![machine.clone(), device, "-".into(), of_array.into(), detail.to_string()]);
        rows.extend(disks.iter().map(|d| {
            let part = if d.member { "member" } else { "-" };
            let health = d.health.as_ref().map_or(String::new(), |h| format!("; {h}"));
            let what = format!("{} {}{health}", d.state, d.model).trim().to_owned();
            vec![machine.clone(), d.name.to_string(), show::size(d.size), part.into(), what]
        }));
    }
    match form {
        Form::Table => show::table(&["MACHINE", "DEVICE", "SIZE", "STATE", "DETAIL"], &rows)?,
        Form::Json => show::json(&values.into())?,
        Form::Prometheus => show::line(metrics.text().trim_end())?,
    }
    if well { Ok(()) } else { Err(CtlError::Unhealthy) }
}

/// What is shown of a machine that does not answer.
fn silent(why: &str) -> Reply {
    let (disks, counts) = (Vec::new(), Vec::new());
    Reply::Storage { device: None, array: None, level: None, healthy: false, detail: Text::lossy(why), disks, counts }
}

/// The lines of each family, which Prometheus wants together.
#[derive(Debug, Default)]
struct Metrics {
    healthy: String,
    events: String,
}

impl Metrics {
    fn add(&mut self, machine: &str, healthy: bool, counts: &[CountInfo]) {
        // Writing to a String does not fail; names of machines and events need no escape.
        let _ = writeln!(self.healthy, "ffs_storage_healthy{{machine=\"{machine}\"}} {}", u8::from(healthy));
        for CountInfo { name, n } in counts {
            let _ = writeln!(self.events, "ffs_storage_events_total{{machine=\"{machine}\",event=\"{name}\"}} {n}");
        }
    }

    /// The text format, version 0.0.4.
    fn text(&self) -> String {
        let Self { healthy, events } = self;
        format!(
            "# HELP ffs_storage_healthy Whether the array is whole and its disks are well.\n\
             # TYPE ffs_storage_healthy gauge\n{healthy}\
             # HELP ffs_storage_events_total What has happened to the array and its disks since the machine started.\n\
             # TYPE ffs_storage_events_total counter\n{events}"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_stay_together() {
        let count = |name: &str, n| CountInfo { name: name.parse().unwrap(), n };
        let mut metrics = Metrics::default();
        metrics.add("download", false, &[count("members-failed", 2), count("rebuilt", 1)]);
        metrics.add("database", true, &[count("members-failed", 0)]);
        let text = metrics.text();
        let values: Vec<&str> = text.lines().filter(|line| !line.starts_with("# HELP")).collect();
        assert_eq!(
            values,
            [
                "# TYPE ffs_storage_healthy gauge",
                "ffs_storage_healthy{machine=\"download\"} 0",
                "ffs_storage_healthy{machine=\"database\"} 1",
                "# TYPE ffs_storage_events_total counter",
                "ffs_storage_events_total{machine=\"download\",event=\"members-failed\"} 2",
                "ffs_storage_events_total{machine=\"download\",event=\"rebuilt\"} 1",
                "ffs_storage_events_total{machine=\"database\",event=\"members-failed\"} 0",
            ]
        );
    }
}
