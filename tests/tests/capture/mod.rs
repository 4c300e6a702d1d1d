//! What passes over loopback, put together to TCP streams (packet(7)).

use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, recv, setsockopt, socket, sockopt};
use nix::sys::time::{TimeVal, TimeValLike};
use std::collections::HashMap;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

/// One direction of one connection.
#[derive(Default)]
struct Flow {
    next: Option<u32>,
    bytes: Vec<u8>,
}

/// A capture that runs.
pub(crate) struct Capture {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Vec<Vec<u8>>>,
}

impl Capture {
    /// Starts to listen for TCP connections to or from ports that are wanted. Needs root.
    pub(crate) fn start(wanted: impl Fn(u16) -> bool + Send + 'static) -> Self {
        let all = SockProtocol::EthAll;
        let socket = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, all)
            .expect("listening needs root, if only in a user and network namespace");
        setsockopt(&socket, sockopt::RcvBufForce, &(64 << 20)).unwrap();
        setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::milliseconds(50)).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || {
            let mut flows: HashMap<(u16, u16), Flow> = HashMap::new();
            let mut frame = vec![0; 1 << 17];
            loop {
                match recv(socket.as_raw_fd(), &mut frame, nix::sys::socket::MsgFlags::empty()) {
                    Ok(n) => take(&frame[..n], &wanted, &mut flows),
                    // Nothing more came for a while: what was sent before the stop has been read.
                    Err(_) if stopped.load(Ordering::Relaxed) => break,
                    Err(_) => {}
                }
            }
            flows.into_values().map(|flow| flow.bytes).collect()
        });
        Self { stop, thread }
    }

    /// Ends it; the bytes of every direction of every connection.
    pub(crate) fn stop(self) -> Vec<Vec<u8>> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

/// Adds the payload of an Ethernet frame with TCP over IPv4; loopback shows each one twice.
fn take(frame: &[u8], wanted: &impl Fn(u16) -> bool, flows: &mut HashMap<(u16, u16), Flow>) {
    let Some(([.., 0x08, 0x00], ip)) = frame.split_at_checked(14) else { return };
    let header = usize::from(ip.first().copied().unwrap_or(0) & 15) * 4;
    let length = ip.get(2..4).map_or(0, |l| usize::from(u16::from_be_bytes([l[0], l[1]])));
    if ip.get(9) != Some(&6) || header < 20 {
        return;
    }
    // A length of zero is a frame that the kernel has not cut yet.
    let end = if length == 0 { ip.len() } else { length.min(ip.len()) };
    let Some(tcp) = ip.get(header..end).filter(|tcp| tcp.len() >= 20) else { return };
    let port = |at: usize| u16::from_be_bytes([tcp[at], tcp[at + 1]]);
    let (from, to) = (port(0), port(2));
    if !wanted(from) && !wanted(to) {
        return;
    }
    let sequence = u32::from_be_bytes([tcp[4], tcp[5], tcp[6], tcp[7]]);
    let payload = tcp.get(usize::from(tcp[12] >> 4) * 4..).unwrap_or_default();
    let flow = flows.entry((from, to)).or_default();
    let first = tcp[13] & 2 != 0;
    if first {
        // Ports that are used again would begin another stream here; the few connections of a test never come to that.
        let again = flow.next.is_some_and(|next| next != sequence.wrapping_add(1));
        assert!(!again || flow.bytes.is_empty(), "ports {from} and {to} were used again");
        flow.next = Some(sequence.wrapping_add(1));
    } else if !payload.is_empty() && flow.next.is_none_or(|next| next == sequence) {
        flow.bytes.extend_from_slice(payload);
        flow.next = Some(sequence.wrapping_add(u32::try_from(payload.len()).unwrap()));
    } else if !payload.is_empty() && flow.next.is_some_and(|next| sequence.wrapping_sub(next) < 1 << 31) {
        panic!("the capture has lost packets");
    }
}
