//! The relay: joins a download appliance's sealed connection to a TCP connection into the firewall.
//!
//! ```text
//!   download ══ sealed: web–download ══▶ web ── TCP ──▶ database
//!      └────────── sealed inside: download–database ──────┘
//! ```
//! The machine that relays holds no key of the inner session: all it can do with the bytes is lose them, and both ends
//! notice that.

use std::io;
use std::sync::Arc;

use keys::LinkKind;
use tokio::io::{AsyncRead, AsyncWrite, copy_bidirectional_with_sizes};
use tokio::net::TcpStream;

use crate::dial::{self, DialError, Ports};

/// Relayed connections at once.
pub const MAX_RELAYS: usize = 64;

/// What is read at once in each direction.
const PIECE: usize = 64 * 1024;

/// The one machine to which is relayed.
#[derive(Clone, Debug)]
pub struct Target {
    /// Its name, as the request has it.
    pub name: String,
    /// Its address.
    pub host: Arc<str>,
    /// Its ports.
    pub ports: Ports,
}

impl Target {
    /// Opens the connection to it.
    ///
    /// # Errors
    /// When no port of it can be reached.
    pub async fn reach(&self) -> Result<TcpStream, DialError<io::Error>> {
        dial::dial(self.ports, |port| {
            let host = self.host.clone();
            // What is relayed is a session of that link.
            async move { dial::connect(&host, port, LinkKind::DownloadDatabase).await }
        })
        .await
    }
}

/// Carries bytes both ways until both directions have ended or one fails.
///
/// # Errors
/// When either side fails.
pub async fn join<A, B>(outer: &mut A, inner: &mut B) -> io::Result<(u64, u64)>
where
    A: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    copy_bidirectional_with_sizes(outer, inner, PIECE, PIECE).await
}
