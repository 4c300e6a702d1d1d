//! Signatures of UEFI programs: "Windows Authenticode Portable Executable Signature Format", as the UEFI specification takes it.

use super::{Key, Signed, oid, sha256};
use anyhow::{Context, Result, ensure};
use ring::digest::{Context as Hash, SHA256};
use yasna::Tag;
use yasna::models::ObjectIdentifier;

const INDIRECT_DATA: &[u64] = &[1, 3, 6, 1, 4, 1, 311, 2, 1, 4];
const PE_IMAGE_DATA: &[u64] = &[1, 3, 6, 1, 4, 1, 311, 2, 1, 15];
/// Bytes before the signature in a WIN_CERTIFICATE: its length, its revision, its type.
const HEAD: usize = 8;
const REVISION: u16 = 0x0200;
const PKCS_SIGNED_DATA: u16 = 2;
/// The certificate table begins and ends at multiples of this.
const ALIGN: usize = 8;

/// Where things are in a PE file for 64 bits.
struct Layout {
    /// The checksum, which is not hashed.
    checksum: usize,
    /// The entry of the certificate table in the directory, which is not hashed either.
    directory: usize,
}

impl Layout {
    fn of(pe: &[u8]) -> Result<Self> {
        let parsed = goblin::pe::PE::parse(pe).context("it is no PE file")?;
        let optional = parsed.header.optional_header.context("it is an object file")?;
        ensure!(optional.standard_fields.magic == goblin::pe::optional_header::MAGIC_64, "it is not for 64 bits");
        ensure!(optional.windows_fields.number_of_rva_and_sizes > 4, "it has no place for a signature");
        let table = optional.data_directories.get_certificate_table();
        ensure!(table.is_none_or(|t| t.size == 0), "it is signed already");
        // Firmware hashes headers and sections, one after the other; here that is the whole file.
        let mut end = usize::try_from(optional.windows_fields.size_of_headers)?;
        for section in parsed.sections.iter().filter(|s| s.size_of_raw_data > 0) {
            let begin = usize::try_from(section.pointer_to_raw_data)?;
            ensure!(begin == end, "there is a gap before its section {}", section.name().unwrap_or("?"));
            end = begin + usize::try_from(section.size_of_raw_data)?;
        }
        ensure!(end <= pe.len(), "it is cut off");
        let optional = usize::try_from(parsed.header.dos_header.pe_pointer)? + 24;
        Ok(Self { checksum: optional + 64, directory: optional + 112 + 4 * 8 })
    }

    /// The hash that is signed.
    fn hash(&self, pe: &[u8]) -> [u8; 32] {
        let mut hash = Hash::new(&SHA256);
        hash.update(&pe[..self.checksum]);
        hash.update(&pe[self.checksum + 4..self.directory]);
        hash.update(&pe[self.directory + 8..]);
        let mut out = [0; 32];
        out.copy_from_slice(hash.finish().as_ref());
        out
    }
}

/// What is signed about a program, inside its sequence.
pub(super) fn indirect_data(hash: &[u8; 32]) -> Vec<u8> {
    yasna::construct_der_seq(|w| {
        w.next().write_sequence(|w| {
            w.next().write_oid(&ObjectIdentifier::from_slice(PE_IMAGE_DATA));
            w.next().write_sequence(|w| {
                w.next().write_bitvec_bytes(&[], 0);
                w.next().write_tagged(Tag::context(0), |w| {
                    w.write_tagged(Tag::context(2), |w| {
                        w.write_tagged_implicit(Tag::context(0), |w| w.write_bmp_string("<<<Obsolete>>>"));
                    });
                });
            });
        });
        w.next().write_sequence(|w| {
            sha256(w.next());
            w.next().write_bytes(hash);
        });
    })
}

/// The same program with a signature at its end.
pub(super) fn sign(pe: &[u8], key: &Key) -> Result<Vec<u8>> {
    let layout = Layout::of(pe)?;
    let mut out = pe.to_vec();
    out.resize(out.len().next_multiple_of(ALIGN), 0);
    let content = indirect_data(&layout.hash(&out));
    let data = key.signed_data(&Signed::Within { kind: INDIRECT_DATA, content: &content })?;
    let signature = yasna::construct_der(|w| {
        w.write_sequence(|w| {
            w.next().write_oid(&ObjectIdentifier::from_slice(oid::SIGNED_DATA));
            w.next().write_tagged(Tag::context(0), |w| w.write_der(&data));
        });
    });
    let (at, size) = (out.len(), (HEAD + signature.len()).next_multiple_of(ALIGN));
    out.extend_from_slice(&u32::try_from(size)?.to_le_bytes());
    out.extend_from_slice(&REVISION.to_le_bytes());
    out.extend_from_slice(&PKCS_SIGNED_DATA.to_le_bytes());
    out.extend_from_slice(&signature);
    out.resize(at + size, 0);
    out[layout.directory..layout.directory + 4].copy_from_slice(&u32::try_from(at)?.to_le_bytes());
    out[layout.directory + 4..layout.directory + 8].copy_from_slice(&u32::try_from(size)?.to_le_bytes());
    Ok(out)
}
