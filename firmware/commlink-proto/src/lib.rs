//! FFS, the packet layer of the commlink: what bytes go over the line, and nothing else.
//!
//! A message (the text of one tagged object) travels as one or more *packets*. A packet is one 7-bit line:
//! base64 of an initialisation vector and the DES-CBC cipher text of up to [`MAX_PACKET`] bytes, ended by CR LF.
//! The byte layouts, limits and state machines are in [`spec`].
//!
//! The crate does no I/O, takes no time and draws no randomness: bytes and vectors come in, bytes and fragments go
//! out. It is `no_std` and never allocates; its engines work in a [`LineBuffer`] that the caller lends them, so that a
//! peer costs no memory before its handshake is through.
//!
//! DES gives no secrecy or integrity by today's measure. Both come from the sealed transport beneath, for which this
//! crate holds the clear [`greeting`] lines and the [prologue](greeting::prologue).
#![no_std]

#[cfg(any(test, fuzzing))]
pub mod fuzz;
pub mod greeting;
mod key;
mod packet;
pub mod spec;
mod stream;

pub use key::{PacketKey, key_index};
pub use packet::{LineBuffer, MAX_DATA, MAX_LINE, MAX_PACKET, Mark, PacketError, decode_line, encode_packet};
pub use stream::{Decoder, Encoder, Fragment};
