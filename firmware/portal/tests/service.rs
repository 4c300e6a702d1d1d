//! The service around the pages: headers, limits, certificates, status, start and stop.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::{Browser, PATIENCE, Site, item, world};
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use tobj::{Fault, Reply, Request};
use tokio::io::AsyncReadExt;
use tokio::time::timeout;

#[tokio::test]
async fn every_answer_has_its_headers() {
    let mut world = world(vec![item("maps", "1.0", "x", 1)]).await;
    world.browser.login().await;
    for (method, path, status) in [
        ("GET", "/healthz", 200),
        ("GET", "/downloads", 200),
        ("GET", "/style.css", 200),
        ("HEAD", "/downloads", 200),
        ("GET", "/none", 404),
        ("GET", "/../etc/passwd", 404),
        ("DELETE", "/downloads", 405),
        ("POST", "/downloads", 405),
        ("GET", "/stage", 303),
        ("GET", "/login", 303),
        ("POST", "/stage", 400),
    ] {
        let page = world.browser.send(method, path, "", "").await;
        assert_eq!(page.status, status, "{method} {path}");
        for (name, value) in [
            (
                "content-security-policy",
                "default-src 'none'; style-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
            ),
            ("strict-transport-security", "max-age=31536000"),
            ("x-content-type-options", "nosniff"),
            ("referrer-policy", "same-origin"),
            ("cache-control", if path == "/style.css" { "max-age=3600" } else { "no-store" }),
        ] {
            assert_eq!(page.header(name), Some(value), "{name} of {method} {path}");
        }
        assert_eq!(page.header("allow").is_some(), status == 405, "{method} {path}");
    }
    assert_eq!(world.browser.get("/healthz").await.body, "ok\n");
    assert!(world.browser.get("/style.css").await.header("content-type").unwrap().starts_with("text/css"));
}

#[tokio::test]
async fn pages_need_no_script_and_nothing_from_elsewhere() {
    let mut world = world(vec![item("maps", "1.0", "x", 1)]).await;
    let login = world.browser.get("/").await;
    world.browser.login().await;
    let list = world.browser.get("/downloads").await;
    let staged =
        world.browser.post("/stage", &[("csrf", &list.hidden("csrf")), ("product", "maps"), ("version", "1.0")]).await;
    for page in [login, list, staged] {
        assert!(page.body.starts_with("<!DOCTYPE html><html lang=\"en\">"));
        for word in ["<script", "http://", "https://", " style=", " onclick", "<style"] {
            assert!(!page.body.contains(word), "{word} in {}", page.body);
        }
    }
}

#[tokio::test]
async fn the_body_at_its_edge() {
    let world = world(vec![]).await;
    let fill = |length: usize| format!("user=a&password=b&x={}", "x".repeat(length - 20));
    assert_eq!(fill(portal::MAX_BODY).len(), portal::MAX_BODY);
    assert_eq!(world.browser.send("POST", "/login", "", &fill(portal::MAX_BODY)).await.status, 401);
    assert_eq!(world.browser.send("POST", "/login", "", &fill(portal::MAX_BODY + 1)).await.status, 413);
    // The same without an announced length.
    let chunked = |length: usize| {
        let body = fill(length);
        format!(
            "POST /login HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\
             Content-Type: application/x-www-form-urlencoded\r\n\r\n{length:x}\r\n{body}\r\n0\r\n\r\n"
        )
    };
    assert_eq!(world.browser.raw(chunked(portal::MAX_BODY).as_bytes()).await.status, 401);
    assert_eq!(world.browser.raw(chunked(portal::MAX_BODY + 1).as_bytes()).await.status, 413);
    // The longest that is a name and a password still fits.
    let (user, password) = ("ü".repeat(2048), "p".repeat(4096));
    assert_eq!(world.browser.post("/login", &[("user", &user), ("password", &password)]).await.status, 401);
    assert_eq!(world.machines.tags().last().unwrap(), "database LOGIN");
}

#[tokio::test]
async fn one_address_has_so_many_connections() {
    let world = world(vec![]).await;
    let mut open = Vec::new();
    for _ in 0..portal::MAX_PER_ADDRESS {
        open.push(world.browser.connect().await.unwrap());
    }
    let mut one_more = tokio::net::TcpStream::connect(world.browser.address).await.unwrap();
    let mut byte = [0];
    let end = timeout(PATIENCE, one_more.read(&mut byte)).await.unwrap();
    assert!(matches!(end, Ok(0) | Err(_)), "closed without a word: {end:?}");
    drop(open);
    // The places are free again as soon as the portal has seen the connections end.
    let again = async {
        while world.browser.connect().await.is_err() {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, again).await.unwrap();
}

#[tokio::test]
async fn a_new_certificate_is_served_at_once() {
    let world = world(vec![]).await;
    assert_eq!(world.browser.get("/healthz").await.status, 200);
    let ca = Site::certify(world.site.dir.path());
    // A new client each, since a resumed TLS session shows no certificate.
    let old = Browser::new(world.browser.address, &world.site.ca);
    assert!(old.connect().await.is_err(), "the old one is no longer served");
    assert_eq!(Browser::new(world.browser.address, &ca).get("/healthz").await.status, 200);
}

#[tokio::test]
async fn status() {
    let mut world = world(vec![]).await;
    let client = daemon::ipc::Client::new(world.site.path("status"));
    let ask = async || match client.call("operator:olga", Request::Status {}).await.unwrap() {
        Reply::StatusReport { name, role, checks, .. } => {
            assert_eq!((name.as_str(), role.as_str()), ("web", "web"));
            checks.iter().map(|c| (c.name.to_string(), c.healthy)).collect::<Vec<_>>()
        }
        other => panic!("{other:?}"),
    };
    let checks = |certificate, database| {
        [("portal", true), ("certificate", certificate), ("database", database)].map(|(n, ok)| (n.to_owned(), ok))
    };
    assert_eq!(ask().await, checks(true, true), "not asked yet");
    world.browser.login().await;
    assert_eq!(ask().await, checks(true, true));
    world.fail("CATALOGUE", Fault::Unavailable);
    assert_eq!(world.browser.get("/downloads").await.status, 503);
    assert_eq!(ask().await, checks(true, false));
    world.fail("CATALOGUE", Fault::Expired);
    assert_eq!(world.browser.get("/downloads").await.status, 401);
    assert_eq!(ask().await, checks(true, true), "a refusal is an answer");
    std::fs::write(world.site.path("cert.pem"), "").unwrap();
    assert_eq!(ask().await, checks(false, true));
    assert_eq!(world.browser.get("/healthz").await.status, 200, "the old certificate still serves");
    let reply = client.call("web", Request::CustomerList { offset: 0 }).await.unwrap();
    assert!(matches!(reply, Reply::Fault { fault: Fault::Denied, .. }));
}

#[tokio::test]
async fn it_stops_when_told() {
    let world = world(vec![]).await;
    let _idle = world.browser.connect().await.unwrap();
    world.trigger.fire();
    timeout(PATIENCE, world.portal).await.unwrap().unwrap().unwrap();
}

/// The program itself: it says where it serves, serves, and ends with 0 on SIGTERM; what it cannot use it names.
#[tokio::test]
async fn the_program() {
    let site = Site::new();
    let (_trigger, shutdown) = daemon::Shutdown::manual();
    let _machines = site.machines(shutdown);
    let config = site.path("portal.toml");
    std::fs::write(&config, site.config()).unwrap();
    let start = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_portald"));
        command.arg("--config").arg(&config).env("RUST_LOG", "info").stderr(Stdio::piped()).stdout(Stdio::null());
        command.spawn().unwrap()
    };
    let mut child = start();
    let mut log = BufReader::new(child.stderr.take().unwrap());
    let (log, address) = tokio::task::spawn_blocking(move || {
        let mut line = String::new();
        while !line.contains("serving customers") {
            line.clear();
            assert_ne!(log.read_line(&mut line).unwrap(), 0, "it ended");
        }
        let at = line.find("127.0.0.1:").unwrap();
        let end = line[at + 10..].find(|c: char| !c.is_ascii_digit()).unwrap();
        (log, line[at..at + 10 + end].parse().unwrap())
    })
    .await
    .unwrap();
    let mut browser = Browser::new(address, &site.ca);
    assert_eq!(browser.login().await.status, 303);
    let pid = i32::try_from(child.id()).unwrap();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGTERM).unwrap();
    let rest = tokio::task::spawn_blocking(move || std::io::read_to_string(log)).await.unwrap().unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0), "{rest}");
    assert!(!rest.contains(common::PASSWORD) && !rest.contains(common::TOKEN), "{rest}");

    std::fs::remove_file(site.path("key.pem")).unwrap();
    let output = start().wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let log = String::from_utf8(output.stderr).unwrap();
    assert!(log.contains("key.pem"), "{log}");
}
