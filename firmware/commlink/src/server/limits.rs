//! How many connections there may be.
//!
//! Before the handshake a connection can only be told by its address, so newer ones push out the oldest: whoever holds
//! the keys is through in a few round trips, whoever does not cannot keep a place. After it, each link has its own share.

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio_util::sync::CancellationToken;

/// Connections before their first request, in all.
pub const MAX_HALF_OPEN: usize = 256;

/// The same from one address.
pub const MAX_HALF_OPEN_PER_ADDRESS: usize = 128;

/// Connections past their handshake, in all.
pub const MAX_CONNECTIONS: usize = 512;

/// The same of one link, that is, of one peer.
pub const MAX_PER_LINK: usize = 128;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The connections before their first request, oldest first.
#[derive(Default)]
pub(crate) struct HalfOpen(Mutex<Waiting>);

#[derive(Default)]
struct Waiting {
    last: u64,
    places: VecDeque<(u64, IpAddr, CancellationToken)>,
}

/// A place among them, until it is dropped.
pub(crate) struct Place<'a> {
    all: &'a HalfOpen,
    number: u64,
    token: CancellationToken,
}

impl HalfOpen {
    /// Takes a place, pushing out the oldest of the same address, or of all, where there are too many.
    pub(crate) fn enter(&self, address: IpAddr) -> Place<'_> {
        let mut waiting = lock(&self.0);
        let same = waiting.places.iter().filter(|place| place.1 == address).count();
        let out = if same >= MAX_HALF_OPEN_PER_ADDRESS {
            waiting.places.iter().position(|place| place.1 == address)
        } else if waiting.places.len() >= MAX_HALF_OPEN {
            Some(0)
        } else {
            None
        };
        if let Some((_, _, token)) = out.and_then(|at| waiting.places.remove(at)) {
            token.cancel();
        }
        waiting.last += 1;
        let (number, token) = (waiting.last, CancellationToken::new());
        waiting.places.push_back((number, address, token.clone()));
        Place { all: self, number, token }
    }
}

impl Place<'_> {
    /// Waits until it is pushed out.
    pub(crate) async fn evicted(&self) {
        self.token.cancelled().await;
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        lock(&self.all.0).places.retain(|place| place.0 != self.number);
    }
}

/// The connections past their handshake, by link.
#[derive(Default)]
pub(crate) struct Links(Mutex<BTreeMap<String, usize>>);

/// One of them, until it is dropped.
pub(crate) struct Entered<'a> {
    all: &'a Links,
    link: String,
}

impl Links {
    /// One more of this link; `None` where that would be too many.
    pub(crate) fn enter(&self, link: &str) -> Option<Entered<'_>> {
        let mut links = lock(&self.0);
        if links.values().sum::<usize>() >= MAX_CONNECTIONS {
            return None;
        }
        let count = links.entry(link.to_owned()).or_default();
        if *count >= MAX_PER_LINK {
            return None;
        }
        *count += 1;
        Some(Entered { all: self, link: link.to_owned() })
    }
}

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        let mut links = lock(&self.all.0);
        if let Some(count) = links.get_mut(&self.link) {
            *count -= 1;
            if *count == 0 {
                links.remove(&self.link);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(last: u8) -> IpAddr {
        [127, 0, 0, last].into()
    }

    #[test]
    fn one_address_pushes_out_only_itself() {
        let all = HalfOpen::default();
        let other = all.enter(address(2));
        let places: Vec<_> = (0..MAX_HALF_OPEN_PER_ADDRESS).map(|_| all.enter(address(1))).collect();
        assert!(places.iter().all(|place| !place.token.is_cancelled()));
        let _newest = all.enter(address(1));
        assert!(places[0].token.is_cancelled() && !places[1].token.is_cancelled());
        assert!(!other.token.is_cancelled());
    }

    #[test]
    fn many_addresses_push_out_the_oldest() {
        let all = HalfOpen::default();
        let places: Vec<_> = (0..MAX_HALF_OPEN).map(|n| all.enter(address(u8::try_from(n % 250).unwrap()))).collect();
        assert!(places.iter().all(|place| !place.token.is_cancelled()));
        let _newest = all.enter(address(255));
        assert!(places[0].token.is_cancelled() && !places[1].token.is_cancelled());
        drop(places);
        assert_eq!(lock(&all.0).places.len(), 1);
    }

    #[test]
    fn links_have_their_share_and_give_it_back() {
        let links = Links::default();
        let mut entered: Vec<_> = (0..MAX_PER_LINK).map(|_| links.enter("a").unwrap()).collect();
        assert!(links.enter("a").is_none());
        assert!(links.enter("b").is_some());
        entered.pop();
        assert!(links.enter("a").is_some());
        drop(entered);
        assert!(lock(&links.0).is_empty());
    }

    #[test]
    fn all_links_together_are_limited() {
        let links = Links::default();
        let entered: Vec<_> = (0..MAX_CONNECTIONS).map(|n| links.enter(&(n % 8).to_string()).unwrap()).collect();
        assert!(links.enter("another").is_none());
        drop(entered);
        assert!(links.enter("another").is_some());
    }
}
