//! What the machine's console shows of its keys: beside commlinkd's socket, in a file that everybody may read, a line for each key bag
//! in use, `<fingerprint> generation <n> of <link>`. An operator compares it with `ffsctl keys show`. No key can be told from it.

use std::fmt::Write;
use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::{Bags, Keyring};

/// The file's name.
pub(super) const FILE: &str = "keys";

/// Keeps the file up to date for as long as the daemon runs.
pub(super) async fn publish(keyring: Keyring, path: PathBuf) {
    let mut bags = keyring.follow();
    loop {
        let text = text(&bags.borrow_and_update());
        if let Err(error) = put(&path, &text) {
            // Work goes on without a console.
            tracing::warn!(path = %path.display(), %error, "the fingerprints of the keys are not shown");
        }
        if bags.changed().await.is_err() {
            return;
        }
    }
}

fn text(bags: &Bags) -> String {
    let mut text = String::new();
    for bag in bags.iter() {
        // Writing to a String does not fail.
        let _ = writeln!(text, "{} generation {} of {}", bag.fingerprint(), bag.generation(), bag.link());
    }
    text
}

fn put(path: &Path, text: &str) -> io::Result<()> {
    let new = path.with_extension("new");
    fs::write(&new, text)?;
    // Not what the umask of the daemon makes of it.
    fs::set_permissions(&new, Permissions::from_mode(0o644))?;
    fs::rename(new, path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use keys::{Bag, LinkKind};

    fn bag(generation: u32) -> Bag {
        Bag::pair("web-database", LinkKind::WebDatabase, ("web", "database"), generation).unwrap().0
    }

    fn line(bag: &Bag) -> String {
        format!("{} generation {} of web-database", bag.fingerprint(), bag.generation())
    }

    #[tokio::test]
    async fn the_file_follows_the_bags() {
        let (dir, site, state) =
            (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (first, second) = (bag(1), bag(2));
        first.save(&site.path().join("web-database.bag")).unwrap();
        let keyring = Keyring::open(site.path(), Some(state.path())).unwrap();
        let path = dir.path().join(FILE);
        tokio::spawn(publish(keyring.clone(), path.clone()));
        let shows = |wanted: &[&Bag]| {
            let (path, mut wanted) = (path.clone(), wanted.iter().map(|bag| line(bag)).collect::<Vec<_>>());
            wanted.sort();
            async move {
                loop {
                    let text = fs::read_to_string(&path).unwrap_or_default();
                    let mut lines: Vec<&str> = text.lines().collect();
                    lines.sort_unstable();
                    if lines == wanted {
                        return;
                    }
                    tokio::task::yield_now().await;
                }
            }
        };
        shows(&[&first]).await;
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o644);
        keyring.add(second.clone()).await.unwrap();
        shows(&[&first, &second]).await;
        keyring.retire("web-database", 1).await.unwrap();
        shows(&[&second]).await;
    }
}
