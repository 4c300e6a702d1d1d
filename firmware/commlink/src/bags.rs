//! The key bags of this end.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use commlink_proto::greeting::MAX_GENERATIONS;
use keys::{Bag, BagError};
use thiserror::Error;

/// Most bags in a folder; a machine has one per operator and per machine it talks to, twice that during a rotation.
pub const MAX_BAGS: usize = 1024;

/// Why the bags cannot be used.
#[derive(Debug, Error)]
pub enum BagsError {
    /// The folder cannot be read.
    #[error("cannot read the folder of key bags {path}")]
    Io {
        /// The folder.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// One of them is not usable.
    #[error("a key bag cannot be used")]
    Bag(#[from] BagError),
    /// There are none, or too many.
    #[error("{0} key bags in the folder; there must be 1 to {MAX_BAGS}")]
    Count(usize),
    /// The bags of a link do not belong together.
    #[error("the bags of link {0:?} differ in kind or ends, repeat a generation or are more than {MAX_GENERATIONS}")]
    Link(String),
    /// Two links to the same peer: which to use would be a guess.
    #[error("two links lead to {0:?}")]
    Peer(String),
    /// A bag that is not this machine's.
    #[error("the bag of link {link:?} is not one of a {role} machine named {name:?}")]
    Foreign {
        /// The link.
        link: String,
        /// This machine's role.
        role: &'static str,
        /// This machine's name.
        name: String,
    },
}

/// All bags of one end, by link and by peer; of each link the generations in use, newest first.
#[derive(Clone, Debug)]
pub struct Bags {
    links: BTreeMap<String, Vec<Arc<Bag>>>,
    peers: BTreeMap<String, String>,
}

impl Bags {
    /// Reads every `*.bag` of a folder.
    ///
    /// # Errors
    /// [`BagsError`].
    pub fn load(dir: &Path) -> Result<Self, BagsError> {
        Self::new(read(dir)?.into_iter().map(|(_, bag)| bag))
    }

    /// These bags, in any order.
    ///
    /// # Errors
    /// [`BagsError::Count`], [`BagsError::Link`] and [`BagsError::Peer`].
    pub fn new(bags: impl IntoIterator<Item = Bag>) -> Result<Self, BagsError> {
        Self::shared(bags.into_iter().map(Arc::new))
    }

    /// The same, of bags that are in use already.
    pub(crate) fn shared(bags: impl IntoIterator<Item = Arc<Bag>>) -> Result<Self, BagsError> {
        let mut links = BTreeMap::<String, Vec<Arc<Bag>>>::new();
        for bag in bags {
            links.entry(bag.link().to_owned()).or_default().push(bag);
        }
        let count = links.values().map(Vec::len).sum();
        if !(1..=MAX_BAGS).contains(&count) {
            return Err(BagsError::Count(count));
        }
        let mut peers = BTreeMap::new();
        for (link, bags) in &mut links {
            bags.sort_by_key(|bag| std::cmp::Reverse(bag.generation()));
            let alike = |a: &Bag, b: &Bag| (a.kind(), a.local(), a.peer()) == (b.kind(), b.local(), b.peer());
            let together = bags.is_sorted_by(|a, b| a.generation() > b.generation() && alike(a, b));
            if !together || bags.len() > MAX_GENERATIONS {
                return Err(BagsError::Link(link.clone()));
            }
            if let Some(bag) = bags.first()
                && peers.insert(bag.peer().to_owned(), link.clone()).is_some()
            {
                return Err(BagsError::Peer(bag.peer().to_owned()));
            }
        }
        Ok(Self { links, peers })
    }

    /// The generations of a link, newest first.
    pub fn of_link(&self, link: &str) -> Option<&[Arc<Bag>]> {
        self.links.get(link).map(Vec::as_slice)
    }

    /// The generations of the link to a peer, newest first.
    pub fn of_peer(&self, peer: &str) -> Option<&[Arc<Bag>]> {
        self.of_link(self.peers.get(peer)?)
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Bag>> {
        self.links.values().flatten()
    }
}

/// Every `*.bag` of a folder, with its path.
pub(crate) fn read(dir: &Path) -> Result<Vec<(PathBuf, Bag)>, BagsError> {
    let io = |source| BagsError::Io { path: dir.to_owned(), source };
    let mut bags = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(io)? {
        let path = entry.map_err(io)?.path();
        if path.extension().is_some_and(|extension| extension == "bag") {
            if bags.len() == MAX_BAGS {
                return Err(BagsError::Count(bags.len() + 1));
            }
            let bag = Bag::load(&path)?;
            bags.push((path, bag));
        }
    }
    Ok(bags)
}

#[cfg(test)]
mod tests {
    use keys::LinkKind;

    use super::*;

    fn bag(link: &str, peer: &str, generation: u32) -> Bag {
        Bag::pair(link, LinkKind::WebDatabase, ("web", peer), generation).unwrap().0
    }

    #[test]
    fn found_by_link_and_by_peer_newest_first() {
        let bags = Bags::new([bag("a", "database", 1), bag("b", "download", 1), bag("a", "database", 2)]).unwrap();
        let generations = |bags: &[Arc<Bag>]| bags.iter().map(|bag| bag.generation()).collect::<Vec<_>>();
        assert_eq!(generations(bags.of_link("a").unwrap()), [2, 1]);
        assert_eq!(generations(bags.of_peer("database").unwrap()), [2, 1]);
        assert_eq!(generations(bags.of_peer("download").unwrap()), [1]);
        assert!(bags.of_link("c").is_none() && bags.of_peer("web").is_none());
        assert_eq!(bags.iter().count(), 3);
    }

    #[test]
    fn what_does_not_belong_together() {
        let is_link = |bags: Vec<Bag>| matches!(Bags::new(bags), Err(BagsError::Link(_)));
        assert!(is_link(vec![bag("a", "x", 1), bag("a", "x", 1)]));
        assert!(is_link(vec![bag("a", "x", 1), bag("a", "y", 2)]));
        assert!(is_link(vec![bag("a", "x", 1), bag("a", "x", 2), bag("a", "x", 3)]));
        assert!(matches!(Bags::new([bag("a", "x", 1), bag("b", "x", 1)]), Err(BagsError::Peer(_))));
        assert!(matches!(Bags::new([]), Err(BagsError::Count(0))));
    }

    #[test]
    fn a_folder_is_read_and_other_files_are_not() {
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(Bags::load(dir.path()), Err(BagsError::Count(0))));
        bag("a", "x", 1).save(&dir.path().join("a.bag")).unwrap();
        std::fs::write(dir.path().join("README"), "none").unwrap();
        assert_eq!(Bags::load(dir.path()).unwrap().iter().count(), 1);
        std::fs::write(dir.path().join("bad.bag"), "none").unwrap();
        assert!(matches!(Bags::load(dir.path()), Err(BagsError::Bag(_))));
        assert!(matches!(Bags::load(&dir.path().join("absent")), Err(BagsError::Io { .. })));
    }
}
