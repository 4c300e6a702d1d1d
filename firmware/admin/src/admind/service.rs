//! Answering commlinkd.

use super::log::Query;
use super::storage::Watch;
use super::{Config, checks, log, report, storage, tls, update};
use crate::certificate::Pair;
use crate::state::{mount, reset};
use crate::storage::change::Change;
use crate::storage::keeps_data;
use crate::storage::plan::Level;
use crate::storage::record::Order;
use crate::update::slots::Insist;
use daemon::{Service, Shutdown, ipc};
use keys::site::Role;
use std::error::Error;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tobj::{Body, Fault, Id, Message, Name, Reply, Request, Text};
use tokio::io::AsyncRead;
use tokio::sync::{Mutex, MutexGuard};

/// Serves until the shutdown.
pub(super) async fn run(path: PathBuf, shutdown: Shutdown) -> Result<(), Box<dyn Error + Send + Sync>> {
    let config: Config = daemon::config::load(&path)?;
    let listener = ipc::bind(&config.socket)?;
    let peers = ipc::Peers::uids(&config.allow_uids);
    let name = Name::new(&config.name)?;
    let disks = Watch::default();
    if keeps_data(config.role) {
        tokio::spawn(storage::watch(disks.clone()));
    }
    let kept = keeps_data(config.role).then(|| disks.clone());
    // What became of an update is written down before anybody is told of it: the boot partition is not looked at for each report.
    let role = config.role;
    let settled = tokio::task::spawn_blocking(move || update::settle(role).map_err(|e| daemon::report(&*e))).await;
    if let Err(why) = settled.map_err(|e| daemon::report(&e)).and_then(|settled| settled) {
        tracing::error!("what became of the last update is not noted: {why}");
    }
    let config = Arc::new(config);
    tokio::spawn(report::publish(config.clone(), kept));
    let (changing, logs) = (Mutex::new(()), log::Logs::default());
    let service = Admind { name, role: config.role, config, changing, disks, logs };
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
pub(super) async fn beside<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Refused> + Send + 'static,
) -> Result<T, Refused> {
    tokio::task::spawn_blocking(work).await.map_err(unavailable)?
}

struct Admind {
    name: Name,
    role: Role,
    config: Arc<Config>,
    /// Held by the one request that changes something.
    changing: Mutex<()>,
    /// What is known of the data disks.
    disks: Watch,
    /// Who reads the log.
    logs: log::Logs,
}

impl Service for Admind {
    async fn call(&self, from: &str, request: Message, literal: &mut (dyn AsyncRead + Send + Unpin)) -> Message {
        let answer = match &request.body {
            Body::Request(body) => self.answer(from, request.id, body, literal).await,
            Body::Reply(_) => Err(Refused(Fault::Invalid, "not a request".into())),
        };
        request.reply(answer.unwrap_or_else(|Refused(fault, why)| {
            tracing::info!(from, why, "a request was refused");
            Reply::refused(fault, &why)
        }))
    }
}

impl Admind {
    async fn answer(
        &self,
        from: &str,
        id: Id,
        request: &Request,
        literal: &mut (dyn AsyncRead + Send + Unpin),
    ) -> Answer {
        // commlinkd decides who may ask; nobody but operators does.
        if !from.starts_with("operator:") {
            return Err(Refused(Fault::Denied, format!("{} is not for {from}", request.tag())));
        }
        match request {
            Request::Status {} => self.status().await,
            Request::StorageStatus {} if keeps_data(self.role) => {
                let disks = self.disks.clone();
                beside(move || storage::show(&disks)).await
            }
            Request::StorageCreate { level, disks, spares, adopt } if keeps_data(self.role) => {
                let _one = self.change()?;
                let level = level.as_ref().map(|l| l.as_str().parse::<Level>()).transpose();
                let level = level.map_err(|why| Refused(Fault::Invalid, why))?;
                let disks = disks.iter().map(|d| d.as_str().to_owned()).collect();
                let spares = usize::try_from(spares.unwrap_or(0)).unwrap_or(usize::MAX);
                let order = Order { level, disks, spares, adopt: *adopt, start: false, request: Some(id.to_string()) };
                tracing::warn!(from, ?order, "an order for the data disks");
                beside(move || storage::create(&order)).await
            }
            Request::StorageStart {} if keeps_data(self.role) => {
                let _one = self.change()?;
                let order = Order { start: true, ..Order::default() };
                tracing::warn!(from, "an order to start the array although its parity may be wrong");
                beside(move || storage::create(&order)).await
            }
            Request::StorageAdd { disk } if keeps_data(self.role) => {
                let _one = self.change()?;
                let change = Change::Add { disk: disk.to_string() };
                tracing::warn!(from, ?change, "an order for the data disks");
                beside(move || storage::change(&change)).await
            }
            Request::StorageReplace { old, new } if keeps_data(self.role) => {
                let _one = self.change()?;
                let change = Change::Replace { old: old.to_string(), new: new.to_string() };
                tracing::warn!(from, ?change, "an order for the data disks");
                beside(move || storage::change(&change)).await
            }
            Request::StorageScrub { pause } if keeps_data(self.role) => {
                let pause = *pause;
                tracing::info!(from, pause, "an order to scrub");
                beside(move || storage::scrub(pause)).await
            }
            Request::TlsRenew { certificate, key } => {
                let Some(tls) = self.config.tls.clone() else {
                    return Err(Refused(Fault::Denied, "no customer comes to this machine".into()));
                };
                let _one = self.change()?;
                let pair = Pair::received(certificate, key).map_err(|why| Refused(Fault::Invalid, why.to_string()))?;
                let from = from.to_owned();
                beside(move || tls::renew(&tls, &from, &pair)).await
            }
            Request::UpdatePush { downgrade, again } => {
                let _one = self.change()?;
                let insist = Insist { downgrade: *downgrade, again: *again };
                update::push(self.role, from, insist, literal).await
            }
            Request::UpdateStatus {} => {
                // Who works with the boot partition has it alone; to wait here for an order that does would hold up all others.
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
            Request::PowerOff {} => {
                let _one = self.change()?;
                update::power_off(from)
            }
            Request::FactoryReset { machine } => {
                let _one = self.change()?;
                self.factory_reset(from, id, machine)
            }
            Request::LogList { after, unit, priority, since, lines } => {
                let (after, unit) = (after.clone(), unit.clone());
                self.logs.list(Query { after, unit, priority: *priority, since: *since, lines: *lines }).await
            }
            _ => Err(Refused(Fault::Denied, format!("{} is not for this machine", request.tag()))),
        }
    }

    fn factory_reset(&self, from: &str, id: Id, machine: &Name) -> Answer {
        if *machine != self.name {
            return Err(Refused(Fault::Invalid, format!("this is {}, not {machine}; nothing was reset", self.name)));
        }
        if !reset::order(Path::new(mount::MOUNT), &id.to_string()).map_err(unavailable)? {
            return Ok(Reply::Done {});
        }
        tracing::warn!(from, "factory reset");
        update::reboot(from)
    }

    /// The right to change something.
    fn change(&self) -> Result<MutexGuard<'_, ()>, Refused> {
        self.changing.try_lock().map_err(|_| Refused(Fault::Busy, "another order is being carried out".into()))
    }

    async fn status(&self) -> Answer {
        let disks = keeps_data(self.role).then(|| storage::known(&self.disks).health);
        let config = self.config.clone();
        let checks = beside(move || Ok(checks::all(&config, disks.as_ref()))).await?;
        let role = Name::new(self.role.as_str()).map_err(unavailable)?;
        let version = Text::lossy(env!("CARGO_PKG_VERSION"));
        Ok(Reply::StatusReport { name: self.name.clone(), role, version, checks })
    }
}
