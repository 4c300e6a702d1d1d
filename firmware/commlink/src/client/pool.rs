//! Connections to one machine: how many there may be, and those that wait for the next request.

use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::timeout;

/// Requests under way to one machine at once; more wait.
pub(crate) const MAX_ACTIVE: usize = 64;

/// Connections that wait for the next request.
pub(crate) const MAX_IDLE: usize = 8;

/// How long one waits before it is closed; shorter than what a server grants
/// ([`IDLE`](crate::server::IDLE)), so that it is the client that closes.
pub(crate) const KEEP: Duration = Duration::from_secs(60);

/// How long a request waits for its turn.
pub(crate) const TURN: Duration = Duration::from_secs(10);

pub(crate) struct Pool<C> {
    active: Semaphore,
    idle: Mutex<Vec<(Instant, C)>>,
}

impl<C> Default for Pool<C> {
    fn default() -> Self {
        Self { active: Semaphore::new(MAX_ACTIVE), idle: Mutex::default() }
    }
}

impl<C> Pool<C> {
    /// A turn; `None` if it does not come within [`TURN`].
    pub(crate) async fn permit(&self) -> Option<SemaphorePermit<'_>> {
        timeout(TURN, self.active.acquire()).await.ok()?.ok()
    }

    /// The connection that was used last and is still good.
    pub(crate) fn take(&self, mut good: impl FnMut(&mut C) -> bool) -> Option<C> {
        let mut idle = self.lock();
        idle.retain_mut(|(since, connection)| since.elapsed() < KEEP && good(connection));
        idle.pop().map(|(_, connection)| connection)
    }

    /// Keeps a connection for the next request.
    pub(crate) fn put(&self, connection: C) {
        let mut idle = self.lock();
        if idle.len() == MAX_IDLE {
            idle.remove(0);
        }
        idle.push((Instant::now(), connection));
    }

    /// Drops all that are idle.
    pub(crate) fn clear(&self) {
        self.lock().clear();
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<(Instant, C)>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<C> fmt::Debug for Pool<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool").field("idle", &self.lock().len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_used_comes_first_and_the_oldest_goes() {
        let pool = Pool::default();
        for n in 0..=MAX_IDLE {
            pool.put(n);
        }
        assert_eq!(pool.take(|_| true), Some(MAX_IDLE));
        assert_eq!(pool.lock().len(), MAX_IDLE - 1);
        assert!(pool.lock().iter().all(|(_, n)| *n != 0));
        assert_eq!(pool.take(|n| *n < 3), Some(2), "those that are not good are dropped");
        assert_eq!(pool.lock().len(), 1);
        pool.clear();
        assert_eq!(pool.take(|_| true), None);
    }

    #[test]
    fn what_was_idle_for_long_is_dropped() {
        let pool = Pool::default();
        let long_ago = Instant::now().checked_sub(KEEP).unwrap();
        pool.lock().push((long_ago, 1));
        assert_eq!(pool.take(|_| true), None);
    }

    #[tokio::test(start_paused = true)]
    async fn turns_are_limited_and_waited_for() {
        let pool = Pool::<()>::default();
        let mut turns = Vec::new();
        for _ in 0..MAX_ACTIVE {
            turns.push(pool.permit().await.unwrap());
        }
        assert!(pool.permit().await.is_none());
        turns.pop();
        assert!(pool.permit().await.is_some());
    }
}
