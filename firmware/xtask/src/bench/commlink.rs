//! What the commlink costs beside its ciphers alone: a benchmark of the crate itself, which prints its rows.

use super::Row;
use crate::test::cargo;
use anyhow::{Context, Result, bail};
use serde::Deserialize;
use std::process::Stdio;

/// Transactions and literals.
pub(super) fn measure() -> Result<Vec<Row>> {
    let output = cargo()
        .args(["bench", "--quiet", "--package", "commlink", "--bench", "commlink"])
        .stderr(Stdio::inherit())
        .output()
        .context("cannot run cargo")?;
    if !output.status.success() {
        bail!("the measurement failed");
    }
    let text = String::from_utf8(output.stdout)?;
    let rows: Vec<Printed> = serde_json::from_str(&text).context("the measurement printed something else than rows")?;
    Ok(rows.into_iter().map(Row::from).collect())
}

/// A row as the benchmark prints it.
#[derive(Deserialize)]
struct Printed {
    name: String,
    value: f64,
    unit: String,
    peer: String,
    peer_value: f64,
    ratio: f64,
    n: usize,
}

impl From<Printed> for Row {
    fn from(printed: Printed) -> Self {
        let Printed { name, value, unit, peer, peer_value, ratio, n } = printed;
        let unit = if unit == "GB/s" { "GB/s" } else { "/s" };
        Self { name, value, unit, peer, peer_value, ratio, n }
    }
}
