//! Tobj between the daemons of one machine, over Unix sockets.
//!
//! # Format
//!
//! `u32` big-endian length of the rest ‖ `u8` length of the label ‖ label ‖ Tobj text; the bytes of a literal follow the frame.
//! The label of a request to commlinkd is the machine that it is for; that of a request from commlinkd is who asks
//! (see [`Service::call`]); replies have an empty one. A connection carries one request at a time.

use crate::{Service, Shutdown};
use std::future::Future;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tobj::{Body, Message, Reply, Request};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;

/// Longest frame in bytes, without its length.
pub const MAX_FRAME: usize = 1 + MAX_LABEL + tobj::MAX_BYTES;
/// Longest label in bytes.
pub const MAX_LABEL: usize = 128;
/// Connections that one socket serves at once; more wait in its queue.
pub const MAX_CONNECTIONS: usize = 1024;
/// How long a caller waits for an answer unless it says otherwise.
pub const ANSWER: Duration = Duration::from_secs(30);

/// A Tobj with its label.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// Whom it is for, or whom it is from.
    pub label: String,
    /// The Tobj.
    pub message: Message,
}

/// Why a frame did not come or go.
#[derive(Debug, thiserror::Error)]
pub enum IpcError {
    /// The socket failed.
    #[error("the socket failed")]
    Io(#[from] io::Error),
    /// The other end closed the connection within a frame or instead of answering.
    #[error("the connection was closed")]
    Closed,
    /// A length is beyond its limit, or a label is not text.
    #[error("not a frame")]
    NotAFrame,
    /// What is in the frame is not a Tobj.
    #[error("not a Tobj")]
    Invalid(#[from] tobj::Invalid),
    /// No answer in time.
    #[error("no answer within {0:?}")]
    Late(Duration),
    /// The answer belongs to another request, or is none.
    #[error("the answer does not fit the request")]
    Mismatch,
    /// No randomness for an ID.
    #[error("no randomness")]
    Random(#[from] getrandom::Error),
}

impl Frame {
    /// The frame's bytes.
    ///
    /// # Errors
    /// [`IpcError::NotAFrame`] for a label that is too long, [`IpcError::Invalid`] for a Tobj beyond its limits.
    pub fn encode(&self) -> Result<Vec<u8>, IpcError> {
        let text = self.message.encode()?;
        let label = self.label.as_bytes();
        if label.len() > MAX_LABEL {
            return Err(IpcError::NotAFrame);
        }
        let length = u32::try_from(1 + label.len() + text.len()).map_err(|_| IpcError::NotAFrame)?;
        let mut bytes = Vec::with_capacity(4 + MAX_LABEL + text.len());
        bytes.extend_from_slice(&length.to_be_bytes());
        bytes.push(u8::try_from(label.len()).map_err(|_| IpcError::NotAFrame)?);
        bytes.extend_from_slice(label);
        bytes.extend_from_slice(text.as_bytes());
        Ok(bytes)
    }

    /// The length that a header announces.
    pub(crate) fn length(header: [u8; 4]) -> Result<usize, IpcError> {
        let length = usize::try_from(u32::from_be_bytes(header)).map_err(|_| IpcError::NotAFrame)?;
        if (1..=MAX_FRAME).contains(&length) { Ok(length) } else { Err(IpcError::NotAFrame) }
    }

    /// What follows the header.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, IpcError> {
        let (&label, rest) = bytes.split_first().ok_or(IpcError::NotAFrame)?;
        let (label, text) = rest.split_at_checked(label.into()).ok_or(IpcError::NotAFrame)?;
        if label.len() > MAX_LABEL {
            return Err(IpcError::NotAFrame);
        }
        let label = std::str::from_utf8(label).map_err(|_| IpcError::NotAFrame)?.to_owned();
        Ok(Self { label, message: Message::decode(text)? })
    }
}

/// Reads one frame; `None` when the connection ended before it.
///
/// # Errors
/// [`IpcError`], after which the connection is of no more use.
pub async fn read_frame<R: AsyncRead + Unpin>(reader: &mut R) -> Result<Option<Frame>, IpcError> {
    let mut header = [0u8; 4];
    if reader.read(&mut header[..1]).await? == 0 {
        return Ok(None);
    }
    reader.read_exact(&mut header[1..]).await.map_err(|_| IpcError::Closed)?;
    let mut bytes = vec![0; Frame::length(header)?];
    reader.read_exact(&mut bytes).await.map_err(|_| IpcError::Closed)?;
    Frame::decode(&bytes).map(Some)
}

/// Writes one frame.
///
/// # Errors
/// As [`Frame::encode`], and [`IpcError::Io`].
pub async fn write_frame<W: AsyncWrite + Unpin>(writer: &mut W, frame: &Frame) -> Result<(), IpcError> {
    writer.write_all(&frame.encode()?).await?;
    Ok(writer.flush().await?)
}

/// Who may connect.
#[derive(Debug, Clone)]
pub struct Peers(Vec<u32>);

impl Peers {
    /// Processes of these uids.
    pub fn uids(uids: &[u32]) -> Self {
        Self(uids.to_vec())
    }

    /// Processes of one's own uid.
    pub fn mine() -> Self {
        Self(vec![nix::unistd::geteuid().as_raw()])
    }

    /// Whether this uid may connect.
    pub fn allows(&self, uid: u32) -> bool {
        self.0.contains(&uid)
    }
}

/// Binds a socket, in place of one that an earlier run left. Its mode is 0666: the uid of a peer is checked instead, and the
/// directory decides who gets that far.
///
/// # Errors
/// When the path cannot be bound.
pub fn bind(path: &Path) -> io::Result<UnixListener> {
    let listener = bind_std(path)?;
    listener.set_nonblocking(true)?;
    UnixListener::from_std(listener)
}

/// As [`bind`], for those without a runtime.
///
/// # Errors
/// When the path cannot be bound.
pub fn bind_std(path: &Path) -> io::Result<std::os::unix::net::UnixListener> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = std::os::unix::net::UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o666))?;
    Ok(listener)
}

/// Answers requests until the shutdown; those under way then are finished first.
///
/// # Errors
/// When the listener fails for good.
pub async fn serve<S: Service>(
    listener: UnixListener,
    allowed: Peers,
    service: S,
    shutdown: Shutdown,
) -> io::Result<()> {
    let service = Arc::new(service);
    let limit = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let connections = tokio_util::task::TaskTracker::new();
    loop {
        let Ok(permit) = limit.clone().acquire_owned().await else { break };
        let stream = tokio::select! {
            () = shutdown.wait() => break,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) if crate::ipc::passing(&error) => {
                    tracing::warn!(%error, "a local connection could not be accepted");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
                Err(error) => return Err(error),
            },
        };
        match stream.peer_cred() {
            Ok(peer) if allowed.allows(peer.uid()) => {}
            Ok(peer) => {
                tracing::warn!(uid = peer.uid(), pid = peer.pid(), "a local process of a wrong uid was turned away");
                continue;
            }
            Err(error) => {
                tracing::warn!(%error, "a local peer could not be identified");
                continue;
            }
        }
        let (service, shutdown) = (service.clone(), shutdown.clone());
        connections.spawn(async move {
            let _permit = permit;
            if let Err(error) = attend(stream, &*service, shutdown).await {
                tracing::warn!("a local connection failed: {}", crate::report(&error));
            }
        });
    }
    connections.close();
    connections.wait().await;
    Ok(())
}

/// Whether a failed accept says something about one connection or a shortage, not about the listener.
pub fn passing(error: &io::Error) -> bool {
    use nix::errno::Errno;
    let errno = error.raw_os_error().map(Errno::from_raw);
    !matches!(errno, Some(Errno::EBADF | Errno::EINVAL | Errno::ENOTSOCK | Errno::EOPNOTSUPP | Errno::EFAULT))
}

async fn attend<S: Service>(mut stream: UnixStream, service: &S, shutdown: Shutdown) -> Result<(), IpcError> {
    loop {
        let frame = tokio::select! {
            () = shutdown.wait() => return Ok(()),
            frame = read_frame(&mut stream) => frame?,
        };
        let Some(Frame { label, message }) = frame else { return Ok(()) };
        let (mut reader, mut writer) = stream.split();
        let mut literal = (&mut reader).take(message.literal.unwrap_or(0));
        let reply = service.call(&label, message, &mut literal).await;
        let unread = literal.limit();
        write_frame(&mut writer, &Frame { label: String::new(), message: reply }).await?;
        if unread > 0 {
            return Ok(()); // the answer came before the end of the literal; the rest of it is not worth reading
        }
    }
}

/// Calls another daemon of this machine; every call has a connection of its own.
#[derive(Debug, Clone)]
pub struct Client {
    path: PathBuf,
    answer: Duration,
}

impl Client {
    /// A client of the daemon that listens there.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), answer: ANSWER }
    }

    /// The same with another limit for the time to an answer, counted from the end of the request.
    #[must_use]
    pub fn with_answer_within(mut self, limit: Duration) -> Self {
        self.answer = limit;
        self
    }

    /// Asks, with a new ID. A [`Reply::Fault`] is an answer, not an error.
    ///
    /// # Errors
    /// [`IpcError`] when no answer came.
    pub async fn call(&self, label: &str, request: Request) -> Result<Reply, IpcError> {
        self.call_message(label, Message::request(request)?).await
    }

    /// Asks with an ID of the caller's, so that it can ask again and get the same answer.
    ///
    /// # Errors
    /// [`IpcError`] when no answer came.
    pub async fn call_message(&self, label: &str, message: Message) -> Result<Reply, IpcError> {
        self.exchange(label, message, &mut tokio::io::empty()).await
    }

    /// Asks, with `length` bytes from `literal` behind the request.
    ///
    /// # Errors
    /// [`IpcError`] when no answer came, or `literal` ended too early.
    pub async fn call_with_literal<R>(
        &self,
        label: &str,
        mut message: Message,
        length: u64,
        literal: &mut R,
    ) -> Result<Reply, IpcError>
    where
        R: AsyncRead + Send + Unpin + ?Sized,
    {
        message.literal = Some(length);
        self.exchange(label, message, literal).await
    }

    async fn exchange<R>(&self, label: &str, message: Message, literal: &mut R) -> Result<Reply, IpcError>
    where
        R: AsyncRead + Send + Unpin + ?Sized,
    {
        let (id, length) = (message.id, message.literal.unwrap_or(0));
        let mut stream = UnixStream::connect(&self.path).await?;
        write_frame(&mut stream, &Frame { label: label.to_owned(), message }).await?;
        let (mut reader, mut writer) = stream.split();
        let mut body = literal.take(length);
        let answer = async {
            match read_frame(&mut reader).await? {
                Some(frame) => Ok(frame),
                None => Err(IpcError::Closed),
            }
        };
        let frame = send_while(tokio::io::copy(&mut body, &mut writer), length, answer, self.answer).await?;
        match frame.message {
            Message { id: of, body: Body::Reply(reply), .. } if of == id => Ok(reply),
            _ => Err(IpcError::Mismatch),
        }
    }
}

/// Sends a body of `length` bytes while an answer may come already: one that comes before the end ends the sending.
async fn send_while<T>(
    sending: impl Future<Output = io::Result<u64>>,
    length: u64,
    answer: impl Future<Output = Result<T, IpcError>>,
    limit: Duration,
) -> Result<T, IpcError> {
    let mut answer = std::pin::pin!(answer);
    let sent = tokio::select! {
        early = &mut answer => return early,
        sent = sending => sent,
    };
    if let Ok(n) = sent
        && n < length
    {
        return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
    }
    // A failed write may mean that the answer came early and the other end closed: it is worth looking for.
    match (timeout(limit, answer).await, sent) {
        (Err(_), _) => Err(IpcError::Late(limit)),
        (Ok(Err(_)), Err(error)) => Err(error.into()),
        (Ok(answer), _) => answer,
    }
}

#[cfg(test)]
mod tests;
