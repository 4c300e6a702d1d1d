//! What an image is made of, for people and scanners: `sbom.cdx.json` (CycloneDX 1.6) and `licenses.txt`.
//!
//! Debian packages count when a file of theirs is in the image, crates when they are linked into one of its daemons.

mod crates;
mod debian;

use super::packages::Locked;
use super::{daemons, hash};
use crate::root;
use admin::gpt::Guid;
use anyhow::{Context, Result};
use cargo_metadata::MetadataCommand;
use crates::Crates;
use keys::site::Role;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// The platform of the images.
const TARGET: &str = "x86_64-unknown-linux-gnu";

/// Something that was made elsewhere.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Part {
    /// As Package URL, by which scanners know it.
    purl: String,
    name: String,
    version: String,
    /// SHA-256 of the package.
    sha256: Option<String>,
    /// Terms as SPDX expression.
    expression: Option<String>,
    /// Terms that are no SPDX expression, one by one.
    terms: BTreeSet<String>,
    /// Purls of what it is made with.
    needs: BTreeSet<String>,
    /// Texts of its terms.
    texts: Vec<String>,
}

/// The parts of a role's image.
pub(super) struct Parts {
    role: Role,
    version: String,
    /// By purl.
    parts: BTreeMap<String, Part>,
    /// The daemons, and what they are linked of.
    daemons: BTreeMap<&'static str, BTreeSet<String>>,
    /// What is in the image as its package has it.
    packages: BTreeSet<String>,
}

impl Parts {
    /// Of these packages, each with its folder, and the daemons of a role.
    pub(super) fn of(role: Role, version: &str, packages: &[(Locked, PathBuf)], all: &[PathBuf]) -> Result<Self> {
        let crates = Crates::of(&root())?;
        let mut out = Self {
            role,
            version: version.to_owned(),
            parts: BTreeMap::new(),
            daemons: BTreeMap::new(),
            packages: BTreeSet::new(),
        };
        for (package, dir) in packages {
            let part = debian::part(package, dir, all)?;
            out.packages.insert(part.purl.clone());
            out.parts.insert(part.purl.clone(), part);
        }
        for (package, program) in daemons(role) {
            let (needs, parts) = crates.linked(package)?;
            out.daemons.insert(program, needs);
            out.parts.extend(parts.into_iter().map(|part| (part.purl.clone(), part)));
        }
        Ok(out)
    }

    /// The document of CycloneDX. The same parts give the same bytes: its number is a hash, and it has no time.
    pub(super) fn sbom(&self) -> Result<Vec<u8>> {
        let (role, version) = (self.role.as_str(), &*self.version);
        let me = format!("ffs:{role}@{version}");
        let own = |name: &str| format!("ffs:{name}@{version}");
        let mut components: Vec<Value> = self
            .daemons
            .keys()
            .map(|name| {
                json!({
                    "bom-ref": own(name), "type": "application", "name": name, "version": version,
                    "licenses": [{"expression": env!("CARGO_PKG_LICENSE")}],
                })
            })
            .collect();
        components.extend(self.parts.values().map(Part::component));
        let top = self.packages.iter().cloned().chain(self.daemons.keys().map(|name| own(name)));
        let mut dependencies = vec![json!({"ref": &me, "dependsOn": top.collect::<Vec<_>>()})];
        dependencies.extend(self.daemons.iter().map(|(name, needs)| json!({"ref": own(name), "dependsOn": needs})));
        dependencies.extend(self.parts.values().map(|part| json!({"ref": part.purl, "dependsOn": part.needs})));
        let number = u128::from_str_radix(&hash(&serde_json::to_vec(&(&components, &dependencies))?)[..32], 16)?;
        // A UUID of one's own making (RFC 9562, version 8).
        let number = Guid(number & !(0xf << 76) & !(0x3 << 62) | 0x8 << 76 | 0x2 << 62);
        let document = json!({
            "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
            "bomFormat": "CycloneDX",
            "specVersion": "1.6",
            "serialNumber": format!("urn:uuid:{number}"),
            "version": 1,
            "metadata": {"component": {
                "bom-ref": me, "type": "firmware", "name": format!("ffs-{role}"), "version": version,
                "licenses": [{"expression": env!("CARGO_PKG_LICENSE")}],
            }},
            "components": components,
            "dependencies": dependencies,
        });
        Ok(serde_json::to_vec_pretty(&document)?)
    }

    /// Everything with its terms, then their texts, each once.
    pub(super) fn licenses(&self) -> String {
        let mut out = format!(
            "What the FFS {} image {} is made of, and under which terms. FFS itself: {}.\n\n",
            self.role.as_str(),
            self.version,
            env!("CARGO_PKG_LICENSE")
        );
        let mut texts: BTreeMap<&str, Vec<String>> = BTreeMap::new();
        for part in self.parts.values() {
            let name = format!("{} {}", part.name, part.version);
            out.push_str(&format!("{name}: {}\n", part.license()));
            for text in &part.texts {
                texts.entry(text).or_default().push(name.clone());
            }
        }
        let mut texts: Vec<_> = texts.into_iter().map(|(text, of)| (of, text)).collect();
        texts.sort();
        for (of, text) in texts {
            out.push_str(&format!("\n\n{}\n{}\n\n{}\n", "=".repeat(100), of.join(", "), text.trim_end()));
        }
        out
    }

    /// Parts whose terms nobody states.
    pub(super) fn unknown(&self) -> Vec<&str> {
        self.parts.values().filter(|part| part.license().is_empty()).map(|part| &*part.purl).collect()
    }
}

impl Part {
    /// Its terms in one line.
    fn license(&self) -> String {
        match &self.expression {
            Some(expression) => expression.clone(),
            None => self.terms.iter().cloned().collect::<Vec<_>>().join("; "),
        }
    }

    fn component(&self) -> Value {
        let mut component = json!({
            "bom-ref": self.purl, "type": "library", "name": self.name, "version": self.version, "purl": self.purl,
        });
        if let Some(expression) = &self.expression {
            component["licenses"] = json!([{"expression": expression}]);
        } else if !self.terms.is_empty() {
            component["licenses"] = self.terms.iter().map(|term| json!({"license": debian::license(term)})).collect();
        }
        if let Some(sha256) = &self.sha256 {
            component["hashes"] = json!([{"alg": "SHA-256", "content": sha256}]);
        }
        component
    }
}

/// What stands in a Package URL.
fn quoted(text: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~".contains(&b);
    text.bytes().map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

/// A text that may have been written in Latin-1.
fn text(path: &Path) -> Result<String> {
    let bytes = std::fs::read(path).with_context(|| path.display().to_string())?;
    Ok(String::from_utf8(bytes).unwrap_or_else(|e| e.into_bytes().into_iter().map(char::from).collect()))
}

#[cfg(test)]
mod tests;
