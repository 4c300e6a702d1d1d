//! The portal's certificate: loaded once, and again when its files change.

use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use tokio_rustls::TlsAcceptor;

/// Why a certificate cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read, or is not PEM of the kind that is needed.
    #[error("cannot load {path}")]
    Load {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: rustls::pki_types::pem::Error,
    },
    /// The file of the certificate holds none.
    #[error("there is no certificate in {path}")]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// Key and certificate do not fit each other, or are of an unknown kind.
    #[error("the certificate and its key cannot be used")]
    Rejected(#[source] rustls::Error),
}

/// What tells one version of a file from another.
type Stamp = Option<(i64, i64, u64, u64)>;

fn stamp(path: &Path) -> Stamp {
    std::fs::metadata(path).ok().map(|m| (m.mtime(), m.mtime_nsec(), m.size(), m.ino()))
}

/// What the files were when they were last looked at.
#[derive(Debug)]
struct Seen {
    stamps: (Stamp, Stamp),
    /// Why they cannot be served, if so.
    trouble: Option<String>,
}

/// The certificate and what accepts connections with it.
#[derive(Debug)]
pub(crate) struct Tls {
    cert: PathBuf,
    key: PathBuf,
    seen: Mutex<Seen>,
    current: Arc<Current>,
    config: Arc<rustls::ServerConfig>,
}

/// What handshakes get.
#[derive(Debug)]
struct Current(RwLock<Arc<CertifiedKey>>);

impl ResolvesServerCert for Current {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.read().unwrap_or_else(PoisonError::into_inner).clone())
    }
}

fn load(cert: &Path, key: &Path) -> Result<CertifiedKey, TlsError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        |source| TlsError::Load { path, source }
    };
    let chain: Result<Vec<_>, _> = CertificateDer::pem_file_iter(cert).map_err(failed(cert))?.collect();
    let chain = chain.map_err(failed(cert))?;
    if chain.is_empty() {
        return Err(TlsError::Empty { path: cert.to_owned() });
    }
    let secret = PrivateKeyDer::from_pem_file(key).map_err(failed(key))?;
    CertifiedKey::from_der(chain, secret, &ring::default_provider()).map_err(TlsError::Rejected)
}

impl Tls {
    /// Loads the certificate.
    pub(crate) fn new(cert: &Path, key: &Path) -> Result<Self, TlsError> {
        let seen = Seen { stamps: (stamp(cert), stamp(key)), trouble: None };
        let current = Arc::new(Current(RwLock::new(Arc::new(load(cert, key)?))));
        let mut config = rustls::ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(TlsError::Rejected)?
            .with_no_client_auth()
            .with_cert_resolver(current.clone());
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        let (cert, key) = (cert.to_owned(), key.to_owned());
        Ok(Self { cert, key, seen: Mutex::new(seen), current, config: Arc::new(config) })
    }

    /// What accepts the next connection, with the certificate as its files have it now. The look at them costs two stat calls,
    /// which is nothing beside a handshake. Files that cannot be used leave the certificate as it was.
    pub(crate) fn acceptor(&self) -> TlsAcceptor {
        // A certificate that cannot be renewed is no reason to turn a customer away.
        let _ = self.refresh();
        TlsAcceptor::from(self.config.clone())
    }

    /// Loads the certificate anew if its files have changed.
    ///
    /// # Errors
    /// Why the files as they are now cannot be served, in words; what they were before is served on.
    pub(crate) fn refresh(&self) -> Result<(), String> {
        let stamps = (stamp(&self.cert), stamp(&self.key));
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.stamps != stamps {
            seen.stamps = stamps;
            seen.trouble = match load(&self.cert, &self.key) {
                Ok(key) => {
                    *self.current.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(key);
                    tracing::info!("the certificate was loaded anew");
                    None
                }
                Err(error) => {
                    let trouble = daemon::report(&error);
                    tracing::warn!("the old certificate stays: {trouble}");
                    Some(trouble)
                }
            };
        }
        seen.trouble.clone().map_or(Ok(()), Err)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(dir: &Path, name: &str) -> (PathBuf, PathBuf, CertificateDer<'static>) {
        let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        let (cert, key) = (dir.join(format!("{name}.crt")), dir.join(format!("{name}.key")));
        std::fs::write(&cert, made.cert.pem()).unwrap();
        std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
        (cert, key, made.cert.der().clone())
    }

    fn served(tls: &Tls) -> CertificateDer<'static> {
        let _ = tls.acceptor();
        tls.current.0.read().unwrap().cert[0].clone()
    }

    #[test]
    fn a_certificate_is_renewed_in_two_steps() {
        let dir = tempfile::tempdir().unwrap();
        let (cert, key, first) = write(dir.path(), "a");
        let (new_cert, new_key, second) = write(dir.path(), "b");
        let tls = Tls::new(&cert, &key).unwrap();
        assert_eq!(served(&tls), first);
        std::fs::rename(new_cert, &cert).unwrap();
        assert_eq!(served(&tls), first, "the key does not fit yet");
        assert!(tls.refresh().is_err(), "which stays known");
        std::fs::rename(new_key, &key).unwrap();
        assert_eq!(served(&tls), second);
        assert_eq!(tls.refresh(), Ok(()));
        std::fs::remove_file(&key).unwrap();
        assert_eq!(served(&tls), second, "files that are gone change nothing");
    }

    #[test]
    fn what_cannot_be_served() {
        let dir = tempfile::tempdir().unwrap();
        let (cert, key, _) = write(dir.path(), "a");
        let (_, other, _) = write(dir.path(), "b");
        assert!(matches!(Tls::new(&cert, &other), Err(TlsError::Rejected(_))));
        assert!(matches!(Tls::new(&key, &key), Err(TlsError::Empty { .. })));
        assert!(matches!(Tls::new(&cert, &cert), Err(TlsError::Load { .. })));
        let error = Tls::new(&dir.path().join("none"), &key).unwrap_err();
        assert!(daemon::report(&error).contains("none"), "{}", daemon::report(&error));
    }
}
