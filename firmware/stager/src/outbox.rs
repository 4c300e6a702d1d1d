//! The outbox: audit records stay in the ledger until the database has them.
//!
//! Records are numbered without gaps by the ledger and sent in order; the database keeps each number once and says up to which one
//! its records are durable. Only then are they dropped here, so a lost answer means that records are sent again, never that they
//! are lost or doubled.

use crate::database::{ANSWER, Backoff, Database};
use crate::engine::{Handle, Work};
use crate::ledger::{Ledger, LedgerError};
use daemon::Shutdown;
use std::sync::Arc;
use std::time::Duration;
use tobj::{AuditRecord, Reply, Request, Text};

/// Bytes of text that one request holds at most, by a rough count that is never too low for it to fit a Tobj.
const ROOM: usize = tobj::MAX_BYTES - 4096;
/// How often the outbox is looked at without a commit.
const LOOK: Duration = Duration::from_secs(60);

/// Sends what is in the outbox, until the shutdown.
pub async fn run(ledger: Arc<Ledger>, database: Arc<Database>, engine: Handle, shutdown: Shutdown) {
    let mut backoff = Backoff::default();
    while !shutdown.started() {
        let pause = match send(&ledger, &database, &engine, &shutdown).await {
            Ok(true) => {
                backoff.reset();
                continue;
            }
            Ok(false) => {
                tokio::select! {
                    () = engine.committed() => continue,
                    () = shutdown.wait() => return,
                    () = tokio::time::sleep(LOOK) => continue,
                }
            }
            Err(why) => {
                tracing::warn!("audit records are kept for later: {why}");
                backoff.next_pause()
            }
        };
        tokio::select! { () = shutdown.wait() => return, () = tokio::time::sleep(pause) => {} }
    }
}

/// Sends one page; whether there was one.
async fn send(ledger: &Arc<Ledger>, database: &Database, engine: &Handle, end: &Shutdown) -> Result<bool, String> {
    let reader = ledger.clone();
    let records = match tokio::task::spawn_blocking(move || page(&reader)).await {
        Ok(Ok(records)) => records,
        Ok(Err(error)) => return Err(daemon::report(&error)),
        Err(error) => return Err(error.to_string()),
    };
    let Some(first) = records.first().map(|record| record.seq) else { return Ok(false) };
    let reply = tokio::select! {
        () = end.wait() => return Ok(false),
        reply = database.ask(Request::Audit { records }, ANSWER) => reply.map_err(|error| daemon::report(&error))?,
    };
    match reply {
        Reply::Acknowledged { upto } if upto >= first => match engine.ask(Work::Acknowledge { upto }).await {
            Ok(_) => Ok(true),
            Err(refusal) => Err(refusal.to_string()),
        },
        Reply::Acknowledged { upto } => Err(format!("the database has records up to {upto}, not those from {first}")),
        Reply::Fault { fault, .. } => Err(format!("the database answered {fault}")),
        _ => Err("the database gave an answer to another question".to_owned()),
    }
}

/// The oldest records that fit one request.
fn page(ledger: &Ledger) -> Result<Vec<AuditRecord>, LedgerError> {
    let mut records = Vec::new();
    let mut room = ROOM;
    for entry in ledger.read()?.outbox()? {
        let (seq, event) = entry?;
        let record = event.record(seq);
        let size = weight(&record);
        if records.len() == tobj::PAGE || size > room {
            break;
        }
        room -= size;
        records.push(record);
    }
    Ok(records)
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
        let records = page(&ledger).unwrap();
        assert!((1..20).contains(&records.len()));
        assert!(Message::request(Request::Audit { records }).unwrap().encode().is_ok());

        ledger.write(|txn| txn.acknowledge(20)).unwrap();
        event = Event::new(1, AuditEvent::Login);
        log(&event, tobj::PAGE + 1);
        let records = page(&ledger).unwrap();
        assert_eq!((records.len(), records[0].seq), (tobj::PAGE, 21));
    }
}
