//! Free ports for daemons on loopback.

use anyhow::{Result, bail};
use keys::site::{Machine, Role};
use std::collections::BTreeSet;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::ops::Range;

/// Below the ports that Linux gives to outgoing connections, so that none of these takes one of ours.
const RANGE: Range<u16> = 20_000..32_000;

/// Hands out ports that nobody listens on now.
#[derive(Debug, Default)]
pub(crate) struct Ports(BTreeSet<u16>);

impl Ports {
    /// Gives a machine ports that are free on this host, in place of the usual ones; so many of them for data connections of ftp.
    pub(crate) fn assign(&mut self, machine: &mut Machine, passive: u16) -> Result<()> {
        machine.ports = self.take(keys::site::PORTS)?;
        match machine.role {
            Role::Web => machine.https = self.take(1)?.0,
            Role::Download => (machine.ftp, machine.passive) = (self.take(1)?.0, self.take(passive)?),
            Role::Database => {}
        }
        Ok(())
    }

    /// A run of `n` ports, free on 127.0.0.1 and ::1.
    pub(crate) fn take(&mut self, n: u16) -> Result<(u16, u16)> {
        let span = u32::from(RANGE.end - RANGE.start - n);
        for _ in 0..200 {
            let first = RANGE.start + u16::try_from(getrandom::u32()? % span)?;
            let run = first..first + n;
            if run.clone().all(|port| !self.0.contains(&port) && free(port)) {
                self.0.extend(run);
                return Ok((first, first + n - 1));
            }
        }
        bail!("no {n} free ports in a row between {} and {}", RANGE.start, RANGE.end);
    }
}

fn free(port: u16) -> bool {
    let bound = |address: SocketAddr| match TcpListener::bind(address) {
        Ok(_) => true,
        Err(e) => e.kind() != std::io::ErrorKind::AddrInUse,
    };
    bound((Ipv4Addr::LOCALHOST, port).into()) && bound((Ipv6Addr::LOCALHOST, port).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_do_not_overlap() {
        let mut ports = Ports::default();
        let (a, b) = (ports.take(16).unwrap(), ports.take(16).unwrap());
        assert!(a.1 - a.0 == 15 && (a.1 < b.0 || b.1 < a.0));
    }
}
