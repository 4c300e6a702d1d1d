//! What commlinkd brings: staging for the web appliance, the storeroom and the leases for operators.

use crate::clock::Clock;
use crate::database::Database;
use crate::engine::{Handle, Refusal, Settled, Work};
use crate::grants::{GrantError, Verifier};
use crate::ledger::{Ledger, LedgerError};
use crate::reconcile::Report;
use crate::rows::{Event, State};
use crate::sessions::Sessions;
use crate::tree::{Place, Tree, TreeError};
use daemon::Service;
use std::sync::Arc;
use tobj::{
    AuditEvent, Body, Check, Fault, Id, LeaseInfo, LeaseState, LinkInfo, Message, Name, Reply, Request, Secret, Text,
};
use tokio::io::AsyncRead;

/// Bytes of text that a page of leases holds at most, by a rough count that is never too low.
const ROOM: usize = tobj::MAX_BYTES - 4096;
/// Unacknowledged audit records from which on something is wrong with the way to the database.
pub const BACKLOG: u64 = 10_000;

/// Answers requests.
pub struct Stager {
    /// This appliance.
    pub name: Name,
    /// Checks grants.
    pub verifier: Verifier,
    /// Files.
    pub tree: Arc<Tree>,
    /// What is leased.
    pub ledger: Arc<Ledger>,
    /// Changes things.
    pub engine: Handle,
    /// The time.
    pub clock: Clock,
    /// The way to the database.
    pub database: Arc<Database>,
    /// The ftp sessions.
    pub sessions: Arc<Sessions>,
    /// Bytes that objects leave free.
    pub floor: u64,
    /// What start-up found.
    pub found: Report,
}

/// Why a request was not answered as asked.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error("the ledger cannot be read")]
    Ledger(#[from] LedgerError),
    #[error("the file system cannot be read")]
    Tree(#[from] TreeError),
    #[error("a task failed")]
    Task(#[from] tokio::task::JoinError),
}

impl Failure {
    fn fault(&self) -> Fault {
        match self {
            Self::Refused(refusal) => refusal.fault,
            Self::Ledger(_) | Self::Tree(_) | Self::Task(_) => Fault::Unavailable,
        }
    }
}

type Result<T> = std::result::Result<T, Failure>;

fn refused<T>(fault: Fault, why: impl Into<String>) -> Result<T> {
    Err(Refusal::new(fault, why).into())
}

impl Service for Stager {
    async fn call(&self, from: &str, message: Message, literal: &mut (dyn AsyncRead + Send + Unpin)) -> Message {
        let operator = from.starts_with("operator:");
        let reply = match self.answer(from, operator, &message, literal).await {
            Ok(reply) => reply,
            Err(failure) => {
                let why = daemon::report(&failure);
                tracing::info!(from, id = %message.id, why, "a request was refused");
                Reply::refused(failure.fault(), &why)
            }
        };
        message.reply(if operator { reply } else { reply.opaque() })
    }
}

impl Stager {
    async fn answer(
        &self,
        from: &str,
        operator: bool,
        message: &Message,
        literal: &mut (dyn AsyncRead + Send + Unpin),
    ) -> Result<Reply> {
        let Body::Request(request) = &message.body else { return refused(Fault::Invalid, "not a request") };
        match (request, message.literal) {
            (Request::ObjectPut { sha256 }, Some(length)) if operator => {
                let put = crate::ingest::put(&self.tree, &self.engine, length, *sha256, from, self.floor, literal);
                Ok(put.await?)
            }
            (Request::ObjectPut { .. }, None) if operator => refused(Fault::Invalid, "an object needs its bytes"),
            (_, Some(_)) => refused(Fault::Invalid, "this request has no binary body"),
            (Request::Status {}, _) => self.status().await,
            // The grant is what allows this, whoever brings it.
            (Request::Stage { grant }, _) => self.stage(from, message.id, grant).await,
            (Request::LeaseList { offset }, _) if operator => self.list(*offset).await,
            (Request::LeaseShow { lease }, _) if operator => self.show(*lease).await,
            (Request::LeaseRevoke { lease }, _) if operator => {
                Ok(self.engine.ask(Work::Revoke { lease: *lease, by: from.to_owned() }).await?)
            }
            _ => refused(Fault::Denied, format!("{} is not for {from}", request.tag().as_str())),
        }
    }

    async fn stage(&self, from: &str, request: Id, token: &Secret) -> Result<Reply> {
        let now = self.clock.now();
        match self.verifier.verify(token, now) {
            Ok(grant) => Ok(self.engine.ask(Work::Stage { request, grant }).await?),
            Err(error) => {
                let why = format!("{error} (brought by {from})");
                let event = Event::new(now.at, AuditEvent::StageRefused).outcome(why.clone());
                self.engine.ride(Work::Note(event));
                let fault = if error == GrantError::Expired { Fault::Expired } else { Fault::Denied };
                refused(fault, why)
            }
        }
    }

    async fn list(&self, offset: u64) -> Result<Reply> {
        let (ledger, engine) = (self.ledger.clone(), self.engine.clone());
        let offset = usize::try_from(offset).unwrap_or(usize::MAX);
        let page = tokio::task::spawn_blocking(move || page(&ledger, &engine, offset));
        let (items, more) = page.await??;
        Ok(Reply::Leases { items, more })
    }

    async fn show(&self, id: Id) -> Result<Reply> {
        let settled = self.engine.settled(id);
        let lease = self.ledger.read()?.lease(id)?;
        let Some(lease) = lease.filter(|lease| lease.state != State::Removing && settled != Some(Settled::Gone)) else {
            return refused(Fault::NotFound, "there is no such lease");
        };
        let link = match (self.tree.look(&Place::of(id, &lease))?, self.tree.object(lease.sha256)?) {
            (Some(link), Some(object)) => Some(LinkInfo {
                inode: link.inode,
                storeroom_inode: object.inode,
                links: link.links,
                device: link.device,
                filesystem: Text::lossy(&self.tree.file_system()?),
            }),
            _ => None,
        };
        Ok(Reply::Lease { lease: as_settled(lease.info(id), settled), link })
    }

    async fn status(&self) -> Result<Reply> {
        let counts = self.ledger.read().and_then(|read| read.counts());
        let mut checks = Vec::new();
        match counts {
            Ok((leases, outbox, _)) => {
                let repaired = &self.found;
                let detail = format!("{leases} leases; at start-up {} links were made again", repaired.relinked);
                checks.push(check("ledger", true, detail));
                checks.push(check("outbox", outbox < BACKLOG, format!("{outbox} audit records to be acknowledged")));
            }
            Err(error) => checks.push(check("ledger", false, daemon::report(&error))),
        }
        checks.push(match self.tree.space() {
            Ok((free, all)) => {
                let lost = self.found.missing.len() + self.found.broken;
                let detail = match lost {
                    0 => format!("{free} of {all} bytes are free"),
                    _ => format!("{lost} objects or links are missing; {free} of {all} bytes are free"),
                };
                check("storeroom", lost == 0 && free > self.floor, detail)
            }
            Err(error) => check("storeroom", false, daemon::report(&error)),
        });
        checks.push(check("sessions", true, format!("{} ftp sessions", self.sessions.count())));
        let (healthy, detail) = self.database.health();
        checks.push(check("database", healthy, detail));
        let trusted = self.clock.now().trusted;
        let detail = if trusted { "as the database's" } else { "not confirmed by the database; nothing expires" };
        checks.push(check("time", true, detail.to_owned()));
        let role = Name::new("download").or_else(|_| refused(Fault::Unavailable, "no role"))?;
        Ok(Reply::StatusReport {
            name: self.name.clone(),
            role,
            version: Text::lossy(env!("CARGO_PKG_VERSION")),
            checks: checks.into_iter().flatten().collect(),
        })
    }
}

fn check(name: &str, healthy: bool, detail: String) -> Option<Check> {
    Some(Check { name: Name::new(name).ok()?, healthy, detail: Text::lossy(&detail) })
}

fn as_settled(mut info: LeaseInfo, settled: Option<Settled>) -> LeaseInfo {
    if settled == Some(Settled::Linked) && info.state == LeaseState::Pending {
        info.state = LeaseState::Active;
    }
    info
}

fn page(ledger: &Ledger, engine: &Handle, offset: usize) -> std::result::Result<(Vec<LeaseInfo>, bool), LedgerError> {
    let (mut items, mut room) = (Vec::new(), ROOM);
    let settled = engine.all_settled();
    for entry in ledger.read()?.leases(offset)? {
        let (id, lease) = entry?;
        // A lease whose link has just gone is listed as ending until its row is dropped: offsets count rows.
        let info = as_settled(lease.info(id), settled.get(&id).copied());
        // Names are of few letters; those of files, which stand in it twice, may grow sixfold as text.
        let size = 1400 + 12 * info.file.as_str().len();
        if items.len() == tobj::PAGE || size > room {
            return Ok((items, true));
        }
        room -= size;
        items.push(info);
    }
    Ok((items, false))
}
