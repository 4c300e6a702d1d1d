//! The configuration file of ftpd (TOML) and its limits.

use serde::Deserialize;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// What ftpd is told. Keys that are not listed here are an error.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Addresses of the control port. IPv4 and IPv6 are listened on apart, so that each client keeps its own family.
    pub listen: Vec<SocketAddr>,
    /// The socket on which stagerd takes ftp sessions.
    #[serde(default = "sessions")]
    pub sessions: PathBuf,
    /// First and last port for data connections.
    #[serde(default = "passive_ports")]
    pub passive_ports: [u16; 2],
    /// What PASV answers as address, where clients reach this machine through NAT: an IPv4 address, or a name that has one.
    #[serde(default)]
    pub public_address: Option<String>,
    /// Where metrics are to be had by HTTP (`/metrics`); an address of this machine that no customer reaches.
    #[serde(default)]
    pub metrics: Option<SocketAddr>,
    /// Certificate chain (PEM). Without one there is no AUTH TLS.
    #[serde(default)]
    pub cert: Option<PathBuf>,
    /// Its private key (PEM).
    #[serde(default)]
    pub key: Option<PathBuf>,
    /// Refuses logins and data in clear.
    #[serde(default)]
    pub require_tls: bool,
    /// Takes a private data connection only if it resumes the TLS session of its control connection. Some clients cannot.
    #[serde(default)]
    pub require_data_resumption: bool,
    /// Bytes per second that one session may have; 0 is no bound.
    #[serde(default)]
    pub session_bytes_per_second: u64,
    /// Most sessions in all; without it as many as the memory of the machine is for, see [`crate::limits::fitting`].
    #[serde(default)]
    pub max_sessions: Option<usize>,
    /// Most sessions of one address; of one /64 with IPv6, where a /48 has [`crate::limits::SITE`] times as many.
    #[serde(default = "max_per_address")]
    pub max_per_address: usize,
    /// Failed logins after which a session is closed.
    #[serde(default = "max_failed_logins")]
    pub max_failed_logins: u32,
    /// Seconds without a command after which a session is closed.
    #[serde(default = "idle_seconds")]
    pub idle_seconds: u64,
    /// Seconds from the connection to the login.
    #[serde(default = "login_seconds")]
    pub login_seconds: u64,
    /// Seconds that a TLS handshake may take, on the control connection and on a data connection.
    #[serde(default = "handshake_seconds")]
    pub handshake_seconds: u64,
    /// Seconds that a client may take to connect to its passive port after the command.
    #[serde(default = "connect_seconds")]
    pub connect_seconds: u64,
    /// Seconds in which a data connection, or a reply, takes no byte before it is given up.
    #[serde(default = "stall_seconds")]
    pub stall_seconds: u64,
    /// Seconds after which a session ends; a transfer that runs then is the last.
    #[serde(default = "session_seconds")]
    pub session_seconds: u64,
    /// Seconds that running transfers get when ftpd stops.
    #[serde(default = "drain_seconds")]
    pub drain_seconds: u64,
}

fn sessions() -> PathBuf {
    "/run/ffs/stager/sessions.sock".into()
}
fn passive_ports() -> [u16; 2] {
    [50_000, 50_999]
}
fn max_per_address() -> usize {
    128
}
fn max_failed_logins() -> u32 {
    3
}
fn idle_seconds() -> u64 {
    300
}
fn login_seconds() -> u64 {
    60
}
fn handshake_seconds() -> u64 {
    10
}
fn connect_seconds() -> u64 {
    15
}
fn stall_seconds() -> u64 {
    60
}
fn session_seconds() -> u64 {
    24 * 3600
}
fn drain_seconds() -> u64 {
    30
}

/// Why a configuration cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// No address to listen on.
    #[error("listen names no address")]
    NoAddress,
    /// The ports are not a range of unprivileged ports.
    #[error("passive_ports must be [first, last] with 1024 <= first <= last")]
    PassivePorts,
    /// One of cert and key without the other.
    #[error("cert and key belong together")]
    HalfCertificate,
    /// TLS is required and there is none.
    #[error("{0} needs cert and key")]
    NoCertificate(&'static str),
    /// Metrics on all addresses would be metrics for everybody.
    #[error("metrics must name an address of the internal side")]
    Metrics,
    /// Something that cannot be a name.
    #[error("public_address must be an IPv4 address or the name of one")]
    PublicAddress,
    /// A limit of zero would let nobody in.
    #[error("{0} must not be 0")]
    Zero(&'static str),
}

impl Config {
    /// # Errors
    /// [`ConfigError`] for values that contradict each other or would let nobody in.
    pub fn check(&self) -> Result<(), ConfigError> {
        let [first, last] = self.passive_ports;
        if self.listen.is_empty() {
            return Err(ConfigError::NoAddress);
        }
        if first < 1024 || first > last {
            return Err(ConfigError::PassivePorts);
        }
        if self.cert.is_some() != self.key.is_some() {
            return Err(ConfigError::HalfCertificate);
        }
        if self.require_tls && self.cert.is_none() {
            return Err(ConfigError::NoCertificate("require_tls"));
        }
        if self.require_data_resumption && self.cert.is_none() {
            return Err(ConfigError::NoCertificate("require_data_resumption"));
        }
        if self.metrics.is_some_and(|address| address.ip().is_unspecified()) {
            return Err(ConfigError::Metrics);
        }
        let named = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-');
        if self.public_address.as_ref().is_some_and(|name| name.is_empty() || !name.chars().all(named)) {
            return Err(ConfigError::PublicAddress);
        }
        let zero = [
            ("max_sessions", self.max_sessions == Some(0)),
            ("max_per_address", self.max_per_address == 0),
            ("max_failed_logins", self.max_failed_logins == 0),
            ("idle_seconds", self.idle_seconds == 0),
            ("login_seconds", self.login_seconds == 0),
            ("handshake_seconds", self.handshake_seconds == 0),
            ("connect_seconds", self.connect_seconds == 0),
            ("stall_seconds", self.stall_seconds == 0),
            ("session_seconds", self.session_seconds == 0),
        ];
        match zero.iter().find(|(_, zero)| *zero) {
            Some((name, _)) => Err(ConfigError::Zero(name)),
            None => Ok(()),
        }
    }

    /// See [`Config::max_sessions`]; `fitting` is how many the machine is for.
    pub fn most_sessions(&self, fitting: usize) -> usize {
        self.max_sessions.unwrap_or(fitting)
    }

    /// See [`Config::idle_seconds`].
    pub fn idle(&self) -> Duration {
        Duration::from_secs(self.idle_seconds)
    }
    /// See [`Config::login_seconds`].
    pub fn login(&self) -> Duration {
        Duration::from_secs(self.login_seconds)
    }
    /// See [`Config::handshake_seconds`].
    pub fn handshake(&self) -> Duration {
        Duration::from_secs(self.handshake_seconds)
    }
    /// See [`Config::connect_seconds`].
    pub fn connect(&self) -> Duration {
        Duration::from_secs(self.connect_seconds)
    }
    /// See [`Config::stall_seconds`].
    pub fn stall(&self) -> Duration {
        Duration::from_secs(self.stall_seconds)
    }
    /// See [`Config::session_seconds`].
    pub fn session(&self) -> Duration {
        Duration::from_secs(self.session_seconds)
    }
    /// See [`Config::drain_seconds`].
    pub fn drain(&self) -> Duration {
        Duration::from_secs(self.drain_seconds)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Config, toml::de::Error> {
        toml::from_str(text)
    }

    #[test]
    fn a_listen_address_is_enough() {
        let config = parse("listen = [\"127.0.0.1:21\", \"[::1]:21\"]").unwrap();
        assert_eq!(config.check(), Ok(()));
        assert_eq!(config.max_per_address, 128);
        assert_eq!(config.most_sessions(7), 7);
        assert_eq!(parse("listen = []\nmax_sessions = 3").unwrap().most_sessions(7), 3);
        assert!(!config.require_tls);
    }

    #[test]
    fn unknown_keys_are_refused() {
        assert!(parse("listen = []\nmax_session = 3").is_err());
    }

    #[test]
    fn contradictions() {
        let rows = [
            ("listen = []", ConfigError::NoAddress),
            ("listen = [\"[::]:21\"]\npassive_ports = [1023, 2000]", ConfigError::PassivePorts),
            ("listen = [\"[::]:21\"]\npassive_ports = [2001, 2000]", ConfigError::PassivePorts),
            ("listen = [\"[::]:21\"]\ncert = \"c\"", ConfigError::HalfCertificate),
            ("listen = [\"[::]:21\"]\nrequire_tls = true", ConfigError::NoCertificate("require_tls")),
            (
                "listen = [\"[::]:21\"]\nrequire_data_resumption = true",
                ConfigError::NoCertificate("require_data_resumption"),
            ),
            ("listen = [\"[::]:21\"]\nmetrics = \"0.0.0.0:9121\"", ConfigError::Metrics),
            ("listen = [\"[::]:21\"]\npublic_address = \"::1\"", ConfigError::PublicAddress),
            ("listen = [\"[::]:21\"]\nmax_sessions = 0", ConfigError::Zero("max_sessions")),
            ("listen = [\"[::]:21\"]\nidle_seconds = 0", ConfigError::Zero("idle_seconds")),
        ];
        for (text, error) in rows {
            assert_eq!(parse(text).unwrap().check(), Err(error), "{text}");
        }
    }
}
