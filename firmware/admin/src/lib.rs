//! Administration. [`ctl`] is the operator's tool, `ffsctl`; [`admind`] is what runs as root on an appliance. [`state`] makes an image
//! a machine of a site, [`setup`] gives each daemon its part of it, [`storage`] keeps the data disks, [`flash`] writes boot disks,
//! [`console`] shows on the screen how a machine is.

#![allow(clippy::print_stdout, reason = "a command-line tool")]

pub mod admind;
mod blkpg;
mod block;
mod certificate;
pub mod console;
pub mod ctl;
mod durable;
pub mod flash;
pub mod gpt;
mod journal;
mod questions;
pub mod setup;
pub mod state;
pub mod storage;
mod tools;
pub mod update;

pub use tools::ToolError;
