//! Grants: what the database signed.
//!
//! A grant is a PASETO v4.public token with the implicit assertion [`ASSERTION`] and without a footer. Everything that is acted on
//! is in it; a claim that is not known makes it worthless, since it might restrict what it allows.

use crate::clock::{Now, PLAUSIBLE};
use pasetors::Public;
use pasetors::keys::AsymmetricPublicKey;
use pasetors::token::UntrustedToken;
use pasetors::version4::{PublicToken, V4};
use serde::Deserialize;
use std::path::{Path, PathBuf};
use tobj::{FileName, Id, LeaseKind, Name, Secret, Sha256};

/// Binds a token to its purpose: a signature of the same key for anything else is no grant.
pub const ASSERTION: &[u8] = b"ffs-grant-1";

/// Longest time that a grant may be used, in seconds. One that is good for longer is none of the database's.
pub const MAX_LIFE: u64 = 24 * 3600;

/// What a grant allows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// Its id; good for one request.
    pub id: Id,
    /// Whose lease it makes.
    pub customer: Name,
    /// The product.
    pub product: Name,
    /// Its version.
    pub version: Name,
    /// The name of the file.
    pub file: FileName,
    /// The object.
    pub sha256: Sha256,
    /// Its bytes.
    pub size: u64,
    /// What kind of lease.
    pub kind: LeaseKind,
    /// When the lease ends (seconds since 1970).
    pub lease_expires: u64,
    /// When it was issued (seconds since 1970).
    pub issued: u64,
    /// Until when the grant may be used (seconds since 1970).
    pub use_by: u64,
}

/// Why a grant is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GrantError {
    /// It is no token of ours, or not signed by the database.
    #[error("the grant is forged or damaged")]
    Forged,
    /// It is signed, but a claim is missing, unknown or not of its type.
    #[error("the grant's claim is not valid: {0}")]
    Claim(String),
    /// It is for another download appliance.
    #[error("the grant is for appliance {0}")]
    Elsewhere(String),
    /// Its time to be used is over, or the lease would have ended already.
    #[error("the grant has expired")]
    Expired,
    /// Its time to be used has not come.
    #[error("the grant is not valid yet")]
    Early,
}

/// A key file that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// It cannot be read.
    #[error("cannot read the grant key {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// It is not a PASERK `k4.public`.
    #[error("{0} does not hold a public grant key (k4.public.…)")]
    NotAKey(PathBuf),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Claims {
    jti: String,
    sub: String,
    aud: String,
    iat: String,
    nbf: Option<String>,
    exp: String,
    product: String,
    version: String,
    file: String,
    sha256: String,
    size: String,
    kind: String,
    lease_expires: String,
}

/// Checks grants.
#[derive(Debug)]
pub struct Verifier {
    key: AsymmetricPublicKey<V4>,
    appliance: Name,
}

impl Verifier {
    /// A verifier for grants of the database with this key to this appliance.
    pub fn new(key: AsymmetricPublicKey<V4>, appliance: Name) -> Self {
        Self { key, appliance }
    }

    /// The same with the key from a file.
    ///
    /// # Errors
    /// [`KeyError`].
    pub fn load(path: &Path, appliance: Name) -> Result<Self, KeyError> {
        let text = std::fs::read_to_string(path).map_err(|source| KeyError::Read { path: path.to_owned(), source })?;
        let key = AsymmetricPublicKey::try_from(text.trim()).map_err(|_| KeyError::NotAKey(path.to_owned()))?;
        Ok(Self::new(key, appliance))
    }

    /// Reads a grant. Whether it was used already is not looked at.
    ///
    /// # Errors
    /// [`GrantError`].
    pub fn verify(&self, token: &Secret, now: Now) -> Result<Grant, GrantError> {
        let token = UntrustedToken::<Public, V4>::try_from(token.expose()).map_err(|_| GrantError::Forged)?;
        if !token.untrusted_footer().is_empty() {
            return Err(GrantError::Forged);
        }
        let trusted = PublicToken::verify(&self.key, &token, None, Some(ASSERTION)).map_err(|_| GrantError::Forged)?;
        let claims: Claims =
            serde_json::from_str(trusted.payload()).map_err(|error| GrantError::Claim(error.to_string()))?;
        if claims.aud != self.appliance.as_str() {
            return Err(GrantError::Elsewhere(claims.aud));
        }
        let grant = Grant {
            id: value("jti", &claims.jti)?,
            customer: value("sub", &claims.sub)?,
            product: value("product", &claims.product)?,
            version: value("version", &claims.version)?,
            file: value("file", &claims.file)?,
            sha256: value("sha256", &claims.sha256)?,
            size: value("size", &claims.size)?,
            kind: value("kind", &claims.kind)?,
            lease_expires: value("lease_expires", &claims.lease_expires)?,
            issued: time("iat", &claims.iat)?,
            use_by: time("exp", &claims.exp)?,
        };
        if grant.use_by.saturating_sub(grant.issued) > MAX_LIFE {
            return Err(GrantError::Claim("exp".to_owned()));
        }
        let from = claims.nbf.as_deref().map_or(Ok(0), |nbf| time("nbf", nbf))?;
        // A clock that nobody vouches for may be behind; that is no fault of the grant.
        if now.trusted && grant.issued.max(from) > now.at.saturating_add(PLAUSIBLE) {
            return Err(GrantError::Early);
        }
        if grant.use_by <= now.at || grant.lease_expires <= now.at {
            return Err(GrantError::Expired);
        }
        Ok(grant)
    }
}

fn value<T: std::str::FromStr>(claim: &str, text: &str) -> Result<T, GrantError> {
    text.parse().map_err(|_| GrantError::Claim(claim.to_owned()))
}

/// Seconds since 1970 of an RFC 3339 time.
fn time(claim: &str, text: &str) -> Result<u64, GrantError> {
    let time: jiff::Timestamp = value(claim, text)?;
    u64::try_from(time.as_second()).map_err(|_| GrantError::Claim(claim.to_owned()))
}

#[cfg(test)]
pub(crate) mod tests;
