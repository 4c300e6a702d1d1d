//! The client: finds its way to a machine, keeps connections for the next request, asks again after a break.

mod backoff;
mod pool;
mod probe;

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use keys::{Bag, LinkKind};
use serde::Deserialize;
use thiserror::Error;
use tobj::{Body, Message, Name, Reply, Request, RequestTag};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{sleep, timeout};
use zeroize::Zeroizing;

use crate::channel::Channel;
use crate::connection::{Connection, ConnectionError, Sent};
use crate::dial::{self, DialError, Ports};
use crate::keyring::Keyring;
use crate::policy;
use crate::sealed::{self, SealError};
use backoff::Backoff;
use pool::Pool;

pub use probe::Probe;
pub(crate) use probe::now;

/// How long an answer may take after the end of the request.
pub const ANSWER: Duration = Duration::from_secs(30);

/// The same for a request that waits for something to happen, or whose answer comes once much was made durable.
pub const LONG_ANSWER: Duration = Duration::from_secs(180);

/// How long a request is tried again where the peer is not reached or breaks off: as long as a daemon takes to start
/// again. A try that has begun is finished.
pub const FAILOVER: Duration = Duration::from_secs(5);

/// What a session may run over.
pub trait Transport: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Transport for T {}

type Link = Connection<Box<dyn Transport>>;

/// Where a machine is.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Peer {
    /// Its name, as in one's own bag.
    pub name: String,
    /// Its address; none for a machine that is reached through another.
    #[serde(default)]
    pub host: Option<String>,
    /// Its ports, with the address.
    #[serde(default)]
    pub ports: Option<Ports>,
    /// The machine whose relay leads to it.
    #[serde(default)]
    pub via: Option<String>,
    /// Whether the link is sealed. Without, the ports are those that the machine has for this link alone, see
    /// [`channel`](crate::channel).
    #[serde(default = "sealed_by_default")]
    pub seal: bool,
}

fn sealed_by_default() -> bool {
    true
}

/// Why a client was not made.
#[derive(Debug, Error)]
pub enum ClientError {
    /// A peer without a bag.
    #[error("there is no key bag for peer {0:?}")]
    NoBag(String),
    /// Neither direct nor relayed, or both.
    #[error("peer {0:?} needs either host and ports or via")]
    Route(String),
    /// The relay is not a direct peer.
    #[error("peer {peer:?} is reached via {via:?}, which is not a peer with host and ports")]
    Via {
        /// The peer.
        peer: String,
        /// Its relay.
        via: String,
    },
    /// A link that must be sealed is not to be.
    #[error("peer {0:?} has seal = false, which neither an operator's link nor one to or through a relay can have")]
    Seal(String),
    /// Two of a name.
    #[error("peer {0:?} is there twice")]
    Twice(String),
    /// A name that cannot be asked for over a relay.
    #[error("peer {0:?} has a name that a relay cannot be asked for")]
    Name(String),
}

/// Why a request has no answer. A [`Reply::Fault`] is an answer.
#[derive(Debug, Error)]
pub enum CallError {
    /// No such peer.
    #[error("no peer is named {0:?}")]
    UnknownPeer(String),
    /// The message is not one that can be sent.
    #[error("the request cannot be sent")]
    Request(#[from] tobj::Invalid),
    /// Nothing answers there.
    #[error("{peer} cannot be reached")]
    Unreachable {
        /// Who.
        peer: String,
        /// Why.
        #[source]
        source: Box<ReachError>,
    },
    /// The connection broke, and so did the one that was tried in its place.
    #[error("the connection to {peer} broke")]
    Broken {
        /// Whose.
        peer: String,
        /// Whether the request may have been carried out.
        asked: bool,
        /// Why.
        #[source]
        source: ConnectionError,
    },
    /// No answer in time.
    #[error("{peer} did not answer within {limit:?}")]
    Late {
        /// Who.
        peer: String,
        /// How long was waited.
        limit: Duration,
    },
    /// No randomness for an ID.
    #[error("the system gives no randomness")]
    Random(#[from] getrandom::Error),
}

impl CallError {
    /// Whether it may be another thing in a moment, and the request may be sent again.
    fn passes(&self, repeatable: bool) -> bool {
        match self {
            Self::UnknownPeer(_) | Self::Request(_) | Self::Random(_) | Self::Late { .. } => false,
            Self::Unreachable { source, .. } => !matches!(**source, ReachError::Busy),
            Self::Broken { asked: true, .. } if !repeatable => false,
            Self::Broken { source, .. } => !matches!(
                source,
                ConnectionError::Source
                    | ConnectionError::Random(_)
                    | ConnectionError::Unsealed
                    | ConnectionError::Unanswered(_)
            ),
        }
    }
}

/// Why a machine was not reached.
#[derive(Debug, Error)]
pub enum ReachError {
    /// Directly.
    #[error("no session could be opened")]
    Direct(#[source] DialError<SealError>),
    /// The relay was not reached or broke.
    #[error("the relay {0} failed")]
    Relay(String, #[source] Box<CallError>),
    /// The relay did not join us to the machine.
    #[error("the relay {0} refused")]
    Refused(String),
    /// No session through the relay.
    #[error("no session could be opened through the relay")]
    Inside(#[source] SealError),
    /// All connections allowed to it are in use and stay so.
    #[error("all connections are in use")]
    Busy,
}

#[derive(Debug)]
enum Route {
    Direct { host: Arc<str>, ports: Ports, seal: bool },
    Via(String),
}

#[derive(Debug)]
struct Destination {
    name: String,
    route: Route,
    pool: Pool<Link>,
}

/// Asks other machines. Cheap to clone; clones share their connections.
#[derive(Clone, Debug)]
pub struct Client {
    keyring: Keyring,
    destinations: Arc<BTreeMap<String, Destination>>,
    failover: Duration,
}

impl Client {
    /// A client for these machines.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn new(keyring: impl Into<Keyring>, peers: impl IntoIterator<Item = Peer>) -> Result<Self, ClientError> {
        let keyring = keyring.into();
        let mut destinations = BTreeMap::new();
        for Peer { name, host, ports, via, seal } in peers {
            let current = keyring.current();
            let bag = current.of_peer(&name).and_then(<[_]>::first).ok_or_else(|| ClientError::NoBag(name.clone()))?;
            if !seal && (bag.kind() == LinkKind::Operator || via.is_some()) {
                return Err(ClientError::Seal(name));
            }
            let route = match (host, ports, via) {
                (Some(host), Some(ports), None) => Route::Direct { host: host.into(), ports, seal },
                (None, None, Some(via)) => Route::Via(via),
                _ => return Err(ClientError::Route(name)),
            };
            let destination = Destination { name: name.clone(), route, pool: Pool::default() };
            if destinations.insert(name.clone(), destination).is_some() {
                return Err(ClientError::Twice(name));
            }
        }
        for (name, destination) in &destinations {
            let Route::Via(via) = &destination.route else { continue };
            match destinations.get(via).map(|relay| &relay.route) {
                Some(Route::Direct { seal: true, .. }) => {}
                Some(Route::Direct { seal: false, .. }) => return Err(ClientError::Seal(via.clone())),
                _ => return Err(ClientError::Via { peer: name.clone(), via: via.clone() }),
            }
            if Name::new(name).is_err() {
                return Err(ClientError::Name(name.clone()));
            }
        }
        Ok(Self { keyring, destinations: Arc::new(destinations), failover: FAILOVER })
    }

    /// The same with another time in place of [`FAILOVER`].
    #[must_use]
    pub fn with_failover(self, failover: Duration) -> Self {
        Self { failover, ..self }
    }

    /// The bags in use.
    pub fn keyring(&self) -> &Keyring {
        &self.keyring
    }

    /// Whether the link to a peer has a seal.
    pub fn is_sealed(&self, peer: &str) -> bool {
        let route = self.destinations.get(peer).map(|destination| &destination.route);
        !matches!(route, Some(Route::Direct { seal: false, .. }))
    }

    /// The machines whose links have none.
    pub fn unsealed(&self) -> impl Iterator<Item = &str> {
        self.destinations.keys().map(String::as_str).filter(|peer| !self.is_sealed(peer))
    }

    /// Whether there is a peer of this name.
    pub fn knows(&self, peer: &str) -> bool {
        self.destinations.contains_key(peer)
    }

    /// Asks, with a new ID.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn call(&self, peer: &str, request: Request) -> Result<Reply, CallError> {
        self.call_message(peer, Message::request(request)?).await
    }

    /// Asks with an ID of the caller's, so that it may ask again later and get the same answer. After a break it is asked
    /// again here, too, unless it is not [repeatable](policy::is_repeatable) and the peer may have taken it.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn call_message(&self, peer: &str, message: Message) -> Result<Reply, CallError> {
        self.exchange(peer, Message { literal: None, ..message }, &mut tokio::io::empty()).await
    }

    /// Asks, with `length` bytes of `literal` behind the request. After a break nothing is asked again once bytes of it
    /// have been taken.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn call_with_literal<R>(
        &self,
        peer: &str,
        message: Message,
        length: u64,
        literal: &mut R,
    ) -> Result<Reply, CallError>
    where
        R: AsyncRead + Send + Unpin + ?Sized,
    {
        self.exchange(peer, Message { literal: Some(length), ..message }, literal).await
    }

    async fn exchange<R>(&self, peer: &str, message: Message, literal: &mut R) -> Result<Reply, CallError>
    where
        R: AsyncRead + Send + Unpin + ?Sized,
    {
        let to = self.destinations.get(peer).ok_or_else(|| CallError::UnknownPeer(peer.to_owned()))?;
        let message = Encoded::new(message)?;
        let mut literal = Watched { source: literal, touched: false };
        let mut backoff = Backoff::new(self.failover);
        let _permit = to.pool.permit().await.ok_or_else(|| unreachable(to, ReachError::Busy))?;
        let mut idle = to.pool.take(|link| self.is_good(link));
        loop {
            let pooled = idle.is_some();
            let error = match self.attempt(to, idle.take(), &message, &mut literal).await {
                Ok(reply) => return Ok(reply),
                Err(error) => error,
            };
            // What is idle may all have died with the peer, or on the way without a word: nobody else shall wait for that.
            to.pool.clear();
            if literal.touched || !error.passes(message.is_repeatable()) {
                return Err(error);
            }
            tracing::debug!(peer, "to be tried again: {}", daemon::report(&error));
            // A new connection may well work at once.
            if !pooled {
                let Some(pause) = backoff.next()? else { return Err(error) };
                sleep(pause).await;
            }
        }
    }

    /// One try, on this connection or a new one.
    async fn attempt<R>(
        &self,
        to: &Destination,
        idle: Option<Link>,
        message: &Encoded,
        literal: &mut Watched<'_, R>,
    ) -> Result<Reply, CallError>
    where
        R: AsyncRead + Send + Unpin + ?Sized,
    {
        let mut link = match idle {
            Some(link) => link,
            None => self.reach(to).await.map_err(|error| unreachable(to, error))?,
        };
        match transact(&mut link, message, literal).await {
            Ok(Some((reply, Sent::Whole))) => {
                to.pool.put(link);
                Ok(reply)
            }
            // What was not sent of the literal would be taken for the next request.
            Ok(Some((reply, Sent::Early))) => Ok(reply),
            // The answer may still come, and would be taken for that to the next request.
            Ok(None) => Err(CallError::Late { peer: to.name.clone(), limit: message.answer_within() }),
            Err(failure) => Err(failure.of(&to.name)),
        }
    }

    /// Whether an idle connection may take another request.
    fn is_good(&self, link: &mut Link) -> bool {
        !link.session().is_over() && self.keyring.holds(link.session().bag()) && !link.is_spent()
    }

    /// Asks on a connection of its own, which it then ends; with the answer, the bag that was used.
    pub(crate) async fn ask_anew(&self, peer: &str, request: Request) -> Result<(Reply, Arc<Bag>), CallError> {
        let to = self.destinations.get(peer).ok_or_else(|| CallError::UnknownPeer(peer.to_owned()))?;
        let message = Encoded::new(Message::request(request)?)?;
        let mut backoff = Backoff::new(self.failover);
        loop {
            let error = match self.ask_once(to, &message).await {
                Err(error) if error.passes(true) => error,
                other => return other,
            };
            let Some(pause) = backoff.next()? else { return Err(error) };
            sleep(pause).await;
        }
    }

    async fn ask_once(&self, to: &Destination, message: &Encoded) -> Result<(Reply, Arc<Bag>), CallError> {
        let mut link = self.reach(to).await.map_err(|error| unreachable(to, error))?;
        match transact(&mut link, message, &mut tokio::io::empty()).await {
            Ok(Some((reply, _))) => {
                let bag = link.session().bag().clone();
                // The answer is here; whether the peer hears of the end is its own matter.
                let _ = link.end().await;
                Ok((reply, bag))
            }
            Ok(None) => Err(CallError::Late { peer: to.name.clone(), limit: message.answer_within() }),
            Err(failure) => Err(failure.of(&to.name)),
        }
    }

    /// A new connection, made of nothing that is pooled.
    async fn reach(&self, to: &Destination) -> Result<Link, ReachError> {
        match &to.route {
            Route::Direct { host, ports, seal } => {
                self.reach_directly(to, host, *ports, *seal).await.map_err(ReachError::Direct)
            }
            Route::Via(via) => Box::pin(self.reach_via(to, via)).await,
        }
    }

    async fn reach_directly(
        &self,
        to: &Destination,
        host: &Arc<str>,
        ports: Ports,
        seal: bool,
    ) -> Result<Link, DialError<SealError>> {
        dial::dial(ports, |port| {
            let (host, bags, peer) = (host.clone(), self.keyring.current(), to.name.clone());
            async move {
                let bags = bags.of_peer(&peer).ok_or_else(|| SealError::UnknownLink(peer.clone()))?;
                let newest = bags.first().ok_or_else(|| SealError::UnknownLink(peer.clone()))?;
                let stream = dial::connect(&host, port, newest.kind()).await?;
                let local = stream.local_addr()?.port();
                let transport: Box<dyn Transport> = Box::new(stream);
                if seal {
                    return Ok(Connection::new(sealed::open(transport, bags).await?));
                }
                Ok(Connection::new(Channel::unsealed(transport, newest.clone(), local)))
            }
        })
        .await
    }

    /// Through a relay: a connection to it that becomes, with its answer, the other machine's.
    async fn reach_via(&self, to: &Destination, via: &str) -> Result<Link, ReachError> {
        let failed = |error| ReachError::Relay(via.to_owned(), Box::new(error));
        let relay = self.destinations.get(via).ok_or_else(|| failed(CallError::UnknownPeer(via.to_owned())))?;
        let name = Name::new(&to.name).map_err(|error| failed(error.into()))?;
        let mut outer = self.reach(relay).await.map_err(|error| failed(unreachable(relay, error)))?;
        let request = Message::request(Request::Relay { to: name }).map_err(|error| failed(error.into()))?;
        let request = Encoded::new(request).map_err(|error| failed(error.into()))?;
        let late = || failed(CallError::Late { peer: via.to_owned(), limit: ANSWER });
        match transact(&mut outer, &request, &mut tokio::io::empty()).await {
            Ok(Some((Reply::Done {}, _))) => {}
            Ok(Some(_)) => return Err(ReachError::Refused(via.to_owned())),
            Ok(None) => return Err(late()),
            Err(failure) => return Err(failed(failure.of(via))),
        }
        let bags = self.keyring.current();
        let bags = bags.of_peer(&to.name).unwrap_or_default();
        let transport: Box<dyn Transport> = Box::new(outer.into_stream());
        Ok(Connection::new(sealed::open(transport, bags).await.map_err(ReachError::Inside)?))
    }
}

fn unreachable(to: &Destination, source: ReachError) -> CallError {
    CallError::Unreachable { peer: to.name.clone(), source: Box::new(source) }
}

/// How long a client waits for the answer to such a request, from the end of the request on.
pub(crate) fn answer_within(request: RequestTag) -> Duration {
    use RequestTag as Tag;
    match request {
        // Waits for something to happen.
        Tag::WaitRevocations
        // The end of a literal: all of it is made durable, and an update is read back from a slow stick.
        | Tag::ObjectPut
        | Tag::ObjectAppend
        | Tag::UpdatePush
        // A unit is started and waited for: it makes an array, or recovers the log of a file system.
        | Tag::StorageCreate
        | Tag::StorageStart
        | Tag::StorageAdd
        | Tag::StorageReplace
        // The machine asks another one, twice.
        | Tag::KeysRotate
        // Entries that few others are among are looked for in all of the log.
        | Tag::LogList => LONG_ANSWER,
        _ => ANSWER,
    }
}

/// A request, and the text of it, which each try sends.
struct Encoded {
    message: Message,
    text: Zeroizing<String>,
}

impl Encoded {
    fn new(message: Message) -> Result<Self, tobj::Invalid> {
        Ok(Self { text: message.encode()?.into(), message })
    }

    fn tag(&self) -> Option<RequestTag> {
        match &self.message.body {
            Body::Request(request) => Some(request.tag()),
            Body::Reply(_) => None,
        }
    }

    fn answer_within(&self) -> Duration {
        self.tag().map_or(ANSWER, answer_within)
    }

    fn is_repeatable(&self) -> bool {
        self.tag().is_none_or(policy::is_repeatable)
    }
}

/// Why a transaction has no answer.
struct Failure {
    source: ConnectionError,
    /// Whether the peer may have taken the request.
    asked: bool,
}

impl Failure {
    /// Of a request that did not get through whole.
    fn unasked(source: ConnectionError) -> Self {
        Self { source, asked: false }
    }

    /// Of one that did, as far as is known.
    fn asked(source: ConnectionError) -> Self {
        Self { source, asked: true }
    }

    fn of(self, peer: &str) -> CallError {
        CallError::Broken { peer: peer.to_owned(), asked: self.asked, source: self.source }
    }
}

/// One transaction: the answer, and whether it came before the end of the literal; `None` if it did not come in time.
async fn transact<R>(link: &mut Link, request: &Encoded, literal: &mut R) -> Result<Option<(Reply, Sent)>, Failure>
where
    R: AsyncRead + Unpin + ?Sized,
{
    let limit = request.answer_within();
    let Encoded { message: request, text } = request;
    let (is_sealed, port) = (link.session().is_sealed(), link.session().port());
    if !is_sealed && request.literal.is_some() {
        return Err(Failure::unasked(ConnectionError::Unsealed));
    }
    // Without seal, a peer for whom the keys are others can only close.
    let failed = |error| match error {
        ConnectionError::Io(_) | ConnectionError::Ended if !is_sealed => ConnectionError::Unanswered(port),
        error => error,
    };
    link.send_text(text).await.map_err(|error| Failure::unasked(failed(error)))?;
    let sent = match request.literal {
        Some(n) => link.send_literal(literal, n).await.map_err(Failure::unasked)?,
        None => Sent::Whole,
    };
    let Ok(answer) = timeout(limit, link.receive()).await else { return Ok(None) };
    match answer.map_err(|error| Failure::asked(failed(error)))? {
        Some(Message { id, literal: None, body: Body::Reply(reply) }) if id == request.id => Ok(Some((reply, sent))),
        Some(_) => Err(Failure::asked(ConnectionError::Mismatch)),
        // A server ends a session between transactions only; where there is a seal, nobody else can have done it.
        None => Err(Failure { source: failed(ConnectionError::Ended), asked: !is_sealed }),
    }
}

/// Knows whether its source was read.
struct Watched<'a, R: ?Sized> {
    source: &'a mut R,
    touched: bool,
}

impl<R: AsyncRead + Unpin + ?Sized> AsyncRead for Watched<'_, R> {
    fn poll_read(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> std::task::Poll<io::Result<()>> {
        let before = buf.filled().len();
        let polled = std::pin::Pin::new(&mut *self.source).poll_read(cx, buf);
        self.touched |= buf.filled().len() > before;
        polled
    }
}
