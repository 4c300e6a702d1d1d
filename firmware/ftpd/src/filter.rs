//! The system calls of forker and sessions; everything else fails with EPERM.
//!
//! Two parts, since putting a long list on costs as much as all else of a fork together. The *common* part, a list of what is
//! allowed, is put on once, by the forker, and its children have it by descent: nothing is executed, nothing opened for writing.
//! The *session's* part, a short list of what is not allowed on top of that, is put on by each child before it reads a byte from its
//! client: no process is made (threads, once: see [`crate::confine`]), no other one is told anything or has its limits changed, also
//! not by way of a descriptor's owner, no memory becomes code, and there is no socket other than TCP's. What only the way to the
//! login needs (chroot and the capabilities' calls) is of no use after it.

use nix::unistd::{Pid, getpid};
use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule,
};
use std::collections::BTreeMap;

/// For all of them, without conditions.
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
    libc::SYS_getpriority,
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
    // answered by a filter of its own, so that the C library falls back to clone(2), whose flags can be seen
    libc::SYS_clone3,
];

/// For the forker, and for the process that asks for the name of PASV's address.
const FORKER: &[libc::c_long] = &[
    libc::SYS_seccomp,
    libc::SYS_getppid,
    // children
    libc::SYS_kill,
    libc::SYS_wait4,
    libc::SYS_pipe2,
    // a name's address
    libc::SYS_uname,
    libc::SYS_sendmmsg,
    libc::SYS_access,
    libc::SYS_faccessat2,
    libc::SYS_readlink,
];

/// Of fcntl(2): who is told of events at a descriptor, and by which signal (F_SETSIG, F_SETOWN_EX).
const OWNER: [libc::c_int; 3] = [libc::F_SETOWN, 10, 15];
/// The same of ioctl(2), for sockets: FIOSETOWN and SIOCSPGRP.
const SOCKET_OWNER: [libc::c_int; 2] = [0x8901, 0x8902];

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

/// Both parts; the common one is ready to be put on.
#[derive(Debug)]
pub struct Filter {
    no_clone3: BpfProgram,
    common: BpfProgram,
}

/// The answer to who may not.
const DENIED: SeccompAction = SeccompAction::Errno(libc::EPERM.unsigned_abs());

/// System calls, each with the rules of which one must hold.
type Rules = BTreeMap<i64, Vec<SeccompRule>>;

/// Holds if each of these does: an argument, by its place, has this value where the mask has ones.
fn rule(conditions: &[(u8, u64, u64)]) -> Result<SeccompRule, BackendError> {
    let condition = |(argument, mask, value): &(u8, u64, u64)| {
        SeccompCondition::new(*argument, SeccompCmpArgLen::Dword, SeccompCmpOp::MaskedEq(*mask), *value)
    };
    SeccompRule::new(conditions.iter().map(condition).collect::<Result<_, _>>()?)
}

/// Holds if an argument, by its place, does not have this value.
fn other_than(argument: u8, value: u64) -> Result<SeccompRule, BackendError> {
    SeccompRule::new(vec![SeccompCondition::new(argument, SeccompCmpArgLen::Dword, SeccompCmpOp::Ne, value)?])
}

fn flags(value: libc::c_int) -> u64 {
    u64::from(value.unsigned_abs())
}

/// Each of these without conditions.
fn free(calls: &[&[libc::c_long]]) -> Rules {
    calls.concat().into_iter().map(|call| (call, Vec::new())).collect()
}

/// What to answer to the calls that are listed, and what to all others.
fn program(list: Rules, listed: SeccompAction, others: SeccompAction) -> Result<BpfProgram, BackendError> {
    SeccompFilter::new(list, others, listed, std::env::consts::ARCH.try_into()?)?.try_into()
}

/// For [`rule`]: an argument has this value in all its bits.
fn is(argument: u8, value: u64) -> (u8, u64, u64) {
    (argument, u64::from(u32::MAX), value)
}

/// For [`rule`]: the socket is of this family.
fn of_family(family: libc::c_int) -> (u8, u64, u64) {
    is(0, flags(family))
}

/// For [`rule`]: the socket is of this kind, whatever else is said of it.
fn of_kind(kind: libc::c_int) -> (u8, u64, u64) {
    (1, flags(!(libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK) & 0xffff), flags(kind))
}

/// What everybody may do.
fn common() -> Result<Rules, BackendError> {
    let writing = flags(libc::O_ACCMODE | libc::O_CREAT | libc::O_TRUNC);
    let mut rules = free(&[FREE, FORKER, &[libc::SYS_mmap, libc::SYS_mprotect, libc::SYS_clone]]);
    rules.insert(libc::SYS_openat, vec![rule(&[(2, writing, 0)])?]);
    // A thread's own; sessions are of one user, and none may hold the others up.
    rules.insert(libc::SYS_setpriority, vec![rule(&[is(0, u64::from(libc::PRIO_PROCESS)), is(1, 0)])?]);
    let socket = |family, kind| rule(&[of_family(family), of_kind(kind)]);
    let mut sockets = vec![socket(libc::AF_NETLINK, libc::SOCK_RAW)?];
    for family in [libc::AF_INET, libc::AF_INET6, libc::AF_UNIX] {
        sockets.extend([socket(family, libc::SOCK_STREAM)?, socket(family, libc::SOCK_DGRAM)?]);
    }
    rules.insert(libc::SYS_socket, sockets);
    Ok(rules)
}

/// What of it the session of this process may not.
fn not_in_session(process: Pid) -> Result<Rules, BackendError> {
    let (code, thread) = (flags(libc::PROT_EXEC), flags(libc::CLONE_THREAD));
    let mut rules = free(&[FORKER]);
    rules.insert(libc::SYS_mmap, vec![rule(&[(2, code, code)])?]);
    rules.insert(libc::SYS_mprotect, vec![rule(&[(2, code, code)])?]);
    rules.insert(libc::SYS_clone, vec![rule(&[(0, thread, 0)])?]);
    let but_tcp = [of_family(libc::AF_UNIX), of_family(libc::AF_NETLINK), of_kind(libc::SOCK_DGRAM)];
    rules.insert(libc::SYS_socket, but_tcp.iter().map(|one| rule(&[*one])).collect::<Result<_, _>>()?);
    // Forker and sessions are of one user: what they do to each other is nobody's business but this filter's. abort(3) signals its
    // own process, and so it ends by the signal that says why.
    rules.insert(libc::SYS_tgkill, vec![other_than(0, u64::from(process.as_raw().unsigned_abs()))?]);
    rules.insert(libc::SYS_prlimit64, vec![other_than(0, 0)?]);
    // A descriptor's owner gets a signal with each event, of whatever kind was set.
    let any = |what: &[libc::c_int]| what.iter().map(|one| rule(&[is(1, flags(*one))])).collect::<Result<_, _>>();
    rules.insert(libc::SYS_fcntl, any(&OWNER)?);
    rules.insert(libc::SYS_ioctl, any(&SOCKET_OWNER)?);
    Ok(rules)
}

impl Filter {
    /// Makes it.
    ///
    /// # Errors
    /// [`FilterError::Make`] on a machine that it is not for.
    pub fn new() -> Result<Self, FilterError> {
        let unknown = SeccompAction::Errno(libc::ENOSYS.unsigned_abs());
        Ok(Self {
            no_clone3: program(free(&[&[libc::SYS_clone3]]), unknown, SeccompAction::Allow)?,
            common: program(common()?, SeccompAction::Allow, DENIED)?,
        })
    }

    /// Puts the common part on, for this thread and all that comes from it; also takes away the chance of privilege by exec.
    ///
    /// # Errors
    /// [`FilterError::Install`].
    pub fn install(&self) -> Result<(), FilterError> {
        seccompiler::apply_filter(&self.no_clone3)?;
        seccompiler::apply_filter(&self.common)?;
        Ok(())
    }

    /// Puts the session's part, which is made for its process, on top of the common one. No further one can be put on after it.
    ///
    /// # Errors
    /// [`FilterError`].
    pub fn narrow(&self) -> Result<(), FilterError> {
        let session = program(not_in_session(getpid())?, DENIED, SeccompAction::Allow)?;
        Ok(seccompiler::apply_filter(&session)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::errno::Errno;
    use std::io::ErrorKind::PermissionDenied;

    /// On a thread of the test's process: a filter holds for the thread that puts it on.
    fn filtered<T: Send>(session: bool, what: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                let filter = Filter::new().unwrap();
                filter.install().unwrap();
                if session {
                    filter.narrow().unwrap();
                    assert!(filter.narrow().is_err(), "it is the last one");
                }
                what()
            });
            thread.join().unwrap()
        })
    }

    fn kind<T>(outcome: std::io::Result<T>) -> std::io::ErrorKind {
        outcome.map(drop).unwrap_err().kind()
    }

    #[test]
    fn nothing_is_written_or_run() {
        let dir = tempfile::tempdir().unwrap();
        let there = dir.path().join("there");
        std::fs::write(&there, "x").unwrap();
        for session in [false, true] {
            filtered(session, || {
                assert_eq!(kind(std::fs::write(dir.path().join("new"), "x")), PermissionDenied);
                assert_eq!(kind(std::fs::File::options().append(true).open(&there)), PermissionDenied);
                assert_eq!(kind(std::fs::remove_file(&there)), PermissionDenied);
                assert_eq!(kind(std::fs::create_dir(dir.path().join("d"))), PermissionDenied);
                assert_eq!(kind(std::process::Command::new("/bin/true").spawn()), PermissionDenied);
                assert_eq!(kind(std::os::unix::net::UnixStream::pair()), PermissionDenied);
                assert_eq!(std::fs::read(&there).unwrap(), b"x");
            });
        }
    }

    /// A system call as it is; gives how it failed.
    #[allow(unsafe_code, reason = "the C library asks for these on behalf of others only")]
    fn raw(call: libc::c_long, arguments: [i32; 4]) -> Result<(), Errno> {
        let [a, b, c, d] = arguments.map(libc::c_long::from);
        // SAFETY: what any of the calls below takes for an address is 0.
        Errno::result(unsafe { libc::syscall(call, a, b, c, d) }).map(drop)
    }

    /// What only the forker may do.
    #[test]
    fn sessions_make_nothing_and_tell_nobody() {
        use nix::sys::signal::kill;
        use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket};
        use std::os::fd::AsRawFd;
        let other = nix::unistd::getppid().as_raw();
        let socket_of_ours = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let there = socket_of_ours.as_raw_fd();
        let try_all = || {
            let open = |family, kind, protocol: Option<SockProtocol>| {
                socket(family, kind, SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK, protocol).map(drop)
            };
            [
                open(AddressFamily::Unix, SockType::Stream, None),
                open(AddressFamily::Unix, SockType::Datagram, None),
                open(AddressFamily::Inet, SockType::Datagram, None),
                open(AddressFamily::Inet6, SockType::Datagram, None),
                open(AddressFamily::Netlink, SockType::Raw, Some(SockProtocol::NetlinkRoute)),
                nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).map(drop),
                kill(nix::unistd::getpid(), None),
                raw(libc::SYS_tgkill, [other, other, 0, 0]),
                raw(libc::SYS_prlimit64, [other, 0, 0, 0]),
                raw(libc::SYS_fcntl, [there, OWNER[0], other, 0]),
                raw(libc::SYS_fcntl, [there, OWNER[1], libc::SIGKILL, 0]),
            ]
        };
        assert_eq!(filtered(false, try_all), [Ok(()); 11]);
        assert_eq!(filtered(true, try_all), [Err(Errno::EPERM); 11]);
        // The owner is behind an address, which is looked at when nothing else is in the way.
        let by_address = || {
            let [a, b] = SOCKET_OWNER.map(|what| raw(libc::SYS_ioctl, [there, what, 0, 0]));
            [raw(libc::SYS_fcntl, [there, OWNER[2], 0, 0]), a, b]
        };
        assert_eq!(filtered(false, by_address), [Err(Errno::EFAULT); 3]);
        assert_eq!(filtered(true, by_address), [Err(Errno::EPERM); 3]);
        // Nor what is beyond TCP for both.
        for session in [false, true] {
            let packet = || socket(AddressFamily::Packet, SockType::Raw, SockFlag::empty(), None).map(drop);
            assert_eq!(filtered(session, packet), Err(Errno::EPERM));
        }
    }

    #[test]
    fn what_a_session_does_works() {
        // The trial session of the forker has had a runtime too, and with it the one pipe for signals that tokio makes.
        drop(tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap());
        filtered(true, || {
            let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            let _client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            assert_eq!(std::thread::spawn(|| 7).join().unwrap(), 7);
            rustix::process::nice(1).unwrap();
            assert_eq!(rustix::process::setpriority_user(rustix::process::Uid::ROOT, 1), Err(rustix::io::Errno::PERM));
            raw(libc::SYS_tgkill, [getpid().as_raw(), nix::unistd::gettid().as_raw(), 0, 0]).unwrap();
            assert!(nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE).is_ok());
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async { tokio::time::sleep(std::time::Duration::from_millis(1)).await });
        });
    }
}
