//! The ftp daemon of the download appliance: a process for each session, in its own root, without privilege, read-only.
//!
//! # Structure
//! - [`forker`]: one thread, no runtime; accepts, keeps the limits ([`limits`]), forks, reaps.
//! - [`session`]: in the child; the gate in front of libunftp, the transfers.
//! - [`gatekeeper`]: stagerd, over a Unix socket that the forker opens for the session: who may come in, what may be sent.
//! - [`confine`], [`filter`]: what is given up, and when. [`tls`]: the certificate, renewed without a restart.
//! - Without I/O: [`line`], [`command`], [`path`], [`reply`], [`facts`], [`limits`], [`metrics`].
//!
//! # Privileges, in order
//! 1. The process starts as a user of its own with CAP_SYS_CHROOT (and what it needs to bind port 21, if it does).
//! 2. The forker has bound its ports and keeps CAP_SYS_CHROOT alone; without it, it does not start. Nothing is executed and nothing
//!    opened for writing from here on ([`filter`]).
//! 3. A child, before it reads from its client: no core, no debugger, no further process, few descriptors, little memory, no system
//!    call but those of a session; SIGTERM when the forker dies.
//! 4. stagerd says yes to a login and hands over the account's directory: fchdir, chroot, chdir, the directory is closed, the last
//!    capability goes. If any of it fails, the session ends.
//!
//! # Invariants
//! - No file is opened before step 4, and none for writing at any time. Paths are resolved beneath the root without following links.
//! - libunftp sees only USER, PASS, CWD, SIZE, MDTM, MLST, STAT, EPSV, RETR, LIST, NLST and MLSD, with absolute paths, one at a
//!   time, on loopback. It sees no password and carries no file and no listing.
//! - A byte of a file goes out only after stagerd has said that the transfer is on record. Listings are not recorded.
//! - A data connection is the client's own address's or nobody's; whatever ends a transfer early, even kill -9, ends it with RST.
//! - A refusal tells the client no more than its code; a failure to ask is 421 or 450, never "wrong password".
//! - Passwords are in no log. What a stranger can bring about as often as he likes is counted, and at level debug only.

pub mod command;
pub mod config;
pub mod confine;
pub mod facts;
pub mod filter;
pub mod forker;
pub mod gatekeeper;
pub mod limits;
pub mod line;
pub mod log;
pub mod metrics;
pub mod path;
mod readiness;
pub mod reply;
pub mod session;
pub mod tls;

use config::Config;
use std::path::Path;

/// Why ftpd ended.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The configuration cannot be read.
    #[error("no configuration")]
    Load(#[from] daemon::config::ConfigError),
    /// The configuration makes no sense.
    #[error("the configuration cannot be used")]
    Config(#[from] config::ConfigError),
    /// The forker cannot start or go on.
    #[error("ftpd cannot serve")]
    Forker(#[from] forker::ForkerError),
}

/// Runs ftpd with a configuration file until it is told to stop.
///
/// # Errors
/// [`Error`].
pub fn run(path: &Path) -> Result<(), Error> {
    let config: Config = daemon::config::load(path)?;
    config.check()?;
    let listeners = forker::bind(&config)?;
    for address in listeners.iter().filter_map(|l| l.local_addr().ok()) {
        tracing::info!(%address, "listening");
    }
    Ok(forker::run(path, config, listeners)?)
}
