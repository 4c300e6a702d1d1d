//! What systemd is told (sd_notify(3)). Without systemd all of this does nothing.

use sd_notify::NotifyState;
use std::time::Duration;

fn tell(state: NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(&[state]) {
        tracing::debug!(%error, "systemd was not told");
    }
}

/// The daemon serves now.
pub fn ready() {
    tell(NotifyState::Ready);
}

/// The daemon reads its configuration again; [`ready`] says that it has (`Type=notify-reload`).
pub fn reloading() {
    match NotifyState::monotonic_usec_now() {
        // In one message, or systemd takes it for a reload without a time.
        Ok(now) => {
            if let Err(error) = sd_notify::notify(&[NotifyState::Reloading, now]) {
                tracing::debug!(%error, "systemd was not told");
            }
        }
        Err(error) => tracing::warn!(%error, "systemd was not told of the reload: there is no clock"),
    }
}

/// The daemon is about to end.
pub fn stopping() {
    tell(NotifyState::Stopping);
}

/// The daemon is alive.
pub fn ping() {
    tell(NotifyState::Watchdog);
}

/// One line of status for `systemctl status`.
pub fn status(text: &str) {
    tell(NotifyState::Status(text));
}

/// How often [`ping`] is due: half of what systemd allows; `None` without a watchdog.
pub fn watchdog_interval() -> Option<Duration> {
    sd_notify::watchdog_enabled().map(|limit| limit / 2)
}

/// Pings from a task, so that a runtime that hangs is noticed. To be called within a runtime.
pub fn spawn_watchdog() {
    let Some(interval) = watchdog_interval() else { return };
    tokio::spawn(async move {
        let mut tick = tokio::time::interval(interval);
        loop {
            tick.tick().await;
            ping();
        }
    });
}
