//! How many logins are under way. The database holds up those that follow failures, for seconds: they are not to be in the way of who
//! has logged in, nor all of one address.

use crate::limits::key;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::timeout;

/// Logins under way at once; more wait for their turn.
pub const MAX_LOGINS: usize = 32;
/// The same from one address (IPv6: from one /64): as many as the database has under way of one that has failed.
pub const MAX_LOGINS_PER_ADDRESS: usize = 8;
/// How long one waits for its turn before it is refused.
pub const LOGIN_TURN: Duration = Duration::from_secs(10);

/// The addresses of logins under way.
#[derive(Debug, Default)]
pub(crate) struct Logins {
    under_way: Mutex<Vec<IpAddr>>,
    over: Notify,
}

/// A login that is counted until this is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    logins: Arc<Logins>,
    address: IpAddr,
}

impl Logins {
    /// Counts one more when it is its turn, if that comes within [`LOGIN_TURN`].
    pub(crate) async fn turn(self: &Arc<Self>, address: IpAddr) -> Option<Place> {
        let turn = async {
            loop {
                // From before the look on, so that nothing is missed between the two.
                let over = self.over.notified();
                match self.enter(address) {
                    Some(place) => return place,
                    None => over.await,
                }
            }
        };
        timeout(LOGIN_TURN, turn).await.ok()
    }

    /// Counts one more, unless that is too many.
    fn enter(self: &Arc<Self>, address: IpAddr) -> Option<Place> {
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
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut all = self.logins.lock();
        if let Some(at) = all.iter().position(|address| *address == self.address) {
            all.swap_remove(at);
        }
        drop(all);
        self.logins.over.notify_waiters();
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

    #[tokio::test(start_paused = true)]
    async fn a_turn_comes_or_does_not() {
        let logins = Arc::new(Logins::default());
        let mut places: Vec<_> = (0..MAX_LOGINS_PER_ADDRESS).map(|_| logins.enter(ip("192.0.2.1")).unwrap()).collect();
        let begun = tokio::time::Instant::now();
        assert!(logins.turn(ip("192.0.2.1")).await.is_none());
        assert_eq!(begun.elapsed(), LOGIN_TURN);
        let waiting = logins.clone();
        let turn = tokio::spawn(async move { waiting.turn(ip("192.0.2.1")).await });
        tokio::task::yield_now().await;
        assert!(!turn.is_finished());
        places.pop();
        assert!(turn.await.unwrap().is_some());
        assert!(begun.elapsed() == LOGIN_TURN, "at once");
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
