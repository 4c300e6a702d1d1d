//! How many sessions there are and whose they are, without I/O.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};

/// Most sessions in all, where nothing else is configured.
pub const MOST_SESSIONS: usize = 5_000;

/// The part of the machine's memory that is for sessions, as `MemoryMax=` of the unit says it too: one half.
const SHARE: u64 = 2;

/// Memory that a session takes while it is idle, with all that the kernel keeps for it (page tables, stack, sockets), in bytes.
pub const SESSION_MEMORY: u64 = 512 << 10;

/// Memory that is there for the forker, for listings and for the buffers of transfers, in bytes.
const SPARE: u64 = 64 << 20;

/// How many sessions fit into a machine with so many bytes of memory: so many that their limit is reached before that of memory,
/// where the kernel would end one of them.
pub fn fitting(memory: u64) -> usize {
    let sessions = (memory / SHARE).saturating_sub(SPARE) / SESSION_MEMORY;
    usize::try_from(sessions).unwrap_or(usize::MAX).clamp(1, MOST_SESSIONS)
}

/// How many times the sessions of one address a whole site may have: with IPv6, where a site is given up to a /48 and
/// can make addresses without end.
pub const SITE: u32 = 4;

/// What counts as one address: with IPv6 a /64, since that is what one subscriber has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Origin {
    network: IpAddr,
    site: bool,
}

impl From<IpAddr> for Origin {
    fn from(address: IpAddr) -> Self {
        let network = match address.to_canonical() {
            IpAddr::V6(six) => {
                let [a, b, c, d, ..] = six.segments();
                IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
            }
            four => four,
        };
        Self { network, site: false }
    }
}

impl Origin {
    /// All that this one counts for, each with how many times the limit of an address it has: itself, and with IPv6 its /48.
    fn counted(self) -> impl Iterator<Item = (Self, u32)> {
        let site = match self.network {
            IpAddr::V6(six) => {
                let [a, b, c, ..] = six.segments();
                Some(Self { network: IpAddr::V6(Ipv6Addr::new(a, b, c, 0, 0, 0, 0, 0)), site: true })
            }
            IpAddr::V4(_) => None,
        };
        std::iter::once((self, 1)).chain(site.map(|site| (site, SITE)))
    }
}

/// Why there is no session for a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Full {
    /// `max_sessions` is reached.
    #[error("too many sessions")]
    Sessions,
    /// `max_per_address` is reached, or [`SITE`] times as many by the /48.
    #[error("too many sessions from this address")]
    Address,
}

/// The living sessions.
#[derive(Debug)]
pub struct Sessions {
    most: usize,
    most_per_address: usize,
    by_pid: HashMap<i32, Origin>,
    by_origin: HashMap<Origin, usize>,
}

impl Sessions {
    /// None yet.
    pub fn new(most: usize, most_per_address: usize) -> Self {
        Self { most, most_per_address, by_pid: HashMap::new(), by_origin: HashMap::new() }
    }

    /// Other limits from now on. Sessions that are there stay.
    pub fn limit(&mut self, most: usize, most_per_address: usize) {
        (self.most, self.most_per_address) = (most, most_per_address);
    }

    /// Whether one more from there is allowed.
    ///
    /// # Errors
    /// [`Full`] with the limit that is reached.
    pub fn admit(&self, origin: Origin) -> Result<(), Full> {
        if self.by_pid.len() >= self.most {
            return Err(Full::Sessions);
        }
        let full = |(origin, times): (Origin, u32)| {
            let most = self.most_per_address.saturating_mul(times as usize);
            self.by_origin.get(&origin).copied().unwrap_or(0) >= most
        };
        if origin.counted().any(full) { Err(Full::Address) } else { Ok(()) }
    }

    /// A session has started.
    pub fn insert(&mut self, pid: i32, origin: Origin) {
        if self.by_pid.insert(pid, origin).is_none() {
            for (origin, _) in origin.counted() {
                *self.by_origin.entry(origin).or_default() += 1;
            }
        }
    }

    /// A process has ended; false if it was no session.
    pub fn remove(&mut self, pid: i32) -> bool {
        let Some(origin) = self.by_pid.remove(&pid) else { return false };
        for (origin, _) in origin.counted() {
            if let Some(count) = self.by_origin.get_mut(&origin) {
                *count -= 1;
                if *count == 0 {
                    self.by_origin.remove(&origin);
                }
            }
        }
        true
    }

    /// All processes.
    pub fn pids(&self) -> impl Iterator<Item = i32> + '_ {
        self.by_pid.keys().copied()
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.by_pid.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin(text: &str) -> Origin {
        text.parse::<IpAddr>().unwrap().into()
    }

    #[test]
    fn as_many_as_fit() {
        let gib = 1 << 30;
        // A machine of 1 GiB says a little less than that.
        let rows = [(gib * 9 / 10, 793), (gib, 896), (8 * gib, MOST_SESSIONS), (0, 1)];
        for (memory, sessions) in rows {
            assert_eq!(fitting(memory), sessions, "{memory}");
        }
    }

    #[test]
    fn one_subscriber_is_one_origin() {
        assert_eq!(origin("2001:db8:1:2::1"), origin("2001:db8:1:2:ffff::9"));
        assert_ne!(origin("2001:db8:1:2::1"), origin("2001:db8:1:3::1"));
        assert_eq!(origin("::ffff:192.0.2.1"), origin("192.0.2.1"));
        assert_ne!(origin("192.0.2.1"), origin("192.0.2.2"));
    }

    #[test]
    fn both_limits_at_their_edge() {
        let mut sessions = Sessions::new(3, 2);
        let (a, b) = (origin("192.0.2.1"), origin("192.0.2.2"));
        for pid in [1, 2] {
            assert_eq!(sessions.admit(a), Ok(()));
            sessions.insert(pid, a);
        }
        assert_eq!(sessions.admit(a), Err(Full::Address));
        assert_eq!(sessions.admit(b), Ok(()));
        sessions.insert(3, b);
        assert_eq!(sessions.admit(b), Err(Full::Sessions));
        sessions.limit(4, 2);
        assert_eq!((sessions.admit(a), sessions.admit(b)), (Err(Full::Address), Ok(())));
        sessions.limit(2, 1);
        assert_eq!(sessions.admit(b), Err(Full::Sessions));
        sessions.limit(3, 2);
        assert!(sessions.remove(1) && !sessions.remove(1));
        assert_eq!(sessions.admit(a), Ok(()));
        assert!(sessions.remove(2) && sessions.remove(3) && sessions.count() == 0);
        assert!(sessions.by_origin.is_empty(), "what is gone costs no memory");
    }

    #[test]
    fn a_site_has_a_few_times_what_an_address_has() {
        let mut sessions = Sessions::new(100, 2);
        let mut pids = 0..;
        // All in one /56.
        for subnet in 0..SITE {
            let origin = origin(&format!("2001:db8:1:ab0{subnet}::1"));
            for _ in 0..2 {
                assert_eq!(sessions.admit(origin), Ok(()));
                sessions.insert(pids.next().unwrap(), origin);
            }
            assert_eq!(sessions.admit(origin), Err(Full::Address));
        }
        let fresh = origin("2001:db8:1:abff::1");
        assert_eq!(sessions.admit(fresh), Err(Full::Address));
        assert_eq!(sessions.admit(origin("2001:db8:2:ab00::1")), Ok(()), "another site");
        assert!(sessions.remove(0));
        assert_eq!(sessions.admit(fresh), Ok(()));
        // The first /64 of a site is not the site.
        let first = origin("2001:db8:3::1");
        for pid in [100, 101] {
            sessions.insert(pid, first);
        }
        assert_eq!(sessions.admit(first), Err(Full::Address));
        assert_eq!(sessions.admit(origin("2001:db8:3:1::1")), Ok(()));
        for pid in 0..=101 {
            sessions.remove(pid);
        }
        assert!(sessions.by_origin.is_empty(), "what is gone costs no memory");
    }
}
