//! The screen (the first virtual terminal, which systemd opens for us as standard output) and the serial line.
//!
//! Neither may hold us up: both are written without waiting, and what does not fit now is shown another time. A machine may have
//! neither.

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::termios::{InputFlags, LocalFlags, SetArg, tcgetattr, tcsetattr};
use nix::unistd::write;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;

/// Which terminals the kernel writes its messages to; the serial line is ours only where it is one of them.
const CONSOLES: &str = "/sys/class/tty/console/active";

/// The screen.
#[derive(Debug)]
pub(super) struct Screen {
    there: bool,
}

impl Screen {
    /// Standard output, if it is a terminal.
    pub(super) fn on_standard_output() -> Self {
        let stdout = io::stdout();
        let there = io::IsTerminal::is_terminal(&stdout);
        if there {
            deafen(stdout.as_fd());
        }
        Self { there }
    }

    /// Draws it anew.
    pub(super) fn draw(&mut self, lines: &[String]) {
        if self.there {
            // Cursor home, all cleared, also what has scrolled away.
            let text = format!("\x1b[H\x1b[2J\x1b[3J{}\r\n", lines.join("\r\n"));
            self.there = put(io::stdout().as_fd(), &text);
        }
    }
}

/// The serial line.
#[derive(Debug)]
pub(super) struct Serial(Option<File>);

impl Serial {
    /// The one that the kernel writes to, if there is one.
    pub(super) fn open() -> Self {
        let active = fs::read_to_string(CONSOLES).unwrap_or_default();
        let Some(name) = serial(&active) else { return Self(None) };
        let flags = OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
        let opened = OpenOptions::new().write(true).custom_flags(flags.bits()).open(format!("/dev/{name}"));
        match opened {
            Ok(file) => {
                deafen(file.as_fd());
                Self(Some(file))
            }
            Err(error) => {
                tracing::info!(name, %error, "nothing is shown on the serial line");
                Self(None)
            }
        }
    }

    /// Adds lines. Whoever follows the line sees where they begin and end.
    pub(super) fn tell(&mut self, lines: &[String]) {
        let Some(file) = &self.0 else { return };
        let rule = "-".repeat(super::screen::WIDTH);
        // The cursor may be within a line of somebody else.
        if !put(file.as_fd(), &format!("\r\n{rule}\r\n{}\r\n{rule}\r\n", lines.join("\r\n"))) {
            self.0 = None;
        }
    }
}

/// The serial line among the kernel's consoles.
fn serial(active: &str) -> Option<&str> {
    let named = |name: &&str| name.strip_prefix("ttyS").is_some_and(|n| n.bytes().all(|b| b.is_ascii_digit()));
    active.split_whitespace().find(named)
}

/// Keys that are pressed do nothing: no echo into the picture, no signal, and nothing stops what is written.
fn deafen(terminal: BorrowedFd<'_>) {
    let deaf = || {
        let mut settings = tcgetattr(terminal)?;
        settings.local_flags &= !(LocalFlags::ECHO | LocalFlags::ICANON | LocalFlags::ISIG);
        settings.input_flags &= !InputFlags::IXON;
        tcsetattr(terminal, SetArg::TCSANOW, &settings)?;
        let flags = OFlag::from_bits_retain(fcntl(terminal, FcntlArg::F_GETFL)?);
        fcntl(terminal, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))
    };
    if let Err(error) = deaf() {
        tracing::debug!(%error, "a terminal keeps its settings");
    }
}

/// Writes without waiting; whether the terminal is one that can be written to at all.
fn put(terminal: BorrowedFd<'_>, text: &str) -> bool {
    let mut rest = text.as_bytes();
    while !rest.is_empty() {
        match write(terminal, rest) {
            Ok(0) => break,
            Ok(n) => rest = &rest[n..],
            Err(nix::errno::Errno::EINTR) => {}
            // Nobody takes it at the moment.
            Err(nix::errno::Errno::EAGAIN) => break,
            // A port without hardware.
            Err(_) => return false,
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::os::unix::net::UnixStream;

    #[test]
    fn which_line_is_the_serial_one() {
        assert_eq!(serial("tty0 ttyS0\n"), Some("ttyS0"));
        assert_eq!(serial("ttyS1"), Some("ttyS1"));
        assert_eq!(serial("tty0"), None);
        assert_eq!(serial("ttyS0/../sda"), None);
    }

    #[test]
    fn nobody_who_does_not_read_holds_us_up() {
        let (ours, mut its) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let text = "x".repeat(1 << 20);
        assert!(put(ours.as_fd(), &text), "it comes back");
        drop(ours);
        let mut got = Vec::new();
        its.read_to_end(&mut got).unwrap();
        assert!(!got.is_empty() && got.len() < text.len(), "{} bytes", got.len());
    }

    #[test]
    fn what_cannot_be_written_to_is_left_alone() {
        let (ours, its) = UnixStream::pair().unwrap();
        drop(its);
        assert!(!put(ours.as_fd(), "x"));
    }
}
