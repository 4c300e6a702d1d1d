//! Killed anywhere, nothing is lost: processes are killed between durable steps and at random, the ledger's disk fails at each
//! sync; after each, the next start must find what was acknowledged, and nothing else.
#![allow(clippy::unwrap_used, reason = "a test fails by it")]

mod common;
mod fragile;

use common::{PATIENCE, Site, sha256};
use stager::clock::{Clock, System};
use stager::engine::{Answer, Engine, Grace, Handle, Rules, Work};
use stager::grants::Grant;
use stager::ingest::Intake;
use stager::killpoint::{self, Point};
use stager::ledger::{Ledger, Sizes};
use stager::reconcile::{Report, reconcile};
use stager::rows::State;
use stager::tree::{Place, Tree};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use tobj::{AuditEvent, Fault, Id, LeaseKind, Reply, Sha256, Timestamp};
use tokio::sync::watch;

const CONTENT: &[u8] = b"what must not get lost";
const GRACE: Grace = Grace { standing: 0, one_time: 0 };
/// A log so short that it is begun anew in the middle of the work.
const SIZES: Sizes = Sizes { cache: 1 << 20, log: 64 << 10 };
const RULES: Rules = Rules { grace: GRACE, reserve: 0, upload_keep: 3600 };

/// What somebody was told, and what he had asked for without an answer yet.
#[derive(Debug, Default, Clone)]
struct Told {
    objects: BTreeSet<Sha256>,
    /// Objects that somebody has cut behind the stager's back: they may be reported as missing.
    damaged: BTreeSet<Sha256>,
    staged: BTreeSet<Id>,
    revoked: BTreeSet<Id>,
    /// Leases whose end was asked for, or that end soon by themselves: they may be gone.
    doomed: BTreeSet<Id>,
    /// The records follow those of another ledger.
    numbered: bool,
    /// How often each lease was acknowledged.
    times: BTreeMap<Id, usize>,
    /// How often staging was asked for.
    asked: usize,
}

/// Opens what is left, as a start does, and holds it against what was told.
fn check(root: &Path, told: &Told, label: &str) -> Report {
    let tree = Tree::open(root).unwrap();
    let ledger = Ledger::open(root, &tree.incoming_path(), tree.is_empty().unwrap(), SIZES);
    let ledger = ledger.unwrap_or_else(|e| panic!("{label}: {}", daemon::report(&e)));
    let now = Clock::new(Arc::new(System), 0).now();
    let report =
        reconcile(&ledger, &tree, GRACE, now, &|| {}).unwrap_or_else(|e| panic!("{label}: {}", daemon::report(&e)));
    agree(&tree, &ledger, told, label);
    assert_eq!((report.strays, report.relinked, report.broken, report.given_up), (0, 0, 0, 0), "{label}: {report:?}");
    assert!(report.missing.iter().all(|sha256| told.damaged.contains(sha256)), "{label}: {report:?}");
    report
}

fn agree(tree: &Tree, ledger: &Ledger, told: &Told, label: &str) {
    let read = ledger.read().unwrap();
    let uploads: BTreeSet<_> = read.uploads().unwrap().into_iter().map(|(sha256, _)| sha256.to_string()).collect();
    assert!(tree.list_incoming().unwrap().into_iter().eq(uploads), "{label}: incoming holds uploads and nothing else");
    let mut right = BTreeMap::new();
    for sha256 in &told.objects {
        assert!(read.object(*sha256).unwrap().is_some(), "{label}: an acknowledged object is not in the ledger");
        assert!(tree.object(*sha256).unwrap().is_some(), "{label}: an acknowledged object is not in the storeroom");
    }
    let leases: BTreeMap<_, _> = read.leases(0).unwrap().map(Result::unwrap).collect();
    let links = AtomicUsize::new(0);
    for (id, lease) in &leases {
        assert!(matches!(lease.state, State::Active), "{label}: {lease:?}");
        let link = tree.look(&Place::of(*id, lease)).unwrap();
        let object = tree.object(lease.sha256).unwrap();
        assert_eq!(link.map(|l| l.inode), object.map(|o| o.inode), "{label}: no lease without its link");
        let bytes = right.entry(lease.sha256).or_insert_with(|| {
            let mut bytes = Vec::new();
            std::io::Read::read_to_end(&mut tree.open_object(lease.sha256).unwrap().unwrap(), &mut bytes).unwrap();
            sha256(&bytes)
        });
        assert_eq!(*bytes, lease.sha256, "{label}: the right bytes are behind the link");
    }
    tree.walk(&|_, _, _| {
        links.fetch_add(1, Relaxed);
    })
    .unwrap();
    assert_eq!(links.into_inner(), leases.len(), "{label}: no link without a lease");
    for id in told.staged.difference(&told.doomed) {
        assert!(leases.contains_key(id), "{label}: an acknowledged lease is lost");
    }
    for id in &told.revoked {
        assert!(!leases.contains_key(id), "{label}: a revoked lease is back");
    }
    let records: Vec<_> = read.outbox(0).unwrap().map(Result::unwrap).collect();
    assert!(records.windows(2).all(|w| w[1].0 == w[0].0 + 1), "{label}: a gap in the audit records");
}

/// Every lease has one record of its beginning, and each that is gone one of its end. No record was sent to anybody.
fn audited(root: &Path, told: &Told, label: &str) {
    let tree = Tree::open(root).unwrap();
    let ledger = Ledger::open(root, &tree.incoming_path(), false, SIZES).unwrap();
    let read = ledger.read().unwrap();
    let (mut begun, mut ended) = (BTreeMap::new(), BTreeMap::new());
    for entry in read.outbox(0).unwrap() {
        let (_, event) = entry.unwrap();
        match (event.event, event.lease) {
            (AuditEvent::Staged, Some(lease)) => *begun.entry(lease).or_insert(0) += 1,
            (AuditEvent::LeaseEnded, Some(lease)) => *ended.entry(lease).or_insert(0) += 1,
            _ => {}
        }
    }
    if let Some(first) = read.outbox(0).unwrap().next() {
        let first = first.unwrap().0;
        assert!(first == OTHERS + 1 || (first == 1 && !told.numbered), "{label}: the first record is {first}");
    }
    let mut expected: BTreeMap<Id, i32> = ended.keys().map(|id| (*id, 1)).collect();
    expected.extend(read.leases(0).unwrap().map(|entry| (entry.unwrap().0, 1)));
    assert_eq!(begun, expected, "{label}: beginnings");
    assert!(ended.values().all(|n| *n == 1), "{label}: ends");
}

fn grant(n: u8) -> Grant {
    Grant {
        id: [n; 16].into(),
        customer: "alice".parse().unwrap(),
        product: "maps".parse().unwrap(),
        version: n.to_string().parse().unwrap(),
        file: "grüße 1.iso".parse().unwrap(),
        sha256: sha256(CONTENT),
        size: CONTENT.len() as u64,
        kind: if n.is_multiple_of(2) { LeaseKind::OneTime } else { LeaseKind::Standing },
        lease_expires: Timestamp::now().0 + 3600,
        issued: Timestamp::now().0,
        use_by: Timestamp::now().0 + 600,
    }
}

async fn stage(engine: &Handle, n: u8) -> Option<Id> {
    match engine.ask(Work::Stage { request: [n; 16].into(), grant: grant(n) }).await {
        Ok(Reply::Staged { lease, .. }) => Some(lease),
        _ => None,
    }
}

/// Objects, leases of both kinds, revocations, some of it at once. `tell` hears of each acknowledgement, and of what is asked.
async fn scenario(
    root: &Path,
    intake: &Intake,
    engine: &Handle,
    tell: &(dyn Fn(&str, &str) + Sync),
) -> Result<(), Answer> {
    for content in [CONTENT, b"another", CONTENT] {
        let mut literal = content;
        let stored = intake.put(content.len() as u64, Some(sha256(content)), "operator:eve", &mut literal).await;
        if stored.is_err() {
            return Err(stored);
        }
        tell("object", &sha256(content).to_string());
    }
    // The database has records of the ledger before this one. That of a test on another store is never new.
    match engine.ask(Work::NumberAfter { last: OTHERS }).await {
        Ok(_) => tell("numbered", ""),
        Err(refusal) if refusal.fault == Fault::Invalid => {}
        refused => return Err(refused),
    }
    // One that comes in parts, from wherever the last try got to.
    let large: Vec<u8> = (0..UPLOAD).map(|n| (n % 249) as u8).collect();
    let offset = match intake.begin(sha256(&large), UPLOAD).await {
        Ok(Reply::Upload { offset }) => offset,
        Ok(_) => UPLOAD,
        refused => return Err(refused),
    };
    if offset < UPLOAD {
        let mut rest = &large[usize::try_from(offset).unwrap()..];
        let stored = intake.append(sha256(&large), offset, rest.len() as u64, "operator:eve", &mut rest).await;
        if stored.is_err() {
            return Err(stored);
        }
    }
    tell("object", &sha256(&large).to_string());
    let another = b"another".as_slice();
    tell("doomed-object", &sha256(another).to_string());
    // It loses its end, and is put in again.
    tell("damaged-object", &sha256(another).to_string());
    cut(root, sha256(another));
    let stored = intake.put(another.len() as u64, None, "operator:eve", &mut &*another).await;
    if stored.is_err() {
        return Err(stored);
    }
    let order = Work::Retire { sha256: sha256(b"another"), force: true, by: "operator:eve".into() };
    let retired = engine.ask(order).await;
    if retired.is_err() {
        return Err(retired);
    }
    let mut leases = Vec::new();
    for n in 1..=3 {
        if let Some(lease) = stage(engine, n).await {
            tell("staged", &lease.to_string());
            leases.push(lease);
        }
    }
    for lease in leases.iter().take(2) {
        tell("doomed", &lease.to_string());
        if engine.ask(Work::Revoke { lease: *lease, by: "operator:eve".into() }).await.is_ok() {
            tell("revoked", &lease.to_string());
        }
    }
    let together: Vec<_> = (10..18)
        .map(|n| {
            let engine = engine.clone();
            tokio::spawn(async move { stage(&engine, n).await })
        })
        .collect();
    for task in together {
        if let Some(lease) = task.await.unwrap() {
            tell("staged", &lease.to_string());
        }
    }
    Ok(())
}

fn cut(root: &Path, sha256: Sha256) {
    use std::os::unix::fs::PermissionsExt;
    let name = sha256.to_string();
    let file = root.join("storeroom").join(&name[..2]).join(&name);
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
    File::options().write(true).open(file).unwrap().set_len(1).unwrap();
}

fn told(file: &Path) -> Told {
    let mut told = Told::default();
    let text = std::fs::read_to_string(file).unwrap_or_default();
    for line in text.lines() {
        match line.split_once(' ') {
            Some(("object", sha256)) => drop(told.objects.insert(sha256.parse().unwrap())),
            Some(("doomed-object", sha256)) => drop(told.objects.remove(&sha256.parse().unwrap())),
            Some(("damaged-object", sha256)) => drop(told.damaged.insert(sha256.parse().unwrap())),
            Some(("numbered", _)) => told.numbered = true,
            Some(("staged", id)) => drop(told.staged.insert(id.parse().unwrap())),
            Some(("doomed", id)) => drop(told.doomed.insert(id.parse().unwrap())),
            Some(("revoked", id)) => drop(told.revoked.insert(id.parse().unwrap())),
            _ => panic!("{line}"),
        }
    }
    told
}

/// Records that the database has of another ledger.
const OTHERS: u64 = 40;
/// Bytes of the object that comes in parts: a few blocks.
const UPLOAD: u64 = 3 << 20;
const CHILD: &str = "STAGER_CRASH_CHILD";

/// Runs as a child of the tests below: does the scenario in a directory until it is killed at a point.
#[test]
fn child() {
    let Ok(order) = std::env::var(CHILD) else { return };
    let [point, nth, what, dir] = order.splitn(4, ' ').collect::<Vec<_>>()[..] else { panic!("{order}") };
    killpoint::arm(Point::ALL[point.parse::<usize>().unwrap()], nth.parse().unwrap());
    let dir = Path::new(dir);
    let acks = Mutex::new(OpenOptions::new().append(true).create(true).open(dir.join("acks")).unwrap());
    let tell =
        |what: &str, which: &str| acks.lock().unwrap().write_all(format!("{what} {which}\n").as_bytes()).unwrap();
    let root = dir.join("srv");
    let tree = Arc::new(Tree::open(&root).unwrap());
    let empty = tree.is_empty().unwrap();
    let ledger = Arc::new(Ledger::open(&root, &tree.incoming_path(), empty, SIZES).unwrap());
    let clock = Clock::new(Arc::new(System), 0);
    reconcile(&ledger, &tree, GRACE, clock.now(), &|| {}).unwrap();
    if what == "recover" {
        return;
    }
    let (engine, ended) = Engine::start(ledger.clone(), tree.clone(), clock, RULES).unwrap();
    let intake = Intake::new(tree, ledger, engine.clone(), 0).with_checkpoints(UPLOAD / 3);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(scenario(&root, &intake, &engine, &tell)).unwrap();
    engine.stop();
    ended.blocking_recv().unwrap().unwrap();
}

/// Whether the child was killed.
fn run_child(dir: &Path, point: usize, nth: u32, what: &str) -> bool {
    use std::os::unix::process::ExitStatusExt;
    let status = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child", "--test-threads=1"])
        .env(CHILD, format!("{point} {nth} {what} {}", dir.display()))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .unwrap();
    assert!(status.success() || status.signal() == Some(9), "{point} {nth} {what}: {status}");
    !status.success()
}

#[test]
fn killed_between_any_two_durable_steps() {
    kill_at_every_point(6);
}

#[test]
#[ignore = "long: every passage of every point"]
fn staging_killed_between_any_two_durable_steps() {
    kill_at_every_point(200);
}

/// Kills at each point, at its first passages up to `most` of them.
fn kill_at_every_point(most: u32) {
    for (number, point) in Point::ALL.iter().enumerate() {
        let mut kills = 0;
        for nth in 1..=most {
            let dir = tempfile::tempdir_in(scratch()).unwrap();
            std::fs::create_dir(dir.path().join("srv")).unwrap();
            if !run_child(dir.path(), number, nth, "scenario") {
                break;
            }
            kills += 1;
            let label = format!("{point:?} {nth}");
            // Every other time killed once more while it repairs, where it comes to that point then.
            for again in (1..=2).filter(|_| nth % 2 == 0) {
                run_child(dir.path(), number, again, "recover");
            }
            let root = dir.path().join("srv");
            let told = told(&dir.path().join("acks"));
            check(&root, &told, &label);
            audited(&root, &told, &label);
            let quiet = check(&root, &told, &label);
            assert_eq!((quiet.finished, quiet.removed, quiet.adopted, quiet.incoming), (0, 0, 0, 0), "{label}");
        }
        assert!(kills > 0, "{point:?} is never passed");
    }
}

/// Where processes are killed: in memory if that can be had. What a killed process has written is there after it, synced or not, so
/// that a disk would only make them wait. What a power cut leaves is for the tests with machines to see.
fn scratch() -> std::path::PathBuf {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() }
}

#[test]
fn the_ledgers_disk_fails_at_any_sync() {
    for (fail_at, seed) in (1..60).map(|n| (n, u64::from(n) * 7919)) {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        let disk = fragile::Disk::new(seed);
        let tree = Arc::new(Tree::open(root).unwrap());
        let ledger = Arc::new(Ledger::on_backends(disk.ledger(), disk.log(), SIZES.log).unwrap());
        disk.fail_at(fail_at);
        let clock = Clock::new(Arc::new(System), 0);
        let told = Mutex::new(Told::default());
        let tell = |what: &str, which: &str| {
            let mut told = told.lock().unwrap();
            match what {
                "object" => drop(told.objects.insert(which.parse().unwrap())),
                "staged" => drop(told.staged.insert(which.parse().unwrap())),
                "doomed" => drop(told.doomed.insert(which.parse().unwrap())),
                "doomed-object" => drop(told.objects.remove(&which.parse().unwrap())),
                "numbered" => told.numbered = true,
                "damaged-object" => drop(told.damaged.insert(which.parse().unwrap())),
                _ => drop(told.revoked.insert(which.parse().unwrap())),
            }
        };
        let (engine, ended) = Engine::start(ledger.clone(), tree.clone(), clock.clone(), RULES).unwrap();
        let intake = Intake::new(tree.clone(), ledger.clone(), engine.clone(), 0).with_checkpoints(UPLOAD / 3);
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let _ = runtime.block_on(scenario(root, &intake, &engine, &tell));
        drop(intake);
        engine.stop();
        let outcome = ended.blocking_recv().unwrap();
        assert_eq!(outcome.is_err(), disk.failed(), "sync {fail_at}: {outcome:?}");
        drop((engine, ledger));
        let label = format!("sync {fail_at}");
        let failed = disk.failed();
        // Either the power goes with it, or it works again and is opened anew by the same machine, which goes without power later. In each
        // case it fails once more meanwhile.
        let lasting = fail_at.is_multiple_of(2);
        for again in [Some(1 + fail_at % 4), None] {
            if failed && !lasting {
                disk.cut();
            }
            disk.mend();
            disk.fail_at(again.unwrap_or(u32::MAX / 2));
            let opened = Ledger::on_backends(disk.ledger(), disk.log(), SIZES.log);
            assert!(opened.is_ok() || disk.failed(), "{label}: {:?}", opened.err());
        }
        if failed {
            disk.cut();
        }
        let ledger = Ledger::on_backends(disk.ledger(), disk.log(), SIZES.log).unwrap();
        let report = reconcile(&ledger, &tree, GRACE, clock.now(), &|| {}).unwrap();
        assert_eq!((report.strays, report.relinked, report.broken), (0, 0, 0), "{label}: {report:?}");
        agree(&tree, &ledger, &told.into_inner().unwrap(), &label);
        if !failed {
            assert!(fail_at > 10, "the scenario syncs more often than that");
            return;
        }
    }
}

/// A source of numbers for tests: which ones does not matter, that they can be had again does.
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % n
    }
}

/// Customers, operators and the web appliance at work, until the daemon is gone.
async fn load(site: Arc<Site>, worker: u64, round: u64, told: Arc<Mutex<Told>>, acks: Arc<watch::Sender<u64>>) {
    let mut dice = Dice(worker * 1000 + round + 1);
    let client = daemon::ipc::Client::new(&site.config.socket);
    for step in 0u64.. {
        let content = format!("object {}", dice.below(5)).into_bytes();
        if dice.below(4) == 0 {
            match put(&client, &content, dice.below(2) == 0).await {
                Ok(Reply::Stored { sha256, .. }) => drop(told.lock().unwrap().objects.insert(sha256)),
                Ok(_) => {}
                Err(_) => return,
            }
        }
        let id = Id::from((u128::from(round) << 64 | u128::from(worker) << 32 | u128::from(step)).to_be_bytes());
        let kind = if dice.below(2) == 0 { LeaseKind::Standing } else { LeaseKind::OneTime };
        let version = format!("{worker}-{}", dice.below(3));
        let soon = dice.below(3) == 0;
        let expires = Timestamp::now().0 + if soon { 1 + dice.below(2) } else { 3600 };
        let grant = site.grant_with(id, &format!("c{}", dice.below(9)), &version, kind, &content, expires);
        told.lock().unwrap().asked += 1;
        let lease = match client.call("web", tobj::Request::Stage { grant }).await {
            Ok(Reply::Staged { lease, .. }) => {
                let mut told = told.lock().unwrap();
                told.staged.insert(lease);
                *told.times.entry(lease).or_insert(0) += 1;
                if soon {
                    told.doomed.insert(lease);
                }
                acks.send_modify(|n| *n += 1);
                lease
            }
            Ok(_) => continue, // the object is not there yet, another one is at that path, or it has expired meanwhile
            Err(_) => return,
        };
        if dice.below(3) == 0 {
            told.lock().unwrap().doomed.insert(lease);
            match client.call("operator:eve", tobj::Request::LeaseRevoke { lease }).await {
                // A path that is staged again has the same lease: what is ended for good is only that of a ticket.
                Ok(Reply::Done {}) if kind == LeaseKind::OneTime => {
                    told.lock().unwrap().revoked.insert(lease);
                }
                Ok(_) => {}
                Err(_) => return,
            }
        }
    }
}

/// Brings an object, as a whole or as an upload.
async fn put(client: &daemon::ipc::Client, content: &[u8], whole: bool) -> Result<Reply, daemon::ipc::IpcError> {
    let (sha256, size) = (sha256(content), content.len() as u64);
    let mut request = tobj::Request::ObjectPut { sha256: Some(sha256) };
    let mut rest = content;
    if !whole {
        match client.call("operator:eve", tobj::Request::ObjectBegin { sha256, size }).await? {
            Reply::Upload { offset } => {
                request = tobj::Request::ObjectAppend { sha256, offset };
                rest = &content[usize::try_from(offset).unwrap()..];
            }
            other => return Ok(other),
        }
    }
    let message = tobj::Message::request(request).unwrap();
    client.call_with_literal("operator:eve", message, rest.len() as u64, &mut rest).await
}

/// Starts the real daemon and waits until it serves.
async fn started(site: &Site) -> tokio::process::Child {
    let log = File::create(site.dir.path().join("stagerd.log")).unwrap();
    let mut daemon = tokio::process::Command::new(env!("CARGO_BIN_EXE_stagerd"))
        .arg("--config")
        .arg(site.config_path())
        .stderr(log)
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let client = daemon::ipc::Client::new(&site.config.socket);
    let up = async {
        loop {
            assert!(daemon.try_wait().unwrap().is_none(), "it did not start");
            match client.call("operator:eve", tobj::Request::Status {}).await {
                Ok(Reply::StatusReport { checks, .. }) if checks.iter().any(|c| c.name.as_str() == "ledger") => return,
                _ => tokio::task::yield_now().await,
            }
        }
    };
    tokio::time::timeout(PATIENCE, up).await.expect("it starts in time");
    daemon
}

/// Kills the real daemon under load, again and again on one directory.
async fn kill_rounds(rounds: u64, seed: u64) {
    const WORKERS: u64 = 64;
    let site =
        Site::below(&scratch(), "standing_grace_seconds = 0\none_time_grace_seconds = 0\nledger_log_bytes = 262144");
    let site = Arc::new(site);
    let told = Arc::new(Mutex::new(Told::default()));
    let acks = Arc::new(watch::Sender::new(0));
    let mut dice = Dice(seed);
    for round in 0..rounds {
        let mut daemon = started(&site).await;
        let mut reached = acks.subscribe();
        // Some way into the work, counted in acknowledgements, not in time.
        let target = *reached.borrow() + dice.below(150);
        let workers: Vec<_> =
            (0..WORKERS).map(|n| tokio::spawn(load(site.clone(), n, round, told.clone(), acks.clone()))).collect();
        // What it gives keeps the others from telling: it is let go at once.
        let far = async { drop(reached.wait_for(|n| *n >= target).await) };
        let far = tokio::time::timeout(PATIENCE, far).await;
        if far.is_err() {
            let client = daemon::ipc::Client::new(&site.config.socket);
            let status = client.call("operator:eve", tobj::Request::Status {});
            panic!("the work does not go on: {:?}", tokio::time::timeout(PATIENCE, status).await);
        }
        daemon.kill().await.unwrap();
        for worker in workers {
            tokio::time::timeout(PATIENCE, worker).await.expect("the workers end").unwrap();
        }
        check(site.root(), &told.lock().unwrap(), &format!("seed {seed:#x}, round {round}"));
    }
    account_for(&site, &told.lock().unwrap());
}

/// What the database got and what is still in the outbox are one sequence, and tell of every acknowledgement once.
fn account_for(site: &Site, told: &Told) {
    let mut all: BTreeMap<u64, (AuditEvent, Option<Id>)> = site.database.with(|known| {
        assert_eq!(known.conflicts, 0, "a record came with two meanings");
        known.audit.iter().map(|(seq, record)| (*seq, (record.event, record.lease))).collect()
    });
    let tree = Tree::open(site.root()).unwrap();
    let ledger = Ledger::open(site.root(), &tree.incoming_path(), false, SIZES).unwrap();
    let read = ledger.read().unwrap();
    for entry in read.outbox(0).unwrap() {
        let (seq, event) = entry.unwrap();
        let there = all.insert(seq, (event.event, event.lease));
        assert!(there.is_none_or(|there| there == (event.event, event.lease)), "record {seq} has two meanings");
    }
    assert!(all.keys().copied().eq(1..=all.len() as u64), "records are missing");
    let (mut begun, mut ended) = (BTreeMap::new(), BTreeMap::new());
    for (event, lease) in all.into_values() {
        match (event, lease) {
            (AuditEvent::Staged, Some(lease)) => *begun.entry(lease).or_insert(0) += 1,
            (AuditEvent::LeaseEnded, Some(lease)) => *ended.entry(lease).or_insert(0) += 1,
            _ => {}
        }
    }
    for (lease, times) in &told.times {
        assert!(
            begun.get(lease).is_some_and(|n| n >= times),
            "lease {lease} was acknowledged more often than recorded"
        );
    }
    assert!(begun.values().sum::<usize>() <= told.asked, "more was recorded than asked for");
    for (lease, n) in &begun {
        let over = ended.get(lease).copied().unwrap_or(0);
        let alive = read.lease(*lease).unwrap().is_some();
        assert!(over <= *n && (alive || over > 0), "lease {lease}: {n} beginnings, {over} ends, there: {alive}");
    }
    assert!(ended.keys().all(|lease| begun.contains_key(lease)), "an end without a beginning");
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_random_under_load() {
    kill_rounds(50, 0x5eed).await;
}

/// The full count. Each hundred has a directory of its own: the time of a round is not that of looking at what others left.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "long: 5,000 kills, an hour or two"]
async fn staging_killed_at_random_under_load() {
    for hundred in 1..=50 {
        kill_rounds(100, 0x5eed << 8 | hundred).await;
        eprintln!("{} kills", hundred * 100);
    }
}
