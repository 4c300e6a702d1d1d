//! From the operator's desk to the customer's disk, with every daemon for real.

#![allow(clippy::unwrap_used, reason = "a test")]

use serde_json::json;
use std::fs;
use std::os::unix::fs::MetadataExt;
use tests::{Site, eventually, scenarios};
use xtask::customer::{Ftp, download_staged};

#[test]
fn a_file_is_delivered() {
    let site = Site::start();
    let lease = scenarios::a_file_is_delivered(&site);
    let stored = fs::metadata(site.stored(lease["sha256"].as_str().unwrap())).unwrap();
    assert_eq!((&lease["inode"], &lease["device"]), (&json!(stored.ino()), &json!(stored.dev())));
    let path = lease["file"].as_str().unwrap();
    let account = site.local.storage().join("accounts/ada/maps/2026.1").join(path);
    assert_eq!(fs::metadata(account).unwrap().ino(), stored.ino());
}

#[test]
fn every_machine_answers_its_operator() {
    let site = Site::start();
    // The outbox and the revocations reach the database within moments of the start.
    let status = eventually("a healthy site", || {
        let output = site.access().ffsctl().args(["--json", "status"]).output().unwrap();
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
    assert!(site.access().operate(&put, "").is_err(), "a version never changes");
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
    download_staged(site.access(), Ftp::Tls, &staged, &to).unwrap();
    assert_eq!(fs::read(&to).unwrap(), vec![7; 100_000]);
    let again = site.logged_in("ada").stage("maps", "1").unwrap();
    assert_ne!(again.lease, staged.lease, "each choice has a one-time lease of its own");
    assert_eq!(site.leases().len(), 3, "the standing lease was renewed");
}
