//! Staging as the web appliance asks for it, with the real daemon, beside what its disk does at best.
//!
//! Prints rows as JSON on standard output, what it is at on standard error. It works in `FFS_BENCH_DIR`, or below `target/`: set it
//! to measure another disk or file system.
//!
//! - *latency*: one staging at a time, alternating with one `fdatasync` of a 4 KiB page that was written to a file of its own, and with
//!   the steps on the disk that a staging cannot do without: a page written and synced, a directory, a link in it, both directories synced.
//! - *size*: the same for objects from 1 KiB to 10 GiB; the ratio is the median of those within a round, in which each has its turn.
//!   Their blocks are allocated, with `fallocate`; they read as zeros and have the hash of that. Staging reads none of it, so what is in
//!   the blocks does not matter, and that they are there does.
//! - *in flight*: 64 stagings at a time, beside batches of 64 without grants, leases and audit: a directory and a link for each, the
//!   directories synced by 16 threads. What is compared is links a second.
//! - *cp*: what the same objects cost who has no links: a copy, synced, beside a staging.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "it is a measurement: it fails or prints")]

#[path = "../../tests/common/mod.rs"]
mod common;
mod disk;

use common::Site;
use daemon::ipc::Client;
use disk::{Bare, Page, Steps};
use serde_json::{Value, json};
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tobj::{Id, LeaseKind, Reply, Request, Secret, Sha256, Timestamp};

/// The sizes of objects in bytes; those that the disk has no room for are left out.
const SIZES: [(&str, u64); 5] =
    [("1 KiB", 1 << 10), ("1 MiB", 1 << 20), ("64 MiB", 64 << 20), ("1 GiB", 1 << 30), ("10 GiB", 10 << 30)];
/// Stagings of each size.
const EACH: usize = 300;
/// Stagings at a time, batches in one round, and rounds.
const IN_FLIGHT: usize = 64;
const BATCHES: usize = 8;
const PAIRS: usize = 11;

fn main() {
    // `cargo test --benches` runs it without this; there is nothing to test.
    if !std::env::args().any(|arg| arg == "--bench") {
        return;
    }
    let parent = std::env::var_os("FFS_BENCH_DIR").unwrap_or_else(|| env!("CARGO_TARGET_TMPDIR").into());
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let rows = runtime.block_on(measure(Path::new(&parent)));
    println!("{}", Value::Array(rows));
}

async fn measure(parent: &Path) -> Vec<Value> {
    let site = Site::below(parent, "verify_days = 0");
    let objects = disk::objects(site.root(), &SIZES);
    let mut daemon = tokio::process::Command::new(env!("CARGO_BIN_EXE_stagerd"))
        .arg("--config")
        .arg(site.config_path())
        .env("RUST_LOG", "error")
        .stdout(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let client = Client::new(&site.config.socket);
    while !matches!(client.call("operator:eve", Request::LeaseList { offset: 0 }).await, Ok(Reply::Leases { .. })) {
        assert!(daemon.try_wait().unwrap().is_none(), "stagerd did not start");
        tokio::task::yield_now().await;
    }
    let mut bench = Bench { site: Arc::new(site), client, next: 0 };
    let (mut rows, medians) = bench.latency(&objects).await;
    rows.push(bench.in_flight(objects[0].2).await);
    rows.extend(objects.iter().zip(medians).map(|(object, median)| bench.copy(object, median)));
    daemon.kill().await.unwrap();
    rows
}

struct Bench {
    site: Arc<Site>,
    client: Client,
    next: u128,
}

impl Bench {
    /// A grant that was signed before the clock runs.
    fn grant(&mut self, sha256: Sha256, size: u64) -> Secret {
        self.next += 1;
        let id = Id::from(self.next.to_be_bytes());
        let (customer, version) = (format!("c{}", self.next % 500), "1.0");
        let expires = Timestamp::now().0 + 86_400;
        self.site.grant_of(id, &customer, version, LeaseKind::OneTime, (sha256, size), expires)
    }

    /// The rows, and what a staging of each object takes in milliseconds.
    async fn latency(&mut self, objects: &[(&'static str, u64, Sha256)]) -> (Vec<Value>, Vec<f64>) {
        eprintln!("one staging at a time, of {} objects, alternating with fdatasync", objects.len());
        let (mut page, mut bare) = (Page::new(self.site.dir.path(), "page"), Steps::new(self.site.dir.path()));
        let (mut all, mut syncs, mut steps) = (Vec::new(), Vec::new(), Vec::new());
        let mut by_size = vec![Vec::new(); objects.len()];
        // What a sync takes changes from one moment to the next, so that the sizes take turns. Each turn begins with another one.
        for round in 0..EACH {
            for turn in 0..objects.len() {
                let which = (round + turn) % objects.len();
                let (_, size, sha256) = objects[which];
                let grant = self.grant(sha256, size);
                let begun = Instant::now();
                let reply = self.client.call("web", Request::Stage { grant }).await.unwrap();
                let took = begun.elapsed();
                assert!(matches!(reply, Reply::Staged { .. }), "{reply:?}");
                by_size[which].push(took);
                all.push(took);
                syncs.push(page.sync());
                steps.push(bare.take());
            }
        }
        let n = all.len();
        let (median, late) = (ms(quantile(&mut all, 0.5)), ms(quantile(&mut all, 0.99)));
        let (sync, late_sync) = (ms(quantile(&mut syncs, 0.5)), ms(quantile(&mut syncs, 0.99)));
        let mut rows = vec![
            row("staging, median", median, "ms", "fdatasync, median", sync, n),
            row("staging, p99", late, "ms", "fdatasync, median", sync, n),
            row("staging, p99", late, "ms", "fdatasync, p99", late_sync, n),
            row("staging, median", median, "ms", "its steps on the disk", ms(quantile(&mut steps, 0.5)), n),
        ];
        let least = by_size[0].clone();
        for (times, (name, ..)) in by_size.iter_mut().zip(objects).skip(1) {
            // Each beside the smallest of its own round: where a wait takes now this, now five times as long, two medians may be on
            // either side of that for no reason.
            let mut ratios: Vec<_> = times.iter().zip(&least).map(|(t, l)| t.as_secs_f64() / l.as_secs_f64()).collect();
            ratios.sort_by(f64::total_cmp);
            let (name, peer) = (format!("staging {name}, median"), format!("staging {}, same round", objects[0].0));
            let mut sized =
                row(&name, ms(quantile(times, 0.5)), "ms", &peer, ms(quantile(&mut least.clone(), 0.5)), EACH);
            sized["ratio"] = ratios[ratios.len() / 2].into();
            rows.push(sized);
        }
        (rows, by_size.iter_mut().map(|times| ms(quantile(times, 0.5))).collect())
    }

    async fn in_flight(&mut self, sha256: Sha256) -> Value {
        eprintln!("{IN_FLIGHT} stagings in flight, alternating with bare links");
        let mut bare = Bare::new(self.site.dir.path());
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for _ in 0..PAIRS {
            let mut tasks = tokio::task::JoinSet::new();
            let size = SIZES[0].1;
            let grants: Vec<Vec<Secret>> =
                (0..IN_FLIGHT).map(|_| (0..BATCHES).map(|_| self.grant(sha256, size)).collect()).collect();
            let begun = Instant::now();
            for grants in grants {
                let client = self.client.clone();
                tasks.spawn(async move {
                    for grant in grants {
                        let reply = client.call("web", Request::Stage { grant }).await.unwrap();
                        assert!(matches!(reply, Reply::Staged { .. }), "{reply:?}");
                    }
                });
            }
            tasks.join_all().await;
            ours.push(begun.elapsed());
            let begun = Instant::now();
            for _ in 0..BATCHES {
                bare.batch(IN_FLIGHT);
            }
            theirs.push(begun.elapsed());
        }
        let rate = |times: &mut Vec<Duration>| (IN_FLIGHT * BATCHES) as f64 / quantile(times, 0.5).as_secs_f64();
        row("staging, 64 in flight", rate(&mut ours), "/s", "bare link + fsync", rate(&mut theirs), PAIRS)
    }

    /// What `cp` takes for the same object, beside the time of its staging.
    fn copy(&self, (name, size, sha256): &(&str, u64, Sha256), staging: f64) -> Value {
        eprintln!("cp of {name}");
        let n = if *size >= 1 << 30 { 1 } else { 9 };
        let mut times: Vec<_> = (0..n).map(|_| disk::copy(self.site.root(), *sha256)).collect();
        let took = ms(quantile(&mut times, 0.5));
        row(&format!("cp of {name}, synced"), took, "ms", &format!("staging {name}, median"), staging, n)
    }
}

fn quantile(times: &mut [Duration], at: f64) -> Duration {
    times.sort();
    let last = times.len() - 1;
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "an index of a list that is there")]
    times[(last as f64 * at).round() as usize]
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

fn row(name: &str, value: f64, unit: &str, peer: &str, peer_value: f64, n: usize) -> Value {
    json!({
        "name": name, "value": value, "unit": unit, "peer": peer, "peer_value": peer_value,
        "ratio": value / peer_value, "n": n,
    })
}
