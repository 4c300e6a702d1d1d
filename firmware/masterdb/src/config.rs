//! The configuration file.

use serde::Deserialize;
use std::path::PathBuf;
use tobj::{LeaseKind, Name};

/// What the database is told at its start.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The machine's name; under it the database's own audit records stand in the trail.
    #[serde(deserialize_with = "crate::store::rows::text::deserialize")]
    pub name: Name,
    /// The file of the store. Made when there has never been one: `….made` beside it says that there was.
    pub store: PathBuf,
    /// The Unix socket to answer on.
    pub socket: PathBuf,
    /// The uids that may connect: that of the commlink daemon.
    pub allow_uids: Vec<u32>,
    /// The file with the key that signs grants, PASERK `k4.secret.…`.
    pub grant_key: PathBuf,
    /// The web appliance. With it, logins, sessions and grants are for that machine only, and the requests of download appliances
    /// for every machine but that. Without it, any machine that the commlink lets through.
    #[serde(default, deserialize_with = "crate::store::rows::optional_text::deserialize")]
    pub web: Option<Name>,
    /// Free space on the disk of the store below which the status says that it needs a larger one (bytes).
    #[serde(default = "min_free")]
    pub min_free_bytes: u64,
    /// Free space there that is kept for operators' changes and the records of appliances (bytes): with less, no grants are issued and
    /// refused logins are counted only.
    #[serde(default = "reserve")]
    pub reserve_bytes: u64,
    /// How long things last.
    #[serde(default)]
    pub lifetimes: Lifetimes,
}

fn min_free() -> u64 {
    256 << 20
}

fn reserve() -> u64 {
    32 << 20
}

/// How long things last, in seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Lifetimes {
    /// A session, from its login.
    pub session: u64,
    /// A grant, until it must have been used.
    pub grant: u64,
    /// A standing lease, from its grant.
    pub standing: u64,
    /// A one-time lease, from its grant.
    pub one_time: u64,
}

impl Default for Lifetimes {
    fn default() -> Self {
        Self { session: 30 * 60, grant: 5 * 60, standing: 30 * 24 * 3600, one_time: 24 * 3600 }
    }
}

impl Lifetimes {
    /// How long a lease of this kind lasts.
    pub fn lease(&self, kind: LeaseKind) -> u64 {
        match kind {
            LeaseKind::Standing => self.standing,
            LeaseKind::OneTime => self.one_time,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEAST: &str = "name = 'database'\nstore = '/s'\nsocket = '/x'\nallow_uids = [7]\ngrant_key = '/k'\n";

    #[test]
    fn the_least_and_the_most() {
        let config: Config = toml::from_str(LEAST).unwrap();
        assert_eq!((config.name.as_str(), config.web), ("database", None));
        assert_eq!(config.lifetimes, Lifetimes::default());
        assert!(config.reserve_bytes < config.min_free_bytes, "it is told before it happens");
        let config: Config = toml::from_str(&format!("{LEAST}web = 'web'\n[lifetimes]\nsession = 1\n")).unwrap();
        assert_eq!(config.web.unwrap().as_str(), "web");
        assert_eq!(config.lifetimes, Lifetimes { session: 1, ..Lifetimes::default() });
    }

    #[test]
    fn typing_errors_are_told() {
        for bad in ["web = ''", "wbe = 'web'", "[lifetimes]\nsessions = 1", "[lifetimes]\nsession = -1"] {
            assert!(toml::from_str::<Config>(&format!("{LEAST}{bad}\n")).is_err(), "{bad}");
        }
    }
}
