//! `admind`: what only root may do on an appliance.
//!
//! | command | unit | does |
//! |---|---|---|
//! | `admind state` | `ffs-state.service` | mounts the state partition ([`crate::state::mount`]) |
//! | `admind setup` | `ffs-setup.service` | writes configurations, keys, networks, firewall ([`crate::setup`]) |
//! | `admind storage` | `ffs-storage.service` | brings the data disks into use ([`crate::storage`]) |
//! | `admind storage-change` | `ffs-storage-change.service` | changes an array that runs ([`crate::storage`]) |
//! | `admind scrub` | `ffs-scrub.service`, by a timer | reads all of the array from time to time ([`crate::storage`]) |
//! | `admind health` | `ffs-health.service` | waits until this start is a good one ([`health`]) |
//! | `admind console` | `ffs-console.service` | shows on screen and serial line how the machine is ([`crate::console`]) |
//! | `admind bless` | `systemd-bless-boot.service` | marks the running entry as good ([`health`]) |
//! | `admind serve --config FILE` | `admind.service` | answers commlinkd: status, storage, updates, certificates, the log |
//!
//! `console` and `serve` go on; the others end with 0, or with 1 and a message that says what to do.

mod boot;
mod checks;
mod health;
mod log;
mod report;
mod service;
mod storage;
mod tls;
mod update;

use crate::setup;
use crate::state::mount;
use crate::storage::{apply, change, scrub, told};
use clap::{Parser, Subcommand};
use keys::site::Role;
use serde::Deserialize;
use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// The units that only admind starts, by an operator's order.
pub const BY_ORDER: [&str; 3] = [storage::STORAGE, storage::CHANGE, storage::SCRUB_NOW];

/// Administration of an FFS appliance.
#[derive(Debug, Parser)]
#[command(name = "admind", version)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Mount the state partition.
    State,
    /// Write configurations, keys, networks and firewall from the state partition.
    Setup,
    /// Bring the data disks into use.
    Storage,
    /// Carry out an order to change the array.
    StorageChange,
    /// Read all of the array, if it is due.
    Scrub {
        /// Also if it is not due.
        #[arg(long)]
        now: bool,
        /// Stop one that is under way; it goes on another time.
        #[arg(long, conflicts_with = "now")]
        pause: bool,
    },
    /// Wait until this start of the machine is a good one.
    Health,
    /// Show on screen and serial line how this machine is.
    Console,
    /// Mark the running entry of the boot loader as good.
    Bless,
    /// Answer requests.
    Serve {
        /// The configuration file (TOML).
        #[arg(long, value_name = "FILE", default_value = setup::ADMIND_CONFIG)]
        config: PathBuf,
    },
}

/// The configuration of admind.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The machine's name.
    pub name: String,
    /// Its role.
    pub role: Role,
    /// Where it answers.
    pub socket: PathBuf,
    /// Whose processes may ask.
    pub allow_uids: Vec<u32>,
    /// The certificate that customers see; on machines that they reach.
    #[serde(default)]
    pub tls: Option<Tls>,
}

/// Where a certificate and its key are.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tls {
    /// The chain, where the daemon that serves it reads it (PEM).
    pub certificate: PathBuf,
    /// The key, where that daemon reads it (PEM).
    pub key: PathBuf,
    /// That daemon's user.
    pub uid: u32,
    /// Where a pair is kept that an operator has sent.
    pub renewed: PathBuf,
    /// Where the console finds the fingerprint.
    pub fingerprint: PathBuf,
}

/// Runs the command line.
pub fn main() -> ExitCode {
    let done = match Args::parse().command {
        Command::Serve { config } => return daemon::run_with("admind", config, service::run),
        Command::State => once(|| Ok(mount::run()?)),
        Command::Setup => once(|| {
            let name = setup::write(Path::new("/"))?;
            tracing::info!(name, "this machine is set up");
            Ok(())
        }),
        Command::Health => once(health::gate),
        Command::Console => once(crate::console::run),
        Command::Bless => once(health::bless),
        Command::StorageChange => once(|| Ok(told(change::run())?)),
        Command::Scrub { pause: true, .. } => once(|| Ok(scrub::pause()?)),
        Command::Scrub { now, .. } => once(|| Ok(scrub::run(now)?)),
        Command::Storage => once(|| Ok(told(apply::run(role()?))?)),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{}", daemon::report(&*error));
            ExitCode::FAILURE
        }
    }
}

fn once(work: impl FnOnce() -> Result<(), Box<dyn Error>>) -> Result<(), Box<dyn Error>> {
    daemon::log::init("admind");
    work()
}

/// The role of this machine.
fn role() -> Result<Role, Box<dyn Error>> {
    let config: Result<Config, _> = daemon::config::load(Path::new(setup::ADMIND_CONFIG));
    Ok(config.map(|c| c.role)?)
}
