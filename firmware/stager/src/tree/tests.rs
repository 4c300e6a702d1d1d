use super::*;
use crate::rows::tests::lease;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use tobj::LeaseKind;

struct Fixture {
    dir: tempfile::TempDir,
    tree: Tree,
    sha256: Sha256,
}

fn id(n: u8) -> Id {
    Id::from([n; 16])
}

fn fixture() -> Fixture {
    let dir = tempfile::tempdir().unwrap();
    let tree = Tree::open(dir.path()).unwrap();
    assert!(tree.is_empty().unwrap());
    let sha256 = Sha256::from([0xab; 32]);
    let mut file = tree.incoming(id(1)).unwrap();
    file.write_all(b"content").unwrap();
    assert!(tree.keep(&id(1).to_string(), &file, sha256).unwrap());
    Fixture { dir, tree, sha256 }
}

fn standing() -> Place {
    Place::of(id(9), &lease(LeaseKind::Standing))
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

#[test]
fn modes_are_as_designed() {
    let f = fixture();
    let mut batch = Batch::default();
    f.tree.link(&standing(), f.sha256, false, &mut batch).unwrap();
    f.tree.link(&Place::Ticket { lease: id(5), file: "x".parse().unwrap() }, f.sha256, false, &mut batch).unwrap();
    f.tree.sync(&mut batch).unwrap();
    let root = f.dir.path();
    for private in ["storeroom", "accounts", "tickets", "incoming"] {
        assert_eq!(mode(&root.join(private)), 0o700, "{private}");
    }
    for open in ["accounts/alice", "accounts/alice/maps", "accounts/alice/maps/1.0", &format!("tickets/{}", id(5))] {
        assert_eq!(mode(&root.join(open)), 0o755, "{open}");
    }
    let file = root.join("accounts/alice/maps/1.0/grüße 1.iso");
    assert_eq!(mode(&file), 0o444);
    let object = f.tree.object(f.sha256).unwrap().unwrap();
    assert_eq!(std::fs::metadata(&file).unwrap().ino(), object.inode);
    assert_eq!((object.links, object.size), (3, 7));
    assert!(!f.tree.is_empty().unwrap());
    assert_eq!(f.tree.list_incoming().unwrap(), [""; 0]);
}

#[test]
fn links_may_be_made_and_removed_again_and_again() {
    let f = fixture();
    let mut batch = Batch::default();
    for thorough in [false, false, true] {
        f.tree.link(&standing(), f.sha256, thorough, &mut batch).unwrap();
    }
    assert_eq!(f.tree.look(&standing()).unwrap().unwrap().links, 2);
    // Removed and made within one batch: no descriptor of a removed directory is used again.
    for _ in 0..2 {
        f.tree.unlink(&standing(), &mut batch).unwrap();
    }
    assert!(!f.dir.path().join("accounts/alice/maps").exists());
    assert!(f.dir.path().join("accounts/alice").exists(), "the account itself stays");
    f.tree.link(&standing(), f.sha256, false, &mut batch).unwrap();
    f.tree.sync(&mut batch).unwrap();
    assert!(f.tree.look(&standing()).unwrap().is_some());
}

#[test]
fn only_empty_directories_go_with_a_link() {
    let f = fixture();
    let mut batch = Batch::default();
    let mut other = lease(LeaseKind::Standing);
    other.version = "2".parse().unwrap();
    f.tree.link(&standing(), f.sha256, false, &mut batch).unwrap();
    f.tree.link(&Place::of(id(8), &other), f.sha256, false, &mut batch).unwrap();
    f.tree.unlink(&standing(), &mut batch).unwrap();
    f.tree.sync(&mut batch).unwrap();
    assert!(!f.dir.path().join("accounts/alice/maps/1.0").exists());
    assert!(f.dir.path().join("accounts/alice/maps/2").exists());
}

#[test]
fn every_directory_with_a_change_is_synced() {
    let f = fixture();
    let mut batch = Batch::default();
    f.tree.link(&standing(), f.sha256, false, &mut batch).unwrap();
    let all = ["accounts", "accounts/alice", "accounts/alice/maps", "accounts/alice/maps/1.0"];
    assert_eq!(batch.dirty.iter().map(String::as_str).collect::<Vec<_>>(), all);
    assert!(batch.dirty.iter().all(|path| batch.open.contains_key(path)));
    f.tree.sync(&mut batch).unwrap();
    f.tree.link(&standing(), f.sha256, false, &mut batch).unwrap();
    assert_eq!(batch.dirty.iter().map(String::as_str).collect::<Vec<_>>(), all[3..]);
    f.tree.sync(&mut batch).unwrap();
    f.tree.link(&standing(), f.sha256, true, &mut batch).unwrap();
    assert!(all.iter().all(|path| batch.dirty.contains(*path) && batch.open.contains_key(*path)));
    f.tree.unlink(&standing(), &mut batch).unwrap();
    assert!(batch.dirty.contains("accounts/alice") && !batch.dirty.contains("accounts/alice/maps"));
    f.tree.link(&standing(), f.sha256, true, &mut batch).unwrap();
    assert!(batch.dirty.iter().all(|path| batch.open.contains_key(path)));
    f.tree.sync(&mut batch).unwrap();
}

#[test]
fn what_is_in_the_way_is_not_replaced() {
    let f = fixture();
    let mut batch = Batch::default();
    assert!(matches!(f.tree.link(&standing(), [1; 32].into(), false, &mut batch), Err(TreeError::NoObject)));
    let path = f.dir.path().join("accounts/alice/maps/1.0/grüße 1.iso");
    std::fs::write(&path, "mine").unwrap();
    assert!(matches!(f.tree.link(&standing(), f.sha256, false, &mut batch), Err(TreeError::Occupied)));
    assert_eq!(std::fs::read(&path).unwrap(), b"mine");
}

#[test]
fn symbolic_links_are_not_followed() {
    let f = fixture();
    let mut batch = Batch::default();
    let outside = tempfile::tempdir().unwrap();
    symlink(outside.path(), f.dir.path().join("accounts/alice")).unwrap();
    assert!(f.tree.link(&standing(), f.sha256, false, &mut batch).is_err());
    assert!(f.tree.account(&"alice".parse().unwrap()).is_err());
    assert!(f.tree.unlink(&standing(), &mut batch).is_err());
    assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 0);
}

#[test]
fn an_object_that_is_there_keeps_its_inode() {
    let f = fixture();
    let before = f.tree.object(f.sha256).unwrap().unwrap();
    let mut file = f.tree.incoming(id(2)).unwrap();
    file.write_all(b"content").unwrap();
    assert!(!f.tree.keep(&id(2).to_string(), &file, f.sha256).unwrap(), "there is one already");
    assert_eq!(f.tree.object(f.sha256).unwrap(), Some(before));
    assert_eq!(f.tree.list_incoming().unwrap(), [""; 0]);
}

#[test]
fn strays_are_found_and_removed() {
    let f = fixture();
    let mut batch = Batch::default();
    f.tree.link(&standing(), f.sha256, false, &mut batch).unwrap();
    let root = f.dir.path();
    std::fs::write(root.join("accounts/stray"), "").unwrap();
    symlink("/etc/passwd", root.join("accounts/alice/link")).unwrap();
    std::fs::create_dir_all(root.join("accounts/alice/maps/1.0/dir")).unwrap();
    let seen = Mutex::new(Vec::new());
    f.tree.walk(&|dir, name, inode| seen.lock().unwrap().push((dir.to_owned(), name.to_owned(), inode))).unwrap();
    let seen = seen.into_inner().unwrap();
    let version = "accounts/alice/maps/1.0";
    let expected = [("accounts", "stray"), ("accounts/alice", "link"), (version, "dir"), (version, "grüße 1.iso")];
    assert_eq!(seen.len(), expected.len());
    for (dir, name, inode) in &seen {
        assert!(expected.contains(&(dir, name)), "{dir} {name}");
        assert_eq!(std::fs::symlink_metadata(root.join(dir).join(name)).unwrap().ino(), *inode, "{dir} {name}");
        if !name.ends_with(".iso") {
            f.tree.remove_stray(dir, name, &mut batch).unwrap();
        }
    }
    f.tree.sync(&mut batch).unwrap();
    assert!(!root.join("accounts/stray").exists());
}

/// More than one thread takes at a time, and than all of them take in one turn.
#[test]
fn every_name_is_visited_once() {
    let f = fixture();
    let tickets: std::collections::BTreeSet<_> = (0..2500).map(|n| format!("tickets/{n}")).collect();
    for ticket in &tickets {
        std::fs::create_dir(f.dir.path().join(ticket)).unwrap();
        std::fs::write(f.dir.path().join(ticket).join("file"), "").unwrap();
    }
    let seen = Mutex::new(Vec::new());
    f.tree.walk(&|dir, _, _| seen.lock().unwrap().push(dir.to_owned())).unwrap();
    let mut seen = seen.into_inner().unwrap();
    seen.sort();
    assert!(seen.iter().eq(&tickets), "{} of {}", seen.len(), tickets.len());
}

#[test]
fn the_file_system_has_a_name_and_space() {
    let f = fixture();
    assert!(!f.tree.file_system().unwrap().is_empty());
    let (free, all) = f.tree.space().unwrap();
    assert!(free > 0 && all >= free);
}
