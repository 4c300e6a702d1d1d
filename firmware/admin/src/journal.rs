//! The journal of this machine, by journalctl: the console follows its errors ([`crate::console`]), operators read it in pages
//! ([`crate::admind`]).
//!
//! No shell is between, and what others have chosen is only ever the value of an option in the same argument (`--unit=…`): it cannot
//! become an option of its own.

pub(crate) mod entry;

use crate::tools;
use std::ffi::OsStr;
use std::io::{self, BufRead, BufReader, Read};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

/// Longest line that is taken whole. journald cuts what daemons write at 48 KiB (`LineMax=`), and a byte of that takes four at most.
pub(crate) const LINE: u64 = 512 << 10;
/// How much of its complaints is kept.
const SAID: u64 = 1 << 10;

/// Why the journal was not read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum JournalError {
    /// journalctl is not there, or cannot be run.
    #[error("journalctl cannot be run")]
    Start(#[source] io::Error),
    /// It failed.
    #[error("journalctl failed ({status}): {said}")]
    Failed {
        /// How it ended.
        status: ExitStatus,
        /// What it said, in one line.
        said: String,
    },
    /// It took too long.
    #[error("the journal was not read in time; its disk may be slow: ask for fewer lines, a later time or one unit")]
    Late,
}

/// A line, or its begin.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Line {
    /// Its bytes, without its end.
    pub(crate) bytes: Vec<u8>,
    /// Whether that is all of it.
    pub(crate) whole: bool,
}

/// The program.
#[derive(Debug, Clone)]
pub(crate) struct Journalctl {
    program: PathBuf,
    /// What comes before all arguments; something in tests only.
    before: Vec<String>,
}

impl Journalctl {
    /// The one of this machine.
    pub(crate) fn find() -> io::Result<Self> {
        let absent = || io::Error::new(io::ErrorKind::NotFound, "it is not there");
        let program = tools::find("journalctl").ok_or_else(absent)?;
        Ok(Self { program, before: Vec::new() })
    }

    /// Starts it; its output is to be read.
    pub(crate) fn start(&self, arguments: &[impl AsRef<OsStr>], complaints: Stdio) -> io::Result<Child> {
        let mut command = Command::new(&self.program);
        command.args(&self.before).args(arguments).env_clear().env("PATH", "/usr/bin").env("TZ", "UTC");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(complaints).spawn()
    }

    /// Reads what it prints until `take` has enough; it is ended then, and so it is when the time is over.
    pub(crate) fn read(
        &self,
        arguments: &[impl AsRef<OsStr>],
        until: Instant,
        take: &mut dyn FnMut(Line) -> bool,
    ) -> Result<(), JournalError> {
        let mut child = self.start(arguments, Stdio::piped()).map_err(JournalError::Start)?;
        let (send, printed) = mpsc::sync_channel(1);
        // Each ends with its pipe, which the process has.
        let out = child.stdout.take();
        thread::spawn(move || out.map(|out| lines(out, LINE, &mut |line| send.send(line).is_ok())));
        let complaints = child.stderr.take();
        let said = thread::spawn(move || complaints.map(said).unwrap_or_default());
        let ended = loop {
            let left = until.saturating_duration_since(Instant::now());
            match printed.recv_timeout(left) {
                Err(RecvTimeoutError::Disconnected) => {
                    let status = child.wait().map_err(JournalError::Start)?;
                    let said = said.join().unwrap_or_default();
                    return if status.success() { Ok(()) } else { Err(JournalError::Failed { status, said }) };
                }
                Ok(line) if left > Duration::ZERO => {
                    if !take(line) {
                        break Ok(());
                    }
                }
                // Also for one that always has another line.
                Ok(_) | Err(RecvTimeoutError::Timeout) => break Err(JournalError::Late),
            }
        };
        let _ = child.kill();
        // Nobody waits for one that hangs in a disk.
        thread::spawn(move || child.wait());
        ended
    }
}

/// The begin of what it complains of, in one line; the rest is read, lest it waits for that.
fn said(mut complaints: impl Read) -> String {
    let mut text = Vec::new();
    let _ = complaints.by_ref().take(SAID).read_to_end(&mut text);
    let _ = io::copy(&mut complaints, &mut io::sink());
    String::from_utf8_lossy(&text).split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Gives each line on, as far as it is not beyond the limit, until the end; `false` when nobody wants them any more.
pub(crate) fn lines(out: impl Read, limit: u64, take: &mut dyn FnMut(Line) -> bool) -> bool {
    let mut out = BufReader::new(out);
    loop {
        let mut bytes = Vec::new();
        match out.by_ref().take(limit).read_until(b'\n', &mut bytes) {
            Ok(0) | Err(_) => return true,
            Ok(_) => {}
        }
        let mut whole = bytes.pop_if(|last| *last == b'\n').is_some();
        if !whole {
            match out.skip_until(b'\n') {
                // The last one ends with the text, too.
                Ok(skipped) => whole = skipped == 0,
                Err(_) => return true,
            }
        }
        if !take(Line { bytes, whole }) {
            return false;
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use std::path::Path;

    /// A program in its place: this script of the shell, which gets the arguments.
    pub(crate) fn fake(script: &str) -> Journalctl {
        let before = ["-c", script, "journalctl"].map(str::to_owned).to_vec();
        Journalctl { program: "/bin/sh".into(), before }
    }

    pub(crate) fn soon() -> Instant {
        Instant::now() + Duration::from_secs(60)
    }

    const NONE: [&str; 0] = [];

    #[test]
    fn lines_and_their_begins() {
        let limit = 8;
        let all = |text: &str| {
            let mut all = Vec::new();
            assert!(lines(text.as_bytes(), limit, &mut |line| {
                all.push((String::from_utf8(line.bytes).unwrap(), line.whole));
                true
            }));
            all
        };
        let line = |text: &str, whole| (text.to_owned(), whole);
        assert_eq!(all("one\n\ntwo"), [line("one", true), line("", true), line("two", true)]);
        assert_eq!(all("1234567\nx\n"), [line("1234567", true), line("x", true)]);
        assert_eq!(all("12345678\nx\n"), [line("12345678", false), line("x", true)]);
        assert_eq!(all("12345678"), [line("12345678", true)]);
        assert_eq!(all(&format!("{}\nx", "y".repeat(100))), [line("yyyyyyyy", false), line("x", true)]);
        assert!(!lines(&b"a\nb\n"[..], limit, &mut |_| false));
    }

    #[test]
    fn arguments_reach_it_as_they_are() {
        let mut all = Vec::new();
        let hostile = ["--unit=$(false)", "--unit=a;b", "--unit=--flush", "a b\tc", "*"];
        let show = fake("for each; do printf '%s\\n' \"$each\"; done");
        show.read(&hostile, soon(), &mut |line| {
            all.push(String::from_utf8(line.bytes).unwrap());
            true
        })
        .unwrap();
        assert_eq!(all, hostile);
    }

    #[test]
    fn what_it_complains_of_is_told() {
        let failed = fake("echo Failed to  open >&2; exit 3").read(&NONE, soon(), &mut |_| true).unwrap_err();
        assert!(failed.to_string().ends_with("(exit status: 3): Failed to open"), "{failed}");
        // Much of it does not hold it up, and what it complains of is no failure.
        fake("yes complaint | head -c 1000000 >&2; echo done").read(&NONE, soon(), &mut |_| true).unwrap();
        let absent = Journalctl { program: "/nonexistent/x".into(), before: vec![] };
        assert!(matches!(absent.read(&NONE, soon(), &mut |_| true), Err(JournalError::Start(_))));
    }

    /// Waits until a process is gone.
    fn gone(pid: &str) {
        let end = soon();
        while Path::new("/proc").join(pid).exists() {
            assert!(Instant::now() < end, "{pid} is still there");
            thread::yield_now();
        }
    }

    #[test]
    fn one_that_hangs_or_never_ends_is_ended() {
        for script in ["echo $$; exec tail -f /dev/null", "echo $$; exec yes"] {
            let (mut pid, until) = (None, Instant::now() + Duration::from_millis(200));
            let late = fake(script).read(&NONE, until, &mut |line| {
                pid.get_or_insert_with(|| String::from_utf8(line.bytes).unwrap());
                true
            });
            assert!(matches!(late, Err(JournalError::Late)), "{late:?}");
            gone(&pid.unwrap());
        }
        // Whoever has enough does not wait.
        let mut pid = String::new();
        let enough = fake("echo $$; exec yes").read(&NONE, soon(), &mut |line| {
            pid = String::from_utf8(line.bytes).unwrap();
            false
        });
        enough.unwrap();
        gone(&pid);
    }
}
