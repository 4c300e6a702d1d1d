//! `image/whitelist`: what an image takes from the packages, and the libraries that those programs need.

use super::modules::is_module;
use super::packages::Unpacked;
use super::tree::{Content, Node, Tree};
use anyhow::{Context, Result, bail};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Where libraries are, in the order in which the image's loader would look.
const LIBRARIES: [&str; 4] =
    ["/usr/lib/x86_64-linux-gnu", "/usr/lib/x86_64-linux-gnu/systemd", "/usr/lib64", "/usr/lib"];

/// A line of the whitelist.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Entry {
    File(String),
    Library(String),
    Other(String, Node),
}

/// The whitelist.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Whitelist(Vec<(bool, Entry)>);

impl Whitelist {
    /// Reads it.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        let entry = |line: &str| -> Result<(bool, Entry)> {
            let mut words: Vec<&str> = line.split_whitespace().collect();
            let debug = words.first() == Some(&"debug");
            if debug {
                words.remove(0);
            }
            let octal = |text: &str| u32::from_str_radix(text, 8);
            let entry = match words[..] {
                ["file", path] => Entry::File(path.into()),
                ["lib", name] => Entry::Library(name.into()),
                ["link", path, target] => Entry::Other(path.into(), Node::Link { target: target.into() }),
                ["dir", mode, path] => Entry::Other(path.into(), Node::Dir { mode: octal(mode)? }),
                ["node", mode, major, minor, path] => Entry::Other(
                    path.into(),
                    Node::Device { mode: octal(mode)?, major: major.parse()?, minor: minor.parse()? },
                ),
                _ => bail!("unknown"),
            };
            Ok((debug, entry))
        };
        lines
            .map(|line| entry(line).with_context(|| format!("image/whitelist: {line:?}")))
            .collect::<Result<_>>()
            .map(Self)
    }

    /// The tree of it.
    pub(crate) fn tree(&self, index: &Index, debug: bool) -> Result<Tree> {
        let mut tree = Tree::default();
        for (_, entry) in self.0.iter().filter(|(only_debug, _)| debug || !only_debug) {
            match entry {
                Entry::File(path) => tree.add(path, index.node(path)?)?,
                Entry::Library(name) => index.add_library(&mut tree, name, "image/whitelist")?,
                Entry::Other(path, node) => tree.add(path, node.clone())?,
            }
        }
        Ok(tree)
    }
}

/// All files of all packages.
#[derive(Debug, Default)]
pub(crate) struct Index(BTreeMap<String, (PathBuf, String)>);

impl Index {
    /// Of these unpacked packages.
    pub(crate) fn new(packages: &Unpacked) -> Result<Self> {
        let mut index = Self::default();
        for (package, dir) in packages {
            let mut todo = vec![dir.clone()];
            while let Some(next) = todo.pop() {
                for entry in std::fs::read_dir(&next)? {
                    let entry = entry?;
                    let path = entry.path();
                    if entry.file_type()?.is_dir() {
                        todo.push(path);
                    } else if let Some(inside) = path.strip_prefix(dir)?.to_str() {
                        index.0.insert(format!("/{inside}"), (path, package.name.clone()));
                    }
                }
            }
        }
        Ok(index)
    }

    /// The file of the host behind a path.
    pub(crate) fn host(&self, path: &str) -> Option<&Path> {
        self.0.get(path).map(|(host, _)| &**host)
    }

    /// The package that a path is of.
    pub(crate) fn owner(&self, path: &str) -> Option<&str> {
        self.0.get(path).map(|(_, package)| &**package)
    }

    /// The path at which a link of the packages ends.
    fn follow(&self, path: &str) -> Option<String> {
        let mut at = path.to_owned();
        for _ in 0..8 {
            let (host, _) = self.0.get(&at)?;
            let Ok(target) = std::fs::read_link(host) else { return Some(at) };
            let target = target.to_str()?;
            let joined = if target.starts_with('/') { target.to_owned() } else { format!("{}/../{target}", at) };
            let mut parts: Vec<&str> = Vec::new();
            for part in joined.split('/') {
                match part {
                    "" | "." => {}
                    ".." => {
                        parts.pop();
                    }
                    part => parts.push(part),
                }
            }
            at = format!("/{}", parts.join("/"));
        }
        None
    }

    /// The content behind a path, links followed.
    pub(crate) fn content(&self, path: &str) -> Option<Content> {
        self.host(&self.follow(path)?).map(|host| Content::Host(host.to_owned()))
    }

    fn node(&self, path: &str) -> Result<Node> {
        use std::os::unix::fs::PermissionsExt;
        let host = self.host(path).with_context(|| format!("no package of image/packages has {path}"))?;
        let meta = host.symlink_metadata()?;
        if meta.is_symlink() {
            let target = std::fs::read_link(host)?.to_str().context("a link is not UTF-8")?.to_owned();
            return Ok(Node::Link { target });
        }
        // setuid and the like do not come along.
        Ok(Node::File { executable: meta.permissions().mode() & 0o100 != 0, content: Content::Host(host.to_owned()) })
    }

    fn add_library(&self, tree: &mut Tree, name: &str, who: &str) -> Result<()> {
        let dirs = if name.starts_with("ld-linux") { &LIBRARIES[2..3] } else { &LIBRARIES[..] };
        for dir in dirs {
            let path = format!("{dir}/{name}");
            if let Some(content) = self.content(&path) {
                let executable = name.starts_with("ld-linux");
                return tree.add(&path, Node::File { executable, content });
            }
        }
        bail!("no package of image/packages has {name}, which {who} needs");
    }

    /// Adds the libraries that the programs in the tree need, and those that these need.
    pub(crate) fn close(&self, tree: &mut Tree) -> Result<()> {
        let mut done = BTreeSet::new();
        loop {
            let mut needed = BTreeMap::new();
            for (path, node) in tree.iter() {
                let Node::File { content, .. } = node else { continue };
                if !path.starts_with("/usr/") || is_module(path) || !done.insert(path.to_owned()) {
                    continue;
                }
                for name in libraries(&content.read()?).with_context(|| path.to_owned())? {
                    needed.insert(name, path.to_owned());
                }
            }
            if needed.is_empty() {
                return Ok(());
            }
            for (name, who) in needed {
                self.add_library(tree, &name, &who)?;
            }
        }
    }
}

/// What an ELF file needs; nothing for other files.
pub(crate) fn libraries(bytes: &[u8]) -> Result<Vec<String>> {
    if !bytes.starts_with(b"\x7fELF") {
        return Ok(Vec::new());
    }
    let elf = goblin::elf::Elf::parse(bytes)?;
    let mut names: Vec<String> = elf.libraries.iter().map(|name| (*name).to_owned()).collect();
    if let Some(loader) = elf.interpreter.and_then(|path| path.rsplit('/').next()) {
        names.push(loader.to_owned());
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines() {
        let text = "# c\n\nfile /usr/bin/x\ndebug file /usr/bin/sh\nlib libx.so.1\nlink /bin usr/bin\ndir 1777 /tmp\nnode 0600 5 1 /dev/console\n";
        let list = Whitelist::parse(text).unwrap();
        assert_eq!(list.0.len(), 6);
        assert_eq!(list.0[1], (true, Entry::File("/usr/bin/sh".into())));
        assert_eq!(list.0[4].1, Entry::Other("/tmp".into(), Node::Dir { mode: 0o1777 }));
        for bad in ["file", "file a b", "dir 9 /x", "dir /x", "what /x", "debug"] {
            assert!(Whitelist::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn this_program_needs_libc() {
        let me = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        let names = libraries(&me).unwrap();
        assert!(names.contains(&"libc.so.6".into()) && names.iter().any(|n| n.starts_with("ld-linux")), "{names:?}");
        assert!(libraries(b"#!/bin/sh").unwrap().is_empty() && libraries(b"\x7fELF").is_err());
    }

    #[test]
    fn links_of_packages() {
        let home = tempfile::tempdir().unwrap();
        let lib = home.path().join("usr/lib/x86_64-linux-gnu");
        std::fs::create_dir_all(&lib).unwrap();
        std::fs::write(lib.join("libx.so.1.2"), "x").unwrap();
        std::os::unix::fs::symlink("libx.so.1.2", lib.join("libx.so.1")).unwrap();
        std::os::unix::fs::symlink("/usr/lib/x86_64-linux-gnu/libx.so.1", home.path().join("usr/lib/abs")).unwrap();
        let package = super::super::packages::Locked {
            name: "libx".into(),
            version: "1".into(),
            arch: "amd64".into(),
            sha256: String::new(),
        };
        let index = Index::new(&vec![(package, home.path().to_owned())]).unwrap();
        assert_eq!(index.content("/usr/lib/abs").unwrap().read().unwrap(), b"x");
        let mut tree = Tree::default();
        index.add_library(&mut tree, "libx.so.1", "test").unwrap();
        assert!(matches!(tree.get("/usr/lib/x86_64-linux-gnu/libx.so.1"), Some(Node::File { executable: false, .. })));
        assert!(index.add_library(&mut tree, "liby.so.1", "test").is_err());
    }
}
