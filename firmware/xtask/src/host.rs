//! What the host must have beside Rust, and how it is got.

use crate::Usage;
use anyhow::Result;
use std::path::PathBuf;
use std::process::Command;

/// A program and the Debian package that it comes in.
#[derive(Debug, Clone, Copy)]
pub struct Tool {
    /// The program.
    pub program: &'static str,
    /// The package.
    pub package: &'static str,
}

/// Needed to run the roles on one host and to be their customer.
pub const LOCAL: &[Tool] = &[
    Tool { program: "curl", package: "curl" },
    Tool { program: "setpriv", package: "util-linux" },
    Tool { program: "unshare", package: "util-linux" },
];

/// Needed beside [`LOCAL`] by those who are not root.
pub const UNPRIVILEGED: &[Tool] = &[Tool { program: "newuidmap", package: "uidmap" }];

/// Where a program is.
pub fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    // A user's path often has no sbin.
    let extra = ["/usr/sbin", "/sbin"].map(PathBuf::from);
    std::env::split_paths(&path).chain(extra).map(|dir| dir.join(program)).find(|file| file.is_file())
}

/// Installs the packages that are missing, as root or with sudo.
///
/// # Errors
/// [`Usage`] with the line to run when this user may not install, or the installation failed.
pub fn require(tools: &[Tool]) -> Result<()> {
    let mut packages: Vec<&str> = tools.iter().filter(|t| find(t.program).is_none()).map(|t| t.package).collect();
    packages.sort_unstable();
    packages.dedup();
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
    if !done.success() || tools.iter().any(|t| find(t.program).is_none()) {
        return refuse("the installation failed");
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
