//! A man in the middle with all of his tricks, against the real server and real clients over transports in memory, with
//! a clock that runs only when everybody waits.
//!
//! Whatever he does: nothing that was not asked is ever done, nothing is done twice, an answer is the answer to its
//! request; the connection ends, or the deadline of the request does, or nothing has changed; and what a server sends has
//! the form that it would have without him, so that no byte tells why it stopped.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../common/mod.rs"]
mod common;
mod fabric;
mod tricks;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use commlink::connection::Connection;
use commlink::sealed::open;
use commlink::server::{Door, Server, Setup};
use commlink::{Bags, Keyring};
use common::*;
use daemon::Shutdown;
use fabric::{Fabric, Flow, Link};
use keys::site::Role;
use keys::{Bag, LinkKind};
use tobj::{AuditEvent, AuditRecord, Body, Message, Name, Reply, Request, Timestamp, TlsVersion};
use tokio::io::DuplexStream;
use tokio::time::timeout;
use tricks::{Attacker, Trick};

/// Sessions that he sees at once.
const SESSIONS: usize = 2;

/// How long a client waits for an answer.
const DEADLINE: Duration = Duration::from_secs(30);

/// The record that ends a session.
const END: usize = 2 + 16;

/// Two generations of one link, at both ends.
struct Ends {
    download: Vec<Bag>,
    database: Vec<Bag>,
}

fn ends() -> Ends {
    let pair = |n| Bag::pair("download-database", LinkKind::DownloadDatabase, ("download", "database"), n).unwrap();
    let ((a, b), (c, d)) = (pair(1), pair(2));
    Ends { download: vec![a, c], database: vec![b, d] }
}

/// Numbers by chance, the same for the same seed.
#[derive(Clone)]
pub(crate) struct Chance(u64);

impl Chance {
    /// A number below `limit`.
    pub(crate) fn below(&mut self, limit: usize) -> usize {
        // splitmix64
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((z ^ (z >> 31)) % u64::try_from(limit).unwrap()).unwrap()
    }
}

fn record(seq: u64) -> AuditRecord {
    AuditRecord {
        seq,
        at: Timestamp(1_700_000_000),
        event: AuditEvent::Transfer,
        customer: None,
        address: None,
        lease: None,
        sha256: Some([7; 32].into()),
        offset: Some(0),
        bytes: Some(seq),
        milliseconds: Some(1500),
        tls: Some(TlsVersion::Tls13),
        outcome: None,
    }
}

/// What a client asks: small, of several packets, small.
fn requests(session: usize) -> Vec<Message> {
    let records = (1..=200).map(record).collect();
    let name = |n| format!("customer-{session}-{n}");
    [login_check(&name(1), "one"), Request::Audit { records }, login_check(&name(2), "two")]
        .map(|request| Message::request(request).unwrap())
        .to_vec()
}

fn is_right(request: &Message, reply: &Reply) -> bool {
    match (&request.body, reply) {
        (Body::Request(Request::LoginCheck { customer, .. }), Reply::Verified { customer: name }) => {
            *name == Name::new(customer.as_str()).unwrap()
        }
        (Body::Request(Request::Audit { records }), Reply::Acknowledged { upto }) => {
            *upto == u64::try_from(records.len()).unwrap()
        }
        _ => false,
    }
}

/// A client: how many of its requests were answered, all of them rightly.
async fn client(io: DuplexStream, bags: &[Arc<Bag>], requests: &[Message]) -> usize {
    let Ok(stream) = open(io, bags).await else { return 0 };
    let mut connection = Connection::new(stream);
    for (n, request) in requests.iter().enumerate() {
        let answer = timeout(DEADLINE, async {
            connection.send(request).await?;
            connection.receive().await
        });
        let Ok(Ok(Some(answer))) = answer.await else { return n };
        let Body::Reply(reply) = &answer.body else { return n };
        if answer.id != request.id || answer.literal.is_some() {
            return n;
        }
        assert!(is_right(request, reply), "an answer that nobody gave: {reply:?}");
    }
    let _ = connection.end().await;
    requests.len()
}

/// What came of an attack.
struct Outcome {
    /// All requests of all clients were answered.
    whole: bool,
    /// What each server sent.
    sent: Vec<Vec<Vec<u8>>>,
}

async fn attack(ends: &Ends, trick: Trick, mut chance: Chance) -> Outcome {
    let offered: Vec<Arc<Bag>> = ends.download.iter().rev().cloned().map(Arc::new).collect();
    let keyring: Keyring = Bags::new(ends.database.clone()).unwrap().into();
    let own: Keyring = Bags::new(ends.download.clone()).unwrap().into();
    let recorder = Recorder::default();
    let (_trigger, shutdown) = Shutdown::manual();
    let setup = Setup { role: Role::Database, keyring, relay: None };
    let server = Server::new(setup, recorder.clone(), shutdown.clone());
    // The client's own machine serves too: he may lead it to itself.
    let setup = Setup { role: Role::Download, keyring: own, relay: None };
    let itself = Server::new(setup, recorder.clone(), shutdown);

    let ports: Vec<u16> = (0..SESSIONS).map(|_| u16::try_from(1024 + chance.below(60_000)).unwrap()).collect();
    let asked: Vec<Vec<Message>> = (0..SESSIONS).map(requests).collect();
    let mut links = Vec::new();
    let mut clients = Vec::new();
    let mut servers = Vec::new();
    for session in 0..SESSIONS {
        let ((near, client_end), (far, server_end)) = (tokio::io::duplex(1 << 17), tokio::io::duplex(1 << 17));
        links.push(Link { near, far });
        clients.push(client(client_end, &offered, &asked[session]));
        let at = SocketAddr::new(LOOPBACK, ports[session]);
        let server = if trick == Trick::ToItself { &itself } else { &server };
        servers.push(server.attend(server_end, at, &Door::Sealed));
    }
    let fabric = Fabric::new(links);
    let captured = fabric.run(Attacker::new(trick, chance));
    let [a, b]: [_; SESSIONS] = clients.try_into().unwrap_or_else(|_| panic!("two clients"));
    let [c, d]: [_; SESSIONS] = servers.try_into().unwrap_or_else(|_| panic!("two servers"));
    let (a, b, (), (), captured) = tokio::join!(a, b, c, d, captured);

    // Nothing but what was asked, and nothing twice.
    let done = recorder.requests();
    let ids: BTreeSet<_> = done.iter().map(|(_, message)| message.id).collect();
    assert_eq!(ids.len(), done.len(), "something was done twice");
    for (from, message) in &done {
        assert_eq!(from, "download");
        assert!(asked.iter().flatten().any(|request| request == message), "something was done that nobody asked");
    }
    for (session, answered) in [a, b].into_iter().enumerate() {
        let of: Vec<_> = done.iter().filter(|(_, m)| asked[session].iter().any(|r| r.id == m.id)).collect();
        assert!(answered <= of.len(), "an answer to what was never done");
        assert!(of.iter().zip(&asked[session]).all(|((_, done), asked)| done == asked), "in another order");
    }
    let sent: Vec<_> = (0..SESSIONS).map(|session| captured[&Flow { session, up: false }].clone()).collect();
    for (session, sent) in sent.iter().enumerate() {
        check_form(sent, ports[session], done.len());
    }
    let all: usize = asked.iter().map(Vec::len).sum();
    Outcome { whole: a + b == all, sent }
}

/// What a server sends is its line, its half of the handshake, answers, and perhaps the end of the session.
fn check_form(sent: &[Vec<u8>], port: u16, done: usize) {
    let mut parts = sent.iter();
    let Some(line) = parts.next() else { return };
    let expected = [2, 1].map(|generation| format!("FFS/2 {port} {generation}\r\n").into_bytes());
    assert!(expected.contains(line), "{:?}", String::from_utf8_lossy(line));
    let Some(handshake) = parts.next() else { return };
    assert_eq!(handshake.len(), 50);
    let records: Vec<usize> = parts.map(Vec::len).collect();
    let answers = records.iter().filter(|size| **size != END).count();
    assert!(answers <= done, "{answers} answers to {done} requests");
    let ends = records.len() - answers;
    assert!(ends == 0 || (ends == 1 && records.last() == Some(&END)), "{records:?}");
}

async fn attacks(count: usize, seed: u64) {
    let ends = ends();
    let honest = attack(&ends, Trick::None, Chance(seed)).await;
    assert!(honest.whole, "without him everything works");
    let sizes = |sent: &[Vec<u8>]| sent.iter().skip(1).map(Vec::len).collect::<Vec<_>>();
    let form = sizes(&honest.sent[0]);
    let mut broken = BTreeMap::<Trick, (usize, usize)>::new();
    for n in 0..count {
        let trick = Trick::ALL[n % Trick::ALL.len()];
        let chance = Chance(seed ^ (u64::try_from(n).unwrap() << 20));
        // Shown when an assertion fails.
        eprintln!("attack {n} of seed {seed}: {trick:?}");
        let outcome = attack(&ends, trick, chance).await;
        for sent in &outcome.sent {
            let mut sizes = sizes(sent);
            if sizes.last() == Some(&END) {
                sizes.pop();
            }
            // Names in answers differ by nothing in length, so that honest and attacked sessions can be compared.
            assert!(form.starts_with(&sizes), "{sizes:?} is not how {form:?} begins");
        }
        let (all, ended) = broken.entry(trick).or_default();
        *all += 1;
        *ended += usize::from(!outcome.whole);
    }
    eprintln!("{broken:#?}");
    for trick in Trick::ALL {
        let (all, ended) = broken[trick];
        if trick.must_end() {
            assert_eq!(ended, all, "{trick:?} went unnoticed");
        } else if trick.may_end() && all >= 10 {
            assert!(ended > 0, "{trick:?} was never noticed: is it one?");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_man_in_the_middle_changes_nothing() {
    attacks(260, 1).await;
}

#[tokio::test(start_paused = true)]
#[ignore = "long: 10,000 attacks"]
async fn long_commlink_man_in_the_middle() {
    attacks(10_000, getrandom::u64().unwrap()).await;
}
