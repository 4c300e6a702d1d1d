//! The daemon as a process: started by its configuration, asked over its socket, killed and started again.
#![allow(clippy::unwrap_used, reason = "a test fails by it")]

use daemon::ipc::Client;
use pasetors::keys::{AsymmetricKeyPair, Generate};
use pasetors::paserk::FormatAsPaserk;
use pasetors::version4::V4;
use std::fs::File;
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;
use tobj::{
    AuditEntry, AuditEvent, AuditRecord, Fault, FileName, LeaseKind, Message, Name, Reply, Request, Secret, Sha256,
    Text, Timestamp, TlsVersion,
};

const OPERATOR: &str = "operator:ada";
const PASSWORD: &str = "correct horse battery";
const PATIENCE: Duration = Duration::from_secs(60);

/// A folder with all that a database needs.
struct Home {
    folder: tempfile::TempDir,
    uid: u32,
}

/// A running database; killed when dropped.
struct Running {
    child: Child,
    client: Client,
}

impl Home {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut paserk = String::new();
        AsymmetricKeyPair::<V4>::generate().unwrap().secret.fmt(&mut paserk).unwrap();
        std::fs::write(folder.path().join("grant.secret"), paserk + "\n").unwrap();
        Self { folder, uid: nix::unistd::geteuid().as_raw() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn command(&self) -> Command {
        let at = |name: &str| self.path(name).display().to_string();
        let config = format!(
            "name = 'database'\nstore = '{}'\nsocket = '{}'\nallow_uids = [{}]\ngrant_key = '{}'\nweb = 'web'\n",
            at("master.redb"),
            at("socket"),
            self.uid,
            at("grant.secret"),
        );
        std::fs::write(self.path("masterd.toml"), config).unwrap();
        let log = File::options().create(true).append(true).open(self.path("log")).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_masterd"));
        command.arg("--config").arg(self.path("masterd.toml"));
        command.env_remove("WATCHDOG_USEC").env("RUST_LOG", "trace");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        command
    }

    /// Starts the daemon and waits until it says that it is ready.
    fn start(&self) -> Running {
        let notify = self.path("notify");
        let _ = std::fs::remove_file(&notify);
        let socket = UnixDatagram::bind(&notify).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let child = self.command().env("NOTIFY_SOCKET", &notify).spawn().unwrap();
        let running = Running { child, client: Client::new(self.path("socket")).with_answer_within(PATIENCE) };
        let mut told = [0; 64];
        let n = socket.recv(&mut told).unwrap_or_else(|e| panic!("never ready: {e}\n{}", self.log()));
        assert!(String::from_utf8_lossy(&told[..n]).contains("READY=1"));
        running
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.path("log")).unwrap_or_default()
    }
}

impl Running {
    async fn ask(&self, from: &str, request: Request) -> Reply {
        self.client.call(from, request).await.unwrap()
    }

    async fn order(&self, request: Request) {
        assert_eq!(self.ask(OPERATOR, request).await, Reply::Done {});
    }

    /// A customer, an object and the right to it.
    async fn fill(&self) {
        self.order(Request::CustomerAdd { customer: name("alice"), password: secret(PASSWORD) }).await;
        self.order(object()).await;
        self.order(entitlement()).await;
    }

    async fn login(&self) -> Secret {
        let (customer, address) = (Text::new("alice").unwrap(), Text::new("192.0.2.1").unwrap());
        match self.ask("web", Request::Login { customer, password: secret(PASSWORD), address }).await {
            Reply::Session { session, .. } => session,
            other => panic!("{other:?}"),
        }
    }

    async fn trail(&self) -> Vec<AuditEntry> {
        let (mut all, mut after) = (Vec::new(), 0);
        loop {
            let Reply::AuditTrail { items, more } = self.ask(OPERATOR, Request::AuditList { after }).await else {
                panic!("no trail")
            };
            after = items.last().map_or(after, |entry| entry.index);
            all.extend(items);
            if !more {
                return all;
            }
        }
    }

    fn kill(mut self) {
        self.child.kill().unwrap();
        assert_eq!(self.child.wait().unwrap().signal(), Some(nix::libc::SIGKILL));
    }

    async fn terminate(mut self) -> ExitStatus {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.child.id()).unwrap());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
        let waiting = tokio::task::spawn_blocking(move || self.child.wait().unwrap());
        tokio::time::timeout(PATIENCE, waiting).await.unwrap().unwrap()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn name(s: &str) -> Name {
    Name::new(s).unwrap()
}

fn secret(s: &str) -> Secret {
    Secret::new(s).unwrap()
}

fn object() -> Request {
    Request::ObjectAdd {
        product: name("maps"),
        version: name("1"),
        file: FileName::new("the map.bin").unwrap(),
        size: 7,
        sha256: Sha256::from([1; 32]),
        download: name("download"),
    }
}

fn entitlement() -> Request {
    Request::EntitlementAdd { customer: name("alice"), product: name("maps"), version: None, until: None }
}

fn grant(session: Secret) -> Request {
    Request::Grant { session, product: name("maps"), version: name("1"), kind: LeaseKind::OneTime }
}

fn record(seq: u64) -> AuditRecord {
    AuditRecord {
        seq,
        at: Timestamp(seq),
        event: AuditEvent::Transfer,
        customer: Some(Text::new("alice").unwrap()),
        address: None,
        lease: None,
        sha256: None,
        offset: None,
        bytes: Some(seq),
        milliseconds: Some(1500),
        tls: Some(TlsVersion::Tls13),
        outcome: None,
    }
}

#[tokio::test]
async fn killed_and_started_again_it_knows_all_that_it_acknowledged() {
    let home = Home::new();
    let running = home.start();
    running.fill().await;
    let order =
        Message::request(Request::EntitlementRemove { customer: name("alice"), product: name("maps"), version: None })
            .unwrap();
    assert_eq!(running.client.call_message(OPERATOR, order.clone()).await.unwrap(), Reply::Done {});
    running.order(entitlement()).await;
    let session = running.login().await;
    let wish = Message::request(grant(session.clone())).unwrap();
    let granted = running.client.call_message("web", wish.clone()).await.unwrap();
    assert!(matches!(granted, Reply::Granted { .. }), "{granted:?}");
    let audit = Request::Audit { records: (1..=5).map(record).collect() };
    assert_eq!(running.ask("download", audit.clone()).await, Reply::Acknowledged { upto: 5 });
    let trail = running.trail().await;
    running.kill();

    let running = home.start();
    assert_eq!(running.trail().await, trail);
    let expired = Reply::Fault { fault: Fault::Expired, text: Text::default() };
    assert_eq!(running.ask("web", grant(session)).await, expired, "sessions do not outlive the process");
    let session = running.login().await;
    let again = Message { body: tobj::Body::Request(grant(session)), ..wish };
    assert_eq!(running.client.call_message("web", again).await.unwrap(), granted, "the same grant, to the letter");
    assert_eq!(running.client.call_message(OPERATOR, order).await.unwrap(), Reply::Done {}, "and not done again");
    let Reply::Entitlements { items, .. } = running.ask(OPERATOR, Request::EntitlementList { offset: 0 }).await else {
        panic!("no list")
    };
    assert_eq!(items.len(), 1);
    assert_eq!(running.ask("download", audit).await, Reply::Acknowledged { upto: 5 });
    let Reply::Revocations { items, upto: 1, .. } =
        running.ask("download", Request::WaitRevocations { after: 0 }).await
    else {
        panic!("no revocation")
    };
    assert_eq!(items.len(), 1);
    assert_eq!(running.trail().await.len(), trail.len() + 1, "but for the second login");
}

#[tokio::test]
async fn killed_at_any_moment_it_neither_loses_nor_doubles_a_record() {
    let home = Home::new();
    let (mut next, mut acknowledged) = (1u64, 0u64);
    for round in 1..=5u64 {
        let mut running = home.start();
        let killer = {
            let pid = nix::unistd::Pid::from_raw(i32::try_from(running.child.id()).unwrap());
            let (strike, struck) = std::sync::mpsc::channel::<()>();
            let thread = std::thread::spawn(move || {
                struck.recv_timeout(PATIENCE).unwrap();
                nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
            });
            (strike, thread)
        };
        // What was acknowledged may come again; what was not must.
        let mut from = acknowledged + 1;
        loop {
            let records: Vec<_> = (from.saturating_sub(3).max(1)..from + round).map(record).collect();
            next = next.max(from + round);
            if from > acknowledged + 20 * round {
                let _ = killer.0.send(());
            }
            match running.client.call("download", Request::Audit { records }).await {
                Ok(Reply::Acknowledged { upto }) => {
                    assert!(upto + 1 >= from, "{upto} after {from}");
                    from = upto + 1;
                }
                Ok(other) => panic!("{other:?}\n{}", home.log()),
                Err(_) => break,
            }
        }
        acknowledged = from - 1;
        killer.1.join().unwrap();
        running.child.wait().unwrap();
    }
    let running = home.start();
    let trail = running.trail().await;
    let last = u64::try_from(trail.len()).unwrap();
    assert!(acknowledged <= last && last < next, "{acknowledged} {last} {next}");
    for (entry, seq) in trail.iter().zip(1..) {
        assert_eq!((entry.index, &entry.record), (seq, &record(seq)));
    }
}

#[tokio::test]
async fn a_shutdown_waits_for_nobody_and_is_in_order() {
    let home = Home::new();
    let running = home.start();
    running.fill().await;
    let client = running.client.clone();
    let polling = tokio::spawn(async move { client.call("download", Request::WaitRevocations { after: 0 }).await });
    // The answer to a request that came later shows that the poll is being served.
    running.trail().await;
    assert!(running.terminate().await.success(), "{}", home.log());
    tokio::time::timeout(PATIENCE, polling).await.unwrap().unwrap().ok();
    let running = home.start();
    assert_eq!(running.trail().await.len(), 3);
}

#[tokio::test]
async fn no_secret_is_in_the_log_or_in_the_store() {
    let home = Home::new();
    let running = home.start();
    running.fill().await;
    let session = running.login().await;
    let Reply::Granted { grant: token, .. } = running.ask("web", grant(session.clone())).await else { panic!() };
    assert!(running.terminate().await.success());
    let (log, store) = (home.log().into_bytes(), std::fs::read(home.path("master.redb")).unwrap());
    let holds = |bytes: &[u8], what: &str| bytes.windows(what.len()).any(|w| w == what.as_bytes());
    assert!(
        holds(&log, "alice") && holds(&store, "alice") && holds(&store, "$argon2id$"),
        "this does find what is there"
    );
    let key = std::fs::read_to_string(home.path("grant.secret")).unwrap();
    for what in [PASSWORD, session.expose(), token.expose(), key.trim()] {
        assert!(!holds(&log, what) && !holds(&store, what));
    }
}

#[tokio::test]
async fn a_process_of_another_uid_gets_no_answer() {
    let mut home = Home::new();
    home.uid += 1;
    let running = home.start();
    assert!(running.client.call("operator:eve", Request::CustomerList { offset: 0 }).await.is_err());
    assert!(home.log().contains("wrong uid"), "{}", home.log());
}

/// Nothing is made in its place, operators are told, and nobody hears that he is no customer.
#[tokio::test]
async fn a_store_that_is_lost_is_told_and_comes_back() {
    let home = Home::new();
    let running = home.start();
    running.fill().await;
    drop(running);
    std::fs::rename(home.path("master.redb"), home.path("elsewhere")).unwrap();
    let running = home.start();
    let Reply::StatusReport { checks, .. } = running.ask(OPERATOR, Request::Status {}).await else {
        panic!("no report")
    };
    let [store] = &checks[..] else { panic!("{checks:?}") };
    assert!(store.name == name("store") && !store.healthy, "{store:?}");
    assert!(store.detail.as_str().contains("is gone") && store.detail.as_str().contains("put a copy of it back"));
    let told = running.ask(OPERATOR, Request::CustomerList { offset: 0 }).await;
    assert!(matches!(&told, Reply::Fault { fault: Fault::Unavailable, text } if *text == store.detail), "{told:?}");
    let (customer, address) = (Text::new("alice").unwrap(), Text::new("192.0.2.1").unwrap());
    let login = Request::Login { customer, password: secret(PASSWORD), address };
    let told = running.ask("web", login).await;
    assert!(matches!(&told, Reply::Fault { fault: Fault::Unavailable, text } if text.as_str().is_empty()), "{told:?}");
    assert!(!home.path("master.redb").exists());
    assert_eq!(running.terminate().await.code(), Some(1));
    std::fs::rename(home.path("elsewhere"), home.path("master.redb")).unwrap();
    home.start().login().await;
}

#[test]
fn what_it_needs_and_does_not_find_is_told() {
    let home = Home::new();
    let fails = |reason: &str| {
        let mut child = home.command().spawn().unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(1));
        assert!(home.log().contains(reason), "{reason} is not in:\n{}", home.log());
    };
    std::fs::write(home.path("master.redb"), "this is not a store").unwrap();
    fails("cannot open the store");
    std::fs::write(home.path("grant.secret"), "k4.public.nothing").unwrap();
    fails("it is not a PASERK");
    std::fs::remove_file(home.path("grant.secret")).unwrap();
    fails("grant.secret: No such file");
}
