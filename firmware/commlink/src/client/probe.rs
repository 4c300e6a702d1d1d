//! What a link is like.

use std::time::{Duration, SystemTime};

use tobj::{Message, Reply, Request};
use tokio::time::Instant;

use super::{CallError, Client, Encoded, Failure, transact, unreachable};
use crate::connection::ConnectionError;

/// How often the clock is asked for; the quickest answer counts.
const TIMES: usize = 5;

/// What a probe found.
#[derive(Clone, Debug)]
pub struct Probe {
    /// The generation of the bag that was used.
    pub generation: u32,
    /// Its fingerprint.
    pub fingerprint: String,
    /// Whether the link is sealed.
    pub sealed: bool,
    /// P: this end's port as the machine sees it.
    pub port: u16,
    /// How long connection and handshake took.
    pub opening: Duration,
    /// How long the quickest answer took.
    pub latency: Duration,
    /// By how many milliseconds the machine's clock is ahead of ours, to within half of the latency.
    pub clock_ahead: i64,
}

impl Client {
    /// Opens a connection and asks for the machine's clock.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn probe(&self, peer: &str) -> Result<Probe, CallError> {
        let to = self.destinations.get(peer).ok_or_else(|| CallError::UnknownPeer(peer.to_owned()))?;
        let start = Instant::now();
        let mut link = self.reach(to).await.map_err(|error| unreachable(to, error))?;
        let opening = start.elapsed();
        let (mut latency, mut clock_ahead) = (Duration::MAX, 0);
        for _ in 0..TIMES {
            let request = Encoded::new(Message::request(Request::Probe {})?)?;
            let (asked, start) = (now(), Instant::now());
            let answer =
                transact(&mut link, &request, &mut tokio::io::empty()).await.map_err(|error| error.of(peer))?;
            let took = start.elapsed();
            let Some((Reply::Probed { clock }, _)) = answer else {
                return Err(Failure::asked(ConnectionError::Mismatch).of(peer));
            };
            if took < latency {
                latency = took;
                let middle = asked.saturating_add(millis(took / 2));
                clock_ahead = i64::try_from(clock).unwrap_or(i64::MAX).saturating_sub_unsigned(middle);
            }
        }
        let session = link.session();
        let probe = Probe {
            generation: session.bag().generation(),
            fingerprint: session.bag().fingerprint(),
            sealed: session.is_sealed(),
            port: session.port(),
            opening,
            latency,
            clock_ahead,
        };
        // What was asked for is here.
        let _ = link.end().await;
        Ok(probe)
    }
}

/// Milliseconds since 1970.
pub(crate) fn now() -> u64 {
    SystemTime::UNIX_EPOCH.elapsed().map_or(0, millis)
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
