//! Where the bytes of an image come from: the image itself, or one that is compressed (zstd), which is read from begin to end.

use std::fs::File;
use std::io::{self, BufReader, ErrorKind, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;

/// What a compressed file begins with (RFC 8878).
const MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
/// Bytes within which a file tells how large it is when unpacked (RFC 8878: at most 18).
const FRAME_HEAD: usize = 18;

/// The bytes of an image, to be read in ascending order.
pub(super) enum Source {
    /// A file that may be read anywhere.
    Plain(File),
    /// One that is unpacked on the way.
    Packed {
        /// What unpacks it.
        decoder: zstd::Decoder<'static, BufReader<File>>,
        /// How many bytes it gave.
        at: u64,
    },
}

impl Source {
    /// Opens an image; how many bytes it has when unpacked, where that is known.
    pub(super) fn open(path: &Path) -> io::Result<(Self, Option<u64>)> {
        let file = File::open(path)?;
        let mut head = Vec::new();
        (&file).take(FRAME_HEAD as u64).read_to_end(&mut head)?;
        if !head.starts_with(&MAGIC) {
            let size = file.metadata()?.len();
            return Ok((Self::Plain(file), Some(size)));
        }
        let size = zstd::zstd_safe::get_frame_content_size(&head).ok().flatten();
        let decoder = zstd::Decoder::new(File::open(path)?)?.single_frame();
        Ok((Self::Packed { decoder, at: 0 }, size))
    }

    /// Fills a block with what is at this place, which is not before the one of the last call.
    pub(super) fn read(&mut self, place: u64, block: &mut [u8]) -> io::Result<()> {
        match self {
            Self::Plain(file) => file.read_exact_at(block, place),
            Self::Packed { decoder, at } => {
                let ahead = place.checked_sub(*at).ok_or(ErrorKind::InvalidInput)?;
                let skipped = io::copy(&mut decoder.take(ahead), &mut io::sink())?;
                if skipped < ahead {
                    return Err(ErrorKind::UnexpectedEof.into());
                }
                decoder.read_exact(block)?;
                *at = place + block.len() as u64;
                Ok(())
            }
        }
    }

    /// Reads what is left: only at its end, by its checksum, does a compressed file turn out to be whole.
    pub(super) fn finish(self, size: u64) -> io::Result<()> {
        match self {
            Self::Plain(_) => Ok(()),
            Self::Packed { mut decoder, at } => {
                let rest = io::copy(&mut decoder, &mut io::sink())?;
                if at + rest == size { Ok(()) } else { Err(ErrorKind::UnexpectedEof.into()) }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packed(home: &Path, bytes: &[u8], told: bool) -> std::path::PathBuf {
        let path = home.join("image.zst");
        let mut encoder = zstd::Encoder::new(File::create(&path).unwrap(), 3).unwrap();
        encoder.include_checksum(true).unwrap();
        if told {
            encoder.set_pledged_src_size(Some(bytes.len() as u64)).unwrap();
        }
        io::copy(&mut &*bytes, &mut encoder).unwrap();
        encoder.finish().unwrap();
        path
    }

    #[test]
    fn compressed_and_not() {
        let home = tempfile::tempdir().unwrap();
        let bytes: Vec<u8> = (0..1u32 << 20).flat_map(u32::to_le_bytes).collect();
        let plain = home.path().join("image");
        std::fs::write(&plain, &bytes).unwrap();
        for path in [plain, packed(home.path(), &bytes, true)] {
            let (mut source, size) = Source::open(&path).unwrap();
            assert_eq!(size, Some(bytes.len() as u64));
            for at in [0, 5000, 3_000_000] {
                let mut block = [0; 1000];
                source.read(at as u64, &mut block).unwrap();
                assert_eq!(block, bytes[at..at + 1000]);
            }
            source.finish(bytes.len() as u64).unwrap();
        }
    }

    #[test]
    fn what_is_cut_off_or_altered_is_noticed_at_the_end() {
        let home = tempfile::tempdir().unwrap();
        let path = packed(home.path(), &[7; 100_000], true);
        let whole = std::fs::read(&path).unwrap();
        let last = |bytes: &[u8]| {
            std::fs::write(&path, bytes).unwrap();
            let (mut source, _) = Source::open(&path).unwrap();
            source.read(0, &mut [0; 16]).and_then(|()| source.finish(100_000))
        };
        assert!(last(&whole).is_ok());
        assert!(last(&whole[..whole.len() - 1]).is_err());
        let mut altered = whole;
        *altered.last_mut().unwrap() ^= 1;
        assert!(last(&altered).is_err());
        assert_eq!(Source::open(&packed(home.path(), b"x", false)).unwrap().1, None);
        let (mut source, _) = Source::open(&packed(home.path(), &[0; 100], true)).unwrap();
        source.read(50, &mut [0; 10]).unwrap();
        assert!(source.read(10, &mut [0; 1]).is_err() && source.read(90, &mut [0; 11]).is_err());
    }
}
