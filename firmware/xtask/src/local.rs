//! The three roles as plain processes on loopback: the same daemons as on the appliances, each with its own uid, its own
//! part of the site and no privilege but the one that ftpd has for its chroot. Where it is asked for, admind
//! renews certificates.
//!
//! ```text
//! DIR/bin/                         the programs
//! DIR/site/                        what `ffsctl site new` made
//! DIR/<machine>/<daemon>/          config.toml, keys/ (its part of the site), run/ (sockets), state/
//! DIR/srv/                         the download machine's storage
//! DIR/logs/<machine>-<daemon>.log
//! ```

mod configs;
mod process;

pub use configs::Lifetimes;
pub use process::Daemon;

use crate::access::{Access, OPERATOR, Running};
use crate::interrupt::{self, Waiting};
use crate::ports::Ports;
use anyhow::{Context, Result, bail};
use keys::site::{Machine, Plan, Role};
use process::Unit;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// The programs of all roles, in the order in which a site starts: whoever is asked before whoever asks.
const DAEMONS: [(Role, &str); 6] = [
    (Role::Database, "masterd"),
    (Role::Database, "commlinkd"),
    (Role::Web, "commlinkd"),
    (Role::Web, "portald"),
    (Role::Download, "commlinkd"),
    (Role::Download, "stagerd"),
];

/// ftpd comes last, since it asks stagerd.
const FTPD: (Role, &str) = (Role::Download, "ftpd");

/// Runs where it is asked for, as root that may write the files of others and nothing else.
const ADMIND: &str = "admind";

/// Ports for data connections of ftp.
const PASSIVE: u16 = 256;
/// First uid of the daemons; each machine has ten.
const FIRST_UID: u32 = 64_000;

/// Longest path of our directory, so that the sockets in it stay below the 108 bytes of unix(7).
const MAX_DIR: usize = 50;

/// Where the parts of one machine are.
#[derive(Debug, Clone)]
struct Layout {
    dir: PathBuf,
    machine: String,
    role: Role,
    admind: bool,
}

impl Layout {
    fn home(&self, daemon: &str) -> PathBuf {
        self.dir.join(&self.machine).join(daemon)
    }
    fn storage(&self) -> PathBuf {
        self.home("stagerd").join("state/srv")
    }
    fn site(&self) -> PathBuf {
        self.dir.join("site")
    }
    fn uid(&self, daemon: &str) -> u32 {
        if daemon == ADMIND {
            return 0;
        }
        let tens = match self.role {
            Role::Download => 0,
            Role::Web => 10,
            Role::Database => 20,
        };
        let one = match daemon {
            "commlinkd" => 1,
            "ftpd" => 3,
            _ => 2,
        };
        FIRST_UID + tens + one
    }
}

/// What is to be started.
#[derive(Debug, Clone)]
pub struct Setup {
    /// Where the programs are.
    pub bins: PathBuf,
    /// Where everything goes; made anew.
    pub dir: PathBuf,
    /// Lifetimes other than by default.
    pub lifetimes: Lifetimes,
    /// Whether the machines that customers reach have an admind, which renews certificates. The rest of what it looks at is this host,
    /// so that such a site is never said to be well.
    pub admind: bool,
}

/// The three roles, running. Dropping it stops them.
#[derive(Debug)]
pub struct Local {
    access: Access,
    admind: bool,
    daemons: Vec<Daemon>,
}

impl Setup {
    /// Programs from cargo's target directory, everything else in a directory of its own.
    pub fn new(bins: &Path, dir: &Path) -> Self {
        Self { bins: bins.into(), dir: dir.into(), lifetimes: Lifetimes::default(), admind: false }
    }

    /// Makes a site and starts its daemons, each ready before the next. Needs root, if only in a user namespace.
    ///
    /// # Errors
    /// When a daemon does not get ready; nothing runs then.
    pub fn start(&self) -> Result<Local> {
        if !nix::unistd::geteuid().is_root() {
            bail!("every daemon needs a uid of its own, which only root can give");
        }
        // Others may have taken a free port meanwhile: then all begins again with other ports.
        let mut tries = 0;
        loop {
            tries += 1;
            match self.try_start() {
                Err(error) if tries < 3 && format!("{error:#}").contains("in use") => {}
                other => return other,
            }
        }
    }

    fn try_start(&self) -> Result<Local> {
        let dir = &self.dir;
        if dir.exists() {
            fs::remove_dir_all(dir).with_context(|| format!("cannot remove {}", dir.display()))?;
        }
        fs::create_dir_all(dir.join("logs"))?;
        fs::create_dir_all(dir.join("notify"))?;
        fs::set_permissions(dir, Permissions::from_mode(0o755))?;
        self.copy_programs()?;
        let mut free = Ports::default();
        let mut machines = Role::ALL.map(|role| Machine::new(role, "127.0.0.1"));
        for machine in &mut machines {
            free.assign(machine, PASSIVE)?;
        }
        let machines = machines.to_vec();
        let plan = Plan { name: "local".into(), operators: vec![OPERATOR.into()], time: Vec::new(), machines };
        fs::write(dir.join("plan.toml"), toml::to_string_pretty(&plan)?)?;
        let access = Access::new(dir, &dir.join("bin/ffsctl"), &plan);
        let mut local = Local { access, admind: self.admind, daemons: Vec::new() };
        let new = ["site", "new"];
        succeed(local.access.ffsctl().args(new).arg(dir.join("site")).arg("--plan").arg(dir.join("plan.toml")))?;
        let admind = [Role::Web, Role::Download].map(|role| (role, ADMIND)).into_iter().filter(|_| self.admind);
        for (role, daemon) in DAEMONS.into_iter().chain([FTPD]).chain(admind) {
            interrupt::check()?;
            let layout = local.layout(role);
            // Each machine's own: the web machine's has the certificate that its pages offer.
            let plan = Plan::load(&dir.join("site").join(&layout.machine).join("site.toml"))?;
            configs::write(&layout, &plan, &self.lifetimes, daemon)?;
            local.daemons.push(local.unit(&layout, daemon).start()?);
        }
        Ok(local)
    }

    fn copy_programs(&self) -> Result<()> {
        let to = self.dir.join("bin");
        fs::create_dir_all(&to)?;
        for program in ["masterd", "commlinkd", "portald", "stagerd", "ftpd", "ffsctl", ADMIND] {
            let from = self.bins.join(program);
            // A link where the file system allows it, since a copy of all programs takes its time.
            if fs::hard_link(&from, to.join(program)).is_err() {
                fs::copy(&from, to.join(program))
                    .with_context(|| format!("{} is not built; run `cargo build` first", from.display()))?;
            }
        }
        Ok(())
    }
}

impl Local {
    fn layout(&self, role: Role) -> Layout {
        let (dir, machine) = (self.access.dir().to_owned(), role.as_str().to_owned());
        Layout { dir, machine, role, admind: self.admind }
    }

    fn unit(&self, layout: &Layout, daemon: &str) -> Unit {
        let name = format!("{}-{daemon}", layout.machine);
        Unit {
            program: self.access.dir().join("bin").join(daemon),
            command: (daemon == ADMIND).then_some("serve"),
            config: layout.home(daemon).join("config.toml"),
            uid: layout.uid(daemon),
            capabilities: match daemon {
                "ftpd" => "-all,+sys_chroot",
                ADMIND => "-all,+chown,+dac_override,+fowner",
                _ => "-all",
            },
            log: self.logs().join(format!("{name}.log")),
            notify: self.access.dir().join("notify").join(&name),
            name,
        }
    }

    /// How operator and customers reach it.
    pub fn access(&self) -> &Access {
        &self.access
    }
    /// Where the logs are.
    pub fn logs(&self) -> PathBuf {
        self.access.dir().join("logs")
    }
    /// Where the download machine keeps its storage.
    pub fn storage(&self) -> PathBuf {
        self.layout(Role::Download).storage()
    }

    /// A daemon, by its machine's role and its name.
    pub fn daemon(&mut self, role: Role, daemon: &str) -> &mut Daemon {
        let name = format!("{}-{daemon}", role.as_str());
        self.daemons.iter_mut().find(|d| d.name() == name).expect("every daemon was started")
    }

    /// Ends all daemons in an orderly way.
    pub fn stop(&mut self) {
        for daemon in self.daemons.iter().rev() {
            daemon.terminate();
        }
        for mut daemon in self.daemons.drain(..).rev() {
            if !daemon.reap() {
                eprintln!(
                    "{} did not end in good order; its log is in {}",
                    daemon.name(),
                    self.access.dir().join("logs").display()
                );
            }
        }
    }
}

impl Running for Local {
    fn access(&self) -> &Access {
        &self.access
    }
    fn logs(&self) -> PathBuf {
        self.logs()
    }
    fn failed(&mut self) -> Option<String> {
        self.daemons.iter_mut().find_map(|d| Some(format!("{} ({})", d.name().to_owned(), d.ended()?)))
    }
    fn stop(&mut self) {
        self.stop();
    }
}

impl Drop for Local {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Runs a command to its end.
///
/// # Errors
/// When it fails; with what it said.
pub fn succeed(command: &mut Command) -> Result<Output> {
    run_with_input(command, "")
}

/// The same with something on its standard input.
///
/// # Errors
/// When it fails; with what it said.
pub fn run_with_input(command: &mut Command, input: &str) -> Result<Output> {
    use std::io::Write;
    let program = command.get_program().to_string_lossy().into_owned();
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run {program}"))?;
    let _waiting = Waiting::on(child.id());
    // It may end without reading its input.
    let _ = child.stdin.take().expect("it was piped").write_all(input.as_bytes());
    let output = child.wait_with_output()?;
    if !output.status.success() {
        let args: Vec<_> = command.get_args().map(|a| a.to_string_lossy()).collect();
        bail!(
            "{program} {} failed ({}): {}",
            args.join(" "),
            output.status,
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(output)
}

/// A directory for the daemons' files: below `wanted`, if other uids get there and its path is short enough for sockets.
///
/// # Errors
/// When none can be made.
pub fn directory(wanted: &Path) -> Result<PathBuf> {
    let reachable = |dir: &Path| {
        let open = |d: &Path| fs::metadata(d).is_ok_and(|m| m.permissions().mode() & 0o001 != 0);
        dir.ancestors().skip(1).filter(|d| d.exists()).all(open)
    };
    if wanted.as_os_str().len() <= MAX_DIR && reachable(wanted) {
        return Ok(wanted.into());
    }
    temporary()
}

/// A new directory that every uid reaches, with a short path.
///
/// # Errors
/// When it cannot be made.
pub fn temporary() -> Result<PathBuf> {
    let name = format!("/var/tmp/ffs-{}", hex::encode(getrandom::u32()?.to_be_bytes()));
    fs::DirBuilder::new().create(&name).with_context(|| format!("cannot make {name}"))?;
    Ok(name.into())
}
