//! How much each service of ours could do if it were taken over, as `systemd-analyze security` rates it: 0 is nothing, 10 everything.
//!
//! The tool is that of the image, run with the image's own libraries, so that the host's systemd does not matter.

use super::tree::{Node, Tree};
use anyhow::{Context, Result, bail};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

/// Most that a service may be rated at.
const MOST: f64 = 2.0;
/// Those with more, each for the reason that its unit or a drop-in gives: a session locks itself in; admind works with disks and
/// mounts for all others, and so do the steps of the start that it is called for.
const EXCEPTIONS: [(&str, f64); 7] = [
    ("admind.service", 4.0),
    ("ffs-health.service", 4.0),
    ("ffs-readonly.service", 4.0),
    ("ffs-state.service", 4.0),
    ("ffs-storage-change.service", 4.0),
    ("ffs-storage.service", 4.0),
    ("ftpd.service", 2.5),
];
/// What systemd-analyze reads of a system.
const READ: [&str; 2] = ["/etc/", "/usr/lib/systemd/"];
/// What it is linked with.
const LIBRARIES: [&str; 2] = ["usr/lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu/systemd"];

/// Writes the part of the tree that systemd-analyze needs into a folder.
fn unpack(tree: &Tree, dir: &Path) -> Result<()> {
    let wanted =
        |path: &str| READ.iter().any(|r| path.starts_with(r)) || path.contains(".so") || !path[1..].contains('/');
    for (path, node) in tree.iter().filter(|(path, _)| wanted(path)) {
        let to = dir.join(&path[1..]);
        fs::create_dir_all(to.parent().context("a path without a folder")?)?;
        match node {
            Node::File { content, executable } => {
                fs::write(&to, content.read()?)?;
                fs::set_permissions(&to, fs::Permissions::from_mode(if *executable { 0o755 } else { 0o644 }))?;
            }
            Node::Link { target } => std::os::unix::fs::symlink(target, &to)?,
            Node::Dir { .. } | Node::Device { .. } => {}
        }
    }
    Ok(())
}

/// The services of ours.
fn services(tree: &Tree, ours: &[&str]) -> Vec<String> {
    let units = tree.iter().filter_map(|(path, _)| path.strip_prefix("/usr/lib/systemd/system/"));
    let stems = units.filter_map(|unit| unit.strip_suffix(".service").filter(|s| !s.contains('/')));
    stems.filter(|stem| ours.contains(stem) || stem.starts_with("ffs-")).map(|stem| format!("{stem}.service")).collect()
}

/// Most that a service may be rated at.
fn most(service: &str) -> f64 {
    EXCEPTIONS.iter().find(|(name, _)| *name == service).map_or(MOST, |(_, most)| *most)
}

/// The rating in what systemd-analyze prints.
fn rating(said: &str) -> Result<f64> {
    let line = said.lines().find(|line| line.contains("Overall exposure level")).context("it gives no rating")?;
    let number =
        line.split(':').nth(1).and_then(|rest| rest.split_whitespace().next()).context("it gives no rating")?;
    number.parse().context("its rating is no number")
}

/// Each service of ours with its rating.
pub(super) fn ratings(tree: &Tree, analyze: &Path, ours: &[&str]) -> Result<Vec<(String, f64)>> {
    let dir = tempfile::tempdir()?;
    unpack(tree, dir.path())?;
    let loader = dir.path().join("usr/lib64/ld-linux-x86-64.so.2");
    fs::set_permissions(&loader, fs::Permissions::from_mode(0o755)).context("the image has no loader")?;
    let libraries = LIBRARIES.map(|lib| dir.path().join(lib).display().to_string()).join(":");
    let rate = |service: String| {
        let mut command = Command::new(&loader);
        command.args(["--library-path", &libraries]).arg(analyze).args(["security", "--offline=true", "--no-pager"]);
        let output =
            command.arg(format!("--root={}", dir.path().display())).arg(&service).env("LC_ALL", "C").output()?;
        let said = String::from_utf8_lossy(&output.stdout);
        let rating = rating(&said).with_context(|| {
            format!("systemd-analyze security {service}: {}", String::from_utf8_lossy(&output.stderr).trim())
        })?;
        Ok((service, rating))
    };
    let services = services(tree, ours);
    if services.is_empty() {
        bail!("there is no service of ours");
    }
    services.into_iter().map(rate).collect()
}

/// Services that are rated too high.
pub(super) fn check(ratings: &[(String, f64)]) -> Vec<String> {
    let high = ratings.iter().filter(|(service, rating)| *rating > most(service));
    high.map(|(s, rating)| format!("{s}: systemd-analyze security rates it at {rating:.1}, more than {:.1}", most(s)))
        .collect()
}

/// The table of ratings.
pub(super) fn text(ratings: &[(String, f64)]) -> String {
    let rows = ratings.iter().map(|(service, rating)| format!("{rating:>6.1} of {:.1}  {service}\n", most(service)));
    format!(
        "\nHow exposed our services are (systemd-analyze security, 10 is everything)\n\n{}",
        rows.collect::<String>()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratings_are_read() {
        let said = "  NAME DESCRIPTION EXPOSURE\n→ Overall exposure level for x.service: 1.4 OK :-)\n";
        assert!((rating(said).unwrap() - 1.4).abs() < 1e-9);
        assert!(rating("nothing").is_err() && rating("Overall exposure level for x: much").is_err());
    }

    #[test]
    fn each_has_its_bound() {
        let rated = |name: &str, rating| check(&[(name.to_owned(), rating)]).len();
        for (name, most) in [("stagerd.service", 2.0), ("ftpd.service", 2.5), ("admind.service", 4.0)] {
            assert_eq!((rated(name, most), rated(name, most + 0.1)), (0, 1), "{name}");
        }
    }

    #[test]
    fn what_is_ours() {
        let mut tree = Tree::default();
        for name in ["ftpd", "ffs-setup", "systemd-journald", "ftpd.service.d/x"] {
            tree.text(&format!("/usr/lib/systemd/system/{name}.service"), "").unwrap();
        }
        assert_eq!(services(&tree, &["ftpd"]), ["ffs-setup.service", "ftpd.service"]);
    }
}
