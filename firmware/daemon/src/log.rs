//! Logs: to standard error, where systemd or whoever started the daemon collects them.

use std::fmt;
use std::io::IsTerminal;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::{Format, Full, Writer};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

/// Most bytes of a name that a stranger typed that are written down, in logs and audit records.
pub const RECORDED: usize = 128;

/// What of such a name is written down.
#[must_use]
pub fn recorded(typed: &str) -> &str {
    let end = (0..=typed.len().min(RECORDED)).rev().find(|end| typed.is_char_boundary(*end)).unwrap_or(0);
    &typed[..end]
}

/// Starts logging for this process; a second call changes nothing. `RUST_LOG` chooses what, `info` without it.
pub fn init(name: &str) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let terminal = std::io::stderr().is_terminal();
    let logger = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(terminal);
    // systemd says so where the journal reads what we write (systemd.exec(5)).
    let started = if std::env::var_os("JOURNAL_STREAM").is_some() {
        logger.with_ansi(false).event_format(ForJournal(Format::default().without_time())).try_init()
    } else {
        logger.try_init()
    };
    if started.is_ok() {
        tracing::debug!(daemon = name, "log started");
    }
}

/// Lines for the journal: it knows the time, but what an error is it learns by the number in front (sd-daemon(3)). Without it all
/// would be of the same weight, and no error would reach the console.
struct ForJournal(Format<Full, ()>);

/// The syslog priority of a level.
fn priority(level: &Level) -> u8 {
    match *level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        Level::DEBUG | Level::TRACE => 7,
    }
}

impl<S, N> FormatEvent<S, N> for ForJournal
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, context: &FmtContext<'_, S, N>, mut to: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        write!(to, "<{}>", priority(event.metadata().level()))?;
        self.0.format_event(context, to, event)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{self, Write};
    use std::sync::{Arc, Mutex};

    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<u8>>>);

    impl Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_long_name_is_cut_for_the_record() {
        assert_eq!(recorded("alice"), "alice");
        assert_eq!(recorded(&"x".repeat(RECORDED + 1)).len(), RECORDED);
        assert_eq!(recorded(&"ü".repeat(RECORDED)).len(), RECORDED);
        assert_eq!(recorded(&format!("x{}", "ü".repeat(RECORDED))).len(), RECORDED - 1);
    }

    #[test]
    fn lines_for_the_journal_begin_with_their_weight() {
        let kept = Kept::default();
        let to = kept.clone();
        let logger = tracing_subscriber::fmt()
            .with_ansi(false)
            .with_writer(move || to.clone())
            .event_format(ForJournal(Format::default().without_time()))
            .finish();
        tracing::subscriber::with_default(logger, || {
            tracing::error!("it broke");
            tracing::info!(n = 1, "all is well");
        });
        let text = String::from_utf8(kept.0.lock().unwrap().clone()).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[0].starts_with("<3>") && lines[0].ends_with("it broke"), "{text}");
        assert!(lines[1].starts_with("<6>") && lines[1].contains("all is well"), "{text}");
        assert_eq!(lines.len(), 2);
    }
}
