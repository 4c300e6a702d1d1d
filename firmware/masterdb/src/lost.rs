//! What is answered while the store is lost: operators learn of it, and nobody is taken for a customer who is unknown.

use tobj::{Body, Check, Fault, Message, Name, Reply, Request, Text};
use tokio::io::AsyncRead;

/// Answers in place of the database.
pub(crate) struct Lost {
    pub(crate) name: Name,
    /// What happened, what it means and what to do.
    pub(crate) why: String,
}

impl daemon::Service for Lost {
    async fn call(&self, from: &str, message: Message, _: &mut (dyn AsyncRead + Send + Unpin)) -> Message {
        let told = from.starts_with(crate::service::OPERATOR);
        let reply = match (&message.body, Name::new("database"), Name::new("store")) {
            (Body::Request(Request::Status {}), Ok(role), Ok(store)) => Reply::StatusReport {
                name: self.name.clone(),
                role,
                version: Text::lossy(env!("CARGO_PKG_VERSION")),
                checks: vec![Check { name: store, healthy: false, detail: Text::lossy(&self.why) }],
            },
            _ => Reply::refused(Fault::Unavailable, &self.why),
        };
        message.reply(if told { reply } else { reply.opaque() })
    }
}
