//! What fuzzers call: each function takes any bytes and panics when a promise is broken.

use crate::greeting::{Answer, Hello, LineReader};
use crate::{Decoder, LineBuffer, PacketError, PacketKey, decode_line, encode_packet};

const KEY: [u8; 8] = [0x13, 0x34, 0x57, 0x79, 0x9b, 0xbc, 0xdf, 0xf1];

/// Longest message of the decoder under test.
const MAX_MESSAGE: usize = 3000;

/// What comes of a stream: how many fragments and bytes of them, how many messages have ended, and how it ends. The sum
/// stands for the bytes themselves.
#[derive(Debug, Default, PartialEq, Eq)]
struct Events {
    fragments: usize,
    bytes: usize,
    sum: u64,
    messages: usize,
    error: Option<PacketError>,
}

fn events<'a>(pieces: impl IntoIterator<Item = &'a [u8]>, line: &mut LineBuffer) -> Events {
    line.clear();
    let mut decoder = Decoder::new(PacketKey::new(&KEY), MAX_MESSAGE);
    let (mut events, mut message) = (Events::default(), 0);
    for mut piece in pieces {
        while !piece.is_empty() {
            match decoder.push(line, piece) {
                Ok((taken, fragment)) => {
                    assert!(taken > 0 && taken <= piece.len(), "it goes on, and not too far");
                    piece = &piece[taken..];
                    let Some(fragment) = fragment else { continue };
                    message += fragment.data.len();
                    assert!(message <= MAX_MESSAGE, "no message is longer than allowed");
                    for byte in fragment.data {
                        events.sum = events.sum.wrapping_mul(31).wrapping_add(u64::from(*byte));
                    }
                    events.fragments += 1;
                    events.bytes += fragment.data.len();
                    if fragment.last {
                        events.messages += 1;
                        message = 0;
                    }
                }
                Err(error) => {
                    assert!(decoder.push(line, b"A") == Err(error), "the error stays");
                    events.error = Some(error);
                    return events;
                }
            }
        }
    }
    events
}

/// The packet layer: the first byte says how the rest is split; any split gives the same.
///
/// # Panics
/// When it does not.
pub fn packets(bytes: &[u8]) {
    let Some((&size, rest)) = bytes.split_first() else { return };
    let mut line = LineBuffer::new();
    let whole = events([rest], &mut line);
    let split = events(rest.chunks(usize::from(size).max(1)), &mut line);
    assert_eq!(whole, split, "any split gives the same");

    // A line that was read is written as the same line.
    line.clear();
    if line.extend_from_slice(rest).is_err() {
        return;
    }
    let key = PacketKey::new(&KEY);
    let Ok((mark, data)) = decode_line(&key, &mut line) else { return };
    let mut iv = [0; 8];
    let mut again = LineBuffer::new();
    let text = &rest[..rest.len().min(12)];
    // Twelve digits are the vector and a byte.
    let mut head = [0; 9];
    if base64::Engine::decode_slice(&base64::engine::general_purpose::STANDARD, text, &mut head).is_ok() {
        iv.copy_from_slice(&head[..8]);
        encode_packet(&key, &iv, mark, data, &mut again).expect("what was read can be written");
        assert_eq!(again, *rest, "and is the same");
    }
}

/// The greeting: what was read is written as the same, whichever way it was split.
///
/// # Panics
/// When it is not.
pub fn greeting(bytes: &[u8]) {
    if let Ok(hello) = Hello::parse(bytes) {
        assert_eq!(hello.line(), *bytes, "a client's line has one form");
    }
    if let Ok(answer) = Answer::parse(bytes) {
        assert_eq!(answer.line(), *bytes, "a server's line has one form");
    }
    let (mut whole, mut split) = (LineReader::new(), LineReader::new());
    let at_once = whole.push(bytes).map(|line| line.cloned());
    let mut pieces = Ok(None);
    for (n, byte) in bytes.iter().enumerate() {
        pieces = split.push(core::slice::from_ref(byte)).map(|line| line.cloned());
        match &pieces {
            Ok(None) => {}
            // What follows a line is seen only where it comes with it; the caller asks for no more after a line.
            Ok(Some(line)) => {
                assert_eq!(*line, bytes[..=n]);
                assert_eq!(at_once.is_ok(), n + 1 == bytes.len(), "bytes behind a line are a breach");
                return;
            }
            Err(_) => break,
        }
    }
    assert_eq!(at_once, pieces, "any split gives the same");
}

#[cfg(test)]
mod tests {
    extern crate std;
    use std::path::Path;

    /// What fuzzers found, and where they start.
    #[test]
    fn the_corpus_again() {
        for (target, entry) in [("packets", super::packets as fn(&[u8])), ("greeting", super::greeting)] {
            let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
            let mut count = 0;
            for file in std::fs::read_dir(&dir).unwrap() {
                entry(&std::fs::read(file.unwrap().path()).unwrap());
                count += 1;
            }
            assert!(count > 0, "{} is empty", dir.display());
        }
    }
}
