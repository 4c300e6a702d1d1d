//! The bytes of a file on their way, on the thread for the disk: sendfile in clear, rustls under TLS.
//!
//! What the kernel has taken has not come to the client yet: megabytes may be in its buffer when the connection breaks. So the last
//! bytes are waited for before a transfer is called complete, and of one that is not, only those count that the client's machine has
//! acknowledged.

use super::data::BLOCK;
use super::pace::{Pace, lower};
use super::progress::Progress;
use super::reset_on_close;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::sendfile::sendfile;
use nix::sys::socket::MsgFlags;
use rustls::ServerConnection;
use std::fs::File;
use std::io::{self, ErrorKind, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::{Duration, Instant};

/// Bytes that one sendfile(2) may send, so that the count is not kept waiting.
pub(super) const CHUNK: u64 = 8 << 20;

/// How often it is looked whether a client takes anything, at least.
const LOOK: Duration = Duration::from_secs(1);

/// The first and the longest pause between two looks at whether the last bytes have come to the client. The kernel has no event for it.
const PAUSES: [Duration; 2] = [Duration::from_micros(100), Duration::from_millis(50)];

/// A data connection in the hands of the pump; its socket does not block.
pub(super) enum Line {
    /// In clear.
    Clear(TcpStream),
    /// Under TLS.
    Tls(TcpStream, Box<ServerConnection>),
}

/// What is to be sent.
pub(super) struct Order {
    /// The file.
    pub(super) file: File,
    /// The first byte.
    pub(super) from: u64,
    /// The first byte that is not sent any more.
    pub(super) to: u64,
    /// Where the bytes are counted.
    pub(super) progress: Progress,
    /// How long the client may take nothing.
    pub(super) stall: Duration,
    /// Bytes per second that a session may have; 0 is no bound.
    pub(super) rate: u64,
    /// What is left over if the line is cut.
    pub(super) left: Left,
}

/// What had not come to the client when his connection was cut: after that the kernel does not know it any more.
#[derive(Debug, Clone)]
pub(super) struct Left(Arc<AtomicU64>);

impl Default for Left {
    fn default() -> Self {
        Self(Arc::new(u64::MAX.into()))
    }
}

impl Left {
    /// None while nothing is cut.
    fn get(&self) -> Option<u64> {
        Some(self.0.load(SeqCst)).filter(|left| *left != u64::MAX)
    }

    /// Bytes that have been handed to the kernel and have not come to the client.
    fn of(&self, socket: &TcpStream) -> u64 {
        let held = held(socket);
        // What the kernel says of a connection that was cut meanwhile means nothing.
        self.get().unwrap_or(held)
    }
}

/// How it went.
#[derive(Debug)]
pub(super) struct Sent {
    /// Bytes that have come to the client's machine.
    pub(super) bytes: u64,
    /// `UnexpectedEof` means that the file has become shorter, `TimedOut` that the client takes nothing.
    pub(super) outcome: io::Result<()>,
}

/// The socket of a data connection, kept to cut it whoever else holds it. A cut connection ends with RST: it does not look complete.
pub(super) struct Cut(Option<TcpStream>, Left);

impl Cut {
    /// Cuts the line when this is dropped, until [`Cut::spare`]; what is left over then is told.
    pub(super) fn of(line: &Line, left: Left) -> io::Result<Self> {
        let (Line::Clear(socket) | Line::Tls(socket, _)) = line;
        Ok(Self(Some(socket.try_clone()?), left))
    }

    /// The transfer has come to its own end.
    pub(super) fn spare(mut self) {
        self.0 = None;
    }
}

impl Drop for Cut {
    fn drop(&mut self) {
        if let Some(socket) = &self.0 {
            self.1.0.store(held(socket), SeqCst);
            disconnect(socket);
        }
    }
}

mod raw {
    nix::ioctl_read_bad!(siocoutq, libc::TIOCOUTQ, libc::c_int);
}

/// Bytes that the kernel holds for this socket until the other side acknowledges them.
#[allow(unsafe_code, reason = "no crate has this ioctl")]
fn held(socket: &TcpStream) -> u64 {
    let mut bytes = 0;
    // SAFETY: the descriptor is open as long as `socket` is borrowed, and the kernel writes one int.
    let asked = unsafe { raw::siocoutq(socket.as_raw_fd(), &raw mut bytes) };
    // It fails for sockets that listen. Nobody knows then that anything has arrived.
    asked.ok().and_then(|_| u64::try_from(bytes).ok()).unwrap_or(u64::MAX >> 1)
}

/// Ends a connection with RST at once, also while another thread uses it: connect(2) to no address at all.
#[allow(unsafe_code, reason = "no crate has a connect(2) to AF_UNSPEC")]
fn disconnect(socket: &TcpStream) {
    const AF_UNSPEC: libc::sa_family_t = 0;
    const LENGTH: libc::socklen_t = 16;
    const _: () = assert!(size_of::<libc::sockaddr>() == 16 && libc::AF_UNSPEC == 0);
    let nowhere = libc::sockaddr { sa_family: AF_UNSPEC, sa_data: [0; 14] };
    // SAFETY: the descriptor is open as long as `socket` is borrowed, and `nowhere` is a whole sockaddr of that length.
    let failed = unsafe { libc::connect(socket.as_raw_fd(), &raw const nowhere, LENGTH) } != 0;
    if failed {
        // It is not connected any more then; a shutdown wakes who still waits for it.
        let _ = socket.shutdown(Shutdown::Both);
    }
}

/// Sends all of it, unless something is in the way, and sees to it that it arrives. Whatever ends it early, the connection ends with
/// RST.
pub(super) fn send(line: Line, mut order: Order) -> Sent {
    let (socket, sent) = match line {
        Line::Clear(socket) => {
            let sent = in_clear(&socket, &mut order);
            (socket, sent)
        }
        Line::Tls(socket, mut tls) => {
            let sent = under_tls(&socket, &mut tls, &mut order);
            (socket, sent)
        }
    };
    let outcome = sent.and_then(|end| finish(&socket, &mut order, end));
    let left = if outcome.is_ok() { 0 } else { order.left.of(&socket) };
    Sent { bytes: order.progress.finish(left), outcome }
}

impl Order {
    /// These many bytes more have been handed to the kernel.
    fn sent(&mut self, socket: &TcpStream, bytes: u64) {
        let Self { progress, left, .. } = self;
        progress.add(bytes, || left.of(socket));
    }
}

/// Ends the stream in good order and waits until all of it has been acknowledged. Behind the file are `end` bytes: who closes when he
/// has the file, and leaves those, has it all the same.
fn finish(socket: &TcpStream, order: &mut Order, end: u64) -> io::Result<()> {
    // It counts for one byte.
    let (shut, end) = (socket.shutdown(Shutdown::Write), end + 1);
    let begun = Instant::now();
    let mut patience = Patience::new(order.left.of(socket), order.stall);
    loop {
        // In this order: after an error nothing is acknowledged any more.
        let error = socket.take_error()?.or_else(|| shut.as_ref().err().map(|error| error.kind().into()));
        let held = order.left.of(socket);
        if order.left.get().is_some() {
            return Err(ErrorKind::ConnectionAborted.into());
        }
        match error {
            _ if held == 0 => return reset_on_close(socket, false),
            Some(_) if held <= end => return Ok(()),
            Some(error) => return Err(error),
            None => patience.look(held, &mut order.progress)?,
        }
        // Little in proportion to what has passed, so that neither processor nor client is kept waiting.
        let [first, longest] = PAUSES;
        std::thread::sleep((begun.elapsed() / 8).clamp(first, longest));
    }
}

/// How long a client has been taking nothing.
struct Patience {
    stall: Duration,
    least: u64,
    since: Instant,
}

impl Patience {
    /// The kernel holds so many bytes for him, and within this time they have to become less.
    fn new(held: u64, stall: Duration) -> Self {
        Self { stall, least: held, since: Instant::now() }
    }

    /// The kernel holds so many bytes for him now.
    ///
    /// # Errors
    /// `TimedOut`
    fn look(&mut self, held: u64, progress: &mut Progress) -> io::Result<()> {
        progress.taken(held);
        if held < self.least {
            (self.least, self.since) = (held, Instant::now());
        } else if self.since.elapsed() >= self.stall {
            return Err(ErrorKind::TimedOut.into());
        }
        Ok(())
    }
}

/// Gives the number of bytes behind the file: none.
fn in_clear(socket: &TcpStream, order: &mut Order) -> io::Result<u64> {
    let mut at = libc::off_t::try_from(order.from).map_err(io::Error::other)?;
    let mut left = order.to.saturating_sub(order.from);
    let mut pace = Pace::new(order.rate, Instant::now());
    while left > 0 {
        pace.set(lower(order.rate, order.progress.allowance()));
        let most = usize::try_from(pace.piece(left.min(CHUNK))).map_err(io::Error::other)?;
        match sendfile(socket.as_fd(), order.file.as_fd(), Some(&mut at), most) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(sent) => {
                let sent = u64::try_from(sent).map_err(io::Error::other)?;
                left = left.saturating_sub(sent);
                order.sent(socket, sent);
                rest(socket, pace.sent(sent, Instant::now()))?;
            }
            Err(Errno::EAGAIN) => writable(socket, order)?,
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(0)
}

/// Gives the number of bytes behind the file.
fn under_tls(socket: &TcpStream, tls: &mut ServerConnection, order: &mut Order) -> io::Result<u64> {
    let length = order.to.saturating_sub(order.from);
    let mut block = vec![0; usize::try_from(length).unwrap_or(BLOCK).min(BLOCK)];
    // A block is encrypted and sent as a whole before the next is read, so nothing has to be bounded.
    tls.set_buffer_limit(None);
    let mut pace = Pace::new(order.rate, Instant::now());
    let mut at = order.from;
    // What the handshake has left.
    flush(socket, socket, tls, order)?;
    while at < order.to {
        pace.set(lower(order.rate, order.progress.allowance()));
        let piece = pace.piece((order.to - at).min(u64::try_from(block.len()).unwrap_or(u64::MAX)));
        let piece = usize::try_from(piece).map_err(io::Error::other)?;
        let n = order.file.read_at(&mut block[..piece], at)?;
        if n == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        tls.writer().write_all(&block[..n])?;
        flush(socket, socket, tls, order)?;
        let n = u64::try_from(n).map_err(io::Error::other)?;
        at += n;
        order.sent(socket, n);
        rest(socket, pace.sent(n, Instant::now()))?;
    }
    tls.send_close_notify();
    flush(WithTheEnd(socket), socket, tls, order)
}

/// Writes so that it goes with the end of the stream: a client that closes between the two would leave bytes unread, and his kernel
/// answers that by RST, without a word of what it had.
struct WithTheEnd<'a>(&'a TcpStream);

impl Write for WithTheEnd<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let flags = MsgFlags::from_bits_retain(libc::MSG_MORE | libc::MSG_NOSIGNAL);
        Ok(nix::sys::socket::send(self.0.as_raw_fd(), bytes, flags)?)
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Gives the number of bytes that went to the wire, which is the socket or above it.
fn flush(mut wire: impl Write, socket: &TcpStream, tls: &mut ServerConnection, order: &mut Order) -> io::Result<u64> {
    let mut written = 0;
    while tls.wants_write() {
        match tls.write_tls(&mut wire) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(bytes) => written += u64::try_from(bytes).map_err(io::Error::other)?,
            Err(error) if error.kind() == ErrorKind::WouldBlock => writable(socket, order)?,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(written)
}

fn wait(socket: &TcpStream, events: PollFlags, most: Duration) -> io::Result<bool> {
    let until = Instant::now() + most;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let timeout = PollTimeout::try_from(left + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX);
        match poll(&mut [PollFd::new(socket.as_fd(), events)], timeout) {
            Ok(0) if left.is_zero() => return Ok(false),
            Ok(0) | Err(Errno::EINTR) => {}
            Ok(_) => return Ok(true),
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// Waits until the client takes more. The kernel says so only when a third of its buffer is free: who takes less than that in the
/// time given is slow, and has not stalled.
fn writable(socket: &TcpStream, order: &mut Order) -> io::Result<()> {
    let mut patience = Patience::new(order.left.of(socket), order.stall);
    while !wait(socket, PollFlags::POLLOUT, (order.stall / 4).min(LOOK))? {
        patience.look(order.left.of(socket), &mut order.progress)?;
    }
    Ok(())
}

/// Waits for the next piece's turn, or until the connection breaks or is cut.
fn rest(socket: &TcpStream, time: Duration) -> io::Result<()> {
    if !time.is_zero() && wait(socket, PollFlags::empty(), time)? {
        return Err(ErrorKind::BrokenPipe.into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::socket::{setsockopt, sockopt};
    use std::io::Read;

    fn pair() -> (TcpStream, TcpStream) {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (server, _) = listener.accept().unwrap();
        server.set_nonblocking(true).unwrap();
        reset_on_close(&server, true).unwrap();
        (client, server)
    }

    fn order(bytes: &[u8], to: u64, rate: u64, stall: Duration) -> Order {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        let progress = Progress::new(Arc::new(tempfile::tempfile().unwrap()));
        Order { file, from: 0, to, progress, stall, rate, left: Left::default() }
    }

    /// A client whose machine takes little, and a file that the kernel here has room for.
    fn narrow() -> (TcpStream, TcpStream, Vec<u8>) {
        let (client, server) = pair();
        setsockopt(&client, sockopt::RcvBuf, &(64 << 10)).unwrap();
        setsockopt(&server, sockopt::SndBuf, &(2 << 20)).unwrap();
        (client, server, vec![7; 1 << 20])
    }

    fn sending(server: TcpStream, order: Order) -> std::thread::JoinHandle<Sent> {
        std::thread::spawn(move || send(Line::Clear(server), order))
    }

    #[test]
    fn a_file_that_became_shorter_does_not_look_whole() {
        let (mut client, server) = pair();
        let sent = send(Line::Clear(server), order(&[7; 1000], 1001, 0, Duration::from_secs(9)));
        assert_eq!((sent.bytes, sent.outcome.unwrap_err().kind()), (1000, ErrorKind::UnexpectedEof));
        let mut got = Vec::new();
        assert_eq!(client.read_to_end(&mut got).unwrap_err().kind(), ErrorKind::ConnectionReset);
    }

    #[test]
    fn a_cut_wakes_who_waits_for_the_client_and_the_client_sees_a_reset() {
        for rate in [0, 1] {
            let (mut client, server) = pair();
            let line = Line::Clear(server);
            let big = vec![7; 16 << 20];
            let order = order(&big, 16 << 20, rate, Duration::from_secs(60));
            let cut = Cut::of(&line, order.left.clone()).unwrap();
            let pump = std::thread::spawn(move || send(line, order));
            client.read_exact(&mut [0; 100]).unwrap();
            drop(cut);
            let sent = pump.join().unwrap();
            assert!(sent.outcome.is_err());
            let mut got = Vec::new();
            let end = client.read_to_end(&mut got).unwrap_err();
            assert_eq!(end.kind(), ErrorKind::ConnectionReset, "rate {rate}");
            assert!(sent.bytes < 16 << 20, "rate {rate}: {} bytes, {} came", sent.bytes, got.len() + 100);
        }
    }

    #[test]
    fn a_client_that_takes_nothing_stalls() {
        let (_client, server) = pair();
        let big = vec![7; 16 << 20];
        let sent = send(Line::Clear(server), order(&big, 16 << 20, 0, Duration::from_millis(20)));
        assert_eq!(sent.outcome.unwrap_err().kind(), ErrorKind::TimedOut);
    }

    #[test]
    fn what_never_comes_to_the_client_is_not_sent() {
        // One that takes nothing, one that goes away, one that is cut.
        for end in [ErrorKind::TimedOut, ErrorKind::ConnectionReset, ErrorKind::ConnectionAborted] {
            let (mut client, server, bytes) = narrow();
            let stall = if end == ErrorKind::TimedOut { Duration::from_millis(50) } else { Duration::from_secs(60) };
            let order = order(&bytes, 1 << 20, 0, stall);
            let cut = Cut::of(&Line::Clear(server.try_clone().unwrap()), order.left.clone()).unwrap();
            let pump = sending(server, order);
            client.read_exact(&mut [0]).unwrap();
            while held(cut.0.as_ref().unwrap()) < 1 << 19 {
                std::thread::yield_now();
            }
            match end {
                ErrorKind::ConnectionReset => {
                    cut.spare();
                    drop(client);
                }
                ErrorKind::ConnectionAborted => drop(cut),
                _ => cut.spare(),
            }
            let sent = pump.join().unwrap();
            assert!(sent.bytes < 1 << 19, "{end}: {} bytes", sent.bytes);
            // A line that is cut or reset may fail in any way but this.
            let kind = sent.outcome.unwrap_err().kind();
            assert_eq!(kind == ErrorKind::TimedOut, end == ErrorKind::TimedOut, "{kind}, not {end}");
        }
    }

    #[test]
    fn who_has_it_all_may_keep_or_close_his_side() {
        for close in [false, true] {
            let (mut client, server, bytes) = narrow();
            if close {
                client.shutdown(Shutdown::Write).unwrap();
            }
            let pump = sending(server, order(&bytes, 1 << 20, 0, Duration::from_secs(60)));
            let mut got = Vec::new();
            client.read_to_end(&mut got).unwrap();
            let sent = pump.join().unwrap();
            sent.outcome.unwrap();
            assert!(got == bytes && sent.bytes == 1 << 20);
        }
    }

    #[test]
    fn who_has_the_file_may_leave_its_end() {
        for (end, has_it) in [(24, true), (0, false)] {
            let (mut client, mut server) = pair();
            server.write_all(&[7; 1000]).unwrap();
            client.read_exact(&mut [0; 1000]).unwrap();
            drop(client);
            assert!(wait(&server, PollFlags::POLLIN, Duration::from_secs(30)).unwrap());
            // Nobody takes these any more.
            server.write_all(&[7; 24]).unwrap();
            let outcome = finish(&server, &mut order(&[], 0, 0, Duration::from_secs(60)), end);
            assert_eq!(outcome.is_ok(), has_it, "{end}: {outcome:?}");
        }
    }

    #[test]
    fn a_slow_client_has_not_stalled() {
        let (mut client, server, bytes) = narrow();
        // A third of this is more than he takes in the time that he may take nothing.
        setsockopt(&server, sockopt::SndBuf, &(400 << 10)).unwrap();
        let stall = Duration::from_secs(1);
        let pump = sending(server, order(&bytes, 1 << 20, 0, stall));
        let (begun, mut got) = (Instant::now(), 0);
        while begun.elapsed() < 3 * stall {
            let mut some = [0; 2048];
            got += client.read(&mut some).unwrap();
            std::thread::park_timeout(Duration::from_millis(20));
        }
        let mut rest = Vec::new();
        client.read_to_end(&mut rest).unwrap();
        assert_eq!(got + rest.len(), 1 << 20);
        let sent = pump.join().unwrap();
        sent.outcome.unwrap();
        assert_eq!(sent.bytes, 1 << 20);
    }
}
