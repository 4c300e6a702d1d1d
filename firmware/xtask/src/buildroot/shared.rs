//! What both ways to an image have in common, and must keep in common: units and settings, accounts, the disk, os-release.

use super::{Top, symbols};
use crate::image::{self, disk};
use admin::gpt::{self, Guid};
use anyhow::{Context, Result};
use keys::site::Role;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const GENIMAGE: &str = "buildroot/board/ffs/genimage.cfg";

/// What differs between the two ways.
pub(super) fn check(top: &Top) -> Result<Vec<String>> {
    let mut wrong = layout(&top.read(GENIMAGE)?);
    for role in Role::ALL {
        wrong.extend(overlays(top, role)?);
        wrong.extend(os_release(top, role)?);
    }
    Ok(wrong)
}

/// What a system gets of overlays, by path: from where, and its content or the target of its link.
type Laid = BTreeMap<String, (PathBuf, Vec<u8>)>;

/// Lays directories over one another, as both ways do.
fn lay(dirs: &[PathBuf]) -> Result<Laid> {
    let mut laid = Laid::new();
    for dir in dirs {
        let mut todo = vec![dir.clone()];
        while let Some(next) = todo.pop() {
            for entry in fs::read_dir(&next).with_context(|| next.display().to_string())? {
                let (path, kind) = entry.map(|entry| (entry.path(), entry.file_type()))?;
                let kind = kind?;
                if kind.is_dir() {
                    todo.push(path);
                    continue;
                }
                let content = if kind.is_symlink() {
                    [b"-> ", fs::read_link(&path)?.as_os_str().as_encoded_bytes()].concat()
                } else {
                    fs::read(&path)?
                };
                laid.insert(format!("/{}", path.strip_prefix(dir)?.display()), (path, content));
            }
        }
    }
    Ok(laid)
}

/// Files that the configuration of a role lays over the system and `cargo xtask image` does not, or the other way round.
fn overlays(top: &Top, role: Role) -> Result<Vec<String>> {
    let name = role.as_str();
    let rootfs = top.image().join("rootfs");
    let image = lay(&[rootfs.join("common"), rootfs.join(name)])?;
    let dirs: Vec<_> = symbols::overlays(top, role)?.into_iter().filter(|dir| dir.is_dir()).collect();
    let buildroot = lay(&dirs)?;
    let mut wrong = Vec::new();
    let from = |(path, _): &(PathBuf, Vec<u8>)| {
        let path = path.canonicalize().unwrap_or_else(|_| path.clone());
        path.strip_prefix(&top.0).unwrap_or(&path).display().to_string()
    };
    for (path, there) in &image {
        match buildroot.get(path) {
            None => wrong.push(format!("{name}: {path} of {} is missing from the image of Buildroot", from(there))),
            Some(here) if here.1 != there.1 => {
                wrong.push(format!("{name}: {path} differs: {} and {}", from(here), from(there)));
            }
            Some(_) => {}
        }
    }
    for (path, here) in buildroot.iter().filter(|(path, _)| !image.contains_key(*path)) {
        wrong.push(format!("{name}: {path} of {} is only in the image of Buildroot", from(here)));
    }
    Ok(wrong)
}

/// The keys within the first block of this name.
fn block<'a>(text: &'a str, name: &str) -> Vec<(&'a str, &'a str)> {
    let mut lines = text.lines().map(str::trim).skip_while(|line| line.strip_suffix('{').map(str::trim) != Some(name));
    let begin = lines.next();
    let inside = lines.take_while(|line| begin.is_some() && *line != "}");
    inside
        .filter_map(|line| line.split_once('='))
        .map(|(key, value)| (key.trim(), value.trim().trim_matches('"')))
        .collect()
}

/// Where the disk of genimage is not that of [`disk`].
fn layout(text: &str) -> Vec<String> {
    let mib = |bytes: u64| format!("{}M", bytes >> 20);
    let id = |n: u128| Guid(disk::ID + n).to_string();
    let expected = [
        ("hdimage", vec![("partition-table-type", "gpt".to_owned()), ("disk-uuid", id(0))]),
        (
            &*format!("partition \"{}@ROLE@\"", admin::flash::ESP_NAME),
            vec![
                ("offset", mib(disk::ALIGN)),
                ("image", "esp.vfat".to_owned()),
                ("partition-type-uuid", disk::ESP_KIND.to_string()),
                ("partition-uuid", id(1)),
            ],
        ),
        (
            &*format!("partition {}", admin::state::LABEL),
            vec![
                ("size", mib(disk::STATE)),
                ("partition-type-uuid", gpt::LINUX.to_string()),
                ("partition-uuid", id(2)),
            ],
        ),
    ];
    let mut wrong = Vec::new();
    for (name, pairs) in expected {
        let found = block(text, name);
        for (key, value) in pairs {
            let there = found.iter().find(|(of, _)| *of == key).map(|(_, value)| *value);
            if there != Some(&*value) {
                wrong.push(format!("{GENIMAGE}: {key} of {name} is {there:?}, in image/disk.rs it is {value:?}"));
            }
        }
    }
    // The file system of the ESP has the size of the partition.
    if !text.lines().any(|line| line.trim() == format!("size = {}", mib(disk::ESP))) {
        wrong.push(format!("{GENIMAGE}: the ESP is not of {}", mib(disk::ESP)));
    }
    wrong
}

/// The command of a script of the board, as Buildroot would call it.
pub(super) fn script(top: &Top, name: &str, dir: &Path, role: Role) -> Command {
    let mut command = Command::new(top.external().join("board/ffs").join(name));
    command.arg(dir).arg(role.as_str()).env("BR2_EXTERNAL_FFS_PATH", top.external());
    command
}

/// Runs post-build.sh on a system that has nothing but the modules that are asked for.
pub(super) fn finalize(top: &Top, role: Role, target: &Path) -> Result<()> {
    let modules = target.join("usr/lib/modules/1");
    fs::create_dir_all(&modules)?;
    let wanted = image::wanted_modules(&top.image())?;
    let builtin: String = wanted.iter().map(|name| format!("kernel/{name}.ko\n")).collect();
    fs::write(modules.join("modules.builtin"), builtin)?;
    super::run(&mut script(top, "post-build.sh", target, role))?;
    Ok(())
}

/// Compares what post-build.sh says about a system with what `cargo xtask image` says.
fn os_release(top: &Top, role: Role) -> Result<Vec<String>> {
    let target = tempfile::tempdir()?;
    if let Err(error) = finalize(top, role, target.path()) {
        return Ok(vec![format!("post-build.sh: {error:#}")]);
    }
    let found = fs::read_to_string(target.path().join("usr/lib/os-release"))?;
    let manifest: toml::Table = top.read("Cargo.toml")?.parse()?;
    let version = manifest["workspace"]["package"]["version"].as_str().context("the workspace has no version")?;
    // The one thing that is not the same is what the system was made of.
    let expected = image::os_release(role, version).replace("ID_LIKE=debian", "ID_LIKE=buildroot");
    let missing = expected.lines().filter(|line| !found.lines().any(|other| other == *line));
    let more = found.lines().filter(|line| !expected.lines().any(|other| other == *line));
    let missing = missing.map(|line| format!("post-build.sh: os-release lacks {line}"));
    Ok(missing.chain(more.map(|line| format!("post-build.sh: {line} is not in os-release of image.rs"))).collect())
}

#[cfg(test)]
mod unit {
    use super::*;

    #[test]
    fn blocks_of_a_configuration() {
        let text = "image x {\n  hdimage {\n    a = \"1\"\n  }\n  partition p {\n    b = 2M\n    c = \"d e\"\n  }\n}\n";
        assert_eq!(block(text, "hdimage"), [("a", "1")]);
        assert_eq!(block(text, "partition p"), [("b", "2M"), ("c", "d e")]);
        assert!(block(text, "partition q").is_empty());
        assert!(!layout(text).is_empty());
    }
}
