//! `ffsctl`: makes sites and administers appliances over the operator's own links.
//!
//! Exit codes: 0 done, 1 refused or failed, 2 wrong usage. `--json` on every command that shows something prints one JSON
//! value on standard output; messages and progress go to standard error.

mod args;
mod commlink;
mod customers;
mod flash;
mod keys;
mod leases;
mod link;
mod log;
mod objects;
mod progress;
mod show;
mod site;
mod status;
mod storage;
mod update;

use args::{Args, Command};
use clap::Parser;
use std::error::Error;
use std::process::ExitCode;

/// Why a command was not done.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CtlError {
    /// The command line, or what it names on this machine, makes no sense: exit code 2.
    #[error("{0}")]
    Usage(String),
    /// The appliance said no.
    #[error("{machine} refused: {text}")]
    Refused {
        /// Who.
        machine: String,
        /// What it said, or what its code means.
        text: String,
    },
    /// Done at some machines, and not at others; what each of those said has been told.
    #[error("{0}")]
    Unfinished(String),
    /// The appliance answered something else than what was asked.
    #[error("{0} gave an answer that does not fit; is its software of another version?")]
    Mismatch(String),
    /// Something here or on the way failed.
    #[error("{what}")]
    Failed {
        /// What was being done.
        what: String,
        /// Why it failed.
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
    /// Done, and what was found is not good: exit code 1, the output has said it.
    #[error("not everything is healthy")]
    Unhealthy,
}

impl CtlError {
    pub(crate) fn failed<E: Into<Box<dyn Error + Send + Sync>>>(what: impl Into<String>) -> impl FnOnce(E) -> Self {
        let what = what.into();
        move |source| Self::Failed { what, source: source.into() }
    }
}

/// Runs the command line.
pub fn main() -> ExitCode {
    let args = Args::parse();
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("ffsctl: {error}");
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(run(args)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("ffsctl: {}", daemon::report(&error));
            ExitCode::from(if matches!(error, CtlError::Usage(_)) { 2 } else { 1 })
        }
    }
}

async fn run(args: Args) -> Result<(), CtlError> {
    let Args { site, operator, json, command } = args;
    let open = || link::Operator::open(site.as_deref(), operator.as_deref());
    match command {
        Command::Site { command } => site::run(command),
        Command::Keys { command } => keys::run(site.as_deref(), operator.as_deref(), command, json).await,
        Command::Commlink { command } => commlink::run(&open()?, command, json).await,
        Command::Object { command } => objects::run(&open()?, command, json).await,
        Command::Customer { command } => customers::customer(&open()?, command, json).await,
        Command::Entitlement { command } => customers::entitlement(&open()?, command, json).await,
        Command::Lease { command } => leases::run(&open()?, command, json).await,
        Command::Flash(command) => flash::run(command, site.as_deref(), json),
        Command::Storage { command } => storage::run(&open()?, command, json).await,
        Command::Update { command } => update::run(&open()?, command, json).await,
        Command::Reboot { machine } => update::reboot(&open()?, &machine).await,
        Command::Poweroff { machine } => update::power_off(&open()?, &machine).await,
        Command::FactoryReset { machine, confirm } => update::factory_reset(&open()?, &machine, &confirm).await,
        Command::Audit { command } => status::audit(&open()?, command, json).await,
        Command::Log(command) => log::run(&open()?, command, json).await,
        Command::Status => status::status(&open()?, json).await,
    }
}
