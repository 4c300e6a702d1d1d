//! Logs: to standard error, where systemd or whoever started the daemon collects them.

use std::io::IsTerminal;
use tracing_subscriber::EnvFilter;

/// Starts logging for this process; a second call changes nothing. `RUST_LOG` chooses what, `info` without it.
pub fn init(name: &str) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let terminal = std::io::stderr().is_terminal();
    let logger = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(terminal);
    if logger.try_init().is_ok() {
        tracing::debug!(daemon = name, "log started");
    }
}
