use super::*;

fn plan() -> Plan {
    let machines = Role::ALL.map(|role| Machine::new(role, "127.0.0.1")).to_vec();
    Plan { name: "example".into(), operators: vec!["alice".into()], time: Vec::new(), machines }
}

fn files(dir: &Path) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut todo = vec![dir.to_owned()];
    while let Some(next) = todo.pop() {
        for entry in std::fs::read_dir(next).unwrap().flatten() {
            let path = entry.path();
            if path.is_dir() {
                todo.push(path);
            } else {
                found.insert(path.strip_prefix(dir).unwrap().to_string_lossy().into_owned());
            }
        }
    }
    found
}

#[test]
fn everybody_gets_his_own_part_and_no_more() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("sites/one");
    plan().create(&dir).unwrap();
    let expected = [
        "ca.key",
        "ca.pem",
        "database/bags/alice-database.bag",
        "database/bags/download-database.bag",
        "database/bags/web-database.bag",
        "database/grant.public",
        "database/grant.secret",
        "database/site.toml",
        "download/bags/alice-download.bag",
        "download/bags/download-database.bag",
        "download/bags/web-download.bag",
        "download/grant.public",
        "download/site.toml",
        "download/tls.key",
        "download/tls.pem",
        "operators/alice/bags/alice-database.bag",
        "operators/alice/bags/alice-download.bag",
        "operators/alice/bags/alice-web.bag",
        "operators/alice/ca.pem",
        "operators/alice/site.toml",
        "site.toml",
        "web/bags/alice-web.bag",
        "web/bags/web-database.bag",
        "web/bags/web-download.bag",
        "web/site.toml",
        "web/tls.key",
        "web/tls.pem",
    ];
    assert_eq!(files(&dir), expected.map(String::from).into());
    assert_eq!(Plan::load(&dir.join("site.toml")).unwrap(), plan());
    let load = |path: &str| Bag::load(&dir.join(path)).unwrap();
    let (his, its) = (load("operators/alice/bags/alice-web.bag"), load("web/bags/alice-web.bag"));
    assert_eq!(his.fingerprint(), its.fingerprint());
    assert_eq!((his.local(), its.local()), ("operator:alice", "web"));
    assert!(matches!(plan().create(&dir), Err(SiteError::Exists(_))));
}

#[test]
fn plans_that_are_no_sites() {
    let change = |edit: fn(&mut Plan)| {
        let mut plan = plan();
        edit(&mut plan);
        plan.check()
    };
    assert!(change(|_| {}).is_ok());
    assert!(change(|p| p.machines.truncate(2)).is_err());
    assert!(change(|p| p.operators.clear()).is_err());
    assert!(change(|p| p.operators[0] = "web".into()).is_err());
    assert!(change(|p| p.operators[0] = "x".repeat(17)).is_err());
    assert!(change(|p| p.operators[0] = "x".repeat(16)).is_ok());
    assert!(change(|p| p.machines[0].name = "../x".into()).is_err());
    assert!(change(|p| p.machines[0].ports = (9, 8)).is_err());
    assert!(change(|p| p.machines[0].ports = (1023, 1030)).is_err());
    assert!(change(|p| p.machines[0].ports = (1024, 1030)).is_ok());
    assert!(change(|p| p.machines[0].ports = (1024, 1023 + MAX_PORTS)).is_ok());
    let many = change(|p| p.machines[2].ports = (1024, 1024 + MAX_PORTS)).unwrap_err().to_string();
    assert!(many.contains("database would have 257 ports") && many.contains("256"), "{many}");
    assert!(change(|p| p.machines[1].ports = (1024, 65_535)).is_err());
    // A download machine first. What it does not open may be anywhere.
    assert!(change(|p| p.machines[0].ports = (p.machines[0].passive.1, 51_100)).is_err());
    assert!(change(|p| p.machines[0].ports = (p.machines[0].passive.1 + 1, 51_100)).is_ok());
    assert!(change(|p| p.machines[0].ftp = p.machines[0].ports.1).is_err());
    assert!(change(|p| p.machines[0].ftp = p.machines[0].ports.1 + 1).is_ok());
    assert!(change(|p| p.machines[0].https = p.machines[0].ports.0).is_ok());
    assert!(change(|p| p.machines[1].https = p.machines[1].ports.0).is_err());
    let public = |name: &str, ipv4: &str| {
        let mut plan = plan();
        plan.machines[0].public = Some(name.to_owned());
        plan.machines[0].public_ipv4 = Some(ipv4.parse().unwrap());
        (plan.check().is_ok(), plan.machines[0].public_ipv4().unwrap().to_string())
    };
    assert_eq!(public("ftp.example.com", "192.0.2.1"), (true, "192.0.2.1".to_owned()));
    assert_eq!(public("192.0.2.1", "192.0.2.1"), (true, "192.0.2.1".to_owned()));
    assert!(!public("192.0.2.2", "192.0.2.1").0);
    assert!(change(|p| p.machines.push(Machine { name: "d2".into(), ..p.machines[0].clone() })).is_ok());
}

/// Where customers reach a download machine is in links and commands.
#[test]
fn what_customers_reach_has_a_name_that_a_link_can_have() {
    let at = |role: Role, host: &str, public: Option<&str>| {
        let mut machine = Machine::new(role, host);
        machine.public = public.map(str::to_owned);
        machine.check()
    };
    assert_eq!(at(Role::Download, "10.0.0.1", Some("ftp.example.com")), Ok(()));
    let refused = at(Role::Download, "10.0.0.1", Some("my_ftp.example.com")).unwrap_err();
    assert!(refused.contains("download") && refused.contains("\"my_ftp.example.com\""), "{refused}");
    assert!(at(Role::Download, "my_ftp", None).is_err());
    assert_eq!(at(Role::Download, "my_lan", Some("192.0.2.1")), Ok(()), "which customers do not see");
    assert_eq!(at(Role::Web, "10.0.0.1", Some("my_shop.example.com")), Ok(()), "of which no link is made");
}

#[test]
fn the_certificate_for_customers_is_in_the_web_machine_s_folder() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("site");
    // Of another site, which is not handed on.
    let mut from_elsewhere = plan();
    from_elsewhere.machines[1].authority =
        Some(Authority::new("elsewhere").unwrap().server("elsewhere", vec![]).unwrap().certificate);
    from_elsewhere.create(&dir).unwrap();
    let ca = std::fs::read_to_string(dir.join(AUTHORITY)).unwrap();
    for folder in ["", "web", "download", "database", "operators/alice"] {
        let kept = Plan::load(&dir.join(folder).join("site.toml")).unwrap();
        let of: Vec<_> = kept.machines.iter().map(|m| m.authority.as_deref()).collect();
        assert_eq!(of, [None, Some(&*ca).filter(|_| folder == "web"), None], "{folder}");
        assert_eq!(kept.with_authority(None), plan());
    }
    // What was made before is as valid as it was.
    let web = std::fs::read_to_string(dir.join("download/site.toml")).unwrap();
    assert!(!web.contains("authority") && !web.contains("public_certificate"));
}

#[test]
fn an_authority_is_public_and_of_the_web_machine() {
    let pem = Authority::new("example").unwrap().pem;
    let check = |role, text: &str| Machine { authority: Some(text.into()), ..Machine::new(role, "192.0.2.1") }.check();
    assert_eq!(check(Role::Web, &pem.certificate), Ok(()));
    assert_eq!(check(Role::Web, &format!("\n{0}\n{0}", pem.certificate)), Ok(()));
    assert!(check(Role::Download, &pem.certificate).is_err());
    let cut = pem.certificate.replace("-----END CERTIFICATE-----", "");
    for bad in ["", "ca.pem", &pem.key, &format!("{}{}", pem.certificate, *pem.key), &cut] {
        assert!(check(Role::Web, bad).is_err(), "{bad}");
    }
    let public = |role| Machine { public_certificate: true, ..Machine::new(role, "192.0.2.1") }.check();
    assert!(public(Role::Download).is_ok() && public(Role::Web).is_err() && public(Role::Database).is_err());
}

#[test]
fn a_machine_has_as_many_links_as_it_can_be_given() {
    // The web and the database machine have one to each other, one to each download machine and one to each operator.
    let with = |downloads: usize, operators: usize| {
        let mut plan = plan();
        let more = (1..downloads).map(|n| Machine { name: format!("d{n}"), ..plan.machines[0].clone() });
        let more: Vec<Machine> = more.collect();
        plan.machines.extend(more);
        plan.operators = (0..operators).map(|n| format!("o{n}")).collect();
        plan.check()
    };
    assert!(with(1, MAX_LINKS - 2).is_ok());
    let refused = with(1, MAX_LINKS - 1).unwrap_err().to_string();
    assert!(refused.contains("65 links"), "{refused}");
    assert!(with(MAX_LINKS - 2, 1).is_ok());
    assert!(with(MAX_LINKS - 1, 1).is_err());
    // And all of their bags fit, with names as long as they may be.
    let name = "x".repeat(crate::bag::MAX_NAME);
    let bag = Bag::pair(&name, LinkKind::WebDatabase, (&name, &name), u32::MAX).unwrap().0;
    let file = tempfile::tempdir().unwrap();
    let path = file.path().join("bag");
    bag.save(&path).unwrap();
    let size = std::fs::metadata(&path).unwrap().len();
    assert!(size * MAX_LINKS as u64 <= 1 << 20, "{size} bytes each");
}

const NETWORKS: &str = r#"
    name = "example"
    operators = ["alice"]
    time = ["10.0.0.9"]
    [[machines]]
    name = "download"
    role = "download"
    host = "download"
    ports = [7640, 7655]
    passive = [40000, 40099]
    operators_from = ["10.0.0.0/8"]
    networks = [
        { match = "52:54:00:00:00:01", role = "public", address = "192.0.2.2/24", gateway = "192.0.2.1" },
        { match = "enp2*", role = "lan", address = "10.83.1.2/24" },
        { match = "enp3s0", role = "management", address = "dhcp" },
    ]
    [[machines]]
    name = "web"
    role = "web"
    host = "10.83.1.1"
    ports = [7640, 7655]
    [[machines]]
    name = "database"
    role = "database"
    host = "database"
    ports = [7640, 7655]
"#;

#[test]
fn networks_and_defaults() {
    let plan: Plan = toml::from_str(NETWORKS).unwrap();
    assert!(plan.check().is_ok());
    let [download, web, database] = &plan.machines[..] else { panic!() };
    assert_eq!((download.passive, download.ftp, web.https), ((40_000, 40_099), 21, 443));
    assert_eq!(download.metrics(), None);
    let metrics = |machine: &Machine, port, managed: Option<&str>| {
        let mut machine = Machine { metrics: Some(port), ..machine.clone() };
        let managed_at = machine.networks.iter_mut().find(|n| n.role == NetworkRole::Management);
        match managed {
            Some(address) => managed_at.unwrap().address = Address::Static(address.parse().unwrap()),
            None => machine.networks.retain(|n| n.role != NetworkRole::Management),
        }
        machine.check().map(|()| machine.metrics().unwrap().to_string())
    };
    assert_eq!(metrics(download, 9121, Some("10.9.0.2/24")).as_deref(), Ok("10.9.0.2:9121"));
    assert_eq!(metrics(download, 9121, None).as_deref(), Ok("10.83.1.2:9121"), "its lan");
    assert!(metrics(download, 0, None).is_err() && metrics(web, 9121, None).is_err());
    let rules = |role, text: &str| {
        let rules = Some(toml::from_str(text).map_err(|e| e.to_string())?);
        Machine { ftp_rules: rules, ..Machine::new(role, "192.0.2.1") }.check()
    };
    assert_eq!(rules(Role::Download, "require_tls = true\nidle_seconds = 60\nsession_bytes_per_second = 0"), Ok(()));
    let refused = rules(Role::Download, "max_per_address = 0").unwrap_err();
    assert!(refused.contains("max_per_address"), "{refused}");
    assert!(rules(Role::Download, "idle = 60").is_err() && rules(Role::Web, "require_tls = true").is_err());
    let by_dhcp = Machine { metrics: Some(9121), ..download.clone() };
    assert!(by_dhcp.check().is_err(), "nobody would know where to find them");
    let seen = |a: &Machine, b: &Machine| a.address_seen_by(b).map(|a| a.to_string());
    assert_eq!(seen(download, web).as_deref(), Some("10.83.1.2"));
    assert_eq!(seen(web, download).as_deref(), Some("10.83.1.1"));
    assert_eq!(seen(database, web), None);
    let mut two = web.clone();
    for address in ["10.83.2.1/24", "10.83.1.9/24"] {
        two.networks.push(Network { address: address.parse().unwrap(), ..download.networks[1].clone() });
    }
    assert_eq!(seen(&two, download).as_deref(), Some("10.83.1.9"), "the lan that both are on");
    assert_eq!(seen(&two, database).as_deref(), Some("10.83.1.1"));
    let near = Machine::new(Role::Database, "10.83.2.7");
    assert_eq!(seen(&two, &near).as_deref(), Some("10.83.2.1"), "the lan of its host");
    two.host = "web".into();
    assert_eq!(seen(&two, database), None, "either could be meant");
    let again: Plan = toml::from_str(&toml::to_string_pretty(&plan).unwrap()).unwrap();
    assert_eq!(again, plan);
}

#[test]
fn networks_that_cannot_be() {
    for (from, to) in [
        ("enp3s0", "enp2*"),
        ("\"192.0.2.1\"", "\"192.0.3.1\""),
        ("\"192.0.2.1\"", "\"fd00::1\""),
        ("\"dhcp\"", "\"dhcp\", gateway = \"10.0.0.1\""),
        ("[40000, 40099]", "[40000, 39999]"),
        ("[40000, 40099]", "[1023, 39999]"),
        ("ports = [7640, 7655]", "ports = [7640, 7655]\nftp = 0"),
    ] {
        assert!(NETWORKS.contains(from));
        let plan: Plan = toml::from_str(&NETWORKS.replacen(from, to, 1)).unwrap();
        assert!(plan.check().is_err(), "{to}");
    }
    for (from, to) in [("enp3s0", "enp3s0 x"), ("\"dhcp\"", "\"10.0.0.1\""), ("role = \"lan\"", "role = \"dmz\"")] {
        assert!(toml::from_str::<Plan>(&NETWORKS.replacen(from, to, 1)).is_err(), "{to}");
    }
}

#[test]
fn a_failure_leaves_nothing() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("one");
    let mut plan = plan();
    plan.machines[1].host = "not a hostname\u{e4}".into();
    assert!(plan.create(&dir).is_err());
    assert_eq!(std::fs::read_dir(home.path()).unwrap().count(), 0);
}

#[test]
fn a_certificate_is_made_anew_and_put_in_place() {
    use std::os::unix::fs::PermissionsExt;
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("site");
    plan().create(&dir).unwrap();
    let read = |name: &str| std::fs::read_to_string(dir.join(name)).unwrap();
    let before = (files(&dir), read("web/tls.pem"), read("web/tls.key"));
    let new = certify(&dir, plan().machine("web").unwrap()).unwrap();
    assert!(!format!("{new:?}").contains("PRIVATE"), "a key is not shown");
    assert_eq!((&before.1, &before.2), (&read("web/tls.pem"), &read("web/tls.key")), "not before a machine has it");
    // What a cut run left is no obstacle.
    std::fs::write(dir.join("web/tls.key.new"), "half").unwrap();
    keep(&dir, "web", &new).unwrap();
    assert_eq!((&read("web/tls.pem"), &read("web/tls.key")), (&new.certificate, &*new.key));
    assert!(before.1 != new.certificate && before.2 != *new.key);
    let mode = |name: &str| std::fs::metadata(dir.join(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!((files(&dir), mode("web/tls.pem"), mode("web/tls.key")), (before.0, 0o644, 0o600));
    // The authority is where the site was made.
    std::fs::remove_file(dir.join(AUTHORITY_KEY)).unwrap();
    let failed = certify(&dir, plan().machine("web").unwrap()).unwrap_err();
    assert!(failed.to_string().contains(AUTHORITY_KEY), "{failed}");
    std::fs::write(dir.join(AUTHORITY_KEY), "no key").unwrap();
    assert!(matches!(certify(&dir, plan().machine("web").unwrap()), Err(SiteError::Certificate(_))));
}
