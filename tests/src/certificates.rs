//! What customers are shown: the certificates of the portal and of ftps.

#![allow(
    clippy::missing_panics_doc,
    reason = "they are tests: every one panics when the site does not do what it should"
)]

use crate::{Desk, PASSWORD};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use std::fs;
use std::process::Command;
use xtask::customer::{Ftp, download, sha256};

/// The machines that have one, each with the URL of its front.
pub fn addresses(site: &Desk) -> [(&'static str, String); 2] {
    let (host, port) = site.access().ftp();
    [("web", site.access().portal_url()), ("download", format!("ftp://{host}:{port}/"))]
}

/// What a new connection to this URL is shown, as SHA-256; the customer ada has to be there.
pub fn served(site: &Desk, url: &str) -> String {
    let mut curl = Command::new("curl");
    curl.args(["--silent", "--show-error", "--max-time", "60", "--insecure", "--ssl-reqd", "--output", "/dev/null"]);
    curl.args(["--user", &format!("ada:{PASSWORD}"), "--write-out", "%{certs}", url]);
    let output = curl.output().expect("curl runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    fingerprint(site, &String::from_utf8(output.stdout).expect("PEM is text"))
}

/// SHA-256 of the first certificate of a text in PEM.
pub fn fingerprint(site: &Desk, pem: &str) -> String {
    let base64 = pem.lines().skip_while(|line| !line.starts_with("-----BEGIN")).skip(1);
    let base64: String = base64.take_while(|line| !line.starts_with("--")).collect();
    let der = site.path("certificate.der");
    fs::write(&der, STANDARD.decode(base64).expect("a certificate")).expect("a file of the test's");
    sha256(&der).expect("the file is there")
}

/// Both are renewed over the commlink and served at once. After [`crate::scenarios::a_file_is_delivered`], whose customer is asked.
pub fn are_renewed(site: &Desk) {
    for (machine, url) in addresses(site) {
        let before = served(site, &url);
        let renewed = site.operate_json(&["keys", "certificate", machine]);
        let now = served(site, &url);
        assert!(now != before && renewed["fingerprint"] == now.as_str(), "{machine}: {before}, {now}, {renewed}");
    }
    // The authority is still the one that customers know.
    let staged = site.logged_in("ada").stage("maps", "2026.1").unwrap_or_else(|error| panic!("{error:#}"));
    let (access, to) = (site.access(), site.path("renewed"));
    download(access, Ftp::Tls, "ada", PASSWORD, &staged.account_path, &to).unwrap_or_else(|error| panic!("{error:#}"));
}
