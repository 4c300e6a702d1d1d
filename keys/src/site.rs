//! Sites: which machines there are, and the folders with what makes each of them this site's.
//!
//! ```text
//! DIR/site.toml                    the plan; public
//! DIR/ca.pem, ca.key               the certification authority; its key stays with the operator
//! DIR/operators/<operator>/        ca.pem, site.toml, bags/<operator>-<machine>.bag
//! DIR/<machine>/                   site.toml, with ca.pem in that of the web machine, bags/<link>.bag and, by role:
//!     web, download                tls.pem, tls.key: for the portal and for ftps
//!     download                     grant.public
//!     database                     grant.secret, grant.public
//! ```

mod network;
mod rules;

pub use network::{Address, Interface, Malformed, Network, NetworkRole, Prefix};
pub use rules::FtpRules;

use crate::bag::{Bag, BagError, LinkKind};
use crate::certificates::{Authority, Certified, are_certificates};
use crate::{files, grants};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

/// Links that a machine has at most, to operators and other machines: systemd hands its bags over as credentials, of which a service
/// gets 1 MiB.
pub const MAX_LINKS: usize = 64;
/// Ports of the commlink that a machine has at most; what commlinkd takes.
pub const MAX_PORTS: u16 = 256;
/// First port that a service opens without a right of its own.
const UNPRIVILEGED: u16 = 1024;
/// First of the ports of the commlink, unless the plan says otherwise.
pub const FIRST_PORT: u16 = 7640;
/// How many ports of the commlink there are, unless the plan says otherwise.
pub const PORTS: u16 = 16;

/// The certificate of a site's authority, in the site's folder (PEM).
pub const AUTHORITY: &str = "ca.pem";
/// Its key, which stays with the operator (PEM).
pub const AUTHORITY_KEY: &str = "ca.key";

/// Port of the portal, unless the plan says otherwise.
pub const HTTPS_PORT: u16 = 443;
/// Control port of ftp, unless the plan says otherwise.
pub const FTP_PORT: u16 = 21;
/// First and last port of ftp's data connections, unless the plan says otherwise.
pub const PASSIVE_PORTS: (u16, u16) = (50_000, 50_999);

/// What a machine does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// Keeps the objects and serves them to customers.
    Download,
    /// Shows customers what they may have, and relays.
    Web,
    /// Knows customers, objects and entitlements.
    Database,
}

impl Role {
    /// All roles.
    pub const ALL: [Self; 3] = [Self::Download, Self::Web, Self::Database];

    /// The role's word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Download => "download",
            Self::Web => "web",
            Self::Database => "database",
        }
    }
}

/// A site before it has keys.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// The site's name, as in its certificates.
    pub name: String,
    /// The names of its first operators.
    pub operators: Vec<String>,
    /// The servers from which its machines get the time (NTP).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub time: Vec<IpAddr>,
    /// One web and one database appliance, one or more download appliances.
    pub machines: Vec<Machine>,
}

/// A machine of a site.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Machine {
    /// Its name, as the others know it.
    pub name: String,
    /// What it does.
    pub role: Role,
    /// Name or address at which the other machines and the operators reach it.
    pub host: String,
    /// First and last port of its commlink.
    pub ports: (u16, u16),
    /// Name or address at which customers reach it, where that is another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub public: Option<String>,
    /// The IPv4 address to which `public` leads, where that is a name and the address is not this machine's own (NAT): what ftp
    /// answers to PASV, since nothing resolves names on an appliance. Of download machines.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub public_ipv4: Option<Ipv4Addr>,
    /// Whether the certificate that customers see is one of an authority that their programs know: then they are not given the site's
    /// own. Of download machines.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub public_certificate: bool,
    /// The certificate of the site's authority (PEM), for customers to fetch at the portal: of the web machine, in its own folder of the
    /// site. [`Plan::create`] puts it there, whatever the plan says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub authority: Option<String>,
    /// Name or address at which operators reach it, where that is another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub management: Option<String>,
    /// The port of the portal; of web machines.
    #[serde(default = "https", skip_serializing_if = "is_https")]
    pub https: u16,
    /// The control port of ftp; of download machines.
    #[serde(default = "ftp", skip_serializing_if = "is_ftp")]
    pub ftp: u16,
    /// First and last port of ftp's data connections; of download machines.
    #[serde(default = "passive", skip_serializing_if = "is_passive")]
    pub passive: (u16, u16),
    /// Port at which monitoring finds the numbers of ftp (Prometheus), on the machine's management network, or its lan where it has
    /// none; whence operators may come, monitoring may, too. Without it there are none. Of download machines.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metrics: Option<u16>,
    /// Whence operators may come. Without any: from everywhere on its management networks; where it has none, from its lans; where
    /// it has no networks in this plan, from private addresses.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub operators_from: Vec<Prefix>,
    /// What is not to be as by default with ftp; of download machines.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ftp_rules: Option<FtpRules>,
    /// Its networks; without any, all interfaces get their addresses by DHCP.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub networks: Vec<Network>,
}

fn https() -> u16 {
    HTTPS_PORT
}
fn ftp() -> u16 {
    FTP_PORT
}
fn passive() -> (u16, u16) {
    PASSIVE_PORTS
}
fn is_https(port: &u16) -> bool {
    *port == HTTPS_PORT
}
fn is_ftp(port: &u16) -> bool {
    *port == FTP_PORT
}
fn is_passive(ports: &(u16, u16)) -> bool {
    *ports == PASSIVE_PORTS
}

impl Machine {
    /// A machine of the role's name with default ports.
    pub fn new(role: Role, host: &str) -> Self {
        Self {
            name: role.as_str().to_owned(),
            role,
            host: host.to_owned(),
            ports: (FIRST_PORT, FIRST_PORT + PORTS - 1),
            public: None,
            public_ipv4: None,
            public_certificate: false,
            authority: None,
            management: None,
            https: HTTPS_PORT,
            ftp: FTP_PORT,
            passive: PASSIVE_PORTS,
            metrics: None,
            operators_from: Vec::new(),
            ftp_rules: None,
            networks: Vec::new(),
        }
    }

    /// Name or address at which operators reach it.
    pub fn operators_host(&self) -> &str {
        self.management.as_deref().unwrap_or(&self.host)
    }

    /// Name or address at which customers reach it.
    pub fn customers_host(&self) -> &str {
        self.public.as_deref().unwrap_or(&self.host)
    }

    /// The names that its certificate is valid for.
    fn hosts(&self) -> Vec<String> {
        let mut hosts = vec![self.customers_host().to_owned()];
        if !hosts.contains(&self.host) {
            hosts.push(self.host.clone());
        }
        if hosts.iter().any(|h| h == "127.0.0.1") {
            hosts.extend(["::1".to_owned(), "localhost".to_owned()]);
        }
        hosts
    }

    /// The address at which another machine sees this one: that on a lan that both are on, else its host, if that is an address, else
    /// the only fixed address on its lans.
    pub fn address_seen_by(&self, other: &Self) -> Option<IpAddr> {
        let own: Vec<Prefix> = self.lans().collect();
        // A machine whose networks are not planned is where its host says, if that is an address.
        let unplanned = other.host.parse().ok().filter(|_| other.networks.is_empty());
        let others: Vec<IpAddr> = other.lans().map(|p| p.address).chain(unplanned).collect();
        let shared = own.iter().find(|a| others.iter().any(|b| a.contains((*b).into())));
        let only = own.first().filter(|_| own.len() == 1);
        shared.map(|p| p.address).or_else(|| self.host.parse().ok()).or_else(|| only.map(|p| p.address))
    }

    /// Its fixed addresses on lans.
    fn lans(&self) -> impl Iterator<Item = Prefix> {
        self.fixed(NetworkRole::Lan)
    }

    /// Its fixed addresses on networks of this role.
    fn fixed(&self, role: NetworkRole) -> impl Iterator<Item = Prefix> {
        self.networks.iter().filter(move |n| n.role == role).filter_map(|n| match n.address {
            Address::Static(prefix) => Some(prefix),
            Address::Dhcp => None,
        })
    }

    /// Where monitoring finds its numbers.
    pub fn metrics(&self) -> Option<SocketAddr> {
        let managed = self.networks.iter().any(|n| n.role == NetworkRole::Management);
        let role = if managed { NetworkRole::Management } else { NetworkRole::Lan };
        Some(SocketAddr::new(self.fixed(role).next()?.address, self.metrics?))
    }

    /// The IPv4 address at which customers reach it, if the plan says so.
    pub fn public_ipv4(&self) -> Option<Ipv4Addr> {
        self.public_ipv4.or_else(|| self.public.as_ref()?.parse().ok())
    }

    /// Why its ports and networks cannot be so.
    fn check(&self) -> Result<(), String> {
        let range = |(first, last): (u16, u16)| first > 0 && first <= last;
        if !range(self.ports) {
            return Err(format!("the ports of {} are not a range", self.name));
        }
        if self.ports.0 < UNPRIVILEGED {
            return Err(format!(
                "the ports of {} begin below {UNPRIVILEGED}, and the commlink may not open those",
                self.name
            ));
        }
        let count = u32::from(self.ports.1 - self.ports.0) + 1;
        if count > u32::from(MAX_PORTS) {
            return Err(format!("{} would have {count} ports for the commlink, more than {MAX_PORTS}", self.name));
        }
        if !range(self.passive) || self.passive.0 < UNPRIVILEGED {
            return Err(format!("the passive ports of {} are not a range from {UNPRIVILEGED} on", self.name));
        }
        if self.https == 0 || self.ftp == 0 || self.metrics == Some(0) {
            return Err(format!("{} has a port 0", self.name));
        }
        let one = |port| (port, port);
        let listens = match self.role {
            Role::Download => vec![self.ports, self.passive, one(self.ftp)],
            Role::Web => vec![self.ports, one(self.https)],
            Role::Database => vec![self.ports],
        };
        let listens: Vec<(u16, u16)> = listens.into_iter().chain(self.metrics.map(one)).collect();
        let meet = |a: &(u16, u16), b: &(u16, u16)| a.0 <= b.1 && b.0 <= a.1;
        if (1..listens.len()).any(|i| listens[..i].iter().any(|a| meet(a, &listens[i]))) {
            return Err(format!(
                "{} would open a port twice: its ports, passive, https, ftp and metrics may not meet",
                self.name
            ));
        }
        if self.metrics.is_some() && (self.role != Role::Download || self.metrics().is_none()) {
            return Err(format!(
                "metrics of {} need a download machine with a fixed address on its management network, or on its lan",
                self.name
            ));
        }
        if let Some(rules) = &self.ftp_rules {
            if self.role != Role::Download {
                return Err(format!("{} has rules for ftp, and is no download machine", self.name));
            }
            if let Some(rule) = rules.zero() {
                return Err(format!("{rule} of {} is 0: nobody could come in", self.name));
            }
        }
        let host = self.customers_host();
        if self.role == Role::Download && !network::is_host(host) {
            return Err(format!(
                "customers would reach {} at {host:?}, which no link can name: an address, or a name of letters, digits, dashes and dots",
                self.name
            ));
        }
        if self.public_certificate && self.role != Role::Download {
            return Err(format!("public_certificate is for download machines, which {} is not", self.name));
        }
        if let Some(pem) = &self.authority
            && (self.role != Role::Web || !are_certificates(pem))
        {
            return Err(format!("the authority of {} is no certificate, or is not of a web machine", self.name));
        }
        if let (Some(public), Some(ipv4)) = (&self.public, self.public_ipv4)
            && public.parse::<IpAddr>().is_ok_and(|public| public != ipv4)
        {
            return Err(format!("{} has two public addresses, {public} and {ipv4}", self.name));
        }
        for (i, network) in self.networks.iter().enumerate() {
            let of = format!("{} of {}", network.interface, self.name);
            if self.networks[..i].iter().any(|n| n.interface == network.interface) {
                return Err(format!("{of} is there twice"));
            }
            match (network.address, network.gateway) {
                (Address::Dhcp, Some(_)) => return Err(format!("{of} gets its gateway by DHCP, not from the plan")),
                (Address::Static(own), Some(gateway)) if !own.contains(gateway.into()) => {
                    return Err(format!("the gateway {gateway} is not on the network {own} of {}", self.name));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// Why a site was not made or read.
#[derive(Debug, thiserror::Error)]
pub enum SiteError {
    /// The plan makes no sense.
    #[error("this is no site: {0}")]
    Plan(String),
    /// The folder is there already.
    #[error("{0} is there already; a site is never overwritten, since machines out there may hold its keys")]
    Exists(PathBuf),
    /// A file cannot be read or written.
    #[error("cannot read or write {path}")]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file's text is not what it should be.
    #[error("{path} is not a site's file")]
    Parse {
        /// The file.
        path: PathBuf,
        /// Where and why.
        #[source]
        source: Box<toml::de::Error>,
    },
    /// A key bag.
    #[error(transparent)]
    Bag(#[from] BagError),
    /// A certificate.
    #[error("a certificate could not be made; are the hosts valid names or addresses?")]
    Certificate(#[from] rcgen::Error),
    /// The grant keys.
    #[error("the key pair for grants could not be made")]
    Grant(#[from] pasetors::errors::Error),
}

impl Plan {
    /// Reads a plan, also that of a site that was made.
    ///
    /// # Errors
    /// [`SiteError::Io`], [`SiteError::Parse`], [`SiteError::Plan`].
    pub fn load(path: &Path) -> Result<Self, SiteError> {
        let text = std::fs::read_to_string(path).map_err(|source| SiteError::Io { path: path.into(), source })?;
        let plan: Self =
            toml::from_str(&text).map_err(|source| SiteError::Parse { path: path.into(), source: Box::new(source) })?;
        plan.check()?;
        Ok(plan)
    }

    /// The machine of this name.
    pub fn machine(&self, name: &str) -> Option<&Machine> {
        self.machines.iter().find(|m| m.name == name)
    }

    /// The pairs of machines that share a bag.
    fn pairs(&self) -> Vec<(LinkKind, &Machine, &Machine)> {
        let mut pairs = Vec::new();
        for a in &self.machines {
            for b in &self.machines {
                let kind = match (a.role, b.role) {
                    (Role::Web, Role::Download) => LinkKind::WebDownload,
                    (Role::Web, Role::Database) => LinkKind::WebDatabase,
                    (Role::Download, Role::Database) => LinkKind::DownloadDatabase,
                    _ => continue,
                };
                pairs.push((kind, a, b));
            }
        }
        pairs
    }

    fn check(&self) -> Result<(), SiteError> {
        let bad = |why: String| Err(SiteError::Plan(why));
        let count = |role| self.machines.iter().filter(|m| m.role == role).count();
        if count(Role::Web) != 1 || count(Role::Database) != 1 || count(Role::Download) == 0 {
            return bad("it needs one web, one database and at least one download machine".into());
        }
        if self.operators.is_empty() {
            return bad("it needs an operator".into());
        }
        // 16 bytes each, so that "<a>-<b>" and the generations fit a greeting line of 64 bytes.
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        let named = |n: &str| (1..=16).contains(&n.len()) && n.chars().all(plain) && !n.starts_with('-');
        let names: Vec<&str> =
            self.machines.iter().map(|m| &*m.name).chain(self.operators.iter().map(|o| &**o)).collect();
        for name in &names {
            if !named(name) || ["operators", "site", "ca"].contains(name) {
                return bad(format!("{name:?} is not a name: 1 to 16 of a-z 0-9 -, not starting with a dash"));
            }
        }
        if names.iter().collect::<BTreeSet<_>>().len() != names.len() {
            return bad("two machines or operators have the same name".into());
        }
        for m in &self.machines {
            m.check().or_else(bad)?;
            let machines = self.pairs().into_iter().filter(|(_, a, b)| a.name == m.name || b.name == m.name).count();
            let links = machines + self.operators.len();
            if links > MAX_LINKS {
                return bad(format!(
                    "{} would have {links} links to operators and machines, more than {MAX_LINKS}",
                    m.name
                ));
            }
        }
        Ok(())
    }

    /// Makes the site's keys and writes its folders. A failure leaves nothing behind.
    ///
    /// # Errors
    /// [`SiteError`]; [`SiteError::Exists`] when `dir` is there already.
    pub fn create(&self, dir: &Path) -> Result<(), SiteError> {
        self.check()?;
        if dir.exists() {
            return Err(SiteError::Exists(dir.into()));
        }
        let mut partial = dir.as_os_str().to_owned();
        partial.push(".partial");
        let partial = PathBuf::from(partial);
        let io = |source| SiteError::Io { path: partial.clone(), source };
        if let Some(parent) = dir.parent() {
            std::fs::create_dir_all(parent).map_err(io)?;
        }
        if partial.exists() {
            std::fs::remove_dir_all(&partial).map_err(io)?;
        }
        let written = self.write(&partial).and_then(|()| std::fs::rename(&partial, dir).map_err(io));
        if written.is_err() {
            // The first failure is the one worth telling.
            let _ = std::fs::remove_dir_all(&partial);
        }
        written
    }

    /// The plan with this certificate for customers, or with none.
    fn with_authority(&self, pem: Option<&str>) -> Self {
        let mut plan = self.clone();
        for machine in &mut plan.machines {
            machine.authority = pem.filter(|_| machine.role == Role::Web).map(str::to_owned);
        }
        plan
    }

    fn write(&self, dir: &Path) -> Result<(), SiteError> {
        let folder = Folder(dir);
        folder.make("")?;
        folder.make("operators")?;
        let authority = Authority::new(&self.name)?;
        let text = |authority| toml::to_string_pretty(&self.with_authority(authority)).expect("a plan is TOML");
        let (plan, of_web) = (text(None), text(Some(&*authority.pem.certificate)));
        let grants = grants::generate()?;
        folder.public("site.toml", &plan)?;
        folder.public(AUTHORITY, &authority.pem.certificate)?;
        folder.secret(AUTHORITY_KEY, &authority.pem.key)?;
        for machine in &self.machines {
            let name = &machine.name;
            folder.make(name)?;
            folder.make(&format!("{name}/bags"))?;
            folder.public(&format!("{name}/site.toml"), if machine.role == Role::Web { &of_web } else { &plan })?;
            match machine.role {
                Role::Web => folder.certified(name, &authority.server(name, machine.hosts())?)?,
                Role::Download => {
                    folder.certified(name, &authority.server(name, machine.hosts())?)?;
                    folder.public(&format!("{name}/grant.public"), &grants.public)?;
                }
                Role::Database => {
                    folder.secret(&format!("{name}/grant.secret"), &grants.secret)?;
                    folder.public(&format!("{name}/grant.public"), &grants.public)?;
                }
            }
        }
        for (kind, a, b) in self.pairs() {
            let link = format!("{}-{}", a.name, b.name);
            let (first, second) = Bag::pair(&link, kind, (&a.name, &b.name), 1)?;
            folder.bag(&a.name, &first)?;
            folder.bag(&b.name, &second)?;
        }
        for operator in &self.operators {
            let home = format!("operators/{operator}");
            folder.make(&home)?;
            folder.make(&format!("{home}/bags"))?;
            folder.public(&format!("{home}/site.toml"), &plan)?;
            folder.public(&format!("{home}/ca.pem"), &authority.pem.certificate)?;
            for machine in &self.machines {
                let link = format!("{operator}-{}", machine.name);
                let ends = (&*format!("operator:{operator}"), &*machine.name);
                let (his, its) = Bag::pair(&link, LinkKind::Operator, ends, 1)?;
                folder.bag(&home, &his)?;
                folder.bag(&machine.name, &its)?;
            }
        }
        Ok(())
    }
}

/// A new certificate for a machine of the site in this folder, which has the key of its authority, as [`Plan::create`] made the first.
///
/// # Errors
/// [`SiteError::Io`] of `ca.pem` or `ca.key`; [`SiteError::Certificate`].
pub fn certify(dir: &Path, machine: &Machine) -> Result<Certified, SiteError> {
    let read = |name: &str| {
        let path = dir.join(name);
        std::fs::read_to_string(&path).map_err(|source| SiteError::Io { path, source })
    };
    let authority = Authority::load(Certified { certificate: read(AUTHORITY)?, key: read(AUTHORITY_KEY)?.into() })?;
    Ok(authority.server(&machine.name, machine.hosts())?)
}

/// Puts a certificate and its key in place of those in a machine's folder of the site.
///
/// # Errors
/// [`SiteError::Io`]; after it the folder may have the one and not the other, and wants to be given both again.
pub fn keep(dir: &Path, machine: &str, pair: &Certified) -> Result<(), SiteError> {
    let folder = Folder(dir);
    let certificate = |new: &Path| files::public(new, pair.certificate.as_bytes());
    folder.at(&format!("{machine}/tls.pem"), |path| files::replace(path, certificate))?;
    let key = |new: &Path| files::secret(new, pair.key.as_bytes());
    folder.at(&format!("{machine}/tls.key"), |path| files::replace(path, key))
}

struct Folder<'a>(&'a Path);

impl Folder<'_> {
    fn at(&self, name: &str, write: impl FnOnce(&Path) -> io::Result<()>) -> Result<(), SiteError> {
        let path = self.0.join(name);
        write(&path).map_err(|source| SiteError::Io { path, source })
    }
    fn make(&self, name: &str) -> Result<(), SiteError> {
        self.at(name, files::directory)
    }
    fn public(&self, name: &str, text: &str) -> Result<(), SiteError> {
        self.at(name, |path| files::public(path, text.as_bytes()))
    }
    fn secret(&self, name: &str, text: &str) -> Result<(), SiteError> {
        self.at(name, |path| files::secret(path, text.as_bytes()))
    }
    fn certified(&self, machine: &str, pair: &Certified) -> Result<(), SiteError> {
        self.public(&format!("{machine}/tls.pem"), &pair.certificate)?;
        self.secret(&format!("{machine}/tls.key"), &pair.key)
    }
    fn bag(&self, owner: &str, bag: &Bag) -> Result<(), SiteError> {
        Ok(bag.save(&self.0.join(owner).join("bags").join(format!("{}.bag", bag.link())))?)
    }
}

#[cfg(test)]
mod tests;
