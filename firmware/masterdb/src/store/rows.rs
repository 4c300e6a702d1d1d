//! What a row holds, as JSON.

use super::StoreError;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tobj::{AuditEntry, AuditEvent, AuditRecord, FileName, Id, LeaseKind, Name, Sha256, Text, Timestamp, TlsVersion};

/// The bytes of a row.
///
/// # Errors
/// [`StoreError::Row`]; rows of ours have none that could fail.
pub(crate) fn write<T: Serialize>(table: &'static str, row: &T) -> Result<Vec<u8>, StoreError> {
    serde_json::to_vec(row).map_err(|source| StoreError::Row { table, source: source.into() })
}

/// A row from its bytes.
///
/// # Errors
/// [`StoreError::Row`] when they are not those of such a row.
pub(crate) fn read<T: DeserializeOwned>(table: &'static str, bytes: &[u8]) -> Result<T, StoreError> {
    serde_json::from_slice(bytes).map_err(|source| StoreError::Row { table, source: source.into() })
}

/// A value from the text that is its key.
///
/// # Errors
/// [`StoreError::Row`] when it is no such value.
pub(crate) fn key<T: std::str::FromStr<Err = tobj::Invalid>>(table: &'static str, text: &str) -> Result<T, StoreError> {
    text.parse().map_err(|source: tobj::Invalid| StoreError::Row { table, source: source.into() })
}

/// Values of Tobj as their text.
pub(crate) mod text {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};
    use std::fmt::Display;
    use std::str::FromStr;

    pub(crate) fn serialize<T: Display, S: Serializer>(value: &T, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(value)
    }
    pub(crate) fn deserialize<'de, T, D>(from: D) -> Result<T, D::Error>
    where
        T: FromStr<Err: Display>,
        D: Deserializer<'de>,
    {
        String::deserialize(from)?.parse().map_err(D::Error::custom)
    }
}

/// Values of Tobj that may be absent, as their text.
pub(crate) mod optional_text {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};
    use std::fmt::Display;
    use std::str::FromStr;

    pub(crate) fn serialize<T: Display, S: Serializer>(value: &Option<T>, to: S) -> Result<S::Ok, S::Error> {
        match value {
            Some(value) => to.collect_str(value),
            None => to.serialize_none(),
        }
    }
    pub(crate) fn deserialize<'de, T, D>(from: D) -> Result<Option<T>, D::Error>
    where
        T: FromStr<Err: Display>,
        D: Deserializer<'de>,
    {
        let text = Option::<String>::deserialize(from)?;
        text.map(|text| text.parse().map_err(D::Error::custom)).transpose()
    }
}

/// A customer.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CustomerRow {
    /// The PHC string of his password.
    pub hash: String,
    /// Grows with every new password: a session of an earlier one is over.
    pub generation: u64,
    /// Since when there is this customer.
    #[serde(with = "text")]
    pub added: Timestamp,
    /// Whether he may not log in for the time being.
    #[serde(default)]
    pub disabled: bool,
}

impl std::fmt::Debug for CustomerRow {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut shown = f.debug_struct("CustomerRow");
        shown.field("generation", &self.generation).field("disabled", &self.disabled).finish_non_exhaustive()
    }
}

/// A product.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProductRow {
    /// Since when there is this product.
    #[serde(with = "text")]
    pub added: Timestamp,
}

/// The object that is a version of a product.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObjectRow {
    /// The name of the file.
    #[serde(with = "text")]
    pub file: FileName,
    /// Bytes.
    pub size: u64,
    /// The hash of its bytes.
    #[serde(with = "text")]
    pub sha256: Sha256,
    /// The download appliance that has it.
    #[serde(with = "text")]
    pub download: Name,
    /// Since when it is this version.
    #[serde(with = "text")]
    pub added: Timestamp,
}

/// An entitlement.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EntitlementRow {
    /// When it ends, if ever.
    #[serde(default, with = "optional_text")]
    pub until: Option<Timestamp>,
    /// When it was given.
    #[serde(with = "text")]
    pub added: Timestamp,
}

/// A right that was withdrawn.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RevocationRow {
    /// Whose right.
    #[serde(with = "text")]
    pub customer: Name,
    /// To which product; without one, everything of this customer.
    #[serde(default, with = "optional_text")]
    pub product: Option<Name>,
    /// To which version; without one, all of them.
    #[serde(default, with = "optional_text")]
    pub version: Option<Name>,
    /// When.
    #[serde(with = "text")]
    pub at: Timestamp,
}

/// A line of the audit trail: [`AuditRecord`] with who reported it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditRow {
    #[serde(with = "text")]
    appliance: Name,
    seq: u64,
    #[serde(with = "text")]
    at: Timestamp,
    #[serde(with = "text")]
    event: AuditEvent,
    #[serde(default, with = "optional_text", skip_serializing_if = "Option::is_none")]
    customer: Option<Text>,
    #[serde(default, with = "optional_text", skip_serializing_if = "Option::is_none")]
    address: Option<Text>,
    #[serde(default, with = "optional_text", skip_serializing_if = "Option::is_none")]
    lease: Option<Id>,
    #[serde(default, with = "optional_text", skip_serializing_if = "Option::is_none")]
    sha256: Option<Sha256>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    offset: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    bytes: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    milliseconds: Option<u64>,
    #[serde(default, with = "optional_text", skip_serializing_if = "Option::is_none")]
    tls: Option<TlsVersion>,
    #[serde(default, with = "optional_text", skip_serializing_if = "Option::is_none")]
    outcome: Option<Text>,
}

impl AuditRow {
    /// The row of a record that this appliance reported.
    pub fn new(appliance: Name, record: AuditRecord) -> Self {
        let AuditRecord { seq, at, event, customer, address, lease, sha256, offset, bytes, milliseconds, tls, outcome } =
            record;
        Self { appliance, seq, at, event, customer, address, lease, sha256, offset, bytes, milliseconds, tls, outcome }
    }

    /// The entry at this place of the trail.
    pub fn entry(self, index: u64) -> AuditEntry {
        let Self {
            appliance,
            seq,
            at,
            event,
            customer,
            address,
            lease,
            sha256,
            offset,
            bytes,
            milliseconds,
            tls,
            outcome,
        } = self;
        let record =
            AuditRecord { seq, at, event, customer, address, lease, sha256, offset, bytes, milliseconds, tls, outcome };
        AuditEntry { index, appliance, record }
    }
}

/// A grant that was issued: all that its token says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GrantRow {
    /// The grant.
    #[serde(with = "text")]
    pub id: Id,
    /// The request that it answered.
    #[serde(with = "text")]
    pub request: Id,
    /// To whom.
    #[serde(with = "text")]
    pub customer: Name,
    /// The product.
    #[serde(with = "text")]
    pub product: Name,
    /// The version of the product.
    #[serde(with = "text")]
    pub version: Name,
    /// What kind of lease.
    #[serde(with = "text")]
    pub kind: LeaseKind,
    /// The name of the file.
    #[serde(with = "text")]
    pub file: FileName,
    /// Bytes.
    pub size: u64,
    /// The hash of its bytes.
    #[serde(with = "text")]
    pub sha256: Sha256,
    /// The download appliance that it is for.
    #[serde(with = "text")]
    pub download: Name,
    /// When it was issued.
    #[serde(with = "text")]
    pub issued: Timestamp,
    /// Until when it must have been used.
    #[serde(with = "text")]
    pub use_by: Timestamp,
    /// When the lease ends that it allows.
    #[serde(with = "text")]
    pub lease_expires: Timestamp,
}

/// A request of an operator that was done: its answer is `DONE`, since what changed nothing is not kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequestRow {
    /// When it was done.
    #[serde(with = "text")]
    pub at: Timestamp,
    /// What it asked and who, so that another request with its ID is told apart.
    pub fingerprint: String,
}
