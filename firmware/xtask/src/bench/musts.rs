//! What must be reached: the goals that a measurement is judged by, each with the row that tells.

use super::Row;
use super::ftp::BARE;
use serde::Serialize;
use std::fmt;

/// A bound.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Bound {
    Least(f64),
    Most(f64),
}
use Bound::{Least, Most};

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Least(bound) => write!(f, ">= {bound}"),
            Most(bound) => write!(f, "<= {bound}"),
        }
    }
}

/// A row with what it must be.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Judged {
    #[serde(flatten)]
    row: Row,
    /// The bound, as text; none where the row is only shown.
    must: Option<String>,
    /// Whether it holds.
    met: Option<bool>,
}

/// What a row must be, and the number that this is about. What is not here is shown and not judged.
fn must(row: &Row) -> Option<(Bound, f64)> {
    let of_vsftpd = |bound| Some((bound, row.ratio)).filter(|_| row.peer == "vsftpd");
    match (&*row.name, &*row.peer) {
        ("ftp sink", BARE) => Some((Least(0.9), row.ratio)),
        ("ftp sink" | "ftp curl" | "ftp 500 streams", _) => of_vsftpd(Least(0.95)),
        ("ftp sink CPU", _) => of_vsftpd(Most(1.1)),
        ("ftps sink" | "ftps curl", _) => of_vsftpd(Least(1.5)),
        ("ftp logins", _) => of_vsftpd(Least(2.0)),
        ("ftp PSS, 50 idle", _) => of_vsftpd(Most(0.8)),
        // The number itself is the ratio; the peer's is beside it.
        ("ftp median / slowest", _) => Some((Least(0.5), row.value)),
        ("staging, median", "fdatasync, median") => Some((Most(3.0), row.ratio)),
        ("staging, p99", "fdatasync, median") => Some((Most(5.0), row.ratio)),
        ("staging, 64 in flight", "bare link + fsync") => Some((Least(0.5), row.ratio)),
        // Of each size beside the smallest.
        (name, peer) if name.starts_with("staging ") && peer.ends_with(", same round") => Some((Most(1.2), row.ratio)),
        ("transactions, sealed", "bare snow+des+base64+xml") => Some((Least(0.8), row.ratio)),
        ("literals", "snow sealing") => Some((Least(0.6), row.ratio)),
        _ => None,
    }
}

impl Judged {
    pub(super) fn new(row: Row) -> Self {
        let must = must(&row);
        let met = must.map(|(bound, value)| match bound {
            Least(bound) => value >= bound,
            Most(bound) => value <= bound,
        });
        Self { row, must: must.map(|(bound, _)| bound.to_string()), met }
    }

    /// The name of what is missed.
    pub(super) fn missed(&self) -> Option<String> {
        let must = self.must.as_ref().filter(|_| self.met == Some(false))?;
        Some(format!("{} beside {} must be {must}", self.row.name, self.row.peer))
    }

    /// The head of the table.
    pub(super) fn head() -> String {
        let [name, value, unit, peer, ratio, n, must] = ["name", "value", "unit", "peer", "ratio", "n", "must"];
        format!("{name:<32} {value:>10} {unit:<5} {peer:<28} {value:>10} {ratio:>7} {n:>4} {must}")
    }
}

/// The line of the table.
impl fmt::Display for Judged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Row { name, value, unit, peer, peer_value, ratio, n } = &self.row;
        write!(f, "{name:<32} {value:>10.3} {unit:<5} {peer:<28} {peer_value:>10.3} {ratio:>7.2} {n:>4}")?;
        let mark = if self.met == Some(false) { " MISSED" } else { "" };
        self.must.as_ref().map_or(Ok(()), |must| write!(f, " {must}{mark}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(name: &str, peer: &str, value: f64, ratio: f64) -> Judged {
        let (name, unit, peer) = (name.to_owned(), "u".to_owned(), peer.to_owned());
        Judged::new(Row { name, value, unit, peer, peer_value: 1.0, ratio, n: 9 })
    }

    #[test]
    fn rows_are_judged() {
        for (name, peer, reached, missed) in [
            ("ftp sink", "vsftpd", 0.95, 0.94),
            ("ftp sink", BARE, 0.9, 0.89),
            ("ftp sink CPU", "vsftpd", 1.1, 1.11),
            ("ftps curl", "vsftpd", 1.5, 1.49),
            ("ftp logins", "vsftpd", 2.0, 1.9),
            ("ftp PSS, 50 idle", "vsftpd", 0.8, 0.81),
            ("staging, median", "fdatasync, median", 3.0, 3.1),
            ("staging 10 GiB, median", "staging 1 KiB, same round", 1.2, 1.3),
            ("literals", "snow sealing", 0.6, 0.5),
        ] {
            let (good, bad) = (judged(name, peer, 9.0, reached), judged(name, peer, 9.0, missed));
            assert_eq!((good.met, good.missed()), (Some(true), None), "{name}");
            assert!(bad.met == Some(false) && bad.missed().is_some_and(|text| text.starts_with(name)), "{name}");
            assert!(bad.to_string().ends_with(" MISSED") && !good.to_string().contains("MISSED"));
            // The marks stand below their head.
            let (column, must) = (Judged::head().find("must").unwrap(), good.must.clone().unwrap());
            assert_eq!(good.to_string().find(&must), Some(column), "{good}");
        }
        let slowest = |value| judged("ftp median / slowest", "vsftpd", value, 9.0).met;
        assert_eq!((slowest(0.5), slowest(0.4)), (Some(true), Some(false)));
        for (name, peer) in [("ftp sink", "proftpd"), ("ftp NOOP", "vsftpd"), ("staging, p99", "fdatasync, p99")] {
            let shown = judged(name, peer, 0.0, 0.0);
            assert_eq!((shown.must.clone(), shown.met, shown.missed()), (None, None, None), "{name}");
        }
    }

    #[test]
    fn rows_have_their_fields_beside_the_must() {
        let json = serde_json::to_value(judged("literals", "snow sealing", 2.0, 0.5)).unwrap();
        let keys = ["name", "value", "unit", "peer", "peer_value", "ratio", "n", "must", "met"];
        assert_eq!(json.as_object().unwrap().len(), keys.len());
        assert!(keys.iter().all(|key| !json[key].is_null()), "{json}");
        assert_eq!((json["must"].as_str(), json["met"].as_bool()), (Some(">= 0.6"), Some(false)));
    }

    /// A measurement that gets another name would no longer be judged.
    #[test]
    fn the_names_are_those_of_the_measurements() {
        let read = |path: &str| std::fs::read_to_string(crate::root().join(path)).unwrap();
        let ftp = include_str!("ftp.rs");
        let staging = read("firmware/stager/benches/staging/main.rs");
        let commlink = read("firmware/commlink/benches/commlink/main.rs");
        for (source, names) in [
            (ftp, &["ftp sink", "ftp curl", "ftp sink CPU", "ftps sink", "ftps curl", "ftp logins"][..]),
            (ftp, &["ftp median / slowest", "ftp PSS, {} idle", "ftp {STREAMS} streams"]),
            (&*staging, &["staging, median", "staging, p99", "fdatasync, median", "staging, 64 in flight"]),
            (&*staging, &["bare link + fsync", "staging {name}, median", "staging {}, same round"]),
            (&*commlink, &["transactions, sealed", "bare snow+des+base64+xml", "literals", "snow sealing"]),
        ] {
            for name in names {
                assert!(source.contains(&format!("\"{name}\"")), "{name}");
            }
        }
        assert_eq!((super::super::ftp::STREAMS, super::super::ftp::IDLE[0]), (500, 50));
    }
}
