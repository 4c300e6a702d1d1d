//! The ESP of this machine, mounted only while something is done with it: a file system that cannot take a power cut well should
//! not be open when none is needed.

use super::fat::{self, FatError};
use super::install::{Esp, InstallError};
use super::slots::{Slots, Version};
use crate::state::mount::booted_esp;
use keys::site::Role;
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Where it is mounted.
pub(crate) const AT: &str = "/boot";
/// Where the image says which version it is.
pub(crate) const OS_RELEASE: &str = "/usr/lib/os-release";

/// Why there are no boot entries to work with.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EspError {
    /// The machine was started without a loader.
    #[error("this machine was not started from its boot disk, so there is nothing to update")]
    Direct,
    /// It cannot be found or mounted.
    #[error("the boot partition cannot be used")]
    Mount(#[source] io::Error),
    /// It is not in order.
    #[error(transparent)]
    Fat(#[from] FatError),
    /// Its entries.
    #[error(transparent)]
    Entries(#[from] InstallError),
    /// The image does not say what it is.
    #[error("the image does not say which version it is")]
    Version,
}

/// The ESP, mounted until this is dropped.
#[derive(Debug)]
pub(crate) struct Mounted(());

/// Mounts it at [`AT`], unless it is already; what a power cut has left of it is mended first.
pub(crate) fn attach() -> Result<(), EspError> {
    let device = booted_esp().map_err(EspError::Mount)?.ok_or(EspError::Direct)?.path();
    // Whoever else wants it waits until it is mounted: it must not be while it is repaired.
    let lock = File::open(&device).map_err(EspError::Mount)?;
    lock.lock().map_err(EspError::Mount)?;
    if is_mounted(&device).map_err(EspError::Mount)? {
        return Ok(());
    }
    fat::check(&device)?;
    let flags = MsFlags::MS_NODEV | MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC | MsFlags::MS_NOATIME;
    mount(Some(&device), AT, Some("vfat"), flags, Some("umask=0077,flush")).map_err(|e| EspError::Mount(e.into()))
}

/// Whether a file system on this device is mounted: then nobody gets it for himself (open(2), `O_EXCL`).
fn is_mounted(device: &Path) -> io::Result<bool> {
    match OpenOptions::new().read(true).custom_flags(OFlag::O_EXCL.bits()).open(device) {
        Ok(_) => Ok(false),
        Err(error) if error.raw_os_error() == Some(Errno::EBUSY as i32) => Ok(true),
        Err(error) => Err(error),
    }
}

/// Unmounts it, if it is mounted.
pub(crate) fn detach() -> Result<(), EspError> {
    match umount2(AT, MntFlags::UMOUNT_NOFOLLOW) {
        Ok(()) | Err(Errno::EINVAL) => Ok(()),
        Err(errno) => Err(EspError::Mount(errno.into())),
    }
}

impl Mounted {
    /// Mounts it.
    pub(crate) fn new() -> Result<Self, EspError> {
        attach().map(|()| Self(()))
    }

    /// Its entries.
    pub(crate) fn esp(&self) -> Esp {
        Esp::new(Path::new(AT))
    }

    /// Its entries, and which of them runs.
    pub(crate) fn slots(&self, role: Role) -> Result<Slots, EspError> {
        let running = running().ok_or(EspError::Version)?;
        Ok(Slots { role, running, entries: self.esp().entries()? })
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if let Err(error) = detach() {
            tracing::error!("the boot partition stays mounted: {}", daemon::report(&error));
        }
    }
}

/// The version that runs.
pub(crate) fn running() -> Option<Version> {
    version_of(&fs::read_to_string(OS_RELEASE).ok()?)
}

/// `IMAGE_VERSION` of os-release(5).
pub(crate) fn version_of(os_release: &str) -> Option<Version> {
    os_release.lines().find_map(|l| l.strip_prefix("IMAGE_VERSION="))?.trim_matches('"').parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_image_says_it_is() {
        assert_eq!(version_of("ID=ffs\nIMAGE_VERSION=1.2.3\n").unwrap().to_string(), "1.2.3");
        assert_eq!(version_of("IMAGE_VERSION=\"1.2.3\"\n").unwrap().to_string(), "1.2.3");
        assert_eq!(version_of("VERSION_ID=1.2.3\nIMAGE_VERSION=next\n"), None);
    }
}
