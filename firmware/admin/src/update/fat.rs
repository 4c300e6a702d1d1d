//! What a power cut does to the ESP, and how that is mended.
//!
//! FAT has no journal, and the kernel writes its parts in any order: a file that was being written when the power went may have a chain
//! of clusters that ends in a free one, and clusters that are in use may be no file's. The kernel finds the former only when it removes
//! the file, and lets nobody write from then on. So the file system is checked before it is mounted, each time: it takes milliseconds,
//! and the firmware, which writes there as well, sets no flag that tells of its cuts.
//!
//! Only what was being written is ever damaged so: what is installed was synced before anything else was begun ([`super::install`]).

use crate::tools::{self, ToolError};
use std::path::Path;

/// Why the file system is not in order.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FatError {
    /// The program is missing.
    #[error("fsck.fat is not installed; it is in the package dosfstools")]
    Missing,
    /// It cannot be repaired, or not be read.
    #[error(
        "the boot partition is damaged, and could not be repaired; what runs goes on, but flash the machine anew before it restarts"
    )]
    Damaged(#[source] ToolError),
}

/// Has the file system on this device, which nobody has mounted, in order. What belonged to no file is in files of the root directory
/// then, see [`is_salvaged`].
///
/// # Errors
/// [`FatError`].
pub(crate) fn check(device: &Path) -> Result<(), FatError> {
    let program = tools::find("fsck.fat").ok_or(FatError::Missing)?;
    let name = device.to_string_lossy();
    let mend = || tools::run(&program, &["-a", &name], b"");
    match mend() {
        // It says the same when it has repaired everything and when it cannot: the second time there is nothing left to repair.
        Err(ToolError::Failed { status, said, .. }) if status.code() == Some(1) => {
            mend().map_err(FatError::Damaged)?;
            tracing::warn!(said, "the boot partition was repaired");
            Ok(())
        }
        Err(error) => Err(FatError::Damaged(error)),
        Ok(_) => Ok(()),
    }
}

/// Whether [`check`] gives files of the root directory such a name, `FSCK0000.REC` and on: parts of an update that was cut off.
pub(super) fn is_salvaged(name: &str) -> bool {
    let number = name.strip_prefix("FSCK").and_then(|rest| rest.strip_suffix(".REC"));
    number.is_some_and(|n| n.len() == 4 && n.bytes().all(|b| b.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, File, OpenOptions};
    use std::os::unix::fs::FileExt;
    use std::path::PathBuf;

    /// Bytes of a file system that is large enough to have FAT32.
    const SIZE: u64 = 64 << 20;

    fn run(program: &str, arguments: &[&str]) -> Result<String, ToolError> {
        let program = tools::find(program).unwrap_or_else(|| panic!("{program} is not installed"));
        tools::run(&program, arguments, b"").map(|said| String::from_utf8(said).unwrap())
    }

    /// A file system with what runs, and what was written when the power went; the latter's first cluster and number of clusters.
    fn cut_off(home: &Path) -> (PathBuf, u64, u64) {
        let (esp, file) = (home.join("esp"), home.join("file"));
        File::create(&esp).unwrap().set_len(SIZE).unwrap();
        fs::write(&file, vec![7; 1 << 20]).unwrap();
        let (image, from) = (esp.to_str().unwrap(), file.to_str().unwrap());
        run("mkfs.vfat", &["-F", "32", image]).unwrap();
        run("mmd", &["-i", image, "::EFI", "::EFI/Linux"]).unwrap();
        for to in ["::EFI/Linux/web_1.0.0.efi", "::EFI/Linux/.web_1.1.0.new"] {
            run("mcopy", &["-i", image, from, to]).unwrap();
        }
        let chain = run("mshowfat", &["-i", image, "::EFI/Linux/.web_1.1.0.new"]).unwrap();
        let (first, last) = chain.trim().rsplit_once('<').unwrap().1.trim_end_matches('>').split_once('-').unwrap();
        let (first, last): (u64, u64) = (first.parse().unwrap(), last.parse().unwrap());
        (esp, first, last - first + 1)
    }

    /// Both copies of a cluster's entry in the FAT say that it is free.
    fn free(esp: &Path, cluster: u64) {
        let file = OpenOptions::new().read(true).write(true).open(esp).unwrap();
        let mut boot = [0; 512];
        file.read_exact_at(&mut boot, 0).unwrap();
        let reserved = u64::from(u16::from_le_bytes([boot[14], boot[15]]));
        let sectors = u64::from(u32::from_le_bytes(boot[36..40].try_into().unwrap()));
        for copy in 0..2 {
            file.write_all_at(&[0; 4], (reserved + copy * sectors) * 512 + cluster * 4).unwrap();
        }
    }

    #[test]
    fn an_update_that_was_cut_off_is_mended() {
        let home = tempfile::tempdir().unwrap();
        let (esp, first, clusters) = cut_off(home.path());
        let image = esp.to_str().unwrap();
        let in_order = || run("fsck.fat", &["-n", image]);
        check(&esp).unwrap();
        in_order().unwrap();
        free(&esp, first + clusters / 2);
        in_order().unwrap_err();
        check(&esp).unwrap();
        in_order().unwrap();
        // What no file had is a file, which is what is swept; what runs is as it was.
        let names = run("mdir", &["-b", "-i", image, "::"]).unwrap();
        assert!(names.lines().any(|name| is_salvaged(name.trim_start_matches("::/"))), "{names}");
        let whole = run("mtype", &["-i", image, "::EFI/Linux/web_1.0.0.efi"]).unwrap();
        assert!(whole.len() == 1 << 20 && whole.bytes().all(|b| b == 7));
    }

    #[test]
    fn what_cannot_be_mended_is_refused() {
        let home = tempfile::tempdir().unwrap();
        let none = home.path().join("none");
        fs::write(&none, vec![1; 1 << 20]).unwrap();
        for device in [&none, &home.path().join("missing")] {
            let error = check(device).unwrap_err();
            assert!(matches!(error, FatError::Damaged(_)), "{error}");
        }
        assert_eq!(fs::read(&none).unwrap(), vec![1; 1 << 20]);
    }
}
