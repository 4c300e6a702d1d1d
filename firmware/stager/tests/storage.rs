//! The stager on a disk that is full or fails, and what a login finds staged.
#![allow(clippy::unwrap_used, reason = "a test fails by it")]

mod common;

use common::{PATIENCE, Site, fault, my_uid, name, sha256};
use daemon::Shutdown;
use daemon::ipc::Client;
use std::collections::BTreeSet;
use std::os::fd::OwnedFd;
use std::process::Stdio;
use tobj::LeaseKind::{OneTime, Standing};
use tobj::{CatalogueItem, Check, Fault, Id, Reply, Request, Timestamp};
use tokio::io::AsyncWriteExt;

const CONTENT: &[u8] = b"what the customer paid for";

fn item(version: &str, content: &[u8]) -> CatalogueItem {
    CatalogueItem {
        product: name("maps"),
        version: name(version),
        file: "grüße 1.iso".parse().unwrap(),
        size: content.len() as u64,
        sha256: sha256(content),
        download: name("download"),
        until: None,
    }
}

fn entries(dir: &OwnedFd, below: &str) -> Vec<String> {
    use nix::{dir::Dir, fcntl::OFlag, sys::stat::Mode};
    let dir = Dir::openat(dir, below, OFlag::O_DIRECTORY, Mode::empty()).unwrap();
    let mut names: Vec<_> = dir.into_iter().map(|e| e.unwrap().file_name().to_str().unwrap().to_owned()).collect();
    names.retain(|name| !name.starts_with('.'));
    names.sort();
    names
}

#[tokio::test(flavor = "multi_thread")]
async fn a_customer_with_his_password_finds_all_he_is_entitled_to() {
    let site = Site::with("credential_cache_seconds = 0");
    let stager = site.start();
    stager.put(CONTENT).await;
    let month = Timestamp::now().0 + 30 * 86_400;
    let grants: Vec<_> = (1..=5u8)
        .map(|n| {
            let content = if n == 5 { b"not in this storeroom".as_slice() } else { CONTENT };
            let version = format!("{n}.0");
            let grant = site.grant_with([n; 16].into(), "alice", &version, Standing, content, month);
            (item(&version, content), grant)
        })
        .collect();
    site.database.with(|known| {
        known.passwords.insert("alice".into(), "swordfish".into());
        known.entitled.insert("alice".into(), grants);
    });
    // One of them is staged already, by way of the portal.
    stager.stage(9, site.grant_with([9; 16].into(), "alice", "2.0", Standing, CONTENT, month)).await;
    let login = || {
        let (reply, mut fds) = stager.session("192.0.2.1").login("alice", "swordfish");
        assert!(matches!(reply, Reply::FtpAdmitted { .. }), "{reply:?}");
        fds.remove(0)
    };
    let account = login();
    assert_eq!(entries(&account, "maps"), ["1.0", "2.0", "3.0", "4.0"]);
    assert_eq!(entries(&account, "maps/3.0"), ["grüße 1.iso"]);
    assert_eq!(site.database.with(|known| known.grants), 3, "only what is missing is asked for");
    assert!(site.database.with(|known| known.sessions.is_empty()), "the session at the database was ended");

    login();
    assert_eq!(site.database.with(|known| known.grants), 3, "nothing is missing any more");

    // A grant that is not his is no use, whoever says it is.
    let foreign = site.grant_with([20; 16].into(), "bob", "7.0", Standing, CONTENT, month);
    let one_time = site.grant_with([21; 16].into(), "alice", "8.0", OneTime, CONTENT, month);
    site.database.with(|known| {
        known.entitled.insert("alice".into(), vec![(item("7.0", CONTENT), foreign), (item("8.0", CONTENT), one_time)]);
    });
    let account = login();
    assert_eq!(entries(&account, "maps"), ["1.0", "2.0", "3.0", "4.0"]);
    let Reply::Leases { items, .. } = stager.ask("operator:eve", Request::LeaseList { offset: 0 }).await else {
        panic!()
    };
    assert_eq!(items.len(), 4);
    stager.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_does_not_wait_for_ever_for_what_is_staged() {
    let site = Site::with("stage_at_login_milliseconds = 0");
    let stager = site.start();
    stager.put(CONTENT).await;
    let grant = site.grant_with([1; 16].into(), "alice", "1.0", Standing, CONTENT, Timestamp::now().0 + 3600);
    site.database.with(|known| {
        known.passwords.insert("alice".into(), "swordfish".into());
        known.entitled.insert("alice".into(), vec![(item("1.0", CONTENT), grant)]);
    });
    let (reply, fds) = stager.session("192.0.2.1").login("alice", "swordfish");
    assert!(matches!(reply, Reply::FtpAdmitted { .. }), "{reply:?}");
    let staged = |all: &[tobj::AuditRecord]| all.iter().any(|r| r.event == tobj::AuditEvent::Staged);
    site.database.audit_until("it goes on behind the login", staged).await;
    assert_eq!(entries(&fds[0], "maps"), ["1.0"]);
    stager.stop().await;

    let site = Site::with("stage_at_login = false");
    let stager = site.start();
    site.database.with(|known| known.passwords.insert("alice".into(), "swordfish".into()));
    let (reply, _) = stager.session("192.0.2.1").login("alice", "swordfish");
    assert!(matches!(reply, Reply::FtpAdmitted { .. }), "{reply:?}");
    assert!(site.database.with(|known| known.sessions.is_empty() && known.checks == 1));
    stager.stop().await;
}

/// Waits until the status is as wanted. A connection from before what serves it changed gets no answer.
async fn status_until(client: &Client, what: &str, wanted: impl Fn(&[Check]) -> bool) -> Vec<Check> {
    let found = async {
        loop {
            match client.call("operator:eve", Request::Status {}).await {
                Ok(Reply::StatusReport { checks, .. }) if wanted(&checks) => return checks,
                Ok(Reply::StatusReport { .. }) | Err(_) => {}
                Ok(other) => panic!("no status: {other:?}"),
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, found).await.unwrap_or_else(|_| panic!("in vain: {what}"))
}

fn serves(checks: &[Check]) -> bool {
    checks.iter().any(|c| c.name.as_str() == "ledger" && c.healthy)
}

fn is_down(checks: &[Check]) -> bool {
    checks.iter().any(|c| c.name.as_str() == "storage" && !c.healthy)
}

/// The whole daemon, which goes on after its disk has failed.
struct Daemon {
    trigger: daemon::Trigger,
    running: tokio::task::JoinHandle<Result<(), stager::RunError>>,
    client: Client,
}

impl Daemon {
    fn begin(site: &Site) -> Self {
        let (trigger, shutdown) = Shutdown::manual();
        let config = site.config.clone();
        let running = tokio::spawn(async move { stager::run(&config, shutdown).await });
        Self { trigger, running, client: Client::new(&site.config.socket) }
    }

    /// It serves, and has the object.
    async fn start(site: &Site) -> Self {
        let daemon = Self::begin(site);
        while daemon.client.call("operator:eve", Request::Status {}).await.is_err() {
            assert!(!daemon.running.is_finished(), "it did not start");
            tokio::task::yield_now().await;
        }
        status_until(&daemon.client, "it serves", serves).await;
        let put = tobj::Message::request(Request::ObjectPut { sha256: None }).unwrap();
        daemon.client.call_with_literal("operator:eve", put, CONTENT.len() as u64, &mut &CONTENT[..]).await.unwrap();
        daemon
    }

    /// Has the tree fail at a request to stage; gives the request.
    async fn fail(&self, site: &Site) -> tobj::Message {
        // Something that no part of the stager makes: a symbolic link where a customer's directory belongs.
        std::os::unix::fs::symlink("/nonexistent", site.root().join("accounts/alice")).unwrap();
        let grant = site.grant(1, Standing, CONTENT);
        let message =
            tobj::Message { id: [1; 16].into(), literal: None, body: tobj::Body::Request(Request::Stage { grant }) };
        let reply = self.client.call_message("web", message.clone()).await.unwrap();
        assert_eq!(reply, Reply::Fault { fault: Fault::Unavailable, text: tobj::Text::default() });
        message
    }

    async fn stop(self) {
        self.trigger.fire();
        tokio::time::timeout(PATIENCE, self.running).await.expect("it ends in time").unwrap().unwrap();
    }
}

/// Half of an object, from somebody who holds the connection and sends no more. It is at the stager when this returns.
async fn half_an_object(site: &Site) -> tokio::net::UnixStream {
    let mut stream = tokio::net::UnixStream::connect(&site.config.socket).await.unwrap();
    let mut message = tobj::Message::request(Request::ObjectPut { sha256: None }).unwrap();
    message.literal = Some(2 * CONTENT.len() as u64);
    let frame = daemon::ipc::Frame { label: "operator:eve".into(), message };
    daemon::ipc::write_frame(&mut stream, &frame).await.unwrap();
    stream.write_all(CONTENT).await.unwrap();
    let comes_in = async {
        while std::fs::read_dir(site.root().join("incoming")).unwrap().count() == 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, comes_in).await.expect("it begins to come in");
    stream
}

#[tokio::test(flavor = "multi_thread")]
async fn who_sends_half_an_object_holds_up_neither_a_new_beginning_nor_the_end() {
    let site = Site::new();
    let daemon = Daemon::start(&site).await;
    let mut half = half_an_object(&site).await;
    let message = daemon.fail(&site).await;
    status_until(&daemon.client, "it says that it is down", is_down).await;
    let told = daemon::ipc::read_frame(&mut half).await.unwrap().expect("it is answered").message;
    assert!(matches!(told.body, tobj::Body::Reply(reply) if fault(&reply) == Some(Fault::Unavailable)));
    status_until(&daemon.client, "it serves again", serves).await;
    assert!(matches!(daemon.client.call_message("web", message).await.unwrap(), Reply::Staged { .. }));
    let _half = half_an_object(&site).await;
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tree_that_fails_is_told_and_opened_anew() {
    let site = Site::new();
    let daemon = Daemon::start(&site).await;
    let message = daemon.fail(&site).await;
    let client = &daemon.client;
    let down = status_until(client, "it says that it is down", is_down).await;
    assert!(down[0].detail.as_str().contains("file system"), "{down:?}");
    let refused = client.call("operator:eve", Request::LeaseList { offset: 0 }).await.unwrap();
    assert_eq!(fault(&refused), Some(Fault::Unavailable));
    // It is opened anew, which removes what no lease explains and finishes what was committed.
    let again = status_until(client, "it serves again", serves).await;
    let start = again.iter().find(|c| c.name.as_str() == "start-up").unwrap();
    assert!(start.detail.as_str().contains("1 stagings finished"), "{start:?}");
    assert!(matches!(client.call_message("web", message).await.unwrap(), Reply::Staged { .. }));
    daemon.stop().await;
}

/// Waits until systemd would be told this, and nothing of `never` before.
async fn systemd_hears(socket: &tokio::net::UnixDatagram, words: &str, never: &str) {
    let heard = async {
        let mut bytes = [0; 4096];
        loop {
            let count = socket.recv(&mut bytes).await.unwrap();
            let lines = std::str::from_utf8(&bytes[..count]).unwrap();
            assert!(lines.lines().all(|line| line != never), "{lines}");
            if lines.lines().any(|line| line == words) {
                return;
            }
        }
    };
    tokio::time::timeout(PATIENCE, heard).await.unwrap_or_else(|_| panic!("in vain: {words}"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_that_waits_for_its_disk_asks_for_time() {
    let site = Site::new();
    let (notify, aside) = (site.dir.path().join("notify.sock"), site.dir.path().join("aside"));
    let socket = tokio::net::UnixDatagram::bind(&notify).unwrap();
    std::fs::rename(site.root(), &aside).unwrap();
    let _daemon = tokio::process::Command::new(env!("CARGO_BIN_EXE_stagerd"))
        .arg("--config")
        .arg(site.config_path())
        .env("NOTIFY_SOCKET", &notify)
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let (more, ready) = (format!("EXTEND_TIMEOUT_USEC={}", stager::starting::STALL.as_micros()), "READY=1");
    systemd_hears(&socket, &more, ready).await;
    status_until(&Client::new(&site.config.socket), "it says that it is down", is_down).await;
    std::fs::rename(&aside, site.root()).unwrap();
    systemd_hears(&socket, ready, "STOPPING=1").await;
}

/// The ways in which a ledger needs a person, and what an operator hears of them.
const SPOILT: [(&str, &str); 6] = [
    ("no ledger", "put the ledger back; a new one is never made"),
    ("no log", "put it back beside the ledger"),
    ("a ledger in part", "put a good copy of it and its log back"),
    ("a log in part", "put ledger and log of one moment back"),
    ("a later version's", "update the machine to the version that wrote it"),
    ("a damaged row", "put back ledger and log of one moment"),
];

fn spoil(site: &Site, how: &str) {
    let [ledger, log] = [stager::ledger::FILE, stager::ledger::LOG].map(|name| site.root().join(name));
    let half = |path| {
        let file = std::fs::File::options().write(true).open(path).unwrap();
        file.set_len(5000).unwrap();
    };
    match how {
        "no ledger" => std::fs::remove_file(ledger).unwrap(),
        "no log" => std::fs::remove_file(log).unwrap(),
        "a ledger in part" => half(ledger),
        "a log in part" => half(log),
        "a later version's" => in_ledger(site, |txn| {
            txn.open_table(redb::TableDefinition::<&str, u64>::new("meta")).unwrap().insert("schema", 99).unwrap();
        }),
        _ => in_ledger(site, |txn| {
            let leases = redb::TableDefinition::<u128, &[u8]>::new("leases");
            txn.open_table(leases).unwrap().insert(7, &b"no lease"[..]).unwrap();
        }),
    }
}

/// Changes a ledger that nobody has open.
fn in_ledger(site: &Site, change: impl FnOnce(&redb::WriteTransaction)) {
    let db = redb::Database::open(site.root().join(stager::ledger::FILE)).unwrap();
    let txn = db.begin_write().unwrap();
    change(&txn);
    txn.commit().unwrap();
}

fn needs_a_person(checks: &[Check]) -> bool {
    checks.iter().any(|c| c.name.as_str() == "ledger" && !c.healthy)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_needs_a_person_is_told_until_it_is_put_right() {
    let site = Site::new();
    Daemon::start(&site).await.stop().await;
    let files =
        [stager::ledger::FILE, stager::ledger::LOG].map(|name| (site.root().join(name), site.dir.path().join(name)));
    for (how, what_to_do) in SPOILT {
        for (path, aside) in &files {
            std::fs::copy(path, aside).unwrap();
        }
        spoil(&site, how);
        let daemon = Daemon::begin(&site);
        let told = status_until(&daemon.client, how, needs_a_person).await;
        let said = told[0].detail.as_str();
        assert!(said.starts_with("nothing is staged or served: ") && said.contains(what_to_do), "{how}: {said}");
        let refused = daemon.client.call("operator:eve", Request::LeaseList { offset: 0 }).await.unwrap();
        assert_eq!(fault(&refused), Some(Fault::Unavailable));
        for (path, aside) in &files {
            std::fs::rename(aside, path).unwrap();
        }
        status_until(&daemon.client, "it serves again", serves).await;
        let listed = daemon.client.call("operator:eve", Request::ObjectStore { offset: 0 }).await.unwrap();
        assert!(matches!(&listed, Reply::Storeroom { items, .. } if items.len() == 1), "{how}: {listed:?}");
        daemon.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_proves_damaged_in_use_is_told() {
    let site = Site::new();
    Daemon::start(&site).await.stop().await;
    in_ledger(&site, |txn| {
        let withdrawn = redb::TableDefinition::<(&str, u64), &[u8]>::new("withdrawn");
        txn.open_table(withdrawn).unwrap().insert(("alice", 0), &b"nothing"[..]).unwrap();
    });
    let daemon = Daemon::start(&site).await;
    let staged = daemon.client.call("web", Request::Stage { grant: site.grant(1, Standing, CONTENT) }).await.unwrap();
    assert_eq!(fault(&staged), Some(Fault::Unavailable));
    let told = status_until(&daemon.client, "it is told", |c| needs_a_person(c) && c.len() == 1).await;
    assert!(told[0].detail.as_str().contains("table withdrawn is damaged"), "{told:?}");
    daemon.stop().await;
}

/// The daemon on a file system of its own of eight mebibytes, and a shell beside it that does what it is told there.
struct Small {
    shell: tokio::process::Child,
    client: Client,
}

impl Small {
    fn start(site: &Site) -> Self {
        let mut config = std::fs::read_to_string(site.config_path()).unwrap();
        // In a user namespace of its own it sees us as its root.
        config = config.replace(&format!("[{}]", my_uid()), "[0]");
        std::fs::write(site.config_path(), config).unwrap();
        let script = "mount -t tmpfs -o size=8m none \"$1\" && { \"$2\" --config \"$3\" & } && \
                      while read -r line; do eval \"$line\" && echo done; done; kill $!; wait $!";
        let shell = tokio::process::Command::new("unshare")
            // With the shell go all of its children, also when the test fails.
            .args(["--mount", "--pid", "--fork", "--kill-child"])
            .args((my_uid() != 0).then_some("--map-root-user"))
            .args(["sh", "-c", script, "sh"])
            .arg(site.root())
            .arg(env!("CARGO_BIN_EXE_stagerd"))
            .arg(site.config_path())
            .current_dir(site.dir.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(std::fs::File::create(site.dir.path().join("log")).unwrap())
            .kill_on_drop(true)
            .spawn()
            .expect("unshare (util-linux) is there");
        Self { shell, client: Client::new(&site.config.socket) }
    }

    async fn serves(&mut self, site: &Site) {
        let started = async {
            while self.client.call("operator:eve", Request::Status {}).await.is_err() {
                let log = || std::fs::read_to_string(site.dir.path().join("log")).unwrap_or_default();
                assert!(self.shell.try_wait().unwrap().is_none(), "root or user namespaces are needed: {}", log());
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(PATIENCE, started).await.expect("it starts in time");
        status_until(&self.client, "it serves", serves).await;
    }

    /// Has the shell do something on the file system, and waits until it is done.
    async fn there(&mut self, command: &str) {
        use tokio::io::AsyncBufReadExt;
        let stdin = self.shell.stdin.as_mut().unwrap();
        stdin.write_all(format!("{command}\n").as_bytes()).await.unwrap();
        let mut line = String::new();
        tokio::io::BufReader::with_capacity(1, self.shell.stdout.as_mut().unwrap()).read_line(&mut line).await.unwrap();
        assert_eq!(line, "done\n", "{command}");
    }

    async fn put(&self, content: &[u8]) -> Reply {
        let message = tobj::Message::request(Request::ObjectPut { sha256: None }).unwrap();
        self.client.call_with_literal("operator:eve", message, content.len() as u64, &mut &*content).await.unwrap()
    }

    async fn stop(mut self) {
        drop(self.shell.stdin.take());
        tokio::time::timeout(PATIENCE, self.shell.wait()).await.expect("it ends in time").unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_system_that_is_full() {
    let site = Site::new();
    let mut small = Small::start(&site);
    small.serves(&site).await;
    assert!(matches!(small.put(CONTENT).await, Reply::Stored { .. }));
    let too_much = vec![7; 9 << 20];
    let Reply::Fault { fault: Fault::Unavailable, text } = small.put(&too_much).await else {
        panic!("it does not fit")
    };
    assert!(text.as_str().contains("do not fit"), "{text}");

    let stage = async |small: &Small, n: u64, kind| {
        let id = Id::from(u128::from(n).to_be_bytes());
        let expires = Timestamp::now().0 + 3600;
        let grant = site.grant_with(id, "alice", &n.to_string(), kind, CONTENT, expires);
        small.client.call("web", Request::Stage { grant }).await.unwrap()
    };
    let mut leases = Vec::new();
    for n in 1..=3 {
        let Reply::Staged { lease, .. } = stage(&small, n, OneTime).await else { panic!("there is room") };
        leases.push(lease);
    }
    // Somebody else takes all of the room that is left. Sooner or later a commit needs some.
    small.there("cat /dev/zero > srv/fill 2>/dev/null || true").await;
    let mut next = 10;
    let refused = loop {
        match stage(&small, next, OneTime).await {
            Reply::Staged { lease, .. } => leases.push(lease),
            refused => break refused,
        }
        next += 1;
        assert!(next < 20_000, "a full file system never refuses");
    };
    assert_eq!(fault(&refused), Some(Fault::Unavailable));
    status_until(&small.client, "it is not healthy", |checks| checks.iter().any(|c| !c.healthy)).await;

    // Room again: it goes on by itself, and everything that was acknowledged is there.
    small.there("rm srv/fill").await;
    status_until(&small.client, "it serves again", |checks| serves(checks) && checks.iter().all(|c| c.healthy)).await;
    for lease in &leases {
        let reply = small.client.call("operator:eve", Request::LeaseShow { lease: *lease }).await.unwrap();
        assert!(
            matches!(&reply, Reply::Lease { link: Some(link), .. } if link.inode == link.storeroom_inode),
            "{reply:?}"
        );
    }
    assert!(matches!(stage(&small, 50_000, Standing).await, Reply::Staged { .. }));
    let mut listed = BTreeSet::new();
    loop {
        let offset = listed.len() as u64;
        let reply = small.client.call("operator:eve", Request::LeaseList { offset }).await.unwrap();
        let Reply::Leases { items, more } = reply else { panic!("no list: {reply:?}") };
        listed.extend(items.into_iter().map(|item| item.lease));
        if !more {
            break;
        }
    }
    assert!(leases.iter().all(|lease| listed.contains(lease)), "nothing is lost");
    small.stop().await;
}
