//! What fuzzers call: takes any bytes and panics when a promise is broken.

use super::NOISE;
use super::record::{MAX_PLAIN, RecordError, Records};

/// Most bytes that one direction of a session holds, whatever comes: four records, and one more while it is moved.
const MAX_HELD: usize = 5 * (2 + 65535);

fn pair() -> (Records, Records) {
    let key = [7; 32];
    let build = || {
        let params = NOISE.parse().expect("snow knows the protocol");
        snow::Builder::new(params)
            .psk(0, &key)
            .expect("a key of 32 bytes")
            .fixed_ephemeral_key_for_testing_only(&[9; 32])
    };
    let (mut a, mut b) = (build().build_initiator().expect("complete"), build().build_responder().expect("complete"));
    let (mut wire, mut none) = ([0; 128], [0; 128]);
    let n = a.write_message(&[], &mut wire).expect("it fits");
    b.read_message(&wire[..n], &mut none).expect("it is the other's");
    let n = b.write_message(&[], &mut wire).expect("it fits");
    a.read_message(&wire[..n], &mut none).expect("it is the other's");
    (Records::new(a.into_transport_mode().expect("done")), Records::new(b.into_transport_mode().expect("done")))
}

/// Feeds a stream in pieces; gives all that opened, and how it ended.
fn open(records: &mut Records, mut bytes: &[u8], piece: usize) -> (Vec<u8>, Option<RecordError>) {
    let (mut plain, mut room) = (Vec::new(), vec![0; MAX_PLAIN]);
    while !bytes.is_empty() {
        let input = records.input();
        assert!(!input.is_empty() && input.len() <= MAX_HELD, "bounded, whatever comes");
        let n = input.len().min(bytes.len()).min(piece);
        input[..n].copy_from_slice(&bytes[..n]);
        records.received(n);
        bytes = &bytes[n..];
        loop {
            match records.pending() {
                Ok(None) => break,
                Ok(Some(_)) => match records.open(&mut room) {
                    Ok(n) => plain.extend_from_slice(&room[..n]),
                    Err(error) => {
                        assert_eq!(records.pending(), Err(error), "the error stays");
                        return (plain, Some(error));
                    }
                },
                Err(error) => return (plain, Some(error)),
            }
        }
    }
    (plain, None)
}

/// Records that are sealed at most.
const MOST: u8 = 8;

/// Sealed records. The first bytes say how many honest records come, how the stream is split, and where how many of its
/// bytes are others; the rest are those bytes. What opens is the beginning of what was sealed, however it is split.
///
/// # Panics
/// When it is not.
pub fn records(bytes: &[u8]) {
    let [count, piece, at, rest @ ..] = bytes else { return };
    let (mut sender, mut receiver) = pair();
    // The keys are fixed, so a fuzzer that watches comparisons learns the records that would come next: they are sealed too.
    let (mut sealed, mut honest, mut count) = (Vec::new(), Vec::new(), *count % MOST);
    let mut sent = 0;
    for n in 0..MOST {
        let plain = vec![n; 3 * usize::from(n)];
        sender.seal(&plain);
        sealed.extend_from_slice(&plain);
        if count > 0 {
            (honest, sent, count) = (sender.output().to_vec(), sealed.len(), count - 1);
        }
    }
    let mut wire = honest.clone();
    let at = usize::from(*at).min(wire.len());
    let end = (at + rest.len()).min(wire.len());
    wire.splice(at..end, rest.iter().copied());
    let piece = usize::from(*piece).max(1);
    let (opened, error) = open(&mut receiver, &wire, piece);
    assert!(sealed.starts_with(&opened), "nothing opens that was not sealed");
    if wire == honest {
        assert!(error.is_none() && opened == sealed[..sent], "what is honest opens");
    }
    let again = open(&mut pair().1, &wire, usize::MAX);
    assert_eq!(again, (opened, error), "any split gives the same");
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    /// What fuzzers found, and where they start.
    #[test]
    fn the_corpus_again() {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/records");
        let mut count = 0;
        for file in std::fs::read_dir(&dir).unwrap() {
            super::records(&std::fs::read(file.unwrap().path()).unwrap());
            count += 1;
        }
        assert!(count > 0, "{} is empty", dir.display());
    }
}
