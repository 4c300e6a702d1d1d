//! The customer's pages on the web appliance: login, the list of what he is entitled to, staging, and the page with the link.
//!
//! The portal holds nothing: no customer, no password, no session, no key bag. The browser carries the database's session token
//! in a cookie; every page asks the database again, and a download is staged only with a grant that the database signed. All of that
//! goes through this machine's commlinkd ([`Config::commlink`]); portald itself opens no connection to another machine.
//!
//! # Addresses
//!
//! | request | answer |
//! |---|---|
//! | `GET /` | the login form, or 303 to `/downloads` |
//! | `POST /login` (`user`, `password`) | 303 to `/downloads` with the cookie; 401 or 429 with the form and a message |
//! | `GET /downloads?offset=N` | the list |
//! | `GET /downloads?product=P` | what of it is of one product, for links from elsewhere: kept over the login, by the same `?product=P` |
//! | `POST /stage` (`csrf`, `product`, `version`) | the staged file: link, one-time user and password, commands; 403 if not entitled |
//! | `POST /logout` (`csrf`) | 303 to `/` |
//! | `GET /ca.pem` | the certificate of the site's authority, where the configuration has one; no login |
//! | `GET /healthz` | 200 while portald serves |
//!
//! What changes anything is a POST, which is taken from this site's own pages only (`Origin`, `Sec-Fetch-Site`), and but for the login
//! with what its session's forms carry (`csrf`): a link from elsewhere can show a customer his pages, and do nothing.
//!
//! With `Accept: application/json` the same answers come as JSON: from `/login` `customer`, `csrf`, `expires`; errors as `error` and
//! `message`.

mod backend;
mod config;
mod limits;
mod links;
mod server;
mod session;
mod status;
mod tls;
mod web;

pub use backend::{ANSWER_WITHIN, LOGIN_TURN, MAX_CALLS, MAX_LOGINS, MAX_LOGINS_PER_ADDRESS};
pub use config::{Config, Download};
pub use limits::{MAX_CONNECTIONS, MAX_PER_ADDRESS, MAX_PER_NETWORK};
pub use server::{CONNECTION_LIFETIME, DRAIN_WITHIN, HANDSHAKE_WITHIN, HEAD_WITHIN, MAX_HEAD};
pub use tls::TlsError;
pub use web::{BODY_WITHIN, MAX_BODY};

use daemon::ipc::Peers;
use daemon::{Shutdown, ipc, notify};
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use tokio::net::{TcpListener, UnixListener};
use tokio::task::JoinSet;

/// Why portald ends.
#[derive(Debug, thiserror::Error)]
pub enum PortalError {
    /// An address for customers cannot be bound.
    #[error("cannot listen on {address}")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The socket for `STATUS` cannot be bound.
    #[error("cannot bind {path}")]
    Socket {
        /// The socket.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The certificate cannot be served.
    #[error("the portal has no certificate")]
    Tls(#[from] TlsError),
    /// The configuration names no address.
    #[error("the configuration names no address to listen on")]
    NoListener,
    /// A listener failed for good.
    #[error("a listener failed")]
    Listener(#[source] io::Error),
}

/// What portald listens on. Tests bind port 0.
#[derive(Debug)]
pub struct Listeners {
    /// For customers.
    pub https: Vec<TcpListener>,
    /// For `STATUS`.
    pub status: UnixListener,
}

impl Listeners {
    /// Binds what the configuration names. To be called within a runtime.
    ///
    /// # Errors
    /// [`PortalError`] with the address or path.
    pub fn bind(config: &Config) -> Result<Self, PortalError> {
        let bind = |address: SocketAddr| {
            // std sets SO_REUSEADDR, so that a restart does not wait for old connections.
            let listener = std::net::TcpListener::bind(address)?;
            listener.set_nonblocking(true)?;
            TcpListener::from_std(listener)
        };
        let https =
            config.listen.iter().map(|&address| bind(address).map_err(|source| PortalError::Bind { address, source }));
        let https = https.collect::<Result<Vec<_>, _>>()?;
        if https.is_empty() {
            return Err(PortalError::NoListener);
        }
        let path = &config.socket;
        let status = ipc::bind(path).map_err(|source| PortalError::Socket { path: path.clone(), source })?;
        Ok(Self { https, status })
    }
}

/// Serves customers until the shutdown.
///
/// # Errors
/// [`PortalError`] when the certificate cannot be loaded or a listener fails for good.
pub async fn run(config: Config, listeners: Listeners, shutdown: Shutdown) -> Result<(), PortalError> {
    let tls = Arc::new(tls::Tls::new(&config.cert, &config.key)?);
    let limits = limits::Limits::new(MAX_CONNECTIONS, MAX_PER_ADDRESS, MAX_PER_NETWORK);
    let backend = Arc::new(backend::Backend::new(&config.commlink, config.database));
    let status =
        status::Status { name: config.name, backend: backend.clone(), limits: limits.clone(), tls: tls.clone() };
    let app = web::router(Arc::new(web::App { backend, downloads: config.downloads, authority: config.authority }));
    let server = server::Server { app, tls, limits };

    let mut tasks = JoinSet::new();
    tasks.spawn(ipc::serve(listeners.status, Peers::uids(&config.allow_uids), status, shutdown.clone()));
    for listener in listeners.https {
        if let Ok(address) = listener.local_addr() {
            tracing::info!(%address, "serving customers");
        }
        tasks.spawn(server.clone().serve(listener, shutdown.clone()));
    }
    notify::ready();
    while let Some(ended) = tasks.join_next().await {
        // A task that panicked is a listener that serves no more.
        ended.map_err(io::Error::other).flatten().map_err(PortalError::Listener)?;
    }
    Ok(())
}
