//! Which bytes of an object have been fetched.

use serde::{Deserialize, Serialize};

/// Disjoint, sorted, half-open ranges of bytes that do not touch each other.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Ranges(Vec<(u64, u64)>);

impl Ranges {
    /// Most ranges that are kept. A client that fetches in more pieces than that, with gaps between all of them, is not counted
    /// for the pieces beyond; they count once they join others.
    pub const MAX: usize = 1024;

    /// Adds the bytes from `start` to before `end`.
    pub fn add(&mut self, start: u64, end: u64) {
        if start >= end {
            return;
        }
        // All ranges that overlap or touch the new one become one with it.
        let first = self.0.partition_point(|&(_, e)| e < start);
        let last = self.0.partition_point(|&(s, _)| s <= end);
        if first == last && self.0.len() >= Self::MAX {
            return;
        }
        let joined = self.0[first..last].iter().fold((start, end), |(a, b), &(s, e)| (a.min(s), b.max(e)));
        self.0.splice(first..last, [joined]);
    }

    /// How many bytes they are.
    pub fn bytes(&self) -> u64 {
        self.0.iter().map(|(s, e)| e - s).sum()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether every byte of an object of this size is in. An empty object never is.
    pub fn is_all_of(&self, size: u64) -> bool {
        self.0.first().is_some_and(|&(s, e)| s == 0 && e >= size)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn joins_what_touches() {
        let mut ranges = Ranges::default();
        for (start, end) in [(10, 20), (30, 40), (5, 5), (20, 30)] {
            ranges.add(start, end);
        }
        assert_eq!(ranges.0, [(10, 40)]);
        assert!(!ranges.is_all_of(40));
        ranges.add(0, 11);
        assert!(ranges.is_all_of(40) && !ranges.is_all_of(41));
    }

    #[test]
    fn the_number_of_ranges_is_limited() {
        let mut ranges = Ranges::default();
        for i in 0..=Ranges::MAX as u64 {
            ranges.add(4 * i, 4 * i + 1);
        }
        assert_eq!(ranges.0.len(), Ranges::MAX);
        ranges.add(1, 4); // joins two, so it is taken
        assert_eq!(ranges.0.len(), Ranges::MAX - 1);
        assert_eq!(ranges.0[0], (0, 5));
    }

    proptest! {
        #[test]
        fn like_a_set_of_bytes(pieces in prop::collection::vec((0u64..60, 0u64..20), 0..30)) {
            let mut ranges = Ranges::default();
            let mut set = std::collections::BTreeSet::new();
            for (start, length) in pieces {
                ranges.add(start, start + length);
                set.extend(start..start + length);
            }
            prop_assert_eq!(ranges.bytes(), set.len() as u64);
            prop_assert!(ranges.0.windows(2).all(|w| w[0].1 < w[1].0));
            let full = (0..10).all(|b| set.contains(&b));
            prop_assert_eq!(ranges.is_all_of(10), full);
        }
    }
}
