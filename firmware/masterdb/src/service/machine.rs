//! What download appliances ask: login checks, the audit trail, revocations.

use super::customer::Verdict;
use super::{Failure, MasterDb, fault};
use crate::store::audit::{self, Reported};
use crate::store::revocations;
use daemon::log::recorded;
use std::time::Duration;
use tobj::{AuditRecord, Fault, Name, Reply, Secret, Text, Timestamp};

/// How long a request for revocations is held open: a little less than the minute that it is given.
pub(super) const WAIT: Duration = Duration::from_secs(55);

impl MasterDb {
    pub(super) async fn login_check(
        &self,
        machine: &Name,
        customer: &Text,
        password: &Secret,
        address: &Text,
    ) -> Result<Reply, Failure> {
        Ok(match self.check(customer, password, address).await? {
            Verdict::Right(customer, _) => Reply::Verified { customer },
            // The download appliance tells the trail itself, with what it knows of the connection.
            Verdict::Wrong => {
                tracing::info!(%machine, customer = recorded(customer.as_str()), %address, "a password was wrong");
                fault(Fault::Denied)
            }
            Verdict::TooMany => {
                self.say_too_many(machine, customer, address);
                fault(Fault::Busy)
            }
        })
    }

    pub(super) async fn audit(&self, machine: &Name, records: Vec<AuditRecord>) -> Result<Reply, Failure> {
        let appliance = machine.clone();
        let reported = self.store.write(move |txn| audit::report(txn, &appliance, records)).await?;
        Ok(match reported {
            Reported::Upto(upto) => Reply::Acknowledged { upto },
            Reported::Gap { expected, found } => {
                tracing::error!(%machine, expected, found, "audit records are missing between the two");
                fault(Fault::Invalid)
            }
            Reported::Conflict(seq) => {
                tracing::error!(%machine, seq, "an audit record came again and says something else");
                fault(Fault::Invalid)
            }
        })
    }

    pub(super) async fn wait_revocations(&self, after: u64) -> Result<Reply, Failure> {
        self.redate_revocations(Timestamp::now()).await?;
        let mut revoked = self.revoked.subscribe();
        // A number that is still to come is answered at once: see `revocations::after`.
        if *revoked.borrow_and_update() == after {
            let changed = tokio::time::timeout(WAIT, revoked.changed());
            tokio::select! {
                _ = changed => {}
                () = self.shutdown.wait() => {}
            }
        }
        let (items, upto) = self.store.read(move |txn| revocations::after(txn, after)).await?;
        Ok(Reply::Revocations { items, upto, now: Timestamp::now() })
    }

    /// What was withdrawn while the clock was ahead counts from now, and is told again.
    async fn redate_revocations(&self, now: Timestamp) -> Result<(), Failure> {
        if !self.store.read(move |txn| revocations::ahead(txn, now)).await? {
            return Ok(());
        }
        let last = self.store.write(move |txn| revocations::redate(txn, now)).await?;
        tracing::warn!(
            "rights were withdrawn while the clock was ahead: they count as withdrawn now, and are told again"
        );
        self.announce(last);
        Ok(())
    }

    /// Wakes who waits for revocations.
    pub(super) fn announce(&self, last: u64) {
        self.revoked.send_if_modified(|known| {
            let more = last > *known;
            *known = last.max(*known);
            more
        });
    }
}
