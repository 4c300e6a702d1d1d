//! Files on their way.

use crate::client::{Client, connect, connect_from, trusting};
use crate::daemon::{Daemon, start, start_with, until};
use crate::ftps;
use crate::stagerd::DIGEST;
use nix::sys::socket::{MsgFlags, send};
use std::io::{ErrorKind, Read};
use std::net::{Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use tobj::{Fault, Request};

const BIG: usize = 24 << 20;

#[test]
fn whole_and_from_an_offset() {
    let daemon = start();
    let bytes = daemon.stagerd.put("big file", BIG);
    daemon.stagerd.put("empty", 0);
    let mut client = Client::logged_in(daemon.v4);
    client.ask("TYPE I", 200);
    assert!(client.fetch("RETR big file") == bytes);
    let size = u64::try_from(BIG).unwrap();
    assert_eq!(daemon.stagerd.wait_for_end(0), (size, "complete".into(), size));

    for (number, offset) in [(1, 1), (2, size / 2 + 17), (3, size - 1), (4, size)] {
        client.ask(&format!("REST {offset}"), 350);
        assert!(client.fetch("RETR big file") == bytes[usize::try_from(offset).unwrap()..], "{offset}");
        assert_eq!(daemon.stagerd.wait_for_end(number).0, size - offset);
    }
    // REST is for one RETR, also for one that fails
    client.ask("REST 5", 350);
    client.refused("RETR nothing", 550);
    assert!(client.fetch("RETR big file") == bytes);
    client.ask(&format!("REST {}", size + 1), 350);
    assert_eq!(client.refused("RETR big file", 550), "550 The offset lies beyond the end\r\n");
    assert!(client.fetch("RETR empty").is_empty());
    let begun: Vec<_> = daemon.stagerd.seen();
    let begun: Vec<_> = begun.iter().filter(|r| matches!(r, Request::TransferBegin { .. })).collect();
    assert_eq!(begun.len(), 7);
    let Request::TransferBegin { path, offset, tls } = begun[2] else { panic!() };
    assert_eq!((path.as_str(), *offset, *tls), ("/big file", size / 2 + 17, None));
}

#[test]
fn pasv_and_its_public_address() {
    let daemon = start_with("public_address = \"192.0.2.9\"\npassive_ports = [40000, 40063]");
    daemon.stagerd.put("a", 10);
    let mut client = Client::logged_in(daemon.v4);
    let reply = client.ask("PASV", 227);
    let inside = reply.split(['(', ')']).nth(1).unwrap();
    let numbers: Vec<u16> = inside.split(',').map(|n| n.parse().unwrap()).collect();
    assert_eq!(numbers[..4], [192, 0, 2, 9]);
    let port = numbers[4] * 256 + numbers[5];
    assert!((40_000..=40_063).contains(&port));
    let mut data = connect(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port));
    client.ask("RETR a", 150);
    assert_eq!(data.read_to_end(&mut Vec::new()).unwrap(), 10);
    client.expect(226);
}

#[test]
fn ipv6() {
    let daemon = start();
    let bytes = daemon.stagerd.put("a", 1000);
    let mut client = Client::logged_in(daemon.v6);
    client.ask("PASV", 522);
    client.ask("EPSV 1", 522);
    assert_eq!(client.fetch("RETR a"), bytes);
    assert_eq!(client.fetch_text("NLST"), "a\r\n");
    let Request::FtpSession { address } = &daemon.stagerd.seen()[0] else { panic!() };
    assert_eq!(address.as_str(), "::1");
}

#[test]
fn a_transfer_that_stagerd_refuses() {
    let daemon = start();
    daemon.stagerd.put("a", 1000);
    let mut client = Client::logged_in(daemon.v4);
    for (fault, code) in
        [(Fault::Denied, 550), (Fault::Expired, 550), (Fault::NotFound, 550), (Fault::Unavailable, 450)]
    {
        daemon.stagerd.refuse_transfers(Some(fault));
        client.refused("RETR a", code);
    }
    daemon.stagerd.refuse_transfers(None);
    assert_eq!(client.fetch("RETR a").len(), 1000);
}

#[test]
fn hashes_are_known_and_not_computed() {
    let daemon = start();
    daemon.stagerd.put("d/a b", 10);
    let hash = format!("213 {}\r\n", tobj::Sha256::from(DIGEST));
    let mut client = Client::logged_in(daemon.v4);
    client.ask("CWD d", 250);
    assert_eq!(client.ask("SITE SHA256 a b", 213), hash);
    assert_eq!(client.ask("SITE sha256 /d/a b", 213), hash);
    for (fault, code) in
        [(Fault::Denied, 550), (Fault::Expired, 550), (Fault::NotFound, 550), (Fault::Unavailable, 450)]
    {
        daemon.stagerd.refuse_transfers(Some(fault));
        client.ask("SITE SHA256 a b", code);
    }
    daemon.stagerd.refuse_transfers(None);
    // Who waits for one is heard.
    daemon.stagerd.hold_digests(true);
    client.send("SITE SHA256 a b");
    client.ask("NOOP", 200);
    client.ask("ABOR", 426);
    client.expect(226);
    daemon.stagerd.hold_digests(false);
    assert_eq!(client.ask("SITE SHA256 a b", 213), hash);
    client.raw(b"SITE SHA256 a b\r\nQUIT\r\n");
    client.expect(213);
    client.expect(221);
    client.expect_end();
    let mut client = Client::logged_in(daemon.v4);
    daemon.stagerd.die();
    client.ask("SITE SHA256 d/a b", 421);
    client.expect_end();
}

#[test]
fn the_session_outlives_no_stagerd() {
    let daemon = start();
    daemon.stagerd.put("a", 1000);
    let mut client = Client::logged_in(daemon.v4);
    daemon.stagerd.die();
    client.ask("SIZE a", 213);
    client.refused("RETR a", 421);
    client.expect_end();
    let mut late = Client::new(daemon.v4);
    late.expect(421);
    late.expect_end();
}

#[test]
fn a_transfer_under_way_outlives_stagerd() {
    let daemon = start();
    let bytes = daemon.stagerd.put("big", BIG);
    let mut client = Client::logged_in(daemon.v4);
    let mut data = client.begin("RETR big");
    daemon.stagerd.die();
    let mut got = Vec::new();
    data.read_to_end(&mut got).unwrap();
    assert!(got == bytes);
    client.expect(226);
}

#[test]
fn abort() {
    let daemon = start_with("passive_ports = [29200, 29263]");
    let bytes = daemon.stagerd.put("big", BIG);
    let mut client = Client::logged_in(daemon.v4);
    client.ask("ABOR", 226);
    // The client reads nothing of its data, and sends Telnet's IP and Synch before the command, as BSD's ftp does.
    let mut data = client.begin("RETR big");
    client.ask("NOOP", 200);
    client.ask("STAT", 213);
    until("the kernel holds what the client does not take", || {
        sockets(&daemon, 29_200..=29_263).iter().any(|socket| socket.held > 1 << 20)
    });
    client.raw(b"\xff\xf4");
    send(client.socket.as_raw_fd(), b"\xff", MsgFlags::MSG_OOB).unwrap();
    client.raw(b"\xf2ABOR\r\n");
    client.expect(426);
    client.expect(226);
    let mut got = Vec::new();
    assert_eq!(data.read_to_end(&mut got).unwrap_err().kind(), ErrorKind::ConnectionReset, "it must not look whole");
    let (sent, outcome, counted) = daemon.stagerd.wait_for_end(0);
    assert_eq!(outcome, "aborted");
    assert_eq!(sent, counted);
    assert!(sent <= u64::try_from(got.len()).unwrap(), "{sent} bytes are on record, and {} came", got.len());
    assert!(client.fetch("RETR big") == bytes);
}

#[test]
fn quit_in_a_transfer() {
    let daemon = start();
    let bytes = daemon.stagerd.put("big", BIG);
    let mut client = Client::logged_in(daemon.v4);
    let mut data = client.begin("RETR big");
    client.send("QUIT");
    client.socket.shutdown(std::net::Shutdown::Write).unwrap();
    let mut got = Vec::new();
    data.read_to_end(&mut got).unwrap();
    assert!(got == bytes);
    client.expect(226);
    client.expect(221);
    client.expect_end();
}

#[test]
fn a_client_that_goes_away() {
    let daemon = start();
    daemon.stagerd.put("big", BIG);
    let mut client = Client::logged_in(daemon.v4);
    let data = client.begin("RETR big");
    drop(client);
    assert_eq!(daemon.stagerd.wait_for_end(0).1, "aborted");
    drop(data);
    let mut client = Client::logged_in(daemon.v4);
    drop(client.begin("RETR big"));
    client.expect(426);
    assert_eq!(daemon.stagerd.wait_for_end(1).1, "failed");
    client.ask("NOOP", 200);
}

#[test]
fn what_is_still_with_the_kernel_has_not_been_fetched() {
    let (daemon, der) = ftps::start("passive_ports = [29100, 29163]");
    // More than the client's kernel takes, and less than the server's: for the sender all of it is gone at once.
    let size = 1 << 20;
    daemon.stagerd.put("a", size);
    let mut clear = Client::logged_in(daemon.v4);
    let mut private = Client::greeted(daemon.v4);
    private.secure(trusting(&der));
    private.login();
    for (number, client) in [(0, &mut clear), (1, &mut private)] {
        let data = client.begin_with("RETR a", 64 << 10);
        until("the end of the stream is with the kernel", || {
            sockets(&daemon, 29_100..=29_163).iter().any(|socket| socket.state == FIN_WAIT1)
        });
        drop(data);
        client.expect(426);
        let (sent, outcome, counted) = daemon.stagerd.wait_for_end(number);
        assert_eq!((outcome.as_str(), sent), ("failed", counted));
        assert!(sent < u64::try_from(size).unwrap() / 2, "{sent} bytes");
    }
}

#[test]
fn a_stalled_client() {
    let daemon = start_with("stall_seconds = 1");
    daemon.stagerd.put("big", BIG);
    let mut client = Client::logged_in(daemon.v4);
    let mut data = client.begin("RETR big");
    assert_eq!(client.expect(426), "426 Transfer stalled\r\n");
    assert!(data.read_to_end(&mut Vec::new()).is_err());
    assert_eq!(daemon.stagerd.wait_for_end(0).1, "failed");
    client.ask("NOOP", 200);
}

#[test]
fn a_stranger_gets_nothing_and_takes_nothing() {
    let daemon = start();
    let bytes = daemon.stagerd.put("a", 1000);
    let mut client = Client::logged_in(daemon.v4);
    let port = client.passive();
    let mut stranger = connect_from(Ipv4Addr::new(127, 0, 0, 2), port).unwrap();
    let mut byte = [0];
    assert!(matches!(stranger.read(&mut byte), Ok(0) | Err(_)));
    let mut data = connect(port);
    client.ask("RETR a", 150);
    let mut got = Vec::new();
    data.read_to_end(&mut got).unwrap();
    assert_eq!(got, bytes);
    client.expect(226);
}

/// States of sockets, as /proc/net/tcp has them.
const LISTEN: &str = "0A";
const FIN_WAIT1: &str = "04";

/// A socket as /proc/net/tcp tells of it.
struct Socket {
    port: u16,
    state: String,
    /// Bytes that the other side has not acknowledged.
    held: u64,
}

/// Those at a range of ports that is one daemon's alone, below those that the kernel chooses from.
fn sockets(daemon: &Daemon, range: RangeInclusive<u16>) -> Vec<Socket> {
    let table = std::fs::read_to_string(format!("/proc/{}/net/tcp", daemon.pid())).unwrap();
    let socket = |line: &str| {
        // number, local address and port, those of the other side, state, queues out and in
        let fields: Vec<&str> = line.split_whitespace().collect();
        let port = u16::from_str_radix(fields[1].split(':').nth(1)?, 16).ok()?;
        let held = u64::from_str_radix(fields[4].split(':').next()?, 16).ok()?;
        range.contains(&port).then(|| Socket { port, state: fields[3].to_owned(), held })
    };
    table.lines().filter_map(socket).collect()
}

#[test]
fn each_passive_port_replaces_the_last() {
    let daemon = start_with("passive_ports = [29000, 29063]");
    let mut client = Client::logged_in(daemon.v4);
    let mut last = client.passive();
    for number in 0..200 {
        if number % 30 == 0 {
            // Who never fetches anything would have to wait between the next ones.
            client.fetch("NLST");
        }
        last = client.passive();
    }
    let listening = || -> Vec<u16> {
        let sockets = sockets(&daemon, 29_000..=29_063);
        sockets.iter().filter(|socket| socket.state == LISTEN).map(|socket| socket.port).collect()
    };
    until("only the last port listens", || listening() == [last.port()]);
    connect(last);
    until("nor does that once the client is there", || listening().is_empty());
    client.ask("RETR nothing", 550);
    client.ask("RETR nothing", 425);
}

/// Offsets have more than 32 bits; a file of holes has none of the bytes before them.
#[test]
fn beyond_four_gibibytes() {
    const SIZE: u64 = 5 << 30;
    let (daemon, der) = ftps::start("");
    let tail: Vec<u8> = (0..=255).collect();
    let file = std::fs::File::create(daemon.stagerd.account.join("huge")).unwrap();
    file.set_len(SIZE).unwrap();
    for at in [(1 << 32) + 17, SIZE - 256] {
        file.write_all_at(&tail, at).unwrap();
    }
    let mut clear = Client::logged_in(daemon.v4);
    let mut private = Client::greeted(daemon.v4);
    private.secure(trusting(&der));
    private.login();
    for (number, client) in [(0, &mut clear), (2, &mut private)] {
        assert_eq!(client.ask("SIZE huge", 213), format!("213 {SIZE}\r\n"));
        let listed = client.fetch_text("LIST");
        assert!(listed.contains(&format!(" {SIZE} ")), "{listed}");
        client.ask(&format!("REST {}", SIZE - 256), 350);
        assert_eq!(client.fetch("RETR huge"), tail);
        assert_eq!(daemon.stagerd.wait_for_end(number), (256, "complete".into(), 256));
        client.ask(&format!("REST {}", (1_u64 << 32) + 17), 350);
        let mut data = client.begin("RETR huge");
        let mut got = [0; 256];
        data.read_exact(&mut got).unwrap();
        assert_eq!(got[..], tail);
        client.ask("ABOR", 426);
        client.expect(226);
    }
    let offset = |r: &Request| match r {
        Request::TransferBegin { offset, .. } => Some(*offset),
        _ => None,
    };
    let offsets: Vec<u64> = daemon.stagerd.seen().iter().filter_map(offset).collect();
    assert_eq!(offsets, [SIZE - 256, (1 << 32) + 17, SIZE - 256, (1 << 32) + 17]);
}
