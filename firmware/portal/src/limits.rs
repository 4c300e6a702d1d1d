//! How many connections customers may have.
//!
//! Where there are too many, a new one closes one at which nobody waits for an answer: so whoever holds many, silent or idle, keeps
//! nobody out. A request under way is never given up for that.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;

/// Connections at once in all; for one more, another one is closed.
pub const MAX_CONNECTIONS: usize = 1024;
/// Connections at once from one address (IPv6: from one /64); more are closed unanswered.
pub const MAX_PER_ADDRESS: usize = 64;
/// Connections at once from one /48 of IPv6, which is what one subscriber may have and is 65,536 addresses to the limit above; more
/// are closed unanswered.
pub const MAX_PER_NETWORK: usize = 256;

/// Counts connections.
#[derive(Debug)]
pub(crate) struct Limits {
    in_all: usize,
    per_address: usize,
    per_network: usize,
    open: Mutex<Open>,
}

#[derive(Debug, Default)]
struct Open {
    last: u64,
    /// Oldest first.
    connections: BTreeMap<u64, Connection>,
}

#[derive(Debug)]
struct Connection {
    address: IpAddr,
    network: IpAddr,
    /// Whether a request is under way.
    busy: bool,
    evicted: Arc<Notify>,
}

/// A connection that is counted until this is dropped.
#[derive(Debug)]
pub(crate) struct Slot {
    limits: Arc<Limits>,
    number: u64,
    evicted: Arc<Notify>,
}

/// A request under way, until this is dropped.
#[derive(Debug)]
pub(crate) struct Busy<'a>(&'a Slot);

/// The network of this length that an IPv6 address is in; an IPv4 address is its own.
fn network(address: IpAddr, length: u32) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(six) => Ipv6Addr::from_bits(six.to_bits() & (u128::MAX << (128 - length))).into(),
        four @ IpAddr::V4(_) => four,
    }
}

/// What counts as one address.
pub(crate) fn key(address: IpAddr) -> IpAddr {
    network(address, 64)
}

impl Limits {
    pub(crate) fn new(in_all: usize, per_address: usize, per_network: usize) -> Arc<Self> {
        Arc::new(Self { in_all, per_address, per_network, open: Mutex::default() })
    }

    /// Counts one more, in the place of another where there are too many; `None` where it is too many itself.
    pub(crate) fn enter(self: &Arc<Self>, address: IpAddr) -> Option<Slot> {
        let (address, network) = (key(address), network(address, 48));
        let mut open = self.lock();
        let of_address = open.connections.values().filter(|c| c.address == address).count();
        let of_network = open.connections.values().filter(|c| c.network == network).count();
        if of_address >= self.per_address || of_network >= self.per_network {
            return None;
        }
        if open.connections.len() >= self.in_all {
            let number = open.superfluous()?;
            open.connections.remove(&number)?.evicted.notify_one();
        }
        open.last += 1;
        let (number, evicted) = (open.last, Arc::new(Notify::new()));
        open.connections.insert(number, Connection { address, network, busy: false, evicted: evicted.clone() });
        Some(Slot { limits: self.clone(), number, evicted })
    }

    /// Connections that are open now.
    pub(crate) fn open(&self) -> usize {
        self.lock().connections.len()
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Open {
    /// The oldest connection without a request under way, of the network (IPv4: address) that has most.
    fn superfluous(&self) -> Option<u64> {
        let mut of = HashMap::<IpAddr, usize>::new();
        for connection in self.connections.values() {
            *of.entry(connection.network).or_default() += 1;
        }
        let idle = self.connections.iter().filter(|(_, connection)| !connection.busy);
        idle.max_by_key(|(number, connection)| (of.get(&connection.network), Reverse(**number))).map(|(n, _)| *n)
    }
}

impl Slot {
    /// A request is under way.
    pub(crate) fn busy(&self) -> Busy<'_> {
        self.set_busy(true);
        Busy(self)
    }

    /// Waits until the connection is to be closed for another.
    pub(crate) async fn evicted(&self) {
        self.evicted.notified().await;
    }

    fn set_busy(&self, busy: bool) {
        if let Some(connection) = self.limits.lock().connections.get_mut(&self.number) {
            connection.busy = busy;
        }
    }
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.0.set_busy(false);
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.limits.lock().connections.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    impl Slot {
        fn is_open(&self) -> bool {
            self.limits.lock().connections.contains_key(&self.number)
        }
    }

    #[test]
    fn one_address_at_its_edge() {
        let limits = Limits::new(MAX_CONNECTIONS, MAX_PER_ADDRESS, MAX_PER_NETWORK);
        let mut slots: Vec<_> = (0..MAX_PER_ADDRESS).map(|_| limits.enter(ip("192.0.2.1")).unwrap()).collect();
        assert!(limits.enter(ip("192.0.2.1")).is_none());
        assert!(limits.enter(ip("::ffff:192.0.2.1")).is_none(), "the same address, mapped");
        assert!(limits.enter(ip("192.0.2.2")).is_some());
        slots.pop();
        assert!(limits.enter(ip("192.0.2.1")).is_some());
    }

    #[test]
    fn all_at_their_edge() {
        let limits = Limits::new(3, 2, 2);
        let slots = ["192.0.2.1", "192.0.2.1", "192.0.2.2"].map(|from| limits.enter(ip(from)).unwrap());
        let busy = slots.each_ref().map(Slot::busy);
        assert!(limits.enter(ip("192.0.2.3")).is_none(), "a request under way is not given up");
        drop(busy);
        let newest = limits.enter(ip("192.0.2.3")).unwrap();
        assert_eq!(slots.each_ref().map(Slot::is_open), [false, true, true]);
        drop(slots);
        assert!(newest.is_open());
        drop(newest);
        assert_eq!(limits.open(), 0);
        assert!(limits.lock().connections.is_empty(), "addresses are forgotten");
    }

    #[test]
    fn the_oldest_idle_one_of_who_has_most_goes() {
        let limits = Limits::new(6, 3, 3);
        let from = ["192.0.2.1", "192.0.2.2", "192.0.2.2", "192.0.2.2", "192.0.2.3", "192.0.2.3"];
        let slots = from.map(|from| limits.enter(ip(from)).unwrap());
        let _busy = slots[1].busy();
        let _newer = [4, 5].map(|n| limits.enter(ip(&format!("192.0.2.{n}"))).unwrap());
        let open = slots.each_ref().map(Slot::is_open);
        assert_eq!(open, [true, true, false, false, true, true], "of those with as many, the oldest");
    }

    /// Whoever fills all places that he can get keeps nobody out.
    #[test]
    fn silent_connections_of_others_give_way() {
        let limits = Limits::new(MAX_CONNECTIONS, MAX_PER_ADDRESS, MAX_PER_NETWORK);
        let address = |n: usize| ip(&format!("198.51.100.{}", n / MAX_PER_ADDRESS));
        let silent: Vec<_> = (0..MAX_CONNECTIONS).map(|n| limits.enter(address(n)).unwrap()).collect();
        let customers: Vec<_> = (1..=100).map(|n| limits.enter(ip(&format!("192.0.2.{n}"))).unwrap()).collect();
        assert!(customers.iter().all(Slot::is_open));
        assert_eq!(silent.iter().filter(|slot| slot.is_open()).count(), MAX_CONNECTIONS - customers.len());
        assert_eq!(limits.open(), MAX_CONNECTIONS);
    }

    #[test]
    fn a_network_of_ipv6_is_one_address() {
        let limits = Limits::new(10, 1, 10);
        let _slot = limits.enter(ip("2001:db8::1")).unwrap();
        assert!(limits.enter(ip("2001:db8::ffff:1")).is_none());
        assert!(limits.enter(ip("2001:db8:0:1::1")).is_some());
    }

    #[test]
    fn one_network_at_its_edge() {
        let limits = Limits::new(MAX_CONNECTIONS, MAX_PER_ADDRESS, MAX_PER_NETWORK);
        let address = |n: usize| ip(&format!("2001:db8:0:{n:x}::1"));
        let mut slots: Vec<_> = (0..MAX_PER_NETWORK).map(|n| limits.enter(address(n)).unwrap()).collect();
        assert!(limits.enter(address(0xffff)).is_none());
        assert!(limits.enter(ip("2001:db8:1::1")).is_some());
        slots.pop();
        assert!(limits.enter(address(0xffff)).is_some());
    }
}
