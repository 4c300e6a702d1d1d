use super::*;
use crate::engine::{Answer, Engine, EngineError};
use crate::grants::Grant;
use crate::testkit::{CONTENT, Kit, NOW, RULES, content, eventually, grant};
use crate::tree::{Op, TreeError};
use nix::errno::Errno;
use std::io::Write;
use tobj::LeaseKind::{OneTime, Standing};
use tobj::{Revocation, Timestamp};

fn retire(kit: &Kit, force: bool) -> Answer {
    kit.ask(Work::Retire { sha256: content(), force, by: "operator:eve".into() })
}

fn file(kit: &Kit) -> std::path::PathBuf {
    let name = content().to_string();
    kit.path(&format!("storeroom/{}/{name}", &name[..2]))
}

/// The object's bytes get their name in the storeroom, as those of a put do before the writer hears of it.
fn comes_in(kit: &Kit) {
    let name = Id::random().unwrap();
    let mut file = kit.tree.incoming(name).unwrap();
    file.write_all(CONTENT).unwrap();
    assert!(kit.tree.keep(&name.to_string(), &file, content()).unwrap(), "it is a fresh one");
}

fn store(kit: &Kit, fresh: bool) -> Answer {
    let size = CONTENT.len() as u64;
    kit.ask(Work::Store { sha256: content(), size, fresh, by: "operator:eve".into() })
}

fn gone(kit: &Kit) -> bool {
    let read = kit.ledger.read().unwrap();
    !file(kit).exists() && read.object(content()).unwrap().is_none() && read.counts().unwrap().0 == 0
}

#[test]
fn an_object_that_is_leased_is_retired_only_by_force() {
    let kit = Kit::new();
    let leases: Vec<_> = (1..=3).map(|n| kit.staged(n, OneTime)).collect();
    let refused = retire(&kit, false).unwrap_err();
    assert!(refused.fault == Fault::Busy && refused.why.starts_with("3 leases"), "{refused:?}");
    for lease in &leases[1..] {
        kit.ask(Work::Revoke { lease: *lease, by: "operator:eve".into() }).unwrap();
    }
    let refused = retire(&kit, false).unwrap_err();
    assert!(refused.why.starts_with("1 leases"), "those that go do not count: {refused:?}");
    assert_eq!(retire(&kit, true), Ok(Reply::Done {}));
    eventually("lease, file and row are gone", || gone(&kit));
    assert!(!kit.path(&format!("tickets/{}", leases[0])).exists());
    assert_eq!(kit.outcomes(AuditEvent::Retired), ["by operator:eve"]);
    assert_eq!(kit.outcomes(AuditEvent::LeaseEnded).len(), 3);
    assert_eq!(retire(&kit, true).unwrap_err().fault, Fault::NotFound);
    assert_eq!(kit.stage(9, &grant(9, Standing)).unwrap_err().fault, Fault::NotFound);
    // The same bytes may come in again.
    assert_eq!(kit.object(CONTENT), content());
    kit.staged(10, Standing);
}

#[test]
fn an_object_that_is_put_in_while_it_is_retired_is_not_acknowledged_without_a_file() {
    let kit = Kit::new();
    // What came in was dropped, since the object was there; before that is told, the object goes.
    retire(&kit, false).unwrap();
    eventually("file and row are gone", || gone(&kit));
    for fresh in [false, true] {
        let refused = store(&kit, fresh).unwrap_err();
        assert!(refused.fault == Fault::Busy && refused.why.contains("once more"), "{refused:?}");
        assert!(gone(&kit));
    }
    assert_eq!(kit.outcomes(AuditEvent::Stored), [""; 0]);
    comes_in(&kit);
    assert!(matches!(store(&kit, true), Ok(Reply::Stored { known: false, .. })));
}

#[test]
fn a_damaged_object_that_is_retired_while_it_is_put_in_again_is_not_acknowledged() {
    let kit = Kit::new();
    let inode = kit.tree.object(content()).unwrap().map(|there| there.inode);
    kit.ask(Work::Quarantine { sha256: content(), inode, why: "a bit fell over".into() }).unwrap();
    // The new file has its name; before that is told, the object goes, and takes it along.
    comes_in(&kit);
    retire(&kit, false).unwrap();
    let refused = store(&kit, true).unwrap_err();
    assert!(refused.fault == Fault::Busy && refused.why.contains("once more"), "{refused:?}");
    eventually("file and row are gone", || gone(&kit));
    assert_eq!(kit.outcomes(AuditEvent::Stored), [""; 0]);
}

#[test]
fn an_object_without_leases_is_retired_at_once() {
    let kit = Kit::new();
    assert_eq!(retire(&kit, false), Ok(Reply::Done {}));
    eventually("file and row are gone", || gone(&kit));
    let (_kit, report) = kit.again();
    assert_eq!(report, crate::reconcile::Report::default());
}

#[test]
fn more_leases_than_one_round_takes() {
    let kit = Kit::new();
    let many = 2 * SWEEP + 9;
    for n in 0..many {
        let id: Id = (n as u128).to_be_bytes().into();
        let order = Work::Stage { request: id, grant: Grant { id, ..grant(1, OneTime) } };
        kit.ask(order).unwrap();
    }
    let refused = retire(&kit, false).unwrap_err();
    assert!(refused.why.starts_with("256 or more"), "{refused:?}");
    assert_eq!(retire(&kit, true), Ok(Reply::Done {}));
    eventually("all of them end", || gone(&kit));
    assert_eq!(kit.outcomes(AuditEvent::LeaseEnded).len(), many);
}

/// What a crash between two steps leaves is finished by the next start.
#[test]
fn states_that_objects_were_left_in() {
    for (state, with_file) in [
        (ObjectState::Retiring, true),
        (ObjectState::Retiring, false),
        (ObjectState::Healing, true),
        (ObjectState::Damaged, true),
        (ObjectState::Damaged, false),
    ] {
        let mut kit = Kit::new();
        let (one, other) = (kit.staged(1, Standing), kit.staged(2, OneTime));
        kit.stop();
        let object = kit.ledger.read().unwrap().object(content()).unwrap().unwrap();
        kit.ledger.write(|txn| txn.put_object(content(), &Object { state, ..object })).unwrap();
        match (state, with_file) {
            (ObjectState::Healing, _) => {
                // Another inode than that of the links.
                std::fs::remove_file(file(&kit)).unwrap();
                std::fs::write(file(&kit), CONTENT).unwrap();
            }
            (_, false) => std::fs::remove_file(file(&kit)).unwrap(),
            _ => {}
        }
        let label = format!("{state} {with_file}");
        let (kit, report) = kit.again();
        let object = kit.ledger.read().unwrap().object(content()).unwrap();
        match state {
            ObjectState::Retiring => {
                assert_eq!((report.retired, report.removed), (1, 2), "{label}");
                assert!(gone(&kit) && !kit.linked(one, Standing) && !kit.linked(other, OneTime), "{label}");
                assert_eq!(kit.outcomes(AuditEvent::LeaseEnded).len(), 2, "{label}");
            }
            ObjectState::Healing => {
                assert_eq!((report.healed, report.relinked), (1, 2), "{label}");
                assert_eq!(object.unwrap().state, ObjectState::Good, "{label}");
            }
            _ => {
                assert_eq!(report.quarantined, usize::from(with_file), "{label}");
                assert!(object.unwrap().state == ObjectState::Damaged && !file(&kit).exists(), "{label}");
                assert!(kit.linked(one, Standing) && kit.linked(other, OneTime), "{label}");
            }
        }
        let (_kit, report) = kit.again();
        let leases = report.leases;
        assert_eq!(report, crate::reconcile::Report { leases, ..Default::default() }, "{label}: once is enough");
    }
}

/// Links cannot be made: the object is not served, which is told, and the sweep goes on where that was.
#[test]
fn an_object_whose_links_are_refused_waits_for_the_sweep() {
    for (leases, errno, words, put_in_again) in [
        (1, Errno::EMLINK, "end leases of the object", false),
        (SWEEP + 1, Errno::ENOSPC, "enlarge the file system", false),
        (SWEEP + 1, Errno::EDQUOT, "quota", true),
    ] {
        let kit = Kit::new();
        for n in 0..leases {
            let id: Id = (n as u128).to_be_bytes().into();
            kit.ask(Work::Stage { request: id, grant: Grant { id, ..grant(1, OneTime) } }).unwrap();
        }
        let inode = kit.tree.object(content()).unwrap().map(|there| there.inode);
        kit.ask(Work::Quarantine { sha256: content(), inode, why: "a bit fell over".into() }).unwrap();
        comes_in(&kit);
        // The last of them is refused, and what comes after that.
        let last = u32::try_from(leases).unwrap();
        kit.tree.faults().arm(Op::Link, last, errno);
        store(&kit, true).unwrap();
        let state = || kit.ledger.read().unwrap().object(content()).unwrap().unwrap().state;
        for sweeps in 0..2 {
            eventually("it is told", || kit.engine.stalled().is_some_and(|why| why.contains(words)));
            assert!(kit.engine.is_running() && state() == ObjectState::Healing, "after {sweeps} sweeps");
            assert_eq!(kit.stage(1, &grant(99, Standing)).unwrap_err().fault, Fault::Unavailable);
            kit.ask(Work::Sweep).unwrap();
            kit.flush();
        }
        assert!(kit.engine.stalled().is_some());
        kit.tree.faults().disarm();
        if put_in_again {
            std::fs::remove_file(file(&kit)).unwrap();
            comes_in(&kit);
            store(&kit, true).unwrap();
        } else {
            // It does not begin from the first of them.
            kit.tree.faults().arm(Op::Link, 2, errno);
            kit.ask(Work::Sweep).unwrap();
        }
        eventually("it is served", || state() == ObjectState::Good);
        assert_eq!(kit.engine.stalled(), None);
        let object = kit.tree.object(content()).unwrap().unwrap();
        assert_eq!(object.links, leases as u64 + 1, "every lease has its link");
        let old = kit.path(&format!("quarantine/{}", content()));
        eventually("nothing is left of the damaged one", || !old.exists());
    }
}

#[test]
fn an_object_that_goes_waits_for_no_links() {
    let kit = Kit::new();
    kit.staged(1, OneTime);
    kit.lose_object();
    comes_in(&kit);
    kit.tree.faults().arm(Op::Link, 1, Errno::ENOSPC);
    store(&kit, true).unwrap();
    eventually("it waits", || kit.engine.stalled().is_some());
    retire(&kit, true).unwrap();
    eventually("lease, file and row are gone", || gone(&kit));
    kit.ask(Work::Sweep).unwrap();
    eventually("nothing waits", || kit.engine.stalled().is_none());
}

#[test]
fn an_object_that_was_put_in_again_after_it_was_looked_at_stays() {
    let kit = Kit::new();
    let looked_at = kit.tree.object(content()).unwrap().unwrap().inode;
    std::fs::rename(file(&kit), kit.path("aside")).unwrap();
    let quarantine = |inode| kit.ask(Work::Quarantine { sha256: content(), inode, why: "a bit fell over".into() });
    assert_eq!(kit.object(CONTENT), content());
    let is_good = || kit.ledger.read().unwrap().object(content()).unwrap().unwrap().state == ObjectState::Good;
    for stale in [Some(looked_at), None] {
        quarantine(stale).unwrap();
        assert!(is_good() && file(&kit).exists(), "{stale:?}");
    }
    // It came in between the commit and the step in the tree.
    let mut batch = crate::tree::Batch::default();
    kit.tree.quarantine(content(), Some(looked_at), &mut batch).unwrap();
    assert!(file(&kit).exists());
    assert_eq!(kit.outcomes(AuditEvent::Quarantined), [""; 0]);
    quarantine(Some(kit.tree.object(content()).unwrap().unwrap().inode)).unwrap();
    assert!(!is_good() && !file(&kit).exists());
}

#[test]
fn a_grant_from_before_a_withdrawal_is_worth_nothing() {
    let kit = Kit::new();
    let withdraw = |kit: &Kit, seq, product: &str, at| {
        let (customer, product) = ("alice".parse().unwrap(), product.parse().ok());
        let item = Revocation { seq, customer, product, version: None, at: Timestamp(at) };
        kit.ask(Work::Withdraw { items: vec![item], upto: seq }).unwrap();
    };
    let issued = |n: u8, issued| Grant { issued, ..grant(n, Standing) };
    withdraw(&kit, 1, "charts", NOW);
    kit.stage(1, &issued(1, NOW)).unwrap();
    withdraw(&kit, 2, "maps", NOW + 5);
    for (n, at) in [(2, NOW), (3, NOW + 5)] {
        assert_eq!(kit.stage(n, &issued(n, at)).unwrap_err().fault, Fault::Denied, "issued at {at}");
    }
    kit.stage(4, &issued(4, NOW + 6)).unwrap();
    let (kit, _) = kit.again();
    assert_eq!(kit.stage(5, &issued(5, NOW + 5)).unwrap_err().fault, Fault::Denied, "also after a restart");
    kit.stage(6, &issued(6, NOW + 6)).unwrap();
    // The database's clock was far ahead, and is right again.
    withdraw(&kit, 3, "maps", NOW + 1_000_000);
    assert_eq!(kit.stage(7, &issued(7, NOW + 20)).unwrap_err().fault, Fault::Denied, "until it is told anew");
    withdraw(&kit, 4, "maps", NOW + 10);
    assert_eq!(kit.stage(8, &issued(8, NOW + 10)).unwrap_err().fault, Fault::Denied);
    kit.stage(9, &issued(9, NOW + 11)).unwrap();
}

#[test]
fn the_last_of_the_space_is_the_ledgers() {
    let mut kit = Kit::new();
    let lease = kit.staged(1, OneTime);
    kit.stop();
    let rules = crate::engine::Rules { reserve: u64::MAX, ..RULES };
    let (engine, ended) = Engine::start(kit.ledger.clone(), kit.tree.clone(), kit.clock.clone(), rules).unwrap();
    let refused = |work| {
        let refusal = engine.ask_blocking(work).unwrap_err();
        assert!(refusal.fault == Fault::Unavailable && refusal.why.contains("full"), "{refusal:?}");
    };
    refused(Work::Stage { request: [2; 16].into(), grant: grant(2, Standing) });
    let (access, path) = (crate::engine::Access::Ticket(lease), "/grüße 1.iso".to_owned());
    refused(Work::Begin(crate::engine::Begin { access, path, offset: 0, tls: None, address: "::1".into() }));
    // What makes room, and what must not be lost, goes on.
    engine.ask_blocking(Work::Note(Event::new(NOW, AuditEvent::Admin))).unwrap();
    engine.ask_blocking(Work::Revoke { lease, by: "operator:eve".into() }).unwrap();
    engine.ask_blocking(Work::Retire { sha256: content(), force: false, by: "operator:eve".into() }).unwrap();
    engine.stop();
    ended.blocking_recv().unwrap().unwrap();
}

#[test]
fn refusals_do_not_take_the_last_of_the_space() {
    let mut kit = Kit::new();
    kit.stop();
    let begin = |reserve| {
        let rules = crate::engine::Rules { reserve, ..RULES };
        Engine::start(kit.ledger.clone(), kit.tree.clone(), kit.clock.clone(), rules).unwrap()
    };
    let refuse = |engine: &crate::engine::Handle, event, fold| {
        let event = Event::new(NOW, event).outcome("wrong");
        engine.ask_blocking(Work::Refused { event, fold }).unwrap();
    };
    let (engine, ended) = begin(u64::MAX);
    for _ in 0..3 {
        refuse(&engine, AuditEvent::LoginRefused, false);
        // Nobody waits for what a login leaves; it is the same.
        engine.ride(Work::Refused { event: Event::new(NOW, AuditEvent::StageRefused), fold: false });
        engine.ask_blocking(Work::Sweep).unwrap();
    }
    engine.stop();
    ended.blocking_recv().unwrap().unwrap();
    let none: [&str; 0] = [];
    assert_eq!(kit.outcomes(AuditEvent::LoginRefused), none);
    assert_eq!(kit.outcomes(AuditEvent::StageRefused), none);

    // There is room again, also after a restart: their number is told once, and they are recorded as ever.
    let (engine, ended) = begin(0);
    let count = |n| format!("{n} that were not recorded one by one: too many at once, or no space for them");
    for _ in 0..2 {
        engine.ask_blocking(Work::Sweep).unwrap();
        assert_eq!(kit.outcomes(AuditEvent::LoginRefused), [count(3)]);
        assert_eq!(kit.outcomes(AuditEvent::StageRefused), [count(3)]);
    }
    refuse(&engine, AuditEvent::LoginRefused, false);
    refuse(&engine, AuditEvent::LoginRefused, true);
    assert_eq!(kit.outcomes(AuditEvent::LoginRefused), [count(3), "wrong".into()]);
    engine.ask_blocking(Work::Sweep).unwrap();
    assert_eq!(kit.outcomes(AuditEvent::LoginRefused), [count(3), "wrong".into(), count(1)]);
    engine.stop();
    ended.blocking_recv().unwrap().unwrap();
}

/// Each kind of failure, at each step of a staging and of a removal: a typed refusal, and nothing half done.
#[test]
fn what_the_disk_may_answer() {
    for (op, errno, ends) in [
        (Op::MakeDir, Errno::ENOSPC, false),
        (Op::MakeDir, Errno::EDQUOT, false),
        (Op::MakeDir, Errno::EMLINK, false),
        (Op::MakeDir, Errno::EROFS, true),
        (Op::MakeDir, Errno::EIO, true),
        (Op::Link, Errno::ENOSPC, false),
        (Op::Link, Errno::EMLINK, false),
        (Op::Link, Errno::EROFS, true),
        (Op::Link, Errno::EIO, true),
        (Op::Sync, Errno::EIO, true),
        (Op::Sync, Errno::ENOSPC, true),
        (Op::Unlink, Errno::EROFS, true),
        (Op::Unlink, Errno::EIO, true),
    ] {
        let label = format!("{op:?} {errno}");
        let mut kit = Kit::new();
        let before = kit.staged(1, Standing);
        kit.flush();
        kit.tree.faults().arm(op, 1, errno);
        let refused = match op {
            Op::Unlink => kit.ask(Work::Revoke { lease: before, by: "operator:eve".into() }),
            _ => kit.stage(2, &Grant { version: "2".parse().unwrap(), ..grant(2, Standing) }),
        };
        assert_eq!(refused.unwrap_err().fault, Fault::Unavailable, "{label}");
        kit.tree.faults().disarm();
        if ends {
            let ended = kit.ended().unwrap_err();
            assert!(
                matches!(ended, EngineError::Tree(TreeError::Io { .. } | TreeError::ReadOnly | TreeError::Full)),
                "{label}: {ended}"
            );
        } else {
            assert_eq!(kit.outcomes(AuditEvent::LeaseEnded).len(), 1, "{label}: what was committed is taken back");
            // The grant was not used up by it.
            kit.stage(2, &Grant { version: "2".parse().unwrap(), ..grant(2, Standing) }).unwrap();
        }
        let (kit, report) = kit.again();
        assert_eq!((report.broken, report.given_up, report.relinked), (0, 0, 0), "{label}: {report:?}");
        let leases: Vec<_> = kit.ledger.read().unwrap().leases(0).unwrap().map(Result::unwrap).collect();
        let expected = if op == Op::Unlink { 0 } else { 2 };
        assert_eq!(leases.len(), expected, "{label}");
        for (id, lease) in &leases {
            assert!(
                lease.state == State::Active && kit.tree.look(&Place::of(*id, lease)).unwrap().is_some(),
                "{label}"
            );
        }
    }
}
