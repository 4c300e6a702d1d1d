use super::*;
use crate::rows::{State, tests::lease};
use tobj::AuditEvent;

fn id(n: u8) -> Id {
    Id::from([n; 16])
}

fn open(dir: &Path, empty: bool) -> Result<Ledger> {
    Ledger::open(dir, dir, empty, 1 << 20)
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

/// The form before had neither holders nor uploads nor withdrawals.
#[test]
fn a_ledger_of_the_form_before_is_brought_up() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = open(dir.path(), true).unwrap();
    let change = |txn: &mut Txn<'_>| {
        (1..=3).try_for_each(|n| txn.put_lease(id(n), &lease(LeaseKind::OneTime)))?;
        txn.set_number(Number::Schema, BEFORE)
    };
    ledger.write(change).unwrap();
    let write = ledger.db.begin_write().unwrap();
    assert!(write.delete_table(HOLDERS).unwrap() && write.delete_table(UPLOADS).unwrap());
    assert!(write.delete_table(WITHDRAWN).unwrap());
    write.commit().unwrap();
    drop(ledger);
    for _ in 0..2 {
        let ledger = open(dir.path(), false).unwrap();
        let object = lease(LeaseKind::OneTime).sha256;
        assert_eq!(ledger.read().unwrap().number(Number::Schema).unwrap(), SCHEMA);
        assert_eq!(ledger.write(|txn| txn.holders(object, None, 9)).unwrap(), [id(1), id(2), id(3)]);
    }
    open(dir.path(), false).unwrap().write(|txn| txn.set_number(Number::Schema, SCHEMA + 1)).unwrap();
    assert!(matches!(open(dir.path(), false), Err(LedgerError::Schema(3))), "one of a later version is left alone");
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
                assert_eq!(txn.leases_of(customer, product, version)?.len(), found, "{product:?}");
            }
            txn.remove_lease(id(1))?;
            assert_eq!(txn.lease_at(path)?, None);
            assert_eq!(txn.due(u64::MAX, 9)?, [id(2)]);
            txn.remove_lease(id(2))?;
            assert_eq!(txn.leases_of("alice", None, None)?, []);
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
