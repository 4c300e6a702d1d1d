//! How long a client waits, and what it makes of a connection that does not answer.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::time::Duration;

use commlink::CallError;
use commlink::client::{ANSWER, LONG_ANSWER};
use commlink::dial::Ports;
use commlink::server::{self, Setup};
use common::*;
use daemon::{Service, Shutdown, Trigger};
use keys::Bag;
use keys::site::Role;
use tobj::{Body, Message, Name, Reply, Request, RequestTag, Secret};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::time::{self, Instant};

/// Takes so long for what is no `CATALOGUE`; nothing else happens meanwhile.
#[derive(Clone)]
struct Slow(Duration);

impl Service for Slow {
    async fn call(&self, _: &str, request: Message, literal: &mut (dyn AsyncRead + Send + Unpin)) -> Message {
        literal.read_to_end(&mut Vec::new()).await.unwrap();
        if !matches!(request.body, Body::Request(Request::Catalogue { .. })) {
            time::pause();
            time::sleep(self.0).await;
        }
        request.reply(Reply::Done {})
    }
}

/// A machine that takes so long.
async fn slow(role: Role, bags: &[Bag], takes: Duration) -> (Ports, Trigger) {
    let (listeners, ports) = listeners(1).await;
    let setup = Setup { role, keyring: held(bags).into(), relay: None };
    let (trigger, shutdown) = Shutdown::manual();
    tokio::spawn(server::serve(listeners, setup, Slow(takes), shutdown));
    (ports, trigger)
}

/// Asks a download appliance that takes so long; with how long that took.
async fn ask(site: &Site, request: Request, takes: Duration) -> (Result<Reply, CallError>, Duration) {
    let (ports, _trigger) = slow(Role::Download, &site.download, takes).await;
    let operator = client(&site.operator, [direct("download", ports)]);
    let literal = matches!(request.tag(), RequestTag::ObjectPut | RequestTag::ObjectAppend | RequestTag::UpdatePush);
    let (start, message) = (Instant::now(), Message::request(request).unwrap());
    let outcome = if literal {
        operator.call_with_literal("download", message, 3, &mut &b"abc"[..]).await
    } else {
        operator.call_message("download", message).await
    };
    let took = start.elapsed();
    time::resume();
    (outcome, took)
}

#[tokio::test]
async fn an_answer_has_its_time_and_no_more() {
    let (site, second) = (site(), Duration::from_secs(1));
    let (disk, sha256) = (|| Name::new("sda").unwrap(), || [7; 32].into());
    for (request, limit) in [
        (Request::LeaseList { offset: 0 }, ANSWER),
        (Request::ObjectPut { sha256: None }, LONG_ANSWER),
        (Request::ObjectAppend { sha256: sha256(), offset: 0 }, LONG_ANSWER),
        (Request::UpdatePush { downgrade: false, again: false }, LONG_ANSWER),
        (Request::StorageCreate { level: None, disks: vec![], spares: None, adopt: false }, LONG_ANSWER),
        (Request::StorageStart {}, LONG_ANSWER),
        (Request::StorageAdd { disk: disk() }, LONG_ANSWER),
        (Request::StorageReplace { old: disk(), new: disk() }, LONG_ANSWER),
        (Request::KeysRotate { peer: Name::new("database").unwrap() }, LONG_ANSWER),
        (Request::LogList { after: None, unit: None, priority: None, since: None, lines: None }, LONG_ANSWER),
    ] {
        let (outcome, _) = ask(&site, request.clone(), limit - second).await;
        assert!(matches!(outcome, Ok(Reply::Done {})), "{request:?}: {outcome:?}");
        let (outcome, took) = ask(&site, request.clone(), limit + second).await;
        assert!(matches!(outcome, Err(CallError::Late { .. })), "{request:?}: {outcome:?}");
        assert!(took >= limit && took < limit + second, "{request:?}: {took:?}");
    }
}

#[tokio::test]
async fn nobody_else_waits_on_connections_beside_one_that_did_not_answer() {
    let site = site();
    let (ports, _trigger) = slow(Role::Database, &site.database, 2 * ANSWER).await;
    let (ports, capture, _) = proxy(ports, |_, _, _| {}).await;
    let connections = || capture.lock().unwrap().len();
    let client = client(&site.web, [direct("database", ports)]);
    let catalogue = || Request::Catalogue { session: Secret::new("x").unwrap(), offset: 0 };
    let (one, other) = tokio::join!(client.call("database", catalogue()), client.call("database", catalogue()));
    assert!(one.is_ok() && other.is_ok());
    assert_eq!(connections(), 2, "both are idle now");
    let outcome = client.call("database", login("alice", "x")).await;
    time::resume();
    assert!(matches!(outcome, Err(CallError::Late { .. })), "{outcome:?}");
    client.call("database", catalogue()).await.unwrap();
    assert_eq!(connections(), 3, "a new one");
}
