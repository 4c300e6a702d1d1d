//! The packages that images are made of: which, locked to versions and hashes, fetched once and unpacked once.
//!
//! ```text
//! cache/apt/                  apt's lists, apart from the host's
//! cache/debs/NAME_VERSION_ARCH.deb
//! cache/unpacked/NAME_HASH/   as `dpkg-deb --extract` leaves it
//! ```

use super::sources::{self, RELEASE};
use crate::Usage;
use crate::customer::sha256;
use anyhow::{Context, Result, bail};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The packages that `image/packages` names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Wanted {
    /// The package that depends on the kernel of the day.
    pub(crate) kernel: String,
    /// The others, those of debug images too.
    pub(crate) names: BTreeSet<String>,
}

/// A package, exactly.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Locked {
    /// Its name.
    pub(crate) name: String,
    /// Its version.
    pub(crate) version: String,
    /// `amd64` or `all`.
    pub(crate) arch: String,
    /// SHA-256 of the package, in hexadecimal.
    pub(crate) sha256: String,
}

impl Wanted {
    /// Reads `image/packages`.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let (mut kernel, mut names) = (None, BTreeSet::new());
        for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
            match line.split_whitespace().collect::<Vec<_>>()[..] {
                ["kernel", name] => kernel = Some(name.to_owned()),
                ["debug", name] | [name] => {
                    names.insert(name.to_owned());
                }
                _ => bail!("{line:?} is no line of image/packages"),
            }
        }
        Ok(Self { kernel: kernel.context("image/packages names no kernel")?, names })
    }
}

/// Whether a package is a kernel itself, not one that depends on it.
fn is_kernel(name: &str) -> bool {
    name.strip_prefix("linux-image-").is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
}

impl Locked {
    fn file(&self) -> String {
        // As apt names it: the epoch's colon is quoted.
        format!("{}_{}_{}.deb", self.name, self.version.replace(':', "%3a"), self.arch)
    }

    /// Whether it is the kernel.
    pub(crate) fn is_kernel(&self) -> bool {
        is_kernel(&self.name)
    }
}

/// Reads a lock.
pub(crate) fn parse_lock(text: &str) -> Result<BTreeMap<String, Locked>> {
    let mut lock = BTreeMap::new();
    for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let [name, version, arch, sha256] = line.split(' ').collect::<Vec<_>>()[..] else {
            bail!("{line:?} is no line of image/packages.lock");
        };
        if sha256.len() != 64 || hex::decode(sha256).is_err() {
            bail!("{line:?} has no SHA-256");
        }
        let [name, version, arch, sha256] = [name, version, arch, sha256].map(str::to_owned);
        lock.insert(name.clone(), Locked { name, version, arch, sha256 });
    }
    Ok(lock)
}

/// The text of a lock.
pub(crate) fn write_lock(lock: &BTreeMap<String, Locked>) -> String {
    let mut text = String::from("# Made by `cargo xtask image`: package, version, architecture, SHA-256.\n");
    for p in lock.values() {
        text.push_str(&format!("{} {} {} {}\n", p.name, p.version, p.arch, p.sha256));
    }
    text
}

/// A line of `apt-get download --print-uris`: `'URI' FILE SIZE SHA256:…`.
fn parse_uri(line: &str) -> Option<Locked> {
    let mut words = line.split_whitespace().skip(1);
    let file = words.next()?.strip_suffix(".deb")?;
    let sha256 = words.nth(1)?.strip_prefix("SHA256:")?.to_owned();
    let (rest, arch) = file.rsplit_once('_')?;
    let (name, version) = rest.split_once('_')?;
    Some(Locked { name: name.into(), version: version.replace("%3a", ":"), arch: arch.into(), sha256 })
}

/// How much the lock may change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Locking {
    /// Not at all: what is gone fails the build.
    Strict,
    /// What is gone from the mirror is taken in its present version.
    Follow,
    /// Everything in its present version.
    Update,
}

/// apt with its own lists, beside the host's.
#[derive(Debug)]
pub(super) struct Apt {
    config: PathBuf,
    debs: PathBuf,
}

impl Apt {
    pub(super) fn new(cache: &Path) -> Result<Self> {
        let found = match std::env::var("FFS_MIRROR") {
            Ok(mirror) => sources::of_mirror(&mirror),
            Err(_) => host_sources()?,
        };
        if found.len() < 2 {
            return Err(Usage(format!(
                "apt on this host has no Debian sources with a security suite to take {RELEASE} from; set FFS_MIRROR to the \
                 URL of a folder that holds debian and debian-security"
            ))
            .into());
        }
        let dir = cache.join("apt");
        for sub in ["lists/partial", "archives/partial"] {
            fs::create_dir_all(dir.join(sub))?;
        }
        let lines: String = found.iter().map(sources::Source::line).collect();
        fs::write(dir.join("sources.list"), lines)?;
        fs::write(dir.join("status"), "")?;
        let d = dir.display();
        // The host's proxies and logins stay; its sources, pins and installed packages do not count.
        let text = format!(
            "Dir::State \"{d}\";\nDir::State::status \"{d}/status\";\nDir::State::lists \"{d}/lists\";\nDir::Cache \"{d}\";\n\
             Dir::Cache::archives \"{d}/archives\";\nDir::Etc::sourcelist \"{d}/sources.list\";\nDir::Etc::sourceparts \"/dev/null\";\n\
             Dir::Etc::preferences \"/dev/null\";\nDir::Etc::preferencesparts \"/dev/null\";\nAPT::Architecture \"amd64\";\n\
             APT::Architectures {{ \"amd64\"; }};\nAPT::Sandbox::User \"root\";\nAcquire::Languages \"none\";\n\
             Acquire::ForceHash \"SHA256\";\nAPT::Update::Post-Invoke \"\";\nAPT::Update::Post-Invoke-Success \"\";\n"
        );
        let config = dir.join("apt.conf");
        fs::write(&config, text)?;
        let debs = cache.join("debs");
        fs::create_dir_all(&debs)?;
        Ok(Self { config, debs })
    }

    pub(super) fn run(&self, program: &str, args: &[&str]) -> Result<Option<String>> {
        self.run_in(&self.debs, program, args)
    }

    /// Where packages are to be had. In the folder that they are in already it would say nothing about them.
    fn uris(&self, packages: &[&str]) -> Result<Option<String>> {
        let args = [&["download", "--print-uris", "--quiet=2"], packages].concat();
        self.run_in(self.config.parent().context("a file in a folder")?, "apt-get", &args)
    }

    fn run_in(&self, dir: &Path, program: &str, args: &[&str]) -> Result<Option<String>> {
        let mut command = Command::new(program);
        // Through the environment it would be read before the host's configuration and lose to it.
        command.arg("-c").arg(&self.config).args(args).env("LC_ALL", "C.UTF-8").current_dir(dir);
        let output = command.stdin(Stdio::null()).output().with_context(|| format!("cannot run {program}"))?;
        if !output.status.success() {
            eprint!("{}", String::from_utf8_lossy(&output.stderr));
            return Ok(None);
        }
        Ok(Some(String::from_utf8_lossy(&output.stdout).into_owned()))
    }

    pub(super) fn update(&self) -> Result<()> {
        eprintln!("reading the package lists of {RELEASE}");
        self.run("apt-get", &["update", "--quiet", "--error-on=any"])?.context("apt-get update failed")?;
        Ok(())
    }

    /// The kernel of the day.
    pub(super) fn kernel(&self, meta: &str) -> Result<String> {
        let shown = self.run("apt-cache", &["show", "--no-all-versions", meta])?.unwrap_or_default();
        let depends = shown.lines().find_map(|line| line.strip_prefix("Depends: ")).unwrap_or_default();
        let name = depends.split([',', ' ']).find(|word| is_kernel(word));
        Ok(name.with_context(|| format!("{meta} depends on no kernel"))?.to_owned())
    }

    fn present(&self, names: &BTreeSet<String>) -> Result<BTreeMap<String, Locked>> {
        let names: Vec<&str> = names.iter().map(|n| &**n).collect();
        let out = self.uris(&names)?.with_context(|| format!("{RELEASE} does not have all of image/packages"))?;
        Ok(out.lines().filter_map(parse_uri).map(|p| (p.name.clone(), p)).collect())
    }

    fn download(&self, packages: &[Locked]) -> Result<()> {
        eprintln!("fetching {} packages", packages.len());
        let exact: Vec<String> = packages.iter().map(|p| format!("{}={}", p.name, p.version)).collect();
        let mut args = vec!["download", "--quiet=2"];
        args.extend(exact.iter().map(|e| &**e));
        self.run("apt-get", &args)?.context("apt-get download failed")?;
        for p in packages {
            let path = self.debs.join(p.file());
            if sha256(&path)? != p.sha256 {
                fs::remove_file(&path)?;
                bail!("{} {} is not the package of the lock", p.name, p.version);
            }
        }
        Ok(())
    }
}

fn host_sources() -> Result<BTreeSet<sources::Source>> {
    let os = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let codename = os.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME=")).unwrap_or("stable");
    let mut paths = vec![PathBuf::from("/etc/apt/sources.list")];
    if let Ok(dir) = fs::read_dir("/etc/apt/sources.list.d") {
        paths.extend(dir.flatten().map(|entry| entry.path()));
    }
    let read = |extension: &str| -> Vec<String> {
        let of = paths.iter().filter(|path| path.extension().is_some_and(|e| e == extension));
        of.filter_map(|path| fs::read_to_string(path).ok()).collect()
    };
    Ok(sources::of_host(&read("list"), &read("sources"), codename))
}

/// Where a package is unpacked.
fn unpacked(cache: &Path, package: &Locked) -> PathBuf {
    cache.join("unpacked").join(format!("{}_{}", package.name, &package.sha256[..16]))
}

/// The folder of a package of the lock that is unpacked.
pub(super) fn folder(image: &Path, cache: &Path, name: &str) -> Result<PathBuf> {
    let lock = parse_lock(&fs::read_to_string(image.join("packages.lock"))?)?;
    let dir = lock.get(name).map(|package| unpacked(cache, package)).filter(|dir| dir.is_dir());
    dir.with_context(|| format!("the package {name} is not unpacked here: cargo xtask image"))
}

/// Unpacks a package, unless it is already.
fn unpack(cache: &Path, package: &Locked) -> Result<PathBuf> {
    let dir = unpacked(cache, package);
    if dir.is_dir() {
        return Ok(dir);
    }
    let deb = cache.join("debs").join(package.file());
    let partial = dir.with_extension("partial");
    if partial.exists() {
        fs::remove_dir_all(&partial)?;
    }
    fs::create_dir_all(&partial)?;
    let status = Command::new("dpkg-deb").arg("--extract").arg(&deb).arg(&partial).status().context("no dpkg-deb")?;
    if !status.success() {
        bail!("{} cannot be unpacked", deb.display());
    }
    fs::rename(&partial, &dir)?;
    Ok(dir)
}

/// What is unpacked: each package with its folder.
pub(crate) type Unpacked = Vec<(Locked, PathBuf)>;

/// Makes the packages of `image/packages` be there, in the versions of `image/packages.lock`.
pub(crate) fn provide(image: &Path, cache: &Path, locking: Locking) -> Result<Unpacked> {
    let wanted = Wanted::parse(&fs::read_to_string(image.join("packages"))?)?;
    let lock_path = image.join("packages.lock");
    let mut lock = match fs::read_to_string(&lock_path) {
        Ok(text) => parse_lock(&text)?,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => BTreeMap::new(),
        Err(e) => return Err(e.into()),
    };
    lock.retain(|name, _| is_kernel(name) || wanted.names.contains(name));
    let complete = |lock: &BTreeMap<String, Locked>| {
        wanted.names.iter().all(|n| lock.contains_key(n)) && lock.keys().any(|n| is_kernel(n))
    };
    let here = |p: &Locked| {
        unpacked(cache, p).is_dir() || sha256(&cache.join("debs").join(p.file())).is_ok_and(|h| h == p.sha256)
    };
    if locking == Locking::Strict && !complete(&lock) {
        bail!("image/packages.lock lacks some of image/packages");
    }
    if locking == Locking::Update || !complete(&lock) || !lock.values().all(here) {
        let apt = Apt::new(cache)?;
        apt.update()?;
        renew(&apt, &wanted, &mut lock, locking, here)?;
        let text = write_lock(&lock);
        if fs::read_to_string(&lock_path).ok().as_deref() != Some(&text) {
            fs::write(&lock_path, text)?;
            eprintln!("{} is changed", lock_path.display());
        }
    }
    lock.into_values().map(|p| unpack(cache, &p).map(|dir| (p, dir))).collect()
}

/// Brings the lock up to what there is, as far as it may, and fetches what is missing.
fn renew(
    apt: &Apt,
    wanted: &Wanted,
    lock: &mut BTreeMap<String, Locked>,
    locking: Locking,
    here: impl Fn(&Locked) -> bool,
) -> Result<()> {
    let mut names = wanted.names.clone();
    names.insert(apt.kernel(&wanted.kernel)?);
    let present = apt.present(&names)?;
    let mut fetch = Vec::new();
    for (name, now) in &present {
        let locked = if is_kernel(name) { lock.values().find(|p| p.is_kernel()) } else { lock.get(name) };
        let keep = match locked {
            Some(old) if old == now || (locking != Locking::Update && here(old)) => old.clone(),
            Some(old) if locking != Locking::Update && exists(apt, old)? => old.clone(),
            Some(old) if locking == Locking::Strict => {
                bail!("{} {} is no longer on the mirror", old.name, old.version);
            }
            Some(old) => {
                eprintln!("{} {} is replaced by {} {}", old.name, old.version, now.name, now.version);
                now.clone()
            }
            None => now.clone(),
        };
        if let Some(old) = locked.map(|p| p.name.clone()) {
            lock.remove(&old);
        }
        if !here(&keep) {
            fetch.push(keep.clone());
        }
        lock.insert(keep.name.clone(), keep);
    }
    if fetch.is_empty() { Ok(()) } else { apt.download(&fetch) }
}

/// Whether the mirror still has exactly this package.
fn exists(apt: &Apt, package: &Locked) -> Result<bool> {
    let exact = format!("{}={}", package.name, package.version);
    let out = apt.uris(&[&exact])?.unwrap_or_default();
    Ok(out.lines().filter_map(parse_uri).any(|p| p == *package))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HASH: &str = "5b6825de4263824b78c4c51f6476414f3b4e89c2ab63e81dc8b9b5501e867cf6";

    #[test]
    fn the_lock_reads_what_it_writes() {
        let text = format!("# c\nlibx 1:2.3+b1 amd64 {HASH}\nfirm 1 all {HASH}\n");
        let lock = parse_lock(&text).unwrap();
        assert_eq!(lock["libx"].file(), "libx_1%3a2.3+b1_amd64.deb");
        assert_eq!(parse_lock(&write_lock(&lock)).unwrap(), lock);
        for bad in ["a 1 amd64", "a 1 amd64 00", &format!("a  1 amd64 {HASH}")] {
            assert!(parse_lock(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_apt_prints() {
        let line = format!("'http://m.test/z_1%3a1.3_amd64.deb' zlib1g_1%3a1.3+x_amd64.deb 88720 SHA256:{HASH}");
        let p = parse_uri(&line).unwrap();
        assert_eq!((&*p.name, &*p.version, &*p.arch, &*p.sha256), ("zlib1g", "1:1.3+x", "amd64", HASH));
        assert_eq!(parse_uri("Get:1 something"), None);
    }

    #[test]
    fn the_list_of_the_tree() {
        let wanted = Wanted::parse("# c\nkernel linux-image-amd64\n a\ndebug b\n").unwrap();
        assert_eq!((&*wanted.kernel, wanted.names.len()), ("linux-image-amd64", 2));
        assert!(Wanted::parse("a\n").is_err() && Wanted::parse("kernel x\na b c\n").is_err());
        assert!(is_kernel("linux-image-6.12.1+deb13-amd64") && !is_kernel("linux-image-amd64"));
    }
}
