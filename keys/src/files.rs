//! Files that are written once and durably.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

/// A new file for its owner only.
pub(crate) fn secret(path: &Path, bytes: &[u8]) -> io::Result<()> {
    create(path, bytes, 0o600)
}

/// A new file that everybody may read.
pub(crate) fn public(path: &Path, bytes: &[u8]) -> io::Result<()> {
    create(path, bytes, 0o644)
}

fn create(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    path.parent().map_or(Ok(()), |dir| File::open(dir)?.sync_all())
}

/// A new directory for its owner only.
pub(crate) fn directory(path: &Path) -> io::Result<()> {
    std::fs::DirBuilder::new().mode(0o700).create(path)
}
