//! `Config.in`, as kconfiglib understands it.

use super::symbols::List;
use super::{Top, run, venv};
use anyhow::Result;
use keys::site::Role;
use serde::Deserialize;
use std::collections::BTreeSet;
use std::process::Command;

#[derive(Debug, Deserialize)]
struct Parsed {
    own: BTreeSet<String>,
    unknown: Vec<String>,
    warnings: Vec<String>,
    dropped: Vec<(String, String)>,
}

/// Parses it and loads the configurations; the symbols that it defines.
pub(super) fn parse(top: &Top, wrong: &mut Vec<String>) -> Result<BTreeSet<String>> {
    let list = List::of_buildroot(top)?;
    let python = venv::provide()?.join("python");
    let mut command = Command::new(python);
    command.args(["-c", include_str!("kconfig.py"), "buildroot"]).current_dir(&top.0);
    command.args(list.symbols.keys()).arg("--");
    command.args(Role::ALL.map(super::symbols::defconfig).iter().filter(|path| top.0.join(path).exists()));
    let parsed: Parsed = match run(&mut command) {
        Ok(json) => serde_json::from_str(&json)?,
        Err(error) => {
            // The last line of a trace says what it is.
            let text = format!("{error:#}");
            wrong.push(format!("Config.in: {}", text.lines().last().unwrap_or_default()));
            return Ok(BTreeSet::new());
        }
    };
    for symbol in parsed.unknown {
        wrong.push(format!("Config.in: {symbol} is not on the list in buildroot/symbols/buildroot"));
    }
    wrong.extend(parsed.warnings.into_iter().map(|warning| format!("Config.in: {warning}")));
    for (path, line) in parsed.dropped {
        wrong.push(format!("{path}: Kconfig drops {line}"));
    }
    Ok(parsed.own)
}
