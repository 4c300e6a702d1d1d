//! The numbers on their way: from the sessions to the forker, and from it to Prometheus, which asks by HTTP on an internal address.
//!
//! Nothing here ever waits: the forker has one thread.

use super::listener;
use crate::metrics::{EVENT, Event, Metrics};
use crate::session::Reporter;
use nix::poll::{PollFd, PollFlags};
use nix::sys::socket::{setsockopt, sockopt};
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::time::{Duration, Instant};

/// Questions under way at once; further ones wait in the listener's queue.
pub(super) const MAX_QUESTIONS: usize = 8;

/// Longest question, in bytes.
pub(super) const MAX_QUESTION: usize = 8192;

/// How long a question may take to come.
pub(super) const QUESTION: Duration = Duration::from_secs(5);

/// Events taken before clients and signals have their turn.
const BATCH: usize = 4096;

/// Counts, and answers with the counts.
pub(super) struct Desk {
    /// What was counted.
    pub(super) metrics: Metrics,
    events: UnixDatagram,
    sessions: UnixDatagram,
    listener: Option<TcpListener>,
    questions: Vec<Question>,
}

struct Question {
    from: TcpStream,
    text: Vec<u8>,
    until: Instant,
}

impl Desk {
    /// Listens, if there is an address.
    pub(super) fn new(address: Option<SocketAddr>) -> io::Result<Self> {
        let (events, sessions) = UnixDatagram::pair()?;
        events.set_nonblocking(true)?;
        sessions.set_nonblocking(true)?;
        // The machine may get the address only after the daemon has started.
        let early = |socket: &OwnedFd| setsockopt(socket, sockopt::IpFreebind, &true);
        let listener = address.map(|address| listener(address, early)).transpose()?;
        if let Some(listener) = &listener {
            tracing::info!(address = %listener.local_addr()?, "metrics");
        }
        Ok(Self { metrics: Metrics::default(), events, sessions, listener, questions: Vec::new() })
    }

    /// What a session reports to.
    pub(super) fn reporter(&self) -> Option<Reporter> {
        self.sessions.try_clone().ok().map(Reporter::new)
    }

    /// What is to be waited for.
    pub(super) fn fds(&self) -> Vec<PollFd<'_>> {
        let read = |fd| PollFd::new(fd, PollFlags::POLLIN);
        let listener = self.listener.as_ref().filter(|_| self.questions.len() < MAX_QUESTIONS);
        let questions = self.questions.iter().map(|question| question.from.as_fd());
        std::iter::once(self.events.as_fd()).chain(listener.map(AsFd::as_fd)).chain(questions).map(read).collect()
    }

    /// When the oldest question has taken too long.
    pub(super) fn until(&self) -> Option<Instant> {
        self.questions.iter().map(|question| question.until).min()
    }

    /// Does what can be done now; `sessions` are open.
    pub(super) fn work(&mut self, sessions: usize) {
        let mut event = [0; EVENT + 1];
        for _ in 0..BATCH {
            let Ok(n) = self.events.recv(&mut event) else { break };
            if let Some(event) = Event::decode(&event[..n]) {
                self.metrics.note(event);
            }
        }
        while self.questions.len() < MAX_QUESTIONS
            && let Some(Ok((from, _))) = self.listener.as_ref().map(TcpListener::accept)
        {
            if from.set_nonblocking(true).is_ok() {
                self.questions.push(Question { from, text: Vec::new(), until: Instant::now() + QUESTION });
            }
        }
        let metrics = &self.metrics;
        self.questions.retain_mut(|question| question.until > Instant::now() && !question.is_over(metrics, sessions));
    }
}

impl Question {
    /// Answers, once the question is whole: then it is over.
    fn is_over(&mut self, metrics: &Metrics, sessions: usize) -> bool {
        let mut some = [0; 1024];
        loop {
            match self.from.read(&mut some) {
                Ok(0) => return true,
                Ok(n) => self.text.extend_from_slice(&some[..n]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(_) => return true,
            }
            if self.text.len() > MAX_QUESTION {
                return true;
            }
        }
        if !self.text.windows(4).any(|end| end == b"\r\n\r\n") {
            return false;
        }
        let (status, body) = match self.text.starts_with(b"GET /metrics ") {
            true => ("200 OK", metrics.text(sessions)),
            false => ("404 Not Found", String::new()),
        };
        let head = format!(
            "HTTP/1.1 {status}\r\nContent-Type: text/plain; version=0.0.4\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
            body.len()
        );
        // A new socket's buffer takes it all; who reads nothing gets no second try.
        let _ = self.from.write(format!("{head}{body}").as_bytes());
        true
    }
}
