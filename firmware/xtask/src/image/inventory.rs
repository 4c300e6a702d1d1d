//! What is in an image and why: `contents.txt`, and what it must not have too much of.

use super::modules;
use super::tree::{Node, Tree};
use super::units;
use super::whitelist;
use anyhow::{Context, Result};
use std::collections::BTreeMap;
use std::fmt::Write;

/// Most programs and libraries in an image: what is not there needs no update.
pub(super) const MOST: usize = 120;
/// Most bytes of what takes the most, by the names of [`place`].
const BUDGETS: [(&str, u64); 4] = [
    ("programs and libraries of Debian", 32 << 20),
    ("our daemons", 32 << 20),
    ("kernel modules", 16 << 20),
    ("firmware of devices", 8 << 20),
];

/// Why programs are there, and libraries that only are opened at run time: `image/reasons`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Reasons(BTreeMap<String, String>);

impl Reasons {
    /// Reads the file: a path or the name of a library, then why.
    pub(super) fn parse(text: &str) -> Result<Self> {
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        let split = |line: &str| {
            let (path, why) =
                line.split_once(' ').with_context(|| format!("image/reasons: {line:?} gives no reason"))?;
            Ok((path.to_owned(), why.trim().to_owned()))
        };
        lines.map(split).collect::<Result<_>>().map(Self)
    }

    /// What there is a reason for.
    #[cfg(test)]
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(|name| &**name)
    }
}

/// A program or a library.
struct Part {
    path: String,
    size: usize,
    /// The libraries that it is linked with.
    needs: Vec<String>,
}

fn base(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

/// All programs and libraries; modules belong to the kernel.
fn parts(tree: &Tree) -> Result<Vec<Part>> {
    let mut parts = Vec::new();
    for (path, node) in tree.iter() {
        let Node::File { content, .. } = node else { continue };
        let bytes = if path.starts_with("/usr/lib/firmware/") || modules::is_module(path) {
            continue;
        } else {
            content.read()?
        };
        if bytes.starts_with(b"\x7fELF") {
            let needs = whitelist::libraries(&bytes).with_context(|| path.to_owned())?;
            parts.push(Part { path: path.to_owned(), size: bytes.len(), needs });
        }
    }
    Ok(parts)
}

/// Each with the reason why it is there; `Err` for those without.
fn reasons<'a>(parts: &'a [Part], reasons: &Reasons) -> Vec<(&'a Part, Result<String, String>)> {
    let mut users: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for part in parts {
        for need in &part.needs {
            users.entry(need).or_default().push(base(&part.path));
        }
    }
    let why = |part: &Part| {
        let name = base(&part.path);
        if let Some(why) = reasons.0.get(&part.path).or_else(|| reasons.0.get(name)) {
            return Ok(why.clone());
        }
        match users.get(name).map(|users| &users[..]) {
            None => Err(format!("{} is there without a reason: image/reasons does not know it", part.path)),
            Some(users) if users.len() > 4 => {
                Ok(format!("{} and {} others are linked with it", users[..3].join(", "), users.len() - 3))
            }
            Some(users) => Ok(format!("linked with {}", users.join(", "))),
        }
    };
    parts.iter().map(|part| (part, why(part))).collect()
}

/// What a file counts as in the table of space.
fn place(path: &str, elf: bool, ours: &[&str]) -> &'static str {
    if modules::is_module(path) {
        "kernel modules"
    } else if path.starts_with("/usr/lib/modules/") {
        "index of the modules"
    } else if path.starts_with("/usr/lib/firmware/") {
        "firmware of devices"
    } else if elf && ours.contains(&base(path)) {
        "our daemons"
    } else if elf {
        "programs and libraries of Debian"
    } else if path.starts_with("/usr/lib/systemd/") || path.starts_with("/usr/lib/udev/") {
        "units and rules"
    } else {
        "settings and everything else"
    }
}

/// Files and bytes by what they are.
type Space = BTreeMap<&'static str, (usize, u64)>;

fn space(tree: &Tree, ours: &[&str]) -> Result<Space> {
    let mut space = Space::new();
    for (path, node) in tree.iter() {
        let Node::File { content, .. } = node else { continue };
        let bytes = content.read()?;
        let sum = space.entry(place(path, bytes.starts_with(b"\x7fELF"), ours)).or_default();
        *sum = (sum.0 + 1, sum.1 + u64::try_from(bytes.len())?);
    }
    Ok(space)
}

/// What is wrong with what is there; `ours` are the daemons.
pub(super) fn check(tree: &Tree, why: &Reasons, ours: &[&str]) -> Result<Vec<String>> {
    let parts = parts(tree)?;
    let mut wrong: Vec<String> = reasons(&parts, why).into_iter().filter_map(|(_, why)| why.err()).collect();
    if parts.len() > MOST {
        wrong.push(format!("{} programs and libraries, more than {MOST}", parts.len()));
    }
    wrong.extend(too_large(&space(tree, ours)?));
    wrong.extend(units::unused(tree)?);
    Ok(wrong)
}

/// What takes more than its budget.
fn too_large(space: &Space) -> Vec<String> {
    let bytes = |what: &str| space.get(what).map_or(0, |(_, bytes)| *bytes);
    let large = BUDGETS.iter().filter(|(what, most)| bytes(what) > *most);
    large
        .map(|(what, most)| format!("{what} take {} KiB, more than {}", bytes(what).div_ceil(1024), most >> 10))
        .collect()
}

/// The text of `contents.txt`; `files` are those beside it, with their bytes.
pub(super) fn text(title: &str, tree: &Tree, why: &Reasons, ours: &[&str], files: &[(String, u64)]) -> Result<String> {
    let mut out = format!("{title}: what is in it, and why. Made by `cargo xtask image`.\n\n");
    writeln!(out, "Files of the image\n")?;
    for (name, bytes) in files {
        writeln!(out, "{:>10} KiB  {name}", bytes >> 10)?;
    }
    writeln!(out, "\nWhat takes the space in memory, unpacked\n")?;
    let mut space: Vec<_> = space(tree, ours)?.into_iter().collect();
    space.sort_by_key(|(_, (_, bytes))| std::cmp::Reverse(*bytes));
    for (what, (count, bytes)) in &space {
        let budget =
            BUDGETS.iter().find(|(of, _)| of == what).map_or(String::new(), |(_, b)| format!(", of {} KiB", b >> 10));
        writeln!(out, "{:>10} KiB  {what} ({count} files{budget})", bytes >> 10)?;
    }
    let parts = parts(tree)?;
    writeln!(out, "\nPrograms and libraries: {} of {MOST} at most\n", parts.len())?;
    for (part, why) in reasons(&parts, why) {
        writeln!(out, "{:>10} KiB  {}: {}", part.size.div_ceil(1024), part.path, why.unwrap_or_else(|e| e))?;
    }
    writeln!(out, "\nUnits, and what starts them\n")?;
    for (unit, by) in units::started(tree)? {
        writeln!(out, "  {unit}: {by}")?;
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::tree::Content;

    /// The test itself is a program that is linked with libraries.
    fn tree(copies: usize) -> (Tree, Vec<u8>) {
        let me = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        let mut tree = Tree::default();
        for n in 0..copies {
            let content = Content::Host(std::env::current_exe().unwrap());
            tree.add(&format!("/usr/bin/p{n}"), Node::File { executable: true, content }).unwrap();
        }
        (tree, me)
    }

    fn why(copies: usize) -> Reasons {
        let lines: String = (0..copies).map(|n| format!("/usr/bin/p{n}  is a test\n")).collect();
        Reasons::parse(&format!("# c\n\n{lines}")).unwrap()
    }

    #[test]
    fn everything_has_a_reason() {
        let (tree, _) = tree(2);
        let parts = parts(&tree).unwrap();
        let known = reasons(&parts, &why(2));
        assert!(known.iter().all(|(_, why)| why.as_deref() == Ok("is a test")));
        let without = reasons(&parts, &why(1));
        assert!(without[1].1.as_ref().unwrap_err().contains("/usr/bin/p1"));
        assert!(Reasons::parse("/usr/bin/x\n").is_err());
    }

    #[test]
    fn libraries_are_there_for_what_is_linked_with_them() {
        let part = |path: &str, needs: &[&str]| Part {
            path: path.into(),
            size: 1,
            needs: needs.iter().map(|n| (*n).to_owned()).collect(),
        };
        let parts =
            [part("/usr/lib/libx.so.1", &[]), part("/usr/bin/a", &["libx.so.1"]), part("/usr/lib/liby.so.1", &[])];
        let all = reasons(&parts, &Reasons::parse("/usr/bin/a does a\nliby.so.1 is opened by a\n").unwrap());
        let texts: Vec<_> = all.into_iter().map(|(_, why)| why.unwrap()).collect();
        assert_eq!(texts, ["linked with a", "does a", "is opened by a"]);
    }

    #[test]
    fn reasons_are_given_for_what_is_there() {
        let read = |name: &str| std::fs::read_to_string(crate::image::data().join(name)).unwrap();
        let whitelist = read("whitelist");
        let daemons: Vec<_> = keys::site::Role::ALL.into_iter().flat_map(crate::image::programs_of).collect();
        for name in Reasons::parse(&read("reasons")).unwrap().names() {
            let listed =
                [format!("file {name}"), format!("lib {name}")].iter().any(|line| whitelist.lines().any(|l| l == line));
            let ours = name.strip_prefix("/usr/bin/").is_some_and(|program| daemons.contains(&program));
            assert!(listed || ours, "image/reasons has {name}, which is in no image");
        }
    }

    #[test]
    fn not_too_much() {
        let count = |n: usize| {
            let parts: Vec<_> = (0..n).map(|n| format!("/usr/bin/p{n}")).collect();
            let mut tree = Tree::default();
            for path in &parts {
                // As small as a program gets: a header for 64 bits, and nothing that it says is there.
                let mut elf = vec![0; 64];
                elf[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
                elf[16..20].copy_from_slice(&[2, 0, 62, 0]);
                elf[52..54].copy_from_slice(&[64, 0]);
                tree.text(path, elf).unwrap();
            }
            check(&tree, &why(n), &[]).unwrap()
        };
        assert_eq!(count(MOST), [""; 0]);
        assert_eq!(count(MOST + 1).len(), 1);
    }

    #[test]
    fn what_takes_the_space() {
        let mut tree = Tree::default();
        tree.text("/usr/lib/modules/1/x.ko.zst", "123").unwrap();
        tree.text("/usr/lib/firmware/x", "12").unwrap();
        tree.text("/etc/x", "1").unwrap();
        let space = space(&tree, &[]).unwrap();
        assert_eq!((space["kernel modules"], space["firmware of devices"]), ((1, 3), (1, 2)));
        let text = text("T", &tree, &Reasons::parse("").unwrap(), &[], &[("T.efi".into(), 2048)]).unwrap();
        assert!(text.contains("2 KiB  T.efi") && text.contains("kernel modules (1 files, of 16384 KiB)"), "{text}");
        for (what, most) in BUDGETS {
            let taken = |bytes| too_large(&Space::from([(what, (1, bytes))])).len();
            assert_eq!((taken(most), taken(most + 1)), (0, 1), "{what}");
        }
    }
}
