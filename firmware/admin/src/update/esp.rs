//! The ESP of this machine, mounted only while something is done with it: a file system that cannot take a power cut well should
//! not be open when none is needed.
//!
//! The daemon, the health gate and the step that marks an entry as good are processes of their own that may want it at the same
//! instant. Each has it alone, until it is unmounted again ([`Mounted`]).

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

/// The ESP, mounted at [`AT`] until this is dropped.
#[derive(Debug)]
pub(crate) struct Mounted {
    /// Given back after the unmounting: who has waited must not find what is about to go.
    _turn: File,
}

/// Waits until nobody else works with the file system on this device; the right to do so then, until it is dropped. It ends with its
/// process, too.
fn turn(device: &Path) -> io::Result<File> {
    let turn = File::open(device)?;
    turn.lock()?;
    Ok(turn)
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
fn detach() -> Result<(), EspError> {
    match umount2(AT, MntFlags::UMOUNT_NOFOLLOW) {
        Ok(()) | Err(Errno::EINVAL) => Ok(()),
        Err(errno) => Err(EspError::Mount(errno.into())),
    }
}

impl Mounted {
    /// Waits for its turn and mounts it; what a power cut has left of it is mended first.
    pub(crate) fn new() -> Result<Self, EspError> {
        let device = booted_esp().map_err(EspError::Mount)?.ok_or(EspError::Direct)?.path();
        let mounted = Self { _turn: turn(&device).map_err(EspError::Mount)? };
        // A process that was killed has left it so.
        if !is_mounted(&device).map_err(EspError::Mount)? {
            fat::check(&device)?;
            let flags = MsFlags::MS_NODEV | MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC | MsFlags::MS_NOATIME;
            mount(Some(&device), AT, Some("vfat"), flags, Some("umask=0077,flush"))
                .map_err(|e| EspError::Mount(e.into()))?;
        }
        Ok(mounted)
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
    use std::fs::TryLockError;

    #[test]
    fn one_at_a_time() {
        let device = tempfile::NamedTempFile::new().unwrap();
        let first = turn(device.path()).unwrap();
        let other = File::open(device.path()).unwrap();
        assert!(matches!(other.try_lock(), Err(TryLockError::WouldBlock)));
        let waits = std::thread::spawn({
            let path = device.path().to_owned();
            move || turn(&path).unwrap()
        });
        drop(first);
        let second = waits.join().unwrap();
        assert!(matches!(other.try_lock(), Err(TryLockError::WouldBlock)));
        drop(second);
        other.try_lock().unwrap();
    }

    #[test]
    fn what_an_image_says_it_is() {
        assert_eq!(version_of("ID=ffs\nIMAGE_VERSION=1.2.3\n").unwrap().to_string(), "1.2.3");
        assert_eq!(version_of("IMAGE_VERSION=\"1.2.3\"\n").unwrap().to_string(), "1.2.3");
        assert_eq!(version_of("VERSION_ID=1.2.3\nIMAGE_VERSION=next\n"), None);
    }
}
