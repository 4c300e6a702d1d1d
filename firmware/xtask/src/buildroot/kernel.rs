//! The kernel's options: `board/ffs/linux.fragment` against the list that is kept, `image/modules` and Debian's source.

use super::symbols::{List, defconfig, settings};
use super::{Top, run};
use crate::host::{self, Tool};
use crate::image;
use anyhow::{Context, Result, bail};
use keys::site::Role;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

const FRAGMENT: &str = "buildroot/board/ffs/linux.fragment";
/// Where Buildroot finds the hash of the kernel's source.
const HASHES: &str = "buildroot/board/ffs/patches/linux/linux.hash";
/// Debian's package of the source: the series of the images' kernel.
const SOURCE: &str = "linux-source-6.12";
/// What of the source the configuration needs.
const PARTS: [&str; 6] =
    ["*/Kconfig*", "*/Makefile*", "*/Kbuild*", "*/scripts/*", "*/arch/x86/configs/*", "*/kernel/configs/*"];

/// Needed to configure a kernel.
pub(super) const TOOLS: &[Tool] =
    &[Tool::new("bison", "bison"), Tool::new("flex", "flex"), Tool::new("gcc", "gcc"), Tool::new("xz", "xz-utils")];

/// The fragment: values by symbol, without their prefix.
fn fragment(top: &Top, wrong: &mut Vec<String>) -> Result<BTreeMap<String, String>> {
    let mut found = BTreeMap::new();
    for (symbol, value) in settings(&top.read(FRAGMENT)?, FRAGMENT, wrong) {
        match symbol.strip_prefix("CONFIG_") {
            Some(name) => {
                found.insert(name.to_owned(), value);
            }
            None => wrong.push(format!("{FRAGMENT}: {symbol} is no symbol of the kernel")),
        }
    }
    Ok(found)
}

/// The kernels of both ways.
pub(super) struct Versions {
    /// That of Buildroot's configurations.
    pub(super) pinned: String,
    /// That of `image/packages.lock`.
    pub(super) locked: String,
}

impl Versions {
    pub(super) fn read(top: &Top) -> Result<Self> {
        // Those of the roles are compared with each other elsewhere.
        let path = defconfig(Role::Download);
        let settings = settings(&top.read(&path)?, &path, &mut Vec::new());
        let pinned = settings.get("BR2_LINUX_KERNEL_CUSTOM_VERSION_VALUE");
        let pinned = pinned.with_context(|| format!("{path} pins no kernel"))?.trim_matches('"').to_owned();
        Ok(Self { pinned, locked: image::locked_kernel(&top.image())? })
    }
}

/// What Buildroot's kernel is behind with, or before. It is no fault of the tree: its hash comes from elsewhere, and only with it may
/// the version change.
pub(super) fn warning(top: &Top) -> Result<Option<String>> {
    let Versions { pinned, locked } = Versions::read(top)?;
    Ok((pinned != locked).then(|| {
        format!(
            "Buildroot's configurations pin Linux {pinned}, image/packages.lock has {locked}: what was mended between them is only in \
             one of the images (buildroot/README.md says how to follow)"
        )
    }))
}

/// What is wrong with the kernel that is pinned.
pub(super) fn version(top: &Top) -> Result<Vec<String>> {
    let Versions { pinned, locked } = Versions::read(top)?;
    let mut wrong = Vec::new();
    let file = format!("linux-{pinned}.tar.xz");
    if !top.read(HASHES)?.lines().any(|line| line.split_whitespace().last() == Some(&file)) {
        wrong.push(format!("{HASHES}: {file} is not there, which the configurations pin"));
    }
    let series = |version: &str| version.split('.').take(2).map(str::to_owned).collect::<Vec<_>>();
    if series(&pinned) != series(&locked) {
        wrong.push(format!(
            "{}: Linux {pinned} is of another series than {locked} of image/packages.lock",
            defconfig(Role::Download)
        ));
    }
    Ok(wrong)
}

/// What is wrong with the fragment, as far as the lists tell.
pub(super) fn check(top: &Top) -> Result<Vec<String>> {
    let mut wrong = Vec::new();
    let fragment = fragment(top, &mut wrong)?;
    let list = List::of_kernel(top)?;
    let used = fragment.keys().map(|symbol| (symbol.clone(), FRAGMENT.to_owned())).collect();
    wrong.extend(list.compare(&used));
    let on = |symbol: &str| fragment.get(symbol).is_some_and(|value| value == "y" || value == "m");
    let made: BTreeSet<&str> =
        list.symbols.iter().filter(|(symbol, _)| on(symbol)).flat_map(|(_, m)| m).map(|m| &**m).collect();
    let wanted = image::wanted_modules(&top.image())?;
    for module in wanted.iter().filter(|module| !made.contains(&***module)) {
        wrong.push(format!("{FRAGMENT}: nothing makes the module {module} of image/modules"));
    }
    for module in list.symbols.values().flatten().filter(|module| !wanted.contains(module)) {
        wrong.push(format!("buildroot/symbols/linux: {module} is not in image/modules"));
    }
    Ok(wrong)
}

/// Merges the fragment into the kernel's configuration for x86-64, as Buildroot does, in Debian's source of it; every line must be
/// found in the result, and every module must come of it.
pub(super) fn merge(top: &Top) -> Result<()> {
    host::require(TOOLS)?;
    let source = source()?;
    let begin = Instant::now();
    let out = tempfile::tempdir()?;
    let out_arg = format!("O={}", out.path().display());
    let make = |target: &str| {
        let mut make = Command::new("make");
        make.current_dir(&source).args(["--silent", &out_arg, target]).env("ARCH", "x86_64");
        make
    };
    run(&mut make("x86_64_defconfig"))?;
    let config = out.path().join(".config");
    let mut merge = Command::new(source.join("scripts/kconfig/merge_config.sh"));
    merge.current_dir(&source).arg("-m").arg("-O").arg(out.path()).arg(&config).arg(top.0.join(FRAGMENT));
    run(&mut merge)?;
    run(&mut make("olddefconfig"))?;
    let mut wrong = Vec::new();
    let text = fs::read_to_string(&config)?;
    let result = settings(&text, ".config", &mut wrong);
    let fragment = fragment(top, &mut wrong)?;
    for (symbol, value) in &fragment {
        let found = result.get(&format!("CONFIG_{symbol}")).map(|value| &**value);
        if found != Some(value) {
            wrong.push(format!("{FRAGMENT}: CONFIG_{symbol}={value} became {}", found.unwrap_or("nothing")));
        }
    }
    let makers = makers(&source)?;
    for module in image::wanted_modules(&top.image())? {
        let on =
            |symbol: &String| result.get(&format!("CONFIG_{symbol}")).is_some_and(|value| value == "y" || value == "m");
        if !makers.get(&module).is_some_and(|symbols| symbols.iter().any(on)) {
            wrong.push(format!("{FRAGMENT}: the module {module} of image/modules does not come of it"));
        }
    }
    if !wrong.is_empty() {
        bail!("the kernel's options are not as they must be:\n  {}", wrong.join("\n  "));
    }
    let took = begin.elapsed().as_secs_f64();
    let version = source.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    println!("{took:>8.1} s  all {} lines of the fragment and all modules found in {version}", fragment.len());
    Ok(())
}

/// As much of the source as configuring it needs; unpacked once.
fn source() -> Result<PathBuf> {
    let packages = image::unpacked(&super::workdir().join("source"), &[SOURCE])?;
    let (version, package) = packages.get(SOURCE).context("the package is not there")?;
    let home = super::workdir().join(format!("{SOURCE}_{version}"));
    if home.is_dir() {
        return Ok(home);
    }
    let partial = home.with_extension("partial");
    if partial.exists() {
        fs::remove_dir_all(&partial)?;
    }
    fs::create_dir_all(&partial)?;
    let archive = File::open(package.join(format!("usr/src/{SOURCE}.tar.xz")))?;
    let mut xz = Command::new("xz").arg("-dc").stdin(archive).stdout(Stdio::piped()).spawn().context("no xz")?;
    let stream = xz.stdout.take().context("no output")?;
    let mut tar = Command::new("tar");
    tar.arg("-x").arg("-C").arg(&partial).args(["--strip-components=1", "--wildcards"]).args(PARTS).stdin(stream);
    run(&mut tar)?;
    if !xz.wait()?.success() {
        bail!("{SOURCE} cannot be unpacked");
    }
    fs::rename(partial, &home)?;
    Ok(home)
}

/// The symbols that make each module.
fn makers(source: &Path) -> Result<BTreeMap<String, BTreeSet<String>>> {
    let (mut makers, mut todo) = (BTreeMap::new(), vec![source.to_owned()]);
    while let Some(dir) = todo.pop() {
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            let path = entry.path();
            if entry.file_type()?.is_dir() {
                todo.push(path);
            } else if entry.file_name() == "Makefile" || entry.file_name() == "Kbuild" {
                objects(&String::from_utf8_lossy(&fs::read(path)?), &mut makers);
            }
        }
    }
    Ok(makers)
}

/// `obj-$(CONFIG_X) += a.o b.o` of a Makefile.
fn objects(text: &str, makers: &mut BTreeMap<String, BTreeSet<String>>) {
    for line in text.replace("\\\n", " ").lines() {
        let Some((symbol, rest)) = line.strip_prefix("obj-$(CONFIG_").and_then(|rest| rest.split_once(')')) else {
            continue;
        };
        for object in rest.split_whitespace().filter_map(|word| word.strip_suffix(".o")) {
            makers.entry(object.replace('-', "_")).or_default().insert(symbol.to_owned());
        }
    }
}

#[cfg(test)]
mod unit {
    use super::*;

    #[test]
    fn modules_of_a_makefile() {
        let mut makers = BTreeMap::new();
        objects("obj-$(CONFIG_A)\t+= a-b.o \\\n c.o d/\nobj-y += e.o\nobj-$(CONFIG_B) := c.o\n", &mut makers);
        assert_eq!(makers.keys().collect::<Vec<_>>(), ["a_b", "c"]);
        assert_eq!(makers["c"].iter().collect::<Vec<_>>(), ["A", "B"]);
    }
}
