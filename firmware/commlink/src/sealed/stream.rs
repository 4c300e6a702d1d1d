//! The session as a stream of bytes.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use snow::TransportState;
use tokio::io::{AsyncBufRead, AsyncRead, AsyncWrite, ReadBuf};
use zeroize::Zeroizing;

use super::Session;
use super::record::{MAX_PLAIN, RecordError, Records};

/// A sealed session over a transport of any kind, also over another sealed session.
///
/// Each write seals one record, so write in large pieces or with a buffer; what is written goes out with a flush.
/// [`shutdown`](tokio::io::AsyncWriteExt::shutdown) ends the session for the peer; a stream that is dropped without it
/// looks cut to the peer. Reading gives [`io::ErrorKind::UnexpectedEof`] if the transport ends without the peer's end,
/// and [`io::ErrorKind::InvalidData`] with a [`RecordError`] for any breach, then and ever after.
pub struct SealedStream<S> {
    io: S,
    records: Records,
    /// Plaintext that a reader has not taken yet, from `taken` on.
    plain: Zeroizing<Vec<u8>>,
    taken: usize,
    /// The peer has ended the session.
    peer_ended: bool,
    /// We have.
    ended: bool,
    session: Session,
}

impl<S> SealedStream<S> {
    pub(crate) fn new(io: S, noise: TransportState, session: Session) -> Self {
        Self {
            io,
            records: Records::new(noise),
            plain: Zeroizing::default(),
            taken: 0,
            peer_ended: false,
            ended: false,
            session,
        }
    }

    /// What the session was made from.
    pub fn session(&self) -> &Session {
        &self.session
    }

    /// The transport, to wait for its end once the session is over.
    pub(crate) fn transport(&mut self) -> &mut S {
        &mut self.io
    }
}

impl<S: AsyncRead + Unpin> SealedStream<S> {
    /// Waits for a whole record; gives the length of its plaintext, or `None` once the peer has ended the session.
    fn poll_record(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<usize>>> {
        loop {
            if self.peer_ended {
                return Poll::Ready(Ok(None));
            }
            match self.records.pending().map_err(breach)? {
                Some(0) => {
                    self.records.open(&mut []).map_err(breach)?;
                    self.peer_ended = true;
                }
                Some(n) => return Poll::Ready(Ok(Some(n))),
                None => {
                    let mut room = ReadBuf::new(self.records.input());
                    ready!(Pin::new(&mut self.io).poll_read(cx, &mut room))?;
                    let n = room.filled().len();
                    if n == 0 {
                        return Poll::Ready(Err(breach(self.records.fail(RecordError::Truncated))));
                    }
                    self.records.received(n);
                }
            }
        }
    }
}

impl<S: AsyncWrite + Unpin> SealedStream<S> {
    /// Sends sealed records until at most `rest` bytes of them are left.
    fn poll_send(&mut self, cx: &mut Context<'_>, done: impl Fn(&Records) -> bool) -> Poll<io::Result<()>> {
        while !done(&self.records) {
            let n = ready!(Pin::new(&mut self.io).poll_write(cx, self.records.output()))?;
            if n == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.records.sent(n);
        }
        Poll::Ready(Ok(()))
    }
}

fn all_sent(records: &Records) -> bool {
    records.output().is_empty()
}

/// A truncation is what readers of a stream know as an early end; everything else is bad data.
fn breach(error: RecordError) -> io::Error {
    let kind = match error {
        RecordError::Truncated => io::ErrorKind::UnexpectedEof,
        RecordError::Short | RecordError::Forged => io::ErrorKind::InvalidData,
    };
    io::Error::new(kind, error)
}

impl<S: AsyncRead + Unpin> AsyncRead for SealedStream<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if buf.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        if this.taken == this.plain.len()
            && let Some(n) = ready!(this.poll_record(cx))?
            && n <= buf.remaining()
        {
            // A large enough buffer gets the plaintext without a copy.
            let n = this.records.open(buf.initialize_unfilled_to(n)).map_err(breach)?;
            buf.advance(n);
            return Poll::Ready(Ok(()));
        }
        let plain = ready!(Pin::new(&mut *this).poll_fill_buf(cx))?;
        let n = plain.len().min(buf.remaining());
        buf.put_slice(&plain[..n]);
        Pin::new(this).consume(n);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + Unpin> AsyncBufRead for SealedStream<S> {
    fn poll_fill_buf(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<&[u8]>> {
        let this = self.get_mut();
        if this.taken == this.plain.len()
            && let Some(n) = ready!(this.poll_record(cx))?
        {
            this.taken = 0;
            this.plain.resize(n, 0);
            let opened = this.records.open(&mut this.plain);
            if opened.is_err() {
                // Nothing of a record that did not open may be seen.
                this.plain.clear();
            }
            opened.map_err(breach)?;
        }
        Poll::Ready(Ok(&this.plain[this.taken..]))
    }

    fn consume(self: Pin<&mut Self>, n: usize) {
        let this = self.get_mut();
        this.taken = this.plain.len().min(this.taken + n);
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for SealedStream<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.ended {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        if buf.is_empty() {
            return Poll::Ready(Ok(0));
        }
        ready!(this.poll_send(cx, Records::has_room))?;
        let n = buf.len().min(MAX_PLAIN);
        this.records.seal(&buf[..n]);
        if !this.records.has_room() {
            // Whether it goes now or later, what was sealed counts as written.
            let _: Poll<()> = this.poll_send(cx, Records::has_room)?;
        }
        Poll::Ready(Ok(n))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_send(cx, all_sent))?;
        Pin::new(&mut this.io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.ended {
            ready!(this.poll_send(cx, Records::has_room))?;
            this.records.seal(&[]);
            this.ended = true;
        }
        ready!(this.poll_send(cx, all_sent))?;
        Pin::new(&mut this.io).poll_shutdown(cx)
    }
}

impl<S> fmt::Debug for SealedStream<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SealedStream").field("session", &self.session).finish_non_exhaustive()
    }
}
