//! What the link to an appliance is like.

use super::args::Commlink;
use super::link::Operator;
use super::{CtlError, show};
use serde_json::json;
use std::time::Duration;

pub(crate) async fn run(operator: &Operator, command: Commlink, as_json: bool) -> Result<(), CtlError> {
    let Commlink::Probe { appliance } = command;
    if operator.plan().machine(&appliance).is_none() {
        let names: Vec<&str> = operator.plan().machines.iter().map(|m| &*m.name).collect();
        return Err(CtlError::Usage(format!("{appliance} is no machine of this site: {}", names.join(", "))));
    }
    let probed = operator.client().probe(&appliance).await;
    let found = probed.map_err(CtlError::failed(format!("{appliance} was not reached")))?;
    let millis = |time: Duration| (time.as_secs_f64() * 1e4).round() / 10.0;
    if as_json {
        return show::json(&json!({
            "machine": appliance, "generation": found.generation, "fingerprint": found.fingerprint,
            "sealed": found.sealed, "port": found.port, "opening_ms": millis(found.opening),
            "latency_ms": millis(found.latency), "clock_ahead_ms": found.clock_ahead,
        }));
    }
    let seal = if found.sealed { "sealed" } else { "NOT SEALED" };
    show::line(&format!("{appliance}: generation {} fingerprint {} {seal}", found.generation, found.fingerprint))?;
    show::line(&format!("opened in {} ms from port {}", millis(found.opening), found.port))?;
    show::line(&format!("answers in {} ms", millis(found.latency)))?;
    let ahead = if found.clock_ahead < 0 { "behind" } else { "ahead" };
    show::line(&format!("its clock is {} ms {ahead}", found.clock_ahead.unsigned_abs()))
}
