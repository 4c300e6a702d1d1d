//! Configurations of Buildroot and of the kernel, and the lists of symbols that are kept with the release that they were checked
//! against: a symbol that is misspelt, or went away, would otherwise be ignored without a word.

use super::Top;
use anyhow::{Context, Result};
use keys::site::Role;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// What the configurations of two roles may differ in, beside the role's own symbol.
const OF_THE_ROLE: [&str; 3] = ["BR2_TARGET_GENERIC_HOSTNAME", "BR2_ROOTFS_OVERLAY", "BR2_ROOTFS_POST_SCRIPT_ARGS"];
/// What the tree's own symbols begin with.
pub(super) const OWN: &str = "BR2_PACKAGE_FFS_FIRMWARE";

/// The symbols of a list, each with the words beside it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct List {
    path: &'static str,
    pub(super) symbols: BTreeMap<String, Vec<String>>,
}

impl List {
    fn read(top: &Top, path: &'static str) -> Result<Self> {
        let text = top.read(path)?;
        let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
        let words = lines.map(|line| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>());
        let symbols = words.filter_map(|mut words| (!words.is_empty()).then(|| (words.remove(0), words))).collect();
        Ok(Self { path, symbols })
    }

    /// Those of Buildroot.
    pub(super) fn of_buildroot(top: &Top) -> Result<Self> {
        Self::read(top, "buildroot/symbols/buildroot")
    }

    /// Those of the kernel.
    pub(super) fn of_kernel(top: &Top) -> Result<Self> {
        Self::read(top, "buildroot/symbols/linux")
    }

    /// What is used and not on it, and what is on it and not used. `used` are symbols and where.
    pub(super) fn compare(&self, used: &BTreeMap<String, String>) -> Vec<String> {
        let unlisted = used.iter().filter(|(symbol, _)| !self.symbols.contains_key(*symbol));
        let unlisted = unlisted.map(|(symbol, place)| format!("{place}: {symbol} is not on the list in {}", self.path));
        let unused = self.symbols.keys().filter(|symbol| !used.contains_key(*symbol));
        let unused = unused.map(|symbol| format!("{}: nothing uses {symbol}", self.path));
        unlisted.chain(unused).collect()
    }
}

/// Reads a configuration: values by symbol, `n` where a symbol is not set. Lines that are neither are wrong.
pub(super) fn settings(text: &str, path: &str, wrong: &mut Vec<String>) -> BTreeMap<String, String> {
    let mut settings = BTreeMap::new();
    for line in text.lines().filter(|line| !line.trim().is_empty()) {
        let unset = line.strip_prefix("# ").and_then(|rest| rest.strip_suffix(" is not set"));
        let (symbol, value) = match (unset, line.split_once('=')) {
            (Some(symbol), _) => (symbol, "n"),
            (None, _) if line.starts_with('#') => continue,
            (None, Some((symbol, value))) => (symbol, value),
            (None, None) => {
                wrong.push(format!("{path}: {line:?} sets nothing"));
                continue;
            }
        };
        if settings.insert(symbol.to_owned(), value.to_owned()).is_some() {
            wrong.push(format!("{path}: {symbol} is set twice"));
        }
    }
    settings
}

/// The configuration of a role.
pub(super) fn defconfig(role: Role) -> String {
    format!("buildroot/configs/ffs_{}_defconfig", role.as_str())
}

/// The directories that a role's configuration lays over the system, in order.
pub(super) fn overlays(top: &Top, role: Role) -> Result<Vec<PathBuf>> {
    let settings = settings(&top.read(&defconfig(role))?, "", &mut Vec::new());
    let value = settings.get("BR2_ROOTFS_OVERLAY").context("BR2_ROOTFS_OVERLAY is not set")?;
    let external = top.external().display().to_string();
    let expanded = value.trim_matches('"').replace("$(BR2_EXTERNAL_FFS_PATH)", &external);
    Ok(expanded.split_whitespace().map(PathBuf::from).collect())
}

/// What is wrong with the configurations. `own` are the symbols that the tree itself defines.
pub(super) fn configurations(top: &Top, own: &BTreeSet<String>) -> Result<Vec<String>> {
    let (mut wrong, mut used, mut all) = (Vec::new(), BTreeMap::new(), Vec::new());
    for role in Role::ALL {
        let (path, name) = (defconfig(role), role.as_str());
        let settings = settings(&top.read(&path)?, &path, &mut wrong);
        let hostname = top.read(&format!("image/rootfs/{name}/etc/hostname"))?;
        for (symbol, value) in [
            (OF_THE_ROLE[0], format!("\"{}\"", hostname.trim())),
            (OF_THE_ROLE[2], format!("\"{name}\"")),
            (&*format!("{OWN}_{}", name.to_uppercase()), "y".to_owned()),
        ] {
            if settings.get(symbol) != Some(&value) {
                wrong.push(format!("{path}: {symbol} is not {value}"));
            }
        }
        for symbol in settings.keys() {
            if symbol.starts_with(OWN) && !own.contains(symbol) {
                wrong.push(format!("{path}: {symbol} is not in Config.in"));
            } else if !symbol.starts_with(OWN) {
                used.insert(symbol.clone(), path.clone());
            }
        }
        all.push((path, settings));
    }
    let (first, others) = all.split_first().context("no role")?;
    for (path, settings) in others {
        let symbols: BTreeSet<_> = first.1.keys().chain(settings.keys()).collect();
        for symbol in symbols.into_iter().filter(|symbol| first.1.get(*symbol) != settings.get(*symbol)) {
            if !OF_THE_ROLE.contains(&&**symbol) && !symbol.starts_with(OWN) {
                wrong.push(format!("{path}: {symbol} is not as in {}", first.0));
            }
        }
    }
    for path in top.files()? {
        // Lists and texts for people name what others use.
        if !path.starts_with("buildroot/symbols/") && !path.ends_with(".md") && !path.contains("/configs/") {
            for symbol in mentioned(&top.read(&path)?) {
                used.insert(symbol, path.clone());
            }
        }
    }
    wrong.extend(List::of_buildroot(top)?.compare(&used));
    Ok(wrong)
}

/// Symbols of Buildroot that a text mentions.
fn mentioned(text: &str) -> Vec<String> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    words.filter(|word| word.starts_with("BR2_") && !word.contains("_FFS_")).map(str::to_owned).collect()
}

/// Paths that files of the tree name and that are not there.
pub(super) fn paths(top: &Top) -> Result<Vec<String>> {
    let external = top.external();
    let bases = [
        ("$(BR2_EXTERNAL_FFS_PATH)/", external.clone()),
        ("$BR2_EXTERNAL_FFS_PATH/", external.clone()),
        ("$board/", external.join("board/ffs")),
        ("$checkout/", top.0.clone()),
        ("$image/", top.image()),
    ];
    let mut wrong = Vec::new();
    for file in top.files()?.iter().filter(|file| !file.ends_with(".md")) {
        let text = top.read(file)?;
        for (base, dir) in &bases {
            for (at, _) in text.match_indices(base) {
                let rest = &text[at + base.len()..];
                let end = rest.find(|c: char| c.is_whitespace() || "\"'`;:)$*".contains(c)).unwrap_or(rest.len());
                let (mut path, stop) = (&rest[..end], rest[end..].chars().next());
                if matches!(stop, Some('$' | '*')) {
                    // Only the folder is named here.
                    path = path.rsplit_once('/').map_or("", |(folder, _)| folder);
                }
                if !exists(&dir.join(path)) {
                    wrong.push(format!("{file}: {base}{path} is not there"));
                }
            }
        }
    }
    Ok(wrong)
}

fn exists(path: &Path) -> bool {
    path.symlink_metadata().is_ok()
}

#[cfg(test)]
mod unit {
    use super::*;

    #[test]
    fn lines_of_configurations() {
        let mut wrong = Vec::new();
        let text = "# c\nA=y\n# B is not set\nC=\"x y\"\n\nwhat\nA=n\n";
        let settings = settings(text, "f", &mut wrong);
        assert_eq!(settings.get("B").map(|v| &**v), Some("n"));
        assert_eq!(settings.get("C").map(|v| &**v), Some("\"x y\""));
        assert_eq!(wrong, ["f: \"what\" sets nothing", "f: A is set twice"]);
    }

    #[test]
    fn symbols_in_texts() {
        assert_eq!(mentioned("select BR2_A_B # $(BR2_C) BR2_EXTERNAL_FFS_PATH XBR2_D"), ["BR2_A_B", "BR2_C"]);
    }

    #[test]
    fn lists_and_uses() {
        let symbols = [("A".to_owned(), vec![]), ("B".to_owned(), vec![])].into();
        let list = List { path: "l", symbols };
        let used = [("B".to_owned(), "f".to_owned()), ("C".to_owned(), "g".to_owned())].into();
        assert_eq!(list.compare(&used), ["g: C is not on the list in l", "l: nothing uses A"]);
    }
}
