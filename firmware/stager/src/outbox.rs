//! The outbox: audit records stay in the ledger until the database has them.
//!
//! Records are numbered without gaps by the ledger and sent in order; the database keeps each number once and says up to which one
//! its records are durable. Only then are they dropped here, so a lost answer means that records are sent again, never that they
//! are lost or doubled. Nobody waits for the dropping: it rides on the next commit, and a kill before that is one more lost answer.

use crate::database::{ANSWER, Backoff, Database};
use crate::engine::{Handle, Work};
use crate::ledger::{Ledger, LedgerError, Number};
use daemon::Shutdown;
use std::sync::Arc;
use std::time::Duration;
use tobj::{AuditRecord, Reply, Request, Text};

/// Bytes of text that one request holds at most, by a rough count that is never too low for it to fit a Tobj.
const ROOM: usize = tobj::MAX_BYTES - 4096;
/// How often the outbox is looked at without a commit.
const LOOK: Duration = Duration::from_secs(60);
/// How long records wait for others to go with them.
const GATHER: Duration = Duration::from_millis(50);

/// Sends what is in the outbox, until the shutdown.
pub async fn run(ledger: Arc<Ledger>, database: Arc<Database>, engine: Handle, shutdown: Shutdown) {
    let mut backoff = Backoff::default();
    let mut had = 0;
    while !shutdown.started() {
        let pause = match send(&ledger, &database, had, &shutdown).await {
            Ok(Some(upto)) => {
                engine.ride(Work::Acknowledge { upto });
                had = upto;
                backoff.reset();
                continue;
            }
            Ok(None) => {
                tokio::select! {
                    () = engine.committed() => GATHER,
                    () = shutdown.wait() => return,
                    () = tokio::time::sleep(LOOK) => continue,
                }
            }
            Err(why) => {
                // A database that was put back to an earlier state gets what is still here once more.
                had = 0;
                tracing::warn!("audit records are kept for later: {why}");
                backoff.next_pause()
            }
        };
        tokio::select! { () = shutdown.wait() => return, () = tokio::time::sleep(pause) => {} }
    }
}

/// Sends one page of what follows the record `had`; up to which one the database has them now, if there was any to send.
async fn send(ledger: &Arc<Ledger>, database: &Database, had: u64, end: &Shutdown) -> Result<Option<u64>, String> {
    let reader = ledger.clone();
    let (records, last) = match tokio::task::spawn_blocking(move || page(&reader, had)).await {
        Ok(Ok(page)) => page,
        Ok(Err(error)) => return Err(daemon::report(&error)),
        Err(error) => return Err(error.to_string()),
    };
    let Some(first) = records.first().map(|record| record.seq) else { return Ok(None) };
    let reply = tokio::select! {
        () = end.wait() => return Ok(None),
        reply = database.ask(Request::Audit { records }, ANSWER) => reply.map_err(|error| daemon::report(&error))?,
    };
    match reply {
        // After a start it may have more than it was sent now.
        Reply::Acknowledged { upto } if (first..=last).contains(&upto) => Ok(Some(upto)),
        Reply::Acknowledged { upto } => {
            Err(format!("the database has records up to {upto}, but the next is {first} and the last {last}"))
        }
        Reply::Fault { fault, .. } => Err(format!("the database answered {fault}")),
        _ => Err("the database gave an answer to another question".to_owned()),
    }
}

/// The oldest records after `had` that fit one request, and the number of the last that there is.
fn page(ledger: &Ledger, had: u64) -> Result<(Vec<AuditRecord>, u64), LedgerError> {
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
    Ok((records, reader.number(Number::Audit)?))
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
        let ledger = Ledger::open(dir.path(), dir.path(), true, 1 << 20).unwrap();
        let mut event = Event::new(u64::MAX, AuditEvent::StageRefused).outcome("\"".repeat(Text::MAX));
        event.customer = Some("&".repeat(Text::MAX));
        event.address = Some("'".repeat(Text::MAX));
        (event.lease, event.sha256) = (Some([0xff; 16].into()), Some([0xff; 32].into()));
        (event.offset, event.bytes, event.milliseconds) = (Some(u64::MAX), Some(u64::MAX), Some(u64::MAX));
        event.tls = Some(tobj::TlsVersion::Tls12);
        let log = |event: &Event, n| ledger.write(|txn| (0..n).try_for_each(|_| txn.log(event).map(drop))).unwrap();
        log(&event, 20);
        let (records, last) = page(&ledger, 0).unwrap();
        assert_eq!(last, 20);
        assert!((1..20).contains(&records.len()));
        assert!(Message::request(Request::Audit { records }).unwrap().encode().is_ok());

        event = Event::new(1, AuditEvent::Login);
        log(&event, tobj::PAGE + 1);
        let (records, _) = page(&ledger, 20).unwrap();
        assert_eq!((records.len(), records[0].seq), (tobj::PAGE, 21));
    }
}
