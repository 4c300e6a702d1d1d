//! Bad input in the path: a clear error, a line in the log, nothing changed.

#![allow(clippy::unwrap_used, reason = "a test")]

use keys::site::Role;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;
use tests::{PASSWORD, Site, eventually};
use xtask::customer::{Ftp, download, download_staged};
use xtask::local::Lifetimes;

/// What curl's exit codes mean here (curl(1)).
const CURL_LOGIN_DENIED: &str = "exit status: 67";
const CURL_NO_SUCH_FILE: [&str; 2] = ["exit status: 78", "exit status: 9"];

fn site() -> Site {
    let site = Site::start();
    site.object("maps", "1", "map.bin", b"a map");
    site.object("secret", "1", "secret.bin", b"not for ada");
    site.customer("ada", &["maps"]);
    site
}

#[test]
fn a_wrong_password() {
    let site = site();
    let page = site.browser("ada").login("ada", "wrong password").unwrap();
    assert_eq!(page.status, 401);
    assert!(page.body.contains("name=\"password\""), "the form is there again");
    assert_eq!(site.browser("eve").login("nobody", PASSWORD).unwrap().status, 401);
    for (user, password) in [("ada", "wrong password"), ("nobody", PASSWORD), ("../ada", PASSWORD), ("", PASSWORD)] {
        let error = download(&site.local, Ftp::Clear, user, password, "map.bin", &site.path("x")).unwrap_err();
        assert!(format!("{error:#}").contains(CURL_LOGIN_DENIED), "{user}: {error:#}");
    }
    let refused =
        |trail: &serde_json::Value| trail.as_array().unwrap().iter().filter(|e| e["event"] == "LOGIN-REFUSED").count();
    eventually("refused logins in the audit trail", || {
        (refused(&site.operate_json(&["audit", "list"])) >= 4).then_some(())
    });
    assert!(site.leases().is_empty());
}

#[test]
fn not_entitled() {
    let site = site();
    let browser = site.logged_in("ada");
    let list = browser.downloads().unwrap().body;
    assert!(list.contains("map.bin") && !list.contains("secret"));
    for (product, version) in [("secret", "1"), ("secret", "2"), ("nothing", "1"), ("maps", "2"), ("../maps", "1")] {
        let page = browser.choose(product, version).unwrap();
        assert!((400..500).contains(&page.status), "{product} {version}: {}", page.status);
    }
    assert!(site.leases().is_empty());
    browser.stage("maps", "1").unwrap();
    for path in ["/secret/1/secret.bin", "/../ada/maps/1/map.bin/x", "/../../storeroom", "/maps/2/map.bin"] {
        let error = download(&site.local, Ftp::Clear, "ada", PASSWORD, path, &site.path("x")).unwrap_err();
        let text = format!("{error:#}");
        assert!(CURL_NO_SUCH_FILE.iter().any(|code| text.contains(code)), "{path}: {text}");
    }
}

#[test]
fn without_a_session_or_its_token() {
    let site = site();
    let browser = site.browser("ada");
    assert_ne!(browser.choose("maps", "1").unwrap().status, 200);
    assert!(site.leases().is_empty());
}

#[test]
fn an_expired_lease() {
    let lifetimes = Lifetimes {
        database: toml::toml! { standing = 4
        one_time = 4 },
        stager: toml::toml! { sweep_seconds = 1
        standing_grace_seconds = 0
        one_time_grace_seconds = 0 },
    };
    let site = Site::with(lifetimes);
    site.object("maps", "1", "map.bin", b"a map");
    site.customer("ada", &["maps"]);
    let staged = site.logged_in("ada").stage("maps", "1").unwrap();
    let to = site.path("x");
    eventually("the end of the leases", || site.leases().is_empty().then_some(()));
    let error = download_staged(&site.local, Ftp::Clear, &staged, &to).unwrap_err();
    assert!(format!("{error:#}").contains(CURL_LOGIN_DENIED), "{error:#}");
    let error = download(&site.local, Ftp::Clear, "ada", PASSWORD, &staged.account_path, &to).unwrap_err();
    assert!(CURL_NO_SUCH_FILE.iter().any(|code| format!("{error:#}").contains(code)), "{error:#}");
    let links = tests::files(&site.local.storage().join("accounts"));
    assert!(links.is_empty(), "{links:?}");
    // The object stays.
    assert_eq!(tests::files(&site.local.storage().join("storeroom")).len(), 1);
}

#[test]
fn a_revoked_lease() {
    let site = site();
    let staged = site.logged_in("ada").stage("maps", "1").unwrap();
    site.operate(&["lease", "revoke", &staged.lease]);
    eventually("the end of the lease", || (site.leases().len() == 1).then_some(()));
    let error = download_staged(&site.local, Ftp::Clear, &staged, &site.path("x")).unwrap_err();
    assert!(format!("{error:#}").contains(CURL_LOGIN_DENIED), "{error:#}");
    assert!(site.local.operate(&["lease", "show", &"0".repeat(32)], "").is_err());
}

#[test]
fn a_withdrawn_entitlement() {
    let site = site();
    let staged = site.logged_in("ada").stage("maps", "1").unwrap();
    site.operate(&["entitlement", "remove", "ada", "maps"]);
    eventually("the end of both leases", || site.leases().is_empty().then_some(()));
    assert!(download_staged(&site.local, Ftp::Clear, &staged, &site.path("x")).is_err());
    let page = site.logged_in("ada").choose("maps", "1").unwrap();
    assert!((400..500).contains(&page.status));
}

#[test]
fn a_malformed_packet_closes_the_connection_in_silence() {
    let mut site = site();
    let ports = site.local.machine(Role::Web).ports;
    let greetings: [&[u8]; 6] = [
        b"GET / HTTP/1.1\r\n\r\n",
        b"FFS/2 no-such-link 1\r\n",
        b"FFS/2 web-database 999\r\n",
        b"\0\0\0\0\r\n",
        b"FFS/1 web-download 1\r\n",
        &[b'x'; 300],
    ];
    for bytes in greetings {
        let mut stream = TcpStream::connect(("127.0.0.1", ports.0)).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        stream.write_all(bytes).unwrap();
        let mut answer = Vec::new();
        // A reset is as silent as an end.
        let _ = stream.read_to_end(&mut answer);
        assert!(answer.is_empty(), "{:?} was answered with {answer:?}", String::from_utf8_lossy(bytes));
    }
    // A greeting that is right, then garbage in place of the handshake.
    let mut stream = TcpStream::connect(("127.0.0.1", ports.1)).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    stream.write_all(b"FFS/2 web-download 1\r\n").unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        answer.push(byte[0]);
    }
    assert!(answer.starts_with(b"FFS/2 "), "{answer:?}");
    stream.write_all(&[[0, 0x30].as_slice(), &[0x55; 0x30]].concat()).unwrap();
    let mut more = Vec::new();
    let _ = stream.read_to_end(&mut more);
    assert!(more.is_empty(), "{more:?}");
    let refused = greetings.len() + 1;
    eventually("a line in the log for each", || {
        let log = site.local.daemon(Role::Web, "commlinkd").log();
        (log.matches("a connection was closed").count() == refused).then_some(())
    });
}
