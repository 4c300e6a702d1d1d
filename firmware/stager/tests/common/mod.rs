//! A stager with real sockets, and a database that a test controls in place of commlinkd.
#![allow(dead_code, reason = "each test binary uses a part of it")]
#![allow(clippy::unwrap_used, reason = "a test fails by it")]

use daemon::fds::{recv_frame, send_frame};
use daemon::ipc::{self, Client, Frame, Peers};
use daemon::{Service, Shutdown, Trigger};
use pasetors::keys::{AsymmetricKeyPair, Generate};
use pasetors::paserk::FormatAsPaserk;
use pasetors::version4::{PublicToken, V4};
use sha2::Digest;
use stager::config::Config;
use stager::{RunError, Sockets, Storage};
use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tobj::{
    AuditRecord, Body, CatalogueItem, Fault, Id, LeaseKind, Message, Name, Reply, Request, Revocation, Secret, Sha256,
    Text, Timestamp,
};
use tokio::io::AsyncRead;
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;

/// Longest time that a test waits for anything.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// What the database knows, and what it was told.
#[derive(Default)]
pub(crate) struct Known {
    pub(crate) passwords: BTreeMap<String, String>,
    /// What each customer is entitled to, and the grant that he gets for it.
    pub(crate) entitled: BTreeMap<String, Vec<(CatalogueItem, Secret)>>,
    /// Sessions that are open.
    pub(crate) sessions: BTreeMap<String, String>,
    /// Grants that were asked for.
    pub(crate) grants: usize,
    pub(crate) checks: usize,
    pub(crate) audit: BTreeMap<u64, AuditRecord>,
    pub(crate) repeated: usize,
    /// Records that came under the number of another one, and were refused.
    pub(crate) conflicts: usize,
    pub(crate) revocations: Vec<Revocation>,
    /// As commlinkd answers without a link.
    pub(crate) down: bool,
    /// Takes records, but its answers get lost.
    pub(crate) deaf: bool,
    pub(crate) now: Option<u64>,
}

#[derive(Clone, Default)]
pub(crate) struct Database {
    pub(crate) known: Arc<Mutex<Known>>,
    pub(crate) changed: Arc<Notify>,
    told: Arc<watch::Sender<u64>>,
}

impl Database {
    pub(crate) fn with<T>(&self, change: impl FnOnce(&mut Known) -> T) -> T {
        let value = change(&mut self.known.lock().unwrap());
        self.changed.notify_waiters();
        value
    }

    pub(crate) fn revoke(&self, customer: &str, product: Option<&str>) {
        self.with(|known| {
            let seq = known.revocations.len() as u64 + 1;
            let (customer, product) = (name(customer), product.map(name));
            known.revocations.push(Revocation { seq, customer, product, version: None, at: Timestamp::now() });
        });
    }

    /// Waits until the audit trail is as wanted.
    pub(crate) async fn audit_until(&self, what: &str, wanted: impl Fn(&[AuditRecord]) -> bool) -> Vec<AuditRecord> {
        let mut told = self.told.subscribe();
        let found = async {
            loop {
                let all: Vec<_> = self.with(|known| known.audit.values().cloned().collect());
                if wanted(&all) {
                    return all;
                }
                told.changed().await.unwrap();
            }
        };
        let found = tokio::time::timeout(PATIENCE, found).await;
        found.unwrap_or_else(|_| panic!("in vain: {what}: {:?}", self.with(|k| k.audit.clone())))
    }

    fn answer(&self, request: &Request) -> Option<Reply> {
        let fault = |fault| Some(Reply::Fault { fault, text: Text::default() });
        let mut known = self.known.lock().unwrap();
        if known.down {
            return fault(Fault::Unavailable);
        }
        match request {
            Request::LoginCheck { customer, password, .. } | Request::Login { customer, password, .. } => {
                known.checks += 1;
                if known.passwords.get(customer.as_str()).is_none_or(|right| right != password.expose()) {
                    return fault(Fault::Denied);
                }
                let whose = name(customer.as_str());
                if matches!(request, Request::LoginCheck { .. }) {
                    return Some(Reply::Verified { customer: whose });
                }
                let session = Secret::random().unwrap();
                known.sessions.insert(session.expose().to_owned(), whose.to_string());
                Some(Reply::Session { session, customer: whose, expires: Timestamp(u64::MAX) })
            }
            Request::Logout { session } => {
                known.sessions.remove(session.expose());
                Some(Reply::Done {})
            }
            Request::Catalogue { session, offset } => {
                let Some(customer) = known.sessions.get(session.expose()) else { return fault(Fault::Expired) };
                // Pages of two, so that there are several.
                let all = known.entitled.get(customer).map_or(&[][..], Vec::as_slice);
                let rest = all.iter().skip(usize::try_from(*offset).unwrap()).map(|(item, _)| item.clone());
                let items: Vec<_> = rest.take(2).collect();
                let more = usize::try_from(*offset).unwrap() + items.len() < all.len();
                Some(Reply::Catalogue { items, more })
            }
            Request::Grant { session, product, version, kind: LeaseKind::Standing } => {
                known.grants += 1;
                let Some(customer) = known.sessions.get(session.expose()) else { return fault(Fault::Expired) };
                let all = known.entitled.get(customer).map_or(&[][..], Vec::as_slice);
                let found = all.iter().find(|(item, _)| (&item.product, &item.version) == (product, version));
                match found {
                    Some((_, grant)) => Some(Reply::Granted { grant: grant.clone(), download: name("download") }),
                    None => fault(Fault::Denied),
                }
            }
            Request::Audit { records } => {
                let mut last = known.audit.last_key_value().map_or(0, |(seq, _)| *seq);
                for record in records {
                    if record.seq > last + 1 {
                        return fault(Fault::Invalid);
                    }
                    if known.audit.get(&record.seq).is_some_and(|old| old != record) {
                        known.conflicts += 1; // a number with two meanings
                        return fault(Fault::Invalid);
                    }
                    last = last.max(record.seq);
                }
                for record in records {
                    if known.audit.insert(record.seq, record.clone()).is_some() {
                        known.repeated += 1;
                    }
                }
                let upto = known.audit.last_key_value().map_or(0, |(seq, _)| *seq);
                self.told.send_replace(upto);
                if known.deaf && !records.is_empty() {
                    fault(Fault::Unavailable)
                } else {
                    Some(Reply::Acknowledged { upto })
                }
            }
            Request::WaitRevocations { after } => {
                let last = known.revocations.len() as u64;
                let items: Vec<_> = known.revocations.iter().filter(|r| r.seq > *after).cloned().collect();
                if items.is_empty() && *after <= last {
                    return None;
                }
                let now = Timestamp(known.now.unwrap_or(Timestamp::now().0));
                Some(Reply::Revocations { items, upto: last, now })
            }
            _ => fault(Fault::Denied),
        }
    }
}

impl Service for Database {
    async fn call(&self, to: &str, message: Message, _: &mut (dyn AsyncRead + Send + Unpin)) -> Message {
        assert_eq!(to, "database");
        let Body::Request(request) = &message.body else { panic!("not a request") };
        loop {
            let changed = self.changed.notified();
            if let Some(reply) = self.answer(request) {
                return message.reply(reply);
            }
            changed.await;
        }
    }
}

pub(crate) fn name(text: &str) -> Name {
    text.parse().unwrap()
}

pub(crate) fn my_uid() -> u32 {
    nix::unistd::geteuid().as_raw()
}

/// A directory with keys, a database and room for a stager that can be started again and again.
pub(crate) struct Site {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) pair: AsymmetricKeyPair<V4>,
    pub(crate) database: Database,
    pub(crate) config: Config,
    _commlink: Trigger,
}

pub(crate) struct Running {
    trigger: Trigger,
    task: JoinHandle<Result<(), RunError>>,
    pub(crate) socket: PathBuf,
    pub(crate) sessions: PathBuf,
}

impl Site {
    pub(crate) fn new() -> Self {
        Self::with("")
    }

    /// With more lines of configuration.
    pub(crate) fn with(more: &str) -> Self {
        Self::below(&std::env::temp_dir(), more)
    }

    /// The same in a directory of its own below this one.
    pub(crate) fn below(parent: &Path, more: &str) -> Self {
        let dir = tempfile::tempdir_in(parent).unwrap();
        let path = |name: &str| dir.path().join(name);
        std::fs::create_dir(path("srv")).unwrap();
        let pair = AsymmetricKeyPair::generate().unwrap();
        let mut public = String::new();
        FormatAsPaserk::fmt(&pair.public, &mut public).unwrap();
        std::fs::write(path("grant.public"), public).unwrap();
        let uid = my_uid();
        let text = format!(
            "name = \"download\"\nroot = {:?}\nsocket = {:?}\nallow_uids = [{uid}]\nsessions = {:?}\n\
             session_uids = [{uid}]\ncommlink = {:?}\ngrant_key = {:?}\nsweep_seconds = 1\nmin_free_bytes = 0\n\
             reserve_bytes = 0\n{more}\n",
            path("srv"),
            path("stagerd.sock"),
            path("sessions.sock"),
            path("commlinkd.sock"),
            path("grant.public"),
        );
        std::fs::write(path("stagerd.toml"), text).unwrap();
        let config: Config = daemon::config::load(&path("stagerd.toml")).unwrap();
        let (trigger, shutdown) = Shutdown::manual();
        let database = Database::default();
        let listener = ipc::bind(&config.commlink).unwrap();
        tokio::spawn(ipc::serve(listener, Peers::mine(), database.clone(), shutdown));
        Self { dir, pair, database, config, _commlink: trigger }
    }

    pub(crate) fn config_path(&self) -> PathBuf {
        self.dir.path().join("stagerd.toml")
    }

    pub(crate) fn root(&self) -> &Path {
        &self.config.root
    }

    pub(crate) fn start(&self) -> Running {
        let config = self.config.clone();
        let storage = Storage::open(&config, &|| {}).unwrap();
        let sockets =
            Sockets { commands: ipc::bind(&config.socket).unwrap(), sessions: ipc::bind(&config.sessions).unwrap() };
        let (trigger, shutdown) = Shutdown::manual();
        let (socket, sessions) = (config.socket.clone(), config.sessions.clone());
        let task = tokio::spawn(async move { stager::serve(&config, storage, sockets, shutdown).await });
        Running { trigger, task, socket, sessions }
    }

    pub(crate) fn grant(&self, n: u8, kind: LeaseKind, content: &[u8]) -> Secret {
        self.grant_for("alice", n, kind, content, Timestamp::now().0 + 3600)
    }

    pub(crate) fn grant_for(
        &self,
        customer: &str,
        n: u8,
        kind: LeaseKind,
        content: &[u8],
        lease_expires: u64,
    ) -> Secret {
        self.grant_with([n; 16].into(), customer, "1.0", kind, content, lease_expires)
    }

    pub(crate) fn grant_with(
        &self,
        id: Id,
        customer: &str,
        version: &str,
        kind: LeaseKind,
        content: &[u8],
        lease_expires: u64,
    ) -> Secret {
        self.grant_of(id, customer, version, kind, (sha256(content), content.len() as u64), lease_expires)
    }

    /// For an object of this hash and size.
    pub(crate) fn grant_of(
        &self,
        id: Id,
        customer: &str,
        version: &str,
        kind: LeaseKind,
        (sha256, size): (Sha256, u64),
        lease_expires: u64,
    ) -> Secret {
        let now = Timestamp::now().0;
        let claims = serde_json::json!({
            "jti": id.to_string(), "sub": customer, "aud": "download",
            "iat": stamp(now), "nbf": stamp(now), "exp": stamp(now + 600),
            "product": "maps", "version": version, "file": "grüße 1.iso",
            "sha256": sha256.to_string(), "size": size.to_string(),
            "kind": kind.as_str(), "lease_expires": lease_expires.to_string(),
        });
        sign(&self.pair, &claims)
    }
}

pub(crate) fn sign(pair: &AsymmetricKeyPair<V4>, claims: &serde_json::Value) -> Secret {
    let claims = claims.to_string();
    let token = PublicToken::sign(&pair.secret, claims.as_bytes(), None, Some(stager::grants::ASSERTION)).unwrap();
    Secret::new(&token).unwrap()
}

fn stamp(seconds: u64) -> String {
    jiff::Timestamp::from_second(i64::try_from(seconds).unwrap()).unwrap().to_string()
}

pub(crate) fn sha256(content: &[u8]) -> Sha256 {
    let hash: [u8; 32] = sha2::Sha256::digest(content).into();
    hash.into()
}

impl Running {
    pub(crate) async fn stop(self) {
        self.trigger.fire();
        tokio::time::timeout(PATIENCE, self.task).await.expect("it ends in time").unwrap().unwrap();
    }

    /// Waits for it to end by itself.
    pub(crate) async fn ended(self) -> Result<(), RunError> {
        tokio::time::timeout(PATIENCE, self.task).await.expect("it ends in time").unwrap()
    }

    pub(crate) async fn ask(&self, from: &str, request: Request) -> Reply {
        Client::new(&self.socket).call(from, request).await.unwrap()
    }

    pub(crate) async fn ask_as(&self, id: u8, from: &str, request: Request) -> Reply {
        let message = Message { id: [id; 16].into(), literal: None, body: Body::Request(request) };
        Client::new(&self.socket).call_message(from, message).await.unwrap()
    }

    pub(crate) async fn put(&self, content: &[u8]) -> Reply {
        let message = Message::request(Request::ObjectPut { sha256: Some(sha256(content)) }).unwrap();
        let client = Client::new(&self.socket);
        client.call_with_literal("operator:eve", message, content.len() as u64, &mut &*content).await.unwrap()
    }

    pub(crate) async fn stage(&self, n: u8, grant: Secret) -> Reply {
        self.ask_as(n, "web", Request::Stage { grant }).await
    }

    pub(crate) fn session(&self, address: &str) -> Session {
        let session = Session(UnixStream::connect(&self.sessions).unwrap());
        session.0.set_read_timeout(Some(PATIENCE)).unwrap();
        assert_eq!(session.ask(Request::FtpSession { address: Text::new(address).unwrap() }).0, Reply::Done {});
        session
    }
}

/// What an ftp session does. Its calls block: the runtime of a test needs more than one thread.
pub(crate) struct Session(pub(crate) UnixStream);

impl Session {
    pub(crate) fn ask(&self, request: Request) -> (Reply, Vec<OwnedFd>) {
        let message = Message::request(request).unwrap();
        let id = message.id;
        send_frame(&self.0, &Frame { label: String::new(), message }, &[]).unwrap();
        let (frame, fds) = recv_frame(&self.0).unwrap().expect("an answer");
        assert_eq!(frame.message.id, id);
        match frame.message.body {
            Body::Reply(reply) => (reply, fds),
            other => panic!("not a reply: {other:?}"),
        }
    }

    pub(crate) fn login(&self, user: &str, password: &str) -> (Reply, Vec<OwnedFd>) {
        let (user, password) = (Text::new(user).unwrap(), Secret::new(password).unwrap());
        self.ask(Request::FtpLogin { user, password, tls: false })
    }

    pub(crate) fn begin(&self, path: &str, offset: u64) -> Reply {
        self.ask(Request::TransferBegin { path: Text::new(path).unwrap(), offset, tls: None }).0
    }

    pub(crate) fn end(&self, transfer: u64, bytes: u64, outcome: &str) -> Reply {
        self.ask(Request::TransferEnd { transfer, bytes, tls: None, outcome: Text::new(outcome).unwrap() }).0
    }
}

pub(crate) fn fault(reply: &Reply) -> Option<Fault> {
    match reply {
        Reply::Fault { fault, .. } => Some(*fault),
        _ => None,
    }
}
