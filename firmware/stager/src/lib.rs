//! The stager: storeroom, customer accounts, leases, and who may come in by ftp (design, section 4).
//!
//! # Parts
//!
//! - [`tree`]: the files. An object lies once in the storeroom; staging it is a hard link, so it takes no time and no space.
//! - [`ledger`]: what is leased, what was used, what the database has still to be told; one redb file.
//! - [`engine`]: the one writer of both, with the order of durable steps. [`reconcile`]: what start-up does with what it finds.
//! - [`grants`]: what the database signed. [`ingest`]: how objects come in. [`service`]: what commlinkd brings.
//! - [`logins`], [`throttle`], [`sessions`]: the ftp daemon's side.
//! - [`outbox`], [`revocations`], [`database`], [`clock`]: the other side, to and from the database.
//!
//! # What always holds
//!
//! - A lease that was acknowledged is in the ledger and has its link; a link that no lease explains is removed at start-up.
//! - An audit record is committed with what it tells, numbered without gaps, and kept until the database has it.
//! - Nothing is acted on that is not in a grant with the database's signature; a grant serves one request.
//! - Without a time that the database vouches for, nothing is deleted.

pub mod clock;
pub mod config;
pub mod database;
pub mod engine;
pub mod grants;
pub mod ingest;
pub mod killpoint;
pub mod ledger;
pub mod logins;
pub mod outbox;
pub mod ranges;
pub mod reconcile;
pub mod revocations;
pub mod rows;
mod server;
pub mod service;
pub mod sessions;
#[cfg(test)]
mod testkit;
pub mod throttle;
pub mod tree;

pub use server::{RunError, Sockets, Storage, serve, start};
