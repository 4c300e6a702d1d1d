//! An ftp client by hand: it sends what it is told, and reads replies line by line.

use crate::daemon::LIMIT;
use crate::stagerd::{PASSWORD, USER};
use nix::sys::socket::{setsockopt, sockopt};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::Arc;

/// Bytes that wait in the kernel for a client that does not read them.
const RECEIVES: usize = 1 << 20;

/// Something to read from and write to.
pub(crate) trait Io: Read + Write + Send {}
impl<T: Read + Write + Send> Io for T {}

/// A control connection.
pub(crate) struct Client {
    io: Box<dyn Io>,
    /// The socket beneath.
    pub(crate) socket: TcpStream,
    address: SocketAddr,
    source: Option<Ipv4Addr>,
    tls: Option<Arc<ClientConfig>>,
    private: bool,
}

/// A TLS client that trusts this certificate.
pub(crate) fn trusting(der: &CertificateDer<'static>) -> Arc<ClientConfig> {
    speaking(der, rustls::DEFAULT_VERSIONS)
}

/// The same with this version alone.
pub(crate) fn only(
    der: &CertificateDer<'static>,
    version: &'static rustls::SupportedProtocolVersion,
) -> Arc<ClientConfig> {
    speaking(der, &[version])
}

fn speaking(
    der: &CertificateDer<'static>,
    versions: &[&'static rustls::SupportedProtocolVersion],
) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(der.clone()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_protocol_versions(versions).unwrap();
    Arc::new(config.with_root_certificates(roots).with_no_client_auth())
}

fn handshake(
    config: &Arc<ClientConfig>,
    mut socket: TcpStream,
) -> io::Result<StreamOwned<ClientConnection, TcpStream>> {
    let name = ServerName::try_from("localhost").unwrap();
    let mut tls = ClientConnection::new(config.clone(), name).unwrap();
    while tls.is_handshaking() {
        tls.complete_io(&mut socket)?;
    }
    Ok(StreamOwned::new(tls, socket))
}

pub(crate) fn connect(address: SocketAddr) -> TcpStream {
    let socket = TcpStream::connect_timeout(&address, LIMIT).unwrap();
    socket.set_read_timeout(Some(LIMIT)).unwrap();
    socket.set_write_timeout(Some(LIMIT)).unwrap();
    socket.set_nodelay(true).unwrap();
    socket
}

/// Connects from this address of the loopback network.
pub(crate) fn connect_from(source: Ipv4Addr, to: SocketAddr) -> io::Result<TcpStream> {
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrIn, SockaddrStorage, bind, connect, socket};
    let socket = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    bind(socket.as_raw_fd(), &SockaddrIn::from(SocketAddrV4::new(source, 0)))?;
    connect(socket.as_raw_fd(), &SockaddrStorage::from(to))?;
    let socket = TcpStream::from(socket);
    socket.set_read_timeout(Some(LIMIT))?;
    socket.set_write_timeout(Some(LIMIT))?;
    socket.set_nodelay(true)?;
    Ok(socket)
}

impl Client {
    /// Connects and reads nothing.
    pub(crate) fn new(address: SocketAddr) -> Self {
        Self::over(connect(address), None)
    }

    /// The same from this address of the loopback network.
    pub(crate) fn from(source: Ipv4Addr, to: SocketAddr) -> Self {
        Self::over(connect_from(source, to).unwrap(), Some(source))
    }

    fn over(socket: TcpStream, source: Option<Ipv4Addr>) -> Self {
        let address = socket.peer_addr().unwrap();
        Self { io: Box::new(socket.try_clone().unwrap()), socket, address, source, tls: None, private: false }
    }

    /// Connects and is greeted.
    pub(crate) fn greeted(address: SocketAddr) -> Self {
        let mut client = Self::new(address);
        client.expect(220);
        client
    }

    /// Connects and logs in.
    pub(crate) fn logged_in(address: SocketAddr) -> Self {
        let mut client = Self::greeted(address);
        client.login();
        client
    }

    pub(crate) fn login(&mut self) {
        self.ask(&format!("USER {USER}"), 331);
        self.ask(&format!("PASS {PASSWORD}"), 230);
    }

    /// AUTH TLS with everything that belongs to it; data connections are private from now on.
    pub(crate) fn secure(&mut self, config: Arc<ClientConfig>) {
        self.ask("AUTH TLS", 234);
        self.io = Box::new(handshake(&config, self.socket.try_clone().unwrap()).unwrap());
        self.tls = Some(config);
        self.ask("PBSZ 0", 200);
        self.ask("PROT P", 200);
        self.private = true;
    }

    /// Data connections use this from now on; gives what they used before.
    pub(crate) fn data_tls(&mut self, config: Option<Arc<ClientConfig>>) -> Option<Arc<ClientConfig>> {
        std::mem::replace(&mut self.tls, config)
    }

    pub(crate) fn raw(&mut self, bytes: &[u8]) {
        self.io.write_all(bytes).unwrap();
        self.io.flush().unwrap();
    }

    pub(crate) fn send(&mut self, command: &str) {
        self.raw(format!("{command}\r\n").as_bytes());
    }

    fn line(&mut self) -> io::Result<String> {
        let (mut line, mut byte) = (Vec::new(), [0]);
        while !line.ends_with(b"\r\n") {
            if self.io.read(&mut byte)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            line.push(byte[0]);
        }
        Ok(String::from_utf8(line).unwrap())
    }

    /// The next reply, or how the connection ended.
    pub(crate) fn try_reply(&mut self) -> io::Result<String> {
        let mut text = self.line()?;
        let code = text[..3].to_owned();
        if text.as_bytes()[3] == b'-' {
            loop {
                let line = self.line()?;
                text.push_str(&line);
                if line.starts_with(&format!("{code} ")) {
                    break;
                }
            }
        }
        Ok(text)
    }

    pub(crate) fn expect(&mut self, code: u16) -> String {
        let reply = self.try_reply().unwrap_or_else(|e| panic!("no reply where {code} should be: {e}"));
        assert!(reply.starts_with(&code.to_string()), "{reply:?}, not {code}");
        reply
    }

    /// A command and the reply that is to come.
    pub(crate) fn ask(&mut self, command: &str, code: u16) -> String {
        self.send(command);
        self.expect(code)
    }

    /// The server has closed the connection.
    pub(crate) fn expect_end(&mut self) {
        let end = self.try_reply();
        assert!(end.is_err(), "{end:?}, not the end");
    }

    /// The address of a new passive port.
    pub(crate) fn passive(&mut self) -> SocketAddr {
        let reply = self.ask("EPSV", 229);
        let port = reply.split('|').nth(3).unwrap().parse().unwrap();
        SocketAddr::new(self.address.ip(), port)
    }

    /// A transfer up to the 150, with its data connection.
    pub(crate) fn begin(&mut self, command: &str) -> Box<dyn Io> {
        self.begin_with(command, RECEIVES)
    }

    /// The same with so much room in the client's kernel.
    pub(crate) fn begin_with(&mut self, command: &str, receives: usize) -> Box<dyn Io> {
        let port = self.passive();
        let socket = match self.source {
            Some(source) => connect_from(source, port).unwrap(),
            None => connect(port),
        };
        // What a client does not read must not fit into its kernel: Linux may give a socket 32 MiB by itself (tcp_rmem).
        setsockopt(&socket, sockopt::RcvBuf, &receives).unwrap();
        self.ask(command, 150);
        match &self.tls {
            Some(config) if self.private => Box::new(handshake(config, socket).unwrap()),
            _ => Box::new(socket),
        }
    }

    /// A whole transfer.
    pub(crate) fn fetch(&mut self, command: &str) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.begin(command).read_to_end(&mut bytes).unwrap();
        self.expect(226);
        bytes
    }

    pub(crate) fn fetch_text(&mut self, command: &str) -> String {
        String::from_utf8(self.fetch(command)).unwrap()
    }

    /// The first reply to a transfer whose data connection is open.
    pub(crate) fn attempt(&mut self, command: &str) -> String {
        let _unused = connect(self.passive());
        self.send(command);
        self.try_reply().unwrap()
    }

    /// A transfer that is refused; its data connection is not used.
    pub(crate) fn refused(&mut self, command: &str, code: u16) -> String {
        let _unused = connect(self.passive());
        self.ask(command, code)
    }
}
