//! The image of one role: its own files behind those of all, then everything that is made of them.

use super::packages::Locked;
use super::sbom::Parts;
use super::tree::{Content, Node, Tree};
use super::{
    Base, Built, DISK_LEVEL, Keys, LOADER, Manifest, Options, ROLE_LEVEL, STUB, THREADS, archive, daemons, data, dir,
    disk, exposure, hash, inventory, os_release, packages, programs, programs_of, release, uki,
};
use crate::{customer, workdir};
use admin::update;
use anyhow::{Result, ensure};
use keys::site::Role;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::path::{Path, PathBuf};

/// The name of the set of keys in the menu of systemd-boot. One named `auto` would be enrolled without being asked for.
const KEY_SET: &str = "ffs";

/// The folder of an image while it is filled. What is there stays whole until the new one is: a VM may be reading it.
struct Out {
    dir: PathBuf,
    files: BTreeMap<String, Built>,
}

impl Out {
    fn put(&mut self, file: &str, bytes: &[u8]) -> Result<()> {
        let (path, partial) = (self.dir.join(file), self.dir.join(format!("{file}.partial")));
        fs::create_dir_all(path.parent().unwrap_or(&self.dir))?;
        fs::write(&partial, bytes)?;
        fs::rename(partial, path)?;
        self.files.insert(file.to_owned(), Built { size: u64::try_from(bytes.len())?, sha256: hash(bytes) });
        Ok(())
    }

    /// Takes a file that is there into the list.
    fn add(&mut self, file: &str) -> Result<()> {
        let path = self.dir.join(file);
        self.files.insert(file.to_owned(), Built { size: path.metadata()?.len(), sha256: customer::sha256(&path)? });
        Ok(())
    }
}

/// Builds it.
pub(super) fn build(
    role: Role,
    options: &Options,
    base: &Base,
    programs: &BTreeMap<&'static str, PathBuf>,
    keys: &Keys,
    cache: &Path,
) -> Result<()> {
    let variant = options.variant.as_ref();
    let version = variant.map_or(env!("CARGO_PKG_VERSION"), |v| &v.version);
    let name = role.as_str();
    let release = os_release(role, version);
    let mut tree = Tree::default();
    tree.overlay(&data().join("rootfs").join(name))?;
    tree.text("/usr/lib/os-release", &*release)?;
    for (_, program) in daemons(role) {
        let content = Content::Host(programs[program].clone());
        tree.add(&format!("/usr/bin/{program}"), Node::File { executable: true, content })?;
    }
    release::add_to(&mut tree, &keys.release)?;
    for (path, text) in variant.iter().flat_map(|v| &v.files) {
        tree.text(path, &**text)?;
    }
    let own = archive(&tree, ROLE_LEVEL, cache)?;
    let initrd = [fs::read(&base.archive)?, fs::read(own)?].concat();
    let kernel = fs::read(&base.kernel)?;
    let cmdline = fs::read_to_string(data().join("cmdline"))?.trim().to_owned();
    let unsigned = uki::build(
        &fs::read(&base.stub)?,
        &[
            (".osrel", release.as_bytes()),
            (".cmdline", cmdline.as_bytes()),
            (".uname", base.release.as_bytes()),
            (".linux", &kernel),
            (".initrd", &initrd),
        ],
    )?;
    let loader = fs::read(&base.loader)?;
    let efi = format!("{name}.efi");
    let before = BTreeMap::from([(efi.clone(), hash(&unsigned)), ("systemd-bootx64.efi".to_owned(), hash(&loader))]);
    let (uki, loader) = (keys.boot.program(&unsigned)?, keys.boot.program(&loader)?);

    let dir = variant.map_or_else(|| dir(role, options.debug), |v| v.dir(role));
    fs::create_dir_all(&dir)?;
    let mut out = Out { dir, files: BTreeMap::new() };
    out.put("vmlinuz", &kernel)?;
    out.put("initrd.zst", &initrd)?;
    out.put(&efi, &uki)?;
    let update = update::package::Manifest {
        role,
        version: version.parse()?,
        hardware: update::package::HARDWARE.into(),
        memory_mib: update::package::MEMORY_MIB,
        size: u64::try_from(uki.len())?,
        sha256: hash(&uki),
    };
    out.put(&format!("{name}.ffsup"), &keys.release.package(&update, &uki)?)?;
    let mut esp = vec![
        ("loader/loader.conf".to_owned(), fs::read(data().join("loader.conf"))?),
        ("EFI/BOOT/BOOTX64.EFI".to_owned(), loader.clone()),
        ("EFI/systemd/systemd-bootx64.efi".to_owned(), loader),
        (format!("EFI/Linux/{name}_{version}.efi"), uki),
    ];
    for (file, bytes) in keys.boot.variables()? {
        out.put(&format!("secure-boot/{file}"), &bytes)?;
        esp.push((format!("loader/keys/{KEY_SET}/{file}"), bytes));
    }
    out.put("secure-boot/certificate.der", keys.boot.certificate())?;
    let img = format!("{name}.img");
    disk::write(&out.dir.join(&img), &esp, name)?;
    out.add(&img)?;
    let mut all = base.tree.clone();
    all.extend(tree)?;
    if variant.is_none() {
        compress(&mut out, &img)?;
        describe(&mut out, role, version, base, &all)?;
    }
    let manifest = Manifest {
        role,
        version: version.to_owned(),
        debug: options.debug,
        kernel: base.release.clone(),
        cmdline,
        unpacked: all.size()?,
        files: out.files,
        unsigned: before,
        certificate: hash(keys.boot.certificate()),
        rustc: programs::rustc()?,
        contents: all.hashes()?,
        packages: base.packages.iter().map(|(p, _)| (p.name.clone(), p.version.clone())).collect(),
    };
    Ok(fs::write(out.dir.join("manifest.json"), serde_json::to_vec_pretty(&manifest)?)?)
}

/// `ROLE.img.zst`: the disk as it is handed on, with its size and a checksum in it.
fn compress(out: &mut Out, img: &str) -> Result<()> {
    let file = format!("{img}.zst");
    let partial = out.dir.join(format!("{file}.partial"));
    let mut from = File::open(out.dir.join(img))?;
    let mut encoder = zstd::Encoder::new(File::create(&partial)?, DISK_LEVEL)?;
    encoder.multithread(THREADS)?;
    encoder.include_checksum(true)?;
    encoder.set_pledged_src_size(Some(from.metadata()?.len()))?;
    std::io::copy(&mut from, &mut encoder)?;
    encoder.finish()?;
    fs::rename(partial, out.dir.join(&file))?;
    out.add(&file)
}

/// What of the packages is in an image, and what is beside it on the disk.
fn used(base: &Base, all: &Tree) -> Vec<(Locked, PathBuf)> {
    let paths = all.iter().map(|(path, _)| path).chain([STUB, LOADER]);
    let owners: BTreeSet<&str> = paths.filter_map(|path| base.index.owner(path)).collect();
    base.packages.iter().filter(|(p, _)| p.is_kernel() || owners.contains(&*p.name)).cloned().collect()
}

/// What says what the image is made of: `sbom.cdx.json`, `licenses.txt`, `contents.txt`.
fn describe(out: &mut Out, role: Role, version: &str, base: &Base, all: &Tree) -> Result<()> {
    let folders: Vec<PathBuf> = base.packages.iter().map(|(_, dir)| dir.clone()).collect();
    let parts = Parts::of(role, version, &used(base, all), &folders)?;
    let unknown = parts.unknown();
    ensure!(unknown.is_empty(), "nobody states the terms of {}", unknown.join(" "));
    out.put("sbom.cdx.json", &parts.sbom()?)?;
    out.put("licenses.txt", parts.licenses().as_bytes())?;
    let analyze = packages::folder(&data(), &workdir().join("cache"), "systemd")?.join("usr/bin/systemd-analyze");
    let ratings = exposure::ratings(all, &analyze, &programs_of(role))?;
    let title = format!("FFS {} {version}", role.as_str());
    let files: Vec<_> = out.files.iter().map(|(name, file)| (name.clone(), file.size)).collect();
    let mut text = inventory::text(&title, all, &base.reasons, &programs_of(role), &files)?;
    text.push_str(&exposure::text(&ratings));
    out.put("contents.txt", text.as_bytes())
}
