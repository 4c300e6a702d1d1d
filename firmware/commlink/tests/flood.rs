//! Masses of connections that never get anywhere, against the daemon as a process: others are served, and its memory
//! stays under its cap.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use commlink::connection::Connection;
use commlink::sealed::open;
use commlink_proto::{Encoder, LineBuffer};
use common::*;
use daemon::Shutdown;
use daemon::ipc::{self, Peers};
use keys::Bag;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tobj::{Message, Request};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream, UnixDatagram};
use tokio::process::{Child, Command};

/// What the daemon may have resident, whatever comes (KiB). Its unit has this as its limit too.
const MEMORY_CAP: u64 = 96 * 1024;

async fn spawn(dir: &Path, site: &Site) -> (Child, commlink::dial::Ports) {
    let (sockets, ports) = listeners(4).await;
    drop(sockets);
    let range: Vec<u16> = ports.iter().collect();
    let (at, me) = (|name: &str| dir.join(name), nix::unistd::geteuid());
    std::fs::create_dir(at("bags")).unwrap();
    for bag in &site.database {
        bag.save(&at("bags").join(format!("{}.bag", bag.link()))).unwrap();
    }
    let text = format!(
        "name = \"database\"\nrole = \"database\"\nlisten = [\"127.0.0.1\"]\nports = [{}, {}]\nbags = {:?}\nsocket = {:?}\n\
         allow_uids = []\n[backends.masterd]\nsocket = {:?}\nuid = {me}\n",
        range[0],
        range[3],
        at("bags"),
        at("out.sock"),
        at("masterd.sock"),
    );
    std::fs::write(at("commlinkd.toml"), text).unwrap();
    let notify = UnixDatagram::bind(at("notify.sock")).unwrap();
    let child = Command::new(env!("CARGO_BIN_EXE_commlinkd"))
        .arg("--config")
        .arg(at("commlinkd.toml"))
        .env("NOTIFY_SOCKET", at("notify.sock"))
        .env("RUST_LOG", "error")
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut text = [0; 256];
    loop {
        let n = notify.recv(&mut text).await.unwrap();
        if std::str::from_utf8(&text[..n]).unwrap().lines().any(|line| line == "READY=1") {
            return (child, ports);
        }
    }
}

/// The most that a process had resident, in KiB.
fn peak(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// Connects from one of many addresses.
async fn from(n: usize, to: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    let last = u8::try_from(2 + n % 200).unwrap();
    socket.bind((IpAddr::V4(Ipv4Addr::new(127, 0, 1, last)), 0).into()).unwrap();
    socket.connect(to).await.unwrap()
}

/// Somebody with keys who, after a request like any other, sends a line that does not end, a little at a time. Gives what
/// he could send.
async fn slow_writer(n: usize, to: SocketAddr, bag: Arc<Bag>, stop: Arc<AtomicBool>) -> usize {
    let Ok(stream) = open(from(n, to).await, &[bag]).await else { return 0 };
    let mut connection = Connection::new(stream);
    let _ = connection.send(&Message::request(login_check("slow", "x")).unwrap()).await;
    if !matches!(connection.receive().await, Ok(Some(_))) {
        return 0;
    }
    let key = connection.session().packet_key();
    let text = Message::request(Request::Audit { records: vec![] }).unwrap().encode().unwrap();
    let (mut line, mut sent) = (LineBuffer::new(), 0);
    assert!(Encoder::new(text.as_bytes()).next(&key, &[7; 8], &mut line));
    let mut stream = connection.into_stream();
    while !stop.load(Ordering::Relaxed) {
        let piece = if sent == 0 { &line[..40] } else { &b"AAAA"[..] };
        if stream.write_all(piece).await.is_err() || stream.flush().await.is_err() {
            break;
        }
        sent += piece.len();
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    sent
}

async fn flood(half_open: usize, writers: usize) {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    let wanted = u64::try_from(half_open + 4 * writers + 200).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, soft.max(wanted.min(hard)), hard).unwrap();
    let (dir, site) = (tempfile::tempdir().unwrap(), site());
    let (_trigger, shutdown) = Shutdown::manual();
    let masterd = ipc::bind(&dir.path().join("masterd.sock")).unwrap();
    tokio::spawn(ipc::serve(masterd, Peers::mine(), Recorder::default(), shutdown));
    let (daemon, ports) = spawn(dir.path(), &site).await;
    let pid = daemon.id().unwrap();
    let at: Vec<SocketAddr> = ports.iter().map(|port| SocketAddr::new(LOOPBACK, port)).collect();
    let idle = peak(pid);
    let stop = Arc::new(AtomicBool::new(false));

    // Those who are served meanwhile: they come from the machine itself, and each request has a connection of its own.
    let served = Arc::new(AtomicUsize::new(0));
    let serving = {
        let (stop, served, bags) = (stop.clone(), served.clone(), site.web.clone());
        tokio::spawn(async move {
            while !stop.load(Ordering::Relaxed) {
                patient(&bags, [direct("database", ports)]).call("database", login("alice", "x")).await.unwrap();
                served.fetch_add(1, Ordering::Relaxed);
            }
        })
    };
    // Of two peers, since one may not have so many connections.
    let bags = ["download-database", "alice-database"].map(|link| {
        let mut all = site.download.iter().chain(&site.operator);
        Arc::new(all.find(|bag| bag.link() == link).unwrap().clone())
    });
    let slow: Vec<_> = (0..writers)
        .map(|n| tokio::spawn(slow_writer(n, at[n % at.len()], bags[n % 2].clone(), stop.clone())))
        .collect();
    let mut silent = Vec::new();
    for n in 0..half_open {
        let mut stream = from(n, at[n % at.len()]).await;
        // Nothing, half a greeting, or a whole one and half a handshake.
        let text: &[u8] = [&b""[..], b"FFS/2 web-data", b"FFS/2 web-database 1\r\n"][n % 3];
        let _ = stream.write_all(text).await;
        silent.push(stream);
    }
    let before = served.load(Ordering::Relaxed);
    while served.load(Ordering::Relaxed) < before + 20 {
        tokio::task::yield_now().await;
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    stop.store(true, Ordering::Relaxed);
    serving.await.unwrap();
    let mut wrote = 0;
    for slow in slow {
        wrote += usize::from(slow.await.unwrap() > 0);
    }
    // The oldest were pushed out, and nobody was told anything but the answer to a greeting.
    let mut answer = Vec::new();
    let _ = tokio::time::timeout(Duration::from_secs(15), silent[2].read_to_end(&mut answer)).await.unwrap();
    assert!(answer.is_empty() || answer.starts_with(b"FFS/2 ") && answer.ends_with(b" 1\r\n"), "{answer:?}");
    eprintln!(
        "{} requests were served beside {half_open} half-open connections and {wrote} of {writers} slow writers; \
         {idle} KiB before, {} KiB at most",
        served.load(Ordering::Relaxed),
        peak(pid)
    );
    assert!(wrote > 0, "nobody wrote slowly");
    assert!(peak(pid) < MEMORY_CAP, "{} KiB resident", peak(pid));
    drop(daemon);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn masses_that_get_nowhere() {
    within(flood(600, 40)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "long: 10,000 half-open connections and 200 slow writers"]
async fn long_commlink_masses_that_get_nowhere() {
    flood(10_000, 200).await;
}
