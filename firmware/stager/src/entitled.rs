//! What a customer finds who logs in with his own password: all that he is entitled to, staged.
//!
//! The login opened a session at the database. Within it stagerd asks what this customer may have of this appliance, looks which of
//! it is not staged or ends soon, and asks for a grant for each; what follows is the same as with a grant that the web machine
//! brings. Nothing is staged that the database has not signed, and nothing is asked for that is there.

use crate::clock::Clock;
use crate::database::{ANSWER, Database};
use crate::engine::{Handle, Work};
use crate::grants::Verifier;
use crate::ledger::{Ledger, LedgerError};
use crate::rows::State;
use std::sync::Arc;
use tobj::{CatalogueItem, Fault, Id, LeaseKind, Name, Reply, Request, Secret};
use tokio::task::JoinSet;

/// Grants that are asked for at once.
const AT_ONCE: usize = 16;
/// A lease that has less time left than this is renewed (seconds).
const AHEAD: u64 = 7 * 86_400;

/// What is needed for it.
#[derive(Debug, Clone)]
pub(crate) struct Entitled {
    /// What is staged.
    pub(crate) ledger: Arc<Ledger>,
    /// Who stages.
    pub(crate) engine: Handle,
    /// Who says what the customer may have.
    pub(crate) database: Arc<Database>,
    /// Checks what he says.
    pub(crate) verifier: Arc<Verifier>,
    /// The time.
    pub(crate) clock: Clock,
}

/// Why not all of it is staged.
#[derive(Debug, thiserror::Error)]
enum Incomplete {
    #[error("the database cannot be asked")]
    Unreachable(#[from] crate::database::Unreachable),
    #[error("the database answered {0}")]
    Fault(Fault),
    #[error("the database gave an answer to another question")]
    Mismatch,
    #[error("its grant cannot be used")]
    Grant(#[from] crate::grants::GrantError),
    #[error("it was not staged: {0}")]
    Refused(#[from] crate::engine::Refusal),
    #[error("the ledger cannot be read")]
    Ledger(#[from] LedgerError),
    #[error("a task failed")]
    Task(#[from] tokio::task::JoinError),
    #[error("the system has no randomness to give")]
    Random(#[from] getrandom::Error),
}

impl Entitled {
    /// Stages what is missing, then ends the session.
    pub(crate) async fn stage(self, customer: Name, session: Secret) {
        match self.stage_missing(&customer, &session).await {
            Ok((0, 0)) => {}
            Ok((staged, 0)) => tracing::info!(%customer, staged, "what the customer is entitled to was staged"),
            Ok((staged, refused)) => {
                tracing::warn!(%customer, staged, refused, "not all that the customer is entitled to could be staged");
            }
            Err(error) => {
                tracing::warn!(%customer, "what the customer is entitled to was not staged: {}", daemon::report(&error));
            }
        }
        // A session that stays open ends by itself.
        let _ = self.database.ask(Request::Logout { session }, ANSWER).await;
    }

    async fn stage_missing(&self, customer: &Name, session: &Secret) -> Result<(usize, usize), Incomplete> {
        let (mut staged, mut refused) = (0, 0);
        let mut tasks: JoinSet<Result<(), Incomplete>> = JoinSet::new();
        let mut count = |outcome: Result<Result<(), Incomplete>, tokio::task::JoinError>| match outcome {
            Ok(Ok(())) => staged += 1,
            Ok(Err(error)) => {
                refused += 1;
                tracing::warn!(%customer, "one of the customer's objects: {}", daemon::report(&error));
            }
            Err(error) => {
                refused += 1;
                tracing::warn!(%customer, %error, "one of the customer's objects");
            }
        };
        let mut offset = 0;
        loop {
            let (items, more) = match self.ask(Request::Catalogue { session: session.clone(), offset }).await? {
                Reply::Catalogue { items, more } => (items, more),
                _ => return Err(Incomplete::Mismatch),
            };
            offset += items.len() as u64;
            let end = !more || items.is_empty();
            for item in self.missing(customer.clone(), items).await? {
                while tasks.len() >= AT_ONCE {
                    tasks.join_next().await.into_iter().for_each(&mut count);
                }
                tasks.spawn(self.clone().stage_one(customer.clone(), session.clone(), item));
            }
            if end {
                break;
            }
        }
        while let Some(outcome) = tasks.join_next().await {
            count(outcome);
        }
        Ok((staged, refused))
    }

    /// Those of these objects that are not staged for him for long enough.
    async fn missing(&self, customer: Name, items: Vec<CatalogueItem>) -> Result<Vec<CatalogueItem>, Incomplete> {
        let (ledger, soon) = (self.ledger.clone(), self.clock.now().at.saturating_add(AHEAD));
        let look = tokio::task::spawn_blocking(move || {
            let read = ledger.read()?;
            let mut missing = Vec::new();
            for item in items {
                let lease = read.lease_at(&format!("{customer}/{}/{}/{}", item.product, item.version, item.file))?;
                let fine = lease.is_some_and(|(_, lease)| {
                    // No grant makes it last longer than he is entitled to it.
                    let enough = lease.expires >= item.until.map_or(soon, |until| until.0.min(soon));
                    lease.sha256 == item.sha256 && matches!(lease.state, State::Pending | State::Active) && enough
                });
                // What this storeroom does not have, a grant does not bring.
                if !fine && read.object(item.sha256)?.is_some() {
                    missing.push(item);
                }
            }
            Ok::<_, LedgerError>(missing)
        });
        Ok(look.await??)
    }

    async fn stage_one(self, customer: Name, session: Secret, item: CatalogueItem) -> Result<(), Incomplete> {
        let CatalogueItem { product, version, .. } = item;
        let reply = self.ask(Request::Grant { session, product, version, kind: LeaseKind::Standing }).await?;
        let Reply::Granted { grant, .. } = reply else { return Err(Incomplete::Mismatch) };
        let grant = self.verifier.verify(&grant, self.clock.now())?;
        if grant.customer != customer || grant.kind != LeaseKind::Standing {
            return Err(Incomplete::Mismatch);
        }
        self.engine.ask(Work::Stage { request: Id::random()?, grant }).await?;
        Ok(())
    }

    async fn ask(&self, request: Request) -> Result<Reply, Incomplete> {
        match self.database.ask(request, ANSWER).await? {
            Reply::Fault { fault, .. } => Err(Incomplete::Fault(fault)),
            reply => Ok(reply),
        }
    }
}
