//! The client's side of the control connection: bounded lines, a deadline for every reply, TLS.

use crate::line::{Line, LineBuffer, MAX_ENDLESS};
use crate::tls::version;
use nix::sys::socket::{MsgFlags, recv};
use std::collections::VecDeque;
use std::io::{self, ErrorKind};
use std::os::fd::AsRawFd;
use std::pin::pin;
use std::time::Duration;
use tobj::TlsVersion;
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// Bytes that a client may send before it is logged in.
pub(super) const MAX_BEFORE_LOGIN: usize = 2 * MAX_ENDLESS;

/// Commands that wait for the end of a transfer; more stay in the kernel.
pub(super) const MAX_QUEUE: usize = 64;

/// The two replies to ABOR in a transfer (RFC 959 section 4.1.3).
pub(super) const ABORTED: &str = "426 Transfer aborted\r\n226 ABOR done";

/// Bytes read at once. Commands are short.
const READ: usize = 512;

enum Wire {
    Clear(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
    /// While a handshake runs, and after one that failed.
    Gone,
}

/// A client.
pub(super) struct Client {
    wire: Wire,
    lines: LineBuffer,
    /// Lines that came during a transfer.
    queue: VecDeque<Line>,
    /// Bytes left of [`MAX_BEFORE_LOGIN`]; none after the login.
    allowance: Option<usize>,
    stall: Duration,
}

impl Client {
    pub(super) fn new(socket: TcpStream, stall: Duration) -> Self {
        let allowance = Some(MAX_BEFORE_LOGIN);
        Self { wire: Wire::Clear(socket), lines: LineBuffer::default(), queue: VecDeque::new(), allowance, stall }
    }

    /// The next line, queued ones first. Nothing is lost when this is cancelled.
    pub(super) async fn line(&mut self) -> io::Result<Line> {
        match self.queue.pop_front() {
            Some(line) => Ok(line),
            None => self.new_line().await,
        }
    }

    async fn new_line(&mut self) -> io::Result<Line> {
        loop {
            match self.lines.next_line() {
                Ok(Some(line)) => return Ok(line),
                Ok(None) => {}
                Err(endless) => {
                    self.say("500 Line too long").await?;
                    return Err(io::Error::new(ErrorKind::InvalidData, endless));
                }
            }
            let mut some = [0; READ];
            let n = match &mut self.wire {
                // Not TcpStream::read: it takes a short read for the last one, but a read also stops short at urgent data.
                Wire::Clear(socket) => {
                    let read = || Ok(recv(socket.as_raw_fd(), &mut some, MsgFlags::empty())?);
                    socket.async_io(Interest::READABLE, read).await?
                }
                Wire::Tls(stream) => stream.read(&mut some).await?,
                Wire::Gone => 0,
            };
            if n == 0 {
                return Err(ErrorKind::UnexpectedEof.into());
            }
            if let Some(left) = &mut self.allowance {
                match left.checked_sub(n) {
                    Some(less) => *left = less,
                    None => {
                        self.say("421 Too much before the login").await?;
                        return Err(ErrorKind::InvalidData.into());
                    }
                }
            }
            self.lines.push(&some[..n]);
        }
    }

    /// From now on the client may send as much as it likes.
    pub(super) fn trust(&mut self) {
        self.allowance = None;
    }

    /// Sends a reply; the last line end is added.
    pub(super) async fn say(&mut self, text: &str) -> io::Result<()> {
        let reply = format!("{}\r\n", text.trim_end());
        let write = async {
            match &mut self.wire {
                Wire::Clear(socket) => socket.write_all(reply.as_bytes()).await,
                Wire::Tls(stream) => {
                    stream.write_all(reply.as_bytes()).await?;
                    stream.flush().await
                }
                Wire::Gone => Err(ErrorKind::NotConnected.into()),
            }
        };
        timeout(self.stall, write).await?
    }

    /// The handshake after 234. What came in clear behind AUTH TLS is forgotten.
    pub(super) async fn secure(&mut self, tls: &TlsAcceptor, within: Duration) -> io::Result<()> {
        self.lines.clear();
        self.queue.clear();
        let Wire::Clear(socket) = std::mem::replace(&mut self.wire, Wire::Gone) else {
            return Err(ErrorKind::NotConnected.into());
        };
        let stream =
            timeout(within, tls.accept(socket)).await?.map_err(|e| io::Error::new(ErrorKind::InvalidData, e))?;
        self.wire = Wire::Tls(Box::new(stream));
        Ok(())
    }

    /// The TLS that it is under.
    pub(super) fn tls(&self) -> Option<TlsVersion> {
        match &self.wire {
            Wire::Tls(stream) => version(stream.get_ref().1),
            Wire::Clear(_) | Wire::Gone => None,
        }
    }

    /// Ends the connection in good order: under TLS with close_notify.
    pub(super) async fn close(&mut self) {
        if let Wire::Tls(stream) = &mut self.wire {
            // The client may be gone already.
            let _ = timeout(self.stall, stream.shutdown()).await;
        }
    }

    /// Lets `work`, which cannot be given up, come to its end while commands come in. ABOR is answered at once, and told with the
    /// outcome; NOOP and STAT are answered; the rest waits.
    pub(super) async fn settle<T>(&mut self, work: impl Future<Output = T>) -> io::Result<(T, bool)> {
        let mut work = pin!(work);
        let mut aborted = false;
        loop {
            match self.attend(&mut work).await? {
                Some(done) => return Ok((done, aborted)),
                None if aborted => self.say("226 No transfer").await?,
                None => self.say(ABORTED).await?,
            }
            aborted = true;
        }
    }

    /// Lets `work` run while commands come in. ABOR ends it (None); NOOP and STAT are answered; the rest waits.
    pub(super) async fn attend<T>(&mut self, work: impl Future<Output = T>) -> io::Result<Option<T>> {
        let mut work = pin!(work);
        loop {
            let is = |line: &Line, what| matches!(line, Line::Command { verb, .. } if verb == what);
            // Behind QUIT there is nothing to wait for; the client may close its side at once.
            let more = self.queue.len() < MAX_QUEUE && !self.queue.back().is_some_and(|last| is(last, "QUIT"));
            tokio::select! {
                done = &mut work => return Ok(Some(done)),
                line = self.new_line(), if more => match line? {
                    line if is(&line, "ABOR") => return Ok(None),
                    line if is(&line, "NOOP") => self.say("200 The transfer goes on").await?,
                    Line::Command { verb, argument } if verb == "STAT" && argument.is_empty() => {
                        self.say("213 The transfer goes on").await?;
                    }
                    other => self.queue.push_back(other),
                }
            }
        }
    }
}
