//! The update file, `.ffsup`: a signed manifest, then the unified kernel image that it describes.
//!
//! ```text
//! FFSUP/1 LF
//! <bytes of the manifest> SP <bytes of the signature> LF     decimal, no leading zeros
//! <manifest>      TOML: role, version, hardware, memory_mib, size, sha256
//! <signature>     of the manifest, as minisign writes it (Ed25519 over BLAKE2b-512)
//! <image>         exactly `size` bytes whose SHA-256 is `sha256`
//! ```
//! The signature covers the image through its hash, so that all of the file is signed and none of it is acted on before. Nothing
//! follows the image.
//!
//! ```
//! use admin::update::package::Manifest;
//! let text = "role = 'web'\nversion = '1.2.3'\nhardware = 'x86_64-uefi'\nmemory_mib = 1024\nsize = 4\nsha256 = '88d4266fd4e6338d13b845fcf289579d209c897823b9217da3e161936f031589'\n";
//! let manifest = Manifest::parse(text.as_bytes()).unwrap();
//! assert_eq!((manifest.version.to_string(), manifest.memory_mib), ("1.2.3".to_owned(), 1024));
//! ```

use super::slots::Version;
use keys::site::Role;
use minisign_verify::{PublicKey, Signature};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::{fs, io};
use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncReadExt};

/// How the file begins.
pub const MAGIC: &str = "FFSUP/1\n";
/// Most bytes of a manifest.
pub const MAX_MANIFEST: usize = 4096;
/// Most bytes of a signature.
pub const MAX_SIGNATURE: usize = 1024;
/// Most bytes of an image; beyond that two do not fit on the ESP.
pub const MAX_IMAGE: u64 = 96 << 20;
/// The hardware that this system is for.
pub const HARDWARE: &str = "x86_64-uefi";
/// MiB of memory that a machine must have for this system.
pub const MEMORY_MIB: u64 = 1024;
/// Where the release keys are on an appliance: every `*.pub` in it counts, so that a new key can come before the old one goes.
pub const KEYS: &str = "/usr/share/ffs/release-keys";

/// What an update is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// For machines of which role.
    #[serde(with = "role")]
    pub role: Role,
    /// Which version.
    pub version: Version,
    /// For which hardware; [`HARDWARE`] is ours.
    pub hardware: String,
    /// MiB of memory that it needs.
    pub memory_mib: u64,
    /// Bytes of the image.
    pub size: u64,
    /// SHA-256 of the image, in hexadecimal.
    pub sha256: String,
}

mod role {
    use keys::site::Role;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(role: &Role, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(role.as_str())
    }
    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Role, D::Error> {
        let text = String::deserialize(from)?;
        Role::ALL.into_iter().find(|r| r.as_str() == text).ok_or_else(|| D::Error::custom("there is no such role"))
    }
}

/// Why a file is no update of ours.
#[derive(Debug, thiserror::Error)]
pub enum PackageError {
    /// It is something else.
    #[error("this is no update file")]
    Format,
    /// It ends too early.
    #[error("the update file is cut off")]
    CutOff,
    /// Its signature is by none of our keys, or not of this manifest.
    #[error("the update is not signed by a release key of this machine")]
    Signature,
    /// The manifest makes no sense.
    #[error("the manifest of the update makes no sense: {0}")]
    Manifest(String),
    /// The image is not the one of the manifest.
    #[error("the image in the update is not the one that was signed")]
    Image,
    /// Reading failed.
    #[error("the update cannot be read")]
    Io(#[from] io::Error),
    /// The machine's release keys cannot be read.
    #[error("the release keys in {path} cannot be used")]
    Keys {
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl Manifest {
    /// Reads the text of a manifest.
    ///
    /// # Errors
    /// [`PackageError::Manifest`].
    pub fn parse(bytes: &[u8]) -> Result<Self, PackageError> {
        let wrong = |why: &str| PackageError::Manifest(why.to_owned());
        let text = std::str::from_utf8(bytes).map_err(|_| wrong("it is not UTF-8"))?;
        let manifest: Self = toml::from_str(text).map_err(|e| wrong(e.message()))?;
        let hash = &manifest.sha256;
        if hash.len() != 64 || !hash.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(wrong("its hash is none"));
        }
        if manifest.size == 0 || manifest.size > MAX_IMAGE {
            return Err(wrong("its size is out of bounds"));
        }
        Ok(manifest)
    }

    /// The text of a manifest.
    pub fn to_text(&self) -> String {
        toml::to_string(self).expect("plain values are TOML")
    }
}

/// The keys whose signatures count.
#[derive(Clone)]
pub struct ReleaseKeys(Vec<PublicKey>);

impl std::fmt::Debug for ReleaseKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} release keys", self.0.len())
    }
}

impl ReleaseKeys {
    /// Reads every `*.pub` of a folder.
    ///
    /// # Errors
    /// [`PackageError::Keys`] when the folder or one of them cannot be used.
    pub fn load(dir: &Path) -> Result<Self, PackageError> {
        let failed = |source| PackageError::Keys { path: dir.to_owned(), source };
        let mut keys = Vec::new();
        for entry in fs::read_dir(dir).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            if path.extension().is_some_and(|e| e == "pub") {
                let text = fs::read_to_string(&path).map_err(failed)?;
                keys.push(PublicKey::decode(&text).map_err(|e| failed(io::Error::other(e.to_string())))?);
            }
        }
        Ok(Self(keys))
    }

    /// One key, from its text.
    ///
    /// # Errors
    /// [`PackageError::Signature`] when it is no key.
    pub fn one(text: &str) -> Result<Self, PackageError> {
        Ok(Self(vec![PublicKey::decode(text).map_err(|_| PackageError::Signature)?]))
    }

    fn verify(&self, manifest: &[u8], signature: &[u8]) -> Result<(), PackageError> {
        let text = std::str::from_utf8(signature).map_err(|_| PackageError::Signature)?;
        let signature = Signature::decode(text).map_err(|_| PackageError::Signature)?;
        let good = self.0.iter().any(|key| key.verify(manifest, &signature, false).is_ok());
        if good { Ok(()) } else { Err(PackageError::Signature) }
    }
}

/// The head of an update file, up to the image.
///
/// # Panics
/// When manifest or signature are longer than they may be.
pub fn head(manifest: &str, signature: &str) -> Vec<u8> {
    assert!(manifest.len() <= MAX_MANIFEST && signature.len() <= MAX_SIGNATURE, "longer than any of ours");
    format!("{MAGIC}{} {}\n{manifest}{signature}", manifest.len(), signature.len()).into_bytes()
}

fn cut(error: io::Error) -> PackageError {
    if error.kind() == io::ErrorKind::UnexpectedEof { PackageError::CutOff } else { error.into() }
}

/// Reads the head and checks its signature; what follows in `from` is the image.
///
/// # Errors
/// [`PackageError`].
pub async fn open<R: AsyncBufRead + Unpin + ?Sized>(
    from: &mut R,
    keys: &ReleaseKeys,
) -> Result<Manifest, PackageError> {
    let mut magic = [0; MAGIC.len()];
    from.read_exact(&mut magic).await.map_err(cut)?;
    if magic != MAGIC.as_bytes() {
        return Err(PackageError::Format);
    }
    /// Two numbers of at most four digits, a space and a line feed.
    const LINE: u64 = 10;
    let mut line = Vec::new();
    from.take(LINE).read_until(b'\n', &mut line).await?;
    let line = std::str::from_utf8(&line).ok().and_then(|l| l.strip_suffix('\n')).ok_or(PackageError::Format)?;
    let number = |text: &str, most: usize| {
        let value: usize = text.parse().ok().filter(|n| *n > 0 && *n <= most)?;
        (value.to_string() == text).then_some(value)
    };
    let (manifest, signature) = line.split_once(' ').ok_or(PackageError::Format)?;
    let manifest = number(manifest, MAX_MANIFEST).ok_or(PackageError::Format)?;
    let signature = number(signature, MAX_SIGNATURE).ok_or(PackageError::Format)?;
    let (mut text, mut signed) = (vec![0; manifest], vec![0; signature]);
    from.read_exact(&mut text).await.map_err(cut)?;
    from.read_exact(&mut signed).await.map_err(cut)?;
    // Before anything of it is looked at.
    keys.verify(&text, &signed)?;
    Manifest::parse(&text)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use minisign::KeyPair;
    use sha2::{Digest, Sha256};

    /// A release key pair of a test.
    pub(crate) fn release() -> (KeyPair, ReleaseKeys) {
        let pair = KeyPair::generate_unencrypted_keypair().unwrap();
        let keys = ReleaseKeys::one(&pair.pk.to_box().unwrap().to_string()).unwrap();
        (pair, keys)
    }

    pub(crate) fn manifest(version: &str, image: &[u8]) -> Manifest {
        Manifest {
            role: Role::Web,
            version: version.parse().unwrap(),
            hardware: HARDWARE.into(),
            memory_mib: MEMORY_MIB,
            size: u64::try_from(image.len()).unwrap(),
            sha256: hex::encode(Sha256::digest(image)),
        }
    }

    pub(crate) fn sign(pair: &KeyPair, text: &str) -> String {
        minisign::sign(None, &pair.sk, text.as_bytes(), None, None).unwrap().into_string()
    }

    /// A whole update file.
    pub(crate) fn update(pair: &KeyPair, manifest: &Manifest, image: &[u8]) -> Vec<u8> {
        let text = manifest.to_text();
        [head(&text, &sign(pair, &text)), image.to_vec()].concat()
    }

    async fn read(bytes: &[u8], keys: &ReleaseKeys) -> Result<Manifest, PackageError> {
        open(&mut &*bytes, keys).await
    }

    #[tokio::test]
    async fn what_was_signed_is_read() {
        let (pair, keys) = release();
        let wanted = manifest("1.2.3", b"image");
        let file = update(&pair, &wanted, b"image");
        let mut rest = &*file;
        assert_eq!(open(&mut rest, &keys).await.unwrap(), wanted);
        assert_eq!(rest, b"image");
        let (_, others) = release();
        assert!(matches!(read(&file, &others).await, Err(PackageError::Signature)));
    }

    #[tokio::test]
    async fn every_bit_of_the_head_counts() {
        let (pair, keys) = release();
        let wanted = manifest("1.2.3", b"image");
        let file = update(&pair, &wanted, b"image");
        let end = file.len() - b"image".len();
        // minisign signs its trusted comment too; only the first line of a signature is free.
        let text = std::str::from_utf8(&file).unwrap();
        let comment = text.find("untrusted comment").unwrap();
        let free = comment..comment + text[comment..].find('\n').unwrap();
        for at in 0..end {
            for bit in 0..8 {
                let mut other = file.clone();
                other[at] ^= 1 << bit;
                let mut rest = &*other;
                // What shifts the begin of the image shows in its hash.
                let passed = open(&mut rest, &keys).await.is_ok() && rest == b"image";
                assert!(!passed || free.contains(&at), "byte {at}, bit {bit}: {:?}", char::from(file[at]));
            }
        }
        for cut in 0..end {
            assert!(read(&file[..cut], &keys).await.is_err(), "cut at {cut}");
        }
    }

    #[tokio::test]
    async fn bounds_of_the_head() {
        let (_, keys) = release();
        for line in ["4097 1", "1 1025", "0 1", "1 0", "01 1", "+1 1", "1  1", "1", "99999 99999", ""] {
            let file = format!("{MAGIC}{line}\nxxxxxxxx");
            assert!(matches!(read(file.as_bytes(), &keys).await, Err(PackageError::Format)), "{line:?}");
        }
        let most = format!("{MAGIC}{MAX_MANIFEST} {MAX_SIGNATURE}\n{}", "x".repeat(MAX_MANIFEST + MAX_SIGNATURE));
        assert!(matches!(read(most.as_bytes(), &keys).await, Err(PackageError::Signature)), "at the edge it is read");
    }

    #[test]
    fn manifests() {
        let good = manifest("1.2.3", b"x").to_text();
        assert!(Manifest::parse(good.as_bytes()).is_ok());
        for (from, to) in [
            ("'web'", "'router'"),
            ("\"web\"", "\"router\""),
            ("1.2.3", "1.2"),
            ("size = 1", "size = 0"),
            ("size = 1", "size = 100663297"),
            ("size = 1", "size = 1\nmore = 1"),
            ("sha256 = \"", "sha256 = \"A"),
        ] {
            if good.contains(from) {
                assert!(Manifest::parse(good.replace(from, to).as_bytes()).is_err(), "{to}");
            }
        }
        assert!(Manifest::parse(good.replace("size = 1", "size = 100663296").as_bytes()).is_ok());
        assert!(Manifest::parse(b"\xff").is_err());
    }
}
