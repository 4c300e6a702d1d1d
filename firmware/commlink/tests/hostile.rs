//! Peers that mean harm, before and after their handshake.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::sync::Arc;

use commlink::connection::{Connection, MESSAGE};
use commlink::sealed::{HANDSHAKE, SealedStream, open};
use commlink::server::{IDLE, MAX_HALF_OPEN_PER_ADDRESS, MAX_PER_LINK};
use commlink_proto::{Encoder, LineBuffer, MAX_DATA, MAX_LINE};
use common::*;
use keys::Bag;
use keys::site::Role;
use tobj::{Message, Request};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

async fn tcp(server: &Running) -> TcpStream {
    TcpStream::connect((LOOPBACK, server.ports.iter().next().unwrap())).await.unwrap()
}

async fn sealed(server: &Running, bag: &Bag) -> SealedStream<TcpStream> {
    open(tcp(server).await, &[Arc::new(bag.clone())]).await.unwrap()
}

fn web_bag(site: &Site) -> &Bag {
    site.web.iter().find(|bag| bag.link() == "web-database").unwrap()
}

#[tokio::test]
async fn half_open_connections_do_not_keep_others_out() {
    within(async {
        let site = site();
        let server = start(Role::Database, &site.database, None).await;
        let mut silent = Vec::new();
        for _ in 0..MAX_HALF_OPEN_PER_ADDRESS + 50 {
            silent.push(tcp(&server).await);
        }
        client(&site.web, [direct("database", server.ports)]).call("database", login("alice", "x")).await.unwrap();
        // The first of them was pushed out, without a word.
        let mut rest = Vec::new();
        silent[0].read_to_end(&mut rest).await.unwrap();
        assert!(rest.is_empty());
    })
    .await;
}

#[tokio::test]
async fn a_peer_has_its_share_of_connections() {
    within(async {
        let site = site();
        let server = start(Role::Database, &site.database, None).await;
        let mut held = Vec::new();
        for n in 0..=MAX_PER_LINK {
            let mut connection = Connection::new(sealed(&server, web_bag(&site)).await);
            let _ = connection.send(&Message::request(login("alice", "x")).unwrap()).await;
            let answered = matches!(connection.receive().await, Ok(Some(_)));
            assert_eq!(answered, n < MAX_PER_LINK, "connection {n}");
            held.push(connection);
        }
        let operator = client(&site.operator, [direct("database", server.ports)]);
        operator.call("database", Request::Status {}).await.unwrap();
    })
    .await;
}

/// Sends raw bytes inside the session; the server must end it without an answer.
async fn breach(server: &Running, site: &Site, bytes: &[u8]) {
    let mut stream = sealed(server, web_bag(site)).await;
    let _ = stream.write_all(bytes).await;
    let _ = stream.flush().await;
    let mut answer = Vec::new();
    assert!(stream.read_to_end(&mut answer).await.is_err(), "not even the end of a session");
    assert!(answer.is_empty());
}

#[tokio::test]
async fn breaches_inside_a_session_close_it_in_silence() {
    within(async {
        let site = site();
        let server = start(Role::Database, &site.database, None).await;
        breach(&server, &site, b"hello\r\n").await;
        breach(&server, &site, b"\n").await;
        breach(&server, &site, &[0xff; 10]).await;
        // An endless line.
        breach(&server, &site, &vec![b'A'; MAX_LINE + 1]).await;
        // Packets that are right and hold no Tobj, a reply, or a message that never ends.
        let reply = Message::request(Request::Status {}).unwrap().fault(tobj::Fault::Busy);
        let endless = vec![b'x'; tobj::MAX_BYTES + 2 * MAX_DATA];
        for text in [&b""[..], b"<TOBJ/>", reply.encode().unwrap().as_bytes(), &endless] {
            let stream = sealed(&server, web_bag(&site)).await;
            let key = stream.session().packet_key();
            let (mut encoder, mut line, mut bytes) = (Encoder::new(text), LineBuffer::new(), Vec::new());
            while encoder.next(&key, &[7; 8], &mut line) {
                bytes.extend_from_slice(&line);
            }
            let mut stream = stream;
            let _ = stream.write_all(&bytes).await;
            let _ = stream.flush().await;
            let mut answer = Vec::new();
            assert!(stream.read_to_end(&mut answer).await.is_err());
            assert!(answer.is_empty());
        }
        assert!(server.recorder.requests().is_empty());
    })
    .await;
}

#[tokio::test]
async fn packets_of_another_entry_are_not_understood() {
    within(async {
        let site = site();
        let server = start(Role::Database, &site.database, None).await;
        let mut stream = sealed(&server, web_bag(&site)).await;
        let session = stream.session();
        let other = commlink_proto::PacketKey::new(session.bag().des_key(session.index() + 1));
        let text = Message::request(login("alice", "x")).unwrap().encode().unwrap();
        let (mut encoder, mut line) = (Encoder::new(text.as_bytes()), LineBuffer::new());
        assert!(encoder.next(&other, &[7; 8], &mut line));
        stream.write_all(&line).await.unwrap();
        stream.flush().await.unwrap();
        assert!(stream.read_to_end(&mut Vec::new()).await.is_err());
        assert!(server.recorder.requests().is_empty());
    })
    .await;
}

/// Timers round up, and the clock ran until it was stopped.
const SLACK: std::time::Duration = std::time::Duration::from_secs(1);

/// With the clock stopped, waiting moves it to the next deadline: gives how long it took until `stream` ended.
async fn until_closed(stream: &mut (impl AsyncRead + Unpin)) -> (std::time::Duration, std::io::Result<usize>) {
    tokio::time::pause();
    let start = tokio::time::Instant::now();
    let ended = tokio::time::timeout(IDLE * 2, stream.read(&mut [0; 64])).await.expect("the server closes");
    let took = start.elapsed();
    tokio::time::resume();
    (took, ended)
}

#[tokio::test]
async fn silence_and_slowness_have_their_deadlines() {
    let site = site();
    let server = start(Role::Database, &site.database, None).await;

    let mut stream = sealed(&server, web_bag(&site)).await;
    let (took, ended) = until_closed(&mut stream).await;
    assert!(took <= HANDSHAKE + SLACK && ended.is_err(), "no first request: {took:?} {ended:?}");

    let mut stream = sealed(&server, web_bag(&site)).await;
    let text = Message::request(login("alice", "x")).unwrap().encode().unwrap();
    let (mut encoder, mut line) = (Encoder::new(text.as_bytes()), LineBuffer::new());
    assert!(encoder.next(&stream.session().packet_key(), &[7; 8], &mut line));
    stream.write_all(&line).await.unwrap();
    stream.flush().await.unwrap();
    assert!(stream.read(&mut [0; 4096]).await.unwrap() > 0, "an answer");
    stream.write_all(b"A").await.unwrap();
    stream.flush().await.unwrap();
    // The byte is on its way while the clock stands.
    let (took, ended) = until_closed(&mut stream).await;
    assert!(took <= MESSAGE + SLACK && ended.is_err(), "half a line: {took:?} {ended:?}");

    let mut connection = Connection::new(sealed(&server, web_bag(&site)).await);
    connection.send(&Message::request(login("alice", "x")).unwrap()).await.unwrap();
    connection.receive().await.unwrap().unwrap();
    let (took, ended) = until_closed(&mut connection.into_stream()).await;
    assert!(took <= IDLE + SLACK && matches!(ended, Ok(0)), "an idle session ends as it should: {took:?} {ended:?}");
}
