//! From blank disks to the first download, as an operator does it with `ffsctl` alone; and what a factory reset leaves alone.

use super::{STARTS, ffsctl};
use keys::site::Role;
use qemu::Patience;
use serde_json::Value;
use std::fs;
use std::time::{Duration, Instant};
use tests::{Desk, PASSWORD};
use xtask::customer::{Ftp, download, sha256};
use xtask::image;
use xtask::local::temporary;
use xtask::vm::{Setup, Start};

#[test]
#[ignore = "long: the three machines, twice"]
fn long_firmware_from_blank_disks_to_the_first_download() {
    image::build_all().unwrap();
    let dir = temporary().unwrap();
    let begin = Instant::now();
    let told = |what: &str| eprintln!("{:>6.1} s  {what}", begin.elapsed().as_secs_f64());
    // The site, three disks, the power.
    let setup = Setup { start: Start::Flashed, ..Setup::new(&ffsctl(), &dir) };
    let mut vms = setup.boot().unwrap_or_else(|error| panic!("{error:#}"));
    told("ffsctl site new, three times ffsctl flash; the machines start");
    let desk = Desk::new(vms.access(), &dir);
    healthy(&desk);
    told("ffsctl status: all healthy, arrays made of blank disks");
    let bytes: Vec<u8> = (0..8_000_000u32).map(|n| n.to_le_bytes()[0] ^ n.to_le_bytes()[1]).collect();
    desk.object("atlas", "1", "atlas.bin", &bytes);
    desk.customer("ada", &["atlas"]);
    told("ffsctl object put, customer add, entitlement add");
    let fetched = |name: &str| {
        let to = desk.path(name);
        download(desk.access(), Ftp::Tls, "ada", PASSWORD, "/atlas/1/atlas.bin", &to)
            .unwrap_or_else(|e| panic!("{e:#}"));
        assert_eq!(sha256(&to).unwrap(), sha256(&desk.path("atlas.bin")).unwrap());
    };
    fetched("first");
    told("the first download");

    let leases = desk.leases_of("ada").len();
    assert_eq!(leases, 1);
    let disks = |role: &str| desk.operate_json(&["storage", "status", role]);
    let before = [disks("download"), disks("database")];
    for role in Role::ALL {
        desk.operate(&["factory-reset", role.as_str(), "--confirm", role.as_str()]);
    }
    for role in Role::ALL {
        // Gone and back; what the line said before was another start's.
        vms.vm(role).line("reboot: Restarting system", &Patience::of(STARTS)).unwrap();
    }
    healthy(&desk);
    told("a factory reset of all machines: all healthy");
    let arrays = |all: &[Value]| all.iter().map(array).collect::<Vec<_>>();
    assert_eq!(arrays(&before), arrays(&[disks("download"), disks("database")]));
    assert_eq!(desk.leases_of("ada").len(), leases, "the same lease");
    fetched("second");
    drop(vms);
    // Nobody needs it any more.
    let _ = fs::remove_dir_all(&dir);
}

/// Asks until all machines are well.
fn healthy(desk: &Desk) {
    let patience = Patience::of(STARTS);
    loop {
        let output = desk.access().ffsctl().arg("status").output().unwrap();
        if output.status.success() {
            return;
        }
        let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        patience.pause(Duration::from_millis(250)).unwrap_or_else(|e| panic!("{e}: {said}"));
    }
}

/// Which array it is.
fn array(status: &Value) -> Value {
    let one = if status.is_array() { &status[0] } else { status };
    assert!(one["array"].is_string(), "{status}");
    one["array"].clone()
}
