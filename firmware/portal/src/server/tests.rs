//! Deadlines and limits of a connection, over a pipe with the clock stopped: time passes only when everybody waits.

use super::*;
use crate::backend::Backend;
use crate::web::{App, BODY_WITHIN, router};
use axum::routing::get;
use rustls::RootCertStore;
use rustls::pki_types::{CertificateDer, ServerName};
use std::collections::BTreeMap;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// How much later than its deadline something may happen: timers of tokio count milliseconds.
const SLACK: Duration = Duration::from_millis(50);

struct Pipe {
    client: DuplexStream,
    ca: CertificateDer<'static>,
    ended: JoinHandle<()>,
    trigger: daemon::Trigger,
    limits: Arc<Limits>,
    start: Instant,
}

/// A commlinkd that takes connections and says nothing, and the portal's own pages in front of it.
struct Silent {
    _dir: tempfile::TempDir,
    listener: tokio::net::UnixListener,
    backend: Arc<Backend>,
}

impl Silent {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let listener = daemon::ipc::bind(&path).unwrap();
        let backend = Arc::new(Backend::new(&path, tobj::Name::new("database").unwrap()));
        Self { _dir: dir, listener, backend }
    }

    fn pipe(&self) -> Pipe {
        pipe_to(router(Arc::new(App { backend: self.backend.clone(), downloads: BTreeMap::new(), authority: None })))
    }
}

/// A login, and the first half of its body.
const LOGIN: [&str; 2] = [
    "POST /login HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: 17\r\n\r\nuser=a&",
    "password=b",
];

/// A connection to pages that are about time.
fn pipe() -> Pipe {
    let app = Router::new()
        .route("/", get(|Extension(Client(address)): Extension<Client>| async move { address.to_string() }))
        .route("/slow", get(|| async { sleep(DRAIN_WITHIN / 2).await }))
        .route("/never", get(|| async { sleep(Duration::MAX).await }));
    pipe_to(app)
}

fn pipe_to(app: Router) -> Pipe {
    let dir = tempfile::tempdir().unwrap();
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let (cert, key) = (dir.path().join("crt"), dir.path().join("key"));
    std::fs::write(&cert, made.cert.pem()).unwrap();
    std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    let acceptor = Tls::new(&cert, &key).unwrap().acceptor();

    let address: IpAddr = [192, 0, 2, 1].into();
    let limits = Limits::new(1, 1, 1);
    let slot = limits.enter(address).unwrap();
    let (client, server) = duplex(64 * 1024);
    let (trigger, shutdown) = Shutdown::manual();
    let ended = tokio::spawn(connection(server, acceptor, app, address, slot, shutdown));
    Pipe { client, ca: made.cert.der().clone(), ended, trigger, limits, start: Instant::now() }
}

async fn client(stream: DuplexStream, ca: CertificateDer<'static>) -> TlsStream<DuplexStream> {
    let mut roots = RootCertStore::empty();
    roots.add(ca).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    TlsConnector::from(Arc::new(config)).connect(ServerName::try_from("localhost").unwrap(), stream).await.unwrap()
}

/// Reads the head of an answer and no more.
async fn head(stream: &mut TlsStream<DuplexStream>) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    String::from_utf8(head).unwrap()
}

fn assert_at(start: Instant, due: Duration) {
    let passed = start.elapsed();
    assert!(passed >= due && passed <= due + SLACK, "{passed:?}, not {due:?}");
}

#[tokio::test(start_paused = true)]
async fn a_silent_handshake_ends() {
    let pipe = pipe();
    pipe.ended.await.unwrap();
    assert_at(pipe.start, HANDSHAKE_WITHIN);
    assert_eq!(pipe.limits.open(), 0, "the slot is free again");
}

#[tokio::test(start_paused = true)]
async fn plain_http_is_not_served() {
    let mut pipe = pipe();
    pipe.client.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    pipe.client.read_to_end(&mut answer).await.unwrap();
    pipe.ended.await.unwrap();
    assert!(!answer.starts_with(b"HTTP"), "at most a TLS alert");
    assert_at(pipe.start, Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn half_a_head_ends() {
    let pipe = pipe();
    let mut stream = client(pipe.client, pipe.ca).await;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: loc").await.unwrap();
    pipe.ended.await.unwrap();
    assert_at(pipe.start, HEAD_WITHIN);
}

#[tokio::test(start_paused = true)]
async fn a_connection_in_use_ends_with_its_lifetime() {
    let pipe = pipe();
    let mut stream = client(pipe.client, pipe.ca).await;
    let using = tokio::spawn(async move {
        loop {
            if stream.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").await.is_err() {
                break;
            }
            let mut byte = [0];
            while !matches!(stream.read(&mut byte).await, Ok(0) | Err(_)) && byte != *b"." {}
            sleep(HEAD_WITHIN / 2).await;
        }
    });
    pipe.ended.await.unwrap();
    assert_at(pipe.start, CONNECTION_LIFETIME);
    using.abort();
}

#[tokio::test(start_paused = true)]
async fn an_idle_connection_ends_with_the_shutdown() {
    let pipe = pipe();
    let mut stream = client(pipe.client, pipe.ca).await;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
    assert!(head(&mut stream).await.starts_with("HTTP/1.1 200"));
    pipe.trigger.fire();
    pipe.ended.await.unwrap();
    assert_at(pipe.start, Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_request_under_way_is_finished() {
    for (path, due, answered) in [("/slow", DRAIN_WITHIN / 2, true), ("/never", DRAIN_WITHIN, false)] {
        let pipe = pipe();
        let mut stream = client(pipe.client, pipe.ca).await;
        stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").as_bytes()).await.unwrap();
        sleep(Duration::from_millis(1)).await; // with the clock stopped: until the handler waits
        pipe.trigger.fire();
        pipe.ended.await.unwrap();
        assert_at(pipe.start, due);
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest).await;
        assert_eq!(rest.starts_with(b"HTTP/1.1 200"), answered, "{path}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_head_at_its_edge() {
    for (length, status) in [(MAX_HEAD - 1, "HTTP/1.1 200"), (MAX_HEAD + 1, "HTTP/1.1 431")] {
        let pipe = pipe();
        let mut stream = client(pipe.client, pipe.ca).await;
        let (start, end) = ("GET / HTTP/1.1\r\nHost: localhost\r\nX: ", "\r\n\r\n");
        let filler = "x".repeat(length - start.len() - end.len());
        stream.write_all(format!("{start}{filler}{end}").as_bytes()).await.unwrap();
        assert!(head(&mut stream).await.starts_with(status), "{length}");
    }
}

#[tokio::test(start_paused = true)]
async fn half_a_body_ends() {
    let backend = Backend::new("/nonexistent".as_ref(), tobj::Name::new("database").unwrap());
    let pipe =
        pipe_to(router(Arc::new(App { backend: Arc::new(backend), downloads: BTreeMap::new(), authority: None })));
    let mut stream = client(pipe.client, pipe.ca).await;
    stream.write_all(b"POST /login HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\nuser=").await.unwrap();
    assert!(head(&mut stream).await.starts_with("HTTP/1.1 408"));
    assert_at(pipe.start, BODY_WITHIN);
}

/// Whatever a connection waits for, it gives way to another, unless a request is under way.
#[tokio::test(start_paused = true)]
async fn what_nobody_waits_at_gives_way() {
    let other: IpAddr = [192, 0, 2, 2].into();
    for sent in [None, Some(""), Some("GET / HTTP/1.1\r\nHost: loc"), Some(LOGIN[0])] {
        let silent = Silent::new();
        let Pipe { client: raw, ca, ended, limits, start, trigger: _trigger } = silent.pipe();
        let _open = match sent {
            None => (Some(raw), None),
            Some(sent) => {
                let mut stream = client(raw, ca).await;
                stream.write_all(sent.as_bytes()).await.unwrap();
                sleep(Duration::from_millis(1)).await; // with the clock stopped: until all of it has come
                (None, Some(stream))
            }
        };
        assert!(limits.enter(other).is_some(), "{sent:?}");
        ended.await.unwrap();
        assert_at(start, Duration::ZERO);
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_under_way_keeps_its_connection() {
    let silent = Silent::new();
    let pipe = silent.pipe();
    let mut stream = client(pipe.client, pipe.ca).await;
    stream.write_all(LOGIN.concat().as_bytes()).await.unwrap();
    let asked = silent.listener.accept().await.unwrap();
    assert!(pipe.limits.enter([192, 0, 2, 2].into()).is_none());
    drop(asked);
    assert!(head(&mut stream).await.starts_with("HTTP/1.1 503"));
    assert!(pipe.limits.enter([192, 0, 2, 2].into()).is_some(), "it has its answer");
    pipe.ended.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn who_comes_when_too_many_log_in_is_told_so() {
    let silent = Silent::new();
    let mut others = Vec::new();
    for _ in 0..crate::MAX_LOGINS_PER_ADDRESS {
        let (backend, address) = (silent.backend.clone(), [192, 0, 2, 1].into());
        let password = tobj::Secret::new("x").unwrap();
        tokio::spawn(async move { backend.login(tobj::Text::default(), password, address).await.map(drop) });
        others.push(silent.listener.accept().await.unwrap());
    }
    let pipe = silent.pipe();
    let mut stream = client(pipe.client, pipe.ca).await;
    stream.write_all(LOGIN.concat().as_bytes()).await.unwrap();
    let head = head(&mut stream).await;
    assert!(head.starts_with("HTTP/1.1 429") && head.contains("retry-after: 5\r\n"), "{head}");
    assert_at(pipe.start, crate::LOGIN_TURN);
}
