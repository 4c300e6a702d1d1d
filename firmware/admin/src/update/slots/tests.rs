use super::super::package::MEMORY_MIB;
use super::super::package::tests::manifest;
use super::*;
use proptest::prelude::*;

fn version(text: &str) -> Version {
    text.parse().unwrap()
}

/// An update of a web machine.
fn web(version: &str) -> Manifest {
    manifest(version, b"image")
}

fn slots(running: &str, names: &[&str]) -> Slots {
    let entries = names.iter().map(|name| Entry::parse(name).unwrap()).collect();
    Slots { role: Role::Web, running: version(running), entries }
}

fn names(entries: &[Entry]) -> Vec<String> {
    entries.iter().map(Entry::to_string).collect()
}

#[test]
fn names_of_entries() {
    for good in ["web_0.1.0.efi", "web_0.1.0+3.efi", "web_10.2.30+2-1.efi", "web_0.1.0+0-3.efi", "database_0.1.0+0.efi"]
    {
        assert_eq!(Entry::parse(good).unwrap().to_string(), good);
    }
    let others = "web.efi web_1.efi web_1.2.3 web_01.2.3.efi web_1.2.3+.efi web_1.2.3+a.efi web_1.2.3+1-.efi web_1.2.3+01.efi \
                  web_1.2.+3.efi router_1.2.3.efi web_1.2.3.4.efi .web_1.2.3.efi web_1.2.3.EFI web_1.2.4294967296.efi";
    for bad in others.split_whitespace() {
        assert_eq!(Entry::parse(bad), None, "{bad}");
    }
    assert_eq!(Entry::parse("web_1.2.3+0-3.efi").unwrap().id(), "web_1.2.3.efi");
}

#[test]
fn an_update_beside_what_runs() {
    let plan = slots("1.0.0", &["web_1.0.0.efi"]).update(&web("1.1.0"), MEMORY_MIB, &[], Insist::default()).unwrap();
    assert_eq!((names(&plan.remove), plan.rename.len()), (vec![], 0));
    assert_eq!(plan.write.unwrap().to_string(), "web_1.1.0+3.efi");
    // What was there beside it goes: an older one, one that was given up, the same version without a counter.
    let old = ["web_1.0.0.efi", "web_0.9.0.efi", "web_1.1.0+0-3.efi", "web_1.1.0.efi"];
    let plan = slots("1.0.0", &old).update(&web("1.1.0"), MEMORY_MIB, &[], Insist::default()).unwrap();
    assert_eq!(names(&plan.remove), old[1..]);
}

#[test]
fn each_refusal() {
    let now = slots("1.0.0", &["web_1.0.0.efi"]);
    let none = Insist::default();
    let failed = [Failure { version: version("1.1.0"), reason: "no banner".into() }];
    let update = |slots: &Slots, v, insist| slots.update(&web(v), MEMORY_MIB, &failed, insist);
    let fits = |update: &Manifest, memory| now.update(update, memory, &[], none);
    let other = Manifest { role: Role::Database, ..web("2.0.0") };
    assert!(matches!(fits(&other, MEMORY_MIB), Err(Refusal::Role { .. })));
    let other = Manifest { hardware: "aarch64-uefi".into(), ..web("2.0.0") };
    let said = fits(&other, MEMORY_MIB).unwrap_err().to_string();
    assert_eq!(said, "this machine is x86_64-uefi, and the update is for aarch64-uefi");
    let hungry = Manifest { memory_mib: 2048, ..web("2.0.0") };
    // What firmware and kernel keep for themselves is missing in what the system has.
    assert_eq!(fits(&hungry, 1791), Err(Refusal::Memory { machine: 1791, needed: 2048 }));
    assert!(fits(&hungry, 1792).is_ok() && fits(&web("2.0.0"), 896).is_ok());
    assert_eq!(update(&now, "1.0.0", none), Err(Refusal::Same(version("1.0.0"))));
    assert!(matches!(update(&now, "0.9.0", none), Err(Refusal::Older { .. })));
    assert!(matches!(update(&now, "1.1.0", none), Err(Refusal::Failed { .. })));
    assert!(update(&now, "1.1.0", Insist { again: true, ..none }).is_ok());
    assert!(update(&now, "1.1.1", none).is_ok());
    let young = slots("1.0.0", &["web_1.0.0+2-1.efi", "web_0.9.0.efi"]);
    assert_eq!(update(&young, "1.2.0", none), Err(Refusal::Unblessed(version("1.0.0"))));
    let elsewhere = slots("1.0.0", &["web_0.9.0.efi"]);
    assert_eq!(update(&elsewhere, "1.2.0", none), Err(Refusal::Unknown(version("1.0.0"))));
}

#[test]
fn an_older_version_on_order_is_what_starts_next() {
    let now = slots("1.0.0", &["web_1.0.0.efi"]);
    let plan = now.update(&web("0.9.0"), MEMORY_MIB, &[], Insist { downgrade: true, again: false }).unwrap();
    assert_eq!(next(&now, &plan), "web_0.9.0+3.efi");
}

#[test]
fn rolling_back_and_forth() {
    let now = slots("1.1.0", &["web_1.1.0.efi", "web_1.0.0.efi"]);
    let plan = now.roll_back().unwrap();
    assert_eq!(next(&now, &plan), "web_1.0.0.efi");
    let back = slots("1.0.0", &["web_1.1.0+0.efi", "web_1.0.0.efi"]);
    let plan = back.roll_back().unwrap();
    assert_eq!(next(&back, &plan), "web_1.1.0.efi");
    // One that has used up its tries is no place to go.
    assert_eq!(slots("1.0.0", &["web_1.1.0+0-3.efi", "web_1.0.0.efi"]).roll_back(), Err(Refusal::NoOther));
    assert_eq!(slots("1.0.0", &["web_1.0.0.efi"]).roll_back(), Err(Refusal::NoOther));
    // From one that has not proven itself.
    let young = slots("1.1.0", &["web_1.1.0+2-1.efi", "web_1.0.0.efi"]);
    let plan = young.roll_back().unwrap();
    assert_eq!(next(&young, &plan), "web_1.0.0.efi");
}

#[test]
fn what_was_given_up() {
    let now = slots("1.0.0", &["web_1.0.0.efi", "web_1.1.0+0-3.efi"]);
    assert_eq!(now.given_up().collect::<Vec<_>>(), [version("1.1.0")]);
    assert_eq!(slots("1.0.0", &["web_1.0.0.efi", "web_1.1.0+0.efi"]).given_up().count(), 0, "it only stood back");
    assert_eq!(now.next().unwrap().to_string(), "web_1.0.0.efi");
}

#[test]
fn what_is_left_when_it_is_not_well() {
    let leaves = |running: &str, names: &[&str]| slots(running, names).worth_leaving();
    assert!(!leaves("1.0.0", &["web_1.0.0.efi", "web_1.1.0+3.efi"]), "it has proven itself");
    for trial in ["web_1.1.0+2-1.efi", "web_1.1.0+1-2.efi", "web_1.1.0+0-3.efi"] {
        assert!(leaves("1.1.0", &["web_1.0.0.efi", trial]), "{trial}");
    }
    // An older version on order is given up; what stood back for it counts its start, and there is nothing else.
    assert!(leaves("0.9.0", &["web_0.9.0+0-3.efi", "web_1.0.0+0.efi"]));
    for back in ["web_1.0.0+0.efi", "web_1.0.0+0-1.efi"] {
        assert!(!leaves("1.0.0", &["web_0.9.0+0-3.efi", back]), "{back}");
    }
    assert!(!leaves("1.0.0", &["web_0.9.0.efi"]), "it was booted another way");
}

/// The entries after a plan.
fn apply(slots: &Slots, plan: &Plan) -> Slots {
    let mut entries = slots.entries.clone();
    entries.retain(|e| !plan.remove.contains(e));
    for (from, to) in &plan.rename {
        let at = entries.iter().position(|e| e == from).expect("what is renamed is there");
        entries[at] = *to;
    }
    entries.extend(plan.write);
    Slots { entries, ..slots.clone() }
}

fn next(slots: &Slots, plan: &Plan) -> String {
    apply(slots, plan).next().unwrap().to_string()
}

fn any_version() -> impl Strategy<Value = Version> {
    (0..3u32, 0..3u32, 0..3u32).prop_map(|(major, minor, patch)| Version { major, minor, patch })
}

fn any_entry() -> impl Strategy<Value = Entry> {
    let tries =
        prop_oneof![Just(Tries::Blessed), (0..4u32, 0..4u32).prop_map(|(left, done)| Tries::Counted { left, done }),];
    (any_version(), tries).prop_map(|(version, tries)| Entry { role: Role::Web, version, tries })
}

proptest! {
    #[test]
    fn entries_are_read_as_written(entry in any_entry()) {
        prop_assert_eq!(Entry::parse(&entry.to_string()), Some(entry));
    }

    /// Whatever is there: an update that is not refused starts next, leaves the good one in place, and never leaves more than two.
    #[test]
    fn updates_leave_a_way_back(
        others in prop::collection::vec(any_entry(), 0..4),
        running in any_version(),
        to in any_version(),
        downgrade in any::<bool>(),
    ) {
        let mut entries = others;
        entries.retain(|e| e.version != running);
        entries.push(Entry { role: Role::Web, version: running, tries: Tries::Blessed });
        let slots = Slots { role: Role::Web, running, entries };
        if let Ok(plan) = slots.update(&web(&to.to_string()), MEMORY_MIB, &[], Insist { downgrade, again: false }) {
            let after = apply(&slots, &plan);
            prop_assert_eq!(after.next().unwrap().version, to);
            prop_assert!(after.entries.len() <= SLOTS);
            let old = after.of(running).expect("what ran is still there");
            let worn = matches!(old.tries, Tries::Counted { done: 1.., .. });
            prop_assert!(!worn);
            // At no step between is there nothing to start.
            for steps in 0..=plan.remove.len() {
                let mut partly = slots.clone();
                partly.entries.retain(|e| !plan.remove[..steps].contains(e));
                prop_assert!(partly.next().is_some());
            }
        }
    }
}
