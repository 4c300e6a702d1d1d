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
use crate::{Usage, host, test, up, workdir};
use anyhow::{Context, Result, bail};
use client::Login;
use keys::site::Role;
pub(super) use measure::BARE;
use peers::Peers;
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

/// Rounds of everything that is over in seconds; the medians of so many are compared.
const ROUNDS: usize = 9;
/// Rounds of those servers that no goal names.
const FEW_ROUNDS: usize = 3;
/// The large file in bytes.
const LARGE: u64 = 1 << 30;
/// The file that all streams fetch at once, in bytes.
const MEDIUM: u64 = 16 << 20;
/// The small file in bytes.
const SMALL: u64 = 3;
/// Streams at once.
pub(super) const STREAMS: usize = 500;
/// Sessions that are held while they do nothing; memory is measured with the first number.
pub(super) const IDLE: [usize; 2] = [50, 5000];
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

/// The measurements of ftpd; `only` these parts, or all of them.
pub(super) fn measure(only: &[String]) -> Result<Vec<Row>> {
    let wanted = |part: &str| only.is_empty() || only.iter().any(|name| part.contains(name.as_str()));
    if !PARTS.iter().any(|(part, _)| wanted(part)) {
        let parts = PARTS.map(|(part, _)| part).join(", ");
        return Err(Usage(format!("no part of ftp's measurements is named so; there is: {parts}")).into());
    }
    host::require(&host::local())?;
    let bins = test::build(true)?;
    if cfg!(debug_assertions) {
        // The client is part of what is measured: it hashes what comes, and speaks TLS.
        let error = Command::new(bins.join("xtask")).args(std::env::args_os().skip(1)).exec();
        return Err(error).context("the measuring client cannot be run");
    }
    host::become_root()?;
    measure::raise_limits(IDLE[1])?;
    let dir = directory(&workdir().join("bench"))?;
    let limits = |text: &str| text.parse().with_context(|| format!("{text} is no TOML"));
    let lifetimes = Lifetimes {
        // Its background work would fall on one of the servers.
        stager: limits("max_sessions = 12000\nmax_sessions_per_customer = 12000\nverify_days = 0")?,
        // Clients on the same host take ports of the upper half for their ends.
        ftpd: limits(
            "max_sessions = 12000\nmax_per_address = 12000\nidle_seconds = 3600\npassive_ports = [10000, 29999]",
        )?,
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
    let bench = Bench { targets: &targets, tls, dir: &dir };
    let parts = PARTS.iter().filter(|(part, _)| wanted(part)).map(|(_, part)| {
        // What is interrupted later has shown what it found until then.
        let rows = part(&bench)?;
        for Row { name, value, unit, peer, peer_value, ratio, .. } in &rows {
            eprintln!("  {name}: {value:.3} {unit}, {peer} {peer_value:.3}: {ratio:.2}");
        }
        Ok(rows)
    });
    let rows = parts.collect::<Result<Vec<_>>>().map(|parts| parts.concat());
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

/// What the goals name is measured in each round, the others often enough to be shown beside it.
fn is_due(target: &Target, round: usize) -> bool {
    round < FEW_ROUNDS || ["ftpd", "vsftpd", BARE].contains(&target.name)
}

/// Measures the targets in each round, one after the other; gives the values of each.
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
            if !is_due(target, round) {
                continue;
            }
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
        for ((target, peer_value), rounds) in targets.iter().zip(&medians).zip(values).skip(1) {
            rows.push(Row {
                name: name.clone(),
                value: medians[0],
                unit: unit.name().to_owned(),
                peer: target.name.to_owned(),
                peer_value: *peer_value,
                ratio: medians[0] / peer_value,
                n: rounds.len(),
            });
        }
    }
    rows
}

/// What is measured, in the order of the table; the names are those of `--only`.
const PARTS: [(&str, Part); 8] = [
    ("sink", sink),
    ("curl", curl),
    ("ftps", ftps),
    ("logins", logins),
    ("replies", replies),
    ("idle", idle),
    ("streams", streams),
    ("crowd", crowd),
];

type Part = fn(&Bench<'_>) -> Result<Vec<Row>>;

/// What there is to measure with.
struct Bench<'a> {
    targets: &'a [Target],
    tls: Arc<rustls::ClientConfig>,
    dir: &'a Path,
}

const GB: Unit = Unit::PerSecond("GB/s");
const PER_GIB: Unit = Unit::Cost("s/GiB");
const MICROS: Unit = Unit::Cost("us");
const KIB: Unit = Unit::Cost("KiB");

impl Bench<'_> {
    /// Ours and vsftpd, which is what the goals name.
    fn pair(&self) -> &[Target] {
        &self.targets[..2]
    }
}

fn named<const N: usize>(names: [(&str, Unit); N]) -> Vec<(String, Unit)> {
    names.map(|(name, unit)| (name.to_owned(), unit)).to_vec()
}

fn sink(bench: &Bench<'_>) -> Result<Vec<Row>> {
    let bare = measure::bare_sendfile(&bench.dir.join("public/large/1/file"))?;
    let targets: Vec<Target> = bench.targets.iter().cloned().chain([bare]).collect();
    let values = rounds(&targets, ROUNDS, "one stream into a sink", |t| measure::sink(t, &path("large"), LARGE, None))?;
    let mut all = rows(&targets, &named([("ftp sink", GB), ("ftp sink CPU", PER_GIB)]), &values);
    // The bare loop runs in the process of its client, whose time would be counted too.
    all.retain(|row| row.peer != BARE || row.name != "ftp sink CPU");
    Ok(all)
}

fn curl(bench: &Bench<'_>) -> Result<Vec<Row>> {
    let values = rounds(bench.targets, ROUNDS, "one stream to curl", |t| measure::curl(t, &path("large"), None))?;
    Ok(rows(bench.targets, &named([("ftp curl", GB)]), &values))
}

fn ftps(bench: &Bench<'_>) -> Result<Vec<Row>> {
    let pair = bench.pair();
    let sink = |t: &Target| measure::sink(t, &path("large"), LARGE, Some(bench.tls.clone()));
    let values = rounds(pair, ROUNDS, "ftps into a sink", sink)?;
    let mut all = rows(pair, &named([("ftps sink", GB), ("ftps sink CPU", PER_GIB)]), &values);
    let ca = bench.dir.join("site/ca.pem");
    let values = rounds(pair, ROUNDS, "ftps to curl", |t| measure::curl(t, &path("large"), Some(&ca)))?;
    all.extend(rows(pair, &named([("ftps curl", GB)]), &values));
    Ok(all)
}

fn logins(bench: &Bench<'_>) -> Result<Vec<Row>> {
    let values = rounds(bench.targets, ROUNDS, "logins", measure::logins)?;
    Ok(rows(bench.targets, &named([("ftp logins", Unit::PerSecond("1/s"))]), &values))
}

fn replies(bench: &Bench<'_>) -> Result<Vec<Row>> {
    let one = |t: &Target| measure::replies(t, "/small/1", &path("small"));
    let values = rounds(bench.targets, ROUNDS, "replies and small files", one)?;
    let names = [("ftp NOOP", MICROS), ("ftp SIZE", MICROS), ("ftp CWD", MICROS), ("ftp small file", MICROS)];
    Ok(rows(bench.targets, &named(names), &values))
}

fn idle(bench: &Bench<'_>) -> Result<Vec<Row>> {
    let values = rounds(bench.targets, ROUNDS, "idle sessions", |t| measure::idle(t, IDLE[0]))?;
    Ok(rows(bench.targets, &[(format!("ftp PSS, {} idle", IDLE[0]), KIB)], &values))
}

fn streams(bench: &Bench<'_>) -> Result<Vec<Row>> {
    let sum = client::sum_of(&bench.dir.join("public/medium/1/file"))?;
    let one = |t: &Target| measure::streams(t, &path("medium"), MEDIUM, STREAMS, &sum);
    let values = rounds(bench.pair(), ROUNDS, "streams at once", one)?;
    let names = [(format!("ftp {STREAMS} streams"), GB), ("ftp median / slowest".to_owned(), Unit::PerSecond("ratio"))];
    Ok(rows(bench.pair(), &names, &values))
}

fn crowd(bench: &Bench<'_>) -> Result<Vec<Row>> {
    let values = rounds(bench.pair(), 1, "many idle sessions", |t| measure::crowd(t, IDLE[1]))?;
    let names = [
        (format!("ftp PSS, {} idle", IDLE[1]), KIB),
        (format!("ftp memory, {} idle", IDLE[1]), KIB),
        ("ftp login beside them".to_owned(), MICROS),
    ];
    Ok(rows(bench.pair(), &names, &values))
}
