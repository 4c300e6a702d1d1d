//! Networks: files for systemd-networkd (systemd.network(5)) and systemd-timesyncd.

use keys::site::{Address, Interface, Machine, Network, NetworkRole, Plan, Prefix};
use std::fmt::Write;
use std::net::IpAddr;

/// The group of interfaces that networks of this role get; the firewall tells interfaces apart by it, whatever they are called.
/// Until networkd has given one, an interface is in group 0 and has no rule.
pub(super) fn group(role: NetworkRole) -> u32 {
    match role {
        NetworkRole::Public => 1,
        NetworkRole::Lan => 2,
        NetworkRole::Management => 3,
    }
}

/// What all interfaces have. Addresses stay when a cable is pulled, so that listeners and connections survive it.
const COMMON: &str = "LLDP=no\nEmitLLDP=no\nLLMNR=no\nMulticastDNS=no\nIgnoreCarrierLoss=yes\n";

/// Where operators and other machines are found that are not on one of this machine's networks, with the network whose router knows the
/// way: the default route is that of customers, and answers that left by it would not arrive. On a machine of one network there is no
/// other way.
fn ways(plan: &Plan, machine: &Machine) -> Vec<(NetworkRole, Prefix)> {
    let has = |role| machine.networks.iter().any(|n| n.role == role);
    let operators = if has(NetworkRole::Management) { NetworkRole::Management } else { NetworkRole::Lan };
    let of_operators = machine.operators_from.iter().map(|from| (operators, from.network()));
    let others = plan.machines.iter().filter(|m| m.name != machine.name);
    let of_machines = others.filter_map(|m| Some((NetworkRole::Lan, m.address_seen_by(machine)?.into())));
    let far = |to: Prefix| {
        let near = |n: &Network| matches!(n.address, Address::Static(own) if own.contains(to));
        to.length > 0 && !machine.networks.iter().any(near)
    };
    let ways = of_operators.chain(of_machines).filter(|(_, to)| machine.networks.len() > 1 && far(*to));
    let mut all: Vec<(NetworkRole, Prefix)> = Vec::new();
    ways.for_each(|way| {
        if !all.contains(&way) {
            all.push(way)
        }
    });
    all
}

/// The routes of a network: the default one, if it has a router, and those ways that are its.
fn routes(network: &Network, ways: &[(NetworkRole, Prefix)]) -> String {
    let mut out = String::new();
    if let Some(gateway) = network.gateway {
        let _ = write!(out, "\n[Route]\nGateway={gateway}\nMetric={}\n", 100 * group(network.role));
    }
    for (_, to) in ways.iter().filter(|(role, _)| *role == network.role) {
        let gateway = match (network.address, network.gateway) {
            (Address::Dhcp, _) => Some(if to.address.is_ipv4() { "_dhcp4" } else { "_ipv6ra" }.to_owned()),
            (_, gateway) => gateway.filter(|g| g.is_ipv4() == to.address.is_ipv4()).map(|g| g.to_string()),
        };
        if let Some(gateway) = gateway {
            let _ = write!(out, "\n[Route]\nDestination={to}\nGateway={gateway}\n");
        }
    }
    out
}

/// The files, in the order of the plan.
pub(super) fn render(plan: &Plan, machine: &Machine) -> Vec<String> {
    if machine.networks.is_empty() {
        let link = "[Match]\nType=ether\n\n[Link]\nRequiredForOnline=no\n";
        return vec![format!("{link}\n[Network]\nDHCP=yes\n{COMMON}\n{}", dhcp(100))];
    }
    let ways = ways(plan, machine);
    let one = |network: &Network| {
        let interface = match &network.interface {
            Interface::Mac(_) => format!("MACAddress={}", network.interface),
            Interface::Name(_) => format!("Name={}", network.interface),
        };
        let group = group(network.role);
        // A pulled cable must not keep anything from starting.
        let mut out = format!("[Match]\nType=ether\n{interface}\n\n[Link]\nGroup={group}\nRequiredForOnline=no\n\n");
        out.push_str("[Network]\n");
        match network.address {
            Address::Dhcp => {
                let _ = write!(out, "DHCP=yes\n{COMMON}\n{}", dhcp(100 * group));
            }
            Address::Static(prefix) => {
                // No router of that network has a say in where packets go.
                let local = if prefix.address.is_ipv4() { "no" } else { "ipv6" };
                let _ = write!(out, "Address={prefix}\nDHCP=no\nIPv6AcceptRA=no\nLinkLocalAddressing={local}\n");
                let _ = write!(out, "ConfigureWithoutCarrier=yes\n{COMMON}");
            }
        }
        out + &routes(network, &ways)
    };
    machine.networks.iter().map(one).collect()
}

/// Only address and routes are taken from a DHCP server. The default route of customers goes before that of operators.
fn dhcp(metric: u32) -> String {
    let take = "UseDNS=no\nUseNTP=no\nUseDomains=no\nUseHostname=no\n";
    format!(
        "[DHCPv4]\nClientIdentifier=mac\nSendHostname=no\nRouteMetric={metric}\n{take}\n[DHCPv6]\n{take}\n[IPv6AcceptRA]\nRouteMetric={metric}\n"
    )
}

/// The drop-in of timesyncd.
pub(super) fn time(servers: &[IpAddr]) -> String {
    let servers: Vec<String> = servers.iter().map(IpAddr::to_string).collect();
    format!("[Time]\nNTP={}\nFallbackNTP=\n", servers.join(" "))
}
