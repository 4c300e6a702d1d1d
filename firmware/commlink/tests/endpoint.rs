//! commlinkd as a whole: three machines with their local sockets.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::path::{Path, PathBuf};
use std::time::Duration;

use commlink::config::Config;
use commlink::dial::Ports;
use commlink::endpoint;
use commlink::server::Door;
use common::*;
use daemon::ipc::{self, Frame, Peers, read_frame, write_frame};
use daemon::{Service, Shutdown, Trigger};
use keys::Bag;
use keys::site::Role;
use tobj::{Body, Check, Fault, Message, Name, Reply, Request, Text};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::net::{TcpListener, UnixListener};
use tokio::time::{self, Instant};

struct Machine {
    recorder: Recorder,
    out: PathBuf,
    ports: Ports,
    trigger: Trigger,
    task: tokio::task::JoinHandle<()>,
}

struct Settings<'a> {
    role: Role,
    bags: &'a [Bag],
    extra: String,
    uid: u32,
    allow: u32,
    backend: bool,
    /// What is at the second port.
    second: Door,
}

fn me() -> u32 {
    nix::unistd::geteuid().as_raw()
}

fn settings(role: Role, bags: &[Bag], extra: String) -> Settings<'_> {
    Settings { role, bags, extra, uid: me(), allow: me(), backend: true, second: Door::Sealed }
}

async fn machine(dir: &Path, settings: Settings<'_>) -> Machine {
    let (sockets, ports) = listeners(2).await;
    machine_on(dir, settings, sockets, ports)
}

fn machine_on(dir: &Path, settings: Settings<'_>, sockets: Vec<TcpListener>, ports: Ports) -> Machine {
    let Settings { role, bags, extra, uid, allow, backend, second } = settings;
    let name = role.as_str();
    let daemon = Config::daemon_of(role);
    let (socket, out) = (dir.join(format!("{name}.sock")), dir.join(format!("{name}.out")));
    let text = format!(
        "name = {name:?}\nrole = {name:?}\nlisten = [\"127.0.0.1\"]\nports = [1, 1]\nbags = \"\"\nsocket = \"\"\n\
         allow_uids = [{allow}]\n{extra}\n[backends.{daemon}]\nsocket = {socket:?}\nuid = {uid}\n",
    );
    // Keys before tables: the peers go to the end.
    let (keys, peers) = text.split_once("[[peers]]").map_or((text.clone(), String::new()), |(head, tail)| {
        let (peers, rest) = tail.split_once("\n[backends").unwrap();
        (format!("{head}\n[backends{rest}"), format!("[[peers]]{peers}"))
    });
    let config: Config = toml::from_str(&format!("{keys}\n{peers}")).unwrap();
    let recorder = Recorder::default();
    let (trigger, shutdown) = Shutdown::manual();
    if backend {
        let listener = ipc::bind(&socket).unwrap();
        tokio::spawn(ipc::serve(listener, Peers::mine(), recorder.clone(), shutdown.clone()));
    }
    let local = ipc::bind(&out).unwrap();
    let bags = commlink::Bags::new(bags.to_vec()).unwrap();
    let task = tokio::spawn(async move {
        let doors = sockets.into_iter().zip([Door::Sealed, second]).collect();
        endpoint::serve(&config, bags.into(), doors, local, shutdown).await.unwrap();
    });
    Machine { recorder, out, ports, trigger, task }
}

fn peer(name: &str, ports: Ports) -> String {
    let all: Vec<u16> = ports.iter().collect();
    format!("[[peers]]\nname = {name:?}\nhost = \"127.0.0.1\"\nports = [{}, {}]\n", all[0], all[all.len() - 1])
}

#[tokio::test]
async fn local_daemons_talk_to_those_of_other_machines() {
    within(async {
        let (dir, site) = (tempfile::tempdir().unwrap(), site());
        let database = machine(dir.path(), settings(Role::Database, &site.database, String::new())).await;
        let extra = format!("relay = \"database\"\n{}", peer("database", database.ports));
        let web = machine(dir.path(), settings(Role::Web, &site.web, extra)).await;
        let extra = format!("{}[[peers]]\nname = \"database\"\nvia = \"web\"\n", peer("web", web.ports));
        let download = machine(dir.path(), settings(Role::Download, &site.download, extra)).await;

        let portald = ipc::Client::new(&web.out);
        let message = Message::request(login("alice", "x")).unwrap();
        let id = message.id;
        let reply = portald.call_message("database", message).await.unwrap();
        assert_eq!(reply, Reply::Verified { customer: Name::new("alice").unwrap() });
        let (from, seen) = database.recorder.requests().remove(0);
        assert_eq!((from.as_str(), seen.id), ("web", id), "the ID is the one of the daemon that asked");

        let stagerd = ipc::Client::new(&download.out);
        let reply = stagerd.call("database", login_check("alice", "x")).await.unwrap();
        assert_eq!(reply, Reply::Verified { customer: Name::new("alice").unwrap() });
        assert_eq!(database.recorder.requests()[1].0, "download");
        assert!(web.recorder.requests().is_empty(), "what is relayed is not for the web machine's daemon");

        for (request, fault) in
            [(Request::Status {}, Fault::Denied), (Request::CustomerList { offset: 0 }, Fault::Denied)]
        {
            assert!(is_fault(&portald.call("database", request).await.unwrap(), fault));
        }
        let relay = Request::Relay { to: Name::new("database").unwrap() };
        assert!(is_fault(&stagerd.call("web", relay).await.unwrap(), Fault::Denied), "only the client relays");
        assert!(is_fault(&portald.call("nowhere", Request::Status {}).await.unwrap(), Fault::NotFound));

        // One that waits for something to happen holds nobody up, on whichever machine.
        let waiting =
            tokio::spawn(async move { stagerd.call("database", Request::WaitRevocations { after: 0 }).await });
        while database.recorder.requests().len() < 3 {
            tokio::task::yield_now().await;
        }
        for machine in [download, web, database] {
            machine.trigger.fire();
            machine.task.await.unwrap();
        }
        assert!(is_fault(&waiting.await.unwrap().unwrap(), Fault::Unavailable));
    })
    .await;
}

#[tokio::test]
async fn operators_reach_the_daemon_with_literals_and_see_the_bags() {
    within(async {
        let (dir, site) = (tempfile::tempdir().unwrap(), site());
        let download = machine(dir.path(), settings(Role::Download, &site.download, String::new())).await;
        let operator = client(&site.operator, [direct("download", download.ports)]);
        let put = Message::request(Request::ObjectPut { sha256: None }).unwrap();
        let size = 20_000_000;
        let mut body = tokio::io::repeat(3).take(size);
        let reply = operator.call_with_literal("download", put, size, &mut body).await.unwrap();
        assert_eq!(reply, Reply::Stored { sha256: [7; 32].into(), size, known: false });
        assert_eq!(download.recorder.requests()[0].0, "operator:alice");
        let Reply::StatusReport { checks, .. } = operator.call("download", Request::Status {}).await.unwrap() else {
            panic!("a report");
        };
        let names: Vec<&str> = checks.iter().map(|check| check.name.as_str()).collect();
        assert_eq!(names, ["bag-alice-download-1", "bag-download-database-1", "bag-web-download-1"]);
        let fingerprint = site.download[0].fingerprint();
        assert!(checks[2].detail.as_str().contains(&fingerprint), "{checks:?}");
    })
    .await;
}

#[tokio::test]
async fn a_link_without_seal_is_told_as_unhealthy_by_both_ends() {
    within(async {
        let (dir, site) = (tempfile::tempdir().unwrap(), site());
        let unsealed = Settings {
            second: Door::Unsealed("web-database".into()),
            ..settings(Role::Database, &site.database, String::new())
        };
        let database = machine(dir.path(), unsealed).await;
        let second = database.ports.iter().nth(1).unwrap();
        let extra = peer("database", Ports::new(second, second).unwrap()) + "seal = false\n";
        let web = machine(dir.path(), settings(Role::Web, &site.web, extra)).await;
        let reply = ipc::Client::new(&web.out).call("database", login("alice", "x")).await.unwrap();
        assert_eq!(reply, Reply::Verified { customer: Name::new("alice").unwrap() });
        for (name, of) in [("web", &web), ("database", &database)] {
            let first = of.ports.iter().next().unwrap();
            let operator = client(&site.operator, [direct(name, Ports::new(first, first).unwrap())]);
            let Reply::StatusReport { checks, .. } = operator.call(name, Request::Status {}).await.unwrap() else {
                panic!("a report");
            };
            let unhealthy: Vec<&str> = checks.iter().filter(|c| !c.healthy).map(|c| c.name.as_str()).collect();
            assert_eq!(unhealthy, ["bag-web-database-1"], "{name}");
            let check = checks.iter().find(|check| !check.healthy).unwrap();
            assert!(check.detail.as_str().contains("NOT SEALED"), "{check:?}");
            let rotate = Request::KeysRotate { peer: Name::new("database").unwrap() };
            assert!(name == "database" || is_fault(&operator.call(name, rotate).await.unwrap(), Fault::Unavailable));
        }
        assert!(!operator_at(&site, "database", second).await, "an operator's link is not served there");
    })
    .await;
}

/// Whether an operator is served at a port.
async fn operator_at(site: &Site, name: &str, port: u16) -> bool {
    let operator = client(&site.operator, [direct(name, Ports::new(port, port).unwrap())]);
    operator.call(name, Request::Status {}).await.is_ok()
}

#[tokio::test]
async fn a_daemon_that_is_down_is_told_to_the_operator() {
    within(async {
        let (dir, site) = (tempfile::tempdir().unwrap(), site());
        let mut down = settings(Role::Database, &site.database, String::new());
        down.backend = false;
        let database = machine(dir.path(), down).await;
        let operator = client(&site.operator, [direct("database", database.ports)]);
        let Reply::StatusReport { name, checks, .. } = operator.call("database", Request::Status {}).await.unwrap()
        else {
            panic!("a report");
        };
        assert_eq!(name.as_str(), "database");
        assert!(!checks[0].healthy && checks[0].name.as_str() == "masterd", "{checks:?}");
        let reply = operator.call("database", Request::CustomerList { offset: 0 }).await.unwrap();
        assert!(is_fault(&reply, Fault::Unavailable));
    })
    .await;
}

/// An admind that is well, and answers nothing else.
#[derive(Clone)]
struct Admind;

impl Service for Admind {
    async fn call(&self, from: &str, request: Message, _: &mut (dyn AsyncRead + Send + Unpin)) -> Message {
        assert_eq!(from, "operator:alice");
        let memory = Check { name: Name::new("memory").unwrap(), healthy: true, detail: Text::lossy("1 MiB of 2") };
        request.reply(match &request.body {
            Body::Request(Request::Status {}) => Reply::StatusReport {
                name: Name::new("x").unwrap(),
                role: Name::new("x").unwrap(),
                version: Text::lossy("1"),
                checks: vec![memory],
            },
            Body::Request(Request::StorageCreate { .. }) => Reply::Done {},
            _ => Reply::refused(Fault::Denied, "not for admind"),
        })
    }
}

#[tokio::test]
async fn admind_answers_for_the_machine() {
    within(async {
        let (dir, site) = (tempfile::tempdir().unwrap(), site());
        let socket = dir.path().join("admind.sock");
        let (stop, shutdown) = Shutdown::manual();
        let admind = tokio::spawn(ipc::serve(ipc::bind(&socket).unwrap(), Peers::mine(), Admind, shutdown));
        let extra = format!("[backends.admind]\nsocket = {socket:?}\nuid = {}\n", me());
        let download = machine(dir.path(), settings(Role::Download, &site.download, extra)).await;
        let operator = client(&site.operator, [direct("download", download.ports)]);
        let checks = || async {
            match operator.call("download", Request::Status {}).await.unwrap() {
                Reply::StatusReport { name, role, checks, .. }
                    if (name.as_str(), role.as_str()) == ("download", "download") =>
                {
                    checks
                }
                other => panic!("{other:?}"),
            }
        };
        let names: Vec<String> = checks().await.iter().map(|c| c.name.to_string()).collect();
        assert_eq!(names[..2], ["memory", "bag-alice-download-1"], "both were asked");
        assert_eq!(download.recorder.requests().len(), 1);
        let create = || Request::StorageCreate { level: None, disks: vec![], spares: None, adopt: false };
        assert_eq!(operator.call("download", create()).await.unwrap(), Reply::Done {});
        let lease = operator.call("download", Request::LeaseList { offset: 0 }).await.unwrap();
        assert_eq!(lease, Reply::Done {}, "from the other daemon");
        let seen = download.recorder.requests();
        assert!(!seen.iter().any(|(_, m)| matches!(m.body, Body::Request(Request::StorageCreate { .. }))), "{seen:?}");
        stop.fire();
        admind.await.unwrap().unwrap();
        let checks = checks().await;
        assert!(checks[0].name.as_str() == "admind" && !checks[0].healthy, "{checks:?}");
        assert!(is_fault(&operator.call("download", create()).await.unwrap(), Fault::Unavailable));
    })
    .await;
}

/// Answers one `STATUS`. Once the answer was taken, nothing but time passes.
async fn well(listener: UnixListener) {
    let (mut stream, _) = listener.accept().await.unwrap();
    let Frame { message, .. } = read_frame(&mut stream).await.unwrap().unwrap();
    let message = Admind.call("operator:alice", message, &mut tokio::io::empty()).await;
    write_frame(&mut stream, &Frame { label: String::new(), message }).await.unwrap();
    assert!(read_frame(&mut stream).await.unwrap().is_none());
    time::pause();
}

#[tokio::test]
async fn what_one_daemon_says_is_told_in_time_where_the_other_hangs() {
    for hangs in ["stagerd", "admind"] {
        let (dir, site) = (tempfile::tempdir().unwrap(), site());
        let (stagerd, admind) = (dir.path().join("download.sock"), dir.path().join("admind.sock"));
        let extra = format!("[backends.admind]\nsocket = {admind:?}\nuid = {}\n", me());
        let of_role = Settings { backend: false, ..settings(Role::Download, &site.download, extra) };
        let download = machine(dir.path(), of_role).await;
        let (stagerd, admind) = (ipc::bind(&stagerd).unwrap(), ipc::bind(&admind).unwrap());
        let (answers, _silent) = if hangs == "admind" { (stagerd, admind) } else { (admind, stagerd) };
        tokio::spawn(well(answers));
        let operator = client(&site.operator, [direct("download", download.ports)]);
        let start = Instant::now();
        let reply = operator.call("download", Request::Status {}).await.unwrap();
        assert!(start.elapsed() < endpoint::STATUS + Duration::from_secs(5), "{hangs}: {:?}", start.elapsed());
        time::resume();
        let Reply::StatusReport { checks, .. } = reply else { panic!("{reply:?}") };
        let check = |name: &str| checks.iter().find(|check| check.name.as_str() == name).unwrap().clone();
        assert!(check("memory").healthy, "{checks:?}");
        let silent = check(hangs);
        assert!(!silent.healthy && silent.detail.as_str() == "did not answer within 10s", "{silent:?}");
    }
}

#[tokio::test]
async fn a_machine_without_admind_says_so() {
    within(async {
        let (dir, site) = (tempfile::tempdir().unwrap(), site());
        let download = machine(dir.path(), settings(Role::Download, &site.download, String::new())).await;
        let operator = client(&site.operator, [direct("download", download.ports)]);
        let reply = operator.call("download", Request::StorageStatus {}).await.unwrap();
        assert!(is_fault(&reply, Fault::Unavailable), "{reply:?}");
        assert!(download.recorder.requests().is_empty());
    })
    .await;
}

#[tokio::test]
async fn sockets_of_strangers_are_not_used_and_strangers_not_served() {
    within(async {
        let (dir, site) = (tempfile::tempdir().unwrap(), site());
        let mut strange = settings(Role::Database, &site.database, String::new());
        (strange.uid, strange.allow) = (me() + 1, me() + 1);
        let database = machine(dir.path(), strange).await;
        let web = client(&site.web, [direct("database", database.ports)]);
        let reply = web.call("database", login("alice", "x")).await.unwrap();
        assert!(is_fault(&reply, Fault::Unavailable), "{reply:?}");
        assert!(database.recorder.requests().is_empty());
        let outcome = ipc::Client::new(&database.out).call("web", Request::Status {}).await;
        assert!(outcome.is_err(), "{outcome:?}");
    })
    .await;
}

#[tokio::test]
async fn bags_of_another_machine_stop_the_daemon() {
    let site = site();
    for (bags, role, name) in
        [(&site.database, Role::Web, "web"), (&site.web, Role::Web, "web-2"), (&site.operator, Role::Web, "web")]
    {
        assert!(commlink::server::check_bags(&held(bags), role, name).is_err());
    }
    assert!(commlink::server::check_bags(&held(&site.web), Role::Web, "web").is_ok());
}
