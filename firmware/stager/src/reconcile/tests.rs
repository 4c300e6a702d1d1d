use super::*;
use crate::engine::Work;
use crate::testkit::{CONTENT, Kit, NOW, content, grant};
use crate::tree::Op;
use nix::errno::Errno;
use tobj::LeaseKind::{OneTime, Standing};

/// Changes a lease behind the writer's back, as a kill between two steps would leave it.
fn set(kit: &Kit, id: Id, state: State) {
    let lease = kit.lease(id).unwrap();
    kit.ledger.write(|txn| txn.put_lease(id, &Lease { state, ..lease })).unwrap();
}

#[test]
fn nothing_to_do() {
    let mut kit = Kit::new();
    kit.staged(1, Standing);
    kit.staged(2, OneTime);
    kit.stop();
    let (_kit, report) = kit.again();
    assert_eq!(report, Report { leases: 2, ..Report::default() });
}

#[test]
fn what_was_begun_is_finished() {
    let mut kit = Kit::new();
    let ids = [kit.staged(1, Standing), kit.staged(2, OneTime), kit.staged(3, OneTime), kit.staged(4, OneTime)];
    kit.stop();
    // Pending with and without its link; going with and without its link.
    set(&kit, ids[0], State::Pending);
    std::fs::remove_dir_all(kit.path("accounts/alice")).unwrap();
    set(&kit, ids[1], State::Pending);
    set(&kit, ids[2], State::Removing);
    set(&kit, ids[3], State::Removing);
    std::fs::remove_dir_all(kit.path(&format!("tickets/{}", ids[3]))).unwrap();
    let (mut kit, report) = kit.again();
    assert_eq!(report, Report { leases: 4, finished: 2, removed: 2, ..Report::default() });
    assert!(kit.linked(ids[0], Standing) && kit.linked(ids[1], OneTime) && !kit.linked(ids[2], OneTime));
    assert_eq!(kit.lease(ids[0]).unwrap().state, State::Active);
    assert_eq!(kit.ledger.read().unwrap().counts().unwrap().0, 2);
    kit.stop();
    let (_kit, report) = kit.again();
    assert_eq!(report, Report { leases: 2, ..Report::default() }, "once is enough");
}

#[test]
fn links_and_leases_are_made_to_agree() {
    let mut kit = Kit::new();
    let (one, other) = (kit.staged(1, Standing), kit.staged(2, OneTime));
    kit.stop();
    std::fs::remove_file(kit.path("accounts/alice/maps/1.0/grüße 1.iso")).unwrap();
    let foreign = kit.path(&format!("tickets/{other}/grüße 1.iso"));
    std::fs::remove_file(&foreign).unwrap();
    std::fs::write(&foreign, "not the object").unwrap();
    std::fs::write(kit.path("accounts/alice/maps/1.0/stray"), "").unwrap();
    std::fs::create_dir_all(kit.path("accounts/bob/x/1")).unwrap();
    std::fs::write(kit.path("accounts/bob/x/1/f"), "").unwrap();
    std::fs::create_dir(kit.path("tickets/nobody")).unwrap();
    std::fs::write(kit.path("tickets/nobody/f"), "").unwrap();
    std::os::unix::fs::symlink("/etc", kit.path("accounts/alice/etc")).unwrap();
    let (kit, report) = kit.again();
    assert_eq!(report, Report { leases: 2, relinked: 2, strays: 4, ..Report::default() });
    assert!(kit.linked(one, Standing));
    assert_eq!(std::fs::read(foreign).unwrap(), CONTENT);
    assert_eq!(kit.tree.object(content()).unwrap().unwrap().links, 3);
    assert!(!kit.path("accounts/alice/maps/1.0/stray").exists() && !kit.path("accounts/alice/etc").exists());
    let left = ["tickets/nobody", "accounts/bob/x", "accounts/bob"].map(|path| kit.path(path).exists());
    assert_eq!(left, [false, false, true], "what is empty without a stray goes, but for a customer's own directory");
}

#[test]
fn that_a_start_gets_on_is_heard_of() {
    use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
    let mut kit = Kit::new();
    let ids = [kit.staged(1, Standing), kit.staged(2, OneTime), kit.staged(3, OneTime)];
    kit.stop();
    std::fs::remove_file(kit.path(&format!("tickets/{}/grüße 1.iso", ids[2]))).unwrap();
    let heard = AtomicUsize::new(0);
    let advance = || {
        heard.fetch_add(1, Relaxed);
    };
    reconcile(&kit.ledger, &kit.tree, crate::testkit::GRACE, kit.clock.now(), &advance).unwrap();
    let (leases, names, looked_at_again, files, objects, around) = (3, 2, 1, 1, 1, 2);
    assert_eq!(heard.into_inner(), leases + names + looked_at_again + files + objects + around);
}

#[test]
fn incoming_is_emptied_and_finished_objects_are_taken_in() {
    let mut kit = Kit::new();
    kit.stop();
    std::fs::write(kit.path("incoming/0123"), "half an obj").unwrap();
    let shelf = kit.path("storeroom/ab");
    std::fs::create_dir_all(&shelf).unwrap();
    std::fs::write(shelf.join("ab".repeat(32)), "12345").unwrap();
    std::fs::write(shelf.join("README"), "not an object").unwrap();
    let (kit, report) = kit.again();
    assert_eq!(report, Report { incoming: 1, adopted: 1, ..Report::default() });
    let object = kit.ledger.read().unwrap().object([0xab; 32].into()).unwrap();
    assert_eq!(object.map(|object| object.size), Some(5));
    assert_eq!(kit.outcomes(AuditEvent::Stored), ["found at start-up"]);
}

#[test]
fn a_lost_object_is_reported_and_its_leases_stay() {
    let mut kit = Kit::new();
    let (linked, unlinked) = (kit.staged(1, Standing), kit.staged(2, OneTime));
    let (pending, acknowledged) = (kit.staged(3, OneTime), kit.staged(4, OneTime));
    kit.stop();
    kit.lose_object();
    // Killed after the answer and before the mark: its link is there.
    set(&kit, acknowledged, State::Pending);
    std::fs::remove_file(kit.path(&format!("tickets/{unlinked}/grüße 1.iso"))).unwrap();
    std::fs::remove_file(kit.path(&format!("tickets/{pending}/grüße 1.iso"))).unwrap();
    set(&kit, pending, State::Pending);
    let (kit, report) = kit.again();
    let repaired = Report { finished: 1, broken: 1, given_up: 1, ..Report::default() };
    assert_eq!(report, Report { leases: 4, missing: vec![content()], ..repaired });
    assert!(kit.lease(acknowledged).unwrap().state == State::Active && kit.linked(acknowledged, OneTime));
    assert!(kit.lease(linked).is_some() && kit.lease(unlinked).is_some() && kit.lease(pending).is_none());
    assert_eq!(kit.outcomes(AuditEvent::LeaseEnded), ["not staged: the object is not in the storeroom"]);
}

/// A kill after the commit, and a start that cannot make the link.
#[test]
fn a_staging_that_is_given_up_has_used_no_grant() {
    let mut kit = Kit::new();
    let order = grant(1, Standing);
    kit.tree.faults().arm(Op::Link, 1, Errno::EIO);
    kit.stage(1, &order).unwrap_err();
    kit.ended().unwrap_err();
    kit.tree.faults().disarm();
    kit.tree.faults().arm(Op::MakeDir, 1, Errno::ENOSPC);
    let report = reconcile(&kit.ledger, &kit.tree, crate::testkit::GRACE, kit.clock.now(), &|| {}).unwrap();
    assert_eq!((report.given_up, report.leases), (1, 1));
    kit.tree.faults().disarm();
    assert_eq!(kit.outcomes(AuditEvent::LeaseEnded), ["not staged: the file system is full"]);
    let (kit, _) = kit.again();
    let staged = kit.stage(1, &order);
    assert!(matches!(staged, Ok(tobj::Reply::Staged { .. })), "{staged:?}");
    assert_eq!(kit.stage(9, &order).unwrap_err().fault, tobj::Fault::Denied, "now it is used");
}

/// A kill between the commit that an object is good, or gone, and the end of what is in quarantine.
#[test]
fn what_was_replaced_leaves_quarantine() {
    let mut kit = Kit::new();
    let damaged = kit.object(b"one that is damaged");
    kit.stop();
    let lost = kit.object(b"one without a file");
    let shelf = lost.to_string();
    std::fs::remove_file(kit.path(&format!("storeroom/{}/{shelf}", &shelf[..2]))).unwrap();
    let unknown = Sha256::from([9; 32]);
    let aside = |kit: &Kit, sha256: Sha256| kit.path(&format!("quarantine/{sha256}"));
    for sha256 in [content(), damaged, lost, unknown] {
        std::fs::write(aside(&kit, sha256), "what is left").unwrap();
    }
    let object = kit.ledger.read().unwrap().object(damaged).unwrap().unwrap();
    kit.ledger.write(|txn| txn.put_object(damaged, &Object { state: ObjectState::Damaged, ..object })).unwrap();
    std::fs::remove_file(kit.path(&format!("storeroom/{}/{damaged}", &damaged.to_string()[..2]))).unwrap();
    let (kit, report) = kit.again();
    assert_eq!(report, Report { replaced: 2, missing: vec![lost], ..Report::default() });
    let there = [content(), damaged, lost, unknown].map(|sha256| aside(&kit, sha256).exists());
    assert_eq!(there, [false, true, true, false]);
}

#[test]
fn transfers_that_were_cut_are_closed() {
    use crate::engine::{Access, Begin};
    let mut kit = Kit::new();
    let lease = kit.staged(1, OneTime);
    let begin = |offset| {
        let (path, address) = ("/grüße 1.iso".to_owned(), "192.0.2.1".to_owned());
        Work::Begin(Begin { access: Access::Ticket(lease), path, offset, tls: Some(tobj::TlsVersion::Tls12), address })
    };
    kit.ask(begin(0)).unwrap();
    let Ok(tobj::Reply::Transfer { transfer }) = kit.ask(begin(3)) else { panic!() };
    kit.ask(Work::Progress { transfer, bytes: 4, milliseconds: 20 }).unwrap();
    kit.ask(Work::Progress { transfer, bytes: 2, milliseconds: 30 }).unwrap();
    kit.stop();
    let (kit, report) = kit.again();
    assert_eq!((report.interrupted, report.leases), (2, 1));
    let records: Vec<_> = kit.ledger.read().unwrap().outbox(0).unwrap().map(|e| e.unwrap().1).collect();
    let records: Vec<_> = records.into_iter().filter(|e| e.event == AuditEvent::Transfer).collect();
    assert!(records.iter().all(|e| e.outcome.as_deref() == Some("interrupted") && e.at >= NOW));
    assert_eq!(
        records.iter().map(|e| (e.offset, e.bytes, e.milliseconds)).collect::<Vec<_>>(),
        [(Some(0), Some(0), Some(0)), (Some(3), Some(4), Some(30))]
    );
    assert!(records.iter().all(|e| e.tls == Some(tobj::TlsVersion::Tls12)));
    assert_eq!(kit.lease(lease).unwrap().covered.bytes(), 4);
}

#[test]
fn a_tree_without_its_ledger_is_not_touched() {
    let mut kit = Kit::new();
    kit.staged(1, Standing);
    kit.stop();
    let ledger = kit.path(crate::ledger::FILE);
    std::fs::rename(&ledger, kit.path("ledger.aside")).unwrap();
    let opened =
        Ledger::open(kit.dir.path(), &kit.tree.incoming_path(), kit.tree.is_empty().unwrap(), crate::testkit::SIZES);
    assert!(matches!(opened, Err(LedgerError::Missing(_))));
    assert!(!ledger.exists());
    assert!(kit.path("accounts/alice/maps/1.0/grüße 1.iso").exists());
}

/// Nothing is looked at a second time where ledger and tree agree.
#[test]
fn what_agrees_is_met_by_the_walk() {
    let mut kit = Kit::new();
    let ids = [kit.staged(1, Standing), kit.staged(2, OneTime), kit.staged(3, OneTime)];
    kit.stop();
    std::fs::remove_file(kit.path(&format!("tickets/{}/grüße 1.iso", ids[2]))).unwrap();
    let links = Links::of(&kit.ledger, &kit.tree, &|| {}).unwrap();
    strays(&kit.tree, &links, &|| {}, &mut Report::default()).unwrap();
    assert_eq!(links.rest(), ids[2..]);
}
