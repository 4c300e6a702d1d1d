//! Who may come in by ftp: the user of a one-time lease with its secret, or a customer with his password.
//!
//! A customer's password is checked by the database (S8). What it said yes to is remembered for a short time, in memory only and
//! only as a hash under a key of this process: nothing here can be asked later what a password was.

use crate::clock::Clock;
use crate::database::{ANSWER, Database};
use crate::engine::{Access, Grace, Handle, Settled, Work, find, may_start};
use crate::entitled::Entitled;
use crate::grants::Verifier;
use crate::ledger::{Ledger, LedgerError};
use crate::rows::{Event, lease_of};
use crate::throttle::Throttle;
use crate::tree::{Tree, TreeError};
use daemon::log::recorded;
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tobj::{AuditEvent, Fault, Id, LeaseKind, Name, Reply, Request, Secret, Text};
use zeroize::Zeroizing;

/// Most passwords that are remembered.
pub const REMEMBERED: usize = 10_000;
/// One in so many parts of [`crate::config::Config::reserve_bytes`] is for no record of a login: with less space nobody comes in.
pub const LAST_PART: u64 = 4;

/// Remembers for a short time whose password was right.
#[derive(Debug)]
pub struct Cache {
    key: Zeroizing<[u8; 32]>,
    time: Duration,
    entries: Mutex<Entries>,
}

#[derive(Debug, Default)]
struct Entries {
    /// How often the cache was emptied: what the database said before that is not taken in after it.
    epoch: u64,
    known: HashMap<[u8; 32], (Name, Instant)>,
}

impl Cache {
    /// An empty cache that remembers for this time.
    ///
    /// # Errors
    /// When the system has no randomness to give.
    pub fn new(time: Duration) -> Result<Self, getrandom::Error> {
        let mut key = Zeroizing::new([0; 32]);
        getrandom::fill(&mut *key)?;
        Ok(Self { key, time, entries: Mutex::default() })
    }

    fn hash(&self, user: &str, password: &Secret) -> [u8; 32] {
        let mut hasher = Sha256::new();
        hasher.update(self.key.as_slice());
        hasher.update((user.len() as u64).to_be_bytes());
        hasher.update(user);
        hasher.update(password.expose());
        hasher.finalize().into()
    }

    /// Whose password this is, if that is known; otherwise the epoch for [`Cache::remember`].
    fn recall(&self, hash: &[u8; 32], now: Instant) -> Result<Name, u64> {
        let entries = self.lock();
        match entries.known.get(hash) {
            Some((name, until)) if *until > now => Ok(name.clone()),
            _ => Err(entries.epoch),
        }
    }

    fn remember(&self, hash: [u8; 32], name: Name, epoch: u64, now: Instant) {
        let mut entries = self.lock();
        if self.time.is_zero() || entries.epoch != epoch {
            return;
        }
        if entries.known.len() >= REMEMBERED {
            entries.known.retain(|_, (_, until)| *until > now);
        }
        if entries.known.len() < REMEMBERED {
            entries.known.insert(hash, (name, now + self.time));
        }
    }

    /// Forgets everything.
    pub fn clear(&self) {
        let mut entries = self.lock();
        entries.epoch += 1;
        entries.known.clear();
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Entries> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A yes.
#[derive(Debug)]
pub struct Admitted {
    /// Whose account it is.
    pub customer: Name,
    /// What it may fetch.
    pub access: Access,
    /// The directory that becomes the session's root.
    pub directory: OwnedFd,
}

impl Admitted {
    /// Whether it is for one lease only.
    pub fn kind(&self) -> LeaseKind {
        match self.access {
            Access::Account(_) => LeaseKind::Standing,
            Access::Ticket(_) => LeaseKind::OneTime,
        }
    }
}

/// Why a login is refused, for the log and the audit trail.
#[derive(Debug, thiserror::Error)]
enum No {
    #[error("wrong user or password")]
    Wrong,
    #[error("the lease is over")]
    Over,
    #[error("too many failed attempts")]
    TooMany,
    #[error("the database asks to try later")]
    Busy,
    #[error("the database cannot be asked")]
    Unreachable,
    #[error("there is no space for its record")]
    Full,
    #[error("the ledger failed")]
    Ledger(#[from] LedgerError),
    #[error("the account's directory failed")]
    Tree(#[from] TreeError),
}

impl No {
    fn fault(&self) -> Fault {
        match self {
            Self::Wrong => Fault::Denied,
            Self::Over => Fault::Expired,
            Self::TooMany | Self::Busy => Fault::Busy,
            Self::Unreachable | Self::Full | Self::Ledger(_) | Self::Tree(_) => Fault::Unavailable,
        }
    }
}

/// Decides logins.
#[derive(Debug)]
pub struct Door {
    /// Where leases are looked up.
    pub ledger: Arc<Ledger>,
    /// Where directories come from.
    pub tree: Arc<Tree>,
    /// The time.
    pub clock: Clock,
    /// Where decisions are recorded.
    pub engine: Handle,
    /// Who knows passwords.
    pub database: Arc<Database>,
    /// Which passwords are remembered.
    pub cache: Arc<Cache>,
    /// How long leases serve resumes.
    pub grace: Grace,
    /// Slows guessing.
    pub throttle: Throttle,
    /// Checks the grants that a login asks for.
    pub verifier: Arc<Verifier>,
    /// Whether a login has all staged that the customer is entitled to, and how long it waits for that.
    pub staging: Option<Duration>,
    /// Space that leases leave free (bytes).
    pub reserve: u64,
}

impl Door {
    /// Decides one login, after the wait that earlier failures cost. The right secret of a lease costs none: nobody guesses it, and who
    /// was sent a link does not wait for what others at his address got wrong.
    ///
    /// # Errors
    /// The fault that the session gets.
    pub async fn login(&self, address: IpAddr, user: &str, password: &Secret, tls: bool) -> Result<Admitted, Fault> {
        let ticket = lease_of(user).and_then(|lease| self.by_lease(lease, password).ok());
        let verdict = match ticket {
            Some(admitted) => Ok(admitted),
            None => self.decide_in_turn(address, user, password).await,
        };
        self.record(address, user, tls, &verdict);
        verdict.map_err(|no| no.fault())
    }

    async fn decide_in_turn(&self, address: IpAddr, user: &str, password: &Secret) -> Result<Admitted, No> {
        let attempt = self.throttle.attempt(address, user, Instant::now()).ok_or(No::TooMany)?;
        // Even a wait for nothing lasts until the next tick of the timer.
        if !attempt.wait.is_zero() {
            tokio::time::sleep(attempt.wait).await;
        }
        let verdict = self.decide(address, user, password).await;
        match &verdict {
            Err(No::Wrong) => self.throttle.failed(&attempt, Instant::now()),
            verdict => self.throttle.not_counted(&attempt, verdict.is_ok()),
        }
        verdict
    }

    fn record(&self, address: IpAddr, user: &str, tls: bool, verdict: &Result<Admitted, No>) {
        let (at, from) = (self.clock.now().at, Some(address.to_string()));
        self.engine.ride(match verdict {
            Ok(admitted) => {
                let mut event = Event::new(at, AuditEvent::Login).outcome(if tls { "ftps" } else { "ftp" });
                event.customer = Some(admitted.customer.to_string());
                if let Access::Ticket(lease) = admitted.access {
                    event.lease = Some(lease);
                }
                Work::Note(Event { address: from, ..event })
            }
            Err(no) => {
                let why = daemon::report(no);
                tracing::info!(%address, user = recorded(user), why, "a login was refused");
                let mut event = Event::new(at, AuditEvent::LoginRefused).outcome(no.to_string());
                event.customer = Some(recorded(user).to_owned());
                event.lease = lease_of(user);
                // Those that are not even heard come as fast as the line allows.
                Work::Refused { event: Event { address: from, ..event }, fold: matches!(no, No::TooMany) }
            }
        });
    }

    /// The hash of what a login means by a path, if it may fetch any of it.
    ///
    /// # Errors
    /// The fault that the session gets.
    pub fn digest(&self, access: &Access, path: &str) -> Result<tobj::Sha256, Fault> {
        let unreadable = |error: LedgerError| {
            tracing::error!("a hash cannot be looked up: {}", daemon::report(&error));
            Fault::Unavailable
        };
        let reader = self.ledger.read().map_err(unreadable)?;
        let (_, lease) = find(&reader, access, path).map_err(unreadable)?.ok_or(Fault::NotFound)?;
        let now = self.clock.now();
        if ![0, 1].iter().any(|offset| may_start(&lease, *offset, self.grace, now)) {
            return Err(Fault::Expired);
        }
        Ok(lease.sha256)
    }

    async fn decide(&self, address: IpAddr, user: &str, password: &Secret) -> Result<Admitted, No> {
        match lease_of(user) {
            Some(lease) => self.by_lease(lease, password),
            None => self.by_password(address, user, password).await,
        }
    }

    /// Whoever comes in leaves a record, as often as he likes. A file system that does not say is not full.
    fn room(&self) -> Result<(), No> {
        if self.tree.space().is_ok_and(|(free, _)| is_last(free, self.reserve)) { Err(No::Full) } else { Ok(()) }
    }

    fn by_lease(&self, id: Id, password: &Secret) -> Result<Admitted, No> {
        self.room()?;
        let gone = self.engine.settled(id) == Some(Settled::Gone);
        let lease = self.ledger.read()?.lease(id)?.filter(|_| !gone).ok_or(No::Wrong)?;
        // Secrets are compared in constant time. One that is erased fits nothing.
        if lease.secret.as_ref() != Some(password) {
            return Err(No::Wrong);
        }
        let now = self.clock.now();
        if ![0, 1].iter().any(|offset| may_start(&lease, *offset, self.grace, now)) {
            return Err(No::Over);
        }
        let directory = self.tree.ticket(id)?.ok_or(No::Over)?;
        Ok(Admitted { customer: lease.customer, access: Access::Ticket(id), directory })
    }

    async fn by_password(&self, address: IpAddr, user: &str, password: &Secret) -> Result<Admitted, No> {
        self.room()?;
        if Name::new(user).is_err() {
            return Err(No::Wrong);
        }
        let hash = self.cache.hash(user, password);
        let customer = match self.cache.recall(&hash, Instant::now()) {
            Ok(customer) => customer,
            Err(epoch) => {
                let (customer, session) = self.ask(address, user, password).await?;
                if let (Some(session), Some(wait)) = (session, self.staging) {
                    self.stage_all(customer.clone(), session, wait).await;
                }
                self.cache.remember(hash, customer.clone(), epoch, Instant::now());
                customer
            }
        };
        let directory = self.tree.account(&customer)?;
        Ok(Admitted { access: Access::Account(customer.clone()), customer, directory })
    }

    /// Has everything staged that the customer is entitled to, and waits for it for a while. It goes on after that.
    async fn stage_all(&self, customer: Name, session: Secret, wait: Duration) {
        let entitled = Entitled {
            ledger: self.ledger.clone(),
            engine: self.engine.clone(),
            database: self.database.clone(),
            verifier: self.verifier.clone(),
            clock: self.clock.clone(),
        };
        let staging = tokio::spawn(entitled.stage(customer.clone(), session));
        match tokio::time::timeout(wait, staging).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::error!(%customer, %error, "staging at a login failed"),
            Err(_) => tracing::info!(%customer, "not all is staged yet; the login does not wait for it"),
        }
    }

    /// Asks the database; with a session there for what the customer is entitled to.
    async fn ask(&self, address: IpAddr, user: &str, password: &Secret) -> Result<(Name, Option<Secret>), No> {
        let (customer, password) = (Text::lossy(user), password.clone());
        let address = Text::lossy(&address.to_string());
        let request = match self.staging {
            Some(_) => Request::Login { customer, password, address },
            None => Request::LoginCheck { customer, password, address },
        };
        match self.database.ask(request, ANSWER).await {
            Ok(Reply::Session { customer, session, .. }) => Ok((customer, Some(session))),
            Ok(Reply::Verified { customer }) => Ok((customer, None)),
            Ok(Reply::Fault { fault: Fault::Denied, .. }) => Err(No::Wrong),
            Ok(Reply::Fault { fault: Fault::Busy, .. }) => Err(No::Busy),
            Ok(_) | Err(_) => Err(No::Unreachable),
        }
    }
}

/// Whether what is free is for those records only that must not be lost.
fn is_last(free: u64, reserve: u64) -> bool {
    free < reserve / LAST_PART
}

#[cfg(test)]
pub(crate) mod tests;
