//! The real ftpd as a process with the privileges of the appliance, a stand-in for stagerd with real sockets and descriptors, and a
//! client that speaks ftp by hand.
//!
//! As root the daemon runs as uid 65534 with CAP_SYS_CHROOT alone; otherwise in a user namespace, where it has the same.

#![allow(clippy::unwrap_used, reason = "a helper that cannot go on fails its test")]

mod abuse;
mod access;
mod client;
mod clients;
mod daemon;
mod foreign;
mod forking;
mod ftps;
mod fuse;
mod hanging;
mod limits;
mod operating;
mod privilege;
mod rfc;
mod scanners;
mod stagerd;
mod transfers;
