//! The database appliance, as reached through commlinkd and the web appliance's relay.

use daemon::ipc::{Client, IpcError};
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};
use tobj::{Fault, Reply, Request};

/// How long an answer may take. The relayed link may have to be set up first.
pub const ANSWER: Duration = Duration::from_secs(20);

/// No answer of the database.
#[derive(Debug, thiserror::Error)]
pub enum Unreachable {
    /// commlinkd gave no answer.
    #[error("commlinkd did not answer")]
    Local(#[from] IpcError),
    /// commlinkd has no link, or the database cannot work at present.
    #[error("there is no link to the database")]
    Link,
}

/// Asks the database, and remembers how that went.
#[derive(Debug)]
pub struct Database {
    client: Client,
    name: String,
    contact: Mutex<Contact>,
}

#[derive(Debug, Default)]
struct Contact {
    last: Option<Instant>,
    failing: Option<(Instant, String)>,
}

impl Database {
    /// The database of this name, through the socket of commlinkd.
    pub fn new(commlink: &Path, name: &str) -> Self {
        Self { client: Client::new(commlink), name: name.to_owned(), contact: Mutex::default() }
    }

    /// Asks. A refusal is an answer.
    ///
    /// # Errors
    /// [`Unreachable`].
    pub async fn ask(&self, request: Request, within: Duration) -> Result<Reply, Unreachable> {
        let outcome = match self.client.clone().with_answer_within(within).call(&self.name, request).await {
            Ok(Reply::Fault { fault: Fault::Unavailable, .. }) => Err(Unreachable::Link),
            Ok(reply) => Ok(reply),
            Err(error) => Err(error.into()),
        };
        let mut contact = self.contact.lock().unwrap_or_else(PoisonError::into_inner);
        match &outcome {
            Ok(_) => *contact = Contact { last: Some(Instant::now()), failing: None },
            Err(error) => {
                let why = daemon::report(error);
                let since = contact.failing.as_ref().map_or_else(Instant::now, |(since, _)| *since);
                contact.failing = Some((since, why));
            }
        }
        outcome
    }

    /// Whether the last question was answered, and the state in words.
    pub fn health(&self) -> (bool, String) {
        let contact = self.contact.lock().unwrap_or_else(PoisonError::into_inner);
        let last = contact.last.map_or_else(
            || "no answer since start-up".to_owned(),
            |at| format!("last answer {} s ago", at.elapsed().as_secs()),
        );
        match &contact.failing {
            Some((since, why)) => (false, format!("unreachable for {} s ({why}); {last}", since.elapsed().as_secs())),
            None => (true, last),
        }
    }
}

/// The pause before another try: doubles from a quarter of a second to half a minute.
#[derive(Debug, Default)]
pub struct Backoff(u32);

impl Backoff {
    /// Longest pause.
    pub const LONGEST: Duration = Duration::from_secs(30);

    /// The next pause.
    pub fn next_pause(&mut self) -> Duration {
        let pause = Duration::from_millis(250).saturating_mul(1 << self.0.min(16)).min(Self::LONGEST);
        self.0 += 1;
        pause
    }

    /// It worked.
    pub fn reset(&mut self) {
        self.0 = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_limit() {
        let mut backoff = Backoff::default();
        let pauses: Vec<_> = (0..9).map(|_| backoff.next_pause().as_millis()).collect();
        assert_eq!(pauses, [250, 500, 1000, 2000, 4000, 8000, 16_000, 30_000, 30_000]);
        backoff.reset();
        assert_eq!(backoff.next_pause().as_millis(), 250);
    }
}
