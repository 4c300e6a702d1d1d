//! Secure Boot: a machine whose firmware knows the builder's key starts what is signed with it, updates too, and nothing else.

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
/// The version of the update.
const NEW: &str = "0.1.1";
/// What systemd says at each start of a system.
const WELCOME: &str = "Welcome to";

fn status(vms: &Vms) -> Value {
    let output = vms.access().ffsctl().args(["--json", "update", "status", "web"]).output().unwrap();
    serde_json::from_slice(&output.stdout).unwrap_or(Value::Null)
}

fn wait(vms: &mut Vms, wanted: impl Fn(&Value) -> bool) {
    let patience = Patience::of(STARTS);
    loop {
        let now = status(vms);
        if wanted(&now[0]) {
            return;
        }
        let words = |vms: &mut Vms| vms.vm(Role::Web).last_words();
        patience.pause(Duration::from_millis(250)).unwrap_or_else(|e| panic!("{e}; {now}\n{}", words(vms)));
    }
}

/// Changes the newest entry on the disk of the machine that is off, starts it, and sees its firmware refuse.
fn refused(vms: &mut Vms, disk: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    vms.vm(Role::Web).kill();
    image::alter_uki(disk, &format!("web_{NEW}.efi"), change).unwrap();
    vms.restart(Clone::clone).unwrap();
    let vm = vms.vm(Role::Web);
    let said = vm.wait("a refusal", &Patience::of(STARTS), |vm| {
        let serial = vm.serial();
        assert!(!serial.contains(WELCOME), "it started all the same:\n{serial}");
        let refused = ["Access Denied", "Access denied", "Security Violation", "Security violation"];
        refused.iter().any(|words| serial.contains(words)).then_some(serial)
    });
    said.unwrap_or_else(|e| panic!("{e}\n{}", vm.last_words()));
}

#[test]
#[ignore = "long: boots images under OVMF"]
fn long_firmware_secure_boot_starts_what_is_signed_and_nothing_else() {
    let update = image::build_variant(Role::Web, Variant { version: NEW.into(), files: Vec::new() }).unwrap();
    let dir: PathBuf = temporary().unwrap();
    let test = std::env::current_exe().unwrap();
    let ffsctl = test.ancestors().nth(2).unwrap().join("ffsctl");
    let setup = Setup { start: Start::Secure, roles: vec![Role::Web], ..Setup::new(&ffsctl, &dir) };
    let mut vms = setup.boot().unwrap_or_else(|error| panic!("{error:#}"));

    // systemd-boot enrols the keys, then starts what is signed with them.
    wait(&mut vms, |status| status["entries"][0]["state"] == "good");
    let certificate = fs::read(image::dir(Role::Web, false).join("secure-boot/certificate.der")).unwrap();
    let variables = fs::read(dir.join("disks/web-vars.fd")).unwrap();
    let copies = variables.windows(certificate.len()).filter(|window| *window == certificate).count();
    assert!(copies >= 3, "PK, KEK and db hold the certificate, not {copies} of them");

    // An update is signed too.
    let file = update.join("web.ffsup");
    let pushed = vms.access().ffsctl().args(["--json", "update", "push", "web"]).arg(file).output().unwrap();
    assert!(pushed.status.success(), "{}", String::from_utf8_lossy(&pushed.stderr));
    assert_eq!(status(&vms)[0]["running"], NEW);

    // One letter of the command line; then a system without its signature.
    let disk = dir.join("disks/web-boot.raw");
    let whole = fs::read(update.join("web.efi")).unwrap();
    refused(&mut vms, &disk, |uki| {
        let at = uki.windows(10).position(|window| window == b"loglevel=4").unwrap();
        uki[at + 9] = b'5';
    });
    refused(&mut vms, &disk, |uki| {
        *uki = whole;
        let pe = usize::try_from(u32::from_le_bytes(uki[0x3c..0x40].try_into().unwrap())).unwrap();
        let signature = pe + 24 + 112 + 4 * 8;
        let at = usize::try_from(u32::from_le_bytes(uki[signature..signature + 4].try_into().unwrap())).unwrap();
        uki.truncate(at);
        uki[signature..signature + 8].fill(0);
    });
    drop(vms);
    let _ = fs::remove_dir_all(&dir);
}
