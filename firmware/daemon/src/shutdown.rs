//! When to stop.

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Tells tasks that the daemon is to end. Clones tell the same.
#[derive(Debug, Clone)]
pub struct Shutdown(CancellationToken);

/// Starts the shutdown that it came with; so does dropping it.
#[derive(Debug)]
pub struct Trigger(CancellationToken);

impl Shutdown {
    /// A shutdown that starts when its trigger is fired or dropped.
    pub fn manual() -> (Trigger, Self) {
        let token = CancellationToken::new();
        (Trigger(token.clone()), Self(token))
    }

    /// A shutdown that starts with SIGTERM or SIGINT. To be called within a runtime.
    ///
    /// # Errors
    /// When the signals cannot be caught.
    pub fn on_signals() -> std::io::Result<Self> {
        let token = CancellationToken::new();
        let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        let fire = token.clone();
        tokio::spawn(async move {
            tokio::select! { _ = term.recv() => {} _ = int.recv() => {} }
            fire.cancel();
        });
        Ok(Self(token))
    }

    /// Waits for the shutdown to start. May be cancelled and called again.
    pub async fn wait(&self) {
        self.0.cancelled().await;
    }

    /// Whether it has started.
    pub fn started(&self) -> bool {
        self.0.is_cancelled()
    }
}

impl Trigger {
    /// Starts the shutdown.
    pub fn fire(&self) {
        self.0.cancel();
    }
}

impl Drop for Trigger {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn firing_and_dropping() {
        let (trigger, shutdown) = Shutdown::manual();
        assert!(!shutdown.started());
        trigger.fire();
        shutdown.wait().await;
        let (trigger, shutdown) = Shutdown::manual();
        drop(trigger);
        shutdown.clone().wait().await;
        assert!(shutdown.started());
    }
}
