//! The bytes of a file on their way, on the thread for the disk: sendfile in clear, rustls under TLS.

use super::data::BLOCK;
use super::pace::{Pace, lower};
use super::progress::Progress;
use super::reset_on_close;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::sendfile::sendfile;
use rustls::ServerConnection;
use std::fs::File;
use std::io::{self, ErrorKind, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

/// Bytes that one sendfile(2) may send, so that the count is not kept waiting.
pub(super) const CHUNK: u64 = 8 << 20;

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
}

/// How it went.
#[derive(Debug)]
pub(super) struct Sent {
    /// Bytes that were handed to the kernel.
    pub(super) bytes: u64,
    /// `UnexpectedEof` means that the file has become shorter, `TimedOut` that the client takes nothing.
    pub(super) outcome: io::Result<()>,
}

/// The socket of a data connection, kept to cut it whoever else holds it. A cut connection ends with RST: it does not look complete.
pub(super) struct Cut(Option<TcpStream>);

impl Cut {
    /// Cuts the line when this is dropped, until [`Cut::spare`].
    pub(super) fn of(line: &Line) -> io::Result<Self> {
        let (Line::Clear(socket) | Line::Tls(socket, _)) = line;
        Ok(Self(Some(socket.try_clone()?)))
    }

    /// The transfer has come to its own end.
    pub(super) fn spare(mut self) {
        self.0 = None;
    }
}

impl Drop for Cut {
    fn drop(&mut self) {
        if let Some(socket) = &self.0 {
            disconnect(socket);
        }
    }
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

/// Sends all of it, unless something is in the way. Whatever ends it early, the connection ends with RST.
pub(super) fn send(line: Line, mut order: Order) -> Sent {
    let outcome = match line {
        Line::Clear(socket) => in_clear(&socket, &mut order).and_then(|()| finish(&socket)),
        Line::Tls(socket, mut tls) => under_tls(&socket, &mut tls, &mut order).and_then(|()| finish(&socket)),
    };
    Sent { bytes: order.progress.finish(), outcome }
}

/// In good order; what the kernel still holds is delivered.
fn finish(socket: &TcpStream) -> io::Result<()> {
    socket.shutdown(Shutdown::Write)?;
    reset_on_close(socket, false)
}

fn in_clear(socket: &TcpStream, order: &mut Order) -> io::Result<()> {
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
                order.progress.add(sent);
                rest(socket, pace.sent(sent, Instant::now()))?;
            }
            Err(Errno::EAGAIN) => writable(socket, order.stall)?,
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}

fn under_tls(socket: &TcpStream, tls: &mut ServerConnection, order: &mut Order) -> io::Result<()> {
    let length = order.to.saturating_sub(order.from);
    let mut block = vec![0; usize::try_from(length).unwrap_or(BLOCK).min(BLOCK)];
    // A block is encrypted and sent as a whole before the next is read, so nothing has to be bounded.
    tls.set_buffer_limit(None);
    let mut pace = Pace::new(order.rate, Instant::now());
    let mut at = order.from;
    // What the handshake has left.
    flush(socket, tls, order.stall)?;
    while at < order.to {
        pace.set(lower(order.rate, order.progress.allowance()));
        let piece = pace.piece((order.to - at).min(u64::try_from(block.len()).unwrap_or(u64::MAX)));
        let piece = usize::try_from(piece).map_err(io::Error::other)?;
        let n = order.file.read_at(&mut block[..piece], at)?;
        if n == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        tls.writer().write_all(&block[..n])?;
        flush(socket, tls, order.stall)?;
        let n = u64::try_from(n).map_err(io::Error::other)?;
        at += n;
        order.progress.add(n);
        rest(socket, pace.sent(n, Instant::now()))?;
    }
    tls.send_close_notify();
    flush(socket, tls, order.stall)
}

fn flush(mut socket: &TcpStream, tls: &mut ServerConnection, stall: Duration) -> io::Result<()> {
    while tls.wants_write() {
        match tls.write_tls(&mut socket) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => writable(socket, stall)?,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
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

fn writable(socket: &TcpStream, stall: Duration) -> io::Result<()> {
    if wait(socket, PollFlags::POLLOUT, stall)? { Ok(()) } else { Err(ErrorKind::TimedOut.into()) }
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
    use std::io::Read;
    use std::sync::Arc;

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
        Order { file, from: 0, to, progress, stall, rate }
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
            let cut = Cut::of(&line).unwrap();
            let big = vec![7; 16 << 20];
            let order = order(&big, 16 << 20, rate, Duration::from_secs(60));
            let pump = std::thread::spawn(move || send(line, order));
            client.read_exact(&mut [0; 100]).unwrap();
            drop(cut);
            assert!(pump.join().unwrap().outcome.is_err());
            let end = client.read_to_end(&mut Vec::new()).unwrap_err();
            assert_eq!(end.kind(), ErrorKind::ConnectionReset, "rate {rate}");
        }
    }

    #[test]
    fn a_client_that_takes_nothing_stalls() {
        let (_client, server) = pair();
        let big = vec![7; 16 << 20];
        let sent = send(Line::Clear(server), order(&big, 16 << 20, 0, Duration::from_millis(20)));
        assert_eq!(sent.outcome.unwrap_err().kind(), ErrorKind::TimedOut);
    }
}
