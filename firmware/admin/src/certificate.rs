//! The certificate that customers see at the portal and with ftps: what is to be right with one before it is served, and how a renewed
//! one is kept.
//!
//! Both ends of the commlink look at it by this code: `ffsctl` before it sends one, admind before it takes one. It is kept in one file, the
//! chain and then the key, so that a power cut leaves the old pair or the new one.

use jiff::Timestamp as Instant;
use rustls::ServerConfig;
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use sha2::{Digest, Sha256};
use std::sync::Arc;
use std::time::Duration;
use tobj::{Invalid, Request, Secret, Text};
use x509_parser::parse_x509_certificate;
use zeroize::Zeroizing;

/// Most bytes of a chain in PEM; those of public authorities have 4 to 8 KiB.
pub(crate) const MAX_CHAIN: usize = 32 << 10;
/// Most bytes of a key in PEM; one of RSA with 8192 bits has 6.3 KiB.
pub(crate) const MAX_KEY: usize = 8 << 10;

/// Why a certificate and its key cannot be served.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unfit {
    /// More than anybody needs.
    #[error("more than {limit} bytes of {what}")]
    TooLarge {
        /// What there is too much of.
        what: &'static str,
        /// How much of it is allowed.
        limit: usize,
    },
    /// The chain has no certificate.
    #[error("there is no certificate in PEM")]
    NoCertificate,
    /// The key is none.
    #[error("there is no private key in PEM that is without a password")]
    NoKey,
    /// A certificate that cannot be read.
    #[error("certificate {0} of the chain cannot be read")]
    Unreadable(usize),
    /// The two do not belong together.
    #[error("the key is not that of the first certificate, or of a kind that is not served")]
    Foreign(#[source] rustls::Error),
    /// Not valid now.
    #[error("certificate {number} of the chain is valid from {from} to {until} only")]
    Invalid {
        /// Which, from 1 on.
        number: usize,
        /// From when, in UTC.
        from: String,
        /// Until when, in UTC.
        until: String,
    },
    /// The chain is none.
    #[error("certificate {0} of the chain is not that of the issuer of the one before it")]
    Order(usize),
    /// A signature is wrong, or a certificate is for something else.
    #[error("the certificates of the chain do not vouch for each other")]
    Chain(#[source] rustls::Error),
}

/// A chain and the key of its first certificate, in PEM and nothing else.
pub(crate) struct Pair {
    chain: Zeroizing<String>,
    key: Zeroizing<String>,
}

/// What is to be known of a pair that is right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Facts {
    /// When the first of the chain's certificates ends, in seconds since 1970-01-01 UTC.
    pub(crate) ends: i64,
    /// SHA-256 of the server's own certificate, as browsers and `openssl x509 -fingerprint -sha256` show it, without the colons.
    pub(crate) fingerprint: String,
}

/// The lines of the blocks whose label is such a one; what is around them is left out, other blocks too.
fn blocks(text: &str, label: fn(&str) -> bool) -> Zeroizing<String> {
    // All the room at once: what grows leaves copies behind.
    let mut out = Zeroizing::new(String::with_capacity(text.len() + 1));
    let mut within = false;
    for line in text.lines().map(str::trim) {
        let begins = line.strip_prefix("-----BEGIN ").and_then(|rest| rest.strip_suffix("-----"));
        within |= begins.is_some_and(label);
        if within && !line.is_empty() {
            out.push_str(line);
            out.push('\n');
        }
        within &= !line.starts_with("-----END ");
    }
    out
}

fn bounded(what: &'static str, text: &str, limit: usize) -> Result<(), Unfit> {
    if text.len() > limit { Err(Unfit::TooLarge { what, limit }) } else { Ok(()) }
}

/// The certificates of a text in PEM.
fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, Unfit> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    all.ok().filter(|all| !all.is_empty()).ok_or(Unfit::NoCertificate)
}

/// What is to be known of a chain, whatever is wrong with it beside.
///
/// # Errors
/// [`Unfit::NoCertificate`], [`Unfit::Unreadable`].
pub(crate) fn facts(pem: &[u8]) -> Result<Facts, Unfit> {
    let chain = certificates(pem)?;
    let mut ends = i64::MAX;
    for (number, der) in (1..).zip(&chain) {
        let (_, certificate) = parse_x509_certificate(der).map_err(|_| Unfit::Unreadable(number))?;
        ends = ends.min(certificate.validity().not_after.timestamp());
    }
    Ok(Facts { ends, fingerprint: hex::encode(Sha256::digest(&chain[0])) })
}

/// The day of a moment, in UTC.
pub(crate) fn day(seconds: i64) -> String {
    Instant::from_second(seconds).map_or_else(|_| "-".to_owned(), |at| at.strftime("%Y-%m-%d").to_string())
}

/// The moment, in seconds since 1970-01-01 UTC.
pub(crate) fn now() -> i64 {
    Instant::now().as_second()
}

impl Pair {
    /// Takes the certificates of the one text and the key of the other.
    ///
    /// # Errors
    /// [`Unfit::TooLarge`].
    pub(crate) fn new(certificate: &str, key: &str) -> Result<Self, Unfit> {
        let chain = blocks(certificate, |label| label == "CERTIFICATE");
        let key = blocks(key, |label| label.ends_with("PRIVATE KEY"));
        bounded("certificates", &chain, MAX_CHAIN)?;
        bounded("a key", &key, MAX_KEY)?;
        Ok(Self { chain, key })
    }

    /// Reads what was kept.
    ///
    /// # Errors
    /// As [`Pair::new`].
    pub(crate) fn parse(kept: &str) -> Result<Self, Unfit> {
        Self::new(kept, kept)
    }

    /// The text by which it is kept.
    pub(crate) fn to_text(&self) -> Zeroizing<String> {
        let mut text = Zeroizing::new(String::with_capacity(self.chain.len() + self.key.len()));
        text.push_str(&self.chain);
        text.push_str(&self.key);
        text
    }

    /// The pair of a request.
    ///
    /// # Errors
    /// As [`Pair::new`].
    pub(crate) fn received(certificate: &[Text], key: &[Secret]) -> Result<Self, Unfit> {
        let bytes = |lengths: &mut dyn Iterator<Item = usize>| lengths.map(|length| length + 1).sum();
        let mut chain = String::with_capacity(bytes(&mut certificate.iter().map(|line| line.as_str().len())));
        certificate.iter().for_each(|line| chain.extend([line.as_str(), "\n"]));
        let mut secret = Zeroizing::new(String::with_capacity(bytes(&mut key.iter().map(|line| line.expose().len()))));
        key.iter().for_each(|line| secret.extend([line.expose(), "\n"]));
        Self::new(&chain, &secret)
    }

    /// The request that sends it.
    ///
    /// # Errors
    /// When a line is longer than any of PEM is.
    pub(crate) fn request(&self) -> Result<Request, Invalid> {
        Ok(Request::TlsRenew {
            certificate: self.chain.lines().map(Text::new).collect::<Result<_, _>>()?,
            key: self.key.lines().map(Secret::new).collect::<Result<_, _>>()?,
        })
    }

    /// The chain in PEM.
    pub(crate) fn chain(&self) -> &str {
        &self.chain
    }

    /// The key in PEM.
    pub(crate) fn key(&self) -> &str {
        &self.key
    }

    /// Whether the two make a TLS server, also one that is out of date.
    ///
    /// # Errors
    /// [`Unfit`].
    pub(crate) fn fits(&self) -> Result<Facts, Unfit> {
        let facts = facts(self.chain.as_bytes())?;
        let key = PrivateKeyDer::from_pem_slice(self.key.as_bytes()).map_err(|_| Unfit::NoKey)?;
        ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .and_then(|builder| {
                builder
                    .with_no_client_auth()
                    .with_single_cert(certificates(self.chain.as_bytes()).unwrap_or_default(), key)
            })
            .map_err(Unfit::Foreign)?;
        Ok(facts)
    }

    /// Whether it may be served from now on; `issuer` is the certificate that vouches for the last of the chain, where that is known.
    ///
    /// # Errors
    /// [`Unfit`].
    pub(crate) fn check(&self, now: i64, issuer: Option<&str>) -> Result<Facts, Unfit> {
        let facts = self.fits()?;
        let mut chain = certificates(self.chain.as_bytes())?;
        if let Some(issuer) = issuer {
            chain.extend(certificates(issuer.as_bytes())?);
        }
        let mut before = None;
        for (number, der) in (1..).zip(&chain) {
            let (_, certificate) = parse_x509_certificate(der).map_err(|_| Unfit::Unreadable(number))?;
            let valid = certificate.validity();
            let (from, until) = (valid.not_before.timestamp(), valid.not_after.timestamp());
            if now < from || now > until {
                return Err(Unfit::Invalid { number, from: day(from), until: day(until) });
            }
            if before.is_some_and(|issuer: Vec<u8>| issuer != certificate.subject().as_raw()) {
                return Err(Unfit::Order(number));
            }
            before = Some(certificate.issuer().as_raw().to_vec());
        }
        vouched(&chain, now).map_err(Unfit::Chain)?;
        Ok(facts)
    }

    /// Whether a customer who asks for this host accepts the first certificate.
    pub(crate) fn covers(&self, host: &str) -> bool {
        let chain = certificates(self.chain.as_bytes()).unwrap_or_default();
        let certificate = chain.first().and_then(|der| ParsedCertificate::try_from(der).ok());
        let name = ServerName::try_from(host).ok();
        certificate.zip(name).is_some_and(|(certificate, name)| verify_server_name(&certificate, &name).is_ok())
    }
}

/// Whether each certificate is signed by the next one, and the first is a server's; of one alone nothing is known.
fn vouched(chain: &[CertificateDer<'_>], now: i64) -> Result<(), rustls::Error> {
    let [server, between @ .., last] = chain else { return Ok(()) };
    let mut roots = rustls::RootCertStore::empty();
    roots.add(last.clone().into_owned())?;
    let now = UnixTime::since_unix_epoch(Duration::from_secs(u64::try_from(now).unwrap_or(0)));
    let CryptoProvider { signature_verification_algorithms: known, .. } = ring::default_provider();
    verify_server_cert_signed_by_trust_anchor(&ParsedCertificate::try_from(server)?, &roots, between, now, known.all)
}

#[cfg(test)]
mod tests;
