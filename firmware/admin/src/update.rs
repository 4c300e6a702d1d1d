//! Updates: a signed file becomes the boot entry beside the one that runs, proves itself, or is given up.
//!
//! - [`package`]: the `.ffsup` file and what is checked of it;
//! - [`slots`]: boot entries by their file names, and what may be done with them; no I/O;
//! - [`install`]: how an entry gets onto the ESP, step by step;
//! - `record`: what is remembered of versions that are tried or failed;
//! - `esp`: the ESP of this machine;
//! - `fat`: what a power cut does to it, and how that is mended.
//!
//! # The life of an update
//! ```text
//! .ffsup ──verify──▶ .role_version.new ──fsync, read back, rename──▶ role_version+3.efi ──reboot──▶ +2-1
//!                                             health gate passed: role_version.efi      (blessed) ◀──┤
//!                                             three times not:    role_version+0-3.efi  (given up) ◀─┘
//! ```
//! systemd-boot takes the newest entry that has tries left or needs none, and counts a try before it starts one (Boot Loader
//! Specification, "Boot counting"). So a machine that is cut off at any instant finds either the old entry alone, or the old one and
//! a complete new one.

pub(crate) mod esp;
mod fat;
pub mod install;
pub mod package;
pub mod record;
pub mod slots;
