//! The daemons of the images, built so that they are the same wherever the work tree is.
//!
//! Paths of the builder's machine get into programs with what panics and asserts say, so the compilers are told other names for
//! them. Cargo hashes such flags into the names of what it builds: hence a folder of its own, beside what developers build all day.

use super::daemons;
use crate::interrupt::{self, Waiting};
use crate::{root, test, workdir};
use anyhow::{Context, Result, bail};
use keys::site::Role;
use memchr::memmem;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What would change the programs from one builder to the next.
const FOREIGN: [&str; 6] =
    ["CARGO_BUILD_RUSTFLAGS", "CARGO_INCREMENTAL", "CFLAGS", "RUSTC_WORKSPACE_WRAPPER", "RUSTC_WRAPPER", "RUSTFLAGS"];

/// Folders of this machine and their names in programs; the compilers take the last that fits.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Names(Vec<(PathBuf, String)>);

impl Names {
    fn here(target: &Path) -> Result<Self> {
        let (sysroot, version) = (said(&["--print", "sysroot"])?, said(&["--version", "--verbose"])?);
        let commit = version.lines().find_map(|line| line.strip_prefix("commit-hash: ")).unwrap_or("unknown");
        let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
        let home = home.or_else(|| Some(std::env::home_dir()?.join(".cargo"))).context("cargo has no home")?;
        Ok(Self::of(&home, Path::new(&sysroot), commit, &root(), target))
    }

    fn of(home: &Path, sysroot: &Path, commit: &str, root: &Path, target: &Path) -> Self {
        Self(vec![
            (home.into(), "/cargo".into()),
            // As the standard library's own files are named where its sources are not installed.
            (sysroot.join("lib/rustlib/src/rust"), format!("/rustc/{commit}")),
            (root.into(), "/ffs".into()),
            (target.into(), "/build".into()),
        ])
    }

    /// The flags of rustc, as cargo takes them.
    fn rust(&self) -> String {
        let flags = self.0.iter().map(|(from, to)| format!("--remap-path-prefix={}={to}", from.display()));
        flags.collect::<Vec<_>>().join("\u{1f}")
    }

    /// The flags of the C compiler, quoted as for a shell.
    fn c(&self) -> String {
        let quoted = |from: &Path| from.display().to_string().replace('\'', r"'\''");
        let flags = self.0.iter().map(|(from, to)| format!("'-ffile-prefix-map={}={to}'", quoted(from)));
        flags.collect::<Vec<_>>().join(" ")
    }

    /// Folders of this machine that are in a program all the same.
    fn left(&self, program: &[u8]) -> Vec<&Path> {
        let within = |path: &Path| {
            let begin = [path.as_os_str().as_encoded_bytes(), b"/"].concat();
            memmem::find(program, &begin).is_some()
        };
        // A folder that is named like one of the names would be in everything.
        let named = |path: &Path| self.0.iter().any(|(_, to)| Path::new(to).starts_with(path));
        self.0.iter().map(|(from, _)| &**from).filter(|from| !named(from) && within(from)).collect()
    }
}

/// What the compiler says.
fn said(args: &[&str]) -> Result<String> {
    let output = Command::new("rustc").args(args).current_dir(root()).output().context("cannot run rustc")?;
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}

/// The compiler, as it names itself.
pub(super) fn rustc() -> Result<String> {
    said(&["--version"])
}

/// Builds the daemons of all roles; where each is, without symbols. With fewer of them, cargo would choose fewer features of what they
/// share, and a role's image would depend on which others are built with it.
pub(super) fn build(cache: &Path) -> Result<BTreeMap<&'static str, PathBuf>> {
    let mut all: Vec<_> = Role::ALL.iter().flat_map(|role| daemons(*role)).collect();
    all.sort_unstable();
    all.dedup();
    let target = workdir().join("build");
    fs::create_dir_all(&target)?;
    let names = Names::here(&target)?;
    let mut command = test::cargo();
    for name in FOREIGN {
        command.env_remove(name);
    }
    command.env("CARGO_ENCODED_RUSTFLAGS", names.rust()).env("CARGO_TARGET_DIR", &target);
    command.env("CFLAGS", names.c()).env("CC_SHELL_ESCAPED_FLAGS", "1");
    command.args(["build", "--release", "--locked"]);
    for (package, program) in &all {
        command.args(["--package", package, "--bin", program]);
    }
    let mut child = command.spawn().context("cannot run cargo")?;
    let waiting = Waiting::on(child.id());
    let built = child.wait()?.success();
    drop(waiting);
    interrupt::check()?;
    if !built {
        bail!("the build failed");
    }
    let to = cache.join("programs");
    fs::create_dir_all(&to)?;
    let mut programs = BTreeMap::new();
    for (_, program) in all {
        let (from, stripped) = (target.join("release").join(program), to.join(program));
        let strip = Command::new("strip").arg("--strip-all").arg("-o").arg(&stripped).arg(&from).status();
        if !strip.context("no strip")?.success() {
            bail!("{} cannot be stripped", from.display());
        }
        if let Some(path) = names.left(&fs::read(&stripped)?).first() {
            bail!("{program} holds {}: in another folder it would be another program", path.display());
        }
        programs.insert(*program, stripped);
    }
    Ok(programs)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names() -> Names {
        let path = Path::new;
        Names::of(path("/home/x/.cargo"), path("/opt/rust"), "c0ffee", path("/home/x/ffs"), path("/home/x/ffs/target"))
    }

    #[test]
    fn the_compilers_are_told_other_names() {
        let (rust, c) = (names().rust(), names().c());
        let flags: Vec<&str> = rust.split('\u{1f}').collect();
        assert_eq!(flags[0], "--remap-path-prefix=/home/x/.cargo=/cargo");
        assert_eq!(flags[1], "--remap-path-prefix=/opt/rust/lib/rustlib/src/rust=/rustc/c0ffee");
        // What is within another comes after it.
        assert_eq!(flags[3], "--remap-path-prefix=/home/x/ffs/target=/build");
        assert!(c.starts_with("'-ffile-prefix-map=/home/x/.cargo=/cargo' ") && c.split(' ').count() == 4);
    }

    #[test]
    fn names_that_are_left_are_found() {
        let names = names();
        assert!(names.left(b"/ffs/src/main.rs /cargo/registry").is_empty());
        assert!(names.left(b"/home/x/.cargoes").is_empty());
        assert_eq!(names.left(b"...\0/home/x/.cargo/registry/src\0"), [Path::new("/home/x/.cargo")]);
        let path = Path::new;
        let built =
            Names::of(path("/home/x/.cargo"), path("/opt/rust"), "c0ffee", path("/build"), path("/build/target"));
        assert!(built.left(b"/build/deps/x.rs").is_empty());
    }
}
