//! Room on the disk that the store is on.

use crate::config::Config;
use nix::sys::statvfs::statvfs;
use std::path::{Path, PathBuf};

/// What customers cause is not written any more: what is left is for operators' changes and the records of appliances.
pub(crate) const FULL: &str = "the disk of the store is full but for what is kept for operators and appliances: no grants are issued, \
                               and refused logins are not recorded; replace all data disks by larger ones (`ffsctl storage replace`)";

/// The disk of the store.
#[derive(Debug)]
pub(crate) struct Space {
    folder: PathBuf,
    min_free: u64,
    reserve: u64,
}

impl Space {
    pub(crate) fn new(config: &Config) -> Self {
        let folder = config.store.parent().filter(|path| !path.as_os_str().is_empty()).unwrap_or(Path::new("."));
        Self { folder: folder.to_owned(), min_free: config.min_free_bytes, reserve: config.reserve_bytes }
    }

    /// Bytes that are free, and all there are.
    fn measure(&self) -> nix::Result<(u64, u64)> {
        let stat = statvfs(&self.folder)?;
        let unit = stat.fragment_size();
        Ok((stat.blocks_available().saturating_mul(unit), stat.blocks().saturating_mul(unit)))
    }

    /// Whether only the reserve is left. A file system that does not say is not full.
    pub(crate) fn is_full(&self) -> bool {
        self.measure().is_ok_and(|(free, _)| free < self.reserve)
    }

    /// Whether there is enough, and in words.
    pub(crate) fn check(&self) -> (bool, String) {
        match self.measure() {
            Err(error) => (false, format!("{} cannot be measured: {error}", self.folder.display())),
            Ok((free, all)) => self.judge(free, all),
        }
    }

    fn judge(&self, free: u64, all: u64) -> (bool, String) {
        let (min_free, reserve, words) = (self.min_free, self.reserve, format!("{free} of {all} bytes are free"));
        if free < reserve {
            (false, format!("{words}; {FULL}"))
        } else if free < min_free {
            let todo = "replace all data disks by larger ones (`ffsctl storage replace`)";
            (false, format!("{words}, less than {min_free}; below {reserve} no grants are issued: {todo}"))
        } else {
            (true, words)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_limits_at_their_edges() {
        let space = Space { folder: "/".into(), min_free: 100, reserve: 10 };
        for (free, healthy, words) in [
            (100, true, "100 of 1000 bytes are free"),
            (
                99,
                false,
                "99 of 1000 bytes are free, less than 100; below 10 no grants are issued: replace all data disks",
            ),
            (10, false, "10 of 1000 bytes are free, less than 100"),
            (9, false, "9 of 1000 bytes are free; the disk of the store is full"),
        ] {
            let judged = space.judge(free, 1000);
            assert!(judged.0 == healthy && judged.1.starts_with(words), "{free}: {judged:?}");
        }
    }

    #[test]
    fn what_cannot_be_measured_is_told_and_not_full() {
        let space = Space { folder: "/nonexistent".into(), min_free: 0, reserve: u64::MAX };
        assert!(!space.is_full());
        assert!(!space.check().0);
        let root = Space { folder: "/".into(), ..space };
        assert!(root.is_full());
    }
}
