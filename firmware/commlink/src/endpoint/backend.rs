//! The local daemon that answers what comes in.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use daemon::ipc::{Frame, IpcError, read_frame, write_frame};
use thiserror::Error;
use tobj::{Body, Message, Reply, RequestTag};
use tokio::io::{AsyncRead, AsyncReadExt, BufReader};
use tokio::net::UnixStream;
use tokio::time::timeout;

use crate::client;
use crate::config::BackendConfig;
use crate::sealed::MAX_PLAIN;

/// How long each daemon's part of a `STATUS` may take. Two are asked at once, and what one says is told also where the other
/// hangs: above all then.
pub const STATUS: Duration = Duration::from_secs(10);

/// How long an answer may take after the end of the request: a part of what the asking machine waits, so that it hears from
/// here what happened. Its clock starts when the last of a literal leaves it, which is earlier.
fn answer_within(request: RequestTag) -> Duration {
    match request {
        RequestTag::Status => STATUS,
        request => client::answer_within(request) * 5 / 6,
    }
}

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

impl BackendError {
    /// Whether the daemon was asked, and may still do it.
    pub(super) fn is_late(&self) -> bool {
        matches!(self, Self::Ipc(IpcError::Late(_)))
    }

    /// What an operator is told.
    pub(super) fn told(&self) -> String {
        match self {
            Self::Ipc(IpcError::Late(limit)) => format!("did not answer within {limit:?}"),
            _ => "does not answer".to_owned(),
        }
    }
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
        let limit = match &message.body {
            Body::Request(request) => answer_within(request.tag()),
            Body::Reply(_) => return Err(IpcError::Mismatch.into()),
        };
        let late = |_| IpcError::Late(limit);
        let mut stream = UnixStream::connect(&self.socket).await.map_err(connect)?;
        let found = stream.peer_cred().map_err(connect)?.uid();
        if found != self.uid {
            return Err(BackendError::Stranger { path: self.socket.clone(), found, expected: self.uid });
        }
        let (id, length) = (message.id, message.literal.unwrap_or(0));
        let frame = Frame { label: from.to_owned(), message };
        timeout(limit, write_frame(&mut stream, &frame)).await.map_err(late)??;
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
            None => timeout(limit, answer).await.map_err(late)??,
        };
        match frame.ok_or(IpcError::Closed)?.message {
            Message { id: of, body: Body::Reply(reply), .. } if of == id => Ok(reply),
            _ => Err(IpcError::Mismatch.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use daemon::ipc;
    use tobj::Request;
    use tokio::time::{self, Instant};

    use super::*;
    use crate::client::ANSWER;

    /// The least that is left for the way back.
    const WAY: Duration = Duration::from_secs(5);

    #[test]
    fn the_asking_machine_waits_longer() {
        for &request in RequestTag::ALL {
            assert!(answer_within(request) + WAY <= client::answer_within(request), "{request}");
        }
        assert_eq!(answer_within(RequestTag::Status), STATUS);
        assert_eq!(answer_within(RequestTag::LeaseList), ANSWER - WAY);
    }

    /// Asks a daemon that takes so long.
    async fn ask(request: Request, takes: Duration) -> (Result<Reply, BackendError>, Duration) {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("socket");
        let listener = ipc::bind(&socket).unwrap();
        let daemon = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let frame = read_frame(&mut stream).await.unwrap().unwrap();
            // From here on nothing but time passes.
            time::pause();
            time::sleep(takes).await;
            let message = frame.message.reply(Reply::Done {});
            // Whoever asked may have gone.
            let _ = write_frame(&mut stream, &Frame { label: String::new(), message }).await;
            time::resume();
        };
        let backend = Backend { socket: socket.clone(), uid: nix::unistd::geteuid().as_raw() };
        let (start, message) = (Instant::now(), Message::request(request).unwrap());
        let asking = async {
            let answer = backend.exchange("web", message, &mut tokio::io::empty()).await;
            (answer, start.elapsed())
        };
        tokio::join!(asking, daemon).0
    }

    #[tokio::test]
    async fn a_daemon_has_its_time_and_no_more() {
        let second = Duration::from_secs(1);
        for (request, limit) in [
            (Request::Status {}, STATUS),
            (Request::LeaseList { offset: 0 }, answer_within(RequestTag::LeaseList)),
            (Request::StorageStart {}, answer_within(RequestTag::StorageStart)),
        ] {
            let (answer, _) = ask(request.clone(), limit - second).await;
            assert!(matches!(answer, Ok(Reply::Done {})), "{request:?}: {answer:?}");
            let (answer, took) = ask(request.clone(), limit + second).await;
            let error = answer.unwrap_err();
            assert!(error.is_late() && took >= limit && took < limit + second, "{request:?}: {error:?} {took:?}");
            assert_eq!(error.told(), format!("did not answer within {limit:?}"));
        }
    }
}
