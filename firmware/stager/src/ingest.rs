//! How an object comes into the storeroom.
//!
//! Its bytes are hashed while they are written to `incoming/`, once; then: sync the file → give it its name in the storeroom → sync
//! the directories → commit → answer. Whatever goes wrong before the name is given leaves no object. Where a file of another size has
//! the name, it goes into quarantine before, and the links of its leases are made anew after: see the states in [`crate::engine`].
//!
//! # What broke off goes on
//!
//! Who knows the hash before sends the object as an *upload*. Every [`CHECKPOINT`] bytes, and when the connection breaks: sync the
//! file → commit how much of it is durable, with the state of the hash at that place. The next try is told that number, sends what
//! comes after it, and nothing is read again: the file is cut there, and the hash goes on from its state. So it does after a crash
//! or a power cut, too. An upload that nobody goes on with for [`crate::config::Config::upload_keep_seconds`] is dropped.
//!
//! A sync that failed is never tried again on the same file: the kernel tells of bytes that it could not write once, and the next sync
//! of them succeeds. What was committed before stays in force, and the next try cuts the file there. One that begins anew drops what
//! is committed before it cuts the file: in the other order, a crash would leave a count of bytes that are not those.
//!
//! # Room
//!
//! What is being taken in together must leave [`crate::config::Config::min_free_bytes`] free: room is promised before a byte is read,
//! so that two objects do not both count on the last of it, and so that the ledger, which is on the same disk, never runs out of it.

use crate::engine::{Answer, Handle, Refusal, Work};
use crate::killpoint::{Point, hit};
use crate::ledger::{Ledger, LedgerError};
use crate::rows::Upload;
use crate::tree::{Op, Tree, TreeError};
use daemon::Shutdown;
use sha2::digest::common::hazmat::{SerializableState, SerializedState};
use sha2::{Digest, Sha256 as Hasher};
use std::fs::File;
use std::io::{self, Write};
use std::sync::{Arc, Mutex, PoisonError};
use tobj::{Fault, Id, ObjectState, Reply, Sha256};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::sync::mpsc;

/// Bytes that are read, hashed and written at a time.
const BLOCK: usize = 1 << 20;
/// Blocks between the reader and the disk.
const BLOCKS: usize = 4;
/// Bytes after which an upload is made durable. It is also what a sync of it has to write at most, while stagings wait for theirs.
pub const CHECKPOINT: u64 = 64 << 20;

/// Takes objects in.
#[derive(Debug, Clone)]
pub struct Intake {
    tree: Arc<Tree>,
    ledger: Arc<Ledger>,
    engine: Handle,
    floor: u64,
    checkpoint: u64,
    end: Option<Shutdown>,
    shared: Arc<Mutex<Shared>>,
}

#[derive(Debug, Default)]
struct Shared {
    /// Bytes that are promised to objects on their way in.
    promised: u64,
    /// Why the last object could not be written, if that was the disk's fault.
    failure: Option<String>,
}

/// Room for an object on its way in.
struct Promise {
    shared: Arc<Mutex<Shared>>,
    left: u64,
}

impl Promise {
    /// So much of it is on the disk, and counted there.
    fn used(&mut self, bytes: u64) {
        let bytes = bytes.min(self.left);
        self.left -= bytes;
        lock(&self.shared).promised -= bytes;
    }
}

impl Drop for Promise {
    fn drop(&mut self) {
        self.used(self.left);
    }
}

/// Keeps others from the same upload, and the sweep.
struct Claim {
    engine: Handle,
    sha256: Sha256,
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.engine.received(self.sha256);
    }
}

fn lock(shared: &Mutex<Shared>) -> std::sync::MutexGuard<'_, Shared> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A file that is being written.
struct Incoming {
    file: File,
    hasher: Hasher,
    /// Bytes that are in it.
    size: u64,
    /// A sync of it failed: which of its bytes are on the disk cannot be found out any more.
    spoiled: bool,
}

impl Intake {
    /// Takes objects into this tree as long as so many bytes stay free.
    pub fn new(tree: Arc<Tree>, ledger: Arc<Ledger>, engine: Handle, floor: u64) -> Self {
        Self { tree, ledger, engine, floor, checkpoint: CHECKPOINT, end: None, shared: Arc::default() }
    }

    /// The same with another distance between checkpoints.
    #[must_use]
    pub fn with_checkpoints(mut self, bytes: u64) -> Self {
        self.checkpoint = bytes;
        self
    }

    /// The same until then: what is coming in breaks off, so that nobody who sends slowly holds up the end, or a new beginning.
    #[must_use]
    pub fn until(mut self, end: Shutdown) -> Self {
        self.end = Some(end);
        self
    }

    /// Why the disk did not take the last object, if so.
    pub fn failure(&self) -> Option<String> {
        lock(&self.shared).failure.clone()
    }

    /// Takes an object of `length` bytes in, as a whole. `expected` is its hash where that is known before.
    ///
    /// # Errors
    /// `INVALID` for other bytes than announced, `UNAVAILABLE` when the disk does not take them.
    pub async fn put(
        &self,
        length: u64,
        expected: Option<Sha256>,
        by: &str,
        literal: &mut (dyn AsyncRead + Send + Unpin),
    ) -> Answer {
        let name = Id::random().map_err(|error| Refusal::new(Fault::Unavailable, error.to_string()))?;
        let begin = move |this: &Self| {
            let promise = this.promise(length)?;
            Ok((promise, this.tree.incoming(name).map_err(|error| this.broken(&error))?))
        };
        let (promise, file) = self.blocking(begin).await?;
        let label = name.to_string();
        let (incoming, arrived) = self.receive(fresh(file), length, promise, None, literal).await?;
        let checked = arrived.and_then(|()| check(&incoming, expected));
        match checked {
            Ok(sha256) => self.store(label, incoming, sha256, by).await,
            Err(refusal) => {
                self.drop_file(label, Some(incoming)).await?;
                Err(refusal)
            }
        }
    }

    /// Says how much of an object is there.
    ///
    /// # Errors
    /// `BUSY` while it comes in, `UNAVAILABLE` when the rest of it does not fit.
    pub async fn begin(&self, sha256: Sha256, size: u64) -> Answer {
        let (object, upload) = self.known(sha256).await?;
        if let Some(size) = object {
            return Ok(Reply::Stored { sha256, size, known: true });
        }
        let claim = self.claim(sha256)?;
        let offset = match upload {
            Some(upload) if upload.size == size => upload.durable,
            Some(_) => {
                self.forget(sha256, None).await?;
                0
            }
            None => 0,
        };
        drop(claim);
        self.blocking(move |this| this.promise(size - offset).map(drop)).await?;
        Ok(Reply::Upload { offset })
    }

    /// Takes the rest of an object in, from `offset` on; from 0 it begins anew.
    ///
    /// # Errors
    /// As [`Intake::put`]; `INVALID` also for another offset than [`Intake::begin`] tells.
    pub async fn append(
        &self,
        sha256: Sha256,
        offset: u64,
        length: u64,
        by: &str,
        literal: &mut (dyn AsyncRead + Send + Unpin),
    ) -> Answer {
        let Some(size) = offset.checked_add(length) else {
            return Err(Refusal::new(Fault::Invalid, "no object has so many bytes"));
        };
        let _claim = self.claim(sha256)?;
        let (object, upload) = self.known(sha256).await?;
        if object.is_some() {
            return Err(Refusal::new(Fault::Invalid, "the object is there already"));
        }
        let begun = upload.is_some();
        let upload = upload.filter(|upload| upload.size == size && offset > 0);
        let there = upload.as_ref().map_or(0, |upload| upload.durable);
        if there != offset {
            return Err(Refusal::new(
                Fault::Invalid,
                format!("{there} bytes are there, not {offset}; go on from there"),
            ));
        }
        let promise = self.blocking(move |this| this.promise(length)).await?;
        if offset == 0 && begun {
            self.forget(sha256, None).await?;
        }
        let hasher = match &upload {
            None => Some(Hasher::new()),
            Some(upload) => {
                // Its time begins anew, also for a restart. If the sweep was faster, the file is gone, and it is forgotten below.
                self.engine.ask(Work::Upload { sha256, upload: Some(upload.clone()) }).await?;
                restore(&upload.hash)
            }
        };
        let file = self.blocking(move |this| Ok(this.tree.upload(sha256, offset).ok())).await?;
        let (Some(hasher), Some(file)) = (hasher, file) else {
            self.forget(sha256, None).await?;
            return Err(Refusal::new(Fault::Invalid, "what was there of the object cannot be used; begin anew"));
        };
        let incoming = Incoming { file, hasher, size: offset, spoiled: false };
        let (mut incoming, arrived) = self.receive(incoming, length, promise, Some((sha256, size)), literal).await?;
        if let Err(refusal) = arrived {
            // What has come so far is kept for the next try.
            let keep = move |this: &Self| match incoming.spoiled {
                true => Ok(false),
                false => this.checkpoint(&mut incoming, sha256, size, true).map(|()| true),
            };
            match self.blocking(keep).await {
                Ok(true) => tracing::info!(%sha256, "an upload broke off; what came of it is kept"),
                Ok(false) => {} // it was told what is wrong with the disk
                Err(why) => tracing::warn!(%sha256, %why, "an upload broke off; what came of it may be lost"),
            }
            return Err(refusal);
        }
        match check(&incoming, Some(sha256)) {
            Ok(sha256) => self.store(sha256.to_string(), incoming, sha256, by).await,
            Err(refusal) => {
                self.forget(sha256, Some(incoming)).await?;
                Err(refusal)
            }
        }
    }

    /// Does what has to wait for the disk where it holds up nobody: a runtime that hangs with it is taken for dead.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Self) -> Result<T, Refusal> + Send + 'static,
    ) -> Result<T, Refusal> {
        let this = self.clone();
        let done = tokio::task::spawn_blocking(move || work(&this)).await;
        done.unwrap_or_else(|error| Err(Refusal::new(Fault::Unavailable, error.to_string())))
    }

    /// The size of an object that is there and good, and what is there of an upload.
    async fn known(&self, sha256: Sha256) -> Result<(Option<u64>, Option<Upload>), Refusal> {
        let look = move |this: &Self| {
            let look = || {
                let read = this.ledger.read()?;
                let object = read.object(sha256)?.filter(|object| object.state == ObjectState::Good);
                Ok::<_, LedgerError>((object.map(|object| object.size), read.upload(sha256)?))
            };
            let (object, upload) = look().map_err(|error| Refusal::new(Fault::Unavailable, daemon::report(&error)))?;
            // An object whose file is gone is not there, whatever the ledger says: it can be put in again.
            let file = this.tree.object(sha256).map_err(|error| this.broken(&error))?;
            Ok((object.filter(|size| file.is_some_and(|file| file.size == *size)), upload))
        };
        self.blocking(look).await
    }

    fn claim(&self, sha256: Sha256) -> Result<Claim, Refusal> {
        if !self.engine.receive(sha256) {
            return Err(Refusal::new(Fault::Busy, "the object is coming in on another connection"));
        }
        Ok(Claim { engine: self.engine.clone(), sha256 })
    }

    /// Asks the disk: see [`Intake::blocking`].
    fn promise(&self, bytes: u64) -> Result<Promise, Refusal> {
        let (free, _) = self.tree.space().map_err(|error| self.broken(&error))?;
        let mut shared = lock(&self.shared);
        let needed = bytes.saturating_add(shared.promised);
        if needed.saturating_add(self.floor) > free {
            let (promised, floor) = (shared.promised, self.floor);
            let why = format!(
                "{bytes} bytes do not fit: {free} bytes are free, {promised} of them are promised to other objects, {floor} \
                 stay free for the ledger (min_free_bytes)"
            );
            return Err(Refusal::new(Fault::Unavailable, why));
        }
        shared.promised += bytes;
        Ok(Promise { shared: self.shared.clone(), left: bytes })
    }

    /// Reads and writes, at the same time. The inner error is that of the bytes on their way: what came before it is in the file.
    async fn receive(
        &self,
        incoming: Incoming,
        length: u64,
        promise: Promise,
        upload: Option<(Sha256, u64)>,
        literal: &mut (dyn AsyncRead + Send + Unpin),
    ) -> Result<(Incoming, Result<(), Refusal>), Refusal> {
        let (blocks, written) = mpsc::channel::<Vec<u8>>(BLOCKS);
        let this = self.clone();
        let writer = tokio::task::spawn_blocking(move || this.write(incoming, promise, upload, written));
        let read = feed(literal, length, blocks, self.end.as_ref()).await;
        match writer.await {
            Ok((incoming, written)) => Ok((incoming, written.and(read))),
            Err(error) => Err(Refusal::new(Fault::Unavailable, error.to_string())),
        }
    }

    fn write(
        &self,
        mut incoming: Incoming,
        mut promise: Promise,
        upload: Option<(Sha256, u64)>,
        mut blocks: mpsc::Receiver<Vec<u8>>,
    ) -> (Incoming, Result<(), Refusal>) {
        let mut durable = incoming.size;
        while let Some(block) = blocks.blocking_recv() {
            let written = match self.tree.faults().check(Op::Write) {
                Ok(()) => incoming.file.write_all(&block),
                Err(errno) => Err(errno.into()),
            };
            if let Err(error) = written {
                return (incoming, Err(self.unwritable(&error)));
            }
            incoming.hasher.update(&block);
            incoming.size += block.len() as u64;
            promise.used(block.len() as u64);
            if let Some((sha256, size)) = upload
                && incoming.size - durable >= self.checkpoint
            {
                if let Err(refusal) = self.checkpoint(&mut incoming, sha256, size, false) {
                    return (incoming, Err(refusal));
                }
                durable = incoming.size;
            }
        }
        (incoming, Ok(()))
    }

    /// Makes durable what came of an upload; `waits` for the ledger to say so. Not to be called again after a sync that failed.
    fn checkpoint(&self, incoming: &mut Incoming, sha256: Sha256, size: u64, waits: bool) -> Result<(), Refusal> {
        let synced = self.tree.faults().check(Op::Sync).map_err(io::Error::from);
        if let Err(error) = synced.and_then(|()| incoming.file.sync_data()) {
            incoming.spoiled = true;
            return Err(self.failed(format!("an upload could not be synced: {error}")));
        }
        hit(Point::AfterCheckpoint);
        let hash = hex::encode(incoming.hasher.serialize());
        let work = Work::Upload { sha256, upload: Some(Upload { size, durable: incoming.size, hash, at: 0 }) };
        if waits {
            return self.engine.ask_blocking(work).map(drop);
        }
        self.engine.ride(work);
        Ok(())
    }

    /// Gives a whole file its place.
    async fn store(&self, label: String, incoming: Incoming, sha256: Sha256, by: &str) -> Answer {
        let size = incoming.size;
        let keep = move |this: &Self| {
            let kept = this.tree.keep(&label, &incoming.file, sha256);
            if kept.is_err() {
                let _ = this.tree.drop_incoming(&label); // the first failure is the one to tell
            }
            kept.map_err(|error| this.broken(&error))
        };
        let fresh = self.blocking(keep).await?;
        lock(&self.shared).failure = None;
        hit(Point::BeforeStore);
        self.engine.ask(Work::Store { sha256, size, fresh, by: by.to_owned() }).await
    }

    /// Drops an upload, with its file where that is open.
    async fn forget(&self, sha256: Sha256, open: Option<Incoming>) -> Result<(), Refusal> {
        // The row first: without it, start-up removes the file.
        self.engine.ask(Work::Upload { sha256, upload: None }).await?;
        self.drop_file(sha256.to_string(), open).await
    }

    async fn drop_file(&self, label: String, open: Option<Incoming>) -> Result<(), Refusal> {
        let remove = move |this: &Self| {
            if let Err(error) = this.tree.drop_incoming(&label) {
                tracing::warn!("what came in could not be removed: {}", daemon::report(&error));
            }
            drop(open); // here too: the last to close it gives its space back
            Ok(())
        };
        self.blocking(remove).await
    }

    fn unwritable(&self, error: &io::Error) -> Refusal {
        let why = match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "the file system is full".to_owned(),
            io::ErrorKind::ReadOnlyFilesystem => "the file system is read-only".to_owned(),
            _ => format!("the object could not be written: {error}"),
        };
        self.failed(why)
    }

    fn broken(&self, error: &TreeError) -> Refusal {
        self.failed(daemon::report(error))
    }

    fn failed(&self, why: String) -> Refusal {
        tracing::error!(why, "the storeroom failed");
        lock(&self.shared).failure = Some(why.clone());
        Refusal::new(Fault::Unavailable, why)
    }
}

fn fresh(file: File) -> Incoming {
    Incoming { file, hasher: Hasher::new(), size: 0, spoiled: false }
}

/// The hash of what came in, if it is the right one.
fn check(incoming: &Incoming, expected: Option<Sha256>) -> Result<Sha256, Refusal> {
    let sha256: [u8; 32] = incoming.hasher.clone().finalize().into();
    let sha256 = Sha256::from(sha256);
    match expected {
        Some(expected) if expected != sha256 => {
            Err(Refusal::new(Fault::Invalid, format!("the bytes hash to {sha256} instead of {expected}")))
        }
        _ => Ok(sha256),
    }
}

/// The hash of an upload as it was at its checkpoint; none if it was written by a version that kept it in another form.
fn restore(hash: &str) -> Option<Hasher> {
    let mut state = SerializedState::<Hasher>::default();
    hex::decode_to_slice(hash, &mut state).ok()?;
    Hasher::deserialize(&state).ok()
}

/// Why an object breaks off that would go on coming.
const ENDED: &str = "staging is about to end or to start anew; an upload goes on after that";

/// Reads until there is all of it, or `end`.
async fn feed(
    literal: &mut (dyn AsyncRead + Send + Unpin),
    length: u64,
    blocks: mpsc::Sender<Vec<u8>>,
    end: Option<&Shutdown>,
) -> Result<(), Refusal> {
    let ended = async {
        match end {
            Some(end) => end.wait().await,
            None => std::future::pending().await,
        }
    };
    let mut ended = std::pin::pin!(ended);
    let mut left = length;
    while left > 0 {
        let most = usize::try_from(left).map_or(BLOCK, |left| left.min(BLOCK));
        let mut block = Vec::with_capacity(most);
        let mut broken = None;
        while block.len() < most {
            let mut part = (&mut *literal).take((most - block.len()) as u64);
            let read = tokio::select! {
                biased;
                () = &mut ended => {
                    broken = Some((Fault::Unavailable, ENDED.to_owned()));
                    break;
                }
                read = part.read_buf(&mut block) => read,
            };
            match read {
                Ok(0) => broken = Some((Fault::Invalid, "the object ended early".to_owned())),
                Ok(_) => continue,
                Err(error) => broken = Some((Fault::Invalid, format!("the object broke off: {error}"))),
            }
            break;
        }
        left -= block.len() as u64;
        if !block.is_empty() && blocks.send(block).await.is_err() {
            return Ok(()); // the writer has failed and says why
        }
        if let Some((fault, why)) = broken {
            return Err(Refusal::new(fault, why));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
