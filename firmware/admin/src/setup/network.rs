//! Networks: files for systemd-networkd (systemd.network(5)) and systemd-timesyncd.

use keys::site::{Address, Interface, Machine, NetworkRole};
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

/// The files, in the order of the plan.
pub(super) fn render(machine: &Machine) -> Vec<String> {
    if machine.networks.is_empty() {
        let link = "[Match]\nType=ether\n\n[Link]\nRequiredForOnline=no\n";
        return vec![format!("{link}\n[Network]\nDHCP=yes\n{COMMON}\n{}", dhcp(100))];
    }
    let one = |network: &keys::site::Network| {
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
                if let Some(gateway) = network.gateway {
                    let _ = writeln!(out, "Gateway={gateway}");
                }
                let _ = write!(out, "ConfigureWithoutCarrier=yes\n{COMMON}");
            }
        }
        out
    };
    machine.networks.iter().map(one).collect()
}

/// Only address and routes are taken from a DHCP server. The default route of customers goes before that of operators.
fn dhcp(metric: u32) -> String {
    let take = "UseDNS=no\nUseNTP=no\nUseDomains=no\nUseHostname=no\n";
    format!("[DHCPv4]\nClientIdentifier=mac\nSendHostname=no\nRouteMetric={metric}\n{take}\n[DHCPv6]\n{take}")
}

/// The drop-in of timesyncd.
pub(super) fn time(servers: &[IpAddr]) -> String {
    let servers: Vec<String> = servers.iter().map(IpAddr::to_string).collect();
    format!("[Time]\nNTP={}\nFallbackNTP=\n", servers.join(" "))
}
