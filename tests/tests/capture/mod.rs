//! What passes over loopback (packet(7)).

use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, recv, setsockopt, socket, sockopt};
use nix::sys::time::{TimeVal, TimeValLike};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use tests::streams::Streams;

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
            let mut streams = Streams::default();
            let mut frame = vec![0; 1 << 17];
            loop {
                match recv(socket.as_raw_fd(), &mut frame, nix::sys::socket::MsgFlags::empty()) {
                    // Loopback shows each frame twice.
                    Ok(n) => streams.take(&frame[..n], |(_, port)| wanted(port)),
                    // Nothing more came for a while: what was sent before the stop has been read.
                    Err(_) if stopped.load(Ordering::Relaxed) => break,
                    Err(_) => {}
                }
            }
            streams.finish()
        });
        Self { stop, thread }
    }

    /// Ends it; the bytes of every direction of every connection.
    pub(crate) fn stop(self) -> Vec<Vec<u8>> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}
