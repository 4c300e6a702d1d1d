//! What customers do at the portal: log in, look, choose.

use super::{Failure, MasterDb, fault};
use crate::session::Session;
use crate::store::audit::{self, Own};
use crate::store::grants::{self, Outcome, Wish};
use crate::store::rows::CustomerRow;
use crate::store::{customers, entitlements};
use daemon::log::recorded;
use tobj::{AuditEvent, Fault, Id, LeaseKind, Name, Reply, Secret, Text, Timestamp};
use tokio::time::Instant;

/// What the check of a password says.
pub(super) enum Verdict {
    /// It is right: the customer, and the generation of the password.
    Right(Name, CustomerRow),
    /// It is wrong, or there is no such customer.
    Wrong,
    /// There are too many attempts.
    TooMany,
}

impl MasterDb {
    /// Checks a password, slower after failures.
    pub(super) async fn check(&self, customer: &Text, password: &Secret, address: &Text) -> Result<Verdict, Failure> {
        let Some(attempt) = self.throttle.admit(customer.as_str(), address.as_str(), Instant::now()) else {
            return Ok(Verdict::TooMany);
        };
        if !attempt.delay().is_zero() {
            tokio::time::sleep(attempt.delay()).await;
        }
        let name = Name::new(customer.as_str()).ok();
        let key = name.clone();
        let row = self.store.read(move |txn| match &key {
            Some(name) => customers::find(txn, name.as_str()),
            None => Ok(None),
        });
        let row = row.await?;
        let right = self.hasher.verify(password.clone(), row.as_ref().map(|row| row.hash.clone())).await?;
        match (right, name, row) {
            // Who may not come in for the time being is not told apart from who does not know the password.
            (true, Some(name), Some(row)) if !row.disabled => {
                attempt.passed();
                Ok(Verdict::Right(name, row))
            }
            _ => {
                attempt.failed(Instant::now());
                Ok(Verdict::Wrong)
            }
        }
    }

    /// `web`: at the portal. A download appliance tells the trail itself of its logins, with what it knows of the connection.
    pub(super) async fn login(
        &self,
        machine: &Name,
        web: bool,
        customer: &Text,
        password: &Secret,
        address: &Text,
    ) -> Result<Reply, Failure> {
        let (name, row) = match self.check(customer, password, address).await? {
            Verdict::Right(name, row) => (name, row),
            Verdict::Wrong => {
                self.refused(machine, web, customer, address).await?;
                return Ok(fault(Fault::Denied));
            }
            Verdict::TooMany => {
                self.say_too_many(machine, customer, address);
                return Ok(fault(Fault::Busy));
            }
        };
        if !self.sessions.has_room(Instant::now()) {
            return Ok(fault(Fault::Busy));
        }
        if web {
            self.record(vec![login(AuditEvent::Login, customer.as_str(), address, &format!("at {machine}"))]).await?;
        }
        let expires = Timestamp::now().plus(self.lives.session);
        match self.sessions.open(name.clone(), row.generation, machine.clone(), Instant::now())? {
            Some(session) => Ok(Reply::Session { session, customer: name, expires }),
            None => Ok(fault(Fault::Busy)),
        }
    }

    pub(super) async fn catalogue(
        &self,
        machine: &Name,
        web: bool,
        session: &Secret,
        offset: u64,
    ) -> Result<Reply, Failure> {
        let only = (!web).then(|| machine.clone());
        let Some(Session { customer, generation, .. }) = self.sessions.get(session, machine, Instant::now()) else {
            return Ok(fault(Fault::Expired));
        };
        let page = self.store.read(move |txn| {
            let row = customers::find(txn, customer.as_str())?;
            if row.is_none_or(|row| row.generation != generation) {
                return Ok(None);
            }
            entitlements::catalogue(txn, &customer, only.as_ref(), offset, Timestamp::now()).map(Some)
        });
        Ok(page.await?.map_or(fault(Fault::Expired), |(items, more)| Reply::Catalogue { items, more }))
    }

    #[allow(clippy::too_many_arguments, reason = "they are the fields of the request and who made it")]
    pub(super) async fn grant(
        &self,
        machine: &Name,
        web: bool,
        request: Id,
        session: &Secret,
        product: &Name,
        version: &Name,
        kind: LeaseKind,
    ) -> Result<Reply, Failure> {
        let Some(Session { customer, generation, .. }) = self.sessions.get(session, machine, Instant::now()) else {
            tracing::info!(%machine, "a grant was asked for without a session");
            return Ok(fault(Fault::Expired));
        };
        let (product, version) = (product.clone(), version.clone());
        let only = (!web).then(|| machine.clone());
        let wish = Wish { request, customer, generation, product, version, kind, only };
        let (name, lives, asked) = (self.name.clone(), self.lives, wish.clone());
        let full = self.space.is_full();
        let outcome = self.store.write(move |txn| {
            let now = Timestamp::now();
            let outcome = match full {
                true => grants::known(txn, &asked)?.unwrap_or(Outcome::NoSpace),
                false => grants::issue(txn, &asked, &lives, now)?,
            };
            if let Some(record) = record_of(&asked, &outcome) {
                audit::own(txn, &name, record, now)?;
            }
            Ok(outcome)
        });
        let outcome = outcome.await?;
        let Wish { customer, product, version, .. } = wish;
        match outcome {
            Outcome::Issued(row) | Outcome::Repeated(row) => {
                tracing::info!(%customer, %product, %version, %kind, grant = %row.id, "a grant was issued");
                Ok(Reply::Granted { grant: self.signer.sign(&row)?, download: row.download })
            }
            Outcome::SessionOver => Ok(fault(Fault::Expired)),
            Outcome::NotEntitled | Outcome::NoObject => {
                tracing::info!(%customer, %product, %version, ?outcome, "a grant was refused");
                Ok(fault(Fault::Denied))
            }
            Outcome::NoSpace => {
                self.say_full();
                Ok(fault(Fault::Unavailable))
            }
            Outcome::OtherRequest => {
                tracing::warn!(%customer, id = %request, "the ID of another request was used again");
                Ok(fault(Fault::Invalid))
            }
        }
    }

    pub(super) fn say_too_many(&self, machine: &Name, customer: &Text, address: &Text) {
        if let Some(suppressed) = self.too_many.pass(Instant::now()) {
            tracing::warn!(%machine, customer = recorded(customer.as_str()), %address, suppressed, "too many logins at once");
        }
    }

    /// Tells the log and the trail of a refused login, as far as there is room for it.
    async fn refused(&self, machine: &Name, web: bool, customer: &Text, address: &Text) -> Result<(), Failure> {
        let customer = recorded(customer.as_str());
        if !web {
            tracing::info!(%machine, customer, %address, "a login was refused");
            return Ok(());
        }
        if self.space.is_full() {
            self.refused.suppress();
            self.say_full();
            return Ok(());
        }
        let Some(suppressed) = self.refused.pass(Instant::now()) else { return Ok(()) };
        tracing::info!(%machine, customer, %address, suppressed, "a login was refused");
        let refused = login(AuditEvent::LoginRefused, customer, address, "wrong name or password");
        self.record(counted(suppressed).into_iter().chain([refused]).collect()).await
    }

    /// Records how many refused logins were counted only.
    pub(super) async fn record_suppressed(&self) -> Result<(), Failure> {
        match counted(self.refused.take()) {
            Some(own) => self.record(vec![own]).await,
            None => Ok(()),
        }
    }

    async fn record(&self, records: Vec<Own>) -> Result<(), Failure> {
        let name = self.name.clone();
        let written = self.store.write(move |txn| {
            let now = Timestamp::now();
            records.into_iter().try_for_each(|own| audit::own(txn, &name, own, now))
        });
        Ok(written.await?)
    }
}

fn login(event: AuditEvent, customer: &str, address: &Text, outcome: &str) -> Own {
    let (customer, address) = (Some(Text::lossy(customer)), Some(address.clone()));
    Own { event, customer, address, sha256: None, outcome: Text::lossy(outcome) }
}

/// The record of so many refused logins.
fn counted(logins: u64) -> Option<Own> {
    let outcome = format!("{logins} that were not recorded one by one: too many a minute, or no space for them");
    let (event, outcome) = (AuditEvent::LoginRefused, Text::lossy(&outcome));
    (logins > 0).then_some(Own { event, customer: None, address: None, sha256: None, outcome })
}

/// What the trail says of it; nothing of a repeated grant, which it has told already.
fn record_of(wish: &Wish, outcome: &Outcome) -> Option<Own> {
    let Wish { product, version, kind, .. } = wish;
    let (event, sha256, why) = match outcome {
        Outcome::Issued(row) => (AuditEvent::Granted, Some(row.sha256), format!("grant {}", row.id)),
        Outcome::NotEntitled => (AuditEvent::GrantRefused, None, "not entitled".to_owned()),
        Outcome::NoObject => (AuditEvent::GrantRefused, None, "no such object".to_owned()),
        Outcome::Repeated(_) | Outcome::SessionOver | Outcome::OtherRequest | Outcome::NoSpace => return None,
    };
    Some(Own {
        event,
        customer: Some(Text::lossy(wish.customer.as_str())),
        address: None,
        sha256,
        outcome: Text::lossy(&format!("{kind} {product} {version}: {why}")),
    })
}
