//! Boot entries: the files in `EFI/Linux` of the ESP, and what may be done with them. Pure: names come in, names go out.

use super::package::{HARDWARE, Manifest};
use keys::site::Role;
use serde::{Deserialize, Serialize};
use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

/// Tries that a new entry gets.
pub const TRIES: u32 = 3;
/// Entries of ours that are kept on an ESP.
pub const SLOTS: usize = 2;

/// A version: three numbers (semver.org), ordered by them. In files it is written as people write it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Version {
    /// The first number.
    pub major: u32,
    /// The second.
    pub minor: u32,
    /// The third.
    pub patch: u32,
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

/// A text that is not what it should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a version is three numbers with dots between")]
pub struct NoVersion;

/// A number as we write it: no sign, no leading zero.
fn plain(text: &str) -> Option<u32> {
    let canonical = text == "0" || !text.starts_with(['0', '+']);
    text.parse().ok().filter(|_| canonical)
}

impl From<Version> for String {
    fn from(version: Version) -> Self {
        version.to_string()
    }
}

impl TryFrom<String> for Version {
    type Error = NoVersion;
    fn try_from(text: String) -> Result<Self, NoVersion> {
        text.parse()
    }
}

impl FromStr for Version {
    type Err = NoVersion;
    fn from_str(text: &str) -> Result<Self, NoVersion> {
        let mut parts = text.split('.').map(plain);
        match (parts.next(), parts.next(), parts.next(), parts.next()) {
            (Some(Some(major)), Some(Some(minor)), Some(Some(patch)), None) => Ok(Self { major, minor, patch }),
            _ => Err(NoVersion),
        }
    }
}

/// How often an entry may still be tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Tries {
    /// It has proven itself.
    Blessed,
    /// It has not.
    Counted {
        /// How many are left.
        left: u32,
        /// How many were used.
        done: u32,
    },
}

/// A boot entry: `<role>_<version>[+<left>[-<done>]].efi`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Entry {
    /// Whose system it is.
    pub role: Role,
    /// Its version.
    pub version: Version,
    /// Whether it has proven itself.
    pub tries: Tries,
}

impl Entry {
    /// Reads a file name; `None` for files that are not ours.
    ///
    /// ```
    /// use admin::update::slots::{Entry, Tries};
    /// let entry = Entry::parse("web_1.2.3+2-1.efi").unwrap();
    /// assert_eq!((entry.version.minor, entry.tries), (2, Tries::Counted { left: 2, done: 1 }));
    /// assert_eq!(entry.to_string(), "web_1.2.3+2-1.efi");
    /// ```
    pub fn parse(name: &str) -> Option<Self> {
        let (role, rest) = name.strip_suffix(".efi")?.split_once('_')?;
        let (version, counter) = match rest.split_once('+') {
            None => (rest, None),
            Some((version, counter)) => (version, Some(counter)),
        };
        let tries = match counter.map(|c| c.split_once('-').map_or((c, None), |(left, done)| (left, Some(done)))) {
            None => Tries::Blessed,
            Some((left, done)) => Tries::Counted { left: plain(left)?, done: done.map_or(Some(0), plain)? },
        };
        let role = Role::ALL.into_iter().find(|r| r.as_str() == role)?;
        Some(Self { role, version: version.parse().ok()?, tries })
    }

    /// A new entry, with all its tries.
    pub fn fresh(role: Role, version: Version) -> Self {
        Self { role, version, tries: Tries::Counted { left: TRIES, done: 0 } }
    }

    /// Whether it has used up its tries.
    pub fn given_up(&self) -> bool {
        matches!(self.tries, Tries::Counted { left: 0, .. })
    }

    /// The name without its counter, as firmware variables have it.
    pub fn id(&self) -> String {
        Self { tries: Tries::Blessed, ..*self }.to_string()
    }
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}_{}", self.role.as_str(), self.version)?;
        match self.tries {
            Tries::Blessed => {}
            Tries::Counted { left, done: 0 } => write!(f, "+{left}")?,
            Tries::Counted { left, done } => write!(f, "+{left}-{done}")?,
        }
        f.write_str(".efi")
    }
}

/// The order in which systemd-boot prefers entries of one role: those with tries left, then by version.
fn preference(a: &Entry, b: &Entry) -> Ordering {
    b.given_up().cmp(&a.given_up()).then(a.version.cmp(&b.version))
}

/// Whether a machine has the memory that is asked for. Of what is built in, firmware and kernel keep a part for themselves.
pub(crate) fn enough_memory(mib: u64, needed: u64) -> bool {
    mib >= needed - needed / 8
}

/// Why an update or a roll-back is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It is for another role.
    #[error("this is a {machine} machine, and the update is for {update} machines")]
    Role {
        /// Of the machine.
        machine: &'static str,
        /// Of the update.
        update: &'static str,
    },
    /// It is for another kind of machine.
    #[error("this machine is {machine}, and the update is for {update}")]
    Hardware {
        /// What the machine is.
        machine: &'static str,
        /// What the update is for.
        update: String,
    },
    /// It needs more memory.
    #[error(
        "the update needs a machine with {needed} MiB of memory, and this one has {machine}; give it more, then push again"
    )]
    Memory {
        /// MiB that the system of the machine has.
        machine: u64,
        /// MiB that the machine must have.
        needed: u64,
    },
    /// What runs has not proven itself.
    #[error(
        "the running version {0} has not passed its health check yet; an update now could leave the machine without a good one. Wait for it, or roll back"
    )]
    Unblessed(Version),
    /// What runs is not on the disk.
    #[error("the running version {0} is not among the entries of the disk; was the machine booted another way?")]
    Unknown(Version),
    /// It is what runs.
    #[error("version {0} is running already")]
    Same(Version),
    /// It is older.
    #[error("version {update} is older than the running {running}; order it with --downgrade")]
    Older {
        /// Of the update.
        update: Version,
        /// What runs.
        running: Version,
    },
    /// It was tried and failed.
    #[error("version {version} was tried on this machine and failed ({reason}); order it with --again")]
    Failed {
        /// Of the update.
        version: Version,
        /// What was wrong.
        reason: String,
    },
    /// Its data disks are not in use.
    #[error(
        "{0}, and without it the update could not prove itself, nor could anybody tell what broke it. Bring the data disks into use first (`ffsctl storage status` says what is wrong), or roll back if the running version is to blame"
    )]
    NoArray(&'static str),
    /// There is nothing to roll back to.
    #[error("there is no other good version on this machine")]
    NoOther,
}

/// A version that was tried and failed.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Failure {
    /// Which.
    pub version: Version,
    /// Why, as far as it is known.
    pub reason: String,
}

/// What an operator may insist on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Insist {
    /// An older version.
    pub downgrade: bool,
    /// A version that failed here.
    pub again: bool,
}

/// What to do on the ESP, in this order; each step is durable before the next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Entries to be removed, to make room.
    pub remove: Vec<Entry>,
    /// The entry to be written.
    pub write: Option<Entry>,
    /// Entries that get other names.
    pub rename: Vec<(Entry, Entry)>,
}

/// The entries of a machine's ESP and which of them runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slots {
    /// The role of the machine.
    pub role: Role,
    /// The version that runs.
    pub running: Version,
    /// All entries of ours.
    pub entries: Vec<Entry>,
}

impl Slots {
    /// The entry that runs.
    fn current(&self) -> Result<&Entry, Refusal> {
        self.of(self.running).ok_or(Refusal::Unknown(self.running))
    }

    fn of(&self, version: Version) -> Option<&Entry> {
        self.entries.iter().find(|e| (e.role, e.version) == (self.role, version))
    }

    /// What runs, if it has proven itself.
    fn blessed(&self) -> Result<&Entry, Refusal> {
        let current = self.current()?;
        if current.tries == Tries::Blessed { Ok(current) } else { Err(Refusal::Unblessed(self.running)) }
    }

    /// What systemd-boot would start next.
    pub fn next(&self) -> Option<&Entry> {
        self.entries.iter().filter(|e| e.role == self.role).max_by(|a, b| preference(a, b))
    }

    /// Whether a start anew may help where the running version is not well: it is on trial, and has a try left or gives way to
    /// another. One that has proven itself is never left, and neither is one without tries that would only be started again, for
    /// that would never end: after a failed downgrade the version that stood back for it runs like this.
    pub fn worth_leaving(&self) -> bool {
        match self.current().map(|e| e.tries) {
            Ok(Tries::Counted { left: 0, .. }) => self.next().is_some_and(|e| e.version != self.running),
            Ok(Tries::Counted { .. }) => true,
            Ok(Tries::Blessed) | Err(_) => false,
        }
    }

    /// How an update is put in, on a machine whose system has so many MiB of memory.
    ///
    /// # Errors
    /// [`Refusal`].
    pub fn update(
        &self,
        update: &Manifest,
        memory_mib: u64,
        failed: &[Failure],
        insist: Insist,
    ) -> Result<Plan, Refusal> {
        let Manifest { role, version, .. } = *update;
        if role != self.role {
            return Err(Refusal::Role { machine: self.role.as_str(), update: role.as_str() });
        }
        if update.hardware != HARDWARE {
            return Err(Refusal::Hardware { machine: HARDWARE, update: update.hardware.clone() });
        }
        if !enough_memory(memory_mib, update.memory_mib) {
            return Err(Refusal::Memory { machine: memory_mib, needed: update.memory_mib });
        }
        if version == self.running {
            return Err(Refusal::Same(version));
        }
        let current = self.blessed()?;
        if version < self.running && !insist.downgrade {
            return Err(Refusal::Older { update: version, running: self.running });
        }
        if let Some(failure) = failed.iter().find(|f| f.version == version && !insist.again) {
            return Err(Refusal::Failed { version, reason: failure.reason.clone() });
        }
        let write = Entry::fresh(role, version);
        // Only what runs stays: it is good, and the ESP has no room for a third. A twin without a counter would also stop
        // systemd-boot from counting.
        let remove = self.entries.iter().filter(|e| *e != current).copied().collect();
        // systemd-boot prefers what is newer, so an older one that is ordered comes into its own only if this one gives way.
        let rename = if version < self.running { vec![(*current, self.stand_back(current))] } else { Vec::new() };
        Ok(Plan { remove, rename, write: Some(write) })
    }

    /// The same entry, so that systemd-boot takes it only when there is nothing else.
    fn stand_back(&self, entry: &Entry) -> Entry {
        Entry { tries: Tries::Counted { left: 0, done: 0 }, ..*entry }
    }

    /// How the other version is made the one that starts next.
    ///
    /// # Errors
    /// [`Refusal::NoOther`], [`Refusal::Unknown`].
    pub fn roll_back(&self) -> Result<Plan, Refusal> {
        let current = self.current()?;
        // One that stood back on an order was good before; one that used up its tries was not.
        let good = |e: &&Entry| matches!(e.tries, Tries::Blessed | Tries::Counted { left: 0, done: 0 });
        let others = self.entries.iter().filter(|e| e.role == self.role && e.version != self.running);
        let other = others.filter(good).max_by_key(|e| e.version).ok_or(Refusal::NoOther)?;
        let mut rename = Vec::new();
        if other.tries != Tries::Blessed {
            rename.push((*other, Entry { tries: Tries::Blessed, ..*other }));
        }
        if self.running > other.version && !current.given_up() {
            rename.push((*current, self.stand_back(current)));
        }
        Ok(Plan { remove: Vec::new(), rename, write: None })
    }

    /// Versions that used up their tries, other than the one that runs.
    pub fn given_up(&self) -> impl Iterator<Item = Version> {
        let used = |e: &&Entry| matches!(e.tries, Tries::Counted { left: 0, done } if done > 0);
        self.entries.iter().filter(used).filter(|e| e.version != self.running).map(|e| e.version)
    }
}

#[cfg(test)]
mod tests;
