//! Failed logins slow down those that follow.
//!
//! Three counts: one for each customer and address and one for each address over all customers, whose delays grow to [`PAIR_MOST`],
//! and one for each customer over all addresses, whose delay stays within a second. The first [`FREE`] failures of a customer and
//! the first [`ADDRESS_FREE`] of an address cost nothing. A success clears what the customer has failed, also from the count of the
//! address, and nothing that others failed there. Time comes in from outside.
//!
//! Nobody can lock a customer out by failing in his name: attempts that are slowed where they come from have at most half of the
//! places that one customer has, and any other holds its place for no longer than [`NAME_MOST`] and the check itself.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tobj::Name;
use tokio::time::Instant;

/// Failures that cost nothing.
pub const FREE: u32 = 3;
/// The same of one address, whatever the customer: several may share it.
pub const ADDRESS_FREE: u32 = 20;
/// The first delay for one customer and address, and for one address; it doubles with every failure.
pub const PAIR_FIRST: Duration = Duration::from_millis(500);
/// The longest delay for one customer and address, and for one address. Whoever waits for the answer must have more patience than this.
pub const PAIR_MOST: Duration = Duration::from_secs(8);
/// The first delay for one customer over all addresses.
pub const NAME_FIRST: Duration = Duration::from_millis(125);
/// The longest delay for one customer over all addresses.
pub const NAME_MOST: Duration = Duration::from_secs(1);
/// Most attempts at once for one customer from one address.
pub const PAIR_AT_ONCE: u32 = 16;
/// The same once that pair has failed more than [`FREE`] times.
pub const PAIR_AT_ONCE_SLOWED: u32 = 2;
/// Most attempts at once from one address: half of those that may wait for the hasher ([`crate::password::WAITING`]).
pub const ADDRESS_AT_ONCE: u32 = 32;
/// The same once it has failed [`ADDRESS_FREE`] times.
pub const ADDRESS_AT_ONCE_SLOWED: u32 = 8;
/// Most attempts at once for one customer over all addresses.
pub const NAME_AT_ONCE: u32 = 32;
/// With so many of them under way, none is let in from where attempts are slowed.
pub const NAME_AT_ONCE_SLOWED: u32 = NAME_AT_ONCE / 2;
/// A count is forgotten this long after its last failure.
pub const FORGET: Duration = Duration::from_secs(600);
/// Most counts that are kept; beyond it the one that failed longest ago goes first.
pub const ENTRIES: usize = 8192;
/// Most attempts at once in all.
pub const AT_ONCE: usize = 1024;

/// What a count is for. `None` in place of a name: whatever is no possible name of a customer.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Key {
    Name(Option<Name>),
    Pair(Option<Name>, Origin),
    Address(Origin),
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Origin {
    Address(IpAddr),
    Unknown,
}

#[derive(Debug)]
struct Count {
    failures: u32,
    under_way: u32,
    last: Instant,
}

#[derive(Debug, Default)]
struct Counts {
    counts: HashMap<Key, Count>,
    under_way: usize,
}

/// The counts of failed logins.
#[derive(Debug, Clone, Default)]
pub struct Throttle(Arc<Mutex<Counts>>);

/// An attempt to log in. Dropped without [`Attempt::passed`] or [`Attempt::failed`], it counts as neither.
#[derive(Debug)]
pub struct Attempt {
    throttle: Throttle,
    /// That of customer and address first.
    keys: [Key; 3],
    delay: Duration,
}

impl Throttle {
    /// Lets an attempt in, to be made after [`Attempt::delay`]; `None` when too many are under way.
    ///
    /// `address` may be an address or a socket address; of IPv6 the first 64 bits count.
    pub fn admit(&self, customer: &str, address: &str, now: Instant) -> Option<Attempt> {
        let (name, origin) = (Name::new(customer).ok(), origin(address));
        let keys = [Key::Pair(name.clone(), origin.clone()), Key::Name(name), Key::Address(origin)];
        let mut counts = self.lock();
        let [pair, name, address] = keys.each_ref().map(|key| counts.look(key, now));
        let (pair_slowed, address_slowed) = (pair.0 >= FREE, address.0 >= ADDRESS_FREE);
        let pair_most = if pair_slowed { PAIR_AT_ONCE_SLOWED } else { PAIR_AT_ONCE };
        let address_most = if address_slowed { ADDRESS_AT_ONCE_SLOWED } else { ADDRESS_AT_ONCE };
        let name_most = if pair_slowed || address_slowed { NAME_AT_ONCE_SLOWED } else { NAME_AT_ONCE };
        if pair.1 >= pair_most || address.1 >= address_most || name.1 >= name_most || counts.under_way >= AT_ONCE {
            return None;
        }
        let delay = delay(pair.0, FREE, PAIR_FIRST, PAIR_MOST)
            .max(delay(address.0, ADDRESS_FREE, PAIR_FIRST, PAIR_MOST))
            .max(delay(name.0, FREE, NAME_FIRST, NAME_MOST));
        counts.under_way += 1;
        for key in &keys {
            counts.entry(key, now).under_way += 1;
        }
        drop(counts);
        Some(Attempt { throttle: self.clone(), keys, delay })
    }

    fn lock(&self) -> MutexGuard<'_, Counts> {
        // Every change to the counts is complete before anything that could panic.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Attempt {
    /// How long to wait before the password is looked at.
    pub fn delay(&self) -> Duration {
        self.delay
    }

    /// The password was right.
    pub fn passed(self) {
        let mut counts = self.throttle.lock();
        let of_pair = counts.counts.get(&self.keys[0]).map_or(0, |count| count.failures);
        for key in &self.keys {
            if let Some(count) = counts.counts.get_mut(key) {
                // Who has a password of his own does not wash away with it what he tries with others.
                count.failures =
                    if matches!(key, Key::Address(_)) { count.failures.saturating_sub(of_pair) } else { 0 };
            }
        }
    }

    /// The password was wrong.
    pub fn failed(self, now: Instant) {
        let mut counts = self.throttle.lock();
        for key in &self.keys {
            if let Some(count) = counts.counts.get_mut(key) {
                count.failures = count.failures.saturating_add(1);
                count.last = now;
            }
        }
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        let mut counts = self.throttle.lock();
        counts.under_way = counts.under_way.saturating_sub(1);
        for key in &self.keys {
            if let Some(count) = counts.counts.get_mut(key) {
                count.under_way = count.under_way.saturating_sub(1);
                if count.under_way == 0 && count.failures == 0 {
                    counts.counts.remove(key);
                }
            }
        }
    }
}

impl Counts {
    /// Failures and attempts under way.
    fn look(&self, key: &Key, now: Instant) -> (u32, u32) {
        self.counts.get(key).map_or((0, 0), |c| (if c.is_over(now) { 0 } else { c.failures }, c.under_way))
    }

    fn entry(&mut self, key: &Key, now: Instant) -> &mut Count {
        if self.counts.len() >= ENTRIES && !self.counts.contains_key(key) {
            self.make_room(now);
        }
        let count = self.counts.entry(key.clone()).or_insert(Count { failures: 0, under_way: 0, last: now });
        if count.is_over(now) {
            count.failures = 0;
        }
        count
    }

    fn make_room(&mut self, now: Instant) {
        self.counts.retain(|_, count| count.under_way > 0 || !count.is_over(now));
        if self.counts.len() >= ENTRIES {
            let idle = self.counts.iter().filter(|(_, count)| count.under_way == 0);
            // There is one: at most 3 × AT_ONCE of them are under way.
            if let Some(oldest) = idle.min_by_key(|(_, count)| count.last).map(|(key, _)| key.clone()) {
                self.counts.remove(&oldest);
            }
        }
    }
}

impl Count {
    fn is_over(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.last) >= FORGET
    }
}

fn delay(failures: u32, free: u32, first: Duration, most: Duration) -> Duration {
    match failures.checked_sub(free) {
        None => Duration::ZERO,
        Some(beyond) => 2u32.checked_pow(beyond).map_or(most, |times| first.saturating_mul(times).min(most)),
    }
}

fn origin(address: &str) -> Origin {
    let parsed = address.parse::<IpAddr>().or_else(|_| address.parse::<SocketAddr>().map(|a| a.ip()));
    match parsed.map(|a| a.to_canonical()) {
        Ok(IpAddr::V6(v6)) => Origin::Address(IpAddr::V6((v6.to_bits() >> 64 << 64).into())),
        Ok(v4) => Origin::Address(v4),
        Err(_) => Origin::Unknown,
    }
}

#[cfg(test)]
mod tests;
