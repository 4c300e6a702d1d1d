//! Requests and their answers.

mod customer;
mod machine;
mod operator;

use crate::config::{Config, Lifetimes};
use crate::grant::{SignError, Signer};
use crate::password::{HashError, Hasher};
use crate::session::Sessions;
use crate::space::{FULL, Space};
use crate::store::{Store, StoreError, revocations, tables};
use crate::throttle::Throttle;
use daemon::{RateLimit, Service, Shutdown};
use redb::ReadableTableMetadata;
use std::time::Duration;
use tobj::{Body, Check, Fault, LeaseKind, Message, Name, Reply, Request, Text, Timestamp};
use tokio::io::AsyncRead;
use tokio::sync::watch;
use tokio::time::Instant;

/// The label of an operator starts with this; no name of a machine does.
pub(crate) const OPERATOR: &str = "operator:";
/// Most refused logins a minute of which each has a record of its own; how many more there were is one record.
pub const REFUSALS_RECORDED: u32 = 60;

/// What the status says of a store without customers: nobody can log in, and only an operator knows whether that is as it should be.
const EMPTY: &str = "; nobody can log in: where there were customers before, this is not their store, and a copy of that is to be put back";

/// The master database: answers requests as a [`Service`].
#[derive(Debug)]
pub struct MasterDb {
    name: Name,
    web: Option<Name>,
    lives: Lifetimes,
    store: Store,
    hasher: Hasher,
    signer: Signer,
    sessions: Sessions,
    throttle: Throttle,
    space: Space,
    /// The records of refused logins.
    refused: RateLimit,
    /// The lines about too many logins at once.
    too_many: RateLimit,
    /// The lines about a full disk.
    full: RateLimit,
    /// The number of the last revocation that is durable.
    revoked: watch::Sender<u64>,
    shutdown: Shutdown,
}

/// Who asks.
enum Asker {
    Machine(Name),
    Operator(Name),
}

/// Why there is no answer, beyond what the peer is told.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("the store failed")]
    Store(#[from] StoreError),
    #[error("the password could not be checked")]
    Hash(#[from] HashError),
    #[error("the grant could not be signed")]
    Sign(#[from] SignError),
    #[error("no randomness")]
    Random(#[from] getrandom::Error),
}

impl MasterDb {
    /// A database over an open store.
    ///
    /// # Errors
    /// When the store cannot be read or passwords cannot be hashed.
    pub async fn new(config: &Config, store: Store, signer: Signer, shutdown: Shutdown) -> Result<Self, crate::Error> {
        let last = store.read(revocations::last_committed).await?;
        Ok(Self {
            name: config.name.clone(),
            web: config.web.clone(),
            lives: config.lifetimes,
            store,
            hasher: Hasher::new().await?,
            signer,
            sessions: Sessions::new(Duration::from_secs(config.lifetimes.session)),
            throttle: Throttle::default(),
            space: Space::new(config),
            refused: RateLimit::new(REFUSALS_RECORDED),
            too_many: RateLimit::new(1),
            full: RateLimit::new(1),
            revoked: watch::Sender::new(last),
            shutdown,
        })
    }

    /// Waits until the store does not work any more.
    pub async fn store_stopped(&self) {
        self.store.stopped().await;
    }

    /// Closes the store in order.
    pub async fn close(self) {
        if let Err(failure) = self.record_suppressed().await {
            tracing::error!("not all refused logins were recorded: {}", daemon::report(&failure));
        }
        self.store.close().await;
    }

    async fn answer(&self, from: &str, message: &Message) -> Result<Reply, Failure> {
        let Body::Request(request) = &message.body else { return Ok(fault(Fault::Invalid)) };
        if message.literal.is_some() {
            return Ok(fault(Fault::Invalid));
        }
        match asker(from) {
            Some(_) if matches!(request, Request::Status {}) => self.status().await,
            Some(Asker::Operator(who)) => self.answer_operator(&who, message.id, request).await,
            Some(Asker::Machine(machine)) if machine == self.name => Ok(fault(Fault::Denied)),
            Some(Asker::Machine(machine)) => self.answer_machine(&machine, message, request).await,
            None => Ok(fault(Fault::Denied)),
        }
    }

    async fn answer_machine(&self, machine: &Name, message: &Message, request: &Request) -> Result<Reply, Failure> {
        let web = self.web.as_ref().is_none_or(|web| web == machine);
        let download = self.web.as_ref().is_none_or(|web| web != machine);
        let reply = match request {
            Request::Login { customer, password, address } => {
                self.login(machine, web, customer, password, address).await?
            }
            Request::Logout { session } => {
                self.sessions.close(session, machine);
                Reply::Done {}
            }
            Request::Catalogue { session, offset } => self.catalogue(machine, web, session, *offset).await?,
            Request::Grant { session, product, version, kind } if web || *kind == LeaseKind::Standing => {
                self.grant(machine, web, message.id, session, product, version, *kind).await?
            }
            Request::LoginCheck { customer, password, address } if download => {
                self.login_check(machine, customer, password, address).await?
            }
            Request::Audit { records } if download => self.audit(machine, records.clone()).await?,
            Request::WaitRevocations { after } if download => self.wait_revocations(*after).await?,
            _ => {
                tracing::warn!(%machine, request = %request.tag(), "a request that this machine may not make");
                fault(Fault::Denied)
            }
        };
        Ok(reply.opaque())
    }

    async fn status(&self) -> Result<Reply, Failure> {
        let counts = self.store.read(|txn| {
            Ok((
                txn.open_table(tables::CUSTOMERS)?.len()?,
                txn.open_table(tables::OBJECTS)?.len()?,
                txn.open_table(tables::AUDIT)?.len()?,
                tables::made(txn)?,
            ))
        });
        let (healthy, detail) = match counts.await {
            Ok((customers, objects, audit, made)) => {
                let since = made.map(|made| format!(", since {}", day(made))).unwrap_or_default();
                let empty = if customers == 0 { EMPTY } else { "" };
                (true, format!("{customers} customers, {objects} objects, {audit} audit records{since}{empty}"))
            }
            Err(error) => {
                tracing::error!("the store cannot be read: {}", daemon::report(&error));
                (false, "the store cannot be read".to_owned())
            }
        };
        let sessions = format!("{} sessions", self.sessions.count(Instant::now()));
        let check = |name, healthy, detail: &str| {
            Name::new(name).ok().map(|name| Check { name, healthy, detail: Text::lossy(detail) })
        };
        let (roomy, room) = self.space.check();
        let checks =
            [check("store", healthy, &detail), check("disk", roomy, &room), check("sessions", true, &sessions)];
        let Ok(role) = Name::new("database") else { return Ok(fault(Fault::Unavailable)) };
        Ok(Reply::StatusReport {
            name: self.name.clone(),
            role,
            version: Text::lossy(env!("CARGO_PKG_VERSION")),
            checks: checks.into_iter().flatten().collect(),
        })
    }
}

impl MasterDb {
    /// Says that there is no room, once a minute.
    fn say_full(&self) {
        if self.full.pass(Instant::now()).is_some() {
            tracing::error!("{FULL}");
        }
    }
}

impl Service for MasterDb {
    async fn call(&self, from: &str, request: Message, _literal: &mut (dyn AsyncRead + Send + Unpin)) -> Message {
        let reply = match self.answer(from, &request).await {
            Ok(reply) => reply,
            Err(Failure::Hash(HashError::Busy)) => fault(Fault::Busy),
            Err(failure) => {
                tracing::error!(from, id = %request.id, "a request failed: {}", daemon::report(&failure));
                fault(Fault::Unavailable)
            }
        };
        request.reply(reply)
    }
}

/// The day of a moment, in UTC.
fn day(at: Timestamp) -> String {
    let at = i64::try_from(at.0).ok().and_then(|at| jiff::Timestamp::from_second(at).ok());
    at.map_or_else(|| "-".to_owned(), |at| at.strftime("%Y-%m-%d").to_string())
}

fn asker(label: &str) -> Option<Asker> {
    match label.strip_prefix(OPERATOR) {
        Some(name) => Name::new(name).ok().map(Asker::Operator),
        None => Name::new(label).ok().map(Asker::Machine),
    }
}

fn fault(fault: Fault) -> Reply {
    Reply::Fault { fault, text: Text::default() }
}

#[cfg(test)]
mod tests;
