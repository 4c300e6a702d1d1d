//! `target/ffs/up.json`: the process that keeps the roles running, from before it starts anything until all of it has stopped. Whoever
//! waits for the file to go waits for the end.

use super::endpoints_file;
use crate::{Usage, workdir};
use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::path::{Path, PathBuf};

/// The process, and where its logs are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct State {
    pub(super) pid: i32,
    /// When the process began, in clock ticks since boot: a pid alone may be somebody else's later.
    started: u64,
    /// Where the logs are, once something runs that has any.
    #[serde(default)]
    pub(super) logs: Option<PathBuf>,
}

/// This process keeps the roles running. Dropping it says that nothing runs any more.
#[derive(Debug)]
pub(super) struct Claim(State);

fn file() -> PathBuf {
    workdir().join("up.json")
}

/// Two that look at the file and write it, one after the other.
fn locked() -> Result<File> {
    fs::create_dir_all(workdir())?;
    let lock = File::create(workdir().join("up.lock"))?;
    lock.lock()?;
    Ok(lock)
}

/// The process that runs, whether it is up or still starts.
pub(super) fn running() -> Option<State> {
    let state: State = serde_json::from_slice(&fs::read(file()).ok()?).ok()?;
    (start_time(state.pid) == Some(state.started)).then_some(state)
}

/// Field 22 of /proc/PID/stat (proc(5)).
fn start_time(pid: i32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()
}

/// Fails when another process than this one runs; what an earlier one left goes.
fn free(own: i32) -> Result<()> {
    match running() {
        Some(state) if state.pid != own => {
            Err(Usage(format!("it is up already (process {}); `cargo xtask down` ends it", state.pid)).into())
        }
        _ => {
            let _ = fs::remove_file(endpoints_file());
            Ok(())
        }
    }
}

fn write(pid: i32) -> Result<State> {
    let state = State { pid, started: start_time(pid).context("no /proc")?, logs: None };
    write_whole(&file(), &serde_json::to_vec_pretty(&state)?)?;
    Ok(state)
}

/// Starts a process that claims for itself what this says of it meanwhile, so that there is no moment at which nobody would find it.
///
/// # Errors
/// [`Usage`] when another one runs; the caller's error.
pub(super) fn on_behalf<T>(start: impl FnOnce() -> Result<T>, pid: impl FnOnce(&T) -> u32) -> Result<T> {
    let lock = locked()?;
    free(0)?;
    let started = start()?;
    // If it ended already, it is not there to be found.
    let _ = i32::try_from(pid(&started)).map(write);
    drop(lock);
    Ok(started)
}

impl Claim {
    /// For this process; also after it has become root, which runs it from its beginning.
    ///
    /// # Errors
    /// [`Usage`] when another one runs.
    pub(super) fn take() -> Result<Self> {
        let _lock = locked()?;
        let own = nix::unistd::getpid().as_raw();
        free(own)?;
        write(own).map(Self)
    }

    /// Tells where the logs are.
    pub(super) fn logs(&mut self, logs: PathBuf) -> Result<()> {
        self.0.logs = Some(logs);
        write_whole(&file(), &serde_json::to_vec_pretty(&self.0)?)
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let _ = fs::remove_file(file());
    }
}

pub(super) fn write_whole(path: &Path, bytes: &[u8]) -> Result<()> {
    let temporary = path.with_extension("new");
    fs::write(&temporary, bytes)?;
    Ok(fs::rename(&temporary, path)?)
}
