use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use keys::LinkKind;
use tempfile::TempDir;

use super::*;

fn bag(link: &str, peer: &str) -> Bag {
    Bag::pair(link, LinkKind::WebDatabase, ("web", peer), 1).unwrap().0
}

struct Machine {
    dir: TempDir,
    state: TempDir,
}

impl Machine {
    fn with(bags: &[&Bag]) -> Self {
        let machine = Self { dir: tempfile::tempdir().unwrap(), state: tempfile::tempdir().unwrap() };
        for bag in bags {
            bag.save(&machine.dir.path().join(format!("{}.bag", bag.link()))).unwrap();
        }
        machine
    }

    fn open(&self) -> Keyring {
        Keyring::open(self.dir.path(), Some(self.state.path())).unwrap()
    }
}

fn generations(keyring: &Keyring, link: &str) -> Vec<u32> {
    keyring.current().of_link(link).unwrap_or_default().iter().map(|bag| bag.generation()).collect()
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[tokio::test]
async fn a_rotation_and_what_a_restart_finds_of_it() {
    let first = bag("a", "database");
    let machine = Machine::with(&[&first, &bag("b", "download")]);
    let keyring = machine.open();
    assert_eq!(generations(&keyring, "a"), [1]);
    let second = first.next().unwrap();
    keyring.add(second.clone()).await.unwrap();
    assert_eq!(generations(&keyring, "a"), [2, 1]);
    assert_eq!(generations(&machine.open(), "a"), [2, 1]);
    let mode = fs::metadata(machine.state.path().join("a.2.bag")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    keyring.add(second.clone()).await.unwrap();
    assert!(matches!(keyring.add(first.next().unwrap()).await, Err(KeyringError::Conflict { generation: 2, .. })));

    assert!(matches!(keyring.retire("a", 2).await, Err(KeyringError::Newest { .. })));
    keyring.retire("a", 1).await.unwrap();
    keyring.retire("a", 1).await.unwrap();
    for keyring in [&keyring, &machine.open()] {
        assert_eq!((generations(keyring, "a"), generations(keyring, "b")), (vec![2], vec![1]));
    }
    // The file that it came with is there and stays refused.
    assert_eq!(names(machine.dir.path()), ["a.bag", "b.bag"]);
    assert!(matches!(keyring.add(first).await, Err(KeyringError::Older { newest: 2, .. })));

    let third = second.next().unwrap();
    keyring.add(third).await.unwrap();
    keyring.retire("a", 2).await.unwrap();
    assert_eq!(names(machine.state.path()), ["a.3.bag", "retired"]);
    assert_eq!(generations(&machine.open(), "a"), [3]);
}

#[tokio::test]
async fn a_cut_at_any_step_leaves_what_was_confirmed() {
    let first = bag("a", "database");
    let machine = Machine::with(&[&first]);
    let second = first.next().unwrap();
    // Cut before the rename: the next start takes no notice of it, and the next change does not stumble over it.
    second.save(&machine.state.path().join("a.2.bag.new")).unwrap();
    let keyring = machine.open();
    assert_eq!(generations(&keyring, "a"), [1]);
    keyring.add(second.clone()).await.unwrap();
    // Cut between the list and the removal of the file.
    fs::write(machine.state.path().join("retired"), line(&first) + "\n" + &line(&second) + "\n").unwrap();
    assert!(matches!(Keyring::open(machine.dir.path(), Some(machine.state.path())), Err(KeyringError::Bags(_))));
    fs::write(machine.state.path().join("retired"), line(&first) + "\n").unwrap();
    assert_eq!(generations(&machine.open(), "a"), [2]);
}

#[tokio::test]
async fn at_a_desk_there_is_one_folder() {
    let first = bag("a", "database");
    let machine = Machine::with(&[&first]);
    let keyring = Keyring::open(machine.dir.path(), Some(machine.dir.path())).unwrap();
    keyring.add(first.next().unwrap()).await.unwrap();
    assert_eq!(names(machine.dir.path()), ["a.2.bag", "a.bag"]);
    keyring.retire("a", 1).await.unwrap();
    assert_eq!(names(machine.dir.path()), ["a.2.bag"]);
}

#[tokio::test]
async fn new_links_and_revoked_ones() {
    let first = bag("a", "database");
    let machine = Machine::with(&[&first]);
    let keyring = machine.open();
    let other = bag("b", "download");
    keyring.add(other.clone()).await.unwrap();
    let held = keyring.current().of_link("b").unwrap()[0].clone();
    let waiting = tokio::spawn({
        let (keyring, held) = (keyring.clone(), held.clone());
        async move { keyring.released(&held).await }
    });
    assert!(keyring.holds(&held));
    keyring.revoke("b").await.unwrap();
    keyring.revoke("b").await.unwrap();
    tokio::time::timeout(Duration::from_secs(10), waiting).await.unwrap().unwrap();
    assert!(!keyring.holds(&held));
    assert!(generations(&machine.open(), "b").is_empty());
    assert!(matches!(keyring.add(other).await, Err(KeyringError::GivenUp { generation: 1, .. })));
    // Other keys under the same name and number are not what was revoked.
    keyring.add(bag("b", "download")).await.unwrap();
    assert_eq!(generations(&machine.open(), "b"), [1]);
    // A second link to a peer would be a guess.
    assert!(matches!(keyring.add(bag("c", "download")).await, Err(KeyringError::Bags(BagsError::Peer(_)))));
    assert_eq!(names(machine.state.path()), ["b.1.bag", "retired"], "what was refused was not written");
}

#[tokio::test]
async fn without_a_folder_nothing_changes() {
    let first = bag("a", "database");
    let keyring = Keyring::from(Bags::new([first.clone()]).unwrap());
    assert!(matches!(keyring.add(first.next().unwrap()).await, Err(KeyringError::Nowhere)));
    assert!(matches!(keyring.revoke("a").await, Err(KeyringError::Nowhere)));
    assert_eq!(generations(&keyring, "a"), [1]);
}
