//! The NBD protocol, as far as QEMU speaks it to us (doc/proto.md of nbd): fixed newstyle handshake, simple replies. No I/O but on
//! streams that are given.

use std::io::{self, Read, Write};

/// Longest write that we take; QEMU's own limit.
pub(super) const MAX_DATA: u32 = 32 << 20;
/// Longest data of an option.
const MAX_OPTION: u32 = 4096;

const NBDMAGIC: u64 = 0x4e42_444d_4147_4943;
const IHAVEOPT: u64 = 0x4948_4156_454f_5054;
const OPTION_REPLY: u64 = 0x0003_e889_0455_65a9;
const REQUEST: u32 = 0x2560_9513;
const SIMPLE_REPLY: u32 = 0x6744_6698;

/// Of the handshake: fixed newstyle, no zeroes at its end.
const HANDSHAKE: u16 = 0b11;
/// Of a disk: the flags are valid; flush, FUA, trim and zeroes are understood.
const DISK: u16 = 1 | 1 << 2 | 1 << 3 | 1 << 5 | 1 << 6;
/// Of a request: durable before the reply.
const FUA: u16 = 1;

const OPT_EXPORT_NAME: u32 = 1;
const OPT_ABORT: u32 = 2;
const OPT_INFO: u32 = 6;
const OPT_GO: u32 = 7;
const REP_ACK: u32 = 1;
const REP_INFO: u32 = 3;
const REP_ERR_UNSUP: u32 = 1 << 31 | 1;

/// What is asked of a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Command {
    Read,
    Write,
    Flush,
    /// Discarded, or written as zeros: both read as zeros afterwards.
    Zero,
    Disconnect,
    Unknown,
}

/// A request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Request {
    pub(super) command: Command,
    pub(super) fua: bool,
    pub(super) cookie: [u8; 8],
    pub(super) offset: u64,
    pub(super) length: u32,
    pub(super) data: Vec<u8>,
}

/// Why a request is not done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub(super) enum Refusal {
    Io = 5,
    Invalid = 22,
}

fn bad(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.to_owned())
}

fn array<const N: usize>(from: &mut impl Read) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    from.read_exact(&mut bytes)?;
    Ok(bytes)
}

fn u16_of(from: &mut impl Read) -> io::Result<u16> {
    array(from).map(u16::from_be_bytes)
}

fn u32_of(from: &mut impl Read) -> io::Result<u32> {
    array(from).map(u32::from_be_bytes)
}

fn u64_of(from: &mut impl Read) -> io::Result<u64> {
    array(from).map(u64::from_be_bytes)
}

/// Agrees with a client on a disk of this size; false when it does not want one.
pub(super) fn handshake<S: Read + Write>(stream: &mut S, size: u64) -> io::Result<bool> {
    stream.write_all(&[&NBDMAGIC.to_be_bytes()[..], &IHAVEOPT.to_be_bytes(), &HANDSHAKE.to_be_bytes()].concat())?;
    let zeroes = u32_of(stream)? & 2 == 0;
    let disk = [&size.to_be_bytes()[..], &DISK.to_be_bytes()].concat();
    loop {
        if u64_of(stream)? != IHAVEOPT {
            return Err(bad("no option"));
        }
        let (option, length) = (u32_of(stream)?, u32_of(stream)?);
        if length > MAX_OPTION {
            return Err(bad("an option is too long"));
        }
        let mut data = vec![0; length as usize];
        stream.read_exact(&mut data)?;
        let mut reply = |kind: u32, data: &[u8]| {
            let length = u32::try_from(data.len()).map_err(|_| bad("a reply is too long"))?;
            let head = [option, kind, length].map(u32::to_be_bytes).concat();
            stream.write_all(&[&OPTION_REPLY.to_be_bytes()[..], &head, data].concat())
        };
        match option {
            OPT_EXPORT_NAME => {
                let padding = if zeroes { 124 } else { 0 };
                stream.write_all(&[disk, vec![0; padding]].concat())?;
                return Ok(true);
            }
            OPT_ABORT => {
                reply(REP_ACK, &[])?;
                return Ok(false);
            }
            OPT_INFO | OPT_GO => {
                // Information 0 is the export itself.
                reply(REP_INFO, &[&[0, 0][..], &disk].concat())?;
                reply(REP_ACK, &[])?;
                if option == OPT_GO {
                    return Ok(true);
                }
            }
            _ => reply(REP_ERR_UNSUP, &[])?,
        }
    }
}

/// The next request.
pub(super) fn request(from: &mut impl Read) -> io::Result<Request> {
    if u32_of(from)? != REQUEST {
        return Err(bad("no request"));
    }
    let flags = u16_of(from)?;
    let command = match u16_of(from)? {
        0 => Command::Read,
        1 => Command::Write,
        2 => Command::Disconnect,
        3 => Command::Flush,
        4 | 6 => Command::Zero,
        _ => Command::Unknown,
    };
    let (cookie, offset, length) = (array(from)?, u64_of(from)?, u32_of(from)?);
    if length > MAX_DATA && matches!(command, Command::Read | Command::Write) {
        return Err(bad("a request is too long"));
    }
    let mut data = Vec::new();
    if command == Command::Write {
        data.resize(length as usize, 0);
        from.read_exact(&mut data)?;
    }
    Ok(Request { command, fua: flags & FUA != 0, cookie, offset, length, data })
}

/// The reply to one, with what was read.
pub(super) fn reply(to: &mut impl Write, cookie: [u8; 8], outcome: Result<&[u8], Refusal>) -> io::Result<()> {
    let (error, data) = match outcome {
        Ok(data) => (0, data),
        Err(refusal) => (refusal as u32, &[][..]),
    };
    to.write_all(&[&SIMPLE_REPLY.to_be_bytes()[..], &error.to_be_bytes(), &cookie].concat())?;
    to.write_all(data)?;
    to.flush()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use proptest::prelude::*;

    pub(in super::super) fn encode(command: u16, flags: u16, offset: u64, length: u32, data: &[u8]) -> Vec<u8> {
        let head = [&REQUEST.to_be_bytes()[..], &flags.to_be_bytes(), &command.to_be_bytes(), b"a cookie"].concat();
        [&head[..], &offset.to_be_bytes(), &length.to_be_bytes(), data].concat()
    }

    pub(in super::super) fn go() -> Vec<u8> {
        let option = |number: u32, data: &[u8]| {
            let length = u32::try_from(data.len()).unwrap();
            [&IHAVEOPT.to_be_bytes()[..], &number.to_be_bytes(), &length.to_be_bytes(), data].concat()
        };
        // Structured replies are asked for first, which we do not have.
        [&3u32.to_be_bytes()[..], &option(8, &[]), &option(OPT_GO, &[0; 6])].concat()
    }

    struct Both<'a>(&'a [u8], Vec<u8>);

    impl Read for Both<'_> {
        fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
            self.0.read(into)
        }
    }

    impl Write for Both<'_> {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.1.write(bytes)
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn the_handshake() {
        let input = go();
        let mut both = Both(&input, Vec::new());
        assert!(handshake(&mut both, 0x1234).unwrap());
        let said = both.1;
        assert!(said.starts_with(b"NBDMAGICIHAVEOPT\0\x03"));
        assert_eq!(said[18 + 12..18 + 16], REP_ERR_UNSUP.to_be_bytes());
        let info = &said[18 + 20..];
        assert_eq!(info[12..20], [0, 0, 0, 3, 0, 0, 0, 12]);
        assert_eq!(info[22..32], [0, 0, 0, 0, 0, 0, 0x12, 0x34, 0, 0x6d]);
        assert_eq!(said.len(), 18 + 20 + 32 + 20);
    }

    #[test]
    fn requests() {
        let write = request(&mut &*encode(1, FUA, 512, 3, b"abc")).unwrap();
        let expected = Request {
            command: Command::Write,
            fua: true,
            cookie: *b"a cookie",
            offset: 512,
            length: 3,
            data: b"abc".to_vec(),
        };
        assert_eq!(write, expected);
        assert_eq!(request(&mut &*encode(6, 0, 0, u32::MAX, b"")).unwrap().command, Command::Zero);
        assert!(request(&mut &*encode(0, 0, 0, MAX_DATA, b"")).is_ok());
        assert!(request(&mut &*encode(0, 0, 0, MAX_DATA + 1, b"")).is_err());
        assert!(request(&mut &*encode(1, 0, 0, 4, b"abc")).is_err());
        assert!(request(&mut &b"\0\0\0\0"[..]).is_err());
        let mut said = Vec::new();
        reply(&mut said, *b"a cookie", Err(Refusal::Io)).unwrap();
        assert_eq!(said, b"\x67\x44\x66\x98\0\0\0\x05a cookie");
    }

    proptest! {
        #[test]
        fn nothing_makes_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = request(&mut &*bytes);
            let _ = handshake(&mut Both(&bytes, Vec::new()), 1);
        }
    }
}
