//! The socket for the ftp daemon's sessions: one connection each, one question at a time.
//!
//! A session says where its client is, then asks for logins until one is granted, then may fetch what that login may. It gets
//! descriptors, so each connection is served by a thread that may block; it holds some kilobytes. A thread that is free serves the
//! next session: at a thousand logins a second, making and ending one for each is a third of what a session costs here.

use crate::engine::{Access, Begin, COMPLETE, Work};
use crate::logins::Door;
use crate::reconcile::INTERRUPTED;
use crate::rows::Event;
use daemon::fds::{recv_frame, send_frame};
use daemon::ipc::{Frame, IpcError, Peers, passing};
use daemon::{Shutdown, report};
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::net::{IpAddr, Shutdown as How};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tobj::{AuditEvent, Body, Fault, Message, Name, Reply, Request, Text, TlsVersion};
use tokio::net::UnixListener;
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::Semaphore;

/// Stack of a session's thread in bytes; pages that are never touched cost nothing.
const STACK: usize = 512 << 10;
/// Size of the file that counts a transfer's bytes: the count is its first eight.
const COUNTER: u64 = 4096;
/// How long sessions get to close their books at the end.
const FAREWELL: Duration = Duration::from_secs(5);

/// Where in that file we say how many bytes per second the transfer may have; 0 is no bound.
const RATE_AT: u64 = 8;

/// What one customer may have, in all of his sessions together.
#[derive(Debug, Clone, Copy)]
pub struct PerCustomer {
    /// Sessions at once.
    pub sessions: usize,
    /// Bytes per second, shared evenly by his transfers; 0 is no bound.
    pub bytes_per_second: u64,
}

/// What sessions share.
#[derive(Debug)]
pub struct Sessions {
    door: Door,
    limits: PerCustomer,
    open: Mutex<Open>,
}

#[derive(Debug, Default)]
struct Open {
    next: u64,
    /// To end them from outside.
    streams: HashMap<u64, UnixStream>,
    /// Transfers under way.
    transfers: HashMap<u64, Running>,
    /// How many sessions a customer has.
    customers: HashMap<Name, usize>,
}

/// A transfer under way.
#[derive(Debug)]
struct Running {
    counter: Arc<File>,
    /// What was read last.
    last: u64,
    customer: Name,
    /// When it was asked for.
    begun: Instant,
}

impl Running {
    /// How long it has taken.
    fn milliseconds(&self) -> u64 {
        u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

impl Open {
    /// Gives each transfer of this customer its part of what he may have.
    fn share(&self, customer: &Name, bytes_per_second: u64) {
        if bytes_per_second == 0 {
            return;
        }
        let his = || self.transfers.values().filter(|running| running.customer == *customer);
        let part = (bytes_per_second / (his().count() as u64).max(1)).max(1);
        for running in his() {
            // Memory of our own making: this does not fail.
            if let Err(error) = running.counter.write_all_at(&part.to_le_bytes(), RATE_AT) {
                tracing::error!(%error, "a transfer's rate cannot be written");
            }
        }
    }
}

impl Sessions {
    /// Sessions that come in through this door, within these limits.
    pub fn new(door: Door, limits: PerCustomer) -> Self {
        Self { door, limits, open: Mutex::default() }
    }

    fn open(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.open().streams.len()
    }

    /// Has the counts of transfers under way put into the ledger with its next commit.
    pub fn note_progress(&self) {
        for (transfer, running) in &mut self.open().transfers {
            let bytes = count(&running.counter);
            if bytes > running.last {
                running.last = bytes;
                let milliseconds = running.milliseconds();
                self.door.engine.ride(Work::Progress { transfer: *transfer, bytes, milliseconds });
            }
        }
    }

    /// Serves until the shutdown, then ends the sessions.
    ///
    /// # Errors
    /// When the listener fails for good.
    pub async fn serve(
        self: &Arc<Self>,
        listener: UnixListener,
        allowed: Peers,
        most: usize,
        shutdown: Shutdown,
    ) -> io::Result<()> {
        let (limit, threads) = (Arc::new(Semaphore::new(most)), Threads::new(most)?);
        loop {
            let stream = tokio::select! {
                () = shutdown.wait() => break,
                accepted = listener.accept() => match accepted {
                    Ok((stream, _)) => stream,
                    Err(error) if passing(&error) => {
                        tracing::warn!(%error, "a session's connection could not be accepted");
                        tokio::time::sleep(Duration::from_millis(50)).await;
                        continue;
                    }
                    Err(error) => return Err(error),
                },
            };
            match stream.peer_cred() {
                Ok(peer) if allowed.allows(peer.uid()) => {}
                peer => {
                    tracing::warn!(?peer, "a local process that is not the ftp daemon was turned away");
                    continue;
                }
            }
            let Ok(permit) = limit.clone().try_acquire_owned() else {
                tracing::warn!(most, "there are too many sessions; one was turned away");
                continue;
            };
            if let Err(error) = self.spawn(&threads, stream, permit) {
                tracing::error!(%error, "a session could not be served");
            }
        }
        for stream in self.open().streams.values() {
            let _ = stream.shutdown(How::Both); // one that has just ended says so itself
        }
        let all = u32::try_from(most).unwrap_or(u32::MAX);
        if tokio::time::timeout(FAREWELL, limit.acquire_many(all)).await.is_err() {
            tracing::warn!("some sessions did not end; their transfers are closed at the next start");
        }
        Ok(())
    }

    fn spawn(
        self: &Arc<Self>,
        threads: &Threads,
        stream: tokio::net::UnixStream,
        permit: tokio::sync::OwnedSemaphorePermit,
    ) -> io::Result<()> {
        let stream = stream.into_std()?;
        stream.set_nonblocking(false)?;
        let number = {
            let mut open = self.open();
            open.next += 1;
            let number = open.next;
            open.streams.insert(number, stream.try_clone()?);
            number
        };
        let (all, runtime) = (self.clone(), Handle::current());
        threads.run(move || {
            let _permit = permit;
            let mut session = Session { all: &all, runtime, address: None, login: None, transfer: None };
            if let Err(error) = session.run(&stream) {
                tracing::warn!("a session's connection failed: {}", report(&error));
            }
            session.close();
            all.open().streams.remove(&number);
        });
        Ok(())
    }
}

/// The sessions' threads: a pool that is apart from that of all other blocking work, which sessions must not hold up.
struct Threads(Option<Runtime>);

impl Threads {
    fn new(most: usize) -> io::Result<Self> {
        let mut pool = Builder::new_current_thread();
        pool.thread_name("session").thread_stack_size(STACK).max_blocking_threads(most.max(1));
        Ok(Self(Some(pool.build()?)))
    }

    fn run(&self, session: impl FnOnce() + Send + 'static) {
        if let Some(pool) = &self.0 {
            pool.spawn_blocking(session);
        }
    }
}

impl Drop for Threads {
    /// Without a wait for those that are still at work.
    fn drop(&mut self) {
        self.0.take().into_iter().for_each(Runtime::shutdown_background);
    }
}

struct Login {
    customer: Name,
    access: Access,
    counter: Arc<File>,
}

struct Session<'a> {
    all: &'a Sessions,
    runtime: Handle,
    address: Option<IpAddr>,
    login: Option<Login>,
    transfer: Option<u64>,
}

impl Session<'_> {
    fn run(&mut self, stream: &UnixStream) -> Result<(), IpcError> {
        while let Some((frame, _)) = recv_frame(stream)? {
            let Message { body: Body::Request(request), literal: None, .. } = &frame.message else {
                return Err(IpcError::Mismatch);
            };
            let (reply, admitted) = match request {
                Request::FtpLogin { user, password, tls } => self.log_in(user.as_str(), password, *tls),
                request => (self.answer(request), None),
            };
            let message = frame.message.reply(reply.opaque());
            let fds = match (&admitted, &self.login) {
                (Some(directory), Some(login)) => vec![directory.as_fd(), login.counter.as_fd()],
                _ => Vec::<BorrowedFd<'_>>::new(),
            };
            send_frame(stream, &Frame { label: String::new(), message }, &fds)?;
        }
        Ok(())
    }

    fn answer(&mut self, request: &Request) -> Reply {
        match request {
            Request::FtpSession { address } => self.introduce(address),
            Request::TransferBegin { path, offset, tls } => self.begin(path.as_str(), *offset, *tls),
            Request::TransferEnd { transfer, bytes, tls, outcome } => {
                self.end(*transfer, *bytes, *tls, outcome.as_str())
            }
            Request::FtpDigest { path } => self.digest(path.as_str()),
            _ => fault(Fault::Invalid),
        }
    }

    fn introduce(&mut self, address: &Text) -> Reply {
        match (self.address, address.as_str().parse()) {
            (None, Ok(address)) => {
                self.address = Some(address);
                Reply::Done {}
            }
            _ => fault(Fault::Invalid),
        }
    }

    fn log_in(&mut self, user: &str, password: &tobj::Secret, tls: bool) -> (Reply, Option<std::os::fd::OwnedFd>) {
        // After one yes this socket decides no further login.
        let (Some(address), None) = (self.address, &self.login) else { return (fault(Fault::Invalid), None) };
        let admitted = match self.runtime.block_on(self.all.door.login(address, user, password, tls)) {
            Ok(admitted) => admitted,
            Err(code) => return (fault(code), None),
        };
        let customer = admitted.customer.clone();
        if !self.take_place(&customer) {
            tracing::warn!(%customer, %address, "too many sessions of one customer");
            let event = Event::new(self.all.door.clock.now().at, AuditEvent::LoginRefused);
            let event = Event { customer: Some(customer.to_string()), address: Some(address.to_string()), ..event };
            let event = event.outcome("too many sessions of this customer");
            self.all.door.engine.ride(Work::Refused { event, fold: false });
            return (fault(Fault::Busy), None);
        }
        let counter = match counter() {
            Ok(counter) => Arc::new(counter),
            Err(error) => {
                tracing::error!(%error, "no memory for a session's counter");
                self.leave_place(&customer);
                return (fault(Fault::Unavailable), None);
            }
        };
        let reply = Reply::FtpAdmitted { customer: admitted.customer.clone(), kind: admitted.kind() };
        self.login = Some(Login { customer, access: admitted.access, counter });
        (reply, Some(admitted.directory))
    }

    fn take_place(&self, customer: &Name) -> bool {
        let mut open = self.all.open();
        let places = open.customers.entry(customer.clone()).or_default();
        let free = *places < self.all.limits.sessions;
        *places += usize::from(free);
        free
    }

    fn leave_place(&self, customer: &Name) {
        let mut open = self.all.open();
        if let Some(places) = open.customers.get_mut(customer) {
            *places -= 1;
            if *places == 0 {
                open.customers.remove(customer);
            }
        }
    }

    /// What may be fetched, if only its rest, may be known by its hash.
    fn digest(&self, path: &str) -> Reply {
        let Some(login) = &self.login else { return fault(Fault::Invalid) };
        match self.all.door.digest(&login.access, path) {
            Ok(sha256) => Reply::Digest { sha256 },
            Err(code) => fault(code),
        }
    }

    fn begin(&mut self, path: &str, offset: u64, tls: Option<TlsVersion>) -> Reply {
        let (Some(login), Some(address), None) = (&self.login, self.address, self.transfer) else {
            return fault(Fault::Invalid);
        };
        if let Err(error) = login.counter.write_all_at(&0u64.to_le_bytes(), 0) {
            tracing::error!(%error, "a session's counter cannot be written");
            return fault(Fault::Unavailable);
        }
        let begun = Instant::now();
        let (access, path) = (login.access.clone(), path.to_owned());
        let begin = Begin { access, path, offset, tls, address: address.to_string() };
        match self.all.door.engine.ask_blocking(Work::Begin(begin)) {
            Ok(reply) => {
                if let Reply::Transfer { transfer } = reply {
                    self.transfer = Some(transfer);
                    let (counter, customer) = (login.counter.clone(), login.customer.clone());
                    let mut open = self.all.open();
                    open.transfers.insert(transfer, Running { counter, last: 0, customer, begun });
                    open.share(&login.customer, self.all.limits.bytes_per_second);
                }
                reply
            }
            Err(refusal) => {
                tracing::info!(%address, %refusal, "a transfer was refused");
                fault(refusal.fault)
            }
        }
    }

    fn end(&mut self, transfer: u64, bytes: u64, tls: Option<TlsVersion>, outcome: &str) -> Reply {
        if self.transfer != Some(transfer) {
            return fault(Fault::Invalid);
        }
        let outcome = match outcome {
            COMPLETE => COMPLETE,
            "aborted" => "aborted",
            "failed" => "failed",
            _ => return fault(Fault::Invalid),
        };
        self.finish(bytes, tls, outcome);
        Reply::Done {}
    }

    /// The record of the transfer under way goes with the next commit; until then it stands in the ledger as begun.
    fn finish(&mut self, bytes: u64, tls: Option<TlsVersion>, outcome: &'static str) {
        if let Some(transfer) = self.transfer.take() {
            let (mut open, mut milliseconds) = (self.all.open(), 0);
            if let Some(ended) = open.transfers.remove(&transfer) {
                milliseconds = ended.milliseconds();
                open.share(&ended.customer, self.all.limits.bytes_per_second);
            }
            drop(open);
            self.all.door.engine.ride(Work::End { transfer, bytes, milliseconds, tls, outcome });
        }
    }

    fn close(&mut self) {
        let bytes = self.login.as_ref().map_or(0, |login| count(&login.counter));
        self.finish(bytes, None, INTERRUPTED);
        if let Some(login) = &self.login {
            self.leave_place(&login.customer);
        }
    }
}

fn fault(fault: Fault) -> Reply {
    Reply::Fault { fault, text: Text::default() }
}

/// Memory that the session writes and we read; neither can change its size.
fn counter() -> io::Result<File> {
    let fd = memfd_create("transfer", MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING)?;
    let file = File::from(fd);
    file.set_len(COUNTER)?;
    let seals = SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_SEAL;
    fcntl(&file, FcntlArg::F_ADD_SEALS(seals))?;
    Ok(file)
}

fn count(counter: &File) -> u64 {
    let mut bytes = [0; 8];
    match counter.read_exact_at(&mut bytes, 0) {
        Ok(()) => u64::from_le_bytes(bytes),
        Err(_) => 0,
    }
}
