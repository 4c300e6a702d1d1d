//! The images as Buildroot would make them: the real post-image.sh and genimage.cfg on the kernel and the first file system of
//! `cargo xtask image`, flashed and booted by UEFI.

use super::{Top, run, shared, venv, workdir};
use crate::host::Tool;
use crate::image::{self, Manifest};
use crate::{interrupt, vm};
use admin::gpt::{self, Table};
use anyhow::{Context, Result, bail, ensure};
use keys::site::Role;
use qemu::Patience;
use std::fs::{self, File, Permissions};
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// Needed to make a disk as Buildroot does.
pub(super) const TOOLS: &[Tool] =
    &[Tool::new("genimage", "genimage"), Tool::new("mcopy", "mtools"), Tool::new("mkfs.vfat", "dosfstools")];

/// How long a machine may take, beside whatever else the host does.
const BOOT: Duration = Duration::from_secs(900);
/// What the machine says once its daemons are up and its own health gate is passed.
const HEALTHY: &str = "Reached target boot-complete.target";

/// What Buildroot's own script of this name does, as far as ours needs it.
const GENIMAGE: &str = "#!/bin/sh
set -e
mkdir -p \"$BUILD_DIR/root\"
genimage --rootpath \"$BUILD_DIR/root\" --tmppath \"$BUILD_DIR/genimage.tmp\" --inputpath \"$BINARIES_DIR\" \\
\t--outputpath \"$BINARIES_DIR\" --config \"$2\"
";

/// Where the image of a role is.
fn dir(role: Role) -> PathBuf {
    workdir().join("images").join(role.as_str())
}

/// Makes the images of all roles and boots each of them, until it says of itself that all is well.
pub(super) fn boot(top: &Top) -> Result<()> {
    image::build_all()?;
    for role in Role::ALL {
        let begin = Instant::now();
        assemble(top, role)?;
        let name = role.as_str();
        same_disk(role)?;
        println!("{:>8.1} s  post-image.sh and genimage made {name}.img", begin.elapsed().as_secs_f64());
    }
    let mut setup = vm::Setup::new(&vm::build_ffsctl()?, &workdir().join("vms"));
    setup.start = vm::Start::Flashed;
    setup.images = dir;
    // One after the other: whether they find each other is tested elsewhere.
    for role in Role::ALL {
        setup.roles = vec![role];
        let mut vms = setup.boot()?;
        let vm = vms.vm(role);
        let patience = Patience::of(BOOT).unless(|| interrupt::requested(Duration::ZERO));
        if let Err(error) = vm.line(HEALTHY, &patience) {
            bail!("{}: {error}\n{}", role.as_str(), vm.last_words());
        }
        println!("{:>8.1} s  {}.img flashed, booted by UEFI, healthy", vm.age().as_secs_f64(), role.as_str());
    }
    Ok(())
}

/// Writes a script.
fn program(path: &Path, text: &str) -> Result<()> {
    fs::create_dir_all(path.parent().context("a file in a folder")?)?;
    fs::write(path, text)?;
    Ok(fs::set_permissions(path, Permissions::from_mode(0o755))?)
}

/// Puts what post-image.sh finds in Buildroot where it looks for it, and runs it.
fn assemble(top: &Top, role: Role) -> Result<()> {
    let packages = image::unpacked(&workdir().join("ukify"), &["systemd-boot-efi", "systemd-ukify"])?;
    let of = |name: &str| packages.get(name).map(|(_, dir)| dir).with_context(|| format!("no {name}"));
    let (binaries, built) = (dir(role), image::dir(role, false));
    if binaries.exists() {
        fs::remove_dir_all(&binaries)?;
    }
    let work = tempfile::tempdir()?;
    let [target, host, build] = ["target", "host", "build"].map(|name| work.path().join(name));
    for dir in [&build, &binaries.join("efi-part/EFI/BOOT"), &target.join("usr/lib/systemd/boot/efi")] {
        fs::create_dir_all(dir)?;
    }
    fs::copy(built.join("vmlinuz"), binaries.join("bzImage"))?;
    fs::copy(built.join("initrd.zst"), binaries.join("rootfs.cpio.zst"))?;
    let efi = of("systemd-boot-efi")?.join("usr/lib/systemd/boot/efi");
    fs::copy(efi.join("systemd-bootx64.efi"), binaries.join("efi-part/EFI/BOOT/bootx64.efi"))?;
    fs::copy(efi.join("linuxx64.efi.stub"), target.join("usr/lib/systemd/boot/efi/linuxx64.efi.stub"))?;
    shared::finalize(top, role, &target)?;
    let python = venv::provide()?.join("python");
    let ukify = of("systemd-ukify")?.join("usr/bin/ukify");
    program(
        &host.join("bin/ukify"),
        &format!("#!/bin/sh\nexec '{}' '{}' \"$@\"\n", python.display(), ukify.display()),
    )?;
    program(&work.path().join("support/scripts/genimage.sh"), GENIMAGE)?;
    // Users' paths often have no sbin, where mkdosfs is.
    let mut path: Vec<_> = std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()).collect();
    path.extend(["/usr/sbin".into(), "/sbin".into()]);
    let mut script = shared::script(top, "post-image.sh", &binaries, role);
    script.current_dir(work.path()).env("PATH", std::env::join_paths(path)?);
    script.env("BINARIES_DIR", &binaries).env("BUILD_DIR", build).env("HOST_DIR", host).env("TARGET_DIR", target);
    run(&mut script)?;
    Ok(())
}

/// The partition table of a disk image.
fn table(path: &Path) -> Result<Table> {
    let mut head = vec![0; usize::try_from(gpt::HEAD * gpt::SECTOR)?];
    File::open(path)?.read_exact(&mut head)?;
    Table::parse(&head).with_context(|| path.display().to_string())
}

/// Whether the disk image of a role has the same partitions as ours, and the same boot loader and its settings. Ours is signed for
/// Secure Boot; what it was before is in its manifest.
fn same_disk(role: Role) -> Result<()> {
    let name = format!("{}.img", role.as_str());
    let (theirs, ours) = (dir(role), image::dir(role, false));
    let (disk, other) = (theirs.join(&name), ours.join(&name));
    let (a, b) = (table(&disk)?, table(&other)?);
    if a != b {
        bail!("the partitions of {} and {} are not the same: {a:?} and {b:?}", disk.display(), other.display());
    }
    let settings = "loader/loader.conf";
    ensure!(
        on_esp(&disk, settings)? == on_esp(&other, settings)?,
        "{settings} is not the same in {} and {}",
        disk.display(),
        other.display()
    );
    let manifest: Manifest = serde_json::from_slice(&fs::read(ours.join("manifest.json"))?)?;
    let loader = manifest.unsigned.get("systemd-bootx64.efi").context("the manifest has no boot loader")?;
    for file in ["EFI/BOOT/BOOTX64.EFI", "EFI/systemd/systemd-bootx64.efi"] {
        let hash = image::hash(&on_esp(&disk, file)?);
        ensure!(hash == *loader, "{file} of {} is not the boot loader that was signed for ours", disk.display());
    }
    Ok(())
}

/// A file on the ESP of a disk image.
fn on_esp(image: &Path, file: &str) -> Result<Vec<u8>> {
    let at = format!("{}@@{}", image.display(), admin::state::ALIGN);
    let mut mtype = Command::new("mtype");
    let output = mtype.args(["-i", &at, &format!("::{file}")]).env("MTOOLS_SKIP_CHECK", "1").output()?;
    ensure!(output.status.success(), "{} has no {file}: {}", image.display(), super::said(&output));
    Ok(output.stdout)
}
