//! RETR: a file on its way, from the question to the end of its record.

use super::{Answer, Gate, refused};
use crate::gatekeeper::{Outcome, Over};
use crate::metrics::Event;
use crate::path::resolve;
use crate::session::data::Passive;
use crate::session::progress::{Progress, counted};
use crate::session::pump::{self, Cut, Left, Order};
use crate::session::shared::Body;
use crate::session::transfer::{Failure, transfer};
use std::fs::File;
use std::io;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, timeout};

/// How long the end of a transfer that was cut waits for the last count, before it takes the one that was written last.
const LAST_COUNT: Duration = Duration::from_millis(250);

impl Gate {
    pub(super) async fn retrieve(&mut self, name: &str) -> io::Result<Answer> {
        let offset = std::mem::take(&mut self.offset);
        let Some(passive) = self.passive.take() else { return Ok("425 PASV or EPSV comes first".into()) };
        let path = resolve(&self.cwd, name);
        self.shared.offset.store(offset, Relaxed);
        let (work, _loopback) = match self.begin("RETR", &path).await? {
            Ok(begun) => begun,
            Err(answer) => return Ok(answer),
        };
        let Body::File { file, from, to } = work.body else { return Err(io::Error::other("RETR of a listing")) };
        let tls = self.client.tls().filter(|_| self.private);
        let asked = async { self.shared.gatekeeper.lock().await.begin(&path, from, tls).await };
        let (begun, aborted) = self.client.settle(asked).await?;
        let outcome = match begun {
            Ok(number) if aborted => {
                self.close_record(number, Over { bytes: 0, tls: None, outcome: Outcome::Aborted }).await;
                Ok(Err(Failure::Aborted))
            }
            Ok(number) => Ok(self.send_file(passive, number, file, from, to).await?),
            Err(refusal) => Err(refusal),
        };
        self.over(work.done).await?;
        Ok(match outcome {
            _ if aborted => "".into(),
            Ok(Ok(())) => "226 Sent".into(),
            Ok(Err(failure)) => failure.reply().into(),
            Err(refusal) => refused(&refusal),
        })
    }

    /// Sends a file whose transfer is on record, and closes the record.
    async fn send_file(
        &mut self,
        passive: Passive,
        number: u64,
        file: File,
        from: u64,
        to: u64,
    ) -> io::Result<Result<(), Failure>> {
        let Some(counter) = self.counter.clone() else { return Err(io::ErrorKind::PermissionDenied.into()) };
        let config = &self.context.config;
        let (stall, rate) = (config.stall(), config.session_bytes_per_second);
        let (progress, left) = (Progress::new(counter.clone()), Left::default());
        let order = Order { file, from, to, progress, stall, rate, left: left.clone() };
        let (tell, mut told) = oneshot::channel();
        let (begun, mut tls) = (Instant::now(), None);
        let disk = &self.shared.disk;
        let announced = || self.fruitless = 0;
        let sent = transfer(&mut self.client, passive, config, announced, async |data| {
            tls = data.tls();
            let line = data.into_line()?;
            let cut = Cut::of(&line, left)?;
            let outcome = disk.begin(move || {
                let sent = pump::send(line, order);
                let _ = tell.send(sent.bytes);
                sent.outcome
            });
            let outcome = tokio::select! {
                outcome = outcome? => outcome.map_err(io::Error::other)?,
                () = stuck(&counter, stall) => return Err(io::Error::from_raw_os_error(libc::EIO)),
            };
            cut.spare();
            outcome
        })
        .await;
        // After ABOR the pump ends in a moment; unless it waits for the disk, it knows what has come to the client.
        let bytes = match timeout(LAST_COUNT, &mut told).await {
            Ok(Ok(bytes)) => bytes,
            _ => counted(&counter),
        };
        let outcome = match &sent {
            Ok(Ok(())) => Outcome::Complete,
            Ok(Err(Failure::Aborted)) => Outcome::Aborted,
            Ok(Err(_)) => Outcome::Failed,
            // The client closed its control connection.
            Err(_) => Outcome::Aborted,
        };
        tracing::info!(number, from, bytes, tls = self.private, outcome = outcome.as_str(), "transfer over");
        let millis = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        let whole = outcome == Outcome::Complete;
        self.context.note(Event::Transfer { tls: self.private, whole, bytes, millis });
        if let Ok(Err(failure)) = &sent
            && let Some(limit) = failure.limit()
        {
            self.context.note(Event::Limit(limit));
        }
        self.close_record(number, Over { bytes, tls, outcome }).await;
        sent
    }

    async fn close_record(&mut self, number: u64, over: Over) {
        let ended = self.shared.gatekeeper.lock().await.end(number, over).await;
        if let Err(refusal) = ended {
            // The bytes are with the client. stagerd closes the record itself, by the count that it shares.
            tracing::warn!("the end of a transfer could not be told: {}", daemon::report(&refusal));
        }
    }
}

/// Waits until the count of a transfer has not grown for two such times: then not the client stalls, which the pump would have
/// noticed, but the disk.
async fn stuck(counter: &File, stall: Duration) {
    let (mut last, mut still) = (counted(counter), 0);
    while still < 2 {
        sleep(stall).await;
        let now = counted(counter);
        still = if now == last { still + 1 } else { 0 };
        last = now;
    }
}
