use super::audit::{Own, Reported};
use super::grants::{Outcome, Wish};
use super::objects::Added;
use super::requests::Known;
use super::rows::ObjectRow;
use super::*;
use crate::config::Lifetimes;
use proptest::prelude::*;
use redb::{Builder, ReadableTable, ReadableTableMetadata};
use std::collections::BTreeMap;
use tobj::{AuditEvent, AuditRecord, FileName, Id, LeaseKind, Name, Sha256, Text, Timestamp, TlsVersion};

mod file;
mod withdrawals;

const NOW: Timestamp = Timestamp(1_000_000);
const LIVES: Lifetimes = Lifetimes { session: 1800, grant: 300, standing: 5000, one_time: 4000 };

fn name(s: &str) -> Name {
    Name::new(s).unwrap()
}

fn object(n: u8) -> ObjectRow {
    ObjectRow {
        file: FileName::new("a file.bin").unwrap(),
        size: u64::from(n),
        sha256: Sha256::from([n; 32]),
        download: name("download"),
        added: NOW,
    }
}

fn record(seq: u64) -> AuditRecord {
    AuditRecord {
        seq,
        at: NOW,
        event: AuditEvent::Transfer,
        customer: Some(Text::lossy("alice")),
        address: None,
        lease: Some(Id::from([1; 16])),
        sha256: None,
        offset: Some(0),
        bytes: Some(seq),
        milliseconds: Some(1500),
        tls: Some(TlsVersion::Tls13),
        outcome: None,
    }
}

struct Temporary {
    store: Store,
    folder: tempfile::TempDir,
}

impl Temporary {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self { store: Store::open(&folder.path().join("m.redb")).await.unwrap(), folder }
    }

    async fn reopen(self) -> Self {
        self.store.close().await;
        Self { store: Store::open(&self.folder.path().join("m.redb")).await.unwrap(), folder: self.folder }
    }
}

#[tokio::test]
async fn the_file_is_private_and_keeps_what_was_written() {
    use std::os::unix::fs::PermissionsExt;
    let t = Temporary::new().await;
    assert!(t.store.write(|txn| customers::add(txn, &name("alice"), "h".into(), NOW)).await.unwrap());
    let t = t.reopen().await;
    let row = t.store.read(|txn| customers::find(txn, "alice")).await.unwrap().unwrap();
    assert_eq!((row.hash.as_str(), row.generation, row.added), ("h", 1, NOW));
    let mode = std::fs::metadata(t.folder.path().join("m.redb")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[tokio::test]
async fn a_layout_of_a_later_version_is_not_touched() {
    let t = Temporary::new().await;
    t.store
        .write(|txn| Ok(txn.open_table(tables::META)?.insert("schema", tables::SCHEMA + 1)?.is_some()))
        .await
        .unwrap();
    t.store.close().await;
    let error = Store::open(&t.folder.path().join("m.redb")).await.err().unwrap();
    assert!(matches!(error, StoreError::Newer { found, .. } if found == tables::SCHEMA + 1));
}

#[tokio::test]
async fn what_is_no_store_is_refused_and_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.redb");
    std::fs::write(&path, "not a database at all").unwrap();
    assert!(matches!(Store::open(&path).await, Err(StoreError::Open { .. })));
    assert_eq!(std::fs::read(&path).unwrap(), b"not a database at all");
    assert!(matches!(Store::open(&folder.path().join("no/m.redb")).await, Err(StoreError::Open { .. })));
}

#[tokio::test]
async fn a_change_that_fails_leaves_nothing_and_the_store_goes_on() {
    let t = Temporary::new().await;
    let failed = t.store.write(|txn| -> Result<(), StoreError> {
        customers::add(txn, &name("alice"), "h".into(), NOW)?;
        Err(StoreError::Row { table: "customers", source: "for a test".into() })
    });
    assert!(matches!(failed.await, Err(StoreError::Stopped)));
    assert!(t.store.read(|txn| customers::find(txn, "alice")).await.unwrap().is_none());
    assert!(t.store.write(|txn| customers::add(txn, &name("alice"), "h".into(), NOW)).await.unwrap());
}

#[tokio::test]
async fn a_writer_that_is_gone_is_noticed() {
    let t = Temporary::new().await;
    let lost = t.store.write(|_| -> Result<(), StoreError> {
        Err(StoreError::Redb(Box::new(redb::Error::Corrupted("for a test".into()))))
    });
    assert!(matches!(lost.await, Err(StoreError::Stopped)));
    tokio::time::timeout(std::time::Duration::from_secs(10), t.store.stopped()).await.unwrap();
    assert!(matches!(t.store.write(|_| Ok(())).await, Err(StoreError::Stopped)));
}

#[tokio::test]
async fn many_changes_at_once_are_all_made() {
    let t = Temporary::new().await;
    let store = Arc::new(t.store);
    let tasks: Vec<_> = (0..3 * MAX_BATCH)
        .map(|n| {
            let store = store.clone();
            tokio::spawn(async move {
                store.write(move |txn| customers::add(txn, &name(&format!("c{n}")), "h".into(), NOW)).await
            })
        })
        .collect();
    for task in tasks {
        assert!(task.await.unwrap().unwrap());
    }
    let count = store.read(|txn| Ok(txn.open_table(tables::CUSTOMERS)?.len()?)).await.unwrap();
    assert_eq!(count, u64::try_from(3 * MAX_BATCH).unwrap());
}

#[tokio::test]
async fn objects_are_what_they_were_first() {
    let t = Temporary::new().await;
    let add = |row: ObjectRow| t.store.write(move |txn| objects::add(txn, &name("maps"), &name("1"), &row));
    assert_eq!(add(object(1)).await.unwrap(), Added::New);
    assert_eq!(add(ObjectRow { added: NOW.plus(9), ..object(1) }).await.unwrap(), Added::Known);
    assert_eq!(add(object(2)).await.unwrap(), Added::Conflict(Box::new(object(1))));
    let (items, more) = t.store.read(|txn| objects::list(txn, 0)).await.unwrap();
    assert_eq!((items.len(), items[0].sha256, more), (1, Sha256::from([1; 32]), false));
    assert!(t.store.read(|txn| objects::list(txn, u64::MAX)).await.unwrap().0.is_empty());
}

#[tokio::test]
async fn lists_come_in_pages() {
    let t = Temporary::new().await;
    let total = tobj::PAGE + 1;
    t.store
        .write(move |txn| {
            for n in 0..total {
                customers::add(txn, &name(&format!("c{n:04}")), "h".into(), NOW)?;
            }
            Ok(())
        })
        .await
        .unwrap();
    let (first, more) = t.store.read(|txn| customers::list(txn, 0)).await.unwrap();
    assert_eq!((first.len(), more), (tobj::PAGE, true));
    let offset = u64::try_from(first.len()).unwrap();
    let (rest, more) = t.store.read(move |txn| customers::list(txn, offset)).await.unwrap();
    let last = tobj::CustomerInfo { name: name(&format!("c{:04}", tobj::PAGE)), enabled: true, added: NOW };
    assert_eq!((rest, more), (vec![last], false));
}

#[tokio::test]
async fn the_trail_has_neither_gaps_nor_doubles() {
    let t = Temporary::new().await;
    let report = |from: &'static str, seqs: Vec<u64>| {
        t.store.write(move |txn| audit::report(txn, &name(from), seqs.into_iter().map(record).collect()))
    };
    assert_eq!(report("d1", vec![]).await.unwrap(), Reported::Upto(0));
    assert_eq!(report("d1", vec![2]).await.unwrap(), Reported::Gap { expected: 1, found: 2 });
    assert_eq!(report("d1", vec![1, 2, 3]).await.unwrap(), Reported::Upto(3));
    assert_eq!(report("d1", vec![1, 2, 3]).await.unwrap(), Reported::Upto(3));
    assert_eq!(report("d1", vec![2, 3, 4]).await.unwrap(), Reported::Upto(4));
    assert_eq!(report("d1", vec![4, 5, 7]).await.unwrap(), Reported::Gap { expected: 6, found: 7 });
    assert_eq!(report("d1", vec![0]).await.unwrap(), Reported::Conflict(0));
    assert_eq!(report("d2", vec![1]).await.unwrap(), Reported::Upto(1), "numbers are each appliance's own");
    let other = AuditRecord { bytes: Some(99), ..record(4) };
    let conflict = t.store.write(move |txn| audit::report(txn, &name("d1"), vec![other, record(5)])).await.unwrap();
    assert_eq!(conflict, Reported::Conflict(4));
    let own = Own { event: AuditEvent::Admin, customer: None, address: None, sha256: None, outcome: Text::lossy("x") };
    t.store.write(move |txn| audit::own(txn, &name("database"), own, NOW)).await.unwrap();

    let t = t.reopen().await;
    let (entries, more) = t.store.read(|txn| audit::list(txn, 0)).await.unwrap();
    let seen: Vec<_> = entries.iter().map(|e| (e.index, e.appliance.to_string(), e.record.seq)).collect();
    let expected = [(1, "d1", 1), (2, "d1", 2), (3, "d1", 3), (4, "d1", 4), (5, "d2", 1), (6, "database", 1)];
    assert_eq!(seen, expected.map(|(i, a, s)| (i, a.to_owned(), s)));
    assert_eq!((entries[0].record.clone(), more), (record(1), false));
    assert_eq!(t.store.read(|txn| audit::list(txn, 5)).await.unwrap().0.len(), 1);
    assert!(t.store.read(|txn| audit::list(txn, u64::MAX)).await.unwrap().0.is_empty());
}

#[tokio::test]
async fn revocations_are_numbered_and_come_once() {
    let t = Temporary::new().await;
    t.store
        .write(|txn| {
            customers::add(txn, &name("alice"), "h".into(), NOW)?;
            objects::add(txn, &name("maps"), &name("1"), &object(1))?;
            let (alice, maps, one) = (name("alice"), name("maps"), name("1"));
            entitlements::add(txn, &alice, &maps, Some(&one), None, &LIVES, NOW)?;
            entitlements::add(txn, &alice, &maps, Some(&one), None, &LIVES, NOW)?;
            assert_eq!(revocations::last(txn)?, 0, "nothing was withdrawn");
            entitlements::add(txn, &alice, &maps, Some(&one), Some(NOW.plus(5)), &LIVES, NOW)?;
            assert_eq!(revocations::last(txn)?, 1, "ends earlier than before");
            entitlements::add(txn, &alice, &maps, Some(&one), Some(NOW.plus(9)), &LIVES, NOW)?;
            assert_eq!(revocations::last(txn)?, 1, "ends later than before");
            assert!(entitlements::remove(txn, &alice, &maps, Some(&one), &LIVES, NOW)?);
            assert!(!entitlements::remove(txn, &alice, &maps, Some(&one), &LIVES, NOW)?);
            assert!(customers::set_password(txn, &alice, "g".into(), NOW)?);
            assert!(!customers::set_password(txn, &name("bob"), "g".into(), NOW)?);
            Ok(())
        })
        .await
        .unwrap();
    let t = t.reopen().await;
    let after = |n: u64| t.store.read(move |txn| revocations::after(txn, n));
    let (items, upto) = after(0).await.unwrap();
    let seen: Vec<_> = items.iter().map(|r| (r.seq, r.product.clone(), r.version.clone())).collect();
    let one = (Some(name("maps")), Some(name("1")));
    assert_eq!(seen, [(1, one.0.clone(), one.1.clone()), (2, one.0, one.1), (3, None, None)]);
    assert_eq!(upto, 3);
    assert_eq!(after(2).await.unwrap().0.len(), 1);
    assert_eq!(after(3).await.unwrap(), (vec![], 3));
    assert_eq!(after(4).await.unwrap().0.len(), 3, "of another life of the store: all again");
    assert_eq!(after(u64::MAX).await.unwrap().1, 3);
    assert_eq!(t.store.read(|txn| customers::find(txn, "alice")).await.unwrap().unwrap().generation, 2);
}

async fn entitled() -> Temporary {
    let t = Temporary::new().await;
    t.store
        .write(|txn| {
            customers::add(txn, &name("alice"), "h".into(), NOW)?;
            objects::add(txn, &name("maps"), &name("1"), &object(1))?;
            entitlements::add(txn, &name("alice"), &name("maps"), None, Some(NOW.plus(1000)), &LIVES, NOW)
        })
        .await
        .unwrap();
    t
}

fn wish(request: u8, version: &str) -> Wish {
    Wish {
        request: Id::from([request; 16]),
        customer: name("alice"),
        generation: 1,
        product: name("maps"),
        version: name(version),
        kind: LeaseKind::Standing,
        only: None,
    }
}

async fn issue(t: &Temporary, wish: Wish, now: Timestamp) -> Outcome {
    t.store.write(move |txn| grants::issue(txn, &wish, &LIVES, now)).await.unwrap()
}

#[tokio::test]
async fn a_grant_is_bounded_repeated_and_refused() {
    let t = entitled().await;
    let Outcome::Issued(row) = issue(&t, wish(1, "1"), NOW).await else { panic!("not issued") };
    assert_eq!((row.use_by, row.lease_expires), (NOW.plus(300), NOW.plus(1000)));
    assert_eq!(issue(&t, wish(1, "1"), NOW.plus(1)).await, Outcome::Repeated(row.clone()));
    let t = t.reopen().await;
    assert_eq!(issue(&t, wish(1, "1"), NOW.plus(2)).await, Outcome::Repeated(row.clone()));
    assert_eq!(issue(&t, Wish { kind: LeaseKind::OneTime, ..wish(1, "1") }, NOW).await, Outcome::OtherRequest);
    let Outcome::Issued(second) = issue(&t, wish(2, "1"), NOW.plus(900)).await else { panic!("not issued") };
    assert_eq!(second.use_by, NOW.plus(1000), "the use-by ends with the right");
    assert_ne!(second.id, row.id);
    assert_eq!(issue(&t, wish(3, "1"), NOW.plus(1000)).await, Outcome::NotEntitled);
    assert_eq!(issue(&t, wish(4, "2"), NOW).await, Outcome::NoObject);
    assert_eq!(issue(&t, Wish { product: name("music"), ..wish(5, "1") }, NOW).await, Outcome::NotEntitled);
    assert_eq!(issue(&t, Wish { customer: name("bob"), ..wish(6, "1") }, NOW).await, Outcome::SessionOver);
    assert_eq!(issue(&t, Wish { generation: 2, ..wish(7, "1") }, NOW).await, Outcome::SessionOver);
    let of = |n, machine: &str| Wish { only: Some(name(machine)), ..wish(n, "1") };
    assert_eq!(issue(&t, of(8, "elsewhere"), NOW).await, Outcome::NoObject);
    assert!(matches!(issue(&t, of(9, "download"), NOW).await, Outcome::Issued(_)));
}

#[tokio::test]
async fn a_grant_is_younger_than_every_withdrawal() {
    let t = entitled().await;
    let withdraw = |at| t.store.write(move |txn| revocations::add(txn, &name("alice"), Some(&name("maps")), None, at));
    for (n, withdrawn, expected) in
        [(1, NOW.plus(5), NOW.plus(6)), (2, NOW, NOW.plus(6)), (3, NOW.plus(5), NOW.plus(6))]
    {
        withdraw(withdrawn).await.unwrap();
        let Outcome::Issued(row) = issue(&t, wish(n, "1"), NOW.plus(5)).await else { panic!("not issued") };
        assert_eq!(row.issued, expected, "{n}");
    }
}

/// A withdrawal of a clock that was a year ahead: grants are issued in its future until it is dated anew.
#[tokio::test]
async fn what_was_withdrawn_in_the_future_is_dated_anew() {
    let t = entitled().await;
    let year = NOW.plus(365 * 24 * 3600);
    let withdraw = |product: &'static str, at| {
        t.store.write(move |txn| revocations::add(txn, &name("alice"), Some(&name(product)), None, at))
    };
    let ahead = |now| t.store.read(move |txn| revocations::ahead(txn, now));
    let told = || t.store.read(|txn| revocations::after(txn, 0));
    let issued = async |n, now| match issue(&t, wish(n, "1"), now).await {
        Outcome::Issued(row) => row.issued,
        other => panic!("{other:?}"),
    };
    assert!(!ahead(NOW).await.unwrap(), "there is none");
    for (product, at) in [("maps", NOW), ("charts", year), ("music", year), ("maps", NOW)] {
        withdraw(product, at).await.unwrap();
    }
    assert_eq!(issued(1, NOW).await, year.plus(1), "the last one was not before the others");
    let edge = Timestamp(year.0 - revocations::AHEAD);
    assert!(!ahead(edge).await.unwrap() && ahead(Timestamp(edge.0 - 1)).await.unwrap());

    let now = NOW.plus(1);
    assert_eq!(t.store.write(move |txn| revocations::redate(txn, now)).await.unwrap(), 7);
    assert!(!ahead(now).await.unwrap());
    let rows: Vec<_> = told().await.unwrap().0.into_iter().map(|r| (r.seq, r.product.unwrap(), r.at)).collect();
    let row = |seq, product, at| (seq, name(product), at);
    assert_eq!(rows, [row(1, "maps", NOW), row(5, "charts", now), row(6, "music", now), row(7, "maps", now)]);
    assert_eq!(issued(2, now).await, now.plus(1));
}

#[tokio::test]
async fn customers_come_and_go_with_what_they_have() {
    use super::customers::Enabled;
    let t = entitled().await;
    let enable = |enabled| t.store.write(move |txn| customers::enable(txn, &name("alice"), enabled, NOW));
    assert_eq!(enable(true).await.unwrap(), Enabled::Same);
    let before = t.store.read(revocations::last_committed).await.unwrap();
    assert_eq!(enable(false).await.unwrap(), Enabled::Changed);
    assert_eq!(t.store.read(revocations::last_committed).await.unwrap(), before + 1);
    assert_eq!(issue(&t, Wish { generation: 2, ..wish(1, "1") }, NOW).await, Outcome::SessionOver);
    assert_eq!(enable(true).await.unwrap(), Enabled::Changed);
    assert_eq!(issue(&t, wish(2, "1"), NOW).await, Outcome::SessionOver, "what was opened before stays over");
    assert!(matches!(issue(&t, Wish { generation: 3, ..wish(3, "1") }, NOW).await, Outcome::Issued(_)));

    let others = |txn: &ReadTransaction| {
        Ok(entitlements::list(txn, 0)?.0.into_iter().filter(|e| e.customer != name("alice")).count())
    };
    let kept = t.store.read(others).await.unwrap();
    let remove = || t.store.write(|txn| customers::remove(txn, &name("alice"), NOW));
    assert!(remove().await.unwrap() && !remove().await.unwrap());
    assert_eq!(t.store.read(revocations::last_committed).await.unwrap(), before + 2);
    assert!(t.store.read(|txn| customers::find(txn, "alice")).await.unwrap().is_none());
    let left = t.store.read(|txn| Ok(entitlements::list(txn, 0)?.0)).await.unwrap();
    assert_eq!(left.len(), kept, "only hers went");
    let unknown = t.store.write(|txn| customers::enable(txn, &name("alice"), true, NOW)).await.unwrap();
    assert_eq!(unknown, Enabled::Unknown);
}

#[tokio::test]
async fn a_catalogue_is_whole_whatever_is_not_shown_of_it() {
    let t = Temporary::new().await;
    let total = u8::try_from(tobj::PAGE + 20).unwrap();
    t.store
        .write(move |txn| {
            customers::add(txn, &name("alice"), "h".into(), NOW)?;
            for n in 0..total {
                let download = name(if n % 10 == 3 { "elsewhere" } else { "download" });
                objects::add(txn, &name("maps"), &name(&format!("v{n:03}")), &ObjectRow { download, ..object(n) })?;
                entitlements::add(
                    txn,
                    &name("alice"),
                    &name("maps"),
                    Some(&name(&format!("v{n:03}"))),
                    None,
                    &LIVES,
                    NOW,
                )?;
            }
            // Entitlements to versions that are offered no more.
            for n in [0, 5, 50] {
                assert!(objects::remove(txn, &name("maps"), &name(&format!("v{n:03}")))?);
            }
            assert!(!objects::remove(txn, &name("maps"), &name("v000"))?);
            Ok(())
        })
        .await
        .unwrap();
    for only in [None, Some("download"), Some("elsewhere")] {
        let (mut seen, mut more) = (Vec::new(), true);
        while more {
            let offset = seen.len() as u64;
            let page = t
                .store
                .read(move |txn| entitlements::catalogue(txn, &name("alice"), only.map(name).as_ref(), offset, NOW));
            let (items, rest) = page.await.unwrap();
            seen.extend(items.into_iter().map(|item| item.version.to_string()));
            more = rest;
        }
        let expected: Vec<_> = (0..total)
            .filter(|n| ![0, 5, 50].contains(n))
            .filter(|n| only.is_none_or(|only| (only == "elsewhere") == (n % 10 == 3)))
            .map(|n| format!("v{n:03}"))
            .collect();
        assert_eq!(seen, expected, "{only:?}");
    }
}

#[tokio::test]
async fn grants_are_forgotten_after_their_lease() {
    let t = entitled().await;
    for n in 1..=9 {
        assert!(matches!(issue(&t, wish(n, "1"), NOW).await, Outcome::Issued(_)));
    }
    let count = || {
        t.store.read(|txn| {
            let ends = txn.open_table(tables::GRANT_ENDS)?.len()?;
            assert_eq!(txn.open_table(tables::GRANTS)?.len()?, ends);
            assert_eq!(txn.open_table(tables::GRANT_REQUESTS)?.len()?, ends);
            Ok(ends)
        })
    };
    t.store.write(|txn| entitlements::add(txn, &name("alice"), &name("maps"), None, None, &LIVES, NOW)).await.unwrap();
    assert!(matches!(issue(&t, wish(20, "1"), NOW.plus(1000)).await, Outcome::Issued(_)));
    assert_eq!(count().await.unwrap(), 10, "not before the leases end");
    let mut left = Vec::new();
    for n in 21..=23 {
        assert!(matches!(issue(&t, wish(n, "1"), NOW.plus(1001)).await, Outcome::Issued(_)));
        left.push(count().await.unwrap());
    }
    assert_eq!(left, [7, 4, 4]);
}

#[tokio::test]
async fn requests_are_known_up_to_an_age_and_a_number() {
    let t = Temporary::new().await;
    let id = |n: u8| Id::from([n; 16]);
    let remember = |n: u8, now: Timestamp, count: u64| {
        t.store.write(move |txn| requests::remember_up_to(txn, id(n), format!("f{n}"), now, count))
    };
    let find = |n: u8, f: &'static str| t.store.write(move |txn| requests::find(txn, id(n), f));
    for n in 1..=5 {
        remember(n, NOW, 5).await.unwrap();
    }
    assert_eq!(find(1, "f1").await.unwrap(), Known::Done);
    assert_eq!(find(1, "f2").await.unwrap(), Known::Other);
    remember(6, NOW, 5).await.unwrap();
    assert_eq!(find(1, "f1").await.unwrap(), Known::No, "one too many");
    assert_eq!(find(2, "f2").await.unwrap(), Known::Done);
    remember(7, NOW.plus(requests::AGE), 99).await.unwrap();
    assert_eq!(find(2, "f2").await.unwrap(), Known::Done, "of just that age");
    remember(8, NOW.plus(requests::AGE + 1), 99).await.unwrap();
    assert_eq!(find(2, "f2").await.unwrap(), Known::No, "too old");
    remember(9, NOW.plus(requests::AGE + 1), 99).await.unwrap();
    let left: Vec<_> = [6, 7, 8, 9].into_iter().map(id).collect();
    let kept = t.store.read(|txn| {
        let table = txn.open_table(tables::REQUESTS)?;
        table.iter()?.map(|row| Ok(Id::from(*row?.0.value()))).collect::<Result<Vec<_>, StoreError>>()
    });
    assert_eq!(kept.await.unwrap(), left[1..], "the rest went with the next ones");
}

/// One step of an operator's, or of time.
#[derive(Debug, Clone)]
enum Step {
    Add { customer: u8, product: u8, version: Option<u8>, until: Option<u64> },
    Remove { customer: u8, product: u8, version: Option<u8> },
    Pass(u64),
}

const CUSTOMERS: u8 = 2;
const PRODUCTS: u8 = 2;
const VERSIONS: u8 = 3;

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let version = || prop::option::of(0..VERSIONS + 1);
    let step = prop_oneof![
        4 => (0..CUSTOMERS + 1, 0..PRODUCTS + 1, version(), prop::option::of(0..60u64))
            .prop_map(|(customer, product, version, until)| Step::Add { customer, product, version, until }),
        3 => (0..CUSTOMERS, 0..PRODUCTS, version())
            .prop_map(|(customer, product, version)| Step::Remove { customer, product, version }),
        1 => (1..30u64).prop_map(Step::Pass),
    ];
    prop::collection::vec(step, 1..40)
}

type Model = BTreeMap<(u8, u8, Option<u8>), Option<u64>>;

fn allowed(model: &Model, customer: u8, product: u8, version: u8, now: u64) -> Option<Option<u64>> {
    let rights = [None, Some(version)].map(|v| model.get(&(customer, product, v)).copied());
    let live: Vec<_> = rights.into_iter().flatten().filter(|until| until.is_none_or(|u| u > now)).collect();
    if live.contains(&None) { Some(None) } else { live.into_iter().max() }
}

fn apply(txn: &WriteTransaction, model: &mut Model, step: &Step, now: &mut u64) -> Result<(), StoreError> {
    let (c, p, v) = (|n: u8| name(&format!("c{n}")), |n: u8| name(&format!("p{n}")), |n: u8| name(&format!("v{n}")));
    match step {
        Step::Pass(seconds) => *now += seconds,
        Step::Add { customer, product, version, until } => {
            let known = *customer < CUSTOMERS && *product < PRODUCTS && version.is_none_or(|v| v < VERSIONS);
            let (version_name, at) = (version.map(v), Timestamp(*now));
            let until_at = until.map(Timestamp);
            let done =
                entitlements::add(txn, &c(*customer), &p(*product), version_name.as_ref(), until_at, &LIVES, at)?;
            assert_eq!(done, known, "{step:?}");
            if known {
                model.insert((*customer, *product, *version), *until);
            }
        }
        Step::Remove { customer, product, version } => {
            let version_name = version.map(v);
            let done =
                entitlements::remove(txn, &c(*customer), &p(*product), version_name.as_ref(), &LIVES, Timestamp(*now))?;
            assert_eq!(done, model.remove(&(*customer, *product, *version)).is_some(), "{step:?}");
        }
    }
    let table = txn.open_table(tables::ENTITLEMENTS)?;
    for (customer, product, version) in all() {
        let found = entitlements::right(&table, &c(customer), &p(product), &v(version), Timestamp(*now))?;
        let expected = allowed(model, customer, product, version, *now);
        assert_eq!(found.map(|end| end.until().map(|at| at.0)), expected, "after {step:?}");
    }
    Ok(())
}

fn all() -> impl Iterator<Item = (u8, u8, u8)> {
    (0..CUSTOMERS).flat_map(|c| (0..PRODUCTS).flat_map(move |p| (0..VERSIONS).map(move |v| (c, p, v))))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    /// Rights, catalogues and lists are those of a plain map of what was given, at every step and after all of them.
    #[test]
    fn entitlements_are_a_map(steps in steps()) {
        let database = Builder::new().create_with_backend(redb::backends::InMemoryBackend::new()).unwrap();
        tables::prepare(&database).unwrap();
        let txn = database.begin_write().unwrap();
        for n in 0..CUSTOMERS {
            customers::add(&txn, &name(&format!("c{n}")), "h".into(), NOW).unwrap();
        }
        for (_, p, v) in all() {
            objects::add(&txn, &name(&format!("p{p}")), &name(&format!("v{v}")), &object(1)).unwrap();
        }
        let (mut model, mut now) = (Model::new(), 0);
        for step in &steps {
            apply(&txn, &mut model, step, &mut now).unwrap();
        }
        txn.commit().unwrap();
        let txn = database.begin_read().unwrap();
        for customer in 0..CUSTOMERS {
            let whose = name(&format!("c{customer}"));
            let (items, _) = entitlements::catalogue(&txn, &whose, None, 0, Timestamp(now)).unwrap();
            let found: Vec<_> =
                items.iter().map(|i| (i.product.to_string(), i.version.to_string(), i.until.map(|u| u.0))).collect();
            let expected: Vec<_> = all()
                .filter(|(c, ..)| *c == customer)
                .filter_map(|(c, p, v)| allowed(&model, c, p, v, now).map(|u| (format!("p{p}"), format!("v{v}"), u)))
                .collect();
            prop_assert_eq!(&found, &expected);
            if let Some(skipped) = expected.get(1..) {
                let (rest, _) = entitlements::catalogue(&txn, &whose, None, 1, Timestamp(now)).unwrap();
                prop_assert_eq!(rest.len(), skipped.len());
            }
        }
        let (list, _) = entitlements::list(&txn, 0).unwrap();
        prop_assert_eq!(list.len(), model.len());
    }
}
