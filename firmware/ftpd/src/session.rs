//! One session: a client, the gate, libunftp behind it.
//!
//! ```text
//! client ==control==> client::Client -> gate::Gate: command table, paths, passive port
//!                                          |  loopback TCP pair, in clear, one command in flight
//!                                          +--> inner: Server::service() -> login::Doorman, backend::Depot
//! client <===data==== data::Data: sendfile | rustls <-- backend::Work from get_into and the listings
//! ```

mod backend;
mod client;
mod data;
mod disk;
mod gate;
mod inner;
mod listing;
mod login;
mod pace;
mod progress;
mod pump;
mod shared;
mod transfer;

pub use progress::Progress;

use crate::config::Config;
use crate::gatekeeper::{Gatekeeper, Introduced, Stagerd};
use crate::metrics::{Event, Limit};
use crate::readiness::readable;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use std::io;
use std::net::{Ipv4Addr, Shutdown, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

/// How long a failed login is answered later than a successful one.
pub const FAILED_LOGIN_DELAY: Duration = Duration::from_secs(1);

/// How long a session that has had its time, and sends nothing any more, may take for its last words.
pub const FAREWELL: Duration = Duration::from_secs(2);

/// What PASV answers as address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Public {
    /// That which the client has reached.
    Local,
    /// This one.
    At(Ipv4Addr),
    /// There is a name for it that could not be resolved yet.
    Unknown,
}

/// Tells the forker what to count.
#[derive(Debug)]
pub struct Reporter(UnixDatagram);

impl Reporter {
    /// By this socket, which must not block.
    pub fn new(socket: UnixDatagram) -> Self {
        Self(socket)
    }

    fn note(&self, event: Event) {
        // A forker that is behind with its counting misses some; nobody waits for it.
        let _ = self.0.send(&event.encode());
    }
}

/// What a session is given beside its client.
pub struct Context {
    /// The configuration.
    pub config: Arc<Config>,
    /// The certificate as it is now.
    pub tls: Option<TlsAcceptor>,
    /// What PASV answers.
    pub public: Public,
    /// Where events are counted, if anywhere.
    pub reporter: Option<Reporter>,
    /// See [`FAILED_LOGIN_DELAY`].
    pub failed_login_delay: Duration,
}

impl Context {
    pub(crate) fn note(&self, event: Event) {
        if let Some(reporter) = &self.reporter {
            reporter.note(event);
        }
    }
}

/// Serves one client in this process, which the forker has just made; returns when the session is over.
///
/// # Errors
/// What ended the session, if it was not the client or a deadline.
pub fn run(client: TcpStream, introduced: Introduced, context: Context) -> io::Result<()> {
    let runtime = runtime()?;
    let _inside = runtime.enter();
    let (stop, stopping) = watch::channel(false);
    let (busy, mut transferring) = watch::channel(false);
    let signals = termination()?;
    let (drain, longest) = (context.config.drain(), context.config.session());
    let control = client.try_clone()?;
    let context = Arc::new(context);
    let outer = context.clone();
    let session = serve_with(client, Box::new(Stagerd::new(introduced)?), context, stopping, busy);
    let outcome = runtime.block_on(async {
        let ended = async {
            // The forker, or its death, tells that it is time to go.
            let _signal = signals.readable().await?;
            stop.send_replace(true);
            tokio::time::sleep(drain).await;
            tracing::info!("session cut: the time to finish is over");
            Ok(())
        };
        let aged = async {
            tokio::time::sleep(longest).await;
            tracing::info!("session over: it was the longest allowed");
            outer.note(Event::Limit(Limit::Session));
            stop.send_replace(true);
            // A transfer of hours is not broken off; its own limits hold. The gate says when it is over, unless it is gone itself.
            let _ = transferring.wait_for(|transferring| !transferring).await;
            tokio::time::sleep(FAREWELL).await;
            tracing::info!("session cut: it did not end");
            Ok(())
        };
        tokio::select! {
            outcome = session => outcome,
            outcome = ended => outcome,
            outcome = aged => outcome,
        }
    });
    // A process whose other thread waits for a disk that hangs lives on for a while, and its sockets with it.
    let _ = control.shutdown(Shutdown::Both);
    outcome
}

/// Serves one client with any gatekeeper and without the signals of a forked process: for warming up.
///
/// # Errors
/// As [`run`].
pub fn serve(client: TcpStream, gatekeeper: Box<dyn Gatekeeper>, context: Context) -> io::Result<()> {
    let runtime = runtime()?;
    let _inside = runtime.enter();
    let (_stop, stopping) = watch::channel(false);
    let (busy, _transferring) = watch::channel(false);
    runtime.block_on(serve_with(client, gatekeeper, Arc::new(context), stopping, busy))
}

async fn serve_with(
    client: TcpStream,
    gatekeeper: Box<dyn Gatekeeper>,
    context: Arc<Context>,
    stopping: watch::Receiver<bool>,
    busy: watch::Sender<bool>,
) -> io::Result<()> {
    client.set_nonblocking(true)?;
    client.set_nodelay(true)?;
    let client = tokio::net::TcpStream::from_std(client)?;
    let gate = match gate::Gate::new(client, gatekeeper, context, stopping, busy) {
        // The client was gone before its session began.
        Err(error) if error.kind() == io::ErrorKind::NotConnected => return Ok(()),
        gate => gate?,
    };
    match gate.run().await {
        // The client went away, or took no reply: that is how sessions end.
        Err(error) if is_clients(&error) => Ok(()),
        outcome => outcome,
    }
}

fn is_clients(error: &io::Error) -> bool {
    use io::ErrorKind::{
        BrokenPipe, ConnectionAborted, ConnectionReset, HostUnreachable, InvalidData, NetworkUnreachable, TimedOut,
        UnexpectedEof,
    };
    match error.kind() {
        BrokenPipe | ConnectionAborted | ConnectionReset | InvalidData | TimedOut | UnexpectedEof => true,
        // So a connection ends whose keepalive is not answered, where a router has said why.
        HostUnreachable | NetworkUnreachable => true,
        _ => false,
    }
}

fn runtime() -> io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}

/// SIGTERM and SIGINT of this process, as a descriptor. tokio's own handling of signals would go through a pipe that all sessions
/// share, since it is made once, in the forker.
fn termination() -> io::Result<AsyncFd<OwnedFd>> {
    let mut mask = SigSet::empty();
    mask.add(Signal::SIGTERM);
    mask.add(Signal::SIGINT);
    mask.thread_block()?;
    let signals = SignalFd::with_flags(&mask, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?;
    readable(signals.as_fd())
}

/// Closes the socket with RST: no TIME_WAIT stays behind, and what was sent does not look complete.
fn reset_on_close(socket: &impl AsFd, reset: bool) -> io::Result<()> {
    let linger = libc::linger { l_onoff: reset.into(), l_linger: 0 };
    Ok(nix::sys::socket::setsockopt(socket, nix::sys::socket::sockopt::Linger, &linger)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_sessions_end_by_their_clients() {
        for errno in [libc::EPIPE, libc::ECONNRESET, libc::ETIMEDOUT, libc::EHOSTUNREACH, libc::ENETUNREACH] {
            let error = io::Error::from_raw_os_error(errno);
            assert!(is_clients(&error), "{error}");
        }
        for errno in [libc::EIO, libc::EPERM, libc::EMFILE] {
            assert!(!is_clients(&io::Error::from_raw_os_error(errno)));
        }
    }
}
