//! The relay, with an honest web appliance and with one that has been broken into.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::sync::{Arc, Mutex};

use commlink::channel::Channel;
use commlink::connection::Connection;
use commlink::dial::Ports;
use commlink::sealed::accept;
use commlink::{CallError, Client};
use common::*;
use keys::site::Role;
use keys::{Bag, LinkKind};
use tobj::{Body, Fault, Message, Name, Reply, Request};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

#[tokio::test]
async fn the_database_is_reached_through_the_web_appliance() {
    within(async {
        let site = site();
        let database = start(Role::Database, &site.database, None).await;
        let (ports, capture, _) = proxy(database.ports, |_, _, _| {}).await;
        let web = start(Role::Web, &site.web, Some(target("database", ports))).await;
        let download = client(&site.download, [direct("web", web.ports), via("database", "web")]);
        for _ in 0..3 {
            let reply = download.call("database", login_check("alice", "swordfish")).await.unwrap();
            assert_eq!(reply, Reply::Verified { customer: Name::new("alice").unwrap() });
        }
        let seen: Vec<_> = database.recorder.requests().into_iter().map(|(from, _)| from).collect();
        assert_eq!(seen, ["download"; 3]);
        assert!(web.recorder.requests().is_empty());
        let captured = capture.lock().unwrap().clone();
        assert_eq!(captured.len(), 1, "one relayed connection serves them all");
        assert!(captured[0].0.starts_with(b"FFS/2 download-database 1\r\n"), "what the web appliance relays is sealed");
    })
    .await;
}

#[tokio::test]
async fn a_relay_leads_to_the_database_only() {
    within(async {
        let site = site();
        let database = start(Role::Database, &site.database, None).await;
        let web = start(Role::Web, &site.web, Some(target("database", database.ports))).await;
        let download = client(&site.download, [direct("web", web.ports)]);
        for to in ["web", "download", "localhost", "127.0.0.1"] {
            let reply = download.call("web", Request::Relay { to: Name::new(to).unwrap() }).await.unwrap();
            assert!(is_fault(&reply, Fault::Denied), "{to}: {reply:?}");
        }
        let none = start(Role::Web, &site.web, None).await;
        let download = client(&site.download, [direct("web", none.ports)]);
        let reply = download.call("web", Request::Relay { to: Name::new("database").unwrap() }).await.unwrap();
        assert!(is_fault(&reply, Fault::Denied), "a machine that does not relay");
    })
    .await;
}

#[tokio::test]
async fn a_database_that_is_down_is_unavailable() {
    within(async {
        let site = site();
        let (sockets, ports) = listeners(1).await;
        drop(sockets);
        let web = start(Role::Web, &site.web, Some(target("database", ports))).await;
        let download = client(&site.download, [direct("web", web.ports), via("database", "web")]);
        let outcome = download.call("database", login_check("alice", "x")).await;
        assert!(matches!(outcome, Err(CallError::Unreachable { .. })), "{outcome:?}");
    })
    .await;
}

#[tokio::test]
async fn a_restarted_database_is_found_again() {
    within(async {
        let site = site();
        let (sockets, ports) = listeners(1).await;
        let first = start_on(sockets, ports, Role::Database, &site.database, None, Recorder::default());
        let web = start(Role::Web, &site.web, Some(target("database", ports))).await;
        let download = client(&site.download, [direct("web", web.ports), via("database", "web")]);
        download.call("database", login_check("alice", "x")).await.unwrap();
        first.stop().await;
        let listener = TcpListener::bind((LOOPBACK, ports.iter().next().unwrap())).await.unwrap();
        let second = start_on(vec![listener], ports, Role::Database, &site.database, None, Recorder::default());
        download.call("database", login_check("alice", "x")).await.unwrap();
        assert_eq!(second.recorder.requests().len(), 1);
    })
    .await;
}

/// What a web appliance in wrong hands does with a download appliance that asks for the database. It has all of web's
/// bags and the network; `Stream` is what should have been the way to the database.
type Stream = Channel<TcpStream>;

/// Serves the download appliance as a broken-into web machine: the outer session and the answer to `RELAY` are as they
/// should be, then `act` has the stream.
async fn double<F, Fut>(web: &[Bag], answer: fn(&Message) -> Message, act: F) -> Ports
where
    F: Fn(Stream) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = ()> + Send + 'static,
{
    let (mut sockets, ports) = listeners(1).await;
    let listener = sockets.remove(0);
    let bags = held(web);
    tokio::spawn(async move {
        loop {
            let (stream, peer) = listener.accept().await.unwrap();
            let Ok(sealed) = accept(stream, peer.port(), &bags).await else { continue };
            let mut connection = Connection::new(sealed);
            let request = connection.receive().await.unwrap().unwrap();
            assert!(matches!(request.body, Body::Request(Request::Relay { .. })));
            connection.send(&answer(&request)).await.unwrap();
            tokio::spawn(act(connection.into_stream()));
        }
    });
    ports
}

fn done(request: &Message) -> Message {
    request.reply(Reply::Done {})
}

fn verified() -> Reply {
    Reply::Verified { customer: Name::new("alice").unwrap() }
}

fn download_through(site: &Site, web: Ports) -> Client {
    client(&site.download, [direct("web", web), via("database", "web")])
}

/// Neither a login nor the acknowledgement of an audit record is believed.
async fn nothing_is_believed(download: &Client) {
    for request in [login_check("alice", "x"), Request::Audit { records: vec![] }] {
        let outcome = download.call("database", request).await;
        assert!(outcome.is_err(), "{outcome:?}");
    }
}

#[tokio::test]
async fn the_double_cannot_be_the_database() {
    within(async {
        let site = site();
        // Everything it could hold up: web's own bags, and those with fresh keys under the right name.
        let (forged, _) =
            Bag::pair("download-database", LinkKind::DownloadDatabase, ("database", "download"), 1).unwrap();
        for bags in [site.web.clone(), vec![forged]] {
            let bags = held(&bags);
            let opened = Arc::new(Mutex::new(0));
            let count = opened.clone();
            let ports = double(&site.web, done, move |stream| {
                let (bags, count) = (bags.clone(), count.clone());
                async move {
                    let port = stream.session().port();
                    if let Ok(inner) = accept(stream, port, &bags).await {
                        *count.lock().unwrap() += 1;
                        let mut inner = Connection::new(inner);
                        while let Ok(Some(request)) = inner.receive().await {
                            inner.send(&request.reply(verified())).await.unwrap();
                        }
                    }
                }
            })
            .await;
            nothing_is_believed(&download_through(&site, ports)).await;
            assert_eq!(*opened.lock().unwrap(), 0, "no session without the key");
        }
    })
    .await;
}

#[tokio::test]
async fn the_double_cannot_answer_in_its_own_session() {
    within(async {
        let site = site();
        // Instead of joining.
        let ports = double(&site.web, |request| request.reply(verified()), |_| async {}).await;
        nothing_is_believed(&download_through(&site, ports)).await;
        // After saying that it has joined: answers under web's own key where the inner session should be.
        let ports = double(&site.web, done, |stream| async {
            let mut outer = Connection::new(stream);
            for reply in [verified(), Reply::Acknowledged { upto: u64::MAX }] {
                let message = Message::request(Request::Status {}).unwrap().reply(reply);
                let _ = outer.send(&message).await;
            }
        })
        .await;
        nothing_is_believed(&download_through(&site, ports)).await;
        // An inner greeting answered by hand, with a port of its choice, and then noise.
        let ports = double(&site.web, done, |mut stream| async move {
            let mut hello = [0; 64];
            let _ = stream.read(&mut hello).await;
            let _ = stream.write_all(b"FFS/2 128 1\r\n").await;
            let _ = stream.flush().await;
            let _ = stream.write_all(&[[0, 48].as_slice(), &[9; 48]].concat()).await;
            let _ = stream.flush().await;
        })
        .await;
        nothing_is_believed(&download_through(&site, ports)).await;
    })
    .await;
}

/// Relays honestly but for one bit, in the direction and at the place given.
async fn relay_with_a_flip(mut outer: Stream, database: Ports, up: bool, at: usize) {
    let mut inner = TcpStream::connect((LOOPBACK, database.iter().next().unwrap())).await.unwrap();
    let (mut seen_up, mut seen_down) = (0, 0);
    let (mut a, mut b) = (vec![0; 65536], vec![0; 65536]);
    let flip = |bytes: &mut [u8], seen: &mut usize, mine: bool| {
        if mine && (*seen..*seen + bytes.len()).contains(&at) {
            bytes[at - *seen] ^= 1;
        }
        *seen += bytes.len();
    };
    loop {
        tokio::select! {
            n = outer.read(&mut a) => {
                let Ok(n @ 1..) = n else { return };
                flip(&mut a[..n], &mut seen_up, up);
                if inner.write_all(&a[..n]).await.is_err() { return }
            }
            n = inner.read(&mut b) => {
                let Ok(n @ 1..) = n else { return };
                flip(&mut b[..n], &mut seen_down, !up);
                if outer.write_all(&b[..n]).await.is_err() || outer.flush().await.is_err() { return }
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_double_cannot_alter_a_bit() {
    within(async {
        let site = site();
        let database = start(Role::Database, &site.database, None).await;
        let target = database.ports;
        // Up: a greeting line of 27 bytes, 50 of handshake, the request. Down: a line of 15 bytes (ephemeral ports have
        // five digits), 50 of handshake, the answer. Left out are a line's last byte and a record's length: a flip there can
        // make the receiver wait until a deadline. The tests of `sealed` and of its records flip those.
        let places = |line: usize, end: usize| (0..line - 1).chain(line..line + 50).chain(line + 52..end);
        let all = places(27, 180).map(|at| (true, at)).chain(places(15, 140).map(|at| (false, at)));
        let ports = double(&site.web, done, move |stream| relay_with_a_flip(stream, target, true, usize::MAX)).await;
        let unaltered = download_through(&site, ports).call("database", login_check("alice", "x")).await;
        assert_eq!(unaltered.unwrap(), verified(), "it can work at all");
        for (up, at) in all.step_by(5) {
            let before = database.recorder.requests().len();
            let ports = double(&site.web, done, move |stream| relay_with_a_flip(stream, target, up, at)).await;
            let outcome = download_through(&site, ports).call("database", login_check("alice", "x")).await;
            assert!(outcome.is_err(), "up {up}, byte {at}: {outcome:?}");
            let executed: Vec<_> = database.recorder.requests().split_off(before);
            assert!(executed.iter().all(|(from, request)| {
                from == "download" && matches!(&request.body, Body::Request(r) if *r == login_check("alice", "x"))
            }));
            // The same ID may come a second time after a lost answer; another one would be a forgery.
            assert!(executed.windows(2).all(|two| two[0].1.id == two[1].1.id));
            if up {
                assert!(executed.is_empty(), "byte {at} of a request was altered, and it was executed");
            }
        }
    })
    .await;
}

#[tokio::test]
async fn the_double_cannot_replay() {
    within(async {
        let site = site();
        let database = start(Role::Database, &site.database, None).await;
        let (ports, capture, _) = proxy(database.ports, |_, _, _| {}).await;
        let web = start(Role::Web, &site.web, Some(target("database", ports))).await;
        download_through(&site, web.ports).call("database", login_check("alice", "x")).await.unwrap();
        let (up, down) = capture.lock().unwrap()[0].clone();
        assert_eq!(database.recorder.requests().len(), 1);
        // To the download appliance: the database's side of a session that was real once.
        let ports = double(&site.web, done, move |mut stream| {
            let down = down.clone();
            async move {
                let line = down.iter().position(|&byte| byte == b'\n').unwrap() + 1;
                let mut piece = [0; 256];
                let _ = stream.read(&mut piece).await;
                let _ = stream.write_all(&down[..line]).await;
                let _ = stream.flush().await;
                let _ = stream.read(&mut piece).await;
                let _ = stream.write_all(&down[line..]).await;
                let _ = stream.flush().await;
            }
        })
        .await;
        nothing_is_believed(&download_through(&site, ports)).await;
        // To the database: the download appliance's side, as it was and answer by answer. From the same port it would even
        // be the same key.
        for _ in 0..3 {
            let mut stream = TcpStream::connect((LOOPBACK, database.ports.iter().next().unwrap())).await.unwrap();
            let line = up.iter().position(|&byte| byte == b'\n').unwrap() + 1;
            stream.write_all(&up[..line]).await.unwrap();
            let mut answer = [0; 64];
            assert!(stream.read(&mut answer).await.unwrap() > 0);
            stream.write_all(&up[line..]).await.unwrap();
            let _ = stream.read_to_end(&mut Vec::new()).await;
        }
        assert_eq!(database.recorder.requests().len(), 1, "nothing was executed again");
    })
    .await;
}

#[tokio::test]
async fn the_double_cannot_cut_unseen() {
    within(async {
        let site = site();
        let database = start(Role::Database, &site.database, None).await;
        let target = database.ports;
        let ports = double(&site.web, done, move |mut outer| async move {
            let mut inner = TcpStream::connect((LOOPBACK, target.iter().next().unwrap())).await.unwrap();
            let mut piece = [0; 1024];
            // Greeting and handshake both ways, then the request; the answer is kept back and the session "ended".
            for _ in 0..2 {
                for up in [true, false] {
                    let n = if up { outer.read(&mut piece).await } else { inner.read(&mut piece).await }.unwrap_or(0);
                    let sent = if up { inner.write_all(&piece[..n]).await } else { outer.write_all(&piece[..n]).await };
                    if n == 0 || sent.is_err() || outer.flush().await.is_err() {
                        return;
                    }
                }
            }
            let n = outer.read(&mut piece).await.unwrap_or(0);
            let _ = inner.write_all(&piece[..n]).await;
            let _ = inner.read(&mut piece).await;
            let _ = outer.shutdown().await;
        })
        .await;
        nothing_is_believed(&download_through(&site, ports)).await;
    })
    .await;
}
