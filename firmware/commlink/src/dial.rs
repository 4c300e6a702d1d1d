//! Reaching a machine on the ports of its range.

use std::future::Future;
use std::io;
use std::time::Duration;

use keys::LinkKind;
use nix::sys::socket::{setsockopt, sockopt};
use serde::Deserialize;
use thiserror::Error;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::policy;

/// How long a port may be silent before the next is tried beside it.
pub const STAGGER: Duration = Duration::from_millis(250);

/// How long reaching a machine may take over all its ports.
pub const DIAL: Duration = Duration::from_secs(10);

/// Most ports in a range.
pub const MAX_PORTS: u16 = 256;

/// A range of ports, both ends included; written `[first, last]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "(u16, u16)")]
pub struct Ports {
    first: u16,
    last: u16,
}

/// A range that is empty, contains port 0 or has more than [`MAX_PORTS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the ports must be [first, last], from 1 on and at most {MAX_PORTS} of them")]
pub struct BadPorts;

impl Ports {
    /// The ports from `first` to `last`.
    ///
    /// # Errors
    /// [`BadPorts`].
    pub fn new(first: u16, last: u16) -> Result<Self, BadPorts> {
        let good = first > 0 && first <= last && last - first < MAX_PORTS;
        if good { Ok(Self { first, last }) } else { Err(BadPorts) }
    }

    /// All of them, in order.
    pub fn iter(self) -> impl Iterator<Item = u16> {
        self.first..=self.last
    }

    /// All of them, in order from a random one on, so that the clients of a machine spread over its range.
    ///
    /// # Errors
    /// When the system gives no randomness.
    pub fn spread(self) -> Result<Vec<u16>, getrandom::Error> {
        let mut ports: Vec<u16> = self.iter().collect();
        let start = usize::try_from(getrandom::u32()?).unwrap_or(0) % ports.len();
        ports.rotate_left(start);
        Ok(ports)
    }
}

impl TryFrom<(u16, u16)> for Ports {
    type Error = BadPorts;

    fn try_from((first, last): (u16, u16)) -> Result<Self, BadPorts> {
        Self::new(first, last)
    }
}

/// Why a machine was not reached.
#[derive(Debug, Error)]
pub enum DialError<E> {
    /// No port led anywhere; this is the failure of the one tried last.
    #[error("none of the ports answers")]
    Ports(#[source] E),
    /// Not within [`DIAL`].
    #[error("no port answered within {DIAL:?}")]
    Late,
    /// No randomness to spread over the ports.
    #[error("the system gives no randomness")]
    Random(#[from] getrandom::Error),
}

/// Makes `attempt` on the ports of a range, from a random one on: the next at once when one fails, and beside the
/// others when they are silent for [`STAGGER`]. The first success counts, the other attempts are dropped.
///
/// # Errors
/// [`DialError`].
pub async fn dial<T, E, F, Fut>(ports: Ports, attempt: F) -> Result<T, DialError<E>>
where
    F: Fn(u16) -> Fut,
    Fut: Future<Output = Result<T, E>> + Send + 'static,
    T: Send + 'static,
    E: Send + 'static,
{
    timeout(DIAL, race(ports.spread()?, attempt)).await.map_err(|_| DialError::Late)?
}

async fn race<T, E, F, Fut>(ports: Vec<u16>, attempt: F) -> Result<T, DialError<E>>
where
    F: Fn(u16) -> Fut,
    Fut: Future<Output = Result<T, E>> + Send + 'static,
    T: Send + 'static,
    E: Send + 'static,
{
    let mut attempts = JoinSet::new();
    let mut ports = ports.into_iter().peekable();
    let mut failure = None;
    loop {
        if let Some(port) = ports.next() {
            attempts.spawn(attempt(port));
        }
        let more = ports.peek().is_some();
        let next = tokio::select! {
            ended = attempts.join_next() => ended,
            () = tokio::time::sleep(STAGGER), if more => continue,
        };
        match next {
            Some(Ok(Ok(reached))) => return Ok(reached),
            Some(Ok(Err(error))) => failure = Some(error),
            // An attempt that panicked is none; the others go on.
            Some(Err(_)) => {}
            None if more => {}
            None => return failure.map_or(Err(DialError::Late), |error| Err(DialError::Ports(error))),
        }
    }
}

/// One TCP connection for a link of this kind, tuned.
///
/// # Errors
/// When it cannot be made.
pub async fn connect(host: &str, port: u16, kind: LinkKind) -> io::Result<TcpStream> {
    let stream = TcpStream::connect((host, port)).await?;
    tune(&stream)?;
    if !policy::carries_literals(kind) {
        setsockopt(&stream, sockopt::TcpUserTimeout, &UNACKNOWLEDGED)?;
    }
    Ok(stream)
}

/// Milliseconds after which a connection is broken because what was sent is not acknowledged: shorter than an answer is
/// waited for, so that there is time to ask again. A firewall that drops an idle connection tells nobody, and [`KEEPALIVE`]
/// is silent while something is unacknowledged.
///
/// Not for links with literals: the kernel counts a window that stays closed the same way, and the disk behind may well take
/// nothing for up to [`STALL`](crate::connection::STALL). On the others all that is sent is read at once.
///
/// With it, the kernel gives up an idle connection after one question that nobody answers instead of [`PROBES`].
const UNACKNOWLEDGED: u32 = 15_000;

/// Seconds of silence before the kernel asks whether the peer is still there, and between its further questions.
const KEEPALIVE: u32 = 20;

/// Questions without an answer after which the connection is dead.
const PROBES: u32 = 3;

/// Small messages go at once, and a peer that is gone without a word is found out also where nobody writes to it.
///
/// # Errors
/// When the socket refuses.
pub fn tune(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    setsockopt(stream, sockopt::KeepAlive, &true)?;
    setsockopt(stream, sockopt::TcpKeepIdle, &KEEPALIVE)?;
    setsockopt(stream, sockopt::TcpKeepInterval, &KEEPALIVE)?;
    setsockopt(stream, sockopt::TcpKeepCount, &PROBES)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use nix::sys::socket::getsockopt;
    use tokio::net::TcpListener;

    use super::*;
    use crate::client::ANSWER;

    #[test]
    fn ranges_at_their_edges() {
        assert!(Ports::new(1, 1).is_ok() && Ports::new(1, MAX_PORTS).is_ok() && Ports::new(65535, 65535).is_ok());
        for (first, last) in [(0, 0), (0, 5), (6, 5), (1, MAX_PORTS + 1), (1, 65535)] {
            assert_eq!(Ports::new(first, last), Err(BadPorts), "{first} {last}");
        }
        assert_eq!(Ports::new(65530, 65535).unwrap().iter().count(), 6);
        let mut spread = Ports::new(7640, 7655).unwrap().spread().unwrap();
        spread.sort_unstable();
        assert_eq!(spread, (7640..=7655).collect::<Vec<_>>());
    }

    #[tokio::test(start_paused = true)]
    async fn refused_ports_cost_nothing_and_silent_ones_little() {
        let ports = Ports::new(1, 16).unwrap();
        let start = tokio::time::Instant::now();
        let reached = dial(ports, |port| async move { if port == 9 { Ok(port) } else { Err(()) } }).await;
        assert_eq!(reached.unwrap(), 9);
        assert!(start.elapsed() < STAGGER);
        let reached = dial(ports, |port| async move {
            if port != 9 {
                std::future::pending::<()>().await;
            }
            Ok::<u16, ()>(port)
        });
        assert_eq!(reached.await.unwrap(), 9);
        assert!(start.elapsed() <= STAGGER * 16);
    }

    #[tokio::test]
    async fn only_literals_may_stay_unacknowledged() {
        assert!(Duration::from_millis(UNACKNOWLEDGED.into()) + DIAL < ANSWER);
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        for (kind, expected) in [
            (LinkKind::WebDownload, UNACKNOWLEDGED),
            (LinkKind::WebDatabase, UNACKNOWLEDGED),
            (LinkKind::DownloadDatabase, UNACKNOWLEDGED),
            (LinkKind::Operator, 0),
        ] {
            let stream = connect("127.0.0.1", port, kind).await.unwrap();
            assert_eq!(getsockopt(&stream, sockopt::TcpUserTimeout).unwrap(), expected, "{kind:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn every_port_is_tried_once_before_giving_up() {
        let tried = Arc::new(Mutex::new(Vec::new()));
        let outcome = dial(Ports::new(1, 16).unwrap(), |port| {
            tried.lock().unwrap().push(port);
            async move { Err::<(), u16>(port) }
        });
        assert!(matches!(outcome.await, Err(DialError::Ports(_))));
        tried.lock().unwrap().sort_unstable();
        assert_eq!(*tried.lock().unwrap(), (1..=16).collect::<Vec<_>>());
        let silent = dial(Ports::new(1, 2).unwrap(), |_| std::future::pending::<Result<(), ()>>());
        assert!(matches!(silent.await, Err(DialError::Late)));
    }
}
