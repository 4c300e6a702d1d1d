//! What is in an image, and the archive that the kernel unpacks (cpio "newc", as in the kernel's initramfs documentation).

use anyhow::{Context, Result, bail};
use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};

/// The time of every file, seconds since 1970: 2026-01-01.
pub(crate) const TIME: u32 = 1_767_225_600;

/// A thing in an image; all belong to root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Node {
    /// A directory.
    Dir {
        /// Permissions.
        mode: u32,
    },
    /// A file.
    File {
        /// Whether it is a program.
        executable: bool,
        /// What is in it.
        content: Content,
    },
    /// A symbolic link.
    Link {
        /// Whither.
        target: String,
    },
    /// A character device.
    Device {
        /// Permissions.
        mode: u32,
        /// Driver.
        major: u32,
        /// Which of the driver's.
        minor: u32,
    },
}

/// What is in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Content {
    /// This.
    Bytes(Vec<u8>),
    /// The same as in this file of the host.
    Host(PathBuf),
}

/// The contents of an image by path; paths begin with a slash.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Tree(BTreeMap<String, Node>);

impl Content {
    /// The bytes.
    pub(crate) fn read(&self) -> Result<Vec<u8>> {
        match self {
            Self::Bytes(bytes) => Ok(bytes.clone()),
            Self::Host(path) => std::fs::read(path).with_context(|| format!("cannot read {}", path.display())),
        }
    }
}

impl Tree {
    /// Adds a node, and directories above it.
    pub(crate) fn add(&mut self, path: &str, node: Node) -> Result<()> {
        if !path.starts_with('/') || path.ends_with('/') || path.contains("//") || path.contains("/../") {
            bail!("{path:?} is no path in an image");
        }
        for (at, _) in path.match_indices('/').skip(1) {
            let above = self.0.entry(path[..at].to_owned()).or_insert(Node::Dir { mode: 0o755 });
            if !matches!(above, Node::Dir { .. }) {
                bail!("{} is no directory, so {path} cannot be in it", &path[..at]);
            }
        }
        match self.0.insert(path.to_owned(), node.clone()) {
            None | Some(Node::Dir { .. }) if matches!(node, Node::Dir { .. }) => Ok(()),
            None => Ok(()),
            Some(old) if old == node => Ok(()),
            Some(_) => bail!("{path} is in the image twice, in different ways"),
        }
    }

    /// Adds a file with this text.
    pub(crate) fn text(&mut self, path: &str, text: impl Into<Vec<u8>>) -> Result<()> {
        self.add(path, Node::File { executable: false, content: Content::Bytes(text.into()) })
    }

    /// Adds everything below a directory of the host; what is executable there is so here.
    pub(crate) fn overlay(&mut self, dir: &Path) -> Result<()> {
        use std::os::unix::fs::PermissionsExt;
        let mut todo = vec![dir.to_owned()];
        while let Some(next) = todo.pop() {
            for entry in std::fs::read_dir(&next).with_context(|| format!("cannot list {}", next.display()))? {
                let (path, kind) = entry.and_then(|e| Ok((e.path(), e.file_type()?)))?;
                let inside = path.strip_prefix(dir)?.to_str().context("a path is not UTF-8")?;
                let inside = format!("/{inside}");
                if kind.is_dir() {
                    todo.push(path);
                } else if kind.is_symlink() {
                    let target = std::fs::read_link(&path)?.to_str().context("a link is not UTF-8")?.to_owned();
                    self.add(&inside, Node::Link { target })?;
                } else {
                    let executable = path.metadata()?.permissions().mode() & 0o100 != 0;
                    self.add(&inside, Node::File { executable, content: Content::Host(path) })?;
                }
            }
        }
        Ok(())
    }

    /// Adds all of another tree.
    pub(crate) fn extend(&mut self, other: Self) -> Result<()> {
        other.0.into_iter().try_for_each(|(path, node)| self.add(&path, node))
    }

    /// All paths in order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &Node)> {
        self.0.iter().map(|(path, node)| (&**path, node))
    }

    /// What is at a path itself.
    pub(crate) fn get(&self, path: &str) -> Option<&Node> {
        self.0.get(path)
    }

    /// The path at which one ends that follows symbolic links, also those of directories.
    pub(crate) fn resolve(&self, path: &str) -> Option<String> {
        /// As the kernel: more links than this are a loop.
        const LINKS: usize = 40;
        let mut rest: Vec<String> = path.split('/').rev().filter(|p| !p.is_empty()).map(str::to_owned).collect();
        let (mut at, mut links) = (String::new(), 0);
        while let Some(part) = rest.pop() {
            match &*part {
                "." => continue,
                ".." => {
                    at.truncate(at.rfind('/').unwrap_or(0));
                    continue;
                }
                _ => {}
            }
            let next = format!("{at}/{part}");
            match self.0.get(&next)? {
                Node::Link { target } => {
                    links += 1;
                    if links > LINKS {
                        return None;
                    }
                    if target.starts_with('/') {
                        at.clear();
                    }
                    rest.extend(target.split('/').rev().filter(|p| !p.is_empty()).map(str::to_owned));
                }
                _ => at = next,
            }
        }
        Some(at)
    }

    /// The bytes of all files.
    pub(crate) fn size(&self) -> Result<u64> {
        let mut sum = 0;
        for node in self.0.values() {
            sum += match node {
                Node::File { content: Content::Bytes(bytes), .. } => u64::try_from(bytes.len())?,
                Node::File { content: Content::Host(path), .. } => path.metadata()?.len(),
                _ => 0,
            };
        }
        Ok(sum)
    }

    /// SHA-256 of each file by path, in hexadecimal; of links the hash of their target.
    pub(crate) fn hashes(&self) -> Result<BTreeMap<String, String>> {
        let mut hashes = BTreeMap::new();
        for (path, node) in &self.0 {
            let bytes = match node {
                Node::File { content, .. } => content.read()?,
                Node::Link { target } => target.clone().into_bytes(),
                Node::Dir { .. } | Node::Device { .. } => continue,
            };
            hashes.insert(path.clone(), super::hash(&bytes));
        }
        Ok(hashes)
    }

    /// Writes the archive; the same tree gives the same bytes.
    pub(crate) fn cpio(&self, out: &mut impl Write) -> Result<()> {
        let mut archive = Archive { out, number: 0 };
        // Without it the root directory would be writable for everybody.
        archive.entry(".", 0o040_755, (0, 0), &[])?;
        for (path, node) in &self.0 {
            let name = &path[1..];
            match node {
                Node::Dir { mode } => archive.entry(name, 0o040_000 | mode, (0, 0), &[])?,
                Node::File { executable, content } => {
                    let mode = if *executable { 0o100_755 } else { 0o100_644 };
                    archive.entry(name, mode, (0, 0), &content.read()?)?;
                }
                Node::Link { target } => archive.entry(name, 0o120_777, (0, 0), target.as_bytes())?,
                Node::Device { mode, major, minor } => {
                    archive.entry(name, 0o020_000 | mode, (*major, *minor), &[])?;
                }
            }
        }
        archive.number = 0;
        archive.entry("TRAILER!!!", 0, (0, 0), &[])
    }
}

struct Archive<'a, W> {
    out: &'a mut W,
    number: u32,
}

impl<W: Write> Archive<'_, W> {
    fn entry(&mut self, name: &str, mode: u32, device: (u32, u32), data: &[u8]) -> Result<()> {
        if name != "TRAILER!!!" {
            self.number += 1;
        }
        let time = if mode == 0 { 0 } else { TIME };
        let (size, name_size) = (u32::try_from(data.len())?, u32::try_from(name.len() + 1)?);
        // inode, mode, uid, gid, links, time, size, device of the file (2), of what it stands for (2), name, no checksum
        let fields = [self.number, mode, 0, 0, 1, time, size, 0, 0, device.0, device.1, name_size, 0];
        let mut header = String::from("070701");
        fields.iter().for_each(|field| header.push_str(&format!("{field:08x}")));
        header.push_str(name);
        header.push('\0');
        self.padded(header.as_bytes())?;
        self.padded(data)
    }

    fn padded(&mut self, bytes: &[u8]) -> Result<()> {
        self.out.write_all(bytes)?;
        Ok(self.out.write_all(&[0; 3][..bytes.len().next_multiple_of(4) - bytes.len()])?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree() -> Tree {
        let mut tree = Tree::default();
        tree.add("/usr/bin/x", Node::File { executable: true, content: Content::Bytes(b"abcde".to_vec()) }).unwrap();
        tree.add("/bin", Node::Link { target: "usr/bin".into() }).unwrap();
        tree.add("/loop", Node::Link { target: "loop".into() }).unwrap();
        tree.add("/up", Node::Link { target: "../bin/../bin/x".into() }).unwrap();
        tree.add("/dev/null", Node::Device { mode: 0o666, major: 1, minor: 3 }).unwrap();
        tree
    }

    #[test]
    fn links_are_followed() {
        let tree = tree();
        assert_eq!(tree.resolve("/bin/x").as_deref(), Some("/usr/bin/x"));
        assert_eq!(tree.resolve("/up").as_deref(), Some("/usr/bin/x"));
        assert_eq!(tree.resolve("/bin/y"), None);
        assert_eq!(tree.resolve("/loop"), None);
    }

    #[test]
    fn no_two_things_in_one_place() {
        let mut tree = tree();
        assert!(tree.text("/bin", "x").is_err());
        let mut tree = self::tree();
        assert!(tree.text("/usr/bin/x/y", "x").is_err() && tree.text("usr", "x").is_err());
        assert!(tree.text("/a/../b", "x").is_err());
        assert!(tree.add("/usr", Node::Dir { mode: 0o700 }).is_ok());
        tree.extend(self::tree()).unwrap();
    }

    #[test]
    fn the_archive_is_what_cpio_reads() {
        let mut bytes = Vec::new();
        tree().cpio(&mut bytes).unwrap();
        assert!(bytes.starts_with(b"070701") && bytes.len() % 4 == 0);
        let (mut at, mut names) = (0, Vec::new());
        loop {
            let field = |i: usize| {
                let hex = std::str::from_utf8(&bytes[at + 6 + 8 * i..at + 14 + 8 * i]).unwrap();
                usize::from_str_radix(hex, 16).unwrap()
            };
            let (mode, size, name) = (field(1), field(6), field(11));
            let text = std::str::from_utf8(&bytes[at + 110..at + 110 + name - 1]).unwrap();
            let data = (at + 110 + name).next_multiple_of(4);
            if text == "TRAILER!!!" {
                break;
            }
            names.push((text.to_owned(), mode));
            if text == "usr/bin/x" {
                assert_eq!(&bytes[data..data + size], b"abcde");
            }
            at = (data + size).next_multiple_of(4);
        }
        let modes: Vec<_> = names.iter().map(|(name, mode)| (&**name, *mode)).collect();
        assert_eq!(
            modes,
            [
                (".", 0o40755),
                ("bin", 0o120777),
                ("dev", 0o40755),
                ("dev/null", 0o20666),
                ("loop", 0o120777),
                ("up", 0o120777),
                ("usr", 0o40755),
                ("usr/bin", 0o40755),
                ("usr/bin/x", 0o100755)
            ]
        );
    }
}
