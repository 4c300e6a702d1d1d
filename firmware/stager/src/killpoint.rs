//! Places between durable steps where a test can have the process killed.
//!
//! Nothing arms them but a test in its own child process: there is no switch for it in the daemon.

use std::sync::atomic::{AtomicU8, AtomicU32, Ordering::SeqCst};

macro_rules! points {
    ($($(#[$meta:meta])* $name:ident,)*) => {
        /// A place between two durable steps.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[repr(u8)]
        pub enum Point { $($(#[$meta])* $name,)* }

        impl Point {
            /// Every place.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];
        }
    };
}

points! {
    /// A batch is taken, nothing of it committed.
    BeforeCommit,
    /// Committed, the tree not touched.
    AfterCommit,
    /// In the middle of making a link: directories are there.
    BetweenMkdirAndLink,
    /// A link was made, nothing synced.
    AfterLink,
    /// A link was removed, nothing synced.
    AfterUnlink,
    /// All directories are synced, nobody has an answer.
    BeforeAnswer,
    /// The answers are out, the marks not committed.
    AfterAnswer,
    /// A part of an object is in incoming, synced; the ledger does not know how much.
    AfterCheckpoint,
    /// An object is in incoming, synced.
    AfterIncoming,
    /// An object that is not whole is in quarantine, the one in its place has no name yet.
    AfterSetAside,
    /// An object has its name in the storeroom, nothing synced.
    AfterRename,
    /// The directories of an object are synced, the ledger does not know it.
    BeforeStore,
    /// A change is in the ledger's log, and not in the ledger.
    AfterLog,
    /// The ledger is about to take for good what is in its log.
    BeforeLedgerSync,
    /// The ledger has it, the log was not begun anew.
    AfterLedgerSync,
    /// A new log is made but has not its name yet.
    BeforeLogName,
    /// A new ledger is made but has not its name yet.
    BeforeLedgerName,
}

/// 0: nothing armed; otherwise the point's number plus one.
static ARMED: AtomicU8 = AtomicU8::new(0);
static LEFT: AtomicU32 = AtomicU32::new(0);

/// Has the process killed when it comes to this place for the `nth` time (from 1).
pub fn arm(point: Point, nth: u32) {
    LEFT.store(nth, SeqCst);
    ARMED.store(point as u8 + 1, SeqCst);
}

/// Marks a place.
pub(crate) fn hit(point: Point) {
    if ARMED.load(SeqCst) == point as u8 + 1 && LEFT.fetch_sub(1, SeqCst) == 1 {
        // As with a kill from outside: no destructor, no flush.
        let _ = nix::sys::signal::kill(nix::unistd::Pid::this(), nix::sys::signal::Signal::SIGKILL);
        std::process::abort();
    }
}
