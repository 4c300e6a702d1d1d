//! The configuration of each daemon on one host, and what of the site it gets: as on an appliance, in other places.

use super::Layout;
use admin::setup::{self, Daemon};
use anyhow::{Context, Result};
use keys::site::{Machine, Plan, Role};
use nix::unistd::{Gid, Uid, chown};
use std::fs::{self, Permissions};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use toml::Table;

/// One address has all customers here: as many as there may be in all.
const SESSIONS_OF_AN_ADDRESS: i64 = 1000;

/// Lifetimes that a test wants other than by default, in seconds.
#[derive(Debug, Clone, Default)]
pub struct Lifetimes {
    /// `[lifetimes]` of masterd.
    pub database: Table,
    /// More keys for stagerd.
    pub stager: Table,
    /// More keys for ftpd.
    pub ftpd: Table,
}

impl setup::Layout for Layout {
    fn has_admind(&self) -> bool {
        self.admind && self.role != Role::Database
    }
    fn uid(&self, daemon: Daemon) -> u32 {
        self.uid(daemon.as_str())
    }
    fn socket(&self, daemon: Daemon) -> PathBuf {
        self.home(daemon.as_str()).join("run/s")
    }
    fn sessions(&self) -> PathBuf {
        self.home(Daemon::Stagerd.as_str()).join("run/sessions")
    }
    fn key(&self, daemon: Daemon, file: &str) -> PathBuf {
        self.home(daemon.as_str()).join("keys").join(file)
    }
    fn renewed(&self) -> PathBuf {
        self.data(Daemon::Admind).join("tls.renewed")
    }
    fn fingerprint(&self) -> PathBuf {
        self.data(Daemon::Admind).join("certificate")
    }
    fn bags(&self) -> PathBuf {
        self.key(Daemon::Commlinkd, "bags")
    }
    fn data(&self, daemon: Daemon) -> PathBuf {
        match daemon {
            Daemon::Stagerd => self.storage(),
            _ => self.home(daemon.as_str()).join("state"),
        }
    }
    fn commlink(&self, _: &Machine) -> Vec<IpAddr> {
        vec![Ipv4Addr::LOCALHOST.into()]
    }
    fn customers(&self) -> Vec<IpAddr> {
        vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]
    }
    fn host(&self, of: &Machine, _: &Machine) -> Option<String> {
        Some(of.host.clone())
    }
}

/// Writes the files of one daemon.
pub(super) fn write(layout: &Layout, plan: &Plan, lifetimes: &Lifetimes, daemon: &str) -> Result<()> {
    let machine = plan.machine(&layout.machine).with_context(|| format!("the site has no {}", layout.machine))?;
    let daemon = Daemon::of(machine.role).iter().copied().find(|d| d.as_str() == daemon);
    let daemon = daemon.with_context(|| format!("{} runs no such daemon", layout.machine))?;
    let home = layout.home(daemon.as_str());
    for dir in [home.clone(), home.join("run"), home.join("state"), home.join("keys")] {
        fs::create_dir_all(&dir)?;
    }
    give_keys(layout, daemon)?;
    let mut table = setup::config(layout, plan, machine, daemon)?;
    match daemon {
        Daemon::Masterd => {
            table.insert("lifetimes".into(), lifetimes.database.clone().into());
        }
        Daemon::Stagerd => {
            fs::create_dir_all(layout.storage())?;
            fs::set_permissions(layout.storage(), Permissions::from_mode(0o755))?;
            table.extend(lifetimes.stager.clone());
        }
        Daemon::Ftpd => {
            table.insert("max_per_address".into(), SESSIONS_OF_AN_ADDRESS.into());
            table.extend(lifetimes.ftpd.clone());
        }
        Daemon::Commlinkd => {
            let state = home.join("state").to_string_lossy().into_owned();
            table.insert("state".into(), state.into());
        }
        Daemon::Admind | Daemon::Portald => {}
    }
    fs::write(home.join("config.toml"), toml::to_string_pretty(&table)?)?;
    own(layout, daemon.as_str())
}

/// Gives a daemon its part of its machine's folder.
fn give_keys(layout: &Layout, daemon: Daemon) -> Result<()> {
    let folder = layout.site().join(&layout.machine);
    let mut parts: Vec<PathBuf> = setup::parts(daemon).iter().map(PathBuf::from).collect();
    if daemon == Daemon::Commlinkd {
        fs::create_dir_all(setup::Layout::bags(layout))?;
        for bag in fs::read_dir(folder.join("bags"))? {
            parts.push(Path::new("bags").join(bag?.file_name()));
        }
    }
    for part in parts {
        let from = folder.join(&part);
        let to = layout.home(daemon.as_str()).join("keys").join(&part);
        fs::copy(&from, to).with_context(|| format!("cannot copy {}", from.display()))?;
    }
    Ok(())
}

/// Everything below a daemon's home is its own; only the sockets can be reached by others.
fn own(layout: &Layout, daemon: &str) -> Result<()> {
    let (home, uid) = (layout.home(daemon), layout.uid(daemon));
    let mut todo = vec![home.clone()];
    while let Some(next) = todo.pop() {
        chown(&next, Some(Uid::from_raw(uid)), Some(Gid::from_raw(uid)))?;
        if next.is_dir() {
            todo.extend(fs::read_dir(&next)?.collect::<std::io::Result<Vec<_>>>()?.iter().map(fs::DirEntry::path));
        }
    }
    for (dir, mode) in [("", 0o755), ("run", 0o755), ("state", 0o700), ("keys", 0o700)] {
        fs::set_permissions(home.join(dir), Permissions::from_mode(mode))?;
    }
    fs::set_permissions(home.join("config.toml"), Permissions::from_mode(0o600))?;
    Ok(())
}
