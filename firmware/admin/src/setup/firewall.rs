//! The firewall: exactly the ports and peers of the machine's role, in and out; everything else is dropped.

use super::network::group;
use super::{Appliance, Daemon, Layout, SetupError, address};
use keys::site::{Address, Machine, NetworkRole, Plan, Prefix, Role};
use std::net::IpAddr;

/// Whence operators may come where the plan says neither that nor anything about networks: private and link-local addresses
/// (RFC 1918, RFC 3927, RFC 4193, RFC 4291).
const PRIVATE: &str = "ip saddr { 10.0.0.0/8, 172.16.0.0/12, 192.168.0.0/16, 169.254.0.0/16 }";
const PRIVATE6: &str = "ip6 saddr { fc00::/7, fe80::/10 }";

/// Errors that connections need, asking whether we are there (rarely), and what IPv6 needs to work at all (RFC 4890).
const ICMP_IN: &str = "icmp type { destination-unreachable, time-exceeded, parameter-problem } accept
        icmp type echo-request limit rate 20/second accept
        icmpv6 type { destination-unreachable, packet-too-big, time-exceeded, parameter-problem } accept
        icmpv6 type { nd-router-advert, nd-neighbor-solicit, nd-neighbor-advert, mld-listener-query } accept
        icmpv6 type echo-request limit rate 20/second accept";
const ICMP_OUT: &str = "icmpv6 type { nd-router-solicit, nd-neighbor-solicit, nd-neighbor-advert, mld-listener-report, mld2-listener-report } accept";

/// New connections to ftp or the portal: so many of one address, or of one subscriber of IPv6 (/64), in a second, and so many at once. Each
/// costs us more than whoever opens it.
const NEW_PER_SECOND: u32 = 20;
const NEW_AT_ONCE: u32 = 300;

/// Lets strangers in, each as often as it may. Of those that come while 65,536 others are kept in mind nothing is known, and they may.
fn strangers() -> String {
    let limit = format!("limit rate over {NEW_PER_SECOND}/second burst {NEW_AT_ONCE} packets");
    let set = |name: &str, kind: &str| {
        format!(
            "set {name} {{\n        type {kind}\n        size 65536\n        flags dynamic,timeout\n        timeout 1m\n    }}"
        )
    };
    format!(
        "{}

    {}

    chain strangers {{
        update @strangers4 {{ ip saddr {limit} }} counter drop
        update @strangers6 {{ ip6 saddr and ffff:ffff:ffff:ffff:: {limit} }} counter drop
        accept
    }}",
        set("strangers4", "ipv4_addr"),
        set("strangers6", "ipv6_addr"),
    )
}

/// `ip` or `ip6`, by the address.
fn family(address: IpAddr) -> &'static str {
    if address.is_ipv4() { "ip" } else { "ip6" }
}

/// The rule set of a machine, in the language of nft(8). It replaces whatever was loaded before in one step.
pub(super) fn render(plan: &Plan, machine: &Machine) -> Result<String, SetupError> {
    let rules = Rules { plan, machine };
    let (input, output) = (rules.input()?.join("\n        "), rules.output()?.join("\n        "));
    let strangers = if machine.role == Role::Database { String::new() } else { format!("    {}\n\n", strangers()) };
    Ok(format!(
        "flush ruleset

table inet ffs {{
{strangers}    chain input {{
        type filter hook input priority filter; policy drop;
        iif lo accept
        ct state established,related accept
        ct state invalid drop
        {ICMP_IN}
        {input}
        counter
    }}

    chain forward {{
        type filter hook forward priority filter; policy drop;
    }}

    chain output {{
        type filter hook output priority filter; policy drop;
        oif lo accept
        ct state established,related accept
        {ICMP_OUT}
        {output}
        counter
    }}
}}
"
    ))
}

struct Rules<'a> {
    plan: &'a Plan,
    machine: &'a Machine,
}

impl Rules<'_> {
    fn has(&self, role: NetworkRole) -> bool {
        self.machine.networks.iter().any(|n| n.role == role)
    }

    /// Only on networks of this role, if the machine has one; with a space behind.
    fn on(&self, role: NetworkRole) -> String {
        if self.has(role) { format!("iifgroup {} ", group(role)) } else { String::new() }
    }

    fn others(&self, roles: &[Role]) -> impl Iterator<Item = &Machine> {
        self.plan.machines.iter().filter(move |m| roles.contains(&m.role))
    }

    fn input(&self) -> Result<Vec<String>, SetupError> {
        let (mut rules, machine) = (Vec::new(), self.machine);
        let public = self.on(NetworkRole::Public);
        match machine.role {
            Role::Download => {
                rules.push(format!("{public}tcp dport {} jump strangers", machine.ftp));
                rules.push(format!("{public}tcp dport {}-{} accept", machine.passive.0, machine.passive.1));
            }
            Role::Web => rules.push(format!("{public}tcp dport {} jump strangers", machine.https)),
            Role::Database => {}
        }
        let callers: &[Role] = match machine.role {
            Role::Download | Role::Database => &[Role::Web],
            Role::Web => &[Role::Download],
        };
        let commlink = format!("tcp dport {}-{} accept", machine.ports.0, machine.ports.1);
        for caller in self.others(callers) {
            let from = address(caller, machine)?;
            rules.push(format!("{}{} saddr {from} {commlink}", self.on(NetworkRole::Lan), family(from)));
        }
        let operators = self.operators();
        rules.extend(operators.iter().map(|from| format!("{from}{commlink}")));
        if let Some(at) = machine.metrics() {
            let to = format!("{} daddr {} tcp dport {} accept", family(at.ip()), at.ip(), at.port());
            rules.extend(operators.iter().map(|from| format!("{from}{to}")));
        }
        for on in self.dhcp("iifgroup") {
            rules.push(format!("{on}udp sport 67 udp dport 68 accept"));
            rules.push(format!("{on}ip6 saddr fe80::/10 udp sport 547 udp dport 546 accept"));
        }
        Ok(rules)
    }

    /// Whence operators may come; each with a space behind, if there is a condition at all.
    fn operators(&self) -> Vec<String> {
        let machine = self.machine;
        let on = if self.has(NetworkRole::Management) {
            self.on(NetworkRole::Management)
        } else if machine.operators_from.is_empty() {
            if machine.networks.is_empty() {
                return vec![format!("{PRIVATE} "), format!("{PRIVATE6} ")];
            }
            // A machine that has customers only is not reached by operators at all.
            if !self.has(NetworkRole::Lan) {
                return Vec::new();
            }
            self.on(NetworkRole::Lan)
        } else {
            String::new()
        };
        if machine.operators_from.is_empty() {
            return vec![on];
        }
        let from = |p: &Prefix| format!("{on}{} saddr {} ", family(p.address), p.network());
        machine.operators_from.iter().map(from).collect()
    }

    fn output(&self) -> Result<Vec<String>, SetupError> {
        let (mut rules, machine) = (Vec::new(), self.machine);
        let called: &[Role] = match machine.role {
            Role::Download => &[Role::Web],
            Role::Web => &[Role::Download, Role::Database],
            Role::Database => &[],
        };
        let uid = Appliance.uid(Daemon::Commlinkd);
        for other in self.others(called) {
            let (to, ports) = (address(other, machine)?, other.ports);
            rules.push(format!("meta skuid {uid} {} daddr {to} tcp dport {}-{} accept", family(to), ports.0, ports.1));
        }
        for server in &self.plan.time {
            rules.push(format!("{} daddr {server} udp dport 123 accept", family(*server)));
        }
        for on in self.dhcp("oifgroup") {
            rules.push(format!("{on}udp sport 68 udp dport 67 accept"));
            rules.push(format!("{on}udp sport 546 udp dport 547 accept"));
        }
        Ok(rules)
    }

    /// The interfaces with addresses by DHCP.
    fn dhcp(&self, word: &str) -> Vec<String> {
        if self.machine.networks.is_empty() {
            return vec![String::new()];
        }
        let mut roles: Vec<NetworkRole> =
            self.machine.networks.iter().filter(|n| n.address == Address::Dhcp).map(|n| n.role).collect();
        roles.sort();
        roles.dedup();
        roles.into_iter().map(|role| format!("{word} {} ", group(role))).collect()
    }
}
