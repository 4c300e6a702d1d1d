//! Sealed records, sans-IO: bytes of the transport on one side, plaintext on the other.

use snow::TransportState;
use thiserror::Error;

/// Most bytes of a record behind its length: what two bytes can say, which is Noise's own limit.
pub const MAX_RECORD: usize = 65535;

/// Bytes of the authenticator at the end of each record.
pub const TAG: usize = 16;

/// Most bytes of plaintext in a record.
pub const MAX_PLAIN: usize = MAX_RECORD - TAG;

/// Bytes of a record's length.
const HEADER: usize = 2;

/// From this many bytes of sealed output on, some of it must go before more is sealed.
const OUTPUT_HIGH: usize = 2 * (HEADER + MAX_RECORD);

/// What one read may bring on a busy connection; an idle one keeps the first size.
const INPUT_FULL: usize = 4 * (HEADER + MAX_RECORD);
const INPUT_FIRST: usize = 4096;

/// Why the session is over. For our own log only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum RecordError {
    /// A record too short for its authenticator.
    #[error("a sealed record is too short")]
    Short,
    /// A record that is altered, repeated, out of order or not of this session.
    #[error("a sealed record does not open")]
    Forged,
    /// The transport ended without the record that ends a session.
    #[error("the transport ended within the session")]
    Truncated,
}

/// Both directions of one session.
pub(crate) struct Records {
    noise: TransportState,
    input: Window,
    output: Window,
    failed: Option<RecordError>,
}

impl Records {
    pub(crate) fn new(noise: TransportState) -> Self {
        Self { noise, input: Window::default(), output: Window::default(), failed: None }
    }

    /// Whether [`Records::seal`] may be called.
    pub(crate) fn has_room(&self) -> bool {
        self.output.filled().len() < OUTPUT_HIGH
    }

    /// Seals one record of up to [`MAX_PLAIN`] bytes; an empty one ends the session.
    pub(crate) fn seal(&mut self, plain: &[u8]) {
        debug_assert!(plain.len() <= MAX_PLAIN, "the caller cuts");
        let room = self.output.room(HEADER + plain.len() + TAG);
        let n = self
            .noise
            .write_message(plain, &mut room[HEADER..])
            .expect("a record fits its room, and a session of an hour does not use up 2^64 nonces");
        let length = u16::try_from(n).expect("a record is within MAX_RECORD");
        room[..HEADER].copy_from_slice(&length.to_be_bytes());
        self.output.fill(HEADER + n);
    }

    /// What is sealed and has not gone yet.
    pub(crate) fn output(&self) -> &[u8] {
        self.output.filled()
    }

    pub(crate) fn sent(&mut self, n: usize) {
        self.output.take(n);
    }

    /// Where the next bytes of the transport go; never empty.
    pub(crate) fn input(&mut self) -> &mut [u8] {
        let have = self.input.filled().len();
        let record = match *self.input.filled() {
            [a, b, ..] => HEADER + usize::from(u16::from_be_bytes([a, b])),
            _ => HEADER,
        };
        let wanted = record.saturating_sub(have);
        self.input.room(wanted.max(1))
    }

    /// Says how many bytes were put into [`Records::input`].
    pub(crate) fn received(&mut self, n: usize) {
        self.input.fill(n);
        self.input.widen(INPUT_FIRST, INPUT_FULL);
    }

    /// The plaintext's length of the next record, once it is all there.
    pub(crate) fn pending(&mut self) -> Result<Option<usize>, RecordError> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        let [a, b, ref rest @ ..] = *self.input.filled() else { return Ok(None) };
        let length = usize::from(u16::from_be_bytes([a, b]));
        let enough = rest.len() >= length;
        if length < TAG {
            return Err(self.fail(RecordError::Short));
        }
        Ok(enough.then_some(length - TAG))
    }

    /// Opens the record of which [`Records::pending`] told, into `plain`, which is at least as long as that.
    pub(crate) fn open(&mut self, plain: &mut [u8]) -> Result<usize, RecordError> {
        let Some(n) = self.pending()? else { return Ok(0) };
        let record = &self.input.filled()[HEADER..HEADER + n + TAG];
        match self.noise.read_message(record, plain) {
            Ok(n) => {
                self.input.take(HEADER + n + TAG);
                Ok(n)
            }
            // The nonce has not moved on: without this, the session could go on after a forgery.
            Err(_) => Err(self.fail(RecordError::Forged)),
        }
    }

    /// The session is over from here on.
    pub(crate) fn fail(&mut self, error: RecordError) -> RecordError {
        *self.failed.get_or_insert(error)
    }
}

/// A buffer that is filled at its end and emptied from its beginning.
#[derive(Default)]
struct Window {
    bytes: Vec<u8>,
    start: usize,
    end: usize,
    full: bool,
}

impl Window {
    fn filled(&self) -> &[u8] {
        &self.bytes[self.start..self.end]
    }

    /// All the free space behind what is filled, at least `wanted` bytes of it.
    fn room(&mut self, wanted: usize) -> &mut [u8] {
        if self.bytes.len() - self.end < wanted {
            self.bytes.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
            if self.bytes.len() - self.end < wanted {
                let size = (self.end + wanted).max(INPUT_FIRST);
                self.bytes.resize(size, 0);
            }
        }
        &mut self.bytes[self.end..]
    }

    fn fill(&mut self, n: usize) {
        self.end += n;
        self.full = self.end == self.bytes.len();
    }

    fn take(&mut self, n: usize) {
        self.start += n;
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        }
    }

    /// Doubles the buffer, up to `limit`, if what came filled it to the brim: there is more where that came from.
    fn widen(&mut self, first: usize, limit: usize) {
        if self.full && self.bytes.len() < limit {
            let size = (self.bytes.len() * 2).clamp(first, limit);
            self.bytes.resize(size, 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair() -> (Records, Records) {
        let params: snow::params::NoiseParams = super::super::NOISE.parse().unwrap();
        let psk = [7; 32];
        let build = || snow::Builder::new(params.clone()).psk(0, &psk).unwrap();
        let (mut a, mut b) = (build().build_initiator().unwrap(), build().build_responder().unwrap());
        let (mut wire, mut none) = ([0; 128], [0; 128]);
        let n = a.write_message(&[], &mut wire).unwrap();
        b.read_message(&wire[..n], &mut none).unwrap();
        let n = b.write_message(&[], &mut wire).unwrap();
        a.read_message(&wire[..n], &mut none).unwrap();
        (Records::new(a.into_transport_mode().unwrap()), Records::new(b.into_transport_mode().unwrap()))
    }

    fn feed(records: &mut Records, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let room = records.input();
            let n = room.len().min(bytes.len());
            room[..n].copy_from_slice(&bytes[..n]);
            records.received(n);
            bytes = &bytes[n..];
        }
    }

    fn drain(records: &mut Records) -> Vec<u8> {
        let bytes = records.output().to_vec();
        records.sent(bytes.len());
        bytes
    }

    fn open(records: &mut Records) -> Result<Option<Vec<u8>>, RecordError> {
        let Some(n) = records.pending()? else { return Ok(None) };
        let mut plain = vec![0; n];
        records.open(&mut plain)?;
        Ok(Some(plain))
    }

    #[test]
    fn records_of_every_kind_of_size_arrive_for_any_split() {
        for piece in [1, 2, 3, 17, 1000, usize::MAX] {
            let (mut a, mut b) = pair();
            for size in [0, 1, 15, 16, 4096, MAX_PLAIN] {
                let plain = vec![0xa5; size];
                a.seal(&plain);
                let wire = drain(&mut a);
                for piece in wire.chunks(piece.min(wire.len())) {
                    assert_eq!(open(&mut b).unwrap(), None);
                    feed(&mut b, piece);
                }
                assert_eq!(open(&mut b).unwrap().unwrap(), plain);
            }
        }
    }

    #[test]
    fn many_records_at_once() {
        let (mut a, mut b) = pair();
        let mut sealed = 0;
        while a.has_room() {
            a.seal(&vec![sealed; MAX_PLAIN]);
            sealed += 1;
        }
        assert_eq!(sealed, 2);
        feed(&mut b, &drain(&mut a));
        for i in 0..sealed {
            assert!(open(&mut b).unwrap().unwrap().iter().all(|&byte| byte == i));
        }
        assert_eq!(open(&mut b).unwrap(), None);
    }

    #[test]
    fn one_forgery_ends_the_session() {
        let (mut a, mut b) = pair();
        a.seal(b"one");
        let good = drain(&mut a);
        for at in HEADER..good.len() {
            let mut forged = good.clone();
            forged[at] ^= 1;
            let (mut a, mut b) = pair();
            a.seal(b"one");
            drain(&mut a);
            feed(&mut b, &forged);
            assert_eq!(open(&mut b), Err(RecordError::Forged), "byte {at}");
        }
        let mut forged = good.clone();
        forged[HEADER] ^= 1;
        feed(&mut b, &forged);
        assert_eq!(open(&mut b), Err(RecordError::Forged));
        feed(&mut b, &good);
        assert_eq!(open(&mut b), Err(RecordError::Forged), "what is good comes too late");
    }

    #[test]
    fn an_altered_length_gives_nothing() {
        for bit in 0..16 {
            let (mut a, mut b) = pair();
            a.seal(&[7; 1000]);
            a.seal(&[8; 1000]);
            let mut wire = drain(&mut a);
            wire[bit / 8] ^= 1 << (bit % 8);
            feed(&mut b, &wire);
            // Longer than what came is waited for, until a deadline; all else is known at once.
            let opened = open(&mut b);
            assert!(
                matches!(opened, Ok(None) | Err(RecordError::Short | RecordError::Forged)),
                "bit {bit}: {opened:?}"
            );
        }
    }

    #[test]
    fn repeated_and_reordered_records_do_not_open() {
        let (mut a, mut b) = pair();
        a.seal(b"one");
        let one = drain(&mut a);
        a.seal(b"two");
        let two = drain(&mut a);
        feed(&mut b, &one);
        open(&mut b).unwrap();
        feed(&mut b, &one);
        assert_eq!(open(&mut b), Err(RecordError::Forged), "repeated");
        let (mut a, mut b) = pair();
        a.seal(b"one");
        drain(&mut a);
        a.seal(b"two");
        feed(&mut b, &drain(&mut a));
        assert_eq!(open(&mut b), Err(RecordError::Forged), "one is missing");
        let (_, mut b) = pair();
        feed(&mut b, &two);
        assert_eq!(open(&mut b), Err(RecordError::Forged), "another session");
    }

    #[test]
    fn a_record_has_at_least_its_authenticator() {
        for length in [0, TAG - 1] {
            let (_, mut b) = pair();
            let length = u16::try_from(length).unwrap();
            feed(&mut b, &length.to_be_bytes());
            assert_eq!(b.pending(), Err(RecordError::Short));
        }
    }

    #[test]
    fn buffers_stay_bounded() {
        let (mut a, mut b) = pair();
        for _ in 0..50 {
            a.seal(&[0; MAX_PLAIN]);
            feed(&mut b, &drain(&mut a));
            while open(&mut b).unwrap().is_some() {}
        }
        assert!(a.output.bytes.len() <= OUTPUT_HIGH + HEADER + MAX_RECORD);
        assert!(b.input.bytes.len() <= INPUT_FULL + HEADER + MAX_RECORD);
        let (mut a, mut b) = pair();
        for _ in 0..50 {
            a.seal(b"small");
            feed(&mut b, &drain(&mut a));
            assert!(open(&mut b).unwrap().is_some());
        }
        assert_eq!(b.input.bytes.len(), INPUT_FIRST, "small records need no more");
    }
}
