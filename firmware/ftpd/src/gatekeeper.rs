//! Who may come in and what may be sent: stagerd decides, over one Unix socket for each session.

use crate::readiness::readable;
use async_trait::async_trait;
use daemon::fds;
use daemon::ipc::{Frame, IpcError};
use std::fs::File;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;
use tobj::{Body, Fault, Message, Name, Reply, Request, Secret, Sha256, Text, TlsVersion};
use tokio::io::unix::AsyncFd;
use tokio::time::timeout;

/// How long an answer about a login may take; it may need the database, over two links.
pub const LOGIN_ANSWER: Duration = Duration::from_secs(30);

/// How long any other answer may take. A transfer's waits for one durable commit.
pub const ANSWER: Duration = Duration::from_secs(20);

/// How long a frame that has begun may take to be whole, and a request to be taken.
pub const FRAME: Duration = Duration::from_secs(5);

/// Descriptors that come with an admission: the account's directory and the counter.
const ADMISSION_FDS: usize = 2;

/// A yes.
#[derive(Debug)]
pub struct Admission {
    /// Whose account it is.
    pub customer: Name,
    /// The directory that becomes the session's root.
    pub directory: OwnedFd,
    /// Where the bytes are counted that have come to the client; see [`crate::session::Progress`].
    pub counter: File,
}

/// A no.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// stagerd said no; the text of it is in stagerd's log.
    #[error("refused: {}", .0.as_str())]
    Fault(Fault),
    /// stagerd cannot be asked, now and for the rest of this session.
    #[error("stagerd cannot be asked")]
    Gone(#[source] IpcError),
}

impl Refusal {
    /// Whether asking again later may help.
    pub fn is_passing(&self) -> bool {
        matches!(self, Self::Gone(_) | Self::Fault(Fault::Busy | Fault::Unavailable))
    }
}

/// How a transfer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// All bytes have come to the client's machine.
    Complete,
    /// The client ended it.
    Aborted,
    /// Connection or disk failed.
    Failed,
}

impl Outcome {
    /// The word of the protocol.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Complete => "complete",
            Self::Aborted => "aborted",
            Self::Failed => "failed",
        }
    }
}

/// What there is to tell of a transfer that is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Over {
    /// Bytes that have come to the client's machine.
    pub bytes: u64,
    /// The TLS of the data connection; none if it was in clear, or never came.
    pub tls: Option<TlsVersion>,
    /// How it ended.
    pub outcome: Outcome,
}

/// What a session asks, one question at a time.
#[async_trait]
pub trait Gatekeeper: Send {
    /// Waits until the session is known there.
    async fn open(&mut self) -> Result<(), Refusal>;
    /// May this user come in?
    async fn login(&mut self, user: &str, password: Secret, tls: bool) -> Result<Admission, Refusal>;
    /// What is the hash of this file?
    async fn digest(&mut self, path: &str) -> Result<Sha256, Refusal>;
    /// May this file be sent, under this TLS? After the answer the transfer is on record.
    async fn begin(&mut self, path: &str, offset: u64, tls: Option<TlsVersion>) -> Result<u64, Refusal>;
    /// The transfer is over.
    async fn end(&mut self, transfer: u64, over: Over) -> Result<(), Refusal>;
}

/// Connects to stagerd and says whose session it is. Never waits: the forker calls this.
///
/// # Errors
/// When stagerd is not there or its queue is full.
pub fn introduce(sessions: &Path, client: IpAddr) -> Result<Introduced, IpcError> {
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket(AddressFamily::Unix, SockType::Stream, flags, None).map_err(io::Error::from)?;
    let address = UnixAddr::new(sessions).map_err(io::Error::from)?;
    connect(std::os::fd::AsRawFd::as_raw_fd(&socket), &address).map_err(io::Error::from)?;
    let stream = UnixStream::from(socket);
    let message = Message::request(Request::FtpSession { address: Text::new(&client.to_string())? })?;
    let id = message.id;
    fds::send_frame(&stream, &Frame { label: String::new(), message }, &[])?;
    Ok(Introduced { stream, id })
}

/// A socket on which stagerd has been told of a session and has not answered yet.
#[derive(Debug)]
pub struct Introduced {
    stream: UnixStream,
    id: tobj::Id,
}

/// stagerd, at the other end of a session's socket.
#[derive(Debug)]
pub struct Stagerd {
    socket: UnixStream,
    readable: AsyncFd<OwnedFd>,
    /// The ID of the introduction until it is answered.
    introduced: Option<tobj::Id>,
    /// An answer failed to come: what comes later could be taken for the answer to another question.
    broken: bool,
}

impl Stagerd {
    /// To be called within the session's runtime.
    ///
    /// # Errors
    /// When the socket cannot be set up.
    pub fn new(introduced: Introduced) -> io::Result<Self> {
        let Introduced { stream, id } = introduced;
        // Readiness is waited for in the runtime; what follows is there as a whole, or something is very wrong.
        stream.set_nonblocking(false)?;
        stream.set_read_timeout(Some(FRAME))?;
        stream.set_write_timeout(Some(FRAME))?;
        let readable = readable(stream.as_fd())?;
        Ok(Self { socket: stream, readable, introduced: Some(id), broken: false })
    }

    async fn ask(&mut self, request: Request, within: Duration) -> Result<(Reply, Vec<OwnedFd>), Refusal> {
        if self.broken {
            return Err(Refusal::Gone(IpcError::Closed));
        }
        self.broken = true;
        let message = Message::request(request).map_err(|e| Refusal::Gone(e.into()))?;
        let id = message.id;
        fds::send_frame(&self.socket, &Frame { label: String::new(), message }, &[]).map_err(Refusal::Gone)?;
        self.answer(id, within).await
    }

    async fn answer(&mut self, id: tobj::Id, within: Duration) -> Result<(Reply, Vec<OwnedFd>), Refusal> {
        self.broken = true;
        let receive = async {
            let mut ready = self.readable.readable().await.map_err(IpcError::Io)?;
            let frame = fds::recv_frame(&self.socket);
            ready.clear_ready();
            frame?.ok_or(IpcError::Closed)
        };
        let late = |_| IpcError::Late(within);
        let (frame, fds) = timeout(within, receive).await.map_err(late).flatten().map_err(Refusal::Gone)?;
        let Message { id: of, body: Body::Reply(reply), .. } = frame.message else {
            return Err(Refusal::Gone(IpcError::Mismatch));
        };
        if of != id {
            return Err(Refusal::Gone(IpcError::Mismatch));
        }
        self.broken = false;
        match reply {
            Reply::Fault { fault, .. } => Err(Refusal::Fault(fault)),
            reply => Ok((reply, fds)),
        }
    }

    fn unexpected<T>(&mut self) -> Result<T, Refusal> {
        self.broken = true;
        Err(Refusal::Gone(IpcError::Mismatch))
    }
}

#[async_trait]
impl Gatekeeper for Stagerd {
    async fn open(&mut self) -> Result<(), Refusal> {
        let Some(id) = self.introduced.take() else { return Ok(()) };
        match self.answer(id, ANSWER).await? {
            (Reply::Done {}, _) => Ok(()),
            _ => self.unexpected(),
        }
    }

    async fn login(&mut self, user: &str, password: Secret, tls: bool) -> Result<Admission, Refusal> {
        // A name that is no text cannot be anybody's.
        let user = Text::new(user).map_err(|_| Refusal::Fault(Fault::Denied))?;
        match self.ask(Request::FtpLogin { user, password, tls }, LOGIN_ANSWER).await? {
            (Reply::FtpAdmitted { customer, .. }, fds) => match <[OwnedFd; ADMISSION_FDS]>::try_from(fds) {
                Ok([directory, counter]) => Ok(Admission { customer, directory, counter: counter.into() }),
                Err(_) => self.unexpected(),
            },
            _ => self.unexpected(),
        }
    }

    async fn digest(&mut self, path: &str) -> Result<Sha256, Refusal> {
        let path = Text::new(path).map_err(|_| Refusal::Fault(Fault::NotFound))?;
        match self.ask(Request::FtpDigest { path }, ANSWER).await? {
            (Reply::Digest { sha256 }, _) => Ok(sha256),
            _ => self.unexpected(),
        }
    }

    async fn begin(&mut self, path: &str, offset: u64, tls: Option<TlsVersion>) -> Result<u64, Refusal> {
        let path = Text::new(path).map_err(|_| Refusal::Fault(Fault::NotFound))?;
        match self.ask(Request::TransferBegin { path, offset, tls }, ANSWER).await? {
            (Reply::Transfer { transfer }, _) => Ok(transfer),
            _ => self.unexpected(),
        }
    }

    async fn end(&mut self, transfer: u64, over: Over) -> Result<(), Refusal> {
        let Over { bytes, tls, outcome } = over;
        let outcome = Text::lossy(outcome.as_str());
        match self.ask(Request::TransferEnd { transfer, bytes, tls, outcome }, ANSWER).await? {
            (Reply::Done {}, _) => Ok(()),
            _ => self.unexpected(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    struct Fake {
        _dir: tempfile::TempDir,
        listener: UnixListener,
        keeper: Stagerd,
    }

    fn fake() -> Fake {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let listener = UnixListener::bind(&path).unwrap();
        let keeper = Stagerd::new(introduce(&path, "192.0.2.7".parse().unwrap()).unwrap()).unwrap();
        Fake { _dir: dir, listener, keeper }
    }

    /// Answers each request in turn; the thread ends with the requests that it saw.
    fn answer(listener: UnixListener, replies: Vec<(Reply, usize)>) -> std::thread::JoinHandle<Vec<Request>> {
        std::thread::spawn(move || {
            let (stream, _) = listener.accept().unwrap();
            let mut seen = Vec::new();
            for (reply, fds) in replies {
                let Ok(Some((frame, _))) = fds::recv_frame(&stream) else { break };
                let reply = Frame { label: String::new(), message: frame.message.reply(reply) };
                let Body::Request(request) = frame.message.body else { panic!("a reply") };
                seen.push(request);
                let file = tempfile::tempfile().unwrap();
                let fd = std::os::fd::AsFd::as_fd(&file);
                fds::send_frame(&stream, &reply, &vec![fd; fds]).unwrap();
            }
            seen
        })
    }

    fn secret() -> Secret {
        Secret::new("s").unwrap()
    }

    fn admitted() -> Reply {
        Reply::FtpAdmitted { customer: Name::new("ada").unwrap(), kind: tobj::LeaseKind::Standing }
    }

    #[tokio::test]
    async fn a_whole_session() {
        let Fake { _dir, listener, mut keeper } = fake();
        let thread = answer(
            listener,
            vec![
                (Reply::Done {}, 0),
                (Reply::refused(Fault::Denied, ""), 0),
                (admitted(), 2),
                (Reply::Transfer { transfer: 9 }, 0),
                (Reply::refused(Fault::Expired, ""), 0),
                (Reply::Done {}, 0),
                (Reply::Digest { sha256: [7; 32].into() }, 0),
            ],
        );
        keeper.open().await.unwrap();
        assert!(matches!(keeper.login("ada", secret(), true).await, Err(Refusal::Fault(Fault::Denied))));
        assert_eq!(keeper.login("ada", secret(), true).await.unwrap().customer.as_str(), "ada");
        let tls = Some(TlsVersion::Tls13);
        assert_eq!(keeper.begin("/a", 3, tls).await.unwrap(), 9);
        assert!(matches!(keeper.begin("/b", 0, None).await, Err(Refusal::Fault(Fault::Expired))));
        keeper.end(9, Over { bytes: 5, tls, outcome: Outcome::Aborted }).await.unwrap();
        assert_eq!(keeper.digest("/a").await.unwrap(), [7; 32].into());
        let seen = thread.join().unwrap();
        assert_eq!(seen[0], Request::FtpSession { address: Text::new("192.0.2.7").unwrap() });
        assert_eq!(seen[3], Request::TransferBegin { path: Text::new("/a").unwrap(), offset: 3, tls });
        let outcome = Text::new("aborted").unwrap();
        assert_eq!(seen[5], Request::TransferEnd { transfer: 9, bytes: 5, tls, outcome });
        assert_eq!(seen[6], Request::FtpDigest { path: Text::new("/a").unwrap() });
    }

    #[tokio::test]
    async fn an_admission_without_its_descriptors_is_none() {
        for fds in [0, 1, 3] {
            let Fake { _dir, listener, mut keeper } = fake();
            let thread = answer(listener, vec![(Reply::Done {}, 0), (admitted(), fds)]);
            keeper.open().await.unwrap();
            assert!(matches!(keeper.login("ada", secret(), true).await, Err(Refusal::Gone(IpcError::Mismatch))));
            // After an answer that makes no sense nothing more is asked.
            assert!(matches!(keeper.begin("/a", 0, None).await, Err(Refusal::Gone(_))));
            assert_eq!(thread.join().unwrap().len(), 2);
        }
    }

    #[tokio::test]
    async fn a_late_answer_is_none_and_nothing_is_asked_after_it() {
        for (within, login) in [(LOGIN_ANSWER, true), (ANSWER, false)] {
            let Fake { _dir, listener, mut keeper } = fake();
            let silent = std::thread::spawn(move || {
                let (stream, _) = listener.accept().unwrap();
                let (frame, _) = fds::recv_frame(&stream).unwrap().unwrap();
                let reply = Frame { label: String::new(), message: frame.message.reply(Reply::Done {}) };
                fds::send_frame(&stream, &reply, &[]).unwrap();
                stream
            });
            keeper.open().await.unwrap();
            let _open = silent.join().unwrap();
            // From here on the clock goes on when nothing else does.
            tokio::time::pause();
            let refusal = match login {
                true => keeper.login("ada", secret(), true).await.map(drop).unwrap_err(),
                false => keeper.begin("/a", 0, None).await.map(drop).unwrap_err(),
            };
            assert!(matches!(refusal, Refusal::Gone(IpcError::Late(after)) if after == within), "{refusal:?}");
            assert!(matches!(keeper.digest("/a").await, Err(Refusal::Gone(IpcError::Closed))));
            tokio::time::resume();
        }
    }

    #[tokio::test]
    async fn stagerd_gone() {
        let Fake { _dir, listener, mut keeper } = fake();
        let thread = answer(listener, vec![(Reply::Done {}, 0)]);
        keeper.open().await.unwrap();
        thread.join().unwrap();
        let refusal = keeper.begin("/a", 0, None).await.unwrap_err();
        assert!(matches!(refusal, Refusal::Gone(_)) && refusal.is_passing());
    }

    #[test]
    fn nobody_listens() {
        let dir = tempfile::tempdir().unwrap();
        assert!(introduce(&dir.path().join("s"), "::1".parse().unwrap()).is_err());
    }
}
