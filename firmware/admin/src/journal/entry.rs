//! What journalctl prints of an entry (`--output=json`).

use daemon::log::recorded;
use serde::de::{self, Deserialize, Deserializer, SeqAccess, Visitor};
use std::fmt;
use tobj::{Cursor, LogEntry, Priority, Text};

/// What is asked for; place and time come by themselves.
pub(crate) const FIELDS: &str = "MESSAGE,PRIORITY,_SYSTEMD_UNIT,UNIT,SYSLOG_IDENTIFIER,_TRANSPORT";
/// How entries of the kernel are marked.
pub(crate) const OF_KERNEL: &str = "_TRANSPORT=kernel";
/// How the kernel is called, where others have a unit.
pub(crate) const KERNEL: &str = "kernel";

/// Under which systemd itself runs.
const MANAGER: &[u8] = b"init.scope";
/// What is said of a text that journalctl has left out.
const LEFT_OUT: &str = "(too long to be shown)";

/// A field: text, its bytes where it is not printable, a list of either where the entry has it several times, nothing where it is too
/// long.
#[derive(Debug, Default, PartialEq, Eq)]
enum Field {
    #[default]
    Absent,
    LeftOut,
    /// Of a list.
    Byte(u8),
    Bytes(Vec<u8>),
}

impl Field {
    fn bytes(&self) -> Option<&[u8]> {
        match self {
            Self::Bytes(bytes) => Some(bytes),
            _ => None,
        }
    }
}

impl<'de> Deserialize<'de> for Field {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(AnyField)
    }
}

struct AnyField;

impl<'de> Visitor<'de> for AnyField {
    type Value = Field;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a field of the journal")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Field, E> {
        Ok(Field::Bytes(text.as_bytes().to_vec()))
    }

    fn visit_unit<E: de::Error>(self) -> Result<Field, E> {
        Ok(Field::LeftOut)
    }

    fn visit_u64<E: de::Error>(self, n: u64) -> Result<Field, E> {
        u8::try_from(n).map(Field::Byte).map_err(E::custom)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Field, A::Error> {
        let (mut bytes, mut first) = (Vec::new(), None);
        while let Some(part) = list.next_element()? {
            match part {
                Field::Byte(byte) => bytes.push(byte),
                // Of several values one is told.
                part => {
                    first.get_or_insert(part);
                }
            }
        }
        Ok(first.unwrap_or(Field::Bytes(bytes)))
    }
}

#[derive(Debug, serde::Deserialize)]
struct Printed {
    #[serde(rename = "__CURSOR")]
    cursor: String,
    #[serde(rename = "__REALTIME_TIMESTAMP")]
    at: String,
    #[serde(rename = "MESSAGE", default)]
    message: Field,
    #[serde(rename = "PRIORITY", default)]
    priority: Field,
    #[serde(rename = "_SYSTEMD_UNIT", default)]
    unit: Field,
    #[serde(rename = "UNIT", default)]
    about: Field,
    #[serde(rename = "SYSLOG_IDENTIFIER", default)]
    identifier: Field,
    #[serde(rename = "_TRANSPORT", default)]
    transport: Field,
}

impl Printed {
    /// Whose entry it is: what systemd says of a unit belongs to that.
    fn whose(&self) -> &[u8] {
        let unit = match self.unit.bytes() {
            _ if self.transport.bytes() == Some(KERNEL.as_bytes()) => Some(KERNEL.as_bytes()),
            Some(MANAGER) => self.about.bytes().or(Some(MANAGER)),
            unit => unit.or(self.identifier.bytes()),
        };
        unit.unwrap_or(b"-")
    }
}

/// An entry with its place; `None` for a line that is none.
pub(crate) fn parse(line: &[u8]) -> Option<(Cursor, LogEntry)> {
    let printed: Printed = serde_json::from_slice(line).ok()?;
    let cursor = Cursor::new(&printed.cursor).ok()?;
    let at = printed.at.parse().ok()?;
    // journald gives one to what has none, others need not.
    let number = printed.priority.bytes().and_then(|n| str::from_utf8(n).ok()?.parse::<usize>().ok());
    let priority = number.and_then(|n| Priority::ALL.get(n)).copied().unwrap_or(Priority::Info);
    let unit = Text::lossy(recorded(&clean(printed.whose())));
    let text = match &printed.message {
        Field::LeftOut => Text::lossy(LEFT_OUT),
        message => cut(&clean(message.bytes().unwrap_or_default())),
    };
    Some((cursor, LogEntry { at, unit, priority, text }))
}

/// Text of bytes that strangers may have had a hand in: in one line, and in the direction in which the rest of it is written.
fn clean(bytes: &[u8]) -> String {
    let shows = |c: char| !c.is_control() && !matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    let text = String::from_utf8_lossy(bytes);
    text.trim_end().chars().map(|c| if shows(c) { c } else { ' ' }).collect()
}

/// As much as a text may have; one that is not all of it says so.
fn cut(text: &str) -> Text {
    const MARK: char = '…';
    if text.len() <= Text::MAX {
        return Text::lossy(text);
    }
    let end = (0..=Text::MAX - MARK.len_utf8()).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
    Text::lossy(&format!("{}{MARK}", &text[..end]))
}

/// Whether this is a place in a journal (sd_journal_get_cursor(3)): which journal, the number in it, and what finds the place without.
pub(crate) fn is_place(cursor: &Cursor) -> bool {
    let hex = |value: &str, lengths: std::ops::RangeInclusive<usize>| {
        lengths.contains(&value.len()) && value.bytes().all(|b| b.is_ascii_hexdigit())
    };
    let parts: Option<Vec<_>> = cursor.as_str().split(';').map(|part| part.split_once('=')).collect();
    parts.is_some_and(|parts| {
        let well = |(key, value): &(&str, &str)| match *key {
            "s" | "b" => hex(value, 32..=32),
            "i" | "m" | "t" | "x" => hex(value, 1..=16),
            _ => false,
        };
        parts.iter().all(well) && ["s", "i"].iter().all(|key| parts.iter().any(|part| part.0 == *key))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use Priority::{Alert, Error, Info};

    /// As systemd 257 prints it; fields come in any order.
    fn printed(fields: &str) -> String {
        format!(
            "{{\"__MONOTONIC_TIMESTAMP\":\"5\",\"__SEQNUM\":\"2\",\"_BOOT_ID\":\"11111111111111111111111111111111\",{fields}\
             \"__CURSOR\":\"s=56933b8a005a4977b109cdb12369aefb;i=2;b=11111111111111111111111111111111;m=f4245;\
             t=65bfeda352240;x=b9e22a5987eaa6cf\",\"__REALTIME_TIMESTAMP\":\"1790000001000000\"}}"
        )
    }

    fn read(fields: &str) -> (String, Priority, String) {
        let (cursor, entry) = parse(printed(fields).as_bytes()).unwrap_or_else(|| panic!("{fields}"));
        assert!(cursor.as_str().starts_with("s=56933b8a005a4977b109cdb12369aefb;i=2;") && is_place(&cursor));
        assert_eq!(entry.at, 1_790_000_001_000_000);
        (entry.unit.to_string(), entry.priority, entry.text.to_string())
    }

    fn text(message: &str) -> String {
        read(&format!("\"MESSAGE\":{message},")).2
    }

    fn is(unit: &str, priority: Priority, text: &str) -> (String, Priority, String) {
        (unit.into(), priority, text.into())
    }

    #[test]
    fn whose_they_are_and_how_urgent() {
        let of_daemon = r#""PRIORITY":"1","_SYSTEMD_UNIT":"admind.service","MESSAGE":"it broke","SYSLOG_IDENTIFIER":"admind","_TRANSPORT":"stdout","#;
        assert_eq!(read(of_daemon), is("admind.service", Alert, "it broke"));
        let of_kernel = r#""PRIORITY":"3","_TRANSPORT":"kernel","SYSLOG_IDENTIFIER":"kernel","MESSAGE":"sda: broken","#;
        assert_eq!(read(of_kernel), is("kernel", Error, "sda: broken"));
        let about = r#""_SYSTEMD_UNIT":"init.scope","UNIT":"ftpd.service","PRIORITY":"6","MESSAGE":"Started","#;
        assert_eq!(read(about), is("ftpd.service", Info, "Started"));
        // Only systemd speaks for others.
        let forged = r#""_SYSTEMD_UNIT":"ftpd.service","UNIT":"masterd.service","MESSAGE":"x","#;
        assert_eq!(read(forged), is("ftpd.service", Info, "x"));
        assert_eq!(read(r#""_SYSTEMD_UNIT":"init.scope","MESSAGE":"x","#).0, "init.scope");
        assert_eq!(read(r#""SYSLOG_IDENTIFIER":"mdadm","MESSAGE":"x","#).0, "mdadm");
        assert_eq!(read(""), is("-", Info, ""));
        for priority in ["\"8\"", "\"-1\"", "\"x\"", "null", "\"\"", "[51]"] {
            let expected = if priority == "[51]" { Error } else { Info };
            assert_eq!(read(&format!("\"PRIORITY\":{priority},")).1, expected, "{priority}");
        }
        let long = read(&format!("\"_SYSTEMD_UNIT\":\"{}\",", "u".repeat(1000))).0;
        assert_eq!(long.len(), daemon::log::RECORDED);
    }

    #[test]
    fn texts_of_all_forms() {
        assert_eq!(text(r#""multi\nline ü \"q\" \\""#), "multi line ü \"q\" \\");
        assert_eq!(text("[97,255,98,27,91,51,49,109,99,10]"), "a\u{fffd}b [31mc", "bytes");
        assert_eq!(text("null"), LEFT_OUT);
        assert_eq!(text(r#"["one","two"]"#), "one", "several");
        assert_eq!(text(r#"[[1,116,119,111],"two",[3]]"#), " two");
        assert_eq!(text("[null,\"x\"]"), LEFT_OUT);
        assert_eq!((text("\"\""), text("[]")), (String::new(), String::new()));
        // What strangers type is in some lines; it neither moves the cursor of a terminal nor turns the line around.
        assert_eq!(text(r#""user=\u001b[2J\u202egpj.exe\u2066\u0000\u0085x\ufeff""#), "user= [2J gpj.exe   x\u{feff}");
    }

    #[test]
    fn long_texts_are_cut_and_say_so() {
        let of = |n: usize| text(&format!("\"{}\"", "x".repeat(n)));
        assert_eq!(of(Text::MAX), "x".repeat(Text::MAX));
        for n in [Text::MAX + 1, 48 << 10] {
            let cut = of(n);
            assert!(cut.len() == Text::MAX && cut.ends_with("x…"), "{n}: {}", cut.len());
        }
        let wide = text(&format!("\"{}\"", "ü".repeat(48 << 9)));
        assert!(wide.len() <= Text::MAX && wide.ends_with("ü…"), "{}", wide.len());
        let bytes = text(&format!("[{}255]", "255,".repeat((48 << 10) - 1)));
        assert!(bytes.len() <= Text::MAX && bytes.ends_with("\u{fffd}…"), "{}", bytes.len());
    }

    #[test]
    fn what_is_no_entry() {
        let line = printed("");
        for bad in [
            "",
            "-- No entries --",
            "{}",
            "[]",
            "null",
            &line[..line.len() - 1],
            &line.replace("__CURSOR", "CURSOR"),
            &line.replace("s=5", "--flush "),
            &line.replace("1790000001000000", "noon"),
            &printed("\"MESSAGE\":[256],"),
            &printed("\"MESSAGE\":{},"),
            &printed(&format!("\"MESSAGE\":{},", "[".repeat(100_000))),
        ] {
            assert_eq!(parse(bad.as_bytes()), None, "{}", &bad[..bad.len().min(100)]);
        }
    }

    #[test]
    fn places() {
        let is = |s: &str| Cursor::new(s).is_ok_and(|c| is_place(&c));
        let (id, other) = ("56933b8a005a4977b109cdb12369aefb", "1".repeat(32));
        assert!(is(&format!("s={id};i=2;b={other};m=f4245;t=65bfeda352240;x=b9e22a5987eaa6cf")));
        assert!(is(&format!("s={id};i=FFFFFFFFFFFFFFFF")));
        for bad in [
            "--flush".to_owned(),
            "foo".to_owned(),
            format!("s={id}"),
            "i=2;t=65bfeda352240".to_owned(),
            format!("s={id}0;i=2"),
            "s=1;i=2".to_owned(),
            format!("s={id};i="),
            format!("s={id};i=11111111111111111"),
            format!("s={id};i=2;"),
            format!(";s={id};i=2"),
            format!("s={id};i=2;q=1"),
            format!("s={id};i=2=3"),
            format!("s={id};i=xyz"),
            format!("s={id};i=2;b=--flush"),
        ] {
            assert!(!is(&bad), "{bad}");
        }
    }
}
