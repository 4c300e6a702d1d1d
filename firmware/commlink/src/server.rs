//! The server: accepts sealed connections and answers what the [table](crate::policy) allows.

mod limits;
mod own;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use daemon::{Service, Shutdown};
use keys::site::Role;
use keys::{Bag, LinkKind};
use thiserror::Error;
use tobj::{Body, Fault, Message, Reply, Request};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;
use tokio_util::task::TaskTracker;

use crate::channel::Channel;
use crate::connection::{Connection, ConnectionError, STALL};
use crate::dial::{self, Ports};
use crate::keyring::Keyring;
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
    pub keyring: Keyring,
    /// Where relayed connections go; none on machines that do not relay.
    pub relay: Option<Target>,
}

/// What is at a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Door {
    /// All sealed links.
    Sealed,
    /// One link without seal.
    Unsealed(Arc<str>),
}

/// Why a connection was ended by us. For our own log only.
#[derive(Debug, Error)]
enum Breach {
    #[error("no session")]
    Seal(#[from] SealError),
    #[error("the connection failed")]
    Connection(#[from] ConnectionError),
    #[error(
        "an unsealed connection of link {link:?} from port {port} is not understood: the peer holds other keys, or address \
         translation on the way changed its port"
    )]
    Unsealed {
        link: String,
        port: u16,
        #[source]
        source: ConnectionError,
    },
    #[error("no bag for link {0:?}")]
    NoBag(String),
    #[error("the bag was given up while the session was being opened")]
    GivenUp,
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

/// The server apart from its listeners.
pub struct Server<S>(Arc<Shared<S>>);

impl<S> Clone for Server<S> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

struct Shared<S> {
    setup: Setup,
    service: S,
    half_open: HalfOpen,
    links: Links,
    relays: Arc<Semaphore>,
    shutdown: Shutdown,
}

/// Serves sealed links until the shutdown; transactions under way then are finished first, for up to [`DRAIN`].
///
/// `service` answers every request that the table allows, except `RELAY`, `PROBE` and those about the bag of the link
/// itself, which are the server's own. What it says of a fault in words goes to operators only.
///
/// # Errors
/// When a listener fails for good.
pub async fn serve<S: Service>(
    listeners: Vec<TcpListener>,
    setup: Setup,
    service: S,
    shutdown: Shutdown,
) -> io::Result<()> {
    serve_doors(listeners.into_iter().map(|listener| (listener, Door::Sealed)).collect(), setup, service, shutdown)
        .await
}

/// The same with links that have no seal beside them, each with listeners of its own.
///
/// # Errors
/// When a listener fails for good.
pub async fn serve_doors<S: Service>(
    doors: Vec<(TcpListener, Door)>,
    setup: Setup,
    service: S,
    shutdown: Shutdown,
) -> io::Result<()> {
    let server = Server::new(setup, service, shutdown);
    let connections = TaskTracker::new();
    let mut accepting = tokio::task::JoinSet::new();
    for (listener, door) in doors {
        accepting.spawn(accept(listener, door, server.clone(), connections.clone()));
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

async fn accept<S: Service>(
    listener: TcpListener,
    door: Door,
    server: Server<S>,
    connections: TaskTracker,
) -> io::Result<()> {
    loop {
        let (stream, peer) = tokio::select! {
            () = server.0.shutdown.wait() => return Ok(()),
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
        let (server, door) = (server.clone(), door.clone());
        connections.spawn(async move {
            if let Err(error) = dial::tune(&stream) {
                tracing::warn!(%peer, %error, "a connection could not be tuned");
                return;
            }
            server.attend(stream, peer, &door).await;
        });
    }
}

impl<S: Service> Server<S> {
    /// A server without listeners.
    pub fn new(setup: Setup, service: S, shutdown: Shutdown) -> Self {
        Self(Arc::new(Shared {
            setup,
            service,
            half_open: HalfOpen::default(),
            links: Links::default(),
            relays: Arc::new(Semaphore::new(MAX_RELAYS)),
            shutdown,
        }))
    }

    /// Serves one connection until its end, whichever way it came. `peer` is its address as the transport knows it.
    pub async fn attend<T>(&self, io: T, peer: SocketAddr, door: &Door)
    where
        T: AsyncRead + AsyncWrite + Send + Unpin,
    {
        if let Err(error) = self.0.attend(io, peer, door).await {
            tracing::warn!(%peer, "a connection was closed: {}", daemon::report(&error));
        }
    }
}

impl<S: Service> Shared<S> {
    async fn attend<T>(&self, io: T, peer: SocketAddr, door: &Door) -> Result<(), Breach>
    where
        T: AsyncRead + AsyncWrite + Send + Unpin,
    {
        let place = self.half_open.enter(peer.ip());
        let opening = async {
            let mut connection = Connection::new(self.channel(io, peer.port(), door).await?);
            // Only with the first record is it certain that the peer holds the key now, not once.
            let first = timeout(HANDSHAKE, connection.receive()).await.map_err(|_| Breach::Silent)?;
            match (first, door) {
                (Err(source), Door::Unsealed(link)) => {
                    Err(Breach::Unsealed { link: link.to_string(), port: peer.port(), source })
                }
                (first, _) => Ok((connection, first?)),
            }
        };
        let (mut connection, first) = tokio::select! {
            () = self.shutdown.wait() => return Ok(()),
            () = place.evicted() => return Err(Breach::Evicted),
            opened = opening => opened?,
        };
        drop(place);
        let bag = connection.session().bag().clone();
        let opener = policy::across(bag.kind(), self.setup.role).ok_or(Breach::Kind)?;
        // Given up while this one was opening.
        if !self.setup.keyring.holds(&bag) {
            // In order, so that the peer knows that its request was not taken.
            let _ = connection.end().await;
            return Err(Breach::GivenUp);
        }
        let _entered = self.links.enter(bag.link()).ok_or(Breach::TooMany)?;
        tracing::debug!(%peer, session = ?connection.session(), "a session is open");
        let asking = Asking { shared: self, kind: bag.kind(), opener, from: bag.peer(), peer, bag: &bag };
        asking.transactions(connection, first).await
    }

    async fn channel<T>(&self, io: T, port: u16, door: &Door) -> Result<Channel<T>, Breach>
    where
        T: AsyncRead + AsyncWrite + Send + Unpin,
    {
        let bags = self.setup.keyring.current();
        match door {
            Door::Sealed => Ok(sealed::accept(io, port, &bags).await?.into()),
            Door::Unsealed(link) => {
                let bag = bags.of_link(link).and_then(<[_]>::first).ok_or_else(|| Breach::NoBag(link.to_string()))?;
                Ok(Channel::unsealed(io, bag.clone(), port))
            }
        }
    }
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
    bag: &'a Arc<Bag>,
}

impl<S: Service> Asking<'_, S> {
    async fn transactions<T>(&self, mut connection: Connection<T>, first: Option<Message>) -> Result<(), Breach>
    where
        T: AsyncRead + AsyncWrite + Send + Unpin,
    {
        let keyring = &self.shared.setup.keyring;
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
            if connection.session().is_over() || !keyring.holds(self.bag) {
                break;
            }
            next = tokio::select! {
                () = self.shared.shutdown.wait() => None,
                () = keyring.released(self.bag) => None,
                received = timeout(IDLE, connection.receive()) => match received {
                    Ok(received) => received?,
                    Err(_) => None,
                },
            };
        }
        // The peer may be gone already, which is its right. If it has just asked, this tells it that nobody took that: a
        // session is ended like this nowhere between a request and its answer.
        let _ = connection.end().await;
        Ok(())
    }

    async fn transaction<T>(&self, connection: &mut Connection<T>, message: Message) -> Result<Next, Breach>
    where
        T: AsyncRead + AsyncWrite + Send + Unpin,
    {
        let Body::Request(request) = &message.body else { return Err(Breach::NotARequest) };
        let tag = request.tag();
        let literal = message.literal.unwrap_or(0);
        let refuse = |fault| (message.fault(fault), if literal > 0 { Next::Unread } else { Next::Ready });
        let (reply, next) = if !policy::allows(self.kind, self.opener, self.shared.setup.role, tag) {
            tracing::warn!(peer = %self.peer, from = self.from, %tag, "a request outside of what the link allows was denied");
            refuse(Fault::Denied)
        } else if !connection.session().is_sealed() && policy::needs_seal(tag) {
            tracing::warn!(peer = %self.peer, from = self.from, %tag, "a request that needs a seal was denied on a link without");
            refuse(Fault::Denied)
        } else if message.literal.is_some() != policy::takes_literal(tag) {
            tracing::warn!(peer = %self.peer, from = self.from, %tag, "a literal that the request has not, or lacks");
            refuse(Fault::Invalid)
        } else if let Request::Relay { to } = request {
            match self.relay(to.as_str()).await {
                Ok((inner, permit)) => (message.reply(Reply::Done {}), Next::Joined(inner, permit)),
                Err(fault) => refuse(fault),
            }
        } else if let Some(reply) = self.own(request).await {
            (message.reply(reply), Next::Ready)
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

    async fn join<T>(&self, connection: Connection<T>, mut inner: TcpStream)
    where
        T: AsyncRead + AsyncWrite + Send + Unpin,
    {
        let mut outer = connection.into_stream();
        // Where the keys of the outer session are given up, the inner one has some time for what is under way.
        let released = async {
            self.shared.setup.keyring.released(self.bag).await;
            tokio::time::sleep(DRAIN).await;
        };
        tokio::select! {
            () = self.shared.shutdown.wait() => {}
            () = released => {}
            joined = relay::join(&mut outer, &mut inner) => match joined {
                Ok((up, down)) => tracing::debug!(from = self.from, up, down, "a relayed connection has ended"),
                Err(error) => tracing::info!(from = self.from, %error, "a relayed connection broke"),
            },
        }
    }

    /// Ends a connection on which the peer may still be sending, in a way that lets it see the answer: closing a socket
    /// with unread bytes would make the kernel reset it, and the answer might be lost.
    async fn linger<T>(&self, mut connection: Connection<T>) -> Result<(), Breach>
    where
        T: AsyncRead + AsyncWrite + Send + Unpin,
    {
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
