//! The types of a field's text, each with its rules.

use crate::Invalid;
use std::fmt;
use unicode_normalization::{UnicodeNormalization, is_nfc};
use zeroize::{Zeroize, ZeroizeOnDrop};

fn bad(what: &'static str, why: &'static str) -> Invalid {
    Invalid::Value { what, why }
}

macro_rules! string_value {
    ($type:ident) => {
        impl $type {
            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }
        impl std::str::FromStr for $type {
            type Err = Invalid;
            fn from_str(s: &str) -> Result<Self, Invalid> {
                Self::new(s)
            }
        }
        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
        impl AsRef<str> for $type {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }
    };
}

/// Free text: at most [`Text::MAX`] bytes, no control characters. What somebody typed, not yet checked for what it names.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Text(String);
string_value!(Text);

impl Text {
    /// Longest text in bytes.
    pub const MAX: usize = 4096;

    /// # Errors
    /// [`Invalid::Value`] for text that is too long or holds control characters.
    pub fn new(s: &str) -> Result<Self, Invalid> {
        if s.len() > Self::MAX {
            return Err(bad("text", "longer than 4096 bytes"));
        }
        if s.contains(|c: char| c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}')) {
            return Err(bad("text", "holds a control character"));
        }
        Ok(Self(s.to_owned()))
    }

    /// Text from what is our own but may hold anything, such as a message of the system: cut and cleaned.
    pub fn lossy(s: &str) -> Self {
        let clean = s.chars().map(|c| if c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}') { ' ' } else { c });
        let mut out = String::new();
        for c in clean {
            if out.len() + c.len_utf8() > Self::MAX {
                break;
            }
            out.push(c);
        }
        Self(out)
    }
}

/// The name of a customer, product, version or appliance: 1 to [`Name::MAX`] of `A-Z a-z 0-9 . _ @ + -`, not starting with `.` or `-`.
///
/// It is safe as a component of a path.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name(String);
string_value!(Name);

impl Name {
    /// Longest name in bytes.
    pub const MAX: usize = 64;

    /// # Errors
    /// [`Invalid::Value`] with the rule that was broken.
    pub fn new(s: &str) -> Result<Self, Invalid> {
        if s.is_empty() || s.len() > Self::MAX {
            return Err(bad("name", "must have 1 to 64 characters"));
        }
        if s.starts_with(['.', '-']) {
            return Err(bad("name", "must not start with a dot or a dash"));
        }
        if !s.chars().all(|c| c.is_ascii_alphanumeric() || "._@+-".contains(c)) {
            return Err(bad("name", "may hold only A-Z a-z 0-9 . _ @ + -"));
        }
        Ok(Self(s.to_owned()))
    }
}

/// The name of a file: one component of a path.
///
/// The one rule, for whoever makes such a name and whoever reads one:
/// - 1 to [`FileName::MAX`] bytes of UTF-8 in Unicode's normal form C, so that what looks the same is the same;
/// - no separator (`/`, `\`), and neither `.` nor `..`;
/// - no control character, no line or paragraph separator, no noncharacter, and none of the marks that turn the direction of
///   writing around (U+202A to U+202E, U+2066 to U+2069), with which a name can show another ending than it has;
/// - no white space at either end, where listings and clients lose it. Within, spaces are fine.
///
/// Upper and lower case are different. What a person typed goes through [`FileName::normalised`].
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FileName(String);
string_value!(FileName);

impl FileName {
    /// Longest name in bytes; `NAME_MAX` of Linux.
    pub const MAX: usize = 255;

    /// # Errors
    /// [`Invalid::Value`] with the rule that was broken.
    pub fn new(s: &str) -> Result<Self, Invalid> {
        if s.is_empty() || s.len() > Self::MAX {
            return Err(bad("file name", "must have 1 to 255 bytes"));
        }
        if s == "." || s == ".." || s.contains(['/', '\\']) {
            return Err(bad("file name", "must be a plain name, not a path"));
        }
        if s.contains(|c: char| c.is_control() || Self::HIDDEN.contains(&c)) {
            return Err(bad("file name", "holds a control character"));
        }
        if s.starts_with(char::is_whitespace) || s.ends_with(char::is_whitespace) {
            return Err(bad("file name", "must not begin or end with white space"));
        }
        if !is_nfc(s) {
            return Err(bad("file name", "is not in Unicode's normal form C"));
        }
        Ok(Self(s.to_owned()))
    }

    /// The name that somebody means who may have typed it in another normal form, as the file systems of some machines keep it.
    ///
    /// # Errors
    /// As [`FileName::new`], for what normalising does not mend.
    pub fn normalised(s: &str) -> Result<Self, Invalid> {
        // Long texts are refused before work is done for them: normalising makes a name at most three times as long, or shorter.
        if s.len() > 4 * Self::MAX {
            return Err(bad("file name", "must have 1 to 255 bytes"));
        }
        Self::new(&s.nfc().collect::<String>())
    }

    /// Characters beside control characters that do not show, but change how a name reads or where it ends.
    const HIDDEN: [char; 13] = [
        '\u{2028}', '\u{2029}', '\u{202a}', '\u{202b}', '\u{202c}', '\u{202d}', '\u{202e}', '\u{2066}', '\u{2067}',
        '\u{2068}', '\u{2069}', '\u{fffe}', '\u{ffff}',
    ];
}

/// A place in a list, as whoever keeps the list names it: 1 to [`Cursor::MAX`] of `A-Z a-z 0-9 = ; . _ -`, not starting with `-`.
///
/// It says nothing to others, who only give it back.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Cursor(String);
string_value!(Cursor);

impl Cursor {
    /// Longest cursor in bytes.
    pub const MAX: usize = 256;

    /// # Errors
    /// [`Invalid::Value`] with the rule that was broken.
    pub fn new(s: &str) -> Result<Self, Invalid> {
        if s.is_empty() || s.len() > Self::MAX {
            return Err(bad("cursor", "must have 1 to 256 characters"));
        }
        if s.starts_with('-') {
            return Err(bad("cursor", "must not start with a dash"));
        }
        if !s.chars().all(|c| c.is_ascii_alphanumeric() || "=;._-".contains(c)) {
            return Err(bad("cursor", "may hold only A-Z a-z 0-9 = ; . _ -"));
        }
        Ok(Self(s.to_owned()))
    }
}

/// A password, token or other secret: at most [`Secret::MAX`] bytes without control characters; never shown, zeroed after use.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct Secret(String);

impl Secret {
    /// Longest secret in bytes.
    pub const MAX: usize = 4096;

    /// # Errors
    /// [`Invalid::Value`] for what is too long or holds control characters.
    pub fn new(s: &str) -> Result<Self, Invalid> {
        if s.len() > Self::MAX {
            return Err(bad("secret", "longer than 4096 bytes"));
        }
        if s.contains(|c: char| c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}')) {
            return Err(bad("secret", "holds a control character"));
        }
        Ok(Self(s.to_owned()))
    }

    /// 128 random bits as 32 hex digits.
    ///
    /// # Errors
    /// When the system has no randomness to give.
    pub fn random() -> Result<Self, getrandom::Error> {
        let mut bytes = [0u8; 16];
        getrandom::fill(&mut bytes)?;
        let text = hex::encode(bytes);
        bytes.zeroize();
        Ok(Self(text))
    }

    /// The secret itself, where it has to be used.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        use subtle::ConstantTimeEq;
        self.0.as_bytes().ct_eq(other.0.as_bytes()).into()
    }
}
impl Eq for Secret {}

macro_rules! bytes_value {
    ($type:ident, $n:literal, $what:literal) => {
        impl $type {
            /// The bytes.
            pub fn as_bytes(&self) -> &[u8; $n] {
                &self.0
            }
        }
        impl std::str::FromStr for $type {
            type Err = Invalid;
            fn from_str(s: &str) -> Result<Self, Invalid> {
                let mut bytes = [0u8; $n];
                if s.contains(|c: char| c.is_ascii_uppercase()) || hex::decode_to_slice(s, &mut bytes).is_err() {
                    return Err(bad($what, "is not lower-case hex of the right length"));
                }
                Ok(Self(bytes))
            }
        }
        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&hex::encode(self.0))
            }
        }
        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{self}")
            }
        }
        impl From<[u8; $n]> for $type {
            fn from(bytes: [u8; $n]) -> Self {
                Self(bytes)
            }
        }
    };
}

/// 128 random bits that name a transaction, a lease or a grant; 32 hex digits as text.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Id([u8; 16]);
bytes_value!(Id, 16, "id");

impl Id {
    /// A new one.
    ///
    /// # Errors
    /// When the system has no randomness to give.
    pub fn random() -> Result<Self, getrandom::Error> {
        let mut bytes = [0u8; 16];
        getrandom::fill(&mut bytes)?;
        Ok(Self(bytes))
    }
}

/// The SHA-256 of an object's bytes; 64 hex digits as text.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Sha256([u8; 32]);
bytes_value!(Sha256, 32, "sha256");

/// Seconds since 1970-01-01 UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Timestamp(pub u64);

impl Timestamp {
    /// The clock's time; 0 where it stands before 1970.
    pub fn now() -> Self {
        Self(std::time::UNIX_EPOCH.elapsed().map_or(0, |d| d.as_secs()))
    }

    /// This many seconds later, at most the last that there is.
    #[must_use]
    pub fn plus(self, seconds: u64) -> Self {
        Self(self.0.saturating_add(seconds))
    }
}

impl std::str::FromStr for Timestamp {
    type Err = Invalid;
    fn from_str(s: &str) -> Result<Self, Invalid> {
        number(s).map(Self)
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A number in its one form: decimal, no sign, no leading zeros.
pub(crate) fn number(s: &str) -> Result<u64, Invalid> {
    let plain = s.bytes().all(|b| b.is_ascii_digit()) && (s == "0" || !s.starts_with('0'));
    let value = if plain { s.parse().ok() } else { None };
    value.ok_or(bad("number", "is not a decimal number below 2^64"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_at_their_edges() {
        for good in ["a", "A.b_c@d+e-f", &"x".repeat(64), "1.0", "_"] {
            assert!(Name::new(good).is_ok(), "{good}");
        }
        for bad in ["", ".", "..", ".a", "-a", "a/b", "a b", "ä", "a\0", &"x".repeat(65)] {
            assert!(Name::new(bad).is_err(), "{bad}");
        }
        assert!(Text::new(&"x".repeat(4096)).is_ok() && Text::new(&"x".repeat(4097)).is_err());
        assert!(Secret::new(&"x".repeat(4096)).is_ok() && Secret::new(&"x".repeat(4097)).is_err());
        assert_eq!(Text::lossy(&"ä".repeat(3000)).as_str().len(), 4096);
        assert_eq!(Text::lossy("a\nb").as_str(), "a b");
    }

    #[test]
    fn cursors_at_their_edges() {
        let journald =
            "s=ef2f2ea6ea0e4ecc94feeb11ae4fb4f0;i=84b;b=1b1d5b5ac3c84cb1b5d1ad9a3e0e7e11;m=5f4b0c;t=62a5e1c0d3f10;x=c8";
        for good in ["a", journald, "A.b_c-9", &"x".repeat(256)] {
            assert_eq!(Cursor::new(good).unwrap().as_str(), good);
        }
        for bad in ["", "-s=1", "--flush", "s=1 i=2", "s=1\n", "s=1\0", "../x", "s='1'", "ä", &"x".repeat(257)] {
            assert!(Cursor::new(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn the_rule_for_names_of_files() {
        let (longest, too_long) = ("ä".repeat(127) + "x", "ä".repeat(128));
        for good in ["a b", "grüße 世界.iso", ".hidden", "...", "-r", "a..b", "עברית.txt", "👩‍👧.png", &longest]
        {
            assert_eq!(FileName::new(good).unwrap().as_str(), good);
            assert_eq!(FileName::normalised(good).unwrap().as_str(), good);
        }
        for bad in [
            "",
            ".",
            "..",
            "/",
            "a/b",
            "../a",
            "a\\b",
            "a\nb",
            "a\rb",
            "a\0b",
            "\u{7f}",
            "\u{85}",
            "a\u{2028}b",
            "a\u{202e}gpj.exe",
            "a\u{2066}b",
            "\u{ffff}",
            " a",
            "a ",
            "a\u{a0}",
            "\u{3000}a",
            &too_long,
        ] {
            assert!(FileName::new(bad).is_err() && FileName::normalised(bad).is_err(), "{bad:?}");
        }
        // One look, two spellings: only one of them is a name, and the other one becomes it.
        for (composed, decomposed) in [("grüße", "gru\u{308}ße"), ("Å", "\u{212b}"), ("が", "\u{304b}\u{3099}")] {
            assert!(FileName::new(decomposed).is_err(), "{decomposed}");
            assert_eq!(FileName::normalised(decomposed), FileName::new(composed));
        }
        assert!(FileName::normalised(&"x".repeat(5000)).is_err());
        // The bound is one of bytes after normalising.
        assert!(FileName::normalised(&"u\u{308}".repeat(127)).is_ok());
        assert!(FileName::normalised(&"u\u{308}".repeat(128)).is_err());
    }

    #[test]
    fn numbers_have_one_form() {
        assert_eq!(number("18446744073709551615"), Ok(u64::MAX));
        for bad in ["", "00", "01", "-1", "+1", " 1", "1 ", "0x1", "18446744073709551616", "١"] {
            assert!(number(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn secrets_do_not_show() {
        let secret = Secret::new("swordfish").unwrap();
        assert!(!format!("{secret:?}").contains("swordfish"));
        assert_ne!(Secret::random().unwrap(), Secret::random().unwrap());
    }

    #[test]
    fn hex_values_have_one_form() {
        let id: Id = "00ff00ff00ff00ff00ff00ff00ff00ff".parse().unwrap();
        assert_eq!(id.to_string(), "00ff00ff00ff00ff00ff00ff00ff00ff");
        for bad in ["", "00", "00FF00ff00ff00ff00ff00ff00ff00ff", "zzff00ff00ff00ff00ff00ff00ff00ff"] {
            assert!(bad.parse::<Id>().is_err(), "{bad}");
        }
    }
}
