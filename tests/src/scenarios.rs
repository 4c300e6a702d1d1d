//! What is tried on a site, wherever it runs: the whole path, and what must be refused. Each scenario has customers and products
//! of its own, so that all of them can run on one site.

#![allow(
    clippy::missing_panics_doc,
    reason = "they are tests: every one panics when the site does not do what it should"
)]

use crate::{Desk, PASSWORD, eventually};
use keys::site::Role;
use serde_json::{Value, json};
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use xtask::customer::{Ftp, Staged, download, download_staged, sha256};

/// What curl's exit codes mean here (curl(1)).
const CURL_LOGIN_DENIED: &str = "exit status: 67";
const CURL_NO_SUCH_FILE: [&str; 2] = ["exit status: 78", "exit status: 9"];
/// How long a connection may take to be closed.
const CLOSED: Duration = Duration::from_secs(60);

fn fetch(site: &Desk, ftp: Ftp, user: &str, password: &str, path: &str, to: &Path) {
    download(site.access(), ftp, user, password, path, to).unwrap_or_else(|error| panic!("{path}: {error:#}"));
}

/// The log of each machine, as its operator reads it: what its daemons, systemd and the kernel say, page by page.
pub fn the_log_is_read(site: &Desk) {
    let entries = |args: &[&str]| {
        let log = site.operate_json(&[&["log"], args].concat());
        log["entries"].as_array().unwrap_or_else(|| panic!("{log}")).clone()
    };
    let says = |entry: &Value, text: &str| entry["text"].as_str().expect("a text").contains(text);
    for role in Role::ALL {
        let machine = &*site.access().machine(role).name;
        let of_admind = entries(&[machine, "--unit", "admind", "--since", "2020-01-01"]);
        assert!(of_admind.iter().all(|entry| entry["unit"] == "admind.service"), "{machine}: {of_admind:?}");
        assert!(of_admind.iter().any(|entry| says(entry, "admind serves")), "{machine}: {of_admind:?}");
    }
    // The start of the kernel alone is more than a page.
    let machine = &*site.access().machine(Role::Web).name;
    let newest = entries(&[machine, "--lines", "300"]);
    assert!((201..=300).contains(&newest.len()), "{} entries", newest.len());
    let of_kernel = entries(&[machine, "--unit", "kernel", "--since", "2020-01-01"]);
    assert!(of_kernel.iter().any(|entry| says(entry, "Linux version ")), "{:?}", of_kernel.first());
    let error = site.access().operate(&["log", machine, "--unit", "nonesuch"], "").err();
    let told = error.map(|error| format!("{error:#}")).expect("there is no such unit");
    assert!(told.contains("nonesuch") && told.contains("commlinkd"), "{told}");
}

/// The login is refused.
pub fn no_login(site: &Desk, user: &str, password: &str, path: &str) {
    let error = download(site.access(), Ftp::Clear, user, password, path, &site.path("refused")).err();
    let text = format!("{:#}", error.unwrap_or_else(|| panic!("{user} got in")));
    assert!(text.contains(CURL_LOGIN_DENIED), "{user}: {text}");
}

/// The login is taken, but there is no such file.
pub fn no_file(site: &Desk, user: &str, path: &str) {
    let error = download(site.access(), Ftp::Clear, user, PASSWORD, path, &site.path("refused")).err();
    let text = format!("{:#}", error.unwrap_or_else(|| panic!("{user} got {path}")));
    assert!(CURL_NO_SUCH_FILE.iter().any(|code| text.contains(code)), "{path}: {text}");
}

fn stage(site: &Desk, customer: &str, product: &str, version: &str) -> Staged {
    site.logged_in(customer).stage(product, version).unwrap_or_else(|error| panic!("{product}: {error:#}"))
}

/// A product with a small object, and a customer who is entitled to it.
fn small(site: &Desk, customer: &str, product: &str) {
    site.object(product, "1", &format!("{product}.bin"), format!("bytes of {product}").as_bytes());
    site.customer(customer, &[product]);
}

/// From the operator's desk to the customer's disk; what `ffsctl lease show` says at the end.
pub fn a_file_is_delivered(site: &Desk) -> Value {
    let (customer, product, name) = ("ada", "maps", "große Dateien & mehr (1).iso");
    let bytes: Vec<u8> = (0..3_000_000u32).map(|n| n.to_le_bytes()[0] ^ n.to_le_bytes()[2]).collect();
    site.object(product, "2026.1", name, &bytes);
    site.customer(customer, &[product]);
    let hash = sha256(&site.path(name)).expect("the object's file");

    let browser = site.logged_in(customer);
    let list = browser.downloads().unwrap_or_else(|error| panic!("{error:#}"));
    assert!(list.body.contains("2026.1"), "{}", list.body);
    let staged = stage(site, customer, product, "2026.1");
    assert_eq!((staged.file.as_str(), staged.sha256.as_str()), (name, hash.as_str()));
    assert_eq!(staged.account_path, format!("/{product}/2026.1/{name}"));
    assert!(staged.link.starts_with("ftp://") && staged.link.contains(&staged.user), "{}", staged.link);

    let to = site.path("downloaded");
    for ftp in [Ftp::Clear, Ftp::Tls] {
        // All bytes were fetched once: this is what one time means.
        let staged = stage(site, customer, product, "2026.1");
        fetch(site, ftp, &staged.user, &staged.password, &staged.file, &to);
        assert!(download_staged(site.access(), ftp, &staged, &site.path("again")).is_err());
        assert_eq!(sha256(&to).expect("it came"), hash, "by the one-time lease, {ftp:?}");
        fetch(site, ftp, customer, PASSWORD, &staged.account_path, &to);
        assert_eq!(sha256(&to).expect("it came"), hash, "by his own account, {ftp:?}");
    }

    // The page's own commands, as a customer pastes them.
    let page = browser.choose(product, "2026.1").unwrap_or_else(|error| panic!("{error:#}"));
    let dir = site.path("customer");
    fs::create_dir(&dir).expect("a directory of the test's");
    let ca = dir.join("ca.pem");
    let link = page.attribute("ca-link", "href").expect("the commands' certificate is to be had");
    let mut curl = Command::new("curl");
    curl.args(["--silent", "--show-error", "--fail", "--cacert"]).arg(site.access().ca()).arg("--output").arg(&ca);
    let fetched = curl.arg(format!("{}{link}", site.access().portal_url())).status().expect("curl runs");
    assert!(fetched.success(), "the page's link to the certificate");
    assert_eq!(fs::read(&ca).expect("it came"), fs::read(site.access().ca()).expect("the authority's"));
    for id in ["curl", "sha256sum"] {
        let command = page.text(id).unwrap_or_else(|| panic!("no {id} on the page"));
        let output = Command::new("sh").arg("-ec").arg(command).current_dir(&dir).output().expect("a shell");
        assert!(output.status.success(), "{id}: {}", String::from_utf8_lossy(&output.stderr));
    }
    assert_eq!(sha256(&dir.join(name)).expect("it came"), hash);

    // One inode: the storeroom's, the account's and the ticket's name for it.
    let lease = site.operate_json(&["lease", "show", &staged.lease]);
    assert!(lease["inode"].is_u64() && lease["inode"] == lease["storeroom_inode"], "{lease}");
    assert_eq!(lease["links"], json!(6), "storeroom, account and four tickets");

    // All of it is in the trail that the database keeps, once.
    let complete = || {
        let all = site.audit("TRANSFER", Some(customer)).into_iter();
        all.filter(|e| e["outcome"] == "complete" && e["bytes"] == json!(bytes.len())).count()
    };
    eventually("five transfers in the audit trail", || (complete() == 5).then_some(()));
    let trail = site.operate_json(&["audit", "list"]);
    for event in ["ADMIN", "LOGIN", "GRANTED", "STORED", "STAGED"] {
        let has = trail.as_array().is_some_and(|all| all.iter().any(|e| e["event"] == event));
        assert!(has, "{event} is not in the trail");
    }
    assert!(!trail.to_string().contains(PASSWORD) && !trail.to_string().contains(&staged.password));
    lease
}

/// Wrong names and passwords, at the portal and by ftp.
pub fn a_wrong_password(site: &Desk) {
    small(site, "wanda", "wrong");
    let login = |user: &str, password: &str| {
        site.browser("wanda").login(user, password).unwrap_or_else(|error| panic!("{user}: {error:#}"))
    };
    let page = login("wanda", "wrong password");
    assert_eq!(page.status, 401);
    assert!(page.body.contains("name=\"password\""), "the form is there again");
    assert_eq!(login("nobody", PASSWORD).status, 401);
    let before = site.audit("LOGIN-REFUSED", None).len();
    for (user, password) in [("wanda", "wrong password"), ("nobody", PASSWORD), ("../wanda", PASSWORD), ("", PASSWORD)]
    {
        no_login(site, user, password, "wrong.bin");
    }
    eventually("refused logins in the audit trail", || {
        (site.audit("LOGIN-REFUSED", None).len() >= before + 2).then_some(())
    });
    assert!(site.leases_of("wanda").is_empty());
}

/// What a customer may not have: at the portal and by ftp.
pub fn not_entitled(site: &Desk) {
    small(site, "nora", "allowed");
    site.object("secret", "1", "secret.bin", b"not for nora");
    let browser = site.logged_in("nora");
    let list = browser.downloads().unwrap_or_else(|error| panic!("{error:#}")).body;
    assert!(list.contains("allowed.bin") && !list.contains("secret"), "{list}");
    for (product, version) in
        [("secret", "1"), ("secret", "2"), ("nothing", "1"), ("allowed", "2"), ("../allowed", "1")]
    {
        let page = browser.choose(product, version).unwrap_or_else(|error| panic!("{error:#}"));
        assert!((400..500).contains(&page.status), "{product} {version}: {}", page.status);
    }
    assert!(site.leases_of("nora").is_empty());
    stage(site, "nora", "allowed", "1");
    let outside =
        ["/secret/1/secret.bin", "/../nora/allowed/1/allowed.bin/x", "/../../storeroom", "/allowed/2/allowed.bin"];
    for path in outside {
        no_file(site, "nora", path);
    }
}

/// A choice without a login before it.
pub fn without_a_session(site: &Desk) {
    small(site, "willa", "sessions");
    let page = site.browser("willa").choose("sessions", "1").unwrap_or_else(|error| panic!("{error:#}"));
    assert_ne!(page.status, 200);
    assert!(site.leases_of("willa").is_empty());
}

/// An entitlement that ends by itself, and the leases with it.
pub fn an_expired_lease(site: &Desk) {
    small(site, "ella", "ending");
    site.operate(&["entitlement", "remove", "ella", "ending"]);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock after 1970").as_secs();
    // Enough to log in and stage, also in emulation.
    let until = time_of_day(now + 20);
    site.operate(&["entitlement", "add", "ella", "ending", "--until", &until]);
    let staged = stage(site, "ella", "ending", "1");
    let expired = || {
        let after = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock after 1970").as_secs();
        // The machines' clocks may be a second apart from ours.
        (after > now + 22).then_some(())
    };
    eventually("the end of the lease", expired);
    no_login(site, &staged.user, &staged.password, &staged.file);
    let by_account = download(site.access(), Ftp::Clear, "ella", PASSWORD, &staged.account_path, &site.path("refused"));
    assert!(by_account.is_err(), "an expired lease started a download");
    let page = site.logged_in("ella").choose("ending", "1").unwrap_or_else(|error| panic!("{error:#}"));
    assert!((400..500).contains(&page.status), "{}", page.status);
}

/// A time in seconds since 1970 as RFC 3339 has it, by the civil calendar.
fn time_of_day(seconds: u64) -> String {
    let output = Command::new("date").args(["-u", "+%Y-%m-%dT%H:%M:%SZ", "-d", &format!("@{seconds}")]).output();
    String::from_utf8(output.expect("date").stdout).expect("date prints ASCII").trim().to_owned()
}

/// A lease that the operator ends.
pub fn a_revoked_lease(site: &Desk) {
    small(site, "rosa", "revoked");
    let staged = stage(site, "rosa", "revoked", "1");
    site.operate(&["lease", "revoke", &staged.lease]);
    eventually("the end of the lease", || (site.leases_of("rosa").len() == 1).then_some(()));
    no_login(site, &staged.user, &staged.password, &staged.file);
    assert!(site.access().operate(&["lease", "show", &"0".repeat(32)], "").is_err());
}

/// An entitlement that the operator withdraws.
pub fn a_withdrawn_entitlement(site: &Desk) {
    small(site, "wilma", "withdrawn");
    let staged = stage(site, "wilma", "withdrawn", "1");
    site.operate(&["entitlement", "remove", "wilma", "withdrawn"]);
    eventually("the end of both leases", || site.leases_of("wilma").is_empty().then_some(()));
    no_login(site, &staged.user, &staged.password, &staged.file);
    let page = site.logged_in("wilma").choose("withdrawn", "1").unwrap_or_else(|error| panic!("{error:#}"));
    assert!((400..500).contains(&page.status));
}

/// What is no packet, on every machine's commlink: the connection is closed without a byte. How many there were for each machine.
pub fn malformed_packets(site: &Desk, role: Role) -> usize {
    let machine = site.access().machine(role);
    let (host, ports) = (machine.operators_host(), machine.ports);
    let greetings: [&[u8]; 6] = [
        b"GET / HTTP/1.1\r\n\r\n",
        b"FFS/2 no-such-link 1\r\n",
        b"FFS/2 web-database 999\r\n",
        b"\0\0\0\0\r\n",
        b"FFS/1 web-download 1\r\n",
        &[b'x'; 300],
    ];
    let connect = |port: u16| {
        let stream = TcpStream::connect((host, port)).expect("the commlink's port");
        stream.set_read_timeout(Some(CLOSED)).expect("a timeout");
        stream
    };
    let silent = |mut stream: TcpStream, what: &[u8]| {
        let mut answer = Vec::new();
        // A reset is as silent as an end; a timeout is neither.
        if let Err(error) = stream.read_to_end(&mut answer) {
            assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{:?}", String::from_utf8_lossy(what));
        }
        assert!(answer.is_empty(), "{:?} was answered with {answer:?}", String::from_utf8_lossy(what));
    };
    for bytes in greetings {
        let mut stream = connect(ports.0);
        stream.write_all(bytes).expect("a connection");
        silent(stream, bytes);
    }
    // A greeting that is right, then garbage in place of the handshake.
    let link = format!("operator-{}", machine.name);
    let mut stream = connect(ports.1);
    stream.write_all(format!("FFS/2 {link} 1\r\n").as_bytes()).expect("a connection");
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).expect("an answer to a greeting that is right");
        answer.push(byte[0]);
    }
    assert!(answer.starts_with(b"FFS/2 "), "{answer:?}");
    stream.write_all(&[[0, 0x30].as_slice(), &[0x55; 0x30]].concat()).expect("a connection");
    silent(stream, b"garbage in place of the handshake");
    greetings.len() + 1
}
