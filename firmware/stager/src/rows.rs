//! What the ledger keeps, and its form in JSON.

use crate::grants::Grant;
use crate::ranges::Ranges;
use serde::{Deserialize, Serialize};
use tobj::{
    AuditEvent, AuditRecord, FileName, Id, LeaseInfo, LeaseKind, LeaseState, Name, ObjectState, Secret, Sha256, Text,
    Timestamp, TlsVersion,
};

/// An object of the storeroom.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Object {
    /// Bytes.
    pub size: u64,
    /// When it came in (seconds since 1970).
    pub at: u64,
    /// How it is.
    #[serde(default = "good", with = "text")]
    pub state: ObjectState,
    /// When its bytes were last read and found right (seconds since 1970); 0 for not since it came in.
    #[serde(default)]
    pub verified: u64,
    /// The pass over the storeroom in which that was, or during which it came in.
    #[serde(default)]
    pub pass: u64,
}

fn good() -> ObjectState {
    ObjectState::Good
}

impl Object {
    /// An object that has just come in.
    pub fn new(size: u64, at: u64, pass: u64) -> Self {
        Self { size, at, state: ObjectState::Good, verified: 0, pass }
    }
}

/// An object that has come in in part.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Upload {
    /// All of its bytes.
    pub size: u64,
    /// How many of them are on the disk for good.
    pub durable: u64,
    /// What the hash has come to with them, in hex.
    pub hash: String,
    /// When that was (seconds since 1970).
    pub at: u64,
}

/// A right that was withdrawn: grants from before are worth nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Withdrawn {
    /// To which product; without one, to all.
    #[serde(default, with = "text_option", skip_serializing_if = "Option::is_none")]
    pub product: Option<Name>,
    /// To which version; without one, to all.
    #[serde(default, with = "text_option", skip_serializing_if = "Option::is_none")]
    pub version: Option<Name>,
    /// When, by the database's clock (seconds since 1970).
    pub at: u64,
    /// Its number at the database.
    #[serde(default)]
    pub seq: u64,
    /// The last audit record before it was noted here: what began after that was granted anew.
    #[serde(default)]
    pub record: u64,
}

impl Withdrawn {
    /// Whether it is this one, told once more.
    pub fn is(&self, other: &Self) -> bool {
        let what = |row: &Self| (row.seq, row.at, row.product.clone(), row.version.clone());
        what(self) == what(other)
    }

    /// Whether it is the same right, told after this other one and with an earlier time: the database's clock had been ahead.
    pub fn corrects(&self, other: &Self) -> bool {
        let same = (&self.product, &self.version) == (&other.product, &other.version);
        same && self.seq > other.seq && self.at < other.at
    }

    /// Whether it ends a lease that began with this audit record.
    pub fn ends(&self, begun: u64) -> bool {
        begun <= self.record
    }

    /// Whether it takes this away.
    pub fn covers(&self, product: &Name, version: &Name) -> bool {
        self.product.as_ref().is_none_or(|p| p == product) && self.version.as_ref().is_none_or(|v| v == version)
    }
}

/// Where a lease is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// Committed; its link is being made.
    Pending,
    /// Its link is there.
    Active,
    /// Only resumes are served, until this time (seconds since 1970).
    Ending(u64),
    /// Its link is being removed.
    Removing,
}

/// The right to fetch one object at one path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// What it is good for.
    #[serde(with = "text")]
    pub kind: LeaseKind,
    /// Where it is in its life.
    pub state: State,
    /// Whose it is.
    #[serde(with = "text")]
    pub customer: Name,
    /// The product.
    #[serde(with = "text")]
    pub product: Name,
    /// The version of the product.
    #[serde(with = "text")]
    pub version: Name,
    /// The name of the file.
    #[serde(with = "text")]
    pub file: FileName,
    /// Bytes of the object.
    pub size: u64,
    /// The object.
    #[serde(with = "text")]
    pub sha256: Sha256,
    /// When it ends by itself (seconds since 1970).
    pub expires: u64,
    /// What was fetched.
    #[serde(default, skip_serializing_if = "Ranges::is_empty")]
    pub covered: Ranges,
    /// The password of a one-time lease.
    #[serde(default, with = "secret", skip_serializing_if = "Option::is_none")]
    pub secret: Option<Secret>,
    /// While it is pending: the grants that were used for it since, which are as unused if it comes to nothing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub grants: Vec<PendingGrant>,
    /// The audit record of the staging that it began with; those that renewed it do not count. 0 where that is not known.
    #[serde(default)]
    pub begun: u64,
}

/// A grant whose lease is pending.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PendingGrant {
    /// Until when it may be used (seconds since 1970).
    pub use_by: u64,
    /// Its id.
    #[serde(with = "text")]
    pub id: Id,
}

impl PendingGrant {
    /// That of this grant.
    pub fn of(grant: &Grant) -> Self {
        Self { use_by: grant.use_by, id: grant.id }
    }
}

impl Lease {
    /// The same once its link is there.
    #[must_use]
    pub fn linked(self) -> Self {
        Self { state: State::Active, grants: Vec::new(), ..self }
    }

    /// When the sweep has to look at it next (seconds since 1970).
    pub fn due(&self) -> u64 {
        match self.state {
            State::Pending | State::Active => self.expires,
            State::Ending(remove_after) => remove_after,
            State::Removing => 0,
        }
    }

    /// The path as the customer sees it.
    pub fn visible_path(&self) -> Text {
        Text::lossy(&match self.kind {
            LeaseKind::Standing => format!("/{}/{}/{}", self.product, self.version, self.file),
            LeaseKind::OneTime => format!("/{}", self.file),
        })
    }

    /// The lease as operators see it.
    pub fn info(&self, id: Id) -> LeaseInfo {
        let state = match self.state {
            State::Pending => LeaseState::Pending,
            State::Active => LeaseState::Active,
            State::Ending(_) | State::Removing => LeaseState::Ending,
        };
        LeaseInfo {
            lease: id,
            kind: self.kind,
            state,
            customer: self.customer.clone(),
            product: self.product.clone(),
            version: self.version.clone(),
            file: self.file.clone(),
            path: self.visible_path(),
            size: self.size,
            sha256: self.sha256,
            expires: Timestamp(self.expires),
            covered: self.covered.bytes(),
        }
    }
}

/// The user name of a one-time lease.
pub fn user_of(lease: Id) -> String {
    format!("{USER_PREFIX}{lease}")
}

/// The one-time lease that a user name stands for.
pub fn lease_of(user: &str) -> Option<Id> {
    user.strip_prefix(USER_PREFIX)?.parse().ok()
}

const USER_PREFIX: &str = "lease-";

/// A grant that was used, and the answer it got.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UsedGrant {
    /// The request that used it.
    #[serde(with = "text")]
    pub request: Id,
    /// The lease it made or renewed.
    #[serde(with = "text")]
    pub lease: Id,
    /// What the answer said of the end of the lease (seconds since 1970).
    pub expires: u64,
}

/// An order of an operator that was done, which gets the same answer when it comes again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DoneOrder {
    /// The request.
    #[serde(with = "text")]
    pub request: Id,
    /// What was ordered, and by whom.
    pub order: String,
}

/// A transfer that has begun.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Transfer {
    /// The lease it is served from.
    #[serde(with = "text")]
    pub lease: Id,
    /// Whose.
    #[serde(with = "text")]
    pub customer: Name,
    /// The client's address.
    pub address: String,
    /// The object.
    #[serde(with = "text")]
    pub sha256: Sha256,
    /// Its size.
    pub size: u64,
    /// The first byte to be sent.
    pub offset: u64,
    /// When it began (seconds since 1970).
    pub at: u64,
    /// The TLS under which it goes.
    #[serde(default, with = "text_option", skip_serializing_if = "Option::is_none")]
    pub tls: Option<TlsVersion>,
    /// Bytes that are known to have been sent.
    #[serde(default)]
    pub bytes: u64,
    /// How long it had taken by then.
    #[serde(default)]
    pub milliseconds: u64,
}

/// What happened, to be told to the database. Its number is its key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// When, by our clock (seconds since 1970).
    pub at: u64,
    /// What.
    #[serde(with = "text")]
    pub event: AuditEvent,
    /// The customer, as far as known; for a refused login what was typed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub customer: Option<String>,
    /// The address of the client.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// The lease.
    #[serde(default, with = "text_option", skip_serializing_if = "Option::is_none")]
    pub lease: Option<Id>,
    /// The object.
    #[serde(default, with = "text_option", skip_serializing_if = "Option::is_none")]
    pub sha256: Option<Sha256>,
    /// The first byte of a transfer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offset: Option<u64>,
    /// Bytes that were sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// How long a transfer took.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub milliseconds: Option<u64>,
    /// The TLS under which it went.
    #[serde(default, with = "text_option", skip_serializing_if = "Option::is_none")]
    pub tls: Option<TlsVersion>,
    /// How it ended, or why it was refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<String>,
}

impl Event {
    /// An event of which no more is known yet.
    pub fn new(at: u64, event: AuditEvent) -> Self {
        Self {
            at,
            event,
            customer: None,
            address: None,
            lease: None,
            sha256: None,
            offset: None,
            bytes: None,
            milliseconds: None,
            tls: None,
            outcome: None,
        }
    }

    /// The same about this lease.
    #[must_use]
    pub fn about(mut self, id: Id, lease: &Lease) -> Self {
        self.customer = Some(lease.customer.to_string());
        self.lease = Some(id);
        self.sha256 = Some(lease.sha256);
        self
    }

    /// The same with an outcome.
    #[must_use]
    pub fn outcome(mut self, outcome: impl Into<String>) -> Self {
        self.outcome = Some(outcome.into());
        self
    }

    /// The record that the database gets.
    pub fn record(&self, seq: u64) -> AuditRecord {
        AuditRecord {
            seq,
            at: Timestamp(self.at),
            event: self.event,
            customer: self.customer.as_deref().map(Text::lossy),
            address: self.address.as_deref().map(Text::lossy),
            lease: self.lease,
            sha256: self.sha256,
            offset: self.offset,
            bytes: self.bytes,
            milliseconds: self.milliseconds,
            tls: self.tls,
            outcome: self.outcome.as_deref().map(Text::lossy),
        }
    }
}

/// Values that have one text form.
mod text {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};
    use std::{fmt::Display, str::FromStr};

    pub(super) fn serialize<T: Display, S: Serializer>(value: &T, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(value)
    }

    pub(super) fn deserialize<'de, T: FromStr<Err: Display>, D: Deserializer<'de>>(from: D) -> Result<T, D::Error> {
        String::deserialize(from)?.parse().map_err(D::Error::custom)
    }
}

/// The same, absent or there.
mod text_option {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};
    use std::{fmt::Display, str::FromStr};

    pub(super) fn serialize<T: Display, S: Serializer>(value: &Option<T>, to: S) -> Result<S::Ok, S::Error> {
        match value {
            Some(value) => to.collect_str(value),
            None => to.serialize_none(),
        }
    }

    pub(super) fn deserialize<'de, T, D>(from: D) -> Result<Option<T>, D::Error>
    where
        T: FromStr<Err: Display>,
        D: Deserializer<'de>,
    {
        Option::<String>::deserialize(from)?.map(|text| text.parse().map_err(D::Error::custom)).transpose()
    }
}

/// A secret, which does not show itself.
mod secret {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};
    use tobj::Secret;
    use zeroize::Zeroizing;

    pub(super) fn serialize<S: Serializer>(value: &Option<Secret>, to: S) -> Result<S::Ok, S::Error> {
        match value {
            Some(value) => to.serialize_str(value.expose()),
            None => to.serialize_none(),
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Secret>, D::Error> {
        let text = Option::<String>::deserialize(from)?.map(Zeroizing::new);
        text.map(|text| Secret::new(&text).map_err(D::Error::custom)).transpose()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn lease(kind: LeaseKind) -> Lease {
        Lease {
            kind,
            state: State::Active,
            customer: "alice".parse().unwrap(),
            product: "maps".parse().unwrap(),
            version: "1.0".parse().unwrap(),
            file: "grüße 1.iso".parse().unwrap(),
            size: 100,
            sha256: [7; 32].into(),
            expires: 1000,
            covered: Ranges::default(),
            secret: None,
            grants: Vec::new(),
            begun: 0,
        }
    }

    #[test]
    fn a_lease_survives_its_form() {
        let mut one = lease(LeaseKind::OneTime);
        one.secret = Some(Secret::new("s3cret").unwrap());
        one.covered.add(5, 9);
        one.grants = vec![PendingGrant { use_by: 7, id: [4; 16].into() }];
        one.begun = 8;
        for state in [State::Pending, State::Active, State::Ending(5), State::Removing] {
            let one = Lease { state, ..one.clone() };
            let text = serde_json::to_string(&one).unwrap();
            assert_eq!(serde_json::from_str::<Lease>(&text).unwrap(), one);
        }
        assert!(!format!("{one:?}").contains("s3cret"));
        let bad = serde_json::to_string(&one).unwrap().replace("alice", "../alice");
        assert!(serde_json::from_str::<Lease>(&bad).is_err());
    }

    #[test]
    fn users_of_leases() {
        let id = Id::from([3; 16]);
        assert_eq!(lease_of(&user_of(id)), Some(id));
        assert!(tobj::Name::new(&user_of(id)).is_ok());
        for other in ["alice", "lease-", "lease-xyz", "lease-0303030303030303030303030303030", ""] {
            assert_eq!(lease_of(other), None, "{other}");
        }
    }
}
