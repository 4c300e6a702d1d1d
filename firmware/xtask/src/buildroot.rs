//! `cargo xtask buildroot-check`: whether `buildroot/`, which makes the same firmware from source, is sound and still in step with
//! `image/`. A build from source takes hours, so it is looked at piece by piece instead:
//!
//! ```text
//! quick        Config.in (kconfiglib), the package (make, with a stand-in for Buildroot), configurations, symbols, paths,
//!              scripts (shellcheck), and what both ways share
//! Buildroot    with BUILDROOT_DIR=: configurations loaded, its own lints, what it says about the package
//! --long       the kernel's options in Debian's source; post-image.sh and genimage on our initramfs, and the result booted
//! ```

mod boot;
mod kconfig;
mod kernel;
mod package;
mod real;
mod shared;
mod symbols;
#[cfg(test)]
mod tests;
pub(crate) mod venv;

use crate::host::{self, Tool};
use crate::{root, vm};
use anyhow::{Context, Result, bail};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Instant;

/// Needed for the quick part.
pub(crate) const TOOLS: &[Tool] = &[
    Tool::new("make", "make"),
    Tool::probed("python3", "python3-venv", venv::NEEDED),
    Tool::new("shellcheck", "shellcheck"),
];

/// Needed beside these by `--long`.
pub(crate) fn long_tools() -> Vec<Tool> {
    [kernel::TOOLS, boot::TOOLS, vm::UEFI_TOOLS, &vm::tools()].concat()
}

/// The release of Buildroot that `buildroot/symbols` was checked against.
const CHECKED: &str = "2026.08-rc1";

/// A work tree: what is looked at.
#[derive(Debug, Clone)]
struct Top(PathBuf);

impl Top {
    /// The tree for Buildroot.
    fn external(&self) -> PathBuf {
        self.0.join("buildroot")
    }

    fn image(&self) -> PathBuf {
        self.0.join("image")
    }

    /// The text of a file, by its path from the top.
    fn read(&self, path: &str) -> Result<String> {
        fs::read_to_string(self.0.join(path)).with_context(|| path.to_owned())
    }

    /// All files of the tree for Buildroot, by their paths from the top.
    fn files(&self) -> Result<Vec<String>> {
        let mut files = Vec::new();
        let mut todo = vec![self.external()];
        while let Some(dir) = todo.pop() {
            for entry in fs::read_dir(dir)? {
                let path = entry?.path();
                if path.is_dir() {
                    todo.push(path);
                } else {
                    files.push(path.strip_prefix(&self.0)?.to_str().context("a name is not UTF-8")?.to_owned());
                }
            }
        }
        files.sort_unstable();
        Ok(files)
    }
}

/// `buildroot-check`.
pub(crate) fn check(long: bool) -> Result<()> {
    let top = Top(root());
    let mut tools = TOOLS.to_vec();
    if long {
        tools.extend(long_tools());
    }
    if std::env::var_os("BUILDROOT_DIR").is_some() {
        tools.extend(real::TOOLS);
    }
    host::require(&tools)?;
    sound()?;
    match std::env::var_os("BUILDROOT_DIR") {
        Some(dir) => real::check(&top, Path::new(&dir))?,
        None => println!(
            "    skipped  with Buildroot itself: BUILDROOT_DIR= names no unpacked release ({CHECKED} or later)"
        ),
    }
    if long {
        kernel::merge(&top)?;
        boot::boot(&top)?;
    }
    Ok(())
}

/// The quick part.
///
/// # Errors
/// When something is wrong, with all of it.
pub(crate) fn sound() -> Result<()> {
    let begin = Instant::now();
    let top = Top(root());
    let wrong = quick(&top)?;
    if !wrong.is_empty() {
        bail!("buildroot/ is not as it must be:\n  {}", wrong.join("\n  "));
    }
    println!("{:>8.1} s  buildroot/ is sound and in step with image/", begin.elapsed().as_secs_f64());
    if let Some(warning) = kernel::warning(&top)? {
        println!("    warning  {warning}");
    }
    Ok(())
}

/// What is wrong, as far as it shows without Buildroot.
fn quick(top: &Top) -> Result<Vec<String>> {
    host::require(TOOLS)?;
    let mut wrong = symbols::paths(top)?;
    if !wrong.is_empty() {
        // What comes next would stumble over it.
        return Ok(wrong);
    }
    wrong.extend(scripts(top)?);
    let own = kconfig::parse(top, &mut wrong)?;
    wrong.extend(symbols::configurations(top, &own)?);
    wrong.extend(package::check(top, &own)?);
    wrong.extend(kernel::check(top)?);
    wrong.extend(kernel::version(top)?);
    wrong.extend(shared::check(top)?);
    Ok(wrong)
}

/// What shellcheck finds.
fn scripts(top: &Top) -> Result<Vec<String>> {
    let files: Vec<String> = top.files()?.into_iter().filter(|file| file.ends_with(".sh")).collect();
    let output = Command::new("shellcheck").arg("--format=gcc").args(files).current_dir(&top.0).output()?;
    let found = String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect::<Vec<_>>();
    if found.is_empty() && !output.status.success() {
        bail!("shellcheck failed: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(found)
}

/// What a command printed, both ways.
fn said(output: &Output) -> String {
    String::from_utf8_lossy(&[&*output.stdout, &*output.stderr].concat()).trim().to_owned()
}

/// Runs a command to its end; what it printed.
fn run(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("cannot run {:?}", command.get_program()))?;
    if !output.status.success() {
        bail!("{command:?} failed:\n{}", said(&output));
    }
    Ok(String::from_utf8(output.stdout)?)
}

/// Where what is made here goes.
fn workdir() -> PathBuf {
    crate::workdir().join("buildroot")
}
