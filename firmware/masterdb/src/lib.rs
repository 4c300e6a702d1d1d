//! The master database: the one place that knows the customers, what there is and who may have it (design §2, §4).
//!
//! It answers typed transactions on a Unix socket, from the commlink daemon of its own machine: logins and grants for the web
//! appliance, login checks, audit records and revocations for the download appliances, administration for operators. No machine
//! outside of the firewall keeps an account; each asks here (S8).
//!
//! # What holds
//! - What was acknowledged is durable: the reply goes out after the commit ([`store`]).
//! - A change and the ID of its request are one transaction, so that a retry gets the first answer.
//! - A grant is issued only within a session that was opened here with the customer's password, for what he is entitled to, and is
//!   recorded and audited before it leaves ([`grant`], N2).
//! - The audit trail only grows, and keeps each (appliance, number) once.
//! - Whether a customer exists can be seen neither in an answer nor in its time ([`password`]).

pub mod config;
pub mod grant;
mod lost;
mod page;
pub mod password;
mod service;
pub mod session;
mod space;
pub mod store;
pub mod throttle;

pub use config::{Config, Lifetimes};
pub use service::{MasterDb, REFUSALS_RECORDED};

use daemon::{Shutdown, ipc};
use std::sync::Arc;
use tokio::net::UnixListener;

/// Why the database does not run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The store cannot be opened or does not work any more.
    #[error("the store failed")]
    Store(#[from] store::StoreError),
    /// The key for grants is of no use.
    #[error("the key for grants cannot be used")]
    Key(#[from] grant::KeyError),
    /// The password hash does not work.
    #[error("passwords cannot be hashed")]
    Hash(#[from] password::HashError),
    /// The socket failed.
    #[error("the socket failed")]
    Socket(#[from] std::io::Error),
}

/// Serves the database on a bound listener until the shutdown.
///
/// `ready` is called once, when requests are answered. Where the store is lost, that is what every request is answered with until the
/// shutdown: a new process would find it no better, and a version that went back for it might make a new one. The store failing ends it: after an input or output error only opening
/// the store again tells what is on the disk, and that is for a new process to do.
///
/// # Errors
/// [`Error`] when it cannot start, or cannot go on.
pub async fn run(
    config: &Config,
    listener: UnixListener,
    shutdown: Shutdown,
    ready: impl FnOnce(),
) -> Result<(), Error> {
    let signer = grant::Signer::load(&config.grant_key)?;
    let peers = ipc::Peers::uids(&config.allow_uids);
    let store = match store::Store::open(&config.store).await {
        Ok(store) => store,
        Err(error @ store::StoreError::Lost { .. }) => {
            let why = error.to_string();
            tracing::error!("{why}");
            ready();
            daemon::notify::status(&why);
            ipc::serve(listener, peers, lost::Lost { name: config.name.clone(), why }, shutdown).await?;
            return Err(error.into());
        }
        Err(error) => return Err(error.into()),
    };
    let database = Arc::new(MasterDb::new(config, store, signer, shutdown.clone()).await?);
    ready();
    tracing::info!(name = %config.name, store = %config.store.display(), "the master database is open");
    let served = tokio::select! {
        served = ipc::serve(listener, peers, database.clone(), shutdown) => served.map_err(Error::from),
        () = database.store_stopped() => Err(store::StoreError::Stopped.into()),
    };
    if let Some(database) = Arc::into_inner(database) {
        database.close().await;
    }
    served
}
