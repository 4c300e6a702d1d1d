//! Starts and stops the daemon.

use crate::stagerd::Stagerd;
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, geteuid};
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// No wait in these tests is longer.
pub(crate) const LIMIT: Duration = Duration::from_secs(30);

/// A running ftpd with its stand-in for stagerd.
pub(crate) struct Daemon {
    pub(crate) stagerd: Stagerd,
    pub(crate) v4: SocketAddr,
    pub(crate) v6: SocketAddr,
    pub(crate) dir: tempfile::TempDir,
    child: Child,
    log: Arc<Mutex<String>>,
    reader: Option<JoinHandle<()>>,
}

/// With the defaults and a range of ports of its own.
pub(crate) fn start() -> Daemon {
    start_with("")
}

/// With more lines of configuration. `{dir}` in them is a directory that ftpd can read.
pub(crate) fn start_with(more: &str) -> Daemon {
    let dir = public_dir();
    start_in(dir, more)
}

/// A directory that every user can read.
pub(crate) fn public_dir() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    dir
}

/// With the defaults, and with all in the log that it ever says.
pub(crate) fn start_talking() -> Daemon {
    start_at(public_dir(), "", Some("debug"))
}

pub(crate) fn start_in(dir: tempfile::TempDir, more: &str) -> Daemon {
    start_at(dir, more, None)
}

fn start_at(dir: tempfile::TempDir, more: &str, level: Option<&str>) -> Daemon {
    let stagerd = Stagerd::start(&dir.path().join("sessions.sock"));
    let more = more.replace("{dir}", dir.path().to_str().unwrap());
    let config = dir.path().join("ftpd.toml");
    let sessions = dir.path().join("sessions.sock");
    let listen = "listen = [\"127.0.0.1:0\", \"[::1]:0\"]";
    std::fs::write(&config, format!("{listen}\nsessions = {sessions:?}\n{more}\n")).unwrap();

    let mut child = command(dir.path())
        .arg("--config")
        .arg(&config)
        .env_remove("RUST_LOG")
        .envs(level.map(|level| ("RUST_LOG", level)))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("setpriv and unshare are part of util-linux");
    let log = Arc::new(Mutex::new(String::new()));
    let (addresses, reader) = follow(child.stderr.take().unwrap(), log.clone());
    let next = || addresses.recv_timeout(LIMIT).unwrap_or_else(|_| panic!("no start: {}", log.lock().unwrap()));
    let (v4, v6) = (next(), next());
    Daemon { stagerd, v4, v6, dir, child, log, reader: Some(reader) }
}

/// The daemon with the privileges that it has on an appliance.
fn command(dir: &Path) -> Command {
    let built = Path::new(env!("CARGO_BIN_EXE_ftpd"));
    if !geteuid().is_root() {
        let mut command = Command::new("unshare");
        command.args(["--user", "--map-root-user"]).arg(built);
        return command;
    }
    let program = copy(built, dir);
    let mut command = Command::new("setpriv");
    command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups"]);
    for set in ["inh-caps", "ambient-caps", "bounding-set"] {
        command.arg(format!("--{set}=-all,+sys_chroot"));
    }
    command.arg(program);
    command
}

/// A copy where every user can run it: where it was built, another user may not be able to go.
pub(crate) fn copy(built: &Path, dir: &Path) -> PathBuf {
    let program = dir.join("ftpd");
    std::fs::copy(built, &program).unwrap();
    // A process that another test starts at this moment holds the copy open for writing until its exec (ETXTBSY).
    until("the copy can be run", || Command::new(&program).arg("--version").output().is_ok());
    program
}

fn follow(stderr: std::process::ChildStderr, log: Arc<Mutex<String>>) -> (Receiver<SocketAddr>, JoinHandle<()>) {
    let (tell, addresses) = channel();
    let reader = std::thread::spawn(move || {
        for line in BufReader::new(stderr).lines().map_while(Result::ok) {
            if line.contains("listening") {
                let address = line.split("address=").nth(1).expect("an address").trim().parse().expect("an address");
                let _ = tell.send(address);
            }
            let mut log = log.lock().unwrap();
            log.push_str(&line);
            log.push('\n');
        }
    });
    (addresses, reader)
}

/// Waits until this holds. Used where the kernel gives no event.
pub(crate) fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + LIMIT;
    while !holds() {
        assert!(Instant::now() < deadline, "{what}: not in time");
        std::thread::yield_now();
    }
}

impl Daemon {
    pub(crate) fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().try_into().unwrap())
    }

    /// The processes of the sessions.
    pub(crate) fn sessions(&self) -> Vec<Pid> {
        let parent = self.child.id().to_string();
        let mut pids = Vec::new();
        for entry in std::fs::read_dir("/proc").unwrap().flatten() {
            let Ok(stat) = std::fs::read_to_string(entry.path().join("stat")) else { continue };
            // pid (name) state ppid: the name may hold anything, so the search is from its end
            let Some((_, rest)) = stat.rsplit_once(") ") else { continue };
            let mut fields = rest.split(' ');
            let (state, ppid) = (fields.next(), fields.next());
            if ppid == Some(&parent) && state != Some("Z") {
                pids.push(Pid::from_raw(entry.file_name().to_str().unwrap().parse().unwrap()));
            }
        }
        pids
    }

    /// The only session.
    pub(crate) fn session(&self) -> Pid {
        let pids = self.sessions();
        assert_eq!(pids.len(), 1, "{pids:?}");
        pids[0]
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(self.pid(), signal).unwrap();
    }

    pub(crate) fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    /// Stops the daemon; gives all that it has written.
    pub(crate) fn whole_log(&mut self) -> String {
        self.signal(Signal::SIGTERM);
        self.wait();
        self.reader.take().unwrap().join().unwrap();
        self.log()
    }

    /// Waits until the daemon has ended.
    pub(crate) fn wait(&mut self) -> ExitStatus {
        let mut status = None;
        let child = &mut self.child;
        until("the end of ftpd", || {
            status = child.try_wait().unwrap();
            status.is_some()
        });
        status.unwrap()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        for pid in self.sessions() {
            let _ = kill(pid, Signal::SIGKILL);
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- log of ftpd\n{}", self.log());
        }
    }
}
