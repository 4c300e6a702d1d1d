//! The system calls of a session; everything else fails with EPERM.
//!
//! The filter is made once, by the forker, and put on by each child before it reads a byte from its client. It lets nothing be
//! executed, no process be made (threads, once: see [`crate::confine`]), nothing be opened for writing, no memory become code, and
//! no socket be other than TCP's. What only the way to the login needs (chroot and the capabilities' calls) is of no use after it.

use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule,
};
use std::collections::BTreeMap;

/// Without conditions.
const FREE: &[libc::c_long] = &[
    // bytes
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_readv,
    libc::SYS_writev,
    libc::SYS_pread64,
    libc::SYS_pwrite64,
    libc::SYS_sendfile,
    libc::SYS_lseek,
    libc::SYS_close,
    // files; openat2 takes its flags from memory, where no filter sees them: the paths beneath an account can be read only
    libc::SYS_openat2,
    libc::SYS_fstat,
    libc::SYS_newfstatat,
    libc::SYS_statx,
    libc::SYS_getdents64,
    libc::SYS_fcntl,
    libc::SYS_ioctl,
    // sockets
    libc::SYS_connect,
    libc::SYS_bind,
    libc::SYS_listen,
    libc::SYS_accept4,
    libc::SYS_getsockname,
    libc::SYS_getpeername,
    libc::SYS_setsockopt,
    libc::SYS_getsockopt,
    libc::SYS_sendto,
    libc::SYS_recvfrom,
    libc::SYS_sendmsg,
    libc::SYS_recvmsg,
    libc::SYS_shutdown,
    // waiting
    libc::SYS_poll,
    libc::SYS_ppoll,
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_wait,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_pwait2,
    libc::SYS_eventfd2,
    libc::SYS_signalfd4,
    libc::SYS_futex,
    libc::SYS_nanosleep,
    libc::SYS_clock_nanosleep,
    libc::SYS_clock_gettime,
    libc::SYS_restart_syscall,
    libc::SYS_sched_yield,
    // memory and threads
    libc::SYS_brk,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    libc::SYS_set_robust_list,
    libc::SYS_rseq,
    libc::SYS_sched_getaffinity,
    libc::SYS_sigaltstack,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    // itself
    libc::SYS_getpid,
    libc::SYS_gettid,
    libc::SYS_tgkill,
    libc::SYS_getrandom,
    libc::SYS_prctl,
    libc::SYS_prlimit64,
    libc::SYS_setrlimit,
    libc::SYS_exit,
    libc::SYS_exit_group,
    // on the way to the login
    libc::SYS_fchdir,
    libc::SYS_chdir,
    libc::SYS_chroot,
    libc::SYS_capget,
    libc::SYS_capset,
    // answered by the other filter, so that the C library falls back to clone(2), whose flags can be seen
    libc::SYS_clone3,
];

/// There is no filter.
#[derive(Debug, thiserror::Error)]
pub enum FilterError {
    /// It cannot be made.
    #[error("cannot be made")]
    Make(#[from] BackendError),
    /// The kernel does not take it.
    #[error("is not taken by the kernel")]
    Install(#[from] seccompiler::Error),
}

/// The filter, ready to be put on.
#[derive(Debug)]
pub struct Filter {
    allowed: BpfProgram,
    no_clone3: BpfProgram,
}

/// Holds if each of these does: an argument, by its place, has this value where the mask has ones.
fn rule(conditions: &[(u8, u64, u64)]) -> Result<SeccompRule, BackendError> {
    let condition = |(argument, mask, value): &(u8, u64, u64)| {
        SeccompCondition::new(*argument, SeccompCmpArgLen::Dword, SeccompCmpOp::MaskedEq(*mask), *value)
    };
    SeccompRule::new(conditions.iter().map(condition).collect::<Result<_, _>>()?)
}

fn flags(value: libc::c_int) -> u64 {
    u64::from(value.unsigned_abs())
}

impl Filter {
    /// Makes it.
    ///
    /// # Errors
    /// [`FilterError::Make`] on a machine that it is not for.
    pub fn new() -> Result<Self, FilterError> {
        let writing = flags(libc::O_ACCMODE | libc::O_CREAT | libc::O_TRUNC);
        let (code, thread) = (flags(libc::PROT_EXEC), flags(libc::CLONE_THREAD));
        let kind = flags(!(libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK) & 0xffff);
        let tcp = |family| rule(&[(0, u64::from(u32::MAX), flags(family)), (1, kind, flags(libc::SOCK_STREAM))]);
        let mut rules: BTreeMap<i64, Vec<SeccompRule>> = FREE.iter().map(|call| (*call, Vec::new())).collect();
        rules.insert(libc::SYS_openat, vec![rule(&[(2, writing, 0)])?]);
        rules.insert(libc::SYS_mmap, vec![rule(&[(2, code, 0)])?]);
        rules.insert(libc::SYS_mprotect, vec![rule(&[(2, code, 0)])?]);
        rules.insert(libc::SYS_clone, vec![rule(&[(0, thread, thread)])?]);
        rules.insert(libc::SYS_socket, vec![tcp(libc::AF_INET)?, tcp(libc::AF_INET6)?]);
        let arch = std::env::consts::ARCH.try_into()?;
        let error = |errno: libc::c_int| SeccompAction::Errno(errno.unsigned_abs());
        let allowed = SeccompFilter::new(rules, error(libc::EPERM), SeccompAction::Allow, arch)?;
        let clone3 = BTreeMap::from([(libc::SYS_clone3, Vec::new())]);
        let no_clone3 = SeccompFilter::new(clone3, SeccompAction::Allow, error(libc::ENOSYS), arch)?;
        Ok(Self { allowed: allowed.try_into()?, no_clone3: no_clone3.try_into()? })
    }

    /// Puts it on, for this thread and those that it will start; also takes away the chance of privilege by exec.
    ///
    /// # Errors
    /// [`FilterError::Install`].
    pub fn install(&self) -> Result<(), FilterError> {
        // In this order: under the second no further one can be put on.
        seccompiler::apply_filter(&self.no_clone3)?;
        seccompiler::apply_filter(&self.allowed)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::ErrorKind::PermissionDenied;

    /// On a thread of the test's process: a filter holds for the thread that puts it on.
    fn filtered<T: Send>(what: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                Filter::new().unwrap().install().unwrap();
                what()
            });
            thread.join().unwrap()
        })
    }

    #[test]
    fn nothing_is_written_made_or_run() {
        let dir = tempfile::tempdir().unwrap();
        let there = dir.path().join("there");
        std::fs::write(&there, "x").unwrap();
        filtered(|| {
            let kind = |outcome: std::io::Result<()>| outcome.unwrap_err().kind();
            assert_eq!(kind(std::fs::write(dir.path().join("new"), "x")), PermissionDenied);
            assert_eq!(kind(std::fs::File::options().append(true).open(&there).map(drop)), PermissionDenied);
            assert_eq!(kind(std::fs::remove_file(&there)), PermissionDenied);
            assert_eq!(kind(std::fs::create_dir(dir.path().join("d"))), PermissionDenied);
            assert_eq!(kind(std::process::Command::new("/bin/true").spawn().map(drop)), PermissionDenied);
            assert_eq!(kind(std::os::unix::net::UnixStream::pair().map(drop)), PermissionDenied);
            assert_eq!(kind(std::net::UdpSocket::bind("127.0.0.1:0").map(drop)), PermissionDenied);
            assert_eq!(std::fs::read(&there).unwrap(), b"x");
        });
    }

    #[test]
    fn what_a_session_does_works() {
        // The trial session of the forker has had a runtime too, and with it the one pipe for signals that tokio makes.
        drop(tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap());
        filtered(|| {
            let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            let _client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            assert_eq!(std::thread::spawn(|| 7).join().unwrap(), 7);
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async { tokio::time::sleep(std::time::Duration::from_millis(1)).await });
        });
    }
}
