//! Release keys: whose updates the images accept, and the key that signs those that are built here.

use super::tree::Tree;
use crate::{root, workdir};
use admin::update::package::{self, Manifest};
use anyhow::{Context, Result, ensure};
use minisign::{ErrorKind, KeyPair, PublicKey, SecretKey, SecretKeyBox};
use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::pki_types::pem::PemObject;
use std::fs::{self, OpenOptions};
use std::io::{Cursor, Write};
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
            match SecretKeyBox::from_string(&text)?.into_unencrypted_secret_key() {
                Err(error) if matches!(error.kind(), ErrorKind::Verify) => without_checksum(&text),
                read => Ok(read?),
            }
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

/// Bytes of a secret key: algorithms, salt and limits of the password, number, key, checksum.
const KEY: usize = 158;
/// Bytes of its checksum, at the end.
const CHECKSUM: usize = 32;

/// A key without a password as minisign itself writes it: with zeros in place of its checksum. Instead it must be able to sign.
fn without_checksum(text: &str) -> Result<SecretKey> {
    let base64 = text.lines().nth(1).context("there is no second line")?;
    // As PEM, which there is a reader of.
    let pem = zeroize::Zeroizing::new(format!("-----BEGIN PRIVATE KEY-----\n{base64}\n-----END PRIVATE KEY-----\n"));
    let key = PrivatePkcs8KeyDer::from_pem_slice(pem.as_bytes())?;
    let bytes = key.secret_pkcs8_der();
    ensure!(bytes.len() == KEY && bytes[KEY - CHECKSUM..] == [0; CHECKSUM], "it is damaged");
    let key = SecretKey::from_bytes(bytes)?;
    let signature = minisign::sign(None, &key, &b"x"[..], None, None)?;
    minisign::verify(&PublicKey::from_secret_key(&key)?, &signature, Cursor::new(b"x"), true, false, false)
        .context("its halves do not fit")?;
    Ok(key)
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

    /// What `minisign -G -W` writes, of another key: it has no checksum.
    fn as_minisign_writes(key: &SecretKey) -> String {
        let mut bytes = key.to_bytes();
        bytes[KEY - CHECKSUM..].fill(0);
        SecretKey::from_bytes(&bytes).unwrap().to_box(None).unwrap().into_string()
    }

    #[test]
    fn keys_of_minisign_itself_are_read() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("x.key");
        let key = KeyPair::generate_unencrypted_keypair().unwrap().sk;
        fs::write(&path, as_minisign_writes(&key)).unwrap();
        let read = Signer::read(&path).unwrap();
        assert_eq!(read.public().unwrap(), Signer(key.clone()).public().unwrap());
        // A part of either half, and of a checksum.
        for at in [KEY - CHECKSUM - 50, KEY - CHECKSUM - 1, KEY - 1] {
            let mut damaged = without_checksum(&as_minisign_writes(&key)).unwrap().to_bytes();
            damaged[at] ^= 1;
            fs::write(&path, SecretKey::from_bytes(&damaged).unwrap().to_box(None).unwrap().into_string()).unwrap();
            assert!(Signer::read(&path).is_err(), "{at}");
        }
    }

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
