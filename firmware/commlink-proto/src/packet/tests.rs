extern crate std;

use std::vec;
use std::vec::Vec;

use super::*;

const IV: [u8; 8] = [0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x88];

fn key() -> PacketKey {
    PacketKey::new(&[0x13, 0x34, 0x57, 0x79, 0x9b, 0xbc, 0xdf, 0xf1])
}

fn encode(mark: Mark, data: &[u8]) -> Vec<u8> {
    let mut line = LineBuffer::new();
    encode_packet(&key(), &IV, mark, data, &mut line).unwrap();
    line.to_vec()
}

/// A line of whatever plaintext, also what `encode_packet` refuses to make.
fn forge(plain: &[u8]) -> Vec<u8> {
    let mut buffer = vec![0; plain.len() + BLOCK];
    buffer[..plain.len()].copy_from_slice(plain);
    let body = Encryptor::<&Des>::inner_iv_init(&key().0, (&IV).into())
        .encrypt_padded::<Pkcs7>(&mut buffer, plain.len())
        .unwrap()
        .to_vec();
    line_of(&[&IV[..], &body].concat())
}

fn line_of(bytes: &[u8]) -> Vec<u8> {
    let mut text = STANDARD.encode(bytes).into_bytes();
    text.extend_from_slice(LINE_END);
    text
}

fn refused(mut line: Vec<u8>) -> PacketError {
    decode_line(&key(), &mut line).unwrap_err()
}

#[test]
fn every_length_around_the_stage_comes_back() {
    for len in (0..64).chain(STAGE - 20..STAGE + 20).chain(MAX_DATA - 20..=MAX_DATA) {
        let data: Vec<u8> = (0..len).map(|i| u8::try_from(i % 251).unwrap()).collect();
        let mut line = encode(Mark::Last, &data);
        assert!(line.len() <= MAX_LINE && line.is_ascii());
        assert_eq!(line, forge(&[b".", &data[..]].concat()), "in pieces as in one piece, {len}");
        assert_eq!(decode_line(&key(), &mut line).unwrap(), (Mark::Last, &data[..]));
    }
}

#[test]
fn the_longest_packet_fills_the_longest_line() {
    assert_eq!(encode(Mark::More, &[b'x'; MAX_DATA]).len(), MAX_LINE);
    let mut line = LineBuffer::new();
    assert_eq!(encode_packet(&key(), &IV, Mark::Last, &[0; MAX_DATA + 1], &mut line), Err(PacketError::PacketTooLong));
    // 32769 to 32775 bytes would still fit the line.
    let mut plain = vec![b'x'; MAX_PACKET + 1];
    plain[0] = b'.';
    assert_eq!(refused(forge(&plain)), PacketError::PacketTooLong);
    assert_eq!(refused(vec![b'A'; MAX_LINE + 1]), PacketError::LineTooLong);
}

#[test]
fn bad_lines() {
    let good = encode(Mark::Last, b"hello");
    for end in [&b""[..], b"\n", b"\r", b"\n\r"] {
        let line = [&good[..good.len() - 2], end].concat();
        assert_eq!(refused(line), PacketError::LineEnd, "{end:?}");
    }
    for byte in [b'-', b'_', b' ', b'\r', 0, 0x80, 0xff] {
        let mut line = good.clone();
        line[3] = byte;
        assert_eq!(refused(line), PacketError::Alphabet, "{byte}");
    }
    assert_eq!(refused(b"\r\n".to_vec()), PacketError::CipherLength);
    assert_eq!(refused(b"AAA\r\n".to_vec()), PacketError::Base64);
    assert_eq!(refused(line_of(&IV)), PacketError::CipherLength);
    assert_eq!(refused(line_of(&[1; 23])), PacketError::CipherLength);
    // The spare bits of the last character are not zero.
    assert_eq!(refused([&good[..good.len() - 5], b"h==\r\n"].concat()), PacketError::Base64);
}

#[test]
fn padding_characters_in_the_middle_are_refused() {
    // The first piece of the line would decode alone.
    let mut line = encode(Mark::Last, &[b'x'; 2 * STAGE]);
    line[STAGE_TEXT - 1] = b'=';
    line[STAGE_TEXT - 2] = b'A';
    assert_eq!(refused(line), PacketError::Base64);
    let mut line = encode(Mark::Last, b"hello");
    line[4] = b'=';
    assert_eq!(refused(line), PacketError::Base64);
}

#[test]
fn bad_plaintexts() {
    assert_eq!(refused(forge(b"")), PacketError::Mark);
    assert_eq!(refused(forge(b"hello")), PacketError::Mark);
    assert_eq!(refused(forge(b"+")), PacketError::EmptyFragment);
    let mut line = LineBuffer::new();
    assert_eq!(encode_packet(&key(), &IV, Mark::More, b"", &mut line), Err(PacketError::EmptyFragment));
    assert_eq!(decode_line(&key(), &mut forge(b".")).unwrap(), (Mark::Last, &b""[..]));
}

#[test]
fn another_key_is_not_understood() {
    // With a wrong key the padding is right by chance in 1 of 256 packets; this one is not among them.
    let other = PacketKey::new(&[0x0e, 0x32, 0x92, 0x32, 0xea, 0x6d, 0x0d, 0x73]);
    assert_eq!(decode_line(&other, &mut encode(Mark::Last, b"hello")), Err(PacketError::Padding));
}
