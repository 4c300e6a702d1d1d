//! The sealed transport: a Noise session over any stream, bound to a key bag.
//!
//! # On the wire
//! ```text
//! client → server   "FFS/2 <link> <generation>[,<generation>]" CR LF     in clear, 64 bytes at most
//! server → client   "FFS/2 <P> <generation>" CR LF                       in clear, 64 bytes at most
//! client → server   0x0030 ‖ Noise: psk, e                               48 bytes, empty payload
//! server → client   0x0030 ‖ Noise: e, ee                                48 bytes, empty payload
//! both              u16 length ‖ record                                  any number
//! both              0x0010 ‖ record of no plaintext                      this direction has ended
//! ```
//! - `Noise_NNpsk0_25519_ChaChaPoly_BLAKE2s`; the pre-shared key is the seal key of bag entry I = P mod 128.
//! - The [prologue](commlink_proto::greeting::prologue) binds both lines and both names, which are those in one's own
//!   bag: a session exists only between the two ends that the bag was made for, in these roles.
//! - Lengths are two bytes, most significant first; a record is 16 to 65535 bytes, its plaintext up to 65519.
//! - A record that does not open, a length below 16 and an end of the transport without the empty record are breaches:
//!   the session is over, and nothing is said about why.
//!
//! # An example
//! With the pre-shared key of 32 bytes `53` (hex, as all of these), ephemeral keys of 32 bytes `11` and `22` and the rest as in
//! `tests/vectors/v1/sealed-session.json`, which has every byte of both directions, a session begins so:
//! ```
//! use commlink_proto::greeting::{Answer, Hello, prologue};
//! let hello = Hello::parse(b"FFS/2 web-database 2,1\r\n")?;
//! let answer = Answer::parse(b"FFS/2 50001 2\r\n")?;
//! let prologue = prologue(&hello, &answer, "web", "database")?;
//! assert_eq!(&prologue[24 + 15..], b"\0\x03web\0\x08database");
//! # Ok::<(), commlink_proto::greeting::GreetingError>(())
//! ```
//! and over a transport of any kind:
//! ```
//! # use std::sync::Arc;
//! use commlink::{Bags, sealed};
//! use keys::{Bag, LinkKind};
//! use tokio::io::{AsyncReadExt, AsyncWriteExt};
//! # tokio::runtime::Builder::new_current_thread().enable_time().build()?.block_on(async {
//! let (web, database) = Bag::pair("web-database", LinkKind::WebDatabase, ("web", "database"), 1)?;
//! let (here, there) = tokio::io::duplex(4096);
//! let (offered, held) = ([Arc::new(web)], Bags::new([database])?);
//! let (client, server) = tokio::join!(sealed::open(here, &offered), sealed::accept(there, 50_001, &held));
//! let (mut client, mut server) = (client?, server?);
//! client.write_all(b"hello").await?;
//! client.shutdown().await?;
//! let mut heard = Vec::new();
//! server.read_to_end(&mut heard).await?;
//! assert_eq!(heard, b"hello");
//! assert_eq!((server.session().port(), server.session().index()), (50_001, 50_001 % 128));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! # })?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Limits
//! | limit | value |
//! |---|---|
//! | greeting and handshake together ([`HANDSHAKE`]) | 10 s |
//! | first request after them, the same again | 10 s |
//! | a message from its first byte to its last ([`MESSAGE`](crate::connection::MESSAGE)) | 20 s |
//! | between requests ([`IDLE`](crate::server::IDLE)) | 120 s |
//! | a literal that stands still ([`STALL`](crate::connection::STALL)) | 60 s |
//! | a session; what is under way is finished first ([`MAX_SESSION`]) | 1 h |
//! | connections before their first request, in all and from one address | 256, 128 |
//! | connections after it, in all and of one link | 512, 128 |
//! | plaintext of a record ([`MAX_PLAIN`]) | 65519 bytes |
//!
//! # States
//! ```text
//! client: hello sent ─ answer ─▶ e sent ─ e, ee ─▶ open ─▶ ended | failed
//! server: waiting ─ hello ─▶ answered ─ psk, e ─▶ open, e, ee sent ─▶ ended | failed
//! ```
//! A message recorded from an earlier session can bring a server to `open`, but not open a record there, since the
//! server's key is new: so nothing is done before the first record has opened.

#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod handshake;
mod record;
mod stream;
#[cfg(test)]
mod vectors;

use std::fmt;
use std::io;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use commlink_proto::greeting::GreetingError;
use commlink_proto::{PacketKey, key_index};
use keys::Bag;
use thiserror::Error;
use tokio::time::Instant;

pub use handshake::{accept, open};
pub use record::{MAX_PLAIN, MAX_RECORD, RecordError, TAG};
pub use stream::SealedStream;

/// The protocol, as snow knows it.
pub(crate) const NOISE: &str = "Noise_NNpsk0_25519_ChaChaPoly_BLAKE2s";

/// How long the greeting and the handshake may take together.
pub const HANDSHAKE: Duration = Duration::from_secs(10);

/// How long a session may live; a transaction under way is finished first.
pub const MAX_SESSION: Duration = Duration::from_secs(60 * 60);

/// N: the entries of a bag.
const ENTRIES: NonZeroUsize = NonZeroUsize::new(keys::ENTRIES).expect("a bag has entries");

/// Why there is no session. For our own log only: the peer sees the connection close.
#[derive(Debug, Error)]
pub enum SealError {
    /// The transport failed or ended.
    #[error("the transport failed during the handshake")]
    Io(#[from] io::Error),
    /// A greeting line that is none.
    #[error("bad greeting")]
    Greeting(#[from] GreetingError),
    /// The peer names a link of which there is no bag here.
    #[error("the peer asks for link {0:?}, of which no bag is here")]
    UnknownLink(String),
    /// The two ends have no generation of the bag in common.
    #[error("no generation of the bag for link {0:?} is held by both ends")]
    Generation(String),
    /// A handshake message of a wrong size.
    #[error("a handshake message of {0} bytes")]
    Size(usize),
    /// The handshake failed: another key, another name, or altered on the way.
    #[error("the handshake failed: the ends do not hold the same keys and names, or something on the way altered it")]
    Noise(#[from] snow::Error),
    /// Not done within [`HANDSHAKE`].
    #[error("the handshake was not finished within {HANDSHAKE:?}")]
    Late,
}

/// What a session was made from.
#[derive(Clone)]
pub struct Session {
    bag: Arc<Bag>,
    port: u16,
    opened: Instant,
    sealed: bool,
}

impl Session {
    pub(crate) fn new(bag: Arc<Bag>, port: u16) -> Self {
        Self { bag, port, opened: Instant::now(), sealed: true }
    }

    /// Of a connection without seal.
    pub(crate) fn unsealed(bag: Arc<Bag>, port: u16) -> Self {
        Self { sealed: false, ..Self::new(bag, port) }
    }

    /// Whether it is a Noise session; without, there are only the packets of the document's own protocol.
    pub fn is_sealed(&self) -> bool {
        self.sealed
    }

    /// The bag in use. Its [`Bag::peer`] is who is at the other end.
    pub fn bag(&self) -> &Arc<Bag> {
        &self.bag
    }

    /// P: the client's port as the server sees it.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// I: the entry in use.
    pub fn index(&self) -> usize {
        key_index(self.port, ENTRIES)
    }

    /// The packet key of this connection.
    pub fn packet_key(&self) -> PacketKey {
        PacketKey::new(self.bag.des_key(self.index()))
    }

    /// Whether the session is past [`MAX_SESSION`]: it takes no further transaction.
    pub fn is_over(&self) -> bool {
        self.opened.elapsed() >= MAX_SESSION
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session")
            .field("link", &self.bag.link())
            .field("peer", &self.bag.peer())
            .field("generation", &self.bag.generation())
            .field("port", &self.port)
            .field("sealed", &self.sealed)
            .finish_non_exhaustive()
    }
}
