//! A clock that cannot be right. A machine whose battery is empty begins in 1970 or 2000, when no certificate was valid; no such machine
//! can have been started before its disk was written. systemd has a floor of its own, the age of its build; this one is nearer.

use nix::sys::time::TimeSpec;
use nix::time::{ClockId, clock_settime};
use std::fs;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

/// The file of the site that is written last when a disk is.
const WRITTEN: &str = "site/machine";

/// Sets the clock to when this disk was written, if it is earlier. A clock that cannot be set is no reason to stay down.
pub(super) fn advance(state: &Path) {
    let written = fs::metadata(state.join(WRITTEN)).and_then(|m| m.modified());
    let Some(to) = written.ok().and_then(|written| floor(SystemTime::now(), written)) else { return };
    match clock_settime(ClockId::CLOCK_REALTIME, to) {
        Ok(()) => tracing::warn!("the clock was earlier than the writing of this disk; it goes on from there"),
        Err(error) => tracing::error!(%error, "the clock is earlier than the writing of this disk, and cannot be set"),
    }
}

/// What the clock is set to, if it must be.
fn floor(now: SystemTime, written: SystemTime) -> Option<TimeSpec> {
    (now < written).then(|| written.duration_since(UNIX_EPOCH).ok().map(TimeSpec::from_duration)).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn only_forwards() {
        let at = |seconds| UNIX_EPOCH + Duration::from_secs(seconds);
        assert_eq!(floor(at(0), at(1_800_000_000)), Some(TimeSpec::new(1_800_000_000, 0)));
        assert_eq!(floor(at(1_799_999_999), at(1_800_000_000)), Some(TimeSpec::new(1_800_000_000, 0)));
        assert_eq!(floor(at(1_800_000_000), at(1_800_000_000)), None);
        assert_eq!(floor(at(1_800_000_001), at(1_800_000_000)), None);
        assert_eq!(floor(UNIX_EPOCH - Duration::from_secs(9), UNIX_EPOCH - Duration::from_secs(5)), None);
    }
}
