//! The stager: storeroom, customer accounts, leases, and who may come in by ftp (design, section 4).
//!
//! # Parts
//!
//! - [`tree`]: the files. An object lies once in the storeroom; staging it is a hard link, so it takes no time and no space.
//! - [`ledger`]: what is leased, what was used, what the database has still to be told; a redb file with a log in front.
//! - [`engine`]: the one writer of both, with the order of durable steps. [`reconcile`]: what start-up does with what it finds.
//! - [`grants`]: what the database signed. [`ingest`]: how objects come in. [`service`]: what commlinkd brings.
//! - [`verify`]: reads objects again, in the background. `down`: what is answered while the disk does not work. [`starting`]: what
//!   the service manager hears until then.
//! - [`logins`], [`throttle`], [`sessions`]: the ftp daemon's side; `entitled`: what a login has staged.
//! - [`outbox`], [`revocations`], [`database`], [`clock`]: the other side, to and from the database.
//!
//! # Step by step
//!
//! A staging: grant checked ([`grants`]) → lease, used grant and audit record committed, durable → directory and link → every
//! directory with a new entry synced → answered → the mark "done" rides on the next commit. Requests in flight share commits and
//! syncs. A removal: "removing" committed → unlinked → synced → the row dropped with the next commit. An ingest: bytes synced →
//! named → directories synced → committed → answered; what breaks off goes on ([`ingest`]). Each order is written down with what a kill
//! between two steps leaves ([`engine`]), and what start-up makes of that ([`reconcile`]). Which time is believed: [`clock`].
//!
//! A failure of the disk: the request is refused as `UNAVAILABLE`. Where it is clear that nothing was done (no space, too many links,
//! another file at the path), that is taken back and work goes on; what nobody asked for is tried again with the sweep. Where it is not (`EIO`, `EROFS`, a commit or a sync that failed),
//! the writer ends, `status` says what failed, everything is refused, and ledger and tree are opened and reconciled anew until that
//! works ([`run`]).
//!
//! Names: of customers, products and versions as [`tobj::Name`], of files as [`tobj::FileName`] has it, checked wherever one is read.
//! A path has one lease; another object at it is refused with what is there.
//!
//! # What always holds
//!
//! - A lease that was acknowledged is in the ledger and has its link; a link that no lease explains is removed at start-up.
//! - An audit record is committed with what it tells, numbered without gaps, and kept until the database has it. What strangers are
//!   refused is recorded as a number while there is no space ([`engine::Work::Refused`]).
//! - Nothing is acted on that is not in a grant with the database's signature; a grant serves one request.
//! - Without a time that the database vouches for, nothing is deleted.

pub mod clock;
pub mod config;
pub mod database;
mod down;
pub mod engine;
mod entitled;
pub mod grants;
mod idle;
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
pub mod starting;
#[cfg(test)]
mod testkit;
pub mod throttle;
pub mod tree;
pub mod verify;

pub use server::{RunError, Sockets, Storage, run, serve, start};
