//! What fuzzers call: each function takes any bytes and panics when a promise is broken.

use crate::{Element, Message};

/// Elements: what was read is written as text that is read as the same.
///
/// # Panics
/// When it is not.
pub fn element(bytes: &[u8]) {
    if let Ok(element) = Element::parse(bytes) {
        // Escapes may make it longer than what was read, and too long.
        let Ok(text) = element.render() else { return };
        let again = Element::parse(text.as_bytes()).expect("what is written can be read");
        assert_eq!(again, element, "and is the same");
    }
}

/// Messages with their typed transactions: the same, and the text that is written is the one form of the message.
///
/// # Panics
/// When it is not.
pub fn message(bytes: &[u8]) {
    if let Ok(message) = Message::decode(bytes) {
        let Ok(text) = message.encode() else { return };
        let again = Message::decode(text.as_bytes()).expect("what is written can be read");
        assert_eq!(again, message, "and is the same");
        assert_eq!(again.encode().as_deref(), Ok(&*text), "in one form");
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    /// What fuzzers found, and where they start.
    #[test]
    fn the_corpus_again() {
        for (target, entry) in [("element", super::element as fn(&[u8])), ("message", super::message)] {
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
