//! Client and server over loopback: what is allowed, literals, retries, ports.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use commlink::connection::Connection;
use commlink::dial::Ports;
use commlink::{CallError, sealed};
use common::*;
use keys::site::Role;
use tobj::{Fault, Message, Name, Reply, Request};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;

#[tokio::test]
async fn a_request_gets_its_answer_and_the_server_knows_who_asked() {
    within(async {
        let site = site();
        let server = start(Role::Database, &site.database, None).await;
        let client = client(&site.web, [direct("database", server.ports)]);
        for _ in 0..3 {
            let reply = client.call("database", login("alice", "swordfish")).await.unwrap();
            assert_eq!(reply, Reply::Verified { customer: Name::new("alice").unwrap() });
        }
        let operator = common::client(&site.operator, [direct("database", server.ports)]);
        operator.call("database", Request::Status {}).await.unwrap();
        let seen: Vec<String> = server.recorder.requests().into_iter().map(|(from, _)| from).collect();
        assert_eq!(seen, ["web", "web", "web", "operator:alice"]);
        server.stop().await;
    })
    .await;
}

#[tokio::test]
async fn what_the_table_does_not_allow_never_reaches_the_service() {
    within(async {
        let site = site();
        let server = start(Role::Database, &site.database, None).await;
        let client = client(&site.web, [direct("database", server.ports)]);
        for request in [
            Request::Status {},
            login_check("alice", "x"),
            Request::Audit { records: vec![] },
            Request::CustomerList { offset: 0 },
            Request::Relay { to: Name::new("download").unwrap() },
        ] {
            let reply = client.call("database", request).await.unwrap();
            assert!(is_fault(&reply, Fault::Denied), "{reply:?}");
        }
        assert!(server.recorder.requests().is_empty());
        assert!(client.call("database", login("alice", "x")).await.is_ok(), "the connection is still good");
    })
    .await;
}

#[tokio::test]
async fn only_operators_get_words_with_a_fault() {
    within(async {
        let site = site();
        let recorder = Recorder { rude: true, ..Recorder::default() };
        let (sockets, ports) = listeners(1).await;
        let _download = start_on(sockets, ports, Role::Download, &site.download, None, recorder);
        let operator = client(&site.operator, [direct("download", ports)]);
        let put = Message::request(Request::ObjectPut { sha256: None }).unwrap();
        let reply = operator.call_with_literal("download", put, 3, &mut &b"abc"[..]).await.unwrap();
        assert_eq!(reply, Reply::refused(Fault::Invalid, "not now"));
        let server = start(Role::Database, &site.database, None).await;
        let web = client(&site.web, [direct("database", server.ports)]);
        let reply = web.call("database", login("not a name", "x")).await.unwrap();
        assert_eq!(reply, Reply::refused(Fault::Denied, ""));
    })
    .await;
}

#[tokio::test]
async fn literals_of_every_kind_of_size_arrive_whole() {
    within(async {
        let site = site();
        let server = start(Role::Download, &site.download, None).await;
        let client = client(&site.operator, [direct("download", server.ports)]);
        for size in [0, 1, 65519, 65520, 50_000_000] {
            let put = Message::request(Request::ObjectPut { sha256: None }).unwrap();
            let mut body = tokio::io::repeat(7).take(size);
            let reply = client.call_with_literal("download", put, size, &mut body).await.unwrap();
            assert_eq!(reply, Reply::Stored { sha256: [7; 32].into(), size, known: false });
        }
    })
    .await;
}

#[tokio::test]
async fn an_answer_before_the_end_of_a_literal_ends_the_sending() {
    within(async {
        let site = site();
        let recorder = Recorder { rude: true, ..Recorder::default() };
        let (sockets, ports) = listeners(1).await;
        let _server = start_on(sockets, ports, Role::Download, &site.download, None, recorder);
        let client = client(&site.operator, [direct("download", ports)]);
        let put = Message::request(Request::ObjectPut { sha256: None }).unwrap();
        let mut endless = tokio::io::repeat(7);
        let reply = client.call_with_literal("download", put, u64::MAX, &mut endless).await.unwrap();
        assert!(is_fault(&reply, Fault::Invalid), "{reply:?}");
        assert!(client.call("download", Request::Status {}).await.is_ok(), "another connection takes its place");
    })
    .await;
}

#[tokio::test]
async fn a_source_that_ends_early_is_told_from_a_broken_connection() {
    within(async {
        let site = site();
        let server = start(Role::Download, &site.download, None).await;
        let client = client(&site.operator, [direct("download", server.ports)]);
        let put = Message::request(Request::ObjectPut { sha256: None }).unwrap();
        let outcome = client.call_with_literal("download", put, 10, &mut &b"short"[..]).await;
        let Err(CallError::Broken { source, .. }) = outcome else { panic!("{outcome:?}") };
        assert!(source.to_string().contains("too early"), "{source}");
    })
    .await;
}

#[tokio::test]
async fn literals_only_where_they_belong() {
    within(async {
        let site = site();
        let server = start(Role::Download, &site.download, None).await;
        let client = client(&site.operator, [direct("download", server.ports)]);
        let status = Message::request(Request::Status {}).unwrap();
        let reply = client.call_with_literal("download", status, 3, &mut &b"abc"[..]).await.unwrap();
        assert!(is_fault(&reply, Fault::Invalid));
        let put = Request::ObjectPut { sha256: None };
        assert!(is_fault(&client.call("download", put).await.unwrap(), Fault::Invalid));
        assert!(server.recorder.requests().is_empty());
    })
    .await;
}

#[tokio::test]
async fn a_restarted_server_is_asked_again_with_the_same_id() {
    within(async {
        let site = site();
        let (sockets, ports) = listeners(1).await;
        let first = start_on(sockets, ports, Role::Database, &site.database, None, Recorder::default());
        let client = client(&site.web, [direct("database", ports)]);
        client.call("database", login("alice", "x")).await.unwrap();
        first.stop().await;
        let listener = TcpListener::bind((LOOPBACK, ports.iter().next().unwrap())).await.unwrap();
        let second = start_on(vec![listener], ports, Role::Database, &site.database, None, Recorder::default());
        let message = Message::request(login("alice", "y")).unwrap();
        let id = message.id;
        client.call_message("database", message).await.unwrap();
        let ids: Vec<_> = second.recorder.requests().iter().map(|(_, message)| message.id).collect();
        assert_eq!(ids, [id]);
    })
    .await;
}

#[tokio::test]
async fn a_login_is_tried_again_where_the_session_was_ended_before_it() {
    within(async {
        let site = site();
        let (sockets, ports) = listeners(1).await;
        let bags = held(&site.database);
        let server = tokio::spawn(async move {
            let mut asked = Vec::new();
            for answers in [false, true] {
                let (stream, peer) = sockets[0].accept().await.unwrap();
                let mut connection = Connection::new(sealed::accept(stream, peer.port(), &bags).await.unwrap());
                let request = connection.receive().await.unwrap().unwrap();
                if answers {
                    connection.send(&request.reply(Reply::Done {})).await.unwrap();
                }
                connection.end().await.unwrap();
                asked.push(request.id);
            }
            asked
        });
        let reply = patient(&site.web, [direct("database", ports)]).call("database", login("alice", "x")).await;
        assert_eq!(reply.unwrap(), Reply::Done {});
        let asked = server.await.unwrap();
        assert_eq!(asked[0], asked[1]);
    })
    .await;
}

/// Carries one connection until it is cut, without the end of the session, as when the peer crashes.
async fn carry(listener: TcpListener, to: Ports, cut: Arc<Notify>) -> TcpListener {
    let (mut client, _) = listener.accept().await.unwrap();
    let mut server = TcpStream::connect((LOOPBACK, to.iter().next().unwrap())).await.unwrap();
    tokio::select! {
        _ = tokio::io::copy_bidirectional(&mut client, &mut server) => {}
        () = cut.notified() => {}
    }
    listener
}

#[tokio::test]
async fn a_login_does_not_go_to_a_connection_that_broke_while_it_was_idle() {
    within(async {
        let site = site();
        let server = start(Role::Database, &site.database, None).await;
        let (mut sockets, ports) = listeners(1).await;
        let client = client(&site.web, [direct("database", ports)]);
        let cut = Arc::new(Notify::new());
        let carried = tokio::spawn(carry(sockets.remove(0), server.ports, cut.clone()));
        client.call("database", login("alice", "x")).await.unwrap();
        cut.notify_one();
        let listener = carried.await.unwrap();
        // The client's end hears of it.
        tokio::task::yield_now().await;
        tokio::spawn(carry(listener, server.ports, cut));
        client.call("database", login("alice", "y")).await.unwrap();
        assert_eq!(server.recorder.requests().len(), 2);
    })
    .await;
}

#[tokio::test]
async fn nothing_there_is_an_error_not_an_answer() {
    within(async {
        let site = site();
        let (sockets, ports) = listeners(2).await;
        drop(sockets);
        let client = client(&site.web, [direct("database", ports)]);
        let outcome = client.call("database", login("alice", "x")).await;
        assert!(matches!(outcome, Err(CallError::Unreachable { .. })), "{outcome:?}");
        let outcome = client.call("download", Request::Status {}).await;
        assert!(matches!(outcome, Err(CallError::UnknownPeer(_))), "{outcome:?}");
    })
    .await;
}

#[tokio::test]
async fn one_live_port_of_sixteen_is_found() {
    within(async {
        let site = site();
        let (mut sockets, ports) = listeners(16).await;
        // Half of the rest refuses; the other half takes the connection and is then silent or closes.
        let live = sockets.remove(11);
        let deaf: Vec<_> = sockets.drain(..4).collect();
        let closing: Vec<_> = sockets.drain(..4).collect();
        drop(sockets);
        for listener in closing {
            tokio::spawn(async move {
                loop {
                    drop(listener.accept().await.unwrap());
                }
            });
        }
        let _server = start_on(vec![live], ports, Role::Database, &site.database, None, Recorder::default());
        let client = client(&site.web, [direct("database", ports)]);
        client.call("database", login("alice", "x")).await.unwrap();
        drop(deaf);
    })
    .await;
}

#[tokio::test]
async fn clients_spread_over_the_range() {
    within(async {
        let (_sockets, ports) = listeners(16).await;
        let starts: BTreeSet<u16> = (0..200).map(|_| ports.spread().unwrap()[0]).collect();
        assert!(starts.len() > 8, "{starts:?}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn parallel_requests_each_get_their_own_answer() {
    within(async {
        let site = site();
        let (sockets, ports) = listeners(4).await;
        let server = start_on(sockets, ports, Role::Database, &site.database, None, Recorder::default());
        let client = client(&site.web, [direct("database", ports)]);
        let done = Arc::new(AtomicUsize::new(0));
        let tasks: Vec<_> = (0..200)
            .map(|n| {
                let (client, done) = (client.clone(), done.clone());
                tokio::spawn(async move {
                    let name = format!("customer-{n}");
                    let reply = client.call("database", login(&name, "x")).await.unwrap();
                    assert_eq!(reply, Reply::Verified { customer: Name::new(&name).unwrap() });
                    done.fetch_add(1, Ordering::Relaxed);
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
        assert_eq!(done.load(Ordering::Relaxed), 200);
        assert_eq!(server.recorder.requests().len(), 200);
    })
    .await;
}

#[tokio::test]
async fn garbage_is_met_with_silence() {
    within(async {
        let site = site();
        let server = start(Role::Database, &site.database, None).await;
        let port = server.ports.iter().next().unwrap();
        for garbage in [
            &b"GET / HTTP/1.1\r\n\r\n"[..],
            b"FFS/2 nobody 1\r\n",
            b"FFS/2 web-database 9\r\n",
            b"FFS/2 web-database 1\n",
            &[0xff; 200],
        ] {
            let mut stream = TcpStream::connect((LOOPBACK, port)).await.unwrap();
            stream.write_all(garbage).await.unwrap();
            let mut answer = Vec::new();
            // A reset is silence too.
            let _ = stream.read_to_end(&mut answer).await;
            assert!(answer.is_empty(), "{answer:?}");
        }
        let mut stream = TcpStream::connect((LOOPBACK, port)).await.unwrap();
        stream.write_all(b"FFS/2 web-database 1\r\n").await.unwrap();
        let mut answer = [0; 64];
        let n = stream.read(&mut answer).await.unwrap();
        let local = stream.local_addr().unwrap().port();
        assert_eq!(answer[..n], *format!("FFS/2 {local} 1\r\n").as_bytes());
        stream.write_all(&[0, 48]).await.unwrap();
        stream.write_all(&[7; 48]).await.unwrap();
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest).await;
        assert!(rest.is_empty(), "nothing is said about a handshake that fails");
        assert!(server.recorder.requests().is_empty());
    })
    .await;
}

#[tokio::test]
async fn a_port_that_is_rewritten_on_the_way_does_no_harm() {
    within(async {
        let site = site();
        let server = start(Role::Database, &site.database, None).await;
        let (ports, _, proxy) = proxy(server.ports, |_, _, _| {}).await;
        let client = client(&site.web, [direct("database", ports)]);
        client.call("database", login("alice", "x")).await.unwrap();
        proxy.abort();
    })
    .await;
}

#[tokio::test]
async fn the_wire_shows_nothing() {
    use base64::Engine;
    within(async {
        let site = site();
        let server = start(Role::Database, &site.database, None).await;
        let (ports, capture, _) = proxy(server.ports, |_, _, _| {}).await;
        let client = client(&site.web, [direct("database", ports)]);
        client.call("database", login("a-customer-with-a-long-name", "correct-horse-battery")).await.unwrap();
        let captured = capture.lock().unwrap();
        let wire = [&captured[0].0[..], &captured[0].1[..]].concat();
        assert!(wire.starts_with(b"FFS/2 web-database 1\r\n"), "it is the right connection");
        for secret in ["a-customer-with-a-long-name", "correct-horse-battery", "TOBJ", "LOGIN", "VERIFIED", "CUSTOMER"]
        {
            // In base64 the text may begin at any of three places in a group.
            let mut needles = vec![secret.as_bytes().to_vec()];
            for shift in 0..3 {
                let text =
                    base64::engine::general_purpose::STANDARD.encode([&vec![b'x'; shift], secret.as_bytes()].concat());
                needles.push(text.as_bytes()[4..text.len() - 4].to_vec());
            }
            for needle in needles.into_iter().filter(|needle| needle.len() >= 4) {
                let found = wire.windows(needle.len()).any(|window| window == needle);
                assert!(!found, "{secret} as {}", String::from_utf8_lossy(&needle));
            }
        }
    })
    .await;
}

#[tokio::test]
async fn a_stopped_server_lets_go_of_idle_connections() {
    within(async {
        let site = site();
        let server = start(Role::Database, &site.database, None).await;
        let client = client(&site.web, [direct("database", server.ports)]);
        client.call("database", login("alice", "x")).await.unwrap();
        server.stop().await;
    })
    .await;
}
