//! What start-up could not repair, as far as that is still so: an operator may put it right while everything else is served.

use super::Report;
use crate::engine::EngineError;
use crate::ledger::{Ledger, Reader};
use crate::rows::State;
use crate::tree::{Place, Tree};
use std::collections::VecDeque;
use tobj::{Id, ObjectState, Sha256};

/// How many of each kind one look looks at; the next one goes on with the others.
const LOOK: usize = 1000;

/// What start-up found, and what of it is not yet put right.
#[derive(Debug)]
pub struct Amiss {
    found: String,
    /// Whether there was anything.
    any: bool,
    /// Objects without a file. With them, the links that could not be made to them: those are made when they are put in again.
    objects: VecDeque<Sha256>,
    /// Leases whose link could not be made otherwise.
    links: VecDeque<Id>,
}

impl Amiss {
    /// Takes over what was found.
    pub fn new(report: Report) -> Self {
        let found = report.to_string();
        let (objects, links) = (VecDeque::from(report.missing), VecDeque::from(report.unlinked));
        Self { found, any: !objects.is_empty() || !links.is_empty(), objects, links }
    }

    /// Looks again; whether all is well by now, and what is to be told.
    ///
    /// # Errors
    /// When ledger or tree cannot be read.
    pub fn look(&mut self, ledger: &Ledger, tree: &Tree) -> Result<(bool, String), EngineError> {
        let read = ledger.read()?;
        sift(&mut self.objects, |sha256| is_missing(&read, tree, sha256))?;
        sift(&mut self.links, |lease| is_unlinked(&read, tree, lease))?;
        let (objects, links, found) = (self.objects.len(), self.links.len(), &self.found);
        Ok(match (objects, links) {
            (0, 0) if self.any => (true, format!("{found}; what was missing is there again, or no longer wanted")),
            (0, 0) => (true, found.clone()),
            _ => (false, format!("{found}; by now, {objects} objects and {links} other links are missing")),
        })
    }
}

/// Drops those that are no longer amiss.
fn sift<T: Copy>(all: &mut VecDeque<T>, is_amiss: impl Fn(T) -> Result<bool, EngineError>) -> Result<(), EngineError> {
    for _ in 0..all.len().min(LOOK) {
        let Some(one) = all.front().copied() else { break };
        if is_amiss(one)? {
            all.rotate_left(1);
        } else {
            all.pop_front();
        }
    }
    Ok(())
}

fn is_missing(read: &Reader, tree: &Tree, sha256: Sha256) -> Result<bool, EngineError> {
    let Some(object) = read.object(sha256)? else { return Ok(false) };
    let there = tree.object(sha256)?.is_some_and(|file| file.size == object.size);
    // One that is healing does not have all of its links yet.
    Ok(object.state != ObjectState::Good || !there)
}

fn is_unlinked(read: &Reader, tree: &Tree, id: Id) -> Result<bool, EngineError> {
    let Some(lease) = read.lease(id)?.filter(|lease| lease.state != State::Removing) else { return Ok(false) };
    let (link, object) = (tree.look(&Place::of(id, &lease))?, tree.object(lease.sha256)?);
    let same = link.zip(object).is_some_and(|(l, o)| (l.inode, l.device) == (o.inode, o.device));
    Ok(!same)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::Work;
    use crate::testkit::{CONTENT, GRACE, Kit, content, eventually};
    use crate::tree::Op;
    use nix::errno::Errno;
    use tobj::LeaseKind::{OneTime, Standing};

    fn look(amiss: &mut Amiss, kit: &Kit) -> (bool, String) {
        amiss.look(&kit.ledger, &kit.tree).unwrap()
    }

    #[test]
    fn an_object_that_was_lost_is_amiss_until_it_is_put_in_again_or_retired() {
        for retired in [false, true] {
            let mut kit = Kit::new();
            let lease = kit.staged(1, OneTime);
            kit.staged(2, Standing);
            kit.stop();
            kit.lose_object();
            std::fs::remove_file(kit.path(&format!("tickets/{lease}/grüße 1.iso"))).unwrap();
            let (kit, report) = kit.again();
            assert_eq!((report.missing.len(), report.broken), (1, 1));
            let mut amiss = Amiss::new(report);
            let (well, told) = look(&mut amiss, &kit);
            assert!(!well && told.ends_with("by now, 1 objects and 0 other links are missing"), "{told}");
            if retired {
                kit.ask(Work::Retire { sha256: content(), force: true, by: "operator:eve".into() }).unwrap();
            } else {
                let size = kit.ledger.read().unwrap().object(content()).unwrap().unwrap().size;
                kit.object(CONTENT);
                kit.ask(Work::Store { sha256: content(), size, fresh: true, by: "operator:eve".into() }).unwrap();
            }
            eventually("it is put right", || look(&mut amiss, &kit).0);
            assert_eq!(kit.linked(lease, OneTime), !retired);
            assert!(look(&mut amiss, &kit).1.ends_with("there again, or no longer wanted"));
        }
    }

    #[test]
    fn a_link_that_was_refused_is_amiss_until_its_lease_is_gone() {
        let mut kit = Kit::new();
        let lease = kit.staged(1, OneTime);
        kit.stop();
        std::fs::remove_file(kit.path(&format!("tickets/{lease}/grüße 1.iso"))).unwrap();
        kit.tree.faults().arm(Op::Link, 1, Errno::EMLINK);
        let report = super::super::reconcile(&kit.ledger, &kit.tree, GRACE, kit.clock.now(), &|| {}).unwrap();
        kit.tree.faults().disarm();
        assert_eq!((report.broken, &report.unlinked), (1, &vec![lease]));
        let mut amiss = Amiss::new(report);
        assert!(!look(&mut amiss, &kit).0 && !look(&mut amiss, &kit).0);
        kit.ledger.write(|txn| txn.remove_lease(lease)).unwrap();
        assert!(look(&mut amiss, &kit).0);
    }

    #[test]
    fn many_are_looked_at_in_turn() {
        let mut all: VecDeque<_> = (0..2 * LOOK).collect();
        // The first stays amiss, and keeps no other from being looked at.
        for left in [LOOK + 1, 1, 1] {
            sift(&mut all, |n| Ok(n == 0)).unwrap();
            assert_eq!(all.len(), left);
        }
    }
}
