//! The configuration of commlinkd.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

use keys::site::Role;
use serde::Deserialize;
use thiserror::Error;

use crate::client::Peer;
use crate::dial::Ports;
use crate::relay::Target;

/// The name of the daemon that answers for the machine.
pub const ADMIND: &str = "admind";

/// The file. Example:
///
/// ```
/// let text = r#"
/// name = "web"
/// role = "web"
/// listen = ["127.0.0.1"]
/// ports = [7640, 7655]
/// bags = "/run/credentials/bags"
/// socket = "/run/ffs/commlink/out.sock"
/// allow_uids = [1001]
/// relay = "database"
///
/// [backends.portald]
/// socket = "/run/ffs/portal/commlink.sock"
/// uid = 1001
///
/// [[peers]]
/// name = "database"
/// host = "10.0.2.2"
/// ports = [7640, 7655]
/// "#;
/// let config: commlink::config::Config = toml::from_str(text)?;
/// assert_eq!(config.relay_target()?.expect("it relays").name, "database");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// This machine's name, as in its bags.
    pub name: String,
    /// Its role.
    pub role: Role,
    /// The addresses to listen on; every port of the range on each.
    pub listen: Vec<IpAddr>,
    /// The range of ports.
    pub ports: Ports,
    /// The folder with the key bags.
    pub bags: PathBuf,
    /// The socket on which local daemons hand in what is for other machines. The label of a frame names the machine.
    pub socket: PathBuf,
    /// The users whose processes may do so.
    pub allow_uids: Vec<u32>,
    /// The daemons that answer what comes in: `stagerd`, `portald` or `masterd`, by role, and on appliances `admind`.
    pub backends: BTreeMap<String, BackendConfig>,
    /// The machines that are called.
    #[serde(default)]
    pub peers: Vec<Peer>,
    /// The peer to which download appliances are relayed; only on a web appliance.
    #[serde(default)]
    pub relay: Option<String>,
}

/// Where a local daemon answers.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BackendConfig {
    /// Its Unix socket.
    pub socket: PathBuf,
    /// The user that it runs as; a socket that another user serves is not trusted.
    pub uid: u32,
}

/// A configuration that makes no sense.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ConfigError {
    /// The role's daemon is missing.
    #[error("there is no [backends.{0}]")]
    NoBackend(&'static str),
    /// The relay is not a direct peer, or this is not a web appliance.
    #[error("relay must be, on a web appliance, the name of a peer with host and ports")]
    Relay,
    /// Nowhere to listen.
    #[error("listen must not be empty")]
    Listen,
}

impl Config {
    /// The name of the daemon that answers for a role.
    pub fn daemon_of(role: Role) -> &'static str {
        match role {
            Role::Download => "stagerd",
            Role::Web => "portald",
            Role::Database => "masterd",
        }
    }

    /// The daemon that answers what comes in.
    ///
    /// # Errors
    /// [`ConfigError::NoBackend`].
    pub fn backend(&self) -> Result<&BackendConfig, ConfigError> {
        let name = Self::daemon_of(self.role);
        self.backends.get(name).ok_or(ConfigError::NoBackend(name))
    }

    /// The daemon that answers for the machine, where there is one.
    pub fn admind(&self) -> Option<&BackendConfig> {
        self.backends.get(ADMIND)
    }

    /// Where relayed connections go.
    ///
    /// # Errors
    /// [`ConfigError::Relay`].
    pub fn relay_target(&self) -> Result<Option<Target>, ConfigError> {
        let Some(name) = &self.relay else { return Ok(None) };
        let peer = self.peers.iter().find(|peer| peer.name == *name && self.role == Role::Web);
        match peer {
            Some(Peer { host: Some(host), ports: Some(ports), .. }) => {
                Ok(Some(Target { name: name.clone(), host: host.as_str().into(), ports: *ports }))
            }
            _ => Err(ConfigError::Relay),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"
        name = "web"
        role = "web"
        listen = ["127.0.0.1", "::1"]
        ports = [1, 16]
        bags = "b"
        socket = "s"
        allow_uids = []
        [backends.portald]
        socket = "p"
        uid = 1
        [[peers]]
        name = "download"
        via = "database"
    "#;

    fn parse(text: &str) -> Config {
        toml::from_str(text).unwrap()
    }

    #[test]
    fn what_is_wrong_is_said() {
        assert!(parse(GOOD).backend().is_ok());
        assert_eq!(parse(GOOD).relay_target().map(|target| target.is_none()), Ok(true));
        let other = GOOD.replace("role = \"web\"", "role = \"database\"");
        assert_eq!(parse(&other).backend().unwrap_err(), ConfigError::NoBackend("masterd"));
        for relay in ["download", "nobody"] {
            let text = format!("relay = {relay:?}\n{GOOD}");
            assert_eq!(parse(&text).relay_target().unwrap_err(), ConfigError::Relay);
        }
    }

    #[test]
    fn typing_errors_are_not_defaults() {
        for text in [
            format!("relais = \"x\"\n{GOOD}"),
            GOOD.replace("uid = 1", "uid = 1\nmode = 2"),
            GOOD.replace("via", "by"),
            GOOD.replace("[1, 16]", "[16, 1]"),
            GOOD.replace("[1, 16]", "[0, 1]"),
            GOOD.replace("role = \"web\"", "role = \"proxy\""),
        ] {
            assert!(toml::from_str::<Config>(&text).is_err(), "{text}");
        }
    }
}
