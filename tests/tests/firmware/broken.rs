//! Updates whose system panics or hangs: three tries each, then the machine is back on what it had, and says why.

use super::{Booted, STARTS, entries, variant};
use keys::site::Role;
use qemu::Patience;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// What systemd-tmpfiles writes into a file of the kernel, since there is no shell that could.
const PANICS: &str = "w /proc/sysrq-trigger - - - - c\n";
/// The first process stands still from then on: what feeds a watchdog, and starts and ends everything.
const HANGS: &str = "w /sys/fs/cgroup/init.scope/cgroup.freeze - - - - 1\n";
/// What is said of a version that left no word.
const SILENT: &str = "it did not get as far as its health check (panic, hang or power cut)";

/// An update whose system does this to itself before its health check, once `first` has run. The commlink answers by then.
fn breaks(version: &str, how: &str, first: &str, watchdog: &str) -> PathBuf {
    let unit = format!(
        "[Unit]\nAfter=admind.service commlinkd.service\nBefore=ffs-health.service\n\n[Service]\nType=oneshot\n{first}\
         ExecStart=/usr/bin/systemd-tmpfiles --create /usr/share/ffs/break.conf\n"
    );
    let manager = format!("[Manager]\n{watchdog}\n");
    variant(
        version,
        &[
            ("/usr/share/ffs/break.conf", how),
            ("/usr/lib/systemd/system/ffs-break.service", &unit),
            ("/usr/lib/systemd/system/ffs.target.d/90-break.conf", "[Unit]\nWants=ffs-break.service\n"),
            ("/usr/lib/systemd/system.conf.d/zz-break.conf", &manager),
        ],
    )
}

/// The machine is back on what it had, with these failures behind it.
fn is_back(booted: &mut Booted, status: &Value, failed: &[&str]) {
    let now = env!("CARGO_PKG_VERSION");
    assert_eq!(status["running"], now, "{status}");
    assert!(entries(status).contains(&(now.to_owned(), "good".to_owned())), "{status}");
    let expected: Vec<String> = failed.iter().map(|version| format!("{version}: {SILENT}")).collect();
    assert_eq!(status["failed"], json!(expected));
    booted.shows(&format!("{} failed: it did not get as far", failed.last().unwrap()));
}

fn is_given_up(booted: &mut Booted, update: &Path, failed: &[&str]) {
    let (done, status, said) = booted.push(update, &[]);
    assert!(!done && said.contains("did not prove itself"), "{said}");
    is_back(booted, &status[0], failed);
    booted.refused(update, &[], "failed");
}

#[test]
#[ignore = "long: some ten starts"]
fn long_firmware_panics_and_hangs_end_by_themselves() {
    let panics = breaks("0.1.4", PANICS, "", "");
    // PID 1 has opened the watchdog before it starts what comes after this.
    let armed = "ExecStartPre=/usr/bin/udevadm wait --timeout=60 /dev/watchdog0\n";
    let hangs = breaks("0.1.5", HANGS, armed, "RuntimeWatchdogSec=10s");
    let mut booted = Booted::start();
    is_given_up(&mut booted, &panics, &["0.1.4"]);
    is_given_up(&mut booted, &hangs, &["0.1.4", "0.1.5"]);
}

#[test]
#[ignore = "long: some five starts"]
fn long_firmware_hang_before_the_watchdog_costs_a_try_at_each_reset() {
    let hangs = breaks("0.1.6", HANGS, "", "RuntimeWatchdogSec=0");
    let mut booted = Booted::start();
    let (done, _, said) = booted.push(&hangs, &["--no-reboot"]);
    assert!(done, "{said}");
    booted.ffsctl(&["reboot", "web"]);
    for state in ["on trial, 1 tries used, 2 left", "on trial, 2 tries used, 1 left", "given up after 3 tries"] {
        // The commlink answers still; nothing else will ever happen.
        let hung = |status: &Value| {
            let all = status["entries"].as_array().unwrap();
            all.iter().any(|e| e["version"] == "0.1.6" && e["running"] == true && e["state"] == state)
        };
        booted.wait(state, |status| status["entries"].is_array() && hung(status));
        let vm = booted.vms.vm(Role::Web);
        vm.line("Starting ffs-break.service", &Patience::of(STARTS)).unwrap();
        vm.execute("system_reset", &json!({})).unwrap();
    }
    let status = booted.wait("the way back", |status| status["running"] == env!("CARGO_PKG_VERSION"));
    // What came of it is noted once the health check is through.
    let status = if status["failed"] == json!([]) {
        booted.wait("a note of what failed", |status| status["failed"] != json!([]))
    } else {
        status
    };
    is_back(&mut booted, &status, &["0.1.6"]);
}
