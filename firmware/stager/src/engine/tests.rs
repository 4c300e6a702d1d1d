use super::*;
use crate::grants::Grant;
use crate::rows::{Event, State};
use crate::testkit::{CONTENT, GRACE, Kit, NOW, content, eventually, grant};
use std::os::unix::fs::MetadataExt;
use tobj::{AuditEvent, LeaseKind, Reply, Revocation};

const SIZE: u64 = CONTENT.len() as u64;
use LeaseKind::{OneTime, Standing};

fn begin(kit: &Kit, access: Access, path: &str, offset: u64) -> Answer {
    let (path, address) = (path.to_owned(), "192.0.2.1".to_owned());
    kit.ask(Work::Begin(Begin { access, path, offset, tls: None, address }))
}

fn fetch(kit: &Kit, access: Access, path: &str, offset: u64, bytes: u64, outcome: &'static str) {
    let Ok(Reply::Transfer { transfer }) = begin(kit, access, path, offset) else { panic!("no transfer") };
    kit.ask(Work::End { transfer, bytes, milliseconds: 1500, tls: None, outcome }).unwrap();
}

fn fault(answer: Answer) -> Option<Fault> {
    answer.err().map(|refusal| refusal.fault)
}

#[test]
fn staging_links_the_object() {
    let kit = Kit::new();
    let Ok(Reply::Staged { lease, path, size, user, secret, expires, .. }) = kit.stage(1, &grant(1, Standing)) else {
        panic!("not staged")
    };
    assert_eq!((path.as_str(), size, expires.0), ("/maps/1.0/grüße 1.iso", SIZE, NOW + 1000));
    assert!(user.is_none() && secret.is_none());
    let file = std::fs::metadata(kit.path("accounts/alice/maps/1.0/grüße 1.iso")).unwrap();
    assert_eq!(file.ino(), kit.tree.object(content()).unwrap().unwrap().inode);
    assert_eq!(file.nlink(), 2);
    // The mark rides on the next commit; until then the handle tells.
    assert!(kit.engine.settled(lease) == Some(Settled::Linked) || kit.lease(lease).unwrap().state == State::Active);
    eventually("the mark is committed", || kit.lease(lease).unwrap().state == State::Active);
    eventually("nothing is left to tell", || kit.engine.settled(lease).is_none());
    assert_eq!(kit.outcomes(AuditEvent::Staged), ["standing until 2027-01-15T08:16:40Z"]);
}

#[test]
fn a_one_time_lease_has_user_and_secret() {
    let kit = Kit::new();
    let first = kit.stage(1, &grant(1, OneTime)).unwrap();
    let Reply::Staged { lease, path, user: Some(user), secret: Some(secret), .. } = &first else { panic!("{first:?}") };
    assert_eq!(path.as_str(), "/grüße 1.iso");
    assert_eq!(crate::rows::lease_of(user.as_str()), Some(*lease));
    assert_eq!(secret.expose().len(), 32);
    assert!(kit.path(&format!("tickets/{lease}/grüße 1.iso")).exists());
    // Those of the same millisecond are in no order.
    let millisecond = || std::time::UNIX_EPOCH.elapsed().unwrap().as_millis();
    let made_by = millisecond();
    while millisecond() == made_by {
        std::thread::yield_now();
    }
    let second = kit.staged(2, OneTime);
    assert_ne!(second, *lease, "every one-time grant makes a lease of its own");
    assert!(second > *lease, "later leases sort later");
}

#[test]
fn a_grant_serves_one_request() {
    let kit = Kit::new();
    for (n, kind) in [(1, Standing), (2, OneTime)] {
        let first = kit.stage(n, &grant(n, kind)).unwrap();
        assert_eq!(kit.stage(n, &grant(n, kind)).unwrap(), first);
        assert_eq!(fault(kit.stage(99, &grant(n, kind))), Some(Fault::Denied));
        kit.time.pass(1);
        assert_eq!(kit.stage(n, &grant(n, kind)).unwrap(), first);
    }
    assert_eq!(kit.outcomes(AuditEvent::Staged).len(), 2);
    assert_eq!(kit.outcomes(AuditEvent::StageRefused), ["the grant was used by another request"; 2]);
    let (kit, _) = kit.again();
    assert_eq!(fault(kit.stage(99, &grant(1, Standing))), Some(Fault::Denied), "also after a restart");
}

#[test]
fn what_cannot_be_staged_changes_nothing() {
    let kit = Kit::new();
    let unknown = Grant { sha256: [9; 32].into(), ..grant(1, Standing) };
    assert_eq!(fault(kit.stage(1, &unknown)), Some(Fault::NotFound));
    let longer = Grant { size: SIZE + 1, ..grant(1, Standing) };
    assert_eq!(fault(kit.stage(1, &longer)), Some(Fault::Invalid));
    kit.staged(1, Standing);
    let other = kit.object(b"other");
    let swapped = Grant { sha256: other, size: 5, ..grant(2, Standing) };
    assert_eq!(fault(kit.stage(2, &swapped)), Some(Fault::Invalid));
    assert_eq!(kit.outcomes(AuditEvent::StageRefused).len(), 3);
    assert_eq!(kit.ledger.read().unwrap().counts().unwrap().0, 1);
}

#[test]
fn a_failed_link_is_taken_back() {
    let kit = Kit::new();
    let kept = kit.staged(1, Standing);
    kit.lose_object();
    for (n, kind) in [(2, OneTime), (3, Standing)] {
        let grant = Grant { version: "2".parse().unwrap(), ..grant(n, kind) };
        assert_eq!(fault(kit.stage(n, &grant)), Some(Fault::NotFound));
    }
    kit.flush();
    assert_eq!(kit.ledger.read().unwrap().counts().unwrap().0, 1, "only the first lease is left");
    assert!(kit.lease(kept).is_some());
    assert_eq!(std::fs::read_dir(kit.path("tickets")).unwrap().count(), 0, "no directory is left");
    assert!(!kit.path("accounts/alice/maps/2").exists());
    assert_eq!(kit.outcomes(AuditEvent::LeaseEnded), ["not staged: the object is not in the storeroom"; 2]);
    // The grant was not used up.
    assert_eq!(kit.object(CONTENT), content());
    assert!(kit.stage(2, &Grant { version: "2".parse().unwrap(), ..grant(2, OneTime) }).is_ok());
}

#[test]
fn staging_again_renews() {
    let kit = Kit::new();
    let lease = kit.staged(1, Standing);
    for (n, expires, expected) in [(2, NOW + 5000, NOW + 5000), (3, NOW + 10, NOW + 5000)] {
        let renewal = Grant { lease_expires: expires, ..grant(n, Standing) };
        let Ok(Reply::Staged { lease: same, expires, .. }) = kit.stage(n, &renewal) else { panic!("not staged") };
        assert_eq!((same, expires.0), (lease, expected));
    }
    assert_eq!(kit.ledger.read().unwrap().counts().unwrap().0, 1);
    assert!(kit.linked(lease, Standing));
}

#[test]
fn a_renewal_takes_nothing_away_where_the_object_is_lost() {
    let kit = Kit::new();
    let lease = kit.staged(1, Standing);
    kit.flush();
    kit.lose_object();
    let renewal = Grant { lease_expires: NOW + 5000, ..grant(2, Standing) };
    let renewed = kit.stage(2, &renewal);
    assert!(matches!(renewed, Ok(Reply::Staged { lease: same, .. }) if same == lease), "{renewed:?}");
    kit.flush();
    let (kit, _) = kit.again();
    let there = kit.lease(lease).unwrap();
    assert_eq!((there.state, there.expires), (State::Active, NOW + 5000));
    assert_eq!(std::fs::read(kit.path("accounts/alice/maps/1.0/grüße 1.iso")).unwrap(), CONTENT);
    assert_eq!(kit.outcomes(AuditEvent::LeaseEnded), [""; 0]);
}

#[test]
fn a_revoked_lease_stays_away() {
    let kit = Kit::new();
    for (n, kind) in [(1, Standing), (2, OneTime)] {
        let lease = kit.staged(n, kind);
        kit.ask(Work::Revoke { lease, by: "operator:eve".into() }).unwrap();
        assert!(!kit.linked(lease, kind));
        assert_eq!(fault(kit.ask(Work::Revoke { lease, by: "x".into() })), Some(Fault::NotFound));
        assert_eq!(fault(kit.stage(n, &grant(n, kind))), Some(Fault::Expired), "the same request");
        assert_eq!(fault(kit.stage(77, &grant(n, kind))), Some(Fault::Denied), "another one");
        kit.flush();
        assert_eq!(kit.lease(lease), None);
        assert_eq!(fault(kit.stage(n, &grant(n, kind))), Some(Fault::Expired), "nor when its row is gone");
    }
    assert_eq!(kit.outcomes(AuditEvent::LeaseEnded), ["revoked by operator:eve"; 2]);
    assert!(kit.stage(3, &grant(3, Standing)).is_ok(), "a new grant makes a new lease");
}

#[test]
fn expiry_has_a_grace_time_for_resumes() {
    let kit = Kit::new();
    let lease = kit.staged(1, Standing);
    let alice = || Access::Account("alice".parse().unwrap());
    let path = "/maps/1.0/grüße 1.iso";
    fetch(&kit, alice(), path, 0, 5, "aborted");
    kit.time.pass(999);
    kit.ask(Work::Sweep).unwrap();
    assert!(begin(&kit, alice(), path, 0).is_ok());
    kit.time.pass(1);
    assert_eq!(fault(begin(&kit, alice(), path, 0)), Some(Fault::Expired), "before any sweep");
    for swept in [false, true] {
        assert_eq!(fault(begin(&kit, alice(), path, 0)), Some(Fault::Expired), "{swept}");
        assert!(begin(&kit, alice(), path, 5).is_ok(), "{swept}");
        kit.ask(Work::Sweep).unwrap();
    }
    assert_eq!(kit.lease(lease).unwrap().state, State::Ending(NOW + 1000 + GRACE.standing));
    kit.time.pass(GRACE.standing);
    assert_eq!(fault(begin(&kit, alice(), path, 5)), Some(Fault::Expired));
    kit.ask(Work::Sweep).unwrap();
    assert!(!kit.path("accounts/alice/maps").exists());
    kit.flush();
    assert_eq!(kit.lease(lease), None);
    assert_eq!(kit.outcomes(AuditEvent::LeaseEnded), ["expired"], "told once");
    assert_eq!(fault(begin(&kit, alice(), path, 5)), Some(Fault::NotFound));
}

#[test]
fn a_repeated_request_gets_its_answer_while_resumes_are_served() {
    let kit = Kit::new();
    let order = grant(1, OneTime);
    let first = kit.stage(1, &order).unwrap();
    let Reply::Staged { lease, .. } = first else { panic!("{first:?}") };
    fetch(&kit, Access::Ticket(lease), "/grüße 1.iso", 0, SIZE, "complete");
    assert_eq!(kit.lease(lease).unwrap().state, State::Ending(NOW + GRACE.one_time));
    assert_eq!(kit.stage(1, &order), Ok(first));
    assert_eq!(fault(kit.stage(2, &order)), Some(Fault::Denied), "nobody else gets any");
    kit.time.pass(GRACE.one_time);
    assert_eq!(fault(kit.stage(1, &order)), Some(Fault::Expired), "before any sweep");
}

#[test]
fn an_order_is_done_once() {
    let mut kit = Kit::new();
    let by = || "operator:eve".to_owned();
    let once = |kit: &Kit, n: u8, order: Work| kit.ask(Work::Once { request: [n; 16].into(), order: Box::new(order) });
    let retire = |force| Work::Retire { sha256: content(), force, by: by() };
    let lease = kit.staged(1, OneTime);
    assert_eq!(fault(once(&kit, 1, retire(false))), Some(Fault::Busy));
    kit.ask(Work::Revoke { lease, by: by() }).unwrap();
    once(&kit, 1, retire(false)).unwrap(); // what was refused is not remembered
    kit.flush();
    kit.object(CONTENT);
    for _ in 0..2 {
        once(&kit, 1, retire(false)).unwrap();
        kit.flush();
        let object = kit.ledger.read().unwrap().object(content()).unwrap();
        assert!(object.is_some(), "what came in after it stays");
        assert_eq!(fault(once(&kit, 1, retire(true))), Some(Fault::Invalid));
        let another = Work::Retire { sha256: content(), force: false, by: "operator:bob".into() };
        assert_eq!(fault(once(&kit, 1, another)), Some(Fault::Invalid));
        kit.stop();
        kit = kit.again().0;
    }
    assert_eq!(kit.outcomes(AuditEvent::Retired).len(), 1);
}

#[test]
fn a_lease_that_nobody_fetched_has_no_resumes() {
    let kit = Kit::new();
    kit.staged(1, Standing);
    kit.time.pass(1000);
    let alice = Access::Account("alice".parse().unwrap());
    assert_eq!(fault(begin(&kit, alice, "/maps/1.0/grüße 1.iso", 1)), Some(Fault::Expired));
}

#[test]
fn renewing_brings_an_ending_lease_back() {
    let kit = Kit::new();
    let lease = kit.staged(1, Standing);
    kit.time.pass(1000);
    kit.ask(Work::Sweep).unwrap();
    let renewal = Grant { lease_expires: NOW + 9000, use_by: NOW + 9000, ..grant(2, Standing) };
    assert!(matches!(kit.stage(2, &renewal), Ok(Reply::Staged { lease: same, .. }) if same == lease));
    kit.time.pass(GRACE.standing + 1);
    kit.ask(Work::Sweep).unwrap();
    assert_eq!(kit.lease(lease).unwrap().state, State::Active);
    assert!(kit.linked(lease, Standing));
}

#[test]
fn nothing_expires_without_a_trusted_time() {
    let (kit, _) = Kit::open(tempfile::tempdir().unwrap());
    kit.object(CONTENT);
    let lease = kit.staged(1, Standing);
    kit.time.pass(1_000_000);
    kit.ask(Work::Sweep).unwrap();
    kit.flush();
    assert_eq!(kit.lease(lease).unwrap().state, State::Active);
    assert!(kit.linked(lease, Standing));
    let alice = Access::Account("alice".parse().unwrap());
    assert_eq!(fault(begin(&kit, alice, "/maps/1.0/grüße 1.iso", 0)), Some(Fault::Expired), "but starts no download");
}

#[test]
fn the_trusted_time_is_kept() {
    let kit = Kit::new();
    kit.time.pass(500);
    kit.flush();
    let (kit, _) = kit.again();
    let kept = kit.ledger.read().unwrap().number(Number::Clock).unwrap();
    assert_eq!(kept, NOW + 500);
    kit.time.wall.store(NOW + 86_400, std::sync::atomic::Ordering::SeqCst);
    kit.flush();
    assert_eq!(kit.ledger.read().unwrap().number(Number::Clock).unwrap(), kept, "an unconfirmed time is not");
}

#[test]
fn parallel_ranges_cover_a_one_time_lease() {
    let kit = Kit::new();
    let lease = kit.staged(1, OneTime);
    let ticket = || Access::Ticket(lease);
    let path = "/grüße 1.iso";
    let Ok(Reply::Transfer { transfer: a }) = begin(&kit, ticket(), path, 0) else { panic!() };
    let Ok(Reply::Transfer { transfer: b }) = begin(&kit, ticket(), path, 10) else { panic!() };
    kit.ask(Work::End { transfer: b, bytes: SIZE - 10, milliseconds: 7, tls: None, outcome: COMPLETE }).unwrap();
    assert_eq!(kit.lease(lease).unwrap().state, State::Active);
    assert_eq!(kit.lease(lease).unwrap().covered.bytes(), SIZE - 10);
    kit.ask(Work::End { transfer: a, bytes: 10, milliseconds: 9, tls: None, outcome: "aborted" }).unwrap();
    assert_eq!(kit.lease(lease).unwrap().state, State::Ending(NOW + GRACE.one_time));
    assert_eq!(fault(begin(&kit, ticket(), path, 0)), Some(Fault::Expired));
    assert!(begin(&kit, ticket(), path, 10).is_ok());
    assert_eq!(kit.outcomes(AuditEvent::LeaseEnded), ["fetched in full"]);
    assert_eq!(kit.outcomes(AuditEvent::Transfer), ["complete", "aborted"]);
    kit.time.pass(GRACE.one_time);
    kit.ask(Work::Sweep).unwrap();
    assert!(!kit.path(&format!("tickets/{lease}")).exists());
    assert_eq!(kit.lease(lease).and_then(|lease| lease.secret), None, "the secret is erased");
}

#[test]
fn a_count_beyond_the_file_does_not_cover_more() {
    let kit = Kit::new();
    let lease = kit.staged(1, OneTime);
    fetch(&kit, Access::Ticket(lease), "/grüße 1.iso", 4, u64::MAX, "aborted");
    let lease = kit.lease(lease).unwrap();
    assert_eq!((lease.covered.bytes(), lease.state), (SIZE - 4, State::Active));
}

#[test]
fn only_what_was_let_in_is_served() {
    let kit = Kit::new();
    let lease = kit.staged(1, OneTime);
    kit.staged(2, Standing);
    let alice = || Access::Account("alice".parse().unwrap());
    for (access, path, offset, expected) in [
        (alice(), "/maps/1.0/grüße 1.iso", SIZE, None),
        (alice(), "/maps/1.0/grüße 1.iso", SIZE + 1, Some(Fault::Invalid)),
        (alice(), "/maps/1.0/other", 0, Some(Fault::NotFound)),
        (alice(), "maps/1.0/grüße 1.iso", 0, Some(Fault::NotFound)),
        (alice(), "/maps/../maps/1.0/grüße 1.iso", 0, Some(Fault::NotFound)),
        (alice(), "/../alice/maps/1.0/grüße 1.iso", 0, Some(Fault::NotFound)),
        (alice(), "/maps/1.0", 0, Some(Fault::NotFound)),
        (alice(), "/", 0, Some(Fault::NotFound)),
        (alice(), "", 0, Some(Fault::NotFound)),
        (alice(), "/grüße 1.iso", 0, Some(Fault::NotFound)),
        (Access::Account("bob".parse().unwrap()), "/maps/1.0/grüße 1.iso", 0, Some(Fault::NotFound)),
        (Access::Ticket(lease), "/grüße 1.iso", 0, None),
        (Access::Ticket(lease), "/maps/1.0/grüße 1.iso", 0, Some(Fault::NotFound)),
        (Access::Ticket([9; 16].into()), "/grüße 1.iso", 0, Some(Fault::NotFound)),
    ] {
        let label = format!("{access:?} {path} {offset}");
        assert_eq!(fault(begin(&kit, access, path, offset)), expected, "{label}");
    }
}

#[test]
fn withdrawn_rights_end_their_leases() {
    let kit = Kit::new();
    let revocation = |customer: &str, product: Option<&str>, version: Option<&str>| Revocation {
        seq: 5,
        customer: customer.parse().unwrap(),
        product: product.map(|p| p.parse().unwrap()),
        version: version.map(|v| v.parse().unwrap()),
        at: tobj::Timestamp(NOW - 1),
    };
    let (one, other) = (kit.staged(1, Standing), kit.staged(2, OneTime));
    for (customer, product, version) in
        [("bob", None, None), ("alice", Some("map"), None), ("alice", Some("maps"), Some("1")), ("alic", None, None)]
    {
        kit.ask(Work::Withdraw { items: vec![revocation(customer, product, version)], upto: 5 }).unwrap();
        assert!(kit.linked(one, Standing) && kit.linked(other, OneTime), "{customer} {product:?} {version:?}");
    }
    kit.ask(Work::Withdraw { items: vec![revocation("alice", Some("maps"), Some("1.0"))], upto: 6 }).unwrap();
    assert!(!kit.linked(one, Standing) && !kit.linked(other, OneTime));
    assert_eq!(kit.ledger.read().unwrap().number(Number::Revocation).unwrap(), 6);
    assert_eq!(kit.outcomes(AuditEvent::LeaseEnded), ["withdrawn by the database"; 2]);
    kit.staged(3, Standing);
    kit.ask(Work::Withdraw { items: vec![revocation("alice", None, None)], upto: 7 }).unwrap();
    assert!(!kit.path("accounts/alice/maps").exists());
}

/// More leases end than one commit takes, with a restart between. What is granted anew meanwhile is no part of that.
#[test]
fn what_is_granted_anew_while_leases_end_stays() {
    const MANY: usize = 2 * leases::SWEEP + 1;
    const ANEW: usize = leases::SWEEP + 1;
    let kit = Kit::new();
    let version = |n, kind, version: &str| Grant { version: version.parse().unwrap(), ..grant(n, kind) };
    let tickets = |from: usize, count: usize, like: &Grant| {
        for n in from..from + count {
            let id = Id::from((n as u128).to_be_bytes());
            kit.ask(Work::Stage { request: id, grant: Grant { id, ..like.clone() } }).unwrap();
        }
    };
    kit.staged(1, Standing);
    tickets(0, MANY, &version(1, OneTime, "1.0"));
    kit.stage(2, &Grant { lease_expires: NOW + 9000, ..version(2, Standing, "2.0") }).unwrap();
    let withdraw = |kit: &Kit, seq| {
        let (customer, product) = ("alice".parse().unwrap(), Some("maps".parse().unwrap()));
        let item = Revocation { seq, customer, product, version: None, at: tobj::Timestamp(NOW + 5) };
        kit.ask(Work::Withdraw { items: vec![item], upto: seq })
    };
    assert_eq!(fault(withdraw(&kit, 5)), Some(Fault::Busy));

    let anew = |grant| Grant { issued: NOW + 6, lease_expires: NOW + 500, ..grant };
    assert_eq!(fault(kit.stage(3, &grant(3, Standing))), Some(Fault::Denied), "a grant from before is worth nothing");
    let Ok(Reply::Staged { lease: soon, .. }) = kit.stage(4, &anew(grant(4, Standing))) else {
        panic!("its lease has ended")
    };
    let Ok(Reply::Staged { lease: later, expires, .. }) = kit.stage(5, &anew(version(5, Standing, "2.0"))) else {
        panic!("the end of its lease is to come")
    };
    assert_eq!(expires.0, NOW + 500, "the right that was withdrawn was one for longer");
    tickets(MANY, ANEW, &anew(version(6, OneTime, "0.1"))); // they come before all others

    let (kit, _) = kit.again();
    let end = |seq| {
        for _ in 0..=MANY / leases::SWEEP {
            if withdraw(&kit, seq).is_ok() {
                kit.flush();
                return kit.ledger.read().unwrap().counts().unwrap().0;
            }
        }
        panic!("it goes on and on")
    };
    assert_eq!(end(5), ANEW as u64 + 2);
    assert!(kit.linked(soon, Standing) && kit.linked(later, Standing));
    assert_eq!(kit.outcomes(AuditEvent::LeaseEnded), vec!["withdrawn by the database"; MANY + 2]);
    assert_eq!(end(6), 0, "another withdrawal, of the same second, ends them");
}

#[test]
fn acknowledged_records_are_dropped() {
    let kit = Kit::new();
    kit.flush();
    assert_eq!(fault(kit.ask(Work::Acknowledge { upto: 3 })), Some(Fault::Invalid), "more than there ever were");
    kit.ask(Work::Acknowledge { upto: 1 }).unwrap();
    let left: Vec<_> = kit.ledger.read().unwrap().outbox(0).unwrap().map(|e| e.unwrap().0).collect();
    assert_eq!(left, [2]);
}

#[test]
fn a_sweep_takes_all_that_is_due() {
    let kit = Kit::new();
    for n in 0..=leases::SWEEP as u128 {
        let id = Id::from(n.to_be_bytes());
        let work = Work::Stage { request: id, grant: Grant { id, ..grant(1, OneTime) } };
        kit.ask(work).unwrap();
    }
    kit.time.pass(1000);
    kit.ask(Work::Sweep).unwrap();
    kit.flush(); // comes after the rest of the sweep
    kit.time.pass(GRACE.one_time);
    kit.ask(Work::Sweep).unwrap();
    eventually("all are gone", || std::fs::read_dir(kit.path("tickets")).unwrap().count() == 0);
    kit.flush();
    assert_eq!(kit.ledger.read().unwrap().counts().unwrap().0, 0);
}

#[test]
fn requests_in_flight_do_not_disturb_each_other() {
    let kit = Kit::new();
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..100)
            .map(|n| (n, [OneTime, Standing][usize::from(n % 2)]))
            .map(|(n, kind)| {
                let kit = &kit;
                scope.spawn(move || {
                    let grant = Grant { version: n.to_string().parse().unwrap(), ..grant(n, kind) };
                    assert!(matches!(kit.stage(n, &grant), Ok(Reply::Staged { .. })));
                })
            })
            .collect();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
    });
    assert_eq!(kit.outcomes(AuditEvent::Staged).len(), 100);
    assert_eq!(kit.tree.object(content()).unwrap().unwrap().links, 101);
}

#[test]
fn stopping_commits_what_waits() {
    let mut kit = Kit::new();
    let lease = kit.staged(1, Standing);
    kit.engine.ride(Work::Note(Event::new(1, AuditEvent::Login)));
    kit.stop();
    assert_eq!(kit.outcomes(AuditEvent::Login).len(), 1);
    assert_eq!(kit.lease(lease).unwrap().state, State::Active);
    assert_eq!(fault(kit.ask(Work::Sweep)), Some(Fault::Unavailable), "a writer that is gone says so");
}

#[test]
fn a_broken_tree_stops_the_writer() {
    let mut kit = Kit::new();
    assert!(kit.engine.is_running());
    // A symbolic link where a directory belongs is none of the failures that are expected.
    std::os::unix::fs::symlink("/nonexistent", kit.path("accounts/alice")).unwrap();
    assert_eq!(fault(kit.stage(1, &grant(1, Standing))), Some(Fault::Unavailable));
    assert_eq!(fault(kit.stage(2, &grant(2, OneTime))), Some(Fault::Unavailable));
    assert!(kit.ended().is_err() && !kit.engine.is_running(), "status says so at once");
}
