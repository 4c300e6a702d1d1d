//! Which units of an image are started, and by what: a unit that nothing starts has no business there.

use super::tree::{Node, Tree};
use anyhow::Result;
use std::collections::BTreeMap;

const UNITS: &str = "/usr/lib/systemd/system/";
const SUFFIXES: [&str; 6] = [".service", ".target", ".socket", ".timer", ".mount", ".path"];
/// Settings with which a unit starts others, or is stopped by others that are started.
const STARTS: [&str; 9] =
    ["BindsTo", "Conflicts", "OnFailure", "PropagatesStopTo", "Requires", "Requisite", "Sockets", "Unit", "Wants"];
/// What systemd starts by itself: at the start, when the machine is to go down, at a signal or a key.
const MANAGER: [&str; 6] =
    ["ctrl-alt-del.target", "default.target", "halt.target", "poweroff.target", "reboot.target", "sigpwr.target"];
/// What systemd-bless-boot-generator makes while a boot is on trial.
const GENERATED: [&str; 1] = ["systemd-bless-boot.service"];

/// The text of a file, links followed.
fn read(tree: &Tree, path: &str) -> Result<String> {
    match tree.resolve(path).and_then(|path| tree.get(&path).cloned()) {
        Some(Node::File { content, .. }) => Ok(String::from_utf8_lossy(&content.read()?).into_owned()),
        _ => Ok(String::new()),
    }
}

fn is_unit(name: &str) -> bool {
    !name.contains('/') && SUFFIXES.iter().any(|suffix| name.ends_with(suffix))
}

/// The unit of which another name is an instance.
fn template(name: &str) -> String {
    match (name.find('@'), name.rfind('.')) {
        (Some(at), Some(dot)) if at < dot => format!("{}{}", &name[..=at], &name[dot..]),
        _ => name.to_owned(),
    }
}

/// The units of an image, without those that are links to others.
fn all(tree: &Tree) -> Vec<String> {
    let within = tree.iter().filter(|(_, node)| matches!(node, Node::File { .. }));
    within.filter_map(|(path, _)| path.strip_prefix(UNITS)).filter(|name| is_unit(name)).map(str::to_owned).collect()
}

/// What a unit says, drop-ins too.
fn settings(tree: &Tree, unit: &str) -> Result<Vec<(String, String)>> {
    let dir = format!("{UNITS}{unit}.d/");
    let mut texts = vec![read(tree, &format!("{UNITS}{unit}"))?];
    for (path, _) in tree.iter().filter(|(path, _)| path.starts_with(&dir) && path.ends_with(".conf")) {
        texts.push(read(tree, path)?);
    }
    let lines = texts.iter().flat_map(|text| text.lines()).filter(|line| !line.starts_with(['#', ';']));
    Ok(lines
        .filter_map(|line| line.split_once('='))
        .map(|(key, value)| (key.trim().into(), value.trim().into()))
        .collect())
}

/// The units that a unit starts.
fn starts(tree: &Tree, unit: &str) -> Result<Vec<String>> {
    let settings = settings(tree, unit)?;
    let named = settings.iter().filter(|(key, _)| STARTS.contains(&&**key));
    let mut starts: Vec<String> = named.flat_map(|(_, value)| value.split_whitespace()).map(str::to_owned).collect();
    for kind in ["wants", "requires"] {
        let dir = format!("{UNITS}{unit}.{kind}/");
        starts.extend(tree.iter().filter_map(|(path, _)| path.strip_prefix(&dir)).map(str::to_owned));
    }
    // By themselves: what is not meant for the very beginning has these, sockets and timers their service.
    if !settings.iter().any(|(key, value)| key == "DefaultDependencies" && value == "no") && unit != "shutdown.target" {
        starts.push("shutdown.target".into());
        if !unit.ends_with(".target") {
            starts.push("sysinit.target".into());
        }
    }
    let of_its_name = |suffix: &str| unit.strip_suffix(suffix).map(|stem| format!("{stem}.service"));
    starts.extend([".socket", ".timer"].into_iter().filter_map(of_its_name));
    starts.extend(unit.ends_with(".mount").then(|| "umount.target".to_owned()));
    Ok(starts)
}

/// The units that are started, and what starts each first.
pub(super) fn started(tree: &Tree) -> Result<BTreeMap<String, String>> {
    let mut by = BTreeMap::new();
    let mut todo: Vec<(String, String)> = MANAGER.map(|name| (name.to_owned(), "systemd itself".to_owned())).into();
    todo.extend(GENERATED.map(|name| (name.to_owned(), "systemd-bless-boot-generator".to_owned())));
    todo.extend(admin::admind::BY_ORDER.map(|name| (name.to_owned(), "admind".to_owned())));
    while let Some((name, who)) = todo.pop() {
        // A link is another name.
        let path =
            tree.resolve(&format!("{UNITS}{name}")).or_else(|| tree.resolve(&format!("{UNITS}{}", template(&name))));
        let Some(unit) = path.as_deref().and_then(|path| path.strip_prefix(UNITS)).map(str::to_owned) else { continue };
        if by.contains_key(&unit) {
            continue;
        }
        todo.extend(starts(tree, &unit)?.into_iter().map(|next| (next, unit.clone())));
        by.insert(unit, who);
    }
    Ok(by)
}

/// Units that nothing starts.
pub(super) fn unused(tree: &Tree) -> Result<Vec<String>> {
    let started = started(tree)?;
    let unused = all(tree).into_iter().filter(|unit| !started.contains_key(unit));
    Ok(unused.map(|unit| format!("nothing starts {unit}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(units: &[(&str, &str)], links: &[(&str, &str)]) -> Tree {
        let mut tree = Tree::default();
        for (name, text) in units {
            tree.text(&format!("{UNITS}{name}"), *text).unwrap();
        }
        for (name, target) in links {
            tree.add(&format!("{UNITS}{name}"), Node::Link { target: (*target).into() }).unwrap();
        }
        tree
    }

    #[test]
    fn what_is_started() {
        let tree = tree(
            &[
                ("multi-user.target", "[Unit]\nRequires=basic.target\n"),
                ("basic.target", "DefaultDependencies=no\nWants=modprobe@fuse.service\n"),
                ("modprobe@.service", "DefaultDependencies=no\n"),
                ("a.service", "Wants=b.socket\n# Wants=e.service\n"),
                ("a.service.d/x.conf", "[Unit]\nOnFailure=c.service\n"),
                ("b.socket", ""),
                ("b.service", ""),
                ("c.service", ""),
                ("e.service", ""),
                ("sysinit.target", ""),
                ("shutdown.target", ""),
                ("ffs-scrub-now.service", ""),
                // That admind asks systemd about it does not start it.
                ("ffs-health.service", ""),
                ("network.target", ""),
            ],
            &[("default.target", "multi-user.target"), ("multi-user.target.wants/a.service", "../a.service")],
        );
        let expected =
            ["e.service", "ffs-health.service", "network.target"].map(|unit| format!("nothing starts {unit}"));
        assert_eq!(unused(&tree).unwrap(), expected);
        let started = started(&tree).unwrap();
        assert_eq!((&*started["a.service"], &*started["c.service"]), ("multi-user.target", "a.service"));
        assert_eq!((&*started["b.service"], &*started["ffs-scrub-now.service"]), ("b.socket", "admind"));
        assert_eq!(started["modprobe@.service"], "basic.target");
    }
}
