//! Reading all of an array to find what has gone bad before the other copy does too (`admind scrub`).
//!
//! md compares the copies; a sector that cannot be read is written anew from the other copy. A scrub is due [`EVERY`], runs for at most
//! [`WINDOW`] at a time, when a timer starts it, and goes on where it stopped: how far it came is kept on the state partition. While an
//! array is rebuilt it has other things to do.

use super::array::{self, Array};
use super::record;
use super::superblock::Uuid;
use super::{StorageError, io_error};
use crate::block;
use serde::{Deserialize, Serialize};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

/// Where it is kept how far it came.
pub(crate) const RECORD: &str = "/state/scrub.toml";
/// How often all of an array is read.
pub(crate) const EVERY: Duration = Duration::from_secs(30 * 24 * 3600);
/// How long it runs at a time.
pub(crate) const WINDOW: Duration = Duration::from_secs(4 * 3600);
/// How often is looked how far it is.
const LOOK: Duration = Duration::from_secs(1);
/// How often that is written down, so that a power cut costs no more.
const NOTE: Duration = Duration::from_secs(60);
/// Sectors; where a scrub begins must be a multiple of any chunk (largest here: 4 MiB).
const ALIGN: u64 = 8192;

/// How far it came.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Scrub {
    /// The array, as text.
    pub(crate) array: String,
    /// The sector of each member from which it goes on; 0 when the last one came to its end.
    pub(crate) next: u64,
    /// Sectors that differed between the copies in this one so far.
    pub(crate) differing: u64,
    /// When the last one came to its end, in seconds since 1970; 0 for never.
    pub(crate) finished: u64,
    /// Sectors that differed in that one.
    pub(crate) found: u64,
}

impl Scrub {
    /// Whether there is something to do; an order does not wait for the time.
    fn due(&self, array: Uuid, now: u64, ordered: bool) -> bool {
        let other = self.array != array.to_string();
        ordered || other || self.next > 0 || now.saturating_sub(self.finished) >= EVERY.as_secs()
    }

    /// The same, stopped after these sectors of each member, with so many differing since it began or went on.
    fn stopped(&self, at: u64, differing: u64) -> Self {
        Self { next: at / ALIGN * ALIGN, differing: self.differing + differing, ..self.clone() }
    }

    /// The same, at its end.
    fn ended(&self, now: u64, differing: u64) -> Self {
        Self { next: 0, differing: 0, finished: now, found: self.differing + differing, ..self.clone() }
    }

    /// In words, for an operator; `None` where there never was one of this array.
    pub(crate) fn describe(&self, array: Uuid, now: u64) -> Option<String> {
        if self.array != array.to_string() || self.finished == 0 {
            return None;
        }
        let days = now.saturating_sub(self.finished) / 86_400;
        Some(format!("scrubbed {days} days ago, {} sectors differed", self.found))
    }
}

/// Seconds since 1970.
pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| d.as_secs())
}

fn setting(name: &str) -> PathBuf {
    Path::new(block::SYS).join("class/block").join(array::NAME).join("md").join(name)
}

fn set(name: &str, value: &str) -> Result<(), StorageError> {
    let path = setting(name);
    fs::write(&path, value).map_err(io_error(path))
}

/// Sectors of each member that are done; `None` when nothing is under way.
fn position(completed: &str) -> Option<u64> {
    completed.split(" / ").next()?.trim().parse().ok()
}

fn look() -> Option<Array> {
    array::look(Path::new(block::SYS)).filter(Array::runs)
}

/// Scrubs, if it is due or ordered, for as long as the window is open.
///
/// # Errors
/// [`StorageError`].
pub(crate) fn run(ordered: bool) -> Result<(), StorageError> {
    let path = Path::new(RECORD);
    let Some(array) = look() else { return Ok(()) };
    let kept: Scrub = record::load(path)?.unwrap_or_default();
    if array.action != "idle" || array.missing > 0 || !kept.due(array.array, now(), ordered) {
        tracing::info!(action = array.action, missing = array.missing, "no scrub now");
        return Ok(());
    }
    let mine = array.array.to_string();
    let scrub = if kept.array == mine { kept } else { Scrub { array: mine, ..Scrub::default() } };
    tracing::info!(from = scrub.next, "the array is scrubbed");
    set("sync_min", &scrub.next.to_string())?;
    set("sync_max", "max")?;
    set("sync_action", "check")?;
    let (begin, mut noted, mut at) = (Instant::now(), Instant::now(), scrub.next);
    loop {
        std::thread::sleep(LOOK);
        let Some(array) = look() else { return Ok(()) };
        at = fs::read_to_string(setting("sync_completed")).ok().as_deref().and_then(position).unwrap_or(at);
        if array.action != "check" {
            if array.missing > 0 || array.action != "idle" {
                // A member was lost meanwhile: a scrub of the rest would prove nothing.
                return record::save(path, &scrub.stopped(at, array.mismatches));
            }
            let ended = scrub.ended(now(), array.mismatches);
            tracing::info!(differing = ended.found, "the array was scrubbed");
            set("sync_min", "0")?;
            return record::save(path, &ended);
        }
        let over = begin.elapsed() >= WINDOW;
        if over || noted.elapsed() >= NOTE {
            noted = Instant::now();
            record::save(path, &scrub.stopped(at, array.mismatches))?;
        }
        if over {
            tracing::info!(at, "the scrub goes on another time");
            return pause();
        }
    }
}

/// Stops a scrub that is under way; it goes on another time.
///
/// # Errors
/// [`StorageError`].
pub(crate) fn pause() -> Result<(), StorageError> {
    if look().is_some_and(|array| array.action == "check") {
        set("sync_action", "idle")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const OURS: Uuid = Uuid([1; 16]);

    #[test]
    fn when_it_is_due() {
        let scrub = |next, finished| Scrub { array: OURS.to_string(), next, finished, ..Scrub::default() };
        let month = EVERY.as_secs();
        assert!(scrub(0, 0).due(OURS, month, false), "never was one");
        assert!(!scrub(0, 1000).due(OURS, 1000 + month - 1, false));
        assert!(scrub(0, 1000).due(OURS, 1000 + month, false));
        assert!(scrub(0, 1000).due(OURS, 1000, true), "an order");
        assert!(scrub(8192, 1000).due(OURS, 1001, false), "it goes on");
        assert!(scrub(0, 1000).due(Uuid([2; 16]), 1001, false), "another array");
        assert!(!scrub(0, 1000).due(OURS, 0, false), "a clock that went back is no reason");
    }

    #[test]
    fn it_goes_on_where_it_stopped() {
        let begun = Scrub { array: OURS.to_string(), ..Scrub::default() };
        let stopped = begun.stopped(3 * ALIGN + 5, 8);
        assert_eq!((stopped.next, stopped.differing, stopped.finished), (3 * ALIGN, 8, 0));
        assert_eq!(stopped.describe(OURS, 100), None);
        let ended = stopped.ended(86_400, 16);
        assert_eq!((ended.next, ended.differing, ended.found), (0, 0, 24));
        let words = ended.describe(OURS, 3 * 86_400 + 5).unwrap();
        assert_eq!(words, "scrubbed 2 days ago, 24 sectors differed");
        assert_eq!(ended.describe(Uuid([2; 16]), 0), None);
        let again = ended.stopped(9 * ALIGN, 1);
        assert_eq!((again.found, again.differing), (24, 1), "the last result stays until there is a new one");
    }

    #[test]
    fn positions() {
        assert_eq!(position("1024 / 4096\n"), Some(1024));
        assert_eq!(position("none\n"), None);
        assert_eq!(position("delayed\n"), None);
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("scrub.toml");
        let scrub = Scrub { array: OURS.to_string(), next: 8192, differing: 1, finished: 2, found: 3 };
        record::save(&path, &scrub).unwrap();
        assert_eq!(record::load::<Scrub>(&path).unwrap(), Some(scrub));
    }
}
