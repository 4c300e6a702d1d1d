//! The unified kernel image: systemd's stub with kernel, initrd, command line and os-release as further sections
//! (UAPI group's UKI specification; PE format as Microsoft has it).

use anyhow::{Context, Result, bail, ensure};

/// Offsets within the COFF and optional headers, from the "PE" signature on.
mod at {
    pub(super) const SECTIONS: usize = 6;
    pub(super) const TIME: usize = 8;
    pub(super) const OPTIONAL_SIZE: usize = 20;
    pub(super) const OPTIONAL: usize = 24;
    pub(super) const INITIALIZED: usize = OPTIONAL + 8;
    pub(super) const SECTION_ALIGNMENT: usize = OPTIONAL + 32;
    pub(super) const FILE_ALIGNMENT: usize = OPTIONAL + 36;
    pub(super) const IMAGE_SIZE: usize = OPTIONAL + 56;
    pub(super) const HEADERS_SIZE: usize = OPTIONAL + 60;
    pub(super) const CHECKSUM: usize = OPTIONAL + 64;
}

/// Bytes of a section's entry in the table.
const ENTRY: usize = 40;
/// Initialised data that is read.
const FLAGS: u32 = 0x4000_0040;

fn u16_at(bytes: &[u8], at: usize) -> Result<usize> {
    let b = bytes.get(at..).and_then(|b| b.first_chunk()).context("it is cut off")?;
    Ok(u16::from_le_bytes(*b).into())
}

fn u32_at(bytes: &[u8], at: usize) -> Result<usize> {
    let b = bytes.get(at..).and_then(|b| b.first_chunk()).context("it is cut off")?;
    Ok(usize::try_from(u32::from_le_bytes(*b))?)
}

fn put(bytes: &mut [u8], at: usize, value: usize) -> Result<()> {
    let place = bytes.get_mut(at..at + 4).context("it is cut off")?;
    place.copy_from_slice(&u32::try_from(value)?.to_le_bytes());
    Ok(())
}

/// The name of a section and what is in it.
type Section<'a> = (&'a str, &'a [u8]);

/// Appends sections to a stub. The same input gives the same bytes: time and checksum are zero.
pub(crate) fn build(stub: &[u8], sections: &[Section<'_>]) -> Result<Vec<u8>> {
    let mut out = stub.to_vec();
    let pe = u32_at(&out, 0x3c)?;
    ensure!(out.starts_with(b"MZ") && out.get(pe..pe + 4) == Some(b"PE\0\0"), "the stub is no PE file");
    ensure!(u16_at(&out, pe + at::OPTIONAL)? == 0x20b, "the stub is not for 64 bits");
    let count = u16_at(&out, pe + at::SECTIONS)?;
    let table = pe + at::OPTIONAL + u16_at(&out, pe + at::OPTIONAL_SIZE)?;
    let alignment = u32_at(&out, pe + at::SECTION_ALIGNMENT)?;
    let file_alignment = u32_at(&out, pe + at::FILE_ALIGNMENT)?;
    ensure!(alignment.is_power_of_two() && file_alignment.is_power_of_two(), "the stub's alignments make no sense");
    let end = table + ENTRY * (count + sections.len());
    if end > u32_at(&out, pe + at::HEADERS_SIZE)? {
        bail!("the stub has no room for {} more sections", sections.len());
    }
    let mut address = 0;
    for i in 0..count {
        let entry = table + ENTRY * i;
        address = address.max(u32_at(&out, entry + 12)? + u32_at(&out, entry + 8)?);
    }
    let mut initialized = u32_at(&out, pe + at::INITIALIZED)?;
    for (i, (name, data)) in sections.iter().enumerate() {
        ensure!(name.len() <= 8, "{name:?} is too long for a section");
        address = address.next_multiple_of(alignment);
        out.resize(out.len().next_multiple_of(file_alignment), 0);
        let begin = out.len();
        out.extend_from_slice(data);
        out.resize(out.len().next_multiple_of(file_alignment), 0);
        let size = out.len() - begin;
        let entry = table + ENTRY * (count + i);
        out[entry..entry + ENTRY].fill(0);
        out[entry..entry + name.len()].copy_from_slice(name.as_bytes());
        put(&mut out, entry + 8, data.len())?;
        put(&mut out, entry + 12, address)?;
        put(&mut out, entry + 16, size)?;
        put(&mut out, entry + 20, begin)?;
        out[entry + 36..entry + 40].copy_from_slice(&FLAGS.to_le_bytes());
        address += data.len();
        initialized += size;
    }
    let total = u16::try_from(count + sections.len())?;
    out[pe + at::SECTIONS..pe + at::SECTIONS + 2].copy_from_slice(&total.to_le_bytes());
    put(&mut out, pe + at::IMAGE_SIZE, address.next_multiple_of(alignment))?;
    put(&mut out, pe + at::INITIALIZED, initialized)?;
    put(&mut out, pe + at::TIME, 0)?;
    put(&mut out, pe + at::CHECKSUM, 0)?;
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A PE file with one section of 16 bytes at 0x1000, and room for `room` more in the table.
    fn stub(room: usize) -> Vec<u8> {
        let mut stub = vec![0; 0x400];
        stub[..2].copy_from_slice(b"MZ");
        let pe = 0x80;
        put(&mut stub, 0x3c, pe).unwrap();
        stub[pe..pe + 4].copy_from_slice(b"PE\0\0");
        stub[pe + 4] = 0x64;
        stub[pe + 5] = 0x86;
        stub[pe + 6] = 1;
        stub[pe + 20] = 240;
        stub[pe + 24] = 0x0b;
        stub[pe + 25] = 2;
        put(&mut stub, pe + at::SECTION_ALIGNMENT, 0x1000).unwrap();
        put(&mut stub, pe + at::FILE_ALIGNMENT, 0x200).unwrap();
        put(&mut stub, pe + at::HEADERS_SIZE, pe + 24 + 240 + ENTRY * (1 + room)).unwrap();
        let entry = pe + 24 + 240;
        stub[entry..entry + 5].copy_from_slice(b".text");
        for (at, value) in [(8, 16), (12, 0x1000), (16, 0x200), (20, 0x200)] {
            put(&mut stub, entry + at, value).unwrap();
        }
        stub
    }

    #[test]
    fn sections_are_where_the_table_says() {
        let linux = vec![7; 5000];
        let sections: [Section<'_>; 2] = [(".cmdline", b"quiet"), (".linux", &linux)];
        let out = build(&stub(2), &sections).unwrap();
        let parsed = goblin::pe::PE::parse(&out).unwrap();
        assert_eq!(parsed.sections.len(), 3);
        let [_, cmdline, kernel] = &parsed.sections[..] else { panic!() };
        assert_eq!((cmdline.virtual_address, kernel.virtual_address), (0x2000, 0x3000));
        assert_eq!((cmdline.virtual_size, kernel.virtual_size), (5, 5000));
        let at = usize::try_from(kernel.pointer_to_raw_data).unwrap();
        assert_eq!(&out[at..at + 5000], &linux);
        assert_eq!(&out[usize::try_from(cmdline.pointer_to_raw_data).unwrap()..][..5], b"quiet");
        assert_eq!(u32_at(&out, 0x80 + at::IMAGE_SIZE).unwrap(), 0x5000);
        assert_eq!(build(&stub(2), &sections).unwrap(), out);
    }

    #[test]
    fn stubs_that_are_none() {
        assert!(build(&stub(0), &[(".x", b"")]).is_err(), "no room");
        assert!(build(&stub(1), &[(".x", b"")]).is_ok());
        assert!(build(&stub(1), &[(".too-long", b"")]).is_err());
        assert!(build(b"MZ", &[]).is_err() && build(&[0; 4096], &[]).is_err());
        let mut small = stub(1);
        small[0x80 + 25] = 1;
        assert!(build(&small, &[]).is_err(), "32 bits");
    }
}
