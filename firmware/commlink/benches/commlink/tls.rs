//! An echo over TLS 1.3, to have something that is widely known beside the figures.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::Arc;

use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection, StreamOwned};

/// A client, and a server on a thread of its own.
pub(super) struct Pair {
    stream: StreamOwned<ClientConnection, TcpStream>,
    message: Vec<u8>,
    answer: Vec<u8>,
}

impl Pair {
    pub(super) fn start(size: usize) -> Self {
        let certified = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let certificate = certified.cert.der().clone();
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(certified.signing_key.serialize_der()));
        let mut roots = RootCertStore::empty();
        roots.add(certificate.clone()).unwrap();
        let server = ServerConfig::builder().with_no_client_auth().with_single_cert(vec![certificate], key).unwrap();
        let client = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (far, _) = listener.accept().unwrap();
        near.set_nodelay(true).unwrap();
        far.set_nodelay(true).unwrap();
        std::thread::spawn(move || {
            let mut stream = StreamOwned::new(ServerConnection::new(Arc::new(server)).unwrap(), far);
            let mut piece = vec![0; size];
            while stream.read_exact(&mut piece).is_ok() {
                stream.write_all(&piece).unwrap();
            }
        });
        let name = ServerName::try_from("localhost").unwrap();
        let connection = ClientConnection::new(Arc::new(client), name).unwrap();
        let mut pair =
            Self { stream: StreamOwned::new(connection, near), message: vec![7; size], answer: vec![0; size] };
        pair.echo();
        pair
    }

    pub(super) fn echo(&mut self) {
        self.stream.write_all(&self.message).unwrap();
        self.stream.read_exact(&mut self.answer).unwrap();
    }
}
