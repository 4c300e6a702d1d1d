//! curl as a customer has it. Further clients, which a machine may lack, are tested elsewhere.

use crate::daemon::{Daemon, start};
use crate::ftps;
use crate::stagerd::{PASSWORD, USER};
use std::path::PathBuf;
use std::process::Command;

/// Runs curl; gives what it wrote to standard output.
fn curl(arguments: &[&str]) -> Vec<u8> {
    let output = Command::new("curl")
        .args(["--silent", "--show-error", "--max-time", "30", "--user", &format!("{USER}:{PASSWORD}")])
        .args(arguments)
        .env_remove("all_proxy")
        .env_remove("ftp_proxy")
        .output()
        .expect("these tests need curl");
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

fn url(daemon: &Daemon, path: &str) -> String {
    format!("ftp://127.0.0.1:{}/{path}", daemon.v4.port())
}

#[test]
fn curl_in_clear() {
    let daemon = start();
    let bytes = daemon.stagerd.put("product/1.0/Straße 1.bin", 5_000_000);
    let path = "product/1.0/Stra%C3%9Fe%201.bin";
    for options in [&["--disable-epsv"][..], &["--ftp-method", "nocwd"], &["--ftp-method", "singlecwd"]] {
        assert!(curl(&[options, &[&url(&daemon, path)]].concat()) == bytes, "{options:?}");
    }
    let six = format!("ftp://[::1]:{}/{path}", daemon.v6.port());
    assert!(curl(&["--globoff", &six]) == bytes);

    let partial: PathBuf = daemon.dir.path().join("partial");
    std::fs::write(&partial, &bytes[..1_234_567]).unwrap();
    curl(&["--continue-at", "-", "--output", partial.to_str().unwrap(), &url(&daemon, path)]);
    assert!(std::fs::read(&partial).unwrap() == bytes);
    assert!(curl(&["--range", "1000000-1999999", &url(&daemon, path)]) == bytes[1_000_000..2_000_000]);
    // curl makes the line ends its own
    assert_eq!(curl(&["--list-only", &url(&daemon, "product/1.0/")]).trim_ascii_end(), "Straße 1.bin".as_bytes());
    let head = String::from_utf8(curl(&["--head", &url(&daemon, path)])).unwrap();
    assert!(head.contains("Content-Length: 5000000") && head.contains("Last-Modified"), "{head}");
}

#[test]
fn curl_under_tls() {
    let (daemon, der) = ftps::start("require_tls = true");
    let bytes = daemon.stagerd.put("a b", 5_000_000);
    let ca = daemon.dir.path().join("cert.pem");
    assert!(!der.is_empty() && ca.exists());
    let address = format!("ftp://localhost:{}/a%20b", daemon.v4.port());
    for version in ["1.2", "1.3"] {
        let options = ["--ssl-reqd", "--ipv4", "--cacert", ca.to_str().unwrap(), "--tls-max", version, &address];
        assert!(curl(&options) == bytes, "TLS {version}");
    }
}
