use super::*;
use crate::engine::{Engine, Rules};
use crate::ledger::Number;
use crate::testkit::{GRACE, Kit, RULES, grant};

fn secret(text: &str) -> Secret {
    Secret::new(text).unwrap()
}

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

/// A door to this stager, whose database is nowhere.
pub(crate) fn door(kit: &Kit, engine: &Handle, reserve: u64) -> Door {
    let verifier = Verifier::new(crate::grants::tests::pair().public, name("download"));
    Door {
        ledger: kit.ledger.clone(),
        tree: kit.tree.clone(),
        clock: kit.clock.clone(),
        engine: engine.clone(),
        database: Arc::new(Database::new(&kit.path("nobody.sock"), "database")),
        cache: Arc::new(Cache::new(Duration::ZERO).unwrap()),
        grace: GRACE,
        throttle: Throttle::default(),
        verifier: Arc::new(verifier),
        staging: None,
        reserve,
    }
}

pub(crate) fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

#[test]
fn the_cache_forgets_in_time() {
    let cache = Cache::new(Duration::from_secs(60)).unwrap();
    let now = Instant::now();
    let hash = cache.hash("alice", &secret("swordfish"));
    let Err(epoch) = cache.recall(&hash, now) else { panic!("nothing is known yet") };
    cache.remember(hash, name("alice"), epoch, now);
    assert_eq!(cache.recall(&hash, now + Duration::from_millis(59_999)), Ok(name("alice")));
    assert!(cache.recall(&hash, now + Duration::from_secs(60)).is_err());
    for (user, password) in [("alice", "swordfisH"), ("alic", "eswordfish"), ("bob", "swordfish"), ("alice", "")] {
        assert!(cache.recall(&cache.hash(user, &secret(password)), now).is_err(), "{user} {password}");
    }
    let other = Cache::new(Duration::from_secs(60)).unwrap();
    assert_ne!(other.hash("alice", &secret("swordfish")), hash, "the key is of this process");
    assert!(!format!("{cache:?}").contains("swordfish"));
}

#[test]
fn what_was_asked_before_a_revocation_is_not_remembered_after_it() {
    let cache = Cache::new(Duration::from_secs(60)).unwrap();
    let now = Instant::now();
    let hash = cache.hash("alice", &secret("swordfish"));
    let Err(epoch) = cache.recall(&hash, now) else { panic!("nothing is known yet") };
    cache.clear();
    cache.remember(hash, name("alice"), epoch, now);
    let Err(epoch) = cache.recall(&hash, now) else { panic!("it came too late") };
    cache.remember(hash, name("alice"), epoch, now);
    assert!(cache.recall(&hash, now).is_ok());
    cache.clear();
    assert!(cache.recall(&hash, now).is_err());
}

#[test]
fn no_time_means_no_memory_and_memory_is_bounded() {
    let now = Instant::now();
    let none = Cache::new(Duration::ZERO).unwrap();
    none.remember([1; 32], name("alice"), 0, now);
    assert_eq!(none.lock().known.len(), 0);
    let cache = Cache::new(Duration::from_secs(60)).unwrap();
    let key = |n: usize| {
        let mut key = [0; 32];
        key[..8].copy_from_slice(&n.to_be_bytes());
        key
    };
    for n in 0..=REMEMBERED {
        cache.remember(key(n), name("alice"), 0, now);
    }
    assert_eq!(cache.lock().known.len(), REMEMBERED);
    cache.remember(key(REMEMBERED), name("alice"), 0, now + Duration::from_secs(61));
    assert_eq!(cache.lock().known.len(), 1, "the old ones make room");
}

#[test]
fn who_is_not_heard_is_counted() {
    let kit = Kit::new();
    let door = door(&kit, &kit.engine, 0);
    let address = "192.0.2.1".parse().unwrap();
    while let Some(attempt) = door.throttle.attempt(address, "alice", Instant::now()) {
        door.throttle.failed(&attempt, Instant::now());
    }
    let runtime = runtime();
    for _ in 0..3 {
        let refused = runtime.block_on(door.login(address, "alice", &secret("swordfish"), true));
        assert_eq!(refused.unwrap_err(), Fault::Busy);
    }
    kit.flush();
    assert_eq!(kit.outcomes(AuditEvent::LoginRefused), [""; 0]);
    assert_eq!(kit.ledger.read().unwrap().number(Number::FoldedLogins).unwrap(), 3);
    // Another address is heard, and on record by itself.
    let other = runtime.block_on(door.login("192.0.2.2".parse().unwrap(), "../alice", &secret("x"), true));
    assert_eq!(other.unwrap_err(), Fault::Denied);
    kit.flush();
    assert_eq!(kit.outcomes(AuditEvent::LoginRefused), ["wrong user or password"]);
}

#[test]
fn the_secret_of_a_link_waits_for_nobody() {
    let kit = Kit::new();
    let staged = kit.stage(1, &grant(1, LeaseKind::OneTime));
    let Ok(Reply::Staged { user: Some(user), secret: Some(right), .. }) = staged else { panic!("{staged:?}") };
    let (door, runtime) = (door(&kit, &kit.engine, 0), runtime());
    let address = "192.0.2.1".parse().unwrap();
    for user in ["alice", user.as_str()] {
        while let Some(attempt) = door.throttle.attempt(address, user, Instant::now()) {
            door.throttle.failed(&attempt, Instant::now());
        }
    }
    let login = |secret: &Secret| runtime.block_on(door.login(address, user.as_str(), secret, true));
    assert_eq!(login(&secret("swordfish")).unwrap_err(), Fault::Busy, "a wrong one does");
    assert!(matches!(login(&right).unwrap().access, Access::Ticket(_)));
}

#[test]
fn where_the_last_of_the_space_begins() {
    let reserve = 32 << 20;
    for (free, last) in [(0, true), ((8 << 20) - 1, true), (8 << 20, false), (reserve, false)] {
        assert_eq!(is_last(free, reserve), last, "{free}");
    }
    assert!(!is_last(0, 0), "without a reserve there is no last of it");
}

#[test]
fn logins_do_not_take_the_last_of_the_space() {
    let mut kit = Kit::new();
    let staged = kit.stage(1, &grant(1, LeaseKind::OneTime));
    let Ok(Reply::Staged { user: Some(user), secret: Some(secret), .. }) = staged else { panic!("{staged:?}") };
    kit.stop();
    let (address, runtime) = ("192.0.2.1".parse().unwrap(), runtime());
    let none: [&str; 0] = [];
    let rules = Rules { reserve: u64::MAX, ..RULES };
    let (engine, ended) = Engine::start(kit.ledger.clone(), kit.tree.clone(), kit.clock.clone(), rules).unwrap();
    let full = door(&kit, &engine, rules.reserve);
    for _ in 0..3 {
        let refused = runtime.block_on(full.login(address, user.as_str(), &secret, true));
        assert_eq!(refused.unwrap_err(), Fault::Unavailable);
    }
    engine.stop();
    ended.blocking_recv().unwrap().unwrap();
    drop(full);
    assert_eq!(kit.outcomes(AuditEvent::Login), none);
    assert_eq!(kit.outcomes(AuditEvent::LoginRefused), none);
    assert_eq!(kit.ledger.read().unwrap().number(Number::FoldedLogins).unwrap(), 3);

    // There is room again; those who were refused for it did not fail.
    let (kit, _) = kit.again();
    let admitted = runtime.block_on(door(&kit, &kit.engine, 0).login(address, user.as_str(), &secret, true));
    assert_eq!(admitted.unwrap().access, Access::Ticket(crate::rows::lease_of(user.as_str()).unwrap()));
    kit.flush();
    assert_eq!(kit.outcomes(AuditEvent::Login), ["ftps"]);
}
