//! Customers at work while something happens to disks and machines.

use super::kit::LONG;
use std::fs::File;
use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;
use xtask::customer::{Customer, Staged};

/// What they stage while the power goes.
pub(super) const SMALL: &str = "small";
/// Versions of it.
pub(super) const SMALL_VERSIONS: [&str; 2] = ["1", "2"];
pub(super) const SMALL_BYTES: usize = 64 << 10;
/// What they download while disks go.
pub(super) const LARGE: &str = "large";
/// Versions of it.
pub(super) const LARGE_VERSIONS: [&str; 4] = ["1", "2", "3", "4"];
pub(super) const LARGE_BYTES: usize = 8 << 20;
/// Downloads under way when something happens to a disk.
const DOWNLOADS: usize = 20;
/// What each of them takes, and how often, until all have begun: a minute's worth at least.
const SLOWLY: usize = 8 << 10;
const NOW_AND_THEN: Duration = Duration::from_millis(100);

/// A download that takes little, once it has begun, until it is told to go on: one that took nothing would be ended by the server.
pub(super) struct Download {
    begun: Receiver<()>,
    go_on: Sender<()>,
    thread: JoinHandle<PathBuf>,
}

impl Download {
    pub(super) fn start(url: &str, staged: &Staged, to: PathBuf) -> Self {
        let (begun, has_begun) = channel();
        let (go_on, goes_on) = channel();
        let login = format!("user = \"{}:{}\"\n", staged.user, staged.password);
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--show-error", "--fail", "--no-buffer", "--max-time", "600", "--config", "-", url]);
        let thread = std::thread::spawn(move || {
            let mut child = curl.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
            child.stdin.take().unwrap().write_all(login.as_bytes()).unwrap();
            let (mut from, mut file) = (child.stdout.take().unwrap(), File::create(&to).unwrap());
            let mut first = [0; 1];
            from.read_exact(&mut first).expect("a first byte");
            file.write_all(&first).unwrap();
            begun.send(()).unwrap();
            let mut some = [0; SLOWLY];
            while goes_on.recv_timeout(NOW_AND_THEN) == Err(RecvTimeoutError::Timeout) {
                let n = from.read(&mut some).unwrap();
                assert!(n > 0, "a download was over before anything happened");
                file.write_all(&some[..n]).unwrap();
            }
            std::io::copy(&mut from, &mut file).unwrap();
            assert!(child.wait().unwrap().success(), "a download failed");
            to
        });
        Self { begun: has_begun, go_on, thread }
    }

    pub(super) fn has_begun(&self) {
        self.begun.recv_timeout(LONG).expect("the download begins");
    }

    pub(super) fn is_over(&self) -> bool {
        self.thread.is_finished()
    }

    pub(super) fn go_on(&self) {
        self.go_on.send(()).unwrap();
    }

    pub(super) fn end(self) -> PathBuf {
        self.thread.join().unwrap()
    }
}

/// As many stagings as there are downloads, by these customers in turn.
pub(super) fn stage_large(browsers: &[Customer]) -> Vec<Staged> {
    let stage = |n: usize| {
        let version = LARGE_VERSIONS[n % LARGE_VERSIONS.len()];
        browsers[n % browsers.len()].stage(LARGE, version).unwrap_or_else(|e| panic!("{e:#}"))
    };
    (0..DOWNLOADS).map(stage).collect()
}

/// Customers who stage, each one thing after the other.
pub(super) struct Load {
    stop: Arc<AtomicBool>,
    acknowledged: Arc<Mutex<Vec<Staged>>>,
    threads: Vec<JoinHandle<()>>,
}

impl Load {
    pub(super) fn start(browsers: Vec<Customer>) -> Self {
        let (stop, acknowledged) = (Arc::<AtomicBool>::default(), Arc::<Mutex<Vec<Staged>>>::default());
        let one = |browser: Customer| {
            let (stop, acknowledged) = (stop.clone(), acknowledged.clone());
            std::thread::spawn(move || {
                for version in SMALL_VERSIONS.iter().cycle() {
                    if stop.load(Ordering::SeqCst) {
                        return;
                    }
                    match browser.stage(SMALL, version) {
                        Ok(staged) => acknowledged.lock().unwrap().push(staged),
                        // The power has gone meanwhile.
                        Err(_) if stop.load(Ordering::SeqCst) => return,
                        Err(error) => panic!("{error:#}"),
                    }
                }
            })
        };
        let threads = browsers.into_iter().map(one).collect();
        Self { stop, acknowledged, threads }
    }

    pub(super) fn acknowledged(&self) -> usize {
        assert!(self.threads.iter().all(|t| !t.is_finished()), "a staging failed");
        self.acknowledged.lock().unwrap().len()
    }

    pub(super) fn first(&self) -> Staged {
        self.acknowledged.lock().unwrap()[0].clone()
    }

    /// No more of them; what is asked already may still fail.
    pub(super) fn stop(&self) {
        self.stop.store(true, Ordering::SeqCst);
    }

    pub(super) fn finish(self) -> Vec<Staged> {
        for thread in self.threads {
            thread.join().unwrap();
        }
        std::mem::take(&mut self.acknowledged.lock().unwrap())
    }
}
