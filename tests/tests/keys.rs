//! Keys as an operator handles them: looked at, renewed while customers are served, given to another, taken away.

#![allow(clippy::unwrap_used, reason = "a test")]

use keys::site::Role;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;
use tests::certificates::{addresses, fingerprint, served};
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
    let output = Command::new(ffsctl).arg("--site").arg(folder).args(args).output().unwrap();
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
    let new = ["keys", "new", "bob", bob.to_str().unwrap()];
    site.local.daemon(Role::Download, "commlinkd").kill();
    let (code, text) = as_operator(&operator, &new);
    assert!(code == 1 && text.contains("bob does not come in at download yet"), "{text}");
    assert_eq!(as_operator(&operator, &["keys", "new", "bob", site.path("before").to_str().unwrap()]).0, 2);
    site.local.daemon(Role::Download, "commlinkd").restart().unwrap();
    site.operate(&new);
    assert!(told(&site, "web").contains_key("bob-web-1"));
    let (code, text) = as_operator(&bob, &["status"]);
    assert_eq!(code, 0, "{text}");
    site.operate(&["keys", "revoke", "bob"]);
    let (code, text) = as_operator(&bob, &["status"]);
    assert_eq!(code, 1, "{text}");
    assert!(!told(&site, "web").contains_key("bob-web-1"));

    // Wrong usage is told from failure.
    for args in [
        &["keys", "rotate", "no-link"][..],
        &["reboot", "nowhere"],
        &["keys", "new", "bob"],
        &["commlink", "probe", "nowhere"],
    ] {
        assert_eq!(as_operator(&operator, args).0, 2, "{args:?}");
    }
}

#[test]
fn certificates_are_renewed_while_a_download_runs() {
    let mut site = Site::with_admind();
    let object: Vec<u8> = (0..24 << 20).map(|n: u32| n.to_le_bytes()[usize::from(n.is_multiple_of(3))]).collect();
    site.object("maps", "1", "map.bin", &object);
    site.customer("ada", &["maps"]);
    let staged = site.logged_in("ada").stage("maps", "1").unwrap();
    let dir = site.access().site();
    let urls = addresses(&site);
    let at = |machine: &str, file: &str| fs::read_to_string(dir.join(machine).join(file)).unwrap();

    // It is held in the middle until all is renewed.
    let got = site.path("got");
    let mut curl = Command::new("curl");
    curl.args(["--silent", "--show-error", "--ssl-reqd", "--limit-rate", "4M", "--max-time", "600", "--cacert"]);
    curl.arg(site.access().ca()).args(["--user", &format!("ada:{PASSWORD}"), "--output"]).arg(&got);
    let mut running =
        curl.arg(format!("{}{}", urls[1].1, staged.account_path.trim_start_matches('/'))).spawn().unwrap();
    let signal = |signal| kill(Pid::from_raw(i32::try_from(running.id()).unwrap()), signal).unwrap();
    eventually("the first bytes", || fs::metadata(&got).ok().filter(|meta| meta.len() > 0));
    signal(Signal::SIGSTOP);
    for (machine, url) in &urls {
        let before = (served(&site, url), at(machine, "tls.key"));
        assert_eq!(before.0, fingerprint(&site, &at(machine, "tls.pem")));
        let renewed = site.operate_json(&["keys", "certificate", machine]);
        assert_eq!(renewed["machine"], *machine);
        let now = (served(&site, url), at(machine, "tls.key"));
        assert_eq!(renewed["fingerprint"].as_str().unwrap(), now.0);
        assert_eq!(fingerprint(&site, &at(machine, "tls.pem")), now.0, "the site's copy");
        assert!(before.0 != now.0 && before.1 != now.1);
    }
    // The authority is still the one that customers know.
    download(site.access(), Ftp::Tls, "ada", PASSWORD, &staged.account_path, &site.path("x")).unwrap();
    site.logged_in("ada");
    assert!(fs::metadata(&got).unwrap().len() < 24 << 20, "it is still under way");
    signal(Signal::SIGCONT);
    assert!(running.wait().unwrap().success());
    assert!(fs::read(&got).unwrap() == object, "the download went on under the old one");

    // Of another authority; what does not fit is not sent, and one who has no authority is told.
    let other = site.path("other");
    let names = ["--name", "other", "--web", "127.0.0.1", "--download", "192.0.2.1"];
    site.operate(&[&["site", "new", other.to_str().unwrap()], &names[..]].concat());
    let file = |machine: &str, file: &str| other.join(machine).join(file).to_str().unwrap().to_owned();
    let operator = site.access().operator();
    let send = |to: &str, from: &str, key: &str| {
        let (certificate, key) = (file(from, "tls.pem"), file(key, "tls.key"));
        as_operator(&operator, &["keys", "certificate", to, "--certificate", &certificate, "--key", &key])
    };
    let before = served(&site, &urls[0].1);
    let (code, text) = send("web", "web", "download");
    assert!(code == 2 && text.contains("the key is not that of the first certificate"), "{text}");
    copy(&operator, &site.path("alone"));
    let (code, text) = as_operator(&site.path("alone"), &["keys", "certificate", "web"]);
    assert!(code == 2 && text.contains("ca.key"), "{text}");
    let (code, text) = as_operator(&operator, &["keys", "certificate", "database"]);
    assert!(code == 2 && text.contains("no machine that customers reach"), "{text}");
    assert_eq!(served(&site, &urls[0].1), before, "nothing of that changed anything");
    let (code, text) = send("web", "download", "download");
    assert!(code == 0 && text.contains("warning: web is 127.0.0.1 to customers"), "{text}");
    let (code, text) = send("web", "web", "web");
    assert!(code == 0 && !text.contains("warning"), "{text}");
    let theirs = fingerprint(&site, &fs::read_to_string(file("web", "tls.pem")).unwrap());
    assert_eq!((&served(&site, &urls[0].1), &fingerprint(&site, &at("web", "tls.pem"))), (&theirs, &theirs));

    // A daemon that starts again has it, and the machine says how long it is good for.
    site.local.daemon(Role::Web, "portald").restart().unwrap();
    assert_eq!(served(&site, &urls[0].1), theirs);
    let status = site.access().ffsctl().args(["--json", "status"]).output().unwrap();
    let status: Value = serde_json::from_slice(&status.stdout).unwrap();
    for machine in status.as_array().unwrap().iter().filter(|machine| machine["role"] != "database") {
        let checks = machine["checks"].as_array().unwrap();
        let end = checks.iter().find(|check| check["name"] == "certificate-end").unwrap();
        assert!(end["healthy"] == true && end["detail"].as_str().unwrap().starts_with("ends on 20"), "{end}");
    }
}
