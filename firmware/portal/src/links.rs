//! What customers copy: ftp URLs and shell commands. Nothing here does I/O.
//!
//! Names of files are the publisher's and may hold anything but a slash and control characters, so every name passes through two
//! kinds of quoting: percent-encoding (RFC 3986, section 2.1) into a URL and single quotes for a POSIX shell.

use crate::config::{Download, FTP_PORT};
use std::fmt::Write;
use std::net::Ipv6Addr;

/// A file on a download appliance and who may fetch it.
#[derive(Clone, Copy)]
pub(crate) struct Target<'a> {
    /// The appliance.
    pub at: &'a Download,
    /// The user at login.
    pub user: &'a str,
    /// The password, unless the customer is to type his own.
    pub password: Option<&'a str>,
    /// The absolute path as that user sees it.
    pub path: &'a str,
}

/// The last component of a path.
pub(crate) fn file_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

/// Percent-encodes all but the unreserved characters of RFC 3986 and slashes.
pub(crate) fn encode(text: &str, keep_slashes: bool) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => out.push(char::from(byte)),
            b'/' if keep_slashes => out.push('/'),
            // Writing to a String does not fail.
            _ => drop(write!(out, "%{byte:02X}")),
        }
    }
    out
}

/// Quotes for a POSIX shell where that is needed.
pub(crate) fn shell(text: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._/:=@%+,".contains(&b);
    if !text.is_empty() && text.bytes().all(plain) {
        text.to_owned()
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

/// Quotes for lftp's own command language: within double quotes a backslash protects itself and the quote.
fn lftp_word(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', r"\\").replace('"', "\\\""))
}

/// The name as an argument that no program takes for an option or for its standard input.
fn local(name: &str) -> String {
    if name.starts_with('-') { format!("./{name}") } else { name.to_owned() }
}

impl Target<'_> {
    fn authority(&self) -> String {
        let host = &self.at.host;
        let host = if host.parse::<Ipv6Addr>().is_ok() { format!("[{host}]") } else { host.clone() };
        if self.at.port == FTP_PORT { host } else { format!("{host}:{}", self.at.port) }
    }

    fn bare_url(&self) -> String {
        format!("ftp://{}{}", self.authority(), encode(self.path, true))
    }

    /// `ftp://user:password@host:port/path` (RFC 1738, section 3.2): no port where it is 21, no password where there is none.
    pub(crate) fn url(&self) -> String {
        let user = encode(self.user, false);
        let secret = self.password.map(|p| format!(":{}", encode(p, false))).unwrap_or_default();
        format!("ftp://{user}{secret}@{}{}", self.authority(), encode(self.path, true))
    }

    /// The command for curl. Run again it resumes. With no password in it curl asks for one.
    pub(crate) fn curl(&self) -> String {
        let mut line = "curl --fail --globoff --continue-at -".to_owned();
        if self.at.tls {
            line.push_str(" --ssl-reqd");
            if let Some(ca) = &self.at.ca_hint {
                line = format!("{line} --cacert {}", shell(&local(ca)));
            }
        }
        let login = self.password.map_or_else(|| self.user.to_owned(), |p| format!("{}:{p}", self.user));
        let file = local(file_name(self.path));
        format!("{line} --user {} --output {} {}", shell(&login), shell(&file), shell(&self.bare_url()))
    }

    /// The command for lftp. Run again it resumes. With no password in it lftp asks for one.
    pub(crate) fn lftp(&self) -> String {
        let mut script = String::new();
        if self.at.tls {
            script.push_str("set ftp:ssl-force yes; set ftp:ssl-protect-data yes; ");
            if let Some(ca) = &self.at.ca_hint {
                script = format!("{script}set ssl:ca-file {}; ", lftp_word(ca));
            }
        }
        // The path is absolute, so no name is taken for an option; the local name is its last component.
        script = format!("{script}get -c {}; bye", lftp_word(self.path));
        let login = self.password.map_or_else(|| self.user.to_owned(), |p| format!("{},{p}", self.user));
        let address = format!("ftp://{}", self.authority());
        format!("lftp -u {} -e {} {}", shell(&login), shell(&script), shell(&address))
    }
}

/// The command that checks a file after its download.
pub(crate) fn sha256sum(sha256: &str, file: &str) -> String {
    format!("printf '%s\\n' {} | sha256sum --check", shell(&format!("{sha256}  {}", local(file))))
}

/// A size for people: `17 bytes`, `1.5 KiB`, `2.0 GiB`.
pub(crate) fn human_size(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if bytes < 1024 {
        return if bytes == 1 { "1 byte".to_owned() } else { format!("{bytes} bytes") };
    }
    let (mut unit, mut whole) = (0, 1024u128);
    let bytes = u128::from(bytes);
    // In tenths, rounded to the nearest, so that what would show as 1024.0 becomes 1.0 of the next unit.
    let tenths = |whole: u128| (bytes * 10 + whole / 2) / whole;
    while tenths(whole) >= 10_240 && unit + 1 < UNITS.len() {
        unit += 1;
        whole *= 1024;
    }
    format!("{}.{} {}", tenths(whole) / 10, tenths(whole) % 10, UNITS[unit])
}

#[cfg(test)]
mod tests;
