//! What happens to the array, told by two looks at it, one after the other.

use super::array::Array;
use super::health::Health;
use std::collections::BTreeMap;

/// A kind of event that is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// A member failed or is gone.
    Failed,
    /// A disk has come in.
    Added,
    /// A missing member began to be made up for.
    RebuildBegun,
    /// All members are there again.
    Rebuilt,
    /// A sector could not be read and was written anew from the others.
    ReadError,
    /// Sectors differed when all of the array was read.
    Mismatch,
    /// A disk says that it fails.
    SaysFailing,
}

impl Kind {
    const ALL: [Self; 7] = [
        Self::Failed,
        Self::Added,
        Self::RebuildBegun,
        Self::Rebuilt,
        Self::ReadError,
        Self::Mismatch,
        Self::SaysFailing,
    ];

    /// Its name among metrics.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Failed => "members-failed",
            Self::Added => "disks-added",
            Self::RebuildBegun => "rebuilds-begun",
            Self::Rebuilt => "rebuilt",
            Self::ReadError => "read-errors",
            Self::Mismatch => "sectors-differing",
            Self::SaysFailing => "disks-failing",
        }
    }
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Event {
    /// What is counted, and how much of it; none for what is only told.
    pub(crate) counts: Option<(Kind, u64)>,
    /// In words.
    pub(crate) said: String,
}

/// How often each kind of event has happened.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Counts(BTreeMap<Kind, u64>);

impl Counts {
    /// Counts these.
    pub(crate) fn add(&mut self, events: &[Event]) {
        for (kind, n) in events.iter().filter_map(|e| e.counts) {
            *self.0.entry(kind).or_default() += n;
        }
    }

    /// All kinds by name, also those that did not happen.
    pub(crate) fn all(&self) -> impl Iterator<Item = (&'static str, u64)> {
        Kind::ALL.into_iter().map(|kind| (kind.as_str(), self.0.get(&kind).copied().unwrap_or(0)))
    }
}

/// What happened between two looks at the array.
pub(crate) fn between(before: Option<&Array>, now: Option<&Array>) -> Vec<Event> {
    let (before, now) = match (before, now) {
        (Some(before), Some(now)) => (before, now),
        (None, Some(now)) if now.missing > 0 => {
            return vec![Event { counts: None, said: format!("the array {}", degraded(now)) }];
        }
        (Some(_), None) => return vec![Event { counts: None, said: "the array is gone".into() }],
        _ => return Vec::new(),
    };
    let mut said = Vec::new();
    let mut tell = |counts, text: String| said.push(Event { counts, said: format!("the array {text}") });
    let of = |array: &Array, disk: &str| array.members.iter().find(|m| m.disk == disk).cloned();
    for member in &before.members {
        let well = !member.is("faulty");
        let failed = Some((Kind::Failed, 1)).filter(|_| well);
        match of(now, &member.disk) {
            None => tell(failed, format!("lost {}", member.disk)),
            Some(new) if new.state != member.state => {
                let failed = failed.filter(|_| new.is("faulty"));
                tell(failed, format!("has {} {}, before {}", new.disk, new.state, member.state));
            }
            Some(_) => {}
        }
    }
    for member in &now.members {
        match of(before, &member.disk) {
            None => tell(Some((Kind::Added, 1)), format!("got {} ({})", member.disk, member.state)),
            Some(old) if member.errors > old.errors => {
                let n = member.errors - old.errors;
                tell(Some((Kind::ReadError, n)), format!("corrected {n} read errors of {}", member.disk));
            }
            Some(_) => {}
        }
    }
    if now.missing != before.missing {
        match now.missing {
            0 => tell(Some((Kind::Rebuilt, 1)), "is whole again".into()),
            _ => tell(None, degraded(now)),
        }
    }
    if now.action != before.action {
        let begun = Some((Kind::RebuildBegun, 1)).filter(|_| now.action == "recover");
        tell(begun, format!("went from {} to {}", before.action, now.action));
        if before.action == "check" && now.mismatches > 0 {
            let n = now.mismatches;
            tell(Some((Kind::Mismatch, n)), format!("has {n} sectors that differ between its copies"));
        }
    }
    said
}

/// What disks say of themselves that they did not say before.
pub(crate) fn of_health(before: &BTreeMap<String, Health>, now: &BTreeMap<String, Health>) -> Vec<Event> {
    let fails = |all: &BTreeMap<String, Health>, disk: &str| all.get(disk).is_some_and(|h| h.failing);
    let new = now.iter().filter(|(disk, _)| fails(now, disk) && !fails(before, disk));
    new.map(|(disk, health)| Event {
        counts: Some((Kind::SaysFailing, 1)),
        said: format!("the disk {disk} {}", health.said),
    })
    .collect()
}

fn degraded(array: &Array) -> String {
    format!("is degraded: {} of {} members are missing", array.missing, array.whole)
}

#[cfg(test)]
mod tests {
    use super::super::array::Member;
    use super::super::array::tests::sample;
    use super::*;

    fn array(members: &[(&str, &str, u64)], missing: u64, action: &str) -> Array {
        let member = |m: &(&str, &str, u64)| Member { disk: m.0.into(), state: m.1.into(), slot: None, errors: m.2 };
        Array { missing, action: action.into(), members: members.iter().map(member).collect(), ..sample(&[]) }
    }

    #[test]
    fn what_happens_is_said_once_and_counted() {
        let mut counts = Counts::default();
        let mut look = |before: Option<&Array>, now: Option<&Array>| {
            let events = between(before, now);
            counts.add(&events);
            let said = events.into_iter().map(|e| e.said.strip_prefix("the array ").unwrap().to_owned());
            said.collect::<Vec<_>>()
        };
        let whole = array(&[("a", "in_sync", 0), ("b", "in_sync", 0)], 0, "idle");
        assert_eq!(look(None, Some(&whole)), Vec::<String>::new());
        assert_eq!(look(Some(&whole), Some(&whole)), Vec::<String>::new());
        assert_eq!(look(Some(&whole), None), ["is gone"]);
        let failed = array(&[("a", "in_sync", 2), ("b", "faulty", 0)], 1, "idle");
        let expected =
            ["has b faulty, before in_sync", "corrected 2 read errors of a", "is degraded: 1 of 2 members are missing"];
        assert_eq!(look(Some(&whole), Some(&failed)), expected);
        assert_eq!(look(None, Some(&failed)), ["is degraded: 1 of 2 members are missing"]);
        let rebuilt = array(&[("a", "in_sync", 2), ("c", "spare", 0)], 1, "recover");
        assert_eq!(look(Some(&failed), Some(&rebuilt)), ["lost b", "got c (spare)", "went from idle to recover"]);
        let again = array(&[("a", "in_sync", 2), ("c", "in_sync", 0)], 0, "idle");
        let expected = ["has c in_sync, before spare", "is whole again", "went from recover to idle"];
        assert_eq!(look(Some(&rebuilt), Some(&again)), expected);
        let check = Array { action: "check".into(), mismatches: 8, ..again.clone() };
        assert_eq!(look(Some(&again), Some(&check)), ["went from idle to check"]);
        let checked = Array { mismatches: 16, ..again };
        let expected = ["went from check to idle", "has 16 sectors that differ between its copies"];
        assert_eq!(look(Some(&check), Some(&checked)), expected);
        let expected = [
            ("members-failed", 1),
            ("disks-added", 1),
            ("rebuilds-begun", 1),
            ("rebuilt", 1),
            ("read-errors", 2),
            ("sectors-differing", 16),
            ("disks-failing", 0),
        ];
        assert!(counts.all().eq(expected), "{counts:?}");
    }

    #[test]
    fn a_disk_that_fails_says_so_once() {
        let says = |failing| [("sda".to_owned(), Health { failing, said: "SAYS THAT IT FAILS".into() })].into();
        let (well, bad) = (says(false), says(true));
        let expected = Event { counts: Some((Kind::SaysFailing, 1)), said: "the disk sda SAYS THAT IT FAILS".into() };
        assert_eq!(of_health(&well, &bad), std::slice::from_ref(&expected));
        assert_eq!(of_health(&BTreeMap::new(), &bad), [expected]);
        assert_eq!(of_health(&bad, &bad), []);
        assert_eq!(of_health(&bad, &well), []);
    }
}
