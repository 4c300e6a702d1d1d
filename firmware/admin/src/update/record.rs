//! What a machine remembers of updates, on its state partition: what is being tried, and what failed.
//!
//! `/state/update.toml`:
//! ```toml
//! lost = "1.2.1"           # was being tried, and its entry is gone
//!
//! [trying]                 # written before the new entry gets its name, removed once it is marked as good or was given up
//! version = "1.2.3"
//! named = true             # its entry has got its name
//! reason = "no ftp banner" # what the health gate found last time
//!
//! [[failed]]
//! version = "1.2.2"
//! reason = "did not get as far as its health check"
//! ```

use super::slots::{Failure, Slots, Tries, Version};
use crate::durable;
use serde::{Deserialize, Serialize};
use std::fs;
use std::io;
use std::path::Path;

/// Where it is.
pub const RECORD: &str = "/state/update.toml";
/// Failures that are remembered; the oldest goes first.
pub const MAX_FAILED: usize = 16;
/// What is said of a version that left no word: a panic, a hang, or its power was cut each time.
pub const SILENT: &str = "it did not get as far as its health check (panic, hang or power cut)";

/// What is said of a version whose entry is gone. FAT may lose a file that is renamed when the power goes.
pub const LOST: &str = "its entry was lost when the power went; push it again";

/// A version that has not proven itself yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trial {
    /// Which.
    pub version: Version,
    /// Whether its entry has got its name; until then it is being written, or that was cut off.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub named: bool,
    /// What its health gate found, if it got that far.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// What is remembered. What a later version has written besides is passed over: a machine that went back from it still reads the rest.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Record {
    /// What was being tried when its entry was lost. That is not its fault: it may come again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lost: Option<Version>,
    /// What is being tried.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trying: Option<Trial>,
    /// What failed, oldest first.
    pub failed: Vec<Failure>,
}

impl Record {
    /// Reads it. One that makes no sense is as good as none: no machine may stay down for it.
    ///
    /// # Errors
    /// When the file is there and cannot be read.
    pub fn load(path: &Path) -> io::Result<Self> {
        match fs::read_to_string(path) {
            Ok(text) => Ok(toml::from_str(&text).unwrap_or_else(|error| {
                tracing::error!(path = %path.display(), %error, "what was remembered of updates makes no sense; it is forgotten");
                Self::default()
            })),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(error),
        }
    }

    /// Writes it, whole or not at all.
    ///
    /// # Errors
    /// When that fails; the old one is there then.
    pub fn save(&self, path: &Path) -> io::Result<()> {
        let text = toml::to_string(self).map_err(io::Error::other)?;
        durable::write(path, text.as_bytes(), 0o600)
    }

    /// A version is about to be tried.
    pub fn begin(&mut self, version: Version) {
        self.failed.retain(|f| f.version != version);
        self.lost = None;
        self.trying = Some(Trial { version, named: false, reason: None });
    }

    /// The entry of what is about to be tried is there.
    pub fn named(&mut self) {
        if let Some(trial) = &mut self.trying {
            trial.named = true;
        }
    }

    /// The health gate of a version that is being tried found something.
    pub fn found(&mut self, version: Version, reason: &str) {
        if let Some(trial) = self.trying.as_mut().filter(|t| t.version == version) {
            trial.reason = Some(reason.to_owned());
        }
    }

    /// The running version is good. Whether the entries say what became of the one that was tried; if so, it is recorded. One that
    /// has proven itself is tried until it is marked as such, for its entry may be lost until then.
    pub fn settle(&mut self, slots: &Slots) -> bool {
        let Some(trial) = self.trying.take() else { return false };
        let runs = trial.version == slots.running;
        match slots.entries.iter().find(|entry| entry.version == trial.version).map(|entry| entry.tries) {
            Some(Tries::Blessed) => {}
            // An operator has gone back before it was started.
            Some(Tries::Counted { left: 0, done: 0 }) => {}
            Some(Tries::Counted { left: 0, .. }) if !runs => {
                let reason = trial.reason.unwrap_or_else(|| SILENT.to_owned());
                self.fail(trial.version, reason);
            }
            None if trial.named => self.lost = Some(trial.version),
            // It was not started yet, or not even written: that may be going on right now.
            Some(Tries::Counted { .. }) | None => {
                self.trying = Some(trial);
                return false;
            }
        }
        true
    }

    /// What is to be known of versions that do not run: each, and why.
    pub fn complaints(&self) -> impl Iterator<Item = (Version, &str)> {
        let failed = self.failed.iter().map(|failure| (failure.version, &*failure.reason));
        self.lost.iter().map(|version| (*version, LOST)).chain(failed)
    }

    fn fail(&mut self, version: Version, reason: String) {
        self.failed.retain(|f| f.version != version);
        self.failed.push(Failure { version, reason });
        let surplus = self.failed.len().saturating_sub(MAX_FAILED);
        self.failed.drain(..surplus);
    }
}

#[cfg(test)]
mod tests {
    use super::super::slots::Entry;
    use super::*;
    use keys::site::Role;

    fn slots(running: &str, names: &[&str]) -> Slots {
        let entries = names.iter().map(|name| Entry::parse(name).unwrap()).collect();
        Slots { role: Role::Web, running: running.parse().unwrap(), entries }
    }

    fn trying(version: &str) -> Record {
        let mut record = Record::default();
        record.begin(version.parse().unwrap());
        record
    }

    #[test]
    fn it_reads_what_it_writes() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("update.toml");
        assert_eq!(Record::load(&path).unwrap(), Record::default());
        let mut record = trying("1.1.0");
        record.fail("1.0.1".parse().unwrap(), "no banner".into());
        record.save(&path).unwrap();
        assert_eq!(Record::load(&path).unwrap(), record);
        fs::write(&path, "trying = 7").unwrap();
        assert_eq!(Record::load(&path).unwrap(), Record::default());
    }

    #[test]
    fn a_good_update_is_settled() {
        let mut record = trying("1.1.0");
        assert!(record.settle(&slots("1.1.0", &["web_1.1.0.efi", "web_1.0.0.efi"])));
        assert_eq!(record, Record::default());
        assert!(!record.settle(&slots("1.1.0", &["web_1.1.0.efi"])));
    }

    #[test]
    fn a_failed_update_is_remembered_with_its_reason() {
        let back = slots("1.0.0", &["web_1.0.0.efi", "web_1.1.0+0-3.efi"]);
        let mut record = trying("1.1.0");
        record.found("1.0.0".parse().unwrap(), "of another version");
        record.found("1.1.0".parse().unwrap(), "no ftp banner");
        assert!(record.settle(&back));
        assert_eq!(
            (record.failed[0].version.to_string(), &*record.failed[0].reason),
            ("1.1.0".into(), "no ftp banner")
        );
        let mut silent = trying("1.1.0");
        assert!(silent.settle(&back));
        assert_eq!(silent.failed[0].reason, SILENT);
        // Ordered again, it gets a new chance.
        silent.begin("1.1.0".parse().unwrap());
        assert_eq!(silent.failed, []);
    }

    #[test]
    fn one_that_has_not_come_to_its_end_stays() {
        for (running, entry) in
            [("1.0.0", "web_1.1.0+3.efi"), ("1.1.0", "web_1.1.0+2-1.efi"), ("1.1.0", "web_1.1.0+0-3.efi")]
        {
            let mut record = trying("1.1.0");
            assert!(!record.settle(&slots(running, &["web_1.0.0.efi", entry])), "{entry}");
            assert!(record.trying.is_some(), "{entry}");
        }
    }

    #[test]
    fn one_that_stands_back_is_not_tried_any_more() {
        let mut record = trying("1.1.0");
        assert!(record.settle(&slots("1.0.0", &["web_1.0.0.efi", "web_1.1.0+0.efi"])));
        assert_eq!(record, Record::default());
    }

    #[test]
    fn one_whose_entry_is_lost_may_come_again() {
        let mut record = trying("1.1.0");
        assert!(!record.settle(&slots("1.0.0", &["web_1.0.0.efi"])), "it is being written");
        record.named();
        assert!(record.settle(&slots("1.0.0", &["web_1.0.0.efi"])));
        let (home, version) = (tempfile::tempdir().unwrap(), "1.1.0".parse().unwrap());
        let path = home.path().join("update.toml");
        record.save(&path).unwrap();
        let mut record = Record::load(&path).unwrap();
        assert_eq!(record.complaints().collect::<Vec<_>>(), [(version, LOST)]);
        assert_eq!(record.failed, [], "it is not refused");
        record.begin(version);
        assert_eq!(record.complaints().count(), 0);
    }

    #[test]
    fn old_failures_make_room() {
        let mut record = Record::default();
        for patch in 0..=u32::try_from(MAX_FAILED).unwrap() {
            record.fail(Version { major: 1, minor: 0, patch }, "x".into());
        }
        assert_eq!((record.failed.len(), record.failed[0].version.patch), (MAX_FAILED, 1));
    }
}
