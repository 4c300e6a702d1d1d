//! Ethernet frames with ARP (RFC 826) or the opening of a TCP connection over IPv4 (RFC 791, RFC 9293).

use crate::machine::Mac;
use std::net::Ipv4Addr;

const BROADCAST: [u8; 6] = [0xff; 6];
const ARP: [u8; 2] = [0x08, 0x06];
const IPV4: [u8; 2] = [0x08, 0x00];
/// ARP for IPv4 over Ethernet, up to the operation.
const ARP_HEAD: [u8; 7] = [0, 1, 8, 0, 6, 4, 0];
const ARP_REQUEST: u8 = 1;
const ARP_REPLY: u8 = 2;
const TCP: u8 = 6;
const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const ACK: u8 = 0x10;
/// The sequence number that our connections begin with.
const SEQUENCE: u32 = 0x0f0f_0000;

/// What we care about in a TCP segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Segment {
    /// A wish to connect.
    Syn,
    /// A yes.
    SynAck,
    /// A no, or an end.
    Reset,
    /// Anything else.
    Other,
}

/// A frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Frame {
    /// Who has `target`?
    ArpRequest { from: Mac, sender: Ipv4Addr, target: Ipv4Addr },
    /// `from` has `sender`.
    ArpReply { from: Mac, sender: Ipv4Addr, to: Mac, target: Ipv4Addr },
    /// A TCP segment without data.
    Tcp { from: Mac, to: Mac, source: (Ipv4Addr, u16), target: (Ipv4Addr, u16), segment: Segment },
}

/// The ones' complement sum of 16-bit words (RFC 1071).
fn checksum(parts: &[&[u8]]) -> [u8; 2] {
    // Every part but the last has an even length.
    let words = parts.iter().flat_map(|part| part.chunks(2));
    let mut sum: u32 = words.map(|w| u32::from(u16::from_be_bytes([w[0], w.get(1).copied().unwrap_or(0)]))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    (!u16::try_from(sum).expect("it was folded to 16 bits")).to_be_bytes()
}

fn arp(operation: u8, ethernet: [u8; 6], from: Mac, sender: Ipv4Addr, to: [u8; 6], target: Ipv4Addr) -> Vec<u8> {
    let head = [&ethernet, &from.0, ARP.as_slice(), &ARP_HEAD, &[operation]].concat();
    [head.as_slice(), &from.0, &sender.octets(), &to, &target.octets()].concat()
}

impl Frame {
    pub(super) fn encode(&self) -> Vec<u8> {
        match *self {
            Self::ArpRequest { from, sender, target } => arp(ARP_REQUEST, BROADCAST, from, sender, [0; 6], target),
            Self::ArpReply { from, sender, to, target } => arp(ARP_REPLY, to.0, from, sender, to.0, target),
            Self::Tcp { from, to, source, target, segment } => {
                let (sequence, acknowledged, flags) = match segment {
                    Segment::Syn => (SEQUENCE, 0, SYN),
                    Segment::SynAck => (SEQUENCE, 1, SYN | ACK),
                    Segment::Reset => (SEQUENCE + 1, 0, RST),
                    Segment::Other => (SEQUENCE + 1, 1, ACK),
                };
                let mut tcp = [source.1.to_be_bytes(), target.1.to_be_bytes()].concat();
                tcp.extend(sequence.to_be_bytes());
                tcp.extend(u32::to_be_bytes(acknowledged));
                tcp.extend([5 << 4, flags, 0x40, 0, 0, 0, 0, 0]);
                let (a, b) = (source.0.octets(), target.0.octets());
                let sum = checksum(&[&a, &b, &[0, TCP, 0, 20], &tcp]);
                tcp[16..18].copy_from_slice(&sum);
                // 40 bytes in all, not to be cut, 64 hops at most.
                let mut ip = [[0x45, 0, 0, 40], [0, 0, 0x40, 0], [64, TCP, 0, 0], a, b].concat();
                let sum = checksum(&[&ip]);
                ip[10..12].copy_from_slice(&sum);
                [to.0.as_slice(), &from.0, &IPV4, &ip, &tcp].concat()
            }
        }
    }

    /// What a frame is, if it is one of ours.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let (head, body) = bytes.split_at_checked(14)?;
        let (to, from) = (mac(&head[..6])?, mac(&head[6..12])?);
        if head[12..] == ARP {
            let arp = body.get(..28)?;
            if arp[..7] != ARP_HEAD {
                return None;
            }
            let (from, sender, target) = (mac(&arp[8..14])?, address(&arp[14..18])?, address(&arp[24..28])?);
            return match arp[7] {
                ARP_REQUEST => Some(Self::ArpRequest { from, sender, target }),
                ARP_REPLY => Some(Self::ArpReply { from, sender, to: mac(&arp[18..24])?, target }),
                _ => None,
            };
        }
        if head[12..] != IPV4 || *body.get(9)? != TCP {
            return None;
        }
        let tcp = body.get(usize::from(body[0] & 15) * 4..)?.get(..20)?;
        let port = |at: usize| u16::from_be_bytes([tcp[at], tcp[at + 1]]);
        let segment = match tcp[13] & (SYN | ACK | RST) {
            SYN => Segment::Syn,
            flags if flags == SYN | ACK => Segment::SynAck,
            flags if flags & RST != 0 => Segment::Reset,
            _ => Segment::Other,
        };
        let (source, target) = (address(&body[12..16])?, address(&body[16..20])?);
        Some(Self::Tcp { from, to, source: (source, port(0)), target: (target, port(2)), segment })
    }
}

fn mac(bytes: &[u8]) -> Option<Mac> {
    bytes.try_into().ok().map(Mac)
}

fn address(bytes: &[u8]) -> Option<Ipv4Addr> {
    <[u8; 4]>::try_from(bytes).ok().map(Ipv4Addr::from)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const A: Mac = Mac([2, 0, 0, 0, 0, 1]);
    const B: Mac = Mac([2, 0, 0, 0, 0, 2]);
    const ONE: Ipv4Addr = Ipv4Addr::new(10, 83, 1, 1);
    const TWO: Ipv4Addr = Ipv4Addr::new(10, 83, 1, 2);

    #[test]
    fn there_and_back() {
        let tcp = |segment| Frame::Tcp { from: A, to: B, source: (ONE, 40_000), target: (TWO, 7640), segment };
        for frame in [
            Frame::ArpRequest { from: A, sender: ONE, target: TWO },
            Frame::ArpReply { from: A, sender: ONE, to: B, target: TWO },
            tcp(Segment::Syn),
            tcp(Segment::SynAck),
            tcp(Segment::Reset),
            tcp(Segment::Other),
        ] {
            let bytes = frame.encode();
            assert_eq!(Frame::decode(&bytes), Some(frame));
            for cut in 0..bytes.len() {
                assert_eq!(Frame::decode(&bytes[..cut]), None, "{cut}");
            }
        }
    }

    #[test]
    fn checksums() {
        // The example of RFC 1071, 3: the sum is ddf2.
        assert_eq!(checksum(&[&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]]), (!0xddf2_u16).to_be_bytes());
        let frame = Frame::Tcp { from: A, to: B, source: (ONE, 1), target: (TWO, 2), segment: Segment::Syn }.encode();
        // With the sum in place, the sum of all is zero.
        assert_eq!(checksum(&[&frame[14..34]]), [0, 0]);
        assert_eq!(checksum(&[&frame[26..34], &[0, TCP, 0, 20], &frame[34..]]), [0, 0]);
    }

    proptest! {
        #[test]
        fn no_frame_makes_us_panic(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            let _ = Frame::decode(&bytes);
        }
    }
}
