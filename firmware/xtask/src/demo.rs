//! `cargo xtask demo`: from nothing to a delivered file.

use crate::customer::{self, Customer, Ftp, sha256};
use crate::local::{Local, Setup, directory};
use crate::{Usage, host, interrupt, workdir};
use anyhow::{Context, Result, bail};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Smallest file that the demo takes by itself.
const LEAST: u64 = 10_000_001;
/// Largest file that the demo takes by itself.
const MOST: u64 = 400 << 20;

/// The steps so far, each with its time.
struct Steps(Vec<(&'static str, Duration)>);

impl Steps {
    fn run<T>(&mut self, what: &'static str, step: impl FnOnce() -> Result<T>) -> Result<T> {
        let begin = Instant::now();
        let done = step().with_context(|| format!("failed to {what}"))?;
        let took = begin.elapsed();
        println!("{:>8.2} s  {what}", took.as_secs_f64());
        self.0.push((what, took));
        interrupt::check()?;
        Ok(done)
    }
}

/// `demo --local`.
pub(crate) fn demo(object: Option<PathBuf>, keep: bool) -> Result<()> {
    let object = match object {
        Some(path) => path,
        None => default_object()?,
    };
    let object = fs::canonicalize(&object).map_err(|e| Usage(format!("cannot use {}: {e}", object.display())))?;
    if !object.is_file() {
        return Err(Usage(format!("{} is not a regular file", object.display())).into());
    }
    host::require(host::LOCAL)?;
    let begin = Instant::now();
    let bins = crate::test::build(false)?;
    host::become_root()?;
    println!("{:>8.2} s  build the programs", begin.elapsed().as_secs_f64());
    let dir = directory(&workdir().join("demo"))?;
    let mut steps = Steps(Vec::new());
    let outcome = deliver(&bins, &dir, &object, &mut steps);
    if outcome.is_err() {
        eprintln!("logs: {}", dir.join("logs").display());
    } else if keep {
        println!("kept: {}", dir.display());
    } else {
        // Only the storage is large; the rest may be of use to somebody who wants to look.
        let _ = fs::remove_dir_all(dir.join("download/stagerd/state"));
        let _ = fs::remove_dir_all(dir.join("site"));
    }
    outcome
}

fn deliver(bins: &Path, dir: &Path, object: &Path, steps: &mut Steps) -> Result<()> {
    let mut local: Local = steps.run("make a site and start its three machines", || Setup::new(bins, dir).start())?;
    println!("            logs: {}", local.logs().display());
    let (user, password, product, version) = ("customer", "correct horse battery staple", "demo", "1.0");
    let path = object.to_str().context("the name of the file is not UTF-8")?;
    let expected = steps.run("hash the file", || sha256(object))?;
    steps.run("put it into the storeroom", || {
        local.operate(&["object", "put", path, "--product", product, "--version", version], "")
    })?;
    steps.run("add a customer who is entitled to it", || {
        local.operate(&["customer", "add", user], &format!("{password}\n"))?;
        local.operate(&["entitlement", "add", user, product, "--version", version], "")
    })?;
    let browser = Customer::new(&local.portal_url(), &local.ca(), &dir.join("jar"));
    steps.run("log in at the portal", || match browser.login(user, password)?.status {
        200 => Ok(()),
        status => bail!("the portal answered {status}"),
    })?;
    let staged = steps.run("choose it, which stages it", || browser.stage(product, version))?;
    let to = dir.join("downloaded");
    steps.run("download it by ftp, with TLS", || customer::download_staged(&local, Ftp::Tls, &staged, &to))?;
    let got = steps.run("hash what came", || sha256(&to))?;
    let lease = local.operate(&["--json", "lease", "show", &staged.lease], "")?;
    let size = fs::metadata(&to)?.len();
    // It is a copy of what the caller has.
    fs::remove_file(&to)?;
    steps.run("stop the machines", || {
        local.stop();
        Ok(())
    })?;
    if got != expected || got != staged.sha256 {
        bail!("what came is another file: sha256 {got}, not {expected}");
    }
    summary(steps, object, size, &lease.stdout);
    println!("sha256 {got}");
    Ok(())
}

fn summary(steps: &Steps, object: &Path, size: u64, lease: &[u8]) {
    let lease: serde_json::Value = serde_json::from_slice(lease).unwrap_or_default();
    let link = |field: &str| lease[field].to_string();
    let total: Duration = steps.0.iter().map(|(_, took)| *took).sum();
    println!("{:>8.2} s  in all\n", total.as_secs_f64());
    println!("file     {}", object.display());
    println!("bytes    {size}");
    println!("inode    {} with {} names: the storeroom's and the customer's", link("inode"), link("links"));
}

/// A real file that the machine has: of Rust's own, which this runs with.
fn default_object() -> Result<PathBuf> {
    let sysroot = crate::local::succeed(std::process::Command::new("rustc").args(["--print", "sysroot"]))?;
    let sysroot = PathBuf::from(String::from_utf8_lossy(&sysroot.stdout).trim());
    let fits = |path: &PathBuf| fs::metadata(path).is_ok_and(|m| m.is_file() && (LEAST..MOST).contains(&m.len()));
    for dir in [sysroot.join("lib"), sysroot.join("bin"), "/usr/lib/x86_64-linux-gnu".into(), "/usr/bin".into()] {
        let Ok(entries) = fs::read_dir(dir) else { continue };
        let mut files: Vec<PathBuf> = entries.flatten().map(|e| e.path()).filter(fits).collect();
        files.sort();
        if let Some(file) = files.into_iter().next() {
            return Ok(file);
        }
    }
    Err(Usage("no file of over 10 MB was found here; name one with --object FILE".into()).into())
}
