//! The last error of this start, from the journal: of the kernel, of systemd, of any daemon.

use crate::journal::{self, Journalctl};
use std::io::{self, Read};
use std::process::{Child, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::Duration;

/// Longest line that is looked at; the screen shows less.
const LINE: u64 = 4096;
/// How long is waited before the journal is followed again after its end.
const AGAIN: Duration = Duration::from_secs(10);

/// What the journal said.
#[derive(Debug)]
pub(super) struct Errors {
    lines: Receiver<String>,
    last: Option<String>,
}

impl Errors {
    /// Follows the journal from now on, beginning with the last error before.
    pub(super) fn follow() -> io::Result<Self> {
        let (send, lines) = mpsc::channel();
        thread::Builder::new().name("journal".into()).spawn(move || {
            loop {
                match journal() {
                    Ok(mut child) => {
                        let ended =
                            child.stdout.take().is_none_or(|out| pass_on(out, &mut |line| send.send(line).is_ok()));
                        let _ = child.kill();
                        let _ = child.wait();
                        if !ended {
                            return;
                        }
                    }
                    Err(error) => tracing::warn!(%error, "the journal cannot be followed"),
                }
                thread::sleep(AGAIN);
            }
        })?;
        Ok(Self { lines, last: None })
    }

    /// The last one.
    pub(super) fn last(&self) -> Option<&str> {
        self.last.as_deref()
    }

    /// Waits this long, or until there is a new one.
    pub(super) fn wait(&mut self, limit: Duration) {
        match self.lines.recv_timeout(limit) {
            Ok(line) => self.last = Some(line),
            Err(RecvTimeoutError::Timeout) => {}
            // The thread ended, which it does not before us.
            Err(RecvTimeoutError::Disconnected) => thread::sleep(limit),
        }
        while let Ok(line) = self.lines.try_recv() {
            self.last = Some(line);
        }
    }
}

fn journal() -> io::Result<Child> {
    let arguments =
        ["--follow", "--boot", "--priority=err", "--lines=1", "--output=short-iso", "--no-hostname", "--quiet"];
    Journalctl::find()?.start(&arguments, Stdio::null())
}

/// Gives each line on, cut to what is of use, until the end; `false` when nobody wants them any more.
fn pass_on(out: impl Read, take: &mut dyn FnMut(String) -> bool) -> bool {
    journal::lines(out, LINE, &mut |line| {
        let text = String::from_utf8_lossy(&line.bytes);
        let text = text.trim_end();
        text.is_empty() || text.starts_with("-- ") || take(text.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn passed(text: &[u8]) -> Vec<String> {
        let mut all = Vec::new();
        assert!(pass_on(text, &mut |line| {
            all.push(line);
            true
        }));
        all
    }

    #[test]
    fn lines_of_the_journal() {
        let at = "2026-11-26T17:00:00+00:00";
        let text = format!("-- Boot 1 --\n{at} ftpd[7]: one\n\n{at} kernel: two\n");
        assert_eq!(passed(text.as_bytes()), [format!("{at} ftpd[7]: one"), format!("{at} kernel: two")]);
        assert_eq!(passed(b"no end"), ["no end"]);
        assert_eq!(passed(b"\xff\n"), ["\u{fffd}"]);
    }

    #[test]
    fn a_long_line_is_cut_and_the_next_one_is_whole() {
        let limit = usize::try_from(LINE).unwrap();
        for length in [limit - 1, limit, limit + 1, 10 * limit] {
            let text = format!("{}\nnext\n", "x".repeat(length));
            let all = passed(text.as_bytes());
            assert_eq!((all[0].len(), &*all[1]), (length.min(limit), "next"), "{length}");
        }
    }

    #[test]
    fn it_ends_when_nobody_listens() {
        assert!(!pass_on(&b"a\nb\n"[..], &mut |_| false));
    }
}
