//! The site's private certification authority and the certificates it signs.

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use std::fmt;
use time::{Duration, OffsetDateTime};
use zeroize::Zeroizing;

/// How long the authority's own certificate is valid, in days.
const AUTHORITY_DAYS: i64 = 3650;
/// How long a server's certificate is valid, in days; what browsers accept of private authorities.
const SERVER_DAYS: i64 = 825;

/// A certificate and its key, both PEM.
pub struct Certified {
    /// The certificate, or a chain of them with the server's own first.
    pub certificate: String,
    /// The key of the first.
    pub key: Zeroizing<String>,
}

impl fmt::Debug for Certified {
    /// Without the key, which is a secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certified").field("certificate", &self.certificate).finish_non_exhaustive()
    }
}

/// The authority of one site.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pub(crate) pem: Certified,
}

/// Whether a text is certificates in PEM and nothing else.
pub(crate) fn are_certificates(pem: &str) -> bool {
    let base64 = |line: &str| line.bytes().all(|b| b.is_ascii_alphanumeric() || b"+/=".contains(&b));
    let (mut count, mut within) = (0, false);
    for line in pem.lines().map(str::trim).filter(|line| !line.is_empty()) {
        match line {
            "-----BEGIN CERTIFICATE-----" if !within => within = true,
            "-----END CERTIFICATE-----" if within => (within, count) = (false, count + 1),
            line if within && base64(line) => {}
            _ => return false,
        }
    }
    count > 0 && !within
}

fn params(name: &str, days: i64, hosts: Vec<String>) -> Result<CertificateParams, rcgen::Error> {
    let mut params = CertificateParams::new(hosts)?;
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    // A day of leave for clocks that are behind.
    params.not_before = OffsetDateTime::now_utc() - Duration::days(1);
    params.not_after = OffsetDateTime::now_utc() + Duration::days(days);
    Ok(params)
}

impl Authority {
    pub(crate) fn new(site: &str) -> Result<Self, rcgen::Error> {
        let key = KeyPair::generate()?;
        let mut params = params(&format!("{site} certification authority"), AUTHORITY_DAYS, Vec::new())?;
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = params.self_signed(&key)?.pem();
        let pem = Certified { certificate, key: Zeroizing::new(key.serialize_pem()) };
        Ok(Self { issuer: Issuer::new(params, key), pem })
    }

    /// One that was made before, of its certificate and its key.
    pub(crate) fn load(pem: Certified) -> Result<Self, rcgen::Error> {
        let issuer = Issuer::from_ca_cert_pem(&pem.certificate, KeyPair::from_pem(&pem.key)?)?;
        Ok(Self { issuer, pem })
    }

    /// A certificate for a server that is reached by these names or addresses.
    pub(crate) fn server(&self, name: &str, hosts: Vec<String>) -> Result<Certified, rcgen::Error> {
        let key = KeyPair::generate()?;
        let mut params = params(name, SERVER_DAYS, hosts)?;
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        let certificate = params.signed_by(&key, &self.issuer)?.pem();
        Ok(Certified { certificate, key: Zeroizing::new(key.serialize_pem()) })
    }
}
