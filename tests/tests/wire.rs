//! What somebody sees who listens between the machines.

#![allow(clippy::unwrap_used, reason = "a test")]

mod capture;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use capture::Capture;
use keys::site::Role;
use tests::{PASSWORD, Site, eventually};
use tobj::{ReplyTag, RequestTag};
use xtask::customer::{Ftp, download};

/// The text itself and what it looks like inside of base64, whatever stands before it.
fn forms(text: &str) -> Vec<Vec<u8>> {
    let mut forms = vec![text.as_bytes().to_vec()];
    for before in 0..3 {
        let padded: Vec<u8> = vec![b'x'; before].into_iter().chain(text.bytes()).collect();
        let encoded = STANDARD.encode(&padded);
        // The first and last characters depend on the neighbours.
        let first = (before * 8).div_ceil(6);
        let last = padded.len() * 8 / 6;
        forms.push(encoded.as_bytes()[first..last].to_vec());
    }
    forms
}

fn holds(stream: &[u8], pattern: &[u8]) -> bool {
    stream.windows(pattern.len()).any(|window| window == pattern)
}

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

    let mut texts: Vec<&str> =
        vec!["adalovelace", PASSWORD, "geheimprodukt", "vertraulich.bin", "2026.11", "<TOBJ", "VERSION="];
    texts.extend([staged.user.as_str(), staged.password.as_str(), "bytes of an object"]);
    texts.extend(RequestTag::ALL.iter().map(|t| t.as_str()).filter(|t| t.len() > 5));
    texts.extend(ReplyTag::ALL.iter().map(|t| t.as_str()).filter(|t| t.len() > 5));
    for text in texts {
        for form in forms(text) {
            let found = streams.iter().any(|stream| holds(stream, &form));
            assert!(!found, "{text:?} is on the wire, as {:?}", String::from_utf8_lossy(&form));
        }
    }
}

#[test]
fn the_forms_are_those_of_base64() {
    for before in 0..5 {
        let text = format!("{}swordfish and more", "y".repeat(before));
        let encoded = STANDARD.encode(text);
        assert!(forms("swordfish")[1..].iter().any(|form| holds(encoded.as_bytes(), form)), "{before}");
    }
}
