//! A double of the web machine that has all of the web machine's bags, between a real download and a real database
//! machine: no login is accepted, no lease is made, no audit record is removed.

#![allow(clippy::unwrap_used, reason = "a test")]

use commlink::connection::Connection;
use commlink::dial::Ports;
use commlink::sealed::accept;
use commlink::{Bags, Client, Peer};
use keys::site::Role;
use pasetors::claims::Claims;
use pasetors::keys::{AsymmetricKeyPair, Generate};
use pasetors::version4::V4;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tests::{PASSWORD, Site, eventually};
use tobj::{Body, Fault, Id, LeaseKind, Message, Name, Reply, Request, Secret, Text, Timestamp};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use xtask::customer::{Ftp, download, download_staged};

/// What the double says when the download machine asks it for the database.
#[derive(Debug, Clone, Copy)]
enum Lie {
    /// Answers the relay request itself, with a yes to everything.
    InPlaceOfJoining,
    /// Says that it has joined, then plays the database with the bags that it has.
    AsTheDatabase,
    /// Says that it has joined, then answers under its own session.
    UnderItsOwnSession,
    /// Says that it has joined, then sends noise.
    Noise,
}

fn lies(request: &Message) -> Vec<Reply> {
    let mut replies = vec![
        Reply::Verified { customer: Name::new("ada").unwrap() },
        Reply::Acknowledged { upto: u64::MAX },
        Reply::Done {},
    ];
    if let Body::Request(Request::Relay { .. }) = request.body {
        replies.rotate_left(1);
    }
    replies
}

/// Serves download machines on the web machine's ports; counts what it was asked.
fn double(runtime: &Runtime, site: &Site, lie: Lie) -> Arc<AtomicUsize> {
    let bags = Arc::new(Bags::load(&site.access().site().join("web/bags")).unwrap());
    let asked = Arc::new(AtomicUsize::new(0));
    let (first, last) = site.access().machine(Role::Web).ports;
    for port in first..=last {
        let (bags, asked) = (bags.clone(), asked.clone());
        let listener = runtime.block_on(TcpListener::bind(("127.0.0.1", port))).unwrap();
        runtime.spawn(async move {
            loop {
                let (stream, peer) = listener.accept().await.unwrap();
                let (bags, asked) = (bags.clone(), asked.clone());
                tokio::spawn(async move {
                    let Ok(sealed) = accept(stream, peer.port(), &bags).await else { return };
                    let mut outer = Connection::new(sealed);
                    while let Ok(Some(request)) = outer.receive().await {
                        asked.fetch_add(1, Ordering::SeqCst);
                        if matches!(lie, Lie::InPlaceOfJoining) {
                            for reply in lies(&request) {
                                if outer.send(&request.reply(reply)).await.is_err() {
                                    return;
                                }
                            }
                            continue;
                        }
                        if outer.send(&request.reply(Reply::Done {})).await.is_err() {
                            return;
                        }
                        match lie {
                            Lie::UnderItsOwnSession => {
                                for reply in lies(&request) {
                                    let _ = outer.send(&request.reply(reply)).await;
                                }
                            }
                            Lie::Noise => {
                                let mut stream = outer.into_stream();
                                let _ = stream.write_all(b"FFS/2 7 1\r\n\x00\x30").await;
                                let _ = stream.write_all(&[7; 48]).await;
                                let _ = stream.flush().await;
                                let _ = stream.read_to_end(&mut Vec::new()).await;
                                return;
                            }
                            _ => {
                                let stream = outer.into_stream();
                                let port = stream.session().port();
                                let Ok(inner) = accept(stream, port, &bags).await else { return };
                                let mut inner = Connection::new(inner);
                                while let Ok(Some(request)) = inner.receive().await {
                                    for reply in lies(&request) {
                                        let _ = inner.send(&request.reply(reply)).await;
                                    }
                                }
                                return;
                            }
                        }
                    }
                });
            }
        });
    }
    asked
}

#[test]
fn the_double_cannot_speak_for_the_database() {
    let mut site = Site::start();
    site.object("maps", "1", "map.bin", &vec![3; 50_000]);
    site.customer("ada", &["maps"]);
    let staged = site.logged_in("ada").stage("maps", "1").unwrap();
    let transfers = |site: &Site| {
        let trail = site.operate_json(&["audit", "list"]);
        trail.as_array().unwrap().iter().filter(|e| e["event"] == "TRANSFER").count()
    };
    let all = [Lie::InPlaceOfJoining, Lie::AsTheDatabase, Lie::UnderItsOwnSession, Lie::Noise];
    // One for each, since all bytes of it will be fetched.
    let tickets = all.map(|_| site.logged_in("ada").stage("maps", "1").unwrap());
    for (done, (lie, ticket)) in all.into_iter().zip(&tickets).enumerate() {
        site.local.daemon(Role::Web, "commlinkd").kill();
        let runtime = Runtime::new().unwrap();
        let asked = double(&runtime, &site, lie);
        let error = download(site.access(), Ftp::Clear, "ada", PASSWORD, &staged.account_path, &site.path("x"));
        assert!(error.is_err(), "{lie:?}: a login was accepted");
        // Known on the download machine itself, so it goes on; what it leaves behind is an audit record.
        download_staged(site.access(), Ftp::Clear, ticket, &site.path("x")).unwrap();
        let before = asked.load(Ordering::SeqCst);
        eventually("the outbox tries again", || (asked.load(Ordering::SeqCst) > before).then_some(()));
        assert!(asked.load(Ordering::SeqCst) > 0, "{lie:?} was never told");
        runtime.shutdown_background();
        assert_eq!(transfers(&site), done, "{lie:?}");
        site.local.daemon(Role::Web, "commlinkd").restart().unwrap();
        eventually("the record that nobody acknowledged", || (transfers(&site) == done + 1).then_some(()));
    }
    // What the customer could do before he can do again, and the trail has no gap and nothing twice.
    download(site.access(), Ftp::Clear, "ada", PASSWORD, &staged.account_path, &site.path("x")).unwrap();
    eventually("the last record", || (transfers(&site) == all.len() + 1).then_some(()));
    let trail = site.operate_json(&["audit", "list"]);
    let mut numbers: Vec<_> = trail.as_array().unwrap().iter().filter(|e| e["appliance"] == "download").collect();
    numbers.sort_by_key(|e| e["seq"].as_u64());
    let numbers: Vec<_> = numbers.iter().map(|e| e["seq"].as_u64().unwrap()).collect();
    assert_eq!(numbers, (1..=numbers.len() as u64).collect::<Vec<_>>());
}

/// A grant with everything right but the key that signed it.
fn forged(sha256: &str) -> Secret {
    let pair = AsymmetricKeyPair::<V4>::generate().unwrap();
    let mut claims = Claims::new().unwrap();
    claims.subject("ada").unwrap();
    claims.audience("download").unwrap();
    claims.token_identifier(&Id::random().unwrap().to_string()).unwrap();
    let lease_expires = Timestamp::now().plus(3600).to_string();
    for (name, value) in [
        ("product", "maps"),
        ("version", "1"),
        ("file", "map.bin"),
        ("sha256", sha256),
        ("size", "5"),
        ("kind", LeaseKind::OneTime.as_str()),
        ("lease_expires", &lease_expires),
    ] {
        claims.add_additional(name, value).unwrap();
    }
    Secret::new(&pasetors::public::sign(&pair.secret, &claims, None, Some(b"ffs-grant-1")).unwrap()).unwrap()
}

#[test]
fn the_double_cannot_make_a_lease_or_do_what_is_not_the_web_machines() {
    let site = Site::start();
    site.object("maps", "1", "map.bin", b"a map");
    site.customer("ada", &["maps"]);
    let staged = site.logged_in("ada").stage("maps", "1").unwrap();
    let leases = site.leases();
    let bags = Arc::new(Bags::load(&site.access().site().join("web/bags")).unwrap());
    let peers = [Role::Download, Role::Database].map(|role| {
        let machine = site.access().machine(role);
        let ports = Ports::new(machine.ports.0, machine.ports.1).unwrap();
        Peer { name: machine.name.clone(), host: Some(machine.host.clone()), ports: Some(ports), via: None, seal: true }
    });
    let client = Client::new(bags, peers).unwrap();
    let text = |s: &str| Text::new(s).unwrap();
    let denied = [
        ("download", Request::Stage { grant: forged(&staged.sha256) }),
        ("download", Request::Stage { grant: Secret::new("v4.public.AAAA").unwrap() }),
        ("download", Request::Stage { grant: Secret::new("no token at all").unwrap() }),
        ("download", Request::ObjectPut { sha256: None }),
        ("download", Request::LeaseRevoke { lease: staged.lease.parse().unwrap() }),
        ("download", Request::LeaseList { offset: 0 }),
        ("download", Request::Status {}),
        ("database", Request::Audit { records: Vec::new() }),
        ("database", Request::WaitRevocations { after: 0 }),
        (
            "database",
            Request::CustomerPassword {
                customer: Name::new("ada").unwrap(),
                password: Secret::new("12345678").unwrap(),
            },
        ),
        (
            "database",
            Request::LoginCheck {
                customer: text("ada"),
                password: Secret::new(PASSWORD).unwrap(),
                address: text("::1"),
            },
        ),
    ];
    let runtime = Runtime::new().unwrap();
    for (machine, request) in denied {
        let tag = request.tag();
        let reply = runtime.block_on(client.call(machine, request)).unwrap();
        assert!(matches!(reply, Reply::Fault { fault: Fault::Denied, .. }), "{tag}: {reply:?}");
    }
    assert_eq!(site.leases(), leases);
    // Each attempt to stage is in the trail.
    eventually("the refusals in the audit trail", || {
        let trail = site.operate_json(&["audit", "list"]);
        (trail.as_array().unwrap().iter().filter(|e| e["event"] == "STAGE-REFUSED").count() == 3).then_some(())
    });
}
