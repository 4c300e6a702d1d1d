//! commlinkd as a process, with a site as it is made for real.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::path::{Path, PathBuf};
use std::process::Stdio;

use commlink::Bags;
use common::*;
use daemon::Shutdown;
use daemon::ipc::{self, Peers};
use keys::site::{Machine, Plan, Role};
use tobj::{Reply, Request};
use tokio::net::UnixDatagram;
use tokio::process::{Child, Command};

fn site_in(dir: &Path) -> PathBuf {
    let machines = Role::ALL.map(|role| Machine::new(role, "127.0.0.1")).to_vec();
    let plan = Plan { name: "example".into(), operators: vec!["alice".into()], time: Vec::new(), machines };
    let site = dir.join("site");
    plan.create(&site).unwrap();
    site
}

fn spawn(config: &Path, notify: &Path) -> Child {
    Command::new(env!("CARGO_BIN_EXE_commlinkd"))
        .arg("--config")
        .arg(config)
        .env("NOTIFY_SOCKET", notify)
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap()
}

async fn ready(socket: &UnixDatagram) {
    let mut text = [0; 256];
    loop {
        let n = socket.recv(&mut text).await.unwrap();
        if std::str::from_utf8(&text[..n]).unwrap().lines().any(|line| line == "READY=1") {
            return;
        }
    }
}

#[tokio::test]
async fn an_operator_reaches_a_daemon_that_runs_by_its_files() {
    within(async {
        let dir = tempfile::tempdir().unwrap();
        let site = site_in(dir.path());
        let (sockets, ports) = listeners(3).await;
        drop(sockets);
        let range: Vec<u16> = ports.iter().collect();
        let at = |name: &str| dir.path().join(name);
        let me = nix::unistd::geteuid();
        let text = format!(
            "name = \"database\"\nrole = \"database\"\nlisten = [\"127.0.0.1\", \"::1\"]\nports = [{}, {}]\n\
             bags = {:?}\nsocket = {:?}\nallow_uids = [{me}]\n[backends.masterd]\nsocket = {:?}\nuid = {me}\n",
            range[0],
            range[2],
            site.join("database/bags"),
            at("out.sock"),
            at("masterd.sock"),
        );
        std::fs::write(at("commlinkd.toml"), text).unwrap();
        let recorder = Recorder::default();
        let (_trigger, shutdown) = Shutdown::manual();
        let masterd = ipc::bind(&at("masterd.sock")).unwrap();
        tokio::spawn(ipc::serve(masterd, Peers::mine(), recorder.clone(), shutdown));

        let notify = UnixDatagram::bind(at("notify.sock")).unwrap();
        let mut commlinkd = spawn(&at("commlinkd.toml"), &at("notify.sock"));
        ready(&notify).await;
        let bags = Bags::load(&site.join("operators/alice/bags")).unwrap();
        for host in ["127.0.0.1", "::1"] {
            let peer = commlink::Peer { host: Some(host.into()), ..direct("database", ports) };
            let operator = commlink::Client::new(bags.clone(), [peer]).unwrap();
            let reply = operator.call("database", Request::CustomerList { offset: 0 }).await.unwrap();
            assert_eq!(reply, Reply::Done {});
        }
        assert_eq!(recorder.requests().len(), 2);

        let pid = i32::try_from(commlinkd.id().unwrap()).unwrap();
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGTERM).unwrap();
        assert!(commlinkd.wait().await.unwrap().success());
    })
    .await;
}

#[tokio::test]
async fn what_cannot_be_used_stops_it_with_a_reason() {
    within(async {
        let dir = tempfile::tempdir().unwrap();
        let site = site_in(dir.path());
        let config = dir.path().join("commlinkd.toml");
        for (role, bags, reason) in
            [("web", site.join("database/bags"), "is not one of a web machine"), ("web", site.clone(), "0 key bags")]
        {
            let text = format!(
                "name = {role:?}\nrole = {role:?}\nlisten = [\"127.0.0.1\"]\nports = [{0}, {0}]\nbags = {bags:?}\n\
                 socket = {1:?}\nallow_uids = []\n[backends.portald]\nsocket = \"x\"\nuid = 0\n",
                listeners(1).await.1.iter().next().unwrap(),
                dir.path().join("out.sock"),
            );
            std::fs::write(&config, text).unwrap();
            let output = spawn(&config, &dir.path().join("nobody")).wait_with_output().await.unwrap();
            let log = String::from_utf8_lossy(&output.stderr).into_owned();
            assert_eq!(output.status.code(), Some(1), "{log}");
            assert!(log.contains(reason), "{log}");
        }
    })
    .await;
}
