//! Each daemon takes the configuration that an appliance makes for it.

#![allow(clippy::unwrap_used, reason = "a test")]

use admin::setup::{Content, render};
use keys::site::{Machine, Plan, Role};
use serde::de::DeserializeOwned;
use std::path::Path;

fn config<T: DeserializeOwned>(role: Role, daemon: &str) -> T {
    let machines = [("10.0.0.1", Role::Web), ("10.0.0.2", Role::Database), ("10.0.0.3", Role::Download)];
    let machines = machines.map(|(host, role)| Machine::new(role, host)).to_vec();
    let plan = Plan { name: "test".into(), operators: vec!["ann".into()], time: vec![], machines };
    let path = format!("/run/ffs/config/{daemon}.toml");
    let files = render(&plan, role.as_str(), &[]).unwrap();
    let file = files.into_iter().find(|f| f.path == Path::new(&path)).unwrap();
    let Content::Text(text) = file.content else { panic!("{path} is no text") };
    toml::from_str(&text).unwrap_or_else(|error| panic!("{daemon}: {error}\n{text}"))
}

#[test]
fn every_daemon_takes_its_configuration() {
    let stager: stager::config::Config = config(Role::Download, "stagerd");
    assert_eq!(stager.root, Path::new("/srv/ffs"));
    let ftpd: ftpd::config::Config = config(Role::Download, "ftpd");
    assert_eq!(ftpd.sessions, Path::new("/run/ffs/stagerd/sessions"));
    assert_eq!(stager.sessions, ftpd.sessions, "they meet there");
    let master: masterdb::Config = config(Role::Database, "masterd");
    assert_eq!(master.store, Path::new("/srv/ffs/master/master.redb"));
    let portal: portal::Config = config(Role::Web, "portald");
    assert_eq!(portal.downloads.len(), 1);
}
