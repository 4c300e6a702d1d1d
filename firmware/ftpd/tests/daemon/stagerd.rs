//! A stand-in for stagerd: real sockets, real descriptors, accounts in directories.

use crate::daemon::LIMIT;
use daemon::fds::{recv_frame, send_frame};
use daemon::ipc::{Frame, bind_std};
use nix::fcntl::{OFlag, open};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::stat::Mode;
use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Instant;
use tobj::{Body, Fault, LeaseKind, Name, Reply, Request};

pub(crate) const USER: &str = "ada";
/// What every file has as hash.
pub(crate) const DIGEST: [u8; 32] = [0xab; 32];
pub(crate) const PASSWORD: &str = "correct horse";

/// How it behaves, and what it has seen.
struct State {
    seen: Vec<Request>,
    counters: Vec<File>,
    connections: Vec<UnixStream>,
    /// What every login is answered by, if not by the truth.
    login: Option<Fault>,
    /// What every transfer is answered by, if not by yes.
    begin: Option<Fault>,
    /// Bytes per second that each transfer may have.
    rate: u64,
    /// Hashes are not told yet.
    hold: bool,
    /// A file goes with the yes in place of the directory.
    no_directory: bool,
}

#[derive(Clone)]
pub(crate) struct Stagerd {
    path: PathBuf,
    /// The account of [`USER`].
    pub(crate) account: PathBuf,
    state: Arc<(Mutex<State>, Condvar)>,
    _dir: Arc<tempfile::TempDir>,
}

impl Stagerd {
    pub(crate) fn start(path: &Path) -> Self {
        let dir = crate::daemon::public_dir();
        let account = dir.path().join("account");
        std::fs::create_dir(&account).unwrap();
        std::fs::write(dir.path().join("secret"), "not in the account").unwrap();
        let state = State {
            seen: Vec::new(),
            counters: Vec::new(),
            connections: Vec::new(),
            login: None,
            begin: None,
            rate: 0,
            hold: false,
            no_directory: false,
        };
        let stagerd = Self {
            path: path.into(),
            account,
            state: Arc::new((Mutex::new(state), Condvar::new())),
            _dir: Arc::new(dir),
        };
        let listener = bind_std(path).unwrap();
        let serving = stagerd.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                // The path is gone: stagerd is gone, see `die`.
                if !serving.path.exists() {
                    return;
                }
                serving.state().connections.push(stream.try_clone().unwrap());
                let session = serving.clone();
                std::thread::spawn(move || session.serve(&stream));
            }
        });
        stagerd
    }

    /// From now on it could not end the connections that there are; nor do they take descriptors when they are over.
    pub(crate) fn forget_connections(&self) {
        self.state().connections.clear();
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.0.lock().unwrap()
    }

    fn serve(&self, stream: &UnixStream) {
        let counter = File::from(memfd_create("counter", MFdFlags::MFD_CLOEXEC).unwrap());
        counter.set_len(4096).unwrap();
        while let Ok(Some((frame, _))) = recv_frame(stream) {
            let Body::Request(request) = &frame.message.body else { return };
            if let Request::FtpDigest { .. } = request {
                drop(self.state.1.wait_while(self.state(), |state| state.hold).unwrap());
            }
            let (reply, account) = self.answer(request);
            counter.write_all_at(&self.state().rate.to_le_bytes(), 8).unwrap();
            let frame = Frame { label: String::new(), message: frame.message.reply(reply) };
            // Seen once the answer is on its way, so that a test which waits for a request does not overtake it.
            let sent = match account {
                Some(account) => {
                    let flags = if account.is_dir() { OFlag::O_PATH | OFlag::O_DIRECTORY } else { OFlag::O_RDONLY };
                    let directory = open(&account, flags, Mode::empty()).unwrap();
                    send_frame(stream, &frame, &[directory.as_fd(), counter.as_fd()])
                }
                None => send_frame(stream, &frame, &[]),
            };
            let mut state = self.state();
            state.seen.push(request.clone());
            if let Request::TransferBegin { .. } = request {
                state.counters.push(counter.try_clone().unwrap());
            }
            self.state.1.notify_all();
            if sent.is_err() {
                return;
            }
        }
    }

    fn answer(&self, request: &Request) -> (Reply, Option<PathBuf>) {
        let state = self.state();
        let refuse = |fault| (Reply::refused(fault, "not for the client's eyes"), None);
        match request {
            Request::FtpSession { .. } | Request::TransferEnd { .. } => (Reply::Done {}, None),
            Request::FtpLogin { user, password, .. } => match state.login {
                Some(fault) => refuse(fault),
                None if user.as_str() == USER && password.expose() == PASSWORD => {
                    let customer = Name::new(USER).unwrap();
                    let file = self.account.parent().unwrap().join("secret");
                    let account = if state.no_directory { file } else { self.account.clone() };
                    (Reply::FtpAdmitted { customer, kind: LeaseKind::Standing }, Some(account))
                }
                None => refuse(Fault::Denied),
            },
            Request::FtpDigest { path } => match state.begin {
                Some(fault) => refuse(fault),
                None if self.account.join(&path.as_str()[1..]).is_file() => {
                    (Reply::Digest { sha256: DIGEST.into() }, None)
                }
                None => refuse(Fault::NotFound),
            },
            Request::TransferBegin { .. } => match state.begin {
                Some(fault) => refuse(fault),
                None => (Reply::Transfer { transfer: u64::try_from(state.counters.len()).unwrap() }, None),
            },
            other => panic!("ftpd asked {other:?}"),
        }
    }

    pub(crate) fn refuse_logins(&self, fault: Fault) {
        self.state().login = Some(fault);
    }

    pub(crate) fn refuse_transfers(&self, fault: Option<Fault>) {
        self.state().begin = fault;
    }

    pub(crate) fn allow(&self, bytes_per_second: u64) {
        self.state().rate = bytes_per_second;
    }

    /// Whether who asks for a hash waits for it.
    pub(crate) fn hold_digests(&self, hold: bool) {
        self.state().hold = hold;
        self.state.1.notify_all();
    }

    pub(crate) fn send_no_directory(&self) {
        self.state().no_directory = true;
    }

    /// Nobody listens any more, and all connections are closed.
    pub(crate) fn die(&self) {
        std::fs::remove_file(&self.path).unwrap();
        for stream in self.state().connections.drain(..) {
            let _ = stream.shutdown(std::net::Shutdown::Both);
        }
    }

    pub(crate) fn seen(&self) -> Vec<Request> {
        self.state().seen.clone()
    }

    /// Waits for a request and gives the first that fits.
    pub(crate) fn wait_for(&self, fits: impl Fn(&Request) -> bool) -> Request {
        let deadline = Instant::now() + LIMIT;
        let mut state = self.state();
        loop {
            if let Some(request) = state.seen.iter().find(|r| fits(r)) {
                return request.clone();
            }
            let left = deadline.checked_duration_since(Instant::now()).expect("the request does not come");
            state = self.state.1.wait_timeout(state, left).unwrap().0;
        }
    }

    /// Bytes and outcome of the end of this transfer, and what the counter says.
    pub(crate) fn wait_for_end(&self, number: u64) -> (u64, String, u64) {
        let end = self.wait_for(|r| matches!(r, Request::TransferEnd { transfer, .. } if *transfer == number));
        let Request::TransferEnd { bytes, outcome, .. } = end else { unreachable!() };
        (bytes, outcome.to_string(), self.counted(number))
    }

    /// What the counter of this transfer says.
    pub(crate) fn counted(&self, number: u64) -> u64 {
        let state = self.state();
        let mut bytes = [0; 8];
        state.counters[usize::try_from(number).unwrap()].read_exact_at(&mut bytes, 0).unwrap();
        u64::from_le_bytes(bytes)
    }

    /// Puts a file of so many pseudo-random bytes into the account.
    pub(crate) fn put(&self, name: &str, size: usize) -> Vec<u8> {
        let mut x = 0x9e37_79b9_7f4a_7c15_u64 ^ u64::try_from(size).unwrap();
        let mut bytes = Vec::with_capacity(size + 8);
        while bytes.len() < size {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            bytes.extend_from_slice(&x.to_le_bytes());
        }
        bytes.truncate(size);
        let path = self.account.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, &bytes).unwrap();
        bytes
    }
}
