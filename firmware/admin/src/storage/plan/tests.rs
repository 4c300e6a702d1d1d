use super::super::array::Member;
use super::super::array::tests::sample;
use super::*;

const OURS: Uuid = Uuid([1; 16]);
const OTHER: Uuid = Uuid([2; 16]);
const FRESH: Uuid = Uuid([9; 16]);

fn disk(name: &str, content: Content) -> Disk {
    Disk {
        name: name.into(),
        serial: Some(format!("serial {name}")),
        size: 1 << 30,
        discards: false,
        usb: false,
        content,
    }
}

fn member(name: &str, array: Uuid, level: i32, members: u32) -> Disk {
    // Members are named by their roles: a, b, c …
    let role = name.bytes().next().map(|b| u16::from(b - b'a'));
    let superblock = Superblock {
        array,
        name: "ffs".into(),
        level,
        members,
        events: 1,
        unclean: false,
        logged: false,
        role,
        filling: false,
        taken: (0..).take(members as usize).collect(),
    };
    disk(name, Content::Member(superblock))
}

/// The same disk with another superblock.
fn with(mut disk: Disk, change: impl FnOnce(&mut Superblock)) -> Disk {
    if let Content::Member(s) = &mut disk.content {
        change(s);
    }
    disk
}

fn blank(name: &str) -> Disk {
    disk(name, Content::Blank)
}

fn other(name: &str) -> Disk {
    disk(name, Content::Other("there is something at byte 510".into()))
}

fn of(disks: &[Disk]) -> Inventory {
    Inventory { disks: disks.to_vec(), ..Inventory::default() }
}

fn record(progress: Progress) -> Record {
    Record { array: OURS, level: Level::Raid10, spares: 0, progress, disks: Vec::new(), request: None }
}

fn names(disks: &[&str]) -> Vec<String> {
    disks.iter().map(|d| (*d).to_owned()).collect()
}

fn created(array: Uuid, level: Level, disks: &[&str]) -> Result<Plan, Refusal> {
    Ok(Plan::Create { array, level, disks: names(disks), spares: 0, zero: false })
}

fn assembled(disks: &[&str], degraded: bool, format: bool) -> Result<Plan, Refusal> {
    Ok(Plan::Assemble { array: OURS, disks: names(disks), degraded, format, dirty: false })
}

#[test]
fn a_new_machine_makes_its_array_of_blank_disks() {
    let four = of(&[blank("a"), blank("b"), blank("c"), blank("d")]);
    assert_eq!(plan(&four, None, None, false, FRESH), Ok(Plan::Wait), "others may follow");
    assert_eq!(plan(&four, None, None, true, FRESH), created(FRESH, Level::Raid10, &["a", "b", "c", "d"]));
    let three = of(&[blank("a"), blank("b"), blank("c")]);
    assert_eq!(plan(&three, None, None, true, FRESH), created(FRESH, Level::Raid10, &["a", "b", "c"]));
    let two = of(&[blank("a"), other("x"), blank("b")]);
    assert_eq!(plan(&two, None, None, true, FRESH), created(FRESH, Level::Raid1, &["a", "b"]));
    let mut discards = of(&[blank("a"), blank("b")]);
    discards.disks[0].discards = true;
    let zero = |i: &Inventory| match plan(i, None, None, true, FRESH) {
        Ok(Plan::Create { zero, .. }) => zero,
        unexpected => panic!("{unexpected:?}"),
    };
    assert!(!zero(&discards));
    discards.disks[1].discards = true;
    assert!(zero(&discards));
    discards.disks[0].size = ZEROED;
    assert!(zero(&discards));
    discards.disks[0].size = ZEROED + 1;
    assert!(!zero(&discards), "a start does not wait for that");
}

#[test]
fn nothing_is_made_of_what_is_not_blank() {
    let cases = [(vec![], 0), (vec![blank("a"), other("b"), other("c")], 1), (vec![other("a"), other("b")], 0)];
    for (disks, expected) in cases {
        let refused = plan(&of(&disks), None, None, true, FRESH).unwrap_err();
        assert!(matches!(&refused, Refusal::NoDisks { blank, .. } if *blank == expected), "{refused}");
        assert!(refused.to_string().contains("ffsctl storage create"), "{refused}");
    }
    let refused = plan(&of(&[other("sdb")]), None, None, true, FRESH).unwrap_err().to_string();
    assert!(refused.contains("sdb: there is something at byte 510"), "{refused}");
}

#[test]
fn disks_at_usb_are_taken_only_where_they_are_named() {
    let at_usb = |name: &str| Disk { usb: true, ..blank(name) };
    let disks = of(&[blank("a"), at_usb("u"), blank("b"), at_usb("v")]);
    assert_eq!(plan(&disks, None, None, true, FRESH), created(FRESH, Level::Raid1, &["a", "b"]));
    let order = |disks: &[&str]| Order { disks: names(disks), ..Order::default() };
    let ordered = |disks: &Inventory, order: &Order| plan(disks, None, Some(order), true, FRESH);
    assert_eq!(ordered(&disks, &order(&[])), created(FRESH, Level::Raid1, &["a", "b"]));
    assert_eq!(ordered(&disks, &order(&["a", "u"])), created(FRESH, Level::Raid1, &["a", "u"]));
    let refused = plan(&of(&[blank("a"), at_usb("u")]), None, None, true, FRESH).unwrap_err().to_string();
    assert!(refused.contains("has 1 (u: at USB"), "{refused}");
    // A creation of named disks that was cut goes on with them.
    let cut = |disks: &[&str]| {
        let chosen = disks.iter().map(|d| format!("serial {d}")).collect();
        Record { level: Level::Raid1, disks: chosen, ..record(Progress::Creating) }
    };
    let goes_on = |record: &Record| plan(&disks, Some(record), None, true, FRESH);
    assert_eq!(goes_on(&cut(&["u", "v"])), created(OURS, Level::Raid1, &["u", "v"]));
    assert_eq!(goes_on(&cut(&[])), created(OURS, Level::Raid1, &["a", "b"]));
}

#[test]
fn a_foreign_array_waits_for_an_operator_also_beside_blank_disks() {
    let disks = [blank("a"), blank("b"), member("c", OTHER, 1, 2), member("d", OTHER, 1, 2)];
    let refused = plan(&of(&disks), None, None, true, FRESH).unwrap_err();
    assert!(matches!(refused, Refusal::Foreign { members: 2, .. }), "{refused}");
    let order = Order { adopt: true, ..Order::default() };
    let adopt = |disks: &[Disk], waited| plan(&of(disks), None, Some(&order), waited, FRESH);
    let adopted = Record { array: OTHER, level: Level::Raid1, ..record(Progress::Ready) };
    assert_eq!(adopt(&disks, true), Ok(Plan::Adopt(adopted)));
    assert!(matches!(adopt(&[member("c", OTHER, 1, 2), member("d", OURS, 1, 2)], true), Err(Refusal::Order(_))));
    assert!(matches!(adopt(&[], true), Err(Refusal::Order(_))));
    assert_eq!(adopt(&[], false), Ok(Plan::Wait));
    assert!(matches!(adopt(&[member("c", OTHER, 0, 2)], true), Err(Refusal::Order(_))), "a stripe set keeps nothing");
}

#[test]
fn the_own_array_is_assembled_by_its_identifier() {
    let ready = record(Progress::Ready);
    let m = |name| member(name, OURS, 10, 4);
    let all = of(&[m("a"), member("x", OTHER, 10, 4), m("b"), blank("y"), m("c"), m("d")]);
    assert_eq!(plan(&all, Some(&ready), None, false, FRESH), assembled(&["a", "b", "c", "d"], false, false));
    let three = of(&[m("a"), m("b"), m("c")]);
    assert_eq!(plan(&three, Some(&ready), None, false, FRESH), Ok(Plan::Wait));
    assert_eq!(plan(&three, Some(&ready), None, true, FRESH), assembled(&["a", "b", "c"], true, false));
    let none = of(&[blank("a"), blank("b"), member("x", OTHER, 1, 2)]);
    assert_eq!(plan(&none, Some(&ready), None, false, FRESH), Ok(Plan::Wait));
    let refused = plan(&none, Some(&ready), None, true, FRESH);
    assert!(matches!(refused, Err(Refusal::NoMembers(_))), "a machine that had an array makes none: {refused:?}");
}

#[test]
fn spares_and_those_that_were_replaced_are_no_members() {
    let ready = record(Progress::Ready);
    let m = |name| member(name, OURS, 1, 2);
    let spare = with(m("spare"), |s| s.role = None);
    let one = of(&[m("a"), spare.clone()]);
    assert_eq!(plan(&one, Some(&ready), None, false, FRESH), Ok(Plan::Wait), "else the spare would be filled at once");
    assert_eq!(plan(&one, Some(&ready), None, true, FRESH), assembled(&["a", "spare"], true, false));
    let replaced = of(&[m("a"), m("a-old"), spare]);
    assert_eq!(plan(&replaced, Some(&ready), None, false, FRESH), Ok(Plan::Wait));
    let all = of(&[m("a"), m("a-old"), m("b")]);
    assert_eq!(plan(&all, Some(&ready), None, false, FRESH), assembled(&["a", "a-old", "b"], false, false));
}

#[test]
fn disks_that_fell_out_of_use_do_not_start_by_themselves() {
    let ready = record(Progress::Ready);
    let (start, m) = (Order { start: true, ..Order::default() }, |name| member(name, OURS, 1, 2));
    let last_used = |disks: &[Disk], array, current: &[&str]| {
        let disks_current = current.iter().map(|d| format!("serial {d}")).collect();
        Inventory { current: Some(Current { array, disks: disks_current }), ..of(disks) }
    };
    let stale = last_used(&[m("a")], OURS, &["b"]);
    assert_eq!(plan(&stale, Some(&ready), None, false, FRESH), Ok(Plan::Wait), "it may still come");
    let refused = plan(&stale, Some(&ready), None, true, FRESH).unwrap_err();
    assert!(matches!(&refused, Refusal::Stale { current, .. } if current == "serial b"), "{refused}");
    assert!(refused.to_string().contains("ffsctl storage start"), "{refused}");
    assert_eq!(plan(&stale, Some(&ready), Some(&start), true, FRESH), assembled(&["a"], true, false));
    // One that was up to date is enough; the kernel knows which of them are.
    for current in [&["a"][..], &["a", "b"], &["a", "c"], &[]] {
        let inventory = last_used(&[m("a")], OURS, current);
        assert_eq!(plan(&inventory, Some(&ready), None, true, FRESH), assembled(&["a"], true, false), "{current:?}");
    }
    let of_another = last_used(&[m("a")], OTHER, &["b"]);
    assert_eq!(plan(&of_another, Some(&ready), None, true, FRESH), assembled(&["a"], true, false));
    let both = last_used(&[m("a"), m("b")], OURS, &["b"]);
    assert_eq!(plan(&both, Some(&ready), None, false, FRESH), assembled(&["a", "b"], false, false));
    // A disk without a serial number is not one of those that had one.
    let nameless = last_used(&[Disk { serial: None, ..m("a") }], OURS, &["a"]);
    assert!(matches!(plan(&nameless, Some(&ready), None, true, FRESH), Err(Refusal::Stale { .. })));
}

#[test]
fn a_member_comes_back_to_its_own_place_only() {
    let in_place = |slot| Member { disk: format!("x{slot}"), state: "in_sync".into(), slot: Some(slot), errors: 0 };
    let members = vec![in_place(0), in_place(1)];
    let running = Array { level: "raid10".into(), whole: 3, missing: 1, members, ..sample(&[]) };
    let m = |name| member(name, OURS, 10, 3);
    let disks = of(&[m("a-replaced"), m("c"), member("c-other", OTHER, 10, 3), blank("d")]);
    assert_eq!(fallen_behind(&disks, &running), ["c"]);
    // Member 0 was away while "c" was in use.
    let alone = of(&[with(m("c"), |s| s.taken = [1, 2].into())]);
    assert_eq!(fallen_behind(&alone, &running), [""; 0], "it may have what nobody else has");
    let mut filled = running.clone();
    filled.members[0].state = "spare".into();
    assert_eq!(fallen_behind(&alone, &filled), ["c"], "one that is being filled has nothing of its own");
}

#[test]
fn what_runs_stays() {
    let running =
        |array| Inventory { disks: vec![blank("a"), blank("b")], running: Some(array), ..Inventory::default() };
    let ready = record(Progress::Ready);
    assert_eq!(plan(&running(OURS), Some(&ready), None, false, FRESH), Ok(Plan::Keep));
    assert_eq!(plan(&running(OTHER), Some(&ready), None, false, FRESH), Ok(Plan::Wait));
    let order = Order { disks: names(&["a", "b"]), ..Order::default() };
    assert!(matches!(plan(&running(OURS), Some(&ready), Some(&order), true, FRESH), Err(Refusal::Order(_))));
}

#[test]
fn a_cut_creation_goes_on_with_the_same_identifier() {
    let creating = record(Progress::Creating);
    let go_on = |disks: &[Disk], waited| plan(&of(disks), Some(&creating), None, waited, FRESH);
    let m = |name| member(name, OURS, 10, 3);
    assert_eq!(go_on(&[blank("a")], false), Ok(Plan::Wait));
    // Before the first superblock, between them, after the last one.
    let three = || created(OURS, Level::Raid10, &["a", "b", "c"]);
    assert_eq!(go_on(&[blank("a"), blank("b"), blank("c")], true), three());
    assert_eq!(go_on(&[m("a"), blank("b"), blank("c"), other("x"), member("y", OTHER, 1, 2)], true), three());
    assert_eq!(go_on(&[m("a"), m("b"), m("c"), blank("d")], true), assembled(&["a", "b", "c"], false, true));
    assert!(matches!(go_on(&[m("a")], true), Err(Refusal::NoDisks { .. })));
}

#[test]
fn orders() {
    let disks = of(&[blank("a"), blank("b"), blank("c"), other("x"), member("y", OTHER, 1, 2)]);
    let order = |level, disks: &[&str]| Order { level, disks: names(disks), ..Order::default() };
    let carry = |order: &Order| plan(&disks, None, Some(order), true, FRESH);
    assert_eq!(carry(&order(None, &["c", "a"])), created(FRESH, Level::Raid1, &["c", "a"]));
    assert_eq!(carry(&order(Some(Level::Raid10), &["a", "b"])), created(FRESH, Level::Raid10, &["a", "b"]));
    assert_eq!(carry(&order(Some(Level::Raid1), &[])), created(FRESH, Level::Raid1, &["a", "b", "c"]));
    for wrong in [&["a", "x"][..], &["a", "y"], &["a", "nowhere"], &["a"], &["a", "a"]] {
        assert!(carry(&order(None, wrong)).is_err(), "{wrong:?}");
    }
    // Before disks have been looked at nothing is known of them.
    let named = order(None, &["x", "y"]);
    assert_eq!(plan(&disks, None, Some(&named), false, FRESH), Ok(Plan::Wait));
    // A machine whose array is lost for good gets a new one only of named disks.
    let ready = record(Progress::Ready);
    assert!(matches!(plan(&disks, Some(&ready), Some(&order(None, &[])), true, FRESH), Err(Refusal::Order(_))));
    let named = plan(&disks, Some(&ready), Some(&order(None, &["a", "b"])), true, FRESH);
    assert_eq!(named, created(FRESH, Level::Raid1, &["a", "b"]));
}

#[test]
fn levels_have_a_least_number_of_members_beside_the_spares() {
    let disks = of(&[blank("a"), blank("b"), blank("c"), blank("d")]);
    let carry = |level, spares| plan(&disks, None, Some(&Order { level, spares, ..Order::default() }), true, FRESH);
    let all = || names(&["a", "b", "c", "d"]);
    let made = |level, spares| Ok(Plan::Create { array: FRESH, level, disks: all(), spares, zero: false });
    for (level, most) in [(Level::Raid1, 2), (Level::Raid5, 1), (Level::Raid6, 0), (Level::Raid10, 2)] {
        assert_eq!(carry(Some(level), most), made(level, most));
        assert!(matches!(carry(Some(level), most + 1), Err(Refusal::Order(_))), "{level}");
    }
    assert_eq!(carry(None, 2), made(Level::Raid1, 2), "two members and two spares");
    assert!(matches!(carry(None, 9), Err(Refusal::Order(_))));
}

#[test]
fn a_cut_creation_keeps_what_was_ordered() {
    let creating = Record { level: Level::Raid5, spares: 1, ..record(Progress::Creating) };
    let disks = of(&[blank("a"), blank("b"), blank("c"), blank("d")]);
    let disks_of = names(&["a", "b", "c", "d"]);
    let made = Plan::Create { array: OURS, level: Level::Raid5, disks: disks_of, spares: 1, zero: false };
    assert_eq!(plan(&disks, Some(&creating), None, true, FRESH), Ok(made));
}

#[test]
fn a_cut_creation_takes_the_disks_that_were_chosen() {
    let serials = |all: &[&str]| all.iter().map(|name| format!("serial {name}")).collect();
    let creating = Record { level: Level::Raid1, disks: serials(&["b", "d"]), ..record(Progress::Creating) };
    let go_on = |disks: &[Disk]| plan(&of(disks), Some(&creating), None, true, FRESH);
    let both = created(OURS, Level::Raid1, &["b", "d"]);
    assert_eq!(go_on(&[blank("a"), blank("b"), blank("c"), blank("d")]), both);
    assert_eq!(go_on(&[blank("a"), member("b", OURS, 1, 2), blank("d")]), both);
    for short in [&[blank("a"), blank("b"), blank("c")][..], &[blank("a"), blank("b"), other("d")], &[blank("a")]] {
        let refused = go_on(short);
        assert!(matches!(refused, Err(Refusal::Unfinished { of: 2, missing: 1..=2, .. })), "{refused:?}");
    }
    let named = Order { disks: names(&["a", "c"]), ..Order::default() };
    let disks = of(&[blank("a"), blank("b"), blank("c")]);
    let others = plan(&disks, Some(&creating), Some(&named), true, FRESH);
    assert_eq!(others, created(FRESH, Level::Raid1, &["a", "c"]), "an operator chooses others");
}

/// Members of RAID6 as they were left, each with its events.
fn left(unclean: bool, logged: bool, disks: &[(&str, u64)]) -> Inventory {
    let one = |(name, events): &(&str, u64)| {
        with(member(name, OURS, 6, 4), |s| (s.events, s.unclean, s.logged) = (*events, unclean, logged))
    };
    of(&disks.iter().map(one).collect::<Vec<_>>())
}

#[test]
fn parity_that_may_be_wrong_and_a_missing_member_wait_for_an_operator() {
    let ready = Record { level: Level::Raid6, ..record(Progress::Ready) };
    let (all, three) = ([("a", 9), ("b", 9), ("c", 9), ("d", 9)], [("a", 9), ("b", 9), ("c", 9)]);
    let look = |inventory: &Inventory, waited| plan(inventory, Some(&ready), None, waited, FRESH);
    let assembled = |disks: &[&str], degraded, dirty| {
        Ok(Plan::Assemble { array: OURS, disks: names(disks), degraded, format: false, dirty })
    };
    let four = &["a", "b", "c", "d"][..];
    assert_eq!(look(&left(true, false, &all), false), assembled(four, false, false), "all are there to make it right");
    assert_eq!(
        look(&left(false, false, &three), true),
        assembled(&["a", "b", "c"], true, false),
        "it was stopped in order"
    );
    assert_eq!(look(&left(true, true, &three), true), assembled(&["a", "b", "c"], true, false), "a log made it right");
    assert_eq!(look(&left(true, false, &three), false), Ok(Plan::Wait));
    let refused = look(&left(true, false, &three), true).unwrap_err();
    assert!(matches!(refused, Refusal::DirtyDegraded { missing: 1, .. }), "{refused}");
    assert!(refused.to_string().contains("ffsctl storage start"), "{refused}");
    // One that is there, but was not for a while, is as good as missing; one event behind is not.
    let behind = [("a", 9), ("b", 9), ("c", 9), ("d", 7)];
    assert!(matches!(look(&left(true, false, &behind), true), Err(Refusal::DirtyDegraded { missing: 1, .. })));
    let just = [("a", 9), ("b", 9), ("c", 9), ("d", 8)];
    assert_eq!(look(&left(true, false, &just), true), assembled(four, false, false));

    // One that was being filled is there, up to date in what it says, and has a part of its bytes only.
    let mut filling = left(true, false, &all);
    filling.disks[3] = with(filling.disks[3].clone(), |s| s.filling = true);
    assert_eq!(look(&filling, false), Ok(Plan::Wait));
    assert!(matches!(look(&filling, true), Err(Refusal::DirtyDegraded { missing: 1, .. })));

    let order = Order { start: true, ..Order::default() };
    let start = |inventory: &Inventory, record| plan(inventory, record, Some(&order), true, FRESH);
    assert_eq!(start(&left(true, false, &three), Some(&ready)), assembled(&["a", "b", "c"], true, true));
    assert_eq!(start(&left(false, false, &three), Some(&ready)), assembled(&["a", "b", "c"], true, false));
    assert_eq!(start(&filling, Some(&ready)), assembled(four, true, true));
    assert!(matches!(start(&left(true, false, &three), None), Err(Refusal::Order(_))));
    let running = Inventory { running: Some(OURS), ..left(true, false, &three) };
    assert!(matches!(start(&running, Some(&ready)), Err(Refusal::Order(_))), "it runs already");
}
