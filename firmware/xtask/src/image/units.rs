//! Units of an image that nothing ever starts.

use super::tree::{Content, Node, Tree};
use std::collections::{BTreeMap, BTreeSet};

/// Where units are.
const DIR: &str = "/usr/lib/systemd/system/";
/// What is started by nobody else's words: by systemd at the start, by signals and keys, by generators, and by our own programs.
const ROOTS: [&str; 12] = [
    "default.target",
    "ctrl-alt-del.target",
    "ffs-scrub-now.service",
    "ffs-storage-change.service",
    "ffs-storage.service",
    "final.target",
    "halt.target",
    "poweroff.target",
    "reboot.target",
    "sigpwr.target",
    "systemd-bless-boot.service",
    "umount.target",
];
/// The settings by which a unit starts others (systemd.unit(5), systemd.timer(5), systemd.service(5)).
const STARTS: [&str; 6] = ["Wants", "Requires", "BindsTo", "Upholds", "Unit", "Sockets"];
/// What every unit has, unless it says that it does not want it.
const DEFAULT: [&str; 3] = ["sysinit.target", "basic.target", "shutdown.target"];

/// The units that nothing starts.
pub(super) fn unused(tree: &Tree) -> Vec<String> {
    let mut starts = BTreeMap::<&str, BTreeSet<String>>::new();
    for (path, node) in tree.iter() {
        let Some(name) = path.strip_prefix(DIR) else { continue };
        match (name.split_once('/'), node) {
            // Settings beside a unit, and links to what it starts.
            (Some((dir, file)), node) => {
                let (unit, kind) = dir.rsplit_once('.').unwrap_or((dir, ""));
                let of = starts.entry(unit).or_default();
                match kind {
                    "wants" | "requires" | "upholds" => drop(of.insert(file.to_owned())),
                    "d" => of.extend(settings(node)),
                    _ => {}
                }
            }
            (None, Node::Link { target }) => {
                let target = target.rsplit('/').next().unwrap_or(target).to_owned();
                starts.entry(name).or_default().insert(target);
            }
            (None, Node::File { .. }) => {
                let of = starts.entry(name).or_default();
                of.extend(settings(node));
                of.extend(DEFAULT.map(str::to_owned));
                if let Some(unit) = name.strip_suffix(".timer").or_else(|| name.strip_suffix(".socket")) {
                    of.insert(format!("{unit}.service"));
                }
            }
            (None, _) => {}
        }
    }
    let (mut reached, mut todo) = (BTreeSet::new(), ROOTS.map(str::to_owned).to_vec());
    while let Some(unit) = todo.pop() {
        todo.extend(starts.get(&*unit).into_iter().flatten().cloned());
        reached.insert(unit.clone());
        todo.retain(|unit| !reached.contains(unit));
    }
    let units = tree.iter().filter_map(|(path, node)| match node {
        Node::File { .. } | Node::Link { .. } => path.strip_prefix(DIR),
        _ => None,
    });
    let kinds = [".service", ".target", ".socket", ".timer", ".mount", ".path"];
    let units = units.filter(|name| !name.contains('/') && kinds.iter().any(|kind| name.ends_with(kind)));
    units.filter(|name| !reached.contains(*name)).map(|name| format!("nothing starts {DIR}{name}")).collect()
}

/// What a unit's file starts.
fn settings(node: &Node) -> Vec<String> {
    let Node::File { content, .. } = node else { return Vec::new() };
    let bytes = match content {
        Content::Bytes(bytes) => bytes.clone(),
        // A built image is read from its archive.
        Content::Host(_) => return Vec::new(),
    };
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let pairs = text.lines().filter_map(|line| line.split_once('=')).filter(|(key, _)| STARTS.contains(key));
    pairs.flat_map(|(_, units)| units.split_whitespace()).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_started_and_what_is_not() {
        let mut tree = Tree::default();
        for (name, text) in [
            ("multi-user.target", "[Unit]\nRequires=basic.target\nAfter=idle.target\n"),
            ("basic.target", ""),
            ("sysinit.target", ""),
            ("idle.target", ""),
            ("a.service", "[Unit]\nWants=b.service  c.service\n"),
            ("b.service", ""),
            ("c.service.d/x.conf", "[Unit]\nRequires=d.socket\n"),
            ("c.service", ""),
            ("d.socket", ""),
            ("d.service", ""),
            ("e.timer", "[Timer]\nUnit=f.service\n"),
            ("f.service", ""),
            ("shared.conf", ""),
        ] {
            tree.text(&format!("{DIR}{name}"), text).unwrap();
        }
        let mut link = |name: &str, target: &str| {
            tree.add(&format!("{DIR}{name}"), Node::Link { target: target.into() }).unwrap();
        };
        link("default.target", "multi-user.target");
        link("multi-user.target.wants/a.service", "../a.service");
        let unused =
            |tree: &Tree| unused(tree).iter().map(|w| w[w.rfind('/').unwrap() + 1..].to_owned()).collect::<Vec<_>>();
        assert_eq!(unused(&tree), ["e.timer", "f.service", "idle.target"]);
        tree.add(&format!("{DIR}basic.target.wants/e.timer"), Node::Link { target: "../e.timer".into() }).unwrap();
        assert_eq!(unused(&tree), ["idle.target"]);
    }
}
