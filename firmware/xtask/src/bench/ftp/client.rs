//! An ftp client that does nothing but what is measured.

use anyhow::{Context, Result, bail, ensure};
use nix::sys::socket::{MsgFlags, recv};
use rustls::pki_types::{CertificateDer, ServerName, pem::PemObject};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use sha2::{Digest, Sha256};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// No reply takes longer.
const PATIENCE: Duration = Duration::from_secs(120);
/// Bytes read or thrown away at once.
const BLOCK: usize = 1 << 20;

/// Where and as whom.
#[derive(Debug, Clone)]
pub(super) struct Login {
    pub(super) address: SocketAddr,
    pub(super) user: String,
    pub(super) password: String,
    /// With TLS, control and data.
    pub(super) tls: Option<Arc<ClientConfig>>,
}

trait Wire: Read + Write + Send {}
impl<T: Read + Write + Send> Wire for T {}

/// A control connection.
pub(super) struct Client {
    wire: BufReader<Box<dyn Wire>>,
    ip: IpAddr,
    tls: Option<Arc<ClientConfig>>,
}

/// A client's side of TLS that trusts this authority.
pub(super) fn trusting(ca: &Path) -> Result<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(ca)?)?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    Ok(config.with_root_certificates(roots).with_no_client_auth())
}

fn connect(address: SocketAddr) -> Result<TcpStream> {
    let socket = TcpStream::connect(address)?;
    socket.set_nodelay(true)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    Ok(socket)
}

fn secure(
    config: &Arc<ClientConfig>,
    ip: IpAddr,
    mut socket: TcpStream,
) -> Result<StreamOwned<ClientConnection, TcpStream>> {
    let mut tls = ClientConnection::new(config.clone(), ServerName::from(ip))?;
    while tls.is_handshaking() {
        tls.complete_io(&mut socket)?;
    }
    Ok(StreamOwned::new(tls, socket))
}

impl Client {
    /// Connects and logs in.
    pub(super) fn login(to: &Login) -> Result<Self> {
        let socket = connect(to.address)?;
        let ip = to.address.ip();
        let mut client = Self { wire: BufReader::new(Box::new(socket.try_clone()?)), ip, tls: to.tls.clone() };
        client.expect(220)?;
        if let Some(config) = &to.tls {
            client.ask("AUTH TLS", 234)?;
            client.wire = BufReader::new(Box::new(secure(config, ip, socket)?));
            client.ask("PBSZ 0", 200)?;
            client.ask("PROT P", 200)?;
        }
        client.ask(&format!("USER {}", to.user), 331)?;
        client.ask(&format!("PASS {}", to.password), 230)?;
        client.ask("TYPE I", 200)?;
        Ok(client)
    }

    /// A command whose reply has this code.
    pub(super) fn ask(&mut self, command: &str, code: u16) -> Result<String> {
        self.wire.get_mut().write_all(format!("{command}\r\n").as_bytes())?;
        self.wire.get_mut().flush()?;
        self.expect(code).with_context(|| command.split(' ').next().unwrap_or_default().to_owned())
    }

    fn expect(&mut self, code: u16) -> Result<String> {
        let mut line = String::new();
        loop {
            line.clear();
            if self.wire.read_line(&mut line)? == 0 {
                bail!("the server ended the session");
            }
            if line.as_bytes().get(3) == Some(&b' ') && line.as_bytes()[..3].iter().all(u8::is_ascii_digit) {
                ensure!(line.starts_with(&code.to_string()), "{line:?}, not {code}");
                return Ok(line);
            }
        }
    }

    fn data(&mut self) -> Result<TcpStream> {
        let reply = self.ask("EPSV", 229)?;
        let port = reply.split('|').nth(3).context("no port in the reply")?.parse()?;
        connect(SocketAddr::new(self.ip, port))
    }

    /// Lets the kernel throw the file away; under TLS without deciphering it. Gives the bytes that came.
    pub(super) fn sink(&mut self, path: &str) -> Result<u64> {
        let mut socket = self.data()?;
        self.ask(&format!("RETR {path}"), 150)?;
        if let Some(config) = &self.tls {
            let mut secured = secure(config, self.ip, socket)?;
            // Some servers wait for it at the end, which is not read here.
            secured.conn.send_close_notify();
            secured.flush()?;
            socket = secured.sock;
        }
        let (mut got, mut nothing) = (0, vec![0; BLOCK]);
        loop {
            match recv(socket.as_raw_fd(), &mut nothing, MsgFlags::MSG_TRUNC)? {
                0 => break,
                n => got += n as u64,
            }
        }
        self.sent(socket)?;
        Ok(got)
    }

    /// The end of a transfer. Some servers wait for that of the data connection before they say that all was sent.
    fn sent(&mut self, data: TcpStream) -> Result<()> {
        drop(data);
        self.expect(226).map(drop)
    }

    /// Fetches the file.
    pub(super) fn fetch(&mut self, path: &str, mut each: impl FnMut(&[u8])) -> Result<()> {
        let mut socket = self.data()?;
        self.ask(&format!("RETR {path}"), 150)?;
        let mut block = vec![0; 64 << 10];
        loop {
            match socket.read(&mut block)? {
                0 => break,
                n => each(&block[..n]),
            }
        }
        self.sent(socket)?;
        Ok(())
    }
}

/// The SHA-256 of a file.
pub(super) fn sum_of(path: &Path) -> Result<Vec<u8>> {
    Ok(Sha256::digest(std::fs::read(path)?).to_vec())
}
