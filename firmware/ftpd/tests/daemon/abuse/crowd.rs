//! Everything at once, and what a customer notices of it.

use crate::client::{Client, connect_from};
use crate::daemon::{Daemon, until};
use crate::ftps;
use crate::stagerd::{PASSWORD, USER};
use nix::sys::resource::{Resource, setrlimit};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

const SILENT: u16 = 2000;
const SLOW_WRITERS: u16 = 200;
const STALLED_READERS: u16 = 100;
const HANDSHAKES: u16 = 100;
const FLOODS: u16 = 8;
const USERS: usize = 1000;
const DOWNLOADS: usize = 50;
/// New hostile connections per second, of those who come again and again.
const PER_SECOND: u64 = 100;
const SIZE: usize = 8 << 20;

/// The attacker's addresses: each has a hundred connections at most.
fn hostile(number: u16) -> Ipv4Addr {
    Ipv4Addr::new(127, 66, 0, u8::try_from(number / 100 + 1).unwrap())
}

fn resident(daemon: &Daemon) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{}/status", daemon.pid())).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().split(' ').next().unwrap().parse().unwrap()
}

/// The middle of so many logins of a customer, in seconds.
fn login_time(daemon: &Daemon) -> f64 {
    let mut times: Vec<f64> = (0..21)
        .map(|_| {
            let begun = Instant::now();
            Client::logged_in(daemon.v4).ask("QUIT", 221);
            begun.elapsed().as_secs_f64()
        })
        .collect();
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

/// Bytes per second of a few downloads.
fn throughput(daemon: &Daemon, bytes: &[u8]) -> f64 {
    let mut client = Client::logged_in(daemon.v4);
    let begun = Instant::now();
    for _ in 0..10 {
        assert!(client.fetch("RETR big") == bytes);
    }
    10.0 * bytes.len() as f64 / begun.elapsed().as_secs_f64()
}

fn open(daemon: &Daemon, number: u16) -> Option<TcpStream> {
    connect_from(hostile(number), daemon.v4).ok()
}

/// An attacker's machine has processors of its own: this thread takes only what the server and its customers leave.
fn elsewhere() {
    let thread = nix::unistd::gettid().to_string();
    let done = std::process::Command::new("renice").args(["-n", "19", "-p", &thread]).stdout(Stdio::null()).status();
    assert!(done.unwrap().success());
}

/// Writes what it gets, until it is told to stop or the other side has enough.
fn pour(socket: &mut TcpStream, bytes: &[u8], stop: &AtomicBool) {
    let _ = socket.set_nonblocking(true);
    while !stop.load(Relaxed) {
        match socket.write(bytes) {
            Ok(0) => return,
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                let _ = socket.read(&mut [0; 4096]);
                std::thread::park_timeout(Duration::from_millis(1));
            }
            Err(_) => return,
        }
    }
}

#[test]
#[ignore = "long: thousands of hostile connections, and it measures time"]
fn ftp_abuse_in_one_run() {
    setrlimit(Resource::RLIMIT_NOFILE, 16_384, 16_384).unwrap();
    let limits = "max_sessions = 5000\nmax_per_address = 128\nlogin_seconds = 120\nhandshake_seconds = 120\nstall_seconds = 120\n";
    let (daemon, _) = ftps::start(limits);
    let bytes = daemon.stagerd.put("big", SIZE);
    let (quiet_login, quiet_rate) = (login_time(&daemon), throughput(&daemon, &bytes));

    let mut held: Vec<TcpStream> = (0..SILENT).filter_map(|number| open(&daemon, number)).collect();
    assert_eq!(held.len(), usize::from(SILENT));
    for number in 0..HANDSHAKES {
        let mut socket = open(&daemon, 2100 + number).unwrap();
        socket.write_all(b"AUTH TLS\r\n\x16\x03\x01\x02\x00").unwrap();
        held.push(socket);
    }
    let mut stalled = Vec::new();
    for number in 0..STALLED_READERS {
        let mut client = Client::from(hostile(2200 + number), daemon.v4);
        client.expect(220);
        client.login();
        let data = client.begin("RETR big");
        stalled.push((client, data));
    }
    until("all of them have a session", || daemon.sessions().len() >= 2200);
    let before = resident(&daemon);

    let (stop, guessed, stolen) = (AtomicBool::new(false), AtomicUsize::new(0), AtomicUsize::new(0));
    let mut slow: Vec<TcpStream> = (0..SLOW_WRITERS).filter_map(|number| open(&daemon, 2400 + number)).collect();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            elsewhere();
            while !stop.load(Relaxed) {
                slow.retain_mut(|socket| socket.write_all(b"x").is_ok());
                std::thread::park_timeout(Duration::from_millis(50));
            }
        });
        for number in 0..FLOODS {
            let (daemon, stop) = (&daemon, &stop);
            scope.spawn(move || {
                elsewhere();
                // A customer gone bad: ports without end.
                let mut client = Client::from(hostile(2700), daemon.v4);
                client.expect(220);
                client.login();
                pour(&mut client.socket, &b"EPSV\r\nPASV\r\n".repeat(20), stop);
            });
            scope.spawn(move || {
                elsewhere();
                // Passwords in parallel, and bytes that are no commands.
                let line = format!("USER {USER}\r\nPASS guess\r\n").repeat(10);
                while !stop.load(Relaxed) {
                    std::thread::park_timeout(Duration::from_millis(1000 * u64::from(FLOODS) / PER_SECOND));
                    let Some(mut socket) = open(daemon, 2800 + number) else { continue };
                    let bytes = if number % 2 == 0 { line.as_bytes() } else { &[0xfe; 4096] };
                    pour(&mut socket, bytes, stop);
                }
            });
        }
        for part in 0..8 {
            let (daemon, stop, guessed) = (&daemon, &stop, &guessed);
            scope.spawn(move || {
                elsewhere();
                let mut user = part * USERS / 8;
                while !stop.load(Relaxed) {
                    let mut client = Client::from(hostile(2900), daemon.v4);
                    for _ in 0..3 {
                        let heard = client.try_reply().is_ok();
                        user = (user + 1) % USERS;
                        client.send(&format!("USER customer{user}"));
                        client.send(&format!("PASS {PASSWORD}"));
                        if !heard || client.try_reply().is_err() {
                            break;
                        }
                        guessed.fetch_add(1, Relaxed);
                    }
                }
            });
        }
        scope.spawn(|| {
            elsewhere();
            // Whoever connects to a passive port before its owner.
            let mut port = 50_000;
            while !stop.load(Relaxed) {
                port = if port >= 50_999 { 50_000 } else { port + 1 };
                let address = (Ipv4Addr::LOCALHOST, port).into();
                if let Ok(mut socket) = connect_from(Ipv4Addr::new(127, 77, 0, 1), address) {
                    let _ = socket.set_read_timeout(Some(Duration::from_millis(5)));
                    stolen.fetch_add(socket.read(&mut [0; 100]).unwrap_or(0), Relaxed);
                }
            }
        });

        std::thread::scope(|legitimate| {
            for _ in 0..DOWNLOADS {
                legitimate.spawn(|| {
                    let mut client = Client::from(Ipv4Addr::new(127, 0, 0, 3), daemon.v4);
                    client.expect(220);
                    client.login();
                    assert!(client.fetch("RETR big") == bytes);
                    client.ask("QUIT", 221);
                });
            }
        });
        let abused_login = login_time(&daemon);
        stop.store(true, Relaxed);
        eprintln!("login {quiet_login:.4} s, abused {abused_login:.4} s; {} users guessed", guessed.load(Relaxed));
        assert!(abused_login <= 2.0 * quiet_login.max(0.005), "{abused_login} s, {quiet_login} s without abuse");
    });
    assert_eq!(stolen.load(Relaxed), 0);
    let after = resident(&daemon);
    eprintln!("the forker has {before} KiB, and {after} KiB after it");
    assert!(after <= before + 1024, "{before} KiB, then {after} KiB");
    drop((held, slow, stalled));

    stop.store(false, Relaxed);
    let abused_rate = std::thread::scope(|scope| {
        scope.spawn(|| {
            elsewhere();
            let begun = Instant::now();
            let mut made = 0;
            while !stop.load(Relaxed) {
                if made < u64::try_from(begun.elapsed().as_millis()).unwrap() * PER_SECOND / 1000 {
                    drop(open(&daemon, u16::try_from(made % 3000).unwrap()));
                    made += 1;
                } else {
                    std::thread::park_timeout(Duration::from_millis(2));
                }
            }
        });
        let rate = throughput(&daemon, &bytes);
        stop.store(true, Relaxed);
        rate
    });
    eprintln!("{:.0} MB/s, abused {:.0} MB/s", quiet_rate / 1e6, abused_rate / 1e6);
    assert!(abused_rate >= 0.5 * quiet_rate, "{abused_rate} bytes per second, {quiet_rate} without abuse");
    until("all sessions are over", || daemon.sessions().is_empty());
    assert!(!daemon.log().contains("panicked"));
}

#[test]
#[ignore = "long: ten thousand downloads"]
fn ftp_five_thousand_downloads_each_way() {
    // Our stand-in for stagerd keeps the count of each.
    setrlimit(Resource::RLIMIT_NOFILE, 16_384, 16_384).unwrap();
    let (daemon, der) = ftps::start("");
    let bytes = daemon.stagerd.put("file", 2_000_003);
    let file = std::fs::File::open(daemon.stagerd.account.join("file")).unwrap();
    file.sync_all().unwrap();
    for tls in [true, false] {
        let left = AtomicUsize::new(5000);
        std::thread::scope(|scope| {
            for _ in 0..16 {
                scope.spawn(|| {
                    while let Ok(number) = left.fetch_update(Relaxed, Relaxed, |n| n.checked_sub(1)) {
                        if number % 7 == 0 {
                            // Not for the whole machine, only for this file: its pages go from the cache.
                            let whole = nix::fcntl::PosixFadviseAdvice::POSIX_FADV_DONTNEED;
                            nix::fcntl::posix_fadvise(&file, 0, 0, whole).unwrap();
                        }
                        let mut client = Client::greeted(daemon.v4);
                        if tls {
                            client.secure(crate::client::trusting(&der));
                        }
                        client.login();
                        // Each read has a time limit, so that one that stands still fails.
                        assert!(client.fetch("RETR file") == bytes);
                        client.ask("QUIT", 221);
                        daemon.stagerd.forget_connections();
                    }
                });
            }
        });
    }
}
