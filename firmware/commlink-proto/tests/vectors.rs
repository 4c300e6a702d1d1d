//! The golden vectors of the packet layer, which another implementation made. If a test in here fails, do not change
//! the vectors.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use commlink_proto::{Decoder, LineBuffer, Mark, PacketKey, decode_line, encode_packet, key_index};
use serde::Deserialize;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Vector {
    des_keys: Vec<String>,
    port: u16,
    iv: String,
    plaintext: String,
    line: String,
}

impl Vector {
    fn key(&self) -> PacketKey {
        let entries = NonZeroUsize::new(self.des_keys.len()).unwrap();
        PacketKey::new(&bytes(&self.des_keys[key_index(self.port, entries)]))
    }

    fn plaintext(&self) -> (Mark, Vec<u8>) {
        let plaintext = hex::decode(&self.plaintext).unwrap();
        (Mark::from_byte(plaintext[0]).unwrap(), plaintext[1..].to_vec())
    }
}

fn bytes(text: &str) -> [u8; 8] {
    hex::decode(text).unwrap().try_into().unwrap()
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/vectors/v1")
}

fn load(path: &Path) -> Vec<Vector> {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn all() -> Vec<Vector> {
    std::fs::read_dir(folder())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with("ffs1"))
        .flat_map(|path| load(&path))
        .collect()
}

#[test]
fn encoded_as_the_vectors_are() {
    for vector in all() {
        let (mark, data) = vector.plaintext();
        let mut line = LineBuffer::new();
        encode_packet(&vector.key(), &bytes(&vector.iv), mark, &data, &mut line).unwrap();
        assert_eq!(line, vector.line.as_bytes(), "vector {}", vector.iv);
    }
}

#[test]
fn decoded_as_the_vectors_are() {
    for vector in all() {
        let (mark, data) = vector.plaintext();
        let mut line = vector.line.clone().into_bytes();
        assert_eq!(decode_line(&vector.key(), &mut line).unwrap(), (mark, &data[..]), "vector {}", vector.iv);
    }
}

#[test]
fn the_continued_message_is_one_message() {
    let vectors = load(&folder().join("ffs1-continued.json"));
    let wire: String = vectors.iter().map(|vector| vector.line.as_str()).collect();
    let mut decoder = Decoder::new(vectors[0].key(), 1 << 20);
    let (mut line, mut rest, mut message, mut ends) = (LineBuffer::new(), wire.as_bytes(), Vec::new(), 0);
    while !rest.is_empty() {
        let (taken, fragment) = decoder.push(&mut line, rest).unwrap();
        let fragment = fragment.expect("the wire ends with a line");
        message.extend_from_slice(fragment.data);
        ends += usize::from(fragment.last);
        rest = &rest[taken..];
    }
    assert_eq!(ends, 1);
    let text = String::from_utf8(message).unwrap();
    assert!(text.chars().all(|c| c == 'é') && text.len() > 65_536);
}

#[test]
fn the_set_covers_what_it_should() {
    let vectors = all();
    assert!(vectors.len() >= 8);
    let paddings: BTreeSet<usize> = vectors.iter().map(|v| 8 - v.plaintext().1.len().wrapping_add(1) % 8).collect();
    assert_eq!(paddings, (1..=8).collect());
    assert!(vectors.iter().any(|v| v.plaintext().0 == Mark::More));
    assert!(vectors.iter().any(|v| String::from_utf8(v.plaintext().1).is_ok_and(|text| !text.is_ascii())));
}
