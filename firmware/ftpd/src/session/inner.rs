//! The loopback side: libunftp, unmodified, one command in flight.

use super::backend::Depot;
use super::login::Doorman;
use super::reset_on_close;
use super::shared::Shared;
use crate::reply::{Reply, ReplyParser};
use libunftp::ServerBuilder;
use std::io::{self, ErrorKind};
use std::net::Ipv4Addr;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// How long libunftp may take for a reply. A lost one ends the session, it does not hang it. Longer than any answer of stagerd.
pub(super) const ANSWER: Duration = Duration::from_secs(60);

/// Where libunftp opens its own data ports, on loopback.
const PORTS: RangeInclusive<u16> = 20_000..=65_000;

/// libunftp's own idle timer must never be the one that ends a session.
const NEVER: u64 = u32::MAX as u64;

/// libunftp at the other end of a loopback connection.
pub(super) struct Inner(BufReader<TcpStream>);

impl Inner {
    pub(super) async fn start(shared: &Arc<Shared>) -> io::Result<Self> {
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let ours = std::net::TcpStream::connect(listener.local_addr()?)?;
        let (theirs, from) = listener.accept()?;
        if from != ours.local_addr()? {
            // Another local process was faster.
            return Err(ErrorKind::ConnectionRefused.into());
        }
        let stream = |socket: std::net::TcpStream| {
            socket.set_nonblocking(true)?;
            socket.set_nodelay(true)?;
            TcpStream::from_std(socket)
        };
        let (ours, theirs) = (stream(ours)?, stream(theirs)?);
        // Without TIME_WAIT: at a thousand logins a second the loopback ports would run out.
        reset_on_close(&ours, true)?;
        let depot = shared.clone();
        let server = ServerBuilder::with_authenticator(
            Box::new(move || Depot(depot.clone())),
            Arc::new(Doorman(shared.clone())),
        )
        .idle_session_timeout(NEVER)
        .passive_ports(PORTS)
        .build()
        .map_err(io::Error::other)?;
        tokio::spawn(server.service(theirs));
        let mut inner = Self(BufReader::with_capacity(512, ours));
        timeout(ANSWER, inner.reply()).await??; // the greeting
        Ok(inner)
    }

    /// The next reply.
    pub(super) async fn reply(&mut self) -> io::Result<Reply> {
        let mut parser = ReplyParser::default();
        let mut line = String::new();
        loop {
            line.clear();
            if self.0.read_line(&mut line).await? == 0 {
                // Not the client's fault, so not a kind that looks like it.
                return Err(io::Error::other("libunftp ended the session"));
            }
            if let Some(reply) = parser.line(&line).map_err(io::Error::other)? {
                return Ok(reply);
            }
        }
    }

    /// A command and its reply.
    pub(super) async fn ask(&mut self, command: &str) -> io::Result<Reply> {
        self.0.write_all(format!("{command}\r\n").as_bytes()).await?;
        timeout(ANSWER, self.reply()).await.map_err(|_| io::Error::other("libunftp does not answer"))?
    }

    /// libunftp's own data connection, without which it refuses a transfer; no data goes over it.
    pub(super) async fn data(&mut self) -> io::Result<TcpStream> {
        let reply = self.ask("EPSV").await?;
        let port = reply.text.split('|').nth(3).and_then(|port| port.parse().ok());
        let port: u16 = port.ok_or_else(|| io::Error::other("libunftp has no data port"))?;
        let socket = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
        reset_on_close(&socket, true)?;
        Ok(socket)
    }
}
