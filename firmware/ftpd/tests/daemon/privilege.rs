//! What a session can and cannot do.

use crate::client::Client;
use crate::daemon::{copy, public_dir, start, until};
use crate::stagerd::{PASSWORD, USER};
use nix::unistd::Pid;
use std::collections::HashMap;
use std::process::{Command, Stdio};

/// CAP_SYS_CHROOT is number 18.
const CHROOT_ONLY: &str = "0000000000040000";
const NONE: &str = "0000000000000000";

fn status(pid: Pid) -> HashMap<String, String> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    text.lines().filter_map(|l| l.split_once(':')).map(|(k, v)| (k.to_owned(), v.trim().to_owned())).collect()
}

fn capabilities(pid: Pid) -> Vec<String> {
    let status = status(pid);
    ["CapPrm", "CapEff", "CapInh", "CapAmb"].iter().map(|set| status[*set].clone()).collect()
}

#[test]
fn capabilities_before_and_after_the_login() {
    let daemon = start();
    let mut client = Client::greeted(daemon.v4);
    let session = daemon.session();
    let before = [CHROOT_ONLY, CHROOT_ONLY, NONE, NONE];
    assert_eq!(capabilities(daemon.pid()), before);
    assert_eq!(capabilities(session), before);
    let filters = |pid| (status(pid)["NoNewPrivs"].clone(), status(pid)["Seccomp_filters"].parse::<u32>().unwrap());
    let (mine, (no_new_privs, of_forker)) = (filters(nix::unistd::getpid()).1, filters(daemon.pid()));
    assert_eq!((no_new_privs.as_str(), of_forker), ("1", mine + 2));
    assert_eq!(filters(session), (no_new_privs, of_forker + 1), "before it reads a byte");
    client.login();
    assert_eq!(filters(session).1, of_forker + 1);
    assert_eq!(capabilities(session), [NONE; 4]);
    assert_eq!(status(session)["Threads"], "1");
    assert_eq!(status(daemon.pid())["Threads"], "1");
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", daemon.pid())).unwrap();
    assert!(limits.contains("Max open files"), "the forker's own limits are left alone");
}

/// `/proc/PID/root` and `/proc/PID/fd` of a process that is not dumpable are for root only.
#[test]
#[ignore = "long: reads what only root may read"]
fn ftp_root_and_descriptors_before_and_after_the_login() {
    let daemon = start();
    daemon.stagerd.put("a", 1);
    let mut client = Client::greeted(daemon.v4);
    let account = std::fs::canonicalize(&daemon.stagerd.account).unwrap();
    for entry in std::fs::read_dir(format!("/proc/{}/fd", daemon.session())).unwrap() {
        let target = std::fs::read_link(entry.unwrap().path()).unwrap();
        assert!(!target.starts_with(&account) && !target.is_dir(), "{}", target.display());
    }
    client.login();
    assert_eq!(client.fetch("RETR a").len(), 1);
    let session = daemon.session();
    assert_eq!(std::fs::read_link(format!("/proc/{session}/root")).unwrap(), account);
    assert_eq!(std::fs::read_link(format!("/proc/{session}/cwd")).unwrap(), account);
    for entry in std::fs::read_dir(format!("/proc/{session}/fd")).unwrap() {
        let target = std::fs::read_link(entry.unwrap().path()).unwrap();
        let target = target.to_str().unwrap();
        let harmless = ["socket:", "pipe:", "anon_inode:", "/memfd:", "/dev/null"];
        assert!(harmless.iter().any(|kind| target.starts_with(kind)), "{target}");
    }
    let limits = std::fs::read_to_string(format!("/proc/{session}/limits")).unwrap();
    // One thread for the disk, and no further one.
    assert_eq!(status(session)["Threads"], "2");
    for name in ["Max core file size", "Max processes"] {
        let line = limits.lines().find(|l| l.starts_with(name)).unwrap();
        assert!(line[name.len()..].split_whitespace().take(2).eq(["0", "0"]), "{line}");
    }
}

#[test]
fn no_root_no_login() {
    let daemon = start();
    daemon.stagerd.send_no_directory();
    let mut client = Client::greeted(daemon.v4);
    client.ask(&format!("USER {USER}"), 331);
    client.ask(&format!("PASS {PASSWORD}"), 421);
    client.expect_end();
    until("the reason is in the log", || daemon.log().contains("a session cannot be confined: fchdir failed"));
}

#[test]
fn without_the_capability_it_does_not_start() {
    let dir = public_dir();
    let config = dir.path().join("ftpd.toml");
    std::fs::write(&config, "listen = [\"127.0.0.1:0\"]").unwrap();
    let program = copy(env!("CARGO_BIN_EXE_ftpd").as_ref(), dir.path());
    let mut command = if nix::unistd::geteuid().is_root() {
        let mut command = Command::new("setpriv");
        command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups"]).arg(&program);
        command
    } else {
        Command::new(&program)
    };
    let output = command.arg("--config").arg(&config).stdin(Stdio::null()).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let log = String::from_utf8(output.stderr).unwrap();
    assert!(log.contains("CAP_SYS_CHROOT is missing"), "{log}");
}
