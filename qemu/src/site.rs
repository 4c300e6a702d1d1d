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
use keys::site::Role;
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

/// The network that the operators' connections come from, as a machine sees it.
pub fn operators(role: Role) -> String {
    let all = interfaces(role);
    let management = all.iter().find(|i| i.face == Face::Management).expect("every role has one");
    format!("{}/32", User::new(management.address).host())
}

/// Ports that lead from the host to the same ports of a machine.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ports {
    /// The commlink's range, on the management side.
    pub commlink: (u16, u16),
    /// What customers reach, on the public side: first and last of each range.
    pub public: Vec<(u16, u16)>,
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

/// A machine of the site.
pub fn machine(role: Role, dir: &Path, boot: Boot, disks: Vec<Disk>, ports: &Ports) -> Machine {
    let net = |interface: &Interface| match interface.face {
        Face::Public => {
            let user = User::new(interface.address);
            Net::User(ports.public.iter().fold(user, |user, range| user.forward(*range)))
        }
        Face::Management => Net::User(User::new(interface.address).forward(ports.commlink)),
        Face::Lan(Role::Web) => Net::Segment(segment(dir, role).second()),
        Face::Lan(other) => Net::Segment(segment(dir, other).first()),
    };
    let nic = |i: &Interface| Nic { id: nic_name(i.face), mac: i.mac, net: net(i), capture: None };
    let nics = interfaces(role).iter().map(nic).collect();
    Machine { nics, disks, ..Machine::new(role.as_str(), MEMORY, boot) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn site() -> Vec<Machine> {
        let ports = Ports { commlink: (7640, 7655), public: vec![(2121, 2121), (50_000, 50_063)] };
        let boot = Boot::Rom("/rom".into());
        Role::ALL.map(|role| machine(role, Path::new("/run/x"), boot.clone(), Vec::new(), &ports)).to_vec()
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
        assert_eq!(operators(Role::Database), "10.83.202.2/32");
    }

    #[test]
    fn two_segments_have_two_ends_each_and_nothing_leads_elsewhere() {
        let mut ends = Vec::new();
        for machine in site() {
            for nic in machine.nics {
                match nic.net {
                    Net::Segment(end) => ends.push((machine.name.clone(), end)),
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
