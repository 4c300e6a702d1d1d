//! What an ftp customer sees when a part of the download machine dies: a clean reply or a closed connection, and a retry that works;
//! and that no audit record is lost by it.

#![allow(clippy::unwrap_used, reason = "a test")]

use keys::site::Role;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use tests::{PASSWORD, Site, eventually};

const SIZE: usize = 24 << 20;

fn curl(site: &Site, user: &str, path: &str) -> Command {
    let (host, port) = site.access().ftp();
    let mut curl = Command::new("curl");
    curl.args(["--silent", "--show-error", "--max-time", "120", "--ssl-reqd", "--cacert"]).arg(site.access().ca());
    curl.args(["--user", &format!("{user}:{PASSWORD}"), &format!("ftp://{host}:{port}{path}")]);
    curl.stdout(Stdio::null()).stderr(Stdio::piped());
    curl
}

/// A download that takes some seconds, once its first bytes are there.
fn slow(site: &Site, path: &str, to: &Path) -> Child {
    let _ = fs::remove_file(to);
    let child = curl(site, "ada", path).args(["--limit-rate", "6M", "--output"]).arg(to).spawn().unwrap();
    eventually("the first bytes", || fs::metadata(to).is_ok_and(|m| m.len() > 1 << 20).then_some(()));
    child
}

/// What curl said, of a run that was to fail.
fn fails(mut curl: Command) -> String {
    let output = curl.output().unwrap();
    assert!(!output.status.success());
    String::from_utf8(output.stderr).unwrap()
}

fn sessions(forker: u32) -> Vec<Pid> {
    let parent = |stat: &str| stat.rsplit_once(") ").and_then(|(_, rest)| rest.split(' ').nth(1)?.parse::<u32>().ok());
    let pids = fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| {
        let stat = fs::read_to_string(entry.path().join("stat")).ok()?;
        (parent(&stat) == Some(forker)).then(|| entry.file_name().to_str()?.parse().ok().map(Pid::from_raw))?
    });
    pids.collect()
}

/// The records of transfers, once there are so many.
fn transfers(site: &Site, count: usize) -> Vec<Value> {
    let records = eventually("the audit records", || {
        let records = site.audit("TRANSFER", Some("ada"));
        (records.len() >= count).then_some(records)
    });
    assert_eq!(records.len(), count, "{records:?}");
    records
}

#[test]
fn whoever_dies_the_customer_gets_his_file() {
    let mut site = Site::start();
    let bytes: Vec<u8> = (0..SIZE).map(|at| (at * 31 + (at >> 9)).to_le_bytes()[0]).collect();
    site.object("maps", "1", "map.bin", &bytes);
    site.customer("ada", &["maps"]);
    site.customer("bob", &["maps"]);
    let path = site.logged_in("ada").stage("maps", "1").unwrap().account_path;
    let to = site.path("got");
    let whole = |child: Child, to: &Path| {
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert!(fs::read(to).unwrap() == bytes);
    };

    // A session: what came is a part, and the rest of it comes with the next.
    let mut cut = slow(&site, &path, &to);
    for session in sessions(site.local.daemon(Role::Download, "ftpd").pid()) {
        kill(session, Signal::SIGKILL).unwrap();
    }
    assert!(!cut.wait().unwrap().success(), "a part is not taken for the whole");
    let part = fs::metadata(&to).unwrap().len();
    let retry = curl(&site, "ada", &path).args(["--continue-at", "-", "--output"]).arg(&to).spawn().unwrap();
    whole(retry, &to);
    let records = transfers(&site, 2);
    assert_eq!(records[0]["outcome"], "interrupted");
    assert!(records[0]["bytes"].as_u64().unwrap() + (1 << 20) >= part, "{records:?} {part}");
    assert_eq!((&records[1]["outcome"], records[1]["offset"].as_u64()), (&"complete".into(), Some(part)));
    assert!(records.iter().all(|r| r["tls"] == "1.3" && r["milliseconds"].as_u64() > Some(0)), "{records:?}");
    // What the file has as hash is what the customer is told, and can be told while nothing is fetched.
    let hash =
        curl(&site, "ada", "/").arg("--verbose").args(["--quote", &format!("SITE SHA256 {path}")]).output().unwrap();
    let said = String::from_utf8_lossy(&hash.stderr).into_owned();
    assert!(said.contains(&format!("213 {}", records[1]["sha256"].as_str().unwrap())), "{said}");

    // The forker: what runs goes on.
    let running = slow(&site, &path, &to);
    site.local.daemon(Role::Download, "ftpd").restart().unwrap();
    whole(running, &to);
    assert_eq!(transfers(&site, 3)[2]["outcome"], "complete");

    // stagerd: what runs goes on, nothing new begins, nobody is told that his password is wrong.
    let running = slow(&site, &path, &to);
    site.local.daemon(Role::Download, "stagerd").kill();
    let said = fails(curl(&site, "ada", &path));
    assert!(!said.contains("530"), "{said}");
    site.local.daemon(Role::Download, "stagerd").restart().unwrap();
    whole(running, &to);
    let again = slow(&site, &path, &to);
    whole(again, &to);
    let records = transfers(&site, 5);
    assert_eq!((&records[3]["outcome"], &records[4]["outcome"]), (&"interrupted".into(), &"complete".into()));

    // The way to the database: who was there before comes in, others are asked to try later.
    site.local.daemon(Role::Download, "commlinkd").kill();
    let again = slow(&site, &path, &to);
    whole(again, &to);
    let said = fails(curl(&site, "bob", "/"));
    // curl takes 421 for a time-out, whenever it comes.
    assert!(said.contains("curl: (28)"), "{said}");
    site.local.daemon(Role::Download, "commlinkd").restart().unwrap();
    assert_eq!(transfers(&site, 6)[5]["outcome"], "complete");
    eventually("the way to the database", || curl(&site, "bob", "/").status().unwrap().success().then_some(()));
}
