//! A reader that does not wait for ever.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, ReadBuf};
use tokio::time::{Instant, Sleep, sleep};

/// Reads, and fails with [`io::ErrorKind::TimedOut`] when nothing comes for a while.
pub(crate) struct Stall<R> {
    inner: R,
    limit: Duration,
    alarm: Pin<Box<Sleep>>,
    waiting: bool,
}

impl<R> Stall<R> {
    /// To be called within a runtime.
    pub(crate) fn new(inner: R, limit: Duration) -> Self {
        Self { inner, limit, alarm: Box::pin(sleep(limit)), waiting: false }
    }

    pub(crate) fn into_inner(self) -> R {
        self.inner
    }
}

impl<R: AsyncRead + Unpin> AsyncRead for Stall<R> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if let Poll::Ready(read) = Pin::new(&mut this.inner).poll_read(cx, buf) {
            this.waiting = false;
            return Poll::Ready(read);
        }
        if !this.waiting {
            this.alarm.as_mut().reset(Instant::now() + this.limit);
            this.waiting = true;
        }
        this.alarm.as_mut().poll(cx).map(|()| Err(io::ErrorKind::TimedOut.into()))
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_limit_counts_from_the_last_byte() {
        let limit = Duration::from_secs(30);
        let (mut there, here) = tokio::io::duplex(8);
        let mut reader = Stall::new(here, limit);
        for _ in 0..3 {
            let write = async {
                sleep(limit - Duration::from_secs(1)).await;
                there.write_all(b"x").await.unwrap();
            };
            let (byte, ()) = tokio::join!(reader.read_u8(), write);
            assert_eq!(byte.unwrap(), b'x');
        }
        let start = Instant::now();
        assert_eq!(reader.read_u8().await.unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert_eq!(start.elapsed().as_secs(), limit.as_secs());
    }
}
