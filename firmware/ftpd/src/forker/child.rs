//! fork(2) and the life of a child.

use crate::confine::harden;
use crate::filter::Filter;
use crate::gatekeeper::Introduced;
use crate::session::{self, Context};
use nix::errno::Errno;
use nix::unistd::{ForkResult, Pid, getpid};
use std::net::TcpStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

/// Exit status of a session that failed.
pub(super) const FAILED: i32 = 1;

/// Exit status of a session that could not be made safe.
pub(super) const UNSAFE: i32 = 2;

/// Exit status of a session that panicked.
pub(super) const PANICKED: i32 = 101;

/// Who one is after a fork.
pub(super) enum Side {
    /// The forker; its new child.
    Parent(Pid),
    /// The child; its forker.
    Child { forker: Pid },
}

/// All that a child has.
pub(super) struct Newborn {
    pub(super) forker: Pid,
    pub(super) client: TcpStream,
    pub(super) introduced: Introduced,
    pub(super) context: Context,
    pub(super) filter: Arc<Filter>,
}

/// Makes a process.
#[allow(unsafe_code, reason = "there is no safe fork")]
pub(super) fn fork() -> Result<Side, Errno> {
    let forker = getpid();
    // SAFETY: this process has one thread: nothing here starts another (the trial session's runtime has none of its own and has
    // ended). So no lock is held by anybody who is not in the child, which may then do whatever its parent could.
    match unsafe { nix::unistd::fork() }? {
        ForkResult::Parent { child } => Ok(Side::Parent(child)),
        ForkResult::Child => Ok(Side::Child { forker }),
    }
}

/// Gives back what is free of the heap, and has children keep to one. What a child takes of it is then in one piece, and a fork
/// copies less; its other thread allocates too little to be worth an arena of its own.
#[allow(unsafe_code, reason = "the C library's own calls for it")]
pub(super) fn trim() {
    // SAFETY: both take their own locks. mallopt(3) sets a number, malloc_trim(3) touches only what nobody has allocated.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
        libc::malloc_trim(0);
    }
}

/// Serves one session and ends the process. Never returns into what was the forker, by panic neither.
pub(super) fn live(newborn: Newborn) -> ! {
    let Newborn { forker, client, introduced, context, filter } = newborn;
    let code = catch_unwind(AssertUnwindSafe(|| {
        if let Err(error) = harden(forker, &filter) {
            tracing::error!("a session cannot be made safe: {}", daemon::report(&error));
            return UNSAFE;
        }
        match session::run(client, introduced, context) {
            Ok(()) => 0,
            Err(error) => {
                tracing::error!("a session failed: {}", daemon::report(&error));
                FAILED
            }
        }
    }));
    exit(code.unwrap_or(PANICKED))
}

/// Ends the process at once.
#[allow(unsafe_code, reason = "exit(3) would run what the forker has registered")]
pub(super) fn exit(code: i32) -> ! {
    // SAFETY: _exit only ends the process. What is skipped are handlers that belong to the forker.
    unsafe { libc::_exit(code) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::signal::Signal;
    use nix::sys::wait::{WaitStatus, waitpid};

    #[test]
    fn what_is_in_use_is_not_given_back() {
        let kept: Vec<String> = (0..1000).map(|n| format!("{n:0>100}")).collect();
        drop((0..1000).map(|n| format!("{n:0>100}")).collect::<Vec<_>>());
        trim();
        assert!(kept.iter().enumerate().all(|(n, text)| text.len() == 100 && text.parse() == Ok(n)));
    }

    /// The test's process has several threads, so its child does nothing but end.
    #[test]
    fn a_child_is_another_process_and_ends_with_its_code() {
        match fork().unwrap() {
            Side::Child { forker } => exit(if nix::unistd::getppid() == forker { 7 } else { 8 }),
            Side::Parent(child) => assert_eq!(waitpid(child, None).unwrap(), WaitStatus::Exited(child, 7)),
        }
    }

    /// One without memory aborts; the log is to say so.
    #[test]
    fn a_session_that_aborts_ends_by_the_right_signal() {
        let filter = Filter::new().unwrap();
        match fork().unwrap() {
            Side::Child { .. } => match filter.install().and_then(|()| filter.narrow()) {
                Ok(()) => std::process::abort(),
                Err(_) => exit(UNSAFE),
            },
            Side::Parent(child) => {
                let end = waitpid(child, None).unwrap();
                assert!(matches!(end, WaitStatus::Signaled(_, Signal::SIGABRT, _)), "{end:?}");
            }
        }
    }
}
