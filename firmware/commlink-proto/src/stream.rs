//! Messages as streams of packets.

use crate::packet::is_base64;
use crate::{LineBuffer, MAX_DATA, MAX_LINE, Mark, PacketError, PacketKey, decode_line, encode_packet};

/// A piece of a message, as one packet carried it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fragment<'b> {
    /// The bytes, without the mark. A character of several bytes may be split over fragments.
    pub data: &'b [u8],
    /// Whether the message ends here.
    pub last: bool,
}

/// Takes bytes in pieces of any size and gives the fragments of messages.
///
/// The state beside the borrowed line is a few words. After an error the decoder stays in it: the connection is over.
#[derive(Debug)]
pub struct Decoder {
    key: PacketKey,
    max_message: usize,
    message: usize,
    /// The line buffer holds what was last returned.
    returned: bool,
    failed: Option<PacketError>,
}

impl Decoder {
    /// A decoder for one direction of a connection; a message may have up to `max_message` bytes.
    pub fn new(key: PacketKey, max_message: usize) -> Self {
        Self { key, max_message, message: 0, returned: false, failed: None }
    }

    /// Takes from `input` up to the end of the next line and says how many bytes that were, and the fragment if the
    /// line is complete. Call it again with the rest; without a fragment all of the input was taken.
    ///
    /// `line` must be the same buffer in each call, and is the decoder's alone.
    ///
    /// # Errors
    /// A [`PacketError`], found at the same byte however the input is split; the same again in every later call.
    pub fn push<'b>(
        &mut self,
        line: &'b mut LineBuffer,
        input: &[u8],
    ) -> Result<(usize, Option<Fragment<'b>>), PacketError> {
        match self.failed {
            Some(error) => Err(error),
            None => self.advance(line, input).inspect_err(|error| self.failed = Some(*error)),
        }
    }

    fn advance<'b>(
        &mut self,
        line: &'b mut LineBuffer,
        input: &[u8],
    ) -> Result<(usize, Option<Fragment<'b>>), PacketError> {
        if self.returned {
            line.clear();
            self.returned = false;
        }
        let mut at = 0;
        while let Some(&byte) = input.get(at) {
            match byte {
                // Only what follows a carriage return is not text; it must be the line feed.
                _ if is_base64(byte) => {
                    if line.last() == Some(&b'\r') {
                        return Err(PacketError::LineEnd);
                    }
                    let text = input[at..].iter().take_while(|&&byte| is_base64(byte)).count();
                    line.extend_from_slice(&input[at..at + text]).map_err(|_| PacketError::LineTooLong)?;
                    at += text;
                    continue;
                }
                b'\r' | b'\n' if (line.last() == Some(&b'\r')) != (byte == b'\n') => return Err(PacketError::LineEnd),
                b'\r' | b'\n' => line.push(byte).map_err(|_| PacketError::LineTooLong)?,
                _ => return Err(PacketError::Alphabet),
            }
            at += 1;
            if byte == b'\n' {
                self.returned = true;
                return Ok((at, Some(self.fragment(line)?)));
            }
        }
        Ok((input.len(), None))
    }

    fn fragment<'b>(&mut self, line: &'b mut LineBuffer) -> Result<Fragment<'b>, PacketError> {
        let (mark, data) = decode_line(&self.key, line)?;
        self.message += data.len();
        if self.message > self.max_message {
            return Err(PacketError::MessageTooLong);
        }
        if mark == Mark::Last {
            self.message = 0;
        }
        Ok(Fragment { data, last: mark == Mark::Last })
    }

    /// Whether a message has begun and not ended: then the end of the stream is a breach.
    pub fn is_midway(&self, line: &LineBuffer) -> bool {
        self.message > 0 || (!self.returned && !line.is_empty())
    }
}

/// Cuts one message into packets, each as long as it may be.
#[derive(Debug)]
pub struct Encoder<'m> {
    rest: Option<&'m [u8]>,
}

impl<'m> Encoder<'m> {
    /// An encoder for `message`; an empty one is one packet too.
    pub fn new(message: &'m [u8]) -> Self {
        Self { rest: Some(message) }
    }

    /// How many lines are still to come, so that the vectors can be drawn at once.
    pub fn remaining(&self) -> usize {
        self.rest.map_or(0, |rest| rest.len().div_ceil(MAX_DATA).max(1))
    }

    /// Writes the next line of the message into `line`; `false` if there is none and `line` was left alone. `iv` must
    /// be fresh random bytes in each call.
    pub fn next(&mut self, key: &PacketKey, iv: &[u8; 8], line: &mut LineBuffer) -> bool {
        let Some(rest) = self.rest else { return false };
        let (data, mark) = if rest.len() > MAX_DATA {
            self.rest = Some(&rest[MAX_DATA..]);
            (&rest[..MAX_DATA], Mark::More)
        } else {
            self.rest = None;
            (rest, Mark::Last)
        };
        encode_packet(key, iv, mark, data, line).expect("a fragment is within the limits by construction");
        true
    }
}

const _: () = assert!(MAX_LINE <= 65535 - 16, "a line fits one Noise record");

#[cfg(test)]
mod tests;
