//! `cargo xtask up` and `down`: the three roles, filled in, until they are stopped.

mod claim;

use crate::access::{Access, OPERATOR, Running};
use crate::customer::{Customer, sha256};
use crate::endpoints::{self, Commlink, Commlinks, Endpoints, Release};
use crate::local::{self, directory};
use crate::{Usage, host, image, vm, workdir};
use anyhow::{Result, anyhow, bail};
use claim::{Claim, running, write_whole};
use keys::site::Role;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Where scripts look.
pub(crate) fn endpoints_file() -> PathBuf {
    workdir().join("endpoints.json")
}

/// How long [`down`] waits: images that are being built, or transfers that run, end first.
const END: Duration = Duration::from_secs(180);

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
    if detach {
        return detached();
    }
    // First of all and until the end, so that `down` finds what is still starting, and waits for what is still stopping.
    let mut claim = Claim::take()?;
    let mut site: Box<dyn Running> = match kind {
        Kind::Local => {
            host::require(&host::local())?;
            let bins = crate::test::build(false)?;
            host::become_root()?;
            let dir = directory(&workdir().join("local"))?;
            Box::new(local::Setup::new(&bins, &dir).start()?)
        }
        Kind::Vm => {
            host::require(&vm::tools())?;
            image::build_all()?;
            let ffsctl = vm::build_ffsctl()?;
            Box::new(vm::Setup::new(&ffsctl, &directory(&workdir().join("vm"))?).start()?)
        }
    };
    claim.logs(site.logs())?;
    let served = serve(&mut *site, empty);
    // Nobody is to be sent to what stops.
    let _ = fs::remove_file(endpoints_file());
    site.stop();
    served
}

/// Fills the machines in, tells where they are, and keeps them until somebody asks for the end.
fn serve(site: &mut dyn Running, empty: bool) -> Result<()> {
    let access = site.access().clone();
    let (customers, objects) = if empty { (Vec::new(), Vec::new()) } else { fill(&access)? };
    let endpoints = describe(&access, customers, objects);
    let logs = site.logs();
    println!("up: {}\n  portal {}\n  logs   {}", endpoints_file().display(), endpoints.portal.url, logs.display());
    // Last, since who waits for us waits for this file.
    write_whole(&endpoints_file(), &serde_json::to_vec_pretty(&endpoints)?)?;
    match wait(site) {
        Some(what) => bail!("{what} ended by itself; logs are in {}", logs.display()),
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
    let log = workdir().join("up.log");
    let start = || -> Result<Child> {
        let out = fs::File::create(&log)?;
        let args = std::env::args_os().skip(1).filter(|a| a != "--detach");
        let mut command = Command::new(std::env::current_exe()?);
        command.args(args).stdin(Stdio::null()).stdout(out.try_clone()?).stderr(out);
        Ok(command.process_group(0).spawn()?)
    };
    let mut child = claim::on_behalf(start, Child::id)?;
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

/// `down`: ends what runs, or still starts, and returns when all of it has stopped.
pub(crate) fn down() -> Result<()> {
    let Some(state) = running() else {
        println!("nothing is up");
        return Ok(());
    };
    kill(Pid::from_raw(state.pid), Signal::SIGTERM)?;
    let deadline = Instant::now() + END;
    while let Some(still) = running().filter(|still| still.pid == state.pid) {
        if Instant::now() > deadline {
            let logs = still.logs.map(|logs| format!("; logs are in {}", logs.display())).unwrap_or_default();
            bail!("process {} does not end{logs}", still.pid);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    println!("down");
    Ok(())
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
