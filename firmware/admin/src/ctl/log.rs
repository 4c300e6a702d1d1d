//! The log of a machine.

use super::args::Log;
use super::link::Operator;
use super::{CtlError, show};
use serde_json::{Value, json};
use std::time::Duration;
use tobj::{Cursor, LogEntry, Priority, Reply, Request};

/// How many entries are shown where nothing says from where or how many.
const LINES: u64 = 100;
/// How often is looked for new ones.
const LOOK: Duration = Duration::from_secs(1);

pub(crate) async fn run(operator: &Operator, command: Log, as_json: bool) -> Result<(), CtlError> {
    let Log { machine, unit, priority, since, after, lines, follow } = command;
    let begins = since.is_some() || after.is_some();
    let mut asking = Asking { place: after, left: lines.or((!begins).then_some(LINES)) };
    let mut all = Vec::new();
    loop {
        let request = Request::LogList {
            after: asking.place.clone(),
            unit: unit.clone(),
            priority,
            since: since.filter(|_| asking.place.is_none()),
            lines: asking.left,
        };
        let Reply::Log { items, next, more } = operator.ask(&machine, request).await? else {
            return Err(CtlError::Mismatch(machine));
        };
        let end = asking.got(items.len(), next, more);
        if as_json {
            all.extend(items);
        } else {
            items.iter().try_for_each(|entry| show::line(&line(entry)))?;
        }
        match (end, follow) {
            (false, _) => {}
            (true, false) => break,
            (true, true) => {
                asking.go_on();
                tokio::time::sleep(LOOK).await;
            }
        }
    }
    if as_json {
        let cursor = asking.place.as_ref().map(Cursor::as_str);
        show::json(
            &json!({ "machine": machine, "entries": all.iter().map(fields).collect::<Vec<_>>(), "cursor": cursor }),
        )?;
    }
    Ok(())
}

/// Where the next page begins, and how much is wanted of it.
#[derive(Debug)]
struct Asking {
    place: Option<Cursor>,
    left: Option<u64>,
}

impl Asking {
    /// After a page; whether it was the last one for now.
    fn got(&mut self, entries: usize, next: Option<Cursor>, more: bool) -> bool {
        self.place = next.or_else(|| self.place.take());
        let entries_got = u64::try_from(entries).unwrap_or(u64::MAX);
        self.left = self.left.map(|left| left.saturating_sub(entries_got));
        !more || entries == 0 || self.left == Some(0)
    }

    /// What is written from now on is wanted too, all of it.
    fn go_on(&mut self) {
        if self.place.is_some() {
            self.left = None;
        }
    }
}

/// An entry in a line.
fn line(entry: &LogEntry) -> String {
    let unit = entry.unit.as_str();
    let unit = unit.strip_suffix(".service").unwrap_or(unit);
    format!("{} {:<7} {unit}: {}", show::precise_time(entry.at), word(entry.priority), entry.text).trim_end().to_owned()
}

fn fields(entry: &LogEntry) -> Value {
    json!({
        "at": entry.at / 1_000_000, "microseconds": entry.at % 1_000_000, "unit": entry.unit.as_str(),
        "priority": word(entry.priority), "text": entry.text.as_str(),
    })
}

/// A priority as journalctl names it.
fn word(priority: Priority) -> String {
    priority.as_str().to_ascii_lowercase()
}

/// Reads such a name.
pub(crate) fn parse_priority(text: &str) -> Result<Priority, String> {
    let named = Priority::ALL.iter().find(|priority| word(**priority) == text).copied();
    named.ok_or_else(|| format!("not one of {}", Priority::ALL.iter().map(|p| word(*p)).collect::<Vec<_>>().join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tobj::Text;

    fn entry(unit: &str, priority: Priority, text: &str) -> LogEntry {
        LogEntry { at: 1_790_000_001_234_567, unit: Text::lossy(unit), priority, text: Text::lossy(text) }
    }

    #[test]
    fn entries_in_lines_and_as_json() {
        let of_daemon = entry("admind.service", Priority::Info, "admind serves");
        assert_eq!(line(&of_daemon), "2026-09-21 14:13:21.234Z info    admind: admind serves");
        assert_eq!(line(&entry("kernel", Priority::Warning, "")), "2026-09-21 14:13:21.234Z warning kernel:");
        let expected = json!({
            "at": 1_790_000_001, "microseconds": 234_567, "unit": "admind.service", "priority": "info",
            "text": "admind serves",
        });
        assert_eq!(fields(&of_daemon), expected);
    }

    #[test]
    fn priorities_by_name() {
        for priority in Priority::ALL {
            assert_eq!(parse_priority(&word(*priority)), Ok(*priority));
        }
        assert_eq!(
            parse_priority("error"),
            Err("not one of emerg, alert, crit, err, warning, notice, info, debug".into())
        );
    }

    #[test]
    fn page_after_page() {
        let place = |s: &str| Some(Cursor::new(s).unwrap());
        let mut some = Asking { place: None, left: Some(250) };
        assert!(!some.got(200, place("a"), true));
        assert_eq!((some.place.clone(), some.left), (place("a"), Some(50)));
        assert!(some.got(50, place("b"), true), "there are more by now, but they are not wanted");
        some.go_on();
        assert_eq!((some.place.clone(), some.left), (place("b"), None), "but now they are");
        assert!(!some.got(200, place("c"), true) && some.got(0, None, false));
        assert_eq!(some.place, place("c"), "from where it was");
        // A machine that says there is more, and has none, is not asked for ever.
        assert!(some.got(0, place("c"), true));
        // As long as there is nothing, the begin stays what it was.
        let mut none = Asking { place: None, left: Some(100) };
        assert!(none.got(0, None, false));
        none.go_on();
        assert_eq!((none.place, none.left), (None, Some(100)));
    }
}
