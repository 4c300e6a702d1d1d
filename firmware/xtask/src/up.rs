//! `cargo xtask up` and `down`: the three roles, filled in, until they are stopped.

use crate::customer::{Customer, sha256};
use crate::endpoints::{self, Commlink, Commlinks, Endpoints, Release};
use crate::local::{Local, OPERATOR, Setup, directory};
use crate::{Usage, host, workdir};
use anyhow::{Context, Result, bail};
use keys::site::Role;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;
use std::io::{Read, Write};
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
}

/// `up --local`.
pub(crate) fn up(empty: bool, detach: bool) -> Result<()> {
    if let Some(state) = running() {
        return Err(Usage(format!("it is up already (process {}); `cargo xtask down` ends it", state.pid)).into());
    }
    host::require(host::LOCAL)?;
    let bins = crate::test::build(false)?;
    if detach {
        return detached();
    }
    host::become_root()?;
    let dir = directory(&workdir().join("local"))?;
    fs::create_dir_all(workdir())?;
    let mut local = Setup::new(&bins, &dir).start()?;
    let (customers, objects) = if empty { (Vec::new(), Vec::new()) } else { fill(&local)? };
    let endpoints = describe(&local, customers, objects);
    let state = State {
        pid: nix::unistd::getpid().as_raw(),
        started: start_time("self").context("no /proc")?,
        dir: dir.clone(),
    };
    write_whole(&state_file(), &serde_json::to_vec_pretty(&state)?)?;
    write_whole(&endpoints_file(), &serde_json::to_vec_pretty(&endpoints)?)?;
    println!(
        "up: {}\n  portal {}\n  logs   {}",
        endpoints_file().display(),
        endpoints.portal.url,
        local.logs().display()
    );
    let failed = wait(&mut local);
    for file in [endpoints_file(), state_file()] {
        let _ = fs::remove_file(file);
    }
    local.stop();
    match failed {
        Some(daemon) => bail!("{daemon} ended by itself; its log is in {}", local.logs().display()),
        None => Ok(()),
    }
}

/// Waits for a signal to end, or for a daemon that ended.
fn wait(local: &mut Local) -> Option<String> {
    loop {
        if crate::interrupt::requested(Duration::from_millis(500)) {
            return None;
        }
        if let Some(failed) = local.failed() {
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
    while !endpoints_file().exists() {
        if let Some(status) = child.try_wait()? {
            let mut said = String::new();
            fs::File::open(&log)?.read_to_string(&mut said)?;
            if status.code() == Some(2) {
                return Err(Usage(said).into());
            }
            bail!("it did not come up ({status}):\n{said}");
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    print!("{}", fs::read_to_string(&log)?);
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
            bail!("process {} does not end; logs are in {}", state.pid, state.dir.join("logs").display());
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
fn fill(local: &Local) -> Result<(Vec<endpoints::Customer>, Vec<endpoints::Object>)> {
    let name =
        |stem: &str| -> Result<String> { Ok(format!("{stem}-{}", hex::encode(getrandom::u32()?.to_be_bytes()))) };
    let mut objects = Vec::new();
    let largest = (32 << 20) + u64::from(getrandom::u32()? % (16 << 20));
    for (product, size) in [("atlas", largest), ("firmware", 3 << 20), ("manual", 70_001)] {
        let file = format!("{}.bin", name(product)?);
        let path = local.dir().join(&file);
        random_file(&path, size)?;
        let (product, version) = (name(product)?, "1.0".to_owned());
        local.operate(&["object", "put", &path.to_string_lossy(), "--product", &product, "--version", &version], "")?;
        objects.push(endpoints::Object { product, version, file, sha256: sha256(&path)?, size });
        fs::remove_file(path)?;
    }
    let mut customers = Vec::new();
    for (user, choice) in [("ada", [0, 1]), ("ben", [1, 2])] {
        let (user, password) = (name(user)?, name("secret")?);
        local.operate(&["customer", "add", &user], &format!("{password}\n"))?;
        let mut entitled = Vec::new();
        for object in choice.map(|i| &objects[i]) {
            let release = Release { product: object.product.clone(), version: object.version.clone() };
            local.operate(&["entitlement", "add", &user, &release.product, "--version", &release.version], "")?;
            entitled.push(release);
        }
        let browser = Customer::new(&local.portal_url(), &local.ca(), &local.dir().join("jar"));
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

fn describe(local: &Local, customers: Vec<endpoints::Customer>, objects: Vec<endpoints::Object>) -> Endpoints {
    let link = |role: Role| {
        let machine = local.machine(role);
        let bag = local.operator().join("bags").join(format!("{OPERATOR}-{}.bag", machine.name));
        Commlink { host: machine.host.clone(), ports: (machine.ports.0..=machine.ports.1).collect(), bag }
    };
    Endpoints {
        portal: endpoints::Portal { url: local.portal_url(), ca: local.ca() },
        ftp: endpoints::Ftp { host: "127.0.0.1".into(), port: local.public().ftp, ca: local.ca() },
        commlink: Commlinks { download: link(Role::Download), web: link(Role::Web), database: link(Role::Database) },
        customers,
        objects,
    }
}
