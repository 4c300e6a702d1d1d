//! `cargo xtask bench`: measurements, as ratios within one run on one machine.

mod commlink;
mod ftp;
mod musts;
mod staging;

use crate::Usage;
use crate::test::cargo;
use anyhow::{Context, Result, bail};
use musts::Judged;
use serde::{Deserialize, Serialize};
use std::path::Path;
use std::process::{Command, Stdio};

/// One line of the table.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Row {
    /// What was measured.
    pub(crate) name: String,
    /// How much it was.
    pub(crate) value: f64,
    /// In what.
    pub(crate) unit: String,
    /// What it is compared with.
    pub(crate) peer: String,
    /// How much that was.
    pub(crate) peer_value: f64,
    /// `value / peer_value`.
    pub(crate) ratio: f64,
    /// How often both were measured.
    pub(crate) n: usize,
}

/// `bench NAME…`; `only` these parts of what has parts. With `check` it fails when something that must be reached was not.
pub(crate) fn bench(names: &[String], only: &[String], json: Option<&Path>, check: bool) -> Result<()> {
    if !only.is_empty() && names.iter().any(|name| name != "ftp") {
        return Err(Usage("--only is for ftp, which has parts".into()).into());
    }
    let mut rows = Vec::new();
    for name in names {
        match name.as_str() {
            "commlink" => rows.extend(commlink::measure()?),
            "ftp" => rows.extend(ftp::measure(only)?),
            "staging" => rows.extend(staging::measure()?),
            other => {
                return Err(
                    Usage(format!("there is no measurement {other:?}; there is: commlink, ftp, staging")).into()
                );
            }
        }
    }
    let rows: Vec<Judged> = rows.into_iter().map(Judged::new).collect();
    println!("{}", Judged::head());
    for row in &rows {
        println!("{row}");
    }
    if let Some(path) = json {
        std::fs::write(path, serde_json::to_vec_pretty(&rows)?)?;
    }
    let missed: Vec<String> = rows.iter().filter_map(Judged::missed).collect();
    if check && !missed.is_empty() {
        bail!("not reached:\n  {}", missed.join("\n  "));
    }
    Ok(())
}

/// What a benchmark of a crate itself prints: rows as JSON.
pub(crate) fn of_crate(package: &str, bench: &str) -> Result<Vec<Row>> {
    rows_of(cargo().args(crate_bench(package, bench)))
}

/// What cargo is to do for a benchmark of a crate.
pub(crate) fn crate_bench<'a>(package: &'a str, bench: &'a str) -> [&'a str; 6] {
    ["bench", "--quiet", "--package", package, "--bench", bench]
}

/// Runs a command that prints rows.
pub(crate) fn rows_of(command: &mut Command) -> Result<Vec<Row>> {
    let output = command.stderr(Stdio::inherit()).output().context("the measurement cannot be run")?;
    if !output.status.success() {
        bail!("the measurement failed");
    }
    serde_json::from_slice(&output.stdout).context("the measurement printed something else than rows")
}

/// The middle value.
pub(crate) fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len().is_multiple_of(2) { (values[middle - 1] + values[middle]) / 2.0 } else { values[middle] }
}

/// What is written for rows that were read.
#[cfg(test)]
pub(crate) fn judged_again(rows: &serde_json::Value) -> serde_json::Value {
    let rows: Vec<Row> = serde_json::from_value(rows.clone()).unwrap();
    serde_json::to_value(rows.into_iter().map(Judged::new).collect::<Vec<_>>()).unwrap()
}
