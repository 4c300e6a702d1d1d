//! The certificate of FTPS, renewed without a restart.

use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::StoresServerSessions;
use rustls::{HandshakeKind, ServerConfig};
use std::fmt;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use tobj::TlsVersion;
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// Certificate and key cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be looked at.
    #[error("cannot look at {path}")]
    Stat {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file cannot be read or is not PEM.
    #[error("cannot read {path}")]
    Pem {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: rustls::pki_types::pem::Error,
    },
    /// The two do not make a TLS server.
    #[error("certificate and key do not fit")]
    Unfit(#[source] rustls::Error),
}

/// What changes when a file is replaced or rewritten: device, inode, length, mtime in seconds and nanoseconds.
type Stamp = [(u64, u64, u64, i64, i64); 2];

/// The files and what was last read from them.
pub struct Certificate {
    cert: PathBuf,
    key: PathBuf,
    stamp: Stamp,
    acceptor: TlsAcceptor,
}

impl Certificate {
    /// # Errors
    /// [`TlsError`] if the files cannot be used now.
    pub fn load(cert: &Path, key: &Path) -> Result<Self, TlsError> {
        // The stamp is taken first: a change while the files are read shows next time.
        let stamp = stamp(cert, key)?;
        let acceptor = acceptor(cert, key)?;
        Ok(Self { cert: cert.into(), key: key.into(), stamp, acceptor })
    }

    /// For the session that is about to start: with new files, if they have changed and fit; else as before.
    ///
    /// # Errors
    /// [`TlsError`], once for each change that cannot be used. The old certificate stays in use.
    pub fn refresh(&mut self) -> Result<(), TlsError> {
        let now = stamp(&self.cert, &self.key)?;
        if now != self.stamp {
            self.stamp = now;
            self.acceptor = acceptor(&self.cert, &self.key)?;
        }
        Ok(())
    }

    /// The present one.
    pub fn acceptor(&self) -> TlsAcceptor {
        self.acceptor.clone()
    }
}

/// The handshake of a data connection; tells also whether it has resumed a session of its control connection, or one that follows
/// from such a session. One that it makes anew is never to be resumed: else whoever was refused for it would get in by it.
///
/// # Errors
/// The handshake's.
pub async fn accept_data(control: &TlsAcceptor, socket: TcpStream) -> io::Result<(TlsStream<TcpStream>, bool)> {
    let mut config = ServerConfig::clone(control.config());
    let held = Arc::new(Held { control: config.session_storage.clone(), new: Mutex::default() });
    config.session_storage = held.clone();
    let stream = TlsAcceptor::from(Arc::new(config)).accept(socket).await?;
    let resumed = stream.get_ref().1.handshake_kind() == Some(HandshakeKind::Resumed);
    if resumed {
        held.release();
    }
    Ok((stream, resumed))
}

/// The sessions of a control connection as a data connection sees them: it may resume each, and those that it makes itself are held
/// back until it has proven to belong there. They neither count nor push others out before.
struct Held {
    control: Arc<dyn StoresServerSessions>,
    new: Mutex<Vec<(Vec<u8>, Vec<u8>)>>,
}

impl Held {
    fn release(&self) {
        for (key, value) in self.new.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            self.control.put(key, value);
        }
    }
}

impl fmt::Debug for Held {
    /// Without the sessions, which are secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Held").finish_non_exhaustive()
    }
}

impl StoresServerSessions for Held {
    fn put(&self, key: Vec<u8>, value: Vec<u8>) -> bool {
        self.new.lock().unwrap_or_else(PoisonError::into_inner).push((key, value));
        true
    }
    fn get(&self, key: &[u8]) -> Option<Vec<u8>> {
        self.control.get(key)
    }
    fn take(&self, key: &[u8]) -> Option<Vec<u8>> {
        self.control.take(key)
    }
    /// Asked only for the sessions of TLS 1.2 that are made anew.
    fn can_cache(&self) -> bool {
        false
    }
}

/// The version of an established connection.
pub fn version(connection: &rustls::ServerConnection) -> Option<TlsVersion> {
    match connection.protocol_version()? {
        rustls::ProtocolVersion::TLSv1_2 => Some(TlsVersion::Tls12),
        rustls::ProtocolVersion::TLSv1_3 => Some(TlsVersion::Tls13),
        // rustls has no other.
        _ => None,
    }
}

fn stamp(cert: &Path, key: &Path) -> Result<Stamp, TlsError> {
    let one = |path: &Path| {
        let meta = std::fs::metadata(path).map_err(|source| TlsError::Stat { path: path.into(), source })?;
        Ok((meta.dev(), meta.ino(), meta.len(), meta.mtime(), meta.mtime_nsec()))
    };
    Ok([one(cert)?, one(key)?])
}

fn acceptor(cert: &Path, key: &Path) -> Result<TlsAcceptor, TlsError> {
    let pem = |path: &Path| {
        let path = path.to_owned();
        move |source| TlsError::Pem { path, source }
    };
    let chain: Vec<CertificateDer<'static>> =
        CertificateDer::pem_file_iter(cert).and_then(Iterator::collect).map_err(pem(cert))?;
    let key = PrivateKeyDer::from_pem_file(key).map_err(pem(key))?;
    // ring, not aws-lc-rs: the latter seeds itself anew in each forked child, 40 ms of CPU for each session.
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(TlsError::Unfit)?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(TlsError::Unfit)?;
    // A client that was made to believe that this is a web server says http and is turned away (ALPACA, CVE-2021-3618).
    config.alpn_protocols = vec![b"ftp".to_vec()];
    Ok(Arc::new(config).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(dir: &Path, name: &str) -> (PathBuf, PathBuf) {
        let made = rcgen::generate_simple_self_signed(vec![name.to_owned()]).unwrap();
        let (cert, key) = (dir.join("cert.pem"), dir.join("key.pem"));
        std::fs::write(&cert, made.cert.pem()).unwrap();
        std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
        (cert, key)
    }

    #[test]
    fn a_renewed_certificate_is_taken_and_a_broken_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let (cert, key) = write(dir.path(), "one.example");
        let mut certificate = Certificate::load(&cert, &key).unwrap();
        let first = certificate.acceptor();
        certificate.refresh().unwrap();
        assert!(Arc::ptr_eq(first.config(), certificate.acceptor().config()));

        std::fs::write(&cert, "-----BEGIN CERTIFICATE-----\n!\n").unwrap();
        assert!(matches!(certificate.refresh(), Err(TlsError::Pem { .. })));
        certificate.refresh().expect("said once");
        assert!(Arc::ptr_eq(first.config(), certificate.acceptor().config()));

        write(dir.path(), "two.example");
        certificate.refresh().unwrap();
        assert!(!Arc::ptr_eq(first.config(), certificate.acceptor().config()));
    }

    #[test]
    fn what_a_data_connection_makes_is_held_back() {
        let control = rustls::server::ServerSessionMemoryCache::new(4);
        let key = |n: u8| vec![n];
        assert!(control.put(key(0), key(100)) && control.put(key(1), key(101)));
        let held = Held { control: control.clone(), new: Mutex::default() };
        for n in 2..20 {
            assert!(held.put(key(n), key(100 + n)));
            assert_eq!((held.get(&key(n)), control.get(&key(n))), (None, None), "it is nobody's yet");
        }
        assert_eq!((held.get(&key(0)), held.take(&key(1))), (Some(key(100)), Some(key(101))), "none was pushed out");
        assert_eq!(control.get(&key(1)), None, "a ticket is for one time");
        assert!(!format!("{held:?}").contains("119"), "secrets are in no log");
        held.release();
        assert_eq!(held.take(&key(19)), Some(key(119)));
    }

    #[test]
    fn files_that_are_not_there_or_do_not_fit() {
        let dir = tempfile::tempdir().unwrap();
        let (cert, key) = write(dir.path(), "one.example");
        assert!(matches!(Certificate::load(&dir.path().join("x"), &key), Err(TlsError::Stat { .. })));
        let other = tempfile::tempdir().unwrap();
        let (_, foreign) = write(other.path(), "one.example");
        assert!(matches!(Certificate::load(&cert, &foreign), Err(TlsError::Unfit(_))));
        std::fs::write(&cert, "").unwrap();
        assert!(Certificate::load(&cert, &key).is_err());
    }
}
