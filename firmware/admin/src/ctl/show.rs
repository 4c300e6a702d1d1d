//! What people read: tables, sizes, times.

use super::CtlError;
use jiff::{Timestamp as Instant, civil, tz::TimeZone};
use std::io::Write;
use tobj::Timestamp;

/// Prints one JSON value.
pub(crate) fn json(value: &serde_json::Value) -> Result<(), CtlError> {
    line(&format!("{value:#}"))
}

/// Prints a line; a reader that is gone is not an error of ours to panic over.
pub(crate) fn line(text: &str) -> Result<(), CtlError> {
    writeln!(std::io::stdout(), "{text}").map_err(CtlError::failed("standard output failed"))
}

/// Prints a table with aligned columns.
pub(crate) fn table(head: &[&str], rows: &[Vec<String>]) -> Result<(), CtlError> {
    let width = |i: usize| {
        let cells = rows.iter().map(|r| r[i].chars().count());
        cells.chain([head[i].chars().count()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let render = |cells: Vec<&str>| {
        let padded = cells.iter().zip(&widths).map(|(c, w)| format!("{c}{}", " ".repeat(w - c.chars().count())));
        padded.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    line(&render(head.to_vec()))?;
    rows.iter().try_for_each(|row| line(&render(row.iter().map(String::as_str).collect())))
}

/// Bytes with a binary unit.
pub(crate) fn size(bytes: u64) -> String {
    let units = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let step = usize::try_from(bytes.ilog2() / 10).unwrap_or(1).min(units.len());
    // In tenths, rounded down, so that no digit is lost to floating point.
    let tenths = (u128::from(bytes) * 10) >> (10 * step);
    format!("{}.{} {}", tenths / 10, tenths % 10, units[step - 1])
}

/// A time in UTC.
pub(crate) fn time(at: Timestamp) -> String {
    let seconds = i64::try_from(at.0).ok().and_then(|s| Instant::from_second(s).ok());
    seconds.map_or_else(|| "-".to_owned(), |t| t.strftime("%Y-%m-%d %H:%M:%SZ").to_string())
}

/// A time in UTC to the millisecond, from microseconds since 1970.
pub(crate) fn precise_time(at: u64) -> String {
    let instant = i64::try_from(at).ok().and_then(|us| Instant::from_microsecond(us).ok());
    instant.map_or_else(|| "-".to_owned(), |t| t.strftime("%Y-%m-%d %H:%M:%S%.3fZ").to_string())
}

/// A day, which counts from its beginning in UTC, or a time with its offset.
pub(crate) fn parse_time(text: &str) -> Result<Timestamp, String> {
    let day = || TimeZone::UTC.to_timestamp(text.parse::<civil::Date>().ok()?.at(0, 0, 0, 0)).ok();
    let at = text.parse::<Instant>().ok().or_else(day);
    let seconds = at.and_then(|t| u64::try_from(t.as_second()).ok());
    seconds.map(Timestamp).ok_or_else(|| "not a day (2027-01-31) or time (2027-01-31T12:00:00Z)".into())
}

/// All pages of a list.
pub(crate) async fn pages<T, F>(mut page: impl FnMut(u64) -> F) -> Result<Vec<T>, CtlError>
where
    F: Future<Output = Result<(Vec<T>, bool), CtlError>>,
{
    let mut all = Vec::new();
    loop {
        let (items, more) = page(u64::try_from(all.len()).unwrap_or(u64::MAX)).await?;
        let end = !more || items.is_empty();
        all.extend(items);
        if end {
            return Ok(all);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (bytes, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1536, "1.5 KiB"),
            ((1 << 20) - 1, "1023.9 KiB"),
            (1 << 20, "1.0 MiB"),
            (2 << 30, "2.0 GiB"),
            (u64::MAX, "15.9 EiB"),
        ] {
            assert_eq!(size(bytes), text);
        }
    }

    #[test]
    fn times() {
        assert_eq!(parse_time("1970-01-02"), Ok(Timestamp(86400)));
        assert_eq!(parse_time("1970-01-01T01:00:00+01:00"), Ok(Timestamp(0)));
        assert_eq!(time(Timestamp(86400)), "1970-01-02 00:00:00Z");
        assert_eq!(precise_time(86_400_012_999), "1970-01-02 00:00:00.012Z");
        assert_eq!((precise_time(0), precise_time(u64::MAX)), ("1970-01-01 00:00:00.000Z".into(), "-".into()));
        assert!(parse_time("tomorrow").is_err() && parse_time("1960-01-01").is_err());
    }
}
