//! Logs, as the other daemons have them, with libunftp left out.

use std::io::IsTerminal;
use tracing_subscriber::EnvFilter;

/// libunftp opens a span with all arguments in it for every call, at level info. They cost more than the commands themselves.
const SILENT: [&str; 2] = ["libunftp=off", "unftp_core=off"];

/// Starts logging to standard error. `RUST_LOG` chooses what, `info` without it.
pub fn init() {
    let mut filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    for directive in SILENT {
        filter = filter.add_directive(directive.parse().expect("the directives are constants, and tested"));
    }
    let terminal = std::io::stderr().is_terminal();
    let logger = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(terminal);
    // Another subscriber is there already only in tests, which want to keep it.
    let _ = logger.try_init();
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_directives_parse() {
        super::init();
    }
}
