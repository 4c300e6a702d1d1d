//! Revocations: a question to the database is always open, so that a right that is withdrawn there ends here at once.
//!
//! The answers also bring the database's time. A time is worth something only if it has not been held back on the way: the question
//! bounds that, since an answer that comes more than a minute and a half after it is not used.

use crate::clock::Clock;
use crate::database::{self, Backoff, Database};
use crate::engine::{Handle, Refusal, Work};
use crate::ledger::{Ledger, Number};
use crate::logins::Cache;
use daemon::Shutdown;
use std::sync::Arc;
use std::time::Duration;
use tobj::{Fault, Reply, Request, Revocation};

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
        let ledger = self.ledger.clone();
        let read = move || ledger.read().and_then(|read| read.number(Number::Revocation));
        let after = tokio::task::spawn_blocking(read).await.map_err(|error| error.to_string())?;
        let after = after.map_err(|error| daemon::report(&error))?;
        let (items, upto, now) = self.ask(after, ANSWER).await?;
        self.clock.anchor(now);
        if items.is_empty() && upto == after {
            return Ok(());
        }
        self.cache.clear();
        tracing::info!(revocations = items.len(), upto, "rights were withdrawn");
        self.withdraw(items, upto).await.map_err(|refusal| refusal.to_string())
    }

    /// Commit by commit, so that others are served in between. What a restart cuts off is told by the database again.
    async fn withdraw(&self, items: Vec<Revocation>, upto: u64) -> Result<(), Refusal> {
        loop {
            match self.engine.ask(Work::Withdraw { items: items.clone(), upto }).await {
                Err(refusal) if refusal.fault == Fault::Busy => {}
                answer => return answer.map(drop),
            }
        }
    }

    async fn ask(&self, after: u64, within: Duration) -> Result<(Vec<Revocation>, u64, u64), String> {
        let reply = self.database.ask(Request::WaitRevocations { after }, within).await;
        match reply.map_err(|error| daemon::report(&error))? {
            Reply::Revocations { items, upto, now } => Ok((items, upto, now.0)),
            Reply::Fault { fault, .. } => Err(format!("the database answered {fault}")),
            _ => Err("the database gave an answer to another question".to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::grants::Grant;
    use crate::testkit::{Kit, NOW, grant};
    use tobj::{AuditEvent, Id, LeaseKind, Timestamp};

    /// More leases than one commit ends, and a restart after the first of them.
    #[test]
    fn many_leases_end_commit_by_commit() {
        const MANY: usize = 521;
        let kit = Kit::new();
        for n in 0..MANY {
            let id: Id = (n as u128).to_be_bytes().into();
            kit.ask(Work::Stage { request: id, grant: Grant { id, ..grant(1, LeaseKind::OneTime) } }).unwrap();
        }
        let right = |product: &str| Revocation {
            seq: 1,
            customer: "alice".parse().unwrap(),
            product: Some(product.parse().unwrap()),
            version: None,
            at: Timestamp(NOW + 5),
        };
        let items = vec![right("maps"), right("charts")];
        let told = |kit: &Kit| kit.ledger.read().unwrap().number(Number::Revocation).unwrap();
        let first = kit.ask(Work::Withdraw { items: items.clone(), upto: 5 }).unwrap_err();
        assert_eq!((first.fault, told(&kit)), (Fault::Busy, 0));
        let ended = kit.outcomes(AuditEvent::LeaseEnded).len();
        assert!((1..MANY).contains(&ended), "some of them have ended: {ended}");
        // All that was withdrawn counts for new grants at once, also what has no lease.
        let charts = Grant { product: "charts".parse().unwrap(), ..grant(2, LeaseKind::Standing) };
        assert_eq!(kit.stage(2, &charts).unwrap_err().fault, Fault::Denied);

        let (kit, _) = kit.again();
        assert_eq!(told(&kit), 0, "the database tells it again");
        let watch = Watch {
            ledger: kit.ledger.clone(),
            database: Arc::new(Database::new(&kit.path("nobody.sock"), "database")),
            engine: kit.engine.clone(),
            cache: Arc::new(Cache::new(Duration::ZERO).unwrap()),
            clock: kit.clock.clone(),
        };
        crate::logins::tests::runtime().block_on(watch.withdraw(items, 5)).unwrap();
        assert_eq!(told(&kit), 5);
        assert_eq!(kit.outcomes(AuditEvent::LeaseEnded), vec!["withdrawn by the database"; MANY]);
        kit.flush();
        assert_eq!(kit.ledger.read().unwrap().counts().unwrap().0, 0);
    }
}
