//! How an object comes into the storeroom.
//!
//! Its bytes are hashed while they are written to `incoming/`; then: sync the file → give it its name in the storeroom → sync the
//! directories → commit → answer. Whatever goes wrong before the name is given leaves nothing.

use crate::engine::{Answer, Handle, Refusal, Work};
use crate::killpoint::{Point, hit};
use crate::tree::{Tree, TreeError};
use sha2::{Digest, Sha256 as Hasher};
use std::fs::File;
use std::io::{self, Write};
use std::sync::Arc;
use tobj::{Fault, Id, Sha256};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::sync::mpsc;

/// Bytes that are read, hashed and written at a time.
const BLOCK: usize = 1 << 20;
/// Blocks between the reader and the disk.
const BLOCKS: usize = 4;

/// Removes what came in unless it was kept.
struct Incoming {
    tree: Arc<Tree>,
    name: Id,
}

impl Drop for Incoming {
    fn drop(&mut self) {
        if let Err(error) = self.tree.drop_incoming(&self.name.to_string()) {
            tracing::warn!("what came in could not be removed: {}", daemon::report(&error));
        }
    }
}

/// Takes an object of `length` bytes in. `expected` is its hash where that is known before.
pub async fn put(
    tree: &Arc<Tree>,
    engine: &Handle,
    length: u64,
    expected: Option<Sha256>,
    by: &str,
    floor: u64,
    literal: &mut (dyn AsyncRead + Send + Unpin),
) -> Answer {
    let (free, _) = tree.space().map_err(|error| broken(&error))?;
    if length.saturating_add(floor) > free {
        let why = format!("{length} bytes do not fit: {free} bytes are free, {floor} of them stay so");
        return Err(Refusal::new(Fault::Unavailable, why));
    }
    let name = Id::random().map_err(|error| Refusal::new(Fault::Unavailable, error.to_string()))?;
    let (blocks, written) = mpsc::channel::<Vec<u8>>(BLOCKS);
    let writer = {
        let tree = tree.clone();
        tokio::task::spawn_blocking(move || write(&tree, name, written))
    };
    let read = feed(literal, length, blocks).await;
    let written = match writer.await {
        Ok(written) => written,
        Err(error) => Err(Refusal::new(Fault::Unavailable, error.to_string())),
    };
    let (incoming, file, sha256, size) = written?;
    read?;
    if size != length {
        return Err(Refusal::new(Fault::Invalid, format!("{size} bytes came instead of {length}")));
    }
    if let Some(expected) = expected.filter(|expected| *expected != sha256) {
        return Err(Refusal::new(Fault::Invalid, format!("the bytes hash to {sha256} instead of {expected}")));
    }
    let tree = tree.clone();
    let kept = tokio::task::spawn_blocking(move || {
        let kept = tree.keep(name, &file, sha256);
        drop(incoming);
        kept
    });
    match kept.await {
        Ok(kept) => kept.map_err(|error| broken(&error))?,
        Err(error) => return Err(Refusal::new(Fault::Unavailable, error.to_string())),
    }
    hit(Point::BeforeStore);
    engine.ask(Work::Store { sha256, size, by: by.to_owned() }).await
}

async fn feed(
    literal: &mut (dyn AsyncRead + Send + Unpin),
    length: u64,
    blocks: mpsc::Sender<Vec<u8>>,
) -> Result<(), Refusal> {
    let mut left = length;
    while left > 0 {
        let most = usize::try_from(left).map_or(BLOCK, |left| left.min(BLOCK));
        let mut block = Vec::with_capacity(most);
        while block.len() < most {
            let mut part = (&mut *literal).take((most - block.len()) as u64);
            match part.read_buf(&mut block).await {
                Ok(0) => return Err(Refusal::new(Fault::Invalid, "the object ended early")),
                Ok(_) => {}
                Err(error) => return Err(Refusal::new(Fault::Invalid, format!("the object broke off: {error}"))),
            }
        }
        left -= most as u64;
        if blocks.send(block).await.is_err() {
            return Ok(()); // the writer has failed and says why
        }
    }
    Ok(())
}

type Written = Result<(Incoming, File, Sha256, u64), Refusal>;

fn write(tree: &Arc<Tree>, name: Id, mut blocks: mpsc::Receiver<Vec<u8>>) -> Written {
    let mut file = tree.incoming(name).map_err(|error| broken(&error))?;
    let incoming = Incoming { tree: tree.clone(), name };
    let (mut hasher, mut size) = (Hasher::new(), 0u64);
    while let Some(block) = blocks.blocking_recv() {
        hasher.update(&block);
        file.write_all(&block).map_err(|error| unwritable(&error))?;
        size += block.len() as u64;
    }
    let sha256: [u8; 32] = hasher.finalize().into();
    Ok((incoming, file, sha256.into(), size))
}

fn unwritable(error: &io::Error) -> Refusal {
    let why = match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "the file system is full".to_owned(),
        _ => format!("the object could not be written: {error}"),
    };
    Refusal::new(Fault::Unavailable, why)
}

fn broken(error: &TreeError) -> Refusal {
    tracing::error!("the storeroom failed: {}", daemon::report(error));
    Refusal::new(Fault::Unavailable, daemon::report(error))
}

#[cfg(test)]
mod tests;
