//! Appliances in QEMU, described in code: machines, LAN segments, forwarded ports and disks; started, watched over serial
//! line, QMP and network, and ended without a trace.
//!
//! - [`machine`]: what a machine consists of, and QEMU's command line for it;
//! - [`accel`]: whether KVM really runs a guest here;
//! - [`vm`]: a machine that runs;
//! - [`nbd`]: disks that lose what was not flushed, fail, or do not answer;
//! - [`qmp`]: QEMU's control protocol;
//! - [`image`]: what `cargo xtask image` made of a role;
//! - [`site`]: the topology of a site: three roles, two LAN segments, a public and a management side;
//! - [`writes`]: all that a machine wrote to a disk, to have the power cut at any instant of one run;
//! - [`wire`]: a station of our own on a segment, to look at the appliances as a stranger on the LAN would.
//!
//! The serial line is only read: whoever tests an appliance talks to it as its users do. Every wait has an end
//! ([`Patience`]) and no machine outlives the thread that started it.

pub mod accel;
pub mod image;
pub mod machine;
pub mod nbd;
mod patience;
pub mod qmp;
mod rom;
pub mod site;
pub mod vm;
pub mod wire;
pub mod writes;

pub use patience::{Patience, Waited};

use std::path::PathBuf;

/// The program.
pub const QEMU: &str = "qemu-system-x86_64";

/// Why something about a machine failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A wait ended without the event.
    #[error("{what}: {waited}")]
    Waited {
        /// What was waited for.
        what: String,
        /// How the wait ended.
        waited: Waited,
    },
    /// QEMU ended by itself.
    #[error("{name} ended ({status}) while we waited for {what}; it said: {said}")]
    Ended {
        /// The machine.
        name: String,
        /// QEMU's exit status.
        status: String,
        /// What we waited for.
        what: String,
        /// The end of what QEMU wrote to standard error.
        said: String,
    },
    /// A file or socket.
    #[error("cannot use {path}")]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A program does not start.
    #[error("cannot run {program}")]
    Run {
        /// The program.
        program: &'static str,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The description makes no machine.
    #[error("{0}")]
    Description(String),
    /// QEMU refuses a command.
    #[error("QEMU refuses {command}: {class}: {text}")]
    Refused {
        /// The command.
        command: String,
        /// QEMU's class of the error.
        class: String,
        /// Its text.
        text: String,
    },
    /// QEMU says something that is not QMP.
    #[error("this is not QMP: {0}")]
    Protocol(String),
    /// A manifest of an image.
    #[error("{path} is no manifest of an image")]
    Manifest {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
}

impl Error {
    pub(crate) fn io(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { path, source }
    }
}
