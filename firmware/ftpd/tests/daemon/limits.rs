//! Each limit at its edge, as far as other files of these tests do not have it: `forking` has those on numbers of sessions, `access`
//! those on lines, bytes and idle time before and after the login.

use crate::client::{Client, connect, trusting};
use crate::daemon::{start, start_with, until};
use crate::ftps;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

fn within<T>(least: f64, most: f64, what: impl FnOnce() -> T) -> T {
    let begun = Instant::now();
    let outcome = what();
    let took = begun.elapsed().as_secs_f64();
    assert!((least..most).contains(&took), "{took} s, not {least} to {most}");
    outcome
}

#[test]
fn a_handshake_that_never_ends() {
    let (daemon, der) = ftps::start("handshake_seconds = 1");
    daemon.stagerd.put("a", 3);
    // On the control connection: nothing more is said.
    let mut client = Client::greeted(daemon.v4);
    client.ask("AUTH TLS", 234);
    within(0.9, 20.0, || client.expect_end());
    // On a data connection: the session lives on.
    let mut client = Client::greeted(daemon.v4);
    client.secure(trusting(&der));
    client.login();
    let mut data = connect(client.passive());
    client.ask("RETR a", 150);
    within(0.9, 20.0, || client.expect(425));
    assert!(!matches!(data.read(&mut [0]), Ok(n) if n > 0));
    assert_eq!(client.fetch("RETR a").len(), 3);
}

#[test]
fn a_data_connection_that_never_comes() {
    let daemon = start_with("connect_seconds = 1");
    daemon.stagerd.put("a", 3);
    let mut client = Client::logged_in(daemon.v4);
    client.passive();
    within(0.9, 20.0, || client.ask("RETR a", 425));
    client.passive();
    client.send("LIST");
    client.ask("NOOP", 200);
    client.send("ABOR");
    client.expect(426);
    client.expect(226);
    assert_eq!(client.fetch("RETR a").len(), 3);
}

#[test]
fn no_passive_port_is_left() {
    // Somebody else has the only one.
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let daemon = start_with(&format!("passive_ports = [{port}, {port}]"));
    daemon.stagerd.put("a", 3);
    let mut client = Client::logged_in(daemon.v4);
    client.ask("EPSV", 425);
    client.ask("PASV", 425);
    client.ask("RETR a", 425);
    drop(taken);
    // One session has one port at a time, so the range is enough for one after the other.
    for _ in 0..3 {
        assert_eq!(client.passive().port(), port);
    }
    assert_eq!(client.fetch("RETR a").len(), 3);
}

#[test]
fn commands_that_come_to_nothing() {
    let daemon = start();
    daemon.stagerd.put("a", 3);
    let mut client = Client::logged_in(daemon.v4);
    let fruitless = |client: &mut Client, times: usize| {
        let begun = Instant::now();
        client.raw("EPSV\r\nSIZE none\r\nNOOP\r\n".repeat(times / 2).as_bytes());
        for _ in 0..times / 2 {
            client.expect(229);
            client.expect(550);
            client.expect(200);
        }
        begun.elapsed()
    };
    // 32 are free; each after them, but for what succeeds, takes a tenth of a second. A transfer makes up for all.
    fruitless(&mut client, 32);
    assert!(fruitless(&mut client, 10) >= Duration::from_secs(1));
    assert!(quickest(&mut client, "NOOP", 200) < PENANCE);
    assert_eq!(client.fetch("RETR a").len(), 3);
    let begun = Instant::now();
    fruitless(&mut client, 32);
    client.ask("NOOP", 200);
    assert!(begun.elapsed() < Duration::from_secs(3), "no more than one of them waited");
}

/// What a command that came to nothing waits for, once there were too many.
const PENANCE: Duration = Duration::from_millis(100);

/// The least time that this takes in a few tries: who has to wait has to every time.
fn quickest(client: &mut Client, command: &str, code: u16) -> Duration {
    let once = || {
        let begun = Instant::now();
        client.ask(command, code);
        begun.elapsed()
    };
    std::iter::repeat_with(once).take(5).min().unwrap()
}

#[test]
fn ports_that_are_given_up_come_to_nothing() {
    let daemon = start();
    let mut client = Client::logged_in(daemon.v4);
    for _ in 0..40 {
        client.raw(b"EPSV\r\nABOR\r\n");
        client.expect(229);
        client.expect(226);
    }
    assert!(quickest(&mut client, "EPSV", 229) >= PENANCE);
}

#[test]
fn questions_that_are_given_up_come_to_nothing() {
    let daemon = start();
    daemon.stagerd.put("a", 3);
    let mut client = Client::logged_in(daemon.v4);
    daemon.stagerd.hold_digests(true);
    for _ in 0..40 {
        client.raw(b"SITE SHA256 a\r\nABOR\r\n");
        client.expect(426);
        client.expect(226);
        daemon.stagerd.hold_digests(false);
        // This one waits until the question is over.
        client.ask("PWD", 257);
        daemon.stagerd.hold_digests(true);
    }
    assert!(quickest(&mut client, "EPSV", 229) >= PENANCE);
}

#[test]
fn transfers_that_are_aborted_were_transfers() {
    let daemon = start();
    daemon.stagerd.put("big", 24 << 20);
    let mut client = Client::logged_in(daemon.v4);
    for _ in 0..20 {
        let _data = client.begin("RETR big");
        client.ask("ABOR", 426);
        client.expect(226);
    }
    assert!(quickest(&mut client, "SIZE none", 550) < PENANCE);
}

#[test]
fn the_longest_life_of_a_session() {
    let daemon = start_with("session_seconds = 2\nstall_seconds = 60");
    let bytes = daemon.stagerd.put("big", 24 << 20);
    let mut busy = Client::logged_in(daemon.v4);
    let mut aborting = Client::logged_in(daemon.v4);
    let (mut data, _unread) = (busy.begin("RETR big"), aborting.begin("RETR big"));
    // The last to come: when his time is over, that of the others is.
    let mut idle = Client::logged_in(daemon.v4);
    within(0.5, 20.0, || idle.expect(421));
    idle.expect_end();
    // What runs may end, and is the last.
    busy.ask("NOOP", 200);
    busy.send("SIZE big");
    let mut got = Vec::new();
    data.read_to_end(&mut got).unwrap();
    assert!(got == bytes);
    aborting.ask("ABOR", 426);
    for client in [&mut busy, &mut aborting] {
        client.expect(226);
        client.expect(421);
        client.expect_end();
    }
    until("all are over", || daemon.sessions().is_empty());
}

#[test]
fn a_last_transfer_stalls_as_any_other() {
    let daemon = start_with("session_seconds = 2\nstall_seconds = 3");
    daemon.stagerd.put("big", 24 << 20);
    let mut client = Client::logged_in(daemon.v4);
    let mut data = client.begin("RETR big");
    assert!(within(2.0, 20.0, || client.expect(426)).contains("stalled"));
    client.expect(421);
    client.expect_end();
    assert_eq!(data.read_to_end(&mut Vec::new()).unwrap_err().kind(), ErrorKind::ConnectionReset);
}

#[test]
fn the_last_words_of_a_session() {
    let daemon = start_with("session_seconds = 2");
    daemon.stagerd.put("a", 3);
    daemon.stagerd.hold_digests(true);
    let longest = 2.0 + ftpd::session::FAREWELL.as_secs_f64();
    within(longest, longest + 10.0, || {
        let mut client = Client::logged_in(daemon.v4);
        client.send("SITE SHA256 a");
        // A question that is not answered is no transfer.
        client.expect_end();
    });
    daemon.stagerd.hold_digests(false);
}

#[test]
fn a_session_has_its_bytes_per_second() {
    for (tls, rate) in [(false, 2_000_000), (true, 2_000_000), (false, 0)] {
        let (daemon, der) = ftps::start(&format!("session_bytes_per_second = {rate}"));
        let bytes = daemon.stagerd.put("a", 1_600_000);
        let mut client = Client::greeted(daemon.v4);
        if tls {
            client.secure(trusting(&der));
        }
        client.login();
        let begun = Instant::now();
        assert!(client.fetch("RETR a") == bytes);
        // A tenth of a second's bytes may come at once.
        let took = begun.elapsed().as_secs_f64();
        assert!(if rate == 0 { took < 20.0 } else { took > 0.6 }, "{took} s at {rate} bytes per second");
    }
}

#[test]
fn a_customer_has_his_bytes_per_second() {
    let daemon = start();
    daemon.stagerd.allow(2_000_000);
    let bytes = daemon.stagerd.put("a", 3_600_000);
    let mut client = Client::logged_in(daemon.v4);
    let begun = Instant::now();
    assert!(client.fetch("RETR a") == bytes);
    assert!(begun.elapsed() > Duration::from_secs(1), "{:?}", begun.elapsed());
}

#[test]
fn abort_of_a_slow_transfer_is_answered_at_once() {
    let daemon = start_with("session_bytes_per_second = 1000");
    daemon.stagerd.put("a", 1_000_000);
    let mut client = Client::logged_in(daemon.v4);
    let mut data = client.begin("RETR a");
    data.read_exact(&mut [0; 100]).unwrap();
    within(0.0, 3.0, || {
        client.ask("ABOR", 426);
        client.expect(226);
    });
    assert_eq!(data.read_to_end(&mut Vec::new()).unwrap_err().kind(), ErrorKind::ConnectionReset);
}

#[test]
fn the_unit_has_room_for_what_the_limits_allow() {
    let unit = concat!(env!("CARGO_MANIFEST_DIR"), "/../../image/rootfs/download/usr/lib/systemd/system/ftpd.service");
    let unit = std::fs::read_to_string(unit).unwrap();
    let value = |name: &str| unit.lines().find_map(|line| line.strip_prefix(&format!("{name}="))).unwrap();
    // `fitting` counts on one half.
    assert_eq!(value("MemoryMax"), "50%");
    // Each session may have a second thread for its disk.
    assert!(value("TasksMax").parse::<usize>().unwrap() > 2 * ftpd::limits::MOST_SESSIONS);
    assert!(value("LimitNOFILE").parse::<usize>().unwrap() > ftpd::limits::MOST_SESSIONS);
}

#[test]
fn the_unit_bounds_what_goes_to_the_journal() {
    let own = "/../../image/rootfs/download/usr/lib/systemd/system/ftpd.service.d/20-own.conf";
    let own = std::fs::read_to_string(format!("{}{own}", env!("CARGO_MANIFEST_DIR"))).unwrap();
    for line in ["LogRateLimitIntervalSec=30s", "LogRateLimitBurst=300"] {
        assert!(own.lines().any(|l| l == line), "{own}");
    }
}

#[test]
fn descriptors_and_memory_of_a_session() {
    let daemon = start();
    daemon.stagerd.put("a", 3);
    let mut client = Client::logged_in(daemon.v4);
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", daemon.session())).unwrap();
    let limit = |name: &str| {
        let line = limits.lines().find(|line| line.starts_with(name)).unwrap();
        line[name.len()..].split_whitespace().next().unwrap().parse::<u64>().unwrap()
    };
    assert_eq!(limit("Max open files"), ftpd::confine::MAX_DESCRIPTORS);
    assert_eq!(limit("Max data size"), ftpd::confine::MAX_MEMORY);
    // Whatever a client does with its ports, the session stays within.
    for _ in 0..20 {
        for _ in 0..15 {
            let port = client.passive();
            drop(TcpStream::connect(port));
            client.ask("RETR nothing", 550);
        }
        // Who never fetches anything would have to wait between the next ones.
        assert_eq!(client.fetch("RETR a").len(), 3);
    }
}

#[test]
fn who_reads_no_replies_is_left() {
    let daemon = start_with("stall_seconds = 1");
    daemon.stagerd.put("a", 3);
    let client = Client::logged_in(daemon.v4);
    // Each reply is larger than its command, so that the buffers fill on the way back first.
    let commands = b"FEAT\r\n".repeat(1000);
    client.socket.set_write_timeout(Some(Duration::from_secs(20))).unwrap();
    let mut socket = client.socket.try_clone().unwrap();
    let ended = (0..100_000).any(|_| socket.write_all(&commands).is_err());
    assert!(ended, "the session takes everything");
    until("the session is over", || daemon.sessions().is_empty());
}

#[test]
fn a_flood_in_a_transfer_waits_in_the_kernel() {
    let daemon = start_with("stall_seconds = 20");
    daemon.stagerd.put("big", 24 << 20);
    let mut client = Client::logged_in(daemon.v4);
    let _data = client.begin("RETR big");
    let pid = daemon.session();
    let memory = || {
        let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
        line.trim().split(' ').next().unwrap().parse::<u64>().unwrap()
    };
    let before = memory();
    client.socket.set_write_timeout(Some(Duration::from_millis(300))).unwrap();
    let mut socket = client.socket.try_clone().unwrap();
    let commands = b"SIZE big\r\n".repeat(1000);
    assert!((0..10_000).any(|_| socket.write_all(&commands).is_err()), "100 MB of commands were taken");
    assert!(memory() < before + 1024, "{} KiB, {before} before", memory());
}
