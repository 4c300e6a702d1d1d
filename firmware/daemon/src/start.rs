//! From `main` to a running daemon.

use crate::{Shutdown, log, notify};
use clap::Parser;
use std::error::Error;
use std::fmt::Write;
use std::future::Future;
use std::path::PathBuf;
use std::process::ExitCode;

/// The command line that every daemon has.
#[derive(Debug, Parser)]
#[command(version)]
struct Args {
    /// The configuration file (TOML).
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
}

/// Runs a daemon: command line, log, runtime, signals, watchdog. Ends with 0 after a shutdown, 1 on failure, 2 on wrong usage.
///
/// `serve` calls [`notify::ready`] once it is.
pub fn run<F, Fut>(name: &str, serve: F) -> ExitCode
where
    F: FnOnce(PathBuf, Shutdown) -> Fut,
    Fut: Future<Output = Result<(), Box<dyn Error + Send + Sync>>>,
{
    run_with(name, Args::parse().config, serve)
}

/// The same for a daemon with a command line of its own.
pub fn run_with<F, Fut>(name: &str, config: PathBuf, serve: F) -> ExitCode
where
    F: FnOnce(PathBuf, Shutdown) -> Fut,
    Fut: Future<Output = Result<(), Box<dyn Error + Send + Sync>>>,
{
    log::init(name);
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!("{name} cannot start: {}", report(&error));
            return ExitCode::FAILURE;
        }
    };
    let outcome = runtime.block_on(async {
        let shutdown = Shutdown::on_signals()?;
        notify::spawn_watchdog();
        serve(config, shutdown).await
    });
    notify::stopping();
    // Blocking work that is still under way is not waited for: every durable step may be cut anywhere.
    runtime.shutdown_background();
    match outcome {
        Ok(()) => {
            tracing::info!("{name} has stopped");
            ExitCode::SUCCESS
        }
        Err(error) => {
            tracing::error!("{name} failed: {}", report(&*error));
            ExitCode::FAILURE
        }
    }
}

/// An error with all that caused it, in one line.
pub fn report(error: &(dyn Error + 'static)) -> String {
    let mut line = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        // Writing to a String does not fail.
        let _ = write!(line, ": {error}");
        cause = error.source();
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_has_the_whole_chain() {
        let missing = std::path::Path::new("/nonexistent/x.toml");
        let error = crate::config::load::<toml::Value>(missing).unwrap_err();
        let line = report(&error);
        assert!(line.contains("x.toml") && line.contains("No such file"), "{line}");
    }
}
