//! What passed on a network, put together to TCP streams, and what a listener could read in it.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use std::collections::{BTreeMap, HashMap};
use std::net::Ipv4Addr;

/// A capture file's first bytes: microseconds, in the byte order of x86 (libpcap's savefile format).
const PCAP: [u8; 4] = [0xd4, 0xc3, 0xb2, 0xa1];
/// Bytes before the first frame.
const PCAP_HEADER: usize = 24;
/// Bytes before each frame.
const PCAP_RECORD: usize = 16;
/// TCP's number in IPv4.
const TCP: u8 = 6;

/// Address and port.
type Socket = (Ipv4Addr, u16);

/// One direction of one connection.
#[derive(Debug, Default)]
struct Flow {
    next: Option<u32>,
    bytes: Vec<u8>,
    /// What came before its turn, by sequence number.
    early: BTreeMap<u32, Vec<u8>>,
}

/// The streams that frames make.
#[derive(Debug, Default)]
pub struct Streams {
    flows: HashMap<(Socket, Socket), Flow>,
    ended: Vec<Vec<u8>>,
}

impl Flow {
    fn take(&mut self, sequence: u32, payload: &[u8]) {
        let next = *self.next.get_or_insert(sequence);
        // Half of all numbers are behind us: what is sent again.
        let ahead = sequence.wrapping_sub(next);
        if ahead < 1 << 31 {
            self.early.insert(sequence, payload.to_vec());
        } else if let Some(rest) = payload.get(usize::try_from(next.wrapping_sub(sequence)).expect("it fits")..)
            && !rest.is_empty()
        {
            self.early.insert(next, rest.to_vec());
        }
        while let Some(next) = self.next
            && let Some(payload) = self.early.remove(&next)
        {
            self.bytes.extend_from_slice(&payload);
            self.next = Some(next.wrapping_add(u32::try_from(payload.len()).expect("a frame is small")));
        }
        // Sent again with other limits: the part that is known is not needed again.
        if let Some(next) = self.next {
            self.early.retain(|sequence, _| sequence.wrapping_sub(next) < 1 << 31);
        }
    }
}

impl Streams {
    /// Adds the payload of an Ethernet frame with TCP over IPv4 between sockets that are wanted.
    pub fn take(&mut self, frame: &[u8], wanted: impl Fn(Socket) -> bool) {
        let Some(([.., 0x08, 0x00], ip)) = frame.split_at_checked(14) else { return };
        let header = usize::from(ip.first().copied().unwrap_or(0) & 15) * 4;
        let length = ip.get(2..4).map_or(0, |l| usize::from(u16::from_be_bytes([l[0], l[1]])));
        if ip.get(9) != Some(&TCP) || header < 20 {
            return;
        }
        // A length of zero is a frame that the kernel has not cut yet.
        let end = if length == 0 { ip.len() } else { length.min(ip.len()) };
        let Some(tcp) = ip.get(header..end).filter(|tcp| tcp.len() >= 20) else { return };
        let address = |at: usize| Ipv4Addr::new(ip[at], ip[at + 1], ip[at + 2], ip[at + 3]);
        let port = |at: usize| u16::from_be_bytes([tcp[at], tcp[at + 1]]);
        let (from, to) = ((address(12), port(0)), (address(16), port(2)));
        if !wanted(from) && !wanted(to) {
            return;
        }
        let sequence = u32::from_be_bytes([tcp[4], tcp[5], tcp[6], tcp[7]]);
        let payload = tcp.get(usize::from(tcp[12] >> 4) * 4..).unwrap_or_default();
        let flow = self.flows.entry((from, to)).or_default();
        if tcp[13] & 2 != 0 {
            let first = sequence.wrapping_add(1);
            // The same SYN again, or the ports are used again.
            if flow.next.is_some_and(|next| next != first && !flow.bytes.is_empty()) {
                self.ended.push(std::mem::take(flow).bytes);
            }
            if flow.bytes.is_empty() {
                flow.next = Some(first);
            }
        } else if !payload.is_empty() {
            flow.take(sequence, payload);
        }
    }

    /// Adds all of a capture file.
    ///
    /// # Panics
    /// When it is none.
    pub fn take_pcap(&mut self, file: &[u8], wanted: impl Fn(Socket) -> bool) {
        assert!(file.starts_with(&PCAP), "a capture file begins with {PCAP:02x?}");
        let mut rest = &file[PCAP_HEADER..];
        // QEMU may be writing the last one.
        while let Some((record, frames)) = rest.split_at_checked(PCAP_RECORD) {
            let length = u32::from_le_bytes([record[8], record[9], record[10], record[11]]);
            let Some((frame, next)) = frames.split_at_checked(usize::try_from(length).expect("it fits")) else { break };
            self.take(frame, &wanted);
            rest = next;
        }
    }

    /// The bytes of every direction of every connection.
    ///
    /// # Panics
    /// When a part of one never came.
    pub fn finish(self) -> Vec<Vec<u8>> {
        for (sockets, flow) in &self.flows {
            assert!(flow.early.is_empty(), "the capture has lost packets of {sockets:?}");
        }
        self.ended.into_iter().chain(self.flows.into_values().map(|flow| flow.bytes)).collect()
    }
}

/// The text itself and what it looks like inside of base64, whatever stands before it.
pub fn forms(text: &str) -> Vec<Vec<u8>> {
    let mut forms = vec![text.as_bytes().to_vec()];
    for before in 0..3 {
        let padded: Vec<u8> = vec![b'x'; before].into_iter().chain(text.bytes()).collect();
        let encoded = STANDARD.encode(&padded);
        // The first and last characters depend on the neighbours.
        let first = (before * 8).div_ceil(6);
        let last = padded.len() * 8 / 6;
        forms.push(encoded.as_bytes()[first..last].to_vec());
    }
    forms
}

/// Whether a stream holds a pattern.
pub fn holds(stream: &[u8], pattern: &[u8]) -> bool {
    let mut rest = stream;
    while let Some(at) = rest.iter().position(|b| *b == pattern[0]) {
        if rest[at..].starts_with(pattern) {
            return true;
        }
        rest = &rest[at + 1..];
    }
    false
}

/// Nobody could read any of these texts.
///
/// # Panics
/// When somebody could.
pub fn assert_secret<'a>(streams: &[Vec<u8>], texts: impl IntoIterator<Item = &'a str>) {
    for text in texts {
        for form in forms(text) {
            let found = streams.iter().any(|stream| holds(stream, &form));
            assert!(!found, "{text:?} is on the wire, as {:?}", String::from_utf8_lossy(&form));
        }
    }
}

/// The words of the protocol that are long enough not to turn up by chance.
pub fn protocol_words() -> Vec<&'static str> {
    let requests = tobj::RequestTag::ALL.iter().map(|t| t.as_str());
    let replies = tobj::ReplyTag::ALL.iter().map(|t| t.as_str());
    requests.chain(replies).filter(|t| t.len() > 5).chain(["<TOBJ", "VERSION="]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Socket = (Ipv4Addr::new(10, 83, 1, 1), 40_000);
    const B: Socket = (Ipv4Addr::new(10, 83, 1, 2), 7640);

    fn frame(from: Socket, to: Socket, sequence: u32, flags: u8, payload: &[u8]) -> Vec<u8> {
        let mut frame = [[0; 12].as_slice(), &[0x08, 0x00]].concat();
        let length = u16::try_from(40 + payload.len()).expect("small").to_be_bytes();
        frame.extend([0x45, 0, length[0], length[1], 0, 0, 0, 0, 64, TCP, 0, 0]);
        frame.extend(from.0.octets().into_iter().chain(to.0.octets()));
        frame.extend(from.1.to_be_bytes().into_iter().chain(to.1.to_be_bytes()).chain(sequence.to_be_bytes()));
        frame.extend([0, 0, 0, 0, 5 << 4, flags, 0, 0, 0, 0, 0, 0]);
        frame.extend(payload);
        frame
    }

    fn put_together(frames: &[Vec<u8>]) -> Vec<Vec<u8>> {
        let mut streams = Streams::default();
        for frame in frames {
            streams.take(frame, |socket| socket.1 == B.1);
        }
        let mut streams = streams.finish();
        streams.sort();
        streams
    }

    #[test]
    fn in_any_order_and_twice() {
        // Across the end of the sequence numbers.
        let first = u32::MAX - 3;
        let at = |n: u32| first.wrapping_add(1 + n);
        let frames = [
            frame(A, B, first, 2, b""),
            frame(A, B, at(3), 16, b"lo wor"),
            frame(A, B, at(0), 16, b"hel"),
            frame(A, B, at(0), 16, b"hel"),
            frame(A, B, at(8), 16, b"rld"),
            frame(B, A, 7, 16, b"answer"),
            frame(A, (B.0, 9), 1, 16, b"not wanted"),
            frame(A, B, 77, 2, b""),
            frame(A, B, 78, 16, b"again"),
        ];
        assert_eq!(put_together(&frames), [b"again".to_vec(), b"answer".to_vec(), b"hello world".to_vec()]);
    }

    #[test]
    #[should_panic(expected = "lost packets")]
    fn what_is_missing_is_noticed() {
        put_together(&[frame(A, B, 0, 2, b""), frame(A, B, 5, 16, b"x")]);
    }

    #[test]
    fn capture_files() {
        let mut file = [PCAP.as_slice(), &[0; PCAP_HEADER - 4]].concat();
        for frame in [frame(A, B, 0, 2, b""), frame(A, B, 1, 16, b"hello")] {
            let length = u32::try_from(frame.len()).expect("small").to_le_bytes();
            file.extend([[0; 8].as_slice(), &length, &length, &frame].concat());
        }
        let mut streams = Streams::default();
        streams.take_pcap(&file[..file.len() - 1], |_| true);
        assert!(streams.finish().iter().all(Vec::is_empty), "the last frame is not complete");
        let mut streams = Streams::default();
        streams.take_pcap(&file, |_| true);
        assert_eq!(streams.finish(), [b"hello".to_vec()]);
    }

    #[test]
    fn the_forms_are_those_of_base64() {
        for before in 0..5 {
            let text = format!("{}swordfish and more", "y".repeat(before));
            let encoded = STANDARD.encode(text);
            assert!(forms("swordfish")[1..].iter().any(|form| holds(encoded.as_bytes(), form)), "{before}");
        }
        assert!(!holds(b"swordfis", b"swordfish") && holds(b"sswordfish", b"swordfish"));
    }
}
