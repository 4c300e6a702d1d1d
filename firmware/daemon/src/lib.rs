//! What all daemons of the appliances share: start-up, configuration, logs, systemd, shutdown, and how the daemons of one
//! machine talk to each other.
//!
//! A daemon's `main` is [`run`] with its own function; that function gets the path of its configuration and a [`Shutdown`], binds
//! what it listens on, calls [`notify::ready`] and serves until the shutdown. Daemons on one machine exchange Tobj over Unix
//! sockets: [`ipc`], with the peer's uid checked on every connection; descriptors travel with [`fds`].

pub mod config;
pub mod fds;
pub mod ipc;
pub mod log;
pub mod notify;
mod rate_limit;
mod service;
mod shutdown;
mod start;

pub use rate_limit::RateLimit;
pub use service::Service;
pub use shutdown::{Shutdown, Trigger};
pub use start::{report, run, run_with};
