//! Administration over the commlink. [`ctl`] is the operator's tool, `ffsctl`.

#![allow(clippy::print_stdout, reason = "a command-line tool")]

pub mod ctl;
