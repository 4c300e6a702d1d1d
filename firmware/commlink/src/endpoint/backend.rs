//! The local daemon that answers what comes in.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use daemon::ipc::{Frame, IpcError, read_frame, write_frame};
use thiserror::Error;
use tobj::{Body, Message, Reply};
use tokio::io::{AsyncRead, AsyncReadExt, BufReader};
use tokio::net::UnixStream;
use tokio::time::timeout;

use crate::config::BackendConfig;
use crate::sealed::MAX_PLAIN;

/// How long an answer may take after the end of the request; shorter than what the asking machine waits.
pub(super) const ANSWER: Duration = Duration::from_secs(150);

/// Why a local daemon gave no answer.
#[derive(Debug, Error)]
pub enum BackendError {
    /// Its socket.
    #[error("cannot connect to {path}")]
    Connect {
        /// The socket.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Somebody else serves it.
    #[error("{path} is served by uid {found}, not {expected}")]
    Stranger {
        /// The socket.
        path: PathBuf,
        /// Whose process serves it.
        found: u32,
        /// Whose it should be.
        expected: u32,
    },
    /// A frame did not go or come.
    #[error("the exchange failed")]
    Ipc(#[from] IpcError),
    /// The literal from the network did.
    #[error("the literal broke off")]
    Literal(#[source] io::Error),
}

/// A daemon on the same machine.
#[derive(Clone, Debug)]
pub struct Backend {
    socket: PathBuf,
    uid: u32,
}

impl From<&BackendConfig> for Backend {
    fn from(config: &BackendConfig) -> Self {
        Self { socket: config.socket.clone(), uid: config.uid }
    }
}

impl Backend {
    /// Asks in the name of `from`, which the commlink has authenticated.
    ///
    /// # Errors
    /// [`BackendError`].
    pub async fn exchange<R>(&self, from: &str, message: Message, literal: &mut R) -> Result<Reply, BackendError>
    where
        R: AsyncRead + Send + Unpin + ?Sized,
    {
        let connect = |source| BackendError::Connect { path: self.socket.clone(), source };
        let mut stream = UnixStream::connect(&self.socket).await.map_err(connect)?;
        let found = stream.peer_cred().map_err(connect)?.uid();
        if found != self.uid {
            return Err(BackendError::Stranger { path: self.socket.clone(), found, expected: self.uid });
        }
        let (id, length) = (message.id, message.literal.unwrap_or(0));
        write_frame(&mut stream, &Frame { label: from.to_owned(), message }).await?;
        let (mut reader, mut writer) = stream.split();
        let mut answer = std::pin::pin!(read_frame(&mut reader));
        let mut body = BufReader::with_capacity(MAX_PLAIN, literal.take(length));
        let early = tokio::select! {
            early = &mut answer => Some(early),
            copied = tokio::io::copy_buf(&mut body, &mut writer) => match copied {
                Ok(n) if n < length => return Err(BackendError::Literal(io::ErrorKind::UnexpectedEof.into())),
                Ok(_) => None,
                // Either end may have failed: if it was the daemon, its answer tells more.
                Err(error) => match timeout(Duration::ZERO, &mut answer).await {
                    Ok(early) => Some(early),
                    Err(_) => return Err(BackendError::Literal(error)),
                },
            },
        };
        let frame = match early {
            Some(early) => early?,
            None => timeout(ANSWER, answer).await.map_err(|_| IpcError::Late(ANSWER))??,
        };
        match frame.ok_or(IpcError::Closed)?.message {
            Message { id: of, body: Body::Reply(reply), .. } if of == id => Ok(reply),
            _ => Err(IpcError::Mismatch.into()),
        }
    }
}
