//! What carries the packets of a connection: a sealed session, or the bare transport where a link has `seal = false`.
//!
//! Without seal there is what the document's own protocol has and no more: no greeting, packets from the first byte on,
//! the newest generation of the link that the port stands for, no literals. Whoever is in between can alter and repeat
//! packets. It exists to talk to others and to measure; `status` calls it unhealthy, and operators' links refuse it.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use keys::Bag;
use tokio::io::{AsyncBufRead, AsyncRead, AsyncWrite, BufReader, ReadBuf};

use crate::sealed::{SealedStream, Session};

/// What one read may bring on an unsealed connection.
const INPUT: usize = 16 * 1024;

/// A session, or the transport itself.
#[allow(clippy::large_enum_variant, reason = "the large one is the rule, and there is one for each connection")]
pub enum Channel<S> {
    /// A sealed session.
    Sealed(SealedStream<S>),
    /// The transport.
    Clear(Clear<S>),
}

/// A transport without seal.
pub struct Clear<S> {
    io: BufReader<S>,
    session: Session,
}

impl<S> From<SealedStream<S>> for Channel<S> {
    fn from(stream: SealedStream<S>) -> Self {
        Self::Sealed(stream)
    }
}

impl<S: AsyncRead> Channel<S> {
    /// The transport without seal. `port` is P, the client's port as this end knows it.
    pub fn unsealed(io: S, bag: Arc<Bag>, port: u16) -> Self {
        Self::Clear(Clear { io: BufReader::with_capacity(INPUT, io), session: Session::unsealed(bag, port) })
    }

    /// The transport beneath, to wait for its end once the session is over.
    pub(crate) fn transport(&mut self) -> &mut S {
        match self {
            Self::Sealed(stream) => stream.transport(),
            Self::Clear(clear) => clear.io.get_mut(),
        }
    }
}

impl<S> Channel<S> {
    /// What the session was made from.
    pub fn session(&self) -> &Session {
        match self {
            Self::Sealed(stream) => stream.session(),
            Self::Clear(clear) => &clear.session,
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Channel<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Sealed(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Clear(clear) => Pin::new(&mut clear.io).poll_read(cx, buf),
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncBufRead for Channel<S> {
    fn poll_fill_buf(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<&[u8]>> {
        match self.get_mut() {
            Self::Sealed(stream) => Pin::new(stream).poll_fill_buf(cx),
            Self::Clear(clear) => Pin::new(&mut clear.io).poll_fill_buf(cx),
        }
    }

    fn consume(self: Pin<&mut Self>, n: usize) {
        match self.get_mut() {
            Self::Sealed(stream) => Pin::new(stream).consume(n),
            Self::Clear(clear) => Pin::new(&mut clear.io).consume(n),
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Channel<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Sealed(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Clear(clear) => Pin::new(&mut clear.io).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Sealed(stream) => Pin::new(stream).poll_flush(cx),
            Self::Clear(clear) => Pin::new(&mut clear.io).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Sealed(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Clear(clear) => Pin::new(&mut clear.io).poll_shutdown(cx),
        }
    }
}

impl<S> fmt::Debug for Channel<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Channel").field("session", self.session()).finish_non_exhaustive()
    }
}
