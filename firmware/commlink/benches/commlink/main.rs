//! What the commlink costs, beside what its ciphers and its XML cost alone. Prints one JSON array of rows.
//!
//! `cargo xtask bench commlink` runs it and shows the table. Everything is over loopback, in alternating pairs:
//! - transactions of one connection, against two threads with blocking sockets that make the same calls of snow, des,
//!   base64 and quick-xml and nothing else; beside them an echo of as many bytes over TLS 1.3;
//! - a literal, against snow sealing as many bytes from memory to memory.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a measurement fails by panicking and prints its result")]

mod bare;
mod ours;
mod tls;

use std::time::{Duration, Instant};

/// Measured pairs.
const PAIRS: usize = 11;

/// How long each half of a pair of transactions takes.
const HALF: Duration = Duration::from_millis(400);

/// Bytes of a literal, and of what is sealed beside it.
const LITERAL: u64 = 256 << 20;

fn main() {
    // `cargo bench` passes arguments of the test harness, which this is not; words choose what to measure.
    let chosen: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    let wanted = |name: &str| chosen.is_empty() || chosen.iter().any(|word| word == name);
    let mut rows = Vec::new();
    if wanted("transactions") {
        rows.extend(transactions());
    }
    if wanted("literals") {
        rows.push(literals());
    }
    println!("[{}]", rows.join(","));
}

fn transactions() -> [String; 2] {
    let (ours, mut bare) = (ours::Pair::start(), bare::Pair::start());
    let mut tls = tls::Pair::start(bare::request_size());
    let mut times = [Vec::new(), Vec::new(), Vec::new()];
    for _ in 0..PAIRS {
        times[0].push(ours.logins_per_second());
        times[1].push(per_second(|| bare.transaction()));
        times[2].push(per_second(|| tls.echo()));
    }
    let [mine, theirs, echo] = times.map(median);
    [
        row("transactions, sealed", mine, "/s", "bare snow+des+base64+xml", theirs),
        row("(the same, not judged)", mine, "/s", "rustls echo, same bytes", echo),
    ]
}

fn literals() -> String {
    let (ours, mut sealing) = (ours::Pair::start(), bare::Sealing::new());
    let mut rates = [Vec::new(), Vec::new()];
    for _ in 0..PAIRS {
        rates[0].push(rate(|| ours.put(LITERAL)));
        rates[1].push(rate(|| sealing.seal(LITERAL)));
    }
    let [literal, alone] = rates.map(median);
    row("literals", literal, "GB/s", "snow sealing", alone)
}

fn row(name: &str, value: f64, unit: &str, peer: &str, peer_value: f64) -> String {
    let ratio = value / peer_value;
    format!(
        r#"{{"name":"{name}","value":{value},"unit":"{unit}","peer":"{peer}","peer_value":{peer_value},"ratio":{ratio},"n":{PAIRS}}}"#
    )
}

fn per_second(mut once: impl FnMut()) -> f64 {
    let mut count = Count::start();
    loop {
        once();
        if let Some(rate) = count.one() {
            return rate;
        }
    }
}

/// What was done since when.
struct Count {
    start: Instant,
    done: u32,
}

impl Count {
    fn start() -> Self {
        Self { start: Instant::now(), done: 0 }
    }

    /// One more; how many a second once it is time to stop.
    fn one(&mut self) -> Option<f64> {
        self.done += 1;
        // The clock is not asked each time.
        let elapsed = if self.done.is_multiple_of(16) { self.start.elapsed() } else { Duration::ZERO };
        (elapsed >= HALF).then(|| f64::from(self.done) / elapsed.as_secs_f64())
    }
}

/// GB/s of a literal's size.
fn rate(once: impl FnOnce()) -> f64 {
    let start = Instant::now();
    once();
    let bytes = f64::from(u32::try_from(LITERAL).unwrap());
    bytes / start.elapsed().as_secs_f64() / 1e9
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
