//! The power is cut at many instants of one update, with the loss of what the disk had not flushed; after each cut the machine comes
//! up healthy by itself, on the old version or the new one, with its keys.
//!
//! All instants are of one run, whose writes were logged ([`qemu::writes`]).

use super::{Booted, is_good, variant};
use keys::site::Role;
use qemu::machine::Machine;
use qemu::writes::Writes;
use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Cuts within each of the two parts of an update.
const CUTS: usize = 10;
/// What begins the numbers that choose which blocks are lost; another run may have another: `FFS_SEED`.
const SEED: u64 = 0x0f5e_ed00_2026_0001;

/// Numbers that look random (splitmix64).
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

/// A run of an update that was logged.
struct Run {
    booted: Booted,
    /// The machine's disk, and what it was before.
    disk: PathBuf,
    base: PathBuf,
    writes: Writes,
    /// The instants at which the update began, was in, and had proven itself.
    began: usize,
    written: usize,
    proven: usize,
}

fn copy(from: &Path, to: &Path) {
    let done = Command::new("cp").arg("--sparse=always").arg(from).arg(to).status().unwrap();
    assert!(done.success());
}

fn run(update: &Path) -> Run {
    let mut booted = Booted::start();
    booted.ffsctl(&["keys", "rotate", "operator-web"]);
    let vm = booted.vms.vm(Role::Web);
    vm.quit().unwrap();
    let [disk, base, log] = ["disks/web-boot.raw", "base", "log"].map(|name| booted.dir.join(name));
    copy(&disk, &base);
    File::create(&log).unwrap();
    booted.cut(|machine| Machine { logged: Some(("boot".into(), log.clone())), ..machine.clone() });
    booted.wait("the start", is_good);
    let size = || fs::metadata(&log).unwrap().len();
    let began = size();
    let (done, _, said) = booted.push(update, &["--no-reboot"]);
    assert!(done, "{said}");
    let written = size();
    booted.ffsctl(&["reboot", "web"]);
    booted.wait("the new version", |s| {
        let all = s["entries"].as_array();
        s["running"] == "0.1.3" && all.is_some_and(|all| all.iter().all(|entry| entry["state"] == "good"))
    });
    booted.vms.vm(Role::Web).quit().unwrap();
    let writes = Writes::open(&log).unwrap();
    let at = |offset| writes.instant(offset);
    let (began, written, proven) = (at(began), at(written), writes.len());
    assert!(began < written && written < proven, "{began} {written} {proven}");
    // All of the update was on its way to the disk in that time.
    assert!(writes.bytes_from(began) - writes.bytes_from(written) > fs::metadata(update).unwrap().len() / 2);
    Run { booted, disk, base, writes, began, written, proven }
}

/// Cuts at instants that are spread over this part of the run; which versions ran after it.
fn cuts(run: &mut Run, from: usize, to: usize) -> Vec<String> {
    let seed = std::env::var("FFS_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(SEED);
    let mut numbers = Numbers(seed);
    let mut ran = Vec::new();
    for n in 0..CUTS {
        let instant = from + (to - from) * (2 * n + 1) / (2 * CUTS);
        run.booted.vms.vm(Role::Web).kill();
        copy(&run.base, &run.disk);
        let disk = OpenOptions::new().write(true).open(&run.disk).unwrap();
        run.writes.replay(&disk, instant, || numbers.next() & 1 == 0).unwrap();
        drop(disk);
        run.booted.cut(|machine| Machine { logged: None, ..machine.clone() });
        let what = format!("the start after cut {n}, at {instant} of {} (seed {seed})", run.writes.len());
        let status = run.booted.wait(&what, is_good);
        let version = status["running"].as_str().unwrap().to_owned();
        eprintln!("{what}: {version}");
        assert!(["0.1.3", env!("CARGO_PKG_VERSION")].contains(&&*version), "{what}: {status}");
        // Its newest keys are there, nothing was taken for a failure, and a version that is gone is missed.
        assert_eq!(run.booted.ffsctl(&["commlink", "probe", "web"])["generation"], 2, "{what}");
        let said: Vec<&str> = status["failed"].as_array().unwrap().iter().map(|v| v.as_str().unwrap()).collect();
        let lost = version == env!("CARGO_PKG_VERSION") && instant > run.written;
        let missed: &[&str] =
            if lost { &["0.1.3: its entry was lost when the power went; push it again"] } else { &[] };
        assert_eq!(said, missed, "{what}");
        ran.push(version);
    }
    ran
}

#[test]
#[ignore = "long: some fifteen starts"]
fn long_firmware_power_cuts_while_an_update_is_written() {
    let update = variant("0.1.3", &[]);
    let mut run = run(&update);
    let (from, to) = (run.began, run.written);
    let ran = cuts(&mut run, from, to);
    assert_eq!(ran[0], env!("CARGO_PKG_VERSION"), "it had hardly begun");
    // What a cut left is in nobody's way.
    if ran.last().is_some_and(|version| version == env!("CARGO_PKG_VERSION")) {
        let (done, status, said) = run.booted.push(&update, &[]);
        assert!(done, "{said}");
        assert_eq!(status[0]["running"], "0.1.3");
    }
}

#[test]
#[ignore = "long: some fifteen starts"]
fn long_firmware_power_cuts_during_the_first_start() {
    let update = variant("0.1.3", &[]);
    let mut run = run(&update);
    let (from, to) = (run.written, run.proven);
    let ran = cuts(&mut run, from, to);
    // It was whole from the beginning, and one cut takes one try of three; only while it gets another name, it may be lost.
    assert!(ran.iter().filter(|version| *version != "0.1.3").count() <= 2, "{ran:?}");
}
