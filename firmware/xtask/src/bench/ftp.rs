//! ftpd beside the ftp servers that Debian has, and beside a bare sendfile loop.
//!
//! All of them serve the same file out of the same page cache on loopback; each round measures one after the other, so that what
//! else the machine does meanwhile falls on all of them. Ours is the whole: login check and audit by stagerd, chroot, filter. The
//! others let anonymous users in, or have one user of their own, with logs off.

mod client;
mod measure;
mod peers;

use super::{Row, median};
use crate::access::Access;
use crate::customer::Customer;
use crate::local::{Lifetimes, Setup, directory};
use crate::{host, test, up, workdir};
use anyhow::{Context, Result, bail};
use client::Login;
use keys::site::Role;
use peers::Peers;
use std::fs;
use std::path::Path;
use std::sync::Arc;

/// Rounds of everything that is over in seconds; the medians of so many are compared.
const ROUNDS: usize = 9;
/// Rounds of what takes long.
const FEW_ROUNDS: usize = 3;
/// The large file in bytes.
const LARGE: u64 = 1 << 30;
/// The file that all streams fetch at once, in bytes.
const MEDIUM: u64 = 4 << 20;
/// The small file in bytes.
const SMALL: u64 = 3;
/// Streams at once.
const STREAMS: usize = 500;
/// Sessions that are held while they do nothing; memory is measured with the first number.
const IDLE: [usize; 2] = [50, 5000];
/// The customer.
const USER: &str = "bench";
const PASSWORD: &str = "bench password";

/// A server that is measured.
#[derive(Debug, Clone)]
pub(super) struct Target {
    /// Its name.
    name: &'static str,
    login: Login,
    /// The process above all of its sessions.
    pid: u32,
}

/// What a number is better for being.
#[derive(Clone, Copy)]
enum Unit {
    PerSecond(&'static str),
    Cost(&'static str),
}

impl Unit {
    fn name(self) -> &'static str {
        match self {
            Self::PerSecond(name) | Self::Cost(name) => name,
        }
    }
}

/// All measurements of ftpd.
pub(super) fn measure() -> Result<Vec<Row>> {
    host::require(host::LOCAL)?;
    let bins = test::build(true)?;
    host::become_root()?;
    measure::raise_limits()?;
    let dir = directory(&workdir().join("bench"))?;
    let limits = |text: &str| text.parse().with_context(|| format!("{text} is no TOML"));
    let lifetimes = Lifetimes {
        stager: limits("max_sessions = 12000\nmax_sessions_per_customer = 12000")?,
        ftpd: limits("max_sessions = 12000\nmax_per_address = 12000\nidle_seconds = 3600")?,
        ..Lifetimes::default()
    };
    let mut local = Setup { lifetimes, ..Setup::new(&bins, &dir) }.start()?;
    stage(local.access(), &dir)?;
    let peers = Peers::start(&workdir().join("peers"), &dir, local.access())?;
    let tls = Arc::new(client::trusting(&local.access().ca())?);
    let (host, port) = local.access().ftp();
    let address = format!("{host}:{port}").parse()?;
    let login = Login { address, user: USER.into(), password: PASSWORD.into(), tls: None };
    let pid = local.daemon(Role::Download, "ftpd").pid();
    let mut targets = vec![Target { name: "ftpd", login, pid }];
    targets.extend(peers.targets());
    let rows = all(&targets, &tls, &dir);
    drop(peers);
    drop(local);
    fs::remove_dir_all(&dir)?;
    rows
}

/// Puts the three files into the account, and where the others find them: the same inodes' pages, since they are links.
fn stage(site: &Access, dir: &Path) -> Result<()> {
    site.operate(&["customer", "add", USER], &format!("{PASSWORD}\n"))?;
    let public = dir.join("public");
    let browser = Customer::new(&site.portal_url(), &site.ca(), &dir.join("jar"));
    for (product, size) in [("large", LARGE), ("medium", MEDIUM), ("small", SMALL)] {
        let at = public.join(product).join("1");
        fs::create_dir_all(&at)?;
        let file = at.join("file");
        up::random_file(&file, size)?;
        site.operate(&["object", "put", &file.to_string_lossy(), "--product", product, "--version", "1"], "")?;
        site.operate(&["entitlement", "add", USER, product, "--version", "1"], "")?;
        if browser.login(USER, PASSWORD)?.status != 200 || browser.choose(product, "1")?.status != 200 {
            bail!("the portal did not stage {product}");
        }
    }
    Ok(())
}

fn path(product: &str) -> String {
    format!("/{product}/1/file")
}

/// Measures all targets in each round, one after the other; gives the values of each.
fn rounds(
    targets: &[Target],
    count: usize,
    what: &str,
    mut one: impl FnMut(&Target) -> Result<Vec<f64>>,
) -> Result<Vec<Vec<Vec<f64>>>> {
    eprintln!("{what}: {count} rounds of {}", targets.iter().map(|t| t.name).collect::<Vec<_>>().join(", "));
    let mut values = vec![Vec::new(); targets.len()];
    for round in 0..count {
        // The order changes, so that nobody is always the first after somebody else.
        for place in 0..targets.len() {
            crate::interrupt::check()?;
            let index = (place + round) % targets.len();
            let target = &targets[index];
            values[index].push(one(target).with_context(|| format!("{what}: {}", target.name))?);
        }
    }
    Ok(values)
}

/// The rows of one measurement: the first target beside each of the others.
fn rows(targets: &[Target], names: &[(String, Unit)], values: &[Vec<Vec<f64>>]) -> Vec<Row> {
    let mut rows = Vec::new();
    for (place, (name, unit)) in names.iter().enumerate() {
        let medians: Vec<f64> =
            values.iter().map(|rounds| median(&mut rounds.iter().map(|r| r[place]).collect::<Vec<_>>())).collect();
        for (target, peer_value) in targets.iter().zip(&medians).skip(1) {
            rows.push(Row {
                name: name.clone(),
                value: medians[0],
                unit: unit.name().to_owned(),
                peer: target.name.to_owned(),
                peer_value: *peer_value,
                ratio: medians[0] / peer_value,
                n: values[0].len(),
            });
        }
    }
    rows
}

fn all(targets: &[Target], tls: &Arc<rustls::ClientConfig>, dir: &Path) -> Result<Vec<Row>> {
    let gb = Unit::PerSecond("GB/s");
    let per_gib = Unit::Cost("s/GiB");
    let mut out = Vec::new();

    let bare = measure::bare_sendfile(&dir.join("public/large/1/file"))?;
    let with_bare: Vec<Target> = targets.iter().cloned().chain([bare]).collect();
    let values =
        rounds(&with_bare, ROUNDS, "one stream into a sink", |t| measure::sink(t, &path("large"), LARGE, None))?;
    let names = [("ftp sink".to_owned(), gb), ("ftp sink CPU".to_owned(), per_gib)];
    out.extend(rows(&with_bare, &names, &values));

    let values = rounds(targets, ROUNDS, "one stream to curl", |t| measure::curl(t, &path("large"), None))?;
    out.extend(rows(targets, &[("ftp curl".to_owned(), gb)], &values));

    let private = &targets[..2];
    let values =
        rounds(private, ROUNDS, "ftps into a sink", |t| measure::sink(t, &path("large"), LARGE, Some(tls.clone())))?;
    let names = [("ftps sink".to_owned(), gb), ("ftps sink CPU".to_owned(), per_gib)];
    out.extend(rows(private, &names, &values));
    let ca = dir.join("site/ca.pem");
    let values = rounds(private, ROUNDS, "ftps to curl", |t| measure::curl(t, &path("large"), Some(&ca)))?;
    out.extend(rows(private, &[("ftps curl".to_owned(), gb)], &values));

    let values = rounds(targets, ROUNDS, "logins", measure::logins)?;
    out.extend(rows(targets, &[("ftp logins".to_owned(), Unit::PerSecond("1/s"))], &values));

    let values =
        rounds(targets, ROUNDS, "replies and small files", |t| measure::replies(t, "/small/1", &path("small")))?;
    let micros = Unit::Cost("us");
    let names = ["NOOP", "SIZE", "CWD", "small file"].map(|name| (format!("ftp {name}"), micros));
    out.extend(rows(targets, &names, &values));

    let values = rounds(targets, FEW_ROUNDS, "idle sessions", |t| measure::idle(t, IDLE[0]))?;
    out.extend(rows(targets, &[(format!("ftp PSS, {} idle", IDLE[0]), Unit::Cost("KiB"))], &values));

    let sum = client::sum_of(&dir.join("public/medium/1/file"))?;
    let values = rounds(private, FEW_ROUNDS, "streams at once", |t| {
        measure::streams(t, &path("medium"), MEDIUM, STREAMS, &sum)
    })?;
    let names = [(format!("ftp {STREAMS} streams"), gb), ("ftp slowest / median".to_owned(), Unit::PerSecond("ratio"))];
    out.extend(rows(private, &names, &values));

    let values = rounds(private, 1, "many idle sessions", |t| measure::crowd(t, IDLE[1]))?;
    let names = [
        (format!("ftp PSS, {} idle", IDLE[1]), Unit::Cost("KiB")),
        ("ftp login beside them".to_owned(), Unit::Cost("us")),
    ];
    out.extend(rows(private, &names, &values));
    Ok(out)
}
