//! From the operator's desk to the customer's disk, with every daemon for real.

#![allow(clippy::unwrap_used, reason = "a test")]

use serde_json::json;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::process::Command;
use tests::{PASSWORD, Site, eventually};
use xtask::customer::{Ftp, download, download_staged, sha256};

#[test]
fn a_file_is_delivered() {
    let site = Site::start();
    let name = "große Dateien & mehr (1).iso";
    let bytes: Vec<u8> = (0..3_000_000u32).map(|n| n.to_le_bytes()[0] ^ n.to_le_bytes()[2]).collect();
    site.object("maps", "2026.1", name, &bytes);
    site.customer("ada", &["maps"]);
    let hash = sha256(&site.path(name)).unwrap();

    let browser = site.logged_in("ada");
    assert!(browser.downloads().unwrap().body.contains("2026.1"));
    let staged = browser.stage("maps", "2026.1").unwrap();
    assert_eq!((staged.file.as_str(), staged.sha256.as_str()), (name, hash.as_str()));
    assert_eq!(staged.account_path, format!("/maps/2026.1/{name}"));
    assert!(staged.link.starts_with("ftp://") && staged.link.contains(&staged.user), "{}", staged.link);

    let to = site.path("downloaded");
    for ftp in [Ftp::Clear, Ftp::Tls] {
        // All bytes were fetched once: this is what one time means.
        let staged = browser.stage("maps", "2026.1").unwrap();
        download_staged(&site.local, ftp, &staged, &to).unwrap();
        assert!(download_staged(&site.local, ftp, &staged, &site.path("again")).is_err());
        assert_eq!(sha256(&to).unwrap(), hash, "by the one-time lease, {ftp:?}");
        fs::remove_file(&to).unwrap();
        download(&site.local, ftp, "ada", PASSWORD, &staged.account_path, &to).unwrap();
        assert_eq!(sha256(&to).unwrap(), hash, "by his own account, {ftp:?}");
        fs::remove_file(&to).unwrap();
    }

    // The page's own commands, as a customer pastes them.
    let page = browser.choose("maps", "2026.1").unwrap();
    let dir = site.path("customer");
    fs::create_dir(&dir).unwrap();
    fs::copy(site.local.ca(), dir.join("ca.pem")).unwrap();
    for id in ["curl", "sha256sum"] {
        let mut shell = Command::new("sh");
        let output = shell.arg("-ec").arg(page.text(id).unwrap()).current_dir(&dir).output().unwrap();
        assert!(output.status.success(), "{id}: {}", String::from_utf8_lossy(&output.stderr));
    }
    assert_eq!(sha256(&dir.join(name)).unwrap(), hash);

    // One inode: the storeroom's, the account's and the ticket's name for it.
    let stored = fs::metadata(site.stored(&hash)).unwrap();
    let lease = site.operate_json(&["lease", "show", &staged.lease]);
    assert_eq!(lease["inode"], json!(stored.ino()));
    assert_eq!(lease["storeroom_inode"], json!(stored.ino()));
    assert_eq!(lease["links"], json!(6), "storeroom, account and four tickets");
    assert_eq!(lease["device"], json!(stored.dev()));
    let account = site.local.storage().join("accounts/ada/maps/2026.1").join(name);
    assert_eq!(fs::metadata(account).unwrap().ino(), stored.ino());

    // All of it is in the trail that the database keeps, once.
    let complete = |trail: &serde_json::Value| {
        let done = |e: &&serde_json::Value| e["event"] == "TRANSFER" && e["outcome"] == "complete";
        trail.as_array().unwrap().iter().filter(done).filter(|e| e["bytes"] == json!(bytes.len())).count()
    };
    eventually("five transfers in the audit trail", || {
        (complete(&site.operate_json(&["audit", "list"])) == 5).then_some(())
    });
    let trail = site.operate_json(&["audit", "list"]);
    for event in ["ADMIN", "LOGIN", "GRANTED", "STORED", "STAGED"] {
        assert!(trail.as_array().unwrap().iter().any(|e| e["event"] == event), "{event} is not in the trail");
    }
    assert!(!trail.to_string().contains(PASSWORD) && !trail.to_string().contains(&staged.password));
}

#[test]
fn every_machine_answers_its_operator() {
    let site = Site::start();
    // The outbox and the revocations reach the database within moments of the start.
    let status = eventually("a healthy site", || {
        let output = site.local.ffsctl().args(["--json", "status"]).output().unwrap();
        output.status.success().then_some(output.stdout)
    });
    let status: serde_json::Value = serde_json::from_slice(&status).unwrap();
    let roles: Vec<_> = status.as_array().unwrap().iter().map(|m| m["role"].as_str().unwrap()).collect();
    assert_eq!(roles, ["download", "web", "database"]);
}

#[test]
fn an_object_is_the_same_when_it_comes_again() {
    let site = Site::start();
    site.object("tool", "1", "tool.bin", b"the same bytes");
    site.object("tool", "1", "tool.bin", b"the same bytes");
    site.object("other", "9", "other.bin", b"the same bytes");
    assert_eq!(site.operate_json(&["object", "list"]).as_array().unwrap().len(), 2);
    let storeroom = site.local.storage().join("storeroom");
    assert_eq!(tests::files(&storeroom).len(), 1);
    fs::write(site.path("tool.bin"), b"other bytes").unwrap();
    let path = site.path("tool.bin");
    let put = ["object", "put", path.to_str().unwrap(), "--product", "tool", "--version", "1"];
    assert!(site.local.operate(&put, "").is_err(), "a version never changes");
}

#[test]
fn what_was_acknowledged_survives_the_death_of_every_daemon() {
    use keys::site::Role;
    let mut site = Site::start();
    site.object("maps", "1", "map.bin", &vec![7; 100_000]);
    site.customer("ada", &["maps"]);
    let staged = site.logged_in("ada").stage("maps", "1").unwrap();
    for (role, daemon) in [
        (Role::Download, "stagerd"),
        (Role::Database, "masterd"),
        (Role::Web, "commlinkd"),
        (Role::Web, "portald"),
        (Role::Database, "commlinkd"),
        (Role::Download, "commlinkd"),
        (Role::Download, "ftpd"),
    ] {
        site.local.daemon(role, daemon).restart().unwrap();
    }
    let to = site.path("downloaded");
    download_staged(&site.local, Ftp::Tls, &staged, &to).unwrap();
    assert_eq!(fs::read(&to).unwrap(), vec![7; 100_000]);
    let again = site.logged_in("ada").stage("maps", "1").unwrap();
    assert_ne!(again.lease, staged.lease, "each choice has a one-time lease of its own");
    assert_eq!(site.leases().len(), 3, "the standing lease was renewed");
}
