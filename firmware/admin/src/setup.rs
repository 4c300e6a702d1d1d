//! What a machine gets at its start: the configuration of each daemon, its part of the site, networks and firewall, all from the
//! plan of the site and the machine's name.
//!
//! [`render`] is a pure function; [`write()`] does what it says. On an appliance `admind setup` writes, before the network and the
//! daemons start:
//!
//! | path | what | mode |
//! |---|---|---|
//! | `/run/ffs/config/<daemon>.toml` | configuration; no secret in it | 0644 |
//! | `/run/ffs/credentials/<daemon>/…` | the daemon's part of the site, for `LoadCredential=` of its unit `<daemon>.service` | 0600 |
//! | `/run/ffs/tls/<daemon>/…` | the certificate that customers see, and its key; of the daemon's user | 0400 |
//! | `/run/ffs/nftables.conf` | the whole rule set, for `nft -f` | 0644 |
//! | `/run/systemd/network/20-ffs-N.network` | the networks | 0644 |
//! | `/run/ffs/tls/certificate` | the fingerprint of that certificate, for the console | 0644 |
//! | `/run/systemd/timesyncd.conf.d/ffs.conf` | time servers, where the plan has some | 0644 |
//!
//! Credentials are named as in the site: `grant.public`, `grant.secret`, and for commlinkd any name before the folder `bags` (systemd
//! puts the files of a folder beside each other, and commlinkd takes every `*.bag`). What is renewed while a daemon runs cannot be one:
//! `tls.pem` and `tls.key` are where admind replaces them, and are those of [`RENEWED`] where an operator has sent others. Daemons have
//! their sockets in `/run/ffs/<daemon>/`, which is their `RuntimeDirectory=` (0755), and the storage below `/srv/ffs`.

mod configs;
mod firewall;
mod network;

pub use configs::{config, parts};

use crate::certificate::{self, Pair};
use crate::console::facts::CERTIFICATE;
use keys::site::{Machine, Plan, Role, SiteError};
use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

/// Where the machine's part of the site is on an appliance.
pub const SITE: &str = "/state/site";
/// The certificate and key that an operator has sent in place of the site's.
pub const RENEWED: &str = "/state/site/tls.renewed";
/// Where the data disks are mounted on an appliance.
pub const STORAGE: &str = "/srv/ffs";
/// The configuration of admind on an appliance.
pub const ADMIND_CONFIG: &str = "/run/ffs/config/admind.toml";

/// The file with the chain of the certificate that customers see, in PEM.
const CHAIN: &str = "tls.pem";
/// The file with its key.
const KEY: &str = "tls.key";
/// The mode of both: one daemon reads them, and nobody but root replaces them.
pub(crate) const OF_DAEMON: u32 = 0o400;

/// The daemons.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Daemon {
    /// The commlink.
    Commlinkd,
    /// Storage and administration.
    Admind,
    /// The database.
    Masterd,
    /// The customer's pages.
    Portald,
    /// The storeroom.
    Stagerd,
    /// ftp.
    Ftpd,
}

impl Daemon {
    /// Its program's name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Commlinkd => "commlinkd",
            Self::Admind => "admind",
            Self::Masterd => "masterd",
            Self::Portald => "portald",
            Self::Stagerd => "stagerd",
            Self::Ftpd => "ftpd",
        }
    }

    /// The daemons of a role.
    pub fn of(role: Role) -> &'static [Self] {
        match role {
            Role::Download => &[Self::Commlinkd, Self::Admind, Self::Stagerd, Self::Ftpd],
            Role::Web => &[Self::Commlinkd, Self::Admind, Self::Portald],
            Role::Database => &[Self::Commlinkd, Self::Admind, Self::Masterd],
        }
    }

    /// The one that answers for a role.
    pub fn main_of(role: Role) -> Self {
        match role {
            Role::Download => Self::Stagerd,
            Role::Web => Self::Portald,
            Role::Database => Self::Masterd,
        }
    }
}

/// Where the parts of a machine are. An appliance has one layout, [`Appliance`]; the roles on one host have another.
pub trait Layout {
    /// Whether admind runs beside the other daemons.
    fn has_admind(&self) -> bool;
    /// As which user a daemon runs.
    fn uid(&self, daemon: Daemon) -> u32;
    /// The socket on which a daemon answers.
    fn socket(&self, daemon: Daemon) -> PathBuf;
    /// The socket on which stagerd takes ftp sessions.
    fn sessions(&self) -> PathBuf;
    /// Where a daemon finds a file of its part of the site.
    fn key(&self, daemon: Daemon, file: &str) -> PathBuf;
    /// Where a certificate and key are kept that came in place of the site's.
    fn renewed(&self) -> PathBuf;
    /// Where the console finds the fingerprint of the certificate.
    fn fingerprint(&self) -> PathBuf;
    /// The folder with the key bags.
    fn bags(&self) -> PathBuf;
    /// Where a daemon keeps its data: the root of stagerd's storage, the folder of masterd's store.
    fn data(&self, daemon: Daemon) -> PathBuf;
    /// The addresses on which commlinkd listens.
    fn commlink(&self, machine: &Machine) -> Vec<IpAddr>;
    /// The addresses on which customers are served.
    fn customers(&self) -> Vec<IpAddr>;
    /// Where a machine reaches another one.
    fn host(&self, of: &Machine, seen_by: &Machine) -> Option<String>;
}

/// The layout of an appliance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Appliance;

impl Layout for Appliance {
    fn has_admind(&self) -> bool {
        true
    }
    fn uid(&self, daemon: Daemon) -> u32 {
        match daemon {
            Daemon::Admind => 0,
            Daemon::Commlinkd => 901,
            Daemon::Stagerd => 902,
            Daemon::Ftpd => 903,
            Daemon::Portald => 904,
            Daemon::Masterd => 905,
        }
    }
    fn socket(&self, daemon: Daemon) -> PathBuf {
        format!("/run/ffs/{}/socket", daemon.as_str()).into()
    }
    fn sessions(&self) -> PathBuf {
        "/run/ffs/stagerd/sessions".into()
    }
    fn key(&self, daemon: Daemon, file: &str) -> PathBuf {
        let folder = match file {
            CHAIN | KEY => format!("/run/ffs/tls/{}", daemon.as_str()),
            _ => format!("/run/credentials/{}.service", daemon.as_str()),
        };
        Path::new(&folder).join(file)
    }
    fn renewed(&self) -> PathBuf {
        RENEWED.into()
    }
    fn fingerprint(&self) -> PathBuf {
        CERTIFICATE.into()
    }
    fn bags(&self) -> PathBuf {
        "/run/credentials/commlinkd.service".into()
    }
    fn data(&self, daemon: Daemon) -> PathBuf {
        match daemon {
            Daemon::Masterd => "/srv/ffs/master".into(),
            _ => STORAGE.into(),
        }
    }
    fn commlink(&self, _: &Machine) -> Vec<IpAddr> {
        // IPv4 comes in on it too (ipv6(7), net.ipv6.bindv6only).
        vec![Ipv6Addr::UNSPECIFIED.into()]
    }
    fn customers(&self) -> Vec<IpAddr> {
        vec![Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()]
    }
    fn host(&self, of: &Machine, seen_by: &Machine) -> Option<String> {
        // Nothing resolves names on an appliance, and the firewall needs an address.
        of.address_seen_by(seen_by).map(|address| address.to_string())
    }
}

/// Why a machine cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// The site has no such machine.
    #[error("the site has no machine named {0:?}")]
    Machine(String),
    /// Its plan does not say where another machine is.
    #[error(
        "the plan gives {of} no address that {seen_by} could use: its host must be one, or it needs a fixed one on a lan"
    )]
    Address {
        /// Who is to be reached.
        of: String,
        /// By whom.
        seen_by: String,
    },
    /// The plan of the site.
    #[error("the site cannot be used")]
    Site(#[from] SiteError),
    /// A file.
    #[error("cannot read or write {path}")]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// What a file holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// This text.
    Text(String),
    /// A copy of this file of the machine's folder of the site.
    Site(String),
}

/// A file to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct File {
    /// Its path on the machine.
    pub path: PathBuf,
    /// Its mode.
    pub mode: u32,
    /// Its owner.
    pub uid: u32,
    /// What it holds.
    pub content: Content,
}

/// All files of a machine; `bags` are the names of the files in its folder `bags`.
///
/// # Errors
/// [`SetupError::Machine`], [`SetupError::Address`].
pub fn render(plan: &Plan, name: &str, bags: &[String]) -> Result<Vec<File>, SetupError> {
    let machine = plan.machine(name).ok_or_else(|| SetupError::Machine(name.to_owned()))?;
    let text = |path: String, content: String| File {
        path: path.into(),
        mode: 0o644,
        uid: 0,
        content: Content::Text(content),
    };
    let mut files = Vec::new();
    for &daemon in Daemon::of(machine.role) {
        let table = config(&Appliance, plan, machine, daemon)?;
        let toml = toml::to_string_pretty(&table).expect("a table of plain values is TOML");
        files.push(text(format!("/run/ffs/config/{}.toml", daemon.as_str()), toml));
        let own = parts(daemon).iter().map(|part| (*part).to_owned());
        let bags = bags.iter().filter(|_| daemon == Daemon::Commlinkd).map(|bag| format!("bags/{bag}"));
        for part in own.chain(bags) {
            let (path, mode, uid) = match &*part {
                CHAIN | KEY => (Appliance.key(daemon, &part), OF_DAEMON, Appliance.uid(daemon)),
                _ => (format!("/run/ffs/credentials/{}/{part}", daemon.as_str()).into(), 0o600, 0),
            };
            files.push(File { path, mode, uid, content: Content::Site(part) });
        }
    }
    files.push(text("/run/ffs/nftables.conf".into(), firewall::render(plan, machine)?));
    for (i, unit) in network::render(plan, machine).into_iter().enumerate() {
        files.push(text(format!("/run/systemd/network/20-ffs-{i}.network"), unit));
    }
    if !plan.time.is_empty() {
        files.push(text("/run/systemd/timesyncd.conf.d/ffs.conf".into(), network::time(&plan.time)));
    }
    Ok(files)
}

/// Where one machine reaches another, for whom that must be an address.
fn address(of: &Machine, seen_by: &Machine) -> Result<IpAddr, SetupError> {
    let missing = || SetupError::Address { of: of.name.clone(), seen_by: seen_by.name.clone() };
    of.address_seen_by(seen_by).ok_or_else(missing)
}

/// Reads the machine's part of the site and writes its files, all below `root` (`/` on an appliance). Gives the machine's name.
///
/// # Errors
/// [`SetupError`].
pub fn write(root: &Path) -> Result<String, SetupError> {
    let below = |path: &Path| root.join(path.strip_prefix("/").unwrap_or(path));
    let site = below(Path::new(SITE));
    let name = read(&site.join("machine"))?;
    let name = String::from_utf8_lossy(&name).trim().to_owned();
    let files = render(&Plan::load(&site.join("site.toml"))?, &name, &bags(&site)?)?;
    let renewed = renewed(&below(Path::new(RENEWED)));
    for file in files {
        let bytes = match (&file.content, &renewed) {
            (Content::Text(text), _) => text.clone().into_bytes(),
            (Content::Site(part), Some(pair)) if part == CHAIN => pair.chain().into(),
            (Content::Site(part), Some(pair)) if part == KEY => pair.key().into(),
            (Content::Site(part), _) => read(&site.join(part))?,
        };
        // Only root has files of others, and only below / there is somebody to read them.
        let uid = Some(file.uid).filter(|_| root == Path::new("/"));
        put(&below(&file.path), &bytes, file.mode, uid)?;
        // Where there is none in it, the daemon that is to serve it says so.
        if file.content == Content::Site(CHAIN.into())
            && let Ok(facts) = certificate::facts(&bytes)
        {
            put(&below(Path::new(CERTIFICATE)), facts.fingerprint.as_bytes(), 0o644, None)?;
        }
    }
    Ok(name)
}

/// The certificate that came in place of the site's, if one did; what cannot be used is not in the way of the site's own.
pub(crate) fn renewed(path: &Path) -> Option<Pair> {
    let text = match fs::read_to_string(path) {
        Ok(text) => Zeroizing::new(text),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
        Err(error) => {
            tracing::error!(path = %path.display(), "the site's first certificate is served, the renewed one cannot be read: {error}");
            return None;
        }
    };
    let pair = Pair::parse(&text).and_then(|pair| pair.fits().map(|_| pair));
    pair.inspect_err(|why| {
        let why = daemon::report(why);
        tracing::error!(path = %path.display(), "the site's first certificate is served, the renewed one cannot be: {why}");
    })
    .ok()
}

/// Whether a machine of this folder of a site could be set up, and as what.
///
/// # Errors
/// [`SetupError`] with what is wrong.
pub fn check(folder: &Path, name: &str) -> Result<Role, SetupError> {
    let plan = Plan::load(&folder.join("site.toml"))?;
    for file in render(&plan, name, &bags(folder)?)? {
        if let Content::Site(part) = file.content {
            read(&folder.join(part))?;
        }
    }
    plan.machine(name).map(|m| m.role).ok_or_else(|| SetupError::Machine(name.to_owned()))
}

fn io_error(path: &Path) -> impl FnOnce(io::Error) -> SetupError {
    let path = path.to_owned();
    move |source| SetupError::Io { path, source }
}

fn read(path: &Path) -> Result<Vec<u8>, SetupError> {
    fs::read(path).map_err(io_error(path))
}

fn bags(site: &Path) -> Result<Vec<String>, SetupError> {
    let dir = site.join("bags");
    let mut names = Vec::new();
    for entry in fs::read_dir(&dir).map_err(io_error(&dir))? {
        let name = entry.map_err(io_error(&dir))?.file_name().to_string_lossy().into_owned();
        if name.ends_with(".bag") {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

/// Writes a file whole or not at all, in directories that it makes: those of root's secrets for root only. It is of the user `uid`, if
/// one is given.
pub(crate) fn put(path: &Path, bytes: &[u8], mode: u32, uid: Option<u32>) -> Result<(), SetupError> {
    let dir = path.parent().unwrap_or(path);
    let reach = if mode & 0o077 == 0 && mode != OF_DAEMON { 0o700 } else { 0o755 };
    // Only what is below the first directory of ours is for root alone: others have to get to the sockets beside it.
    let shared = dir.ancestors().find(|d| d.ends_with("run/ffs") || d.is_dir()).unwrap_or(dir);
    DirBuilder::new().recursive(true).mode(0o755).create(shared).map_err(io_error(shared))?;
    DirBuilder::new().recursive(true).mode(reach).create(dir).map_err(io_error(dir))?;
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    let new = PathBuf::from(new);
    // Left by a run that was cut; it may have another mode.
    let _ = fs::remove_file(&new);
    let open = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new);
    open.and_then(|mut file| {
        file.write_all(bytes)?;
        uid.map_or(Ok(()), |uid| fchown(&file, Some(uid), Some(uid)))?;
        file.set_permissions(fs::Permissions::from_mode(mode))?;
        fs::rename(&new, path)
    })
    .map_err(io_error(path))
}

/// The addresses with a port.
fn with_port(addresses: &[IpAddr], port: u16) -> Vec<String> {
    addresses.iter().map(|address| SocketAddr::new(*address, port).to_string()).collect()
}

#[cfg(test)]
mod tests;
