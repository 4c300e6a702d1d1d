//! One daemon as a process of its own uid, started and watched as systemd would.

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs::{File, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// How long a daemon may take to be ready.
const READY: Duration = Duration::from_secs(60);
/// How long a daemon may take to end after SIGTERM.
const STOP: Duration = Duration::from_secs(15);

/// What to start.
#[derive(Debug, Clone)]
pub(crate) struct Unit {
    /// `machine-daemon`, for messages and files.
    pub(crate) name: String,
    /// The program.
    pub(crate) program: PathBuf,
    /// What its command line begins with.
    pub(crate) command: Option<&'static str>,
    /// Its configuration.
    pub(crate) config: PathBuf,
    /// Uid and gid.
    pub(crate) uid: u32,
    /// The capabilities that it has, as setpriv(1) takes them.
    pub(crate) capabilities: &'static str,
    /// Where its log goes.
    pub(crate) log: PathBuf,
    /// Where it says that it is ready.
    pub(crate) notify: PathBuf,
}

/// A daemon that runs.
#[derive(Debug)]
pub struct Daemon {
    unit: Unit,
    child: Child,
}

impl Unit {
    /// Starts it and waits until it says that it serves (sd_notify).
    pub(crate) fn start(&self) -> Result<Daemon> {
        let _ = std::fs::remove_file(&self.notify);
        let socket =
            UnixDatagram::bind(&self.notify).with_context(|| format!("cannot bind {}", self.notify.display()))?;
        std::fs::set_permissions(&self.notify, Permissions::from_mode(0o666))?;
        socket.set_read_timeout(Some(Duration::from_millis(50)))?;
        let log = File::options().create(true).append(true).open(&self.log)?;
        let caps = self.capabilities;
        let mut command = Command::new("setpriv");
        command
            .arg(format!("--reuid={}", self.uid))
            .arg(format!("--regid={}", self.uid))
            .args(["--clear-groups", "--no-new-privs", "--pdeathsig=TERM"])
            .args([format!("--inh-caps={caps}"), format!("--ambient-caps={caps}"), format!("--bounding-set={caps}")])
            .arg(&self.program)
            .args(self.command)
            .arg("--config")
            .arg(&self.config)
            .env_clear()
            .env("NOTIFY_SOCKET", &self.notify)
            .env("RUST_LOG", std::env::var("RUST_LOG").unwrap_or_else(|_| "info".into()))
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        let child = command.spawn().with_context(|| format!("cannot start {}", self.name))?;
        let mut daemon = Daemon { unit: self.clone(), child };
        match daemon.wait_ready(&socket) {
            Ok(()) => Ok(daemon),
            Err(error) => {
                daemon.kill();
                Err(error)
            }
        }
    }
}

impl Daemon {
    fn wait_ready(&mut self, socket: &UnixDatagram) -> Result<()> {
        let deadline = Instant::now() + READY;
        let mut message = [0; 4096];
        loop {
            match socket.recv(&mut message) {
                Ok(n) if message[..n].split(|b| *b == b'\n').any(|line| line == b"READY=1") => return Ok(()),
                Ok(_) => {}
                Err(e) if matches!(e.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => {}
                Err(e) => return Err(e.into()),
            }
            if let Some(status) = self.child.try_wait()? {
                bail!("{} ended before it was ready ({status}):\n{}", self.unit.name, self.last_words());
            }
            crate::interrupt::check()?;
            if Instant::now() > deadline {
                bail!("{} is not ready after {READY:?}:\n{}", self.unit.name, self.last_words());
            }
        }
    }

    /// `machine-daemon`.
    pub fn name(&self) -> &str {
        &self.unit.name
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its log so far.
    pub fn log(&self) -> String {
        std::fs::read(&self.unit.log).map(|b| String::from_utf8_lossy(&b).into_owned()).unwrap_or_default()
    }

    /// The configuration that it was started with.
    pub fn config(&self) -> &Path {
        &self.unit.config
    }

    fn last_words(&self) -> String {
        let log = self.log();
        let lines: Vec<_> = log.lines().collect();
        lines[lines.len().saturating_sub(10)..].join("\n")
    }

    /// How it ended, if it did.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    fn signal(&self, signal: Signal) {
        if let Ok(pid) = i32::try_from(self.child.id()) {
            // It may have ended by itself.
            let _ = kill(Pid::from_raw(pid), signal);
        }
    }

    /// Asks it to end.
    pub(crate) fn terminate(&self) {
        self.signal(Signal::SIGTERM);
    }

    /// Waits until it ended; kills it when it takes too long.
    pub(crate) fn reap(&mut self) -> bool {
        let deadline = Instant::now() + STOP;
        while Instant::now() < deadline {
            match self.child.try_wait() {
                Ok(Some(status)) => return status.success(),
                Ok(None) => std::thread::sleep(Duration::from_millis(5)),
                Err(_) => return false,
            }
        }
        self.kill();
        false
    }

    /// Ends it at once, as a crash would.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Starts it again, after [`Daemon::kill`] or by way of it.
    ///
    /// # Errors
    /// When it does not get ready.
    pub fn restart(&mut self) -> Result<()> {
        self.kill();
        *self = self.unit.start()?;
        Ok(())
    }
}
