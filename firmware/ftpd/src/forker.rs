//! The forker: accepts, keeps the limits, makes a process for each session, and survives whatever becomes of it.
//!
//! It has one thread and no runtime, so that fork(2) copies nothing half-done. All its waiting is in one poll(2): on the listeners
//! and on a signalfd for SIGCHLD, SIGTERM, SIGINT and SIGHUP.

mod child;
mod metrics;
mod resolve;
mod warm;

use crate::config::Config;
use crate::confine::{ConfineError, keep_chroot_only};
use crate::filter::{Filter, FilterError};
use crate::gatekeeper::introduce;
use crate::limits::{MOST_SESSIONS, Origin, Sessions, fitting};
use crate::metrics::{Event, Limit};
use crate::session::{Context, FAILED_LOGIN_DELAY};
use crate::tls::{Certificate, TlsError};
use child::Newborn;
use daemon::notify;
use metrics::Desk;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::socket::{self, AddressFamily, Backlog, SockFlag, SockType, SockaddrStorage, setsockopt, sockopt};
use nix::sys::sysinfo::sysinfo;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use resolve::Resolver;
use std::io::{self, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Connections that may wait for the forker.
pub const BACKLOG: i32 = 1024;

/// Connections taken from one listener before the others, and the signals, have their turn.
pub const BATCH: usize = 64;

/// Seconds without a byte on a control connection after which the client's machine is asked whether it is there, and between two such
/// questions. A transfer may take hours, and what stands between the two forgets connections that are silent for minutes.
pub const KEEPALIVE: u32 = 60;

/// How long no connection is taken after the system had no descriptor or no memory for one.
pub const PAUSE: Duration = Duration::from_millis(100);

/// The longest wait in poll(2), so that a clock that jumps cannot hold the watchdog up for ever.
const WAIT: Duration = Duration::from_secs(60);

/// Why ftpd cannot start or go on.
#[derive(Debug, thiserror::Error)]
pub enum ForkerError {
    /// An address cannot be listened on.
    #[error("cannot listen on {address}")]
    Listen {
        /// Which.
        address: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Certificate and key cannot be used.
    #[error("no TLS")]
    Tls(#[from] TlsError),
    /// Privileges are not as they must be.
    #[error("the privileges of this process are not right")]
    Privileges(#[from] ConfineError),
    /// Sessions cannot be kept to their system calls.
    #[error("no filter of system calls")]
    Filter(#[from] FilterError),
    /// There is no way to metrics.
    #[error("metrics cannot be offered")]
    Metrics(#[source] io::Error),
    /// No session can be served.
    #[error("the trial session failed")]
    Warm(#[source] io::Error),
    /// Signals or descriptors cannot be waited for.
    #[error("waiting failed")]
    Wait(#[source] Errno),
}

/// Listens on all addresses of the configuration, IPv4 and IPv6 apart.
///
/// # Errors
/// [`ForkerError::Listen`].
pub fn bind(config: &Config) -> Result<Vec<TcpListener>, ForkerError> {
    let one = |address: &SocketAddr| {
        listen(*address).map_err(|source| ForkerError::Listen { address: *address, source: source.into() })
    };
    config.listen.iter().map(one).collect()
}

fn listen(address: SocketAddr) -> Result<TcpListener, Errno> {
    // Accepted sockets inherit these.
    listener(address, |socket| {
        // Telnet's Synch stays in the stream.
        setsockopt(socket, sockopt::OobInline, &true)?;
        setsockopt(socket, sockopt::KeepAlive, &true)?;
        setsockopt(socket, sockopt::TcpKeepIdle, &KEEPALIVE)?;
        setsockopt(socket, sockopt::TcpKeepInterval, &KEEPALIVE)
    })
}

/// Listens without blocking; `prepare` sets what is particular to this socket.
fn listener(address: SocketAddr, prepare: impl FnOnce(&OwnedFd) -> Result<(), Errno>) -> Result<TcpListener, Errno> {
    let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket::socket(family, SockType::Stream, flags, None)?;
    setsockopt(&socket, sockopt::ReuseAddr, &true)?;
    if address.is_ipv6() {
        setsockopt(&socket, sockopt::Ipv6V6Only, &true)?;
    }
    prepare(&socket)?;
    socket::bind(socket.as_raw_fd(), &SockaddrStorage::from(address))?;
    socket::listen(&socket, Backlog::new(BACKLOG)?)?;
    Ok(socket.into())
}

/// Serves until SIGTERM or SIGINT, and then until the last session is over or `drain_seconds` have passed.
///
/// SIGHUP has the file of the configuration read again, for sessions to come.
///
/// # Errors
/// [`ForkerError`]. What befalls a session is not an error of the forker.
pub fn run(file: &Path, config: Config, listeners: Vec<TcpListener>) -> Result<(), ForkerError> {
    keep_chroot_only()?;
    let certificate = certificate(&config)?;
    let config = Arc::new(config);
    warm::up(&config, certificate.as_ref().map(Certificate::acceptor)).map_err(ForkerError::Warm)?;
    let forker = Forker::new(file, config, certificate, listeners, fitting_here())?;
    forker.filter.install()?;
    child::trim();
    notify::ready();
    // In a child the forker is dropped on the way: nothing of it stays open in a session.
    match forker.serve()? {
        Some(newborn) => child::live(newborn),
        None => Ok(()),
    }
}

/// How many sessions this machine is for. Asked once, at the start: the filter has no call for it.
fn fitting_here() -> usize {
    // It says no only to who asks for something impossible; then nobody knows what fits.
    sysinfo().map_or(MOST_SESSIONS, |system| fitting(system.ram_total()))
}

fn certificate(config: &Config) -> Result<Option<Certificate>, TlsError> {
    match (&config.cert, &config.key) {
        (Some(cert), Some(key)) => Certificate::load(cert, key).map(Some),
        _ => Ok(None),
    }
}

fn signals() -> Result<SignalFd, Errno> {
    let mut mask = SigSet::empty();
    for signal in [Signal::SIGCHLD, Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        mask.add(signal);
    }
    mask.thread_block()?;
    SignalFd::with_flags(&mask, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)
}

struct Forker {
    file: PathBuf,
    config: Arc<Config>,
    filter: Arc<Filter>,
    desk: Desk,
    resolver: Resolver,
    certificate: Option<Certificate>,
    listeners: Vec<TcpListener>,
    signals: SignalFd,
    sessions: Sessions,
    /// Most sessions where nothing is configured.
    fitting: usize,
    /// No connections are taken until then.
    paused: Option<Instant>,
    /// Set once it is to end: when what is left is killed.
    stop: Option<Instant>,
}

impl Forker {
    fn new(
        file: &Path,
        config: Arc<Config>,
        certificate: Option<Certificate>,
        listeners: Vec<TcpListener>,
        fitting: usize,
    ) -> Result<Self, ForkerError> {
        Ok(Self {
            sessions: Sessions::new(config.most_sessions(fitting), config.max_per_address),
            fitting,
            signals: signals().map_err(ForkerError::Wait)?,
            desk: Desk::new(config.metrics).map_err(ForkerError::Metrics)?,
            resolver: Resolver::new(config.public_address.as_deref()),
            filter: Filter::new()?.into(),
            file: file.to_owned(),
            config,
            certificate,
            listeners,
            paused: None,
            stop: None,
        })
    }

    /// Serves until the end; returns earlier, with a session, in each child.
    fn serve(mut self) -> Result<Option<Newborn>, ForkerError> {
        let interval = notify::watchdog_interval().unwrap_or(WAIT);
        let mut ping = Instant::now();
        loop {
            if ping <= Instant::now() {
                notify::ping();
                ping = Instant::now() + interval;
            }
            if let Some(deadline) = self.stop {
                if self.sessions.count() == 0 {
                    return Ok(None);
                }
                if deadline <= Instant::now() {
                    tracing::warn!(sessions = self.sessions.count(), "sessions are killed: the time to finish is over");
                    self.tell_all(Signal::SIGKILL);
                    self.stop = Some(Instant::now() + WAIT);
                }
            }
            let until = [Some(ping), self.paused, self.stop, self.desk.until(), self.resolver.until()]
                .into_iter()
                .flatten()
                .min()
                .unwrap_or(ping);
            let ready = self.wait(until.saturating_duration_since(Instant::now()).min(WAIT))?;
            self.take_signals()?;
            self.desk.work(self.sessions.count());
            self.resolver.work();
            for index in ready {
                if let Some(newborn) = self.accept(index) {
                    return Ok(Some(newborn));
                }
            }
        }
    }

    /// Waits; gives the listeners at which a connection is waiting.
    fn wait(&mut self, most: Duration) -> Result<Vec<usize>, ForkerError> {
        self.paused = self.paused.filter(|until| *until > Instant::now());
        let mut fds = Vec::new();
        if self.paused.is_none() {
            fds.extend(self.listeners.iter().map(|l| PollFd::new(l.as_fd(), PollFlags::POLLIN)));
        }
        let listeners = fds.len();
        fds.push(PollFd::new(self.signals.as_fd(), PollFlags::POLLIN));
        fds.extend(self.desk.fds());
        fds.extend(self.resolver.fd());
        // Rounded up: a wait that ends a moment too early would be repeated without a pause.
        let timeout = PollTimeout::try_from(most + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX);
        match poll(&mut fds, timeout) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(ForkerError::Wait(errno)),
        }
        let ready = |fd: &PollFd<'_>| fd.any().unwrap_or(false);
        Ok(fds[..listeners].iter().enumerate().filter(|(_, fd)| ready(fd)).map(|(index, _)| index).collect())
    }

    fn take_signals(&mut self) -> Result<(), ForkerError> {
        while let Some(info) = self.signals.read_signal().map_err(ForkerError::Wait)? {
            let signal = i32::try_from(info.ssi_signo).ok().and_then(|n| Signal::try_from(n).ok());
            match signal {
                Some(Signal::SIGTERM | Signal::SIGINT) if self.stop.is_none() => {
                    tracing::info!(sessions = self.sessions.count(), "stopping");
                    notify::stopping();
                    // Sessions end themselves within that time; this is for those that do not.
                    self.stop = Some(Instant::now() + self.config.drain() + Duration::from_secs(1));
                    self.tell_all(Signal::SIGTERM);
                }
                Some(Signal::SIGHUP) => {
                    notify::reloading();
                    self.reload();
                    notify::ready();
                }
                // SIGCHLD is merged with others of its kind, so it says no more than "look".
                _ => {}
            }
        }
        self.reap();
        Ok(())
    }

    fn reap(&mut self) {
        loop {
            match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(pid, code)) => {
                    if code != 0 {
                        tracing::warn!(pid = pid.as_raw(), code, "a session failed");
                    }
                    self.sessions.remove(pid.as_raw());
                }
                Ok(WaitStatus::Signaled(pid, signal, _)) => {
                    tracing::warn!(pid = pid.as_raw(), %signal, "a session was killed");
                    self.sessions.remove(pid.as_raw());
                }
                Ok(WaitStatus::StillAlive) | Err(_) => return,
                Ok(_) => {}
            }
        }
    }

    fn tell_all(&self, signal: Signal) {
        for pid in self.sessions.pids() {
            // One that has just ended is still there until it is reaped.
            let _ = kill(Pid::from_raw(pid), signal);
        }
    }

    /// The configuration as the file has it now, for sessions to come. One that cannot be used changes nothing.
    fn reload(&mut self) {
        let new = daemon::config::load::<Config>(&self.file).map_err(|e| daemon::report(&e));
        let new = new.and_then(|new| new.check().map(|()| new).map_err(|e| daemon::report(&e)));
        let new = new.and_then(|new| match certificate(&new) {
            Ok(certificate) => Ok((new, certificate)),
            Err(error) => Err(daemon::report(&error)),
        });
        let (config, certificate) = match new {
            Ok(new) => new,
            Err(why) => {
                tracing::error!("the new configuration is not used, the old one stays: {why}");
                return;
            }
        };
        if (&config.listen, config.metrics) != (&self.config.listen, self.config.metrics) {
            tracing::warn!("other addresses to listen on are taken with the next start");
        }
        self.sessions.limit(config.most_sessions(self.fitting), config.max_per_address);
        self.resolver = Resolver::new(config.public_address.as_deref()).after(&self.resolver);
        (self.config, self.certificate) = (config.into(), certificate);
        tracing::info!("the configuration was read again");
    }

    fn refresh(&mut self) {
        if let Some(certificate) = &mut self.certificate
            && let Err(error) = certificate.refresh()
        {
            tracing::error!("the new certificate is not used: {}", daemon::report(&error));
        }
    }

    /// Takes what waits at a listener; gives something in a child only.
    fn accept(&mut self, index: usize) -> Option<Newborn> {
        for _ in 0..BATCH {
            match self.listeners.get(index)?.accept() {
                Ok((client, address)) => {
                    if let Some(newborn) = self.take(client, address) {
                        return Some(newborn);
                    }
                }
                Err(error) => match error.raw_os_error().map(Errno::from_raw) {
                    Some(Errno::EMFILE | Errno::ENFILE | Errno::ENOMEM | Errno::ENOBUFS) => {
                        tracing::error!(%error, "no connection can be taken for a moment");
                        self.paused = Some(Instant::now() + PAUSE);
                        return None;
                    }
                    Some(Errno::EAGAIN) => return None,
                    // The client is gone already, or the network told of an error of its own (accept(2)).
                    _ => {}
                },
            }
        }
        None
    }

    fn take(&mut self, client: TcpStream, address: SocketAddr) -> Option<Newborn> {
        let ip = address.ip().to_canonical();
        if self.stop.is_some() {
            self.refuse(&client, Limit::Stopping, "The service stops, try again later");
            return None;
        }
        let origin = Origin::from(ip);
        if let Err(full) = self.sessions.admit(origin) {
            // It is counted. A line for each would let any stranger push all others out of the journal.
            tracing::debug!(address = %ip, "{full}");
            self.refuse(&client, full.into(), "Too many connections, try again later");
            return None;
        }
        let introduced = match introduce(&self.config.sessions, ip) {
            Ok(introduced) => introduced,
            Err(error) => {
                tracing::error!("stagerd cannot be reached: {}", daemon::report(&error));
                self.refuse(&client, Limit::Resources, "The service is not available, try again later");
                return None;
            }
        };
        self.refresh();
        let context = Context {
            config: self.config.clone(),
            tls: self.certificate.as_ref().map(Certificate::acceptor),
            public: self.resolver.known(),
            reporter: self.desk.reporter(),
            failed_login_delay: FAILED_LOGIN_DELAY,
        };
        let filter = self.filter.clone();
        match child::fork() {
            Ok(child::Side::Child { forker }) => return Some(Newborn { forker, client, introduced, context, filter }),
            Ok(child::Side::Parent(pid)) => {
                self.sessions.insert(pid.as_raw(), origin);
                self.desk.metrics.session();
            }
            Err(errno) => {
                tracing::error!(error = %errno, "no process for a session");
                self.refuse(&client, Limit::Resources, "Too many connections, try again later");
            }
        }
        None
    }

    /// Tells a client that there is no session, without ever waiting for it.
    fn refuse(&mut self, client: &TcpStream, limit: Limit, why: &str) {
        self.desk.metrics.note(Event::Limit(limit));
        // The socket is new, so its buffer takes the line; if not, the client learns it from the end of the connection.
        if client.set_nonblocking(true).is_ok() {
            let mut client = client;
            let _ = client.write(format!("421 {why}\r\n").as_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_families_on_one_port() {
        let four = listen("127.0.0.1:0".parse().unwrap()).unwrap();
        let port = four.local_addr().unwrap().port();
        let Ok(six) = listen(SocketAddr::new("::".parse().unwrap(), port)) else {
            panic!("IPv6 and IPv4 are listened on apart, so the port is free");
        };
        assert_eq!(six.local_addr().unwrap().port(), port);
    }

    #[test]
    fn what_accepted_sockets_inherit() {
        use nix::sys::socket::getsockopt;
        let listener = listen("127.0.0.1:0".parse().unwrap()).unwrap();
        let _client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        poll(&mut [PollFd::new(listener.as_fd(), PollFlags::POLLIN)], PollTimeout::from(10_000u16)).unwrap();
        let (socket, _) = listener.accept().unwrap();
        assert!(getsockopt(&socket, sockopt::OobInline).unwrap());
        assert!(getsockopt(&socket, sockopt::KeepAlive).unwrap());
        assert_eq!(getsockopt(&socket, sockopt::TcpKeepIdle).unwrap(), KEEPALIVE);
        assert_eq!(getsockopt(&socket, sockopt::TcpKeepInterval).unwrap(), KEEPALIVE);
    }

    #[test]
    fn as_many_as_fit_here() {
        assert!((1..=MOST_SESSIONS).contains(&fitting_here()), "{}", fitting_here());
    }

    /// Under the filter nobody tells how much memory there is.
    #[test]
    fn another_configuration_leaves_what_fits_as_it_is() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(&file, "listen = [\"127.0.0.1:0\"]\nmax_sessions = 1").unwrap();
        let config = daemon::config::load::<Config>(file.path()).unwrap();
        let mut forker = Forker::new(file.path(), config.into(), None, Vec::new(), 2).unwrap();
        let origin = Origin::from(std::net::IpAddr::from([192, 0, 2, 1]));
        let free = |forker: &Forker| forker.sessions.admit(origin).is_ok();
        forker.sessions.insert(1, origin);
        assert!(!free(&forker));
        std::fs::write(&file, "listen = [\"127.0.0.1:0\"]").unwrap();
        forker.reload();
        assert!(free(&forker));
        forker.sessions.insert(2, origin);
        assert!(!free(&forker), "two are what fits");
    }

    #[test]
    fn an_address_that_is_taken() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let text = format!("listen = [\"{}\"]", taken.local_addr().unwrap());
        let error = bind(&toml::from_str(&text).unwrap()).unwrap_err();
        assert!(daemon::report(&error).contains("cannot listen on 127.0.0.1"), "{error}");
    }
}
