//! Release keys: whose updates the images accept, and the key that signs those that are built here.

use super::tree::Tree;
use crate::{root, workdir};
use admin::update::package::{self, Manifest};
use anyhow::{Context, Result};
use minisign::{KeyPair, PublicKey, SecretKey, SecretKeyBox};
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// The key that signs what is built here.
pub(crate) struct Signer(SecretKey);

impl Signer {
    /// The one that `FFS_RELEASE_KEY` names; else that of this work tree, made when there is none.
    pub(crate) fn open() -> Result<Self> {
        match std::env::var_os("FFS_RELEASE_KEY") {
            Some(path) => Self::read(Path::new(&path)),
            None => {
                let path = workdir().join("release/release.key");
                if !path.exists() {
                    make(&path)?;
                }
                Self::read(&path)
            }
        }
    }

    fn read(path: &Path) -> Result<Self> {
        let read = || -> Result<SecretKey> {
            let text = zeroize::Zeroizing::new(fs::read_to_string(path)?);
            Ok(SecretKeyBox::from_string(&text)?.into_unencrypted_secret_key()?)
        };
        Ok(Self(read().with_context(|| format!("{} is no minisign key without a password", path.display()))?))
    }

    /// The text of its public half.
    fn public(&self) -> Result<String> {
        Ok(PublicKey::from_secret_key(&self.0)?.to_box()?.into_string())
    }

    /// An update file.
    pub(crate) fn package(&self, manifest: &Manifest, image: &[u8]) -> Result<Vec<u8>> {
        let text = manifest.to_text();
        let comment = format!("FFS {} {}", manifest.role.as_str(), manifest.version);
        let signature = minisign::sign(None, &self.0, text.as_bytes(), Some(&comment), None)?.into_string();
        Ok([&package::head(&text, &signature), image].concat())
    }
}

/// Makes a key that only its owner can read.
fn make(path: &Path) -> Result<()> {
    fs::create_dir_all(path.parent().context("a file in a folder")?)?;
    let text = zeroize::Zeroizing::new(KeyPair::generate_unencrypted_keypair()?.sk.to_box(None)?.into_string());
    let partial = path.with_extension("partial");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&partial)?;
    file.write_all(text.as_bytes())?;
    fs::rename(partial, path)?;
    eprintln!("made a release key for this work tree: {}", path.display());
    Ok(())
}

/// Adds the public halves: those of the tree, and the signer's.
pub(crate) fn add_to(tree: &mut Tree, signer: &Signer) -> Result<()> {
    let mut published: Vec<PathBuf> = Vec::new();
    for entry in fs::read_dir(root().join("keys/release"))? {
        published.push(entry?.path());
    }
    published.retain(|path| path.extension().is_some_and(|e| e == "pub"));
    for path in published {
        let name = path.file_name().and_then(|n| n.to_str()).context("the name of a key is not UTF-8")?;
        tree.text(&format!("{}/{name}", package::KEYS), fs::read(&path)?)?;
    }
    tree.text(&format!("{}/builder.pub", package::KEYS), signer.public()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use admin::update::package::ReleaseKeys;
    use keys::site::Role;
    use std::os::unix::fs::PermissionsExt;

    #[tokio::test]
    async fn what_is_signed_here_is_accepted_there() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("release/x.key");
        make(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let signer = Signer::read(&path).unwrap();
        let manifest = Manifest {
            role: Role::Web,
            version: "1.2.3".parse().unwrap(),
            hardware: package::HARDWARE.into(),
            memory_mib: package::MEMORY_MIB,
            size: 5,
            sha256: super::super::hash(b"image"),
        };
        let file = signer.package(&manifest, b"image").unwrap();
        let keys = ReleaseKeys::one(&signer.public().unwrap()).unwrap();
        let mut rest = &*file;
        assert_eq!(package::open(&mut rest, &keys).await.unwrap(), manifest);
        assert_eq!(rest, b"image");
        let mut tree = Tree::default();
        add_to(&mut tree, &signer).unwrap();
        assert!(tree.get("/usr/share/ffs/release-keys/builder.pub").is_some());
        assert!(Signer::read(Path::new("/dev/null")).is_err());
    }
}
