//! The variables with which firmware keeps its keys, as updates that it takes (UEFI specification, "Variable Services").

use super::{Key, Signed};
use admin::gpt::Guid;
use anyhow::Result;

/// Of PK and KEK.
const GLOBAL: Guid = Guid(0x8be4_df61_93ca_11d2_aa0d_00e0_9803_2b8c);
/// Of db.
const IMAGE_SECURITY: Guid = Guid(0xd719_b2cb_3d3a_4596_a3bc_dad0_0e67_656f);
const CERT_X509: Guid = Guid(0xa5c0_59a1_94e4_4aa7_87b5_ab15_5c2b_f072);
const CERT_PKCS7: Guid = Guid(0x4aaf_d29d_68df_49ee_8aa9_347d_3756_65a7);
/// Whose keys they are: ours.
const OWNER: Guid = Guid(crate::image::disk::ID);

/// Non-volatile, at boot, at run time, signed with a time.
const ATTRIBUTES: u32 = 0x27;
/// The time of all of them, an EFI_TIME: 2026-01-01. Firmware in setup mode takes any; later updates must be newer.
const TIME: [u8; 16] = [0xea, 0x07, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
const REVISION: u16 = 0x0200;
/// WIN_CERT_TYPE_EFI_GUID.
const TYPE_GUID: u16 = 0x0ef1;

/// An EFI_SIGNATURE_LIST of one certificate.
fn list(certificate: &[u8]) -> Result<Vec<u8>> {
    let (owner, size) = (OWNER.encode(), u32::try_from(16 + certificate.len())?);
    let mut list = CERT_X509.encode().to_vec();
    // Of the list, of a header that there is not, of its only entry.
    for value in [28 + size, 0, size] {
        list.extend_from_slice(&value.to_le_bytes());
    }
    list.extend_from_slice(&owner);
    list.extend_from_slice(certificate);
    Ok(list)
}

/// An EFI_VARIABLE_AUTHENTICATION_2 and the value that it is for.
fn update(name: &str, vendor: Guid, value: &[u8], key: &Key) -> Result<Vec<u8>> {
    let mut signed: Vec<u8> = name.encode_utf16().flat_map(u16::to_le_bytes).collect();
    signed.extend_from_slice(&vendor.encode());
    signed.extend_from_slice(&ATTRIBUTES.to_le_bytes());
    signed.extend_from_slice(&TIME);
    signed.extend_from_slice(value);
    let signature = key.signed_data(&Signed::Beside(&signed))?;
    let mut out = TIME.to_vec();
    out.extend_from_slice(&u32::try_from(24 + signature.len())?.to_le_bytes());
    out.extend_from_slice(&REVISION.to_le_bytes());
    out.extend_from_slice(&TYPE_GUID.to_le_bytes());
    out.extend_from_slice(&CERT_PKCS7.encode());
    out.extend_from_slice(&signature);
    out.extend_from_slice(value);
    Ok(out)
}

/// The three variables: the name of the file for systemd-boot, and what is in it.
pub(super) fn all(key: &Key) -> Result<Vec<(&'static str, Vec<u8>)>> {
    let value = list(key.certificate())?;
    let files = [("PK", "PK.auth", GLOBAL), ("KEK", "KEK.auth", GLOBAL), ("db", "db.auth", IMAGE_SECURITY)];
    files.into_iter().map(|(name, file, vendor)| Ok((file, update(name, vendor, &value, key)?))).collect()
}
