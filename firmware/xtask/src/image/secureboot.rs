//! Secure Boot: the builder's key, whose signature systemd-boot and the UKIs carry, and what tells a machine's firmware about it.
//!
//! One key is all three that the firmware knows: who may change the keys (PK, KEK) and whose programs may start (db). Signatures
//! hold no time, so that signed files are the same from build to build too.

mod authenticode;
mod variables;

use crate::workdir;
use anyhow::{Context, Result, bail, ensure};
use ring::signature::{RSA_PKCS1_SHA256, RsaKeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use x509_parser::parse_x509_certificate;
use yasna::models::ObjectIdentifier;
use yasna::{DERWriter, Tag};

/// Bits of the key that is made here; all firmware takes this many, not all takes more.
const BITS: u32 = 2048;
/// How long its certificate says that it is valid; firmware does not look.
const DAYS: u32 = 36_500;

/// Object identifiers (RFC 8017, RFC 5754, RFC 5652).
mod oid {
    pub(super) const RSA: &[u64] = &[1, 2, 840, 113_549, 1, 1, 1];
    pub(super) const SHA256: &[u64] = &[2, 16, 840, 1, 101, 3, 4, 2, 1];
    pub(super) const SIGNED_DATA: &[u64] = &[1, 2, 840, 113_549, 1, 7, 2];
    pub(super) const DATA: &[u64] = &[1, 2, 840, 113_549, 1, 7, 1];
    pub(super) const CONTENT_TYPE: &[u64] = &[1, 2, 840, 113_549, 1, 9, 3];
    pub(super) const MESSAGE_DIGEST: &[u64] = &[1, 2, 840, 113_549, 1, 9, 4];
}

/// The builder's key for Secure Boot.
pub(super) struct Key {
    pair: RsaKeyPair,
    certificate: Vec<u8>,
    issuer: Vec<u8>,
    serial: Vec<u8>,
}

/// What is signed: PKCS #7 has it within or beside the signature.
enum Signed<'a> {
    /// Within, as the sequence of a type of its own.
    Within { kind: &'static [u64], content: &'a [u8] },
    /// Beside.
    Beside(&'a [u8]),
}

/// The key and the certificate that the environment names, both or none.
fn named(key: Option<OsString>, certificate: Option<OsString>) -> Result<Option<[PathBuf; 2]>> {
    match (key, certificate) {
        (Some(key), Some(certificate)) => Ok(Some([key.into(), certificate.into()])),
        (None, None) => Ok(None),
        _ => {
            bail!("FFS_SECURE_BOOT_KEY and FFS_SECURE_BOOT_CERT go together: a key (RSA, PKCS #8) and its certificate")
        }
    }
}

impl Key {
    /// That of `FFS_SECURE_BOOT_KEY` and `FFS_SECURE_BOOT_CERT`; else that of this work tree, made when there is none.
    pub(super) fn open() -> Result<Self> {
        let var = std::env::var_os;
        let [key, certificate] = match named(var("FFS_SECURE_BOOT_KEY"), var("FFS_SECURE_BOOT_CERT"))? {
            Some(paths) => paths,
            None => {
                let dir = workdir().join("secure-boot");
                let paths = [dir.join("secure-boot.key"), dir.join("secure-boot.crt")];
                if !paths.iter().all(|path| path.exists()) {
                    make(&paths)?;
                }
                paths
            }
        };
        Self::read(&key, &certificate)
    }

    fn read(key: &Path, certificate: &Path) -> Result<Self> {
        let der = PrivatePkcs8KeyDer::from_pem_file(key);
        let der = der.with_context(|| format!("{} is no key in PKCS #8 (PEM)", key.display()))?;
        let pair = RsaKeyPair::from_pkcs8(der.secret_pkcs8_der());
        let pair = pair.map_err(|e| anyhow::anyhow!("{} is no RSA key that can be used: {e}", key.display()))?;
        let what = || format!("{} is no certificate (PEM)", certificate.display());
        let der = CertificateDer::from_pem_file(certificate).with_context(what)?.to_vec();
        let (_, parsed) = parse_x509_certificate(&der).with_context(what)?;
        let public = parsed.public_key().subject_public_key.data.as_ref();
        ensure!(public == pair.public().as_ref(), "{} is not of the key in {}", certificate.display(), key.display());
        let (issuer, serial) = (parsed.issuer().as_raw().to_vec(), parsed.raw_serial().to_vec());
        Ok(Self { pair, issuer, serial, certificate: der })
    }

    /// The certificate (DER), as setups of firmware read it from a file.
    pub(super) fn certificate(&self) -> &[u8] {
        &self.certificate
    }

    /// A program with a signature.
    pub(super) fn program(&self, pe: &[u8]) -> Result<Vec<u8>> {
        authenticode::sign(pe, self)
    }

    /// What systemd-boot gives to the firmware when it is told to enrol: files by name.
    pub(super) fn variables(&self) -> Result<Vec<(&'static str, Vec<u8>)>> {
        variables::all(self)
    }

    fn signature(&self, message: &[u8]) -> Result<Vec<u8>> {
        let mut signature = vec![0; self.pair.public().modulus_len()];
        let random = ring::rand::SystemRandom::new();
        let signed = self.pair.sign(&RSA_PKCS1_SHA256, &random, message, &mut signature);
        signed.map_err(|_| anyhow::anyhow!("the key does not sign"))?;
        Ok(signature)
    }

    /// A `SignedData` (RFC 2315) with one signature by this key, and its certificate.
    fn signed_data(&self, what: &Signed<'_>) -> Result<Vec<u8>> {
        let (attributes, signature) = match what {
            Signed::Within { kind, content } => {
                let attributes = attributes(kind, content);
                let signature = self.signature(&attributes)?;
                (Some(attributes), signature)
            }
            Signed::Beside(content) => (None, self.signature(content)?),
        };
        Ok(yasna::construct_der(|w| {
            w.write_sequence(|w| {
                w.next().write_u8(1);
                w.next().write_set_of(|w| sha256(w.next()));
                w.next().write_sequence(|w| match what {
                    Signed::Within { kind, content } => {
                        w.next().write_oid(&ObjectIdentifier::from_slice(kind));
                        w.next().write_tagged(Tag::context(0), |w| sequence(w, content));
                    }
                    Signed::Beside(_) => w.next().write_oid(&ObjectIdentifier::from_slice(oid::DATA)),
                });
                w.next().write_tagged_implicit(Tag::context(0), |w| {
                    w.write_set_of(|w| w.next().write_der(&self.certificate))
                });
                w.next().write_set_of(|w| self.signer(w.next(), attributes.as_deref(), &signature));
            });
        }))
    }

    fn signer(&self, w: DERWriter<'_>, attributes: Option<&[u8]>, signature: &[u8]) {
        w.write_sequence(|w| {
            w.next().write_u8(1);
            w.next().write_sequence(|w| {
                w.next().write_der(&self.issuer);
                w.next().write_bigint_bytes(&self.serial, true);
            });
            sha256(w.next());
            if let Some(attributes) = attributes {
                // The same set under another tag than the one that is signed.
                let mut set = attributes.to_vec();
                set[0] = 0xa0;
                w.next().write_der(&set);
            }
            w.next().write_sequence(|w| {
                w.next().write_oid(&ObjectIdentifier::from_slice(oid::RSA));
                w.next().write_null();
            });
            w.next().write_bytes(signature);
        });
    }
}

/// The algorithm.
fn sha256(w: DERWriter<'_>) {
    w.write_sequence(|w| {
        w.next().write_oid(&ObjectIdentifier::from_slice(oid::SHA256));
        w.next().write_null();
    });
}

/// A sequence of which the inside is written already.
fn sequence(w: DERWriter<'_>, inside: &[u8]) {
    w.write_sequence(|w| w.next().write_der(inside));
}

/// The attributes that are signed in place of the content: its kind and its hash.
fn attributes(kind: &[u64], content: &[u8]) -> Vec<u8> {
    let digest = ring::digest::digest(&ring::digest::SHA256, content);
    yasna::construct_der(|w| {
        w.write_set_of(|w| {
            w.next().write_sequence(|w| {
                w.next().write_oid(&ObjectIdentifier::from_slice(oid::CONTENT_TYPE));
                w.next().write_set_of(|w| w.next().write_oid(&ObjectIdentifier::from_slice(kind)));
            });
            w.next().write_sequence(|w| {
                w.next().write_oid(&ObjectIdentifier::from_slice(oid::MESSAGE_DIGEST));
                w.next().write_set_of(|w| w.next().write_bytes(digest.as_ref()));
            });
        });
    })
}

/// Makes a key that only its owner can read, and its certificate.
fn make(paths: &[PathBuf; 2]) -> Result<()> {
    let [key, certificate] = paths;
    let dir = key.parent().context("a file in a folder")?;
    fs::create_dir_all(dir)?;
    fs::set_permissions(dir, fs::Permissions::from_mode(0o700))?;
    let partial = ["key.partial", "crt.partial"].map(|name| dir.join(name));
    let mut openssl = Command::new(crate::host::find("openssl").context("no openssl")?);
    openssl.args(["req", "-x509", "-newkey", &format!("rsa:{BITS}"), "-nodes", "-sha256", "-days", &DAYS.to_string()]);
    openssl
        .args(["-subj", "/CN=FFS Secure Boot of a work tree/", "-keyout"])
        .arg(&partial[0])
        .arg("-out")
        .arg(&partial[1]);
    let output = openssl.output()?;
    if !output.status.success() {
        bail!("openssl made no key: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    fs::rename(&partial[0], key)?;
    fs::rename(&partial[1], certificate)?;
    eprintln!("made a key for Secure Boot for this work tree: {}", key.display());
    Ok(())
}

#[cfg(test)]
mod tests;
