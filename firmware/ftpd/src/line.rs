//! The control connection's lines, without I/O: bytes come in, commands go out.
//!
//! A line ends with LF; a CR before it is dropped (RFC 959 asks for CR LF, some clients send LF alone). Telnet commands inside a
//! line (RFC 854, which RFC 959 section 3.1 refers to) are removed: clients send IP and Synch before ABOR.

use std::fmt;

/// Longest command that is obeyed, in bytes with its line end. Two paths of 4,096 bytes never occur in one command.
pub const MAX_LINE: usize = 4096 + 16;

/// Bytes without a line end after which the connection is cut.
pub const MAX_ENDLESS: usize = 64 << 10;

/// Telnet's "interpret as command".
const IAC: u8 = 255;

/// One line from the client.
#[derive(Clone, PartialEq, Eq)]
pub enum Line {
    /// A command.
    Command {
        /// What is wanted, in upper case.
        verb: String,
        /// What follows the first space, unchanged: spaces belong to names (RFC 3659 section 2.2).
        argument: String,
    },
    /// More than [`MAX_LINE`] bytes: answered by 500, the session lives on.
    TooLong,
    /// Not UTF-8, or with control characters: answered by 501, the session lives on.
    NotText,
}

impl fmt::Debug for Line {
    /// Without the argument, which may be a password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Command { verb, .. } => write!(f, "Command({verb})"),
            Self::TooLong => f.write_str("TooLong"),
            Self::NotText => f.write_str("NotText"),
        }
    }
}

/// The client sent [`MAX_ENDLESS`] bytes and no line end among them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no line end in {MAX_ENDLESS} bytes")]
pub struct Endless;

/// What has come in and is not a line yet.
#[derive(Default)]
pub struct LineBuffer {
    bytes: Vec<u8>,
    /// Bytes at the front of `bytes` that are known to hold no line end.
    scanned: usize,
    /// Bytes of an overlong line that were thrown away.
    skipped: usize,
}

impl LineBuffer {
    /// Appends what was read from the connection.
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// The next line, if a whole one is there.
    ///
    /// # Errors
    /// [`Endless`] when the connection should be cut.
    pub fn next_line(&mut self) -> Result<Option<Line>, Endless> {
        if let Some(end) = self.bytes[self.scanned..].iter().position(|b| *b == b'\n') {
            let line: Vec<u8> = self.bytes.drain(..=self.scanned + end).collect();
            self.scanned = 0;
            let length = std::mem::take(&mut self.skipped) + line.len();
            return Ok(Some(if length > MAX_LINE { Line::TooLong } else { parse(&line) }));
        }
        self.scanned = self.bytes.len();
        if self.bytes.len() > MAX_LINE {
            self.skipped += self.bytes.len();
            self.bytes.clear();
            self.scanned = 0;
        }
        if self.skipped + self.bytes.len() > MAX_ENDLESS { Err(Endless) } else { Ok(None) }
    }

    /// Forgets what came in: commands sent in clear behind AUTH TLS are not obeyed within TLS (CVE-2011-1575).
    pub fn clear(&mut self) {
        *self = Self::default();
    }
}

fn parse(line: &[u8]) -> Line {
    let mut text = without_telnet(line);
    while text.last().is_some_and(|b| matches!(b, b'\r' | b'\n')) {
        text.pop();
    }
    match String::from_utf8(text) {
        Ok(text) if !text.contains(char::is_control) => {
            let (verb, argument) = text.split_once(' ').unwrap_or((&text, ""));
            Line::Command { verb: verb.to_ascii_uppercase(), argument: argument.to_owned() }
        }
        _ => Line::NotText,
    }
}

fn without_telnet(line: &[u8]) -> Vec<u8> {
    let mut text = Vec::with_capacity(line.len());
    let mut rest = line;
    loop {
        rest = match rest {
            [] => return text,
            [IAC, IAC, rest @ ..] => {
                text.push(IAC);
                rest
            }
            // WILL, WONT, DO and DONT have an option behind them
            [IAC, 251..=254, _, rest @ ..] | [IAC, _, rest @ ..] | [IAC, rest @ ..] => rest,
            [byte, rest @ ..] => {
                text.push(*byte);
                rest
            }
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn command(verb: &str, argument: &str) -> Line {
        Line::Command { verb: verb.into(), argument: argument.into() }
    }

    fn one(bytes: &[u8]) -> Line {
        let mut buffer = LineBuffer::default();
        buffer.push(bytes);
        buffer.next_line().unwrap().unwrap()
    }

    #[test]
    fn lines_of_every_kind() {
        let rows: &[(&[u8], Line)] = &[
            (b"NOOP\r\n", command("NOOP", "")),
            (b"noop\n", command("NOOP", "")),
            (b"\r\n", command("", "")),
            (b"RETR a b \r\n", command("RETR", "a b ")),
            (b"RETR  a\r\n", command("RETR", " a")),
            ("CWD Zürich\r\n".as_bytes(), command("CWD", "Zürich")),
            (b"\xff\xf4\xff\xf2ABOR\r\n", command("ABOR", "")),
            (b"\xff\xfb\x01NOOP\r\n", command("NOOP", "")),
            (b"RETR \xff\xff\r\n", Line::NotText),
            (b"RETR \xe4\r\n", Line::NotText),
            (b"RETR a\0b\r\n", Line::NotText),
            (b"RETR a\rb\r\n", Line::NotText),
            // an IAC takes what follows it, also the line end, which has done its work by then
            (b"NOOP\xff\n", command("NOOP", "")),
        ];
        for (bytes, line) in rows {
            assert_eq!(&one(bytes), line, "{bytes:?}");
        }
    }

    #[test]
    fn the_longest_line_and_one_byte_more() {
        for (excess, too_long) in [(0, false), (1, true)] {
            let mut line = vec![b'a'; MAX_LINE - 1 + excess];
            line.push(b'\n');
            assert_eq!(one(&line) == Line::TooLong, too_long);
        }
    }

    #[test]
    fn an_overlong_line_costs_no_memory_and_the_next_one_is_obeyed() {
        let mut buffer = LineBuffer::default();
        for _ in 0..20 {
            buffer.push(&[b'a'; 512]);
            assert_eq!(buffer.next_line(), Ok(None));
            assert!(buffer.bytes.len() <= MAX_LINE + 512);
        }
        buffer.push(b"\nNOOP\r\n");
        assert_eq!(buffer.next_line(), Ok(Some(Line::TooLong)));
        assert_eq!(buffer.next_line(), Ok(Some(command("NOOP", ""))));
    }

    #[test]
    fn an_endless_line_is_cut_at_its_limit() {
        let mut buffer = LineBuffer::default();
        buffer.push(&vec![b'a'; MAX_ENDLESS]);
        assert_eq!(buffer.next_line(), Ok(None));
        buffer.push(b"a");
        assert_eq!(buffer.next_line(), Err(Endless));
    }

    #[test]
    fn clear_forgets_half_a_line() {
        let mut buffer = LineBuffer::default();
        buffer.push(b"USER evil");
        assert_eq!(buffer.next_line(), Ok(None));
        buffer.clear();
        buffer.push(b"NOOP\r\n");
        assert_eq!(buffer.next_line(), Ok(Some(command("NOOP", ""))));
    }

    #[test]
    fn debug_shows_no_password() {
        assert_eq!(format!("{:?}", command("PASS", "hunter2")), "Command(PASS)");
    }

    proptest! {
        /// However the bytes are cut into reads, the lines are the same.
        #[test]
        fn any_split_gives_the_same_lines(bytes in proptest::collection::vec(prop_oneof![Just(b'\n'), any::<u8>()], 0..600), cuts in proptest::collection::vec(1usize..40, 1..40)) {
            let all = |chunks: &mut dyn Iterator<Item = &[u8]>| {
                let mut buffer = LineBuffer::default();
                let mut lines = Vec::new();
                for chunk in chunks {
                    buffer.push(chunk);
                    while let Some(line) = buffer.next_line().unwrap() {
                        lines.push(line);
                    }
                }
                lines
            };
            let whole = all(&mut std::iter::once(&bytes[..]));
            let mut pieces = Vec::new();
            let mut rest = &bytes[..];
            for cut in cuts.iter().cycle() {
                if rest.is_empty() { break; }
                let (piece, after) = rest.split_at((*cut).min(rest.len()));
                pieces.push(piece);
                rest = after;
            }
            prop_assert_eq!(whole, all(&mut pieces.into_iter()));
        }
    }
}
