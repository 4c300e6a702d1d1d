//! ftpd, the ftp daemon of the download appliance.

use clap::Parser;
use std::path::PathBuf;
use std::process::ExitCode;

/// Serves the accounts of customers over ftp and ftps, read-only.
#[derive(Parser)]
#[command(version)]
struct Args {
    /// The configuration file (TOML).
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
}

fn main() -> ExitCode {
    let args = Args::parse();
    ftpd::log::init();
    match ftpd::run(&args.config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("ftpd failed: {}", daemon::report(&error));
            ExitCode::FAILURE
        }
    }
}
