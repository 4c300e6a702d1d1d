//! A thread whose reading and writing waits for everybody else's.

/// `IOPRIO_WHO_PROCESS`: one thread, 0 for the one that asks (ioprio_set(2)).
const THREAD: nix::libc::c_int = 1;
/// `IOPRIO_CLASS_IDLE` in its place: served when nobody else has asked for the disk.
const IDLE: nix::libc::c_int = 3 << 13;

/// Gives the calling thread the idle class of I/O priorities. Schedulers that know none ignore it, so whoever works in the background
/// paces himself, too. Who cannot have it goes on without.
///
/// # Errors
/// When the kernel refuses.
#[allow(unsafe_code, reason = "neither nix nor the standard library has this call")]
pub(crate) fn lower_io_priority() -> std::io::Result<()> {
    // SAFETY: ioprio_set takes three integers and touches no memory of ours.
    let outcome = unsafe { nix::libc::syscall(nix::libc::SYS_ioprio_set, THREAD, 0, IDLE) };
    nix::errno::Errno::result(outcome).map(drop).map_err(Into::into)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[allow(unsafe_code, reason = "as above")]
    fn the_thread_has_the_idle_class() {
        let class = std::thread::spawn(|| {
            lower_io_priority().unwrap();
            // SAFETY: ioprio_get takes two integers and touches no memory of ours.
            unsafe { nix::libc::syscall(nix::libc::SYS_ioprio_get, THREAD, 0) }
        });
        assert_eq!(class.join().unwrap() >> 13, 3);
    }
}
