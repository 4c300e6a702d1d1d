//! `cargo xtask`: the demo, the tests, the measurements, and the three roles on one host ([`local`]).
//!
//! Tests across crates use [`local`] and [`customer`] too, so that they run the daemons exactly as the demo does.

#![allow(clippy::print_stdout, reason = "a command-line tool")]

pub mod access;
mod bench;
mod buildroot;
mod cli;
pub mod customer;
mod demo;
pub mod endpoints;
mod fuzz;
pub mod host;
pub mod image;
mod interrupt;
pub mod local;
mod ports;
#[cfg(test)]
mod readme;
mod steps;
mod test;
mod up;
pub mod vm;

pub use cli::main;

use std::path::{Path, PathBuf};

/// The top of the work tree.
pub fn root() -> PathBuf {
    let manifest =
        std::env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| env!("CARGO_MANIFEST_DIR").into(), PathBuf::from);
    manifest.ancestors().find(|dir| dir.join("Cargo.lock").exists()).unwrap_or(Path::new(".")).to_owned()
}

/// Where everything that we make beside cargo goes.
pub fn workdir() -> PathBuf {
    target().join("ffs")
}

/// Cargo's target directory.
pub fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from)
}

/// A failure that is not ours to mend but the user's: exit code 2, with what to do.
#[derive(Debug)]
pub struct Usage(pub String);

impl std::fmt::Display for Usage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Usage {}
