//! The configuration of each daemon on one host, and what of the site it gets.

use super::Layout;
use anyhow::{Context, Result};
use keys::site::{Machine, Plan, Role};
use nix::unistd::{Gid, Uid, chown};
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use toml::{Table, Value, toml};

/// Lifetimes that a test wants other than by default, in seconds.
#[derive(Debug, Clone, Default)]
pub struct Lifetimes {
    /// `[lifetimes]` of masterd.
    pub database: Table,
    /// More keys for stagerd.
    pub stager: Table,
}

fn path(path: &Path) -> Value {
    Value::String(path.to_string_lossy().into_owned())
}

fn uids(uids: &[u32]) -> Value {
    Value::Array(uids.iter().map(|u| Value::Integer(i64::from(*u))).collect())
}

fn ports(range: (u16, u16)) -> Value {
    Value::Array([range.0, range.1].map(|p| Value::Integer(i64::from(p))).to_vec())
}

/// Writes the files of one daemon.
pub(super) fn write(layout: &Layout, plan: &Plan, lifetimes: &Lifetimes, daemon: &str) -> Result<()> {
    let machine = plan.machines.iter().find(|m| layout.daemons(m.role).contains(&daemon) && m.name == layout.machine);
    let machine = machine.with_context(|| format!("no machine runs {daemon}"))?;
    let home = layout.home(daemon);
    for dir in [home.clone(), home.join("run"), home.join("state"), home.join("keys")] {
        fs::create_dir_all(&dir)?;
    }
    let table = match daemon {
        "commlinkd" => commlinkd(layout, plan, machine)?,
        "masterd" => masterd(layout, plan, machine, lifetimes)?,
        "stagerd" => stagerd(layout, machine, lifetimes)?,
        "ftpd" => ftpd(layout, machine)?,
        _ => portald(layout, plan, machine)?,
    };
    fs::write(home.join("config.toml"), toml::to_string_pretty(&table)?)?;
    own(layout, daemon)
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

/// Gives a daemon a file of its machine's site folder.
fn key(layout: &Layout, daemon: &str, name: &str) -> Result<Value> {
    let to = layout.home(daemon).join("keys").join(name);
    let from = layout.site().join(&layout.machine).join(name);
    fs::copy(&from, &to).with_context(|| format!("cannot copy {}", from.display()))?;
    Ok(path(&to))
}

fn commlinkd(layout: &Layout, plan: &Plan, machine: &Machine) -> Result<Table> {
    let bags = layout.home("commlinkd").join("keys/bags");
    fs::create_dir_all(&bags)?;
    for bag in fs::read_dir(layout.site().join(&machine.name).join("bags"))? {
        let bag = bag?;
        fs::copy(bag.path(), bags.join(bag.file_name()))?;
    }
    // ftpd asks stagerd and nobody else.
    let other = |d: &&str| !["commlinkd", "ftpd"].contains(d);
    let locals: Vec<&str> = layout.daemons(machine.role).iter().copied().filter(other).collect();
    let allow: Vec<u32> = locals.iter().map(|d| layout.uid(d)).collect();
    let mut table = Table::new();
    table.insert("name".into(), machine.name.clone().into());
    table.insert("role".into(), machine.role.as_str().into());
    table.insert("listen".into(), vec![machine.host.clone()].into());
    table.insert("ports".into(), ports(machine.ports));
    table.insert("bags".into(), path(&bags));
    table.insert("socket".into(), path(&layout.socket("commlinkd")));
    table.insert("allow_uids".into(), uids(&allow));
    let mut backends = Table::new();
    for daemon in &locals {
        let mut backend = Table::new();
        backend.insert("socket".into(), path(&layout.socket(daemon)));
        backend.insert("uid".into(), Value::Integer(layout.uid(daemon).into()));
        backends.insert((*daemon).into(), backend.into());
    }
    table.insert("backends".into(), backends.into());
    let mut peers = Vec::new();
    for other in &plan.machines {
        let via = match (machine.role, other.role) {
            (Role::Web, Role::Download | Role::Database) | (Role::Download, Role::Web) => None,
            (Role::Download, Role::Database) => plan.machines.iter().find(|m| m.role == Role::Web),
            _ => continue,
        };
        let mut peer = Table::new();
        peer.insert("name".into(), other.name.clone().into());
        match via {
            Some(web) => peer.insert("via".into(), web.name.clone().into()),
            None => {
                peer.insert("ports".into(), ports(other.ports));
                peer.insert("host".into(), other.host.clone().into())
            }
        };
        peers.push(Value::from(peer));
    }
    if let (Role::Web, Some(database)) = (machine.role, plan.machines.iter().find(|m| m.role == Role::Database)) {
        table.insert("relay".into(), database.name.clone().into());
    }
    if !peers.is_empty() {
        table.insert("peers".into(), peers.into());
    }
    Ok(table)
}

fn masterd(layout: &Layout, plan: &Plan, machine: &Machine, lifetimes: &Lifetimes) -> Result<Table> {
    let mut table = Table::new();
    table.insert("name".into(), machine.name.clone().into());
    table.insert("store".into(), path(&layout.home("masterd").join("state/master.redb")));
    table.insert("socket".into(), path(&layout.socket("masterd")));
    table.insert("allow_uids".into(), uids(&[layout.uid("commlinkd")]));
    table.insert("grant_key".into(), key(layout, "masterd", "grant.secret")?);
    let web = plan.machines.iter().find(|m| m.role == Role::Web).context("no web machine")?;
    table.insert("web".into(), web.name.clone().into());
    table.insert("lifetimes".into(), lifetimes.database.clone().into());
    Ok(table)
}

fn stagerd(layout: &Layout, machine: &Machine, lifetimes: &Lifetimes) -> Result<Table> {
    let mut table = Table::new();
    table.insert("name".into(), machine.name.clone().into());
    table.insert("root".into(), path(&layout.storage()));
    table.insert("socket".into(), path(&layout.socket("stagerd")));
    table.insert("allow_uids".into(), uids(&[layout.uid("commlinkd")]));
    table.insert("sessions".into(), path(&layout.sessions()));
    table.insert("session_uids".into(), uids(&[layout.uid("ftpd")]));
    table.insert("commlink".into(), path(&layout.socket("commlinkd")));
    table.insert("grant_key".into(), key(layout, "stagerd", "grant.public")?);
    fs::create_dir_all(layout.storage())?;
    fs::set_permissions(layout.storage(), Permissions::from_mode(0o755))?;
    table.extend(lifetimes.stager.clone());
    Ok(table)
}

fn ftpd(layout: &Layout, machine: &Machine) -> Result<Table> {
    let port = machine.ftp;
    let mut table = toml! { max_per_address = 1000 };
    table.insert("listen".into(), vec![format!("127.0.0.1:{port}"), format!("[::1]:{port}")].into());
    table.insert("passive_ports".into(), ports(machine.passive));
    table.insert("cert".into(), key(layout, "ftpd", "tls.pem")?);
    table.insert("key".into(), key(layout, "ftpd", "tls.key")?);
    table.insert("sessions".into(), path(&layout.sessions()));
    Ok(table)
}

fn portald(layout: &Layout, plan: &Plan, machine: &Machine) -> Result<Table> {
    let port = machine.https;
    let mut table = Table::new();
    table.insert("name".into(), machine.name.clone().into());
    table.insert("listen".into(), vec![format!("127.0.0.1:{port}")].into());
    table.insert("cert".into(), key(layout, "portald", "tls.pem")?);
    table.insert("key".into(), key(layout, "portald", "tls.key")?);
    table.insert("commlink".into(), path(&layout.socket("commlinkd")));
    table.insert("socket".into(), path(&layout.socket("portald")));
    table.insert("allow_uids".into(), uids(&[layout.uid("commlinkd")]));
    let database = plan.machines.iter().find(|m| m.role == Role::Database).context("no database machine")?;
    table.insert("database".into(), database.name.clone().into());
    let mut downloads = Table::new();
    for download in plan.machines.iter().filter(|m| m.role == Role::Download) {
        let mut entry = Table::new();
        entry.insert("host".into(), download.public.as_ref().unwrap_or(&download.host).clone().into());
        entry.insert("port".into(), Value::Integer(download.ftp.into()));
        entry.insert("tls".into(), true.into());
        entry.insert("ca_hint".into(), "ca.pem".into());
        downloads.insert(download.name.clone(), entry.into());
    }
    table.insert("downloads".into(), downloads.into());
    Ok(table)
}
