//! Revocations: a question to the database is always open, so that a right that is withdrawn there ends here at once.
//!
//! The answers also bring the database's time. A time is worth something only if it has not been held back on the way: the question
//! bounds that, since an answer that comes more than a minute and a half after it is not used.

use crate::clock::Clock;
use crate::database::{self, Backoff, Database};
use crate::engine::{Handle, Work};
use crate::ledger::{Ledger, Number};
use crate::logins::Cache;
use daemon::Shutdown;
use std::sync::Arc;
use std::time::Duration;
use tobj::{Reply, Request};

/// How long an answer may take: the database waits a minute for something to tell.
const ANSWER: Duration = Duration::from_secs(90);

/// What the loop works on.
pub struct Watch {
    /// Where the last number is kept.
    pub ledger: Arc<Ledger>,
    /// Who is asked.
    pub database: Arc<Database>,
    /// Who ends the leases.
    pub engine: Handle,
    /// Which passwords are remembered.
    pub cache: Arc<Cache>,
    /// Who needs the time.
    pub clock: Clock,
}

/// Keeps asking until the shutdown.
pub async fn run(watch: Watch, shutdown: Shutdown) {
    let mut backoff = Backoff::default();
    let mut fresh = true;
    loop {
        let asked = tokio::select! { () = shutdown.wait() => return, asked = watch.once(fresh) => asked };
        let pause = match asked {
            Ok(()) => {
                fresh = false;
                backoff.reset();
                continue;
            }
            Err(why) => {
                tracing::warn!("revocations cannot be watched: {why}");
                fresh = true;
                backoff.next_pause()
            }
        };
        tokio::select! { () = shutdown.wait() => return, () = tokio::time::sleep(pause) => {} }
    }
}

impl Watch {
    async fn once(&self, fresh: bool) -> Result<(), String> {
        if fresh {
            // A number that is still to come is answered at once: the time is needed now, not after a minute of waiting.
            let (_, _, now) = self.ask(u64::MAX, database::ANSWER).await?;
            self.clock.anchor(now);
        }
        let after = self.ledger.read().and_then(|read| read.number(Number::Revocation));
        let after = after.map_err(|error| daemon::report(&error))?;
        let (items, upto, now) = self.ask(after, ANSWER).await?;
        self.clock.anchor(now);
        if items.is_empty() && upto == after {
            return Ok(());
        }
        self.cache.clear();
        tracing::info!(revocations = items.len(), upto, "rights were withdrawn");
        self.engine.ask(Work::Withdraw { items, upto }).await.map(drop).map_err(|refusal| refusal.to_string())
    }

    async fn ask(&self, after: u64, within: Duration) -> Result<(Vec<tobj::Revocation>, u64, u64), String> {
        let reply = self.database.ask(Request::WaitRevocations { after }, within).await;
        match reply.map_err(|error| daemon::report(&error))? {
            Reply::Revocations { items, upto, now } => Ok((items, upto, now.0)),
            Reply::Fault { fault, .. } => Err(format!("the database answered {fault}")),
            _ => Err("the database gave an answer to another question".to_owned()),
        }
    }
}
