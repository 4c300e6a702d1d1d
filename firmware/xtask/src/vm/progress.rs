//! What is shown while machines boot.

use keys::site::Role;
use qemu::vm::Vm;
use std::time::{Duration, Instant};

/// Between two lines about the same wait.
const EVERY: Duration = Duration::from_secs(5);
/// Longest part of a serial line that is shown.
const MOST: usize = 100;

/// Tells about waits on standard error.
#[derive(Debug)]
pub(super) struct Progress {
    begin: Instant,
    told: Instant,
}

impl Progress {
    pub(super) fn new() -> Self {
        Self { begin: Instant::now(), told: Instant::now() }
    }

    /// Still waiting; shows the newest line of each machine's serial line once in a while.
    pub(super) fn tell(&mut self, what: &str, vms: &[(Role, Vm)]) {
        if self.told.elapsed() < EVERY {
            return;
        }
        self.told = Instant::now();
        eprintln!("{:>8.1} s  … waiting for {what}", self.begin.elapsed().as_secs_f64());
        for (_, vm) in vms {
            if let Some(line) = newest(&vm.serial()) {
                eprintln!("{:>12} {:<9} {line}", "", vm.name());
            }
        }
    }

    /// It has come.
    pub(super) fn reached(&self, what: &str) {
        eprintln!("{:>8.1} s  {what}", self.begin.elapsed().as_secs_f64());
    }
}

/// The last line with something on it, without what only a terminal understands.
fn newest(serial: &str) -> Option<String> {
    let clean = |line: &str| {
        let mut out = String::new();
        let mut chars = line.chars();
        while let Some(c) = chars.next() {
            // A control sequence (ECMA-48) ends with one of @ to ~.
            if c == '\u{1b}' && chars.next() == Some('[') {
                let _ = chars.by_ref().find(|c| ('@'..='~').contains(c));
            } else if !c.is_control() {
                out.push(c);
            }
        }
        out.trim().chars().take(MOST).collect::<String>()
    };
    serial.lines().rev().map(clean).find(|line| !line.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_line() {
        assert_eq!(newest("a\r\n\u{1b}[0;32m  OK  \u{1b}[0m b\r\n\r\n\u{1b}[K\n").as_deref(), Some("OK   b"));
        assert_eq!(newest(""), None);
        assert_eq!(newest(&"ä".repeat(300)).map(|line| line.chars().count()), Some(MOST));
    }
}
