//! Bad input in the path: a clear error, a line in the log, nothing changed.

#![allow(clippy::unwrap_used, reason = "a test")]

use keys::site::Role;
use tests::{Site, eventually, scenarios};
use xtask::local::Lifetimes;

#[test]
fn a_wrong_password() {
    scenarios::a_wrong_password(&Site::start());
}

#[test]
fn not_entitled() {
    scenarios::not_entitled(&Site::start());
}

#[test]
fn without_a_session_or_its_token() {
    scenarios::without_a_session(&Site::start());
}

#[test]
fn an_expired_lease() {
    scenarios::an_expired_lease(&Site::start());
}

#[test]
fn what_has_expired_is_removed() {
    let lifetimes = Lifetimes {
        database: toml::toml! { standing = 4
        one_time = 4 },
        stager: toml::toml! { sweep_seconds = 1
        standing_grace_seconds = 0
        one_time_grace_seconds = 0 },
        ..Lifetimes::default()
    };
    let site = Site::with(lifetimes);
    site.object("maps", "1", "map.bin", b"a map");
    site.customer("ada", &["maps"]);
    let staged = site.logged_in("ada").stage("maps", "1").unwrap();
    eventually("the end of the leases", || site.leases().is_empty().then_some(()));
    scenarios::no_login(&site, &staged.user, &staged.password, &staged.file);
    let links = tests::files(&site.local.storage().join("accounts"));
    assert!(links.is_empty(), "{links:?}");
    // The object stays.
    assert_eq!(tests::files(&site.local.storage().join("storeroom")).len(), 1);
}

#[test]
fn a_revoked_lease() {
    scenarios::a_revoked_lease(&Site::start());
}

#[test]
fn a_withdrawn_entitlement() {
    scenarios::a_withdrawn_entitlement(&Site::start());
}

#[test]
fn a_malformed_packet_closes_the_connection_in_silence() {
    let mut site = Site::start();
    for role in Role::ALL {
        let refused = scenarios::malformed_packets(&site, role);
        eventually("a line in the log for each", || {
            let log = site.local.daemon(role, "commlinkd").log();
            (log.matches("a connection was closed").count() == refused).then_some(())
        });
    }
}
