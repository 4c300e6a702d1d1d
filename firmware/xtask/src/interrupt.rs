//! Ending in good order when somebody asks for it: SIGINT, SIGTERM and SIGHUP.
//!
//! Handlers, not a blocked mask with a signalfd: a mask is inherited by every process that is started, and daemons would
//! never hear SIGTERM.

use anyhow::{Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use std::sync::{Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

/// Whether to end, and the process that is waited for right now.
#[derive(Debug, Default)]
struct State {
    asked: bool,
    waited_for: Option<u32>,
}

static STATE: Mutex<State> = Mutex::new(State { asked: false, waited_for: None });
static CHANGED: Condvar = Condvar::new();
static INSTALLED: OnceLock<()> = OnceLock::new();

fn state() -> MutexGuard<'static, State> {
    STATE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// From now on these signals no longer end the process; [`requested`] tells of them.
///
/// # Errors
/// When they cannot be caught.
pub(crate) fn install() -> Result<()> {
    if INSTALLED.set(()).is_err() {
        return Ok(());
    }
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP])?;
    std::thread::spawn(move || {
        for _ in signals.forever() {
            let mut state = state();
            state.asked = true;
            if let Some(pid) = state.waited_for.and_then(|pid| i32::try_from(pid).ok()) {
                // It may have ended meanwhile; its pid is ours until it is waited for.
                let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
            }
            CHANGED.notify_all();
        }
    });
    Ok(())
}

/// Whether somebody asked this process to end; waits for it as long as this.
pub(crate) fn requested(wait: Duration) -> bool {
    let (state, _) = CHANGED.wait_timeout_while(state(), wait, |s| !s.asked).unwrap_or_else(PoisonError::into_inner);
    state.asked
}

/// Fails when somebody asked this process to end.
pub(crate) fn check() -> Result<()> {
    if requested(Duration::ZERO) { bail!("interrupted") } else { Ok(()) }
}

/// While this lives, a request to end also ends that process.
#[derive(Debug)]
pub(crate) struct Waiting;

impl Waiting {
    pub(crate) fn on(pid: u32) -> Self {
        state().waited_for = Some(pid);
        Self
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        state().waited_for = None;
    }
}
