use super::*;
use keys::site::{Address, FtpRules, Interface, Network, NetworkRole};
use std::collections::BTreeSet;

/// Set to write the golden files anew; look at what changed before committing it.
const WRITE: &str = "FFS_WRITE_GOLDEN";

fn network(interface: &str, role: NetworkRole, address: &str, gateway: Option<&str>) -> Network {
    let address = match address {
        "dhcp" => Address::Dhcp,
        prefix => Address::Static(prefix.parse().unwrap()),
    };
    let interface: Interface = interface.parse().unwrap();
    Network { interface, role, address, gateway: gateway.map(|g| g.parse().unwrap()) }
}

/// A site with all that a plan can say: fixed addresses and DHCP, IPv6, two download machines, a machine without networks.
fn plan() -> Plan {
    let web = Machine {
        public: Some("www.example.net".into()),
        management: Some("10.9.0.1".into()),
        https: 8443,
        operators_from: vec!["10.9.0.0/24".parse().unwrap(), "2001:db8:9::/48".parse().unwrap()],
        networks: vec![
            network("52:54:00:00:00:01", NetworkRole::Public, "198.51.100.2/24", Some("198.51.100.1")),
            network("enp2s0", NetworkRole::Lan, "10.1.0.1/24", None),
            network("enp3s0", NetworkRole::Lan, "10.2.0.1/24", None),
            network("eno*", NetworkRole::Management, "10.9.0.1/24", None),
        ],
        ..Machine::new(Role::Web, "10.1.0.1")
    };
    let download = Machine {
        public: Some("203.0.113.7".into()),
        passive: (50_000, 50_099),
        metrics: Some(9121),
        ftp_rules: Some(FtpRules {
            require_tls: Some(true),
            idle_seconds: Some(120),
            max_sessions_per_customer: Some(16),
            ..FtpRules::default()
        }),
        networks: vec![
            network("enp1s0", NetworkRole::Public, "dhcp", None),
            network("enp2s0", NetworkRole::Lan, "10.1.0.2/24", None),
        ],
        ..Machine::new(Role::Download, "10.1.0.2")
    };
    let second = Machine { name: "download2".into(), ..Machine::new(Role::Download, "2001:db8:1::3") };
    let database = Machine::new(Role::Database, "10.2.0.2");
    Plan {
        name: "example".into(),
        operators: vec!["ann".into()],
        time: vec!["10.9.0.123".parse().unwrap(), "2001:db8:9::123".parse().unwrap()],
        machines: vec![web, download, second, database],
    }
}

#[test]
fn operators_and_machines_behind_routers_are_answered_where_they_are() {
    let mut plan = plan();
    let units = |plan: &Plan, name: &str| {
        let files = render(plan, name, &[]).unwrap();
        let text = |n: usize| text_of(&files, &format!("/run/systemd/network/20-ffs-{n}.network"));
        let routes = |n| text(n).split("\n[Route]\n").skip(1).map(|r| r.trim().replace('\n', " ")).collect::<Vec<_>>();
        (0..plan.machine(name).unwrap().networks.len()).map(routes).collect::<Vec<_>>()
    };
    let web = &mut plan.machines[0];
    web.networks[1].gateway = Some("10.1.0.254".parse().unwrap());
    web.networks[3].gateway = Some("10.9.0.254".parse().unwrap());
    web.operators_from =
        ["10.9.0.0/25", "10.20.3.4/16", "2001:db8:9::/48", "0.0.0.0/0"].map(|p| p.parse().unwrap()).to_vec();
    plan.machines[3].host = "10.44.0.2".into();
    let customers = "Gateway=198.51.100.1 Metric=100";
    let expected = [
        vec![customers.to_owned()],
        // The database and the download machine without networks are elsewhere; the router speaks IPv4 only.
        vec!["Gateway=10.1.0.254 Metric=200".into(), "Destination=10.44.0.2/32 Gateway=10.1.0.254".into()],
        vec![],
        vec!["Gateway=10.9.0.254 Metric=300".into(), "Destination=10.20.0.0/16 Gateway=10.9.0.254".into()],
    ];
    assert_eq!(units(&plan, "web"), expected);
    // By what a DHCP server or a router of IPv6 says.
    let web = &mut plan.machines[0];
    web.networks[3] = network("eno*", NetworkRole::Management, "dhcp", None);
    let by_dhcp = ["10.9.0.0/25 _dhcp4", "10.20.0.0/16 _dhcp4", "2001:db8:9::/48 _ipv6ra"];
    let by_dhcp = by_dhcp.map(|way| format!("Destination={}", way.replace(' ', " Gateway=")));
    assert_eq!(units(&plan, "web")[3], by_dhcp);
    // There is one way only.
    plan.machines[0].networks.truncate(1);
    assert_eq!(units(&plan, "web"), [vec![customers.to_owned()]]);
}

/// All files of a machine as one text.
fn rendered(name: &str) -> String {
    let bags = [format!("ann-{name}.bag"), format!("web-{name}.bag")];
    let files = render(&plan(), name, &bags).unwrap();
    let mut out = String::new();
    for File { path, mode, uid, content } in files {
        let owner = if uid == 0 { String::new() } else { format!(" of {uid}") };
        out += &format!("==== {} {mode:04o}{owner}", path.display());
        match content {
            Content::Text(text) => out += &format!("\n{text}"),
            Content::Site(part) => out += &format!(" is {part} of the site\n"),
        }
    }
    out
}

fn golden(name: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/setup/golden").join(format!("{name}.txt"));
    let actual = rendered(name);
    if std::env::var_os(WRITE).is_some() {
        fs::write(&path, &actual).unwrap();
    }
    let expected = fs::read_to_string(&path).unwrap();
    for (n, (is, should)) in (1..).zip(actual.lines().zip(expected.lines())) {
        assert_eq!(is, should, "line {n} of {}; {WRITE}=1 writes it anew", path.display());
    }
    assert_eq!(actual.len(), expected.len(), "{}", path.display());
}

#[test]
fn web_as_expected() {
    golden("web");
}

#[test]
fn download_as_expected() {
    golden("download");
}

#[test]
fn download_without_networks_as_expected() {
    golden("download2");
}

#[test]
fn database_as_expected() {
    golden("database");
}

fn text_of(files: &[File], path: &str) -> String {
    match &files.iter().find(|f| f.path == Path::new(path)).unwrap_or_else(|| panic!("no {path}")).content {
        Content::Text(text) => text.clone(),
        Content::Site(part) => panic!("{path} is {part}"),
    }
}

#[test]
fn commlinkd_and_admind_take_what_is_made_for_them() {
    for machine in &plan().machines {
        let files = render(&plan(), &machine.name, &[]).unwrap();
        let config: commlink::config::Config =
            toml::from_str(&text_of(&files, "/run/ffs/config/commlinkd.toml")).unwrap();
        assert!(config.backend().is_ok() && config.admind().is_some(), "{}", machine.name);
        assert_eq!(config.relay_target().unwrap().is_some(), machine.role == Role::Web);
        let config: crate::admind::Config = toml::from_str(&text_of(&files, "/run/ffs/config/admind.toml")).unwrap();
        assert_eq!((config.name, config.role), (machine.name.clone(), machine.role));
        let Some(tls) = config.tls else {
            assert_eq!(machine.role, Role::Database);
            continue;
        };
        // Where it is put at the start is where it is replaced.
        let put = |path: &Path| files.iter().find(|f| f.path == path).map(|f| (f.uid, f.mode)).unwrap();
        assert_eq!((put(&tls.certificate), put(&tls.key)), ((tls.uid, OF_DAEMON), (tls.uid, OF_DAEMON)));
        assert_eq!((tls.renewed, tls.fingerprint), (RENEWED.into(), CERTIFICATE.into()));
    }
}

#[test]
fn pasv_answers_the_address_behind_a_public_name() {
    let address = |public: Option<&str>, ipv4: Option<&str>| {
        let mut plan = plan();
        let download = plan.machines.iter_mut().find(|m| m.name == "download").unwrap();
        download.public = public.map(str::to_owned);
        download.public_ipv4 = ipv4.map(|a| a.parse().unwrap());
        let text = text_of(&render(&plan, "download", &[]).unwrap(), "/run/ffs/config/ftpd.toml");
        let table: toml::Table = text.parse().unwrap();
        table.get("public_address").map(|a| a.as_str().unwrap().to_owned())
    };
    assert_eq!(address(Some("ftp.example.net"), Some("203.0.113.8")).as_deref(), Some("203.0.113.8"));
    assert_eq!(address(Some("203.0.113.7"), None).as_deref(), Some("203.0.113.7"));
    // The address at which a client has reached it, then.
    assert_eq!(address(Some("ftp.example.net"), None), None);
    assert_eq!(address(Some("2001:db8::7"), None), None);
}

#[test]
fn only_the_daemon_of_a_secret_gets_it() {
    for machine in &plan().machines {
        let mut seen = BTreeSet::new();
        for File { path, mode, uid, content } in render(&plan(), &machine.name, &["x.bag".into()]).unwrap() {
            let Content::Site(part) = content else {
                assert_eq!((mode, uid), (0o644, 0), "{}", path.display());
                continue;
            };
            // systemd hands a credential over; a daemon reads the others itself.
            let folder = if uid == 0 { "/run/ffs/credentials" } else { "/run/ffs/tls" };
            let daemon = path.strip_prefix(folder).unwrap().components().next().unwrap();
            let of = Daemon::of(machine.role).iter().find(|d| *d.as_str() == *daemon.as_os_str()).unwrap();
            assert!((mode, uid) == (0o600, 0) || (mode, uid) == (0o400, Appliance.uid(*of)), "{}", path.display());
            seen.insert((daemon.as_os_str().to_string_lossy().into_owned(), part));
        }
        let owned = |d: &str, p: &str| (d.to_owned(), p.to_owned());
        let mut expected = BTreeSet::from([owned("commlinkd", "bags/x.bag")]);
        expected.extend(match machine.role {
            Role::Web => vec![owned("portald", "tls.key"), owned("portald", "tls.pem")],
            Role::Download => {
                vec![owned("ftpd", "tls.key"), owned("ftpd", "tls.pem"), owned("stagerd", "grant.public")]
            }
            Role::Database => vec![owned("masterd", "grant.secret")],
        });
        assert_eq!(seen, expected, "{}", machine.name);
    }
}

/// What a machine lets in, as far as its rules name ports.
fn ports(name: &str) -> Vec<String> {
    let plan = plan();
    let rules = firewall::render(&plan, plan.machine(name).unwrap()).unwrap();
    let input = rules.split("chain input").nth(1).unwrap().split("chain forward").next().unwrap();
    input.lines().filter(|l| l.contains("dport")).map(|l| l.trim().to_owned()).collect()
}

#[test]
fn a_machine_lets_in_its_role_and_nothing_else() {
    let database = ports("database");
    assert!(database.iter().any(|r| r == "ip saddr 10.2.0.1 tcp dport 7640-7655 accept"), "{database:?}");
    assert!(
        !database.iter().any(|r| r.contains("10.1.0.2") || r.contains(" 21 ") || r.contains("443")),
        "{database:?}"
    );
    let download = ports("download");
    assert!(download.iter().any(|r| r == "iifgroup 1 tcp dport 21 jump strangers"), "{download:?}");
    assert!(!download.iter().any(|r| r.contains("10.2.0.2")), "the database never calls: {download:?}");
    let web = ports("web");
    assert_eq!(web.iter().filter(|r| r.contains("8443")).count(), 1, "{web:?}");
    assert!(web.iter().all(|r| !r.contains("saddr 10.2.0.2")), "{web:?}");
}

#[test]
fn who_cannot_be_reached_is_named() {
    let mut plan = plan();
    plan.machines[3].host = "database.example.net".into();
    let failed = render(&plan, "web", &[]).unwrap_err().to_string();
    assert!(failed.contains("database") && failed.contains("web"), "{failed}");
    assert!(matches!(render(&plan, "nobody", &[]), Err(SetupError::Machine(_))));
}

#[test]
fn a_machine_is_written_below_its_root_and_again() {
    let root = tempfile::tempdir().unwrap();
    let site = root.path().join("made");
    plan().create(&site).unwrap();
    fs::create_dir(root.path().join("state")).unwrap();
    fs::rename(site.join("download"), root.path().join("state/site")).unwrap();
    fs::write(root.path().join("state/site/machine"), "download\n").unwrap();
    let at = |path: &str| root.path().join(path);
    let mode = |path: &str| fs::metadata(at(path)).unwrap().permissions().mode() & 0o777;
    for _ in 0..2 {
        assert_eq!(write(root.path()).unwrap(), "download");
        let key = "run/ffs/tls/ftpd/tls.key";
        assert_eq!(fs::read(at(key)).unwrap(), fs::read(at("state/site/tls.key")).unwrap());
        assert_eq!((mode(key), mode("run/ffs/tls/ftpd"), mode("run/ffs/tls")), (0o400, 0o755, 0o755));
        let key = "run/ffs/credentials/stagerd/grant.public";
        assert_eq!(
            (mode(key), mode("run/ffs/credentials/stagerd"), mode("run/ffs/credentials")),
            (0o600, 0o700, 0o700)
        );
        assert_eq!((mode("run/ffs"), mode("run/ffs/config"), mode("run/ffs/config/ftpd.toml")), (0o755, 0o755, 0o644));
        assert!(at("run/ffs/credentials/commlinkd/bags/ann-download.bag").is_file());
        assert!(at("run/systemd/network/20-ffs-1.network").is_file() && at("run/ffs/nftables.conf").is_file());
    }
    // A part of the site that is missing is named.
    fs::remove_file(at("state/site/grant.public")).unwrap();
    let failed = write(root.path()).unwrap_err();
    assert!(daemon::report(&failed).contains("grant.public"), "{failed}");
    assert!(check(&at("state/site"), "download").is_err());
}

#[test]
fn a_renewed_certificate_goes_before_the_site_s_own_unless_it_is_broken() {
    let root = tempfile::tempdir().unwrap();
    let site = root.path().join("made");
    plan().create(&site).unwrap();
    let new = keys::site::certify(&site, plan().machine("web").unwrap()).unwrap();
    fs::create_dir(root.path().join("state")).unwrap();
    fs::rename(site.join("web"), root.path().join("state/site")).unwrap();
    fs::write(root.path().join("state/site/machine"), "web\n").unwrap();
    let read = |path: &str| fs::read_to_string(root.path().join(path)).unwrap();
    let served = || {
        write(root.path()).unwrap();
        (read("run/ffs/tls/portald/tls.pem"), read("run/ffs/tls/portald/tls.key"), read("run/ffs/tls/certificate"))
    };
    let fingerprint = |pem: &str| certificate::facts(pem.as_bytes()).unwrap().fingerprint;
    let own = (read("state/site/tls.pem"), read("state/site/tls.key"));
    let own = (own.0.clone(), own.1, fingerprint(&own.0));
    assert_eq!(served(), own);
    let keep = |text: String| fs::write(root.path().join("state/site/tls.renewed"), text).unwrap();
    keep(format!("{}{}", new.certificate, *new.key));
    assert_eq!(served(), (new.certificate.clone(), new.key.to_string(), fingerprint(&new.certificate)));
    for broken in [String::new(), new.certificate.clone(), format!("{}{}", new.certificate, own.1)] {
        keep(broken);
        assert_eq!(served(), own);
    }
}

#[test]
fn a_folder_says_what_it_is_for() {
    let home = tempfile::tempdir().unwrap();
    let site = home.path().join("site");
    plan().create(&site).unwrap();
    assert_eq!(check(&site.join("database"), "database").unwrap(), Role::Database);
    assert!(check(&site.join("database"), "web").is_err(), "it has no keys of the web machine");
    assert!(check(&site.join("database"), "nobody").is_err() && check(home.path(), "web").is_err());
}
