//! What portald answers to `STATUS`.

use crate::backend::Backend;
use crate::limits::{Limits, MAX_CONNECTIONS};
use crate::tls::Tls;
use daemon::Service;
use std::sync::Arc;
use tobj::{Body, Check, Fault, Message, Name, Reply, Request, Text, Timestamp};
use tokio::io::AsyncRead;

/// Answers `STATUS` and nothing else.
pub(crate) struct Status {
    pub(crate) name: Name,
    pub(crate) backend: Arc<Backend>,
    pub(crate) limits: Arc<Limits>,
    pub(crate) tls: Arc<Tls>,
}

fn check(name: &str, healthy: bool, detail: &str) -> Check {
    let name = Name::new(name).expect("it keeps the rules for names");
    Check { name, healthy, detail: Text::lossy(detail) }
}

impl Status {
    fn report(&self) -> Reply {
        let open = self.limits.open();
        let portal =
            check("portal", open < MAX_CONNECTIONS, &format!("{open} of {MAX_CONNECTIONS} connections in use"));
        let database = match self.backend.last_call() {
            None => check("database", true, "not asked since the start"),
            Some(last) => {
                let ago = Timestamp::now().0.saturating_sub(last.at.0);
                let what = if last.answered { "answered" } else { "did not answer" };
                check("database", last.answered, &format!("{what} {ago} s ago"))
            }
        };
        let certificate = match self.tls.refresh() {
            Ok(()) => check("certificate", true, "as its files have it"),
            Err(trouble) => check("certificate", false, &format!("an older one is served: {trouble}")),
        };
        Reply::StatusReport {
            name: self.name.clone(),
            role: Name::new("web").expect("it keeps the rules for names"),
            version: Text::lossy(env!("CARGO_PKG_VERSION")),
            checks: vec![portal, certificate, database],
        }
    }
}

impl Service for Status {
    async fn call(&self, _from: &str, request: Message, _literal: &mut (dyn AsyncRead + Send + Unpin)) -> Message {
        match request.body {
            Body::Request(Request::Status {}) => request.reply(self.report()),
            _ => request.fault(Fault::Denied),
        }
    }
}
