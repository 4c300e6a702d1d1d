//! What somebody sees who listens between the machines.

#![allow(clippy::unwrap_used, reason = "a test")]

mod capture;

use capture::Capture;
use keys::site::Role;
use tests::streams::{assert_secret, protocol_words};
use tests::{PASSWORD, Site, eventually};
use xtask::customer::{Ftp, download};

#[test]
fn a_listener_between_the_machines_learns_nothing() {
    let site = Site::start();
    let ranges: Vec<(u16, u16)> = Role::ALL.iter().map(|role| site.access().machine(*role).ports).collect();
    let capture = Capture::start(move |port| ranges.iter().any(|(first, last)| (*first..=*last).contains(&port)));
    let object = b"bytes of an object that only one customer may have ".repeat(2000);
    site.object("geheimprodukt", "2026.11", "vertraulich.bin", &object);
    site.customer("adalovelace", &["geheimprodukt"]);
    let staged = site.logged_in("adalovelace").stage("geheimprodukt", "2026.11").unwrap();
    let to = site.path("x");
    download(site.access(), Ftp::Tls, "adalovelace", PASSWORD, &staged.account_path, &to).unwrap();
    eventually("the transfer in the audit trail", || {
        let trail = site.operate_json(&["audit", "list"]).to_string();
        trail.contains("TRANSFER").then_some(())
    });
    let streams = capture.stop();

    // It listened at the right place: both machines' greetings, and all bytes of the object in some form.
    assert!(streams.iter().any(|s| s.starts_with(b"FFS/2 web-database ")));
    assert!(streams.iter().any(|s| s.starts_with(b"FFS/2 web-download ")));
    assert!(streams.iter().any(|s| s.len() > object.len()));

    let texts = ["adalovelace", PASSWORD, "geheimprodukt", "vertraulich.bin", "2026.11", "bytes of an object"];
    assert_secret(&streams, texts.into_iter().chain([staged.user.as_str(), staged.password.as_str()]));
    assert_secret(&streams, protocol_words());
}
