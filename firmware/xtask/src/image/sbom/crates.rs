//! The crates that daemons are linked of, as cargo resolves them.

use super::{BTreeMap, BTreeSet, Context, MetadataCommand, Part, Path, Result, TARGET, quoted, text};
use cargo_metadata::{DependencyKind, Metadata, PackageId};

/// Names of files with terms, in capitals, with whatever follows.
const TEXTS: [&str; 6] = ["COPYING", "COPYRIGHT", "LICENCE", "LICENSE", "NOTICE", "UNLICENSE"];

/// What cargo knows about the workspace.
pub(super) struct Crates {
    metadata: Metadata,
    /// The packages that each needs when it runs.
    needs: BTreeMap<PackageId, Vec<PackageId>>,
    /// SHA-256 by name and version.
    hashes: BTreeMap<(String, String), String>,
}

impl Crates {
    /// Of the work tree.
    pub(super) fn of(root: &Path) -> Result<Self> {
        let mut command = MetadataCommand::new();
        command.manifest_path(root.join("Cargo.toml")).current_dir(root);
        command.other_options(["--locked", "--filter-platform", TARGET].map(str::to_owned));
        let metadata = command.exec().context("cargo metadata failed")?;
        let resolve = metadata.resolve.as_ref().context("cargo resolved nothing")?;
        // What only runs in the compiler is in no program.
        let macros = |id: &PackageId| metadata[id].targets.iter().any(cargo_metadata::Target::is_proc_macro);
        let normal = |dep: &&cargo_metadata::NodeDep| {
            dep.dep_kinds.iter().any(|k| k.kind == DependencyKind::Normal) && !macros(&dep.pkg)
        };
        let needs = resolve.nodes.iter().map(|node| {
            (node.id.clone(), node.deps.iter().filter(normal).map(|dep| dep.pkg.clone()).collect::<Vec<_>>())
        });
        let needs = needs.collect();
        let lock: toml::Table = std::fs::read_to_string(root.join("Cargo.lock"))?.parse()?;
        let field = |package: &toml::Value, name: &str| package.get(name).and_then(|v| v.as_str()).map(str::to_owned);
        let packages = lock.get("package").and_then(|p| p.as_array()).context("Cargo.lock has no packages")?;
        let hashes = packages
            .iter()
            .filter_map(|p| Some(((field(p, "name")?, field(p, "version")?), field(p, "checksum")?)))
            .collect();
        Ok(Self { metadata, needs, hashes })
    }

    /// The crates of others that a package of ours is linked of: the purls of those that it or another of ours names, and all.
    pub(super) fn linked(&self, name: &str) -> Result<(BTreeSet<String>, Vec<Part>)> {
        let ours = self.metadata.workspace_packages();
        let package = ours.iter().find(|p| p.name == name).with_context(|| format!("there is no package {name}"))?;
        let ours: BTreeSet<_> = ours.iter().map(|p| &p.id).collect();
        let (mut direct, mut parts) = (BTreeSet::new(), Vec::new());
        let (mut seen, mut todo) = (BTreeSet::from([&package.id]), vec![&package.id]);
        while let Some(id) = todo.pop() {
            let needs = self.needs.get(id).with_context(|| format!("cargo did not resolve {id}"))?;
            if ours.contains(id) {
                direct.extend(needs.iter().filter(|n| !ours.contains(n)).map(|n| self.purl(n)));
            } else {
                parts.push(self.part(id, needs)?);
            }
            todo.extend(needs.iter().filter(|id| seen.insert(id)));
        }
        Ok((direct, parts))
    }

    fn purl(&self, id: &PackageId) -> String {
        let package = &self.metadata[id];
        format!("pkg:cargo/{}@{}", quoted(&package.name), quoted(&package.version.to_string()))
    }

    fn part(&self, id: &PackageId, needs: &[PackageId]) -> Result<Part> {
        let package = &self.metadata[id];
        let (name, version) = (package.name.to_string(), package.version.to_string());
        let mut texts = Vec::new();
        let dir = package.manifest_path.parent().context("a crate has no folder")?;
        let mut files: Vec<_> = std::fs::read_dir(dir)?.collect::<Result<_, _>>()?;
        files.sort_by_key(std::fs::DirEntry::file_name);
        for file in files {
            let upper = file.file_name().to_string_lossy().to_ascii_uppercase();
            if file.file_type()?.is_file() && TEXTS.iter().any(|t| upper.starts_with(t)) {
                texts.push(text(&file.path())?);
            }
        }
        Ok(Part {
            purl: self.purl(id),
            sha256: self.hashes.get(&(name.clone(), version.clone())).cloned(),
            expression: package.license.as_ref().map(|text| text.replace('/', " OR ").replace("  ", " ")),
            terms: BTreeSet::new(),
            needs: needs.iter().map(|id| self.purl(id)).collect(),
            texts,
            name,
            version,
        })
    }
}
