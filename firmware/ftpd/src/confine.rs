//! What a session process gives up, and when.
//!
//! 1. The forker binds its ports, keeps no capability but CAP_SYS_CHROOT ([`keep_chroot_only`]), and none but some system calls
//!    ([`Filter::install`]).
//! 2. A child, before it reads a byte from its client: [`harden`].
//! 3. After stagerd's yes, on the thread that serves the session: [`confine`].
//!
//! Capabilities belong to threads. A session has one thread until it is confined, and then may start one other, for the disk
//! ([`no_more_threads`]); so none keeps what was given up. What system calls there are for it at all, [`crate::filter`] says.

use crate::filter::{Filter, FilterError};
use caps::{CapSet, Capability, CapsHashSet};
use nix::errno::Errno;
use nix::sys::prctl;
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::Signal;
use nix::unistd::{Pid, chdir, chroot, fchdir, getppid};
use std::os::fd::OwnedFd;

/// Descriptors of a session: standard streams, runtime, sockets of control, data, loopback and stagerd, one file, one directory.
pub const MAX_DESCRIPTORS: u64 = 48;

/// Most memory of a session that is its own, in bytes. A listing of the most entries is what takes the most.
pub const MAX_MEMORY: u64 = 128 << 20;

/// A step that did not succeed. Nothing after it has been done.
#[derive(Debug, thiserror::Error)]
pub enum ConfineError {
    /// A system call failed.
    #[error("{0} failed")]
    Call(&'static str, #[source] Errno),
    /// The capabilities could not be read or set.
    #[error("capabilities: {0}")]
    Capabilities(String),
    /// The process cannot call chroot(2), so that no login could ever succeed.
    #[error(
        "CAP_SYS_CHROOT is missing (systemd: AmbientCapabilities=CAP_SYS_CHROOT; setpriv: --ambient-caps +sys_chroot)"
    )]
    NoChroot,
    /// Capabilities are left that should be gone.
    #[error("capabilities are left")]
    Left,
    /// The filter of system calls.
    #[error("the filter of system calls")]
    Filter(#[from] FilterError),
    /// The forker died before its child could ask to be told.
    #[error("the forker is gone")]
    Orphan,
}

impl From<caps::errors::CapsError> for ConfineError {
    fn from(error: caps::errors::CapsError) -> Self {
        Self::Capabilities(error.to_string())
    }
}

fn call(what: &'static str) -> impl FnOnce(Errno) -> ConfineError {
    move |errno| ConfineError::Call(what, errno)
}

/// Keeps CAP_SYS_CHROOT and nothing else, in the calling thread.
///
/// # Errors
/// [`ConfineError::NoChroot`] if it was not there.
pub fn keep_chroot_only() -> Result<(), ConfineError> {
    let keep = CapsHashSet::from([Capability::CAP_SYS_CHROOT]);
    if !caps::has_cap(None, CapSet::Permitted, Capability::CAP_SYS_CHROOT)? {
        return Err(ConfineError::NoChroot);
    }
    clear_bounding(&keep)?;
    caps::clear(None, CapSet::Ambient)?;
    caps::clear(None, CapSet::Inheritable)?;
    caps::set(None, CapSet::Effective, &keep)?;
    caps::set(None, CapSet::Permitted, &keep)?;
    Ok(())
}

/// Drops what may be dropped of the bounding set: without CAP_SETPCAP nothing, but without exec(2) it grants nothing either.
fn clear_bounding(keep: &CapsHashSet) -> Result<(), ConfineError> {
    if !caps::has_cap(None, CapSet::Effective, Capability::CAP_SETPCAP)? {
        return Ok(());
    }
    for capability in caps::read(None, CapSet::Bounding)?.difference(keep) {
        caps::drop(None, CapSet::Bounding, *capability)?;
    }
    Ok(())
}

/// Limits of a session that has just been forked by `forker`: no core, few descriptors, little memory, no debugger, no privilege by
/// exec, only a session's system calls, SIGTERM when the forker dies.
///
/// # Errors
/// [`ConfineError`] with the step.
pub fn harden(forker: Pid, filter: &Filter) -> Result<(), ConfineError> {
    prctl::set_pdeathsig(Signal::SIGTERM).map_err(call("PR_SET_PDEATHSIG"))?;
    if getppid() != forker {
        return Err(ConfineError::Orphan);
    }
    prctl::set_no_new_privs().map_err(call("PR_SET_NO_NEW_PRIVS"))?;
    prctl::set_dumpable(false).map_err(call("PR_SET_DUMPABLE"))?;
    let limits =
        [(Resource::RLIMIT_CORE, 0), (Resource::RLIMIT_NOFILE, MAX_DESCRIPTORS), (Resource::RLIMIT_DATA, MAX_MEMORY)];
    for (resource, limit) in limits {
        setrlimit(resource, limit, limit).map_err(call("setrlimit"))?;
    }
    filter.narrow()?;
    Ok(())
}

/// From now on no thread can be started.
///
/// # Errors
/// [`ConfineError`] if the limit cannot be set.
pub fn no_more_threads() -> Result<(), ConfineError> {
    setrlimit(Resource::RLIMIT_NPROC, 0, 0).map_err(call("setrlimit"))
}

/// Makes `directory` the root of this process, closes it, and gives up every capability for good.
///
/// # Errors
/// [`ConfineError`] with the step; the session must then end.
pub fn confine(directory: OwnedFd) -> Result<(), ConfineError> {
    fchdir(&directory).map_err(call("fchdir"))?;
    chroot(".").map_err(call("chroot"))?;
    chdir("/").map_err(call("chdir"))?;
    drop(directory);
    clear_bounding(&CapsHashSet::new())?;
    for set in [CapSet::Ambient, CapSet::Inheritable, CapSet::Effective, CapSet::Permitted] {
        caps::clear(None, set)?;
    }
    // Of the ambient set only what could be in it is looked at: to read it all takes a call for each capability there is.
    if caps::has_cap(None, CapSet::Ambient, Capability::CAP_SYS_CHROOT)? {
        return Err(ConfineError::Left);
    }
    for set in [CapSet::Inheritable, CapSet::Effective, CapSet::Permitted] {
        if !caps::read(None, set)?.is_empty() {
            return Err(ConfineError::Left);
        }
    }
    Ok(())
}
