//! FTPS.

use crate::client::{Client, trusting};
use crate::daemon::{Daemon, public_dir, start_in, until};
use crate::stagerd::{PASSWORD, USER};
use rustls::pki_types::CertificateDer;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use tobj::{Request, TlsVersion};

fn certificate(dir: &Path) -> CertificateDer<'static> {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    for (name, text) in [("cert.pem", made.cert.pem()), ("key.pem", made.signing_key.serialize_pem())] {
        let fresh = dir.join("fresh");
        std::fs::write(&fresh, text).unwrap();
        std::fs::set_permissions(&fresh, std::fs::Permissions::from_mode(0o644)).unwrap();
        std::fs::rename(fresh, dir.join(name)).unwrap();
    }
    made.cert.der().clone()
}

pub(crate) fn start(more: &str) -> (Daemon, CertificateDer<'static>) {
    let dir = public_dir();
    let der = certificate(dir.path());
    (start_in(dir, &format!("cert = \"{{dir}}/cert.pem\"\nkey = \"{{dir}}/key.pem\"\n{more}")), der)
}

#[test]
fn control_and_data_under_tls() {
    let (daemon, der) = start("");
    let bytes = daemon.stagerd.put("a file", 3_000_001);
    for address in [daemon.v4, daemon.v6] {
        let mut client = Client::greeted(address);
        client.secure(trusting(&der));
        client.login();
        assert!(client.fetch("RETR a file") == bytes);
        client.ask("REST 1000000", 350);
        assert!(client.fetch("RETR a file") == bytes[1_000_000..]);
        assert_eq!(client.fetch_text("NLST"), "a file\r\n");
        client.ask("CCC", 533);
        client.ask("QUIT", 221);
    }
    let seen = daemon.stagerd.seen();
    assert!(seen.iter().any(|r| matches!(r, Request::FtpLogin { tls: true, .. })));
    assert!(seen.iter().all(|r| !matches!(r, Request::TransferBegin { tls: None, .. })));
    let version = |r: &Request| matches!(r, Request::TransferEnd { tls: Some(TlsVersion::Tls13), .. });
    assert_eq!(daemon.stagerd.seen().iter().filter(|r| version(r)).count(), 4);
    // the second transfer of a session begins its own count
    assert_eq!(daemon.stagerd.wait_for_end(0).0, 3_000_001);
    assert_eq!(daemon.stagerd.wait_for_end(1), (2_000_001, "complete".into(), 2_000_001));
}

#[test]
fn abort_under_tls_does_not_look_whole() {
    let (daemon, der) = start("");
    daemon.stagerd.put("big", 24 << 20);
    let mut client = Client::greeted(daemon.v4);
    client.secure(trusting(&der));
    client.login();
    let mut data = client.begin("RETR big");
    client.ask("ABOR", 426);
    client.expect(226);
    assert!(data.read_to_end(&mut Vec::new()).is_err());
    client.ask("NOOP", 200);
}

#[test]
fn tls_required() {
    let (daemon, der) = start("require_tls = true");
    let bytes = daemon.stagerd.put("a", 100);
    let mut clear = Client::greeted(daemon.v4);
    clear.ask(&format!("USER {USER}"), 530);
    clear.ask(&format!("PASS {PASSWORD}"), 530);
    let mut client = Client::greeted(daemon.v4);
    client.secure(trusting(&der));
    client.login();
    client.ask("PROT C", 534);
    assert_eq!(client.fetch("RETR a"), bytes);
    assert!(!daemon.stagerd.seen().iter().any(|r| matches!(r, Request::FtpLogin { tls: false, .. })));
}

#[test]
fn data_in_clear_where_it_should_be_private() {
    let (daemon, der) = start("");
    daemon.stagerd.put("a", 100);
    let mut client = Client::greeted(daemon.v4);
    client.secure(trusting(&der));
    client.login();
    let mut data = crate::client::connect(client.passive());
    client.ask("RETR a", 150);
    std::io::Write::write_all(&mut data, b"no handshake at all, only text\r\n").unwrap();
    client.expect(425);
    let mut got = Vec::new();
    let _ = data.read_to_end(&mut got);
    assert!(got.len() < 100, "an alert at most");
    client.ask("NOOP", 200);
}

#[test]
fn commands_behind_auth_tls_are_not_obeyed() {
    let (daemon, _) = start("");
    let mut client = Client::greeted(daemon.v4);
    client.raw(b"AUTH TLS\r\nUSER evil\r\nNOOP\r\n");
    client.expect(234);
    // What is left is no handshake either, or a handshake that never ends; no command of it is answered.
    client.raw(b"NOOP\r\nNOOP\r\n");
    client.socket.shutdown(std::net::Shutdown::Write).unwrap();
    let mut rest = Vec::new();
    let _ = client.socket.read_to_end(&mut rest);
    assert!(!rest.starts_with(b"331") && !rest.starts_with(b"200"), "{rest:?}");
}

#[test]
fn a_web_server_is_what_this_is_not() {
    let (daemon, der) = start("");
    let mut config = (*trusting(&der)).clone();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let mut client = Client::greeted(daemon.v4);
    client.ask("AUTH TLS", 234);
    let name = rustls::pki_types::ServerName::try_from("localhost").unwrap();
    let mut tls = rustls::ClientConnection::new(config.into(), name).unwrap();
    let mut socket = client.socket.try_clone().unwrap();
    let mut outcome = Ok((0, 0));
    while outcome.is_ok() && tls.is_handshaking() {
        outcome = tls.complete_io(&mut socket);
    }
    assert!(outcome.unwrap_err().to_string().contains("NoApplicationProtocol"));
}

#[test]
fn a_certificate_is_renewed_without_a_restart() {
    let (daemon, old) = start("");
    let mut before = Client::greeted(daemon.v4);
    let new = certificate(daemon.dir.path());
    let mut after = Client::greeted(daemon.v4);
    after.secure(trusting(&new));
    after.login();
    // A session that has begun keeps the one that it began with.
    before.secure(trusting(&old));
    before.login();
    // One that cannot be used is not.
    std::fs::write(daemon.dir.path().join("cert.pem"), "nothing").unwrap();
    let mut client = Client::greeted(daemon.v4);
    client.secure(trusting(&new));
    client.login();
    until("the refusal is in the log", || daemon.log().contains("the new certificate is not used"));
}
