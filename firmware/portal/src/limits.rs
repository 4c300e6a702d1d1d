//! How many connections customers may have.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};

/// Connections at once in all; more are closed unanswered.
pub const MAX_CONNECTIONS: usize = 1024;
/// Connections at once from one address (IPv6: from one /64), so that one host cannot lock out the others.
pub const MAX_PER_ADDRESS: usize = 64;

/// Counts connections.
#[derive(Debug)]
pub(crate) struct Limits {
    in_all: usize,
    per_address: usize,
    open: Mutex<HashMap<IpAddr, usize>>,
}

/// A connection that is counted until this is dropped.
#[derive(Debug)]
pub(crate) struct Slot {
    limits: Arc<Limits>,
    key: IpAddr,
}

/// What counts as one address.
fn key(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(six) => Ipv6Addr::from_bits(six.to_bits() & (u128::MAX << 64)).into(),
        four @ IpAddr::V4(_) => four,
    }
}

impl Limits {
    pub(crate) fn new(in_all: usize, per_address: usize) -> Arc<Self> {
        Arc::new(Self { in_all, per_address, open: Mutex::default() })
    }

    /// Counts one more, unless that is too many.
    pub(crate) fn enter(self: &Arc<Self>, address: IpAddr) -> Option<Slot> {
        let key = key(address);
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if open.values().sum::<usize>() >= self.in_all || open.get(&key).is_some_and(|n| *n >= self.per_address) {
            return None;
        }
        *open.entry(key).or_default() += 1;
        Some(Slot { limits: self.clone(), key })
    }

    /// Connections that are open now.
    pub(crate) fn open(&self) -> usize {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).values().sum()
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut open = self.limits.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(n) = open.get_mut(&self.key) {
            *n -= 1;
            if *n == 0 {
                open.remove(&self.key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn one_address_at_its_edge() {
        let limits = Limits::new(MAX_CONNECTIONS, MAX_PER_ADDRESS);
        let mut slots: Vec<_> = (0..MAX_PER_ADDRESS).map(|_| limits.enter(ip("192.0.2.1")).unwrap()).collect();
        assert!(limits.enter(ip("192.0.2.1")).is_none());
        assert!(limits.enter(ip("::ffff:192.0.2.1")).is_none(), "the same address, mapped");
        assert!(limits.enter(ip("192.0.2.2")).is_some());
        slots.pop();
        assert!(limits.enter(ip("192.0.2.1")).is_some());
    }

    #[test]
    fn all_at_their_edge() {
        let limits = Limits::new(3, 2);
        let slots = [limits.enter(ip("192.0.2.1")), limits.enter(ip("192.0.2.1")), limits.enter(ip("192.0.2.2"))];
        assert!(slots.iter().all(Option::is_some));
        assert!(limits.enter(ip("192.0.2.3")).is_none());
        drop(slots);
        assert_eq!(limits.open(), 0);
        assert!(limits.open.lock().unwrap().is_empty(), "addresses are forgotten");
    }

    #[test]
    fn a_network_of_ipv6_is_one_address() {
        let limits = Limits::new(10, 1);
        let _slot = limits.enter(ip("2001:db8::1")).unwrap();
        assert!(limits.enter(ip("2001:db8::ffff:1")).is_none());
        assert!(limits.enter(ip("2001:db8:0:1::1")).is_some());
    }
}
