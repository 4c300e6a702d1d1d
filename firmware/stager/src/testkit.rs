//! What the tests of several modules need: a stager without sockets, on a temporary directory, with a clock that they set.

use crate::clock::{Clock, tests::Fake};
use crate::engine::{Answer, Engine, EngineError, Grace, Handle, Rules, Work};
use crate::grants::Grant;
use crate::ledger::{Ledger, Sizes};
use crate::reconcile::{Report, reconcile};
use crate::rows::{Event, Lease, Object};
use crate::tree::{Place, Tree};
use sha2::Digest;
use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tobj::{Id, LeaseKind, Reply, Sha256};
use tokio::sync::oneshot;

/// What has not come by then does not come.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);
pub(crate) const NOW: u64 = 1_800_000_000;
pub(crate) const CONTENT: &[u8] = b"the content of an object";
pub(crate) const GRACE: Grace = Grace { standing: 100, one_time: 50 };
/// A log so short that it is begun anew again and again.
pub(crate) const SIZES: Sizes = Sizes { cache: 1 << 20, log: *crate::ledger::log::BOUNDS.start() };
pub(crate) const RULES: Rules = Rules { grace: GRACE, reserve: 0, upload_keep: 1000 };

pub(crate) struct Kit {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) tree: Arc<Tree>,
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) time: Arc<Fake>,
    pub(crate) clock: Clock,
    pub(crate) engine: Handle,
    ended: Option<oneshot::Receiver<Result<(), EngineError>>>,
}

impl Kit {
    /// A stager with one object in its storeroom, and a trusted time.
    pub(crate) fn new() -> Self {
        let (kit, report) = Self::open(tempfile::tempdir().unwrap());
        assert_eq!(report, Report::default());
        let sha256 = kit.object(CONTENT);
        assert_eq!(sha256, content());
        kit.clock.anchor(NOW);
        kit
    }

    pub(crate) fn open(dir: tempfile::TempDir) -> (Self, Report) {
        let tree = Arc::new(Tree::open(dir.path()).unwrap());
        let empty = tree.is_empty().unwrap();
        let ledger = Arc::new(Ledger::open(dir.path(), &tree.incoming_path(), empty, SIZES).unwrap());
        let time = Fake::at(NOW);
        let clock = Clock::new(time.clone(), 0);
        let report = Report { milliseconds: 0, ..reconcile(&ledger, &tree, GRACE, clock.now(), &|| {}).unwrap() };
        let (engine, ended) = Engine::start(ledger.clone(), tree.clone(), clock.clone(), RULES).unwrap();
        (Self { dir, tree, ledger, time, clock, engine, ended: Some(ended) }, report)
    }

    /// Ends this one and starts it again on the same directory.
    pub(crate) fn again(mut self) -> (Self, Report) {
        self.stop();
        let Self { dir, tree, ledger, engine, clock, .. } = self;
        drop((tree, ledger, engine, clock));
        Self::open(dir)
    }

    pub(crate) fn stop(&mut self) {
        self.engine.stop();
        if let Some(ended) = self.ended.take() {
            ended.blocking_recv().unwrap().unwrap();
        }
    }

    /// Waits until the writer ends by itself; what it ended with.
    pub(crate) fn ended(&mut self) -> Result<(), EngineError> {
        self.ended.take().unwrap().blocking_recv().unwrap()
    }

    pub(crate) fn object(&self, content: &[u8]) -> Sha256 {
        let sha256: [u8; 32] = sha2::Sha256::digest(content).into();
        let name = Id::random().unwrap();
        let mut file = self.tree.incoming(name).unwrap();
        file.write_all(content).unwrap();
        self.tree.keep(&name.to_string(), &file, sha256.into()).unwrap();
        let object = Object::new(content.len() as u64, NOW, 0);
        self.ledger.write(|txn| txn.put_object(sha256.into(), &object)).unwrap();
        sha256.into()
    }

    pub(crate) fn ask(&self, work: Work) -> Answer {
        self.engine.ask_blocking(work)
    }

    pub(crate) fn stage(&self, request: u8, grant: &Grant) -> Answer {
        self.ask(Work::Stage { request: [request; 16].into(), grant: grant.clone() })
    }

    /// Stages and gives the lease.
    pub(crate) fn staged(&self, n: u8, kind: LeaseKind) -> Id {
        match self.stage(n, &grant(n, kind)) {
            Ok(Reply::Staged { lease, .. }) => lease,
            other => panic!("not staged: {other:?}"),
        }
    }

    pub(crate) fn lease(&self, id: Id) -> Option<Lease> {
        self.ledger.read().unwrap().lease(id).unwrap()
    }

    pub(crate) fn linked(&self, id: Id, kind: LeaseKind) -> bool {
        let lease = self.lease(id).unwrap_or_else(|| like(&grant(1, kind)));
        self.tree.look(&Place::of(id, &lease)).unwrap().is_some()
    }

    /// Has everything that rides along committed.
    pub(crate) fn flush(&self) {
        for _ in 0..2 {
            self.ask(Work::Note(Event::new(0, tobj::AuditEvent::Admin))).unwrap();
        }
    }

    /// The outcomes of all audit records of this kind so far; checks that numbers have no gap.
    pub(crate) fn outcomes(&self, event: tobj::AuditEvent) -> Vec<String> {
        let all: Vec<_> = self.ledger.read().unwrap().outbox(0).unwrap().map(Result::unwrap).collect();
        assert!(all.iter().map(|(seq, _)| *seq).eq(1..=all.len() as u64));
        all.into_iter().filter(|(_, e)| e.event == event).map(|(_, e)| e.outcome.unwrap_or_default()).collect()
    }

    pub(crate) fn path(&self, below: &str) -> PathBuf {
        self.dir.path().join(below)
    }

    /// Takes the object away behind the stager's back.
    pub(crate) fn lose_object(&self) {
        let name = content().to_string();
        std::fs::remove_file(self.path(&format!("storeroom/{}/{name}", &name[..2]))).unwrap();
    }
}

pub(crate) fn content() -> Sha256 {
    let sha256: [u8; 32] = sha2::Sha256::digest(CONTENT).into();
    sha256.into()
}

pub(crate) fn grant(n: u8, kind: LeaseKind) -> Grant {
    Grant {
        id: [n; 16].into(),
        customer: "alice".parse().unwrap(),
        product: "maps".parse().unwrap(),
        version: "1.0".parse().unwrap(),
        file: "grüße 1.iso".parse().unwrap(),
        sha256: content(),
        size: CONTENT.len() as u64,
        kind,
        lease_expires: NOW + 1000,
        issued: NOW,
        use_by: NOW + 60,
    }
}

fn like(grant: &Grant) -> Lease {
    Lease {
        customer: grant.customer.clone(),
        product: grant.product.clone(),
        version: grant.version.clone(),
        file: grant.file.clone(),
        ..crate::rows::tests::lease(grant.kind)
    }
}

/// Asks for something on a disk that hangs: all that it does there waits for a while, and meanwhile its runtime has to go on.
pub(crate) fn on_a_disk_that_hangs<T: Send>(kit: &Kit, asks: impl Future<Output = T> + Send) -> T {
    let faults = kit.tree.faults();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let worker = runtime.handle().clone();
    faults.hang();
    std::thread::scope(|scope| {
        let asking = scope.spawn(|| runtime.block_on(asks));
        let mut waits = 0;
        let goes_on = loop {
            eventually("it asks the disk, or is done", || faults.waiting() > 0 || asking.is_finished());
            let (beat, beats) = std::sync::mpsc::channel();
            worker.spawn(async move { beat.send(()) });
            let until = std::time::Instant::now() + PATIENCE;
            while !asking.is_finished() && beats.try_recv().is_err() && std::time::Instant::now() < until {
                std::thread::yield_now();
            }
            if asking.is_finished() || std::time::Instant::now() >= until {
                break asking.is_finished();
            }
            waits += 1;
            faults.let_pass();
        };
        faults.disarm(); // also where it failed: nobody is left waiting
        let answer = asking.join().unwrap();
        assert!(goes_on, "the runtime itself waits for the disk, at {waits}");
        assert!(waits > 0, "it asks nothing of the disk");
        answer
    })
}

/// Waits for a condition that another thread brings about; a test that waits in vain fails.
pub(crate) fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let until = std::time::Instant::now() + PATIENCE;
    while !holds() {
        assert!(std::time::Instant::now() < until, "in vain: {what}");
        std::thread::yield_now();
    }
}
