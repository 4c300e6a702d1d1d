//! The outbox of a ledger that is new or was put back, and of one whose database was.
#![allow(clippy::unwrap_used, reason = "a test fails by it")]

mod common;

use common::{PATIENCE, Running, Site, fault};
use std::path::PathBuf;
use tobj::LeaseKind::Standing;
use tobj::{AuditEvent, AuditRecord, Check, Fault, Reply, Request};

/// Waits until the check of the outbox is as wanted.
async fn outbox_until(stager: &Running, what: &str, wanted: impl Fn(&Check) -> bool) -> Check {
    let found = async {
        loop {
            let Reply::StatusReport { checks, .. } = stager.ask("operator:eve", Request::Status {}).await else {
                panic!("no status")
            };
            let outbox = checks.into_iter().find(|check| check.name.as_str() == "outbox").unwrap();
            if wanted(&outbox) {
                return outbox;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, found).await.unwrap_or_else(|_| panic!("in vain: {what}"))
}

fn is_empty(outbox: &Check) -> bool {
    outbox.healthy && outbox.detail.as_str() == "the database has every audit record"
}

/// Leaves a record: what is asked for is not in the storeroom.
async fn leave_record(site: &Site, stager: &Running, n: u8) {
    let unknown = format!("not there: {n}");
    assert_eq!(fault(&stager.stage(n, site.grant(n, Standing, unknown.as_bytes())).await), Some(Fault::NotFound));
}

/// The files that are the ledger, to be put back at another time.
fn copy(site: &Site) -> Vec<(PathBuf, Vec<u8>)> {
    let paths = [stager::ledger::FILE, stager::ledger::LOG].map(|name| site.root().join(name));
    paths.into_iter().map(|path| (path.clone(), std::fs::read(path).unwrap())).collect()
}

fn put_back(copy: Vec<(PathBuf, Vec<u8>)>) {
    copy.into_iter().for_each(|(path, bytes)| std::fs::write(path, bytes).unwrap());
}

fn trail(site: &Site) -> Vec<AuditRecord> {
    site.database.with(|known| known.audit.values().cloned().collect())
}

/// Runs a stager that leaves these records and has them acknowledged.
async fn life(site: &Site, records: std::ops::Range<u8>) {
    let stager = site.start();
    for n in records {
        leave_record(site, &stager, n).await;
    }
    outbox_until(&stager, "all records are told", is_empty).await;
    stager.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_ledger_goes_on_after_the_records_of_the_one_before() {
    let site = Site::new();
    life(&site, 1..4).await;
    let before = trail(&site);
    assert_eq!(before.len(), 3);
    // The disks are new. Records come before there is a database to tell.
    std::fs::remove_dir_all(site.root()).unwrap();
    std::fs::create_dir(site.root()).unwrap();
    site.database.with(|known| known.down = true);
    let stager = site.start();
    for n in 4..9 {
        leave_record(&site, &stager, n).await;
    }
    let waiting = outbox_until(&stager, "they wait", |outbox| outbox.detail.as_str().starts_with("5 audit")).await;
    assert!(waiting.healthy, "a database that cannot be reached is told elsewhere: {waiting:?}");
    site.database.with(|known| known.down = false);
    outbox_until(&stager, "all records are told", is_empty).await;
    let after = trail(&site);
    assert_eq!(after[..3], before[..], "nothing of what was there has changed");
    assert!(after.iter().map(|record| record.seq).eq(1..=9));
    let events: Vec<_> = after[3..].iter().map(|record| record.event).collect();
    assert_eq!(events, [[AuditEvent::StageRefused; 5].as_slice(), &[AuditEvent::Admin]].concat());
    assert!(after[8].outcome.as_ref().is_some_and(|text| text.as_str().contains("follows record 3")));
    leave_record(&site, &stager, 9).await;
    stager.stop().await;

    // It is new only once.
    life(&site, 10..11).await;
    let all = trail(&site);
    assert!(all.iter().map(|record| record.seq).eq(1..=11));
    assert_eq!(all.iter().filter(|record| record.event == AuditEvent::Admin).count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ledger_that_was_put_back_tells_nothing_twice() {
    let site = Site::new();
    life(&site, 1..4).await;
    let copy = copy(&site);
    life(&site, 4..6).await;
    let known = trail(&site);
    put_back(copy);
    let stager = site.start();
    let told = outbox_until(&stager, "it is noticed before there is any record", |outbox| !outbox.healthy).await;
    let words = "the ledger has gone back: the database has audit records up to 5, this ledger ends at 3";
    assert!(told.detail.as_str().starts_with(words), "{told:?}");
    stager.stop().await;

    // It has as many records as the database by the time that is asked: then they are others.
    site.database.with(|known| known.down = true);
    let stager = site.start();
    for n in 6..10 {
        leave_record(&site, &stager, n).await;
    }
    site.database.with(|known| known.down = false);
    let told = outbox_until(&stager, "the database refuses", |outbox| !outbox.healthy).await;
    assert!(told.detail.as_str().contains("other audit records under numbers of this ledger"), "{told:?}");
    assert_eq!(trail(&site), known);
    // Once they are taken, for whatever reason, nothing is wrong any more.
    site.database.with(|known| known.audit.retain(|seq, _| *seq <= 3));
    outbox_until(&stager, "they are taken", is_empty).await;
    assert!(trail(&site).iter().map(|record| record.seq).eq(1..=7));
    stager.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_from_before_the_first_record_was_sent_is_not_new() {
    let site = Site::new();
    site.database.with(|known| known.down = true);
    let stager = site.start();
    leave_record(&site, &stager, 1).await;
    leave_record(&site, &stager, 2).await;
    stager.stop().await;
    let copy = copy(&site);
    site.database.with(|known| known.down = false);
    life(&site, 3..4).await;
    let known = trail(&site);
    assert_eq!(known.len(), 3);
    put_back(copy);
    let stager = site.start();
    let told = outbox_until(&stager, "it is noticed", |outbox| !outbox.healthy).await;
    assert!(told.detail.as_str().starts_with("the ledger has gone back"), "{told:?}");
    assert_eq!(trail(&site), known);
    stager.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_was_put_back_is_told() {
    let site = Site::new();
    life(&site, 1..4).await;
    let newer = site.database.with(|known| known.audit.split_off(&2));
    let stager = site.start();
    let told = outbox_until(&stager, "it is noticed", |outbox| !outbox.healthy).await;
    let words = "the database has gone back: it has audit records up to 1, those before 4 were dropped here";
    assert!(told.detail.as_str().starts_with(words), "{told:?}");
    site.database.with(|known| known.audit.extend(newer));
    outbox_until(&stager, "a newer copy is in its place", is_empty).await;
    stager.stop().await;
}
