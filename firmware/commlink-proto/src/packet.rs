//! One packet: plaintext to line and back, in place.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use cbc::{Decryptor, Encryptor};
use cipher::block_padding::Pkcs7;
use cipher::{BlockModeDecrypt, BlockModeEncrypt, InOutBuf, InnerIvInit};
use des::Des;
use heapless::Vec;
use thiserror::Error;

use crate::PacketKey;

/// Bytes of a DES block, of an initialisation vector and of a key.
pub(crate) const BLOCK: usize = 8;

/// Most bytes of plaintext in a packet, its mark included: 32 KiB, so that the line fits one Noise record.
pub const MAX_PACKET: usize = 32 * 1024;

/// Most bytes of a message in one packet: [`MAX_PACKET`] without the mark.
pub const MAX_DATA: usize = MAX_PACKET - 1;

/// Most bytes of a line, CR LF included: the base64 of IV and padded plaintext, and the line end.
pub const MAX_LINE: usize = (BLOCK + (MAX_PACKET / BLOCK + 1) * BLOCK).div_ceil(3) * 4 + LINE_END.len();

/// How every line ends.
pub(crate) const LINE_END: &[u8] = b"\r\n";

/// Cipher text is moved through a small buffer on the stack. Its size is a multiple of 3 (base64 groups) and of 8
/// (cipher blocks), so that only the last piece of a packet is ever partial.
const STAGE: usize = 96 * BLOCK;
const STAGE_TEXT: usize = STAGE / 3 * 4;

/// Room for one line. The engines borrow it from the caller; it holds plaintext between calls, so zero it in the end.
pub type LineBuffer = Vec<u8, MAX_LINE>;

/// The first byte of each plaintext.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    /// `+`: the message goes on in the next packet.
    More,
    /// `.`: this packet ends the message.
    Last,
}

impl Mark {
    /// The byte on the line.
    pub const fn byte(self) -> u8 {
        match self {
            Self::More => b'+',
            Self::Last => b'.',
        }
    }

    /// The mark that `byte` stands for, if it is one.
    pub const fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            b'+' => Some(Self::More),
            b'.' => Some(Self::Last),
            _ => None,
        }
    }
}

/// Why a line or a message was not accepted. For our own log only: the peer sees the connection close.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum PacketError {
    /// A line is longer than [`MAX_LINE`].
    #[error("the line is longer than {MAX_LINE} bytes")]
    LineTooLong,
    /// A line feed without a carriage return, or a line without its end.
    #[error("the line does not end with CR LF")]
    LineEnd,
    /// A byte that is not of the base64 alphabet.
    #[error("the line holds a byte outside of the base64 alphabet")]
    Alphabet,
    /// The base64 is not the canonical form of anything.
    #[error("the line is not canonical base64")]
    Base64,
    /// Not an IV and one or more whole cipher blocks.
    #[error("the cipher text is not a vector and whole blocks")]
    CipherLength,
    /// The padding is wrong: not the key in use, or altered.
    #[error("the padding is wrong")]
    Padding,
    /// The plaintext is longer than [`MAX_PACKET`].
    #[error("the packet holds more than {MAX_PACKET} bytes")]
    PacketTooLong,
    /// The plaintext does not begin with `+` or `.`.
    #[error("the packet begins with neither + nor .")]
    Mark,
    /// A continued packet without data; it could be repeated for ever.
    #[error("a continued packet is empty")]
    EmptyFragment,
    /// The packets of a message add up to more than the caller allows.
    #[error("the message is longer than allowed here")]
    MessageTooLong,
}

/// Writes one packet as a line into `line`, replacing what was there.
///
/// `iv` comes from the caller and must be fresh random bytes for each packet. `data` is up to [`MAX_DATA`] bytes.
///
/// # Errors
/// [`PacketError::PacketTooLong`], and [`PacketError::EmptyFragment`] for a continued packet without data.
///
/// ```
/// use commlink_proto::{LineBuffer, Mark, PacketKey, decode_line, encode_packet};
/// let key = PacketKey::new(&0x0123_4567_89ab_cdef_u64.to_be_bytes());
/// let mut line = LineBuffer::new();
/// encode_packet(&key, &[0xfe, 0xdc, 0xba, 0x98, 0x76, 0x54, 0x32, 0x10], Mark::Last, b"hello", &mut line).unwrap();
/// assert_eq!(line, b"/ty6mHZUMhBV+FQCruA20g==\r\n");
/// assert_eq!(decode_line(&key, &mut line).unwrap(), (Mark::Last, &b"hello"[..]));
/// ```
pub fn encode_packet(
    key: &PacketKey,
    iv: &[u8; 8],
    mark: Mark,
    data: &[u8],
    line: &mut LineBuffer,
) -> Result<(), PacketError> {
    if data.len() > MAX_DATA {
        return Err(PacketError::PacketTooLong);
    }
    if data.is_empty() && mark == Mark::More {
        return Err(PacketError::EmptyFragment);
    }
    line.clear();
    let padding = BLOCK - (1 + data.len()) % BLOCK;
    let padding_byte = u8::try_from(padding).expect("padding is 1 to 8");
    let mark = [mark.byte()];
    let padding = &[padding_byte; BLOCK][..padding];

    let mut cipher = Encryptor::<&Des>::inner_iv_init(&key.0, iv.into());
    let mut stage = [0; STAGE];
    stage[..BLOCK].copy_from_slice(iv);
    let (mut clear, mut filled) = (BLOCK, BLOCK);
    for mut part in [&mark, data, padding] {
        while !part.is_empty() {
            let n = part.len().min(STAGE - filled);
            stage[filled..filled + n].copy_from_slice(&part[..n]);
            part = &part[n..];
            filled += n;
            if filled == STAGE {
                flush(&mut cipher, &mut stage[..filled], clear, line);
                (clear, filled) = (0, 0);
            }
        }
    }
    flush(&mut cipher, &mut stage[..filled], clear, line);
    line.extend_from_slice(LINE_END).expect("MAX_LINE has room for the line end");
    Ok(())
}

/// Encrypts `stage` from `clear` on and appends its base64 to the line.
fn flush(cipher: &mut Encryptor<&Des>, stage: &mut [u8], clear: usize, line: &mut LineBuffer) {
    let (blocks, rest) = InOutBuf::from(&mut stage[clear..]).into_chunks();
    debug_assert!(rest.is_empty(), "a stage is whole blocks");
    cipher.encrypt_blocks_inout(blocks);
    let mut text = [0; STAGE_TEXT];
    let n = STANDARD.encode_slice(stage, &mut text).expect("the text buffer is as long as a full stage needs");
    line.extend_from_slice(&text[..n]).expect("MAX_LINE holds the longest packet");
}

/// Reads one whole line, CR LF included, and decrypts it in place. What is returned borrows the line.
///
/// # Errors
/// Every [`PacketError`] but [`PacketError::MessageTooLong`]. The buffer's content is then undefined.
pub fn decode_line<'b>(key: &PacketKey, line: &'b mut [u8]) -> Result<(Mark, &'b [u8]), PacketError> {
    if line.len() > MAX_LINE {
        return Err(PacketError::LineTooLong);
    }
    let text = line.strip_suffix(LINE_END).ok_or(PacketError::LineEnd)?;
    let text = text.len();
    let len = unbase64(line, text)?;
    if len < 2 * BLOCK || !len.is_multiple_of(BLOCK) {
        return Err(PacketError::CipherLength);
    }
    let (iv, body) = line[..len].split_at_mut(BLOCK);
    let iv: &[u8; BLOCK] = (&*iv).try_into().expect("split at one block");
    let plain = Decryptor::<&Des>::inner_iv_init(&key.0, iv.into())
        .decrypt_padded::<Pkcs7>(body)
        .map_err(|_| PacketError::Padding)?;
    if plain.len() > MAX_PACKET {
        return Err(PacketError::PacketTooLong);
    }
    let (&mark, data) = plain.split_first().ok_or(PacketError::Mark)?;
    let mark = Mark::from_byte(mark).ok_or(PacketError::Mark)?;
    if data.is_empty() && mark == Mark::More {
        return Err(PacketError::EmptyFragment);
    }
    Ok((mark, data))
}

/// Whether a line may hold this byte before its end.
pub(crate) fn is_base64(byte: u8) -> bool {
    const BASE64: [bool; 256] = {
        let (mut table, mut byte) = ([false; 256], 0u8);
        loop {
            table[byte as usize] = byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/' | b'=');
            if byte == u8::MAX {
                break table;
            }
            byte += 1;
        }
    };
    BASE64[usize::from(byte)]
}

/// Decodes the first `text` bytes of `line` to its beginning and returns how many bytes that gave. What is written
/// stays behind what is read, since base64 shrinks.
fn unbase64(line: &mut [u8], text: usize) -> Result<usize, PacketError> {
    let (mut read, mut written) = (0, 0);
    let mut stage = [0; STAGE];
    while read < text {
        let end = text.min(read + STAGE_TEXT);
        let n = STANDARD.decode_slice(&line[read..end], &mut stage);
        // `=` ends the text; in the middle of it it would pass unseen, since each piece is decoded alone.
        let n = n.ok().filter(|&n| end == text || n == STAGE).ok_or_else(|| {
            // What was read before is of the alphabet.
            let of_alphabet = line[read..text].iter().copied().all(is_base64);
            if of_alphabet { PacketError::Base64 } else { PacketError::Alphabet }
        })?;
        line[written..written + n].copy_from_slice(&stage[..n]);
        read = end;
        written += n;
    }
    Ok(written)
}

#[cfg(test)]
mod tests;
