//! The outbox: audit records stay in the ledger until the database has them.
//!
//! Records are numbered without gaps by the ledger and sent in order; the database keeps each number once and says up to which one
//! its records are durable. Only then are they dropped here, so a lost answer means that records are sent again, never that they
//! are lost or doubled. Nobody waits for the dropping: it rides on the next commit, and a kill before that is one more lost answer.
//!
//! # One sequence of an appliance
//!
//! A ledger counts from 1; the database has one sequence of each appliance, whatever became of its disks. So before records are sent,
//! at a start and after every failure, a page without any asks how far the database is:
//!
//! | ledger | database | what is done |
//! |---|---|---|
//! | has sent records | is between the last that was dropped here and the last that there is | they are sent |
//! | has sent records | has more than there are here | nothing is sent: the ledger was put back from a copy, or lost what was durable |
//! | has sent records | lacks some that were dropped here | nothing is sent: the database was put back from a copy |
//! | new | has none | they are sent |
//! | new | has some | its own records are numbered anew, to follow those |
//! | new | has the ledger's first record | nothing is sent: it is a copy from before that was sent |
//!
//! Whether a ledger is new is in it since it was made, and committed otherwise before anything is sent: killed before that commit, it is
//! asked again; killed after it, the numbers stand. Where nothing is sent, and where the database refuses what was, `status` says so
//! until records are taken again: to go on by itself would tell the trail something twice, or leave something out.

use crate::database::{ANSWER, Backoff, Database, Unreachable};
use crate::engine::{Handle, Refusal, Work};
use crate::ledger::{Ledger, LedgerError, Number};
use daemon::Shutdown;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tobj::{AuditRecord, Fault, Reply, Request, Text};

/// Bytes of text that one request holds at most, by a rough count that is never too low for it to fit a Tobj.
const ROOM: usize = tobj::MAX_BYTES - 4096;
/// How often the outbox is looked at without a commit.
const LOOK: Duration = Duration::from_secs(60);
/// How long records wait for others to go with them.
const GATHER: Duration = Duration::from_millis(50);

/// Why records are not taken, for whoever asks how it is.
#[derive(Debug, Clone, Default)]
pub struct Trouble(Arc<Mutex<Option<String>>>);

impl Trouble {
    /// In words, with what to do; none while nothing is wrong that stays wrong by itself.
    pub fn get(&self) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, why: Option<String>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = why;
    }
}

/// Why records are kept for later.
#[derive(Debug, thiserror::Error)]
enum Kept {
    #[error(transparent)]
    Unreachable(#[from] Unreachable),
    #[error("the ledger cannot be read")]
    Ledger(#[from] LedgerError),
    #[error("a task failed")]
    Task(#[from] tokio::task::JoinError),
    #[error("the ledger was not changed")]
    Engine(#[from] Refusal),
    #[error("the database gave an answer to another question")]
    Mismatch,
    #[error("the database refuses the audit records: it answered {0}")]
    Refused(Fault),
    #[error(
        "the database has other audit records under numbers of this ledger: the ledger has gone back, or another machine has this \
         name; {NEWER}"
    )]
    Conflict,
    #[error(
        "the ledger has gone back: the database has audit records up to {theirs}, this ledger ends at {ours}; {NEWER}"
    )]
    LedgerWentBack { theirs: u64, ours: u64 },
    #[error(
        "the database has gone back: it has audit records up to {theirs}, those before {oldest} were dropped here once it had them; \
         put a newer copy of its store back"
    )]
    DatabaseWentBack { theirs: u64, oldest: u64 },
}

const NEWER: &str = "put a newer copy of the ledger and its log back, or make the storage anew: a new ledger goes on after the database's records";

impl Kept {
    /// Whether it does not pass by itself.
    fn stays(&self) -> bool {
        match self {
            Self::Unreachable(_) | Self::Ledger(_) | Self::Task(_) | Self::Engine(_) | Self::Mismatch => false,
            Self::Refused(_) | Self::Conflict | Self::LedgerWentBack { .. } | Self::DatabaseWentBack { .. } => true,
        }
    }
}

/// What sends records, and where to.
pub struct Outbox {
    /// Where they are.
    pub ledger: Arc<Ledger>,
    /// Who gets them.
    pub database: Arc<Database>,
    /// Who drops them.
    pub engine: Handle,
    /// Who hears what is wrong.
    pub trouble: Trouble,
}

/// Sends what is in the outbox, until the shutdown.
pub async fn run(outbox: Outbox, shutdown: Shutdown) {
    let mut backoff = Backoff::default();
    let mut had = None;
    while !shutdown.started() {
        let sent = tokio::select! { () = shutdown.wait() => return, sent = outbox.send(had) => sent };
        let pause = match sent {
            Ok(Some(upto)) => {
                outbox.engine.ride(Work::Acknowledge { upto });
                outbox.trouble.set(None);
                had = Some(upto);
                backoff.reset();
                continue;
            }
            Ok(None) => {
                outbox.trouble.set(None);
                had = had.or(Some(0));
                tokio::select! {
                    () = outbox.engine.committed() => GATHER,
                    () = shutdown.wait() => return,
                    () = tokio::time::sleep(LOOK) => continue,
                }
            }
            Err(kept) => {
                let why = daemon::report(&kept);
                tracing::warn!("audit records are kept for later: {why}");
                if kept.stays() {
                    outbox.trouble.set(Some(why));
                }
                // A database that was put back to an earlier state gets what is still here once more.
                had = None;
                backoff.next_pause()
            }
        };
        tokio::select! { () = shutdown.wait() => return, () = tokio::time::sleep(pause) => {} }
    }
}

impl Outbox {
    /// Sends one page of what follows the record `had`, or of all that there is once ledger and database were compared; up to which
    /// one the database has them now, if there was any to send.
    async fn send(&self, had: Option<u64>) -> Result<Option<u64>, Kept> {
        if had.is_none() {
            self.compare().await?;
        }
        let Page { records, last, .. } = self.look(had.unwrap_or(0)).await?;
        let Some(first) = records.first().map(|record| record.seq) else { return Ok(None) };
        let upto = self.tell(records).await?;
        // After a start it may have more than it was sent now.
        match upto {
            _ if upto > last => Err(Kept::LedgerWentBack { theirs: upto, ours: last }),
            _ if upto < first => Err(Kept::Mismatch),
            _ => Ok(Some(upto)),
        }
    }

    /// Sees that what is here goes on from what the database has.
    async fn compare(&self) -> Result<(), Kept> {
        let theirs = self.tell(Vec::new()).await?;
        let Page { mut records, last, unsent } = self.look(0).await?;
        let oldest = records.first().map_or(last + 1, |record| record.seq);
        // A version that knows nothing of the mark may have sent them; then some were dropped.
        if unsent && oldest == 1 {
            records.truncate(1);
            if theirs > 0 && !records.is_empty() {
                match self.tell(records).await {
                    Err(Kept::Conflict) => {} // what it has is of another ledger
                    Ok(_) => return Err(Kept::LedgerWentBack { theirs, ours: last }),
                    Err(other) => return Err(other),
                }
            }
            self.engine.ask(Work::NumberAfter { last: theirs }).await?;
            return Ok(());
        }
        if theirs > last {
            return Err(Kept::LedgerWentBack { theirs, ours: last });
        }
        if theirs.saturating_add(1) < oldest {
            return Err(Kept::DatabaseWentBack { theirs, oldest });
        }
        Ok(())
    }

    /// Tells the database; up to which record it has them.
    async fn tell(&self, records: Vec<AuditRecord>) -> Result<u64, Kept> {
        match self.database.ask(Request::Audit { records }, ANSWER).await? {
            Reply::Acknowledged { upto } => Ok(upto),
            Reply::Fault { fault: Fault::Invalid, .. } => Err(Kept::Conflict),
            Reply::Fault { fault, .. } => Err(Kept::Refused(fault)),
            _ => Err(Kept::Mismatch),
        }
    }

    async fn look(&self, had: u64) -> Result<Page, Kept> {
        let reader = self.ledger.clone();
        Ok(tokio::task::spawn_blocking(move || page(&reader, had)).await??)
    }
}

/// A look at the outbox.
struct Page {
    /// The oldest records that fit one request.
    records: Vec<AuditRecord>,
    /// The number of the last that there ever was.
    last: u64,
    /// Whether the ledger is new.
    unsent: bool,
}

fn page(ledger: &Ledger, had: u64) -> Result<Page, LedgerError> {
    let reader = ledger.read()?;
    let mut records = Vec::new();
    let mut room = ROOM;
    for entry in reader.outbox(had)? {
        let (seq, event) = entry?;
        let record = event.record(seq);
        let size = weight(&record);
        if records.len() == tobj::PAGE || size > room {
            break;
        }
        room -= size;
        records.push(record);
    }
    Ok(Page { records, last: reader.number(Number::Audit)?, unsent: reader.number(Number::Unsent)? != 0 })
}

/// At least the bytes of a record as text: each byte of what others wrote may become an entity of six.
fn weight(record: &AuditRecord) -> usize {
    let texts: [&Option<Text>; 3] = [&record.customer, &record.address, &record.outcome];
    700 + texts.into_iter().flatten().map(|text| 6 * text.as_str().len()).sum::<usize>()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rows::Event;
    use tobj::{AuditEvent, Message};

    #[test]
    fn a_page_always_fits_a_tobj() {
        let dir = tempfile::tempdir().unwrap();
        let ledger = Ledger::open(dir.path(), dir.path(), true, crate::testkit::SIZES).unwrap();
        let mut event = Event::new(u64::MAX, AuditEvent::StageRefused).outcome("\"".repeat(Text::MAX));
        event.customer = Some("&".repeat(Text::MAX));
        event.address = Some("'".repeat(Text::MAX));
        (event.lease, event.sha256) = (Some([0xff; 16].into()), Some([0xff; 32].into()));
        (event.offset, event.bytes, event.milliseconds) = (Some(u64::MAX), Some(u64::MAX), Some(u64::MAX));
        event.tls = Some(tobj::TlsVersion::Tls12);
        let log = |event: &Event, n| ledger.write(|txn| (0..n).try_for_each(|_| txn.log(event).map(drop))).unwrap();
        log(&event, 20);
        let Page { records, last, .. } = page(&ledger, 0).unwrap();
        assert_eq!(last, 20);
        assert!((1..20).contains(&records.len()));
        assert!(Message::request(Request::Audit { records }).unwrap().encode().is_ok());

        event = Event::new(1, AuditEvent::Login);
        log(&event, tobj::PAGE + 1);
        let records = page(&ledger, 20).unwrap().records;
        assert_eq!((records.len(), records[0].seq), (tobj::PAGE, 21));
    }
}
