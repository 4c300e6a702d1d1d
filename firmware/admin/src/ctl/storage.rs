//! Data disks.

use super::args::Storage;
use super::link::Operator;
use super::{CtlError, show};
use serde_json::json;
use tobj::{Reply, Request};

pub(crate) async fn run(operator: &Operator, command: Storage, as_json: bool) -> Result<(), CtlError> {
    let (machine, request) = match command {
        Storage::Status { machine } => return status(operator, machine.as_deref(), as_json).await,
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

async fn status(operator: &Operator, machine: Option<&str>, as_json: bool) -> Result<(), CtlError> {
    let (mut values, mut rows, mut well) = (Vec::new(), Vec::new(), true);
    for machine in named(operator, machine)? {
        let reply = operator.ask(&machine, Request::StorageStatus {}).await?;
        let Reply::Storage { device, array, level, healthy, detail, disks, counts } = reply else {
            return Err(CtlError::Mismatch(machine));
        };
        well &= healthy;
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
    if as_json {
        show::json(&values.into())?;
    } else {
        show::table(&["MACHINE", "DEVICE", "SIZE", "STATE", "DETAIL"], &rows)?;
    }
    if well { Ok(()) } else { Err(CtlError::Unhealthy) }
}
