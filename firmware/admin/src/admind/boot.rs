//! How long the start of the machine took, and what in it took longest, as systemd has noted it.

use crate::tools;
use std::fmt::Write;
use std::sync::OnceLock;
use std::time::Duration;

/// How many units are named.
const LONGEST: usize = 6;
/// Properties of the manager: the moments of the start.
const MOMENTS: &str = "--property=FirmwareTimestampMonotonic,LoaderTimestampMonotonic,UserspaceTimestampMonotonic,FinishTimestampMonotonic";
/// Properties of a unit: when it began to start, and when it was done.
const UNIT: &str =
    "--property=Id,InactiveExitTimestampMonotonic,ActiveEnterTimestampMonotonic,InactiveEnterTimestampMonotonic";

/// The start in words, once it is over; it is read only once, for it does not change any more.
pub(super) fn words() -> Option<&'static str> {
    static KNOWN: OnceLock<String> = OnceLock::new();
    if let Some(known) = KNOWN.get() {
        return Some(known);
    }
    let systemctl = tools::find("systemctl")?;
    let show = |arguments: &[&str]| {
        let said = tools::run(&systemctl, &[&["show", "--no-pager"], arguments].concat(), b"").ok()?;
        Some(String::from_utf8_lossy(&said).into_owned())
    };
    let start = Start::parse(&show(&[MOMENTS])?)?;
    let units = units(&show(&[UNIT, "--type=service", "*"])?);
    Some(KNOWN.get_or_init(|| describe(&start, &units)))
}

/// The moments of a start.
#[derive(Debug, PartialEq, Eq)]
struct Start {
    /// What the firmware took; zero where nobody told.
    firmware: Duration,
    /// What the boot loader took.
    loader: Duration,
    /// From the start of the kernel to that of systemd.
    kernel: Duration,
    /// From there until all that is started at the start is there.
    services: Duration,
}

impl Start {
    /// `None` while it is under way.
    fn parse(shown: &str) -> Option<Self> {
        let moment = |name: &str| micros(value(shown, name)?);
        let (userspace, finish) =
            (moment("UserspaceTimestampMonotonic")?, moment("FinishTimestampMonotonic").filter(|at| !at.is_zero())?);
        // These two lie before the kernel and are counted backwards from its start.
        let loader = moment("LoaderTimestampMonotonic").unwrap_or_default();
        let firmware = moment("FirmwareTimestampMonotonic").unwrap_or_default();
        Some(Self {
            firmware: firmware.saturating_sub(loader),
            loader,
            kernel: userspace,
            services: finish.saturating_sub(userspace),
        })
    }
}

/// What each unit took to start, the longest first.
fn units(shown: &str) -> Vec<(String, Duration)> {
    let unit = |block: &str| {
        let moment = |name: &str| micros(value(block, name)?);
        let begun = moment("InactiveExitTimestampMonotonic").filter(|at| !at.is_zero())?;
        // What does its work and is over never was active.
        let done = ["ActiveEnterTimestampMonotonic", "InactiveEnterTimestampMonotonic"].map(moment);
        let done = done.into_iter().flatten().find(|at| *at >= begun)?;
        Some((value(block, "Id")?.trim_end_matches(".service").to_owned(), done - begun))
    };
    let mut all: Vec<_> = shown.split("\n\n").filter_map(unit).collect();
    all.sort_by_key(|(_, took)| std::cmp::Reverse(*took));
    all
}

fn value<'a>(shown: &'a str, name: &str) -> Option<&'a str> {
    shown.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='))
}

fn micros(text: &str) -> Option<Duration> {
    text.parse().ok().map(Duration::from_micros)
}

fn describe(start: &Start, units: &[(String, Duration)]) -> String {
    let all = start.firmware + start.loader + start.kernel + start.services;
    let mut words = format!("{:.1} s", all.as_secs_f64());
    let parts = [
        ("firmware", start.firmware),
        ("loader", start.loader),
        ("kernel", start.kernel),
        ("services", start.services),
    ];
    let mut sign = ": ";
    for (what, took) in parts.into_iter().filter(|(_, took)| !took.is_zero()) {
        // Writing to a string does not fail.
        let _ = write!(words, "{sign}{what} {:.1}", took.as_secs_f64());
        sign = ", ";
    }
    sign = "; longest: ";
    for (unit, took) in units.iter().take(LONGEST) {
        let _ = write!(words, "{sign}{unit} {:.1}", took.as_secs_f64());
        sign = ", ";
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_start_in_words() {
        let under_way = "UserspaceTimestampMonotonic=3000000\nFinishTimestampMonotonic=0\n";
        assert_eq!(Start::parse(under_way), None);
        assert_eq!(Start::parse(""), None);
        let direct = "FirmwareTimestampMonotonic=0\nLoaderTimestampMonotonic=0\nUserspaceTimestampMonotonic=3100000\n\
                      FinishTimestampMonotonic=29100000\n";
        let start = Start::parse(direct).unwrap();
        assert_eq!(describe(&start, &[]), "29.1 s: kernel 3.1, services 26.0");
        let flashed = direct.replace("FirmwareTimestampMonotonic=0", "FirmwareTimestampMonotonic=9000000");
        let flashed = flashed.replace("LoaderTimestampMonotonic=0", "LoaderTimestampMonotonic=2500000");
        let start = Start::parse(&flashed).unwrap();
        let took = [("ffs-storage".to_owned(), Duration::from_millis(8040)), ("x".to_owned(), Duration::ZERO)];
        let said = describe(&start, &took);
        assert_eq!(
            said,
            "38.1 s: firmware 6.5, loader 2.5, kernel 3.1, services 26.0; longest: ffs-storage 8.0, x 0.0"
        );
    }

    #[test]
    fn what_took_longest() {
        let unit = |id: &str, begun: u64, active: u64, over: u64| {
            format!(
                "Id={id}.service\nInactiveExitTimestampMonotonic={begun}\nActiveEnterTimestampMonotonic={active}\n\
                 InactiveEnterTimestampMonotonic={over}\n\n"
            )
        };
        let shown =
            [unit("daemon", 10, 30, 0), unit("never", 0, 0, 0), unit("step", 10, 0, 100), unit("still", 50, 0, 0)];
        let expected = [("step", 90), ("daemon", 20)].map(|(id, took)| (id.to_owned(), Duration::from_micros(took)));
        assert_eq!(units(&shown.concat()), expected);
    }
}
