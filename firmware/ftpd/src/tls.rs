//! The certificate of FTPS, renewed without a restart.

use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ServerSessionMemoryCache, StoresServerSessions};
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

/// Tickets of data connections that a control connection keeps: those of its last 32.
pub const DATA_TICKETS: usize = 64;

/// How the data connections of one control connection are accepted.
#[derive(Clone)]
pub struct DataAcceptor {
    control: TlsAcceptor,
    /// Apart from the control connection's own: with as many data connections as one likes, these are never pushed out.
    made: Arc<ServerSessionMemoryCache>,
}

impl DataAcceptor {
    /// For a control connection that was accepted by this.
    pub fn new(control: TlsAcceptor) -> Self {
        Self { control, made: ServerSessionMemoryCache::new(DATA_TICKETS) }
    }

    /// The handshake of a data connection; tells also whether it has resumed a session of its control connection, or one that follows
    /// from such a session. One that it makes anew is never to be resumed: else whoever was refused for it would get in by it.
    ///
    /// # Errors
    /// The handshake's.
    pub async fn accept(&self, socket: TcpStream) -> io::Result<(TlsStream<TcpStream>, bool)> {
        let (config, held) = self.config();
        let stream = TlsAcceptor::from(config).accept(socket).await?;
        let resumed = stream.get_ref().1.handshake_kind() == Some(HandshakeKind::Resumed);
        if resumed {
            held.release();
        }
        Ok((stream, resumed))
    }

    /// For one data connection.
    fn config(&self) -> (Arc<ServerConfig>, Arc<Held>) {
        let mut config = ServerConfig::clone(self.control.config());
        let control = config.session_storage.clone();
        let held = Arc::new(Held { control, made: self.made.clone(), new: Mutex::default() });
        config.session_storage = held.clone();
        (config.into(), held)
    }
}

/// The sessions of a control connection as a data connection sees them: it may resume each, and those that it makes itself are held
/// back until it has proven to belong there. They neither count nor push others out before.
struct Held {
    control: Arc<dyn StoresServerSessions>,
    made: Arc<ServerSessionMemoryCache>,
    new: Mutex<Vec<(Vec<u8>, Vec<u8>)>>,
}

impl Held {
    fn release(&self) {
        for (key, value) in self.new.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            self.made.put(key, value);
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
        self.control.get(key).or_else(|| self.made.get(key))
    }
    /// TLS 1.3 asks by this. Clients with GnuTLS, as FileZilla, offer the same ticket of the control connection for each data connection,
    /// so it stays. Tickets are for one time where data comes with them (0-RTT), which is not offered here.
    fn take(&self, key: &[u8]) -> Option<Vec<u8>> {
        self.get(key)
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
        let control = ServerSessionMemoryCache::new(4);
        let key = |n: u8| vec![n];
        assert!(control.put(key(0), key(100)) && control.put(key(1), key(101)));
        let made = ServerSessionMemoryCache::new(DATA_TICKETS);
        let held = Held { control: control.clone(), made, new: Mutex::default() };
        for n in 2..20 {
            assert!(held.put(key(n), key(100 + n)));
            assert_eq!((held.get(&key(n)), control.get(&key(n))), (None, None), "it is nobody's yet");
        }
        assert_eq!((held.get(&key(0)), held.take(&key(1))), (Some(key(100)), Some(key(101))), "none was pushed out");
        assert!(!format!("{held:?}").contains("119"), "secrets are in no log");
        held.release();
        assert_eq!(held.take(&key(19)), Some(key(119)));
    }

    /// What a server of data connections makes of this first message.
    fn kind(data: &DataAcceptor, hello: &[u8]) -> (Option<HandshakeKind>, Arc<Held>) {
        let (config, held) = data.config();
        let mut server = rustls::ServerConnection::new(config).unwrap();
        server.read_tls(&mut &*hello).unwrap();
        server.process_new_packets().unwrap();
        (server.handshake_kind(), held)
    }

    fn pass(from: &mut rustls::Connection, to: &mut rustls::Connection) {
        let mut wire = Vec::new();
        while from.wants_write() {
            from.write_tls(&mut wire).unwrap();
        }
        let mut wire = &*wire;
        while !wire.is_empty() {
            to.read_tls(&mut wire).unwrap();
            to.process_new_packets().unwrap();
        }
    }

    /// A client's session with this server, and the first message by which he would resume it.
    fn hello_after(control: &TlsAcceptor, cert: &Path) -> Vec<u8> {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(cert).unwrap()).unwrap();
        let config = rustls::ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap();
        let config = Arc::new(config.with_root_certificates(roots).with_no_client_auth());
        let client = || rustls::ClientConnection::new(config.clone(), "one.example".try_into().unwrap()).unwrap();
        let mut first = rustls::Connection::from(client());
        let mut server = rustls::ServerConnection::new(control.config().clone()).unwrap().into();
        while first.wants_write() {
            pass(&mut first, &mut server);
            pass(&mut server, &mut first);
        }
        let mut hello = Vec::new();
        client().write_tls(&mut hello).unwrap();
        hello
    }

    #[test]
    fn a_ticket_of_the_control_connection_is_for_all_its_data_connections() {
        let dir = tempfile::tempdir().unwrap();
        let (cert, key) = write(dir.path(), "one.example");
        // Each session has a process of its own, and in it an acceptor of its own.
        let [control, other] = [(); 2].map(|()| acceptor(&cert, &key).unwrap());
        let (ticket, foreign) = (hello_after(&control, &cert), hello_after(&other, &cert));
        let data = DataAcceptor::new(control);
        for number in 0..300_u16 {
            let (kind, held) = kind(&data, &ticket);
            assert_eq!(kind, Some(HandshakeKind::Resumed), "data connection {number}");
            // The two tickets of each.
            for name in ["a", "b"] {
                assert!(held.put(format!("{number}{name}").into_bytes(), Vec::new()));
            }
            held.release();
        }
        let (kind, held) = kind(&data, &foreign);
        assert_eq!(kind, Some(HandshakeKind::Full), "it is of another control connection");
        let kept = |number: usize| held.get(format!("{number}a").as_bytes()).is_some();
        assert!(kept(299) && kept(300 - DATA_TICKETS / 2) && !kept(299 - DATA_TICKETS / 2));
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
