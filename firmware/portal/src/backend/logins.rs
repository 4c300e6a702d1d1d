//! How many logins are under way. The database holds up those that follow failures, for seconds: they are not to be in the way of who
//! has logged in, nor all of one address.

use crate::limits::key;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Logins under way at once; more are refused.
pub const MAX_LOGINS: usize = 16;
/// The same from one address (IPv6: from one /64).
pub const MAX_LOGINS_PER_ADDRESS: usize = 4;

/// The addresses of logins under way.
#[derive(Debug, Default)]
pub(crate) struct Logins(Mutex<Vec<IpAddr>>);

/// A login that is counted until this is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    logins: Arc<Logins>,
    address: IpAddr,
}

impl Logins {
    /// Counts one more, unless that is too many.
    pub(crate) fn enter(self: &Arc<Self>, address: IpAddr) -> Option<Place> {
        let address = key(address);
        let mut all = self.lock();
        let same = all.iter().filter(|other| **other == address).count();
        if all.len() >= MAX_LOGINS || same >= MAX_LOGINS_PER_ADDRESS {
            return None;
        }
        all.push(address);
        Some(Place { logins: self.clone(), address })
    }

    fn lock(&self) -> MutexGuard<'_, Vec<IpAddr>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut all = self.logins.lock();
        if let Some(at) = all.iter().position(|address| *address == self.address) {
            all.swap_remove(at);
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
        let logins = Arc::new(Logins::default());
        for (first, same, other) in
            [("192.0.2.1", "::ffff:192.0.2.1", "192.0.2.2"), ("2001:db8::1", "2001:db8::2:1", "2001:db8:0:1::1")]
        {
            let mut places: Vec<_> = (0..MAX_LOGINS_PER_ADDRESS).map(|_| logins.enter(ip(first)).unwrap()).collect();
            assert!(logins.enter(ip(same)).is_none());
            assert!(logins.enter(ip(other)).is_some());
            places.pop();
            assert!(logins.enter(ip(same)).is_some());
        }
    }

    #[test]
    fn all_at_their_edge() {
        let logins = Arc::new(Logins::default());
        let address = |n: usize| ip(&format!("192.0.2.{n}"));
        let mut places: Vec<_> = (0..MAX_LOGINS).map(|n| logins.enter(address(n)).unwrap()).collect();
        assert!(logins.enter(address(99)).is_none());
        places.pop();
        assert!(logins.enter(address(99)).is_some());
        drop(places);
        assert!(logins.lock().is_empty());
    }
}
