//! Debian packages, and what `/usr/share/doc/PACKAGE/copyright` says about them (DEP 5, where it is machine-readable).

use super::super::packages::Locked;
use super::super::sources::RELEASE;
use super::{Part, quoted, text};
use anyhow::{Context, Result};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Debian's short names whose SPDX names are others.
const SPDX: [(&str, &str); 20] = [
    ("Apache-2.0", "Apache-2.0"),
    ("BSD-2-clause", "BSD-2-Clause"),
    ("BSD-3-clause", "BSD-3-Clause"),
    ("BSL-1.0", "BSL-1.0"),
    ("CC0-1.0", "CC0-1.0"),
    ("Expat", "MIT"),
    ("GPL-2", "GPL-2.0-only"),
    ("GPL-2+", "GPL-2.0-or-later"),
    ("GPL-3", "GPL-3.0-only"),
    ("GPL-3+", "GPL-3.0-or-later"),
    ("ISC", "ISC"),
    ("LGPL-2", "LGPL-2.0-only"),
    ("LGPL-2+", "LGPL-2.0-or-later"),
    ("LGPL-2.1", "LGPL-2.1-only"),
    ("LGPL-2.1+", "LGPL-2.1-or-later"),
    ("LGPL-3", "LGPL-3.0-only"),
    ("LGPL-3+", "LGPL-3.0-or-later"),
    ("MIT", "MIT"),
    ("Zlib", "Zlib"),
    ("zlib", "Zlib"),
];

/// How CycloneDX names terms: by SPDX's identifier where they have one.
pub(super) fn license(term: &str) -> Value {
    match SPDX.iter().find(|(debian, _)| *debian == term) {
        Some((_, id)) => json!({"id": id}),
        None => json!({"name": term}),
    }
}

/// The terms that a copyright file names for files; nothing when it is for people only.
fn terms(copyright: &str) -> BTreeSet<String> {
    let mut terms = BTreeSet::new();
    if !copyright.starts_with("Format:") {
        return terms;
    }
    // Of files; stanzas that only have texts begin with the licence.
    for stanza in copyright.split("\n\n").filter(|s| s.lines().any(|line| line.starts_with("Files:"))) {
        let found = stanza.lines().find_map(|line| line.strip_prefix("License:"));
        terms.extend(found.map(|name| name.split_whitespace().collect::<Vec<_>>().join(" ")).filter(|n| !n.is_empty()));
    }
    terms
}

/// The copyright file of a package: its own, or that of the package whose documents it shares.
fn copyright(name: &str, dir: &Path, all: &[PathBuf]) -> Result<PathBuf> {
    let docs = Path::new("usr/share/doc");
    let owner = std::fs::read_link(dir.join(docs).join(name)).unwrap_or_else(|_| name.into());
    let mut found =
        std::iter::once(dir).chain(all.iter().map(|d| &**d)).map(|d| d.join(docs).join(&owner).join("copyright"));
    let path = found.find(|path| path.is_file());
    path.with_context(|| format!("{name} has no copyright file; is {} in image/packages?", owner.display()))
}

/// What is known about a package that is unpacked in `dir`; the other packages are in the folders `all`.
pub(super) fn part(package: &Locked, dir: &Path, all: &[PathBuf]) -> Result<Part> {
    let copyright = text(&copyright(&package.name, dir, all)?)?;
    let mut terms = terms(&copyright);
    if terms.is_empty() {
        terms.insert("see the copyright file of the package".into());
    }
    let (name, version) = (quoted(&package.name), quoted(&package.version));
    Ok(Part {
        purl: format!("pkg:deb/debian/{name}@{version}?arch={}&distro={RELEASE}", package.arch),
        name: package.name.clone(),
        version: package.version.clone(),
        sha256: Some(package.sha256.clone()),
        expression: None,
        terms,
        needs: BTreeSet::new(),
        texts: vec![copyright],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terms_of_files() {
        let text = "Format: x\nUpstream-Name: x\nLicense: top\n\nFiles: *\nCopyright: me\nLicense: GPL-2+\n text\n\n\
            Files: a b\nLicense:  LGPL-2.1+  or Expat\n\nFiles: c\nLicense: GPL-2+\n\nLicense: Expat\n Permission\n";
        assert_eq!(terms(text).into_iter().collect::<Vec<_>>(), ["GPL-2+", "LGPL-2.1+ or Expat"]);
        assert!(terms("This package was debianized by\nLicense: GPL\n\nFiles: x\nLicense: y\n").is_empty());
        assert_eq!(license("GPL-2+"), json!({"id": "GPL-2.0-or-later"}));
        assert_eq!(license("LGPL-2.1+ or Expat"), json!({"name": "LGPL-2.1+ or Expat"}));
    }

    #[test]
    fn documents_may_be_those_of_another_package() {
        let home = tempfile::tempdir().unwrap();
        let (lib, base) = (home.path().join("lib"), home.path().join("base"));
        for dir in [lib.join("usr/share/doc"), base.join("usr/share/doc/base")] {
            std::fs::create_dir_all(dir).unwrap();
        }
        std::os::unix::fs::symlink("base", lib.join("usr/share/doc/lib")).unwrap();
        assert!(copyright("lib", &lib, &[lib.clone(), base.clone()]).is_err());
        let path = base.join("usr/share/doc/base/copyright");
        std::fs::write(&path, "x").unwrap();
        assert_eq!(copyright("lib", &lib, &[lib.clone(), base]).unwrap(), path);
    }
}
