//! The client's data connection and the port that waits for it.

use super::pump::Line;
use super::{Context, reset_on_close};
use crate::metrics::{Event, Limit};
use crate::tls::{DataAcceptor, version};
use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tobj::TlsVersion;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::oneshot;
use tokio::time::timeout;
use tokio_rustls::server::TlsStream;
use tokio_util::task::AbortOnDropHandle;

/// Bytes read at once under TLS; rustls buffers as many. Larger blocks leave the processor's cache.
pub(super) const BLOCK: usize = 64 << 10;

/// Ports that are tried before a client is told that there is none.
pub(super) const TRIES: usize = 64;

/// A data connection. Until [`Data::finish`] it is closed with RST, whatever closes it: a transfer that was cut never looks whole.
pub(super) enum Data {
    /// In clear.
    Clear(TcpStream),
    /// Under TLS.
    Tls(Box<TlsStream<TcpStream>>),
}

/// How data connections are protected.
#[derive(Clone)]
pub(super) struct Private {
    /// What the control connection has of TLS.
    pub(super) acceptor: DataAcceptor,
    /// Only a connection that resumes the control connection's TLS session is taken.
    pub(super) resumed: bool,
}

/// A passive port: takes the client's connection, nobody else's, and begins the handshake at once, since some clients start TLS
/// before they send the command and others after the 150.
pub(super) struct Passive {
    /// The client has connected.
    pub(super) connected: oneshot::Receiver<()>,
    /// The connection is ready for data.
    pub(super) data: AbortOnDropHandle<io::Result<Data>>,
}

impl Passive {
    /// Listens on a random port of the range, where the client reached us; gives the port too. None if all tries failed.
    pub(super) fn open(
        local: IpAddr,
        context: &Arc<Context>,
        client: IpAddr,
        tls: Option<Private>,
    ) -> io::Result<Option<(Self, u16)>> {
        let [first, last] = context.config.passive_ports;
        for _ in 0..TRIES {
            // Not RandomState: its keys are drawn once, so that every forked child would try the same ports.
            let random = getrandom::u32().map_err(io::Error::other)?;
            let span = u32::from(last.saturating_sub(first)) + 1;
            let port = first.saturating_add(u16::try_from(random % span).unwrap_or(0));
            let socket = if local.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
            socket.set_reuseaddr(true)?;
            if socket.bind(SocketAddr::new(local, port)).is_err() {
                continue;
            }
            if let Ok(listener) = socket.listen(4) {
                return Ok(Some((Self::on(listener, context.clone(), client, tls), port)));
            }
        }
        Ok(None)
    }

    fn on(listener: TcpListener, context: Arc<Context>, client: IpAddr, tls: Option<Private>) -> Self {
        let (tell, connected) = oneshot::channel();
        let data = AbortOnDropHandle::new(tokio::spawn(async move {
            let socket = loop {
                let (socket, from) = listener.accept().await?;
                if from.ip().to_canonical() == client {
                    break socket;
                }
                context.note(Event::Limit(Limit::Stranger));
                // It is counted; see the forker's refusals.
                tracing::debug!(address = %from.ip(), "a stranger on a passive port was turned away");
            };
            drop(listener);
            reset_on_close(&socket, true)?;
            // If nobody waits any more the task is about to be aborted.
            let _ = tell.send(());
            Ok(match tls {
                Some(tls) => {
                    let (mut stream, resumed) = tls.acceptor.accept(socket).await?;
                    stream.get_mut().1.set_buffer_limit(Some(BLOCK));
                    if tls.resumed && !resumed {
                        // Only who holds the control connection's session can resume it: this process knows no other.
                        return Err(ErrorKind::PermissionDenied.into());
                    }
                    Data::Tls(Box::new(stream))
                }
                None => Data::Clear(socket),
            })
        }));
        Self { connected, data }
    }
}

impl Data {
    /// The TLS that it is under.
    pub(super) fn tls(&self) -> Option<TlsVersion> {
        match self {
            Self::Tls(stream) => version(stream.get_ref().1),
            Self::Clear(_) => None,
        }
    }

    /// For the pump, which takes files.
    pub(super) fn into_line(self) -> io::Result<Line> {
        Ok(match self {
            Self::Clear(socket) => Line::Clear(socket.into_std()?),
            Self::Tls(stream) => {
                let (socket, tls) = stream.into_inner();
                Line::Tls(socket.into_std()?, Box::new(tls))
            }
        })
    }

    /// Sends these bytes and ends.
    pub(super) async fn send_bytes(&mut self, bytes: &[u8], stall: Duration) -> io::Result<()> {
        self.send(bytes, stall).await?;
        self.finish(stall).await
    }

    async fn send(&mut self, mut bytes: &[u8], stall: Duration) -> io::Result<()> {
        while !bytes.is_empty() {
            let write = async {
                match self {
                    Self::Clear(socket) => socket.write(bytes).await,
                    Self::Tls(stream) => stream.write(bytes).await,
                }
            };
            match timeout(stall, write).await?? {
                0 => return Err(ErrorKind::WriteZero.into()),
                n => bytes = &bytes[n..],
            }
        }
        Ok(())
    }

    /// Ends the stream in good order, under TLS with close_notify; what the kernel still holds is delivered.
    async fn finish(&mut self, stall: Duration) -> io::Result<()> {
        let end = async {
            match self {
                Self::Clear(socket) => socket.shutdown().await,
                Self::Tls(stream) => stream.shutdown().await,
            }
        };
        timeout(stall, end).await??;
        match self {
            Self::Clear(socket) => reset_on_close(socket, false),
            Self::Tls(stream) => reset_on_close(stream.get_ref().0, false),
        }
    }
}
