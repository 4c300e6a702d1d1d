use super::*;
use crate::engine::Work;
use crate::testkit::{CONTENT, Kit, NOW, content, eventually};
use std::os::unix::fs::MetadataExt;
use tobj::{AuditEvent, Fault, LeaseKind, Reply};

fn parts(kit: &Kit) -> Parts {
    let (tree, ledger, engine) = (kit.tree.clone(), kit.ledger.clone(), kit.engine.clone());
    Parts { tree, ledger, engine, clock: kit.clock.clone() }
}

const UNPACED: Pace = Pace { bytes_per_second: 0, days: 0 };

fn object(kit: &Kit, sha256: Sha256) -> crate::rows::Object {
    kit.ledger.read().unwrap().object(sha256).unwrap().unwrap()
}

fn file(kit: &Kit) -> std::path::PathBuf {
    let name = content().to_string();
    kit.path(&format!("storeroom/{}/{name}", &name[..2]))
}

/// Turns a bit of the object over, behind the file system's back as far as a test can.
fn damage(kit: &Kit) {
    use std::os::unix::fs::{FileExt, PermissionsExt};
    std::fs::set_permissions(file(kit), std::fs::Permissions::from_mode(0o644)).unwrap();
    let open = std::fs::OpenOptions::new().write(true).open(file(kit)).unwrap();
    open.write_all_at(b"T", 0).unwrap();
    std::fs::set_permissions(file(kit), std::fs::Permissions::from_mode(0o444)).unwrap();
}

fn order(kit: &Kit, sha256: Option<Sha256>) {
    kit.ask(Work::Verify { sha256, by: "operator:eve".into() }).unwrap();
}

#[test]
fn good_objects_are_marked_in_one_pass() {
    let kit = Kit::new();
    let second = kit.object(b"another one");
    order(&kit, None);
    let verifier = Verifier::start(parts(&kit), UNPACED).unwrap();
    eventually("both are read", || [content(), second].iter().all(|sha256| object(&kit, *sha256).verified == NOW));
    let third = kit.object(b"one that came later");
    order(&kit, Some(third));
    verifier.wake();
    eventually("only the one ordered", || object(&kit, third).verified == NOW);
    assert_eq!((object(&kit, second).pass, object(&kit, third).pass), (1, 1));
    drop(verifier);
    assert_eq!(kit.outcomes(AuditEvent::Quarantined), [""; 0]);
}

#[test]
fn a_start_that_finds_the_order_begins_a_pass_once() {
    let kit = Kit::new();
    let pass = || kit.ledger.read().unwrap().number(Number::Pass).unwrap();
    let begin = || begin_if_ordered(&kit.tree, &kit.engine);
    begin();
    assert_eq!(pass(), 0, "nobody ordered it");
    std::fs::write(kit.path(ORDER), b"").unwrap();
    begin();
    assert_eq!((pass(), kit.path(ORDER).exists()), (1, false));
    begin();
    assert_eq!(pass(), 1);
}

#[test]
fn a_pass_is_due_by_the_databases_time_only() {
    let kit = Kit::new();
    let pace = Pace { days: 30, ..UNPACED };
    let verifier = Verifier::start(parts(&kit), pace).unwrap();
    eventually("the first pass", || object(&kit, content()).verified == NOW);
    kit.time.pass(30 * DAY - 1);
    verifier.wake();
    kit.time.pass(1);
    verifier.wake();
    eventually("the second", || object(&kit, content()).pass == 2);
    assert_eq!(object(&kit, content()).verified, NOW + 30 * DAY);
}

#[test]
fn a_damaged_object_is_not_served_until_it_is_put_in_again() {
    let kit = Kit::new();
    let (standing, one_time) = (kit.staged(1, LeaseKind::Standing), kit.staged(2, LeaseKind::OneTime));
    damage(&kit);
    order(&kit, None);
    let verifier = Verifier::start(parts(&kit), UNPACED).unwrap();
    eventually("it is found", || object(&kit, content()).state == ObjectState::Damaged);
    eventually("it is taken away", || !file(&kit).exists());
    assert!(kit.path(&format!("quarantine/{}", content())).exists());
    drop(verifier);
    let refused = kit.stage(3, &crate::testkit::grant(3, LeaseKind::Standing)).unwrap_err();
    assert_eq!(refused.fault, Fault::Unavailable);
    let begin = |kit: &Kit| {
        let (access, path) = (crate::engine::Access::Ticket(one_time), "/grüße 1.iso".to_owned());
        kit.ask(Work::Begin(crate::engine::Begin { access, path, offset: 0, tls: None, address: "::1".into() }))
    };
    assert_eq!(begin(&kit).unwrap_err().fault, Fault::Unavailable);

    // A restart changes nothing of that.
    let (kit, report) = kit.again();
    assert_eq!((report.quarantined, report.relinked, report.missing.len()), (0, 0, 0));
    assert_eq!(begin(&kit).unwrap_err().fault, Fault::Unavailable);

    // Put in again: the same leases, with the right bytes.
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let intake = crate::ingest::Intake::new(kit.tree.clone(), kit.ledger.clone(), kit.engine.clone(), 0);
    let length = CONTENT.len() as u64;
    let stored = runtime.block_on(intake.put(length, Some(content()), "operator:eve", &mut &CONTENT[..]));
    assert_eq!(stored, Ok(Reply::Stored { sha256: content(), size: length, known: true }));
    eventually("all links are made anew", || object(&kit, content()).state == ObjectState::Good);
    let inode = std::fs::metadata(file(&kit)).unwrap().ino();
    for path in ["accounts/alice/maps/1.0/grüße 1.iso".to_owned(), format!("tickets/{one_time}/grüße 1.iso")] {
        assert_eq!(std::fs::read(kit.path(&path)).unwrap(), CONTENT, "{path}");
        assert_eq!(std::fs::metadata(kit.path(&path)).unwrap().ino(), inode, "{path}");
    }
    assert!(begin(&kit).is_ok() && kit.lease(standing).is_some());
    eventually("what was in quarantine is dropped", || !kit.path(&format!("quarantine/{}", content())).exists());
    assert_eq!(kit.outcomes(AuditEvent::Quarantined).len(), 1);
}

#[test]
fn the_pace_is_kept_and_no_time_is_saved_up() {
    let mut budget = Budget::new(Pace { bytes_per_second: 1000, days: 0 });
    let now = Instant::now();
    let in_ms = |ms| now + Duration::from_millis(ms);
    assert_eq!(budget.spend(500, now), in_ms(500));
    assert_eq!(budget.spend(500, now), in_ms(1000));
    assert_eq!(budget.spend(100, in_ms(5000)), in_ms(5100));
    assert_eq!(Budget::new(UNPACED).spend(u64::MAX, now), now);
}
