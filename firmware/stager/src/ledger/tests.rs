use super::*;
use crate::rows::{DoneOrder, Event, State, UsedGrant, Withdrawn, tests::lease};
use tobj::AuditEvent;

fn id(n: u8) -> Id {
    Id::from([n; 16])
}

fn open(dir: &Path, empty: bool) -> Result<Ledger> {
    Ledger::open(dir, dir, empty, crate::testkit::SIZES)
}

#[test]
fn a_ledger_is_made_once_and_never_over_files() {
    let dir = tempfile::tempdir().unwrap();
    assert!(matches!(open(dir.path(), false), Err(LedgerError::Missing(_))));
    assert!(!dir.path().join(FILE).exists());
    std::fs::write(dir.path().join("ledger.new"), "half-made").unwrap();
    let ledger = open(dir.path(), true).unwrap();
    ledger.write(|txn| txn.put_lease(id(1), &lease(LeaseKind::Standing))).unwrap();
    assert!(matches!(open(dir.path(), true), Err(LedgerError::Open { .. })), "two at once");
    drop(ledger);
    let ledger = open(dir.path(), false).unwrap();
    assert_eq!(ledger.read().unwrap().lease(id(1)).unwrap(), Some(lease(LeaseKind::Standing)));
    drop(ledger);
    use std::os::unix::fs::PermissionsExt;
    let mode = std::fs::metadata(dir.path().join(FILE)).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);

    std::fs::write(dir.path().join(FILE), "no ledger").unwrap();
    assert!(matches!(open(dir.path(), true), Err(LedgerError::Open { .. })));
    std::fs::write(dir.path().join(FILE), "").unwrap();
    assert!(open(dir.path(), true).is_err(), "an empty file is not a ledger");
}

/// The first form had neither holders nor uploads nor withdrawals, the second one no log.
#[test]
fn a_ledger_of_a_form_before_is_brought_up() {
    for form in [FIRST, BEFORE] {
        let dir = tempfile::tempdir().unwrap();
        let ledger = open(dir.path(), true).unwrap();
        ledger.write(|txn| (1..=3).try_for_each(|n| txn.put_lease(id(n), &lease(LeaseKind::OneTime)))).unwrap();
        ledger.checkpoint().unwrap();
        drop(ledger);
        std::fs::remove_file(dir.path().join(LOG)).unwrap();
        let db = Database::open(dir.path().join(FILE)).unwrap();
        durably(&db, |txn| txn.set_number(Number::Schema, form)).unwrap();
        let write = db.begin_write().unwrap();
        write.open_table(META).unwrap().remove(Number::Mark.key()).unwrap();
        if form == FIRST {
            assert!(write.delete_table(HOLDERS).unwrap() && write.delete_table(UPLOADS).unwrap());
            assert!(write.delete_table(WITHDRAWN).unwrap());
        }
        write.commit().unwrap();
        drop(db);
        // A log that an upgrade made which was cut is made anew; what an update that went back has left is none of this ledger's.
        std::fs::write(dir.path().join(LOG), "half-made").unwrap();
        for _ in 0..2 {
            let ledger = open(dir.path(), false).unwrap();
            let object = lease(LeaseKind::OneTime).sha256;
            assert_eq!(ledger.read().unwrap().number(Number::Schema).unwrap(), SCHEMA);
            assert!(ledger.read().unwrap().number(Number::Mark).unwrap() != 0);
            assert_eq!(ledger.write(|txn| txn.holders(object, None, 9)).unwrap(), [id(1), id(2), id(3)]);
        }
        open(dir.path(), false).unwrap().write(|txn| txn.set_number(Number::Schema, SCHEMA + 1)).unwrap();
        assert!(matches!(open(dir.path(), false), Err(LedgerError::Schema(4))), "one of a later version is left alone");
    }
}

#[test]
fn a_ledger_without_its_log_is_not_opened() {
    let dir = tempfile::tempdir().unwrap();
    drop(open(dir.path(), true).unwrap());
    let log = dir.path().join(LOG);
    use std::os::unix::fs::PermissionsExt;
    assert_eq!(std::fs::metadata(&log).unwrap().permissions().mode() & 0o777, 0o600);
    std::fs::rename(&log, dir.path().join("aside")).unwrap();
    assert!(matches!(open(dir.path(), true), Err(LedgerError::NoLog(path)) if path == log));
    assert!(!log.exists(), "none is made in its place");
    std::fs::rename(dir.path().join("aside"), &log).unwrap();
    open(dir.path(), false).unwrap();
}

#[test]
fn a_log_that_was_used_is_not_made_over() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = open(dir.path(), true).unwrap();
    ledger.write(|txn| txn.set_number(Number::Clock, 1)).unwrap();
    drop(ledger);
    let (path, aside) = (dir.path().join(FILE), dir.path().join("aside"));
    std::fs::rename(&path, &aside).unwrap();
    assert!(matches!(open(dir.path(), true), Err(LedgerError::Missing(missing)) if missing == path));
    std::fs::rename(&aside, &path).unwrap();
    assert_eq!(open(dir.path(), false).unwrap().read().unwrap().number(Number::Clock).unwrap(), 1);
    // That of another ledger is not taken, and not overwritten.
    let other = tempfile::tempdir().unwrap();
    open(other.path(), true).unwrap().write(|txn| txn.set_number(Number::Clock, 2)).unwrap();
    std::fs::copy(other.path().join(LOG), dir.path().join(LOG)).unwrap();
    let refused = open(dir.path(), false).unwrap_err();
    assert!(matches!(refused, LedgerError::Log(LogError::Foreign)) && !refused.is_of_the_disk(), "{refused}");
    assert_eq!(open(other.path(), false).unwrap().read().unwrap().number(Number::Clock).unwrap(), 2);
}

#[test]
fn a_record_of_another_version_needs_a_person() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = open(dir.path(), true).unwrap();
    for (n, wrong) in
        [&[99u8, 0, 0, 0, 0, 0, 0, 0, 0][..], &[0, 1], &[0, 9, 0, 0, 0, 0, 0, 0, 0, b'x']].iter().enumerate()
    {
        ledger.log.lock().unwrap().append([&[0; log::HEADER], *wrong].concat()).unwrap();
        let copy = copy_of(dir.path());
        let refused = open(&copy, false).unwrap_err();
        assert!(matches!(refused, LedgerError::Log(LogError::Form)) && !refused.is_of_the_disk(), "{n}: {refused}");
        ledger.log.lock().unwrap().restart();
        ledger.checkpoint().unwrap();
    }
}

#[test]
fn another_length_is_made_when_nothing_is_in_it() {
    let dir = tempfile::tempdir().unwrap();
    let sizes = |log| Sizes { log, ..crate::testkit::SIZES };
    for (n, bytes) in [(1, 64 << 10), (2, 256 << 10), (3, 128 << 10), (4, 128 << 10)] {
        let ledger = Ledger::open(dir.path(), dir.path(), n == 1, sizes(bytes)).unwrap();
        assert_eq!(std::fs::metadata(dir.path().join(LOG)).unwrap().len(), bytes);
        assert_eq!(ledger.read().unwrap().number(Number::Clock).unwrap(), n - 1);
        ledger.write(|txn| txn.set_number(Number::Clock, n)).unwrap();
        assert_eq!(content(&killed(dir.path())), content(&ledger));
    }
}

/// A copy of the files as a kill leaves them.
fn copy_of(dir: &Path) -> PathBuf {
    let copy = dir.join("copy");
    let _ = std::fs::remove_dir_all(&copy);
    std::fs::create_dir(&copy).unwrap();
    for name in [FILE, LOG] {
        std::fs::copy(dir.join(name), copy.join(name)).unwrap();
    }
    copy
}

/// What the next start finds after a kill.
fn killed(dir: &Path) -> Ledger {
    open(&copy_of(dir), false).unwrap()
}

/// Everything that is in it.
fn content(ledger: &Ledger) -> Vec<String> {
    use redb::ReadableTable;
    let read = ledger.db.begin_read().unwrap();
    let mut rows = Vec::new();
    macro_rules! rows {
        ($($table:ident),*) => {$(
            for entry in read.open_table($table).unwrap().iter().unwrap() {
                let (key, value) = entry.unwrap();
                rows.push(format!("{} {:?} {:?}", stringify!($table), key.value(), value.value()));
            }
        )*};
    }
    rows!(META, OBJECTS, LEASES, PATHS, DUE, HOLDERS, UPLOADS, WITHDRAWN, GRANTS, TRANSFERS, OUTBOX);
    rows
}

/// One change of each kind, none of which leaves the ledger as it was.
fn change(txn: &mut Txn<'_>, kind: u8, n: u8) -> Result<()> {
    let (time, one) = (u64::from(n), lease(LeaseKind::OneTime));
    match kind {
        0 => txn.put_lease(id(n), &Lease { expires: time, ..one })?,
        1 => drop(txn.remove_lease(id(n))?),
        2 => txn.put_lease(id(n), &Lease { state: State::Ending(time), ..one })?,
        3 => txn.put_object([n; 32].into(), &crate::rows::Object::new(time, 1, 2))?,
        4 => txn.remove_object([n; 32].into())?,
        5 => {
            let upload = crate::rows::Upload { size: 9, durable: time, hash: String::new(), at: 1 };
            txn.put_upload([n; 32].into(), &upload)?;
        }
        6 => txn.remove_upload([n; 32].into())?,
        7 => txn.put_grant(time, id(n), &UsedGrant { request: id(1), lease: id(n), expires: 5 })?,
        8 => drop(txn.forget_grants(time, 3)?),
        9 => {
            let what = Withdrawn { product: None, version: None, at: time, seq: 1, record: time };
            txn.withdraw("alice", what, time / 2)?;
        }
        10 => drop(txn.log(&Event::new(time, AuditEvent::Login).outcome("x".repeat(9 * usize::from(n))))?),
        11 => txn.acknowledge(time)?,
        12 => txn.number_after(time)?,
        _ => txn.set_number(Number::Clock, time)?,
    }
    Ok(())
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(24))]

    /// Whatever was changed, in however many transactions, is there after a kill at any time.
    #[test]
    fn a_kill_loses_no_change(
        transactions in proptest::collection::vec(proptest::collection::vec((0..14u8, 0..24u8), 0..6), 1..60),
        pages_stay in proptest::bool::ANY,
    ) {
        let dir = tempfile::tempdir().unwrap();
        // Without a cache pages go to the file before anything says that they count.
        let sizes = Sizes { cache: if pages_stay { 1 << 20 } else { 0 }, ..crate::testkit::SIZES };
        let ledger = Ledger::open(dir.path(), dir.path(), true, sizes).unwrap();
        let every = transactions.len().div_ceil(3);
        for (n, changes) in (1..).zip(&transactions) {
            ledger.write(|txn| changes.iter().try_for_each(|(kind, n)| change(txn, *kind, *n))).unwrap();
            if n % every == 0 {
                let after = killed(dir.path());
                proptest::prop_assert_eq!(content(&after), content(&ledger));
                // It goes on from there, and may be killed again.
                after.write(|txn| txn.set_number(Number::Pass, 5)).unwrap();
                proptest::prop_assert_eq!(content(&killed(&dir.path().join("copy"))), content(&after));
            }
        }
    }
}

#[test]
fn what_is_too_much_for_the_log_goes_to_the_ledger() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = open(dir.path(), true).unwrap();
    ledger.write(|txn| txn.set_number(Number::Clock, 1)).unwrap();
    ledger.checkpoint().unwrap();
    let older = std::fs::read(dir.path().join(FILE)).unwrap();
    let outcome = "x".repeat(usize::try_from(*log::BOUNDS.start()).unwrap());
    ledger.write(|txn| txn.log(&Event::new(1, AuditEvent::Login).outcome(outcome)).map(drop)).unwrap();
    assert_eq!(content(&killed(dir.path())), content(&ledger));
    ledger.write(|txn| txn.set_number(Number::Clock, 2)).unwrap();
    assert_eq!(content(&killed(dir.path())), content(&ledger));
    assert_eq!(ledger.read().unwrap().number(Number::Held).unwrap(), 3, "one of three has no record");
    // A ledger from before it does not go on with what came after it.
    let copy = copy_of(dir.path());
    std::fs::write(copy.join(FILE), older).unwrap();
    assert!(matches!(open(&copy, false), Err(LedgerError::Log(LogError::Damaged(2)))));
}

/// What was committed in memory is in the file after an end without a checkpoint. A record that goes bad then is not missed.
#[test]
fn what_became_durable_by_itself_is_not_made_again() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = open(dir.path(), true).unwrap();
    for n in 1..=3 {
        ledger.write(|txn| txn.log(&Event::new(n, AuditEvent::Login))).unwrap();
    }
    let before = content(&ledger);
    drop(ledger);
    let log = std::fs::read(dir.path().join(LOG)).unwrap();
    for bad in 0..3 {
        let mut log = log.clone();
        log[bad * log::UNIT] ^= 1;
        std::fs::write(dir.path().join(LOG), log).unwrap();
        assert_eq!(content(&open(dir.path(), false).unwrap()), before, "record {bad}");
    }
}

#[test]
fn a_change_is_whole_or_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = open(dir.path(), true).unwrap();
    let failed = ledger.write(|txn| {
        txn.put_lease(id(1), &lease(LeaseKind::Standing))?;
        txn.log(&Event::new(1, AuditEvent::Staged))?;
        Err::<(), _>(LedgerError::Schema(9))
    });
    assert!(failed.is_err());
    let read = ledger.read().unwrap();
    assert_eq!(read.counts().unwrap(), (0, 0, 0));
    let seq = ledger.write(|txn| txn.log(&Event::new(1, AuditEvent::Staged))).unwrap();
    assert_eq!(seq, 1, "a failed change leaves no gap");
}

#[test]
fn paths_and_due_times_follow_the_leases() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = open(dir.path(), true).unwrap();
    let path = "alice/maps/1.0/grüße 1.iso";
    const RECORD: u64 = 7;
    let withdrawn = |product: Option<&str>, version: Option<&str>| {
        let name = |name: &str| name.parse().unwrap();
        Withdrawn { product: product.map(name), version: version.map(name), at: 1, seq: 1, record: RECORD }
    };
    ledger
        .write(|txn| {
            txn.put_lease(id(1), &lease(LeaseKind::Standing))?;
            txn.put_lease(id(2), &lease(LeaseKind::OneTime))?;
            txn.put_lease(id(2), &Lease { state: State::Ending(50), ..lease(LeaseKind::OneTime) })?;
            assert_eq!(txn.due(49, 9)?, []);
            assert_eq!(txn.due(50, 9)?, [id(2)]);
            assert_eq!(txn.due(1000, 9)?, [id(2), id(1)]);
            assert_eq!(txn.due(1000, 1)?, [id(2)]);
            assert_eq!(txn.lease_at(path)?.map(|(id, _)| id), Some(id(1)));
            for (customer, product, version, found) in [
                ("alice", None, None, 2),
                ("alice", Some("maps"), None, 2),
                ("alice", Some("maps"), Some("1.0"), 2),
                ("alice", Some("maps"), Some("1"), 0),
                ("alice", Some("map"), None, 0),
                ("ali", None, None, 0),
            ] {
                let what = withdrawn(product, version);
                assert_eq!(txn.ended_by(customer, &what, usize::MAX)?.len(), found, "{product:?}");
                assert_eq!(txn.ended_by(customer, &what, 1)?.len(), found.min(1), "{product:?}");
            }
            // What goes already and what began later take no room.
            txn.put_lease(id(1), &Lease { state: State::Removing, ..lease(LeaseKind::Standing) })?;
            assert_eq!(txn.ended_by("alice", &withdrawn(None, None), 1)?[0].0, id(2));
            for (begun, found) in [(RECORD, 1), (RECORD + 1, 0)] {
                txn.put_lease(id(2), &Lease { begun, ..lease(LeaseKind::OneTime) })?;
                assert_eq!(txn.ended_by("alice", &withdrawn(None, None), 1)?.len(), found, "{begun}");
            }
            txn.remove_lease(id(1))?;
            assert_eq!(txn.lease_at(path)?, None);
            assert_eq!(txn.due(u64::MAX, 9)?, [id(2)]);
            txn.remove_lease(id(2))?;
            assert_eq!(txn.ended_by("alice", &withdrawn(None, None), usize::MAX)?, []);
            Ok(())
        })
        .unwrap();
}

#[test]
fn the_outbox_keeps_what_is_not_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = open(dir.path(), true).unwrap();
    ledger
        .write(|txn| {
            for at in 1..=5 {
                txn.log(&Event::new(at, AuditEvent::Login))?;
            }
            Ok(())
        })
        .unwrap();
    ledger.write(|txn| txn.acknowledge(3)).unwrap();
    drop(ledger);
    let ledger = open(dir.path(), false).unwrap();
    let left: Vec<_> = ledger.read().unwrap().outbox(0).unwrap().map(|e| e.unwrap().0).collect();
    assert_eq!(left, [4, 5]);
    ledger.write(|txn| txn.acknowledge(9)).unwrap();
    assert_eq!(ledger.write(|txn| txn.log(&Event::new(6, AuditEvent::Login))).unwrap(), 6);
}

/// Whatever waits to be told, and however much: it is one small change.
#[test]
fn records_are_numbered_anew_without_being_written_again() {
    const MANY: u64 = 3000;
    const OTHERS: u64 = 40;
    let dir = tempfile::tempdir().unwrap();
    let ledger = open(dir.path(), true).unwrap();
    let event = Event::new(1, AuditEvent::Login);
    ledger.write(|txn| (0..MANY).try_for_each(|_| txn.log(&event).map(drop))).unwrap();
    ledger.checkpoint().unwrap();
    ledger.write(|txn| txn.number_after(OTHERS)).unwrap();
    let changes = &std::fs::read(dir.path().join(LOG)).unwrap()[log::HEADER - 4..log::HEADER];
    let changes = u32::from_le_bytes(changes.try_into().unwrap());
    assert!((1..200).contains(&changes), "{changes} bytes");
    drop(ledger);
    let ledger = open(dir.path(), false).unwrap();
    let numbers =
        |after| ledger.read().unwrap().outbox(after).unwrap().map(|entry| entry.unwrap().0).collect::<Vec<_>>();
    assert!(numbers(0).into_iter().eq(OTHERS + 1..=OTHERS + MANY));
    assert_eq!(ledger.read().unwrap().number(Number::Audit).unwrap(), OTHERS + MANY);
    assert_eq!((numbers(OTHERS)[0], numbers(OTHERS + 1)[0]), (OTHERS + 1, OTHERS + 2));
    for (upto, first) in [(OTHERS - 1, OTHERS + 1), (OTHERS, OTHERS + 1), (OTHERS + 1, OTHERS + 2)] {
        ledger.write(|txn| txn.acknowledge(upto)).unwrap();
        assert_eq!(numbers(0)[0], first, "{upto}");
    }
    assert_eq!(ledger.write(|txn| txn.log(&event)).unwrap(), OTHERS + MANY + 1);
    assert_eq!(numbers(OTHERS + MANY), [OTHERS + MANY + 1]);
}

#[test]
fn grants_are_forgotten_after_their_use_by() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = open(dir.path(), true).unwrap();
    let used = UsedGrant { request: id(1), lease: id(2), expires: 5 };
    ledger
        .write(|txn| {
            txn.put_grant(100, id(3), &used)?;
            assert_eq!(txn.grant(101, id(3))?, None);
            assert_eq!(txn.forget_grants(100, 9)?, 0);
            assert_eq!(txn.grant(100, id(3))?, Some(used.clone()));
            assert_eq!(txn.forget_grants(101, 9)?, 1);
            assert_eq!(txn.grant(100, id(3))?, None);
            Ok(())
        })
        .unwrap();
}

#[test]
fn orders_are_known_until_there_are_too_many() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = open(dir.path(), true).unwrap();
    let order = |n: u128| DoneOrder { request: n.to_be_bytes().into(), order: format!("{n}") };
    let first = ledger.write(|txn| (0..ORDERS_KEPT).rev().try_for_each(|n| txn.put_order(&order(n))));
    first.unwrap();
    let known = |n: u128| ledger.write(|txn| txn.order(n.to_be_bytes().into())).unwrap();
    assert_eq!((known(0), known(ORDERS_KEPT - 1)), (Some(order(0)), Some(order(ORDERS_KEPT - 1))));
    for more in 0..2 {
        ledger.write(|txn| txn.put_order(&order(ORDERS_KEPT + more))).unwrap();
        assert_eq!((known(ORDERS_KEPT + more), known(ORDERS_KEPT - 1 - more)), (Some(order(ORDERS_KEPT + more)), None));
    }
    assert_eq!(known(ORDERS_KEPT - 3), Some(order(ORDERS_KEPT - 3)));
    let rows = ledger.db.begin_read().unwrap().open_table(GRANTS).unwrap();
    assert_eq!(u128::from(redb::ReadableTableMetadata::len(&rows).unwrap()), 2 * ORDERS_KEPT);
}

/// A version from before knows neither the rows nor that they are there.
#[test]
fn orders_are_nothing_to_a_version_before() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = open(dir.path(), true).unwrap();
    let order = DoneOrder { request: id(1), order: "revoke".into() };
    let write = ledger.db.begin_write().unwrap();
    let ((), changes) = apply(&write, |txn| txn.put_order(&order)).unwrap();
    let record = changes.unwrap();
    const GRANTS_IN_LOG: u8 = 8;
    assert!(changes::read(&record[log::HEADER..]).all(|change| change.unwrap().0 == GRANTS_IN_LOG));
    write.abort().unwrap();
    ledger.write(|txn| txn.put_order(&order)).unwrap();
    // It forgets grants by their time, and looks for one by time and id.
    const LATEST: u64 = 253_402_300_799; // the last second that a token can name
    assert_eq!(ledger.write(|txn| txn.forget_grants(LATEST, 9)).unwrap(), 0);
    assert_eq!(ledger.write(|txn| txn.grant(LATEST, id(1))).unwrap(), None);
    drop(ledger);
    let ledger = open(dir.path(), false).unwrap();
    assert_eq!(ledger.write(|txn| txn.order(id(1))).unwrap(), Some(order));
}
