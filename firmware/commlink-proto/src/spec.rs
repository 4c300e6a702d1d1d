//! The packet layer, as it is on the wire. What is here changes only by addition.
//!
//! # A packet
//! ```text
//! line      = base64( IV ‖ C ) CR LF
//! IV        = 8 random bytes, fresh for each packet
//! C         = DES-CBC( key[I], IV, plaintext ‖ padding )
//! padding   = PKCS#7: n bytes of value n, 1 to 8, to a multiple of 8
//! plaintext = mark ‖ data
//! mark      = "+" more packets of this message follow | "." the last one
//! ```
//! | limit | value |
//! |---|---|
//! | plaintext, mark included ([`MAX_PACKET`](crate::MAX_PACKET)) | 1 to 32768 bytes |
//! | data of a `+` packet | 1 to 32767 bytes |
//! | line, CR LF included ([`MAX_LINE`](crate::MAX_LINE)) | 43714 bytes |
//! | message | as the receiver allows |
//!
//! The base64 is that of RFC 4648 section 4: alphabet `A`–`Z`, `a`–`z`, `0`–`9`, `+`, `/`, with `=` at the end as
//! needed and spare bits zero. The line has no other byte before CR LF. Data is any bytes; a character of UTF-8 may be
//! split between packets.
//!
//! With key `133457799bbcdff1`, vector `1122334455667788` and the message `hello`, the plaintext is `.hello` and two
//! bytes `02`, and the line is:
//! ```
//! # use commlink_proto::{LineBuffer, Mark, PacketKey, decode_line, encode_packet};
//! let key = PacketKey::new(&[0x13, 0x34, 0x57, 0x79, 0x9b, 0xbc, 0xdf, 0xf1]);
//! let iv = [0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x88];
//! let mut line = LineBuffer::new();
//! encode_packet(&key, &iv, Mark::Last, b"hello", &mut line)?;
//! assert_eq!(line, b"ESIzRFVmd4gF5UFlG0CSqg==\r\n");
//! # Ok::<(), commlink_proto::PacketError>(())
//! ```
//!
//! # The key
//! Both ends hold the same N entries. P is the port from which the client connected, as the server sees it; entry
//! I = P mod N ([`key_index`](crate::key_index)) serves both directions of that connection. A key is never sent.
//!
//! # Messages
//! A message is the data of zero or more `+` packets and one `.` packet, in order. Messages of one direction follow
//! each other without anything between. What the message layer counts out as a literal is not packets: it stands
//! between two lines as raw bytes, and only inside a sealed session.
//!
//! ```text
//!            ┌────── "+" ──────┐
//!            ▼                 │
//! (idle) ── line ──▶ (decoded) ┴─ "." ──▶ message complete ──▶ (idle)
//!            │
//!            └─ any breach ──▶ (failed): the connection closes without a byte about the reason
//! ```
//! A breach is: a line too long, a byte outside of the alphabet, CR or LF alone, base64 that is not canonical, a length
//! that is not IV and whole blocks, wrong padding, a plaintext too long or without mark, a `+` packet without data, a
//! message longer than allowed, the end of the stream within a message.
//!
//! A message of two packets, whichever way its bytes come:
//! ```
//! # use commlink_proto::{Decoder, Encoder, LineBuffer, MAX_DATA, PacketKey};
//! # let key = PacketKey::new(&[0x13, 0x34, 0x57, 0x79, 0x9b, 0xbc, 0xdf, 0xf1]);
//! let message = vec![b'm'; MAX_DATA + 1];
//! let (mut encoder, mut line, mut wire) = (Encoder::new(&message), LineBuffer::new(), Vec::new());
//! let mut vectors = 0_u64..;
//! while encoder.next(&key, &vectors.next().unwrap().to_be_bytes(), &mut line) {
//!     wire.extend_from_slice(&line);
//! }
//! assert_eq!(wire.iter().filter(|byte| **byte == b'\n').count(), 2);
//! let (mut decoder, mut line, mut lengths) = (Decoder::new(key, 1 << 18), LineBuffer::new(), Vec::new());
//! for piece in wire.chunks(1000) {
//!     let mut piece = piece;
//!     while !piece.is_empty() {
//!         let (taken, fragment) = decoder.push(&mut line, piece)?;
//!         lengths.extend(fragment.map(|fragment| (fragment.data.len(), fragment.last)));
//!         piece = &piece[taken..];
//!     }
//! }
//! assert_eq!(lengths, [(MAX_DATA, false), (1, true)]);
//! # Ok::<(), commlink_proto::PacketError>(())
//! ```
//!
//! # Without seal
//! Where a link has `seal = false`, there is no greeting: the connection begins with the first line of the first message,
//! under the newest generation that both ends hold by arrangement, and P is what each end knows by itself, so that address
//! translation that changes it makes the link useless. There are no literals, and what is between two messages is nothing.
//!
//! # The greeting
//! A sealed connection begins with two clear lines, 64 bytes each at most, CR LF included:
//! ```text
//! client: "FFS/2 " link SP generation [ "," generation ] CR LF      newest first
//! server: "FFS/2 " P    SP generation CR LF                         the newest that both hold
//! link       = 1 to 34 of a–z, 0–9, "-"
//! P          = 1 to 65535, decimal, without leading zeros
//! generation = 1 to 4294967295, decimal, without leading zeros
//! ```
//! ```
//! use commlink_proto::greeting::{Answer, Hello};
//! let hello = Hello::parse(b"FFS/2 download-database 7,6\r\n")?;
//! assert_eq!((hello.link(), hello.generations()), ("download-database", &[7, 6][..]));
//! assert_eq!(Answer { port: 50_001, generation: 7 }.line(), b"FFS/2 50001 7\r\n");
//! for bad in [&b"FFS/2 x 6,7\r\n"[..], b"FFS/2 x 07\r\n", b"FFS/2 x 7\n", b"FFS/2 X 7\r\n", b"FFS/1 x 7\r\n"] {
//!     assert!(Hello::parse(bad).is_err());
//! }
//! # Ok::<(), commlink_proto::greeting::GreetingError>(())
//! ```
//! Neither end sends anything behind its line before it has the other's; bytes behind a line are a breach. A server
//! without that link, or without one of those generations, closes. The [prologue](crate::greeting::prologue) of the
//! handshake that follows binds both lines and both ends' names.
