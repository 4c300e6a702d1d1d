//! How failed logins are slowed, for all sessions together.
//!
//! Delays grow per client address (IPv6: per /64) and per (address, user); attempts that wait there stand in one queue, so that
//! asking in parallel is no faster. Per user over all addresses the delay is a second at most and there is no queue, so that nobody
//! can lock a customer out. Attempts that succeed do not count. Before its first failure an address is not slowed at all; how many
//! attempts it can make at once until then, the ftp daemon's limit per address bounds.

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Failures of an address that cost nothing: several people may share one.
pub const FREE_FAILURES: u32 = 5;
/// Longest delay between two attempts of an address, or of an address for a user.
pub const LONGEST: Duration = Duration::from_secs(8);
/// Longest delay for a user over all addresses.
pub const LONGEST_USER: Duration = Duration::from_secs(1);
/// Longest time in the queue; who would wait longer is sent away without being heard.
pub const QUEUE: Duration = Duration::from_secs(10);
/// After this time without a failure, the earlier ones are forgotten.
pub const FORGET: Duration = Duration::from_secs(900);
/// Most addresses, users and pairs that are remembered.
pub const ENTRIES: usize = 65_536;

const STEP: Duration = Duration::from_millis(250);

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Key {
    Address(u128),
    Pair(u128, u64),
    User(u64),
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    failures: u32,
    /// When the next attempt may be heard.
    next: Instant,
    /// The last failure.
    last: Instant,
}

/// Slows failed logins.
#[derive(Debug, Default)]
pub struct Throttle {
    hasher: RandomState,
    entries: Mutex<HashMap<Key, Entry>>,
}

/// An attempt that may be heard after a wait. Its outcome is to be told.
#[derive(Debug)]
pub struct Attempt {
    keys: [Key; 3],
    /// What it has reserved in each queue.
    reserved: [Duration; 3],
    /// How long to wait first.
    pub wait: Duration,
}

fn network(address: IpAddr) -> u128 {
    match address.to_canonical() {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().to_bits(),
        IpAddr::V6(v6) => v6.to_bits() & !u128::from(u64::MAX),
    }
}

fn delay(key: Key, failures: u32) -> Duration {
    let grown = |failures: u32| match failures {
        0 => Duration::ZERO,
        n => STEP.saturating_mul(1 << (n - 1).min(16)),
    };
    match key {
        Key::Address(_) => grown(failures.saturating_sub(FREE_FAILURES)).min(LONGEST),
        Key::Pair(..) => grown(failures).min(LONGEST),
        Key::User(_) => grown(failures).min(LONGEST_USER),
    }
}

impl Throttle {
    /// An attempt of this address for this user; `None` when too many are waiting already.
    pub fn attempt(&self, address: IpAddr, user: &str, now: Instant) -> Option<Attempt> {
        let (network, user) = (network(address), self.hasher.hash_one(user));
        let keys = [Key::Address(network), Key::Pair(network, user), Key::User(user)];
        let mut entries = self.lock();
        let mut wait = Duration::ZERO;
        for key in &keys {
            if let Some(entry) = entries.get(key).filter(|entry| now.duration_since(entry.last) < FORGET) {
                wait = wait.max(entry.next.saturating_duration_since(now));
            }
        }
        if wait > QUEUE {
            return None;
        }
        let mut reserved = [Duration::ZERO; 3];
        for (key, reserved) in keys.iter().zip(&mut reserved) {
            if matches!(key, Key::User(_)) {
                continue;
            }
            if let Some(entry) = entries.get_mut(key) {
                *reserved = delay(*key, entry.failures);
                entry.next = entry.next.max(now) + *reserved;
            }
        }
        Some(Attempt { keys, reserved, wait })
    }

    /// The attempt failed.
    pub fn failed(&self, attempt: &Attempt, now: Instant) {
        let mut entries = self.lock();
        for key in attempt.keys {
            if entries.len() >= ENTRIES && !entries.contains_key(&key) {
                make_room(&mut entries, now);
            }
            let entry = entries.entry(key).or_insert(Entry { failures: 0, next: now, last: now });
            if now.duration_since(entry.last) >= FORGET {
                entry.failures = 0;
            }
            entry.failures = entry.failures.saturating_add(1);
            entry.last = now;
            entry.next = entry.next.max(now + delay(key, entry.failures));
        }
    }

    /// The attempt succeeded, or nobody could tell.
    pub fn not_counted(&self, attempt: &Attempt, succeeded: bool) {
        let mut entries = self.lock();
        for (key, reserved) in attempt.keys.iter().zip(attempt.reserved) {
            if succeeded && matches!(key, Key::Pair(..)) {
                entries.remove(key);
            } else if let Some(entry) = entries.get_mut(key) {
                entry.next = entry.next.checked_sub(reserved).unwrap_or(entry.next);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Key, Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Forgets those that matter least.
fn make_room(entries: &mut HashMap<Key, Entry>, now: Instant) {
    entries.retain(|_, entry| now.duration_since(entry.last) < FORGET);
    for least in [1, FREE_FAILURES, u32::MAX] {
        if entries.len() < ENTRIES {
            return;
        }
        entries.retain(|_, entry| entry.failures > least);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &str = "192.0.2.1";
    const B: &str = "198.51.100.9";

    fn wait(throttle: &Throttle, address: &str, user: &str, now: Instant) -> Option<Duration> {
        let attempt = throttle.attempt(address.parse().unwrap(), user, now)?;
        throttle.not_counted(&attempt, false);
        Some(attempt.wait)
    }

    fn fail(throttle: &Throttle, address: &str, user: &str, now: Instant) -> Duration {
        let attempt = throttle.attempt(address.parse().unwrap(), user, now).unwrap();
        throttle.failed(&attempt, now + attempt.wait);
        attempt.wait
    }

    #[test]
    fn failures_cost_growing_delays() {
        let throttle = Throttle::default();
        let mut now = Instant::now();
        let mut waits = Vec::new();
        for _ in 0..9 {
            let waited = fail(&throttle, A, "alice", now);
            now += waited;
            waits.push(waited.as_millis());
        }
        assert_eq!(waits, [0, 250, 500, 1000, 2000, 4000, 8000, 8000, 8000]);
        // The address as a whole is slowed too, whatever the user.
        assert!(wait(&throttle, A, "bob", now).unwrap() >= Duration::from_secs(2));
        assert_eq!(wait(&throttle, B, "bob", now), Some(Duration::ZERO));
        // The customer himself waits a second at most.
        assert_eq!(wait(&throttle, B, "alice", now), Some(LONGEST_USER));
        assert_eq!(wait(&throttle, A, "alice", now + FORGET), Some(Duration::ZERO));
    }

    #[test]
    fn asking_in_parallel_is_no_faster() {
        let throttle = Throttle::default();
        let now = Instant::now();
        for _ in 0..3 {
            fail(&throttle, A, "alice", now);
        }
        let now = now + Duration::from_secs(1);
        let waits: Vec<_> =
            (0..20).map_while(|_| throttle.attempt(A.parse().unwrap(), "alice", now)).map(|a| a.wait).collect();
        assert!(waits.windows(2).all(|w| w[1] >= w[0] + Duration::from_secs(1)), "{waits:?}");
        assert!(waits.len() < 12, "the queue is bounded: {waits:?}");
        assert_eq!(throttle.attempt(A.parse().unwrap(), "bob", now).map(|a| a.wait), Some(Duration::ZERO));
    }

    #[test]
    fn success_is_not_counted() {
        let throttle = Throttle::default();
        let now = Instant::now();
        fail(&throttle, A, "alice", now);
        for _ in 0..100 {
            let attempt = throttle.attempt(A.parse().unwrap(), "alice", now + Duration::from_secs(1)).unwrap();
            assert_eq!(attempt.wait, Duration::ZERO);
            throttle.not_counted(&attempt, true);
        }
    }

    #[test]
    fn an_ipv6_network_is_one_address() {
        let throttle = Throttle::default();
        let now = Instant::now();
        for n in 0..FREE_FAILURES + 3 {
            let attempt = throttle.attempt(format!("2001:db8::{n}").parse().unwrap(), &format!("u{n}"), now).unwrap();
            throttle.failed(&attempt, now);
        }
        assert!(wait(&throttle, "2001:db8::ffff", "other", now).unwrap() > Duration::ZERO);
        assert_eq!(wait(&throttle, "2001:db8:0:1::1", "other", now), Some(Duration::ZERO));
        assert_eq!(network("::ffff:192.0.2.1".parse().unwrap()), network(A.parse().unwrap()));
    }

    #[test]
    fn memory_is_bounded() {
        let throttle = Throttle::default();
        let now = Instant::now();
        for n in 0..30_000u32 {
            let address = IpAddr::from(n.to_be_bytes());
            let attempt = throttle.attempt(address, &n.to_string(), now).unwrap();
            throttle.failed(&attempt, now);
        }
        assert!(throttle.lock().len() <= ENTRIES);
    }
}
