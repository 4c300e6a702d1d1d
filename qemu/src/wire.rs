//! A station of our own on a segment: what a stranger on the LAN finds, without a machine to find it with.

mod frame;

use crate::machine::{End, Mac};
use crate::{Error, Patience};
use frame::{Frame, Segment};
use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;
use std::net::Ipv4Addr;
use std::os::unix::net::UnixDatagram;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// How long to wait for one frame before another look at the deadline.
const MOMENT: Duration = Duration::from_millis(20);
/// How long nothing must come after the last probe until a pass over the ports is over.
const QUIET: Duration = Duration::from_millis(1500);
/// How often each port is tried that did not answer: frames may be lost.
const PASSES: usize = 2;
/// The port that we connect from.
const FROM: u16 = 40_000;

/// A station.
#[derive(Debug)]
pub struct Station {
    socket: UnixDatagram,
    end: End,
    mac: Mac,
    address: Ipv4Addr,
}

/// What the ports of a machine did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Scan {
    /// They accept connections.
    pub open: BTreeSet<u16>,
    /// They refuse them, which tells that the machine is there; all others are silent.
    pub refused: BTreeSet<u16>,
}

impl Station {
    /// Plugs in, in the place of the station that had this end.
    ///
    /// # Errors
    /// When the socket cannot be bound.
    pub fn attach(end: &End, mac: Mac, address: Ipv4Addr) -> Result<Self, Error> {
        let _ = fs::remove_file(&end.local);
        let socket = UnixDatagram::bind(&end.local).map_err(Error::io(&end.local))?;
        socket.set_read_timeout(Some(MOMENT)).map_err(Error::io(&end.local))?;
        Ok(Self { socket, end: end.clone(), mac, address })
    }

    fn send(&self, frame: &Frame) -> Result<(), Error> {
        match self.socket.send_to(&frame.encode(), &self.end.remote) {
            Ok(_) => Ok(()),
            // Nobody is there: as on a cable, the frame is gone.
            Err(e) if [ErrorKind::NotFound, ErrorKind::ConnectionRefused].contains(&e.kind()) => Ok(()),
            Err(e) => Err(Error::io(&self.end.remote)(e)),
        }
    }

    /// The next frame for us, if one comes within a moment; answers who asks where we are.
    fn receive(&self) -> Result<Option<Frame>, Error> {
        let mut bytes = [0; 1 << 16];
        match self.socket.recv(&mut bytes) {
            Ok(n) => {
                let frame = Frame::decode(&bytes[..n]);
                if let Some(Frame::ArpRequest { from, sender, target }) = frame
                    && target == self.address
                {
                    self.send(&Frame::ArpReply { from: self.mac, sender: self.address, to: from, target: sender })?;
                }
                Ok(frame)
            }
            Err(e) if [ErrorKind::WouldBlock, ErrorKind::TimedOut].contains(&e.kind()) => Ok(None),
            Err(e) => Err(Error::io(&self.end.local)(e)),
        }
    }

    /// Who has this address, if anybody says so.
    ///
    /// # Errors
    /// When the socket fails.
    pub fn resolve(&self, target: Ipv4Addr, patience: &Patience) -> Result<Option<Mac>, Error> {
        while patience.check().is_ok() {
            self.send(&Frame::ArpRequest { from: self.mac, sender: self.address, target })?;
            let answer = Patience::of(QUIET.min(patience.left()));
            while answer.check().is_ok() {
                match self.receive()? {
                    Some(Frame::ArpReply { from, sender, .. }) if sender == target => return Ok(Some(from)),
                    _ => {}
                }
            }
        }
        Ok(None)
    }

    /// Tries to connect to every TCP port of a machine on this segment (or behind one that is).
    ///
    /// # Errors
    /// When the socket fails, or it takes longer than there is patience.
    pub fn scan(&self, target: Ipv4Addr, mac: Mac, patience: &Patience) -> Result<Scan, Error> {
        let mut scan = Scan::default();
        for _ in 0..PASSES {
            let left = (1..=u16::MAX).filter(|p| !scan.open.contains(p) && !scan.refused.contains(p));
            let left: Vec<u16> = left.collect();
            scan = self.probe(target, mac, &left, scan, patience)?;
        }
        Ok(scan)
    }

    /// Tries to connect to these ports, once.
    ///
    /// # Errors
    /// When the socket fails, or it takes longer than there is patience.
    pub fn probe(
        &self,
        target: Ipv4Addr,
        mac: Mac,
        ports: &[u16],
        mut scan: Scan,
        patience: &Patience,
    ) -> Result<Scan, Error> {
        let sent = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let listener = scope.spawn(|| self.listen(target, mac, &mut scan, &sent));
            // The socket's queue slows us down to what the machine takes.
            let outcome = ports.iter().try_for_each(|port| {
                let waited = |waited| Error::Waited { what: format!("a look at the ports of {target}"), waited };
                patience.check().map_err(waited)?;
                self.send(&self.tcp(mac, target, *port, Segment::Syn))
            });
            sent.store(true, Ordering::SeqCst);
            let heard = listener.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            outcome.and(heard)
        })?;
        Ok(scan)
    }

    fn tcp(&self, mac: Mac, target: Ipv4Addr, port: u16, segment: Segment) -> Frame {
        Frame::Tcp { from: self.mac, to: mac, source: (self.address, FROM), target: (target, port), segment }
    }

    /// Takes what comes, until all was sent and nothing came for a while; hangs up on whoever accepted.
    fn listen(&self, target: Ipv4Addr, mac: Mac, scan: &mut Scan, sent: &AtomicBool) -> Result<(), Error> {
        let mut until = Patience::of(QUIET);
        loop {
            match self.receive()? {
                Some(Frame::Tcp { source, target: to, segment, .. }) if source.0 == target && to.1 == FROM => {
                    until = Patience::of(QUIET);
                    match segment {
                        Segment::SynAck => {
                            scan.open.insert(source.1);
                            self.send(&self.tcp(mac, target, source.1, Segment::Reset))?;
                        }
                        Segment::Reset => drop(scan.refused.insert(source.1)),
                        Segment::Syn | Segment::Other => {}
                    }
                }
                Some(_) => {}
                None if !sent.load(Ordering::SeqCst) => until = Patience::of(QUIET),
                None if until.check().is_err() => return Ok(()),
                None => {}
            }
        }
    }
}
