//! With Buildroot itself, unpacked in `BUILDROOT_DIR`: what it makes of the tree, short of building it.

use super::symbols::{List, defconfig, settings};
use super::{CHECKED, Top, run, venv};
use crate::Usage;
use crate::host::Tool;
use anyhow::{Context, Result, bail};
use keys::site::Role;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

/// Needed by Buildroot to do anything at all.
pub(super) const TOOLS: &[Tool] = &[
    Tool::new("bc", "bc"),
    Tool::new("cpio", "cpio"),
    Tool::new("dot", "graphviz"),
    Tool::new("file", "file"),
    Tool::new("g++", "g++"),
    Tool::new("patch", "patch"),
    Tool::new("perl", "perl"),
    Tool::new("rsync", "rsync"),
    Tool::new("unzip", "unzip"),
    Tool::new("wget", "wget"),
];

/// Buildroot, with the programs that its lints need.
struct Buildroot {
    dir: PathBuf,
    path: std::ffi::OsString,
}

impl Buildroot {
    fn make(&self, top: &Top, out: &Path, goals: &[&str]) -> Result<String> {
        let mut make = Command::new("make");
        make.arg("--silent").arg("--no-print-directory").arg("-C").arg(&self.dir).args(goals);
        make.arg(format!("O={}", out.display())).arg(format!("BR2_EXTERNAL={}", top.external().display()));
        run(make.env("PATH", &self.path))
    }
}

/// Loads the configurations, and runs Buildroot's lints and reports.
pub(super) fn check(top: &Top, dir: &Path) -> Result<()> {
    if !dir.join("utils/check-package").exists() {
        return Err(Usage(format!("BUILDROOT_DIR={} is no unpacked Buildroot", dir.display())).into());
    }
    let begin = Instant::now();
    let mut path = vec![venv::provide()?];
    path.extend(std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()));
    let buildroot = Buildroot { dir: dir.canonicalize()?, path: std::env::join_paths(path)? };
    let version = version(&buildroot.dir)?;
    println!("             Buildroot {version}, {CHECKED} is what this tree was checked against");
    let mut wrong = listed(top, &buildroot.dir)?;
    wrong.extend(lint(top, &buildroot)?);
    for role in Role::ALL {
        wrong.extend(load(top, &buildroot, role)?);
    }
    if !wrong.is_empty() {
        bail!("Buildroot {version} does not take this tree:\n  {}", wrong.join("\n  "));
    }
    println!(
        "{:>8.1} s  configurations load whole, check-package and reports of Buildroot {version}",
        begin.elapsed().as_secs_f64()
    );
    Ok(())
}

fn version(dir: &Path) -> Result<String> {
    let makefile = fs::read_to_string(dir.join("Makefile"))?;
    let version = makefile.lines().find_map(|line| line.strip_prefix("export BR2_VERSION := "));
    Ok(version.context("Buildroot's Makefile says no version")?.trim().to_owned())
}

/// Symbols of the list that Buildroot does not define.
fn listed(top: &Top, dir: &Path) -> Result<Vec<String>> {
    let (mut defined, mut todo) = (BTreeSet::new(), vec![dir.to_owned()]);
    while let Some(next) = todo.pop() {
        for entry in fs::read_dir(next)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                todo.push(entry.path());
            } else if entry.file_name().to_string_lossy().starts_with("Config.in") {
                let text = String::from_utf8_lossy(&fs::read(entry.path())?).into_owned();
                let names = text.lines().filter_map(|l| l.strip_prefix("config ").or(l.strip_prefix("menuconfig ")));
                defined.extend(names.map(|name| name.trim().to_owned()));
            }
        }
    }
    let list = List::of_buildroot(top)?;
    let gone = list.symbols.keys().filter(|symbol| !defined.contains(*symbol));
    Ok(gone.map(|symbol| format!("buildroot/symbols/buildroot: Buildroot has no {symbol}")).collect())
}

/// What check-package finds.
fn lint(top: &Top, buildroot: &Buildroot) -> Result<Vec<String>> {
    let mut command = Command::new(buildroot.dir.join("utils/check-package"));
    command.arg("-b").args(top.files()?).current_dir(&top.0).env("PATH", &buildroot.path);
    let output = command.output().context("cannot run check-package")?;
    if output.status.success() {
        return Ok(Vec::new());
    }
    Ok(super::said(&output).lines().map(|line| format!("check-package: {line}")).collect())
}

/// Loads a role's configuration, and has Buildroot tell about the package.
fn load(top: &Top, buildroot: &Buildroot, role: Role) -> Result<Vec<String>> {
    let name = role.as_str();
    let out = super::workdir().join(format!("out-{name}"));
    if out.exists() {
        fs::remove_dir_all(&out)?;
    }
    fs::create_dir_all(&out)?;
    buildroot.make(top, &out, &[&format!("ffs_{name}_defconfig")])?;
    let (path, mut wrong) = (defconfig(role), Vec::new());
    let text = fs::read_to_string(out.join(".config"))?;
    let loaded = settings(&text, ".config", &mut wrong);
    for (symbol, value) in settings(&top.read(&path)?, &path, &mut wrong) {
        let found = loaded.get(&symbol);
        if found != Some(&value) {
            wrong.push(format!("{path}: Kconfig drops {symbol}={value}: it is {found:?}"));
        }
    }
    let json = buildroot.make(top, &out, &["show-info"])?;
    let info: serde_json::Value = serde_json::from_str(&json).context("show-info is no JSON")?;
    let package = &info["ffs-firmware"];
    let version = env!("CARGO_PKG_VERSION");
    let dependencies: Vec<_> =
        package["dependencies"].as_array().into_iter().flatten().filter_map(|d| d.as_str()).collect();
    if package["version"] != version
        || !dependencies.contains(&"host-rustc") && !dependencies.contains(&"host-rust-bin")
    {
        wrong.push(format!("{name}: show-info has ffs-firmware as {package}"));
    }
    buildroot.make(top, &out, &["ffs-firmware-graph-depends"])?;
    let graph = fs::read_to_string(out.join("graphs/ffs-firmware-graph-depends.dot"))?;
    if !graph.contains("host-rust-bin") {
        wrong.push(format!("{name}: the graph of what ffs-firmware depends on has no Rust"));
    }
    Ok(wrong)
}
