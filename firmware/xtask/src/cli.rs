//! The command line.

use crate::image::Locking;
use crate::test::Scope;
use crate::up::Kind;
use crate::{Usage, bench, buildroot, demo, fuzz, image, interrupt, test, up};
use clap::{Parser, Subcommand};
use keys::site::Role;
use std::path::PathBuf;
use std::process::ExitCode;

/// What developers and checks run in this tree.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Args {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Everything from nothing to a delivered file: makes a site, starts the three roles, stages, downloads, compares.
    Demo {
        /// As processes on this host, in place of VMs.
        #[arg(long)]
        local: bool,
        /// The file to deliver; a file of over 10 MB that the machine has, if none is named.
        #[arg(long, value_name = "FILE")]
        object: Option<PathBuf>,
        /// Keep site and storage afterwards.
        #[arg(long)]
        keep: bool,
    },
    /// What must pass.
    Test {
        /// Without VMs.
        #[arg(long, conflicts_with = "long")]
        fast: bool,
        /// The full counts, all of them or those whose name holds NAME.
        #[arg(long, value_name = "NAME", num_args = 0..=1)]
        long: Option<Option<String>>,
    },
    /// Start the three roles, fill in customers and objects, and write target/ffs/endpoints.json.
    Up {
        /// As processes on this host.
        #[arg(long, conflicts_with = "vm")]
        local: bool,
        /// As VMs; what is done when neither is asked for.
        #[arg(long)]
        vm: bool,
        /// Without customers and objects.
        #[arg(long)]
        empty: bool,
        /// Return once they are up; `down` ends them.
        #[arg(long)]
        detach: bool,
    },
    /// End what `up` started.
    Down,
    /// Build the images of the roles into target/ffs/images, and check them.
    Image {
        /// The roles; all of them, if none is named.
        #[arg(value_name = "ROLE", value_parser = role)]
        roles: Vec<Role>,
        /// With the packages of image/packages.lock or not at all.
        #[arg(long)]
        locked: bool,
        /// With the present versions of all packages; rewrites image/packages.lock.
        #[arg(long, conflicts_with = "locked")]
        update: bool,
        /// With a shell on the serial line, beside the others (ROLE-debug).
        #[arg(long)]
        debug: bool,
        /// Only check what is built.
        #[arg(long, conflicts_with_all = ["locked", "update"])]
        check: bool,
        /// Only tell which locked packages the mirror has in newer versions, and which of these are for security.
        #[arg(long, conflicts_with_all = ["roles", "locked", "update", "debug", "check"])]
        check_updates: bool,
    },
    /// Check that buildroot/, which makes the same images from source, is sound and in step with image/. With BUILDROOT_DIR=
    /// naming an unpacked Buildroot, have that look at it too.
    BuildrootCheck {
        /// Also merge the kernel's options into Debian's source, and make and boot images with its scripts.
        #[arg(long)]
        long: bool,
    },
    /// Give every parser random input.
    Fuzz {
        /// Which; all of them, if none is named.
        #[arg(value_name = "NAME")]
        names: Vec<String>,
        /// How long each.
        #[arg(long, default_value_t = 60)]
        seconds: u32,
    },
    /// Measure, as ratios within one run.
    Bench {
        /// What: commlink, ftp, staging.
        #[arg(required = true, value_name = "NAME")]
        names: Vec<String>,
        /// Only the parts of ftp's whose name holds one of these: sink, curl, ftps, logins, replies, idle, streams, crowd.
        #[arg(long, value_name = "PART")]
        only: Vec<String>,
        /// Write the table as JSON too.
        #[arg(long, value_name = "FILE")]
        json: Option<PathBuf>,
        /// Fail when something that must be reached was not; it is marked in any case.
        #[arg(long)]
        check: bool,
    },
}

fn role(text: &str) -> Result<Role, String> {
    let names = || Role::ALL.map(Role::as_str).join(", ");
    Role::ALL.into_iter().find(|role| role.as_str() == text).ok_or_else(|| format!("the roles are {}", names()))
}

fn kind(local: bool) -> Kind {
    if local { Kind::Local } else { Kind::Vm }
}

/// Runs the command line: 0 done, 1 failed, 2 wrong usage or something the user must do first.
pub fn main() -> ExitCode {
    let args = Args::parse();
    if !test::in_tree() {
        eprintln!("cargo xtask: run it within the work tree");
        return ExitCode::from(2);
    }
    if let Err(error) = interrupt::install() {
        eprintln!("cargo xtask: {error:#}");
        return ExitCode::FAILURE;
    }
    let outcome = match args.task {
        Task::Demo { local, object, keep } => demo::demo(kind(local), object, keep),
        Task::Test { long: Some(name), .. } => test::test(&Scope::Long(name)),
        Task::Test { fast: true, .. } => test::test(&Scope::Fast),
        Task::Test { .. } => test::test(&Scope::Must),
        Task::Up { local, vm: _, empty, detach } => up::up(kind(local), empty, detach),
        Task::Down => up::down(),
        Task::Image { check_updates: true, .. } => image::check_updates(),
        Task::Image { roles, locked, update, debug, check, check_updates: _ } => {
            let roles = if roles.is_empty() { Role::ALL.to_vec() } else { roles };
            let locking = match (locked, update) {
                (true, _) => Locking::Strict,
                (_, true) => Locking::Update,
                _ => Locking::Follow,
            };
            image::image(&roles, &image::Options { locking, debug, check, variant: None })
        }
        Task::BuildrootCheck { long } => buildroot::check(long),
        Task::Fuzz { names, seconds } => fuzz::fuzz(&names, seconds),
        Task::Bench { names, only, json, check } => bench::bench(&names, &only, json.as_deref(), check),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // What failed then failed because its process was told to end.
            let interrupted = interrupt::requested(std::time::Duration::ZERO);
            eprintln!("cargo xtask: {}", if interrupted { "interrupted".to_owned() } else { format!("{error:#}") });
            if error.is::<Usage>() { ExitCode::from(2) } else { ExitCode::FAILURE }
        }
    }
}
