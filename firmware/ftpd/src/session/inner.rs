//! The loopback side: libunftp, unmodified, one command in flight.

use super::backend::Depot;
use super::login::Doorman;
use super::reset_on_close;
use super::shared::Shared;
use crate::reply::{Reply, ReplyParser};
use libunftp::ServerBuilder;
use slog::{Discard, Logger, o};
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
pub(super) struct Inner {
    wire: BufReader<TcpStream>,
    within: Duration,
}

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
        .logger(Logger::root(Discard, o!()))
        .build()
        .map_err(io::Error::other)?;
        tokio::spawn(server.service(theirs));
        let mut inner = Self { wire: BufReader::with_capacity(512, ours), within: ANSWER };
        inner.answer().await?; // the greeting
        Ok(inner)
    }

    /// The reply to what was asked last, within its time.
    pub(super) async fn answer(&mut self) -> io::Result<Reply> {
        timeout(self.within, self.reply()).await.map_err(|_| io::Error::other("libunftp does not answer"))?
    }

    /// The next reply.
    async fn reply(&mut self) -> io::Result<Reply> {
        let mut parser = ReplyParser::default();
        let mut line = String::new();
        loop {
            line.clear();
            if self.wire.read_line(&mut line).await? == 0 {
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
        self.wire.write_all(format!("{command}\r\n").as_bytes()).await?;
        self.answer().await
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

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncReadExt;

    #[tokio::test]
    async fn a_reply_that_does_not_come_is_not_waited_for() {
        let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let ours = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (mut mute, _) = listener.accept().await.unwrap();
        let mut inner = Inner { wire: BufReader::new(ours), within: Duration::from_millis(20) };
        let error = inner.ask("SIZE /a").await.unwrap_err();
        assert!(error.to_string().contains("does not answer"), "{error}");
        // Half a reply is none either.
        let mut asked = [0; 9];
        mute.read_exact(&mut asked).await.unwrap();
        mute.write_all(b"213-half\r\n").await.unwrap();
        assert!(inner.answer().await.is_err());
        drop(mute);
        assert!(inner.answer().await.unwrap_err().to_string().contains("ended the session"));
    }
}
