//! What the portal asks of the other machines, through this machine's commlinkd.

mod logins;

pub use logins::{LOGIN_TURN, MAX_LOGINS, MAX_LOGINS_PER_ADDRESS};

use crate::session::Session;
use daemon::ipc::{Client, IpcError};
use logins::Logins;
use std::net::IpAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tobj::{
    CatalogueItem, Fault, Id, LeaseKind, Message, Name, Reply, Request, RequestTag, Secret, Sha256, Text, Timestamp,
};
use tokio::sync::Semaphore;

/// How long a customer waits for another machine, a repeated request included.
pub const ANSWER_WITHIN: Duration = Duration::from_secs(20);
/// Requests of sessions under way to other machines at once; more wait. With [`MAX_LOGINS`] they are as many as commlinkd has under
/// way to one machine.
pub const MAX_CALLS: usize = 64 - MAX_LOGINS;

/// Why another machine did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BackendError {
    /// It answered so.
    #[error("{machine} answered {fault} to {request}")]
    Fault { machine: Name, request: RequestTag, fault: Fault },
    /// No answer came.
    #[error("no answer from {machine} to {request}")]
    Transport {
        machine: Name,
        request: RequestTag,
        #[source]
        source: IpcError,
    },
    /// No answer came in time.
    #[error("no answer from {machine} to {request} in time")]
    Late { machine: Name, request: RequestTag },
    /// The answer is not one to that question.
    #[error("the answer of {machine} to {request} makes no sense: {why}")]
    Nonsense { machine: Name, request: RequestTag, why: &'static str },
    /// As many logins are under way as may be.
    #[error("too many logins are under way")]
    TooManyLogins,
    /// The task that asked panicked.
    #[error("a login was lost")]
    Lost(#[from] tokio::task::JoinError),
    /// There is no randomness for an ID.
    #[error("no randomness for a request")]
    Random(#[from] getrandom::Error),
}

/// Whether the database answered when it was last asked, and when that was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LastCall {
    pub answered: bool,
    pub at: Timestamp,
}

/// A page of what a customer is entitled to.
#[derive(Debug)]
pub(crate) struct CataloguePage {
    pub items: Vec<CatalogueItem>,
    pub more: bool,
}

/// A file that was staged.
#[derive(Debug)]
pub(crate) struct Lease {
    pub download: Name,
    pub id: Id,
    pub path: Text,
    pub size: u64,
    pub sha256: Sha256,
    pub expires: Timestamp,
    /// User and secret, of a one-time lease.
    pub login: Option<(Name, Secret)>,
}

/// The other machines.
#[derive(Debug)]
pub(crate) struct Backend {
    client: Client,
    database: Name,
    calls: Semaphore,
    logins: Arc<Logins>,
    last: Mutex<Option<LastCall>>,
}

impl Backend {
    pub(crate) fn new(commlink: &Path, database: Name) -> Self {
        Self {
            client: Client::new(commlink),
            database,
            calls: Semaphore::new(MAX_CALLS),
            logins: Arc::default(),
            last: Mutex::new(None),
        }
    }

    /// How the last request to the database went; `None` before the first.
    pub(crate) fn last_call(&self) -> Option<LastCall> {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens a session for a customer, unless too many logins are under way for too long.
    pub(crate) async fn login(
        self: &Arc<Self>,
        customer: Text,
        password: Secret,
        address: IpAddr,
    ) -> Result<(Session, Timestamp), BackendError> {
        let place = self.logins.turn(address).await.ok_or(BackendError::TooManyLogins)?;
        let request = Request::Login { customer, password, address: Text::lossy(&address.to_string()) };
        let backend = self.clone();
        // In a task of its own: a customer who goes away does not end what the database does for him, so the place stays taken.
        let asked = tokio::spawn(async move {
            let _place = place;
            // Not repeated: a login may count against the customer.
            backend.ask(&backend.database, request, false).await
        });
        match asked.await?? {
            Reply::Session { session, customer, expires } => Session::new(session, customer)
                .map(|session| (session, expires))
                .ok_or_else(|| self.nonsense(&self.database, RequestTag::Login, "its token does not fit a cookie")),
            _ => Err(self.nonsense(&self.database, RequestTag::Login, "wrong type")),
        }
    }

    /// Ends a session.
    pub(crate) async fn logout(&self, session: &Session) -> Result<(), BackendError> {
        let request = Request::Logout { session: session.token.clone() };
        match self.ask(&self.database, request, true).await? {
            Reply::Done {} => Ok(()),
            _ => Err(self.nonsense(&self.database, RequestTag::Logout, "wrong type")),
        }
    }

    /// What the customer may have.
    pub(crate) async fn catalogue(&self, session: &Session, offset: u64) -> Result<CataloguePage, BackendError> {
        let request = Request::Catalogue { session: session.token.clone(), offset };
        match self.ask(&self.database, request, true).await? {
            Reply::Catalogue { items, more } => Ok(CataloguePage { items, more }),
            _ => Err(self.nonsense(&self.database, RequestTag::Catalogue, "wrong type")),
        }
    }

    /// Where in what the customer may have this product begins, and the page from there on; nothing where it is not among that.
    pub(crate) async fn find(&self, session: &Session, product: &Name) -> Result<(u64, CataloguePage), BackendError> {
        let mut offset = 0;
        loop {
            let mut page = self.catalogue(session, offset).await?;
            // The list goes by products.
            let before = page.items.iter().take_while(|item| item.product < *product).count();
            offset += u64::try_from(before).unwrap_or(u64::MAX);
            let beyond = before < page.items.len();
            if beyond || !page.more || before == 0 {
                page.items.drain(..before);
                return Ok((offset, page));
            }
        }
    }

    /// Has the database grant a lease and the download appliance make it.
    pub(crate) async fn stage(
        &self,
        session: &Session,
        product: &Name,
        version: &Name,
        kind: LeaseKind,
    ) -> Result<Lease, BackendError> {
        let (session, product, version) = (session.token.clone(), product.clone(), version.clone());
        let request = Request::Grant { session, product, version, kind };
        let Reply::Granted { grant, download } = self.ask(&self.database, request, true).await? else {
            return Err(self.nonsense(&self.database, RequestTag::Grant, "wrong type"));
        };
        let Reply::Staged { lease, path, size, sha256, expires, user, secret } =
            self.ask(&download, Request::Stage { grant }, true).await?
        else {
            return Err(self.nonsense(&download, RequestTag::Stage, "wrong type"));
        };
        let login = user.zip(secret);
        if login.is_some() != (kind == LeaseKind::OneTime) {
            return Err(self.nonsense(&download, RequestTag::Stage, "another kind of lease"));
        }
        if !path.as_str().starts_with('/') || path.as_str().ends_with('/') {
            return Err(self.nonsense(&download, RequestTag::Stage, "the path is not that of a file"));
        }
        Ok(Lease { download, id: lease, path, size, sha256, expires, login })
    }

    fn nonsense(&self, machine: &Name, request: RequestTag, why: &'static str) -> BackendError {
        BackendError::Nonsense { machine: machine.clone(), request, why }
    }

    /// Asks a machine; where the transport failed and it may be repeated, once again with the same ID, so that what was done already
    /// is not done twice.
    async fn ask(&self, machine: &Name, request: Request, again: bool) -> Result<Reply, BackendError> {
        let tag = request.tag();
        let message = Message::request(request)?;
        let exchange = async {
            // Logins have places of their own.
            let _permit = match tag {
                RequestTag::Login => None,
                _ => Some(self.calls.acquire().await.expect("the semaphore is never closed")),
            };
            let first = self.client.call_message(machine.as_str(), message.clone()).await;
            match first {
                Err(error) if again => {
                    tracing::warn!(%machine, request = %tag, "asking again: {}", daemon::report(&error));
                    self.client.call_message(machine.as_str(), message).await
                }
                // The link may have broken after the order arrived: to ask again is the way to learn of the lease.
                Ok(Reply::Fault { fault: Fault::Unavailable, .. }) if tag == RequestTag::Stage => {
                    tracing::warn!(%machine, request = %tag, "asking again: UNAVAILABLE");
                    self.client.call_message(machine.as_str(), message).await
                }
                other => other,
            }
        };
        let machine = machine.clone();
        let outcome = match tokio::time::timeout(ANSWER_WITHIN, exchange).await {
            Err(_) => Err(BackendError::Late { machine: machine.clone(), request: tag }),
            Ok(Err(source)) => Err(BackendError::Transport { machine: machine.clone(), request: tag, source }),
            Ok(Ok(Reply::Fault { fault, .. })) => {
                Err(BackendError::Fault { machine: machine.clone(), request: tag, fault })
            }
            Ok(Ok(reply)) => Ok(reply),
        };
        if machine == self.database {
            let answered = match &outcome {
                Ok(_) => true,
                Err(BackendError::Fault { fault, .. }) => *fault != Fault::Unavailable,
                Err(_) => false,
            };
            let last = LastCall { answered, at: Timestamp::now() };
            *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(last);
        }
        outcome
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::UnixStream;
    use tokio::task::JoinHandle;
    use tokio::time::{Instant, timeout};

    struct Silent {
        _dir: tempfile::TempDir,
        listener: tokio::net::UnixListener,
        backend: Arc<Backend>,
    }

    /// A commlinkd that takes connections and says nothing.
    fn silent() -> Silent {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let listener = daemon::ipc::bind(&path).unwrap();
        let backend = Arc::new(Backend::new(&path, Name::new("database").unwrap()));
        Silent { _dir: dir, listener, backend }
    }

    fn session() -> Session {
        Session::new(Secret::random().unwrap(), Name::new("alice").unwrap()).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn silence_ends() {
        let silent = silent();
        assert_eq!(silent.backend.last_call(), None);
        let start = Instant::now();
        let error = silent.backend.catalogue(&session(), 0).await.unwrap_err();
        assert!(matches!(error, BackendError::Late { request: RequestTag::Catalogue, .. }), "{error:?}");
        assert_eq!(start.elapsed().as_secs(), ANSWER_WITHIN.as_secs());
        assert_eq!(silent.backend.last_call().map(|l| l.answered), Some(false));
    }

    fn catalogue(silent: &Silent) {
        let backend = silent.backend.clone();
        tokio::spawn(async move { backend.catalogue(&session(), 0).await.map(drop) });
    }

    /// A login from an address of this number.
    fn login(silent: &Silent, address: usize) -> JoinHandle<Result<(), BackendError>> {
        let (backend, address) = (silent.backend.clone(), format!("192.0.2.{address}").parse().unwrap());
        tokio::spawn(async move { backend.login(Text::default(), session().token, address).await.map(drop) })
    }

    async fn accept(silent: &Silent) -> UnixStream {
        silent.listener.accept().await.unwrap().0
    }

    /// One more than may be under way waits until another has ended.
    #[tokio::test(start_paused = true)]
    async fn calls_at_their_edge() {
        let silent = silent();
        for _ in 0..=MAX_CALLS {
            catalogue(&silent);
        }
        let mut open = Vec::new();
        for _ in 0..MAX_CALLS {
            open.push(accept(&silent).await);
        }
        assert!(timeout(ANSWER_WITHIN / 2, silent.listener.accept()).await.is_err());
        open.pop();
        drop(accept(&silent).await); // which it asks on again
        accept(&silent).await;
    }

    /// Logins that the database holds up are refused beyond their number, and in nobody's way.
    #[tokio::test(start_paused = true)]
    async fn logins_leave_places_to_calls() {
        let silent = silent();
        let mut logins = Vec::new();
        for n in 0..MAX_LOGINS {
            let asked = login(&silent, n / MAX_LOGINS_PER_ADDRESS);
            logins.push((asked, accept(&silent).await));
        }
        let start = Instant::now();
        assert!(matches!(login(&silent, 99).await.unwrap(), Err(BackendError::TooManyLogins)));
        assert_eq!(start.elapsed(), LOGIN_TURN);
        let mut calls = Vec::new();
        for _ in 0..MAX_CALLS {
            catalogue(&silent);
            calls.push(timeout(ANSWER_WITHIN / 2, accept(&silent)).await.unwrap());
        }
        let (ended, stream) = logins.pop().unwrap();
        drop(stream);
        assert!(matches!(ended.await.unwrap(), Err(BackendError::Transport { .. })));
        login(&silent, 99);
        accept(&silent).await;
    }

    /// The database goes on with a login whose customer has gone away: it stays counted.
    #[tokio::test(start_paused = true)]
    async fn a_login_given_up_keeps_its_place() {
        let silent = silent();
        let mut open = Vec::new();
        for _ in 0..MAX_LOGINS_PER_ADDRESS {
            let given_up = login(&silent, 1);
            open.push(accept(&silent).await);
            given_up.abort();
            assert!(given_up.await.unwrap_err().is_cancelled());
        }
        assert!(matches!(login(&silent, 1).await.unwrap(), Err(BackendError::TooManyLogins)));
    }
}
