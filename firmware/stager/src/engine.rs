//! The one writer: takes what is asked in batches, each with one commit, and does what the tree needs for it.
//!
//! # Order of durable steps
//!
//! For a batch, whatever it holds:
//!
//! 1. one ledger commit: the marks that the last batch left, records that ride along, and what each request of this batch changes
//!    (a new lease is *pending*, one that goes is *removing*), with their audit records; one that is renewed keeps its link, and
//!    stays *active*;
//! 2. the tree: directories and links are made, links removed;
//! 3. every directory that got or lost an entry is synced;
//! 4. the answers;
//! 5. the marks (pending → active, removing → dropped) go with the next commit, which comes after [`RIDE`] if nobody asks for one.
//!
//! Killed before 1, nothing has happened. Killed after, start-up finds what is pending or removing and does 2 to 5 again; both
//! may be done any number of times. A request whose step in the tree fails gets its answer only after the commit that takes it back.
//!
//! A ledger or a directory that could not be synced leaves open what is on the disk. The writer then ends, and the daemon with it:
//! a new start reads what is really there.

use crate::clock::Clock;
use crate::killpoint::{Point, hit};
use crate::ledger::{Ledger, LedgerError, Number, Txn};
use crate::tree::{Batch, Place, Tree, TreeError};
use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tobj::{Fault, Id, Sha256};
use tokio::sync::{Notify, oneshot};

mod gathering;
mod leases;
mod objects;
mod plan;
mod transfers;
mod work;

pub(crate) use leases::{give_back, remove as remove_lease};
pub use transfers::{Access, Begin};
pub(crate) use transfers::{COMPLETE, End, end as transfers_end, find, may_start};
pub use work::{Answer, Grace, Refusal, Rules, Work};

use gathering::Gathering;
use objects::Stalled;

/// Longest time that a record which nobody waits for rides without a commit.
pub const RIDE: Duration = Duration::from_millis(200);
/// Most requests in one batch; more wait for the next. Each may need four open directories.
pub const MAX_BATCH: usize = 128;

/// Most records in one batch that nobody waits for.
const MAX_RIDERS: usize = 1024;

/// Why the writer ended.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The ledger.
    #[error("staging stopped at the ledger")]
    Ledger(#[from] LedgerError),
    /// The tree.
    #[error("staging stopped at the file system")]
    Tree(#[from] TreeError),
    /// The thread could not be started, or panicked.
    #[error("the writer's thread is gone")]
    Thread,
}

/// A step in the tree, after the commit.
#[derive(Debug)]
pub(crate) enum Step {
    Link {
        lease: Id,
        place: Place,
        sha256: Sha256,
    },
    Unlink {
        lease: Id,
        place: Place,
    },
    /// A link to what was an object's file becomes one to what is now.
    Relink {
        place: Place,
        sha256: Sha256,
        /// Behind which lease to go on if it is refused.
        after: Option<Id>,
    },
    Quarantine {
        sha256: Sha256,
        /// The file that is meant; one that came in since then stays.
        inode: Option<u64>,
    },
    Discard {
        sha256: Sha256,
    },
    DropQuarantined {
        sha256: Sha256,
    },
    DropUpload {
        sha256: Sha256,
    },
}

/// What planning a request came to.
struct Plan {
    answer: Answer,
    steps: Vec<Step>,
    /// What is to be done after it, soon.
    follow: Vec<Work>,
}

/// What the next commit has to note of a lease.
#[derive(Debug)]
enum Mark {
    Linked,
    Unlinked,
    Failed { why: String },
}

/// What is true of a lease before the ledger says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settled {
    /// Its link is there and durable.
    Linked,
    /// Its link is gone for good.
    Gone,
}

struct Job {
    work: Work,
    answer: Option<oneshot::Sender<Answer>>,
}

enum Message {
    Job(Box<Job>),
    Stop,
}

/// How others reach the writer.
#[derive(Debug, Clone)]
pub struct Handle {
    queue: Sender<Message>,
    settled: Arc<Mutex<HashMap<Id, Settled>>>,
    committed: Arc<Notify>,
    running: Arc<AtomicBool>,
    unlinked: Arc<Mutex<Option<String>>>,
    receiving: Arc<Mutex<HashSet<Sha256>>>,
    stalled: Arc<Mutex<Stalled>>,
}

impl Handle {
    /// Whether there is a writer: after a failure it is gone, and what still answers is about to be.
    pub fn is_running(&self) -> bool {
        self.running.load(SeqCst)
    }

    /// Why the file system did not take the last link, if so, and what to do then.
    pub fn unlinked(&self) -> Option<String> {
        lock(&self.unlinked).clone()
    }

    /// What keeps objects that were put in again from being served, if anything.
    pub fn stalled(&self) -> Option<String> {
        lock(&self.stalled).why()
    }

    /// Takes note that an upload is coming in, which the sweep leaves alone until [`Handle::received`]. False if it is already.
    pub(crate) fn receive(&self, sha256: Sha256) -> bool {
        lock(&self.receiving).insert(sha256)
    }

    /// It no longer is.
    pub(crate) fn received(&self, sha256: Sha256) {
        lock(&self.receiving).remove(&sha256);
    }

    /// Asks, and waits until the answer holds.
    pub async fn ask(&self, work: Work) -> Answer {
        self.submit(work).await.unwrap_or_else(|_| Err(gone()))
    }

    /// The same from a thread without a runtime.
    pub fn ask_blocking(&self, work: Work) -> Answer {
        self.submit(work).blocking_recv().unwrap_or_else(|_| Err(gone()))
    }

    /// Has something recorded with the next commit, without waiting for it.
    pub fn ride(&self, work: Work) {
        // Without a writer the daemon is about to end; the start after that finds what was durable.
        let _ = self.queue.send(Message::Job(Box::new(Job { work, answer: None })));
    }

    /// Waits for a commit after the last one that this told of. For one waiter.
    pub async fn committed(&self) {
        self.committed.notified().await;
    }

    /// Has the writer commit what it has and end.
    pub fn stop(&self) {
        let _ = self.queue.send(Message::Stop);
    }

    /// What is true of a lease beyond what the ledger says. To be asked *before* the ledger is read.
    pub fn settled(&self, lease: Id) -> Option<Settled> {
        lock(&self.settled).get(&lease).copied()
    }

    /// The same of all leases; most of the time there are none.
    pub fn all_settled(&self) -> HashMap<Id, Settled> {
        lock(&self.settled).clone()
    }

    fn submit(&self, work: Work) -> oneshot::Receiver<Answer> {
        let (answer, receiver) = oneshot::channel();
        let _ = self.queue.send(Message::Job(Box::new(Job { work, answer: Some(answer) })));
        receiver
    }
}

/// What is said while there is no writer.
pub(crate) const STOPPED: &str = "staging has stopped after a failure; the daemon is starting anew";

fn gone() -> Refusal {
    Refusal::new(Fault::Unavailable, STOPPED)
}

/// The writer.
pub struct Engine {
    ledger: Arc<Ledger>,
    tree: Arc<Tree>,
    clock: Clock,
    rules: Rules,
    queue: Receiver<Message>,
    settled: Arc<Mutex<HashMap<Id, Settled>>>,
    committed: Arc<Notify>,
    /// Why the last link could not be made, if that was the file system's fault.
    unlinked: Arc<Mutex<Option<String>>>,
    /// Uploads that are coming in.
    receiving: Arc<Mutex<HashSet<Sha256>>>,
    stalled: Arc<Mutex<Stalled>>,
    marks: BTreeMap<Id, Mark>,
    riders: Vec<Work>,
    /// What the last round left to be done soon.
    follow: VecDeque<Work>,
    /// Objects whose file is gone and whose row goes with the next commit.
    discarded: Vec<Sha256>,
    /// Answers that hold only after the next commit.
    held: Vec<(Option<oneshot::Sender<Answer>>, Answer)>,
    /// Since when something waits for a commit that nobody asked for.
    waiting: Option<Instant>,
    /// How many requests the last batch had, and how long it took.
    last: (usize, Duration),
}

impl Engine {
    /// Starts the writer on a thread of its own. The receiver gets what it ended with.
    ///
    /// # Errors
    /// When there can be no thread.
    pub fn start(
        ledger: Arc<Ledger>,
        tree: Arc<Tree>,
        clock: Clock,
        rules: Rules,
    ) -> Result<(Handle, oneshot::Receiver<Result<(), EngineError>>), EngineError> {
        let (sender, queue) = channel();
        let settled = Arc::<Mutex<HashMap<Id, Settled>>>::default();
        let committed = Arc::new(Notify::new());
        let running = Arc::new(AtomicBool::new(true));
        let (unlinked, receiving, stalled) = (Arc::default(), Arc::default(), Arc::default());
        let handle = Handle {
            queue: sender,
            settled: Arc::clone(&settled),
            committed: Arc::clone(&committed),
            running: Arc::clone(&running),
            unlinked: Arc::clone(&unlinked),
            receiving: Arc::clone(&receiving),
            stalled: Arc::clone(&stalled),
        };
        let mut engine = Self {
            ledger,
            tree,
            clock,
            rules,
            queue,
            settled,
            committed,
            unlinked,
            receiving,
            stalled,
            marks: BTreeMap::new(),
            riders: Vec::new(),
            follow: VecDeque::new(),
            discarded: Vec::new(),
            held: Vec::new(),
            waiting: None,
            last: (0, Duration::ZERO),
        };
        let (end, ended) = oneshot::channel();
        std::thread::Builder::new()
            .name("writer".into())
            .spawn(move || {
                let outcome = engine.run();
                running.store(false, SeqCst);
                drop(engine);
                let _ = end.send(outcome);
            })
            .map_err(|_| EngineError::Thread)?;
        Ok((handle, ended))
    }

    fn run(&mut self) -> Result<(), EngineError> {
        loop {
            let here = self.queue.try_recv().ok();
            let contended = matches!(here, Some(Message::Job(ref job)) if job.answer.is_some());
            let first = match self.waiting {
                _ if here.is_some() || self.is_urgent() => here,
                None => Some(self.queue.recv().unwrap_or(Message::Stop)),
                Some(since) => match self.queue.recv_timeout(RIDE.saturating_sub(since.elapsed())) {
                    Ok(message) => Some(message),
                    Err(RecvTimeoutError::Timeout) => None,
                    Err(RecvTimeoutError::Disconnected) => Some(Message::Stop),
                },
            };
            let (mut jobs, mut stop) = (Vec::new(), false);
            let mut gathering = Gathering::after(self.last, contended);
            let mut next = first;
            while let Some(message) = next {
                match message {
                    Message::Job(job) if job.answer.is_none() => {
                        self.riders.push(job.work);
                        self.waiting.get_or_insert_with(Instant::now);
                    }
                    Message::Job(job) => jobs.push(*job),
                    Message::Stop => stop = true,
                }
                let full = jobs.len() >= MAX_BATCH || self.riders.len() >= MAX_RIDERS;
                next = if stop || full {
                    None
                } else {
                    self.queue.try_recv().ok().or_else(|| gathering.as_mut()?.next(&self.queue, jobs.len()))
                };
            }
            if !jobs.is_empty() || self.is_urgent() || self.waiting.is_some_and(|since| since.elapsed() >= RIDE) {
                let (begun, count) = (Instant::now(), jobs.len());
                self.round(jobs)?;
                self.last = (count, begun.elapsed());
            }
            if stop {
                // What is to be done soon is found again by the next start. What waits and the marks of it are committed.
                self.follow.clear();
                while self.waiting.is_some() || !self.held.is_empty() {
                    self.round(Vec::new())?;
                    self.follow.clear();
                }
                return Ok(self.ledger.checkpoint()?);
            }
        }
    }

    /// Whether a round is due even if nobody asks.
    fn is_urgent(&self) -> bool {
        !self.held.is_empty() || !self.follow.is_empty()
    }

    /// One round of the steps above.
    fn round(&mut self, jobs: Vec<Job>) -> Result<(), EngineError> {
        hit(Point::BeforeCommit);
        let (marks, discarded) = (std::mem::take(&mut self.marks), std::mem::take(&mut self.discarded));
        let mut riders = std::mem::take(&mut self.riders);
        riders.extend(self.follow.drain(..));
        self.waiting = None;
        let (mut work, mut answers) = (Vec::with_capacity(jobs.len()), Vec::with_capacity(jobs.len()));
        for job in jobs {
            work.push(job.work);
            answers.push(job.answer);
        }
        let now = self.clock.now();
        let full = work.iter().chain(&riders).any(plan::minds_space) && self.is_full();
        let ((rider_steps, mut follow), plans) = self.ledger.write(|txn| {
            let mut steps = Vec::new();
            for (id, mark) in &marks {
                leases::settle(txn, *id, mark, now, &mut steps)?;
            }
            for sha256 in discarded {
                objects::discarded(txn, sha256)?;
            }
            let mut follow = Vec::new();
            for rider in riders {
                let plan = self.plan(txn, rider, full, now)?;
                steps.extend(plan.steps);
                follow.extend(plan.follow);
            }
            let plans = work.into_iter().map(|work| self.plan(txn, work, full, now)).collect::<Result<Vec<_>, _>>()?;
            self.keep_time(txn)?;
            Ok(((steps, follow), plans))
        })?;
        hit(Point::AfterCommit);
        self.committed.notify_one();
        {
            let mut settled = lock(&self.settled);
            settled.retain(|id, _| !marks.contains_key(id));
        }
        for (answer, held) in self.held.drain(..) {
            send(answer, held);
        }
        let mut batch = Batch::default();
        let mut stalled = HashSet::new();
        for step in rider_steps {
            // Of those that nobody asked for, most remove, which does not get refused. An object whose links are refused waits.
            let healing = if let Step::Relink { sha256, .. } = &step { Some(*sha256) } else { None };
            if healing.is_some_and(|sha256| stalled.contains(&sha256)) {
                continue;
            }
            if self.apply(step, &mut batch)?.is_err() {
                stalled.extend(healing);
            }
        }
        follow.retain(|work| work.heals().is_none_or(|sha256| !stalled.contains(&sha256)));
        let mut done = Vec::with_capacity(plans.len());
        for (plan, answer) in plans.into_iter().zip(answers) {
            for work in plan.follow {
                self.queue(&mut follow, work);
            }
            let mut outcome = plan.answer;
            let mut failed = false;
            for step in plan.steps {
                if let Err(refusal) = self.apply(step, &mut batch)? {
                    outcome = Err(refusal);
                    failed = true;
                }
            }
            if failed { self.held.push((answer, outcome)) } else { done.push((answer, outcome)) }
        }
        self.tree.sync(&mut batch)?;
        hit(Point::BeforeAnswer);
        self.show_settled();
        for (answer, outcome) in done {
            send(answer, outcome);
        }
        hit(Point::AfterAnswer);
        self.follow.extend(follow);
        Ok(())
    }

    /// Has something done soon. The links of an object that was put in again are made by one at a time: the last one to begin.
    fn queue(&self, follow: &mut Vec<Work>, work: Work) {
        if let Work::Heal { sha256, after: None } = work {
            follow.retain(|other| other.heals() != Some(sha256));
            lock(&self.stalled).tried(sha256);
        }
        follow.push(work);
    }

    /// Whether there is too little space for more leases and records. A file system that does not say is not full.
    fn is_full(&self) -> bool {
        self.tree.space().is_ok_and(|(free, _)| free < self.rules.reserve)
    }

    /// Does a step in the tree. The outer error ends the writer, the inner one only this request.
    fn apply(&mut self, step: Step, batch: &mut Batch) -> Result<Result<(), Refusal>, EngineError> {
        if batch.is_large() {
            self.tree.sync(batch)?;
        }
        let (lease, mark, refusal) = match step {
            Step::Unlink { lease, place } => {
                self.tree.unlink(&place, batch)?;
                (lease, Mark::Unlinked, Ok(()))
            }
            Step::Relink { place, sha256, after } => match self.tree.relink(&place, sha256, batch) {
                Ok(()) => return Ok(Ok(())),
                Err(error @ (TreeError::Io { .. } | TreeError::ReadOnly)) => return Err(error.into()),
                Err(error) => {
                    lock(&self.stalled).add(sha256, after, &error);
                    return Ok(Err(Refusal::new(fault_of(&error), error.to_string())));
                }
            },
            Step::Quarantine { sha256, inode } => return Ok(Ok(self.tree.quarantine(sha256, inode, batch)?)),
            Step::DropQuarantined { sha256 } => return Ok(Ok(self.tree.drop_quarantined(sha256)?)),
            Step::DropUpload { sha256 } => {
                // One that has begun since, from its first byte, has the same name; who begins meanwhile hears that it is busy.
                if lock(&self.receiving).insert(sha256) {
                    let dropped = self.tree.drop_incoming(&sha256.to_string());
                    lock(&self.receiving).remove(&sha256);
                    dropped?;
                }
                return Ok(Ok(()));
            }
            // Asked for twice in one batch; what is there by now may have come in after the first time.
            Step::Discard { sha256 } if self.discarded.contains(&sha256) => return Ok(Ok(())),
            Step::Discard { sha256 } => {
                self.tree.discard(sha256, batch)?;
                self.discarded.push(sha256);
                self.waiting.get_or_insert_with(Instant::now);
                return Ok(Ok(()));
            }
            Step::Link { lease, place, sha256 } => match self.tree.link(&place, sha256, false, batch) {
                Ok(()) => {
                    *lock(&self.unlinked) = None;
                    (lease, Mark::Linked, Ok(()))
                }
                Err(error @ (TreeError::Io { .. } | TreeError::ReadOnly)) => return Err(error.into()),
                // Another request of this batch has made it.
                Err(_) if matches!(self.marks.get(&lease), Some(Mark::Linked)) => (lease, Mark::Linked, Ok(())),
                Err(error) => {
                    if let Some(what_to_do) = remedy(&error) {
                        let means = "what is staged is served, but who wants more is refused";
                        *lock(&self.unlinked) =
                            Some(format!("the last link was refused: {error}; {means}; {what_to_do}"));
                    }
                    let refusal = Refusal::new(fault_of(&error), error.to_string());
                    (lease, Mark::Failed { why: refusal.why.clone() }, Err(refusal))
                }
            },
        };
        self.marks.insert(lease, mark);
        self.waiting.get_or_insert_with(Instant::now);
        Ok(refusal)
    }

    /// Lets readers see what is true already.
    fn show_settled(&self) {
        let mut settled = lock(&self.settled);
        for (id, mark) in &self.marks {
            match mark {
                Mark::Linked => settled.insert(*id, Settled::Linked),
                Mark::Unlinked => settled.insert(*id, Settled::Gone),
                Mark::Failed { .. } => None,
            };
        }
    }

    /// Keeps the highest trusted time, not with every commit.
    fn keep_time(&self, txn: &mut Txn<'_>) -> Result<(), LedgerError> {
        const STEP: u64 = 10;
        let kept = self.clock.kept();
        if kept > txn.number(Number::Clock)?.saturating_add(STEP) {
            txn.set_number(Number::Clock, kept)?;
        }
        Ok(())
    }
}

fn send(to: Option<oneshot::Sender<Answer>>, answer: Answer) {
    if let Some(to) = to {
        let _ = to.send(answer); // who asked may be gone; what was done holds all the same
    }
}

fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What an operator can do so that links can be made; none where nothing is wrong with the file system.
fn remedy(error: &TreeError) -> Option<&'static str> {
    match error {
        TreeError::TooManyLinks => {
            Some("end leases of the object, or have the storage on XFS, which allows more links")
        }
        TreeError::Full => Some(
            "retire objects, end leases, or enlarge the file system; bytes may be free and inodes or a quota used up",
        ),
        TreeError::NoObject | TreeError::Occupied | TreeError::ReadOnly | TreeError::Io { .. } => None,
    }
}

fn fault_of(error: &TreeError) -> Fault {
    match error {
        TreeError::NoObject => Fault::NotFound,
        TreeError::Occupied => Fault::Invalid,
        TreeError::TooManyLinks | TreeError::Full | TreeError::ReadOnly | TreeError::Io { .. } => Fault::Unavailable,
    }
}

#[cfg(test)]
mod tests;
