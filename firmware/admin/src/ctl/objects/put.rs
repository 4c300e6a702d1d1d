//! How a file becomes an object.
//!
//! It is hashed first, so that a storeroom that has it already gets nothing, and one that has a part of it gets the rest. A
//! connection that breaks is made again a few times; after that the same command goes on where it was.

use super::super::link::Operator;
use super::super::progress::Counted;
use super::super::{CtlError, show};
use serde_json::json;
use sha2::{Digest, Sha256 as Hasher};
use std::io;
use std::path::Path;
use std::time::Duration;
use tobj::{FileName, Name, Reply, Request, Sha256};
use tokio::io::{AsyncReadExt, AsyncSeekExt};

/// How often a connection that broke is made again.
const TRIES: u32 = 5;
/// The pause before that; it doubles.
const PAUSE: Duration = Duration::from_secs(1);
/// Bytes that are read at a time.
const BLOCK: usize = 1 << 20;

pub(super) async fn put(
    operator: &Operator,
    download: &str,
    path: &Path,
    (product, version): (Name, Name),
    name: Option<FileName>,
    as_json: bool,
) -> Result<(), CtlError> {
    let unusable = |why: String| CtlError::Usage(format!("{}: {why}", path.display()));
    let name = match name {
        Some(name) => name,
        None => {
            let own = path.file_name().and_then(|n| n.to_str());
            let own = own.ok_or_else(|| unusable("its name is not UTF-8; give one with --name".into()))?;
            FileName::normalised(own).map_err(|e| unusable(format!("{e}; give another with --name")))?
        }
    };
    let database = operator.database()?;
    let machine = Name::new(download).map_err(CtlError::failed("the machine's name cannot be used"))?;
    let (sha256, size) = hash(path).await.map_err(|e| unusable(e.to_string()))?;
    let known = bring(operator, download, path, sha256, size).await?;
    let add = Request::ObjectAdd {
        product: product.clone(),
        version: version.clone(),
        file: name.clone(),
        size,
        sha256,
        download: machine,
    };
    operator.ask(database, add).await?;
    if as_json {
        return show::json(&json!({
            "product": product.as_str(), "version": version.as_str(), "file": name.as_str(), "size": size,
            "sha256": sha256.to_string(), "download": download, "known": known,
        }));
    }
    let note = if known { "; the storeroom had these bytes already" } else { "" };
    show::line(&format!("{product} {version}: {name}, {}, sha256 {sha256}{note}", show::size(size)))
}

async fn open(path: &Path) -> io::Result<(tokio::fs::File, u64)> {
    let file = tokio::fs::File::open(path).await?;
    let metadata = file.metadata().await?;
    if !metadata.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
    }
    Ok((file, metadata.len()))
}

/// The hash of a file and its size.
async fn hash(path: &Path) -> io::Result<(Sha256, u64)> {
    let (file, size) = open(path).await?;
    let (mut file, mut hasher) = (Counted::new(file, size).that_is("hashed"), Hasher::new());
    let (mut block, mut read) = (vec![0; BLOCK], 0u64);
    loop {
        let n = file.read(&mut block).await?;
        if n == 0 {
            break;
        }
        hasher.update(&block[..n]);
        read += n as u64;
    }
    file.finish();
    let hash: [u8; 32] = hasher.finalize().into();
    Ok((hash.into(), read))
}

/// Brings what the storeroom does not have; whether it had all of it.
async fn bring(operator: &Operator, download: &str, path: &Path, sha256: Sha256, size: u64) -> Result<bool, CtlError> {
    let (mut tries, mut pause) = (TRIES, PAUSE);
    loop {
        let error = match once(operator, download, path, sha256, size).await {
            Ok(known) => return Ok(known),
            // What one try did of it is known already to the next one.
            Err(error @ CtlError::Failed { .. }) if tries > 0 => error,
            Err(error @ CtlError::Refused { .. }) if tries > 0 && tries < TRIES => error,
            Err(CtlError::Failed { what, source }) => {
                let what = format!("{what}; the same command goes on from there");
                return Err(CtlError::Failed { what, source });
            }
            Err(error) => return Err(error),
        };
        eprintln!("ffsctl: {}; trying again in {} s", daemon::report(&error), pause.as_secs());
        tokio::time::sleep(pause).await;
        tries -= 1;
        pause *= 2;
    }
}

async fn once(operator: &Operator, download: &str, path: &Path, sha256: Sha256, size: u64) -> Result<bool, CtlError> {
    let offset = match operator.ask(download, Request::ObjectBegin { sha256, size }).await? {
        Reply::Stored { .. } => return Ok(true),
        Reply::Upload { offset } if offset <= size => offset,
        _ => return Err(CtlError::Mismatch(download.to_owned())),
    };
    let unusable = |e: io::Error| CtlError::Usage(format!("{}: {e}", path.display()));
    let (mut file, now) = open(path).await.map_err(unusable)?;
    if now != size {
        return Err(CtlError::Usage(format!("{} changes while it is read", path.display())));
    }
    if offset > 0 {
        eprintln!("going on after {} of {}", show::size(offset), show::size(size));
    }
    file.seek(io::SeekFrom::Start(offset)).await.map_err(unusable)?;
    let mut body = Counted::new(file, size).after(offset);
    let reply = operator.send(download, Request::ObjectAppend { sha256, offset }, size - offset, &mut body).await?;
    body.finish();
    match reply {
        Reply::Stored { sha256: stored, .. } if stored == sha256 => Ok(false),
        _ => Err(CtlError::Mismatch(download.to_owned())),
    }
}
