//! The package `ffs-firmware`, as make understands it: what is built and installed for each role.

use super::{Top, said};
use crate::image;
use anyhow::{Context, Result};
use keys::site::Role;
use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

/// What make showed.
struct Shown(String);

impl Shown {
    /// The value of a line.
    fn value(&self, key: &str) -> &str {
        self.0.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')).unwrap_or_default().trim()
    }

    /// What follows an option in the options of the build.
    fn options(&self, option: &str) -> BTreeSet<&str> {
        self.value("options").split_whitespace().filter_map(|word| word.strip_prefix(option)).collect()
    }

    /// What is installed where.
    fn installed(&self) -> BTreeSet<(&str, &str)> {
        let lines = self.0.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        let pairs = lines.filter_map(|words| match words[..] {
            ["install", "-D", "-m", "0755", from, to] => Some((from, to)),
            _ => None,
        });
        pairs.collect()
    }
}

/// What is wrong with the package. `own` are the symbols of `Config.in`.
pub(super) fn check(top: &Top, own: &BTreeSet<String>) -> Result<Vec<String>> {
    let mut wrong = Vec::new();
    let crates = programs_of_crates()?;
    for role in Role::ALL {
        let Some(shown) = show(top, own, role, &mut wrong)? else { continue };
        wrong.extend(role_package(top, role, &shown)?);
        for (package, program) in image::daemons(role) {
            if !crates.contains(&((*package).to_owned(), (*program).to_owned())) {
                wrong.push(format!("{}: the crate {package} of the workspace has no program {program}", role.as_str()));
            }
        }
    }
    wrong.sort_unstable();
    wrong.dedup();
    Ok(wrong)
}

/// Lets make read the tree for a role.
fn show(top: &Top, own: &BTreeSet<String>, role: Role, wrong: &mut Vec<String>) -> Result<Option<Shown>> {
    let dir = tempfile::tempdir()?;
    let stub = dir.path().join("stub.mk");
    std::fs::write(&stub, include_str!("stub.mk"))?;
    let mut command = Command::new("make");
    command.args(["--no-print-directory", "--warn-undefined-variables", "-f"]).arg(stub);
    command.arg(format!("BR2_EXTERNAL_FFS_PATH={}", top.external().display()));
    let chosen = format!("{}_{}", super::symbols::OWN, role.as_str().to_uppercase());
    command.args(own.iter().map(|symbol| format!("{symbol}={}", if *symbol == chosen { "y" } else { "" })));
    let output = command.arg("show").output().context("no make")?;
    let complaints = String::from_utf8_lossy(&output.stderr).into_owned();
    for line in complaints.lines() {
        // Files are named as make was given them.
        wrong.push(line.replace(&format!("{}/", top.0.display()), ""));
    }
    if !output.status.success() {
        wrong.push(format!("make cannot read buildroot/external.mk: {}", said(&output)));
        return Ok(None);
    }
    Ok(Some(Shown(String::from_utf8(output.stdout)?)))
}

fn role_package(top: &Top, role: Role, shown: &Shown) -> Result<Vec<String>> {
    let name = role.as_str();
    let mut wrong = Vec::new();
    let manifest: toml::Table = top.read("Cargo.toml")?.parse()?;
    let version = manifest["workspace"]["package"]["version"].as_str().context("the workspace has no version")?;
    let site = top.0.canonicalize()?;
    for (key, expected) in [
        ("infrastructure", "yes"),
        ("method", "local"),
        ("version", version),
        ("site", site.to_str().unwrap_or_default()),
    ] {
        if shown.value(key) != expected {
            wrong.push(format!("ffs-firmware.mk: {key} is {:?}, not {expected:?}", shown.value(key)));
        }
    }
    let licence = shown.value("licence");
    if !Path::new(licence).exists() {
        wrong.push(format!("ffs-firmware.mk: {licence} is not there"));
    }
    if !shown.value("exclusions").split_whitespace().any(|word| word == "--exclude=/target") {
        wrong.push("ffs-firmware.mk: target/ is copied along".into());
    }
    if !shown.value("hook").contains("cargo fetch --locked") {
        wrong.push("ffs-firmware.mk: nothing fetches the crates of Cargo.lock before the offline build".into());
    }
    let daemons = image::daemons(role);
    let crates: BTreeSet<&str> = daemons.iter().map(|(package, _)| *package).collect();
    let programs: BTreeSet<&str> = daemons.iter().map(|(_, program)| *program).collect();
    for (what, expected, found) in
        [("crate", &crates, &shown.options("--package=")), ("program", &programs, &shown.options("--bin="))]
    {
        wrong.extend(
            expected.difference(found).map(|x| format!("ffs-firmware.mk: {name}: the {what} {x} is not built")),
        );
        wrong.extend(
            found.difference(expected).map(|x| format!("ffs-firmware.mk: {name}: the {what} {x} is not the role's")),
        );
    }
    let installed = shown.installed();
    for program in &programs {
        let from = format!("/output/build/ffs-firmware/target/x86_64-unknown-linux-gnu/release/{program}");
        if !installed.contains(&(&*from, &*format!("/output/target/usr/bin/{program}"))) {
            wrong.push(format!("ffs-firmware.mk: {name}: {program} is not installed as /usr/bin/{program}"));
        }
    }
    for (_, to) in &installed {
        if !programs.iter().any(|program| to.ends_with(&format!("/{program}"))) {
            wrong.push(format!("ffs-firmware.mk: {name}: {to} is installed, which is not the role's"));
        }
    }
    Ok(wrong)
}

/// Crates of the workspace and the programs that they have.
fn programs_of_crates() -> Result<BTreeSet<(String, String)>> {
    let mut cargo = crate::test::cargo();
    let json = super::run(cargo.args(["metadata", "--format-version", "1", "--no-deps", "--offline"]))?;
    let metadata: serde_json::Value = serde_json::from_str(&json)?;
    let mut programs = BTreeSet::new();
    for package in metadata["packages"].as_array().into_iter().flatten() {
        for target in package["targets"].as_array().into_iter().flatten() {
            if target["kind"].as_array().is_some_and(|kinds| kinds.iter().any(|kind| kind == "bin")) {
                let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
                programs.insert((text(&package["name"]), text(&target["name"])));
            }
        }
    }
    Ok(programs)
}
