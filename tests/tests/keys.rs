//! Keys as an operator handles them: looked at, renewed while customers are served, given to another, taken away.

#![allow(clippy::unwrap_used, reason = "a test")]

use keys::site::Role;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use tests::{PASSWORD, Site, eventually};
use xtask::customer::{Ftp, download};

/// Generation and fingerprint of each link, as a machine tells them.
fn told(site: &Site, machine: &str) -> BTreeMap<String, String> {
    // Daemons that have lost a connection say so until the next one is up.
    let well = || site.access().operate(&["--json", "status"], "").ok();
    let status: Value = serde_json::from_slice(&eventually("a healthy site", well).stdout).unwrap();
    let machine = status.as_array().unwrap().iter().find(|m| m["machine"] == machine).unwrap();
    let bags = machine["checks"].as_array().unwrap().iter().filter_map(|check| {
        let link = check["name"].as_str().unwrap().strip_prefix("bag-")?;
        assert_eq!(check["healthy"], true);
        Some((link.to_owned(), check["detail"].as_str().unwrap().to_owned()))
    });
    bags.collect()
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let to = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy(&path, &to);
        } else {
            fs::copy(&path, &to).unwrap();
        }
    }
}

/// Exit code and messages of an `ffsctl` with another folder than the site's.
fn as_operator(folder: &Path, args: &[&str]) -> (i32, String) {
    let test = std::env::current_exe().unwrap();
    let ffsctl = test.ancestors().nth(2).unwrap().join("ffsctl");
    let output = std::process::Command::new(ffsctl).arg("--site").arg(folder).args(args).output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.code().unwrap(), String::from_utf8(text).unwrap())
}

#[test]
fn keys_are_renewed_while_customers_are_served_and_handed_on() {
    let mut site = Site::start();
    site.object("maps", "1", "map.bin", &vec![3; 50_000]);
    site.customer("ada", &["maps"]);
    let staged = site.logged_in("ada").stage("maps", "1").unwrap();
    let dir = site.access().site().to_owned();
    let operator = fs::read_dir(dir.join("operators")).unwrap().next().unwrap().unwrap().path();
    copy(&operator, &site.path("before"));

    let probe = site.operate_json(&["commlink", "probe", "download"]);
    assert_eq!((&probe["generation"], &probe["sealed"]), (&1.into(), &true.into()));
    assert!(probe["latency_ms"].as_f64().unwrap() < 5000.0);
    assert!(probe["clock_ahead_ms"].as_i64().unwrap().abs() < 5000, "it is the same clock");
    let shown = site.operate_json(&["keys", "show"]);
    let mine = shown.as_array().unwrap().iter().find(|bag| bag["peer"] == "download").unwrap();
    assert_eq!(mine["fingerprint"], probe["fingerprint"]);

    // Customers log in by ftp and at the portal meanwhile, which takes all three links between machines.
    std::thread::scope(|scope| {
        let rotation = scope.spawn(|| site.operate_json(&["keys", "rotate"]));
        let mut served = 0;
        while !rotation.is_finished() || served < 3 {
            download(site.access(), Ftp::Clear, "ada", PASSWORD, &staged.account_path, &site.path("x")).unwrap();
            site.logged_in("ada");
            served += 1;
        }
        let rotated = rotation.join().unwrap();
        let rotated = rotated.as_array().unwrap();
        assert_eq!(rotated.len(), 6, "three links between machines, three of the operator");
        assert!(rotated.iter().all(|link| link["generation"] == 2), "{rotated:?}");
    });
    let (web, database) = (told(&site, "web"), told(&site, "database"));
    assert_eq!(web["web-database-2"], database["web-database-2"]);
    assert!(!web.contains_key("web-database-1"));
    let probe = site.operate_json(&["commlink", "probe", "download"]);
    assert_eq!(probe["generation"], 2);

    // The keys before open nothing, and a machine that starts again has the new ones.
    let (code, text) = as_operator(&site.path("before"), &["status"]);
    assert_eq!(code, 1, "{text}");
    for (role, name) in [(Role::Web, "web"), (Role::Database, "database")] {
        site.local.daemon(role, "commlinkd").restart().unwrap();
        assert!(told(&site, name).contains_key("web-database-2"));
    }
    download(site.access(), Ftp::Clear, "ada", PASSWORD, &staged.account_path, &site.path("x")).unwrap();

    // Another operator, until he is none any more.
    let bob = site.path("bob");
    site.operate(&["keys", "new", "bob", bob.to_str().unwrap()]);
    let (code, text) = as_operator(&bob, &["status"]);
    assert_eq!(code, 0, "{text}");
    assert!(told(&site, "web").contains_key("bob-web-1"));
    site.operate(&["keys", "revoke", "bob"]);
    let (code, text) = as_operator(&bob, &["status"]);
    assert_eq!(code, 1, "{text}");
    assert!(!told(&site, "web").contains_key("bob-web-1"));

    // Wrong usage is told from failure.
    for args in [&["keys", "rotate", "no-link"][..], &["keys", "new", "bob"], &["commlink", "probe", "nowhere"]] {
        assert_eq!(as_operator(&operator, args).0, 2, "{args:?}");
    }
}
