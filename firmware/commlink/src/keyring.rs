//! The key bags of this end as they are at the moment, and where newer generations are kept.
//!
//! The bags that a machine came with are in one folder, which is only read (a service's credentials). What came later is
//! in its state folder: `<link>.<generation>.bag`, and `retired`, one line for each bag that is given up:
//! `<link> <generation> <fingerprint>`. The newest two generations of each link that are not given up are in use. Where
//! both folders are the same one, as at an operator's desk, what is given up is deleted.
//!
//! Every change is durable before it counts: a new file is written beside its place for its owner only (0600), synced,
//! renamed, and its folder synced. A bag that is given up goes into `retired` first, then its file goes.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use commlink_proto::greeting::MAX_GENERATIONS;
use keys::{Bag, BagError};
use thiserror::Error;
use tokio::sync::watch;

use crate::bags::read;
use crate::{Bags, BagsError};

/// The list of what is given up.
const RETIRED: &str = "retired";

/// Why a change was not made.
#[derive(Debug, Error)]
pub enum KeyringError {
    /// There is no state folder.
    #[error("there is no folder to keep keys in: neither `state` nor $STATE_DIRECTORY names one")]
    Nowhere,
    /// A file.
    #[error("cannot read or write {path}")]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A bag.
    #[error("the key bag cannot be used or kept")]
    Bag(#[from] BagError),
    /// The bags would not fit each other.
    #[error("the key bag does not fit those that are here")]
    Bags(#[from] BagsError),
    /// Other keys are there under this generation.
    #[error("generation {generation} of link {link:?} is here with other keys")]
    Conflict {
        /// The link.
        link: String,
        /// The generation.
        generation: u32,
    },
    /// There are newer ones.
    #[error("generation {generation} of link {link:?} is not after generation {newest}, which is here")]
    Older {
        /// The link.
        link: String,
        /// The generation.
        generation: u32,
        /// What is here.
        newest: u32,
    },
    /// It was given up before.
    #[error("generation {generation} of link {link:?} was given up, and these keys are not taken again")]
    GivenUp {
        /// The link.
        link: String,
        /// The generation.
        generation: u32,
    },
    /// Without it the link would have no keys.
    #[error("generation {generation} is the newest of link {link:?}")]
    Newest {
        /// The link.
        link: String,
        /// The generation.
        generation: u32,
    },
}

/// The bags of one end. Cheap to clone; clones share them.
#[derive(Clone)]
pub struct Keyring(Arc<Inner>);

struct Inner {
    bags: watch::Sender<Arc<Bags>>,
    store: Option<Store>,
    /// Held while bags are changed.
    changing: Mutex<()>,
}

struct Store {
    /// What one came with.
    dir: PathBuf,
    /// What came later.
    state: PathBuf,
}

impl From<Arc<Bags>> for Keyring {
    /// Bags that stay as they are.
    fn from(bags: Arc<Bags>) -> Self {
        Self::with(bags, None)
    }
}

impl From<Bags> for Keyring {
    /// Bags that stay as they are.
    fn from(bags: Bags) -> Self {
        Arc::new(bags).into()
    }
}

impl Keyring {
    fn with(bags: Arc<Bags>, store: Option<Store>) -> Self {
        Self(Arc::new(Inner { bags: watch::Sender::new(bags), store, changing: Mutex::new(()) }))
    }

    /// The bags of a folder, with what is in a state folder, which may be the same one; without one they stay as they are.
    ///
    /// # Errors
    /// [`KeyringError`].
    pub fn open(dir: &Path, state: Option<&Path>) -> Result<Self, KeyringError> {
        let Some(state) = state else { return Ok(Bags::load(dir)?.into()) };
        let store = Store { dir: dir.to_owned(), state: state.to_owned() };
        let bags = store.load()?;
        Ok(Self::with(Arc::new(bags), Some(store)))
    }

    /// The bags at the moment.
    pub fn current(&self) -> Arc<Bags> {
        self.0.bags.borrow().clone()
    }

    /// Whether this bag is in use.
    pub fn holds(&self, bag: &Arc<Bag>) -> bool {
        holds(&self.0.bags.borrow(), bag)
    }

    /// The bags from now on.
    pub(crate) fn follow(&self) -> watch::Receiver<Arc<Bags>> {
        self.0.bags.subscribe()
    }

    /// Waits until this bag is given up.
    pub async fn released(&self, bag: &Arc<Bag>) {
        let mut bags = self.0.bags.subscribe();
        // It fails when the keyring is gone, which this is not.
        let _ = bags.wait_for(|bags| !holds(bags, bag)).await;
    }

    /// Takes a bag into use, once it is durable. Of more than two generations the oldest goes.
    ///
    /// # Errors
    /// [`KeyringError`]; a bag that is in use already is none.
    pub async fn add(&self, bag: Bag) -> Result<(), KeyringError> {
        self.blocking(move |keyring| keyring.add_now(bag)).await
    }

    /// Gives a generation up that is not the newest of its link.
    ///
    /// # Errors
    /// [`KeyringError`]; a generation that is not in use is none.
    pub async fn retire(&self, link: &str, generation: u32) -> Result<(), KeyringError> {
        let link = link.to_owned();
        self.blocking(move |keyring| keyring.retire_now(&link, generation)).await
    }

    /// Gives all generations of a link up.
    ///
    /// # Errors
    /// [`KeyringError`]; a link without bags is none.
    pub async fn revoke(&self, link: &str) -> Result<(), KeyringError> {
        let link = link.to_owned();
        self.blocking(move |keyring| keyring.remove(|bag| bag.link() == link)).await
    }

    async fn blocking<F>(&self, change: F) -> Result<(), KeyringError>
    where
        F: FnOnce(&Self) -> Result<(), KeyringError> + Send + 'static,
    {
        let keyring = self.clone();
        match tokio::task::spawn_blocking(move || change(&keyring)).await {
            Ok(outcome) => outcome,
            Err(ended) => std::panic::resume_unwind(ended.into_panic()),
        }
    }

    fn add_now(&self, bag: Bag) -> Result<(), KeyringError> {
        let _changing = self.0.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let current = self.current();
        let held = current.of_link(bag.link()).unwrap_or_default();
        let (link, generation) = (bag.link().to_owned(), bag.generation());
        if let Some(same) = held.iter().find(|held| held.generation() == generation) {
            return if **same == bag { Ok(()) } else { Err(KeyringError::Conflict { link, generation }) };
        }
        if let Some(newest) = held.first().map(|held| held.generation()).filter(|newest| *newest > generation) {
            return Err(KeyringError::Older { link, generation, newest });
        }
        let store = self.store()?;
        if store.retired()?.contains(&line(&bag)) {
            return Err(KeyringError::GivenUp { link, generation });
        }
        let gone: Vec<Arc<Bag>> = held.iter().skip(MAX_GENERATIONS - 1).cloned().collect();
        let kept = current.iter().filter(|bag| !gone.iter().any(|gone| Arc::ptr_eq(gone, bag))).cloned();
        // What does not fit is found out before it is written.
        let bags = Bags::shared(kept.chain([Arc::new(bag.clone())]))?;
        store.keep(&bag)?;
        self.publish(bags);
        gone.iter().try_for_each(|bag| store.give_up(bag))
    }

    fn retire_now(&self, link: &str, generation: u32) -> Result<(), KeyringError> {
        let newest = self.current().of_link(link).and_then(<[_]>::first).map(|bag| bag.generation());
        if newest == Some(generation) {
            return Err(KeyringError::Newest { link: link.to_owned(), generation });
        }
        self.remove(|bag| bag.link() == link && bag.generation() == generation)
    }

    fn remove(&self, of: impl Fn(&Bag) -> bool) -> Result<(), KeyringError> {
        let _changing = self.0.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let (gone, kept): (Vec<_>, Vec<_>) = self.current().iter().cloned().partition(|bag| of(bag));
        if gone.is_empty() {
            return Ok(());
        }
        let store = self.store()?;
        let bags = Bags::shared(kept)?;
        for bag in &gone {
            store.give_up(bag)?;
        }
        self.publish(bags);
        Ok(())
    }

    fn store(&self) -> Result<&Store, KeyringError> {
        self.0.store.as_ref().ok_or(KeyringError::Nowhere)
    }

    fn publish(&self, bags: Bags) {
        self.0.bags.send_replace(Arc::new(bags));
    }
}

fn holds(bags: &Bags, bag: &Arc<Bag>) -> bool {
    bags.of_link(bag.link()).is_some_and(|held| held.iter().any(|held| Arc::ptr_eq(held, bag)))
}

impl Store {
    fn shares(&self) -> bool {
        self.dir == self.state
    }

    fn load(&self) -> Result<Bags, KeyringError> {
        let retired = self.retired()?;
        let mut all = BTreeMap::new();
        // Of the same generation the one counts that somebody wrote into this machine by hand.
        let folders = [Some(&self.state), (!self.shares()).then_some(&self.dir)];
        for dir in folders.into_iter().flatten() {
            for (_, bag) in read(dir)? {
                if !retired.contains(&line(&bag)) {
                    all.insert((bag.link().to_owned(), bag.generation()), bag);
                }
            }
        }
        let mut newest = BTreeMap::<String, Vec<Bag>>::new();
        for ((link, _), bag) in all.into_iter().rev() {
            let bags = newest.entry(link).or_default();
            if bags.len() < MAX_GENERATIONS {
                bags.push(bag);
            }
        }
        Ok(Bags::new(newest.into_values().flatten())?)
    }

    /// The lines of what is given up.
    fn retired(&self) -> Result<Vec<String>, KeyringError> {
        let path = self.state.join(RETIRED);
        match fs::read_to_string(&path) {
            Ok(text) => Ok(text.lines().map(str::to_owned).collect()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(source) => Err(KeyringError::Io { path, source }),
        }
    }

    fn keep(&self, bag: &Bag) -> Result<(), KeyringError> {
        let path = self.state.join(format!("{}.{}.bag", bag.link(), bag.generation()));
        self.replace(&path, |new| Ok(bag.save(new)?))
    }

    fn give_up(&self, bag: &Bag) -> Result<(), KeyringError> {
        let mut lines = self.retired()?;
        if !self.shares() && !lines.contains(&line(bag)) {
            lines.push(line(bag));
            let path = self.state.join(RETIRED);
            self.replace(&path, |new| {
                let open = OpenOptions::new().write(true).create_new(true).mode(0o600).open(new);
                let written = open.and_then(|mut file| {
                    file.write_all((lines.join("\n") + "\n").as_bytes())?;
                    file.sync_all()
                });
                written.map_err(|source| KeyringError::Io { path: new.to_owned(), source })
            })?;
        }
        for (path, found) in read(&self.state)? {
            if found == *bag {
                fs::remove_file(&path).map_err(|source| KeyringError::Io { path, source })?;
            }
        }
        self.sync()
    }

    /// Writes a file beside its place and moves it there.
    fn replace(&self, path: &Path, write: impl FnOnce(&Path) -> Result<(), KeyringError>) -> Result<(), KeyringError> {
        let mut new = path.as_os_str().to_owned();
        new.push(".new");
        let new = PathBuf::from(new);
        let io = |source| KeyringError::Io { path: path.to_owned(), source };
        match fs::remove_file(&new) {
            // Left by a run that was cut.
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(source) => return Err(io(source)),
        }
        write(&new)?;
        fs::rename(&new, path).map_err(io)?;
        self.sync()
    }

    fn sync(&self) -> Result<(), KeyringError> {
        let synced = File::open(&self.state).and_then(|dir| dir.sync_all());
        synced.map_err(|source| KeyringError::Io { path: self.state.clone(), source })
    }
}

fn line(bag: &Bag) -> String {
    format!("{} {} {}", bag.link(), bag.generation(), bag.fingerprint())
}

impl fmt::Debug for Keyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keyring").field("bags", &*self.current()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
