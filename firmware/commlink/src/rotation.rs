//! The next generation of a bag, over the link that it is for.
//!
//! ```text
//! client                                   server
//!   makes generation n+1, keeps it (durable)
//!   ── BAG-RENEW n+1, its keys ──▶           keeps it (durable)
//!   ◀── DONE ──                              both accept n and n+1
//!   opens a session: n+1, since both hold it
//!   ── BAG-RETIRE n ──▶                      this session proves n+1: gives n up (durable)
//!   ◀── DONE ──                              sessions of n finish their transaction and end
//!   gives n up (durable)
//! ```
//! Cut anywhere, both ends still have a generation in common, and the rotation can be asked for again: a client that
//! holds two generations goes on with the newer one instead of making a third.

use std::sync::Arc;

use keys::{Bag, BagError};
use thiserror::Error;
use tobj::{Fault, Reply, Request, Secret};

use crate::client::{CallError, Client};
use crate::keyring::KeyringError;

/// Why a bag was not renewed.
#[derive(Debug, Error)]
pub enum RotationError {
    /// There is no such link.
    #[error("there is no link to {0:?}")]
    Unknown(String),
    /// Keys never go over a link without seal.
    #[error("the link to {0:?} has seal = false, so its bag cannot be renewed over it")]
    Unsealed(String),
    /// New keys.
    #[error("no new keys could be made")]
    Bag(#[from] BagError),
    /// Keeping or giving up.
    #[error("the keys could not be kept here")]
    Keyring(#[from] KeyringError),
    /// A request cannot be made of them.
    #[error("the keys cannot be sent")]
    Request(#[from] tobj::Invalid),
    /// The peer was not reached.
    #[error("the peer was not asked")]
    Call(#[from] CallError),
    /// The peer did not do it.
    #[error("the peer refused with {0}")]
    Refused(Fault),
    /// A session under the old generation, although both hold the new one.
    #[error("the peer used generation {0} although it has the new one")]
    Old(u32),
}

/// The keys of a bag as requests carry them.
///
/// # Errors
/// When they do not fit a field, which they do.
pub fn entries(bag: &Bag) -> Result<Vec<Secret>, tobj::Invalid> {
    bag.entries().map(|entry| Secret::new(&entry)).collect()
}

/// Renews the bag of the link to `peer`, or finishes a renewal that was cut; gives the bag that is in use then.
///
/// # Errors
/// [`RotationError`]; asked again, it goes on where it was.
pub async fn rotate(client: &Client, peer: &str) -> Result<Arc<Bag>, RotationError> {
    let keyring = client.keyring();
    let held = |n: usize| {
        let bags = keyring.current();
        bags.of_peer(peer).and_then(|bags| bags.get(n).cloned())
    };
    let newest = held(0).filter(|_| client.knows(peer)).ok_or_else(|| RotationError::Unknown(peer.to_owned()))?;
    if !client.is_sealed(peer) {
        return Err(RotationError::Unsealed(peer.to_owned()));
    }
    let old = match held(1) {
        Some(old) => old,
        None => {
            keyring.add(newest.next()?).await?;
            newest
        }
    };
    let new = held(0).ok_or_else(|| RotationError::Unknown(peer.to_owned()))?;
    let renew = Request::BagRenew { generation: new.generation().into(), entries: entries(&new)? };
    done(client.ask_anew(peer, renew).await?.0)?;
    let retire = Request::BagRetire { generation: old.generation().into() };
    let (reply, used) = client.ask_anew(peer, retire).await?;
    if used.generation() != new.generation() {
        return Err(RotationError::Old(used.generation()));
    }
    done(reply)?;
    keyring.retire(old.link(), old.generation()).await?;
    Ok(new)
}

fn done(reply: Reply) -> Result<(), RotationError> {
    match reply {
        Reply::Done {} => Ok(()),
        Reply::Fault { fault, .. } => Err(RotationError::Refused(fault)),
        _ => Err(RotationError::Refused(Fault::Invalid)),
    }
}
