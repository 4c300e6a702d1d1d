//! The commlink: sealed connections between the machines of a site, and what may be asked over them.
//!
//! From the wire upwards:
//! - [`sealed`]: greeting, Noise session, records; a stream of bytes that only the holder of the same key bag can read.
//! - [`keyring`]: the key bags, and their next generations; [`rotation`] renews one over the link that it is for.
//! - [`connection`]: messages as FFS packets inside of it, literals behind them.
//! - [`client`]: asks a machine by name; ports, pool, retry, relay.
//! - [`server`]: accepts, limits, and answers what [`policy`] allows.
//! - [`relay`]: joins the download appliance to the database on the web appliance.
//! - [`endpoint`]: the daemon: local daemons on one side, the network on the other.
//!
//! This is the only crate whose daemon reads key bags. A peer never learns why something failed: connections close
//! without a word, faults are a code; the reason is in our own log.

mod bags;
pub mod channel;
pub mod client;
pub mod config;
pub mod connection;
pub mod dial;
pub mod endpoint;
pub mod keyring;
pub mod policy;
pub mod relay;
pub mod rotation;
pub mod sealed;
pub mod server;
mod stall;

pub use bags::{Bags, BagsError, MAX_BAGS};
pub use client::{CallError, Client, Peer};
pub use keyring::Keyring;
