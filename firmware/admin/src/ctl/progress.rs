//! How far a file is that is read for a while.

use super::show;
use std::io::{self, IsTerminal};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, ReadBuf};

/// How often progress is shown.
const PROGRESS: Duration = Duration::from_millis(200);
/// Bytes that are read at a time.
const BLOCK: usize = 1 << 20;

/// Shows how far a file is.
pub(crate) struct Counted {
    file: tokio::fs::File,
    what: &'static str,
    first: u64,
    done: u64,
    size: u64,
    begin: Instant,
    shown: Option<Instant>,
}

impl Counted {
    /// A file of this size that is about to be sent.
    pub(crate) fn new(mut file: tokio::fs::File, size: u64) -> Self {
        file.set_max_buf_size(BLOCK);
        let shown = io::stderr().is_terminal().then(Instant::now);
        Self { file, what: "sent", first: 0, done: 0, size, begin: Instant::now(), shown }
    }

    /// The same in another word than "sent".
    pub(crate) fn that_is(mut self, what: &'static str) -> Self {
        self.what = what;
        self
    }

    /// The same of which so many bytes are there already.
    pub(crate) fn after(mut self, bytes: u64) -> Self {
        (self.first, self.done) = (bytes, bytes);
        self
    }

    fn show(&self) {
        let percent = u128::from(self.done) * 100 / u128::from(self.size.max(1));
        let rate = u128::from(self.done - self.first) * 1000 / self.begin.elapsed().as_millis().max(1);
        let rate = show::size(u64::try_from(rate).unwrap_or(u64::MAX));
        let (done, size) = (show::size(self.done), show::size(self.size));
        eprint!("\r{percent:>3} % {}  {done} of {size}  {rate}/s   ", self.what);
    }

    /// Shows the end.
    pub(crate) fn finish(&self) {
        if self.shown.is_some() {
            self.show();
            eprintln!();
        }
    }
}

impl AsyncRead for Counted {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let this = &mut *self;
        ready!(Pin::new(&mut this.file).poll_read(cx, buf))?;
        this.done += (buf.filled().len() - before) as u64;
        if this.shown.is_some_and(|at| at.elapsed() > PROGRESS) {
            this.shown = Some(Instant::now());
            this.show();
        }
        Poll::Ready(Ok(()))
    }
}
