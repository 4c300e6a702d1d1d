//! From the configuration to a running stager.

use crate::clock::{Clock, System};
use crate::config::Config;
use crate::database::Database;
use crate::down::Why;
use crate::engine::{Engine, EngineError, Grace, Rules};
use crate::grants::{KeyError, Verifier};
use crate::ingest::Intake;
use crate::ledger::{self, Ledger, LedgerError, Number, Sizes};
use crate::logins::{Cache, Door};
use crate::reconcile::{Amiss, Report, reconcile};
use crate::revocations::{self, Watch};
use crate::service::Stager;
use crate::sessions::{PerCustomer, Sessions};
use crate::starting::{Advance, Starting};
use crate::throttle::Throttle;
use crate::tree::{Tree, TreeError};
use crate::{down, engine::Work, outbox, verify};
use daemon::config::ConfigError;
use daemon::ipc::Peers;
use daemon::{Shutdown, notify};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::net::UnixListener;
use tokio::task::JoinSet;

/// How often the counts of transfers under way go into the ledger.
const PROGRESS: Duration = Duration::from_secs(10);
/// The pause before the disk is tried again after it failed; it doubles up to the longest.
const RETRY: Duration = Duration::from_secs(1);
const LONGEST_RETRY: Duration = Duration::from_secs(30);

/// Why stagerd does not serve.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The database's key.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The tree.
    #[error("the tree at {path} cannot be used")]
    Tree {
        /// Its root.
        path: PathBuf,
        /// Why.
        #[source]
        source: TreeError,
    },
    /// The ledger.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// Repair at start-up, or the writer.
    #[error("staging failed")]
    Engine(#[from] EngineError),
    /// A socket.
    #[error("the socket {path} cannot be served")]
    Socket {
        /// Its path.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// No randomness.
    #[error("the system has no randomness to give")]
    Random(#[from] getrandom::Error),
    /// A task ended that should not.
    #[error("a task ended before its time")]
    Task,
}

impl RunError {
    /// The check that tells of it while nothing is served; none for what ends the daemon.
    fn told_as(&self) -> Option<&'static str> {
        match self {
            Self::Tree { .. } | Self::Engine(EngineError::Tree(_)) => Some("storage"),
            Self::Ledger(error) | Self::Engine(EngineError::Ledger(error)) if error.is_of_the_disk() => Some("storage"),
            Self::Ledger(_) | Self::Engine(EngineError::Ledger(_)) => Some(LEDGER),
            Self::Config(_) | Self::Key(_) | Self::Engine(EngineError::Thread) => None,
            Self::Socket { .. } | Self::Random(_) | Self::Task => None,
        }
    }
}

/// The check that tells of a ledger which is not as it was written, is missing or of another version: a person has to do something.
const LEDGER: &str = "ledger";

/// The sockets that stagerd listens on.
#[derive(Debug)]
pub struct Sockets {
    /// For commlinkd.
    pub commands: UnixListener,
    /// For sessions of the ftp daemon.
    pub sessions: UnixListener,
}

/// The sockets as they stay bound while what serves them comes and goes.
pub(crate) struct Bound {
    commands: (PathBuf, std::os::unix::net::UnixListener),
    sessions: (PathBuf, std::os::unix::net::UnixListener),
    pub(crate) allow_uids: Vec<u32>,
}

impl Bound {
    fn new(config: &Config) -> Result<Self, RunError> {
        let bind = |path: &PathBuf| match daemon::ipc::bind_std(path).and_then(|l| l.set_nonblocking(true).map(|()| l))
        {
            Ok(listener) => Ok((path.clone(), listener)),
            Err(source) => Err(RunError::Socket { path: path.clone(), source }),
        };
        let allow_uids = config.allow_uids.clone();
        Ok(Self { commands: bind(&config.socket)?, sessions: bind(&config.sessions)?, allow_uids })
    }

    pub(crate) fn sockets(&self) -> Result<Sockets, RunError> {
        let open = |(path, listener): &(PathBuf, std::os::unix::net::UnixListener)| {
            let listener = listener.try_clone().and_then(UnixListener::from_std);
            listener.map_err(|source| RunError::Socket { path: path.clone(), source })
        };
        Ok(Sockets { commands: open(&self.commands)?, sessions: open(&self.sessions)? })
    }
}

/// The daemon: reads its configuration, binds its sockets, serves until the shutdown.
///
/// A failure of the disk does not end it, nor does a ledger that cannot be used: it says so to whoever asks for its status, refuses
/// everything else, and opens everything anew until that works, from what is really there by then. It waits for that without end, also
/// at the start: see [`crate::starting`].
///
/// # Errors
/// [`RunError`].
pub async fn start(config: &Path, shutdown: Shutdown) -> Result<(), RunError> {
    let config: Config = daemon::config::load(config)?;
    raise_descriptor_limit();
    run(&config, shutdown).await
}

/// The same with a configuration that is read.
///
/// # Errors
/// [`RunError`].
pub async fn run(config: &Config, shutdown: Shutdown) -> Result<(), RunError> {
    let bound = Bound::new(config)?;
    let mut why = Why { check: "storage", text: "starting: what is on the disk is being looked at".to_owned() };
    let (mut pause, starting) = (RETRY, Arc::new(Starting::new()));
    loop {
        let (for_opening, advance) = (config.clone(), starting.clone());
        let opening = tokio::task::spawn_blocking(move || Storage::open(&for_opening, &|| advance.advance()));
        let Some(opened) = down::until(&bound, &config.name, why, &shutdown, opening).await? else { return Ok(()) };
        let (served, in_use) = match opened.map_err(|_| RunError::Task)? {
            Ok(storage) => {
                starting.over();
                (serve(config, storage, bound.sockets()?, shutdown.clone()).await, true)
            }
            Err(error) => (Err(error), false),
        };
        let (error, check) = match served {
            Err(error) if !shutdown.started() => match error.told_as() {
                Some(check) => (error, check),
                None => return Err(error),
            },
            other => return other,
        };
        let means = if check == LEDGER { "nothing is staged or served: " } else { "" };
        why = Why { check, text: means.to_owned() + &daemon::report(&error) };
        if in_use {
            // What is wrong with a ledger that could be opened comes up again.
            pause = if check == LEDGER { LONGEST_RETRY } else { RETRY };
        }
        tracing::error!("{}; it is tried again in {} s", why.text, pause.as_secs());
        let waited = left_alone(&config.root, pause, &starting);
        if down::until(&bound, &config.name, why.clone(), &shutdown, waited).await?.is_none() {
            return Ok(());
        }
        pause = (pause * 2).min(LONGEST_RETRY);
    }
}

/// Waits for so long, and on until nobody has changed ledger or log for so long: what somebody is about to put back is not opened
/// when half of it is there.
async fn left_alone(root: &Path, pause: Duration, starting: &Starting) {
    let look = || {
        let root = root.to_owned();
        async { tokio::task::spawn_blocking(move || ledger::files(&root)).await.ok() }
    };
    let mut before = look().await;
    loop {
        // A disk that says what is wrong with it may yet work.
        starting.advance();
        tokio::time::sleep(pause).await;
        let now = look().await;
        if now == before {
            return;
        }
        before = now;
    }
}

/// Each session needs a few descriptors, each batch of stagings some more.
fn raise_descriptor_limit() {
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE)
        && soft < hard
        && let Err(error) = setrlimit(Resource::RLIMIT_NOFILE, hard, hard)
    {
        tracing::warn!(%error, soft, "the limit of open files stays low");
    }
}

/// What is on disk, made to agree with itself.
#[derive(Debug)]
pub struct Storage {
    tree: Arc<Tree>,
    ledger: Arc<Ledger>,
    clock: Clock,
    found: Report,
}

impl Storage {
    /// Opens tree and ledger and repairs what the last run left undone; `advance` hears how that gets on.
    ///
    /// # Errors
    /// [`RunError`]; nothing is made anew in place of what is there.
    pub fn open(config: &Config, advance: Advance<'_>) -> Result<Self, RunError> {
        let wrong = |source| RunError::Tree { path: config.root.clone(), source };
        let tree = Arc::new(Tree::open(&config.root).map_err(wrong)?);
        let empty = tree.is_empty().map_err(wrong)?;
        let sizes = Sizes { cache: config.ledger_cache_bytes, log: config.ledger_log_bytes };
        let ledger = Ledger::open(&config.root, &tree.incoming_path(), empty, sizes)?;
        let clock = Clock::new(Arc::new(System), ledger.read()?.number(Number::Clock)?);
        let found = reconcile(&ledger, &tree, grace(config), clock.now(), advance)?;
        tracing::info!("ledger and tree agree: {found}");
        Ok(Self { tree, ledger: Arc::new(ledger), clock, found })
    }
}

fn grace(config: &Config) -> Grace {
    Grace { standing: config.standing_grace_seconds, one_time: config.one_time_grace_seconds }
}

/// Serves until the shutdown, or until the writer fails.
///
/// # Errors
/// [`RunError`].
pub async fn serve(config: &Config, storage: Storage, sockets: Sockets, shutdown: Shutdown) -> Result<(), RunError> {
    let verifier = Arc::new(Verifier::load(&config.grant_key, config.name.clone())?);
    let Storage { tree, ledger, clock, found } = storage;
    let grace = grace(config);
    let rules = Rules { grace, reserve: config.reserve_bytes, upload_keep: config.upload_keep_seconds };
    let (engine, mut ended) = Engine::start(ledger.clone(), tree.clone(), clock.clone(), rules)?;
    let database = Arc::new(Database::new(&config.commlink, &config.database));
    let cache = Arc::new(Cache::new(Duration::from_secs(config.credential_cache_seconds))?);
    let door = Door {
        ledger: ledger.clone(),
        tree: tree.clone(),
        clock: clock.clone(),
        engine: engine.clone(),
        database: database.clone(),
        cache: cache.clone(),
        grace,
        throttle: Throttle::default(),
        verifier: verifier.clone(),
        staging: config.stage_at_login.then(|| Duration::from_millis(config.stage_at_login_milliseconds)),
        reserve: config.reserve_bytes,
    };
    let sessions = Arc::new(Sessions::new(
        door,
        PerCustomer { sessions: config.max_sessions_per_customer, bytes_per_second: config.customer_bytes_per_second },
    ));
    // Everything below ends with this one, which also ends when the writer or any of it does.
    let (trigger, end) = Shutdown::manual();
    let trouble = outbox::Trouble::default();
    let mut tasks = JoinSet::new();
    let left;
    {
        let (ledger, database, engine, end) = (ledger.clone(), database.clone(), engine.clone(), end.clone());
        let outbox = outbox::Outbox { ledger, database, engine, trouble: trouble.clone() };
        tasks.spawn(quietly(outbox::run(outbox, end)));
    }
    {
        let (ledger, database, engine, clock) = (ledger.clone(), database.clone(), engine.clone(), clock.clone());
        let (watch, end) = (Watch { ledger, database, engine, cache, clock }, end.clone());
        tasks.spawn(quietly(revocations::run(watch, end)));
    }
    {
        let (engine, sessions, every, end) = (engine.clone(), sessions.clone(), config.sweep_seconds, end.clone());
        tasks.spawn(quietly(tick(engine, sessions, every, end)));
    }
    {
        let (sessions, path, end) = (sessions.clone(), config.sessions.clone(), end.clone());
        let (allowed, most) = (Peers::uids(&config.session_uids), config.max_sessions);
        tasks.spawn(async move {
            let served = sessions.serve(sockets.sessions, allowed, most, end).await;
            served.map_err(|source| RunError::Socket { path, source })
        });
    }
    {
        let (name, floor, engine) = (config.name.clone(), config.min_free_bytes, engine.clone());
        let intake = Intake::new(tree.clone(), ledger.clone(), engine.clone(), floor).until(end.clone());
        let parts =
            verify::Parts { tree: tree.clone(), ledger: ledger.clone(), engine: engine.clone(), clock: clock.clone() };
        let pace = verify::Pace { bytes_per_second: config.verify_bytes_per_second, days: config.verify_days };
        let (for_order, for_verify) = (tree.clone(), engine.clone());
        let order = tokio::task::spawn_blocking(move || verify::begin_if_ordered(&for_order, &for_verify));
        order.await.map_err(|_| RunError::Task)?;
        let verify = verify::Verifier::start(parts, pace).map_err(|_| RunError::Engine(EngineError::Thread))?;
        let verify = Arc::new(verify);
        left = (verify.clone(), ledger.clone(), sessions.clone());
        let service = Stager {
            name,
            verifier,
            intake,
            verify,
            tree,
            ledger,
            engine,
            clock,
            database,
            trouble,
            sessions,
            floor,
            amiss: Arc::new(Mutex::new(Amiss::new(found))),
        };
        let (path, allowed) = (config.socket.clone(), Peers::uids(&config.allow_uids));
        tasks.spawn(async move {
            let served = daemon::ipc::serve(sockets.commands, allowed, service, end).await;
            served.map_err(|source| RunError::Socket { path, source })
        });
    }
    notify::ready();
    let (early, outcome) = tokio::select! {
        () = shutdown.wait() => (Ok(()), None),
        outcome = &mut ended => (Ok(()), Some(outcome)),
        Some(task) = tasks.join_next() => (Err(task.map_or(RunError::Task, |t| t.err().unwrap_or(RunError::Task))), None),
    };
    trigger.fire();
    // Sessions first: their last words go into the ledger.
    let mut late = Ok(());
    while let Some(task) = tasks.join_next().await {
        late = late.and(task.unwrap_or(Err(RunError::Task)));
    }
    engine.stop();
    let outcome = match outcome {
        Some(outcome) => outcome,
        None => ended.await,
    };
    // The last to let go of these waits for a disk that hangs.
    tokio::task::spawn_blocking(move || drop(left)).await.map_err(|_| RunError::Task)?;
    let written = outcome.map_err(|_| EngineError::Thread).flatten();
    early.and(late).and(written.map_err(RunError::from))
}

/// A task that has nothing to tell.
async fn quietly(task: impl Future<Output = ()>) -> Result<(), RunError> {
    task.await;
    Ok(())
}

/// What is to be done from time to time.
async fn tick(engine: crate::engine::Handle, sessions: Arc<Sessions>, sweep_seconds: u64, end: Shutdown) {
    let mut sweep = tokio::time::interval(Duration::from_secs(sweep_seconds.max(1)));
    let mut progress = tokio::time::interval(PROGRESS);
    for interval in [&mut sweep, &mut progress] {
        interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    }
    loop {
        tokio::select! {
            () = end.wait() => return,
            _ = sweep.tick() => {
                if let Err(refusal) = engine.ask(Work::Sweep).await {
                    tracing::warn!(%refusal, "the sweep did not happen");
                }
            }
            _ = progress.tick() => sessions.note_progress(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_is_being_put_back_is_not_opened_before_it_is_there() {
        let (dir, starting, pause) = (tempfile::tempdir().unwrap(), Starting::new(), Duration::from_secs(10));
        let begun = tokio::time::Instant::now();
        left_alone(dir.path(), pause, &starting).await;
        assert_eq!(begun.elapsed().as_secs(), 10);
        let putting_back = async {
            for bytes in 1..=3 {
                tokio::time::sleep(Duration::from_secs(9)).await;
                std::fs::write(dir.path().join(ledger::LOG), vec![7; bytes]).unwrap();
            }
        };
        let begun = tokio::time::Instant::now();
        tokio::join!(left_alone(dir.path(), pause, &starting), putting_back);
        assert_eq!(begun.elapsed().as_secs(), 40, "it changed at 9, 18 and 27 s");
    }
}
