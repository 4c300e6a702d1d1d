//! `cargo xtask demo`: from nothing to a delivered file.

use crate::access::Running;
use crate::customer::{self, Customer, Ftp, sha256};
use crate::local::{self, directory};
use crate::steps::Steps;
use crate::up::Kind;
use crate::{Usage, host, image, vm, workdir};
use anyhow::{Context, Result, bail};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Smallest file that the demo takes by itself.
const LEAST: u64 = 10_000_001;
/// Largest file that the demo takes by itself.
const MOST: u64 = 400 << 20;

/// `demo`.
pub(crate) fn demo(kind: Kind, object: Option<PathBuf>, keep: bool) -> Result<()> {
    let object = match object {
        Some(path) => path,
        None => default_object()?,
    };
    let object = fs::canonicalize(&object).map_err(|e| Usage(format!("cannot use {}: {e}", object.display())))?;
    if !object.is_file() {
        return Err(Usage(format!("{} is not a regular file", object.display())).into());
    }
    match kind {
        Kind::Local => in_processes(&object, keep),
        Kind::Vm => in_vms(&object, keep),
    }
}

fn in_processes(object: &Path, keep: bool) -> Result<()> {
    host::require(&host::local())?;
    let begin = Instant::now();
    let bins = crate::test::build(false)?;
    host::become_root()?;
    println!("{:>8.2} s  build the programs", begin.elapsed().as_secs_f64());
    let dir = directory(&workdir().join("demo"))?;
    let start = || local::Setup::new(&bins, &dir).start();
    let outcome = deliver(&dir, object, Steps::default(), start);
    // Only the storage is large; the rest may be of use to somebody who wants to look.
    finish(outcome, &dir, "logs", keep, &["download/stagerd/state", "site"])
}

fn in_vms(object: &Path, keep: bool) -> Result<()> {
    host::require(&vm::tools())?;
    let mut steps = Steps::default();
    steps.run_that_tells("build the images", image::build_all)?;
    let ffsctl = steps.run_that_tells("build the operator's tool", vm::build_ffsctl)?;
    let dir = directory(&workdir().join("demo-vm"))?;
    let setup = vm::Setup { room: fs::metadata(object)?.len(), ..vm::Setup::new(&ffsctl, &dir) };
    let outcome = deliver(&dir, object, steps, || setup.start());
    finish(outcome, &dir, "run", keep, &["disks", "site"])
}

/// Says where the logs are after a failure; removes what nobody needs after a success.
fn finish(outcome: Result<()>, dir: &Path, logs: &str, keep: bool, needless: &[&str]) -> Result<()> {
    if outcome.is_err() {
        eprintln!("logs: {}", dir.join(logs).display());
    } else if keep {
        println!("kept: {}", dir.display());
    } else {
        for part in needless {
            let _ = fs::remove_dir_all(dir.join(part));
        }
    }
    outcome
}

fn deliver<S: Running>(dir: &Path, object: &Path, mut steps: Steps, start: impl FnOnce() -> Result<S>) -> Result<()> {
    let mut site = steps.run_that_tells("make a site and start its three machines", start)?;
    println!("            logs: {}", site.logs().display());
    let access = site.access().clone();
    let (user, password, product, version) = ("customer", "correct horse battery staple", "demo", "1.0");
    let path = object.to_str().context("the name of the file is not UTF-8")?;
    let expected = steps.run("hash the file", || sha256(object))?;
    steps.run("put it into the storeroom", || {
        access.operate(&["object", "put", path, "--product", product, "--version", version], "")
    })?;
    steps.run("add a customer who is entitled to it", || {
        access.operate(&["customer", "add", user], &format!("{password}\n"))?;
        access.operate(&["entitlement", "add", user, product, "--version", version], "")
    })?;
    let browser = Customer::new(&access.portal_url(), &access.ca(), &dir.join("jar"));
    steps.run("log in at the portal", || match browser.login(user, password)?.status {
        200 => Ok(()),
        status => bail!("the portal answered {status}"),
    })?;
    let staged = steps.run("choose it, which stages it", || browser.stage(product, version))?;
    let to = dir.join("downloaded");
    steps.run("download it by ftp, with TLS", || customer::download_staged(&access, Ftp::Tls, &staged, &to))?;
    let got = steps.run("hash what came", || sha256(&to))?;
    let lease = access.operate(&["--json", "lease", "show", &staged.lease], "")?;
    let size = fs::metadata(&to)?.len();
    // It is a copy of what the caller has.
    fs::remove_file(&to)?;
    let measured = site.measured();
    steps.run("stop the machines", || {
        site.stop();
        Ok(())
    })?;
    if got != expected || got != staged.sha256 {
        bail!("what came is another file: sha256 {got}, not {expected}");
    }
    summary(&steps, object, size, &lease.stdout, &measured);
    println!("sha256 {got}");
    Ok(())
}

fn summary(steps: &Steps, object: &Path, size: u64, lease: &[u8], measured: &[(String, String)]) {
    let lease: serde_json::Value = serde_json::from_slice(lease).unwrap_or_default();
    let field = |field: &str| lease[field].as_str().map_or_else(|| lease[field].to_string(), str::to_owned);
    println!("{:>8.2} s  in all\n", steps.total().as_secs_f64());
    for (name, value) in measured {
        println!("{name:<18} {value}");
    }
    println!("file               {}", object.display());
    println!("bytes              {size}");
    println!("inode              {} with {} names: the storeroom's and the customer's", field("inode"), field("links"));
    println!("file system        {}", field("filesystem"));
}

/// A real file that the machine has: of Rust's own, which this runs with.
fn default_object() -> Result<PathBuf> {
    let sysroot = crate::local::succeed(std::process::Command::new("rustc").args(["--print", "sysroot"]))?;
    let sysroot = PathBuf::from(String::from_utf8_lossy(&sysroot.stdout).trim());
    let fits = |path: &PathBuf| fs::metadata(path).is_ok_and(|m| m.is_file() && (LEAST..MOST).contains(&m.len()));
    let dirs = [sysroot.join("lib"), sysroot.join("bin"), "/usr/lib/x86_64-linux-gnu".into(), "/usr/bin".into()];
    let files = dirs.iter().filter_map(|dir| fs::read_dir(dir).ok()).flatten().flatten().map(|e| e.path()).filter(fits);
    // The smallest: emulated machines take their time.
    let size = |path: &PathBuf| fs::metadata(path).map_or(u64::MAX, |m| m.len());
    if let Some(file) = files.min_by_key(size) {
        return Ok(file);
    }
    Err(Usage("no file of over 10 MB was found here; name one with --object FILE".into()).into())
}
