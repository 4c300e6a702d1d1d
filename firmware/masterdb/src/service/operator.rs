//! What operators do: customers, objects, entitlements, the audit trail.

use super::{Failure, MasterDb};
use crate::config::Lifetimes;
use crate::password::SHORTEST;
use crate::store::audit::{self, Own};
use crate::store::customers::Enabled;
use crate::store::objects::{self, Added};
use crate::store::requests::{self, Known};
use crate::store::rows::ObjectRow;
use crate::store::{StoreError, customers, entitlements, revocations};
use redb::WriteTransaction;
use sha2::{Digest, Sha256};
use std::borrow::Cow;
use tobj::{AuditEvent, Body, Fault, Id, Message, Name, Reply, Request, Secret, Text, Timestamp};

/// What is to be changed.
enum Change {
    AddCustomer { customer: Name, hash: String },
    SetPassword { customer: Name, hash: String },
    AddObject { product: Name, version: Name, row: ObjectRow },
    EnableCustomer { customer: Name, enabled: bool },
    RemoveCustomer { customer: Name },
    RemoveObject { product: Name, version: Name },
    Entitle { customer: Name, product: Name, version: Option<Name>, until: Option<Timestamp> },
    Withdraw { customer: Name, product: Name, version: Option<Name> },
}

/// What became of a change.
enum Effect {
    /// It was made, and this is what the trail says of it.
    Made(String),
    /// All is as it should be already.
    Nothing,
    /// It cannot be made.
    Refused(Fault, Cow<'static, str>),
}

impl MasterDb {
    pub(super) async fn answer_operator(&self, who: &Name, id: Id, request: &Request) -> Result<Reply, Failure> {
        let change = match request {
            Request::CustomerList { offset } => {
                let offset = *offset;
                let (items, more) = self.store.read(move |txn| customers::list(txn, offset)).await?;
                return Ok(Reply::Customers { items, more });
            }
            Request::ObjectList { offset } => {
                let offset = *offset;
                let (items, more) = self.store.read(move |txn| objects::list(txn, offset)).await?;
                return Ok(Reply::Catalogue { items, more });
            }
            Request::EntitlementList { offset } => {
                let offset = *offset;
                let (items, more) = self.store.read(move |txn| entitlements::list(txn, offset)).await?;
                return Ok(Reply::Entitlements { items, more });
            }
            Request::AuditList { after } => {
                let after = *after;
                let (items, more) = self.store.read(move |txn| audit::list(txn, after)).await?;
                return Ok(Reply::AuditTrail { items, more });
            }
            Request::CustomerAdd { customer, password } => {
                let Some(hash) = self.new_password(password).await? else { return Ok(too_short()) };
                Change::AddCustomer { customer: customer.clone(), hash }
            }
            Request::CustomerPassword { customer, password } => {
                let Some(hash) = self.new_password(password).await? else { return Ok(too_short()) };
                Change::SetPassword { customer: customer.clone(), hash }
            }
            Request::CustomerEnable { customer, enabled } => {
                Change::EnableCustomer { customer: customer.clone(), enabled: *enabled }
            }
            Request::CustomerRemove { customer } => Change::RemoveCustomer { customer: customer.clone() },
            Request::ObjectRemove { product, version } => {
                Change::RemoveObject { product: product.clone(), version: version.clone() }
            }
            Request::ObjectAdd { product, version, file, size, sha256, download } => Change::AddObject {
                product: product.clone(),
                version: version.clone(),
                row: ObjectRow {
                    file: file.clone(),
                    size: *size,
                    sha256: *sha256,
                    download: download.clone(),
                    added: Timestamp::now(),
                },
            },
            Request::EntitlementAdd { customer, product, version, until } => Change::Entitle {
                customer: customer.clone(),
                product: product.clone(),
                version: version.clone(),
                until: *until,
            },
            Request::EntitlementRemove { customer, product, version } => {
                Change::Withdraw { customer: customer.clone(), product: product.clone(), version: version.clone() }
            }
            _ => {
                tracing::warn!(operator = %who, request = %request.tag(), "a request that operators may not make");
                return Ok(Reply::refused(Fault::Denied, "the database does not do this"));
            }
        };
        let Some(fingerprint) = fingerprint(who, id, request) else {
            return Ok(Reply::refused(Fault::Invalid, "the request cannot be written down"));
        };
        self.change(who, id, fingerprint, change).await
    }

    async fn new_password(&self, password: &Secret) -> Result<Option<String>, Failure> {
        if password.expose().chars().count() < SHORTEST {
            return Ok(None);
        }
        Ok(Some(self.hasher.hash(password.clone()).await?))
    }

    async fn change(&self, who: &Name, id: Id, fingerprint: String, change: Change) -> Result<Reply, Failure> {
        let ends_sessions_of = match &change {
            Change::SetPassword { customer, .. }
            | Change::EnableCustomer { customer, enabled: false }
            | Change::RemoveCustomer { customer } => Some(customer.clone()),
            _ => None,
        };
        let (name, by, lives) = (self.name.clone(), who.clone(), self.lives);
        let done = self.store.write(move |txn| {
            let reply = make_once(txn, &name, &by, id, fingerprint, &change, &lives)?;
            Ok((reply, revocations::last(txn)?))
        });
        let (reply, last) = done.await?;
        self.announce(last);
        match (&reply, ends_sessions_of) {
            (Reply::Done {}, Some(customer)) => self.sessions.close_all_of(&customer),
            (Reply::Fault { fault, text }, _) => tracing::info!(operator = %who, %fault, %text, "an order was refused"),
            _ => {}
        }
        Ok(reply)
    }
}

/// Makes a change, tells the trail and remembers the request; or does nothing for a request that was done.
fn make_once(
    txn: &WriteTransaction,
    name: &Name,
    who: &Name,
    id: Id,
    fingerprint: String,
    change: &Change,
    lives: &Lifetimes,
) -> Result<Reply, StoreError> {
    match requests::find(txn, id, &fingerprint)? {
        Known::No => {}
        Known::Done => return Ok(Reply::Done {}),
        Known::Other => return Ok(Reply::refused(Fault::Invalid, "another request has had this ID")),
    }
    let now = Timestamp::now();
    let (customer, sha256) = match change {
        Change::AddObject { row, .. } => (None, Some(row.sha256)),
        Change::RemoveObject { .. } => (None, None),
        Change::AddCustomer { customer, .. }
        | Change::EnableCustomer { customer, .. }
        | Change::RemoveCustomer { customer }
        | Change::SetPassword { customer, .. }
        | Change::Entitle { customer, .. }
        | Change::Withdraw { customer, .. } => (Some(Text::lossy(customer.as_str())), None),
    };
    let what = match make(txn, change, lives, now)? {
        Effect::Refused(fault, text) => return Ok(Reply::refused(fault, &text)),
        Effect::Nothing => return Ok(Reply::Done {}),
        Effect::Made(what) => what,
    };
    let outcome = Text::lossy(&format!("{who}: {what}"));
    audit::own(txn, name, Own { event: AuditEvent::Admin, customer, address: None, sha256, outcome }, now)?;
    requests::remember(txn, id, fingerprint, now)?;
    Ok(Reply::Done {})
}

fn make(txn: &WriteTransaction, change: &Change, lives: &Lifetimes, now: Timestamp) -> Result<Effect, StoreError> {
    Ok(match change {
        Change::AddCustomer { customer, hash } => match customers::add(txn, customer, hash.clone(), now)? {
            true => Effect::Made("customer added".to_owned()),
            false => refused(Fault::Invalid, "there is a customer of that name"),
        },
        Change::SetPassword { customer, hash } => match customers::set_password(txn, customer, hash.clone(), now)? {
            true => Effect::Made("password set".to_owned()),
            false => refused(Fault::NotFound, "there is no such customer"),
        },
        Change::EnableCustomer { customer, enabled } => match customers::enable(txn, customer, *enabled, now)? {
            Enabled::Changed if *enabled => Effect::Made("customer enabled".to_owned()),
            Enabled::Changed => Effect::Made("customer disabled".to_owned()),
            Enabled::Same => Effect::Nothing,
            Enabled::Unknown => refused(Fault::NotFound, "there is no such customer"),
        },
        Change::RemoveCustomer { customer } => match customers::remove(txn, customer, now)? {
            true => Effect::Made("customer removed".to_owned()),
            false => refused(Fault::NotFound, "there is no such customer"),
        },
        Change::RemoveObject { product, version } => match objects::remove(txn, product, version)? {
            true => Effect::Made(format!("object removed: {product} {version}")),
            false => refused(Fault::NotFound, "there is no such product or version"),
        },
        Change::AddObject { product, version, row } => match objects::add(txn, product, version, row)? {
            Added::New => Effect::Made(format!("object added: {product} {version} {} on {}", row.file, row.download)),
            Added::Known => Effect::Nothing,
            Added::Conflict(old) => {
                let (file, size, sha256) = (&old.file, old.size, old.sha256);
                Effect::Refused(Fault::Invalid, format!(
                    "{product} {version} is another object already: {file}, {size} bytes, sha256 {sha256} on {}; name another \
                     version, or retire that one first", old.download
                ).into())
            }
        },
        Change::Entitle { customer, product, version, until } => {
            match entitlements::add(txn, customer, product, version.as_ref(), *until, lives, now)? {
                true => Effect::Made(format!("entitled to {}", what(product, version.as_ref(), *until))),
                false => refused(Fault::NotFound, "there is no such customer, product or version"),
            }
        }
        Change::Withdraw { customer, product, version } => {
            match entitlements::remove(txn, customer, product, version.as_ref(), lives, now)? {
                true => Effect::Made(format!("no longer entitled to {}", what(product, version.as_ref(), None))),
                false => refused(Fault::NotFound, "there is no such entitlement"),
            }
        }
    })
}

fn refused(fault: Fault, why: &'static str) -> Effect {
    Effect::Refused(fault, why.into())
}

fn what(product: &Name, version: Option<&Name>, until: Option<Timestamp>) -> String {
    let version = version.map_or("all versions", Name::as_str);
    let until = until.map(|until| format!(" until {until}")).unwrap_or_default();
    format!("{product} {version}{until}")
}

fn too_short() -> Reply {
    Reply::refused(Fault::Invalid, &format!("a password has at least {SHORTEST} characters"))
}

/// What tells this request from another one with the same ID: its text and who made it, without the password, whose plain hash
/// would be worth guessing at.
fn fingerprint(who: &Name, id: Id, request: &Request) -> Option<String> {
    let mut request = request.clone();
    if let Request::CustomerAdd { password, .. } | Request::CustomerPassword { password, .. } = &mut request {
        *password = Secret::new("").ok()?;
    }
    let text = Message { id, literal: None, body: Body::Request(request) }.encode().ok()?;
    Some(hex::encode(Sha256::digest(format!("{who} {text}"))))
}
