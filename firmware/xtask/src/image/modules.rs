//! Kernel modules: those of `image/modules`, what they depend on, their firmware, and the index that kmod looks into.
//!
//! Each module is compressed for itself: nearly all of them are for hardware that a machine does not have, and stay in its memory all the
//! same. kmod unpacks the few that are loaded.

use super::tree::{Node, Tree};
use super::whitelist::Index;
use anyhow::{Context, Result, bail};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The index files that kmod reads; the texts beside them are for people.
const INDEX: [&str; 8] = [
    "modules.alias.bin",
    "modules.builtin.alias.bin",
    "modules.builtin.bin",
    "modules.builtin.modinfo",
    "modules.dep.bin",
    "modules.devname",
    "modules.softdep",
    "modules.symbols.bin",
];

/// How the names of modules in the image end.
const PACKED: &str = ".ko.zst";
/// They are packed once and cached, and stay in the memory of every machine.
const LEVEL: i32 = 19;

/// Whether this is a module of the image.
pub(crate) fn is_module(path: &str) -> bool {
    path.ends_with(PACKED)
}

/// A module as the kernel gets it.
pub(crate) fn unpack(packed: &[u8]) -> Result<Vec<u8>> {
    zstd::decode_all(packed).context("it is not compressed by zstd")
}

/// Module names: dashes and underscores are the same.
pub(crate) fn normal(name: &str) -> String {
    let file = name.rsplit('/').next().unwrap_or(name);
    let stem = file.find(".ko").map_or(file, |at| &file[..at]);
    stem.replace('-', "_")
}

/// The lines of `image/modules`.
pub(crate) fn parse(text: &str) -> Vec<String> {
    text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')).map(normal).collect()
}

/// What a module says about itself: `key=value`, ended by zeros.
fn modinfo(module: &[u8]) -> Result<Vec<(String, String)>> {
    let elf = goblin::elf::Elf::parse(module)?;
    let section = elf.section_headers.iter().find(|s| elf.shdr_strtab.get_at(s.sh_name) == Some(".modinfo"));
    let range = section.and_then(|s| s.file_range()).context("it is no module")?;
    let text = module.get(range).context("it is cut off")?;
    let pairs = text.split(|b| *b == 0).filter_map(|pair| std::str::from_utf8(pair).ok()?.split_once('='));
    Ok(pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).collect())
}

/// The firmware that a module names.
pub(crate) fn firmware(module: &[u8]) -> Result<Vec<String>> {
    let info = modinfo(module)?;
    Ok(info.into_iter().filter(|(key, _)| key == "firmware").map(|(_, value)| value).collect())
}

/// Modules named by the `depends` and `softdep` of one.
fn needs(info: &[(String, String)]) -> Vec<String> {
    let mut names = Vec::new();
    for (key, value) in info {
        match &**key {
            "depends" => names.extend(value.split(',').filter(|n| !n.is_empty()).map(normal)),
            "softdep" => names.extend(value.split_whitespace().filter(|w| !w.ends_with(':')).map(normal)),
            _ => {}
        }
    }
    names
}

/// The modules of an image.
#[derive(Debug)]
pub(crate) struct Modules {
    /// The kernel's release, as `uname -r` tells it.
    pub(crate) release: String,
    /// The firmware that they name.
    pub(crate) firmware: BTreeSet<String>,
    /// `/usr/lib/modules/…` on the host.
    dir: PathBuf,
}

impl Modules {
    /// Makes them, or takes them from the cache.
    pub(crate) fn provide(wanted: &[String], kernel: &Path, kernel_hash: &str, cache: &Path) -> Result<Self> {
        let base = kernel.join("usr/lib/modules");
        let release = fs::read_dir(&base)?.next().context("the kernel has no modules")??.file_name();
        let release = release.to_str().context("the kernel's release is not UTF-8")?.to_owned();
        let from = base.join(&release);
        let mut files = BTreeMap::new();
        let mut todo = vec![from.clone()];
        while let Some(next) = todo.pop() {
            for entry in fs::read_dir(next)? {
                let path = entry?.path();
                if path.is_dir() {
                    todo.push(path);
                } else if path.to_str().is_some_and(|p| p.ends_with(".ko.xz") || p.ends_with(".ko")) {
                    files.insert(normal(path.to_str().unwrap_or_default()), path);
                }
            }
        }
        let builtin: BTreeSet<String> = fs::read_to_string(from.join("modules.builtin"))?.lines().map(normal).collect();
        if let Some(name) = wanted.iter().find(|n| !files.contains_key(*n) && !builtin.contains(*n)) {
            bail!("the kernel {release} has no module {name}, which image/modules names");
        }
        let key = super::hash(format!("2 {kernel_hash} {}", wanted.join(" ")).as_bytes());
        let dir = cache.join("modules").join(&key[..16]);
        if !dir.is_dir() {
            let partial = dir.with_extension("partial");
            if partial.exists() {
                fs::remove_dir_all(&partial)?;
            }
            select(wanted, &files, &from, &partial.join("usr/lib/modules").join(&release))?;
            depmod(&partial, &release)?;
            fs::rename(&partial, &dir)?;
        }
        let firmware = fs::read_to_string(dir.join("firmware"))?.lines().map(str::to_owned).collect();
        Ok(Self { release, firmware, dir })
    }

    /// Adds them and their firmware.
    pub(crate) fn add_to(&self, tree: &mut Tree, index: &Index) -> Result<()> {
        let mut all = Tree::default();
        let top = self.dir.join("usr/lib/modules").join(&self.release);
        let mut only = Tree::default();
        all.overlay(&top)?;
        for (path, node) in all.iter() {
            if is_module(path) || INDEX.iter().any(|name| path.strip_prefix('/') == Some(name)) {
                only.add(&format!("/usr/lib/modules/{}{path}", self.release), node.clone())?;
            }
        }
        tree.extend(only)?;
        let mut missing = Vec::new();
        for name in self.firmware.iter() {
            let path = format!("/usr/lib/firmware/{name}");
            match index.content(&path) {
                Some(content) => tree.add(&path, Node::File { executable: false, content })?,
                None => missing.push(&**name),
            }
        }
        if missing.is_empty() {
            return Ok(());
        }
        bail!("no package of image/packages has the firmware {}", missing.join(" "))
    }
}

/// Copies the wanted modules and what they need.
fn select(wanted: &[String], files: &BTreeMap<String, PathBuf>, from: &Path, to: &Path) -> Result<()> {
    let (mut names, mut firmware) = (BTreeSet::new(), BTreeSet::new());
    let mut todo: Vec<String> = wanted.to_vec();
    while let Some(name) = todo.pop() {
        // What is built in, or a soft dependency that this kernel does not have, needs no file.
        let Some(path) = files.get(&name) else { continue };
        if !names.insert(name) {
            continue;
        }
        let bytes = if path.extension().is_some_and(|e| e == "xz") {
            let output = Command::new("xz").arg("-dc").arg(path).stderr(Stdio::inherit()).output().context("no xz")?;
            if !output.status.success() {
                bail!("{} cannot be unpacked", path.display());
            }
            output.stdout
        } else {
            fs::read(path)?
        };
        todo.extend(needs(&modinfo(&bytes).with_context(|| path.display().to_string())?));
        firmware.extend(self::firmware(&bytes)?);
        let below = path.strip_prefix(from)?.to_str().context("a module's path is not UTF-8")?;
        let target = to.join(format!("{}{PACKED}", below.trim_end_matches(".xz").trim_end_matches(".ko")));
        fs::create_dir_all(target.parent().context("a module without a folder")?)?;
        // kmod wants to know beforehand how long it gets, which this writes.
        fs::write(target, zstd::bulk::compress(&bytes, LEVEL)?)?;
    }
    for name in ["modules.builtin", "modules.builtin.modinfo", "modules.order"] {
        fs::copy(from.join(name), to.join(name)).with_context(|| name.to_owned())?;
    }
    let home = to.ancestors().nth(4).context("a folder above")?;
    Ok(fs::write(home.join("firmware"), firmware.iter().map(|name| format!("{name}\n")).collect::<String>())?)
}

fn depmod(dir: &Path, release: &str) -> Result<()> {
    // It looks in lib/modules.
    std::os::unix::fs::symlink("usr/lib", dir.join("lib"))?;
    let program = crate::host::find("depmod").context("no depmod")?;
    if !Command::new(program).arg("-b").arg(dir).arg(release).status()?.success() {
        bail!("depmod failed");
    }
    Ok(())
}

/// The kernel in its package.
pub(crate) fn kernel(package: &Path) -> Result<PathBuf> {
    for entry in fs::read_dir(package.join("boot"))? {
        let path = entry?.path();
        if path.file_name().and_then(|n| n.to_str()).is_some_and(|n| n.starts_with("vmlinuz-")) {
            return Ok(path);
        }
    }
    bail!("the kernel's package has no kernel")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        assert_eq!(normal("kernel/drivers/net/foo-bar.ko.xz"), "foo_bar");
        assert_eq!(normal("nls_iso8859-1"), "nls_iso8859_1");
        assert_eq!(parse("# c\n\nsd_mod\n nvme \n"), ["sd_mod", "nvme"]);
    }

    #[test]
    fn what_modules_need() {
        let info = [("depends", "a,b-c"), ("softdep", "pre: x y-z post: w"), ("firmware", "f.bin"), ("depends", "")];
        let info = info.map(|(k, v)| (k.to_owned(), v.to_owned()));
        assert_eq!(needs(&info), ["a", "b_c", "x", "y_z", "w"]);
        assert!(modinfo(b"no").is_err());
    }
}
