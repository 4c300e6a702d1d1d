//! From the configuration to a running stager.

use crate::clock::{Clock, System};
use crate::config::Config;
use crate::database::Database;
use crate::engine::{Engine, EngineError, Grace};
use crate::grants::{KeyError, Verifier};
use crate::ledger::{Ledger, LedgerError, Number};
use crate::logins::{Cache, Door};
use crate::reconcile::{Report, reconcile};
use crate::revocations::{self, Watch};
use crate::service::Stager;
use crate::sessions::{PerCustomer, Sessions};
use crate::throttle::Throttle;
use crate::tree::{Tree, TreeError};
use crate::{engine::Work, outbox};
use daemon::config::ConfigError;
use daemon::ipc::Peers;
use daemon::{Shutdown, notify};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::UnixListener;
use tokio::task::JoinSet;

/// How often the counts of transfers under way go into the ledger.
const PROGRESS: Duration = Duration::from_secs(10);

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

/// The sockets that stagerd listens on.
#[derive(Debug)]
pub struct Sockets {
    /// For commlinkd.
    pub commands: UnixListener,
    /// For sessions of the ftp daemon.
    pub sessions: UnixListener,
}

/// The daemon: reads its configuration, binds its sockets, serves until the shutdown.
///
/// # Errors
/// [`RunError`].
pub async fn start(config: &Path, shutdown: Shutdown) -> Result<(), RunError> {
    let config: Config = daemon::config::load(config)?;
    raise_descriptor_limit();
    let bind =
        |path: &Path| daemon::ipc::bind(path).map_err(|source| RunError::Socket { path: path.to_owned(), source });
    // Storage first: who connects before that is over waits in the socket's queue only once it is bound.
    let storage = Storage::open(&config)?;
    let sockets = Sockets { commands: bind(&config.socket)?, sessions: bind(&config.sessions)? };
    serve(&config, storage, sockets, shutdown).await
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
    /// Opens tree and ledger and repairs what the last run left undone.
    ///
    /// # Errors
    /// [`RunError`]; nothing is made anew in place of what is there.
    pub fn open(config: &Config) -> Result<Self, RunError> {
        let wrong = |source| RunError::Tree { path: config.root.clone(), source };
        let tree = Arc::new(Tree::open(&config.root).map_err(wrong)?);
        let empty = tree.is_empty().map_err(wrong)?;
        let ledger = Ledger::open(&config.root, &tree.incoming_path(), empty, config.ledger_cache_bytes)?;
        let clock = Clock::new(Arc::new(System), ledger.read()?.number(Number::Clock)?);
        let found = reconcile(&ledger, &tree, grace(config), clock.now())?;
        tracing::info!(?found, "ledger and tree agree");
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
    let verifier = Verifier::load(&config.grant_key, config.name.clone())?;
    let Storage { tree, ledger, clock, found } = storage;
    let grace = grace(config);
    let (engine, mut ended) = Engine::start(ledger.clone(), tree.clone(), clock.clone(), grace)?;
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
    };
    let sessions = Arc::new(Sessions::new(
        door,
        PerCustomer { sessions: config.max_sessions_per_customer, bytes_per_second: config.customer_bytes_per_second },
    ));
    // Everything below ends with this one, which also ends when the writer or any of it does.
    let (trigger, end) = Shutdown::manual();
    let mut tasks = JoinSet::new();
    {
        let (ledger, database, engine, end) = (ledger.clone(), database.clone(), engine.clone(), end.clone());
        tasks.spawn(quietly(outbox::run(ledger, database, engine, end)));
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
        let service = Stager { name, verifier, tree, ledger, engine, clock, database, sessions, floor, found };
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
