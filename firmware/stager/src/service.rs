//! What commlinkd brings: staging for the web appliance, the storeroom and the leases for operators.

use crate::clock::Clock;
use crate::database::Database;
use crate::engine::{Handle, Refusal, STOPPED, Settled, Work};
use crate::grants::{GrantError, Verifier};
use crate::ingest::Intake;
use crate::ledger::{Ledger, LedgerError, Number};
use crate::outbox::Trouble;
use crate::reconcile::Amiss;
use crate::rows::{Event, State};
use crate::sessions::Sessions;
use crate::tree::{Place, Tree, TreeError};
use crate::verify;
use daemon::Service;
use std::sync::{Arc, Mutex, PoisonError};
use tobj::{
    AuditEvent, Body, Check, Fault, Id, LeaseInfo, LeaseState, LinkInfo, Message, Name, ObjectState, Reply, Request,
    Secret, StoredObject, Text, Timestamp,
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
    pub verifier: Arc<Verifier>,
    /// Takes objects in.
    pub intake: Intake,
    /// Reads them again.
    pub verify: Arc<verify::Verifier>,
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
    /// Why the database does not take audit records.
    pub trouble: Trouble,
    /// The ftp sessions.
    pub sessions: Arc<Sessions>,
    /// Bytes that objects leave free.
    pub floor: u64,
    /// What start-up found, and what is not yet put right of it.
    pub amiss: Arc<Mutex<Amiss>>,
}

/// Why a request was not answered as asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
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
                Ok(self.intake.put(length, *sha256, from, literal).await?)
            }
            (Request::ObjectAppend { sha256, offset }, Some(length)) if operator => {
                Ok(self.intake.append(*sha256, *offset, length, from, literal).await?)
            }
            (Request::ObjectPut { .. } | Request::ObjectAppend { .. }, None) if operator => {
                refused(Fault::Invalid, "an object needs its bytes")
            }
            (_, Some(_)) => refused(Fault::Invalid, "this request has no binary body"),
            (Request::Status {}, _) => self.status().await,
            // The grant is what allows this, whoever brings it.
            (Request::Stage { grant }, _) => self.stage(from, message.id, grant).await,
            (Request::ObjectBegin { sha256, size }, _) if operator => Ok(self.intake.begin(*sha256, *size).await?),
            (Request::ObjectStore { offset }, _) if operator => self.objects(*offset).await,
            (Request::ObjectVerify { sha256 }, _) if operator => {
                let reply = self.once(message.id, Work::Verify { sha256: *sha256, by: from.to_owned() }).await?;
                self.verify.wake();
                Ok(reply)
            }
            (Request::ObjectRetire { sha256, force }, _) if operator => {
                self.once(message.id, Work::Retire { sha256: *sha256, force: *force, by: from.to_owned() }).await
            }
            (Request::LeaseList { offset }, _) if operator => self.list(*offset).await,
            (Request::LeaseShow { lease }, _) if operator => self.show(*lease).await,
            (Request::LeaseRevoke { lease }, _) if operator => {
                self.once(message.id, Work::Revoke { lease: *lease, by: from.to_owned() }).await
            }
            _ => refused(Fault::Denied, format!("{} is not for {from}", request.tag().as_str())),
        }
    }

    /// An order that a link may bring again.
    async fn once(&self, request: Id, order: Work) -> Result<Reply> {
        Ok(self.engine.ask(Work::Once { request, order: Box::new(order) }).await?)
    }

    async fn stage(&self, from: &str, request: Id, token: &Secret) -> Result<Reply> {
        let now = self.clock.now();
        match self.verifier.verify(token, now) {
            Ok(grant) => Ok(self.engine.ask(Work::Stage { request, grant }).await?),
            Err(error) => {
                let why = format!("{error} (brought by {from})");
                let event = Event::new(now.at, AuditEvent::StageRefused).outcome(why.clone());
                self.engine.ride(Work::Refused { event, fold: false });
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

    async fn objects(&self, offset: u64) -> Result<Reply> {
        let ledger = self.ledger.clone();
        let offset = usize::try_from(offset).unwrap_or(usize::MAX);
        let page = tokio::task::spawn_blocking(move || {
            let read = ledger.read()?;
            let mut rows = read.objects(None)?.skip(offset);
            let mut items = Vec::new();
            for entry in rows.by_ref().take(tobj::PAGE) {
                let (sha256, object) = entry?;
                items.push(StoredObject {
                    sha256,
                    size: object.size,
                    state: object.state,
                    leases: read.holders(sha256)?,
                    added: Timestamp(object.at),
                    verified: (object.verified > 0).then_some(Timestamp(object.verified)),
                });
            }
            Ok::<_, LedgerError>((items, rows.next().is_some()))
        });
        let (items, more) = page.await??;
        Ok(Reply::Storeroom { items, more })
    }

    async fn show(&self, id: Id) -> Result<Reply> {
        let (ledger, tree, settled) = (self.ledger.clone(), self.tree.clone(), self.engine.settled(id));
        let look = move || {
            let lease = ledger.read()?.lease(id)?;
            let lease = lease.filter(|lease| lease.state != State::Removing && settled != Some(Settled::Gone));
            let Some(lease) = lease else { return refused(Fault::NotFound, "there is no such lease") };
            let link = match (tree.look(&Place::of(id, &lease))?, tree.object(lease.sha256)?) {
                (Some(link), Some(object)) => Some(LinkInfo {
                    inode: link.inode,
                    storeroom_inode: object.inode,
                    links: link.links,
                    device: link.device,
                    filesystem: Text::lossy(&tree.file_system()?),
                }),
                _ => None,
            };
            Ok(Reply::Lease { lease: as_settled(lease.info(id), settled), link })
        };
        tokio::task::spawn_blocking(look).await?
    }

    async fn status(&self) -> Result<Reply> {
        let (ledger, tree) = (self.ledger.clone(), self.tree.clone());
        let amiss = self.amiss.clone();
        let look = tokio::task::spawn_blocking(move || {
            let amiss = amiss.lock().unwrap_or_else(PoisonError::into_inner).look(&ledger, &tree);
            (amiss, Look::at(&ledger), Disk::at(&tree))
        });
        let (amiss, looked, disk) = look.await?;
        let mut checks = vec![match amiss {
            Ok((well, told)) => check("start-up", well, told),
            Err(error) => check("start-up", false, daemon::report(&error)),
        }];
        match &looked {
            Ok(look) => {
                checks.push(match self.engine.is_running() {
                    true => check("ledger", true, format!("{} leases", look.leases)),
                    false => check("ledger", false, STOPPED.to_owned()),
                });
                let backlog = look.backlog(self.clock.now().at);
                checks.push(match self.trouble.get() {
                    Some(why) => check("outbox", false, format!("{why}; {backlog}")),
                    None => check("outbox", look.outbox < BACKLOG, backlog),
                });
                let (stalled, objects) = (self.engine.stalled(), look.objects(self.verify.doing().is_some()));
                let healthy = look.damaged == 0 && stalled.is_none();
                let stalled = stalled.map_or_else(String::new, |why| format!("; {why}"));
                checks.push(check("objects", healthy, objects + &stalled));
            }
            Err(error) => checks.push(check("ledger", false, daemon::report(error))),
        }
        checks.push(self.storeroom(disk));
        checks.push(match self.engine.unlinked() {
            Some(why) => check("staging", false, why),
            None => check("staging", true, "the last link was not refused".to_owned()),
        });
        checks.push(check("sessions", true, format!("{} ftp sessions", self.sessions.count())));
        let (healthy, detail) = self.database.health();
        checks.push(check("database", healthy, detail));
        let trusted = self.clock.now().trusted;
        let detail = if trusted { "as the database's" } else { "not confirmed by the database; nothing expires" };
        checks.push(check("time", true, detail.to_owned()));
        status_report(&self.name, checks)
    }

    /// Whether the disk takes what there is to write.
    fn storeroom(&self, disk: std::result::Result<Disk, TreeError>) -> Option<Check> {
        let Disk { free, all, read_only } = match disk {
            Ok(disk) => disk,
            Err(error) => return check("storeroom", false, daemon::report(&error)),
        };
        let (is_low, least) = (free <= self.floor, self.floor);
        let free = format!("{free} of {all} bytes are free");
        match self.intake.failure() {
            _ if read_only => check("storeroom", false, "the file system is read-only".to_owned()),
            Some(why) => check("storeroom", false, format!("the last object could not be written: {why}; {free}")),
            None if is_low => {
                check("storeroom", false, format!("{free}; below {least}, no object comes in (min_free_bytes)"))
            }
            None => check("storeroom", true, free),
        }
    }
}

/// A report of this role.
pub(crate) fn status_report(name: &Name, checks: Vec<Option<Check>>) -> Result<Reply> {
    let role = Name::new("download").or_else(|_| refused(Fault::Unavailable, "no role"))?;
    let (name, version) = (name.clone(), Text::lossy(env!("CARGO_PKG_VERSION")));
    Ok(Reply::StatusReport { name, role, version, checks: checks.into_iter().flatten().collect() })
}

/// What the file system has to tell of itself.
struct Disk {
    /// Bytes, as [`Tree::space`] has them.
    free: u64,
    all: u64,
    read_only: bool,
}

impl Disk {
    fn at(tree: &Tree) -> std::result::Result<Self, TreeError> {
        let (free, all) = tree.space()?;
        Ok(Self { free, all, read_only: tree.is_read_only()? })
    }
}

/// What the ledger has to tell of itself.
struct Look {
    leases: u64,
    outbox: u64,
    /// When the oldest record was made that the database does not have yet.
    oldest: Option<u64>,
    objects: u64,
    /// The last pass over the storeroom that was begun; 0 for none.
    pass: u64,
    behind: u64,
    damaged: u64,
}

impl Look {
    fn at(ledger: &Ledger) -> std::result::Result<Self, LedgerError> {
        let read = ledger.read()?;
        let (leases, outbox, _) = read.counts()?;
        let oldest = read.outbox(0)?.next().transpose()?.map(|(_, event)| event.at);
        let pass = read.number(Number::Pass)?;
        let mut look = Self { leases, outbox, oldest, objects: 0, pass, behind: 0, damaged: 0 };
        for entry in read.objects(None)? {
            let (_, object) = entry?;
            look.objects += 1;
            look.behind += u64::from(object.pass < pass);
            look.damaged += u64::from(object.state == ObjectState::Damaged);
        }
        Ok(look)
    }

    fn backlog(&self, now: u64) -> String {
        let age = self.oldest.map_or(0, |at| now.saturating_sub(at));
        match self.outbox {
            0 => "the database has every audit record".to_owned(),
            n => format!("{n} audit records to be acknowledged by the database, the oldest {age} s old"),
        }
    }

    fn objects(&self, reading: bool) -> String {
        let damaged = match self.damaged {
            0 => String::new(),
            n => format!("; {n} are damaged and in quarantine: put them in again"),
        };
        let behind = match (self.pass, self.behind, reading) {
            (0, ..) => "never verified since they came in".to_owned(),
            (pass, 0, _) => format!("all verified in pass {pass}, or come in since it began"),
            (_, n, true) => format!("{n} to be verified; one is being read"),
            (_, n, false) => format!("{n} to be verified"),
        };
        format!("{} objects, {behind}{damaged}", self.objects)
    }
}

pub(crate) fn check(name: &str, healthy: bool, detail: String) -> Option<Check> {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::logins::tests::{door, runtime};
    use crate::sessions::PerCustomer;
    use crate::testkit::{Kit, content, grant};
    use crate::tree::Op;
    use nix::errno::Errno;
    use tobj::LeaseKind::OneTime;

    fn stager(kit: &Kit) -> Stager {
        let (tree, ledger, engine) = (kit.tree.clone(), kit.ledger.clone(), kit.engine.clone());
        let parts = verify::Parts {
            tree: tree.clone(),
            ledger: ledger.clone(),
            engine: engine.clone(),
            clock: kit.clock.clone(),
        };
        let door = door(kit, &engine, 0);
        Stager {
            name: "download".parse().unwrap(),
            verifier: door.verifier.clone(),
            intake: Intake::new(tree.clone(), ledger.clone(), engine.clone(), 0),
            verify: Arc::new(verify::Verifier::start(parts, verify::Pace { bytes_per_second: 0, days: 0 }).unwrap()),
            tree,
            ledger,
            engine,
            clock: kit.clock.clone(),
            database: door.database.clone(),
            trouble: Trouble::default(),
            sessions: Arc::new(Sessions::new(door, PerCustomer { sessions: 1, bytes_per_second: 0 })),
            floor: 0,
            amiss: Arc::new(Mutex::new(Amiss::new(crate::reconcile::Report::default()))),
        }
    }

    #[test]
    fn a_link_that_was_refused_is_told_until_one_is_made() {
        let kit = Kit::new();
        let (stager, runtime) = (stager(&kit), runtime());
        let told = || {
            let status = runtime.block_on(stager.status());
            let Ok(Reply::StatusReport { checks, .. }) = status else { panic!("no status: {status:?}") };
            let check = checks.into_iter().find(|check| check.name.as_str() == "staging").unwrap();
            (check.healthy, check.detail.to_string())
        };
        assert!(told().0);
        for (n, errno, words) in [(1, Errno::EMLINK, "end leases of the object"), (2, Errno::EDQUOT, "quota")] {
            kit.tree.faults().arm(Op::Link, 1, errno);
            assert_eq!(kit.stage(n, &grant(n, OneTime)).unwrap_err().fault, Fault::Unavailable);
            let (healthy, detail) = told();
            assert!(!healthy && detail.contains("was refused") && detail.contains(words), "{detail}");
            kit.tree.faults().disarm();
            assert!(!told().0, "none was made since");
            kit.stage(n, &grant(n, OneTime)).unwrap();
            assert!(told().0);
        }
        // What the caller may be to blame for says nothing of the file system.
        kit.lose_object();
        assert_eq!(kit.stage(3, &grant(3, OneTime)).unwrap_err().fault, Fault::NotFound);
        assert!(told().0);
    }

    #[test]
    fn an_order_that_comes_again_gets_its_first_answer() {
        let kit = Kit::new();
        let (stager, runtime) = (stager(&kit), runtime());
        let lease = kit.staged(1, OneTime);
        let order = |id: u8, request: Request| {
            let message = Message { id: [id; 16].into(), literal: None, body: Body::Request(request) };
            let answer = runtime.block_on(stager.call("operator:eve", message, &mut tokio::io::empty()));
            let Body::Reply(reply) = answer.body else { panic!("no reply") };
            match reply {
                Reply::Done {} => None,
                Reply::Fault { fault, .. } => Some(fault),
                other => panic!("{other:?}"),
            }
        };
        let pass = || kit.ledger.read().unwrap().number(Number::Pass).unwrap();
        let retire = || Request::ObjectRetire { sha256: content(), force: false };
        for _ in 0..2 {
            assert_eq!(order(1, Request::LeaseRevoke { lease }), None);
            assert_eq!(order(2, Request::ObjectVerify { sha256: None }), None);
            assert_eq!(order(3, retire()), None);
            kit.flush();
            assert_eq!((kit.lease(lease), pass()), (None, 1));
        }
        assert_eq!(order(1, retire()), Some(Fault::Invalid), "its ID is another's");
        assert_eq!(order(4, Request::LeaseRevoke { lease }), Some(Fault::NotFound), "another request");
    }

    #[test]
    fn what_was_lost_at_the_start_is_told_until_it_is_put_right() {
        let mut kit = Kit::new();
        kit.stop();
        kit.lose_object();
        let (kit, report) = kit.again();
        let (mut stager, runtime) = (stager(&kit), runtime());
        stager.amiss = Arc::new(Mutex::new(Amiss::new(report)));
        let told = || {
            let status = runtime.block_on(stager.status());
            let Ok(Reply::StatusReport { checks, .. }) = status else { panic!("no status: {status:?}") };
            checks.into_iter().find(|check| check.name.as_str() == "start-up").unwrap().healthy
        };
        assert!(!told());
        kit.object(crate::testkit::CONTENT);
        assert!(told());
    }

    #[test]
    fn an_object_that_waits_for_links_is_told() {
        let kit = Kit::new();
        let (stager, runtime) = (stager(&kit), runtime());
        kit.staged(1, OneTime);
        let told = || {
            let status = runtime.block_on(stager.status());
            let Ok(Reply::StatusReport { checks, .. }) = status else { panic!("no status: {status:?}") };
            let check = checks.into_iter().find(|check| check.name.as_str() == "objects").unwrap();
            (check.healthy, check.detail.to_string())
        };
        kit.lose_object();
        kit.object(crate::testkit::CONTENT);
        kit.tree.faults().arm(Op::Link, 1, Errno::ENOSPC);
        assert!(told().0);
        let size = crate::testkit::CONTENT.len() as u64;
        kit.ask(Work::Store { sha256: content(), size, fresh: true, by: "operator:eve".into() }).unwrap();
        crate::testkit::eventually("it is told", || !told().0);
        let detail = told().1;
        assert!(detail.contains("wait for the links of their leases: the file system is full"), "{detail}");
        kit.tree.faults().disarm();
        kit.ask(Work::Sweep).unwrap();
        crate::testkit::eventually("it is served", || told().0);
    }

    #[test]
    fn a_disk_that_hangs_holds_up_nobody_else() {
        use crate::testkit::on_a_disk_that_hangs;
        let kit = Kit::new();
        let (stager, lease) = (stager(&kit), kit.staged(1, OneTime));
        let status = on_a_disk_that_hangs(&kit, stager.status());
        assert!(matches!(status, Ok(Reply::StatusReport { .. })), "{status:?}");
        let shown = on_a_disk_that_hangs(&kit, stager.show(lease));
        assert!(matches!(shown, Ok(Reply::Lease { link: Some(_), .. })), "{shown:?}");
    }

    #[test]
    fn which_pass_the_objects_were_verified_in() {
        let kit = Kit::new();
        let said = || Look::at(&kit.ledger).unwrap().objects(false);
        assert_eq!(said(), "1 objects, never verified since they came in");
        kit.ask(Work::Verify { sha256: None, by: "operator:eve".into() }).unwrap();
        assert_eq!(said(), "1 objects, 1 to be verified");
        kit.ask(Work::Verified { sha256: content(), pass: 1 }).unwrap();
        assert_eq!(said(), "1 objects, all verified in pass 1, or come in since it began");
    }
}
