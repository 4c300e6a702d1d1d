//! `cargo xtask test`: what must pass.

mod long;

use crate::host::{self, Tool};
use crate::interrupt::{self, Waiting};
use crate::{buildroot, fuzz, image, root, vm};
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
    /// The full counts: all of them, or those whose name holds this.
    Long(Option<String>),
}

/// What tests run that need neither VMs nor images.
const TOOLS: &[Tool] = &[
    Tool::new("debugfs", "e2fsprogs"),
    Tool::new("fsck.fat", "dosfstools"),
    Tool::new("mcopy", "mtools"),
    Tool::new("openssl", "openssl"),
];

/// What a scope needs beside [`TOOLS`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Needs {
    /// The images, and what boots them.
    vms: bool,
    /// The images are built by a test itself.
    images: bool,
    /// What is needed to look at `buildroot/` in full.
    buildroot: bool,
    /// The fuzzer.
    fuzz: bool,
}

impl Needs {
    const NONE: Self = Self { vms: false, images: false, buildroot: false, fuzz: false };

    fn of(scope: &Scope) -> Result<Self> {
        match scope {
            Scope::Fast => Ok(Self::NONE),
            Scope::Must => Ok(Self { vms: true, ..Self::NONE }),
            Scope::Long(name) => {
                let name = name.as_deref().unwrap_or_default();
                let any = |dir| long::any(&root(), dir, name);
                Ok(Self {
                    vms: any("tests")? || any("qemu")?,
                    images: any("firmware/xtask/tests")?,
                    buildroot: any("firmware/xtask/src/buildroot")?,
                    fuzz: any("firmware/xtask/src/fuzz.rs")?,
                })
            }
        }
    }

    fn tools(self) -> Vec<Tool> {
        let mut tools = [&host::local(), buildroot::TOOLS, TOOLS].concat();
        if self.vms {
            tools.extend([vm::UEFI_TOOLS, &vm::tools()].concat());
        }
        if self.images {
            tools.extend(image::TOOLS);
        }
        if self.buildroot {
            tools.extend(buildroot::long_tools());
        }
        if self.fuzz {
            tools.extend(fuzz::COMPILER);
        }
        tools
    }
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
    let needs = Needs::of(scope)?;
    host::require(&needs.tools())?;
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
    if needs.vms {
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
        Scope::Long(name) => long::run_all(name.as_deref())?,
    }
    eprintln!();
    for (what, took) in timed {
        eprintln!("{:>8.1} s  {what}", took.as_secs_f64());
    }
    Ok(())
}

/// Whether the work tree is one of ours.
pub(crate) fn in_tree() -> bool {
    root().join("firmware").is_dir() && Path::new(&root()).join("keys").is_dir()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn programs(scope: &Scope) -> Vec<&'static str> {
        Needs::of(scope).unwrap().tools().iter().map(|tool| tool.program).collect()
    }

    #[test]
    fn each_scope_asks_for_all_that_it_runs() {
        for scope in [Scope::Fast, Scope::Must, Scope::Long(None)] {
            let programs = programs(&scope);
            // What tests of crates run, those without images included.
            for program in ["curl", "mcopy", "fsck.fat", "debugfs", "openssl", "shellcheck", "python3"] {
                assert!(programs.contains(&program), "{program} of {scope:?}");
            }
            let vms = scope != Scope::Fast;
            for program in [qemu::QEMU, "depmod", "strip"] {
                assert_eq!(programs.contains(&program), vms, "{program} of {scope:?}");
            }
        }
        assert!(programs(&Scope::Long(None)).contains(&"genimage"));
    }

    #[test]
    fn a_name_asks_for_what_the_tests_of_that_name_run() {
        let needs = |name: &str| Needs::of(&Scope::Long(Some(name.to_owned()))).unwrap();
        for name in ["staging_", "million", "ftp_", "long_commlink_rotation", "no_such_test"] {
            assert_eq!(needs(name), Needs::NONE, "{name}");
        }
        assert_eq!(needs("fuzz"), Needs { fuzz: true, ..Needs::NONE });
        assert_eq!(needs("images_are_the_same"), Needs { images: true, ..Needs::NONE });
        for name in ["vm_strangers", "disks_fail", "secure_boot", "cuts::", "vm_leaves_no_process"] {
            assert_eq!(needs(name), Needs { vms: true, ..Needs::NONE }, "{name}");
        }
        assert_eq!(needs("buildroot_kernel"), Needs { buildroot: true, ..Needs::NONE });
        assert_eq!(needs(""), Needs { vms: true, images: true, buildroot: true, fuzz: true });
    }
}
