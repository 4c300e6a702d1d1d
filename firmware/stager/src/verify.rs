//! Reads objects again and compares them with their hashes, so that a disk that forgets is noticed before a customer does.
//!
//! In *passes*: each object keeps the number of the pass in which it was last found right. A new pass raises the number, by an
//! operator's order or once in [`crate::config::Config::verify_days`]; whatever is behind is due. So a pass goes on after a restart
//! where it was. It reads with the idle I/O priority and no faster than [`crate::config::Config::verify_bytes_per_second`], from the
//! disk and not from the page cache.
//!
//! A pass also begins at a start that finds the file [`ORDER`] at the root: the machine's storage leaves it where what is on the disks
//! may have changed without having been written.
//!
//! What is not as it was put in goes into quarantine: see the states in [`crate::engine`]. Its leases stay, and are served again once
//! it is put in again.

use crate::clock::Clock;
use crate::engine::{Handle, Work};
use crate::ledger::{Ledger, LedgerError, Number};
use crate::tree::Tree;
use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
use sha2::{Digest, Sha256 as Hasher};
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tobj::{ObjectState, Sha256};

/// The file that orders a pass at the next start, below the root; it goes once the pass is in the ledger.
pub const ORDER: &str = "verify-all";
/// Bytes that are read at a time.
const BLOCK: usize = 1 << 20;
/// How often it is looked whether there is something to do, without being told.
const LOOK: Duration = Duration::from_secs(60);
const DAY: u64 = 86_400;

/// How it is done.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// Bytes that are read in a second at most; 0 for no limit.
    pub bytes_per_second: u64,
    /// Days from one pass to the next; 0 for none without an order.
    pub days: u64,
}

/// What the verifier needs.
#[derive(Debug, Clone)]
pub struct Parts {
    /// Where objects are.
    pub tree: Arc<Tree>,
    /// Which there are.
    pub ledger: Arc<Ledger>,
    /// Who keeps the outcome.
    pub engine: Handle,
    /// When a pass is due.
    pub clock: Clock,
}

/// The thread that verifies. It ends with this.
#[derive(Debug)]
pub struct Verifier {
    wake: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
    doing: Arc<Mutex<Option<Sha256>>>,
}

/// Begins a pass if [`ORDER`] is there. What fails is tried again at the next start. Waits for the disk.
pub fn begin_if_ordered(tree: &Tree, engine: &Handle) {
    let order = tree.path().join(ORDER);
    if !order.exists() {
        return;
    }
    tracing::warn!("the disks may have changed what nobody wrote: every object is verified");
    let begun = engine.ask_blocking(Work::Verify { sha256: None, by: "storage".into() });
    let done = begun.map_err(|refusal| refusal.to_string());
    if let Err(why) = done.and_then(|_| std::fs::remove_file(&order).map_err(|error| error.to_string())) {
        tracing::error!(why, "this could not be ordered");
    }
}

/// What a look at an object came to.
struct Damage {
    /// The file that was looked at, if there was one: by the time it goes, another may have come in.
    inode: Option<u64>,
    why: String,
}

/// Why one object's look came to no result.
enum Cut {
    /// It is to end.
    Stop,
    /// The ledger or the writer failed, which others tell.
    Failed,
}

impl Verifier {
    /// Starts it.
    ///
    /// # Errors
    /// When there can be no thread.
    pub fn start(parts: Parts, pace: Pace) -> std::io::Result<Self> {
        let (wake, orders) = channel();
        let doing = Arc::<Mutex<Option<Sha256>>>::default();
        let mut work = Worker { parts, pace, orders, doing: doing.clone(), budget: Budget::new(pace) };
        let thread = std::thread::Builder::new().name("verify".into()).spawn(move || work.run())?;
        Ok(Self { wake: Some(wake), thread: Some(thread), doing })
    }

    /// Has it look at once whether there is something to do.
    pub fn wake(&self) {
        if let Some(wake) = &self.wake {
            let _ = wake.send(()); // one that has ended does nothing any more
        }
    }

    /// What it reads at present.
    pub fn doing(&self) -> Option<Sha256> {
        *self.doing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Verifier {
    fn drop(&mut self) {
        self.wake = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join(); // it has no value to give
        }
    }
}

struct Worker {
    parts: Parts,
    pace: Pace,
    orders: Receiver<()>,
    doing: Arc<Mutex<Option<Sha256>>>,
    budget: Budget,
}

impl Worker {
    fn run(&mut self) {
        if let Err(error) = crate::idle::lower_io_priority() {
            tracing::warn!(%error, "objects are verified with the usual I/O priority");
        }
        loop {
            match self.pass() {
                Err(Cut::Stop) => return,
                Ok(()) | Err(Cut::Failed) => {}
            }
            match self.orders.recv_timeout(LOOK) {
                Ok(()) | Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    /// Looks at everything that is due.
    fn pass(&mut self) -> Result<(), Cut> {
        self.begin_if_due()?;
        let mut after = None;
        while let Some((sha256, pass)) = self.next_due(after).map_err(|error| failed(&error))? {
            self.show(Some(sha256));
            let found = self.look(sha256);
            self.show(None);
            let work = match found? {
                None => Work::Verified { sha256, pass },
                Some(Damage { inode, why }) => {
                    tracing::error!(%sha256, why, "an object is damaged; it goes into quarantine until it is put in again");
                    Work::Quarantine { sha256, inode, why }
                }
            };
            self.parts.engine.ask_blocking(work).map_err(|_| Cut::Failed)?;
            after = Some(sha256);
        }
        Ok(())
    }

    fn begin_if_due(&self) -> Result<(), Cut> {
        let now = self.parts.clock.now();
        if self.pace.days == 0 || !now.trusted {
            return Ok(());
        }
        let read = self.parts.ledger.read().and_then(|read| read.number(Number::PassBegan));
        let began = read.map_err(|error| failed(&error))?;
        if now.at.saturating_sub(began) < self.pace.days.saturating_mul(DAY) {
            return Ok(());
        }
        let order = Work::Verify { sha256: None, by: "schedule".into() };
        self.parts.engine.ask_blocking(order).map(drop).map_err(|_| Cut::Failed)
    }

    /// The next object after this one that is behind, and the pass it is behind.
    fn next_due(&self, after: Option<Sha256>) -> Result<Option<(Sha256, u64)>, LedgerError> {
        let read = self.parts.ledger.read()?;
        let pass = read.number(Number::Pass)?;
        for entry in read.objects(after)? {
            let (sha256, object) = entry?;
            if object.pass < pass && object.state == ObjectState::Good {
                return Ok(Some((sha256, pass)));
            }
        }
        Ok(None)
    }

    /// Reads an object; what is wrong with it, if anything.
    fn look(&mut self, sha256: Sha256) -> Result<Option<Damage>, Cut> {
        let tree = &self.parts.tree;
        let mut file = match tree.open_object(sha256) {
            Ok(Some(file)) => file,
            Ok(None) => return Ok(Some(Damage { inode: None, why: "it is not in the storeroom".into() })),
            Err(error) => {
                let inode = tree.object(sha256).ok().flatten().map(|there| there.inode);
                return Ok(Some(Damage { inode, why: daemon::report(&error) }));
            }
        };
        let inode = file.metadata().ok().map(|there| there.ino());
        let (mut hasher, mut block, mut at) = (Hasher::new(), vec![0; BLOCK], 0i64);
        loop {
            let _ = posix_fadvise(&file, at, BLOCK as i64, PosixFadviseAdvice::POSIX_FADV_DONTNEED); // advice only
            match file.read(&mut block) {
                Ok(0) => break,
                Ok(n) => {
                    hasher.update(&block[..n]);
                    at += i64::try_from(n).unwrap_or(0);
                    self.rest(n as u64)?;
                }
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Ok(Some(Damage { inode, why: format!("it cannot be read: {error}") })),
            }
        }
        let found: [u8; 32] = hasher.finalize().into();
        let found = Sha256::from(found);
        Ok((found != sha256).then(|| Damage { inode, why: format!("its bytes hash to {found}") }))
    }

    /// Waits until so many bytes more are due, or it is to end.
    fn rest(&mut self, bytes: u64) -> Result<(), Cut> {
        let until = self.budget.spend(bytes, Instant::now());
        loop {
            match self.orders.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(()) => {} // the pass under way finds what was ordered
                Err(RecvTimeoutError::Timeout) => return Ok(()),
                Err(RecvTimeoutError::Disconnected) => return Err(Cut::Stop),
            }
        }
    }

    fn show(&self, what: Option<Sha256>) {
        *self.doing.lock().unwrap_or_else(PoisonError::into_inner) = what;
    }
}

fn failed(error: &LedgerError) -> Cut {
    tracing::warn!("objects are not verified: {}", daemon::report(error));
    Cut::Failed
}

/// When the next bytes may be read.
#[derive(Debug)]
struct Budget {
    rate: u64,
    next: Option<Instant>,
}

impl Budget {
    fn new(pace: Pace) -> Self {
        Self { rate: pace.bytes_per_second, next: None }
    }

    /// Until when to wait after so many bytes. Time that was not used is not saved up.
    fn spend(&mut self, bytes: u64, now: Instant) -> Instant {
        if self.rate == 0 {
            return now;
        }
        let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(self.rate);
        let next = self.next.filter(|next| *next > now).unwrap_or(now)
            + Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        self.next = Some(next);
        next
    }
}

#[cfg(test)]
mod tests;
