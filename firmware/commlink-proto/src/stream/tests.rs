extern crate std;

use std::vec;
use std::vec::Vec;

use proptest::prelude::*;

use super::*;

const ROOMY: usize = 1 << 20;

fn key() -> PacketKey {
    PacketKey::new(&[0x13, 0x34, 0x57, 0x79, 0x9b, 0xbc, 0xdf, 0xf1])
}

fn encode(message: &[u8]) -> Vec<u8> {
    let mut encoder = Encoder::new(message);
    let (mut line, mut bytes, mut lines) = (LineBuffer::new(), Vec::new(), 0_u8);
    let expected = encoder.remaining();
    while encoder.next(&key(), &[lines; 8], &mut line) {
        bytes.extend_from_slice(&line);
        lines += 1;
    }
    assert_eq!(usize::from(lines), expected);
    bytes
}

type Events = (Vec<(Vec<u8>, bool)>, Option<PacketError>);

fn decode<'a>(pieces: impl IntoIterator<Item = &'a [u8]>, max_message: usize) -> Events {
    let mut decoder = Decoder::new(key(), max_message);
    let (mut line, mut fragments) = (LineBuffer::new(), Vec::new());
    for mut piece in pieces {
        while !piece.is_empty() {
            match decoder.push(&mut line, piece) {
                Ok((n, fragment)) => {
                    assert!(n > 0);
                    piece = &piece[n..];
                    match fragment {
                        Some(fragment) => fragments.push((fragment.data.to_vec(), fragment.last)),
                        None => assert!(piece.is_empty()),
                    }
                }
                Err(error) => {
                    assert_eq!(decoder.push(&mut line, b"A"), Err(error), "the error stays");
                    return (fragments, Some(error));
                }
            }
        }
    }
    (fragments, None)
}

fn split<'a>(bytes: &'a [u8], cuts: &[usize]) -> Vec<&'a [u8]> {
    let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut % (bytes.len() + 1)).collect();
    cuts.sort_unstable();
    let (mut pieces, mut from) = (Vec::new(), 0);
    for cut in cuts.into_iter().chain([bytes.len()]) {
        pieces.push(&bytes[from..cut]);
        from = cut;
    }
    pieces
}

#[test]
fn a_message_of_every_number_of_packets() {
    for len in [0, 1, MAX_DATA, MAX_DATA + 1, 2 * MAX_DATA, 2 * MAX_DATA + 1] {
        let message = vec![b'm'; len];
        let (fragments, error) = decode([&encode(&message)[..]], ROOMY);
        assert_eq!(error, None);
        assert_eq!(fragments.len(), len.div_ceil(MAX_DATA).max(1));
        assert!(fragments.iter().rev().skip(1).all(|(_, last)| !last));
        assert!(fragments.last().unwrap().1);
        assert_eq!(fragments.concat_data(), message);
    }
}

trait ConcatData {
    fn concat_data(&self) -> Vec<u8>;
}

impl ConcatData for Vec<(Vec<u8>, bool)> {
    fn concat_data(&self) -> Vec<u8> {
        self.iter().flat_map(|(data, _)| data.clone()).collect()
    }
}

#[test]
fn the_message_limit_is_exact() {
    let limit = MAX_DATA + 5;
    assert_eq!(decode([&encode(&vec![0; limit])[..]], limit).1, None);
    assert_eq!(decode([&encode(&vec![0; limit + 1])[..]], limit).1, Some(PacketError::MessageTooLong));
    // The count begins anew with each message.
    let two = [encode(&vec![0; limit]), encode(&vec![0; limit])].concat();
    assert_eq!(decode([&two[..]], limit).1, None);
}

#[test]
fn an_endless_line_ends_at_the_limit() {
    assert_eq!(decode([&[b'A'; MAX_LINE][..]], ROOMY).1, None);
    assert_eq!(decode([&[b'A'; MAX_LINE + 1][..]], ROOMY).1, Some(PacketError::LineTooLong));
}

#[test]
fn breaches_are_found_at_their_byte() {
    for (input, error) in [
        (&b"AAAA\n"[..], PacketError::LineEnd),
        (b"AAAA\rA", PacketError::LineEnd),
        (b"AAAA\r\r", PacketError::LineEnd),
        (b"AA-", PacketError::Alphabet),
        (b"AAAA\r-", PacketError::Alphabet),
        (b"\xc3", PacketError::Alphabet),
        (b"\r\n", PacketError::CipherLength),
        (b"AAA\r\n", PacketError::Base64),
    ] {
        assert_eq!(decode([input], ROOMY).1, Some(error), "{input:?}");
        assert_eq!(decode([&input[..input.len() - 1]], ROOMY).1, None, "one byte earlier, {input:?}");
    }
}

#[test]
fn midway_is_known() {
    let bytes = encode(&vec![b'm'; MAX_DATA + 1]);
    let mut decoder = Decoder::new(key(), ROOMY);
    let mut line = LineBuffer::new();
    assert!(!decoder.is_midway(&line));
    decoder.push(&mut line, &bytes[..1]).unwrap();
    assert!(decoder.is_midway(&line), "within a line");
    let (n, _) = decoder.push(&mut line, &bytes[1..]).unwrap();
    assert!(decoder.is_midway(&line), "between packets of a message");
    decoder.push(&mut line, &bytes[1 + n..]).unwrap();
    assert!(!decoder.is_midway(&line));
}

proptest! {
    #[test]
    fn any_message_split_anyhow_comes_back(
        messages in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 1..5),
        cuts in prop::collection::vec(any::<usize>(), 0..20),
    ) {
        let bytes: Vec<u8> = messages.iter().flat_map(|message| encode(message)).collect();
        let (fragments, error) = decode(split(&bytes, &cuts), ROOMY);
        prop_assert_eq!(error, None);
        prop_assert_eq!(fragments, messages.into_iter().map(|message| (message, true)).collect::<Vec<_>>());
    }

    #[test]
    fn damage_gives_the_same_events_for_any_split(
        message in prop::collection::vec(any::<u8>(), 0..300),
        at in any::<usize>(),
        byte in any::<u8>(),
        cuts in prop::collection::vec(any::<usize>(), 0..20),
    ) {
        let mut bytes = [encode(&message), encode(b"after")].concat();
        let at = at % bytes.len();
        bytes[at] = byte;
        prop_assert_eq!(decode(split(&bytes, &cuts), 250), decode([&bytes[..]], 250));
    }

    #[test]
    fn garbage_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..400), cuts in prop::collection::vec(any::<usize>(), 0..5)) {
        prop_assert_eq!(decode(split(&bytes, &cuts), 250), decode([&bytes[..]], 250));
    }

    #[test]
    fn garbage_of_the_alphabet_never_panics(text in "([A-Za-z0-9+/]{4}){0,40}(=|==)?(\r\n|\n)?") {
        let (fragments, _) = decode([text.as_bytes()], 250);
        prop_assert!(fragments.len() <= 1);
    }
}
