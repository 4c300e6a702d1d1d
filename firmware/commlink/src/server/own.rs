//! What the server answers by itself: the clock, and the bag of the link that asks.

use daemon::Service;
use tobj::{Fault, Reply, Request, Secret};

use super::Asking;
use crate::client::now;
use crate::keyring::KeyringError;

impl<S: Service> Asking<'_, S> {
    /// The answer, if the request is one of these.
    pub(super) async fn own(&self, request: &Request) -> Option<Reply> {
        let changed = match request {
            Request::Probe {} => return Some(Reply::Probed { clock: now() }),
            Request::BagRenew { generation, entries } => self.renew(*generation, entries).await,
            Request::BagRetire { generation } => self.retire(*generation).await,
            _ => return None,
        };
        Some(match changed {
            Ok(()) => Reply::Done {},
            Err(error) => self.refused(request, &error),
        })
    }

    async fn renew(&self, generation: u64, entries: &[Secret]) -> Result<(), Refusal> {
        let generation = u32::try_from(generation).map_err(|_| Refusal::Generation)?;
        let keyring = &self.shared.setup.keyring;
        let current = keyring.current();
        let held = current.of_link(self.bag.link()).unwrap_or_default();
        let next = held.first().and_then(|newest| newest.generation().checked_add(1));
        let known = held.iter().any(|bag| bag.generation() == generation);
        // A third generation pushes the oldest out: only a session of the newest proves that nobody needs that.
        let newest = held.first().is_some_and(|newest| newest.generation() == self.bag.generation());
        if !known && (next != Some(generation) || (held.len() > 1 && !newest)) {
            return Err(Refusal::Generation);
        }
        let texts: Vec<&str> = entries.iter().map(Secret::expose).collect();
        let bag = self.bag.renewed(generation, &texts).map_err(KeyringError::from)?;
        let fingerprint = bag.fingerprint();
        keyring.add(bag).await?;
        tracing::info!(
            link = self.bag.link(),
            from = self.from,
            generation,
            fingerprint,
            "a new generation of the bag"
        );
        Ok(())
    }

    async fn retire(&self, generation: u64) -> Result<(), Refusal> {
        // That this session runs proves that the peer has its keys.
        if generation >= u64::from(self.bag.generation()) {
            return Err(Refusal::Session);
        }
        let Ok(generation) = u32::try_from(generation) else { return Err(Refusal::Generation) };
        self.shared.setup.keyring.retire(self.bag.link(), generation).await?;
        tracing::info!(
            link = self.bag.link(),
            from = self.from,
            generation,
            "an old generation of the bag is given up"
        );
        Ok(())
    }

    fn refused(&self, request: &Request, error: &Refusal) -> Reply {
        let (tag, why) = (request.tag(), daemon::report(error));
        tracing::warn!(peer = %self.peer, from = self.from, link = self.bag.link(), %tag, "refused: {why}");
        Reply::refused(error.fault(), &why)
    }
}

/// Why it was not done.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error("the generation is neither the next one nor one that is here, or two are here and the newer was not used")]
    Generation,
    #[error("only a session of a newer generation gives an older one up")]
    Session,
    #[error(transparent)]
    Keyring(#[from] KeyringError),
}

impl Refusal {
    fn fault(&self) -> Fault {
        match self {
            Self::Session => Fault::Denied,
            Self::Keyring(KeyringError::Nowhere | KeyringError::Io { .. }) => Fault::Unavailable,
            Self::Generation | Self::Keyring(_) => Fault::Invalid,
        }
    }
}
