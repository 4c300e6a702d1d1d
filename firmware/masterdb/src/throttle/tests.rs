use super::*;

const HERE: &str = "192.0.2.1";
const THERE: &str = "192.0.2.2";

fn fail(throttle: &Throttle, customer: &str, address: &str, times: u32, now: Instant) {
    for _ in 0..times {
        throttle.admit(customer, address, now).unwrap().failed(now);
    }
}

/// An address of its own for each number.
fn elsewhere(n: usize) -> String {
    std::net::Ipv4Addr::from_bits(0x0a00_0000 + u32::try_from(n).unwrap()).to_string()
}

fn delay_of(throttle: &Throttle, customer: &str, address: &str, now: Instant) -> Duration {
    throttle.admit(customer, address, now).unwrap().delay()
}

#[test]
fn the_first_failures_are_free_and_the_delay_grows_to_its_end() {
    let (throttle, now) = (Throttle::default(), Instant::now());
    let mut delays = Vec::new();
    for _ in 0..12 {
        delays.push(delay_of(&throttle, "alice", HERE, now));
        fail(&throttle, "alice", HERE, 1, now);
    }
    let seconds: Vec<f64> = delays.iter().map(Duration::as_secs_f64).collect();
    assert_eq!(seconds, [0.0, 0.0, 0.0, 0.5, 1.0, 2.0, 4.0, 8.0, 8.0, 8.0, 8.0, 8.0]);
    assert_eq!(delay(u32::MAX, FREE, PAIR_FIRST, PAIR_MOST), PAIR_MOST);
}

#[test]
fn elsewhere_the_same_customer_waits_a_second_at_most() {
    let (throttle, now) = (Throttle::default(), Instant::now());
    fail(&throttle, "alice", HERE, ADDRESS_FREE - 1, now);
    assert_eq!(delay_of(&throttle, "alice", THERE, now), NAME_MOST);
    assert_eq!(delay_of(&throttle, "bob", HERE, now), Duration::ZERO);
}

#[test]
fn success_and_time_clear() {
    let (throttle, now) = (Throttle::default(), Instant::now());
    fail(&throttle, "alice", HERE, 9, now);
    throttle.admit("alice", HERE, now).unwrap().passed();
    assert_eq!(delay_of(&throttle, "alice", HERE, now), Duration::ZERO);
    assert!(throttle.lock().counts.is_empty());

    fail(&throttle, "alice", HERE, 9, now);
    let nearly = now + FORGET - Duration::from_millis(1);
    assert_eq!(delay_of(&throttle, "alice", HERE, nearly), PAIR_MOST);
    assert_eq!(delay_of(&throttle, "alice", HERE, now + FORGET), Duration::ZERO);
    fail(&throttle, "alice", HERE, 1, now + FORGET);
    assert_eq!(delay_of(&throttle, "alice", HERE, now + FORGET), Duration::ZERO, "counts from the start");
}

#[test]
fn an_abandoned_attempt_counts_as_neither() {
    let (throttle, now) = (Throttle::default(), Instant::now());
    fail(&throttle, "alice", HERE, 4, now);
    let before = delay_of(&throttle, "alice", HERE, now);
    drop(throttle.admit("alice", HERE, now));
    assert_eq!(delay_of(&throttle, "alice", HERE, now), before);
}

#[test]
fn attempts_at_once_are_limited() {
    let (throttle, now) = (Throttle::default(), Instant::now());
    let admit = |address: &str| throttle.admit("alice", address, now);
    let held: Vec<_> = (0..PAIR_AT_ONCE).map(|_| admit(HERE).unwrap()).collect();
    assert!(admit(HERE).is_none());
    let more: Vec<_> = (PAIR_AT_ONCE..NAME_AT_ONCE).map(|n| admit(&format!("198.51.100.{n}")).unwrap()).collect();
    assert!(admit(THERE).is_none());
    assert!(throttle.admit("bob", HERE, now).is_some());
    drop((held, more));
    assert!(admit(HERE).is_some());

    fail(&throttle, "alice", HERE, FREE, now);
    let held: Vec<_> = (0..PAIR_AT_ONCE_SLOWED).map(|_| admit(HERE).unwrap()).collect();
    assert!(admit(HERE).is_none());
    assert!(admit(THERE).is_some());
    drop(held);
}

#[test]
fn attempts_at_once_in_all_are_limited() {
    let (throttle, now) = (Throttle::default(), Instant::now());
    let mut held: Vec<_> =
        (0..AT_ONCE).map(|n| throttle.admit(&format!("c{n}"), &elsewhere(n), now).unwrap()).collect();
    assert!(throttle.admit("alice", HERE, now).is_none());
    held.pop();
    assert!(throttle.admit("alice", HERE, now).is_some());
}

#[test]
fn the_table_is_bounded_and_the_oldest_goes() {
    let (throttle, now) = (Throttle::default(), Instant::now());
    fail(&throttle, "first", HERE, 9, now);
    for n in 0..ENTRIES {
        let at = now + Duration::from_millis(1 + u64::try_from(n).unwrap() / 1000);
        throttle.admit(&format!("c{n}"), &elsewhere(n), at).unwrap().failed(at);
        assert!(throttle.lock().counts.len() <= ENTRIES);
    }
    let later = now + Duration::from_secs(1);
    assert_eq!(delay_of(&throttle, "first", HERE, later), Duration::ZERO);
}

#[test]
fn addresses_in_their_forms() {
    let same = |a: &str, b: &str| assert_eq!(origin(a), origin(b), "{a} {b}");
    same("192.0.2.1", "192.0.2.1:40000");
    same("192.0.2.1", "::ffff:192.0.2.1");
    same("2001:db8::1", "2001:db8::ffff:1");
    same("2001:db8::1", "[2001:db8::2]:99");
    same("nowhere", "");
    assert_ne!(origin("2001:db8::1"), origin("2001:db8:0:1::1"));
    assert_ne!(origin("192.0.2.1"), origin("192.0.2.2"));
}

#[test]
fn what_is_no_name_shares_one_count() {
    let (throttle, now) = (Throttle::default(), Instant::now());
    for n in 0..9 {
        throttle.admit(&format!("no name {n}"), HERE, now).unwrap().failed(now);
    }
    assert_eq!(throttle.lock().counts.len(), 3);
    assert_eq!(delay_of(&throttle, "another, not one", HERE, now), PAIR_MOST);
}

#[test]
fn one_address_is_slowed_whatever_the_names() {
    let (throttle, now) = (Throttle::default(), Instant::now());
    for n in 0..ADDRESS_FREE {
        assert_eq!(delay_of(&throttle, "alice", HERE, now), Duration::ZERO, "{n}");
        fail(&throttle, &format!("c{n}"), HERE, 1, now);
    }
    assert_eq!(delay_of(&throttle, "alice", HERE, now), PAIR_FIRST);
    fail(&throttle, "one more", HERE, 10, now);
    assert_eq!(delay_of(&throttle, "alice", HERE, now), PAIR_MOST);
    assert_eq!(delay_of(&throttle, "alice", THERE, now), Duration::ZERO);
    assert_eq!(delay_of(&throttle, "alice", HERE, now + FORGET), Duration::ZERO);

    fail(&throttle, "bob", "2001:db8::1", ADDRESS_FREE, now);
    assert_eq!(delay_of(&throttle, "alice", "2001:db8::ffff:1", now), PAIR_FIRST);
    assert_eq!(delay_of(&throttle, "alice", "2001:db8:0:1::1", now), Duration::ZERO);
}

#[test]
fn attempts_at_once_from_one_address_are_limited() {
    let (throttle, now) = (Throttle::default(), Instant::now());
    let admit = |n: u32| throttle.admit(&format!("c{n}"), HERE, now);
    let mut held: Vec<_> = (0..ADDRESS_AT_ONCE).map(|n| admit(n).unwrap()).collect();
    assert!(admit(99).is_none());
    assert!(throttle.admit("c99", THERE, now).is_some());
    held.pop();
    assert!(admit(99).is_some());
    held.into_iter().take(usize::try_from(ADDRESS_FREE).unwrap()).for_each(|attempt| attempt.failed(now));

    let held: Vec<_> = (0..ADDRESS_AT_ONCE_SLOWED).map(|n| admit(100 + n).unwrap()).collect();
    assert!(admit(99).is_none());
    assert!(throttle.admit("c99", THERE, now).is_some());
    drop(held);
}

#[test]
fn success_takes_back_from_an_address_what_the_customer_failed_and_no_more() {
    let (throttle, now) = (Throttle::default(), Instant::now());
    fail(&throttle, "alice", HERE, 2, now);
    for n in 2..ADDRESS_FREE {
        fail(&throttle, &format!("c{n}"), HERE, 1, now);
    }
    for _ in 0..9 {
        throttle.admit("mallory", HERE, now).unwrap().passed();
    }
    assert_eq!(delay_of(&throttle, "bob", HERE, now), PAIR_FIRST, "a colleague's success is not his");
    throttle.admit("alice", HERE, now).unwrap().passed();
    assert_eq!(delay_of(&throttle, "bob", HERE, now), Duration::ZERO);
    fail(&throttle, "bob", HERE, 2, now);
    assert_eq!(delay_of(&throttle, "bob", HERE, now), PAIR_FIRST, "two were taken back");
}

/// Whoever fails from many addresses holds no more than half of a customer's places while he waits.
#[test]
fn a_customer_gets_in_from_where_nobody_failed() {
    for addresses_failed in [false, true] {
        let (throttle, now) = (Throttle::default(), Instant::now());
        let addresses: Vec<_> = (0..64).map(elsewhere).collect();
        for address in &addresses {
            for n in 0..ADDRESS_FREE {
                // In the name of the customer, or in any but his.
                let name = if addresses_failed { format!("c{n}") } else { "alice".to_owned() };
                fail(&throttle, &name, address, 1, now);
            }
        }
        let slowed =
            |address: &String| std::iter::from_fn(|| throttle.admit("alice", address, now)).collect::<Vec<_>>();
        let held: Vec<_> = addresses.iter().flat_map(slowed).collect();
        assert_eq!(held.len(), usize::try_from(NAME_AT_ONCE_SLOWED).unwrap(), "{addresses_failed}");
        let his = throttle.admit("alice", HERE, now).unwrap();
        assert!(his.delay() <= NAME_MOST);
    }
}
