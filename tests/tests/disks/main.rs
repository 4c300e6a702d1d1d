//! Disks that are pulled, fail or hang, and power that goes, under a site at work: nothing is lost, and everybody is served.
#![allow(clippy::unwrap_used, reason = "a test")]

mod kit;
mod load;

use kit::{Cut, Lab, Shown, Storage};
use qemu::machine::{Bus, Disk, Machine};
use qemu::nbd::Mood;
use std::time::{Duration, Instant};

/// How much later than with all disks a machine may serve that starts without one of them.
const LATER: Duration = Duration::from_secs(30);
/// Stagings that are acknowledged before the power goes.
const STAGINGS: usize = 12;
/// Power cuts of each of the four arrays in the full count, where FFS_CUTS says nothing else.
const CUTS: usize = 13;

fn cuts() -> usize {
    std::env::var("FFS_CUTS").ok().and_then(|text| text.parse().ok()).unwrap_or(CUTS)
}

/// The same machine.
fn whole(machine: Machine) -> Machine {
    machine
}

/// The same machine with these of its data disks.
fn with(is_there: impl Fn(&str) -> bool) -> impl FnOnce(Machine) -> Machine {
    move |machine| {
        let disk = |disk: Disk| Disk { plugged: !disk.id.starts_with("data") || is_there(&disk.id), ..disk };
        Machine { disks: machine.disks.into_iter().map(disk).collect(), ..machine }
    }
}

/// Says something that was measured.
#[allow(clippy::print_stdout, reason = "figures of a test, printed and not asserted")]
fn print(text: &str) {
    println!("{text}");
}

/// Says how long the two starts took.
fn compare(all: &Cut, missing: &Cut) {
    print(&format!("all disks:      {all}\na disk missing: {missing}"));
}

/// It takes no more than half a minute longer without a disk, on a host that has nothing else to do.
fn not_much_later(all: &Cut, missing: &Cut) {
    compare(all, missing);
    assert!(missing.took <= all.took + LATER, "{missing} without a disk, {all} with all of them");
}

/// Puts a disk that was pulled back in, and waits until it is a member again.
fn come_back(lab: &mut Lab, id: &str) {
    let name = lab.plug(id);
    lab.operate(&["storage", "add-spare", "download", &name]);
    let storage = lab.until_healthy(true);
    assert!(storage.disk(id).is_some_and(Shown::is_in), "{storage:?}");
}

#[test]
#[ignore = "vm: boots the images"]
fn vm_power_goes_and_a_disk_goes_and_nothing_is_lost() {
    let mut lab = Lab::start();
    print(&format!("the database: {:?}", lab.cut_the_database(STAGINGS)));
    lab.check();
    let all = lab.cut_under_load(STAGINGS, whole);
    lab.check();
    lab.under_downloads(|lab| {
        lab.unplug("data1");
        let storage = lab.until_healthy(false);
        assert!(storage.detail.contains("3 of 4 members"), "{storage:?}");
        assert!(storage.detail.contains("add-spare"), "it says what to do: {storage:?}");
    });
    let missing = lab.cut_under_load(STAGINGS, with(|disk| disk != "data1"));
    compare(&all, &missing);
    lab.check();
    come_back(&mut lab, "data1");
    let begin = Instant::now();
    let differed = lab.scrub();
    print(&format!("scrubbed in {:.1} s, {differed} sectors differed", begin.elapsed().as_secs_f64()));
    lab.unplug("data0");
    lab.until_healthy(false);
    lab.check();
}

/// Disks of an array of this level go and come, under downloads and stagings.
fn pull(level: &str, disks: usize) {
    let mut lab = Lab::with_level(level, disks, Bus::Virtio);
    let all = lab.cut_under_load(STAGINGS, whole);
    lab.check();
    lab.under_downloads(|lab| {
        lab.unplug("data1");
        lab.until_healthy(false);
    });
    come_back(&mut lab, "data1");
    lab.under_downloads(|lab| {
        lab.unplug("data0");
        lab.until_healthy(false);
    });
    // Another disk in its place: all of it is made up for.
    let last = format!("data{disks}");
    come_back(&mut lab, &last);
    // Who counts looks now and then.
    lab.eventually("all that happened, counted", |lab| {
        lab.storage().is_some_and(|s| s.counts["members-failed"] >= 2 && s.counts["rebuilt"] >= 2)
    });
    // One that works is copied to its successor before it leaves.
    let id = format!("data{}", disks + 1);
    copy(&mut lab, "data1", &id, |storage| {
        assert!(storage.healthy, "the array is never short of a copy: {storage:?}");
    });
    lab.check();
    let missing = lab.cut_under_load(STAGINGS, with(|disk| disk != id));
    print(level);
    not_much_later(&all, &missing);
    lab.check();
}

#[test]
#[ignore = "long: boots the images"]
fn disks_of_raid1_are_pulled() {
    pull("raid1", 2);
}

#[test]
#[ignore = "long: boots the images"]
fn disks_of_raid5_are_pulled() {
    pull("raid5", 3);
}

#[test]
#[ignore = "long: boots the images"]
fn disks_of_raid6_are_pulled() {
    pull("raid6", 4);
}

#[test]
#[ignore = "long: boots the images"]
fn disks_of_raid10_are_pulled() {
    pull("raid10", 4);
}

/// Copies a member that works to another disk, and pulls it.
fn succeed(lab: &mut Lab, old: &str, new: &str) {
    copy(lab, old, new, |_| {});
    lab.unplug(old);
}

/// Has a disk copied to another one that is put in, until that is a member instead; `meanwhile` looks at the array now and then.
fn copy(lab: &mut Lab, old: &str, new: &str, meanwhile: impl Fn(&Storage)) {
    let new_name = lab.plug(new);
    let old_name = lab.storage().unwrap().disk(old).unwrap().name.clone();
    lab.operate(&["storage", "replace", "download", &old_name, &new_name]);
    lab.eventually("the end of the copy", |lab| {
        let storage = lab.storage().unwrap();
        meanwhile(&storage);
        let is_in = |id: &str| storage.disk(id).is_some_and(Shown::is_in);
        is_in(new) && !is_in(old)
    });
}

/// Once all disks are larger, the next start has the array and its file system larger, and nothing is lost.
fn larger(level: &str, disks: usize) {
    let mut lab = Lab::with_room(level, disks, disks, Bus::Virtio);
    let before = lab.storage().unwrap().mebibytes();
    for n in 0..disks - 1 {
        succeed(&mut lab, &format!("data{n}"), &format!("data{}", disks + n));
    }
    let _ = lab.cut_under_load(STAGINGS, whole);
    assert_eq!(lab.storage().unwrap().mebibytes(), before, "one of them is still small");
    lab.check();
    succeed(&mut lab, &format!("data{}", disks - 1), &format!("data{}", 2 * disks - 1));
    let _ = lab.cut_under_load(STAGINGS, whole);
    let after = lab.until_healthy(true).mebibytes();
    print(&format!("{level}: {before} MiB before, {after} MiB after"));
    assert!(after > before + before / 2, "{after} MiB after {before}");
    lab.check();
    // What is new is made to agree, also where a power cut interrupts that; then a RAID5 has its log again.
    let _ = lab.cut_under_load(STAGINGS, whole);
    lab.check();
    lab.eventually("an array at rest", |lab| {
        let busy = ["resync", "recover", "no log"];
        lab.storage().is_some_and(|s| s.healthy && busy.iter().all(|word| !s.detail.contains(word)))
    });
    let differed = lab.scrub();
    print(&format!("{level}: {differed} sectors differed"));
    assert_eq!(differed, 0, "sectors differ");
}

#[test]
#[ignore = "long: boots the images"]
fn disks_of_raid1_that_are_larger_are_used() {
    larger("raid1", 2);
}

/// The log of a RAID5 is taken away for it, and put back.
#[test]
#[ignore = "long: boots the images"]
fn disks_of_raid5_that_are_larger_are_used() {
    larger("raid5", 3);
}

/// Two disks that were each in use without the other are not mixed: one is what the site goes on with, and the other becomes a copy of
/// it when an operator says so.
#[test]
#[ignore = "long: boots the images"]
fn disks_that_went_on_alone_are_not_mixed() {
    let mut lab = Lab::with_level("raid1", 2, Bus::Virtio);
    for _ in 0..2 {
        let _ = lab.cut_under_load(STAGINGS, with(|disk| disk == "data0"));
    }
    lab.check();
    // The other one does not have what was written since, and starts on the order only.
    lab.cut(with(|disk| disk == "data1"));
    let storage = lab.until("a machine that asks", Storage::asks);
    print(&format!("the other: {}", storage.detail));
    assert!(storage.detail.contains("up to date") && storage.detail.contains("data0"), "{storage:?}");
    assert!(!storage.disk("data1").is_some_and(Shown::is_in), "{storage:?}");
    lab.operate(&["storage", "start", "download"]);
    let storage = lab.until("an array in use", Storage::in_use);
    assert!(storage.disk("data1").is_some_and(Shown::is_in), "{storage:?}");
    // Now both.
    lab.cut(with(|disk| disk == "data0" || disk == "data1"));
    let storage = lab.until("an array in use", Storage::in_use);
    print(&format!("both: {}", storage.detail));
    lab.check();
    let storage = lab.until_healthy(false);
    assert!(storage.disk("data0").is_some_and(Shown::is_in), "{storage:?}");
    let alone = storage.disk("data1").unwrap();
    assert!(!alone.member, "{storage:?}");
    lab.operate(&["storage", "add-spare", "download", &alone.name]);
    lab.until_healthy(true);
    let differed = lab.scrub();
    assert_eq!(differed, 0, "sectors differ");
    lab.check();
}

#[test]
#[ignore = "long: boots the images"]
fn disks_fail_and_hang() {
    let mut lab = Lab::start();
    let _ = lab.cut_under_load(STAGINGS, whole);
    // What cannot be read here is read there.
    lab.under_downloads(|lab| {
        lab.vms.server("data0").set(Mood::FailsReads);
        lab.eventually("read errors", |lab| {
            lab.storage().is_some_and(|s| s.counts["read-errors"] > 0 || s.counts["members-failed"] > 0)
        });
    });
    lab.vms.server("data0").set(Mood::Fails);
    lab.under_downloads(|lab| {
        let storage = lab.until_healthy(false);
        assert!(storage.disk("data0").is_some_and(|d| d.state.contains("faulty")), "{storage:?}");
    });
    // It works again, and comes back without having been pulled.
    lab.vms.server("data0").set(Mood::Well);
    let name = lab.storage().unwrap().disk("data0").unwrap().name.clone();
    lab.operate(&["storage", "add-spare", "download", &name]);
    lab.until_healthy(true);
    lab.check();
    // One that does not answer keeps everybody waiting, and nobody fails.
    lab.under_downloads(|lab| {
        lab.vms.server("data2").set(Mood::Hangs);
        for _ in 0..20 {
            assert!(lab.storage().is_some(), "operators are answered");
        }
        lab.vms.server("data2").set(Mood::Well);
    });
    lab.check();
}

/// Disks of NVMe say how they are, and lose nothing. One that does not answer cannot be had here: QEMU stops the whole machine while
/// the driver resets its controller; `disks_fail_and_hang` has one of another kind.
#[test]
#[ignore = "long: boots the images"]
fn disks_of_nvme_say_how_they_are() {
    let mut lab = Lab::with_level("raid1", 2, Bus::Nvme);
    let storage = lab.storage().unwrap();
    assert!(storage.disk("data0").is_some_and(|d| d.health.starts_with("says that it is well")), "{storage:?}");
    let _ = lab.cut_under_load(STAGINGS, whole);
    lab.check();
}

/// The power goes again and again, with all disks, with one missing, while that is made up for.
fn cut(level: &str, disks: usize, cuts: usize) {
    let mut lab = Lab::with_level(level, disks, Bus::Virtio);
    for n in 0..cuts {
        // Of four cuts two are with all disks, one when one of them has just gone, one while it is made up for.
        match n % 4 {
            0 | 1 => print(&format!("{level}, cut {n}: {}", lab.cut_under_load(STAGINGS, whole))),
            2 => {
                lab.unplug("data1");
                let cut = lab.cut_under_load(STAGINGS, whole);
                print(&format!("{level}, cut {n}, a disk missing: {cut}"));
            }
            _ => {
                let name = lab.plug("data1");
                lab.operate(&["storage", "add-spare", "download", &name]);
                let cut = lab.cut_under_load(STAGINGS, whole);
                print(&format!("{level}, cut {n}, a disk being brought up to date: {cut}"));
                lab.check();
                lab.until_healthy(true);
            }
        }
        lab.check();
    }
}

#[test]
#[ignore = "long: boots the images"]
fn power_of_raid1_is_cut() {
    cut("raid1", 2, cuts());
}

#[test]
#[ignore = "long: boots the images"]
fn power_of_raid5_is_cut() {
    cut("raid5", 3, cuts());
}

#[test]
#[ignore = "long: boots the images"]
fn power_of_raid10_is_cut() {
    cut("raid10", 4, cuts());
}

/// RAID6 has its stated limit: with a disk missing, a power cut leaves parity of which nobody knows whether it is right.
#[test]
#[ignore = "long: boots the images"]
fn power_of_raid6_is_cut() {
    cut_raid6(cuts());
}

fn cut_raid6(cuts: usize) {
    let mut lab = Lab::with_level("raid6", 4, Bus::Virtio);
    for n in 1..cuts {
        let cut = lab.cut_under_load(STAGINGS, whole);
        print(&format!("raid6, cut {n}: {cut}"));
        assert_eq!(cut.refused, None);
        lab.check();
    }
    lab.unplug("data1");
    let cut = lab.cut_under_load(STAGINGS, whole);
    print(&format!("raid6, a disk missing: {cut}; it said: {:?}", cut.refused));
    assert!(cut.refused.is_some(), "it started although the parity may be wrong");
    lab.eventually("all objects verified after the cut", |lab| lab.verified_since(cut.at));
    // One that is being filled is as good as missing, although it is there.
    let name = lab.plug("data4");
    let fill = |lab: &mut Lab| {
        lab.operate(&["storage", "add-spare", "download", &name]);
        lab.eventually("a member that is filled", |lab| lab.storage().is_some_and(|s| s.detail.contains("recover")));
    };
    let cut = lab.cut_while(STAGINGS, fill, whole);
    print(&format!("raid6, a disk being filled: {cut}; it said: {:?}", cut.refused));
    assert!(cut.refused.is_some(), "it started although the parity may be wrong");
    lab.eventually("all objects verified after the cut", |lab| lab.verified_since(cut.at));
    lab.check();
    lab.until_healthy(true);
}
