//! Waiting in the runtime until a descriptor can be read.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Watches a copy of this descriptor. To be called within a runtime.
///
/// # Errors
/// When there is no descriptor left, or it cannot be polled.
#[allow(unsafe_code, reason = "AsyncFd cannot know that its object keeps its descriptor")]
pub(crate) fn readable(fd: BorrowedFd<'_>) -> io::Result<AsyncFd<OwnedFd>> {
    let copy = fd.try_clone_to_owned()?;
    // SAFETY: an OwnedFd owns its descriptor, which stays open and the same until it is dropped; AsyncFd drops it after it has
    // taken it out of the poller.
    let watched = unsafe { AsyncFd::register_with_interest(copy, Interest::READABLE) };
    watched.map_err(Into::into)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;
    use std::time::Duration;
    use tokio::time::timeout;

    #[tokio::test]
    async fn tells_of_bytes_and_outlives_the_original() {
        let (a, mut b) = UnixStream::pair().unwrap();
        let watched = readable(a.as_fd()).unwrap();
        drop(a);
        assert!(timeout(Duration::from_millis(1), watched.readable()).await.is_err());
        b.write_all(b"x").unwrap();
        timeout(Duration::from_secs(10), watched.readable()).await.unwrap().unwrap().clear_ready();
    }
}
