//! How an entry gets onto the ESP.
//!
//! Each step is durable before the next begins; a machine that loses its power between any two of them starts what ran before, or
//! what is new and whole:
//! 1. the image is written to `.<role>_<version>.new`, a name that no loader looks at, and hashed on the way;
//! 2. the file is synced, forgotten by the page cache, and read back: what is on the disk is what was signed;
//! 3. the entries that it takes the place of are removed, and all of the file system is synced;
//! 4. it is renamed to `<role>_<version>+3.efi`, and all of the file system is synced, for FAT renames in two steps;
//! 5. where an older version was ordered, the newer one is renamed so that it stands back.
//!
//! So an upload that breaks off, or is not what was signed, costs no version. Only on an ESP without room for a third image, which
//! ours have, step 3 goes first, and only if it makes enough room: what runs is all that is left then until the new one is in.
//!
//! The loader itself is never touched.

use super::fat;
use super::package::{Manifest, PackageError};
use super::slots::{Entry, Plan};
use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
use nix::sys::statvfs::statvfs;
use nix::unistd::syncfs;
use sha2::{Digest, Sha256};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use tokio::io::{AsyncRead, AsyncReadExt};

/// Bytes that are read or written at once.
const BLOCK: usize = 1 << 20;

/// Why an entry was not put in; the entries are as they were, or those whose place it was to take are gone.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// The update file.
    #[error(transparent)]
    Package(#[from] PackageError),
    /// The ESP has no room.
    #[error("the update needs {needed} bytes, and the boot partition has {free}")]
    Room {
        /// Bytes of the image.
        needed: u64,
        /// Bytes that are free.
        free: u64,
    },
    /// What was read back is not what was written.
    #[error("the boot partition gave back other bytes than were written; its disk may be failing")]
    ReadBack,
    /// A file on the ESP.
    #[error("cannot change {path} on the boot partition")]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> InstallError {
    let path = path.to_owned();
    move |source| InstallError::Io { path, source }
}

/// What is about to be done; tests stop before each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// An entry is removed.
    Remove,
    /// A block is written.
    Write,
    /// The new file is synced.
    Sync,
    /// The new file gets its name.
    Name,
    /// An entry gets another name.
    Rename,
    /// All names are synced.
    SyncNames,
}

/// The entries of an ESP.
#[derive(Debug, Clone)]
pub struct Esp {
    root: PathBuf,
    /// Where the entries are.
    dir: PathBuf,
}

impl Esp {
    /// The ESP that is mounted here.
    pub fn new(mounted: &Path) -> Self {
        Self { root: mounted.to_owned(), dir: mounted.join("EFI/Linux") }
    }

    /// All entries of ours.
    ///
    /// # Errors
    /// [`InstallError::Io`].
    pub fn entries(&self) -> Result<Vec<Entry>, InstallError> {
        let mut entries = Vec::new();
        for entry in fs::read_dir(&self.dir).map_err(at(&self.dir))? {
            let name = entry.map_err(at(&self.dir))?.file_name();
            entries.extend(name.to_str().and_then(Entry::parse));
        }
        Ok(entries)
    }

    /// Carries a plan out. `from` gives the image of the manifest; it must end with it.
    ///
    /// # Errors
    /// [`InstallError`].
    pub async fn apply<R: AsyncRead + Unpin + ?Sized>(
        &self,
        plan: &Plan,
        update: Option<(&Manifest, &mut R)>,
    ) -> Result<(), InstallError> {
        let stat = statvfs(&self.dir).map_err(|e| at(&self.dir)(e.into()))?;
        let free = stat.blocks_available().saturating_mul(stat.fragment_size());
        self.apply_in_steps(plan, update, free, &mut |_| Ok(())).await
    }

    async fn apply_in_steps<R: AsyncRead + Unpin + ?Sized>(
        &self,
        plan: &Plan,
        update: Option<(&Manifest, &mut R)>,
        free: u64,
        before: &mut (dyn FnMut(Step) -> io::Result<()> + Send),
    ) -> Result<(), InstallError> {
        let free = free.saturating_add(self.sweep()?);
        if let (Some(entry), Some((manifest, from))) = (&plan.write, update) {
            let first = !self.has_room(plan, manifest.size, free)?;
            if first {
                self.remove(plan, before)?;
            }
            let new = self.dir.join(format!(".{}_{}.new", entry.role.as_str(), entry.version));
            let named = self.dir.join(entry.to_string());
            let mut done = self.write(&new, manifest, from, before).await;
            if done.is_ok() && !first {
                done = self.remove(plan, before);
            }
            let done =
                done.and_then(|()| before(Step::Name).and_then(|()| fs::rename(&new, &named)).map_err(at(&named)));
            if done.is_err() {
                // What is left of it is of no use; the next one sweeps if this does not succeed.
                let _ = fs::remove_file(&new);
            }
            done?;
            self.sync(before)?;
        } else {
            self.remove(plan, before)?;
        }
        for (from, to) in &plan.rename {
            let (from, to) = (self.dir.join(from.to_string()), self.dir.join(to.to_string()));
            before(Step::Rename).and_then(|()| fs::rename(&from, &to)).map_err(at(&from))?;
            self.sync(before)?;
        }
        Ok(())
    }

    /// Whether there is room for the image beside all that is there; an error where there would be none without the old entries either.
    fn has_room(&self, plan: &Plan, needed: u64, free: u64) -> Result<bool, InstallError> {
        // The folder may have to grow for a further name.
        if needed.saturating_add(BLOCK as u64) <= free {
            return Ok(true);
        }
        let mut most = free;
        for entry in &plan.remove {
            let path = self.dir.join(entry.to_string());
            most = most.saturating_add(fs::metadata(&path).map_err(at(&path))?.len());
        }
        if most < needed { Err(InstallError::Room { needed, free: most }) } else { Ok(false) }
    }

    /// Removes the old entries. They are gone before anything takes their place, so that no loader sees an entry with the blocks of
    /// another, nor twins.
    fn remove(&self, plan: &Plan, before: &mut (dyn FnMut(Step) -> io::Result<()> + Send)) -> Result<(), InstallError> {
        for entry in &plan.remove {
            let path = self.dir.join(entry.to_string());
            before(Step::Remove).and_then(|()| fs::remove_file(&path)).map_err(at(&path))?;
        }
        self.sync(before)
    }

    /// Removes what an update that was cut off has left, and what was salvaged of it; gives how many bytes that were.
    fn sweep(&self) -> Result<u64, InstallError> {
        let is_new = |name: &str| name.ends_with(".new");
        Ok(remove_files(&self.dir, is_new)? + remove_files(&self.root, fat::is_salvaged)?)
    }

    /// All of it, not the directory alone. FAT keeps size and place of a file in the file's directory entry, and the entry of one
    /// that was renamed has neither until the file, too, is written back: a loader would find a file of 0 bytes. syncfs(2) does
    /// that, and fsync(2) has the disk empty its cache, which FAT's syncfs(2) does not.
    fn sync(&self, before: &mut (dyn FnMut(Step) -> io::Result<()> + Send)) -> Result<(), InstallError> {
        let sync = || {
            let dir = File::open(&self.dir)?;
            syncfs(&dir)?;
            dir.sync_all()
        };
        before(Step::SyncNames).and_then(|()| sync()).map_err(at(&self.dir))
    }

    async fn write<R: AsyncRead + Unpin + ?Sized>(
        &self,
        path: &Path,
        manifest: &Manifest,
        from: &mut R,
        before: &mut (dyn FnMut(Step) -> io::Result<()> + Send),
    ) -> Result<(), InstallError> {
        let mut file = OpenOptions::new().write(true).create_new(true).open(path).map_err(at(path))?;
        let (mut block, mut left, mut hash) = (vec![0; BLOCK], manifest.size, Sha256::new());
        while left > 0 {
            let most = BLOCK.min(usize::try_from(left).unwrap_or(BLOCK));
            let n = from.read(&mut block[..most]).await.map_err(PackageError::Io)?;
            if n == 0 {
                return Err(PackageError::CutOff.into());
            }
            hash.update(&block[..n]);
            before(Step::Write).and_then(|()| file.write_all(&block[..n])).map_err(at(path))?;
            left -= u64::try_from(n).unwrap_or(left);
        }
        if from.read(&mut block).await.map_err(PackageError::Io)? != 0
            || hex::encode(hash.finalize()) != manifest.sha256
        {
            return Err(PackageError::Image.into());
        }
        before(Step::Sync).and_then(|()| file.sync_all()).map_err(at(path))?;
        drop(file);
        if read_back(path).map_err(at(path))? == manifest.sha256 { Ok(()) } else { Err(InstallError::ReadBack) }
    }
}

/// Removes the files in a folder whose names are such; gives how many bytes that were.
fn remove_files(dir: &Path, such: impl Fn(&str) -> bool) -> Result<u64, InstallError> {
    let mut freed = 0;
    for entry in fs::read_dir(dir).map_err(at(dir))? {
        let entry = entry.map_err(at(dir))?;
        let path = entry.path();
        let metadata = entry.metadata().map_err(at(&path))?;
        if metadata.is_file() && entry.file_name().to_str().is_some_and(&such) {
            fs::remove_file(&path).map_err(at(&path))?;
            freed += metadata.len();
        }
    }
    Ok(freed)
}

/// The hash of what is on the disk, not of what is in memory.
fn read_back(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    // The file is clean, so that all of its pages go.
    posix_fadvise(&file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED)?;
    let (mut block, mut hash) = (vec![0; BLOCK], Sha256::new());
    loop {
        match file.read(&mut block)? {
            0 => return Ok(hex::encode(hash.finalize())),
            n => hash.update(&block[..n]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::package::MEMORY_MIB;
    use super::super::package::tests::manifest;
    use super::super::slots::{Insist, Slots, Tries};
    use super::*;
    use keys::site::Role;

    const OLD: &[u8] = b"the image that runs";

    fn esp(names: &[&str]) -> (tempfile::TempDir, Esp) {
        let home = tempfile::tempdir().unwrap();
        let esp = Esp::new(home.path());
        fs::create_dir_all(&esp.dir).unwrap();
        for name in names {
            fs::write(esp.dir.join(name), OLD).unwrap();
        }
        (home, esp)
    }

    fn slots(esp: &Esp, running: &str) -> Slots {
        Slots { role: Role::Web, running: running.parse().unwrap(), entries: esp.entries().unwrap() }
    }

    fn names(esp: &Esp) -> Vec<String> {
        let mut names: Vec<String> =
            fs::read_dir(&esp.dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    fn plan(esp: &Esp, to: &str) -> Plan {
        let insist = Insist { downgrade: true, again: false };
        slots(esp, "1.0.0").update(&manifest(to, b"image"), MEMORY_MIB, &[], insist).unwrap()
    }

    #[tokio::test]
    async fn an_update_is_written_beside_what_runs() {
        let image = vec![7; BLOCK + 1];
        let (_home, esp) = esp(&["web_1.0.0.efi", "web_0.9.0.efi", ".web_1.1.0.new", "other.efi"]);
        let plan = plan(&esp, "1.1.0");
        esp.apply(&plan, Some((&manifest("1.1.0", &image), &mut &*image))).await.unwrap();
        assert_eq!(names(&esp), ["other.efi", "web_1.0.0.efi", "web_1.1.0+3.efi"]);
        assert_eq!(fs::read(esp.dir.join("web_1.1.0+3.efi")).unwrap(), image);
    }

    #[test]
    fn only_what_was_salvaged_is_swept() {
        let (home, esp) = esp(&[]);
        let kept = ["FSCK0000.REC.efi", "FSCKabcd.REC", "FSCK00000.REC", "fsck0000.rec", "x"];
        for name in kept.iter().chain(&["FSCK0000.REC", "FSCK0012.REC"]) {
            fs::write(home.path().join(name), "x").unwrap();
        }
        fs::create_dir(home.path().join("FSCK0001.REC")).unwrap();
        assert_eq!(esp.sweep().unwrap(), 2);
        let mut left: Vec<_> = fs::read_dir(home.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(
            left,
            ["EFI", "FSCK0000.REC.efi", "FSCK00000.REC", "FSCK0001.REC", "FSCKabcd.REC", "fsck0000.rec", "x"]
        );
    }

    #[tokio::test]
    async fn another_image_than_the_signed_one_leaves_nothing() {
        let (_home, esp) = esp(&["web_1.0.0.efi"]);
        let signed = manifest("1.1.0", b"image");
        for (bytes, cut) in [(&b"imagf"[..], false), (b"imag", true), (b"images", false), (b"", true)] {
            let plan = plan(&esp, "1.1.0");
            let error = esp.apply(&plan, Some((&signed, &mut &*bytes))).await.unwrap_err();
            let expected = if cut {
                matches!(error, InstallError::Package(PackageError::CutOff))
            } else {
                matches!(error, InstallError::Package(PackageError::Image))
            };
            assert!(expected, "{bytes:?}: {error}");
            assert_eq!(names(&esp), ["web_1.0.0.efi"]);
        }
    }

    #[tokio::test]
    async fn more_than_there_is_room_for() {
        let (_home, esp) = esp(&["web_1.0.0.efi"]);
        let signed = Manifest { size: u64::MAX, ..manifest("1.1.0", b"x") };
        let error = esp.apply(&plan(&esp, "1.1.0"), Some((&signed, &mut &b"x"[..]))).await.unwrap_err();
        assert!(matches!(error, InstallError::Room { .. }), "{error}");
    }

    /// What goes wrong before the new image is whole costs nothing, neither the version that runs nor the way back.
    #[tokio::test]
    async fn an_upload_that_breaks_off_leaves_both_versions() {
        let before = ["web_0.9.0.efi", "web_1.0.0.efi"];
        let (_home, esp) = esp(&before);
        let signed = manifest("1.1.0", b"image");
        for bytes in [&b"ima"[..], b"imagf", b"images"] {
            esp.apply(&plan(&esp, "1.1.0"), Some((&signed, &mut &*bytes))).await.unwrap_err();
            assert_eq!(names(&esp), before, "{bytes:?}");
        }
    }

    #[tokio::test]
    async fn what_makes_room_goes_first_only_if_there_is_none() {
        let image = vec![7; BLOCK];
        let signed = manifest("1.1.0", &image);
        let (_home, esp) = esp(&["web_1.0.0.efi", "web_0.9.0.efi"]);
        fs::write(esp.dir.join("web_0.9.0.efi"), vec![8; BLOCK]).unwrap();
        let mut steps = Vec::new();
        let mut note = |step| {
            steps.push(step);
            Ok(())
        };
        let plan = plan(&esp, "1.1.0");
        esp.apply_in_steps(&plan, Some((&signed, &mut &*image)), 0, &mut note).await.unwrap();
        use Step::{Name, Remove, Sync, SyncNames, Write};
        assert_eq!(steps, [Remove, SyncNames, Write, Sync, Name, SyncNames]);
        // Where not even that would do, nothing goes.
        let (_home, esp) = self::esp(&["web_1.0.0.efi", "web_0.9.0.efi"]);
        let done = esp.apply_in_steps(&plan, Some((&signed, &mut &*image)), 0, &mut |_| Ok(())).await;
        assert!(matches!(done, Err(InstallError::Room { .. })), "{done:?}");
        assert_eq!(names(&esp), ["web_0.9.0.efi", "web_1.0.0.efi"]);
    }

    /// Cut before each step in turn: there is always something whole to start, and trying again ends as if nothing had been.
    #[tokio::test]
    async fn cut_anywhere_there_is_something_to_start() {
        let image = vec![9; 2 * BLOCK];
        for (to, free) in [("1.1.0", u64::MAX), ("0.9.0", u64::MAX), ("1.1.0", 0), ("0.9.0", 0)] {
            let mut cuts = 0;
            loop {
                let (_home, esp) = esp(&["web_1.0.0.efi", "web_0.8.0.efi"]);
                // Large enough to make the room.
                let old_one = vec![8; image.len()];
                fs::write(esp.dir.join("web_0.8.0.efi"), &old_one).unwrap();
                let signed = manifest(to, &image);
                let mut left = cuts;
                let mut whole = false;
                let mut stop = |step: Step| {
                    left -= 1;
                    // Written and read back, for the next is not done before that.
                    whole |= matches!(step, Step::Remove | Step::Name);
                    if left < 0 { Err(io::Error::other("cut")) } else { Ok(()) }
                };
                let outcome = esp.apply_in_steps(&plan(&esp, to), Some((&signed, &mut &*image)), free, &mut stop).await;
                for name in names(&esp).iter().filter(|n| n.ends_with(".efi")) {
                    let bytes = fs::read(esp.dir.join(name)).unwrap();
                    assert!(
                        bytes == OLD || bytes == image || bytes == old_one,
                        "{name} is not whole after {cuts} steps"
                    );
                }
                let after = slots(&esp, "1.0.0");
                let old = after.entries.iter().find(|e| e.version == after.running).expect("what ran is there");
                assert!(old.tries == Tries::Blessed || to == "0.9.0");
                assert!(after.next().is_some());
                assert!(whole || esp.dir.join("web_0.8.0.efi").exists(), "the way back is gone after {cuts} steps");
                if outcome.is_ok() {
                    break;
                }
                if old.tries == Tries::Blessed {
                    esp.apply(&plan(&esp, to), Some((&signed, &mut &*image))).await.unwrap();
                    assert_eq!(slots(&esp, "1.0.0").next().unwrap().version.to_string(), to);
                }
                cuts += 1;
            }
            assert!(cuts > 6, "{cuts} steps");
        }
    }
}
