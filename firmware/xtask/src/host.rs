//! What the host must have beside Rust, and how it is got.

use crate::Usage;
use anyhow::Result;
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Mutex, PoisonError};

/// A program and the Debian package that it comes in.
#[derive(Debug, Clone, Copy)]
pub struct Tool {
    /// The program.
    pub program: &'static str,
    /// The package.
    pub package: &'static str,
    /// Arguments with which it must succeed, where it may be there without what is needed of it.
    pub probe: &'static [&'static str],
}

impl Tool {
    /// A program that is all there when it is there.
    pub const fn new(program: &'static str, package: &'static str) -> Self {
        Self { program, package, probe: &[] }
    }

    /// A program of which something is needed that may be missing: these arguments tell.
    pub const fn probed(program: &'static str, package: &'static str, probe: &'static [&'static str]) -> Self {
        Self { program, package, probe }
    }

    /// Whether it is not here, or lacks what is needed of it.
    fn is_missing(&self) -> bool {
        find(self.program).is_none_or(|path| !self.probe.is_empty() && !quiet(Command::new(path).args(self.probe)))
    }
}

/// Needed to run the roles on one host and to be their customer.
pub const LOCAL: &[Tool] =
    &[Tool::new("curl", "curl"), Tool::new("setpriv", "util-linux"), Tool::new("unshare", "util-linux")];

/// Needed beside [`LOCAL`] by those who are not root.
pub const UNPRIVILEGED: &[Tool] = &[Tool::new("newuidmap", "uidmap")];

/// Where a program is.
pub fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    // A user's path often has no sbin.
    let extra = ["/usr/sbin", "/sbin"].map(PathBuf::from);
    std::env::split_paths(&path).chain(extra).map(|dir| dir.join(program)).find(|file| file.is_file())
}

/// All that this user needs to run the roles on one host: [`LOCAL`], and what makes him root of a namespace, if he is not root.
pub fn local() -> Vec<Tool> {
    let own = if nix::unistd::geteuid().is_root() { &[] } else { UNPRIVILEGED };
    [LOCAL, own].concat()
}

/// The packages of the tools that are missing, each once.
fn missing(tools: &[Tool]) -> Vec<&'static str> {
    let mut packages: Vec<_> = tools.iter().filter(|tool| tool.is_missing()).map(|tool| tool.package).collect();
    packages.sort_unstable();
    packages.dedup();
    packages
}

/// Installs the packages that are missing, as root or with sudo. Whoever needs several lists asks for all of them at once, so that a
/// user who may not install hears everything at the first time.
///
/// # Errors
/// [`Usage`] with the line to run when this user may not install, or the installation failed.
pub fn require(tools: &[Tool]) -> Result<()> {
    // Tests come here at once, and two of apt would be in each other's way.
    static TURN: Mutex<()> = Mutex::new(());
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let packages = missing(tools);
    if packages.is_empty() {
        return Ok(());
    }
    let line = format!(
        "apt-get update && apt-get -o DPkg::Lock::Timeout=120 install --yes --no-install-recommends {}",
        packages.join(" ")
    );
    let refuse = |why: &str| Err(Usage(format!("{why}; run this line, then try again:\n  sudo sh -c '{line}'")).into());
    if find("apt-get").is_none() {
        return refuse("packages are missing, and there is no apt-get");
    }
    let mut command = if nix::unistd::geteuid().is_root() {
        Command::new("sh")
    } else if find("sudo").is_some() && quiet(Command::new("sudo").args(["-n", "true"])) {
        let mut sudo = Command::new("sudo");
        sudo.args(["-n", "sh"]);
        sudo
    } else {
        return refuse("packages are missing, and neither root nor sudo without a password is here");
    };
    eprintln!("installing {}", packages.join(" "));
    let done =
        command.arg("-c").arg(&line).env("DEBIAN_FRONTEND", "noninteractive").stdout(std::io::stderr()).status()?;
    if !done.success() {
        return refuse("the installation failed");
    }
    // Another program of the same name may be found before the package's.
    let programs: Vec<_> = tools.iter().filter(|tool| tool.is_missing()).map(|tool| tool.program).collect();
    if !programs.is_empty() {
        return refuse(&format!("still missing, or without what is needed of them: {}", programs.join(", ")));
    }
    Ok(())
}

fn quiet(command: &mut Command) -> bool {
    use std::process::Stdio;
    let command = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|s| s.success())
}

/// Makes this process root in a user namespace with a range of uids, if it is not root already; does not return if so.
///
/// # Errors
/// [`Usage`] when that cannot be had here, with the line to run.
pub fn become_root() -> Result<()> {
    use std::os::unix::process::CommandExt;
    if nix::unistd::geteuid().is_root() {
        return Ok(());
    }
    require(UNPRIVILEGED)?;
    let unshare = ["--user", "--map-root-user", "--map-auto"];
    if !quiet(Command::new("unshare").args(unshare).args(["setpriv", "--reuid", "60000", "--clear-groups", "true"])) {
        let me = nix::unistd::User::from_uid(nix::unistd::geteuid())?.map_or("$USER".into(), |u| u.name);
        return Err(Usage(format!(
            "every daemon needs a uid of its own: run as root, or give this user a range of subordinate uids:\n  \
             sudo usermod --add-subuids 100000-165535 --add-subgids 100000-165535 {me}"
        ))
        .into());
    }
    let me = std::env::current_exe()?;
    let error = Command::new("unshare").args(unshare).arg("--").arg(me).args(std::env::args_os().skip(1)).exec();
    Err(error.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_named_once() {
        let tools = [
            Tool::new("sh", "here"),
            Tool::probed("sh", "whole", &["-c", "exit 0"]),
            Tool::probed("sh", "half", &["-c", "exit 1"]),
            Tool::new("no-such-program-ffs", "none"),
            Tool::new("nor-this-one-ffs", "none"),
        ];
        assert_eq!(missing(&tools), ["half", "none"]);
    }
}
