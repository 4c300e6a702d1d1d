//! `cargo xtask up` and `down`: the three roles, filled in, until they are stopped.

use crate::access::{Access, OPERATOR, Running};
use crate::customer::{Customer, sha256};
use crate::endpoints::{self, Commlink, Commlinks, Endpoints, Release};
use crate::local::{self, directory};
use crate::{Usage, host, image, vm, workdir};
use anyhow::{Context, Result, anyhow, bail};
use keys::site::Role;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Where scripts look.
pub(crate) fn endpoints_file() -> PathBuf {
    workdir().join("endpoints.json")
}

fn state_file() -> PathBuf {
    workdir().join("up.json")
}

/// The process that keeps the roles running, and their directory.
#[derive(serde::Serialize, serde::Deserialize)]
struct State {
    pid: i32,
    /// When the process began, in clock ticks since boot: a pid alone may be somebody else's later.
    started: u64,
    dir: PathBuf,
    logs: PathBuf,
}

/// What the machines are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Processes on this host.
    Local,
    /// VMs.
    Vm,
}

/// `up`.
pub(crate) fn up(kind: Kind, empty: bool, detach: bool) -> Result<()> {
    if let Some(state) = running() {
        return Err(Usage(format!("it is up already (process {}); `cargo xtask down` ends it", state.pid)).into());
    }
    let mut site: Box<dyn Running> = match kind {
        Kind::Local => {
            host::require(host::LOCAL)?;
            let bins = crate::test::build(false)?;
            if detach {
                return detached();
            }
            host::become_root()?;
            let dir = directory(&workdir().join("local"))?;
            Box::new(local::Setup::new(&bins, &dir).start()?)
        }
        Kind::Vm => {
            host::require(vm::TOOLS)?;
            image::build_all()?;
            let ffsctl = vm::build_ffsctl()?;
            if detach {
                return detached();
            }
            Box::new(vm::Setup::new(&ffsctl, &directory(&workdir().join("vm"))?).start()?)
        }
    };
    serve(&mut *site, empty)
}

/// Fills the machines in, tells where they are, and keeps them until somebody asks for the end.
fn serve(site: &mut dyn Running, empty: bool) -> Result<()> {
    let access = site.access().clone();
    fs::create_dir_all(workdir())?;
    let (customers, objects) = if empty { (Vec::new(), Vec::new()) } else { fill(&access)? };
    let endpoints = describe(&access, customers, objects);
    let state = State {
        pid: nix::unistd::getpid().as_raw(),
        started: start_time("self").context("no /proc")?,
        dir: access.dir().to_owned(),
        logs: site.logs(),
    };
    write_whole(&state_file(), &serde_json::to_vec_pretty(&state)?)?;
    println!(
        "up: {}\n  portal {}\n  logs   {}",
        endpoints_file().display(),
        endpoints.portal.url,
        state.logs.display()
    );
    // Last, since who waits for us waits for this file.
    write_whole(&endpoints_file(), &serde_json::to_vec_pretty(&endpoints)?)?;
    let failed = wait(site);
    for file in [endpoints_file(), state_file()] {
        let _ = fs::remove_file(file);
    }
    site.stop();
    match failed {
        Some(what) => bail!("{what} ended by itself; logs are in {}", state.logs.display()),
        None => Ok(()),
    }
}

/// Waits for a signal to end, or for a machine that ended.
fn wait(site: &mut dyn Running) -> Option<String> {
    loop {
        if crate::interrupt::requested(Duration::from_millis(500)) {
            return None;
        }
        if let Some(failed) = site.failed() {
            return Some(failed);
        }
    }
}

/// Starts the same in the background and waits until it is up.
fn detached() -> Result<()> {
    use std::os::unix::process::CommandExt;
    fs::create_dir_all(workdir())?;
    let _ = fs::remove_file(endpoints_file());
    let log = workdir().join("up.log");
    let out = fs::File::create(&log)?;
    let args = std::env::args_os().skip(1).filter(|a| a != "--detach");
    let mut child = Command::new(std::env::current_exe()?)
        .args(args)
        .stdin(Stdio::null())
        .stdout(out.try_clone()?)
        .stderr(out)
        .process_group(0)
        .spawn()?;
    let mut said = fs::File::open(&log)?;
    // What it says is shown while it says it.
    let mut show = || std::io::copy(&mut said, &mut std::io::stderr());
    while !endpoints_file().exists() {
        show()?;
        if let Some(status) = child.try_wait()? {
            show()?;
            let why = format!("it did not come up ({status}); what it said is in {} too", log.display());
            return Err(if status.code() == Some(2) { Usage(why).into() } else { anyhow!(why) });
        }
        if crate::interrupt::requested(Duration::from_millis(50)) {
            kill(Pid::from_raw(i32::try_from(child.id())?), Signal::SIGTERM)?;
            child.wait()?;
            bail!("interrupted");
        }
    }
    show()?;
    Ok(())
}

/// `down`.
pub(crate) fn down() -> Result<()> {
    let Some(state) = running() else {
        println!("nothing is up");
        return Ok(());
    };
    kill(Pid::from_raw(state.pid), Signal::SIGTERM)?;
    let deadline = Instant::now() + Duration::from_secs(60);
    while running().is_some() {
        if Instant::now() > deadline {
            bail!("process {} does not end; logs are in {}", state.pid, state.logs.display());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    println!("down");
    Ok(())
}

fn running() -> Option<State> {
    let state: State = serde_json::from_slice(&fs::read(state_file()).ok()?).ok()?;
    (start_time(&state.pid.to_string()) == Some(state.started)).then_some(state)
}

/// Field 22 of /proc/PID/stat (proc(5)).
fn start_time(pid: &str) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()
}

fn write_whole(path: &Path, bytes: &[u8]) -> Result<()> {
    let temporary = path.with_extension("new");
    fs::write(&temporary, bytes)?;
    Ok(fs::rename(&temporary, path)?)
}

/// Two customers and three objects of random bytes, all staged.
fn fill(site: &Access) -> Result<(Vec<endpoints::Customer>, Vec<endpoints::Object>)> {
    let name =
        |stem: &str| -> Result<String> { Ok(format!("{stem}-{}", hex::encode(getrandom::u32()?.to_be_bytes()))) };
    let mut objects = Vec::new();
    let largest = (32 << 20) + u64::from(getrandom::u32()? % (16 << 20));
    for (product, size) in [("atlas", largest), ("firmware", 3 << 20), ("manual", 70_001)] {
        let file = format!("{}.bin", name(product)?);
        let path = site.dir().join(&file);
        random_file(&path, size)?;
        let (product, version) = (name(product)?, "1.0".to_owned());
        site.operate(&["object", "put", &path.to_string_lossy(), "--product", &product, "--version", &version], "")?;
        objects.push(endpoints::Object { product, version, file, sha256: sha256(&path)?, size });
        fs::remove_file(path)?;
    }
    let mut customers = Vec::new();
    for (user, choice) in [("ada", [0, 1]), ("ben", [1, 2])] {
        let (user, password) = (name(user)?, name("secret")?);
        site.operate(&["customer", "add", &user], &format!("{password}\n"))?;
        let mut entitled = Vec::new();
        for object in choice.map(|i| &objects[i]) {
            let release = Release { product: object.product.clone(), version: object.version.clone() };
            site.operate(&["entitlement", "add", &user, &release.product, "--version", &release.version], "")?;
            entitled.push(release);
        }
        let browser = Customer::new(&site.portal_url(), &site.ca(), &site.dir().join("jar"));
        browser.login(&user, &password)?;
        for release in &entitled {
            browser.stage(&release.product, &release.version)?;
        }
        customers.push(endpoints::Customer { user, password, entitled });
    }
    Ok((customers, objects))
}

pub(crate) fn random_file(path: &Path, size: u64) -> Result<()> {
    let mut file = fs::File::create(path)?;
    let mut left = size;
    let mut block = vec![0; 1 << 20];
    while left > 0 {
        getrandom::fill(&mut block)?;
        let n = usize::try_from(left.min(1 << 20))?;
        file.write_all(&block[..n])?;
        left -= u64::try_from(n)?;
    }
    Ok(())
}

fn describe(site: &Access, customers: Vec<endpoints::Customer>, objects: Vec<endpoints::Object>) -> Endpoints {
    let link = |role: Role| {
        let machine = site.machine(role);
        let bag = site.operator().join("bags").join(format!("{OPERATOR}-{}.bag", machine.name));
        let ports = (machine.ports.0..=machine.ports.1).collect();
        Commlink { host: machine.operators_host().to_owned(), ports, bag }
    };
    let (host, port) = site.ftp();
    Endpoints {
        portal: endpoints::Portal { url: site.portal_url(), ca: site.ca() },
        ftp: endpoints::Ftp { host: host.to_owned(), port, ca: site.ca() },
        commlink: Commlinks { download: link(Role::Download), web: link(Role::Web), database: link(Role::Database) },
        customers,
        objects,
    }
}
