//! Links without seal, and what address translation does to links with and without.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::net::{IpAddr, Ipv4Addr};

use commlink::client::ClientError;
use commlink::config::{Config, ConfigError};
use commlink::dial::Ports;
use commlink::server::{self, Door, Setup};
use commlink::{Bags, CallError, Client, Peer};
use commlink_proto::{LineBuffer, Mark, PacketKey, decode_line, encode_packet};
use common::*;
use daemon::Shutdown;
use keys::site::Role;
use tobj::{Message, Name, Reply, Request};
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

/// A database machine with a sealed port and one without seal for the web machine.
struct Two {
    sealed: Ports,
    unsealed: Ports,
    recorder: Recorder,
    _trigger: daemon::Trigger,
}

async fn two(site: &Site) -> Two {
    let ((mut a, sealed), (mut b, unsealed)) = (listeners(1).await, listeners(1).await);
    let doors = vec![(a.remove(0), Door::Sealed), (b.remove(0), Door::Unsealed("web-database".into()))];
    let setup = Setup { role: Role::Database, keyring: held(&site.database).into(), relay: None };
    let recorder = Recorder::default();
    let (trigger, shutdown) = Shutdown::manual();
    tokio::spawn(server::serve_doors(doors, setup, recorder.clone(), shutdown));
    Two { sealed, unsealed, recorder, _trigger: trigger }
}

fn without_seal(ports: Ports) -> Peer {
    Peer { seal: false, ..direct("database", ports) }
}

#[tokio::test]
async fn transactions_without_seal() {
    within(async {
        let site = site();
        let server = two(&site).await;
        let client = client(&site.web, [without_seal(server.unsealed)]);
        for n in 0..3 {
            let name = format!("customer-{n}");
            let reply = client.call("database", login(&name, "x")).await.unwrap();
            assert_eq!(reply, Reply::Verified { customer: Name::new(&name).unwrap() });
        }
        assert!(server.recorder.requests().iter().all(|(from, _)| from == "web"));
    })
    .await;
}

#[tokio::test]
async fn the_wire_without_seal_is_lines_and_nothing_else() {
    within(async {
        let site = site();
        let listener = TcpListener::bind((LOOPBACK, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let client = client(&site.web, [without_seal(Ports::new(port, port).unwrap())]);
        let asking = tokio::spawn(async move { client.call("database", login("alice", "x")).await });
        let (mut stream, peer) = listener.accept().await.unwrap();
        // What comes is read as an implementation of the document's protocol would.
        let bag = site.database.iter().find(|bag| bag.link() == "web-database").unwrap();
        let key = PacketKey::new(bag.des_key(peer.port().into()));
        let mut line = LineBuffer::new();
        loop {
            let byte = stream.read_u8().await.unwrap();
            line.push(byte).unwrap();
            if byte == b'\n' {
                break;
            }
        }
        let (mark, text) = decode_line(&key, &mut line).unwrap();
        assert_eq!(mark, Mark::Last);
        let request = Message::decode(text).unwrap();
        let reply = request.reply(Reply::Done {}).encode().unwrap();
        let mut out = LineBuffer::new();
        encode_packet(&key, b"a vector", mark, reply.as_bytes(), &mut out).unwrap();
        stream.write_all(&out).await.unwrap();
        assert_eq!(asking.await.unwrap().unwrap(), Reply::Done {});
    })
    .await;
}

/// Address translation: connections go on from another address, and from the same port where `keep`.
async fn translation(to: Ports, keep: bool) -> Ports {
    let listener = TcpListener::bind((LOOPBACK, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let target = to.iter().next().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut inside, client) = listener.accept().await.unwrap();
            let socket = TcpSocket::new_v4().unwrap();
            socket.set_reuseaddr(true).unwrap();
            let outside = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 77));
            if keep {
                socket.bind((outside, client.port()).into()).unwrap();
            } else {
                // The next port has the next entry of the bag.
                let other = (1..100).map(|n| client.port().wrapping_add(n).max(1024));
                other.map(|port| socket.bind((outside, port).into())).find(Result::is_ok).unwrap().unwrap();
            }
            let mut outside: TcpStream = socket.connect((LOOPBACK, target).into()).await.unwrap();
            tokio::spawn(async move { copy_bidirectional(&mut inside, &mut outside).await });
        }
    });
    Ports::new(port, port).unwrap()
}

#[tokio::test]
async fn behind_address_translation() {
    within(async {
        let site = site();
        let server = two(&site).await;
        for keep in [true, false] {
            let ports = translation(server.sealed, keep).await;
            let sealed = client(&site.web, [direct("database", ports)]);
            sealed.call("database", login("alice", "x")).await.unwrap();
        }
        let ports = translation(server.unsealed, true).await;
        client(&site.web, [without_seal(ports)]).call("database", login("alice", "x")).await.unwrap();
        let before = server.recorder.requests().len();

        let ports = translation(server.unsealed, false).await;
        let outcome = client(&site.web, [without_seal(ports)]).call("database", login("alice", "x")).await;
        let Err(error @ CallError::Broken { .. }) = outcome else { panic!("{outcome:?}") };
        let text = daemon::report(&error);
        assert!(text.contains("address translation") && text.contains("only a sealed link"), "{text}");
        assert_eq!(server.recorder.requests().len(), before, "nothing was done");
    })
    .await;
}

#[tokio::test]
async fn what_needs_a_seal_is_not_done_without() {
    within(async {
        let site = site();
        let server = two(&site).await;
        let client = client(&site.web, [without_seal(server.unsealed)]);
        let put = Message::request(Request::ObjectPut { sha256: None }).unwrap();
        let outcome = client.call_with_literal("database", put, 3, &mut &b"abc"[..]).await;
        assert!(daemon::report(&outcome.unwrap_err()).contains("no seal"));
        let rotated = commlink::rotation::rotate(&client, "database").await;
        assert!(matches!(rotated, Err(commlink::rotation::RotationError::Unsealed(_))), "{rotated:?}");
        // A sealed client at the unsealed port gets nothing, nor does an unsealed one at the sealed port.
        let wrong = common::client(&site.web, [direct("database", server.unsealed)]);
        assert!(wrong.call("database", login("alice", "x")).await.is_err());
        let wrong = common::client(&site.web, [without_seal(server.sealed)]);
        assert!(wrong.call("database", login("alice", "x")).await.is_err());
        assert!(server.recorder.requests().is_empty());
    })
    .await;
}

#[test]
fn links_that_must_be_sealed() {
    let site = site();
    let ports = Ports::new(1, 2).unwrap();
    let made = |bags: &[keys::Bag], peers: Vec<Peer>| Client::new(held(bags), peers);
    let operator = made(&site.operator, vec![without_seal(ports)]);
    assert!(matches!(operator, Err(ClientError::Seal(_))), "{operator:?}");
    let web = Peer { seal: false, ..direct("web", ports) };
    let relayed = made(&site.download, vec![web.clone(), via("database", "web")]);
    assert!(matches!(relayed, Err(ClientError::Seal(_))), "a relay without seal");
    let relayed = made(&site.download, vec![direct("web", ports), Peer { seal: false, ..via("database", "web") }]);
    assert!(matches!(relayed, Err(ClientError::Seal(_))), "a relayed link without seal");
    assert!(made(&site.download, vec![web]).is_ok());

    let config = |unsealed: &str| -> Config {
        let text = format!(
            "name = \"database\"\nrole = \"database\"\nlisten = [\"::\"]\nports = [7640, 7655]\nbags = \"\"\nsocket = \"\"\n\
             allow_uids = []\n{unsealed}\n[backends.masterd]\nsocket = \"\"\nuid = 0\n"
        );
        toml::from_str(&text).unwrap()
    };
    let bags = Bags::new(site.database.clone()).unwrap();
    let link = |link: &str, first, last| format!("[[unsealed]]\nlink = {link:?}\nports = [{first}, {last}]\n");
    for (unsealed, is_good) in [
        (String::new(), true),
        (link("web-database", 7656, 7659), true),
        (link("web-database", 7655, 7659), false),
        (link("alice-database", 7656, 7659), false),
        (link("nobody-database", 7656, 7659), false),
        (link("web-database", 7656, 7659) + &link("download-database", 7660, 7660), true),
        (link("web-database", 7656, 7660) + &link("download-database", 7660, 7660), false),
    ] {
        let checked = config(&unsealed).check_unsealed(&bags);
        assert_eq!(checked.is_ok(), is_good, "{unsealed}");
        assert!(is_good || matches!(checked, Err(ConfigError::Unsealed(_))));
    }
}
