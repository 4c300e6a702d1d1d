//! Networks of a machine.

use super::{Args, plain, socket, text};
use crate::Error;
use std::fmt;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

/// Most forwarded ports of one interface: QEMU gets each as some 45 bytes of one argument, which Linux limits to 128 KiB.
pub const MAX_FORWARDS: usize = 2048;
/// What the path of a [`Net::Segment`]'s second socket has more than that of its first.
pub(super) const SINK: &str = ".sink";

/// A hardware address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Mac(pub [u8; 6]);

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// A network interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Nic {
    /// Its name within the machine.
    pub id: String,
    /// Its hardware address.
    pub mac: Mac,
    /// What it is plugged into.
    pub net: Net,
    /// A file that gets all that passes (pcap), from the start.
    pub capture: Option<PathBuf>,
}

/// What an interface is plugged into.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Net {
    /// One end of a segment. The other end never waits for the machine: what it does not take is kept for it, or dropped in the end.
    Segment(End),
    /// One end of a segment whose other end waits for the machine to take each frame: for a station of ours that sends many.
    Wire(End),
    /// QEMU's own network, with an address translation to the host.
    User(User),
}

/// A LAN segment between two stations. Each end is a datagram socket, so that no end has to be there first, and an end that
/// starts again is found again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    first: PathBuf,
    second: PathBuf,
}

/// One end of a segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct End {
    /// The socket of this end.
    pub local: PathBuf,
    /// The socket of the other end.
    pub remote: PathBuf,
}

impl Segment {
    /// A segment whose sockets are in this directory.
    pub fn new(dir: &Path, name: &str) -> Self {
        Self { first: dir.join(format!("{name}.0")), second: dir.join(format!("{name}.1")) }
    }

    /// The end of one station.
    pub fn first(&self) -> End {
        End { local: self.first.clone(), remote: self.second.clone() }
    }

    /// The end of the other station.
    pub fn second(&self) -> End {
        End { local: self.second.clone(), remote: self.first.clone() }
    }
}

/// QEMU's own network: a /24 in which the host is .2.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// The address of the machine, which gives itself or asks for by DHCP; the network is its /24.
    pub guest: Ipv4Addr,
    /// Whether the machine can reach the host and the world. Forwarded ports work without.
    pub outbound: bool,
    /// TCP ports of the host's 127.0.0.1 that lead to ports of the machine.
    pub forwards: Vec<Forward>,
}

/// A port of the host's 127.0.0.1 that leads to a port of the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Forward {
    /// The host's.
    pub host: u16,
    /// The machine's.
    pub guest: u16,
}

impl User {
    /// A network from which nothing leads out.
    pub fn new(guest: Ipv4Addr) -> Self {
        Self { guest, outbound: false, forwards: Vec::new() }
    }

    /// Forwards all of a range of ports to the same ports.
    #[must_use]
    pub fn forward(mut self, (first, last): (u16, u16)) -> Self {
        self.forwards.extend((first..=last).map(|port| Forward { host: port, guest: port }));
        self
    }

    /// The address under which the machine sees the host: forwarded connections come from there.
    pub fn host(&self) -> Ipv4Addr {
        let [a, b, c, _] = self.guest.octets();
        Ipv4Addr::new(a, b, c, 2)
    }
}

impl Nic {
    pub(super) fn args(&self, slot: usize, args: &mut Args) -> Result<(), Error> {
        plain(&self.id)?;
        let id = &self.id;
        match &self.net {
            // QEMU reads no frame that nobody takes, and a QEMU whose frame is not read tries to send it again and again, as fast as
            // it can: while one machine starts, the other would have a processor's time for that. So the frames go to a hub, one
            // port of which takes everything.
            Net::Segment(end) => {
                for (name, end) in [("end", end), ("sink", &end.sink())] {
                    args.flag("-netdev", end.netdev(&format!("{name}-{id}"))?);
                    args.flag("-netdev", format!("hubport,id=hub-{name}-{id},hubid={slot},netdev={name}-{id}"));
                }
                args.flag("-netdev", format!("hubport,id={id},hubid={slot}"));
            }
            Net::Wire(end) => args.flag("-netdev", end.netdev(id)?),
            Net::User(user) => args.flag("-netdev", user.netdev(id)?),
        }
        args.flag("-device", format!("virtio-net-pci,id=dev-{id},netdev={id},mac={}", self.mac));
        if let Some(capture) = &self.capture {
            args.with_path("-object", &format!("filter-dump,id=dump-{id},netdev={id},file="), capture, "")?;
        }
        Ok(())
    }
}

impl End {
    /// An end from which nothing comes, and where everything gets lost: what is there is no socket.
    fn sink(&self) -> Self {
        let mut local = self.local.clone().into_os_string();
        local.push(SINK);
        Self { local: local.into(), remote: "/dev/null".into() }
    }

    fn netdev(&self, id: &str) -> Result<String, Error> {
        let path = |p| Ok::<_, Error>(text(socket(p)?)?.replace(',', ",,"));
        let (local, remote) = (path(&self.local)?, path(&self.remote)?);
        Ok(format!("dgram,id={id},local.type=unix,local.path={local},remote.type=unix,remote.path={remote}"))
    }
}

impl User {
    fn netdev(&self, id: &str) -> Result<String, Error> {
        if self.forwards.len() > MAX_FORWARDS {
            let why = format!("{id} forwards {} ports, but at most {MAX_FORWARDS} can be", self.forwards.len());
            return Err(Error::Description(why));
        }
        let [a, b, c, last] = self.guest.octets();
        // .2 is the host, .3 its name server; from .4 the machine may ask for its address.
        if !(4..=239).contains(&last) {
            return Err(Error::Description(format!("{} is not between .4 and .239", self.guest)));
        }
        let restrict = if self.outbound { "off" } else { "on" };
        let mut netdev = format!(
            "user,id={id},net={a}.{b}.{c}.0/24,host={},dhcpstart={},ipv6=off,restrict={restrict}",
            self.host(),
            self.guest
        );
        for Forward { host, guest } in &self.forwards {
            netdev.push_str(&format!(",hostfwd=tcp:127.0.0.1:{host}-{}:{guest}", self.guest));
        }
        Ok(netdev)
    }
}
