//! The server: accepts sealed connections and answers what the [table](crate::policy) allows.

mod limits;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use daemon::{Service, Shutdown};
use keys::LinkKind;
use keys::site::Role;
use thiserror::Error;
use tobj::{Body, Fault, Message, Reply, Request};
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;
use tokio_util::task::TaskTracker;

use crate::connection::{Connection, ConnectionError, STALL};
use crate::dial::{self, Ports};
use crate::policy::{self, Opener};
use crate::relay::{self, MAX_RELAYS, Target};
use crate::sealed::{self, HANDSHAKE, SealError};
use crate::stall::Stall;
use crate::{Bags, BagsError};
use limits::{HalfOpen, Links};

pub use limits::{MAX_CONNECTIONS, MAX_HALF_OPEN, MAX_HALF_OPEN_PER_ADDRESS, MAX_PER_LINK};

/// How long a connection may wait for its next request.
pub const IDLE: Duration = Duration::from_secs(120);

/// How long a peer that still sends after its answer is listened to, so that the answer reaches it.
pub const LINGER: Duration = Duration::from_secs(5);

/// How long transactions under way may take when the server is to stop.
pub const DRAIN: Duration = Duration::from_secs(10);

/// What the server is and holds.
#[derive(Clone, Debug)]
pub struct Setup {
    /// The role of this machine.
    pub role: Role,
    /// Its bags.
    pub bags: Arc<Bags>,
    /// Where relayed connections go; none on machines that do not relay.
    pub relay: Option<Target>,
}

/// Why a connection was ended by us. For our own log only.
#[derive(Debug, Error)]
enum Breach {
    #[error("no session")]
    Seal(#[from] SealError),
    #[error("the connection failed")]
    Connection(#[from] ConnectionError),
    #[error("no request within {HANDSHAKE:?} of the connection")]
    Silent,
    #[error("pushed out by newer connections before it was through its handshake")]
    Evicted,
    #[error("more than {MAX_PER_LINK} connections of the link, or {MAX_CONNECTIONS} in all")]
    TooMany,
    #[error("a link of this kind does not touch this machine")]
    Kind,
    #[error("a reply where a request was due")]
    NotARequest,
}

/// Checks that each bag is of a link that a machine of this role and name has.
///
/// # Errors
/// [`BagsError::Foreign`] with the first that is not.
pub fn check_bags(bags: &Bags, role: Role, name: &str) -> Result<(), BagsError> {
    match bags.iter().find(|bag| policy::across(bag.kind(), role).is_none() || bag.local() != name) {
        Some(bag) => {
            Err(BagsError::Foreign { link: bag.link().to_owned(), role: role.as_str(), name: name.to_owned() })
        }
        None => Ok(()),
    }
}

/// Binds every port of a range on every address.
///
/// # Errors
/// When one cannot be bound; the address and port are in the message.
pub async fn bind(addresses: &[IpAddr], ports: Ports) -> io::Result<Vec<TcpListener>> {
    let mut listeners = Vec::new();
    for address in addresses {
        for port in ports.iter() {
            let at = SocketAddr::new(*address, port);
            let listener = TcpListener::bind(at).await;
            listeners.push(listener.map_err(|error| io::Error::new(error.kind(), format!("{at}: {error}")))?);
        }
    }
    Ok(listeners)
}

struct Shared<S> {
    setup: Setup,
    service: S,
    half_open: HalfOpen,
    links: Links,
    relays: Arc<Semaphore>,
    shutdown: Shutdown,
}

/// Serves until the shutdown; transactions under way then are finished first, for up to [`DRAIN`].
///
/// `service` answers every request that the table allows, except `RELAY`, which is the server's own. What it says of a
/// fault in words goes to operators only.
///
/// # Errors
/// When a listener fails for good.
pub async fn serve<S: Service>(
    listeners: Vec<TcpListener>,
    setup: Setup,
    service: S,
    shutdown: Shutdown,
) -> io::Result<()> {
    let shared = Arc::new(Shared {
        setup,
        service,
        half_open: HalfOpen::default(),
        links: Links::default(),
        relays: Arc::new(Semaphore::new(MAX_RELAYS)),
        shutdown: shutdown.clone(),
    });
    let connections = TaskTracker::new();
    let mut accepting = tokio::task::JoinSet::new();
    for listener in listeners {
        accepting.spawn(accept(listener, shared.clone(), connections.clone()));
    }
    let mut outcome = Ok(());
    while let Some(ended) = accepting.join_next().await {
        outcome = ended.map_err(io::Error::other).and_then(|ended| ended);
        if outcome.is_err() {
            break;
        }
    }
    accepting.shutdown().await;
    connections.close();
    if timeout(DRAIN, connections.wait()).await.is_err() {
        tracing::warn!(left = connections.len(), "transactions were still under way at the end");
    }
    outcome
}

async fn accept<S: Service>(listener: TcpListener, shared: Arc<Shared<S>>, connections: TaskTracker) -> io::Result<()> {
    loop {
        let (stream, peer) = tokio::select! {
            () = shared.shutdown.wait() => return Ok(()),
            accepted = listener.accept() => match accepted {
                Ok(accepted) => accepted,
                Err(error) if daemon::ipc::passing(&error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
                Err(error) => return Err(error),
            },
        };
        let shared = shared.clone();
        connections.spawn(async move {
            if let Err(error) = attend(&shared, stream, peer).await {
                tracing::warn!(%peer, "a connection was closed: {}", daemon::report(&error));
            }
        });
    }
}

async fn attend<S: Service>(shared: &Shared<S>, stream: TcpStream, peer: SocketAddr) -> Result<(), Breach> {
    let place = shared.half_open.enter(peer.ip());
    let opening = async {
        dial::tune(&stream).map_err(SealError::from)?;
        let mut connection = Connection::new(sealed::accept(stream, peer.port(), &shared.setup.bags).await?);
        // Only with the first record is it certain that the peer holds the key now, not once.
        let first = timeout(HANDSHAKE, connection.receive()).await.map_err(|_| Breach::Silent)??;
        Ok::<_, Breach>((connection, first))
    };
    let (connection, first) = tokio::select! {
        () = shared.shutdown.wait() => return Ok(()),
        () = place.evicted() => return Err(Breach::Evicted),
        opened = opening => opened?,
    };
    drop(place);
    let bag = connection.session().bag().clone();
    let opener = policy::across(bag.kind(), shared.setup.role).ok_or(Breach::Kind)?;
    let _entered = shared.links.enter(bag.link()).ok_or(Breach::TooMany)?;
    tracing::debug!(%peer, session = ?connection.session(), "a session is open");
    let asking = Asking { shared, kind: bag.kind(), opener, from: bag.peer(), peer };
    asking.transactions(connection, first).await
}

/// What a transaction leaves the connection as.
enum Next {
    /// Good for another.
    Ready,
    /// To be ended: bytes of the literal were not read.
    Unread,
    /// To be joined to this, with a relay's place.
    Joined(TcpStream, OwnedSemaphorePermit),
}

/// A peer and what it may ask.
struct Asking<'a, S> {
    shared: &'a Shared<S>,
    kind: LinkKind,
    opener: Opener,
    from: &'a str,
    peer: SocketAddr,
}

impl<S: Service> Asking<'_, S> {
    async fn transactions(&self, mut connection: Connection<TcpStream>, first: Option<Message>) -> Result<(), Breach> {
        let mut next = first;
        while let Some(message) = next {
            match self.transaction(&mut connection, message).await? {
                Next::Ready => {}
                Next::Unread => return self.linger(connection).await,
                Next::Joined(inner, _permit) => {
                    self.join(connection, inner).await;
                    return Ok(());
                }
            }
            if connection.session().is_over() {
                break;
            }
            next = tokio::select! {
                () = self.shared.shutdown.wait() => None,
                received = timeout(IDLE, connection.receive()) => match received {
                    Ok(received) => received?,
                    Err(_) => None,
                },
            };
        }
        // The peer may be gone already, which is its right.
        let _ = connection.end().await;
        Ok(())
    }

    async fn transaction(&self, connection: &mut Connection<TcpStream>, message: Message) -> Result<Next, Breach> {
        let Body::Request(request) = &message.body else { return Err(Breach::NotARequest) };
        let tag = request.tag();
        let literal = message.literal.unwrap_or(0);
        let refuse = |fault| (message.fault(fault), if literal > 0 { Next::Unread } else { Next::Ready });
        let (reply, next) = if !policy::allows(self.kind, self.opener, self.shared.setup.role, tag) {
            tracing::warn!(peer = %self.peer, from = self.from, %tag, "a request outside of what the link allows was denied");
            refuse(Fault::Denied)
        } else if message.literal.is_some() != policy::takes_literal(tag) {
            tracing::warn!(peer = %self.peer, from = self.from, %tag, "a literal that the request has not, or lacks");
            refuse(Fault::Invalid)
        } else if let Request::Relay { to } = request {
            match self.relay(to.as_str()).await {
                Ok((inner, permit)) => (message.reply(Reply::Done {}), Next::Joined(inner, permit)),
                Err(fault) => refuse(fault),
            }
        } else {
            let id = message.id;
            let mut body = Stall::new(connection.literal(literal), STALL);
            let cut = message.fault(Fault::Unavailable);
            let waits = policy::waits(tag);
            let reply = tokio::select! {
                reply = self.shared.service.call(self.from, message, &mut body) => reply,
                () = self.shared.shutdown.wait(), if waits => cut,
            };
            let unread = body.into_inner().limit() > 0;
            let reply = Message { id, literal: None, ..reply };
            (reply, if unread { Next::Unread } else { Next::Ready })
        };
        connection.send(&self.fit(reply)).await?;
        Ok(next)
    }

    /// Words about a fault are for operators only.
    fn fit(&self, reply: Message) -> Message {
        let body = match reply.body {
            Body::Reply(reply) if self.opener != Opener::Operator => Body::Reply(reply.opaque()),
            Body::Request(_) => Body::Reply(Reply::refused(Fault::Unavailable, "")),
            body => body,
        };
        Message { body, ..reply }
    }

    async fn relay(&self, to: &str) -> Result<(TcpStream, OwnedSemaphorePermit), Fault> {
        let target = match &self.shared.setup.relay {
            Some(target) if target.name == to => target,
            _ => {
                tracing::warn!(peer = %self.peer, from = self.from, to, "a relay to where none is allowed was denied");
                return Err(Fault::Denied);
            }
        };
        let Ok(permit) = self.shared.relays.clone().try_acquire_owned() else {
            tracing::warn!(from = self.from, to, "more than {MAX_RELAYS} relays at once");
            return Err(Fault::Busy);
        };
        match target.reach().await {
            Ok(inner) => Ok((inner, permit)),
            Err(error) => {
                tracing::warn!(from = self.from, to, "a relay failed: {}", daemon::report(&error));
                Err(Fault::Unavailable)
            }
        }
    }

    async fn join(&self, connection: Connection<TcpStream>, mut inner: TcpStream) {
        let mut outer = connection.into_stream();
        tokio::select! {
            () = self.shared.shutdown.wait() => {}
            joined = relay::join(&mut outer, &mut inner) => match joined {
                Ok((up, down)) => tracing::debug!(from = self.from, up, down, "a relayed connection has ended"),
                Err(error) => tracing::info!(from = self.from, %error, "a relayed connection broke"),
            },
        }
    }

    /// Ends a connection on which the peer may still be sending, in a way that lets it see the answer: closing a socket
    /// with unread bytes would make the kernel reset it, and the answer might be lost.
    async fn linger(&self, mut connection: Connection<TcpStream>) -> Result<(), Breach> {
        let discard = async {
            if connection.end().await.is_ok() {
                let mut piece = vec![0; 64 * 1024];
                while matches!(connection.transport().read(&mut piece).await, Ok(1..)) {}
            }
        };
        let _ = timeout(LINGER, discard).await;
        Ok(())
    }
}
