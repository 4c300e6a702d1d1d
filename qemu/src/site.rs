//! The topology of a site: three roles, two LAN segments, a public and a management side.
//!
//! ```text
//!  host 127.0.0.1 ── forwarded ports ──▶ public NIC of web and download        10.83.100.15, 10.83.101.15
//!                 ── commlink range ───▶ management NIC of each machine        10.83.200.15 … 10.83.202.15
//!  web 10.83.1.1 ══ segment ══ 10.83.1.2 download
//!  web 10.83.2.1 ══ segment ══ 10.83.2.2 database
//! ```
//!
//! There is no way from download to database, and from no machine to the world: their networks lead to the host's
//! forwarded ports and back, nowhere else.

use crate::machine::{Boot, Disk, Mac, Machine, Net, Nic, Segment, User};
use keys::site::{Address, Machine as Planned, Network, NetworkRole, Prefix, Role};
use std::net::Ipv4Addr;
use std::path::Path;

/// Memory of a machine, in MiB: the least that the appliances are made for.
pub const MEMORY: u32 = 1024;
/// Bits of the network in an address; all our networks are /24.
pub const PREFIX: u8 = 24;

/// What an interface is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Face {
    /// Customers.
    Public,
    /// The machine at the other end of the segment.
    Lan(Role),
    /// Operators.
    Management,
}

/// An interface of a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Interface {
    /// What it is for.
    pub face: Face,
    /// Its hardware address.
    pub mac: Mac,
    /// Its address.
    pub address: Ipv4Addr,
}

fn number(role: Role) -> u8 {
    match role {
        Role::Download => 0,
        Role::Web => 1,
        Role::Database => 2,
    }
}

/// The interfaces of a role.
pub fn interfaces(role: Role) -> Vec<Interface> {
    let n = number(role);
    let faces: &[(Face, [u8; 2])] = match role {
        Role::Download => &[(Face::Public, [100, 15]), (Face::Lan(Role::Web), [1, 2]), (Face::Management, [200, 15])],
        Role::Web => &[
            (Face::Public, [101, 15]),
            (Face::Lan(Role::Download), [1, 1]),
            (Face::Lan(Role::Database), [2, 1]),
            (Face::Management, [201, 15]),
        ],
        Role::Database => &[(Face::Lan(Role::Web), [2, 2]), (Face::Management, [202, 15])],
    };
    let mac = |index| Mac([0x52, 0x54, 0x00, 0x83, n, index]);
    let address = |[net, host]: [u8; 2]| Ipv4Addr::new(10, 83, net, host);
    (1..)
        .zip(faces)
        .map(|(index, (face, at))| Interface { face: *face, mac: mac(index), address: address(*at) })
        .collect()
}

/// The address at which the other machines reach a role, if any of them opens connections to it.
pub fn lan_address(role: Role) -> Ipv4Addr {
    let towards = if role == Role::Web { Role::Download } else { Role::Web };
    let mut all = interfaces(role).into_iter();
    all.find(|i| i.face == Face::Lan(towards)).expect("every role has a segment with it").address
}

/// How a machine of this role appears in the plan of a site in VMs: customers and operators reach it at the host's
/// 127.0.0.1, on the ports that are its own.
pub fn planned(role: Role) -> Planned {
    let network = |i: Interface| Network {
        interface: keys::site::Interface::Mac(i.mac.0),
        role: match i.face {
            Face::Public => NetworkRole::Public,
            Face::Lan(_) => NetworkRole::Lan,
            Face::Management => NetworkRole::Management,
        },
        address: Address::Static(Prefix { address: i.address.into(), length: PREFIX }),
        gateway: None,
    };
    let management = interfaces(role).into_iter().find(|i| i.face == Face::Management).expect("every role has one");
    let host = User::new(management.address).host();
    let at_host = || Some("127.0.0.1".to_owned());
    Planned {
        management: at_host(),
        public: (role != Role::Database).then(at_host).flatten(),
        operators_from: vec![Prefix { address: host.into(), length: 32 }],
        networks: interfaces(role).into_iter().map(network).collect(),
        ..Planned::new(role, &lan_address(role).to_string())
    }
}

/// The ports at which customers reach a machine: first and last of each range.
fn customers(planned: &Planned) -> Vec<(u16, u16)> {
    match planned.role {
        Role::Download => vec![(planned.ftp, planned.ftp), planned.passive],
        Role::Web => vec![(planned.https, planned.https)],
        Role::Database => Vec::new(),
    }
}

/// The name of an interface within its machine.
pub fn nic_name(face: Face) -> String {
    match face {
        Face::Public => "public".into(),
        Face::Lan(other) => format!("lan-{}", other.as_str()),
        Face::Management => "management".into(),
    }
}

/// The segment between web and another machine, with its sockets in this directory. Web has its first end.
pub fn segment(dir: &Path, other: Role) -> Segment {
    Segment::new(dir, &format!("web-{}", other.as_str()))
}

/// A machine of the site. Every port that the plan gives it leads from the host to the same port of the machine.
pub fn machine(planned: &Planned, dir: &Path, boot: Boot, disks: Vec<Disk>) -> Machine {
    let role = planned.role;
    let net = |interface: &Interface| match interface.face {
        Face::Public => {
            let user = User::new(interface.address);
            Net::User(customers(planned).into_iter().fold(user, User::forward))
        }
        Face::Management => Net::User(User::new(interface.address).forward(planned.ports)),
        Face::Lan(Role::Web) => Net::Segment(segment(dir, role).second()),
        Face::Lan(other) => Net::Segment(segment(dir, other).first()),
    };
    let nic = |i: &Interface| Nic { id: nic_name(i.face), mac: i.mac, net: net(i), capture: None };
    let nics = interfaces(role).iter().map(nic).collect();
    Machine { nics, disks, ..Machine::new(&planned.name, MEMORY, boot) }
}

/// The same machine with every interface on a wire of its own, whose other end is free for a station of ours.
pub fn on_wires(machine: &Machine, dir: &Path) -> Machine {
    let wired = |nic: &Nic| Nic { net: Net::Wire(wire(dir, &machine.name, &nic.id).first()), ..nic.clone() };
    Machine { nics: machine.nics.iter().map(wired).collect(), ..machine.clone() }
}

/// The wire of one interface of a machine that is [`on_wires`]; the second end is free.
pub fn wire(dir: &Path, machine: &str, nic: &str) -> Segment {
    Segment::new(dir, &format!("{machine}.{nic}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use keys::site::Plan;
    use std::collections::BTreeSet;

    fn site() -> Vec<Machine> {
        let boot = Boot::Rom("/rom".into());
        Role::ALL.map(|role| machine(&planned(role), Path::new("/run/x"), boot.clone(), Vec::new())).to_vec()
    }

    #[test]
    fn addresses_are_unique() {
        let all: Vec<Interface> = Role::ALL.iter().flat_map(|role| interfaces(*role)).collect();
        assert_eq!(all.iter().map(|i| i.mac.0).collect::<BTreeSet<_>>().len(), all.len());
        assert_eq!(all.iter().map(|i| i.address).collect::<BTreeSet<_>>().len(), all.len());
        // Two interfaces of one machine in one network would be one too many.
        for role in Role::ALL {
            let nets: BTreeSet<u8> = interfaces(role).iter().map(|i| i.address.octets()[2]).collect();
            assert_eq!(nets.len(), interfaces(role).len());
        }
        assert_eq!(lan_address(Role::Web), Ipv4Addr::new(10, 83, 1, 1));
    }

    #[test]
    fn the_plan_is_one() {
        let plan = Plan {
            name: "vms".into(),
            operators: vec!["operator".into()],
            time: Vec::new(),
            machines: Role::ALL.map(planned).to_vec(),
        };
        let dir = tempfile::tempdir().unwrap();
        plan.create(&dir.path().join("site")).unwrap();
        let [download, web, database] = &plan.machines[..] else { panic!() };
        let seen = |a: &Planned, b: &Planned| a.address_seen_by(b).map(|a| a.to_string());
        assert_eq!(seen(web, download).as_deref(), Some("10.83.1.1"));
        assert_eq!(seen(download, web).as_deref(), Some("10.83.1.2"));
        assert_eq!(seen(database, web).as_deref(), Some("10.83.2.2"));
        assert_eq!(database.operators_from[0].to_string(), "10.83.202.2/32");
        assert_eq!((web.operators_host(), web.public.as_deref()), ("127.0.0.1", Some("127.0.0.1")));
    }

    #[test]
    fn two_segments_have_two_ends_each_and_nothing_leads_elsewhere() {
        let mut ends = Vec::new();
        for machine in site() {
            for nic in machine.nics {
                match nic.net {
                    Net::Segment(end) | Net::Wire(end) => ends.push((machine.name.clone(), end)),
                    Net::User(user) => assert!(!user.outbound),
                }
            }
        }
        let pairs: BTreeSet<(&str, &str)> = ends
            .iter()
            .flat_map(|(a, x)| ends.iter().filter(|(_, y)| x.local == y.remote).map(|(b, _)| (a.as_str(), b.as_str())))
            .collect();
        let expected = [("web", "download"), ("download", "web"), ("web", "database"), ("database", "web")];
        assert_eq!(pairs, expected.into());
        assert_eq!(ends.len(), 4);
    }

    #[test]
    fn the_management_side_has_the_commlink_and_nothing_else() {
        for machine in site() {
            let nic = machine.nics.iter().find(|nic| nic.id == "management").unwrap();
            let Net::User(user) = &nic.net else { panic!("not to the host") };
            assert_eq!(user.forwards.len(), 16);
            let public = machine.nics.iter().filter(|nic| nic.id == "public").count();
            assert_eq!(public, usize::from(machine.name != "database"));
        }
    }
}
