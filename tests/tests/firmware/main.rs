//! Machines that were flashed and boot by UEFI: updates, good, bad and cut off; panics and hangs; the console; factory resets.

#![allow(clippy::unwrap_used, reason = "a test")]

mod broken;
mod cuts;
mod delivery;

use admin::gpt;
use admin::state::{ALIGN, LABEL};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use keys::site::Role;
use qemu::Patience;
use qemu::machine::Machine;
use serde_json::{Value, json};
use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use xtask::customer;
use xtask::image::{self, Variant};
use xtask::local::temporary;
use xtask::vm::{Setup, Start, Vms};

/// How long a machine may take to start: alone it takes half a minute, but nothing says that it is alone.
const STARTS: Duration = Duration::from_secs(300);

/// The operator's tool beside this test.
fn ffsctl() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    test.ancestors().nth(2).unwrap().join("ffsctl")
}

/// A web machine; its service depends on no other.
struct Booted {
    vms: Vms,
    dir: PathBuf,
}

impl Booted {
    fn start() -> Self {
        let dir = temporary().unwrap();
        let setup = Setup { start: Start::Flashed, roles: vec![Role::Web], ..Setup::new(&ffsctl(), &dir) };
        let vms = setup.boot().unwrap_or_else(|error| panic!("{error:#}"));
        let booted = Self { vms, dir };
        booted.wait("the first start", is_good);
        booted
    }

    /// The machine's power is cut and comes back; it is another machine then, if that is wanted.
    fn cut(&mut self, change: impl Fn(&Machine) -> Machine) {
        self.vms.restart(change).unwrap();
    }

    /// Runs `ffsctl --json`, which must succeed.
    fn ffsctl(&self, args: &[&str]) -> Value {
        let args: Vec<&str> = ["--json"].into_iter().chain(args.iter().copied()).collect();
        let output = self.vms.access().operate(&args, "").unwrap_or_else(|error| panic!("{error:#}"));
        if output.stdout.is_empty() { Value::Null } else { serde_json::from_slice(&output.stdout).unwrap() }
    }

    /// Waits until the machine's console shows this text.
    fn shows(&mut self, text: &str) {
        let patience = Patience::of(STARTS);
        let what = format!("{text:?} on the console");
        let vm = self.vms.vm(Role::Web);
        vm.wait(&what, &patience, |vm| vm.serial().contains(text).then_some(())).unwrap_or_else(|e| panic!("{e}"));
    }

    /// Runs `ffsctl --json update …`; what it printed, and whether it succeeded.
    fn update(&self, args: &[&str]) -> (bool, Value, String) {
        let output = self.vms.access().ffsctl().args(["--json", "update"]).args(args).output().unwrap();
        let value = serde_json::from_slice(&output.stdout).unwrap_or(Value::Null);
        (output.status.success(), value, String::from_utf8_lossy(&output.stderr).into_owned())
    }

    fn wait(&self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let patience = Patience::of(STARTS);
        loop {
            let (_, status, _) = self.update(&["status", "web"]);
            if wanted(&status[0]) {
                return status[0].clone();
            }
            patience.pause(Duration::from_millis(250)).unwrap_or_else(|e| panic!("{what}: {e}; {status}"));
        }
    }

    fn push(&self, file: &Path, more: &[&str]) -> (bool, Value, String) {
        self.update(&[&["push", "web", file.to_str().unwrap()], more].concat())
    }

    /// An update that is refused, for a reason with these words, and changes nothing.
    fn refused(&self, file: &Path, more: &[&str], why: &str) {
        let before = self.update(&["status", "web"]).1;
        let (done, _, said) = self.push(file, more);
        assert!(!done && said.contains(why), "{said}");
        assert_eq!(self.update(&["status", "web"]).1, before);
    }
}

impl Drop for Booted {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.vms.vm(Role::Web).last_words());
            eprintln!("the files are in {}", self.dir.display());
        } else {
            // Nobody needs it any more.
            let _ = fs::remove_dir_all(&self.dir);
        }
    }
}

/// Whether what runs has proven itself.
fn is_good(status: &Value) -> bool {
    let mut all = status["entries"].as_array().into_iter().flatten();
    all.any(|entry| entry["running"] == true && entry["state"] == "good")
}

/// The update file of a variant.
fn variant(version: &str, files: &[(&str, &str)]) -> PathBuf {
    let files = files.iter().map(|(path, text)| ((*path).to_owned(), (*text).to_owned())).collect();
    let built = image::build_variant(Role::Web, Variant { version: version.into(), files }).unwrap();
    built.join("web.ffsup")
}

/// The entries' versions and states.
fn entries(status: &Value) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let mut all: Vec<_> =
        status["entries"].as_array().unwrap().iter().map(|e| (text(&e["version"]), text(&e["state"]))).collect();
    all.sort();
    all
}

#[test]
#[ignore = "vm: boots the images"]
fn vm_updates_prove_themselves_or_are_given_up() {
    let now = env!("CARGO_PKG_VERSION");
    let good = variant("0.1.1", &[]);
    // It starts, but the portal never does.
    let broken = "[Service]\nExecStart=\nExecStart=/usr/bin/portald --no-such-option\n";
    let bad = variant(
        "0.1.2",
        &[
            ("/usr/lib/systemd/system/portald.service.d/90-broken.conf", broken),
            ("/usr/share/ffs/health-seconds", "15"),
        ],
    );
    let mut booted = Booted::start();
    what_the_console_shows(&mut booted);

    // What is no update of ours.
    let bytes = fs::read(&good).unwrap();
    let file = booted.dir.join("x.ffsup");
    let other = image::dir(Role::Database, false).join("database.ffsup");
    booted.refused(&other, &[], "the update is for database machines");
    booted.refused(&image::dir(Role::Web, false).join("web.ffsup"), &[], "is running already");
    let mut flipped = bytes.clone();
    flipped[bytes.len() - 1000] ^= 1;
    fs::write(&file, &flipped).unwrap();
    booted.refused(&file, &[], "not the one that was signed");
    flipped = bytes.clone();
    flipped[40] ^= 1;
    fs::write(&file, &flipped).unwrap();
    booted.refused(&file, &[], "not signed by a release key");
    fs::write(&file, &bytes[..bytes.len() / 2]).unwrap();
    booted.refused(&file, &[], "cut off");

    a_cut_while_an_update_is_written(&mut booted, &good);

    // A good one.
    let (done, status, said) = booted.push(&good, &[]);
    assert!(done, "{said}");
    assert_eq!(status[0]["running"], "0.1.1");
    assert_eq!(entries(&status[0]), [(now.to_owned(), "good".to_owned()), ("0.1.1".into(), "good".into())]);
    booted.refused(&image::dir(Role::Web, false).join("web.ffsup"), &[], "older than the running");

    // Back to the one before, and forth.
    let (done, status, said) = booted.update(&["rollback", "web"]);
    assert!(done, "{said}");
    assert_eq!(status[0]["running"], now);
    let (done, status, said) = booted.update(&["rollback", "web"]);
    assert!(done, "{said}");
    assert_eq!(status[0]["running"], "0.1.1");

    // One that breaks off costs neither what runs nor the way back.
    let bytes = fs::read(&bad).unwrap();
    fs::write(&file, &bytes[..bytes.len() / 2]).unwrap();
    booted.refused(&file, &[], "cut off");

    // One that is not healthy: three tries, then the old one is back, and remembers.
    let (done, status, said) = booted.push(&bad, &[]);
    assert!(!done && said.contains("did not prove itself"), "{said}");
    assert_eq!(status[0]["running"], "0.1.1");
    let failed = status[0]["failed"][0].as_str().unwrap();
    assert!(failed.starts_with("0.1.2: ") && failed.contains("portald"), "{failed}");
    booted.refused(&bad, &[], "failed");
    booted.shows("Updates       0.1.2 failed: portald");
    // All the time somebody asked for the entries, and that took them from nobody who worked with them.
    let serial = booted.vms.vm(Role::Web).serial();
    assert!(!serial.contains("is not noted") && !serial.contains("on the boot partition"), "{serial}");
    a_factory_reset(&mut booted);
}

/// Who stands before the machine sees what it is, how it is, and what an operator compares.
fn what_the_console_shows(booted: &mut Booted) {
    booted.shows(&format!("FFS {}: web, a web machine", env!("CARGO_PKG_VERSION")));
    booted.shows("Health        healthy");
    booted.shows("10.83.201.15/24");
    let keys = booted.ffsctl(&["keys", "show"]);
    let own = keys.as_array().unwrap().iter().find(|key| key["link"] == "operator-web").unwrap();
    booted.shows(&format!("{} generation 1 of operator-web", own["fingerprint"].as_str().unwrap()));
    // Its certificate, as a browser counts its fingerprint: of what is between the first two lines of dashes.
    let pem = fs::read_to_string(booted.vms.access().site().join("web/tls.pem")).unwrap();
    let base64: String = pem.lines().skip(1).take_while(|line| !line.starts_with("--")).collect();
    let certificate = booted.dir.join("certificate");
    fs::write(&certificate, STANDARD.decode(base64).unwrap()).unwrap();
    booted.shows(&customer::sha256(&certificate).unwrap());
}

/// The power is cut while an update is on its way to the disk; when it comes back, the clock has lost its battery, and the disk is a
/// larger one.
fn a_cut_while_an_update_is_written(booted: &mut Booted, update: &Path) {
    let before = booted.vms.vm(Role::Web).written("boot").unwrap();
    let mut push = booted.vms.access().ffsctl();
    push.args(["update", "push", "web", "--no-reboot"]).arg(update).stdout(Stdio::null()).stderr(Stdio::null());
    let mut push = push.spawn().unwrap();
    let patience = Patience::of(STARTS);
    let half = fs::metadata(update).unwrap().len() / 2;
    let vm = booted.vms.vm(Role::Web);
    let wrote = |vm: &mut qemu::vm::Vm| (vm.written("boot").unwrap() >= before + half).then_some(());
    vm.wait("half of the update on the disk", &patience, wrote).unwrap();
    vm.kill();
    // Nobody answers it any more.
    let _ = push.kill();
    push.wait().unwrap();
    let disk = OpenOptions::new().read(true).write(true).open(booted.dir.join("disks/web-boot.raw")).unwrap();
    let size = disk.metadata().unwrap().len() + (64 << 20);
    disk.set_len(size).unwrap();
    booted.cut(|machine| Machine { clock: Some("1970-01-01T00:00:00".into()), ..machine.clone() });
    let now = booted.wait("the start after the cut", is_good);
    assert_eq!(entries(&now), [(env!("CARGO_PKG_VERSION").to_owned(), "good".to_owned())]);
    // The machine was flashed minutes ago, and its clock knows.
    let ahead = booted.ffsctl(&["commlink", "probe", "web"])["clock_ahead_ms"].as_i64().unwrap();
    assert!(ahead.abs() < 3_600_000, "{ahead} ms");
    // The state partition has all of the disk but the last part of a unit of alignment, and its file system has all of it.
    let mut head = vec![0; usize::try_from(gpt::HEAD * gpt::SECTOR).unwrap()];
    disk.read_exact_at(&mut head, 0).unwrap();
    let table = gpt::Table::parse(&head).unwrap();
    let state = table.partitions.iter().find(|p| p.name == LABEL).unwrap();
    let (begin, end) = (state.first * gpt::SECTOR, (state.last + 1) * gpt::SECTOR);
    assert!(end > size - 2 * ALIGN && end <= size, "{end} of {size}");
    // ext4's superblock: blocks at 4, the logarithm of their KiB at 24.
    let mut superblock = [0; 32];
    disk.read_exact_at(&mut superblock, begin + 1024).unwrap();
    let word = |at: usize| u32::from_le_bytes(superblock[at..at + 4].try_into().unwrap());
    assert_eq!(u64::from(word(4)) << (10 + word(24)), end - begin);
}

/// What is remembered goes, the site and its newer keys stay.
fn a_factory_reset(booted: &mut Booted) {
    booted.ffsctl(&["keys", "rotate", "operator-web"]);
    let versions = entries(&booted.update(&["status", "web"]).1[0]);
    let other = ["factory-reset", "web", "--confirm", "download"];
    assert!(booted.vms.access().operate(&other, "").is_err());
    booted.ffsctl(&["factory-reset", "web", "--confirm", "web"]);
    let now = booted.wait("the start after the reset", |s| s["failed"] == json!([]) && is_good(s));
    assert_eq!(entries(&now), versions);
    assert_eq!(booted.ffsctl(&["commlink", "probe", "web"])["generation"], 2);
}
