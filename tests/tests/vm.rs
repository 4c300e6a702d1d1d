//! The appliances themselves, booted from their images: one boot on which all that runs on one host is tried again, and one
//! with strangers on every wire.

#![allow(clippy::unwrap_used, reason = "a test")]

use keys::site::{Machine, Role};
use qemu::Patience;
use qemu::machine::Mac;
use qemu::site::{self, Face};
use qemu::wire::{Scan, Station};
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tests::streams::{Streams, assert_secret, protocol_words};
use tests::{Desk, PASSWORD, certificates, scenarios};
use xtask::local::temporary;
use xtask::vm::{Setup, Start, Vms};

/// How long machines may take for anything.
const LONG: Duration = Duration::from_secs(300);
/// Most memory of a machine at idle, in MiB, all that it unpacked included.
const MEMORY: u64 = 256;
/// An address that belongs to nobody on a network: none of ours ends like that.
const STRANGER: u8 = 77;

/// Three machines; their files are removed at the end of a test that passed.
struct Booted {
    vms: Vms,
    dir: PathBuf,
}

impl Booted {
    fn start(start: Start) -> Self {
        let dir = temporary().unwrap();
        let test = std::env::current_exe().unwrap();
        let ffsctl = test.ancestors().nth(2).unwrap().join("ffsctl");
        let setup = Setup { start, ..Setup::new(&ffsctl, &dir) };
        let vms = setup.boot().unwrap_or_else(|error| panic!("{error:#}"));
        Self { vms, dir }
    }
}

impl Drop for Booted {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for role in Role::ALL {
                eprintln!("{}", self.vms.vm(role).last_words());
            }
            eprintln!("the files are in {}", self.dir.display());
        } else {
            // Nobody needs it any more.
            let _ = fs::remove_dir_all(&self.dir);
        }
    }
}

#[test]
#[ignore = "vm: boots the images"]
fn vm_the_whole_path_and_each_refusal() {
    let mut booted = Booted::start(Start::Direct);
    let segments = [Role::Download, Role::Database].map(|other| {
        let file = booted.dir.join(format!("{}.pcap", other.as_str()));
        let nic = site::nic_name(Face::Lan(other));
        booted.vms.vm(Role::Web).capture(&nic, &file).unwrap();
        (other, nic, file)
    });
    booted.vms.wait_healthy().unwrap_or_else(|error| panic!("{error:#}"));
    let desk = Desk::new(booted.vms.access(), &booted.dir);

    let lease = scenarios::a_file_is_delivered(&desk);
    assert_eq!(lease["filesystem"], "xfs", "{lease}");
    assert!(lease["block_device"].as_str().is_some_and(|name| name.starts_with("/dev/md")), "{lease}");
    let marked = b"bytes of an object that only one customer may have ".repeat(2000);
    desk.object("geheimprodukt", "2026.11", "vertraulich.bin", &marked);
    desk.customer("adalovelace", &["geheimprodukt"]);
    let staged = desk.logged_in("adalovelace").stage("geheimprodukt", "2026.11").unwrap();
    scenarios::a_wrong_password(&desk);
    scenarios::not_entitled(&desk);
    scenarios::without_a_session(&desk);
    scenarios::an_expired_lease(&desk);
    scenarios::a_revoked_lease(&desk);
    scenarios::a_withdrawn_entitlement(&desk);
    certificates::are_renewed(&desk);
    for role in Role::ALL {
        scenarios::malformed_packets(&desk, role);
    }
    desk.operate(&["status"]);
    scenarios::the_log_is_read(&desk);

    for (other, nic, file) in segments {
        booted.vms.vm(Role::Web).end_capture(&nic).unwrap();
        let mut streams = Streams::default();
        streams.take_pcap(&fs::read(&file).unwrap(), |_| true);
        let streams = streams.finish();
        // It listened at the right place.
        let greeting = format!("FFS/2 web-{} ", other.as_str());
        assert!(streams.iter().any(|stream| stream.starts_with(greeting.as_bytes())), "{greeting}");
        let texts = ["adalovelace", PASSWORD, "geheimprodukt", "vertraulich.bin", "2026.11", "bytes of an object"];
        assert_secret(&streams, texts.into_iter().chain([staged.user.as_str(), staged.password.as_str()]));
        assert_secret(&streams, protocol_words());
    }

    // Somebody has to go there now.
    desk.operate(&["poweroff", "download"]);
    let patience = Patience::of(LONG);
    while booted.vms.vm(Role::Download).ended().is_none() {
        patience.pause(Duration::from_millis(250)).unwrap_or_else(|e| panic!("a machine that is off: {e}"));
    }
}

#[test]
#[ignore = "vm: boots the images"]
fn vm_flashed_disks_boot_to_the_same_service() {
    let mut booted = Booted::start(Start::Flashed);
    booted.vms.wait_healthy().unwrap_or_else(|error| panic!("{error:#}"));
    let desk = Desk::new(booted.vms.access(), &booted.dir);
    at_idle(&desk);
    scenarios::a_file_is_delivered(&desk);
}

/// What the machines need while nobody wants anything of them, and what would end a hang.
fn at_idle(desk: &Desk) {
    let patience = Patience::of(LONG);
    let detail = |machine: &Value, name: &str| {
        let check = machine["checks"].as_array().unwrap().iter().find(|check| check["name"] == name)?;
        Some(check["detail"].as_str().unwrap().to_owned())
    };
    // All daemons serve before the last unit of the start is through.
    let status = loop {
        let status = desk.operate_json(&["status"]);
        if status.as_array().unwrap().iter().all(|machine| detail(machine, "boot").is_some()) {
            break status;
        }
        patience.pause(Duration::from_millis(250)).unwrap_or_else(|e| panic!("the end of the start: {e}; {status}"));
    };
    for machine in status.as_array().unwrap() {
        let [memory, boot, watchdog, mounts] =
            ["memory", "boot", "watchdog", "mounts"].map(|name| detail(machine, name).unwrap());
        eprintln!("{}: {memory}; started in {boot}", machine["machine"]);
        let used: u64 = memory.split(' ').next().unwrap().parse().unwrap();
        assert!((1..=MEMORY).contains(&used), "{}: {memory}", machine["machine"]);
        assert_eq!(watchdog, "i6300ESB timer, 60 s", "{}", machine["machine"]);
        assert_eq!(mounts, "none is both writable and executable", "{}", machine["machine"]);
    }
}

/// The ports that a machine has open towards a station.
struct Faced<'a> {
    run: &'a Path,
    machine: &'a Machine,
    interface: site::Interface,
}

impl Faced<'_> {
    /// Looks at all of its ports from this address.
    fn from(&self, last: u8) -> Scan {
        let [a, b, c, _] = self.interface.address.octets();
        let patience = Patience::of(LONG);
        let wire = site::wire(self.run, &self.machine.name, &site::nic_name(self.interface.face));
        let mac = Mac([0x52, 0x54, 0, 0x99, c, last]);
        let station = Station::attach(&wire.second(), mac, Ipv4Addr::new(a, b, c, last)).unwrap();
        let found = station.resolve(self.interface.address, &patience).unwrap();
        assert_eq!(found, Some(self.interface.mac), "{}: nobody has {}", self.machine.name, self.interface.address);
        station.scan(self.interface.address, self.interface.mac, &patience).unwrap()
    }

    /// Exactly these ports are open, and exactly those are let through to where nobody listens now.
    fn shows(&self, last: u8, open: &[(u16, u16)], idle: &[(u16, u16)]) {
        let all =
            |ranges: &[(u16, u16)]| ranges.iter().flat_map(|(first, last)| *first..=*last).collect::<BTreeSet<_>>();
        let scan = self.from(last);
        let what = format!("{} towards {:?} from .{last}", self.machine.name, self.interface.face);
        assert_eq!(scan.open, all(open), "{what}");
        assert_eq!(scan.refused, all(idle), "{what}");
    }
}

#[test]
#[ignore = "vm: boots the images"]
fn vm_strangers_on_every_wire_find_what_the_role_says() {
    let mut booted = Booted::start(Start::Direct);
    booted.vms.wait_healthy().unwrap_or_else(|error| panic!("{error:#}"));
    the_web_machine_is_no_router(&mut booted);
    let run = booted.vms.run_dir();
    // The power goes, the machines come back, and every cable leads to us.
    booted.vms.restart(|machine| site::on_wires(machine, &run)).unwrap();
    for role in Role::ALL {
        booted.vms.vm(role).line("ffs.target", &Patience::of(LONG)).unwrap();
    }
    let access = booted.vms.access().clone();
    for role in Role::ALL {
        let machine = access.machine(role);
        for interface in site::interfaces(role) {
            let faced = Faced { run: &run, machine, interface };
            match interface.face {
                Face::Public if role == Role::Download => {
                    faced.shows(STRANGER, &[(machine.ftp, machine.ftp)], &[machine.passive]);
                }
                Face::Public => faced.shows(STRANGER, &[(machine.https, machine.https)], &[]),
                // From the peer's address, then from another.
                Face::Lan(peer) if (role, peer) == (Role::Web, Role::Database) => {
                    let peer = address(peer, role);
                    faced.shows(peer, &[], &[]);
                    faced.shows(STRANGER, &[], &[]);
                }
                Face::Lan(peer) => {
                    faced.shows(address(peer, role), &[machine.ports], &[]);
                    faced.shows(STRANGER, &[], &[]);
                }
                Face::Management => {
                    let operators = machine.operators_from[0].address.to_string();
                    let last = operators.rsplit('.').next().unwrap().parse().unwrap();
                    faced.shows(last, &[machine.ports], &[]);
                    faced.shows(STRANGER, &[], &[]);
                }
            }
        }
    }
}

/// The last byte of a role's address on the segment with another.
fn address(role: Role, towards: Role) -> u8 {
    let all = site::interfaces(role);
    all.iter().find(|i| i.face == Face::Lan(towards)).unwrap().address.octets()[3]
}

/// The web machine passes nothing on: who is in the place of the download machine does not reach the database through it.
fn the_web_machine_is_no_router(booted: &mut Booted) {
    let end = site::segment(&booted.vms.run_dir(), Role::Download).second();
    booted.vms.vm(Role::Download).kill();
    let web = site::interfaces(Role::Web).into_iter().find(|i| i.face == Face::Lan(Role::Download)).unwrap();
    let own = site::interfaces(Role::Download).into_iter().find(|i| i.face == Face::Lan(Role::Web)).unwrap();
    let station = Station::attach(&end, own.mac, own.address).unwrap();
    let patience = Patience::of(LONG);
    assert_eq!(station.resolve(web.address, &patience).unwrap(), Some(web.mac));
    let database = booted.vms.access().machine(Role::Database).clone();
    let ports: Vec<u16> = (database.ports.0..=database.ports.1).chain([22, 443]).collect();
    for target in [site::lan_address(Role::Database), Ipv4Addr::new(10, 83, 2, 1)] {
        let scan = station.probe(target, web.mac, &ports, Scan::default(), &patience).unwrap();
        assert_eq!(scan, Scan::default(), "{target}");
    }
}
