//! What commlinkd answers to operators by itself: bags of others than the link that asks.

use commlink_proto::greeting::Hello;
use keys::{Bag, BagError, LinkKind};
use thiserror::Error;
use tobj::{BagKind, Body, Fault, Message, Reply, Request, RequestTag, Secret, Text};

use super::Inbound;
use crate::keyring::KeyringError;
use crate::policy::{self, Opener};
use crate::rotation::{self, RotationError};

/// What the name of an operator's end begins with.
const OPERATOR: &str = "operator:";

/// Why it was not done.
#[derive(Debug, Error)]
enum Refusal {
    #[error("a link of that name, kind and peer is not one of this machine's")]
    Foreign,
    #[error("only operators are revoked; the bag of a pair of machines is replaced by a new one")]
    NotAnOperator,
    #[error("an operator does not revoke himself, since nobody might be left")]
    Oneself,
    #[error("there is no such peer, or it is the one that renews the bag of this link")]
    Peer,
    #[error("the bag was not renewed; ask again, and it goes on where it was")]
    Rotation(#[from] RotationError),
    #[error(transparent)]
    Keyring(#[from] KeyringError),
    #[error(transparent)]
    Bag(#[from] BagError),
}

impl Refusal {
    fn fault(&self) -> Fault {
        match self {
            Self::Peer => Fault::NotFound,
            Self::Rotation(_) | Self::Keyring(KeyringError::Nowhere | KeyringError::Io { .. }) => Fault::Unavailable,
            _ => Fault::Invalid,
        }
    }
}

impl Inbound {
    /// The answer, if the request is one of these.
    pub(super) async fn own(&self, from: &str, request: &Message) -> Option<Reply> {
        let Body::Request(request) = &request.body else { return None };
        let answered = match request {
            Request::BagAdd { .. } => self.add(request).await,
            Request::BagRevoke { link } => self.revoke(from, link.as_str()).await,
            Request::KeysRotate { peer } => self.rotate(peer.as_str()).await,
            _ => return None,
        };
        let tag = request.tag();
        Some(match answered {
            Ok(reply) => {
                tracing::info!(from, %tag, "key bags were changed for an operator");
                reply
            }
            Err(refusal) => {
                let why = daemon::report(&refusal);
                tracing::warn!(from, %tag, "key bags were not changed: {why}");
                Reply::refused(refusal.fault(), &why)
            }
        })
    }

    async fn add(&self, request: &Request) -> Result<Reply, Refusal> {
        let Request::BagAdd { link, kind, peer, generation, entries } = request else { return Err(Refusal::Foreign) };
        let (link, peer, kind) = (link.as_str(), peer.as_str(), kind_of(*kind));
        let generation = u32::try_from(*generation).map_err(|_| Refusal::Foreign)?;
        let is_operators = kind == LinkKind::Operator;
        let fits = policy::across(kind, self.role).is_some()
            && peer.starts_with(OPERATOR) == is_operators
            && Hello::new(link, &[generation]).is_ok();
        if !fits {
            return Err(Refusal::Foreign);
        }
        let texts: Vec<&str> = entries.iter().map(Secret::expose).collect();
        let bag = Bag::from_entries(link, kind, (self.name.as_str(), peer), generation, &texts)?;
        self.client.keyring().add(bag).await?;
        Ok(Reply::Done {})
    }

    async fn revoke(&self, from: &str, link: &str) -> Result<Reply, Refusal> {
        let current = self.client.keyring().current();
        let Some(bag) = current.of_link(link).and_then(<[_]>::first) else { return Ok(Reply::Done {}) };
        if bag.kind() != LinkKind::Operator {
            return Err(Refusal::NotAnOperator);
        }
        if bag.peer() == from {
            return Err(Refusal::Oneself);
        }
        self.client.keyring().revoke(link).await?;
        Ok(Reply::Done {})
    }

    async fn rotate(&self, peer: &str) -> Result<Reply, Refusal> {
        let _only = self.rotating.lock().await;
        let current = self.client.keyring().current();
        let kind = current.of_peer(peer).and_then(<[_]>::first).map(|bag| bag.kind()).ok_or(Refusal::Peer)?;
        let renews = match policy::across(kind, self.role) {
            Some(Opener::Machine(asked)) => {
                policy::allows(kind, Opener::Machine(self.role), asked, RequestTag::BagRenew)
            }
            _ => false,
        };
        if !renews {
            return Err(Refusal::Peer);
        }
        let bag = rotation::rotate(&self.client, peer).await?;
        let fingerprint = Text::lossy(&bag.fingerprint());
        Ok(Reply::Rotated { generation: bag.generation().into(), fingerprint })
    }
}

fn kind_of(kind: BagKind) -> LinkKind {
    match kind {
        BagKind::WebDownload => LinkKind::WebDownload,
        BagKind::WebDatabase => LinkKind::WebDatabase,
        BagKind::DownloadDatabase => LinkKind::DownloadDatabase,
        BagKind::Operator => LinkKind::Operator,
    }
}
