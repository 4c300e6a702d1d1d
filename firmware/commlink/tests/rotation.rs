//! New generations of bags while work goes on, and operators who come and go.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use commlink::config::Config;
use commlink::dial::Ports;
use commlink::rotation::{self, RotationError};
use commlink::server::Door;
use commlink::{Bags, Client, Keyring, endpoint};
use common::*;
use daemon::ipc::{self, Peers};
use daemon::{Shutdown, Trigger};
use keys::site::Role;
use keys::{Bag, LinkKind};
use tempfile::TempDir;
use tobj::{BagKind, Fault, Name, Reply, Request, Text};
use tokio::task::JoinHandle;

/// The folders of all machines and of the operator, and where each machine listens.
struct Home {
    dir: TempDir,
    ports: Vec<(Role, Ports)>,
    listeners: Vec<(Role, Vec<tokio::net::TcpListener>)>,
}

struct Machine {
    recorder: Recorder,
    out: PathBuf,
    trigger: Trigger,
    task: JoinHandle<()>,
}

impl Home {
    async fn new(site: &Site) -> Self {
        let home = Self { dir: tempfile::tempdir().unwrap(), ports: vec![], listeners: vec![] };
        for (who, bags) in
            [("web", &site.web), ("download", &site.download), ("database", &site.database), ("alice", &site.operator)]
        {
            for folder in ["bags", "state"] {
                std::fs::create_dir_all(home.path(who).join(folder)).unwrap();
            }
            for bag in bags {
                bag.save(&home.path(who).join("bags").join(format!("{}.bag", bag.link()))).unwrap();
            }
        }
        let mut home = home;
        for role in Role::ALL {
            let (sockets, ports) = listeners(2).await;
            home.ports.push((role, ports));
            home.listeners.push((role, sockets));
        }
        home
    }

    fn path(&self, who: &str) -> PathBuf {
        self.dir.path().join(who)
    }

    fn ports(&self, role: Role) -> Ports {
        self.ports.iter().find(|(of, _)| *of == role).unwrap().1
    }

    fn keyring(&self, role: Role) -> Keyring {
        let home = self.path(role.as_str());
        Keyring::open(&home.join("bags"), Some(&home.join("state"))).unwrap()
    }

    /// The operator's bags at his desk, where there is one folder for all.
    fn desk(&self) -> Client {
        let bags = self.path("alice").join("bags");
        let keyring = Keyring::open(&bags, Some(&bags)).unwrap();
        let peers = Role::ALL.map(|role| direct(role.as_str(), self.ports(role)));
        Client::new(keyring, peers).unwrap()
    }

    /// Runs a machine.
    fn start(&mut self, role: Role) -> Machine {
        let at = self.listeners.iter().position(|(of, _)| *of == role).unwrap();
        let sockets = self.listeners.swap_remove(at).1;
        let home = self.path(role.as_str());
        let peer = |of: Role| {
            let all: Vec<u16> = self.ports(of).iter().collect();
            let name = of.as_str();
            format!("[[peers]]\nname = {name:?}\nhost = \"127.0.0.1\"\nports = [{}, {}]\n", all[0], all[all.len() - 1])
        };
        let (relay, peers) = match role {
            Role::Web => ("relay = \"database\"\n", peer(Role::Database) + &peer(Role::Download)),
            Role::Download => ("", peer(Role::Web) + "[[peers]]\nname = \"database\"\nvia = \"web\"\n"),
            Role::Database => ("", String::new()),
        };
        let (daemon, me) = (Config::daemon_of(role), nix::unistd::geteuid());
        let (socket, out) = (home.join("daemon.sock"), home.join("out.sock"));
        let name = role.as_str();
        let text = format!(
            "name = {name:?}\nrole = {name:?}\nlisten = [\"127.0.0.1\"]\nports = [1, 1]\nbags = \"\"\nsocket = \"\"\n\
             allow_uids = [{me}]\n{relay}[backends.{daemon}]\nsocket = {socket:?}\nuid = {me}\n{peers}"
        );
        let config: Config = toml::from_str(&text).unwrap();
        let (recorder, (trigger, shutdown)) = (Recorder::default(), Shutdown::manual());
        tokio::spawn(ipc::serve(ipc::bind(&socket).unwrap(), Peers::mine(), recorder.clone(), shutdown.clone()));
        let (keyring, local) = (self.keyring(role), ipc::bind(&out).unwrap());
        let doors = sockets.into_iter().map(|socket| (socket, Door::Sealed)).collect();
        let task = tokio::spawn(async move {
            endpoint::serve(&config, keyring, doors, local, shutdown).await.unwrap();
        });
        Machine { recorder, out, trigger, task }
    }
}

/// Asks without a pause until it is told to stop; tells how often it was answered.
fn load(out: &Path, to: &'static str, make: fn(&str, &str) -> Request, stop: &Arc<AtomicBool>) -> JoinHandle<usize> {
    let (client, stop) = (ipc::Client::new(out), stop.clone());
    tokio::spawn(async move {
        let mut count = 0;
        while !stop.load(Ordering::Relaxed) {
            let name = format!("customer-{count}");
            let reply = client.call(to, make(&name, "x")).await.unwrap();
            assert_eq!(reply, Reply::Verified { customer: Name::new(&name).unwrap() });
            count += 1;
        }
        count
    })
}

fn generations(bags: &Bags, link: &str) -> Vec<u32> {
    bags.of_link(link).unwrap_or_default().iter().map(|bag| bag.generation()).collect()
}

async fn checks(desk: &Client, of: &str) -> Vec<(String, String)> {
    let Reply::StatusReport { checks, .. } = desk.call(of, Request::Status {}).await.unwrap() else {
        panic!("a report")
    };
    checks.into_iter().map(|check| (check.name.to_string(), check.detail.to_string())).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rotation_under_load() {
    within(rotations(1)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "long: 50 rotations of each link"]
async fn long_commlink_rotation_under_load() {
    rotations(50).await;
}

async fn rotations(times: u32) {
    let site = site();
    let mut home = Home::new(&site).await;
    let machines = [Role::Database, Role::Web, Role::Download].map(|role| home.start(role));
    let [database, web, download] = &machines;
    let (desk, stop) = (home.desk(), Arc::new(AtomicBool::new(false)));
    let mut loads = Vec::new();
    for _ in 0..4 {
        loads.push(load(&web.out, "database", login, &stop));
        loads.push(load(&download.out, "database", login_check, &stop));
    }
    while database.recorder.requests().len() < 50 {
        tokio::task::yield_now().await;
    }
    let newest = times + 1;
    for generation in 2..=newest {
        for (on, peer) in [("web", "database"), ("web", "download"), ("download", "database")] {
            let peer = Name::new(peer).unwrap();
            let reply = desk.call(on, Request::KeysRotate { peer }).await.unwrap();
            let Reply::Rotated { generation: now, .. } = &reply else { panic!("{on}: {reply:?}") };
            assert_eq!(*now, u64::from(generation));
        }
        for machine in ["web", "download", "database"] {
            let bag = rotation::rotate(&desk, machine).await.unwrap();
            assert_eq!(bag.generation(), generation);
        }
    }
    let before = database.recorder.requests().len();
    while database.recorder.requests().len() < before + 50 {
        tokio::task::yield_now().await;
    }
    stop.store(true, Ordering::Relaxed);
    let answered = AtomicUsize::new(0);
    for load in loads {
        answered.fetch_add(load.await.unwrap(), Ordering::Relaxed);
    }
    eprintln!("{} requests were answered", answered.into_inner());

    // Both ends hold the new generation and nothing else, and the operator can see and compare it.
    for (link, on) in [("web-database", "web"), ("web-download", "web"), ("download-database", "download")] {
        let (own, other) = link.split_once('-').unwrap();
        let (mine, its) = (checks(&desk, own).await, checks(&desk, other).await);
        let of = |checks: &[(String, String)]| -> Vec<_> {
            checks.iter().filter(|(name, _)| name.starts_with(&format!("bag-{link}-"))).cloned().collect()
        };
        assert_eq!(of(&mine), of(&its), "{on}");
        let [(name, detail)] = &of(&mine)[..] else { panic!("{mine:?}") };
        assert_eq!(*name, format!("bag-{link}-{newest}"));
        assert!(detail.starts_with(&format!("generation {newest}, fingerprint ")) && detail.ends_with("sealed"));
    }
    // What the machines came with opens nothing any more, neither now nor after a restart.
    let web = client(&site.web, [direct("database", home.ports(Role::Database))]);
    assert!(web.call("database", login("alice", "x")).await.is_err());
    let operator = client(&site.operator, [direct("database", home.ports(Role::Database))]);
    assert!(operator.call("database", Request::Status {}).await.is_err());
    for machine in machines {
        machine.trigger.fire();
        machine.task.await.unwrap();
    }
    for role in Role::ALL {
        let bags = home.keyring(role).current();
        assert!(bags.iter().all(|bag| bag.generation() == newest), "{bags:?}");
    }
    assert!(home.desk().keyring().current().iter().all(|bag| bag.generation() == newest));
}

#[tokio::test]
async fn a_rotation_that_was_cut_goes_on() {
    within(async {
        let site = site();
        let mut home = Home::new(&site).await;
        let database = home.start(Role::Database);
        let desk = home.desk();
        // Cut once the new keys were kept here; and once more when the machine had them too.
        let first = desk.keyring().current().of_peer("database").unwrap()[0].clone();
        let second = first.next().unwrap();
        desk.keyring().add(second.clone()).await.unwrap();
        desk.call("database", Request::Status {}).await.unwrap();
        let entries = rotation::entries(&second).unwrap();
        let renew = Request::BagRenew { generation: 2, entries: entries.clone() };
        assert_eq!(desk.call("database", renew).await.unwrap(), Reply::Done {});
        let used = rotation::rotate(&desk, "database").await.unwrap();
        assert!(*used == second);
        assert_eq!(generations(&home.keyring(Role::Database).current(), "alice-database"), [2]);

        // Neither a generation too far nor other keys for one that is there, nor keys that are none.
        let third = second.next().unwrap();
        let renewals = [
            (4, rotation::entries(&third).unwrap()),
            (2, rotation::entries(&third).unwrap()),
            (3, entries.iter().cloned().chain(entries.iter().cloned()).take(129).collect()),
            (u64::from(u32::MAX) + 3, rotation::entries(&third).unwrap()),
        ];
        for (generation, entries) in renewals {
            let reply = desk.call("database", Request::BagRenew { generation, entries }).await.unwrap();
            assert!(is_fault(&reply, Fault::Invalid), "{generation}: {reply:?}");
        }
        for generation in [2, 3, u64::MAX] {
            let reply = desk.call("database", Request::BagRetire { generation }).await.unwrap();
            assert!(is_fault(&reply, Fault::Denied), "only older ones: {reply:?}");
        }
        drop(database);
    })
    .await;
}

#[tokio::test]
async fn an_old_generation_is_not_given_up_before_the_new_one_has_run() {
    within(async {
        let site = site();
        let mut home = Home::new(&site).await;
        let _database = home.start(Role::Database);
        let old = client(&site.operator, [direct("database", home.ports(Role::Database))]);
        let second = site.operator.iter().find(|bag| bag.peer() == "database").unwrap().next().unwrap();
        let renew = Request::BagRenew { generation: 2, entries: rotation::entries(&second).unwrap() };
        assert_eq!(old.call("database", renew).await.unwrap(), Reply::Done {});
        let reply = old.call("database", Request::BagRetire { generation: 1 }).await.unwrap();
        assert!(is_fault(&reply, Fault::Denied), "{reply:?}");
        old.call("database", Request::Status {}).await.unwrap();
        // A third while two are in use would push one out.
        let third = second.next().unwrap();
        let renew = Request::BagRenew { generation: 3, entries: rotation::entries(&third).unwrap() };
        assert!(is_fault(&old.call("database", renew).await.unwrap(), Fault::Invalid));
    })
    .await;
}

#[tokio::test]
async fn only_one_end_renews() {
    within(async {
        let site = site();
        let mut home = Home::new(&site).await;
        let machines = [Role::Database, Role::Web, Role::Download].map(|role| home.start(role));
        let desk = home.desk();
        for (on, peer) in [("database", "web"), ("database", "download"), ("download", "web"), ("web", "nobody")] {
            let reply = desk.call(on, Request::KeysRotate { peer: Name::new(peer).unwrap() }).await.unwrap();
            assert!(is_fault(&reply, Fault::NotFound), "{on} {peer}: {reply:?}");
        }
        // Without its peer it is cut, both hold what they held, and it can be asked for again.
        let [database, web, download] = machines;
        database.trigger.fire();
        database.task.await.unwrap();
        let request = Request::KeysRotate { peer: Name::new("database").unwrap() };
        let reply = desk.call("web", request.clone()).await.unwrap();
        assert!(is_fault(&reply, Fault::Unavailable), "{reply:?}");
        assert_eq!(generations(&home.keyring(Role::Web).current(), "web-database"), [2, 1]);
        let at: Vec<u16> = home.ports(Role::Database).iter().collect();
        let mut again = Vec::new();
        for port in at {
            again.push(tokio::net::TcpListener::bind((LOOPBACK, port)).await.unwrap());
        }
        home.listeners.push((Role::Database, again));
        let _database = home.start(Role::Database);
        assert!(matches!(desk.call("web", request).await.unwrap(), Reply::Rotated { generation: 2, .. }));
        assert_eq!(generations(&home.keyring(Role::Database).current(), "web-database"), [2]);
        drop((web, download));
    })
    .await;
}

fn added(bag: &Bag, kind: BagKind, peer: &str) -> Request {
    Request::BagAdd {
        link: Name::new(bag.link()).unwrap(),
        kind,
        peer: Text::new(peer).unwrap(),
        generation: bag.generation().into(),
        entries: rotation::entries(bag).unwrap(),
    }
}

#[tokio::test]
async fn operators_come_and_go() {
    within(async {
        let site = site();
        let mut home = Home::new(&site).await;
        let database = home.start(Role::Database);
        let desk = home.desk();
        let bob = || Bag::pair("bob-database", LinkKind::Operator, ("operator:bob", "database"), 1).unwrap().0;
        let his = bob();
        let as_bob = |bag: &Bag| client(std::slice::from_ref(bag), [direct("database", home.ports(Role::Database))]);
        let add = added(&his, BagKind::Operator, "operator:bob");
        for _ in 0..2 {
            assert_eq!(desk.call("database", add.clone()).await.unwrap(), Reply::Done {});
        }
        let client = as_bob(&his);
        client.call("database", Request::CustomerList { offset: 0 }).await.unwrap();
        assert_eq!(database.recorder.requests()[0].0, "operator:bob");

        // Nobody revokes himself or a machine; what is not there is revoked already.
        for (link, expected) in [
            ("alice-database", Some(Fault::Invalid)),
            ("web-database", Some(Fault::Invalid)),
            ("carol-database", None),
            ("bob-database", None),
        ] {
            let revoke = Request::BagRevoke { link: Name::new(link).unwrap() };
            let reply = desk.call("database", revoke).await.unwrap();
            match expected {
                Some(fault) => assert!(is_fault(&reply, fault), "{link}: {reply:?}"),
                None => assert_eq!(reply, Reply::Done {}, "{link}"),
            }
        }
        assert!(client.call("database", Request::Status {}).await.is_err(), "also his session is over");
        assert!(home.keyring(Role::Database).current().of_link("bob-database").is_none(), "also after a restart");
        let again = desk.call("database", add).await.unwrap();
        assert!(is_fault(&again, Fault::Invalid), "the very keys that were revoked are not taken again: {again:?}");
        let new = bob();
        assert_eq!(
            desk.call("database", added(&new, BagKind::Operator, "operator:bob")).await.unwrap(),
            Reply::Done {}
        );
        as_bob(&new).call("database", Request::Status {}).await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn bags_that_a_machine_does_not_take() {
    within(async {
        let site = site();
        let mut home = Home::new(&site).await;
        let _database = home.start(Role::Database);
        let desk = home.desk();
        let bag = |link: &str, peer: &str| Bag::pair(link, LinkKind::Operator, (peer, "database"), 1).unwrap().0;
        for (what, request) in [
            ("a machine as an operator", added(&bag("bob-database", "bob"), BagKind::Operator, "bob")),
            ("an operator as a machine", added(&bag("x", "operator:bob"), BagKind::WebDatabase, "operator:bob")),
            ("a link that is not here", added(&bag("web-download", "web"), BagKind::WebDownload, "web")),
            ("a name that no greeting has", added(&bag("Bob", "operator:bob"), BagKind::Operator, "operator:bob")),
            ("a second link", added(&bag("alice-2", "operator:alice"), BagKind::Operator, "operator:alice")),
            ("oneself", added(&bag("bob-database", "database2"), BagKind::Operator, "database")),
        ] {
            let reply = desk.call("database", request).await.unwrap();
            assert!(is_fault(&reply, Fault::Invalid), "{what}: {reply:?}");
        }
        assert_eq!(std::fs::read_dir(home.path("database").join("state")).unwrap().count(), 0, "nothing was kept");
        let rotated = rotation::rotate(&desk, "nobody").await;
        assert!(matches!(rotated, Err(RotationError::Unknown(_))));
    })
    .await;
}

#[tokio::test]
async fn a_new_bag_for_a_pair_of_machines() {
    within(async {
        let site = site();
        let mut home = Home::new(&site).await;
        let machines = [Role::Database, Role::Web].map(|role| home.start(role));
        let desk = home.desk();
        // As for a machine whose keys were lost: both get a later generation from the operator, then the older ones go.
        let (a, b) = Bag::pair("web-database", LinkKind::WebDatabase, ("web", "database"), 5).unwrap();
        for (on, peer, bag) in [("web", "database", &a), ("database", "web", &b)] {
            assert_eq!(desk.call(on, added(bag, BagKind::WebDatabase, peer)).await.unwrap(), Reply::Done {});
        }
        let request = Request::KeysRotate { peer: Name::new("database").unwrap() };
        assert!(matches!(desk.call("web", request).await.unwrap(), Reply::Rotated { generation: 5, .. }));
        for role in [Role::Web, Role::Database] {
            assert_eq!(generations(&home.keyring(role).current(), "web-database"), [5]);
        }
        drop(machines);
    })
    .await;
}
