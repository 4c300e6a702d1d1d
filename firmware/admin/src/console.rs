//! What stands on the screen and the serial line of an appliance (`admind console`): who it is, where it is reached, what an
//! operator compares before he trusts it, how it is, and its last error. Nobody logs in there; keys that are pressed do nothing.
//!
//! - [`facts`]: where what is shown comes from: files of the other daemons that everybody may read, the addresses, the journal;
//! - [`screen`]: the lines; pure, and whatever comes in, what goes out is printable ASCII of a screen's width;
//! - [`out`]: the screen, drawn anew where it changed, and the serial line, to which lines are added.
//!
//! It runs as a user of its own, without any privilege: it reads what others publish and asks nobody.

mod errors;
pub mod facts;
mod out;
pub mod screen;

use errors::Errors;
use facts::Facts;
use out::{Screen, Serial};
use std::error::Error;
use std::path::Path;
use std::time::{Duration, Instant};

/// How often is looked whether something changed.
const LOOK: Duration = Duration::from_secs(1);
/// How often the screen is drawn anew without a change: the kernel writes its own messages over it.
const REDRAW: Duration = Duration::from_secs(60);
/// How often lines may be added to the serial line: each change costs a screenful there.
const SERIAL: Duration = Duration::from_secs(10);

/// Shows it until the end of the process.
///
/// # Errors
/// When what goes on in the journal cannot be followed at all.
pub(crate) fn run() -> Result<(), Box<dyn Error>> {
    let mut errors = Errors::follow()?;
    let mut screen = Screen::on_standard_output();
    let mut serial = Serial::open();
    let (mut drawn, mut told) = (Drawn::default(), Drawn::default());
    loop {
        let facts = Facts::gather(Path::new("/"), errors.last());
        let lines = screen::lines(&facts);
        if drawn.due(&lines, Duration::ZERO, Some(REDRAW)) {
            screen.draw(&lines);
        }
        if told.due(&lines, SERIAL, None) {
            serial.tell(&lines);
        }
        errors.wait(LOOK);
    }
}

/// What was shown last, and when.
#[derive(Debug, Default)]
struct Drawn(Option<(Vec<String>, Instant)>);

impl Drawn {
    /// Whether these lines are to be shown now; they count as shown then. `pause` is the least time between two changes, `anew` the
    /// time after which the same is shown again.
    fn due(&mut self, lines: &[String], pause: Duration, anew: Option<Duration>) -> bool {
        let due = match &self.0 {
            None => true,
            Some((before, at)) if before == lines => anew.is_some_and(|anew| at.elapsed() >= anew),
            Some((_, at)) => at.elapsed() >= pause,
        };
        if due {
            self.0 = Some((lines.to_vec(), Instant::now()));
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_changed_is_shown_and_what_did_not_is_not() {
        let lines = |text: &str| vec![text.to_owned()];
        let long = Duration::from_secs(3600);
        let mut drawn = Drawn::default();
        assert!(drawn.due(&lines("a"), long, Some(long)), "the first time");
        assert!(!drawn.due(&lines("a"), Duration::ZERO, Some(long)), "the same");
        assert!(!drawn.due(&lines("b"), long, None), "too soon");
        assert!(drawn.due(&lines("b"), Duration::ZERO, None), "changed");
        assert!(!drawn.due(&lines("b"), Duration::ZERO, None), "the same for good");
        assert!(drawn.due(&lines("b"), long, Some(Duration::ZERO)), "anew");
    }
}
