//! Each daemon takes the configuration that an appliance makes for it, whatever the plan may say; and what it would not take, no plan
//! may say.

#![allow(clippy::unwrap_used, reason = "a test")]

use admin::setup::{Content, render};
use keys::site::{FtpRules, MAX_PORTS, Machine, Plan, Role, SiteError};
use serde::de::DeserializeOwned;
use std::fs;
use std::path::{Path, PathBuf};

fn plan() -> Plan {
    let machines = [("10.0.0.1", Role::Web), ("10.0.0.2", Role::Database), ("10.0.0.3", Role::Download)];
    let machines = machines.map(|(host, role)| Machine::new(role, host)).to_vec();
    Plan { name: "test".into(), operators: vec!["ann".into()], time: vec![], machines }
}

/// The configuration of a daemon, as far as it takes it.
fn parsed<T: DeserializeOwned>(plan: &Plan, machine: &str, daemon: &str) -> Result<T, String> {
    let path = format!("/run/ffs/config/{daemon}.toml");
    let files = render(plan, machine, &[]).unwrap();
    let file = files.into_iter().find(|f| f.path == Path::new(&path)).unwrap();
    let Content::Text(text) = file.content else { panic!("{path} is no text") };
    toml::from_str(&text).map_err(|error| format!("{daemon} of {machine}: {error}\n{text}"))
}

fn config<T: DeserializeOwned>(plan: &Plan, machine: &str, daemon: &str) -> T {
    parsed(plan, machine, daemon).unwrap_or_else(|error| panic!("{error}"))
}

/// A folder for a site, which is not there yet.
fn folder(name: &str) -> PathBuf {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("configs-{name}"));
    if dir.exists() {
        fs::remove_dir_all(&dir).unwrap();
    }
    dir
}

/// Makes the site and reads every daemon's configuration as its machine makes it from its folder. Gives the portal's.
fn every_daemon_of(name: &str, plan: &Plan) -> portal::Config {
    let dir = folder(name);
    plan.create(&dir).unwrap_or_else(|error| panic!("{name}: {error}"));
    let mut of_portal = None;
    for machine in &plan.machines {
        let (plan, machine) = (Plan::load(&dir.join(&machine.name).join("site.toml")).unwrap(), &*machine.name);
        let link: commlink::config::Config = config(&plan, machine, "commlinkd");
        assert!(link.backend().is_ok() && link.relay_target().is_ok(), "{machine}");
        config::<admin::admind::Config>(&plan, machine, "admind");
        match plan.machine(machine).unwrap().role {
            Role::Download => {
                config::<stager::config::Config>(&plan, machine, "stagerd");
                config::<ftpd::config::Config>(&plan, machine, "ftpd").check().unwrap();
            }
            Role::Web => of_portal = Some(config(&plan, machine, "portald")),
            Role::Database => drop(config::<masterdb::Config>(&plan, machine, "masterd")),
        }
    }
    let ca = fs::read_to_string(dir.join("ca.pem")).unwrap();
    fs::remove_dir_all(&dir).unwrap();
    let of_portal: portal::Config = of_portal.unwrap();
    assert_eq!(of_portal.authority.as_deref(), Some(&*ca), "what customers may have, and nothing more");
    of_portal
}

#[test]
fn every_daemon_takes_its_configuration() {
    let plan = plan();
    let stager: stager::config::Config = config(&plan, "download", "stagerd");
    assert_eq!(stager.root, Path::new("/srv/ffs"));
    let ftpd: ftpd::config::Config = config(&plan, "download", "ftpd");
    assert_eq!(ftpd.sessions, Path::new("/run/ffs/stagerd/sessions"));
    assert_eq!(stager.sessions, ftpd.sessions, "they meet there");
    let master: masterdb::Config = config(&plan, "database", "masterd");
    assert_eq!(master.store, Path::new("/srv/ffs/master/master.redb"));
    // From a folder that was made before there was a certificate in it.
    let portal: portal::Config = config(&plan, "web", "portald");
    assert_eq!((portal.downloads.len(), portal.authority), (1, None));
    let download = &every_daemon_of("plain", &plan).downloads["download"];
    assert_eq!((download.require_tls, download.ca_hint.as_deref()), (false, Some("ca.pem")));
}

/// Plans with as much of everything as they may have, and as little.
#[test]
fn every_daemon_takes_the_edges_of_a_plan() {
    let (mut most, mut least) = (plan(), plan());
    let ports = (65_535 - MAX_PORTS + 1, 65_535);
    let [web, database, download] = &mut most.machines[..] else { panic!() };
    (web.name, web.ports, web.https) = ("0-of-16-letters-".into(), ports, 1);
    web.public = Some("under_score.example.com".into());
    (database.name, database.ports) = ("9".into(), ports);
    download.ports = ports;
    download.public = Some([63, 63, 63, 61].map(|n| "x".repeat(n)).join("."));
    download.public_ipv4 = Some([255; 4].into());
    (download.passive, download.ftp, download.metrics) = ((1024, ports.0 - 1), 1, Some(2));
    download.networks =
        toml::from_str::<Machine>(
            "name = 'x'\nrole = 'download'\nhost = 'x'\nports = [1, 1]\n[[networks]]\nmatch = 'enp*'\nrole = 'lan'\naddress = '10.0.0.3/24'\n",
        )
        .unwrap()
        .networks;
    download.public_certificate = true;
    download.operators_from = vec!["0.0.0.0/0".parse().unwrap(), "::/0".parse().unwrap()];
    let (number, bytes) = (Some(u32::MAX), Some(u64::try_from(i64::MAX).unwrap()));
    download.ftp_rules = Some(rules(true, number, bytes));
    let second = Machine { name: "second".into(), ..Machine::new(Role::Download, "2001:db8::1") };
    most.machines.push(Machine { metrics: None, ports, ..second });
    let of_portal = every_daemon_of("most", &most);
    let told = |name: &str| {
        let download = &of_portal.downloads[name];
        (download.tls, download.require_tls, download.ca_hint.as_deref())
    };
    assert_eq!((told("download"), told("second")), ((true, true, None), (true, false, Some("ca.pem"))));

    for machine in &mut least.machines {
        machine.ports = (1024, 1024);
    }
    let download = &mut least.machines[2];
    (download.passive, download.public) = ((1025, 1025), Some("x".into()));
    download.ftp_rules = Some(rules(false, Some(1), Some(0)));
    every_daemon_of("least", &least);
}

fn rules(yes: bool, number: Option<u32>, bytes: Option<u64>) -> FtpRules {
    FtpRules {
        require_tls: Some(yes),
        require_data_resumption: Some(yes),
        max_sessions: number,
        max_per_address: number,
        max_sessions_per_customer: number,
        max_failed_logins: number,
        login_seconds: number,
        idle_seconds: number,
        session_seconds: number,
        handshake_seconds: number,
        connect_seconds: number,
        stall_seconds: number,
        session_bytes_per_second: bytes,
        customer_bytes_per_second: bytes,
    }
}

/// Whether a site may have this plan.
fn is_one(name: &str, plan: &Plan) -> bool {
    let dir = folder(name);
    let made = match plan.create(&dir) {
        Ok(()) => true,
        Err(SiteError::Plan(_)) => return false,
        Err(error) => panic!("{error}"),
    };
    fs::remove_dir_all(&dir).unwrap();
    made
}

#[test]
fn a_plan_has_as_many_ports_as_commlinkd_takes() {
    assert_eq!(MAX_PORTS, commlink::dial::MAX_PORTS);
    for (count, good) in [(1, true), (MAX_PORTS, true), (MAX_PORTS + 1, false), (20_000, false)] {
        for n in 0..3 {
            let mut plan = plan();
            plan.machines[n].ports = (2000, 2000 + count - 1);
            let (machine, other) = (&*plan.machines[n].name, if n == 0 { "download" } else { "web" });
            let own = parsed::<commlink::config::Config>(&plan, machine, "commlinkd").is_ok();
            assert_eq!((own, is_one("ports", &plan)), (good, good), "{count} of {machine}");
            // Who calls it would not start either; nobody calls a download machine but the web machine.
            assert_eq!(parsed::<commlink::config::Config>(&plan, other, "commlinkd").is_ok(), good, "{other}");
        }
    }
}

/// What the portal makes no link of is no place at which customers reach a download machine.
#[test]
fn a_plan_has_such_hosts_as_the_portal_takes() {
    let long = |n: usize| "x".repeat(n);
    for (host, good) in [
        ("ftp.example.com", true),
        ("localhost", true),
        ("9-a", true),
        ("192.0.2.1", true),
        ("2001:db8::1", true),
        (&long(63), true),
        (&long(64), false),
        (&[63, 63, 63, 62].map(long).join("."), false),
        ("my_ftp.example.com", false),
        ("-ftp", false),
        ("ftp.", false),
        ("a..b", false),
        ("", false),
        ("a b", false),
        ("ftp.example.com/x", false),
        ("[2001:db8::1]", false),
        ("gr\u{fc}n.example", false),
    ] {
        let mut plan = plan();
        plan.machines[2].public = Some(host.to_owned());
        let taken = parsed::<portal::Config>(&plan, "web", "portald").is_ok();
        assert_eq!((taken, is_one("hosts", &plan)), (good, good), "{host:?}");
    }
}
