//! The configuration of each daemon.

use super::{CHAIN, Daemon, KEY, Layout, SetupError, with_port};
use keys::site::{AUTHORITY, Machine, Plan, Role};
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use toml::{Table, Value};

/// The files of a machine's folder that a daemon needs; commlinkd needs the bags instead.
pub fn parts(daemon: Daemon) -> &'static [&'static str] {
    match daemon {
        Daemon::Commlinkd | Daemon::Admind => &[],
        Daemon::Masterd => &["grant.secret"],
        Daemon::Portald | Daemon::Ftpd => &[CHAIN, KEY],
        Daemon::Stagerd => &["grant.public"],
    }
}

/// The configuration of one daemon of a machine.
///
/// # Errors
/// [`SetupError::Address`], [`SetupError::Machine`].
pub fn config(layout: &dyn Layout, plan: &Plan, machine: &Machine, daemon: Daemon) -> Result<Table, SetupError> {
    let new = New { layout, plan, machine };
    match daemon {
        Daemon::Commlinkd => new.commlinkd(),
        Daemon::Admind => Ok(new.admind()),
        Daemon::Masterd => new.masterd(),
        Daemon::Portald => new.portald(),
        Daemon::Stagerd => new.stagerd(),
        Daemon::Ftpd => Ok(new.ftpd()),
    }
}

struct New<'a> {
    layout: &'a dyn Layout,
    plan: &'a Plan,
    machine: &'a Machine,
}

fn path(path: impl AsRef<Path>) -> Value {
    Value::String(path.as_ref().to_string_lossy().into_owned())
}

fn numbers<N: Into<i64>>(numbers: impl IntoIterator<Item = N>) -> Value {
    Value::Array(numbers.into_iter().map(|n| Value::Integer(n.into())).collect())
}

fn range(ports: (u16, u16)) -> Value {
    numbers([ports.0, ports.1])
}

fn table<const N: usize>(entries: [(&str, Value); N]) -> Table {
    entries.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
}

impl New<'_> {
    fn role(&self, role: Role) -> Result<&Machine, SetupError> {
        let found = self.plan.machines.iter().find(|m| m.role == role);
        found.ok_or_else(|| SetupError::Machine(role.as_str().to_owned()))
    }

    fn only_commlinkd(&self) -> Value {
        numbers([self.layout.uid(Daemon::Commlinkd)])
    }

    fn key(&self, daemon: Daemon, file: &str) -> Value {
        path(self.layout.key(daemon, file))
    }

    fn commlinkd(&self) -> Result<Table, SetupError> {
        let Self { layout, plan, machine } = self;
        let main = Daemon::main_of(machine.role);
        let listen = layout.commlink(machine).iter().map(|a| Value::String(a.to_string())).collect();
        let mut out = table([
            ("name", machine.name.clone().into()),
            ("role", machine.role.as_str().into()),
            ("listen", Value::Array(listen)),
            ("ports", range(machine.ports)),
            ("bags", path(layout.bags())),
            ("socket", path(layout.socket(Daemon::Commlinkd))),
            ("allow_uids", numbers([layout.uid(main)])),
        ]);
        let behind = [main].into_iter().chain(layout.has_admind().then_some(Daemon::Admind));
        let backends = behind.map(|daemon| {
            let place = table([("socket", path(layout.socket(daemon))), ("uid", i64::from(layout.uid(daemon)).into())]);
            (daemon.as_str().to_owned(), place.into())
        });
        out.insert("backends".into(), Value::Table(backends.collect()));
        let mut peers = Vec::new();
        for other in &plan.machines {
            let via = match (machine.role, other.role) {
                (Role::Web, Role::Download | Role::Database) | (Role::Download, Role::Web) => None,
                (Role::Download, Role::Database) => Some(self.role(Role::Web)?),
                _ => continue,
            };
            let mut peer = table([("name", other.name.clone().into())]);
            match via {
                Some(web) => peer.insert("via".into(), web.name.clone().into()),
                None => {
                    let missing = || SetupError::Address { of: other.name.clone(), seen_by: machine.name.clone() };
                    let host = layout.host(other, machine).ok_or_else(missing)?;
                    peer.insert("ports".into(), range(other.ports));
                    peer.insert("host".into(), host.into())
                }
            };
            peers.push(Value::from(peer));
        }
        if machine.role == Role::Web {
            out.insert("relay".into(), self.role(Role::Database)?.name.clone().into());
        }
        if !peers.is_empty() {
            out.insert("peers".into(), peers.into());
        }
        Ok(out)
    }

    fn admind(&self) -> Table {
        let mut out = table([
            ("name", self.machine.name.clone().into()),
            ("role", self.machine.role.as_str().into()),
            ("socket", path(self.layout.socket(Daemon::Admind))),
            ("allow_uids", self.only_commlinkd()),
        ]);
        if let Some(&daemon) = Daemon::of(self.machine.role).iter().find(|daemon| parts(**daemon).contains(&CHAIN)) {
            let tls = table([
                ("certificate", self.key(daemon, CHAIN)),
                ("key", self.key(daemon, KEY)),
                ("uid", i64::from(self.layout.uid(daemon)).into()),
                ("renewed", path(self.layout.renewed())),
                ("fingerprint", path(self.layout.fingerprint())),
            ]);
            out.insert("tls".into(), tls.into());
        }
        out
    }

    fn masterd(&self) -> Result<Table, SetupError> {
        Ok(table([
            ("name", self.machine.name.clone().into()),
            ("store", path(self.layout.data(Daemon::Masterd).join("master.redb"))),
            ("socket", path(self.layout.socket(Daemon::Masterd))),
            ("allow_uids", self.only_commlinkd()),
            ("grant_key", self.key(Daemon::Masterd, "grant.secret")),
            ("web", self.role(Role::Web)?.name.clone().into()),
        ]))
    }

    /// What the plan wants of ftp: of the sessions of a customer, which stagerd counts over all daemons, or of the rest.
    fn ftp_rules(&self, of_customers: bool) -> Table {
        let rules = self.machine.ftp_rules.as_ref().map(Table::try_from);
        let rules = rules.and_then(Result::ok).unwrap_or_default(); // numbers and yes or no are a table
        rules.into_iter().filter(|(key, _)| key.contains("customer") == of_customers).collect()
    }

    fn stagerd(&self) -> Result<Table, SetupError> {
        let mut out = self.ftp_rules(true);
        out.extend(table([
            ("name", self.machine.name.clone().into()),
            ("root", path(self.layout.data(Daemon::Stagerd))),
            ("socket", path(self.layout.socket(Daemon::Stagerd))),
            ("allow_uids", self.only_commlinkd()),
            ("sessions", path(self.layout.sessions())),
            ("session_uids", numbers([self.layout.uid(Daemon::Ftpd)])),
            ("commlink", path(self.layout.socket(Daemon::Commlinkd))),
            ("database", self.role(Role::Database)?.name.clone().into()),
            ("grant_key", self.key(Daemon::Stagerd, "grant.public")),
        ]));
        Ok(out)
    }

    fn ftpd(&self) -> Table {
        let mut out = table([
            ("listen", with_port(&self.layout.customers(), self.machine.ftp).into()),
            ("passive_ports", range(self.machine.passive)),
            ("cert", self.key(Daemon::Ftpd, CHAIN)),
            ("key", self.key(Daemon::Ftpd, KEY)),
            ("sessions", path(self.layout.sessions())),
        ]);
        out.extend(self.ftp_rules(false));
        // PASV has room for an IPv4 address and nothing else (RFC 959).
        if let Some(public) = self.machine.public_ipv4() {
            out.insert("public_address".into(), public.to_string().into());
        }
        if let Some(metrics) = self.machine.metrics() {
            out.insert("metrics".into(), metrics.to_string().into());
        }
        out
    }

    fn portald(&self) -> Result<Table, SetupError> {
        // Its IPv6 listeners take IPv4 too: two wildcards would collide.
        let mut addresses = self.layout.customers();
        if addresses.contains(&IpAddr::V6(std::net::Ipv6Addr::UNSPECIFIED)) {
            addresses.retain(|a| *a != IpAddr::V4(Ipv4Addr::UNSPECIFIED));
        }
        let mut downloads = Table::new();
        for download in self.plan.machines.iter().filter(|m| m.role == Role::Download) {
            let mut entry = table([
                ("host", download.customers_host().into()),
                ("port", i64::from(download.ftp).into()),
                ("tls", true.into()),
            ]);
            if download.ftp_rules.as_ref().and_then(|rules| rules.require_tls) == Some(true) {
                entry.insert("require_tls".into(), true.into());
            }
            if !download.public_certificate {
                entry.insert("ca_hint".into(), AUTHORITY.into());
            }
            downloads.insert(download.name.clone(), entry.into());
        }
        let mut out = table([
            ("name", self.machine.name.clone().into()),
            ("listen", with_port(&addresses, self.machine.https).into()),
            ("cert", self.key(Daemon::Portald, CHAIN)),
            ("key", self.key(Daemon::Portald, KEY)),
            ("commlink", path(self.layout.socket(Daemon::Commlinkd))),
            ("socket", path(self.layout.socket(Daemon::Portald))),
            ("allow_uids", self.only_commlinkd()),
            ("database", self.role(Role::Database)?.name.clone().into()),
            ("downloads", downloads.into()),
        ]);
        if let Some(authority) = &self.machine.authority {
            out.insert("authority".into(), authority.clone().into());
        }
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use super::super::Appliance;
    use super::*;
    use keys::site::FtpRules;

    /// What the portal is told of a site with one download machine like this.
    fn portal(change: impl FnOnce(&mut Machine, &mut Machine)) -> Table {
        let mut machines = [("10.0.0.1", Role::Web), ("10.0.0.2", Role::Database), ("10.0.0.3", Role::Download)]
            .map(|(host, role)| Machine::new(role, host));
        let [web, _, download] = &mut machines;
        change(web, download);
        let plan =
            Plan { name: "test".into(), operators: vec!["ann".into()], time: vec![], machines: machines.to_vec() };
        config(&Appliance, &plan, &machines[0], Daemon::Portald).unwrap()
    }

    #[test]
    fn the_portal_knows_what_its_links_are_to_say() {
        let of = |table: &Table, key: &str| table["downloads"]["download"].get(key).cloned();
        let plain = portal(|_, _| {});
        assert_eq!((of(&plain, "ca_hint"), of(&plain, "require_tls")), (Some("ca.pem".into()), None));
        assert!(!plain.contains_key("authority"), "of a folder that was made before there was one");
        let rules = |require_tls| Some(FtpRules { require_tls, ..FtpRules::default() });
        let strict = portal(|_, download| download.ftp_rules = rules(Some(true)));
        assert_eq!(of(&strict, "require_tls"), Some(true.into()));
        for loose in [Some(false), None] {
            assert_eq!(of(&portal(|_, download| download.ftp_rules = rules(loose)), "require_tls"), None);
        }
        let public = portal(|_, download| download.public_certificate = true);
        assert_eq!((of(&public, "ca_hint"), of(&public, "tls")), (None, Some(true.into())));
        let own = portal(|web, _| web.authority = Some("the certificate".into()));
        assert_eq!(own["authority"].as_str(), Some("the certificate"));
    }
}
