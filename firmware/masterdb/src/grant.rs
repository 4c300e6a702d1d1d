//! The tokens that grants are: PASETO v4.public, which the download appliance checks with the public key (N2).
//!
//! All that the download appliance acts on is in the token. Times are RFC 3339 in `iat`, `nbf` and `exp` (the use-by); all other
//! claims are strings: `jti` (the grant, 32 hex digits), `sub` (the customer), `aud` (the download appliance), `product`, `version`,
//! `file`, `sha256`, `size` (decimal), `kind` (`STANDING` or `ONE-TIME`) and `lease_expires` (seconds since 1970, decimal).
//! There is no footer; the implicit assertion is [`ASSERTION`].

use crate::store::rows::GrantRow;
use pasetors::keys::{AsymmetricPublicKey, AsymmetricSecretKey};
use pasetors::version4::{PublicToken, V4};
use serde::Serialize;
use std::path::{Path, PathBuf};
use tobj::{Secret, Timestamp};
use zeroize::Zeroizing;

/// What is signed with every grant without being in it: a key used for something else by mistake signs no grant.
pub const ASSERTION: &[u8] = b"ffs-grant-1";

/// Why a key is of no use.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The file cannot be read.
    #[error("cannot read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// It is not a key.
    #[error("it is not a PASERK of the form k4.secret.…")]
    Form(#[source] pasetors::errors::Error),
}

/// Why a grant was not signed.
#[derive(Debug, thiserror::Error)]
pub enum SignError {
    /// A time that no calendar has.
    #[error("a time is out of range")]
    Time(#[source] jiff::Error),
    /// The claims or the signature failed.
    #[error("the token could not be made")]
    Token(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// Signs grants.
#[derive(Debug)]
pub struct Signer(AsymmetricSecretKey<V4>);

/// The claims, in the order in which they are written: signing the same grant again gives the same token.
#[derive(Serialize)]
struct Claims<'a> {
    iat: &'a str,
    nbf: &'a str,
    exp: &'a str,
    jti: &'a str,
    sub: &'a str,
    aud: &'a str,
    product: &'a str,
    version: &'a str,
    file: &'a str,
    sha256: &'a str,
    size: &'a str,
    kind: &'a str,
    lease_expires: &'a str,
}

impl Signer {
    /// The key in a file.
    ///
    /// # Errors
    /// [`KeyError`] when it cannot be read or is not a key.
    pub fn load(path: &Path) -> Result<Self, KeyError> {
        let text = std::fs::read_to_string(path)
            .map(Zeroizing::new)
            .map_err(|source| KeyError::Read { path: path.to_owned(), source })?;
        Self::from_paserk(text.trim())
    }

    /// The key of a PASERK.
    ///
    /// # Errors
    /// [`KeyError::Form`] when it is none, or its two halves do not belong together.
    pub fn from_paserk(text: &str) -> Result<Self, KeyError> {
        AsymmetricSecretKey::try_from(text).map(Self).map_err(KeyError::Form)
    }

    /// The key that checks what this one signs.
    ///
    /// # Errors
    /// [`SignError::Token`]; a key that was read has a public half.
    pub fn public(&self) -> Result<AsymmetricPublicKey<V4>, SignError> {
        AsymmetricPublicKey::try_from(&self.0).map_err(|e| SignError::Token(e.into()))
    }

    /// The token of a grant.
    ///
    /// # Errors
    /// [`SignError`] when a time is beyond the calendar.
    pub fn sign(&self, grant: &GrantRow) -> Result<Secret, SignError> {
        let issued = rfc3339(grant.issued)?;
        let claims = Claims {
            iat: &issued,
            nbf: &issued,
            exp: &rfc3339(grant.use_by)?,
            jti: &grant.id.to_string(),
            sub: grant.customer.as_str(),
            aud: grant.download.as_str(),
            product: grant.product.as_str(),
            version: grant.version.as_str(),
            file: grant.file.as_str(),
            sha256: &grant.sha256.to_string(),
            size: &grant.size.to_string(),
            kind: grant.kind.as_str(),
            lease_expires: &grant.lease_expires.to_string(),
        };
        let payload = serde_json::to_vec(&claims).map_err(|e| SignError::Token(e.into()))?;
        let token =
            PublicToken::sign(&self.0, &payload, None, Some(ASSERTION)).map_err(|e| SignError::Token(e.into()))?;
        Secret::new(&token).map_err(|e| SignError::Token(e.into()))
    }
}

fn rfc3339(at: Timestamp) -> Result<String, SignError> {
    let seconds = i64::try_from(at.0).unwrap_or(i64::MAX);
    Ok(jiff::Timestamp::from_second(seconds).map_err(SignError::Time)?.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use pasetors::claims::ClaimsValidationRules;
    use pasetors::keys::{AsymmetricKeyPair, Generate};
    use pasetors::paserk::FormatAsPaserk;
    use pasetors::token::UntrustedToken;
    use pasetors::{Public, public};
    use tobj::{FileName, Id, LeaseKind, Name, Sha256};

    fn signer() -> Signer {
        let pair = AsymmetricKeyPair::<V4>::generate().unwrap();
        let mut text = String::new();
        pair.secret.fmt(&mut text).unwrap();
        Signer::from_paserk(&text).unwrap()
    }

    fn grant() -> GrantRow {
        let now = Timestamp::now();
        GrantRow {
            id: Id::from([7; 16]),
            request: Id::from([8; 16]),
            customer: Name::new("alice").unwrap(),
            product: Name::new("maps").unwrap(),
            version: Name::new("1.0").unwrap(),
            kind: LeaseKind::OneTime,
            file: FileName::new("the \"map\" 世界.bin").unwrap(),
            size: u64::MAX,
            sha256: Sha256::from([9; 32]),
            download: Name::new("download").unwrap(),
            issued: now,
            use_by: now.plus(300),
            lease_expires: now.plus(1000),
        }
    }

    #[test]
    fn a_token_says_all_and_only_our_key_made_it() {
        let (signer, grant) = (signer(), grant());
        let token = signer.sign(&grant).unwrap();
        assert_eq!(signer.sign(&grant).unwrap(), token, "signing again gives the same");
        let untrusted = UntrustedToken::<Public, V4>::try_from(token.expose()).unwrap();
        let mut rules = ClaimsValidationRules::new();
        rules.validate_audience_with("download");
        let verify = |key: &Signer, assertion: &[u8]| {
            public::verify(&key.public().unwrap(), &untrusted, &rules, None, Some(assertion))
        };
        let trusted = verify(&signer, ASSERTION).unwrap();
        let claims = trusted.payload_claims().unwrap();
        let text = |name: &str| claims.get_claim(name).and_then(|v| v.as_str()).unwrap().to_owned();
        assert_eq!(text("jti"), "07070707070707070707070707070707");
        assert_eq!((text("sub"), text("aud")), ("alice".into(), "download".into()));
        assert_eq!((text("product"), text("version")), ("maps".into(), "1.0".into()));
        assert_eq!((text("file"), text("kind")), ("the \"map\" 世界.bin".into(), "ONE-TIME".into()));
        assert_eq!((text("size"), text("sha256")), (u64::MAX.to_string(), "09".repeat(32)));
        assert_eq!(text("lease_expires"), grant.lease_expires.to_string());
        assert!(verify(&self::signer(), ASSERTION).is_err(), "another key");
        assert!(verify(&signer, b"ffs-grant-2").is_err(), "another purpose");
    }

    #[test]
    fn a_grant_past_its_use_by_is_not_valid() {
        let signer = signer();
        let now = Timestamp::now();
        let old = GrantRow { issued: Timestamp(now.0 - 10), use_by: Timestamp(now.0 - 5), ..grant() };
        let token = signer.sign(&old).unwrap();
        let untrusted = UntrustedToken::<Public, V4>::try_from(token.expose()).unwrap();
        let rules = ClaimsValidationRules::new();
        assert!(public::verify(&signer.public().unwrap(), &untrusted, &rules, None, Some(ASSERTION)).is_err());
    }

    #[test]
    fn keys_that_are_none() {
        for bad in ["", "k4.secret.", "k4.public.AAAA", "k4.secret.AAAA", "k2.secret.AAAA"] {
            assert!(matches!(Signer::from_paserk(bad), Err(KeyError::Form(_))), "{bad}");
        }
        assert!(matches!(Signer::load(Path::new("/nonexistent/key")), Err(KeyError::Read { .. })));
    }

    #[test]
    fn no_time_is_beyond_the_calendar_without_an_error() {
        assert!(matches!(rfc3339(Timestamp(u64::MAX)), Err(SignError::Time(_))));
        assert_eq!(rfc3339(Timestamp(0)).unwrap(), "1970-01-01T00:00:00Z");
    }
}
