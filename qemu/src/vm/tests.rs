//! With a guest of a few bytes in place of an appliance: a second in all.

use super::*;
use crate::machine::{Boot, Mac, Net, Nic, Segment, User};
use crate::rom;
use crate::wire::Station;
use std::net::Ipv4Addr;
use std::os::unix::net::UnixDatagram;

fn patience() -> Patience {
    Patience::of(Duration::from_secs(60))
}

/// A machine that says something and ends.
fn says(dir: &Path, text: &str) -> Machine {
    let path = dir.join("rom");
    fs::write(&path, rom::build(text)).unwrap();
    Machine::new("guest", 64, Boot::Rom(path))
}

/// A machine that halts at its first instruction.
fn halts(dir: &Path) -> Machine {
    let machine = says(dir, "");
    fs::write(dir.join("rom"), vec![0xf4; 1 << 16]).unwrap();
    machine
}

fn nic(id: &str, net: Net) -> Nic {
    Nic { id: id.into(), mac: Mac([0x52, 0x54, 0, 0, 0, 1]), net, capture: None }
}

/// Whether the process runs, or at least is no corpse.
fn alive(pid: u32) -> bool {
    let state = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    state.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}

#[test]
fn lines_as_they_grow() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("serial");
    let mut follow = Follow::default();
    assert!(follow.lines(&path).is_err());
    for (more, lines) in [("a", vec![]), ("b\r\nc\nd", vec!["ab", "c"]), ("", vec![]), ("\n", vec!["d"])] {
        let mut file = File::options().create(true).append(true).open(&path).unwrap();
        std::io::Write::write_all(&mut file, more.as_bytes()).unwrap();
        assert_eq!(follow.lines(&path).unwrap(), lines);
    }
}

#[test]
#[ignore = "vm: needs QEMU"]
fn vm_says_something_and_ends() {
    let dir = tempfile::tempdir().unwrap();
    let mut vm = says(dir.path(), "one\ntwo words\n").start(Accel::Tcg, dir.path()).unwrap();
    assert_eq!(vm.line("two", &patience()).unwrap(), "two words");
    let error = vm.line("three", &patience()).unwrap_err();
    assert!(matches!(error, Error::Ended { .. }), "{error}");
    assert_eq!(vm.ended().unwrap().code(), Some(rom::RAN));
}

#[test]
#[ignore = "vm: needs QEMU"]
fn vm_leaves_no_process() {
    let dir = tempfile::tempdir().unwrap();
    let mut machine = halts(dir.path());
    machine.disks.push(Disk::new("data", &dir.path().join("data.raw")));
    blank_disk(&dir.path().join("data.raw"), 1 << 20).unwrap();
    let mut vm = machine.start(Accel::Tcg, dir.path()).unwrap();
    let pid = vm.pid();
    assert_eq!(vm.execute("query-status", &json!({})).unwrap()["running"], true);
    assert!(alive(pid));
    assert!(vm.resident().is_some_and(|kib| (1024..4 << 20).contains(&kib)));
    let impatient = Patience::of(Duration::from_millis(100));
    assert!(matches!(vm.line("anything", &impatient), Err(Error::Waited { .. })));
    drop(vm);
    assert!(!alive(pid));

    // Nor does one outlive the thread that started it.
    let dir = dir.path().to_owned();
    let pid = std::thread::spawn(move || {
        let vm = machine.start(Accel::Tcg, &dir).unwrap();
        let pid = vm.pid();
        std::mem::forget(vm);
        pid
    });
    let pid = pid.join().unwrap();
    let patience = patience();
    while alive(pid) {
        patience.pause(MOMENT).unwrap();
    }
}

#[test]
#[ignore = "vm: needs QEMU"]
fn vm_that_cannot_start_says_why() {
    let dir = tempfile::tempdir().unwrap();
    let machine = Machine::new("guest", 64, Boot::Rom(dir.path().join("missing")));
    let error = machine.start(Accel::Tcg, dir.path()).unwrap_err().to_string();
    assert!(error.contains("missing"), "{error}");
}

#[test]
#[ignore = "vm: needs QEMU"]
fn vm_networks_and_captures() {
    let dir = tempfile::tempdir().unwrap();
    let segment = Segment::new(dir.path(), "lan");
    let mut machine = halts(dir.path());
    machine.nics =
        vec![nic("lan", Net::Segment(segment.first())), nic("pub", Net::User(User::new(Ipv4Addr::new(10, 1, 1, 15))))];
    let mut vm = machine.start(Accel::Tcg, dir.path()).unwrap();
    let file = dir.path().join("lan.pcap");
    vm.capture("lan", &file).unwrap();
    let station = Station::attach(&segment.second(), Mac([2, 0, 0, 0, 0, 2]), Ipv4Addr::new(10, 9, 9, 1)).unwrap();
    // Nobody answers, but QEMU sees the question.
    assert_eq!(station.resolve(Ipv4Addr::new(10, 9, 9, 2), &Patience::of(Duration::from_millis(300))).unwrap(), None);
    vm.end_capture("lan").unwrap();
    let bytes = fs::read(&file).unwrap();
    assert!(bytes.windows(4).any(|w| w == [10, 9, 9, 2]), "the question for 10.9.9.2 is not in {} bytes", bytes.len());
    assert!(vm.capture("nothing", &file).is_err());
}

/// Frames for a machine that takes none.
const FRAMES: usize = 2000;

/// How many of them go without a wait as long as this.
fn frames_sent(net: impl Fn(&Segment) -> Net, wait: Duration) -> usize {
    let dir = tempfile::tempdir().unwrap();
    let segment = Segment::new(dir.path(), "lan");
    let mut machine = halts(dir.path());
    machine.nics = vec![nic("lan", net(&segment))];
    let _vm = machine.start(Accel::Tcg, dir.path()).unwrap();
    let end = segment.second();
    let socket = UnixDatagram::bind(&end.local).unwrap();
    socket.set_write_timeout(Some(wait)).unwrap();
    (0..FRAMES).take_while(|_| socket.send_to(&[0xff; 60], &end.remote).is_ok()).count()
}

/// Else the QEMU at the other end tries again all the time.
#[test]
#[ignore = "vm: needs QEMU"]
fn vm_on_a_segment_keeps_nobody_waiting() {
    assert_eq!(frames_sent(|segment| Net::Segment(segment.first()), Duration::from_secs(60)), FRAMES);
    let few = frames_sent(|segment| Net::Wire(segment.first()), Duration::from_millis(500));
    assert!(few < FRAMES, "a station of ours is not slowed down to what the machine takes");
}
