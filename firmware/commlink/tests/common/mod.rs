//! Machines on loopback, for the tests of this crate.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses its own part of this")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::future::Future;
use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use commlink::dial::Ports;
use commlink::relay::Target;
use commlink::server::{self, Setup};
use commlink::{Bags, Client, Peer};
use daemon::{Service, Shutdown, Trigger};
use keys::site::Role;
use keys::{Bag, LinkKind};
use tobj::{Body, Fault, Message, Name, Reply, Request, Secret, Text};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

pub const LOOPBACK: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

/// No test may hang.
pub async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(60), future).await.expect("the test is over in time")
}

/// The bags of a site with one machine of each role and one operator.
pub struct Site {
    pub web: Vec<Bag>,
    pub download: Vec<Bag>,
    pub database: Vec<Bag>,
    pub operator: Vec<Bag>,
}

pub fn site() -> Site {
    let mut site = Site { web: vec![], download: vec![], database: vec![], operator: vec![] };
    let pair = |link: &str, kind, ends| Bag::pair(link, kind, ends, 1).unwrap();
    let (a, b) = pair("web-download", LinkKind::WebDownload, ("web", "download"));
    site.web.push(a);
    site.download.push(b);
    let (a, b) = pair("web-database", LinkKind::WebDatabase, ("web", "database"));
    site.web.push(a);
    site.database.push(b);
    let (a, b) = pair("download-database", LinkKind::DownloadDatabase, ("download", "database"));
    site.download.push(a);
    site.database.push(b);
    for (name, bags) in [("web", &mut site.web), ("download", &mut site.download), ("database", &mut site.database)] {
        let (a, b) = pair(&format!("alice-{name}"), LinkKind::Operator, ("operator:alice", name));
        site.operator.push(a);
        bags.push(b);
    }
    site
}

/// Free ports in a row, taken.
pub async fn listeners(count: u16) -> (Vec<TcpListener>, Ports) {
    for _ in 0..100 {
        let first = TcpListener::bind((LOOPBACK, 0)).await.unwrap();
        let from = first.local_addr().unwrap().port();
        let Some(last) = from.checked_add(count - 1) else { continue };
        let mut all = vec![first];
        for port in from + 1..=last {
            match TcpListener::bind((LOOPBACK, port)).await {
                Ok(listener) => all.push(listener),
                Err(_) => break,
            }
        }
        if all.len() == usize::from(count) {
            return (all, Ports::new(from, last).unwrap());
        }
    }
    panic!("no {count} free ports in a row");
}

/// Answers everything in a way that tells what was asked, and keeps what was asked.
#[derive(Clone, Default)]
pub struct Recorder {
    pub seen: Arc<Mutex<Vec<(String, Message)>>>,
    /// Answers `OBJECT-PUT` without reading it.
    pub rude: bool,
}

impl Recorder {
    pub fn requests(&self) -> Vec<(String, Message)> {
        self.seen.lock().unwrap().clone()
    }
}

impl Service for Recorder {
    async fn call(&self, from: &str, request: Message, literal: &mut (dyn AsyncRead + Send + Unpin)) -> Message {
        self.seen.lock().unwrap().push((from.to_owned(), request.clone()));
        let Body::Request(body) = &request.body else { panic!("the server lets only requests through") };
        let reply = match body {
            Request::Login { customer, .. } | Request::LoginCheck { customer, .. } => {
                match Name::new(customer.as_str()) {
                    Ok(customer) => Reply::Verified { customer },
                    Err(_) => Reply::refused(Fault::Denied, "that is no name"),
                }
            }
            Request::Audit { records } => Reply::Acknowledged { upto: u64::try_from(records.len()).unwrap() },
            Request::WaitRevocations { .. } => std::future::pending().await,
            Request::ObjectPut { .. } if self.rude => Reply::refused(Fault::Invalid, "not now"),
            Request::ObjectPut { .. } => match discard(literal).await {
                Ok(size) => Reply::Stored { sha256: [7; 32].into(), size, known: false },
                Err(error) => Reply::refused(Fault::Invalid, &error.to_string()),
            },
            Request::Status {} => Reply::StatusReport {
                name: Name::new("some").unwrap(),
                role: Name::new("role").unwrap(),
                version: Text::new("1").unwrap(),
                checks: vec![],
            },
            _ => Reply::Done {},
        };
        request.reply(reply)
    }
}

async fn discard(literal: &mut (dyn AsyncRead + Send + Unpin)) -> std::io::Result<u64> {
    let mut reader = tokio::io::BufReader::with_capacity(1 << 16, literal);
    tokio::io::copy_buf(&mut reader, &mut tokio::io::sink()).await
}

/// A server under way.
pub struct Running {
    pub ports: Ports,
    pub recorder: Recorder,
    trigger: Trigger,
    task: JoinHandle<std::io::Result<()>>,
}

impl Running {
    pub async fn stop(self) {
        self.trigger.fire();
        self.task.await.unwrap().unwrap();
    }
}

pub async fn start(role: Role, bags: &[Bag], relay: Option<Target>) -> Running {
    let (listeners, ports) = listeners(1).await;
    start_on(listeners, ports, role, bags, relay, Recorder::default())
}

pub fn start_on(
    listeners: Vec<TcpListener>,
    ports: Ports,
    role: Role,
    bags: &[Bag],
    relay: Option<Target>,
    recorder: Recorder,
) -> Running {
    let setup = Setup { role, keyring: held(bags).into(), relay };
    let (trigger, shutdown) = Shutdown::manual();
    let task = tokio::spawn(server::serve(listeners, setup, recorder.clone(), shutdown));
    Running { ports, recorder, trigger, task }
}

pub fn held(bags: &[Bag]) -> Arc<Bags> {
    Arc::new(Bags::new(bags.to_vec()).unwrap())
}

pub fn direct(name: &str, ports: Ports) -> Peer {
    Peer { name: name.into(), host: Some(LOOPBACK.to_string()), ports: Some(ports), via: None, seal: true }
}

pub fn via(name: &str, relay: &str) -> Peer {
    Peer { name: name.into(), host: None, ports: None, via: Some(relay.into()), seal: true }
}

pub fn target(name: &str, ports: Ports) -> Target {
    Target { name: name.into(), host: LOOPBACK.to_string().into(), ports }
}

/// A client that gives up at once, as most of what is tried in tests fails for good.
pub fn client(bags: &[Bag], peers: impl IntoIterator<Item = Peer>) -> Client {
    patient(bags, peers).with_failover(Duration::ZERO)
}

/// A client as it is by default.
pub fn patient(bags: &[Bag], peers: impl IntoIterator<Item = Peer>) -> Client {
    Client::new(held(bags), peers).unwrap()
}

pub fn login(customer: &str, password: &str) -> Request {
    Request::Login {
        customer: Text::new(customer).unwrap(),
        password: Secret::new(password).unwrap(),
        address: Text::new("192.0.2.7").unwrap(),
    }
}

pub fn login_check(customer: &str, password: &str) -> Request {
    Request::LoginCheck {
        customer: Text::new(customer).unwrap(),
        password: Secret::new(password).unwrap(),
        address: Text::new("192.0.2.7").unwrap(),
    }
}

pub fn is_fault(reply: &Reply, expected: Fault) -> bool {
    matches!(reply, Reply::Fault { fault, .. } if *fault == expected)
}

/// What went through a [`proxy`], towards the server and back, connection by connection.
pub type Capture = Arc<Mutex<Vec<(Vec<u8>, Vec<u8>)>>>;

/// A machine in the middle that changes addresses and keeps all it sees. `tamper` may change each piece; it gets whether
/// the piece goes to the server, its place in the stream, and the bytes.
pub async fn proxy<F>(to: Ports, tamper: F) -> (Ports, Capture, JoinHandle<()>)
where
    F: Fn(bool, usize, &mut Vec<u8>) + Clone + Send + Sync + 'static,
{
    let (mut listeners, ports) = listeners(1).await;
    let listener = listeners.remove(0);
    let capture = Capture::default();
    let kept = capture.clone();
    let target = to.iter().next().unwrap();
    let task = tokio::spawn(async move {
        loop {
            let (client, _) = listener.accept().await.unwrap();
            let server = TcpStream::connect((LOOPBACK, target)).await.unwrap();
            let number = {
                let mut all = kept.lock().unwrap();
                all.push(Default::default());
                all.len() - 1
            };
            let ((client_in, client_out), (server_in, server_out)) = (client.into_split(), server.into_split());
            tokio::spawn(pump(client_in, server_out, true, number, kept.clone(), tamper.clone()));
            tokio::spawn(pump(server_in, client_out, false, number, kept.clone(), tamper.clone()));
        }
    });
    (ports, capture, task)
}

async fn pump<F>(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    up: bool,
    number: usize,
    kept: Capture,
    tamper: F,
) where
    F: Fn(bool, usize, &mut Vec<u8>),
{
    let (mut piece, mut place) = (vec![0; 65536], 0);
    while let Ok(n @ 1..) = from.read(&mut piece).await {
        let mut bytes = piece[..n].to_vec();
        {
            let mut all = kept.lock().unwrap();
            let side = if up { &mut all[number].0 } else { &mut all[number].1 };
            side.extend_from_slice(&bytes);
        }
        tamper(up, place, &mut bytes);
        place += n;
        if to.write_all(&bytes).await.is_err() {
            return;
        }
    }
    let _ = to.shutdown().await;
}
