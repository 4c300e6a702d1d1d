//! What is answered while nothing can be served: during start-up, and after a failure of the disk, or while the ledger cannot be used,
//! until that works again.
//!
//! An operator learns how things are, everybody else gets `UNAVAILABLE`; nobody waits for an answer that does not come.

use crate::server::{Bound, RunError};
use crate::service::{check, status_report};
use daemon::ipc::Peers;
use daemon::{Service, Shutdown};
use std::future::Future;
use tobj::{Body, Fault, Message, Name, Reply, Request};
use tokio::io::AsyncRead;

/// Why nothing is served.
#[derive(Debug, Clone)]
pub(crate) struct Why {
    /// The check that tells of it.
    pub(crate) check: &'static str,
    /// What happened, and what is to be done.
    pub(crate) text: String,
}

/// Answers in place of the stager.
struct Down {
    name: Name,
    why: Why,
}

impl Service for Down {
    async fn call(&self, from: &str, message: Message, _: &mut (dyn AsyncRead + Send + Unpin)) -> Message {
        let reply = match &message.body {
            Body::Request(Request::Status {}) => {
                status_report(&self.name, vec![check(self.why.check, false, self.why.text.clone())]).ok()
            }
            _ => None,
        };
        let reply = reply.unwrap_or_else(|| Reply::refused(Fault::Unavailable, &self.why.text));
        message.reply(if from.starts_with("operator:") { reply } else { reply.opaque() })
    }
}

/// Answers that nothing works, and why, until this future is done or the shutdown comes.
///
/// # Errors
/// When a socket cannot be served.
pub(crate) async fn until<T>(
    bound: &Bound,
    name: &Name,
    why: Why,
    shutdown: &Shutdown,
    done: impl Future<Output = T>,
) -> Result<Option<T>, RunError> {
    daemon::notify::status(&why.text);
    let sockets = bound.sockets()?;
    let (trigger, end) = Shutdown::manual();
    let down = Down { name: name.clone(), why };
    let commands = daemon::ipc::serve(sockets.commands, Peers::uids(&bound.allow_uids), down, end);
    let commands = tokio::spawn(commands);
    // A session that cannot be served hears so by the end of its connection.
    let sessions = tokio::spawn(async move {
        loop {
            match sockets.sessions.accept().await {
                Ok(_) => {}
                Err(error) if daemon::ipc::passing(&error) => {
                    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
                }
                Err(_) => return,
            }
        }
    });
    let outcome = tokio::select! {
        value = done => Some(value),
        () = shutdown.wait() => None,
    };
    sessions.abort();
    trigger.fire();
    let _ = commands.await; // one that failed is tried again by whoever comes next
    Ok(outcome)
}
