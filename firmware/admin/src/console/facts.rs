//! Where what is shown comes from. Everything is a file that everybody on the machine may read; what is not there is not shown.
//!
//! | file | by whom | what |
//! |---|---|---|
//! | `/usr/lib/os-release` | the image | its version |
//! | `/run/ffs/config/admind.toml` | `admind setup` | name and role |
//! | [`CERTIFICATE`] | `admind setup`, `admind serve` | SHA-256 of the certificate that customers see |
//! | [`HEALTH`] | `admind health` | what the health gate found |
//! | [`REPORT`] | `admind serve` | checks, versions that failed |
//! | [`KEYS`] | commlinkd | a line for each key bag in use |

use crate::admind::Config;
use crate::setup::ADMIND_CONFIG;
use crate::update::esp;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// What the health gate found last.
pub const HEALTH: &str = "/run/ffs/health";
/// What [`HEALTH`] holds once this start is a good one.
pub const GOOD: &str = "good";
/// What admind knows.
pub const REPORT: &str = "/run/ffs/admind/report.toml";
/// The fingerprint of the certificate that customers see.
pub const CERTIFICATE: &str = "/run/ffs/tls/certificate";
/// The key bags in use.
pub const KEYS: &str = "/run/ffs/commlinkd/keys";
/// After so many seconds a report is of the past.
pub const STALE: u64 = 60;

/// What admind publishes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Report {
    /// When, in seconds since the start of the machine.
    pub at: u64,
    /// What is not well, each in a line.
    pub unwell: Vec<String>,
    /// What is to be said of versions: what is on trial, what failed last and why.
    pub updates: Vec<String>,
}

/// What is shown.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Facts {
    /// The machine's name.
    pub name: Option<String>,
    /// Its role.
    pub role: Option<String>,
    /// The version that runs.
    pub version: Option<String>,
    /// How it is, each in a line.
    pub health: Vec<String>,
    /// Its interfaces with their addresses.
    pub addresses: Vec<String>,
    /// Its key bags: fingerprint, generation, link.
    pub keys: Vec<String>,
    /// The fingerprint of its certificate.
    pub certificate: Option<String>,
    /// What is to be said of versions.
    pub updates: Vec<String>,
    /// The last error.
    pub error: Option<String>,
}

impl Facts {
    /// Those of the system at `root`, with the last error in the journal.
    pub(super) fn gather(root: &Path, error: Option<&str>) -> Self {
        let read = |path: &str| fs::read_to_string(root.join(path.trim_start_matches('/'))).ok();
        let config: Option<Config> = read(ADMIND_CONFIG).and_then(|text| toml::from_str(&text).ok());
        let report: Option<Report> = read(REPORT).and_then(|text| toml::from_str(&text).ok());
        let now = read("/proc/uptime").as_deref().and_then(seconds);
        let gate = read(HEALTH);
        Self {
            name: config.as_ref().map(|c| c.name.clone()),
            role: config.map(|c| c.role.as_str().to_owned()),
            version: read(esp::OS_RELEASE).as_deref().and_then(esp::version_of).map(|v| v.to_string()),
            health: health(gate.as_deref().map(str::trim), report.as_ref(), now),
            addresses: addresses(),
            keys: read(KEYS).unwrap_or_default().lines().map(str::to_owned).collect(),
            certificate: read(CERTIFICATE).map(|text| text.trim().to_owned()),
            updates: report.map(|r| r.updates).unwrap_or_default(),
            error: error.map(str::to_owned),
        }
    }
}

/// Whole seconds since the start of the machine (proc_uptime(5)).
pub(crate) fn seconds(uptime: &str) -> Option<u64> {
    uptime.split('.').next()?.parse().ok()
}

/// How the machine is, in words.
fn health(gate: Option<&str>, report: Option<&Report>, now: Option<u64>) -> Vec<String> {
    let mut words = Vec::new();
    match gate {
        None => words.push("starting".to_owned()),
        Some(GOOD) => {}
        Some(why) => words.push(format!("NOT HEALTHY YET: {why}")),
    }
    match report {
        Some(report) if now.is_some_and(|now| now.saturating_sub(report.at) > STALE) => {
            words.push("NOT HEALTHY: admind does not answer".to_owned());
        }
        Some(report) => words.extend(report.unwell.iter().map(|what| format!("NOT HEALTHY: {what}"))),
        None if gate == Some(GOOD) => words.push("NOT HEALTHY: admind has said nothing yet".to_owned()),
        None => {}
    }
    if words.is_empty() {
        words.push("healthy".to_owned());
    }
    words
}

/// The interfaces that have addresses, without the loopback.
fn addresses() -> Vec<String> {
    let mut all = BTreeMap::<String, Vec<String>>::new();
    for interface in nix::ifaddrs::getifaddrs().into_iter().flatten() {
        let Some(address) = interface.address.and_then(|a| ip(&a)) else { continue };
        let length = interface.netmask.and_then(|mask| ip(&mask)).map(|mask| bits(&mask));
        if address.is_loopback() {
            continue;
        }
        let text = length.map_or_else(|| address.to_string(), |n| format!("{address}/{n}"));
        all.entry(interface.interface_name).or_default().push(text);
    }
    all.into_iter().map(|(name, addresses)| format!("{name} {}", addresses.join(", "))).collect()
}

fn ip(address: &nix::sys::socket::SockaddrStorage) -> Option<std::net::IpAddr> {
    let v4 = address.as_sockaddr_in().map(|a| a.ip().into());
    v4.or_else(|| address.as_sockaddr_in6().map(|a| a.ip().into()))
}

/// The length of the prefix that a mask stands for.
fn bits(mask: &std::net::IpAddr) -> u32 {
    match mask {
        std::net::IpAddr::V4(mask) => mask.to_bits().leading_ones(),
        std::net::IpAddr::V6(mask) => mask.to_bits().leading_ones(),
    }
}

/// Puts a file where everybody may read it, whole or not at all; it is gone with the next start.
pub(crate) fn publish(path: &Path, text: &str) -> io::Result<()> {
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    fs::write(&new, text)?;
    // Not what the umask of a daemon makes of it.
    fs::set_permissions(&new, Permissions::from_mode(0o644))?;
    fs::rename(new, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(at: u64, unwell: &[&str]) -> Report {
        Report { at, unwell: unwell.iter().map(|s| (*s).to_owned()).collect(), updates: vec!["x".into()] }
    }

    #[test]
    fn how_a_machine_is() {
        assert_eq!(health(None, None, Some(3)), ["starting"]);
        assert_eq!(health(Some("no banner"), None, Some(30)), ["NOT HEALTHY YET: no banner"]);
        assert_eq!(health(Some(GOOD), Some(&report(30, &[])), Some(31)), ["healthy"]);
        let unwell = report(30, &["storage: gone", "units: failed: x.service"]);
        let expected = ["NOT HEALTHY: storage: gone", "NOT HEALTHY: units: failed: x.service"];
        assert_eq!(health(Some(GOOD), Some(&unwell), Some(31)), expected);
        assert_eq!(health(Some(GOOD), None, Some(31)), ["NOT HEALTHY: admind has said nothing yet"]);
        // At its edge.
        assert_eq!(health(Some(GOOD), Some(&report(30, &[])), Some(30 + STALE)), ["healthy"]);
        let late = health(Some(GOOD), Some(&report(30, &[])), Some(31 + STALE));
        assert_eq!(late, ["NOT HEALTHY: admind does not answer"]);
    }

    #[test]
    fn what_others_publish() {
        let root = tempfile::tempdir().unwrap();
        let put = |path: &str, text: &str| {
            let path = root.path().join(path.trim_start_matches('/'));
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            publish(&path, text).unwrap();
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o644);
        };
        let empty = Facts::gather(root.path(), None);
        assert_eq!((&empty.name, &empty.certificate, empty.keys.len()), (&None, &None, 0));
        put(esp::OS_RELEASE, "IMAGE_VERSION=1.2.3\n");
        put(ADMIND_CONFIG, "name = 'dl1'\nrole = 'download'\nsocket = '/x'\nallow_uids = []\n");
        put(HEALTH, "good\n");
        put(KEYS, "00 generation 1 of a-b\n11 generation 2 of c-d\n");
        put(CERTIFICATE, "5f\n");
        put(REPORT, &toml::to_string(&report(7, &[])).unwrap());
        put("/proc/uptime", "9.77 12.00\n");
        let facts = Facts::gather(root.path(), Some("it broke"));
        assert_eq!((facts.name.as_deref(), facts.role.as_deref()), (Some("dl1"), Some("download")));
        assert_eq!((facts.version.as_deref(), facts.health), (Some("1.2.3"), vec!["healthy".to_owned()]));
        assert_eq!((facts.keys.len(), facts.certificate.as_deref()), (2, Some("5f")));
        assert_eq!((facts.updates.len(), facts.error.as_deref()), (1, Some("it broke")));
        // What makes no sense is as good as nothing.
        put(REPORT, "at = 'noon'");
        assert_eq!(Facts::gather(root.path(), None).health, ["NOT HEALTHY: admind has said nothing yet"]);
    }

    #[test]
    fn lengths_of_prefixes() {
        let bits = |mask: &str| super::bits(&mask.parse().unwrap());
        assert_eq!((bits("255.255.255.0"), bits("0.0.0.0"), bits("255.255.255.255")), (24, 0, 32));
        assert_eq!((bits("ffff:ffff:ffff:ffff::"), bits("ffff::")), (64, 16));
    }
}
