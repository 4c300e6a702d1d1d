//! The factory reset: a machine becomes what it was when its disk was written, and stays this machine of this site.
//!
//! | on the state partition | |
//! |---|---|
//! | `site/` | stays |
//! | `lib/ffs/commlinkd/` | stays: the present generations of key bags, and which were given up |
//! | `storage.toml`, `storage-current.toml` | stay: which array is this machine's, and of which disks. They are not touched at all |
//! | everything else | goes: journal, identity, what is remembered of updates and scrubs, what services keep |
//!
//! An operator's order is a file, written durably before it is acknowledged; the machine then starts anew, and the next start carries
//! it out before anything uses the partition. Each step is durable before the next:
//! 1. what goes is removed, entry by entry;
//! 2. the directories are synced;
//! 3. the order is renamed to [`DONE`], and the directory synced.
//!
//! A power cut before the last step leaves the order where it is, and the next start begins again: to remove what is not there any more
//! is no work. A request that comes again is known by its ID, which stays in [`DONE`].

use crate::durable;
use std::fs::{self, File};
use std::io;
use std::path::Path;

/// An order that waits for the next start; it holds the ID of the request.
const ORDER: &str = "factory-reset";
/// The last order that was carried out.
const DONE: &str = "factory-reset.done";
/// What stays, by the directory that it is in.
const KEPT: &[(&str, &[&str])] = &[
    ("", &["site", "lib", "storage.toml", "storage-current.toml", "lost+found", ORDER, DONE]),
    ("lib", &["ffs"]),
    ("lib/ffs", &["commlinkd"]),
];

/// What is about to be done; tests stop before each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Remove,
    Sync,
    Finish,
}

/// Notes an order for the next start. Whether there is something to do: an order with this ID may have been carried out.
///
/// # Errors
/// When it cannot be made durable.
pub(crate) fn order(state: &Path, id: &str) -> io::Result<bool> {
    if fs::read_to_string(state.join(DONE)).is_ok_and(|done| done == id) {
        return Ok(false);
    }
    durable::write(&state.join(ORDER), id.as_bytes(), 0o600)?;
    Ok(true)
}

/// Carries an order out, if there is one; whether there was.
///
/// # Errors
/// When something cannot be removed; the order is still there then.
pub(super) fn carry_out(state: &Path) -> io::Result<bool> {
    carry_out_in_steps(state, &mut |_| Ok(()))
}

fn carry_out_in_steps(state: &Path, before: &mut dyn FnMut(Step) -> io::Result<()>) -> io::Result<bool> {
    let order = state.join(ORDER);
    if !order.exists() {
        return Ok(false);
    }
    for (dir, kept) in KEPT {
        let dir = state.join(dir);
        // One that is a link or no directory went with the entries of the one above.
        let Ok(entries) = fs::read_dir(&dir) else { continue };
        for entry in entries {
            let entry = entry?;
            let stays = entry.file_name().to_str().is_some_and(|name| kept.contains(&name));
            if !stays {
                before(Step::Remove)?;
                // A link itself, not what it leads to.
                if entry.file_type()?.is_dir() {
                    fs::remove_dir_all(entry.path())
                } else {
                    fs::remove_file(entry.path())
                }?;
            }
        }
        before(Step::Sync)?;
        File::open(&dir)?.sync_all()?;
    }
    before(Step::Finish)?;
    fs::rename(&order, state.join(DONE))?;
    File::open(state)?.sync_all()?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use std::os::unix::fs::symlink;
    use std::path::PathBuf;

    const STAYS: [&str; 7] = [
        "site/site.toml",
        "site/bags/a-b.bag",
        "lib/ffs/commlinkd/a-b.2.bag",
        "lib/ffs/commlinkd/retired",
        "storage.toml",
        "storage-current.toml",
        "outside",
    ];
    const GOES: [&str; 6] = [
        "journal/0/system.journal",
        "machine-id",
        "update.toml",
        "scrub.toml",
        "lib/systemd/timesync/clock",
        "lib/ffs/x/y",
    ];

    /// A partition, and beside it what a link on it leads to.
    fn state() -> (tempfile::TempDir, PathBuf) {
        let home = tempfile::tempdir().unwrap();
        let state = home.path().join("state");
        for file in STAYS.iter().chain(&GOES) {
            let at = if *file == "outside" { home.path().join("outside/x") } else { state.join(file) };
            fs::create_dir_all(at.parent().unwrap()).unwrap();
            fs::write(at, file).unwrap();
        }
        symlink(home.path().join("outside"), state.join("link")).unwrap();
        (home, state)
    }

    fn all(state: &Path) -> BTreeSet<String> {
        let (mut found, mut todo) = (BTreeSet::new(), vec![state.to_owned()]);
        while let Some(next) = todo.pop() {
            for entry in fs::read_dir(next).unwrap() {
                let entry = entry.unwrap();
                if entry.file_type().unwrap().is_dir() {
                    todo.push(entry.path());
                } else {
                    found.insert(entry.path().strip_prefix(state).unwrap().to_str().unwrap().to_owned());
                }
            }
        }
        found
    }

    fn expected() -> BTreeSet<String> {
        STAYS.iter().filter(|s| **s != "outside").chain([&DONE]).map(|s| (*s).to_owned()).collect()
    }

    #[test]
    fn what_stays_and_what_goes() {
        let (home, state) = state();
        assert!(!carry_out(&state).unwrap(), "nobody ordered it");
        assert!(state.join("machine-id").exists());
        assert!(order(&state, "id-1").unwrap());
        assert!(state.join("machine-id").exists(), "not before the next start");
        assert!(carry_out(&state).unwrap());
        assert_eq!(all(&state), expected());
        assert!(home.path().join("outside/x").exists(), "a link is removed, not what it leads to");
        // The same order again is the one that was carried out; another is another.
        assert!(!order(&state, "id-1").unwrap());
        assert!(!carry_out(&state).unwrap());
        assert!(order(&state, "id-2").unwrap());
    }

    #[test]
    fn a_cut_at_any_step_is_mended_by_the_next_start() {
        let mut steps = 0;
        loop {
            let (_home, state) = state();
            order(&state, "id").unwrap();
            let mut left = steps;
            let cut = carry_out_in_steps(&state, &mut |_| {
                left -= 1;
                if left < 0 { Err(io::Error::other("cut")) } else { Ok(()) }
            });
            if cut.is_ok() {
                break;
            }
            assert!(state.join(ORDER).exists(), "the order outlives a cut before step {steps}");
            assert!(carry_out(&state).unwrap());
            assert_eq!(all(&state), expected(), "after a cut before step {steps}");
            steps += 1;
        }
        assert!(steps > 9, "{steps} steps");
    }

    #[test]
    fn an_order_that_was_cut_is_none() {
        let (_home, state) = state();
        fs::write(state.join("factory-reset.new"), "half").unwrap();
        assert!(!carry_out(&state).unwrap());
        assert!(state.join("machine-id").exists());
    }
}
