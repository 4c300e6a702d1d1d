//! QEMU's control protocol: JSON objects, one per line, over a Unix socket.

use crate::{Error, Patience, Waited};
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// Longest line that we take. The longest that QEMU sends, a list of all block devices, has some 10 KB.
pub const MAX_LINE: usize = 1 << 20;
/// Most events kept for somebody who asks later; the oldest go first.
pub const MAX_EVENTS: usize = 1000;
/// How long to wait for bytes before another look at the deadline.
const MOMENT: Duration = Duration::from_millis(50);

/// Something that happened in the machine.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// QEMU's word for it.
    pub name: String,
    /// What it is about.
    pub data: Value,
}

/// A line from QEMU.
#[derive(Debug, Clone, PartialEq)]
enum Line {
    Greeting,
    Return { id: u64, value: Value },
    Refused { id: u64, class: String, text: String },
    Event(Event),
}

fn parse(line: &[u8]) -> Result<Line, Error> {
    let bad = || Error::Protocol(String::from_utf8_lossy(&line[..line.len().min(200)]).into_owned());
    let mut value: Value = serde_json::from_slice(line).map_err(|_| bad())?;
    let object = value.as_object_mut().ok_or_else(bad)?;
    if object.contains_key("QMP") {
        return Ok(Line::Greeting);
    }
    if let Some(name) = object.get("event").and_then(Value::as_str) {
        let name = name.to_owned();
        return Ok(Line::Event(Event { name, data: object.remove("data").unwrap_or(Value::Null) }));
    }
    // Only a line that QEMU could not parse is answered without our ID, and ours can be parsed.
    let id = object.get("id").and_then(Value::as_u64).ok_or_else(bad)?;
    if let Some(value) = object.remove("return") {
        return Ok(Line::Return { id, value });
    }
    let error = object.get("error").ok_or_else(bad)?;
    let field = |name: &str| error[name].as_str().unwrap_or_default().to_owned();
    Ok(Line::Refused { id, class: field("class"), text: field("desc") })
}

/// Bytes as they come, lines as they are complete.
#[derive(Debug, Default)]
struct Lines(VecDeque<u8>);

impl Lines {
    fn next(&mut self) -> Result<Option<Vec<u8>>, Error> {
        match self.0.iter().position(|b| *b == b'\n') {
            Some(end) => Ok(Some(self.0.drain(..=end).collect())),
            None if self.0.len() > MAX_LINE => Err(Error::Protocol("a line of over a mebibyte".into())),
            None => Ok(None),
        }
    }
}

/// A connection to a machine's control socket.
#[derive(Debug)]
pub struct Qmp {
    stream: UnixStream,
    lines: Lines,
    events: VecDeque<Event>,
    next: u64,
}

impl Qmp {
    /// Connects as soon as the socket is there.
    ///
    /// # Errors
    /// When that takes too long, or whoever answers does not speak QMP.
    pub fn connect(path: &Path, patience: &Patience) -> Result<Self, Error> {
        let stream = loop {
            match UnixStream::connect(path) {
                Ok(stream) => break stream,
                Err(e) if [ErrorKind::NotFound, ErrorKind::ConnectionRefused].contains(&e.kind()) => {
                    patience.pause(Duration::from_millis(10)).map_err(waited("QEMU's control socket"))?;
                }
                Err(e) => return Err(Error::io(path)(e)),
            }
        };
        Self::over(stream, patience)
    }

    fn over(stream: UnixStream, patience: &Patience) -> Result<Self, Error> {
        stream.set_read_timeout(Some(MOMENT)).map_err(broken)?;
        let mut qmp = Self { stream, lines: Lines::default(), events: VecDeque::new(), next: 0 };
        match qmp.line("a greeting", patience)? {
            Line::Greeting => {}
            other => return Err(Error::Protocol(format!("{other:?} in place of a greeting"))),
        }
        qmp.execute("qmp_capabilities", &json!({}), patience)?;
        Ok(qmp)
    }

    fn line(&mut self, what: &str, patience: &Patience) -> Result<Line, Error> {
        let mut block = [0; 16 << 10];
        loop {
            if let Some(line) = self.lines.next()? {
                return parse(&line);
            }
            match self.stream.read(&mut block) {
                Ok(0) => return Err(Error::Protocol("the connection has ended".into())),
                Ok(n) => self.lines.0.extend(&block[..n]),
                Err(e) if [ErrorKind::WouldBlock, ErrorKind::TimedOut, ErrorKind::Interrupted].contains(&e.kind()) => {
                    patience.check().map_err(waited(what))?;
                }
                Err(e) => return Err(broken(e)),
            }
        }
    }

    fn keep(&mut self, event: Event) {
        if self.events.len() == MAX_EVENTS {
            self.events.pop_front();
        }
        self.events.push_back(event);
    }

    /// Runs a command; what QEMU returns.
    ///
    /// # Errors
    /// [`Error::Refused`]; others when the connection is no good.
    pub fn execute(&mut self, command: &str, arguments: &Value, patience: &Patience) -> Result<Value, Error> {
        self.next += 1;
        let ours = self.next;
        let request = json!({ "execute": command, "arguments": arguments, "id": ours });
        self.stream.write_all(format!("{request}\n").as_bytes()).map_err(broken)?;
        loop {
            match self.line(command, patience)? {
                Line::Return { id, value } if id == ours => return Ok(value),
                Line::Refused { id, class, text } if id == ours => {
                    return Err(Error::Refused { command: command.into(), class, text });
                }
                Line::Event(event) => self.keep(event),
                // The answer to a command that we stopped waiting for.
                Line::Return { id, .. } | Line::Refused { id, .. } if id < ours => {}
                other => return Err(Error::Protocol(format!("{other:?} in answer to {command}"))),
            }
        }
    }

    /// The next event that is wanted, also if it came before; those before it are dropped.
    ///
    /// # Errors
    /// When it does not come.
    pub fn event(&mut self, wanted: impl Fn(&Event) -> bool, patience: &Patience) -> Result<Event, Error> {
        loop {
            while let Some(event) = self.events.pop_front() {
                if wanted(&event) {
                    return Ok(event);
                }
            }
            match self.line("an event", patience)? {
                Line::Event(event) => self.keep(event),
                Line::Return { .. } | Line::Refused { .. } => {}
                Line::Greeting => return Err(Error::Protocol("a second greeting".into())),
            }
        }
    }
}

fn waited(what: &str) -> impl FnOnce(Waited) -> Error {
    let what = what.to_owned();
    move |waited| Error::Waited { what, waited }
}

fn broken(error: std::io::Error) -> Error {
    Error::Protocol(format!("the connection failed: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn patience() -> Patience {
        Patience::of(Duration::from_secs(20))
    }

    /// Something that plays QEMU with these lines, and gives back what it was told.
    fn played(lines: &[&str]) -> (Result<Qmp, Error>, UnixStream) {
        let (ours, mut its) = UnixStream::pair().unwrap();
        its.write_all(lines.join("\n").as_bytes()).unwrap();
        its.write_all(b"\n").unwrap();
        (Qmp::over(ours, &patience()), its)
    }

    const GREETING: &str = r#"{"QMP": {"version": {}, "capabilities": ["oob"]}}"#;

    #[test]
    fn commands_and_events_in_any_order() {
        let (qmp, its) = played(&[
            GREETING,
            r#"{"event": "RESUME", "timestamp": {}}"#,
            r#"{"return": {}, "id": 1}"#,
            r#"{"event": "DEVICE_DELETED", "data": {"device": "a"}, "timestamp": {}}"#,
            r#"{"return": {"status": "running"}, "id": 2}"#,
            r#"{"error": {"class": "GenericError", "desc": "no such thing"}, "id": 3}"#,
            r#"{"event": "DEVICE_DELETED", "data": {"device": "b"}, "timestamp": {}}"#,
        ]);
        let mut qmp = qmp.unwrap();
        assert_eq!(qmp.execute("query-status", &json!({}), &patience()).unwrap()["status"], "running");
        let refused = qmp.execute("device_del", &json!({ "id": "x" }), &patience()).unwrap_err();
        assert_eq!(refused.to_string(), "QEMU refuses device_del: GenericError: no such thing");
        let deleted = |name: &'static str| move |e: &Event| e.name == "DEVICE_DELETED" && e.data["device"] == name;
        assert_eq!(qmp.event(deleted("b"), &patience()).unwrap().data["device"], "b");
        drop(its);
        assert!(matches!(qmp.event(deleted("a"), &patience()), Err(Error::Protocol(_))), "it was dropped on the way");
    }

    #[test]
    fn what_is_not_qmp() {
        for line in ["hello", "[]", "{}", r#"{"return": {}}"#, r#"{"id": 1}"#, r#"{"return": {}, "id": 1}"#] {
            assert!(matches!(played(&[line]).0, Err(Error::Protocol(_))), "{line}");
        }
        assert!(played(&[GREETING, r#"{"return": {}, "id": 7}"#]).0.is_err());
    }

    #[test]
    fn waiting_has_an_end() {
        let (ours, _its) = UnixStream::pair().unwrap();
        let error = Qmp::over(ours, &Patience::of(Duration::from_millis(1))).unwrap_err();
        assert!(matches!(error, Error::Waited { waited: Waited::InVain(_), .. }));
    }

    #[test]
    fn lines_have_a_longest() {
        let mut lines = Lines(vec![b' '; MAX_LINE].into());
        assert!(lines.next().unwrap().is_none());
        lines.0.push_back(b' ');
        assert!(lines.next().is_err());
    }

    #[test]
    fn the_oldest_events_go_first() {
        let (qmp, _its) = played(&[GREETING, r#"{"return": {}, "id": 1}"#]);
        let mut qmp = qmp.unwrap();
        for n in 0..=MAX_EVENTS {
            qmp.keep(Event { name: n.to_string(), data: Value::Null });
        }
        assert_eq!((qmp.events.len(), qmp.events[0].name.as_str()), (MAX_EVENTS, "1"));
    }

    proptest! {
        #[test]
        fn no_line_makes_us_panic(line in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse(&line);
        }
    }
}
