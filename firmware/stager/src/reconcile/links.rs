//! The links that the ledger's leases should have, to be met in the tree.

use crate::engine::EngineError;
use crate::ledger::Ledger;
use crate::rows::{Lease, State};
use crate::starting::Advance;
use crate::tree::{Place, Tree, TreeError};
use std::collections::HashMap;
use std::collections::hash_map::Entry::{Occupied, Vacant};
use std::hash::{BuildHasher, RandomState};
use std::num::NonZeroU64;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use tobj::{Id, Sha256};

/// What links there should be. There may be millions, so each takes 42 bytes: of its path, it has a hash of 64 bits. Two paths that
/// come to the same are told apart by what they should be, or else both are looked at.
pub(super) struct Links {
    /// In the order of their hashes.
    links: Vec<Link>,
    /// Hashes are spread evenly: where those begin that are in the same of so many parts of all numbers.
    starts: Vec<usize>,
    hasher: RandomState,
}

/// How many links have an entry in `starts` together.
const PART: usize = 4;

struct Link {
    path: u64,
    lease: Id,
    /// What it should stand for; none where that takes more than a look.
    inode: Option<NonZeroU64>,
    is_right: AtomicBool,
}

impl Links {
    /// Reads all leases of a ledger, in its own order.
    pub(super) fn of(ledger: &Ledger, tree: &Tree, advance: Advance<'_>) -> Result<Self, EngineError> {
        let read = ledger.read()?;
        let (mut links, hasher) = (Vec::new(), RandomState::new());
        links.reserve_exact(usize::try_from(read.counts()?.0).unwrap_or(0));
        let mut objects = HashMap::new();
        for entry in read.leases(0)? {
            advance();
            let (id, lease) = entry?;
            let inode = inode(tree, &lease, &mut objects)?;
            links.push(Link {
                path: hasher.hash_one(Place::of(id, &lease).path()),
                lease: id,
                inode,
                is_right: AtomicBool::new(false),
            });
        }
        Ok(Self::new(links, hasher))
    }

    fn new(mut links: Vec<Link>, hasher: RandomState) -> Self {
        links.sort_unstable_by_key(|link| link.path);
        let (parts, mut at) = (links.len() / PART + 1, 0);
        let starts = (0..parts).map(|n| {
            while links.get(at).is_some_and(|link| part(link.path, parts) < n) {
                at += 1;
            }
            at
        });
        Self { starts: starts.collect(), links, hasher }
    }

    /// How many leases there are.
    pub(super) fn len(&self) -> usize {
        self.links.len()
    }

    /// Notes that the tree has this path, and what it stands for. Whether a lease explains it.
    pub(super) fn meet(&self, path: &str, inode: u64) -> bool {
        let path = self.hasher.hash_one(path);
        let start = self.starts[part(path, self.starts.len())];
        let same = self.links[start..].iter().skip_while(|link| link.path < path).take_while(|link| link.path == path);
        let mut is_explained = false;
        for link in same {
            is_explained = true;
            if link.inode.is_some_and(|right| right.get() == inode) {
                link.is_right.store(true, Relaxed);
            }
        }
        is_explained
    }

    /// The leases that have to be looked at, because their link was not met or is another file, or they are not at rest; oldest
    /// first.
    pub(super) fn rest(self) -> Vec<Id> {
        let mut rest: Vec<_> =
            self.links.into_iter().filter(|link| !link.is_right.load(Relaxed)).map(|link| link.lease).collect();
        rest.sort_unstable_by_key(|id| *id.as_bytes());
        rest
    }
}

/// In which of so many equal parts of all numbers this one is.
fn part(number: u64, parts: usize) -> usize {
    #[allow(clippy::cast_possible_truncation, reason = "less than `parts`")]
    let part = ((u128::from(number) * parts as u128) >> 64) as usize;
    part
}

fn inode(
    tree: &Tree,
    lease: &Lease,
    objects: &mut HashMap<Sha256, Option<NonZeroU64>>,
) -> Result<Option<NonZeroU64>, TreeError> {
    match lease.state {
        State::Pending | State::Removing => Ok(None),
        State::Active | State::Ending(_) => Ok(match objects.entry(lease.sha256) {
            Occupied(known) => *known.get(),
            Vacant(unknown) => {
                *unknown.insert(tree.object(lease.sha256)?.and_then(|object| NonZeroU64::new(object.inode)))
            }
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All of them have one hash, as two paths may have by chance.
    #[test]
    fn paths_with_one_hash_are_told_apart() {
        let hasher = RandomState::new();
        let link = |n: u8, inode| Link {
            path: hasher.hash_one("path"),
            lease: [n; 16].into(),
            inode: NonZeroU64::new(inode),
            is_right: AtomicBool::new(false),
        };
        let links = vec![link(3, 7), link(2, 8), link(1, 0), link(4, 9)];
        let links = Links::new(links, hasher);
        assert!(!links.meet("another", 7), "no lease explains it");
        assert!(links.meet("path", 5), "a lease explains it, although it should be another file");
        assert!(links.meet("path", 7) && links.meet("path", 9));
        assert_eq!(links.rest(), [[1; 16].into(), [2; 16].into()]);
    }

    #[test]
    fn every_path_is_found() {
        for count in [0, 1, 2, PART, 1000] {
            let hasher = RandomState::new();
            let path = |n: usize| format!("path {n}");
            let link = |n: usize| Link {
                path: hasher.hash_one(path(n)),
                lease: (n as u128).to_be_bytes().into(),
                inode: NonZeroU64::new(n as u64 + 1),
                is_right: AtomicBool::new(false),
            };
            let links = Links::new((0..count).map(link).collect(), hasher);
            assert!(!links.meet("another", 1));
            assert!((0..count).all(|n| links.meet(&path(n), n as u64 + 1)), "of {count}");
            assert!(links.rest().is_empty());
        }
    }
}
