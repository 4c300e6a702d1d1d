//! From TCP connections to HTTP requests: limits, TLS, deadlines.

use crate::limits::{Limits, Slot};
use crate::tls::Tls;
use crate::web::Client;
use axum::{Extension, Router};
use daemon::{RateLimit, Shutdown};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use std::net::IpAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tokio_rustls::TlsAcceptor;

/// How long a TLS handshake may take.
pub const HANDSHAKE_WITHIN: Duration = Duration::from_secs(10);
/// How long the head of a request may take, which is also how long a connection may idle between requests.
pub const HEAD_WITHIN: Duration = Duration::from_secs(15);
/// How long one connection may be used. Pages are short; downloads do not come this way.
pub const CONNECTION_LIFETIME: Duration = Duration::from_secs(300);
/// How long a request under way may go on once its connection is to end.
pub const DRAIN_WITHIN: Duration = Duration::from_secs(5);
/// Longest head of a request in bytes.
pub const MAX_HEAD: usize = 16 * 1024;
/// How long to wait when connections cannot be accepted for want of descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// The lines about connections that were too many.
static TURNED_AWAY: RateLimit = RateLimit::new(1);

/// What all listeners share.
#[derive(Clone)]
pub(crate) struct Server {
    pub(crate) app: Router,
    pub(crate) tls: Arc<Tls>,
    pub(crate) limits: Arc<Limits>,
}

impl Server {
    /// Serves one listener until the shutdown, then lets requests under way finish.
    pub(crate) async fn serve(self, listener: TcpListener, shutdown: Shutdown) -> std::io::Result<()> {
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                () = shutdown.wait() => break,
                Some(_) = connections.join_next() => {}
                accepted = listener.accept() => match accepted {
                    Ok((stream, peer)) => {
                        let Some(slot) = self.limits.enter(peer.ip()) else {
                            if let Some(suppressed) = TURNED_AWAY.pass(Instant::now()) {
                                tracing::info!(address = %peer.ip(), suppressed, "too many connections");
                            }
                            continue;
                        };
                        let address = peer.ip().to_canonical();
                        // Answers are written whole; waiting for more to send would only delay them.
                        let _ = stream.set_nodelay(true);
                        let app = self.app.clone();
                        connections.spawn(connection(stream, self.tls.acceptor(), app, address, slot, shutdown.clone()));
                    }
                    Err(error) if daemon::ipc::passing(&error) => {
                        tracing::warn!(%error, "a connection could not be accepted");
                        sleep(ACCEPT_PAUSE).await;
                    }
                    Err(error) => return Err(error),
                },
            }
        }
        drop(listener);
        // Each connection ends itself within this time; the handshakes among them are simply dropped.
        let _ = timeout(DRAIN_WITHIN, async { while connections.join_next().await.is_some() {} }).await;
        Ok(())
    }
}

async fn connection<S>(stream: S, tls: TlsAcceptor, app: Router, address: IpAddr, slot: Slot, shutdown: Shutdown)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let slot = Arc::new(slot);
    tokio::select! {
        () = slot.evicted() => tracing::debug!(%address, "a connection was closed for another"),
        () = exchange(stream, tls, app.layer(Extension(slot.clone())), address, shutdown) => {}
    }
}

async fn exchange<S>(stream: S, tls: TlsAcceptor, app: Router, address: IpAddr, shutdown: Shutdown)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let handshake = tokio::select! {
        () = shutdown.wait() => return,
        handshake = timeout(HANDSHAKE_WITHIN, tls.accept(stream)) => handshake,
    };
    let stream = match handshake {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return tracing::debug!(%address, %error, "the TLS handshake failed"),
        Err(_) => return tracing::debug!(%address, "the TLS handshake took too long"),
    };
    let service = TowerToHyperService::new(app.layer(Extension(Client(address))));
    let mut connection = pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_WITHIN)
            .max_buf_size(MAX_HEAD)
            .serve_connection(TokioIo::new(stream), service)
    );
    let ended = tokio::select! {
        ended = connection.as_mut() => Some(ended),
        () = shutdown.wait() => None,
        () = sleep(CONNECTION_LIFETIME) => None,
    };
    let ended = match ended {
        Some(ended) => Ok(ended),
        None => {
            connection.as_mut().graceful_shutdown();
            timeout(DRAIN_WITHIN, connection).await
        }
    };
    match ended {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%address, "a connection failed: {}", daemon::report(&error)),
        Err(_) => tracing::debug!(%address, "a connection was cut off"),
    }
}

#[cfg(test)]
mod tests;
