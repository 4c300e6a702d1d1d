//! The file of the store and its mark.

use super::*;
use std::fs;
use std::path::PathBuf;

struct Folder {
    dir: tempfile::TempDir,
}

impl Folder {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn names(&self) -> Vec<String> {
        let all = fs::read_dir(self.dir.path()).unwrap();
        let mut names: Vec<_> = all.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    /// How many customers there are, once one has been added.
    async fn fill(&self, customer: &'static str) -> u64 {
        let store = Store::open(&self.path("m.redb")).await.unwrap();
        store.write(move |txn| customers::add(txn, &name(customer), "h".into(), NOW)).await.unwrap();
        let count = store.read(|txn| Ok(txn.open_table(tables::CUSTOMERS)?.len()?)).await.unwrap();
        store.close().await;
        count
    }

    /// The words with which it does not open.
    async fn lost(&self) -> String {
        match Store::open(&self.path("m.redb")).await {
            Err(error @ StoreError::Lost { .. }) => error.to_string(),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn a_store_that_is_gone_is_not_made_anew() {
    let folder = Folder::new();
    assert_eq!((folder.fill("alice").await, folder.names()), (1, vec!["m.redb".to_owned(), "m.redb.made".to_owned()]));
    fs::rename(folder.path("m.redb"), folder.path("elsewhere")).unwrap();
    for _ in 0..2 {
        let said = folder.lost().await;
        for part in ["m.redb is gone", "m.redb.made says", "all customers", "put a copy of it back", "remove"] {
            assert!(said.contains(part), "{part}: {said}");
        }
        assert_eq!(folder.names(), ["elsewhere", "m.redb.made"], "nothing is made");
    }
    // What was cut off to nothing is as lost, and is left for who looks at it.
    fs::write(folder.path("m.redb"), "").unwrap();
    folder.lost().await;
    assert_eq!(fs::metadata(folder.path("m.redb")).unwrap().len(), 0);
    // A copy of it is as good as before, and an operator may decide to begin with nothing.
    fs::rename(folder.path("elsewhere"), folder.path("m.redb")).unwrap();
    assert_eq!(folder.fill("bob").await, 2);
    fs::remove_file(folder.path("m.redb")).unwrap();
    fs::remove_file(folder.path("m.redb.made")).unwrap();
    assert_eq!(folder.fill("carol").await, 1);
}

/// A store of a version that made no mark, and disks that were made anew.
#[tokio::test]
async fn a_mark_comes_to_a_store_and_without_either_one_is_made() {
    let folder = Folder::new();
    folder.fill("alice").await;
    fs::remove_file(folder.path("m.redb.made")).unwrap();
    assert_eq!(folder.fill("bob").await, 2, "it is the store that it was");
    assert!(folder.path("m.redb.made").is_file());
    let anew = Folder::new();
    assert_eq!(anew.fill("alice").await, 1);
}

/// Whatever a cut in the making leaves is no store, and the next start makes one.
#[tokio::test]
async fn a_cut_in_the_making_is_made_up_for() {
    for (left, bytes) in [("m.redb.new", "half"), ("m.redb.new", ""), ("m.redb", "")] {
        let folder = Folder::new();
        fs::write(folder.path(left), bytes).unwrap();
        assert_eq!(folder.fill("alice").await, 1, "{left}");
        assert_eq!(folder.names(), ["m.redb", "m.redb.made"]);
    }
    // In the making of the mark: half of one is one.
    let folder = Folder::new();
    folder.fill("alice").await;
    fs::write(folder.path("m.redb.made"), "").unwrap();
    assert_eq!(folder.fill("bob").await, 2);
    fs::remove_file(folder.path("m.redb")).unwrap();
    folder.lost().await;
}

#[tokio::test]
async fn a_store_knows_since_when_it_is() {
    let t = Temporary::new().await;
    let made = t.store.read(tables::made).await.unwrap().unwrap();
    assert!(made <= Timestamp::now() && made.plus(3600) > Timestamp::now());
    let t = t.reopen().await;
    assert_eq!(t.store.read(tables::made).await.unwrap(), Some(made), "as before");
    t.store.write(|txn| Ok(txn.open_table(tables::META)?.remove("made")?.is_some())).await.unwrap();
    assert_eq!(t.reopen().await.store.read(tables::made).await.unwrap(), None, "of a version that did not say");
}
