//! The daemon: what comes in from the network goes to the role's daemon, what local daemons hand in goes to the network.

mod backend;
mod own;
mod shown;

use std::collections::BTreeSet;
use std::error::Error;
use std::path::PathBuf;
use std::sync::Arc;

use daemon::ipc::Peers;
use daemon::{Service, Shutdown, ipc, notify};
use keys::Bag;
use keys::site::Role;
use tobj::{Body, Check, Fault, Message, Name, Reply, RequestTag, Text};
use tokio::io::AsyncRead;
use tokio::net::{TcpListener, UnixListener};

use crate::config::{ADMIND, Config, Unsealed};
use crate::policy::{self, Opener};
use crate::server::{self, DRAIN, Door, Setup};
use crate::{Client, Keyring};

pub use backend::{Backend, BackendError, STATUS};

/// Runs commlinkd by its configuration file until the shutdown.
///
/// # Errors
/// When the configuration or a bag cannot be used, or something cannot be bound.
pub async fn run(path: PathBuf, shutdown: Shutdown) -> Result<(), Box<dyn Error + Send + Sync>> {
    let config: Config = daemon::config::load(&path)?;
    if config.listen.is_empty() {
        return Err(crate::config::ConfigError::Listen.into());
    }
    let state = config.state();
    let keyring = Keyring::open(&config.bags, state.as_deref())?;
    for bag in keyring.current().iter() {
        tracing::info!(link = bag.link(), generation = bag.generation(), fingerprint = bag.fingerprint(), "a key bag");
    }
    config.check_unsealed(&keyring.current())?;
    if let Some(dir) = config.socket.parent() {
        tokio::spawn(shown::publish(keyring.clone(), dir.join(shown::FILE)));
    }
    let sealed = server::bind(&config.listen, config.ports).await?;
    let mut doors: Vec<_> = sealed.into_iter().map(|listener| (listener, Door::Sealed)).collect();
    for Unsealed { link, ports } in &config.unsealed {
        let door = Door::Unsealed(link.as_str().into());
        doors.extend(server::bind(&config.listen, *ports).await?.into_iter().map(|listener| (listener, door.clone())));
    }
    let local = ipc::bind(&config.socket)?;
    serve(&config, keyring, doors, local, shutdown).await
}

/// The same with bags and listeners that are there already; the paths and ports of the configuration are not used.
///
/// # Errors
/// When the configuration does not fit the bags, or a listener fails for good.
pub async fn serve(
    config: &Config,
    keyring: Keyring,
    doors: Vec<(TcpListener, Door)>,
    local: UnixListener,
    shutdown: Shutdown,
) -> Result<(), Box<dyn Error + Send + Sync>> {
    server::check_bags(&keyring.current(), config.role, &config.name)?;
    let client = Client::new(keyring.clone(), config.peers.clone())?;
    let served = doors.iter().filter_map(|(_, door)| match door {
        Door::Sealed => None,
        Door::Unsealed(link) => Some(link.to_string()),
    });
    let current = keyring.current();
    let called = client.unsealed().filter_map(|peer| Some(current.of_peer(peer)?.first()?.link().to_owned()));
    let unsealed: BTreeSet<String> = served.chain(called).collect();
    for link in &unsealed {
        tracing::warn!(link, "this link has no seal: who is in between can alter and repeat what goes over it");
    }
    let inbound = Inbound {
        name: Name::new(&config.name)?,
        role: config.role,
        daemon: Name::new(Config::daemon_of(config.role))?,
        client: client.clone(),
        unsealed,
        rotating: tokio::sync::Mutex::new(()),
        backend: config.backend()?.into(),
        admind: config.admind().map(Backend::from),
    };
    let setup = Setup { role: config.role, keyring, relay: config.relay_target()? };
    let outbound = Outbound { client, role: config.role, shutdown: shutdown.clone() };
    notify::ready();
    tracing::info!(name = config.name, role = config.role.as_str(), ports = doors.len(), "commlinkd serves");
    tokio::try_join!(
        server::serve_doors(doors, setup, inbound, shutdown.clone()),
        ipc::serve(local, Peers::uids(&config.allow_uids), outbound, shutdown),
    )?;
    Ok(())
}

/// Answers what other machines ask.
struct Inbound {
    name: Name,
    role: Role,
    daemon: Name,
    client: Client,
    /// The links without seal.
    unsealed: BTreeSet<String>,
    /// Held while a bag is renewed, so that there is one who does it.
    rotating: tokio::sync::Mutex<()>,
    backend: Backend,
    admind: Option<Backend>,
}

impl Inbound {
    /// Asks a local daemon.
    async fn ask(
        &self,
        daemon: &str,
        backend: &Backend,
        from: &str,
        request: Message,
        literal: &mut (dyn AsyncRead + Send + Unpin),
    ) -> Result<Reply, BackendError> {
        let failed = |error: &BackendError| {
            tracing::error!(from, daemon, "a request was not answered: {}", daemon::report(error))
        };
        backend.exchange(from, request, literal).await.inspect_err(failed)
    }

    /// What this daemon has to say to a `STATUS`.
    fn checks(&self) -> Vec<Check> {
        let check = |bag: &Arc<Bag>| {
            let sealed = !self.unsealed.contains(bag.link());
            let seal = if sealed { "sealed" } else { "NOT SEALED: who is in between can alter and repeat requests" };
            let detail = format!("generation {}, fingerprint {}, {seal}", bag.generation(), bag.fingerprint());
            let name = format!("bag-{}-{}", bag.link(), bag.generation());
            Some(Check { name: Name::new(&name).ok()?, healthy: sealed, detail: Text::lossy(&detail) })
        };
        self.client.keyring().current().iter().filter_map(check).collect()
    }

    /// How this machine is: what its daemons say, and whether they say something.
    fn status(&self, answer: Result<Reply, BackendError>, admind: Option<Result<Reply, BackendError>>) -> Reply {
        let (version, mut checks) = match answer {
            Ok(Reply::StatusReport { version, checks, .. }) => (version, checks),
            // The operator wants to know of the machine, above all when a daemon is down.
            other => (Text::lossy(env!("CARGO_PKG_VERSION")), down(self.daemon.as_str(), &other)),
        };
        match admind {
            Some(Ok(Reply::StatusReport { checks: more, .. })) => checks.extend(more),
            Some(other) => checks.extend(down(ADMIND, &other)),
            None => {}
        }
        checks.extend(self.checks());
        let role = Name::new(self.role.as_str()).unwrap_or_else(|_| self.daemon.clone());
        Reply::StatusReport { name: self.name.clone(), role, version, checks }
    }
}

/// That a daemon is down: it gave no report.
fn down(daemon: &str, answer: &Result<Reply, BackendError>) -> Vec<Check> {
    let detail = answer.as_ref().map_or_else(BackendError::told, |_| "gives no report".to_owned());
    let check = |name| Check { name, healthy: false, detail: Text::lossy(&detail) };
    Name::new(daemon).map(check).into_iter().collect()
}

impl Service for Inbound {
    async fn call(&self, from: &str, request: Message, literal: &mut (dyn AsyncRead + Send + Unpin)) -> Message {
        if let Some(reply) = self.own(from, &request).await {
            return request.reply(reply);
        }
        let id = request.id;
        let tag = match &request.body {
            Body::Request(body) => body.tag(),
            Body::Reply(_) => return request.fault(Fault::Invalid),
        };
        let reply = if tag == RequestTag::Status {
            let machine = async {
                let admind = self.admind.as_ref()?;
                Some(self.ask(ADMIND, admind, from, request.clone(), &mut tokio::io::empty()).await)
            };
            let (answer, machine) =
                tokio::join!(self.ask(self.daemon.as_str(), &self.backend, from, request.clone(), literal), machine);
            self.status(answer, machine)
        } else {
            let (daemon, backend) = match &self.admind {
                Some(admind) if policy::for_admind(tag) => (ADMIND, admind),
                None if policy::for_admind(tag) => {
                    return request.reply(Reply::refused(Fault::Unavailable, "this machine has no admind"));
                }
                _ => (self.daemon.as_str(), &self.backend),
            };
            let answer = self.ask(daemon, backend, from, request, literal).await;
            answer.unwrap_or_else(|error| {
                let rest = if error.is_late() { "; what it was asked may have been done, or may still be" } else { "" };
                Reply::refused(Fault::Unavailable, &format!("{daemon} {}{rest}", error.told()))
            })
        };
        Message { id, literal: None, body: Body::Reply(reply) }
    }
}

/// Asks other machines for local daemons.
struct Outbound {
    client: Client,
    role: Role,
    shutdown: Shutdown,
}

impl Outbound {
    /// Waits until a request has had its time in a shutdown.
    async fn cut(&self, request: RequestTag) {
        self.shutdown.wait().await;
        if !policy::waits(request) {
            tokio::time::sleep(DRAIN).await;
        }
    }

    /// Whether the other machine would answer this at all.
    fn allowed(&self, to: &str, request: RequestTag) -> bool {
        let current = self.client.keyring().current();
        let Some(kind) = current.of_peer(to).and_then(<[_]>::first).map(|bag| bag.kind()) else { return false };
        // Neither relays nor keys are something to ask for: the first is a way that the client finds by itself, the
        // second are the commlink's own.
        let own = matches!(request, RequestTag::Relay | RequestTag::BagRenew | RequestTag::BagRetire);
        match policy::across(kind, self.role) {
            Some(Opener::Machine(asked)) if !own => policy::allows(kind, Opener::Machine(self.role), asked, request),
            _ => false,
        }
    }
}

impl Service for Outbound {
    async fn call(&self, to: &str, request: Message, literal: &mut (dyn AsyncRead + Send + Unpin)) -> Message {
        let Body::Request(body) = &request.body else { return request.fault(Fault::Invalid) };
        let (id, tag) = (request.id, body.tag());
        if !self.client.knows(to) {
            tracing::warn!(to, %tag, "a local daemon asked for a machine that is not a peer");
            return request.reply(Reply::refused(Fault::NotFound, "no such machine"));
        }
        if !self.allowed(to, tag) {
            tracing::warn!(to, %tag, "a local daemon asked for what the link does not allow");
            return request.reply(Reply::refused(Fault::Denied, "not allowed on this link"));
        }
        let asking = async {
            match request.literal {
                None => self.client.call_message(to, request).await,
                Some(length) => self.client.call_with_literal(to, request, length, literal).await,
            }
        };
        let reply = tokio::select! {
            asked = asking => asked.unwrap_or_else(|error| {
                tracing::warn!(to, %tag, "no answer: {}", daemon::report(&error));
                Reply::refused(Fault::Unavailable, "no answer")
            }),
            () = self.cut(tag) => Reply::refused(Fault::Unavailable, "shutting down"),
        };
        Message { id, literal: None, body: Body::Reply(reply) }
    }
}
