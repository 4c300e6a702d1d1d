//! What start-up found and repaired.

use std::fmt;
use tobj::{Id, Sha256};

macro_rules! report {
    ($($(#[$meta:meta])* $field:ident: $words:literal,)*) => {
        /// What was found and repaired.
        #[derive(Debug, Clone, Default, PartialEq, Eq)]
        pub struct Report {
            $($(#[$meta])* pub $field: usize,)*
            /// Objects without a file.
            pub missing: Vec<Sha256>,
            /// Leases whose link cannot be made although their object is not among these.
            pub unlinked: Vec<Id>,
            /// Leases that were looked at.
            pub leases: usize,
            /// How long all of it took (milliseconds).
            pub milliseconds: u64,
        }

        impl Report {
            fn repairs(&self) -> Vec<(usize, &'static str)> {
                vec![$((self.$field, $words),)* (self.missing.len(), "objects without their file")]
            }
        }
    };
}

report! {
    /// Files removed from incoming.
    incoming: "files that did not come in whole removed",
    /// Objects that have come in in part and can go on.
    uploads: "uploads kept for the rest of them",
    /// Objects that the ledger did not know.
    adopted: "objects taken into the ledger",
    /// Objects that were damaged and still in the storeroom.
    quarantined: "damaged objects put into quarantine",
    /// Files in quarantine that something else has taken the place of.
    replaced: "damaged copies removed",
    /// Objects that were put in again, all of whose links are made anew now.
    healed: "objects mended",
    /// Objects that were on their way out and are gone now.
    retired: "objects retired",
    /// Pending leases whose link is there now.
    finished: "stagings finished",
    /// Leases that could not get their link and ended.
    given_up: "stagings given up",
    /// Leases that were going and are gone now.
    removed: "leases removed",
    /// Leases whose link had to be made again.
    relinked: "links made again",
    /// Leases whose link is gone and cannot be made.
    broken: "links that cannot be made",
    /// Names that no lease explained.
    strays: "names without a lease removed",
    /// Transfers that were closed.
    interrupted: "transfers closed as interrupted",
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} leases looked at in {} ms", self.leases, self.milliseconds)?;
        let done: Vec<_> = self.repairs().into_iter().filter(|(n, _)| *n > 0).collect();
        if done.is_empty() {
            return f.write_str("; nothing had to be repaired");
        }
        done.iter().try_for_each(|(n, words)| write!(f, "; {n} {words}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_happened_is_told() {
        let quiet = Report { leases: 7, milliseconds: 3, ..Report::default() };
        assert_eq!(quiet.to_string(), "7 leases looked at in 3 ms; nothing had to be repaired");
        let busy = Report { strays: 2, missing: vec![[1; 32].into()], ..quiet };
        assert_eq!(
            busy.to_string(),
            "7 leases looked at in 3 ms; 2 names without a lease removed; 1 objects without their file"
        );
    }
}
