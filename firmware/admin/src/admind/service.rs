//! Answering commlinkd.

use super::{Config, checks, update};
use crate::block;
use crate::storage::plan::{Content, Level, Plan};
use crate::storage::record::{self, ORDER, Order, RECORD, Record};
use crate::storage::superblock::Uuid;
use crate::storage::{apply, array, keeps_data, plan};
use crate::tools;
use crate::update::slots::Insist;
use daemon::{Service, Shutdown, ipc};
use keys::site::Role;
use std::collections::BTreeSet;
use std::error::Error;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tobj::{Body, DiskInfo, Fault, Message, Name, Reply, Request, Text};
use tokio::io::AsyncRead;
use tokio::sync::{Mutex, MutexGuard};

/// The unit that brings data disks into use. What it mounts is seen by all; what we would mount only by ourselves.
const STORAGE_UNIT: &str = "ffs-storage.service";
/// The unit that wants everything that runs on an appliance.
const ALL: &str = "ffs.target";

/// Serves until the shutdown.
pub(super) async fn run(path: PathBuf, shutdown: Shutdown) -> Result<(), Box<dyn Error + Send + Sync>> {
    let config: Config = daemon::config::load(&path)?;
    let listener = ipc::bind(&config.socket)?;
    let peers = ipc::Peers::uids(&config.allow_uids);
    let name = Name::new(&config.name)?;
    let service = Admind { name, role: config.role, changing: Mutex::new(()) };
    daemon::notify::ready();
    tracing::info!(name = %service.name, "admind serves");
    Ok(ipc::serve(listener, peers, Arc::new(service), shutdown).await?)
}

/// Why something was not done.
pub(super) struct Refused(pub(super) Fault, pub(super) String);

pub(super) type Answer = Result<Reply, Refused>;

pub(super) fn unavailable(error: impl Error + 'static) -> Refused {
    Refused(Fault::Unavailable, daemon::report(&error))
}

/// Runs what waits for disks or programs beside the runtime.
async fn beside<T: Send + 'static>(work: impl FnOnce() -> Result<T, Refused> + Send + 'static) -> Result<T, Refused> {
    tokio::task::spawn_blocking(work).await.map_err(unavailable)?
}

struct Admind {
    name: Name,
    role: Role,
    /// Held by the one request that changes something.
    changing: Mutex<()>,
}

impl Service for Admind {
    async fn call(&self, from: &str, request: Message, literal: &mut (dyn AsyncRead + Send + Unpin)) -> Message {
        let answer = match &request.body {
            Body::Request(body) => self.answer(from, body, literal).await,
            Body::Reply(_) => Err(Refused(Fault::Invalid, "not a request".into())),
        };
        request.reply(answer.unwrap_or_else(|Refused(fault, why)| {
            tracing::info!(from, why, "a request was refused");
            Reply::refused(fault, &why)
        }))
    }
}

impl Admind {
    async fn answer(&self, from: &str, request: &Request, literal: &mut (dyn AsyncRead + Send + Unpin)) -> Answer {
        // commlinkd decides who may ask; nobody but operators does.
        if !from.starts_with("operator:") {
            return Err(Refused(Fault::Denied, format!("{} is not for {from}", request.tag())));
        }
        match request {
            Request::Status {} => self.status().await,
            Request::StorageStatus {} if keeps_data(self.role) => beside(storage).await,
            Request::StorageCreate { level, disks, adopt } if keeps_data(self.role) => {
                let level = level.as_ref().map(|l| l.as_str().parse::<Level>()).transpose();
                let level = level.map_err(|why| Refused(Fault::Invalid, why))?;
                let disks = disks.iter().map(|d| d.as_str().to_owned()).collect();
                self.create(from, Order { level, disks, adopt: *adopt }).await
            }
            Request::UpdatePush { downgrade, again } => {
                let _one = self.change()?;
                let insist = Insist { downgrade: *downgrade, again: *again };
                update::push(self.role, from, insist, literal).await
            }
            Request::UpdateStatus {} => {
                // The boot partition is mounted in one place only.
                let _one = self.change()?;
                update::show(self.role)
            }
            Request::UpdateConfirm {} => {
                let _one = self.change()?;
                update::confirm(self.role, from).await
            }
            Request::UpdateRollback {} => {
                let _one = self.change()?;
                update::roll_back(self.role, from).await
            }
            Request::Reboot {} => {
                let _one = self.change()?;
                update::reboot(from)
            }
            _ => Err(Refused(Fault::Denied, format!("{} is not for this machine", request.tag()))),
        }
    }

    /// The right to change something.
    fn change(&self) -> Result<MutexGuard<'_, ()>, Refused> {
        self.changing.try_lock().map_err(|_| Refused(Fault::Busy, "another order is being carried out".into()))
    }

    async fn status(&self) -> Answer {
        let storage = keeps_data(self.role);
        let checks = beside(move || Ok(checks::all(storage))).await?;
        let role = Name::new(self.role.as_str()).map_err(unavailable)?;
        let version = Text::lossy(env!("CARGO_PKG_VERSION"));
        Ok(Reply::StatusReport { name: self.name.clone(), role, version, checks })
    }

    async fn create(&self, from: &str, order: Order) -> Answer {
        let _one = self.change()?;
        tracing::warn!(from, ?order, "an order for the data disks");
        beside(move || {
            let record: Option<Record> = record::load(Path::new(RECORD)).map_err(unavailable)?;
            let inventory = apply::look(true).map_err(unavailable)?;
            // Refused here where possible, with the reason; the unit only has an exit status.
            match plan::plan(&inventory, record.as_ref(), Some(&order), true, Uuid([0; 16])) {
                Ok(Plan::Create { .. } | Plan::Adopt(_)) => {}
                Ok(_) => return Err(Refused(Fault::Invalid, "there is nothing to do".into())),
                Err(why) => return Err(Refused(Fault::Invalid, why.to_string())),
            }
            record::save(Path::new(ORDER), &order).map_err(unavailable)?;
            let systemctl = tools::find("systemctl");
            let systemctl = systemctl.ok_or_else(|| Refused(Fault::Unavailable, "systemctl is not there".into()))?;
            let run = |arguments: &[&str]| tools::run(&systemctl, arguments, b"").map_err(unavailable);
            run(&["restart", STORAGE_UNIT])?;
            // What could not start without the disks does now; nobody has to wait for it.
            run(&["start", "--no-block", ALL])?;
            Ok(Reply::Done {})
        })
        .await
    }
}

/// The data disks, in the array and beside it.
fn storage() -> Answer {
    let blocks = block::all(Path::new(block::SYS)).map_err(unavailable)?;
    let array = array::look(Path::new(block::SYS));
    let (healthy, detail) = checks::storage(array.as_ref());
    let name = |text: &str| Name::new(text).map_err(unavailable);
    let model = |disk: &str| {
        let block = blocks.iter().find(|b| b.name == disk);
        let words = block.map(|b| [b.model.as_deref(), b.serial.as_deref()].into_iter().flatten().collect::<Vec<_>>());
        Text::lossy(&words.unwrap_or_default().join(" "))
    };
    let size = |disk: &str| blocks.iter().find(|b| b.name == disk).map_or(0, |b| b.size);
    let mut disks = Vec::new();
    for member in array.iter().flat_map(|a| &a.members) {
        let errors = if member.errors > 0 { format!(", {} errors", member.errors) } else { String::new() };
        disks.push(DiskInfo {
            name: name(&member.disk)?,
            size: size(&member.disk),
            model: model(&member.disk),
            member: true,
            state: Text::lossy(&format!("{}{errors}", member.state)),
        });
    }
    let seen: BTreeSet<String> = disks.iter().map(|d| d.name.to_string()).collect();
    for disk in apply::look(true).map_err(unavailable)?.disks.into_iter().filter(|d| !seen.contains(&d.name)) {
        let state = match disk.content {
            Content::Blank => "blank".to_owned(),
            Content::Member(s) => format!("of the array {} ({})", s.array, s.name),
            Content::Other(what) => what,
        };
        disks.push(DiskInfo {
            name: name(&disk.name)?,
            size: disk.size,
            model: model(&disk.name),
            member: false,
            state: Text::lossy(&state),
        });
    }
    Ok(Reply::Storage {
        device: array.as_ref().map(|_| name(array::NAME)).transpose()?,
        array: array.as_ref().map(|a| Text::lossy(&a.array.to_string())),
        level: array.as_ref().map(|a| name(&a.level)).transpose()?,
        healthy,
        detail: Text::lossy(&detail),
        disks,
    })
}
