//! `cargo xtask up --local --detach`: what scripts rely on.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::fs;
use std::net::TcpStream;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use xtask::customer::{percent, sha256};
use xtask::endpoints::Endpoints;
use xtask::local::temporary;

/// A target directory of its own, in which everything is built already.
fn target() -> PathBuf {
    let target = temporary().unwrap();
    let test = std::env::current_exe().unwrap();
    symlink(test.ancestors().nth(2).unwrap(), target.join("debug")).unwrap();
    target
}

/// xtask with such a target directory.
fn command(target: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(target.join("debug/xtask"));
    command.args(args).env("CARGO_TARGET_DIR", target).env("CARGO", "true");
    command.env("CARGO_MANIFEST_DIR", xtask::root().join("firmware/xtask"));
    command
}

fn xtask(target: &Path, args: &[&str]) -> Output {
    command(target, args).output().unwrap()
}

/// The processes whose command line names this directory.
fn processes(target: &Path) -> Vec<String> {
    let target = target.to_str().unwrap();
    let all = fs::read_dir("/proc").unwrap().flatten();
    let lines = all.filter_map(|entry| fs::read(entry.path().join("cmdline")).ok());
    let lines = lines.map(|line| String::from_utf8_lossy(&line).replace('\0', " "));
    lines.filter(|line| line.contains(target)).collect()
}

fn curl(args: &[&str]) -> Output {
    Command::new("curl").args(["--silent", "--show-error", "--fail", "--max-time", "120"]).args(args).output().unwrap()
}

#[test]
fn up_describes_what_runs_and_down_ends_it() {
    let target = target();
    let up = xtask(&target, &["up", "--local", "--detach"]);
    assert!(up.status.success(), "{}", String::from_utf8_lossy(&up.stderr));
    let file = target.join("ffs/endpoints.json");
    let endpoints: Endpoints = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    let again = xtask(&target, &["up", "--local"]);
    assert_eq!(again.status.code(), Some(2), "a second one is refused");

    assert_eq!((endpoints.customers.len(), endpoints.objects.len()), (2, 3));
    let largest = endpoints.objects.iter().map(|o| o.size).max().unwrap();
    assert!((32 << 20..=48 << 20).contains(&largest), "{largest}");
    let largest = endpoints.objects.iter().find(|o| o.size == largest).unwrap();
    assert!(endpoints.customers[0].entitled.iter().any(|e| e.product == largest.product));
    let ca = endpoints.ftp.ca.to_str().unwrap();
    for host in ["127.0.0.1", "[::1]"] {
        for customer in &endpoints.customers {
            assert_eq!(customer.entitled.len(), 2);
            for object in &endpoints.objects {
                let entitled =
                    customer.entitled.iter().any(|e| (&e.product, &e.version) == (&object.product, &object.version));
                let path = format!("{}/{}/{}", object.product, object.version, percent(&object.file));
                let url = format!("ftp://{host}:{}/{path}", endpoints.ftp.port);
                let user = format!("{}:{}", customer.user, customer.password);
                let to = target.join("downloaded");
                let to = to.to_str().unwrap();
                let got = curl(&["--ssl-reqd", "--cacert", ca, "--user", &user, "--output", to, &url]);
                assert_eq!(got.status.success(), entitled, "{url}: {}", String::from_utf8_lossy(&got.stderr));
                if entitled {
                    assert_eq!(sha256(Path::new(to)).unwrap(), object.sha256);
                }
            }
        }
    }
    assert!(curl(&["--cacert", endpoints.portal.ca.to_str().unwrap(), &endpoints.portal.url]).status.success());
    for link in [&endpoints.commlink.download, &endpoints.commlink.web, &endpoints.commlink.database] {
        assert_eq!(link.ports.len(), 16);
        for port in &link.ports {
            TcpStream::connect((link.host.as_str(), *port)).unwrap();
        }
        keys::Bag::load(&link.bag).unwrap();
    }

    let ffs = target.join("ffs");
    assert!(processes(&ffs).len() >= 7, "the daemons: {:?}", processes(&ffs));
    let down = xtask(&target, &["down"]);
    let left = processes(&ffs);
    assert!(down.status.success(), "{}", String::from_utf8_lossy(&down.stderr));
    assert!(left.is_empty(), "{left:?}");
    assert!(!file.exists());
    assert!(xtask(&target, &["down"]).status.success(), "nothing to do is done");
    fs::remove_dir_all(target).unwrap();
}

#[test]
fn down_ends_what_still_starts() {
    let target = target();
    let ffs = target.join("ffs");
    let mut up = command(&target, &["up", "--local"]);
    let mut up = up.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    // Programs of its own are what it starts.
    while processes(&ffs).is_empty() {
        assert!(up.try_wait().unwrap().is_none(), "it ended");
        std::thread::yield_now();
    }
    assert!(ffs.join("up.json").exists() && !ffs.join("endpoints.json").exists());
    let down = xtask(&target, &["down"]);
    let left = processes(&ffs);
    assert!(down.status.success() && down.stdout == b"down\n", "{down:?}");
    assert!(left.is_empty(), "{left:?}");
    let up = up.wait_with_output().unwrap();
    assert_eq!(up.status.code(), Some(1), "it was never up");
    assert!(String::from_utf8_lossy(&up.stderr).contains("interrupted"), "{up:?}");
    assert!(!ffs.join("endpoints.json").exists() && !ffs.join("up.json").exists());
    fs::remove_dir_all(target).unwrap();
}
