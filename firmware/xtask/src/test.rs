//! `cargo xtask test`: what must pass.

use crate::interrupt::{self, Waiting};
use crate::{buildroot, host, image, root, vm};
use anyhow::{Context, Result, bail};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

/// How much is tested.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Scope {
    /// Without VMs.
    Fast,
    /// What must pass.
    Must,
    /// The full counts: all of them, or the one named.
    Long(Option<String>),
}

pub(crate) fn cargo() -> Command {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(root());
    // What the outer cargo told us is not for the inner one.
    for name in ["CARGO_MANIFEST_DIR", "CARGO_PKG_NAME", "CARGO_PKG_VERSION"] {
        cargo.env_remove(name);
    }
    cargo
}

/// Runs a command that shows its own output; whether it succeeded.
fn run(command: &mut Command) -> Result<bool> {
    let mut child = command.spawn().context("cannot run cargo")?;
    let _waiting = Waiting::on(child.id());
    let success = child.wait()?.success();
    interrupt::check()?;
    Ok(success)
}

/// Builds all programs; where they are.
pub(crate) fn build(release: bool) -> Result<PathBuf> {
    let mut command = cargo();
    command.args(["build", "--workspace", "--bins"]);
    if release {
        command.arg("--release");
    }
    if !run(&mut command)? {
        bail!("the build failed");
    }
    Ok(crate::target().join(if release { "release" } else { "debug" }))
}

/// `test`.
pub(crate) fn test(scope: &Scope) -> Result<()> {
    host::require(host::LOCAL)?;
    host::require(buildroot::TOOLS)?;
    let vms = *scope != Scope::Fast;
    if vms {
        host::require(vm::TOOLS)?;
        host::require(vm::UEFI_TOOLS)?;
    }
    // The long tests run in release, and use the programs beside them.
    build(matches!(scope, Scope::Long(_)))?;
    host::become_root()?;
    let steps: &[(&str, &[&str])] = match scope {
        Scope::Long(_) => &[],
        Scope::Fast | Scope::Must => &[
            ("formatting", &["fmt", "--all", "--check"]),
            ("lints", &["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]),
            ("tests", &["test", "--workspace"]),
        ],
    };
    let mut timed = Vec::new();
    for (what, args) in steps {
        let begin = Instant::now();
        eprintln!("== {what}: cargo {}", args.join(" "));
        if !run(cargo().args(*args))? {
            bail!("{what} failed");
        }
        timed.push((*what, begin.elapsed()));
        if *what == "lints" {
            let begin = Instant::now();
            eprintln!("== buildroot/");
            buildroot::sound()?;
            timed.push(("buildroot/", begin.elapsed()));
        }
    }
    if vms {
        let begin = Instant::now();
        image::build_all()?;
        timed.push(("images", begin.elapsed()));
    }
    match scope {
        Scope::Fast => {}
        Scope::Must => {
            let begin = Instant::now();
            eprintln!("== VMs");
            // One after the other: three machines are enough for two cores.
            let only = ["--ignored", "--test-threads", "1", "vm_"];
            if !run(cargo().args(["test", "--package", "qemu", "--package", "tests", "--"]).args(only))? {
                bail!("a test in VMs failed");
            }
            timed.push(("VMs", begin.elapsed()));
        }
        Scope::Long(name) => long(name.as_deref())?,
    }
    eprintln!();
    for (what, took) in timed {
        eprintln!("{:>8.1} s  {what}", took.as_secs_f64());
    }
    Ok(())
}

/// The tests marked `#[ignore]`, whose names say what they count.
fn long(name: Option<&str>) -> Result<()> {
    let mut command = cargo();
    command.args(["test", "--release", "--workspace", "--"]).args(name).args(["--ignored", "--test-threads", "1"]);
    if run(&mut command)? { Ok(()) } else { bail!("a long test failed") }
}

/// Whether the work tree is one of ours.
pub(crate) fn in_tree() -> bool {
    root().join("firmware").is_dir() && Path::new(&root()).join("keys").is_dir()
}
