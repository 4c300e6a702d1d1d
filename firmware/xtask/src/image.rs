//! The images of the roles: from locked Debian packages and our daemons to one file per role.
//!
//! ```text
//! image/packages, packages.lock, whitelist ─▶ base tree ┐
//! image/modules ─▶ modules, firmware ───────────────────┤─▶ cpio, zstd ┐
//! image/rootfs/common ──────────────────────────────────┘              ├─▶ initrd.zst ─▶ ROLE.efi ─▶ ROLE.img
//! image/rootfs/ROLE, the role's daemons ─▶ role tree ────▶ cpio, zstd ─┘
//! ```
//! The kernel unpacks one archive after the other, so that a change of our daemons leaves the large one as it is. What is made is
//! kept under `target/ffs/cache` by the hash of what it is made of.

mod check;
pub(crate) mod disk;
mod exposure;
mod inventory;
mod modules;
mod packages;
mod programs;
mod release;
mod role;
mod sbom;
mod secureboot;
mod sources;
mod tree;
mod uki;
mod units;
mod updates;
mod whitelist;

pub(crate) use packages::Locking;

use crate::host::{self, Tool};
use crate::interrupt;
use crate::{root, workdir};
use anyhow::{Context, Result, bail};
use inventory::Reasons;
use keys::site::Role;
use modules::Modules;
use packages::Unpacked;
use release::Signer;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::Instant;
use tree::Tree;
use whitelist::{Index, Whitelist};

/// Needed to build images.
pub const TOOLS: &[Tool] = &[
    Tool::new("apt-get", "apt"),
    Tool::new("depmod", "kmod"),
    Tool::new("dpkg-deb", "dpkg"),
    Tool::new("mcopy", "mtools"),
    Tool::new("mkfs.vfat", "dosfstools"),
    Tool::new("openssl", "openssl"),
    Tool::new("strip", "binutils"),
    Tool::new("xz", "xz-utils"),
];

/// How hard the base is compressed: once in a while, for good.
const BASE_LEVEL: i32 = 19;
/// How hard the role's part is compressed: at each change of a daemon.
const ROLE_LEVEL: i32 = 15;
/// Threads of the compressor. With one it makes another archive than with several, whose number does not matter.
const THREADS: u32 = 2;
/// How hard a disk image is compressed: most of it is compressed already, the rest is zeros.
const DISK_LEVEL: i32 = 3;

/// systemd's program that a UKI begins with.
const STUB: &str = "/usr/lib/systemd/boot/efi/linuxx64.efi.stub";
/// systemd-boot.
const LOADER: &str = "/usr/lib/systemd/boot/efi/systemd-bootx64.efi";

/// What is to be built, and how.
#[derive(Debug, Clone)]
pub(crate) struct Options {
    /// How much the lock of packages may change.
    pub(crate) locking: Locking,
    /// With a shell on the serial console and without the checks that forbid it.
    pub(crate) debug: bool,
    /// Only check what is built.
    pub(crate) check: bool,
    /// Another version than that of this tree.
    pub(crate) variant: Option<Variant>,
}

/// A system of another version, for tests of updates.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Variant {
    /// Its version.
    pub version: String,
    /// Files that it has beside those of every image: path and text.
    pub files: Vec<(String, String)>,
}

impl Variant {
    fn dir(&self, role: Role) -> PathBuf {
        workdir().join("images").join(format!("{}-{}", role.as_str(), self.version))
    }
}

/// What is known about a built image: `manifest.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// The role.
    pub role: Role,
    /// The version of the firmware.
    pub version: String,
    /// Whether it has a shell.
    pub debug: bool,
    /// The kernel's release.
    pub kernel: String,
    /// The kernel's command line.
    pub cmdline: String,
    /// Bytes of all files when unpacked.
    pub unpacked: u64,
    /// The files beside this one, by name.
    pub files: BTreeMap<String, Built>,
    /// SHA-256 of the programs that are signed for Secure Boot, as they were before: whoever builds the same gets these.
    pub unsigned: BTreeMap<String, String>,
    /// SHA-256 of the certificate (DER) of the key that signed them.
    pub certificate: String,
    /// The compiler of the daemons.
    pub rustc: String,
    /// What is in the image: SHA-256 of each file by path.
    pub contents: BTreeMap<String, String>,
    /// The Debian packages that it is made of: versions by name.
    pub packages: BTreeMap<String, String>,
}

/// A file of an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Built {
    /// Its bytes.
    pub size: u64,
    /// SHA-256 in hexadecimal.
    pub sha256: String,
}

/// Where the image of a role is.
pub fn dir(role: Role, debug: bool) -> PathBuf {
    let name = if debug { format!("{}-debug", role.as_str()) } else { role.as_str().to_owned() };
    workdir().join("images").join(name)
}

/// What is known about a built image.
///
/// # Errors
/// When it is not built.
pub fn manifest(role: Role, debug: bool) -> Result<Manifest> {
    let path = dir(role, debug).join("manifest.json");
    let text = fs::read(&path).with_context(|| format!("{} is not there: cargo xtask image", path.display()))?;
    Ok(serde_json::from_slice(&text)?)
}

/// The daemons of a role: package and program.
pub(crate) fn daemons(role: Role) -> &'static [(&'static str, &'static str)] {
    match role {
        Role::Download => &[("admin", "admind"), ("commlink", "commlinkd"), ("ftpd", "ftpd"), ("stager", "stagerd")],
        Role::Web => &[("admin", "admind"), ("commlink", "commlinkd"), ("portal", "portald")],
        Role::Database => &[("admin", "admind"), ("commlink", "commlinkd"), ("masterdb", "masterd")],
    }
}

/// The programs of a role's daemons.
fn programs_of(role: Role) -> Vec<&'static str> {
    daemons(role).iter().map(|(_, program)| *program).collect()
}

/// SHA-256 in hexadecimal.
pub(crate) fn hash(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

/// The modules that `image/modules` of a work tree names.
pub(crate) fn wanted_modules(image: &Path) -> Result<Vec<String>> {
    Ok(modules::parse(&fs::read_to_string(image.join("modules"))?))
}

/// The kernel's version that the lock of a work tree has, without that of Debian's package.
pub(crate) fn locked_kernel(image: &Path) -> Result<String> {
    let lock = packages::parse_lock(&fs::read_to_string(image.join("packages.lock"))?)?;
    let kernel = lock.into_values().find(packages::Locked::is_kernel).context("image/packages.lock has no kernel")?;
    Ok(kernel.version.rsplit_once('-').map_or(&*kernel.version, |(upstream, _)| upstream).to_owned())
}

/// Packages beside those of the images, of the same release and mirrors: version and folder of each by name. Which versions were
/// taken is kept in this folder.
pub(crate) fn unpacked(kept: &Path, names: &[&str]) -> Result<BTreeMap<String, (String, PathBuf)>> {
    host::require(TOOLS)?;
    let cache = workdir().join("cache");
    for dir in [kept, &cache] {
        fs::create_dir_all(dir)?;
    }
    let lock = File::create(cache.join("lock"))?;
    lock.lock()?;
    fs::write(kept.join("packages"), format!("kernel linux-image-amd64\n{}\n", names.join("\n")))?;
    let packages = packages::provide(kept, &cache, Locking::Follow)?;
    Ok(packages.into_iter().map(|(package, dir)| (package.name, (package.version, dir))).collect())
}

/// Builds the images of all roles in their present state, as others need them.
///
/// # Errors
/// When they cannot be built, with what to do.
pub fn build_all() -> Result<()> {
    image(&Role::ALL, &Options { locking: Locking::Follow, debug: false, check: false, variant: None })
}

/// Builds a variant of a role's system; where it is.
///
/// # Errors
/// When it cannot be built.
pub fn build_variant(role: Role, variant: Variant) -> Result<PathBuf> {
    let dir = variant.dir(role);
    let wanted = modules::parse(&fs::read_to_string(data().join("modules"))?);
    build(&[role], &Options { locking: Locking::Follow, debug: false, check: false, variant: Some(variant) }, &wanted)?;
    Ok(dir)
}

/// The names of the files with which systemd-boot enrols keys.
const KEY_FILES: [&str; 3] = ["PK.auth", "KEK.auth", "db.auth"];

/// Has systemd-boot enrol the keys of an image by itself, at the next start of a disk that was flashed with it. Only in a VM it
/// does so; on a machine somebody must choose it.
///
/// # Errors
/// When the image is not built, or the disk has no ESP.
pub fn enrol(image: &Path, disk: &Path) -> Result<()> {
    let files = KEY_FILES.into_iter().map(|name| Ok((name, fs::read(image.join("secure-boot").join(name))?)));
    disk::write_esp(disk, "loader/keys/auto", &files.collect::<Result<Vec<_>>>()?)
}

/// Changes a UKI on the ESP of a disk that does not run.
///
/// # Errors
/// When it is not there.
pub fn alter_uki(disk: &Path, name: &str, change: impl FnOnce(&mut Vec<u8>)) -> Result<()> {
    let mut bytes = disk::read_esp(disk, &format!("EFI/Linux/{name}"))?;
    change(&mut bytes);
    disk::write_esp(disk, "EFI/Linux", &[(name, bytes)])
}

/// `image`.
pub(crate) fn image(roles: &[Role], options: &Options) -> Result<()> {
    let wanted = wanted_modules(&data())?;
    if !options.check {
        build(roles, options, &wanted)?;
    }
    let mut wrong = Vec::new();
    for role in roles {
        let found = checked(*role, options.debug, &wanted)?;
        wrong.extend(found.into_iter().map(|what| format!("{}: {what}", role.as_str())));
    }
    if wrong.is_empty() {
        return Ok(());
    }
    bail!("not as images must be:\n  {}", wrong.join("\n  "))
}

/// `image --check-updates`.
pub(crate) fn check_updates() -> Result<()> {
    host::require(TOOLS)?;
    let cache = workdir().join("cache");
    fs::create_dir_all(&cache)?;
    let lock = File::create(cache.join("lock"))?;
    lock.lock()?;
    updates::check(&data(), &cache)
}

/// `image/` of the work tree.
fn data() -> PathBuf {
    root().join("image")
}

/// Why what is in the images is there.
fn reasons() -> Result<Reasons> {
    Reasons::parse(&fs::read_to_string(data().join("reasons"))?)
}

fn step<T>(what: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    interrupt::check()?;
    let begin = Instant::now();
    let done = work()?;
    eprintln!("{:>8.1} s  {what}", begin.elapsed().as_secs_f64());
    Ok(done)
}

/// What is the same for all roles.
struct Base {
    archive: PathBuf,
    tree: Tree,
    kernel: PathBuf,
    release: String,
    stub: PathBuf,
    loader: PathBuf,
    packages: Unpacked,
    index: Index,
    reasons: Reasons,
}

/// The keys with which is signed what is built.
struct Keys {
    release: Signer,
    boot: secureboot::Key,
}

fn build(roles: &[Role], options: &Options, wanted: &[String]) -> Result<()> {
    host::require(TOOLS)?;
    let cache = workdir().join("cache");
    fs::create_dir_all(&cache)?;
    // Two builds at once would pull the files from under each other.
    let lock = File::create(cache.join("lock"))?;
    lock.lock()?;
    let packages = step("packages", || packages::provide(&data(), &cache, options.locking))?;
    let base = base(packages, options, wanted, &cache)?;
    let programs = step("programs", || programs::build(&cache))?;
    let keys = Keys { release: Signer::open()?, boot: secureboot::Key::open()? };
    for role in roles {
        step(&format!("image {}", role.as_str()), || role::build(*role, options, &base, &programs, &keys, &cache))?;
    }
    Ok(())
}

fn base(packages: Unpacked, options: &Options, wanted: &[String], cache: &Path) -> Result<Base> {
    let index = Index::new(&packages)?;
    let (kernel_package, kernel_dir) =
        packages.iter().find(|(p, _)| p.is_kernel()).context("image/packages.lock has no kernel")?;
    let modules = step("modules", || Modules::provide(wanted, kernel_dir, &kernel_package.sha256, cache))?;
    let whitelist = Whitelist::parse(&fs::read_to_string(data().join("whitelist"))?)?;
    let mut tree = whitelist.tree(&index, options.debug)?;
    index.close(&mut tree)?;
    modules.add_to(&mut tree, &index)?;
    tree.overlay(&data().join("rootfs/common"))?;
    if options.debug {
        tree.overlay(&data().join("rootfs/debug"))?;
    }
    let archive = step("base archive", || archive(&tree, BASE_LEVEL, cache))?;
    let needed = |path: &str| {
        index.host(path).map(Path::to_owned).with_context(|| format!("no package of image/packages has {path}"))
    };
    Ok(Base {
        archive,
        tree,
        kernel: modules::kernel(kernel_dir)?,
        release: modules.release,
        stub: needed(STUB)?,
        loader: needed(LOADER)?,
        reasons: reasons()?,
        packages,
        index,
    })
}

/// The compressed archive of a tree, from the cache if it is there.
fn archive(tree: &Tree, level: i32, cache: &Path) -> Result<PathBuf> {
    let mut bytes = Vec::new();
    tree.cpio(&mut bytes)?;
    let dir = cache.join("archives");
    fs::create_dir_all(&dir)?;
    let path = dir.join(format!("{}-{level}.zst", hash(&bytes)));
    if !path.exists() {
        let mut encoder = zstd::Encoder::new(Vec::new(), level)?;
        encoder.multithread(THREADS)?;
        std::io::copy(&mut &*bytes, &mut encoder)?;
        let partial = path.with_extension("partial");
        fs::write(&partial, encoder.finish()?)?;
        fs::rename(partial, &path)?;
    }
    Ok(path)
}

/// os-release(5) of a role's image; systemd-boot names and sorts entries by it.
pub(crate) fn os_release(role: Role, version: &str) -> String {
    let role = role.as_str();
    format!(
        "ID=ffs\nID_LIKE=debian\nNAME=FFS\nPRETTY_NAME=\"FFS {role} {version}\"\nVERSION_ID={version}\nIMAGE_ID=ffs-{role}\n\
         IMAGE_VERSION={version}\nVARIANT_ID={role}\n"
    )
}

/// Checks a built image, and prints its sizes.
fn checked(role: Role, debug: bool, wanted: &[String]) -> Result<Vec<String>> {
    let (dir, manifest) = (dir(role, debug), manifest(role, debug)?);
    let archive = zstd::decode_all(File::open(dir.join("initrd.zst"))?)?;
    let (tree, mut wrong) = check::parse(&archive)?;
    wrong.extend(check::contents(&tree, wanted, debug)?);
    if !debug {
        wrong.extend(inventory::check(&tree, &reasons()?, &programs_of(role))?);
        let analyze = packages::folder(&data(), &workdir().join("cache"), "systemd")?.join("usr/bin/systemd-analyze");
        wrong.extend(exposure::check(&exposure::ratings(&tree, &analyze, &programs_of(role))?));
    }
    if tree.hashes()? != manifest.contents {
        wrong.push("the archive does not hold what the manifest says".into());
    }
    let mib = |file: &str| manifest.files.get(file).map_or(0.0, |f| f.size as f64 / f64::from(1 << 20));
    let uki = format!("{}.efi", role.as_str());
    if manifest.files.get(&uki).is_none_or(|f| f.size > check::UKI) {
        wrong.push(format!("{uki} has {:.1} MiB, more than {}", mib(&uki), check::UKI >> 20));
    }
    println!(
        "{:<9} {uki} {:.1} MiB (kernel {:.1}, initrd {:.1}), unpacked {} MiB, {} files",
        role.as_str(),
        mib(&uki),
        mib("vmlinuz"),
        mib("initrd.zst"),
        manifest.unpacked >> 20,
        manifest.contents.len()
    );
    Ok(wrong)
}
