//! `cargo xtask fuzz`: random input for every parser, with libFuzzer.
//!
//! The targets are in folders `fuzz` beside the parsers, as `cargo fuzz` has them. They are built here with the
//! toolchain that is there: counting which branches were taken takes flags of the compiler that are stable, and what
//! address sanitizers look for is not in code without `unsafe`.

use crate::host::{self, Tool};
use crate::interrupt::{self, Waiting};
use crate::test::cargo;
use crate::{Usage, root, target, workdir};
use anyhow::{Context, Result, bail};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

/// What libFuzzer is compiled with.
pub(crate) const COMPILER: &[Tool] = &[Tool::new("g++", "g++")];

/// What makes a binary tell the fuzzer where it has been, and which asserts more than a release.
const FLAGS: &[&str] = &[
    "--cfg=fuzzing",
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "-Cllvm-args=-simplifycfg-branch-fold-threshold=0",
    "-Ccodegen-units=1",
    "-Cdebug-assertions=yes",
    "-Coverflow-checks=yes",
];

/// Most memory of a fuzzer, the fuzzer's own included, and of one allocation, in MiB.
const MEMORY: u32 = 512;
const ALLOCATION: u32 = 16;

/// Longest input in bytes.
const LONGEST: u32 = 4096;

/// A target and the folder `fuzz` that it is in.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Target {
    dir: PathBuf,
    name: String,
}

/// All targets there are.
fn targets() -> Result<Vec<Target>> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(root().join("firmware"))? {
        let dir = entry?.path().join("fuzz");
        let Ok(files) = std::fs::read_dir(dir.join("fuzz_targets")) else { continue };
        for file in files {
            let path = file?.path();
            let name = path.file_stem().context("a file without a name")?.to_string_lossy().into_owned();
            all.push(Target { dir: dir.clone(), name });
        }
    }
    all.sort();
    Ok(all)
}

/// `fuzz [NAME…]`: each target for so many seconds.
pub(crate) fn fuzz(names: &[String], seconds: u32) -> Result<()> {
    let all = targets()?;
    if let Some(unknown) = names.iter().find(|name| !all.iter().any(|target| target.name == **name)) {
        let all: Vec<&str> = all.iter().map(|target| &*target.name).collect();
        return Err(Usage(format!("there is no target {unknown:?}; there is: {}", all.join(", "))).into());
    }
    host::require(COMPILER)?;
    let triple = triple()?;
    let mut built: Vec<&Path> = Vec::new();
    for target in all.iter().filter(|target| names.is_empty() || names.contains(&target.name)) {
        if !built.contains(&&*target.dir) {
            build(&target.dir, &triple)?;
            built.push(&target.dir);
        }
        run(target, &triple, seconds)?;
    }
    Ok(())
}

/// The host, as rustc names it. Naming it keeps the flags away from what runs at build time.
fn triple() -> Result<String> {
    let output = Command::new("rustc").arg("-vV").output().context("cannot run rustc")?;
    let text = String::from_utf8(output.stdout)?;
    let host = text.lines().find_map(|line| line.strip_prefix("host: "));
    Ok(host.context("rustc does not name its host")?.to_owned())
}

fn output_dir() -> PathBuf {
    target().join("fuzz")
}

fn build(dir: &Path, triple: &str) -> Result<()> {
    // The versions of the workspace, of which this is not a part.
    std::fs::copy(root().join("Cargo.lock"), dir.join("Cargo.lock"))?;
    let mut command = cargo();
    command.args(["build", "--release", "--bins", "--target", triple]);
    command.arg("--manifest-path").arg(dir.join("Cargo.toml")).arg("--target-dir").arg(output_dir());
    command.env("CARGO_ENCODED_RUSTFLAGS", FLAGS.join("\u{1f}"));
    if !finished(&mut command)? {
        bail!("the fuzzers of {} were not built", dir.display());
    }
    Ok(())
}

fn run(target: &Target, triple: &str, seconds: u32) -> Result<()> {
    let Target { dir, name } = target;
    let here = workdir().join("fuzz").join(name);
    // What is found goes here; what is worth keeping is put beside the target by hand.
    let (found, artifacts) = (here.join("corpus"), here.join("artifacts"));
    std::fs::create_dir_all(&found)?;
    std::fs::create_dir_all(&artifacts)?;
    eprintln!("== {name}: {seconds} s");
    let begin = Instant::now();
    let mut command = Command::new(output_dir().join(triple).join("release").join(name));
    command.arg(&found).arg(dir.join("corpus").join(name));
    command.arg(format!("-max_total_time={seconds}")).arg(format!("-artifact_prefix={}/", artifacts.display()));
    command.args([format!("-rss_limit_mb={MEMORY}"), format!("-malloc_limit_mb={ALLOCATION}")]);
    command.args([format!("-max_len={LONGEST}"), "-print_final_stats=1".to_owned(), "-verbosity=0".to_owned()]);
    if !finished(&mut command)? {
        bail!("{name} broke; the input is in {}", artifacts.display());
    }
    eprintln!("== {name}: nothing found in {:.0} s", begin.elapsed().as_secs_f64());
    Ok(())
}

/// Runs a command that shows its own output; whether it succeeded.
fn finished(command: &mut Command) -> Result<bool> {
    let mut child = command.spawn().context("cannot start a program")?;
    let _waiting = Waiting::on(child.id());
    let success = child.wait()?.success();
    interrupt::check()?;
    Ok(success)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_target_has_its_corpus_and_is_named_in_its_manifest() {
        let all = targets().unwrap();
        assert!(all.len() >= 5, "{all:?}");
        for Target { dir, name } in all {
            assert!(std::fs::read_dir(dir.join("corpus").join(&name)).unwrap().count() > 0, "{name} has no corpus");
            let manifest = std::fs::read_to_string(dir.join("Cargo.toml")).unwrap();
            assert!(manifest.contains(&format!("name = \"{name}\"")), "{name} is not in {}", dir.display());
        }
    }

    #[test]
    #[ignore = "long: a minute for each target"]
    fn long_commlink_fuzz() {
        fuzz(&[], 60).unwrap();
    }
}
