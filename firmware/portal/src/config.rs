//! The configuration file.

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde::{Deserialize, Deserializer, de};
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use tobj::Name;

/// The configuration of portald, as its TOML file has it.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The name of this machine in the site, for its status report.
    #[serde(deserialize_with = "name")]
    pub name: Name,
    /// Addresses and ports on which customers are served. `[::]:443` serves IPv4 too.
    pub listen: Vec<SocketAddr>,
    /// The certificate chain in PEM, the server's own first.
    pub cert: PathBuf,
    /// Its private key in PEM.
    pub key: PathBuf,
    /// The Unix socket of this machine's commlinkd.
    pub commlink: PathBuf,
    /// The Unix socket on which portald answers `STATUS`.
    pub socket: PathBuf,
    /// Uids that may connect to `socket`.
    pub allow_uids: Vec<u32>,
    /// The name of the database appliance in the site.
    #[serde(default = "database", deserialize_with = "name")]
    pub database: Name,
    /// The certificate of the site's own authority in PEM, for customers to fetch; without it there is none to be had here.
    #[serde(default, deserialize_with = "authority")]
    pub authority: Option<String>,
    /// Where customers find the download appliances, by the name that each has in the site.
    #[serde(default)]
    pub downloads: BTreeMap<String, Download>,
}

/// Where and how customers reach a download appliance.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Download {
    /// Its host name or address, as customers reach it.
    #[serde(deserialize_with = "host")]
    pub host: String,
    /// Its ftp port.
    #[serde(default = "ftp_port")]
    pub port: u16,
    /// Whether it offers explicit TLS; if so, the commands that customers are shown insist on it.
    #[serde(default)]
    pub tls: bool,
    /// Whether it lets nobody in without: then there is no plain ftp link.
    #[serde(default)]
    pub require_tls: bool,
    /// The file name under which customers keep the CA certificate that vouches for it; none where a public CA does.
    #[serde(default)]
    pub ca_hint: Option<String>,
}

/// The port that an ftp URL need not name.
pub(crate) const FTP_PORT: u16 = 21;

fn ftp_port() -> u16 {
    FTP_PORT
}

fn database() -> Name {
    Name::new("database").expect("it keeps the rules for names")
}

fn name<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Name, D::Error> {
    Name::new(&String::deserialize(deserializer)?).map_err(de::Error::custom)
}

/// Certificates that anybody may have, and nothing that nobody may.
fn authority<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    let pem = String::deserialize(deserializer)?;
    if pem.contains("PRIVATE KEY") {
        return Err(de::Error::custom("authority holds a private key; it is for everybody to read"));
    }
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
    match all {
        Ok(all) if !all.is_empty() => Ok(Some(pem)),
        _ => Err(de::Error::custom("authority is no certificate in PEM")),
    }
}

/// A host that can stand in a URL and in a command: an address, or labels of letters, digits and dashes.
fn host<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let host = String::deserialize(deserializer)?;
    let label = |l: &str| {
        !l.is_empty()
            && l.len() <= 63
            && !l.starts_with('-')
            && l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    };
    if host.parse::<IpAddr>().is_ok() || (host.len() <= 253 && host.split('.').all(label)) {
        Ok(host)
    } else {
        Err(de::Error::custom("host is neither a host name nor an address"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"
        name = "web"
        listen = ["127.0.0.1:8443", "[::1]:8443"]
        cert = "cert.pem"
        key = "key.pem"
        commlink = "commlink.sock"
        socket = "portal.sock"
        allow_uids = [0]
        [downloads.download]
        host = "ftp.example.org"
        [downloads.second]
        host = "2001:db8::1"
        port = 2121
        tls = true
        require_tls = true
        ca_hint = "site ca.pem"
    "#;

    /// The configuration with this text as the authority's certificate.
    fn with_authority(pem: &str) -> Result<Config, toml::de::Error> {
        let authority = format!("authority = {}\n", toml::Value::String(pem.to_owned()));
        toml::from_str(&format!("{authority}{GOOD}"))
    }

    #[test]
    fn an_authority_is_a_certificate_and_no_secret() {
        assert_eq!(toml::from_str::<Config>(GOOD).unwrap().authority, None);
        let made = rcgen::generate_simple_self_signed(vec!["ca".to_owned()]).unwrap();
        let (pem, key) = (made.cert.pem(), made.signing_key.serialize_pem());
        assert_eq!(with_authority(&pem).unwrap().authority.as_deref(), Some(pem.as_str()));
        for bad in ["", "no certificate", &key, &format!("{pem}{key}"), &pem.replace("-----END", "-----")] {
            assert!(with_authority(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn defaults_and_all_keys() {
        let config: Config = toml::from_str(GOOD).unwrap();
        assert_eq!(config.database.as_str(), "database");
        let first = &config.downloads["download"];
        assert_eq!((first.port, first.tls, first.require_tls, first.ca_hint.as_deref()), (21, false, false, None));
        let second = &config.downloads["second"];
        assert_eq!((second.port, second.tls, second.require_tls), (2121, true, true));
        assert_eq!(second.ca_hint.as_deref(), Some("site ca.pem"));
    }

    #[test]
    fn what_is_refused() {
        for (from, to) in [
            ("name = \"web\"", "name = \"we b\""),
            ("ftp.example.org", "ftp.example.org/x"),
            ("ftp.example.org", "user@ftp"),
            ("ftp.example.org", "-x"),
            ("ftp.example.org", ""),
            ("ftp.example.org", "a..b"),
            ("[downloads.download]", "[downloads.download]\nprot = 21"),
            ("name = \"web\"", "name = \"web\"\nnmae = \"x\""),
            ("127.0.0.1:8443", "127.0.0.1"),
        ] {
            assert!(GOOD.contains(from));
            assert!(toml::from_str::<Config>(&GOOD.replacen(from, to, 1)).is_err(), "{to}");
        }
    }
}
