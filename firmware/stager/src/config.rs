//! The configuration of stagerd.

use serde::Deserialize;
use std::path::PathBuf;
use tobj::Name;

/// What stagerd reads at start-up.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The name of this appliance, as grants have it.
    #[serde(deserialize_with = "name")]
    pub name: Name,
    /// Where storeroom, accounts and ledger are: one file system, at present `/srv/ffs`.
    pub root: PathBuf,
    /// The socket on which commlinkd brings requests.
    pub socket: PathBuf,
    /// The uids that may use it.
    pub allow_uids: Vec<u32>,
    /// The socket for the sessions of the ftp daemon.
    pub sessions: PathBuf,
    /// The uids that may use it.
    pub session_uids: Vec<u32>,
    /// The socket of commlinkd for requests of ours.
    pub commlink: PathBuf,
    /// The name of the database appliance.
    #[serde(default = "database")]
    pub database: String,
    /// The database's public key (a file with a PASERK `k4.public.…`).
    pub grant_key: PathBuf,
    /// How long resumes are served after a standing lease has expired (seconds).
    #[serde(default = "hour")]
    pub standing_grace_seconds: u64,
    /// How long resumes are served after a one-time lease was covered or has expired (seconds).
    #[serde(default = "hour")]
    pub one_time_grace_seconds: u64,
    /// How long a password that the database has confirmed is remembered (seconds); 0 asks each time.
    #[serde(default = "minute")]
    pub credential_cache_seconds: u64,
    /// How often expired leases are looked for (seconds).
    #[serde(default = "ten")]
    pub sweep_seconds: u64,
    /// Space that objects must leave free for the ledger (bytes).
    #[serde(default = "floor")]
    pub min_free_bytes: u64,
    /// Space that leases must leave free for the ledger (bytes): with less, nothing new is staged or fetched, leases only end and the
    /// outbox goes on. With less than a quarter of it nobody logs in either ([`crate::logins::LAST_PART`]): each login leaves a record.
    #[serde(default = "reserve")]
    pub reserve_bytes: u64,
    /// How long an object that has come in in part is kept for the rest of it (seconds).
    #[serde(default = "week")]
    pub upload_keep_seconds: u64,
    /// How fast objects are read again and compared with their hashes (bytes per second); 0 for as fast as the disk.
    #[serde(default = "verify_rate")]
    pub verify_bytes_per_second: u64,
    /// How often all of them are (days); 0 for only on order.
    #[serde(default = "month")]
    pub verify_days: u64,
    /// Whether a login with a customer's password has all staged that he is entitled to.
    #[serde(default = "yes")]
    pub stage_at_login: bool,
    /// How long such a login waits for that at most (milliseconds); what is not staged by then comes while the session is open.
    #[serde(default = "login_wait")]
    pub stage_at_login_milliseconds: u64,
    /// Sessions of the ftp daemon at once.
    #[serde(default = "many")]
    pub max_sessions: usize,
    /// Sessions of one customer at once, from wherever they come.
    #[serde(default = "many_per_customer")]
    pub max_sessions_per_customer: usize,
    /// Bytes per second that the transfers of one customer may have together; 0 is no bound.
    #[serde(default)]
    pub customer_bytes_per_second: u64,
    /// Memory for the pages of the ledger (bytes).
    #[serde(default = "cache")]
    pub ledger_cache_bytes: usize,
    /// Bytes of the ledger's log ([`crate::ledger::log::BOUNDS`]): the longer it is, the less often the ledger itself is synced.
    #[serde(default = "log", deserialize_with = "log_bytes")]
    pub ledger_log_bytes: u64,
}

fn name<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Name, D::Error> {
    String::deserialize(from)?.parse().map_err(serde::de::Error::custom)
}

fn log_bytes<'de, D: serde::Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
    let (bytes, bounds) = (u64::deserialize(from)?, crate::ledger::log::BOUNDS);
    if bounds.contains(&bytes) {
        return Ok(bytes);
    }
    let (least, most) = bounds.into_inner();
    Err(serde::de::Error::custom(format!("ledger_log_bytes is {bytes}; it must be from {least} to {most}")))
}

fn database() -> String {
    "database".into()
}
fn hour() -> u64 {
    3600
}
fn minute() -> u64 {
    60
}
fn ten() -> u64 {
    10
}
fn floor() -> u64 {
    256 << 20
}
fn reserve() -> u64 {
    32 << 20
}
fn week() -> u64 {
    7 * 86_400
}
fn verify_rate() -> u64 {
    64 << 20
}
fn month() -> u64 {
    30
}
fn yes() -> bool {
    true
}
fn login_wait() -> u64 {
    5000
}
fn many() -> usize {
    6000
}
fn many_per_customer() -> usize {
    256
}
fn cache() -> usize {
    64 << 20
}
fn log() -> u64 {
    4 << 20
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_has_a_least_and_a_most() {
        #[derive(Deserialize)]
        struct Part {
            #[serde(deserialize_with = "log_bytes")]
            bytes: u64,
        }
        let read = |bytes: u64| toml::from_str::<Part>(&format!("bytes = {bytes}"));
        for good in [64 << 10, log(), 64 << 20] {
            assert_eq!(read(good).unwrap().bytes, good);
        }
        for bad in [0, (64 << 10) - 1, (64 << 20) + 1] {
            let said = read(bad).err().unwrap().to_string();
            assert!(said.contains(&format!("{bad}; it must be from 65536 to 67108864")), "{said}");
        }
    }
}
