//! How the appliances are, and what happened.

use super::args::Audit;
use super::link::Operator;
use super::{CtlError, show};
use serde_json::json;
use tobj::{AuditEntry, Check, Reply, Request, Text, TlsVersion};

pub(crate) async fn status(operator: &Operator, as_json: bool) -> Result<(), CtlError> {
    let (mut rows, mut values, mut well) = (Vec::new(), Vec::new(), true);
    for machine in &operator.plan().machines {
        let (version, checks) = match operator.ask(&machine.name, Request::Status {}).await {
            Ok(Reply::StatusReport { version, checks, .. }) => (version.to_string(), checks),
            Ok(_) => return Err(CtlError::Mismatch(machine.name.clone())),
            Err(error) => ("-".to_owned(), vec![unreachable(&error)]),
        };
        well &= checks.iter().all(|c| c.healthy);
        values.push(json!({
            "machine": machine.name, "role": machine.role.as_str(), "version": version,
            "healthy": checks.iter().all(|c| c.healthy),
            "checks": checks.iter().map(|c| json!({
                "name": c.name.as_str(), "healthy": c.healthy, "detail": c.detail.as_str(),
            })).collect::<Vec<_>>(),
        }));
        rows.extend(checks.iter().map(|c| {
            let healthy = if c.healthy { "ok" } else { "FAILED" };
            vec![machine.name.clone(), version.clone(), healthy.into(), c.name.to_string(), c.detail.to_string()]
        }));
    }
    if as_json {
        show::json(&values.into())?;
    } else {
        show::table(&["MACHINE", "VERSION", "STATE", "CHECK", "DETAIL"], &rows)?;
    }
    if well { Ok(()) } else { Err(CtlError::Unhealthy) }
}

fn unreachable(error: &CtlError) -> Check {
    let name = "commlink".parse().expect("it keeps the rules for names");
    Check { name, healthy: false, detail: Text::lossy(&daemon::report(error)) }
}

pub(crate) async fn audit(operator: &Operator, command: Audit, as_json: bool) -> Result<(), CtlError> {
    let Audit::List { mut after } = command;
    let database = operator.database()?;
    let mut all: Vec<AuditEntry> = Vec::new();
    loop {
        let reply = operator.ask(database, Request::AuditList { after }).await?;
        let Reply::AuditTrail { items, more } = reply else { return Err(CtlError::Mismatch(database.to_owned())) };
        after = items.last().map_or(after, |e| e.index);
        let end = !more || items.is_empty();
        all.extend(items);
        if end {
            break;
        }
    }
    if as_json {
        let entries = all.iter().map(|AuditEntry { index, appliance, record: r }| {
            json!({
                "index": index, "appliance": appliance.as_str(), "seq": r.seq, "at": r.at.0, "event": r.event.as_str(),
                "customer": r.customer.as_ref().map(Text::as_str), "address": r.address.as_ref().map(Text::as_str),
                "lease": r.lease.map(|l| l.to_string()), "sha256": r.sha256.map(|s| s.to_string()),
                "offset": r.offset, "bytes": r.bytes, "milliseconds": r.milliseconds,
                "tls": r.tls.map(|t| t.as_str()), "outcome": r.outcome.as_ref().map(Text::as_str),
            })
        });
        return show::json(&entries.collect());
    }
    let text = |t: &Option<Text>| t.as_ref().map_or("-".to_owned(), Text::to_string);
    let rows: Vec<_> = all
        .iter()
        .map(|AuditEntry { index, appliance, record: r }| {
            vec![
                index.to_string(),
                show::time(r.at),
                appliance.to_string(),
                r.event.to_string(),
                text(&r.customer),
                text(&r.address),
                r.bytes.map_or("-".to_owned(), |b| b.to_string()),
                r.milliseconds.map_or("-".to_owned(), |ms| format!("{}.{:03}", ms / 1000, ms % 1000)),
                r.tls.map_or("-", TlsVersion::as_str).to_owned(),
                text(&r.outcome),
            ]
        })
        .collect();
    show::table(
        &["INDEX", "AT", "APPLIANCE", "EVENT", "CUSTOMER", "ADDRESS", "BYTES", "SECONDS", "TLS", "OUTCOME"],
        &rows,
    )
}
