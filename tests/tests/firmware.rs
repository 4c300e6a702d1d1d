//! Updates of a machine that was flashed and boots by UEFI: a good one, one that is not healthy, and what is refused.

#![allow(clippy::unwrap_used, reason = "a test")]

use keys::site::Role;
use qemu::Patience;
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;
use xtask::image::{self, Variant};
use xtask::local::temporary;
use xtask::vm::{Setup, Start, Vms};

/// How long a machine may take to start: alone it takes half a minute, but nothing says that it is alone.
const STARTS: Duration = Duration::from_secs(300);

/// A web machine; its service depends on no other.
struct Booted {
    vms: Vms,
    dir: PathBuf,
}

impl Booted {
    fn start() -> Self {
        let dir = temporary().unwrap();
        let test = std::env::current_exe().unwrap();
        let ffsctl = test.ancestors().nth(2).unwrap().join("ffsctl");
        let setup = Setup { start: Start::Flashed, roles: vec![Role::Web], ..Setup::new(&ffsctl, &dir) };
        let vms = setup.boot().unwrap_or_else(|error| panic!("{error:#}"));
        let booted = Self { vms, dir };
        booted.wait("the first start", |status| status["entries"][0]["state"] == "good");
        booted
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
    let booted = Booted::start();

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

    // One that is not healthy: three tries, then the old one is back, and remembers.
    let (done, status, said) = booted.push(&bad, &[]);
    assert!(!done && said.contains("did not prove itself"), "{said}");
    assert_eq!(status[0]["running"], "0.1.1");
    let failed = status[0]["failed"][0].as_str().unwrap();
    assert!(failed.starts_with("0.1.2: ") && failed.contains("portald"), "{failed}");
    booted.refused(&bad, &[], "failed");
}
