//! The configuration of commlinkd.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::PathBuf;

use keys::LinkKind;
use keys::site::Role;
use serde::Deserialize;
use thiserror::Error;

use crate::Bags;
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
    /// The folder with the key bags that the machine came with; only read.
    pub bags: PathBuf,
    /// The folder for those that come later; without it `$STATE_DIRECTORY` is used, and without either bags stay as they
    /// are.
    #[serde(default)]
    pub state: Option<PathBuf>,
    /// Links without seal that are served here, see [`channel`](crate::channel).
    #[serde(default)]
    pub unsealed: Vec<Unsealed>,
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

/// A link without seal, and the ports that it has for itself.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Unsealed {
    /// The link's name.
    pub link: String,
    /// Its range.
    pub ports: Ports,
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
    /// A link without seal that does not exist here or must have one, or whose ports are not its own.
    #[error(
        "link {0:?} cannot be without seal: it must be one of this machine's, not an operator's, with ports of its own"
    )]
    Unsealed(String),
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

    /// The folder for bags that come later, if there is one.
    pub fn state(&self) -> Option<PathBuf> {
        // systemd gives several with colons between; we ask for one.
        self.state.clone().or_else(|| std::env::var_os("STATE_DIRECTORY").map(PathBuf::from))
    }

    /// Checks the links without seal against the bags.
    ///
    /// # Errors
    /// [`ConfigError::Unsealed`].
    pub fn check_unsealed(&self, bags: &Bags) -> Result<(), ConfigError> {
        let mut taken: BTreeSet<u16> = self.ports.iter().collect();
        for Unsealed { link, ports } in &self.unsealed {
            let bag = bags.of_link(link).and_then(<[_]>::first);
            let may = bag.is_some_and(|bag| bag.kind() != LinkKind::Operator);
            if !may || !ports.iter().all(|port| taken.insert(port)) {
                return Err(ConfigError::Unsealed(link.clone()));
            }
        }
        Ok(())
    }

    /// Where relayed connections go.
    ///
    /// # Errors
    /// [`ConfigError::Relay`].
    pub fn relay_target(&self) -> Result<Option<Target>, ConfigError> {
        let Some(name) = &self.relay else { return Ok(None) };
        let peer = self.peers.iter().find(|peer| peer.name == *name && self.role == Role::Web);
        match peer {
            Some(Peer { host: Some(host), ports: Some(ports), seal: true, .. }) => {
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
