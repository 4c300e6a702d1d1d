//! Messages over a sealed session (or none, see [`channel`](crate::channel)): packets that hold Tobj text, and literals behind them.
//!
//! A message is one Tobj, cut into packets of [`commlink_proto`] under the packet key of the connection. Where its
//! `LITERAL` says n, exactly n raw bytes follow within the sealed session, outside of the packets. One transaction is
//! under way at a time; the client asks, the server answers.

use std::fmt;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use commlink_proto::{Decoder, Encoder, LineBuffer, PacketError, PacketKey};
use thiserror::Error;
use tobj::Message;
use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf, Take};
use tokio::time::timeout;
use zeroize::Zeroizing;

use crate::channel::Channel;
use crate::sealed::{MAX_PLAIN, Session};

/// How long a message may take from its first byte to its last.
pub const MESSAGE: Duration = Duration::from_secs(20);

/// How long a literal may stand still, either because nothing comes or because a disk does not take it.
pub const STALL: Duration = Duration::from_secs(60);

/// Why a connection is of no more use. For our own log only.
#[derive(Debug, Error)]
pub enum ConnectionError {
    /// The peer closed an unsealed connection without an answer.
    #[error(
        "the peer closed the unsealed connection from port {0} without an answer: either it holds other keys, or it saw \
         another port, which address translation on the way makes so; then only a sealed link works"
    )]
    Unanswered(u16),
    /// A message that only a sealed link carries.
    #[error("this link has no seal, and without it there are no literals, relays or keys")]
    Unsealed,
    /// The session failed or was breached.
    #[error("the sealed session failed")]
    Io(#[from] io::Error),
    /// A packet that is none.
    #[error("bad packet")]
    Packet(#[from] PacketError),
    /// A message that is none.
    #[error("bad message")]
    Message(#[from] tobj::Invalid),
    /// The session ended within a message, or before an answer.
    #[error("the peer ended the session too early")]
    Ended,
    /// Not done in time.
    #[error("nothing moved for {0:?}")]
    Late(Duration),
    /// An answer to something else, or none.
    #[error("the answer does not fit the request")]
    Mismatch,
    /// What was to be sent as a literal ended before its announced length.
    #[error("what was to be sent ended too early")]
    Source,
    /// No randomness for the vectors of packets.
    #[error("the system gives no randomness")]
    Random(#[from] getrandom::Error),
}

/// How sending a literal ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    /// All of it was sent.
    Whole,
    /// The answer came before the end.
    Early,
}

/// A connection under way, either end.
pub struct Connection<S> {
    stream: Channel<S>,
    key: PacketKey,
    decoder: Decoder,
    line: Box<Zeroizing<LineBuffer>>,
    /// The line being sent; cipher text only.
    outgoing: Box<LineBuffer>,
}

impl<S> fmt::Debug for Connection<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("stream", &self.stream).finish_non_exhaustive()
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Connection<S> {
    /// Over a session that has just been opened.
    pub fn new(stream: impl Into<Channel<S>>) -> Self {
        let stream = stream.into();
        let key = stream.session().packet_key();
        let decoder = Decoder::new(key.clone(), tobj::MAX_BYTES);
        Self { stream, key, decoder, line: Box::default(), outgoing: Box::default() }
    }

    /// What the session was made from.
    pub fn session(&self) -> &Session {
        self.stream.session()
    }

    /// Sends a message. Its literal, if any, is the caller's to send.
    ///
    /// # Errors
    /// [`ConnectionError`]; the connection is then of no more use, unless it is [`ConnectionError::Message`].
    pub async fn send(&mut self, message: &Message) -> Result<(), ConnectionError> {
        self.send_text(&Zeroizing::new(message.encode()?)).await
    }

    /// Sends a message in its text form, which whoever may have to send it again keeps.
    ///
    /// # Errors
    /// [`ConnectionError`]; the connection is then of no more use.
    pub(crate) async fn send_text(&mut self, text: &str) -> Result<(), ConnectionError> {
        let sending = async {
            let mut encoder = Encoder::new(text.as_bytes());
            let mut vectors = vec![[0; 8]; encoder.remaining()];
            getrandom::fill(vectors.as_flattened_mut())?;
            for vector in &vectors {
                encoder.next(&self.key, vector, &mut self.outgoing);
                self.stream.write_all(&self.outgoing).await?;
            }
            Ok(self.stream.flush().await?)
        };
        timeout(MESSAGE, sending).await.map_err(|_| ConnectionError::Late(MESSAGE))?
    }

    /// Receives a message; `None` if the peer ended the session before it. Waiting for its first byte is not limited.
    ///
    /// # Errors
    /// [`ConnectionError`]; the connection is then of no more use.
    pub async fn receive(&mut self) -> Result<Option<Message>, ConnectionError> {
        if self.stream.fill_buf().await?.is_empty() {
            return Ok(None);
        }
        let text = timeout(MESSAGE, self.text()).await.map_err(|_| ConnectionError::Late(MESSAGE))??;
        Ok(Some(Message::decode(&text)?))
    }

    async fn text(&mut self) -> Result<Zeroizing<Vec<u8>>, ConnectionError> {
        let mut text = Zeroizing::new(Vec::new());
        loop {
            let input = self.stream.fill_buf().await?;
            if input.is_empty() {
                return Err(ConnectionError::Ended);
            }
            let (taken, fragment) = self.decoder.push(&mut self.line, input)?;
            self.stream.consume(taken);
            if let Some(fragment) = fragment {
                text.extend_from_slice(fragment.data);
                if fragment.last {
                    return Ok(text);
                }
            }
        }
    }

    /// The `n` raw bytes behind the message that was just received.
    pub fn literal(&mut self, n: u64) -> Take<&mut Channel<S>> {
        (&mut self.stream).take(n)
    }

    /// Sends `n` bytes of `source` as the literal of the message that was just sent, until the answer begins.
    ///
    /// # Errors
    /// [`ConnectionError`]; the connection is then of no more use.
    pub async fn send_literal<R>(&mut self, source: &mut R, n: u64) -> Result<Sent, ConnectionError>
    where
        R: AsyncRead + Unpin + ?Sized,
    {
        let mut chunk = vec![0; MAX_PLAIN].into_boxed_slice();
        let mut left = n;
        loop {
            let most = chunk.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            // Waiting for one's own source is not the peer's stall, so it is not limited here.
            let got = match self.fetch(source, &mut chunk[..most]).await? {
                None => return Ok(Sent::Early),
                Some(0) if left > 0 => return Err(ConnectionError::Source),
                Some(got) => got,
            };
            left -= u64::try_from(got).expect("a chunk is small");
            let put = timeout(STALL, self.put(&chunk[..got], left == 0)).await;
            if put.map_err(|_| ConnectionError::Late(STALL))?? == Sent::Early {
                return Ok(Sent::Early);
            }
            if left == 0 {
                return Ok(Sent::Whole);
            }
        }
    }

    /// Reads from the source, while what is sealed goes out and an answer may come; `None` if it has come.
    async fn fetch<R>(&mut self, source: &mut R, chunk: &mut [u8]) -> io::Result<Option<usize>>
    where
        R: AsyncRead + Unpin + ?Sized,
    {
        if chunk.is_empty() {
            return Ok(Some(0));
        }
        poll_fn(|cx| {
            if let Poll::Ready(answer) = Pin::new(&mut self.stream).poll_fill_buf(cx) {
                return Poll::Ready(answer.map(|_| None));
            }
            let mut room = ReadBuf::new(chunk);
            if let Poll::Ready(read) = Pin::new(&mut *source).poll_read(cx, &mut room) {
                return Poll::Ready(read.map(|()| Some(room.filled().len())));
            }
            let _: Poll<()> = Pin::new(&mut self.stream).poll_flush(cx)?;
            Poll::Pending
        })
        .await
    }

    /// Writes a chunk, while an answer may come.
    async fn put(&mut self, chunk: &[u8], flush: bool) -> io::Result<Sent> {
        let mut at = 0;
        poll_fn(|cx| {
            while at < chunk.len() {
                if let Poll::Ready(answer) = Pin::new(&mut self.stream).poll_fill_buf(cx) {
                    return Poll::Ready(answer.map(|_| Sent::Early));
                }
                at += ready!(Pin::new(&mut self.stream).poll_write(cx, &chunk[at..]))?;
            }
            if flush {
                ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
            }
            Poll::Ready(Ok(Sent::Whole))
        })
        .await
    }

    /// Whether nothing can be asked here any more: the peer has ended the session or the connection, or speaks unasked.
    pub(crate) fn is_spent(&mut self) -> bool {
        Pin::new(&mut self.stream).poll_fill_buf(&mut Context::from_waker(Waker::noop())).is_ready()
    }

    /// Ends the session for the peer.
    ///
    /// # Errors
    /// When the transport fails.
    pub async fn end(&mut self) -> io::Result<()> {
        self.stream.shutdown().await
    }

    /// The session itself, where the connection becomes something else after a message. Nothing of it was read ahead.
    pub fn into_stream(self) -> Channel<S> {
        self.stream
    }

    /// The transport beneath.
    pub(crate) fn transport(&mut self) -> &mut S {
        self.stream.transport()
    }
}
