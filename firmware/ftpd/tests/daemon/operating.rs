//! What the operator sees and does: metrics, another configuration, the public address.

use crate::client::Client;
use crate::daemon::{Daemon, start, start_with, until};
use crate::stagerd::USER;
use nix::sys::signal::Signal;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Instant;

fn metrics_address(daemon: &Daemon) -> SocketAddr {
    let log = daemon.log();
    let line = log.lines().find(|line| line.contains("metrics address=")).expect("metrics are listened for");
    line.rsplit('=').next().unwrap().trim().parse().unwrap()
}

fn ask(address: SocketAddr, question: &[u8]) -> String {
    let mut socket = TcpStream::connect(address).unwrap();
    socket.set_read_timeout(Some(crate::daemon::LIMIT)).unwrap();
    socket.write_all(question).unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn metrics() {
    let daemon = start_with("metrics = \"127.0.0.1:0\"\nmax_per_address = 2");
    daemon.stagerd.put("a", 1000);
    until("it listens", || daemon.log().contains("metrics address="));
    let address = metrics_address(&daemon);
    let mut client = Client::logged_in(daemon.v4);
    client.fetch("RETR a");
    drop(client.begin("RETR a"));
    client.try_reply().unwrap();
    let mut wrong = Client::greeted(daemon.v4);
    wrong.ask(&format!("USER {USER}"), 331);
    wrong.ask("PASS wrong", 530);
    Client::new(daemon.v4).expect(421);
    // One who asks and says nothing holds up nobody.
    let _silent = TcpStream::connect(address).unwrap();
    let question = b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n";
    let expected = [
        "ffs_ftp_sessions 2",
        "ffs_ftp_sessions_total 2",
        "ffs_ftp_logins_total{result=\"admitted\"} 1",
        "ffs_ftp_logins_total{result=\"refused\"} 1",
        "ffs_ftp_refusals_total{limit=\"address\"} 1",
        "ffs_ftp_transfer_seconds_count 2",
    ];
    let mut answer = String::new();
    until("everything is counted", || {
        answer = ask(address, question);
        expected.iter().all(|line| answer.lines().any(|l| l == *line))
    });
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.contains("text/plain; version=0.0.4"), "{answer}");
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.contains(&format!("Content-Length: {}", body.len())), "{head}");
    assert!(ask(address, b"GET / HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 404"));
    client.ask("NOOP", 200);
}

#[test]
fn questions_without_end_are_given_up() {
    let daemon = start_with("metrics = \"127.0.0.1:0\"");
    until("it listens", || daemon.log().contains("metrics address="));
    let address = metrics_address(&daemon);
    let question = b"GET /metrics HTTP/1.1\r\n\r\n";
    // As long as allowed, and one byte more.
    let padded = |length: usize| {
        let head = "GET /metrics HTTP/1.1\r\nX: ";
        format!("{head}{}\r\n\r\n", "x".repeat(length - head.len() - 4))
    };
    assert!(ask(address, padded(8192).as_bytes()).starts_with("HTTP/1.1 200"));
    let mut long = TcpStream::connect(address).unwrap();
    long.set_read_timeout(Some(crate::daemon::LIMIT)).unwrap();
    long.write_all(padded(8193).as_bytes()).unwrap();
    // A reset, since there is an unread rest, or an end.
    assert!(matches!(long.read(&mut [0; 64]), Ok(0) | Err(_)));
    // Eight who say nothing keep the others waiting, for their five seconds.
    let silent: Vec<TcpStream> = (0..8).map(|_| TcpStream::connect(address).unwrap()).collect();
    let begun = Instant::now();
    assert!(ask(address, question).starts_with("HTTP/1.1 200"));
    assert!((4.0..20.0).contains(&begun.elapsed().as_secs_f64()), "{:?}", begun.elapsed());
    drop(silent);
    Client::logged_in(daemon.v4).ask("NOOP", 200);
}

#[test]
fn another_configuration_without_dropping_sessions() {
    let daemon = start_with("max_per_address = 1");
    daemon.stagerd.put("a", 1000);
    let mut client = Client::logged_in(daemon.v4);
    Client::new(daemon.v4).expect(421);
    let file = daemon.dir.path().join("ftpd.toml");
    let old = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, "nonsense").unwrap();
    daemon.signal(Signal::SIGHUP);
    until("it is refused", || daemon.log().contains("the new configuration is not used"));
    Client::new(daemon.v4).expect(421);
    std::fs::write(&file, old.replace("max_per_address = 1", "max_per_address = 3\npublic_address = \"192.0.2.7\""))
        .unwrap();
    daemon.signal(Signal::SIGHUP);
    until("it is read", || daemon.log().contains("the configuration was read again"));
    let mut second = Client::logged_in(daemon.v4);
    assert!(second.ask("PASV", 227).contains("(192,0,2,7,"));
    assert!(client.ask("PASV", 227).contains("(127,0,0,1,"), "a session keeps what it began with");
    assert_eq!(client.fetch("RETR a").len(), 1000);
}

#[test]
fn a_public_address_by_name() {
    let daemon = start_with("public_address = \"localhost\"");
    until("the name is known", || daemon.log().contains("the public address"));
    let mut client = Client::logged_in(daemon.v4);
    assert!(client.ask("PASV", 227).contains("(127,0,0,1,"));
    let unknown = start_with("public_address = \"no-such-name.invalid\"");
    until("it is known that there is none", || unknown.log().contains("has no IPv4 address"));
    let mut client = Client::logged_in(unknown.v4);
    client.ask("PASV", 425);
    client.ask("EPSV", 229);
}

#[test]
fn no_metrics_unless_asked_for() {
    assert!(!start().log().contains("metrics address="));
}
