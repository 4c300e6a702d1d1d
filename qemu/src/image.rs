//! What `cargo xtask image` made of a role.

use crate::Error;
use crate::machine::Boot;
use serde::Deserialize;
use std::fs;
use std::path::{Path, PathBuf};

/// What we need of an image's manifest.json.
#[derive(Debug, Clone, Deserialize)]
struct Manifest {
    cmdline: String,
}

/// The directory of a role's image.
#[derive(Debug, Clone)]
pub struct RoleImage {
    dir: PathBuf,
    manifest: Manifest,
}

impl RoleImage {
    /// Opens it.
    ///
    /// # Errors
    /// When there is no manifest, or it makes no sense.
    pub fn open(dir: &Path) -> Result<Self, Error> {
        let path = dir.join("manifest.json");
        let bytes = fs::read(&path).map_err(Error::io(&path))?;
        let manifest = serde_json::from_slice(&bytes).map_err(|source| Error::Manifest { path, source })?;
        Ok(Self { dir: dir.into(), manifest })
    }

    /// Kernel and first file system, as they are.
    pub fn direct(&self) -> Boot {
        Boot::Direct {
            kernel: self.dir.join("vmlinuz"),
            initrd: Some(self.dir.join("initrd.zst")),
            cmdline: self.manifest.cmdline.clone(),
        }
    }
}

/// Where Debian's ovmf package puts the firmware and the variables that a machine begins with.
pub const OVMF: [&str; 2] = ["/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd"];

/// The same firmware for Secure Boot.
pub const OVMF_SECURE: &str = "/usr/share/OVMF/OVMF_CODE_4M.secboot.fd";

/// UEFI without Secure Boot; the machine's variables are put into this file, anew.
///
/// # Errors
/// When OVMF is not installed, or the file cannot be written.
pub fn uefi(vars: &Path) -> Result<Boot, Error> {
    let [code, blank] = OVMF;
    fs::copy(blank, vars).map_err(Error::io(blank))?;
    Ok(Boot::Uefi { code: code.into(), vars: vars.into(), guarded: false })
}

/// UEFI that enforces Secure Boot once a key is enrolled; the machine's variables, without keys, are put into this file, anew.
///
/// # Errors
/// When OVMF is not installed, or the file cannot be written.
pub fn secure_uefi(vars: &Path) -> Result<Boot, Error> {
    fs::copy(OVMF[1], vars).map_err(Error::io(OVMF[1]))?;
    Ok(Boot::Uefi { code: OVMF_SECURE.into(), vars: vars.into(), guarded: true })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn manifests() {
        let dir = tempfile::tempdir().unwrap();
        let open = |text: &str| {
            fs::write(dir.path().join("manifest.json"), text).unwrap();
            RoleImage::open(dir.path())
        };
        let image = open(r#"{"role": "web", "cmdline": "quiet console=ttyS0"}"#).unwrap();
        let Boot::Direct { kernel, cmdline, .. } = image.direct() else { panic!("not booted directly") };
        assert_eq!((kernel, cmdline.as_str()), (dir.path().join("vmlinuz"), "quiet console=ttyS0"));
        assert!(matches!(open("{}"), Err(Error::Manifest { .. })));
        assert!(matches!(RoleImage::open(Path::new("/nowhere")), Err(Error::Io { .. })));
    }
}
