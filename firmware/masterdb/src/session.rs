//! Sessions of customers at the portal: in memory, of bounded life and number.
//!
//! A restart ends them all, which costs a customer a login. The token is worth what the customer may do, so only its hash is kept.
//! That a session is older than the customer's password is seen when it is used, against the store: see
//! [`CustomerRow::generation`](crate::store::rows::CustomerRow::generation).

use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tobj::{Name, Secret};
use tokio::time::Instant;

/// Most sessions of one customer; a further login ends the oldest.
pub const OF_ONE: usize = 16;
/// Most sessions in all; a login beyond them is told to come later.
pub const IN_ALL: usize = 16_384;

/// A session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    /// Whose it is.
    pub customer: Name,
    /// The generation of the password that opened it.
    pub generation: u64,
    /// The machine over which it was opened; it is of no use to another.
    pub machine: Name,
    begun: Instant,
}

/// The sessions there are.
#[derive(Debug)]
pub struct Sessions {
    life: Duration,
    open: Mutex<HashMap<[u8; 32], Session>>,
}

impl Sessions {
    /// None yet; each is to last this long.
    pub fn new(life: Duration) -> Self {
        Self { life, open: Mutex::default() }
    }

    /// Whether another one would find room.
    pub fn has_room(&self, now: Instant) -> bool {
        let mut open = self.lock();
        if open.len() >= IN_ALL {
            open.retain(|_, session| self.is_live(session, now));
        }
        open.len() < IN_ALL
    }

    /// Opens a session: its token, or `None` when there are too many.
    ///
    /// # Errors
    /// When the system has no randomness to give.
    pub fn open(
        &self,
        customer: Name,
        generation: u64,
        machine: Name,
        now: Instant,
    ) -> Result<Option<Secret>, getrandom::Error> {
        let token = Secret::random()?;
        if !self.has_room(now) {
            return Ok(None);
        }
        let mut open = self.lock();
        let mut his: Vec<_> = open.iter().filter(|(_, s)| s.customer == customer).map(|(k, s)| (s.begun, *k)).collect();
        his.sort_unstable();
        for (_, oldest) in his.iter().take((his.len() + 1).saturating_sub(OF_ONE)) {
            open.remove(oldest);
        }
        open.insert(key(&token), Session { customer, generation, machine, begun: now });
        Ok(Some(token))
    }

    /// The session of a token, for the machine over which it was opened.
    pub fn get(&self, token: &Secret, machine: &Name, now: Instant) -> Option<Session> {
        let mut open = self.lock();
        let key = key(token);
        let session = open.get(&key).filter(|session| session.machine == *machine)?.clone();
        if self.is_live(&session, now) {
            return Some(session);
        }
        open.remove(&key);
        None
    }

    /// Ends a session, if there is one of this token and machine.
    pub fn close(&self, token: &Secret, machine: &Name) {
        let mut open = self.lock();
        let key = key(token);
        if open.get(&key).is_some_and(|session| session.machine == *machine) {
            open.remove(&key);
        }
    }

    /// Ends all sessions of a customer.
    pub fn close_all_of(&self, customer: &Name) {
        self.lock().retain(|_, session| session.customer != *customer);
    }

    /// How many there are.
    pub fn count(&self, now: Instant) -> usize {
        self.lock().values().filter(|session| self.is_live(session, now)).count()
    }

    fn is_live(&self, session: &Session, now: Instant) -> bool {
        now.saturating_duration_since(session.begun) < self.life
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<[u8; 32], Session>> {
        // Every change to the map is a single call.
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn key(token: &Secret) -> [u8; 32] {
    Sha256::digest(token.expose().as_bytes()).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIFE: Duration = Duration::from_secs(100);

    fn name(s: &str) -> Name {
        Name::new(s).unwrap()
    }

    fn open(sessions: &Sessions, customer: &str, now: Instant) -> Secret {
        sessions.open(name(customer), 1, name("web"), now).unwrap().unwrap()
    }

    #[test]
    fn a_session_lives_for_its_time_and_its_machine() {
        let (sessions, now, web) = (Sessions::new(LIFE), Instant::now(), name("web"));
        let token = open(&sessions, "alice", now);
        assert_eq!(sessions.get(&token, &web, now).unwrap().customer, name("alice"));
        assert!(sessions.get(&token, &name("web2"), now).is_none());
        assert!(sessions.get(&Secret::random().unwrap(), &web, now).is_none());
        assert!(sessions.get(&token, &web, now + LIFE - Duration::from_millis(1)).is_some());
        assert!(sessions.get(&token, &web, now + LIFE).is_none());
        assert!(sessions.get(&token, &web, now).is_none(), "over is over");
    }

    #[test]
    fn closing() {
        let (sessions, now, web) = (Sessions::new(LIFE), Instant::now(), name("web"));
        let (a, b, c) = (open(&sessions, "alice", now), open(&sessions, "alice", now), open(&sessions, "bob", now));
        sessions.close(&a, &name("web2"));
        assert_eq!(sessions.count(now), 3);
        sessions.close(&a, &web);
        assert!(sessions.get(&a, &web, now).is_none() && sessions.get(&b, &web, now).is_some());
        sessions.close_all_of(&name("alice"));
        assert!(sessions.get(&b, &web, now).is_none() && sessions.get(&c, &web, now).is_some());
    }

    #[test]
    fn one_customer_keeps_his_latest() {
        let (sessions, now, web) = (Sessions::new(LIFE), Instant::now(), name("web"));
        let tokens: Vec<_> = (0..=OF_ONE)
            .map(|n| open(&sessions, "alice", now + Duration::from_millis(u64::try_from(n).unwrap())))
            .collect();
        let later = now + Duration::from_secs(1);
        assert!(sessions.get(&tokens[0], &web, later).is_none());
        assert!(tokens[1..].iter().all(|t| sessions.get(t, &web, later).is_some()));
    }

    #[test]
    fn there_is_room_for_so_many() {
        let (sessions, now) = (Sessions::new(LIFE), Instant::now());
        {
            let mut map = sessions.lock();
            for n in 1..IN_ALL {
                let session =
                    Session { customer: name(&format!("c{n}")), generation: 1, machine: name("web"), begun: now };
                map.insert(Sha256::digest(n.to_be_bytes()).into(), session);
            }
        }
        open(&sessions, "last", now);
        assert!(sessions.open(name("late"), 1, name("web"), now).unwrap().is_none());
        open(&sessions, "after", now + LIFE);
        assert_eq!(sessions.count(now + LIFE), 1);
    }
}
