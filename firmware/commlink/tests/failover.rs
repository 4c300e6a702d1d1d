//! Ports that are silent or closed, and a daemon that is started again under load: each request has one answer, and none
//! is done twice.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::collections::BTreeMap;
use std::net::{SocketAddr, SocketAddrV4};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use commlink::CallError;
use commlink::dial::{Ports, STAGGER};
use common::*;
use daemon::ipc::{self, Peers};
use daemon::{Service, Shutdown};
use keys::site::Role;
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrIn, bind, listen, setsockopt, socket, sockopt,
};
use tobj::{Body, Id, LeaseKind, Message, Name, Reply, Request, Secret};
use tokio::io::AsyncRead;
use tokio::net::{TcpListener, TcpStream, UnixDatagram};
use tokio::process::{Child, Command};
use tokio::sync::Notify;

/// Requests under way at once.
const PARALLEL: usize = 64;

/// A port that drops what comes, as a firewall does: its queue is full, so the kernel answers no further SYN.
struct Deaf {
    _listener: std::os::fd::OwnedFd,
    _queued: Vec<std::net::TcpStream>,
}

fn deaf(port: u16) -> Deaf {
    let listener = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).unwrap();
    setsockopt(&listener, sockopt::ReuseAddr, &true).unwrap();
    let at = SocketAddrV4::new([127, 0, 0, 1].into(), port);
    bind(listener.as_raw_fd(), &SockaddrIn::from(at)).unwrap();
    listen(&listener, Backlog::new(0).unwrap()).unwrap();
    let mut queued = Vec::new();
    // The queue takes one or two; from then on connecting hangs.
    while let Ok(stream) = std::net::TcpStream::connect_timeout(&SocketAddr::V4(at), Duration::from_millis(100)) {
        queued.push(stream);
        assert!(queued.len() < 16, "the queue never fills");
    }
    Deaf { _listener: listener, _queued: queued }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifteen_of_sixteen_ports_dropped_then_refused() {
    within(async {
        let site = site();
        let (mut sockets, ports) = listeners(16).await;
        let live = sockets.remove(11);
        let silent: Vec<u16> = sockets.iter().map(|socket| socket.local_addr().unwrap().port()).collect();
        drop(sockets);
        let silent: Vec<Deaf> =
            tokio::task::spawn_blocking(move || silent.into_iter().map(deaf).collect()).await.unwrap();
        let server = start_on(vec![live], ports, Role::Database, &site.database, None, Recorder::default());
        for silent in [Some(silent), None] {
            let dropped = silent.is_some();
            let start = Instant::now();
            // Clients of their own, since one that has found the port keeps its connections.
            let asking: Vec<_> = (0..PARALLEL)
                .map(|n| {
                    let client = patient(&site.web, [direct("database", ports)]);
                    tokio::spawn(async move {
                        let name = format!("customer-{n}");
                        let reply = client.call("database", login(&name, "x")).await.unwrap();
                        assert_eq!(reply, Reply::Verified { customer: Name::new(&name).unwrap() });
                    })
                })
                .collect();
            for asking in asking {
                asking.await.unwrap();
            }
            let most = if dropped { STAGGER * 16 } else { Duration::ZERO };
            assert!(start.elapsed() < most + Duration::from_secs(5), "{:?}", start.elapsed());
        }
        let ids: Vec<Id> = server.recorder.requests().iter().map(|(_, message)| message.id).collect();
        assert_eq!(ids.len(), 2 * PARALLEL, "each was done once");
    })
    .await;
}

/// A daemon that keeps the answer with the ID, as all do that change something.
#[derive(Clone, Default)]
struct Keeps(Arc<Mutex<Kept>>);

#[derive(Default)]
struct Kept {
    answers: BTreeMap<Id, Reply>,
    asked: usize,
}

impl Service for Keeps {
    async fn call(&self, _: &str, request: Message, _: &mut (dyn AsyncRead + Send + Unpin)) -> Message {
        let Body::Request(Request::Grant { product, .. }) = &request.body else { panic!("what is asked again") };
        let number = {
            let mut kept = self.0.lock().unwrap();
            kept.asked += 1;
            let number = u64::try_from(kept.answers.len()).unwrap();
            let reply = Reply::Transfer { transfer: number };
            kept.answers.entry(request.id).or_insert(reply).clone()
        };
        // Some are under way when the daemon dies.
        tokio::time::sleep(Duration::from_millis(u64::try_from(product.as_str().len()).unwrap() % 5)).await;
        request.reply(number)
    }
}

fn grant(product: &str) -> Request {
    Request::Grant {
        session: Secret::new("x").unwrap(),
        product: Name::new(product).unwrap(),
        version: Name::new("1").unwrap(),
        kind: LeaseKind::Standing,
    }
}

struct Commlinkd {
    config: std::path::PathBuf,
    notify: std::path::PathBuf,
}

impl Commlinkd {
    async fn start(&self) -> Child {
        let _ = std::fs::remove_file(&self.notify);
        let socket = UnixDatagram::bind(&self.notify).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_commlinkd"))
            .arg("--config")
            .arg(&self.config)
            .env("NOTIFY_SOCKET", &self.notify)
            .env("RUST_LOG", "error")
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut text = [0; 256];
        loop {
            let n = socket.recv(&mut text).await.unwrap();
            if std::str::from_utf8(&text[..n]).unwrap().lines().any(|line| line == "READY=1") {
                return child;
            }
        }
    }
}

fn commlinkd(dir: &Path, site: &Site, ports: Ports) -> Commlinkd {
    let at = |name: &str| dir.join(name);
    std::fs::create_dir(at("bags")).unwrap();
    for bag in &site.database {
        bag.save(&at("bags").join(format!("{}.bag", bag.link()))).unwrap();
    }
    let (range, me): (Vec<u16>, _) = (ports.iter().collect(), nix::unistd::geteuid());
    let text = format!(
        "name = \"database\"\nrole = \"database\"\nlisten = [\"127.0.0.1\"]\nports = [{}, {}]\nbags = {:?}\nsocket = {:?}\n\
         allow_uids = []\n[backends.masterd]\nsocket = {:?}\nuid = {me}\n",
        range[0],
        range[range.len() - 1],
        at("bags"),
        at("out.sock"),
        at("masterd.sock"),
    );
    std::fs::write(at("commlinkd.toml"), text).unwrap();
    Commlinkd { config: at("commlinkd.toml"), notify: at("notify.sock") }
}

/// Serves as masterd.
fn masterd(dir: &Path, service: impl Service) -> daemon::Trigger {
    let (trigger, shutdown) = Shutdown::manual();
    tokio::spawn(ipc::serve(ipc::bind(&dir.join("masterd.sock")).unwrap(), Peers::mine(), service, shutdown));
    trigger
}

/// Does not answer what it is asked first.
#[derive(Clone, Default)]
struct Mute(Arc<Mutex<usize>>, Arc<Notify>);

impl Service for Mute {
    async fn call(&self, _: &str, request: Message, _: &mut (dyn AsyncRead + Send + Unpin)) -> Message {
        let asked = {
            let mut asked = self.0.lock().unwrap();
            *asked += 1;
            *asked
        };
        if asked == 1 {
            self.1.notify_one();
            std::future::pending::<()>().await;
        }
        request.reply(Reply::Done {})
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_login_that_may_have_been_taken_is_not_tried_again() {
    within(async {
        for (request, again) in [(login("alice", "x"), false), (login_check("alice", "x"), false), (grant("a"), true)] {
            let (dir, site) = (tempfile::tempdir().unwrap(), site());
            let (sockets, ports) = listeners(1).await;
            drop(sockets);
            let unit = commlinkd(dir.path(), &site, ports);
            let mute = Mute::default();
            let _masterd = masterd(dir.path(), mute.clone());
            let mut daemon = unit.start().await;
            let client = patient(&site.download, [direct("database", ports)]);
            let asking = tokio::spawn(async move { client.call("database", request).await });
            mute.1.notified().await;
            daemon.kill().await.unwrap();
            daemon = unit.start().await;
            let outcome = asking.await.unwrap();
            if again {
                assert_eq!(outcome.unwrap(), Reply::Done {});
            } else {
                assert!(matches!(outcome, Err(CallError::Broken { asked: true, .. })), "{outcome:?}");
            }
            assert_eq!(*mute.0.lock().unwrap(), if again { 2 } else { 1 });
            daemon.kill().await.unwrap();
        }
    })
    .await;
}

async fn restarts(times: usize) {
    let (dir, site) = (tempfile::tempdir().unwrap(), site());
    let (sockets, ports) = listeners(4).await;
    drop(sockets);
    let unit = commlinkd(dir.path(), &site, ports);
    let kept = Keeps::default();
    let _masterd = masterd(dir.path(), kept.clone());
    let mut daemon = unit.start().await;
    let client = patient(&site.web, [direct("database", ports)]);
    let answers = Arc::new(Mutex::new(BTreeMap::<Id, u64>::new()));
    let mut asked = 0;
    for time in 0..times {
        let asking: Vec<_> = (0..PARALLEL)
            .map(|n| {
                let (client, answers) = (client.clone(), answers.clone());
                tokio::spawn(async move {
                    for round in 0..4 {
                        let message = Message::request(grant(&"x".repeat(1 + (n + round) % 9))).unwrap();
                        let id = message.id;
                        let reply = client.call_message("database", message).await.unwrap();
                        let Reply::Transfer { transfer } = reply else { panic!("{reply:?}") };
                        assert_eq!(answers.lock().unwrap().insert(id, transfer), None);
                    }
                })
            })
            .collect();
        asked += 4 * PARALLEL;
        // Once some of them are under way: killed as by a crash, or told to end.
        while answers.lock().unwrap().len() + 3 * PARALLEL < asked {
            tokio::task::yield_now().await;
        }
        if time % 2 == 0 {
            daemon.kill().await.unwrap();
        } else {
            let pid = i32::try_from(daemon.id().unwrap()).unwrap();
            nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGTERM).unwrap();
            assert!(daemon.wait().await.unwrap().success());
        }
        daemon = unit.start().await;
        for asking in asking {
            asking.await.unwrap();
        }
    }
    let (answers, kept) = (answers.lock().unwrap(), kept.0.lock().unwrap());
    eprintln!("{} requests, {} were asked again", answers.len(), kept.asked - answers.len());
    assert_eq!(answers.len(), asked, "each has its answer");
    assert_eq!(kept.answers.len(), asked, "each was done once");
    for (id, number) in &*answers {
        assert_eq!(kept.answers[id], Reply::Transfer { transfer: *number }, "the first answer");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_daemon_that_is_started_again_under_load() {
    within(restarts(4)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "long: 100 restarts"]
async fn long_commlink_restarts_under_load() {
    restarts(100).await;
}

#[tokio::test]
async fn a_peer_that_comes_back_within_the_deadline_is_waited_for() {
    within(async {
        let site = site();
        let (sockets, ports) = listeners(1).await;
        drop(sockets);
        let client = patient(&site.web, [direct("database", ports)]);
        let asking = tokio::spawn(async move { client.call("database", login("alice", "x")).await });
        // The client has met a closed port before there is anything.
        let port = ports.iter().next().unwrap();
        while TcpStream::connect((LOOPBACK, port)).await.is_ok() {}
        tokio::time::sleep(Duration::from_millis(300)).await;
        let listener = TcpListener::bind((LOOPBACK, port)).await.unwrap();
        let server = start_on(vec![listener], ports, Role::Database, &site.database, None, Recorder::default());
        asking.await.unwrap().unwrap();
        assert_eq!(server.recorder.requests().len(), 1);
    })
    .await;
}
