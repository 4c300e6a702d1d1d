//! What is counted, and its text for Prometheus (exposition format 0.0.4). Without I/O.
//!
//! A session tells the forker of what happens in it by [`Event`]s of 24 bytes each; they hold numbers only, no name and no address.

use crate::limits::Full;
use std::fmt::Write;

/// Bytes of an event on the way from a session to the forker.
pub const EVENT: usize = 24;

/// Upper ends of the buckets of transfer durations, in seconds.
const BUCKETS: [u64; 6] = [1, 10, 60, 600, 3600, 36_000];

/// How a login ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Login {
    /// Yes.
    Admitted,
    /// Wrong user or password, or a lease that is over.
    Refused,
    /// Too many attempts, or too many sessions of one customer.
    Busy,
    /// stagerd or the database could not be asked, or the account not be opened.
    Unavailable,
}

/// Which limit turned somebody away or ended something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    /// `max_sessions`.
    Sessions,
    /// `max_per_address`.
    Address,
    /// No session is taken while ftpd stops.
    Stopping,
    /// stagerd or the system could not take a further session.
    Resources,
    /// `login_seconds`.
    Login,
    /// `idle_seconds`.
    Idle,
    /// `session_seconds`.
    Session,
    /// `max_failed_logins`.
    FailedLogins,
    /// A line of the control connection, or the bytes before the login.
    Line,
    /// A handshake that did not end well.
    Handshake,
    /// `stall_seconds`, or a disk that hangs.
    Stall,
    /// No data connection in time, or no free passive port.
    Passive,
    /// A data connection from another address.
    Stranger,
}

/// Something that happened in a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// A login.
    Login(Login),
    /// A transfer is over.
    Transfer {
        /// Whether it ran under TLS.
        tls: bool,
        /// All of it went out.
        whole: bool,
        /// Bytes that went out.
        bytes: u64,
        /// How long it took.
        millis: u64,
    },
    /// A limit was reached.
    Limit(Limit),
}

const LOGINS: [(Login, &str); 4] = [
    (Login::Admitted, "admitted"),
    (Login::Refused, "refused"),
    (Login::Busy, "busy"),
    (Login::Unavailable, "unavailable"),
];

const LIMITS: [(Limit, &str); 13] = [
    (Limit::Sessions, "sessions"),
    (Limit::Address, "address"),
    (Limit::Stopping, "stopping"),
    (Limit::Resources, "resources"),
    (Limit::Login, "login"),
    (Limit::Idle, "idle"),
    (Limit::Session, "session"),
    (Limit::FailedLogins, "failed-logins"),
    (Limit::Line, "line"),
    (Limit::Handshake, "handshake"),
    (Limit::Stall, "stall"),
    (Limit::Passive, "passive"),
    (Limit::Stranger, "stranger"),
];

impl From<Full> for Limit {
    fn from(full: Full) -> Self {
        match full {
            Full::Sessions => Self::Sessions,
            Full::Address => Self::Address,
        }
    }
}

fn place<T: PartialEq + Copy, const N: usize>(table: &[(T, &str); N], what: T) -> usize {
    table.iter().position(|(one, _)| *one == what).unwrap_or(0)
}

impl Event {
    /// Its form on the way.
    pub fn encode(self) -> [u8; EVENT] {
        let mut bytes = [0; EVENT];
        let index = |place: usize| u8::try_from(place).unwrap_or(u8::MAX);
        match self {
            Self::Login(login) => bytes[..2].copy_from_slice(&[1, index(place(&LOGINS, login))]),
            Self::Limit(limit) => bytes[..2].copy_from_slice(&[2, index(place(&LIMITS, limit))]),
            Self::Transfer { tls, whole, bytes: sent, millis } => {
                bytes[..3].copy_from_slice(&[3, tls.into(), whole.into()]);
                bytes[8..16].copy_from_slice(&sent.to_le_bytes());
                bytes[16..].copy_from_slice(&millis.to_le_bytes());
            }
        }
        bytes
    }

    /// Read back; none if it makes no sense.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; EVENT] = bytes.try_into().ok()?;
        let number = |at: usize| Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?));
        match bytes {
            [1, login, ..] => LOGINS.get(usize::from(*login)).map(|(login, _)| Self::Login(*login)),
            [2, limit, ..] => LIMITS.get(usize::from(*limit)).map(|(limit, _)| Self::Limit(*limit)),
            [3, tls @ 0..=1, whole @ 0..=1, ..] => {
                let (bytes, millis) = (number(8)?, number(16)?);
                Some(Self::Transfer { tls: *tls == 1, whole: *whole == 1, bytes, millis })
            }
            _ => None,
        }
    }
}

/// All that is counted since the start.
#[derive(Debug, Default)]
pub struct Metrics {
    started: u64,
    logins: [u64; LOGINS.len()],
    limits: [u64; LIMITS.len()],
    /// In clear and under TLS.
    bytes: [u64; 2],
    /// Broken off and whole.
    transfers: [u64; 2],
    /// Transfers up to the bucket's end, and in the last place all of them.
    buckets: [u64; BUCKETS.len() + 1],
    millis: u64,
}

impl Metrics {
    /// A session has begun.
    pub fn session(&mut self) {
        self.started += 1;
    }

    /// Counts.
    pub fn note(&mut self, event: Event) {
        match event {
            Event::Login(login) => self.logins[place(&LOGINS, login)] += 1,
            Event::Limit(limit) => self.limits[place(&LIMITS, limit)] += 1,
            Event::Transfer { tls, whole, bytes, millis } => {
                // The numbers come from a session, which may be anybody's.
                let add = |to: &mut u64, more: u64| *to = to.saturating_add(more);
                add(&mut self.bytes[usize::from(tls)], bytes);
                add(&mut self.transfers[usize::from(whole)], 1);
                add(&mut self.millis, millis);
                for (end, bucket) in BUCKETS.iter().chain([&u64::MAX]).zip(&mut self.buckets) {
                    if millis <= end.saturating_mul(1000) {
                        add(bucket, 1);
                    }
                }
            }
        }
    }

    /// As Prometheus reads it; `now` sessions are open.
    pub fn text(&self, now: usize) -> String {
        let mut out = String::new();
        let mut family = |name: &str, kind: &str, help: &str, values: &[(String, String)]| {
            // Writing to a String does not fail.
            let _ = write!(out, "# HELP ffs_ftp_{name} {help}\n# TYPE ffs_ftp_{name} {kind}\n");
            for (labels, value) in values {
                let _ = writeln!(out, "ffs_ftp_{name}{labels} {value}");
            }
        };
        let one = |value: u64| [(String::new(), value.to_string())];
        let by = |label: &str, names: &[&str], values: &[u64]| -> Vec<(String, String)> {
            let line = |(name, value): (&&str, &u64)| (format!("{{{label}=\"{name}\"}}"), value.to_string());
            names.iter().zip(values).map(line).collect()
        };
        family("sessions", "gauge", "Open sessions.", &one(now.try_into().unwrap_or(u64::MAX)));
        family("sessions_total", "counter", "Sessions since the start.", &one(self.started));
        let names = LOGINS.map(|(_, name)| name);
        family("logins_total", "counter", "Logins by result.", &by("result", &names, &self.logins));
        let names = LIMITS.map(|(_, name)| name);
        family("refusals_total", "counter", "What limits have refused or ended.", &by("limit", &names, &self.limits));
        family("sent_bytes_total", "counter", "Bytes of files.", &by("tls", &["no", "yes"], &self.bytes));
        let names = ["broken", "whole"];
        family("transfers_total", "counter", "Transfers by outcome.", &by("outcome", &names, &self.transfers));
        let ends = BUCKETS.map(|end| end.to_string());
        let ends: Vec<&str> = ends.iter().map(String::as_str).chain(["+Inf"]).collect();
        let mut lines = by("le", &ends, &self.buckets);
        for (labels, _) in &mut lines {
            labels.insert_str(0, "_bucket");
        }
        let millis = self.millis;
        lines.push(("_sum".to_owned(), format!("{}.{:03}", millis / 1000, millis % 1000)));
        lines.push(("_count".to_owned(), self.buckets[BUCKETS.len()].to_string()));
        family("transfer_seconds", "histogram", "How long transfers took.", &lines);
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LONG: Event = Event::Transfer { tls: true, whole: false, bytes: 5 << 32, millis: 61_500 };

    #[test]
    fn events_survive_their_form() {
        let logins = LOGINS.map(|(login, _)| Event::Login(login));
        let limits = LIMITS.map(|(limit, _)| Event::Limit(limit));
        for event in logins.into_iter().chain(limits).chain([LONG]) {
            assert_eq!(Event::decode(&event.encode()), Some(event));
        }
        for nonsense in [&[][..], &[0; EVENT], &[9; EVENT], &[3; EVENT], &[1; EVENT + 1]] {
            assert_eq!(Event::decode(nonsense), None, "{nonsense:?}");
        }
    }

    #[test]
    fn the_text() {
        let mut metrics = Metrics::default();
        metrics.session();
        metrics.note(Event::Login(Login::Busy));
        metrics.note(Event::Limit(Limit::Stranger));
        metrics.note(LONG);
        metrics.note(Event::Transfer { tls: false, whole: true, bytes: 7, millis: 1000 });
        let text = metrics.text(3);
        for line in [
            "# TYPE ffs_ftp_sessions gauge",
            "ffs_ftp_sessions 3",
            "ffs_ftp_sessions_total 1",
            "ffs_ftp_logins_total{result=\"busy\"} 1",
            "ffs_ftp_logins_total{result=\"admitted\"} 0",
            "ffs_ftp_refusals_total{limit=\"stranger\"} 1",
            "ffs_ftp_sent_bytes_total{tls=\"yes\"} 21474836480",
            "ffs_ftp_sent_bytes_total{tls=\"no\"} 7",
            "ffs_ftp_transfers_total{outcome=\"broken\"} 1",
            "ffs_ftp_transfer_seconds_bucket{le=\"1\"} 1",
            "ffs_ftp_transfer_seconds_bucket{le=\"60\"} 1",
            "ffs_ftp_transfer_seconds_bucket{le=\"600\"} 2",
            "ffs_ftp_transfer_seconds_bucket{le=\"+Inf\"} 2",
            "ffs_ftp_transfer_seconds_sum 62.500",
            "ffs_ftp_transfer_seconds_count 2",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
        }
    }

    proptest! {
        #[test]
        fn nothing_that_a_session_says_is_too_much(all in proptest::collection::vec(proptest::array::uniform24(any::<u8>()), 0..40)) {
            let mut metrics = Metrics::default();
            for bytes in all {
                if let Some(event) = Event::decode(&bytes) {
                    metrics.note(event);
                    metrics.note(event);
                }
            }
            prop_assert!(metrics.text(0).ends_with('\n'));
        }
    }
}
