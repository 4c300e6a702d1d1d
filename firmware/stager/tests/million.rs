//! Staging does not slow down with what is staged: a million leases of one object on XFS, and the start after that.
#![allow(clippy::unwrap_used, reason = "a test fails by it")]

use stager::clock::{Clock, System};
use stager::engine::{Engine, Grace, Handle, Rules, Work};
use stager::grants::Grant;
use stager::ingest::Intake;
use stager::ledger::{Ledger, Sizes};
use stager::reconcile::{Report, reconcile};
use stager::tree::Tree;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tobj::{LeaseKind, Reply, Sha256, Timestamp};

const CONTENT: &[u8] = b"what everybody wants";
const GRACE: Grace = Grace { standing: 0, one_time: 0 };
const RULES: Rules = Rules { grace: GRACE, reserve: 0, upload_keep: 3600 };
/// Memory for the pages of the ledger, as by default.
const SIZES: Sizes = Sizes { cache: 64 << 20, log: 4 << 20 };
/// Stagings in flight while many are made.
const AT_ONCE: u64 = 128;
fn grant(sha256: Sha256, n: u64, customers: u64) -> Grant {
    Grant {
        id: u128::from(n + 1).to_be_bytes().into(),
        customer: format!("c{}", n % customers).parse().unwrap(),
        product: "maps".parse().unwrap(),
        version: "1.0".parse().unwrap(),
        file: "grüße 1.iso".parse().unwrap(),
        sha256,
        size: CONTENT.len() as u64,
        kind: LeaseKind::OneTime,
        lease_expires: Timestamp::now().0 + 86_400,
        issued: Timestamp::now().0,
        use_by: Timestamp::now().0 + 600,
    }
}

async fn stage(engine: &Handle, grant: Grant) {
    let reply = engine.ask(Work::Stage { request: grant.id, grant }).await;
    assert!(matches!(reply, Ok(Reply::Staged { .. })), "{reply:?}");
}

async fn time(engine: &Handle, grant: Grant) -> Duration {
    let begun = Instant::now();
    stage(engine, grant).await;
    begun.elapsed()
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

fn open(root: &Path) -> (Arc<Tree>, Arc<Ledger>, Report, Duration) {
    let begun = Instant::now();
    let tree = Arc::new(Tree::open(root).unwrap());
    let ledger = Ledger::open(root, &tree.incoming_path(), tree.is_empty().unwrap(), SIZES).unwrap();
    let opened = begun.elapsed();
    let report = reconcile(&ledger, &tree, GRACE, Clock::new(Arc::new(System), 0).now(), &|| {}).unwrap();
    (tree, Arc::new(ledger), report, opened)
}

/// A stager that runs, with one object.
struct Stager {
    engine: Handle,
    ended: tokio::sync::oneshot::Receiver<Result<(), stager::engine::EngineError>>,
    sha256: Sha256,
}

impl Stager {
    async fn start(root: &Path) -> Self {
        std::fs::create_dir_all(root).unwrap();
        let (tree, ledger, ..) = open(root);
        let clock = Clock::new(Arc::new(System), 0);
        let (engine, ended) = Engine::start(ledger.clone(), tree.clone(), clock, RULES).unwrap();
        let intake = Intake::new(tree, ledger, engine.clone(), 0);
        let stored = intake.put(CONTENT.len() as u64, None, "operator:eve", &mut &CONTENT[..]).await;
        let Ok(Reply::Stored { sha256, .. }) = stored else { panic!("{stored:?}") };
        Self { engine, ended, sha256 }
    }

    async fn stop(self) {
        self.engine.stop();
        self.ended.await.unwrap().unwrap();
    }
}

/// What stagings took, one at a time (medians).
struct Times {
    /// While there were few leases, at the start.
    start: Duration,
    /// With all of them, at the end.
    end: Duration,
    /// In the tree with few leases, at the end.
    few: Duration,
}

/// So many leases of one object. `timed` stagings are timed at the start and as many at the end. What a sync takes changes from one
/// minute to the next, with the disk and whatever else uses it; therefore those at the end alternate with stagings in a second tree
/// beside the first, which still has few leases.
async fn fill(root: &Path, customers: u64, each: u64, timed: u64) -> Times {
    let (many, few) = (Stager::start(&root.join("many")).await, Stager::start(&root.join("few")).await);
    let mut start = Vec::new();
    for n in 0..timed {
        start.push(time(&many.engine, grant(many.sha256, n, customers)).await);
        stage(&few.engine, grant(few.sha256, n, customers)).await;
    }
    let (begun, last) = (Instant::now(), customers * each - timed);
    let tasks: Vec<_> = (0..AT_ONCE)
        .map(|task| {
            let (engine, sha256) = (many.engine.clone(), many.sha256);
            tokio::spawn(async move {
                for n in (timed + task..last).step_by(usize::try_from(AT_ONCE).unwrap()) {
                    stage(&engine, grant(sha256, n, customers)).await;
                    if n % 100_000 == 0 {
                        eprintln!("{n} leases");
                    }
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    let rate = u128::from(last - timed) * 1000 / begun.elapsed().as_millis().max(1);
    eprintln!("{rate} stagings a second with {AT_ONCE} in flight");
    let (mut end, mut beside) = (Vec::new(), Vec::new());
    for n in last..last + timed {
        end.push(time(&many.engine, grant(many.sha256, n, customers)).await);
        beside.push(time(&few.engine, grant(few.sha256, n, customers)).await);
    }
    // What a kill would leave.
    std::fs::create_dir(root.join("killed")).unwrap();
    for name in [stager::ledger::FILE, stager::ledger::LOG] {
        std::fs::copy(root.join("many").join(name), root.join("killed").join(name)).unwrap();
    }
    many.stop().await;
    few.stop().await;
    Times { start: median(start), end: median(end), few: median(beside) }
}

const CHILD: &str = "STAGER_MILLION_CHILD";

/// Runs as a child of the test below, on the file system that was mounted for it.
#[tokio::test(flavor = "multi_thread")]
async fn child() {
    let Ok(order) = std::env::var(CHILD) else { return };
    let [customers, each, root] = order.splitn(3, ' ').collect::<Vec<_>>()[..] else { panic!("{order}") };
    let (customers, each, root) = (customers.parse().unwrap(), each.parse().unwrap(), PathBuf::from(root));
    let times = fill(&root, customers, each, 500).await;
    let Times { start, end, few } = times;
    eprintln!("a staging took {start:?} at the start, {end:?} at the end, {few:?} beside it with few leases (medians)");
    let (_tree, _ledger, report, opened) = open(&root.join("many"));
    eprintln!("opened in {opened:?}; {report} (goal for 1,000,000: 30 s)");
    let (killed, begun) = (root.join("killed"), Instant::now());
    let ledger = Ledger::open(&killed, &killed, false, SIZES).unwrap();
    eprintln!("after a kill the ledger opens in {:?}", begun.elapsed());
    assert_eq!(ledger.read().unwrap().counts().unwrap().0, customers * each, "every lease is in it");
    assert_eq!((report.leases as u64, report.finished, report.relinked), (customers * each, 0, 0), "{report:?}");
    assert!(end <= few.mul_f64(1.5), "staging slows down with what is staged: {end:?} beside {few:?}");
}

/// Makes the file system, mounts it where nobody else sees it, and runs the child there. The disk is written once before: blocks that
/// its file would have to be given first, in the middle of a sync, are nothing that an array knows.
#[test]
#[ignore = "long: 1,000,000 leases on XFS, five minutes; needs root, xfsprogs, a loop device and 8 GiB"]
fn staging_and_start_up_with_a_million_leases() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let script = "head -c 8G /dev/zero > \"$1/disk\" && mkfs.xfs -qK \"$1/disk\" && mkdir \"$1/srv\" && \
                  loop=$(losetup --find --show --direct-io=on \"$1/disk\") && \
                  { mount \"$loop\" \"$1/srv\"; losetup --detach \"$loop\"; } && \
                  exec \"$2\" --exact child --nocapture";
    let status = Command::new("unshare")
        .args(["--mount", "sh", "-c", script, "sh"])
        .arg(dir.path())
        .arg(std::env::current_exe().unwrap())
        .env(CHILD, format!("10000 100 {}", dir.path().join("srv").display()))
        .status()
        .expect("unshare (util-linux) is there");
    assert!(status.success(), "the child failed; root, mkfs.xfs and a loop device are needed");
}

/// The same in small, on whatever file system is there: the ratio is that of the long one, a thousandth of the leases.
#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_leases_of_one_object() {
    let dir = tempfile::tempdir().unwrap();
    fill(dir.path(), 10, 100, 20).await;
    let (_tree, _ledger, report, _) = open(&dir.path().join("many"));
    assert_eq!(report, Report { leases: 1000, milliseconds: report.milliseconds, ..Report::default() });
}
