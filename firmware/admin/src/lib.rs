//! Administration. [`ctl`] is the operator's tool, `ffsctl`; [`state`] writes what makes an image a machine of a site.

#![allow(clippy::print_stdout, reason = "a command-line tool")]

pub mod ctl;
pub mod gpt;
pub mod setup;
pub mod state;
mod tools;
pub mod update;

pub use tools::ToolError;
