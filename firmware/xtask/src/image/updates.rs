//! `cargo xtask image --check-updates`: which locked packages the mirror has in a newer version, and whether that is for security.

use super::packages::{self, Apt, Locked, Wanted};
use anyhow::{Context, Result};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

/// A version that the mirror has of a package.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Offered {
    version: String,
    /// It is in the suite of security updates.
    security: bool,
}

/// The lines of `apt-cache madison`: `name | version | URI SUITE/COMPONENT ARCH Packages`.
fn parse(text: &str) -> BTreeMap<String, Vec<Offered>> {
    let mut all: BTreeMap<String, Vec<Offered>> = BTreeMap::new();
    for line in text.lines() {
        let [name, version, from] = line.split('|').map(str::trim).collect::<Vec<_>>()[..] else { continue };
        let suite = from.split_whitespace().nth(1).unwrap_or_default();
        let security = suite.split('/').next().is_some_and(|suite| suite.ends_with("-security"));
        all.entry(name.to_owned()).or_default().push(Offered { version: version.to_owned(), security });
    }
    all
}

/// Whether the first version is older, as dpkg sees it.
fn older(one: &str, other: &str) -> Result<bool> {
    let status = Command::new("dpkg").args(["--compare-versions", one, "lt", other]).status();
    Ok(status.context("no dpkg")?.success())
}

/// The newest of what is newer than a version, and whether any of that is for security.
fn newer(version: &str, offered: &[Offered]) -> Result<Option<Offered>> {
    let mut found: Option<Offered> = None;
    for offer in offered {
        if !older(version, &offer.version)? {
            continue;
        }
        let before = found.take();
        let security = offer.security || before.as_ref().is_some_and(|b| b.security);
        let version = match before {
            Some(before) if !older(&before.version, &offer.version)? => before.version,
            _ => offer.version.clone(),
        };
        found = Some(Offered { version, security });
    }
    Ok(found)
}

/// What there is to say about a lock, one line for each package with a newer version.
fn report(
    lock: &BTreeMap<String, Locked>,
    kernel: &str,
    offered: &BTreeMap<String, Vec<Offered>>,
) -> Result<Vec<String>> {
    let mut lines = Vec::new();
    for old in lock.values() {
        // Another kernel is another package.
        let name = if old.is_kernel() { kernel } else { &old.name };
        let Some(new) = newer(&old.version, offered.get(name).map_or(&[], |o| o))? else { continue };
        let kind = if new.security { "security" } else { "newer" };
        lines.push(format!("{kind:<9} {} {} -> {} {}", old.name, old.version, name, new.version));
    }
    lines.sort_by_key(|line| !line.starts_with("security"));
    Ok(lines)
}

/// Asks the mirror, and prints what it has.
pub(super) fn check(image: &Path, cache: &Path) -> Result<()> {
    let wanted = Wanted::parse(&fs::read_to_string(image.join("packages"))?)?;
    let lock = packages::parse_lock(&fs::read_to_string(image.join("packages.lock"))?)?;
    let apt = Apt::new(cache)?;
    apt.update()?;
    let kernel = apt.kernel(&wanted.kernel)?;
    let names: Vec<&str> = wanted.names.iter().map(|n| &**n).chain([&*kernel]).collect();
    let offered = apt.run("apt-cache", &[&["madison"], &names[..]].concat())?.context("apt-cache failed")?;
    let lines = report(&lock, &kernel, &parse(&offered))?;
    let security = lines.iter().filter(|line| line.starts_with("security")).count();
    lines.iter().for_each(|line| println!("{line}"));
    println!("{} of {} packages have newer versions, {security} of them for security", lines.len(), lock.len());
    if security > 0 {
        println!("cargo xtask image --update takes them; then run the tests and commit image/packages.lock");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const MADISON: &str = "      kmod |     34.2-2 | https://m.test/debian trixie/main amd64 Packages\n\
        \x20  openssl | 3.5.9-1~deb13u2 | https://m.test/s trixie-security/main amd64 Packages\n\
        \x20  openssl | 3.5.8-1 | https://m.test/debian trixie/main amd64 Packages\n\
        linux-image-6.12.120+deb13-amd64 | 6.12.120-1 | https://m.test/s trixie-security/main amd64 Packages\n\
        \x20   tzdata | 2027a-0+deb13u1 | https://m.test/debian trixie/main all Packages\n";

    fn locked(name: &str, version: &str) -> (String, Locked) {
        let text = |t: &str| t.to_owned();
        (text(name), Locked { name: text(name), version: text(version), arch: text("amd64"), sha256: text("0") })
    }

    #[test]
    fn what_is_newer() {
        let lock = BTreeMap::from([
            locked("kmod", "34.2-2"),
            locked("openssl", "3.5.9-1~deb13u1"),
            locked("linux-image-6.12.118+deb13-amd64", "6.12.118-1"),
            locked("tzdata", "2026f-0+deb13u1"),
        ]);
        let lines = report(&lock, "linux-image-6.12.120+deb13-amd64", &parse(MADISON)).unwrap();
        assert_eq!(
            lines,
            [
                "security  linux-image-6.12.118+deb13-amd64 6.12.118-1 -> linux-image-6.12.120+deb13-amd64 6.12.120-1",
                "security  openssl 3.5.9-1~deb13u1 -> openssl 3.5.9-1~deb13u2",
                "newer     tzdata 2026f-0+deb13u1 -> tzdata 2027a-0+deb13u1",
            ]
        );
    }

    #[test]
    fn a_security_update_that_a_later_version_contains() {
        let offered = |version: &str, security| Offered { version: version.into(), security };
        let all = [offered("3", false), offered("2", true), offered("1", false)];
        assert_eq!(newer("1", &all).unwrap(), Some(offered("3", true)));
        assert_eq!(newer("2", &all).unwrap(), Some(offered("3", false)));
        assert_eq!(newer("3", &all).unwrap(), None);
    }
}
