//! The public address of PASV, where the configuration gives a name for it.
//!
//! Asking for a name may take long, and the forker must not wait: a process asks, and tells by a pipe. The address that is known
//! stays in use until there is another.

use super::child::{Side, exit, fork};
use crate::session::Public;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags};
use nix::unistd::pipe2;
use std::fs::File;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, ToSocketAddrs};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

/// How often a name is asked for.
pub(super) const EVERY: Duration = Duration::from_secs(300);

/// The address and how it is kept up to date.
pub(super) struct Resolver {
    name: Option<String>,
    known: Public,
    answer: Option<File>,
    next: Option<Instant>,
}

impl Resolver {
    /// For what the configuration says: nothing, an address or a name.
    pub(super) fn new(configured: Option<&str>) -> Self {
        let (name, known) = match configured.map(|text| (text, text.parse())) {
            None => (None, Public::Local),
            Some((_, Ok(address))) => (None, Public::At(address)),
            Some((name, Err(_))) => (Some(name.to_owned()), Public::Unknown),
        };
        let next = name.as_ref().map(|_| Instant::now());
        Self { name, known, answer: None, next }
    }

    /// What is known now.
    pub(super) fn known(&self) -> Public {
        self.known
    }

    /// Takes over what another knew, if it is for the same name.
    pub(super) fn after(mut self, before: &Self) -> Self {
        if self.name.is_some() && self.name == before.name {
            self.known = before.known;
        }
        self
    }

    /// What is to be waited for.
    pub(super) fn fd(&self) -> Option<PollFd<'_>> {
        self.answer.as_ref().map(|answer| PollFd::new(answer.as_fd(), PollFlags::POLLIN))
    }

    /// When there is something to do even if nothing happens.
    pub(super) fn until(&self) -> Option<Instant> {
        self.next.filter(|_| self.answer.is_none())
    }

    /// Takes an answer, asks when it is time.
    pub(super) fn work(&mut self) {
        if let Some(answer) = &mut self.answer {
            let mut octets = [0; 4];
            match answer.read(&mut octets) {
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return,
                Ok(4) => {
                    let now = Public::At(Ipv4Addr::from(octets));
                    if self.known != now {
                        tracing::info!(name = self.name, address = %Ipv4Addr::from(octets), "the public address");
                    }
                    self.known = now;
                }
                _ => tracing::error!(
                    name = self.name,
                    "the name of the public address has no IPv4 address now; PASV answers as before, or by 425"
                ),
            }
            self.answer = None;
        }
        if let (Some(name), Some(next)) = (&self.name, self.next)
            && next <= Instant::now()
        {
            self.next = Some(Instant::now() + EVERY);
            self.answer = ask(name);
        }
    }
}

fn ask(name: &str) -> Option<File> {
    let (read, write) = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK).ok()?;
    match fork() {
        Ok(Side::Child { .. }) => {
            let addresses = (name, 0).to_socket_addrs().map(Vec::from_iter).unwrap_or_default();
            let four = |address: SocketAddr| match address {
                SocketAddr::V4(four) => Some(*four.ip()),
                SocketAddr::V6(_) => None,
            };
            let told = addresses.into_iter().find_map(four).map(|four| File::from(write).write_all(&four.octets()));
            exit(if matches!(told, Some(Ok(()))) { 0 } else { super::child::FAILED })
        }
        Ok(Side::Parent(_)) => Some(read.into()),
        Err(errno) => {
            tracing::error!(error = %errno, "no process to ask for the public address");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_needs_no_question() {
        let mut local = Resolver::new(None);
        let mut fixed = Resolver::new(Some("192.0.2.9"));
        for resolver in [&mut local, &mut fixed] {
            resolver.work();
            assert!(resolver.fd().is_none() && resolver.until().is_none());
        }
        assert_eq!(local.known(), Public::Local);
        assert_eq!(fixed.known(), Public::At(Ipv4Addr::new(192, 0, 2, 9)));
        let named = Resolver::new(Some("ftp.example"));
        assert_eq!(named.known(), Public::Unknown);
        let mut known = Resolver::new(Some("ftp.example"));
        known.known = Public::At(Ipv4Addr::LOCALHOST);
        assert_eq!(Resolver::new(Some("ftp.example")).after(&known).known(), known.known());
        assert_eq!(Resolver::new(Some("other.example")).after(&known).known(), Public::Unknown);
    }
}
