//! libunftp's replies on the loopback, without I/O.

/// A whole reply of one or more lines (RFC 959 section 4.2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// The three digits.
    pub code: u16,
    /// All lines as they came, with their line ends.
    pub text: String,
}

impl Reply {
    /// The lines with another code in place of the present one.
    pub fn with_code(&self, code: u16) -> String {
        let old = format!("{:03}", self.code);
        let line = |l: &str| l.strip_prefix(&old).map_or_else(|| l.to_owned(), |rest| format!("{code:03}{rest}"));
        self.text.split_inclusive('\n').map(line).collect()
    }
}

/// What came was not a reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadReply {
    /// A first line without three digits.
    #[error("a reply that begins with no code")]
    NoCode,
    /// More than [`MAX_REPLY`] bytes.
    #[error("a reply of more than {MAX_REPLY} bytes")]
    TooLong,
}

/// Longest reply, in bytes. A STAT of a directory is the longest that libunftp gives.
pub const MAX_REPLY: usize = 16 << 20;

/// Collects lines until a reply is whole.
#[derive(Debug, Default)]
pub struct ReplyParser {
    text: String,
    code: Option<u16>,
}

impl ReplyParser {
    /// Takes one line with its line end; gives the reply when this was its last.
    ///
    /// # Errors
    /// [`BadReply`], after which nothing sensible can be expected from that connection.
    pub fn line(&mut self, line: &str) -> Result<Option<Reply>, BadReply> {
        if self.text.len() + line.len() > MAX_REPLY {
            return Err(BadReply::TooLong);
        }
        let digits = line.get(..3).filter(|d| d.bytes().all(|b| b.is_ascii_digit())).and_then(|d| d.parse().ok());
        let code = match (self.code, digits) {
            (Some(code), _) => code,
            (None, Some(code)) => code,
            (None, None) => return Err(BadReply::NoCode),
        };
        self.code = Some(code);
        self.text.push_str(line);
        if digits == Some(code) && line.as_bytes().get(3) != Some(&b'-') {
            self.code = None;
            return Ok(Some(Reply { code, text: std::mem::take(&mut self.text) }));
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(text: &str) -> Vec<Result<Reply, BadReply>> {
        let mut parser = ReplyParser::default();
        text.split_inclusive('\n').filter_map(|l| parser.line(l).transpose()).collect()
    }

    #[test]
    fn replies_of_one_and_more_lines() {
        let rows = [
            ("220 Hi\r\n", vec![(220, "220 Hi\r\n")]),
            ("220\r\n", vec![(220, "220\r\n")]),
            ("250- Listing\r\n size=3; a\r\n250 End\r\n", vec![(250, "250- Listing\r\n size=3; a\r\n250 End\r\n")]),
            (
                "213-x\r\n211 not the end\r\n213-nor this\r\n213 End\r\n",
                vec![(213, "213-x\r\n211 not the end\r\n213-nor this\r\n213 End\r\n")],
            ),
            ("200 a\r\n550 b\r\n", vec![(200, "200 a\r\n"), (550, "550 b\r\n")]),
            ("200-\r\nß\r\n200 End\r\n", vec![(200, "200-\r\nß\r\n200 End\r\n")]),
        ];
        for (text, replies) in rows {
            let want: Vec<_> = replies.into_iter().map(|(code, t)| Ok(Reply { code, text: t.into() })).collect();
            assert_eq!(all(text), want, "{text:?}");
        }
    }

    #[test]
    fn no_code_is_an_error() {
        for text in ["\r\n", "hello\r\n", "2x0 a\r\n", "2ß0\r\n"] {
            assert_eq!(all(text), vec![Err(BadReply::NoCode)], "{text:?}");
        }
    }

    #[test]
    fn the_longest_reply_and_one_byte_more() {
        for (excess, refused) in [(0, false), (1, true)] {
            let mut parser = ReplyParser::default();
            assert_eq!(parser.line("200-\r\n"), Ok(None));
            assert_eq!(parser.line(&"a".repeat(MAX_REPLY - 6 + excess)).is_err(), refused);
        }
    }

    #[test]
    fn a_code_is_replaced_on_its_own_lines_only() {
        let reply = Reply { code: 200, text: "200-a\r\n 200 b\r\n200 End\r\n".into() };
        assert_eq!(reply.with_code(213), "213-a\r\n 200 b\r\n213 End\r\n");
    }
}
