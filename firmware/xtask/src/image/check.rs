//! What an image must and must not hold, checked on the built archive, not on what it was meant to be.

use super::modules::{self, is_module, normal};
use super::tree::{Content, Node, Tree};
use super::whitelist::libraries;
use anyhow::{Context, Result, ensure};
use memchr::memmem;
use std::collections::BTreeSet;

/// Most bytes of all files together: unpacked they take memory for good, and must fit half of the smallest machine's.
pub(crate) const UNPACKED: u64 = 80 << 20;
/// Most bytes of a UKI.
pub(crate) const UKI: u64 = 48 << 20;

/// Programs that run what somebody else wrote, or let somebody in.
const INTERPRETERS: [&str; 22] = [
    "agetty", "ash", "awk", "bash", "busybox", "csh", "dash", "gawk", "getty", "ksh", "login", "lua", "mawk", "perl",
    "python", "sed", "sh", "ssh", "sshd", "sulogin", "tclsh", "zsh",
];
/// Names of what belongs to a site.
const SITE: [&str; 6] = [".bag", ".key", "grant.secret", "grant.public", "site.toml", "tls.pem"];
/// Links that end in what exists only on a machine that runs.
const LATER: [&str; 3] = ["/etc/mtab", "/var/lib", "/var/log/journal"];

/// Reads an archive that the kernel would unpack: one or more cpio archives, one after the other.
pub(crate) fn parse(bytes: &[u8]) -> Result<(Tree, Vec<String>)> {
    let (mut tree, mut problems, mut at) = (Tree::default(), Vec::new(), 0);
    while at < bytes.len() {
        let header = bytes.get(at..at + 110).context("the archive is cut off")?;
        ensure!(header.starts_with(b"070701"), "no archive at {at}");
        let field = |i: usize| -> Result<u32> {
            Ok(u32::from_str_radix(std::str::from_utf8(&header[6 + 8 * i..14 + 8 * i])?, 16)?)
        };
        let (mode, uid, gid) = (field(1)?, field(2)?, field(3)?);
        let (size, name_size) = (usize::try_from(field(6)?)?, usize::try_from(field(11)?)?);
        let name = bytes.get(at + 110..at + 109 + name_size).context("the archive is cut off")?;
        let name = std::str::from_utf8(name)?;
        let data = (at + 110 + name_size).next_multiple_of(4);
        let content = bytes.get(data..data + size).context("the archive is cut off")?;
        at = (data + size).next_multiple_of(4);
        if name == "TRAILER!!!" {
            continue;
        }
        let path = format!("/{name}");
        if (uid, gid) != (0, 0) {
            problems.push(format!("{path} is not root's"));
        }
        let permissions = mode & 0o7777;
        let node = match mode & 0o170_000 {
            0o040_000 => Node::Dir { mode: permissions },
            0o120_000 => Node::Link { target: std::str::from_utf8(content)?.to_owned() },
            0o020_000 => Node::Device { mode: permissions, major: field(9)?, minor: field(10)? },
            _ => Node::File { executable: permissions & 0o100 != 0, content: Content::Bytes(content.to_vec()) },
        };
        let allowed: &[u32] = match &node {
            Node::File { .. } => &[0o644, 0o755],
            Node::Dir { .. } if ["/tmp", "/var/tmp"].contains(&&*path) => &[0o1777],
            Node::Dir { .. } => &[0o755, 0o700],
            Node::Link { .. } => &[0o777],
            Node::Device { .. } => &[0o600, 0o666],
        };
        if !allowed.contains(&permissions) {
            problems.push(format!("{path} has the mode {permissions:o}"));
        }
        if path != "/." {
            tree.add(&path, node)?;
        }
    }
    Ok((tree, problems))
}

/// Everything that is wrong with the contents of an image. `wanted` are the lines of `image/modules`.
pub(crate) fn contents(tree: &Tree, wanted: &[String], debug: bool) -> Result<Vec<String>> {
    let mut wrong = Vec::new();
    let size = tree.size()?;
    if size > UNPACKED {
        wrong.push(format!("{} MiB unpacked, more than {}", size >> 20, UNPACKED >> 20));
    }
    for (path, node) in tree.iter() {
        let name = path.rsplit('/').next().unwrap_or(path);
        if SITE.iter().any(|of| name.ends_with(of)) {
            wrong.push(format!("{path} is named like a part of a site"));
        }
        if !debug && INTERPRETERS.iter().any(|i| name == *i || name.strip_prefix(i).is_some_and(is_version)) {
            wrong.push(format!("{path} is an interpreter or a way in"));
        }
        match node {
            Node::Link { .. } if !LATER.contains(&path) && tree.resolve(path).is_none() => {
                wrong.push(format!("{path} leads nowhere"));
            }
            Node::File { content: Content::Bytes(bytes), .. } => file(tree, path, bytes, debug, &mut wrong)?,
            _ => {}
        }
    }
    if ["/run/", "/state/", "/srv/ffs/"].iter().any(|dir| tree.iter().any(|(path, _)| path.starts_with(dir))) {
        wrong.push("/run, /state and /srv/ffs are not empty".into());
    }
    wrong.extend(kernel(tree, wanted)?);
    Ok(wrong)
}

/// What follows the name of an interpreter in that of one of its versions.
fn is_version(rest: &str) -> bool {
    rest.starts_with(|c: char| c.is_ascii_digit()) && rest.chars().all(|c| c.is_ascii_digit() || c == '.')
}

fn file(tree: &Tree, path: &str, bytes: &[u8], debug: bool, wrong: &mut Vec<String>) -> Result<()> {
    if bytes.starts_with(b"#!") && !debug {
        wrong.push(format!("{path} is a script"));
    }
    // Programs hold the frame of a PEM file, but no key in it.
    if memmem::find(bytes, b"PRIVATE KEY-----\nM").is_some() {
        wrong.push(format!("{path} holds a private key"));
    }
    if is_module(path) {
        if !modules::unpack(bytes).with_context(|| path.to_owned())?.ends_with(b"~Module signature appended~\n") {
            wrong.push(format!("{path} is not signed"));
        }
        return Ok(());
    }
    let dirs = ["/usr/lib/x86_64-linux-gnu", "/usr/lib/x86_64-linux-gnu/systemd", "/usr/lib64"];
    for name in libraries(bytes).with_context(|| path.to_owned())? {
        if !dirs.iter().any(|dir| tree.get(&format!("{dir}/{name}")).is_some()) {
            wrong.push(format!("{path} needs {name}, which is not there"));
        }
    }
    if path.contains("/systemd/system/") {
        let text = String::from_utf8_lossy(bytes);
        wrong.extend(unit(tree, &text).into_iter().map(|what| format!("{path}: {what}")));
    }
    Ok(())
}

/// What a unit names that is not there.
fn unit(tree: &Tree, text: &str) -> Vec<String> {
    let users = match tree.get("/etc/passwd") {
        Some(Node::File { content: Content::Bytes(bytes), .. }) => String::from_utf8_lossy(bytes).into_owned(),
        _ => String::new(),
    };
    let mut wrong = Vec::new();
    for line in text.lines() {
        let Some((key, value)) = line.split_once('=') else { continue };
        match key {
            "ExecStart" | "ExecStartPre" | "ExecStartPost" | "ExecReload" | "ExecStop" => {
                let bare = value.trim_start_matches(['-', '+', '!', '@', ':']);
                let program = bare.split_whitespace().next().unwrap_or_default();
                // systemd itself looks up names without a slash.
                let found = if program.contains('/') {
                    vec![program.to_owned()]
                } else {
                    ["/usr/bin", "/usr/sbin"].map(|dir| format!("{dir}/{program}")).into()
                };
                if !value.is_empty() && !value.starts_with('-') && !found.iter().any(|f| tree.resolve(f).is_some()) {
                    wrong.push(format!("{program} is not there"));
                }
            }
            "User" if !users.lines().any(|user| user.split(':').next() == Some(value)) => {
                wrong.push(format!("there is no user {value}"));
            }
            _ => {}
        }
    }
    wrong
}

/// Modules of the list and firmware of the modules that are not there.
fn kernel(tree: &Tree, wanted: &[String]) -> Result<Vec<String>> {
    let (mut names, mut wrong) = (BTreeSet::new(), Vec::new());
    for (path, node) in tree.iter() {
        let Node::File { content: Content::Bytes(bytes), .. } = node else { continue };
        if is_module(path) {
            names.insert(normal(path));
            for name in modules::firmware(&modules::unpack(bytes)?)? {
                if tree.resolve(&format!("/usr/lib/firmware/{name}")).is_none() {
                    wrong.push(format!("{path} needs the firmware {name}, which is not there"));
                }
            }
        } else if path.ends_with("/modules.builtin.modinfo") {
            let pairs = bytes.split(|b| *b == 0).filter_map(|pair| std::str::from_utf8(pair).ok()?.split_once('.'));
            names.extend(pairs.map(|(name, _)| normal(name)));
        }
    }
    wrong.extend(wanted.iter().filter(|n| !names.contains(*n)).map(|n| format!("the module {n} is not there")));
    Ok(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(files: &[(&str, &str)]) -> Tree {
        let mut tree = Tree::default();
        for (path, text) in files {
            tree.text(path, *text).unwrap();
        }
        tree
    }

    fn wrong(files: &[(&str, &str)]) -> Vec<String> {
        contents(&tree(files), &[], false).unwrap()
    }

    #[test]
    fn what_must_not_be_there() {
        assert!(wrong(&[("/usr/bin/true", "x")]).is_empty());
        for bad in [
            ("/usr/bin/bash", "x"),
            ("/usr/bin/python3.13", "x"),
            ("/usr/bin/tool", "#!/bin/sh\n"),
            ("/etc/x", "-----BEGIN PRIVATE KEY-----\nMIGH"),
            ("/etc/web-database.bag", "x"),
            ("/state/site/machine", "x"),
            ("/usr/lib/modules/1/x.ko.zst", "no module"),
        ] {
            assert!(contents(&tree(&[bad]), &[], false).is_err() || !wrong(&[bad]).is_empty(), "{bad:?}");
        }
        let module = |text: &[u8]| {
            let mut wrong = Vec::new();
            let packed = zstd::bulk::compress(text, 1).unwrap();
            file(&tree(&[]), "/usr/lib/modules/1/x.ko.zst", &packed, false, &mut wrong).unwrap();
            wrong.len()
        };
        assert_eq!((module(b"unsigned"), module(b"code~Module signature appended~\n")), (1, 0));
        assert!(contents(&tree(&[("/usr/bin/bash", "x")]), &[], true).unwrap().is_empty());
        assert!(wrong(&[("/usr/bin/shutdown", "x"), ("/usr/lib/libssh.so", "x")]).is_empty());
    }

    #[test]
    fn what_must_be_there() {
        let passwd = ("/etc/passwd", "root:x:0:0::/:/\nd:x:5:5::/:/\n");
        let unit = |text| wrong(&[passwd, ("/usr/bin/d", "x"), ("/usr/lib/systemd/system/d.service", text)]);
        assert!(unit("ExecStart=/usr/bin/d --x\nUser=d\n").is_empty());
        assert!(unit("ExecStart=-/usr/bin/absent\nExecStart=\n").is_empty());
        assert_eq!(unit("ExecStart=!/usr/bin/absent\nUser=e\n").len(), 2);
        assert_eq!(contents(&tree(&[]), &["nvme".into()], false).unwrap().len(), 1);
        let builtin = ("/usr/lib/modules/1/modules.builtin.modinfo", "nvme.license=GPL\0sd-mod.x=y\0");
        assert!(contents(&tree(&[builtin]), &["nvme".into(), "sd_mod".into()], false).unwrap().is_empty());
        let mut links = tree(&[]);
        links.add("/bin", Node::Link { target: "usr/bin".into() }).unwrap();
        assert_eq!(contents(&links, &[], false).unwrap().len(), 1);
    }

    #[test]
    fn archives_are_read_back() {
        let (one, two) = (tree(&[("/usr/a", "1")]), tree(&[("/usr/b", "22")]));
        let mut bytes = Vec::new();
        one.cpio(&mut bytes).unwrap();
        two.cpio(&mut bytes).unwrap();
        let (read, problems) = parse(&bytes).unwrap();
        assert!(problems.is_empty(), "{problems:?}");
        let mut both = one;
        both.extend(two).unwrap();
        assert_eq!(read, both);
        assert!(parse(&bytes[..bytes.len() - 1]).is_err() && parse(b"070702").is_err());
        let mut setuid = tree(&[]);
        setuid.add("/x", Node::Dir { mode: 0o4755 }).unwrap();
        let mut bytes = Vec::new();
        setuid.cpio(&mut bytes).unwrap();
        assert_eq!(parse(&bytes).unwrap().1, ["/x has the mode 4755"]);
    }
}
