//! Disks that can fail like disks do: an NBD server for one disk, over a Unix socket.
//!
//! A raw file cannot lose anything: what QEMU was given is in the host's cache when QEMU is killed. This server keeps apart what was
//! not flushed ([`Loss`]), so that a power cut is one; and it can answer with I/O errors or not at all ([`Mood`]).

mod cache;
mod wire;

pub use cache::{Loss, Lost, MOST, SECTOR};

use crate::{Error, Patience};
use cache::Cache;
use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use wire::{Command, Refusal, Request};

/// How a disk behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mood {
    /// As it should.
    #[default]
    Well,
    /// Reads end with an I/O error; writes are taken.
    FailsReads,
    /// Everything ends with an I/O error.
    Fails,
    /// It does not answer.
    Hangs,
}

#[derive(Debug)]
struct State {
    cache: Cache,
    mood: Mood,
    /// Connections that are served, to be cut at the end.
    streams: Vec<(u64, UnixStream)>,
    next: u64,
    /// It has no power: nothing that comes is done any more.
    off: bool,
    ending: bool,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The server of one disk. Dropping it ends it.
#[derive(Debug)]
pub struct Server {
    socket: PathBuf,
    shared: Arc<Shared>,
    accepting: Option<JoinHandle<()>>,
}

impl Server {
    /// Serves the disk in this file at this socket.
    ///
    /// # Errors
    /// When one of them cannot be used.
    pub fn start(file: &Path, socket: &Path) -> Result<Self, Error> {
        let opened = File::options().read(true).write(true).open(file).map_err(Error::io(file))?;
        let cache = Cache::new(opened).map_err(Error::io(file))?;
        // What an earlier one left.
        let _ = fs::remove_file(socket);
        let listener = UnixListener::bind(socket).map_err(Error::io(socket))?;
        let state = State { cache, mood: Mood::Well, streams: Vec::new(), next: 0, off: false, ending: false };
        let shared = Arc::new(Shared { state: Mutex::new(state), changed: Condvar::new() });
        let of_thread = shared.clone();
        let accepting = std::thread::spawn(move || accept(&listener, &of_thread));
        Ok(Self { socket: socket.into(), shared, accepting: Some(accepting) })
    }

    /// Where it is.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// From now on the disk behaves like this.
    pub fn set(&self, mood: Mood) {
        self.shared.lock().mood = mood;
        self.shared.changed.notify_all();
    }

    /// Writes that were not flushed.
    pub fn unflushed(&self) -> usize {
        self.shared.lock().cache.pending()
    }

    /// The power goes: from now on nothing is done any more, until [`Self::cut`].
    pub fn off(&self) {
        let mut state = self.shared.lock();
        state.off = true;
        for (_, stream) in &state.streams {
            let _ = stream.shutdown(Shutdown::Both); // it may have ended by itself
        }
        self.shared.changed.notify_all();
    }

    /// The power has gone: waits until nobody is connected any more, then loses what was not flushed, or a part of it, and has power
    /// again.
    ///
    /// # Errors
    /// When somebody stays connected, or the file cannot be written.
    pub fn cut(&self, loss: Loss, patience: &Patience) -> Result<Lost, Error> {
        let mut state = self.shared.lock();
        while !state.streams.is_empty() {
            let waited = |waited| Error::Waited { what: format!("the end of {}", self.socket.display()), waited };
            patience.check().map_err(waited)?;
            let (next, _) =
                self.shared.changed.wait_timeout(state, patience.left()).unwrap_or_else(PoisonError::into_inner);
            state = next;
        }
        state.off = false;
        state.cache.cut(loss).map_err(Error::io(&self.socket))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        {
            let mut state = self.shared.lock();
            state.ending = true;
            for (_, stream) in &state.streams {
                let _ = stream.shutdown(Shutdown::Both); // it may have ended by itself
            }
            self.shared.changed.notify_all();
        }
        // Wakes the thread that accepts, which then sees that this is the end.
        let woken = UnixStream::connect(&self.socket).is_ok();
        if let Some(accepting) = self.accepting.take()
            && woken
        {
            let _ = accepting.join(); // it has no value to give
        }
        let _ = fs::remove_file(&self.socket);
    }
}

fn accept(listener: &UnixListener, shared: &Arc<Shared>) {
    for stream in listener.incoming() {
        let mut state = shared.lock();
        if state.ending {
            return;
        }
        let Ok(stream) = stream else { continue };
        if state.off {
            continue;
        }
        let Ok(to_cut) = stream.try_clone() else { continue };
        let number = state.next;
        state.next += 1;
        state.streams.push((number, to_cut));
        drop(state);
        let shared = shared.clone();
        std::thread::spawn(move || {
            // However it ended, the client sees it by the end of the connection.
            let _ = serve(&stream, &shared);
            shared.lock().streams.retain(|(n, _)| *n != number);
            shared.changed.notify_all();
        });
    }
}

/// A stream for both directions.
struct Duplex<'a>(BufReader<&'a UnixStream>, BufWriter<&'a UnixStream>);

impl io::Read for Duplex<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        io::Write::flush(&mut self.1)?;
        self.0.read(into)
    }
}

impl io::Write for Duplex<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.1.write(bytes)
    }
    fn flush(&mut self) -> io::Result<()> {
        self.1.flush()
    }
}

fn serve(stream: &UnixStream, shared: &Shared) -> io::Result<()> {
    let mut stream = Duplex(BufReader::new(stream), BufWriter::new(stream));
    let size = shared.lock().cache.size();
    if !wire::handshake(&mut stream, size)? {
        return io::Write::flush(&mut stream);
    }
    loop {
        let request = wire::request(&mut stream)?;
        if request.command == Command::Disconnect {
            return Ok(());
        }
        let cookie = request.cookie;
        let outcome = answer(shared, request);
        let Some(outcome) = outcome else { return Ok(()) };
        wire::reply(&mut stream, cookie, outcome.as_deref().map_err(|e| *e))?;
    }
}

/// What comes of a request; `None` at the end.
fn answer(shared: &Shared, request: Request) -> Option<Result<Vec<u8>, Refusal>> {
    let mut state = shared.lock();
    while state.mood == Mood::Hangs && !state.ending && !state.off {
        state = shared.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
    }
    if state.ending || state.off {
        return None;
    }
    let fails = state.mood == Mood::Fails || state.mood == Mood::FailsReads && request.command == Command::Read;
    if fails {
        return Some(Err(Refusal::Io));
    }
    let cache = &mut state.cache;
    let done = match request.command {
        Command::Read => {
            let mut bytes = vec![0; request.length as usize];
            cache.read(request.offset, &mut bytes).map(|()| bytes)
        }
        Command::Write => cache.write(request.offset, request.data).map(|()| Vec::new()),
        Command::Zero => cache.zero(request.offset, request.length.into()).map(|()| Vec::new()),
        Command::Flush => cache.flush().map(|()| Vec::new()),
        Command::Disconnect | Command::Unknown => Err(io::ErrorKind::InvalidInput.into()),
    };
    // A flush of everything is a flush of this one.
    let done = done.and_then(|bytes| if request.fua { cache.flush().map(|()| bytes) } else { Ok(bytes) });
    Some(done.map_err(|error| match error.kind() {
        io::ErrorKind::InvalidInput => Refusal::Invalid,
        _ => Refusal::Io,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::time::Duration;
    use wire::tests::{encode, go};

    struct Client(UnixStream);

    impl Client {
        fn connect(server: &Server) -> Self {
            let mut stream = UnixStream::connect(server.socket()).unwrap();
            stream.write_all(&go()).unwrap();
            stream.read_exact(&mut [0; 18 + 20 + 32 + 20]).unwrap();
            Self(stream)
        }

        fn send(&mut self, command: u16, offset: u64, length: u32, data: &[u8]) {
            self.0.write_all(&encode(command, 0, offset, length, data)).unwrap();
        }

        /// The error and the data of the next reply.
        fn reply(&mut self, length: usize) -> (u32, Vec<u8>) {
            let mut head = [0; 16];
            self.0.read_exact(&mut head).unwrap();
            let error = u32::from_be_bytes(*head[4..].first_chunk().unwrap());
            let mut data = vec![0; if error == 0 { length } else { 0 }];
            self.0.read_exact(&mut data).unwrap();
            (error, data)
        }

        fn ask(&mut self, command: u16, offset: u64, length: u32, data: &[u8]) -> (u32, Vec<u8>) {
            self.send(command, offset, length, data);
            self.reply(if command == 0 { length as usize } else { 0 })
        }
    }

    const OK: (u32, Vec<u8>) = (0, Vec::new());
    const EIO: (u32, Vec<u8>) = (5, Vec::new());
    const EINVAL: (u32, Vec<u8>) = (22, Vec::new());

    fn server(dir: &Path) -> Server {
        let file = dir.join("disk.raw");
        crate::vm::blank_disk(&file, 8 << 20).unwrap();
        Server::start(&file, &dir.join("disk.nbd")).unwrap()
    }

    fn patience() -> Patience {
        Patience::of(Duration::from_secs(60))
    }

    #[test]
    fn a_cut_comes_after_the_last_connection() {
        let dir = tempfile::tempdir().unwrap();
        let server = server(dir.path());
        let mut client = Client::connect(&server);
        assert_eq!(client.ask(1, 0, 4, b"kept"), OK);
        assert_eq!(client.ask(3, 0, 0, b""), OK);
        assert_eq!(client.ask(1, 2, 4, b"lost"), OK);
        assert_eq!(client.ask(0, 0, 6, b""), (0, b"kelost".to_vec()));
        assert_eq!(client.ask(0, 8 << 20, 1, b""), EINVAL);
        assert_eq!(client.ask(9, 0, 0, b""), EINVAL);
        assert_eq!(server.unflushed(), 1);
        assert!(server.cut(Loss::All, &Patience::of(Duration::from_millis(1))).is_err(), "somebody is connected");
        drop(client);
        assert_eq!(server.cut(Loss::All, &patience()).unwrap(), Lost { pending: 1, gone: 1, torn: 0 });
        let mut client = Client::connect(&server);
        assert_eq!(client.ask(0, 0, 6, b""), (0, b"kept\0\0".to_vec()));
    }

    #[test]
    fn without_power_nothing_is_done() {
        let dir = tempfile::tempdir().unwrap();
        let server = server(dir.path());
        let mut client = Client::connect(&server);
        assert_eq!(client.ask(1, 0, 4, b"lost"), OK);
        server.off();
        assert!(client.0.write_all(&encode(3, 0, 0, 0, b"")).is_err() || client.0.read(&mut [0]).unwrap() == 0);
        assert!(UnixStream::connect(server.socket()).unwrap().read_exact(&mut [0]).is_err(), "nobody is there");
        assert_eq!(server.cut(Loss::All, &patience()).unwrap().gone, 1, "the flush came too late");
        assert_eq!(Client::connect(&server).ask(0, 0, 4, b""), (0, vec![0; 4]));
    }

    #[test]
    fn moods() {
        let dir = tempfile::tempdir().unwrap();
        let server = server(dir.path());
        let mut client = Client::connect(&server);
        server.set(Mood::FailsReads);
        assert_eq!((client.ask(0, 0, 4, b""), client.ask(1, 0, 4, b"data")), (EIO, OK));
        server.set(Mood::Fails);
        assert_eq!((client.ask(1, 0, 4, b"gone"), client.ask(3, 0, 0, b"")), (EIO, EIO));
        server.set(Mood::Hangs);
        client.send(0, 0, 4, b"");
        client.0.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        assert!(client.0.read(&mut [0]).is_err(), "no answer");
        client.0.set_read_timeout(None).unwrap();
        server.set(Mood::Well);
        assert_eq!(client.reply(4), (0, b"data".to_vec()));
        // The end does not wait for who hangs.
        server.set(Mood::Hangs);
        client.send(0, 0, 4, b"");
        drop(server);
        assert_eq!(client.0.read(&mut [0]).unwrap(), 0);
        assert!(!dir.path().join("disk.nbd").exists());
    }
}
