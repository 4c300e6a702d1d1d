//! Faults planted in a copy of the tree, each of which must be found and named.

use super::*;
use keys::site::Role;
use std::os::unix::fs::{PermissionsExt, symlink};
use tempfile::TempDir;

/// A copy of what is looked at.
struct Copy {
    top: Top,
    _home: TempDir,
}

fn copy_dir(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let (kind, to) = (entry.file_type().unwrap(), to.join(entry.file_name()));
        if kind.is_dir() {
            copy_dir(&entry.path(), &to);
        } else if kind.is_symlink() {
            symlink(fs::read_link(entry.path()).unwrap(), to).unwrap();
        } else {
            fs::copy(entry.path(), to).unwrap();
        }
    }
}

impl Copy {
    fn new() -> Self {
        let home = tempfile::tempdir().unwrap();
        for dir in ["buildroot", "image"] {
            copy_dir(&root().join(dir), &home.path().join(dir));
        }
        for file in ["Cargo.toml", "LICENSE"] {
            fs::copy(root().join(file), home.path().join(file)).unwrap();
        }
        Self { top: Top(home.path().canonicalize().unwrap()), _home: home }
    }

    /// Replaces a text of a file, which must be there.
    fn edit(&self, file: &str, from: &str, to: &str) -> &Self {
        let text = self.top.read(file).unwrap();
        assert!(text.contains(from), "{file} has no {from:?}");
        fs::write(self.top.0.join(file), text.replace(from, to)).unwrap();
        self
    }

    /// Does the same in the configurations of all roles.
    fn edit_all(&self, from: &str, to: &str) -> &Self {
        for role in Role::ALL {
            self.edit(&symbols::defconfig(role), from, to);
        }
        self
    }

    fn append(&self, file: &str, text: &str) -> &Self {
        let old = self.top.read(file).unwrap();
        fs::write(self.top.0.join(file), old + text).unwrap();
        self
    }

    /// A fault that is found is named by one message with all of these words.
    #[track_caller]
    fn names(&self, words: &[&str]) {
        let wrong = quick(&self.top).unwrap();
        assert!(wrong.iter().any(|line| words.iter().all(|word| line.contains(word))), "{words:?} in {wrong:#?}");
    }
}

const CONFIG_IN: &str = "buildroot/package/ffs-firmware/Config.in";
const PACKAGE: &str = "buildroot/package/ffs-firmware/ffs-firmware.mk";
const WEB: &str = "buildroot/configs/ffs_web_defconfig";
const FRAGMENT: &str = "buildroot/board/ffs/linux.fragment";
const POST_IMAGE: &str = "buildroot/board/ffs/post-image.sh";

#[test]
fn the_tree_as_it_is() {
    assert_eq!(quick(&Copy::new().top).unwrap(), [""; 0]);
}

#[test]
fn a_misspelt_symbol() {
    Copy::new()
        .edit_all("BR2_PACKAGE_LIBSECCOMP", "BR2_PACKAGE_LIBSECOMP")
        .names(&["BR2_PACKAGE_LIBSECOMP", "_defconfig"]);
    Copy::new().edit(CONFIG_IN, "select BR2_PACKAGE_MDADM ", "select BR2_PACKAGE_MDAMD ").names(&["BR2_PACKAGE_MDAMD"]);
    Copy::new().edit(WEB, "FFS_FIRMWARE_WEB", "FFS_FIRMWARE_WEBB").names(&[WEB, "BR2_PACKAGE_FFS_FIRMWARE_WEBB"]);
    Copy::new()
        .edit(PACKAGE, "(BR2_PACKAGE_FFS_FIRMWARE_WEB)", "(BR2_PACKAGE_FFS_FIRMWARE_WBE)")
        .names(&["FIRMWARE_WBE"]);
    Copy::new().edit(PACKAGE, "--package=,$(FFS_FIRMWARE_CRATES)", "--package=,$(FFS_CRATES)").names(&["FFS_CRATES"]);
    Copy::new().append("buildroot/symbols/buildroot", "BR2_PACKAGE_NANO\n").names(&["nothing uses BR2_PACKAGE_NANO"]);
}

#[test]
fn a_missing_path() {
    let copy = Copy::new();
    fs::remove_file(copy.top.0.join("buildroot/board/ffs/genimage.cfg")).unwrap();
    copy.names(&[POST_IMAGE, "$board/genimage.cfg is not there"]);
    Copy::new()
        .edit_all("board/ffs/post-build.sh", "board/ffs/post-built.sh")
        .names(&[WEB, "board/ffs/post-built.sh is not there"]);
    Copy::new().edit(WEB, "image/rootfs/web", "image/rootfs/wbe").names(&[WEB, "image/rootfs/wbe is not there"]);
    Copy::new().edit(POST_IMAGE, "$image/cmdline", "$image/cmdlin").names(&[POST_IMAGE, "$image/cmdlin is not there"]);
}

#[test]
fn an_unquoted_shell_variable() {
    Copy::new().append(POST_IMAGE, "rm -f $binaries/rootfs.cpio\n").names(&[POST_IMAGE, "SC2086"]);
}

#[test]
fn a_binary_that_is_not_installed() {
    Copy::new()
        .edit(PACKAGE, "DAEMONS += ftpd stagerd", "DAEMONS += ftpd")
        .names(&["download", "stagerd is not installed"]);
    Copy::new()
        .edit(PACKAGE, "$(foreach daemon,$(FFS_FIRMWARE_DAEMONS)", "$(foreach daemon,admind")
        .names(&["commlinkd is not installed"]);
    Copy::new()
        .edit(PACKAGE, "CRATES += masterdb", "CRATES += master")
        .names(&["database", "the crate masterdb is not built"]);
    Copy::new()
        .edit(PACKAGE, "DAEMONS += portald", "DAEMONS += portald masterd")
        .names(&["web", "masterd is installed"]);
}

#[test]
fn a_kernel_symbol_that_does_not_exist() {
    Copy::new().append(FRAGMENT, "CONFIG_NVME_FOR_ALL=y\n").names(&[FRAGMENT, "NVME_FOR_ALL is not on the list"]);
    Copy::new().edit(FRAGMENT, "CONFIG_BLK_DEV_NVME=m\n", "").names(&["nothing makes the module nvme"]);
    Copy::new().append("image/modules", "sfc\n").names(&["nothing makes the module sfc"]);
}

#[test]
fn a_unit_that_differs() {
    let unit = "usr/lib/systemd/system/portald.service";
    let copy = Copy::new();
    let to = copy.top.0.join("buildroot/board/ffs/overlay").join(unit);
    fs::create_dir_all(to.parent().unwrap()).unwrap();
    let text = copy.top.read(&format!("image/rootfs/web/{unit}")).unwrap();
    fs::write(to, text.replace("PrivateDevices=yes", "PrivateDevices=no")).unwrap();
    copy.edit(WEB, "/../image/rootfs/web\"", "/../image/rootfs/web $(BR2_EXTERNAL_FFS_PATH)/board/ffs/overlay\"");
    copy.names(&["web", unit, "differs", "buildroot/board/ffs/overlay"]);
    Copy::new().edit(WEB, "$(BR2_EXTERNAL_FFS_PATH)/../image/rootfs/common ", "").names(&[
        "web",
        "commlinkd.service",
        "missing",
    ]);
}

#[test]
fn roles_that_differ_in_more_than_their_role() {
    Copy::new().edit(WEB, "BR2_PACKAGE_ZSTD=y\n", "").names(&[WEB, "BR2_PACKAGE_ZSTD is not as in"]);
    Copy::new().edit(WEB, "\"ffs-web\"", "\"web\"").names(&[WEB, "BR2_TARGET_GENERIC_HOSTNAME"]);
    Copy::new().edit(WEB, "ARGS=\"web\"", "ARGS=\"download\"").names(&[WEB, "BR2_ROOTFS_POST_SCRIPT_ARGS"]);
}

#[test]
fn another_kernel() {
    let lock = "image/packages.lock";
    let kernel::Versions { pinned, locked } = kernel::Versions::read(&Top(root())).unwrap();
    let copy = Copy::new();
    copy.edit(lock, &locked, "6.12.999");
    let warning = kernel::warning(&copy.top).unwrap().unwrap();
    assert!(warning.contains(&format!("Linux {pinned}")) && warning.contains("6.12.999"), "{warning}");
    assert_eq!(quick(&copy.top).unwrap(), [""; 0], "the hash of the next one comes from elsewhere");
    copy.edit(lock, "6.12.999", &pinned);
    assert_eq!(kernel::warning(&copy.top).unwrap(), None);
    copy.edit(lock, &pinned, "6.99.3").names(&["6.99.3", "another series"]);
    Copy::new().edit_all(&pinned, "6.12.998").names(&["linux.hash", "linux-6.12.998.tar.xz is not there"]);
}

#[test]
fn another_disk_or_another_name() {
    Copy::new().edit("buildroot/board/ffs/genimage.cfg", "192M", "128M").names(&["genimage.cfg", "size", "128M"]);
    Copy::new()
        .edit("buildroot/board/ffs/post-build.sh", "IMAGE_ID=ffs-", "IMAGE_ID=")
        .names(&["post-build.sh", "IMAGE_ID=ffs-web"]);
    let release = Copy::new();
    release.edit("Cargo.toml", "version = \"0.1.0\"", "version = \"9.9.9\"");
    assert_eq!(quick(&release.top).unwrap(), [""; 0], "the version has one place");
}

/// What Buildroot would have in target/ for a role, and more.
fn target(top: &Top, dir: &Path, role: Role) {
    for (link, to) in
        [("bin", "usr/bin"), ("sbin", "usr/sbin"), ("lib", "usr/lib"), ("usr/sbin", "bin"), ("usr/lib64", "lib")]
    {
        fs::create_dir_all(dir.join("usr/bin")).unwrap();
        fs::create_dir_all(dir.join("usr/lib")).unwrap();
        symlink(to, dir.join(link)).unwrap();
    }
    let put = |path: &str| {
        let path = dir.join(path.trim_start_matches('/'));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "x").unwrap();
    };
    let absent = top.read("buildroot/board/ffs/absent").unwrap();
    for path in top.read("image/whitelist").unwrap().lines().filter_map(|line| line.strip_prefix("file ")) {
        if path.starts_with("/usr/share/zoneinfo/Etc/") {
            put(&path.replace("/Etc/", "/posix/Etc/"));
        } else if !absent.lines().any(|line| line == path) {
            put(path);
        }
    }
    symlink("posix/Etc", dir.join("usr/share/zoneinfo/Etc")).unwrap();
    for (_, daemon) in crate::image::daemons(role) {
        put(&format!("usr/bin/{daemon}"));
    }
    for path in [
        "etc/shadow",
        "usr/bin/sh",
        "usr/bin/dbus-daemon",
        "usr/lib/gconv/gconv-modules",
        "usr/lib/libstdc++.so.6-gdb.py",
        "usr/lib/systemd/system/getty@.service",
        "var/lib/dbus/machine-id",
        "usr/lib/os-release",
    ] {
        put(path);
    }
    for path in KEPT {
        put(path);
    }
    for overlay in ["common", role.as_str()] {
        copy_dir(&top.image().join("rootfs").join(overlay), dir);
    }
    fs::write(dir.join("etc/passwd"), "dbus:x:1000:1000::/:/bin/false\n").unwrap();
    fs::set_permissions(dir.join("usr/bin/mount"), fs::Permissions::from_mode(0o4755)).unwrap();
}

/// What the whitelist does not name and that stays all the same.
const KEPT: [&str; 5] = [
    "usr/lib/libc.so.6",
    "usr/lib/systemd/libsystemd-shared-258.so",
    "usr/lib/modules/6.12.103/kernel/nvme.ko",
    "usr/lib/firmware/tigon/tg3.bin",
    "usr/share/ffs/release-keys/one.pub",
];

/// Runs post-fakeroot.sh. Device nodes are beyond what tests may make everywhere.
fn post_fakeroot(top: &Top, dir: &Path, role: Role) -> Output {
    let programs = tempfile::tempdir().unwrap();
    let mknod = programs.path().join("mknod");
    fs::write(&mknod, "#!/bin/sh\necho \"$@\" > \"$3\"\n").unwrap();
    fs::set_permissions(&mknod, fs::Permissions::from_mode(0o755)).unwrap();
    let path = format!("{}:{}", programs.path().display(), std::env::var("PATH").unwrap());
    shared::script(top, "post-fakeroot.sh", dir, role).env("PATH", path).output().unwrap()
}

#[test]
fn nothing_but_the_whitelist_is_left() {
    let top = Top(root());
    for role in Role::ALL {
        let home = tempfile::tempdir().unwrap();
        let dir = home.path();
        target(&top, dir, role);
        let output = post_fakeroot(&top, dir, role);
        assert!(output.status.success(), "{}", said(&output));
        let there = |path: &str| dir.join(path.trim_start_matches('/')).symlink_metadata().is_ok();
        for gone in [
            "etc/shadow",
            "usr/bin/sh",
            "usr/bin/dbus-daemon",
            "usr/lib/gconv",
            "usr/lib/libstdc++.so.6-gdb.py",
            "usr/lib/systemd/system/getty@.service",
        ] {
            assert!(!there(gone), "{gone}");
        }
        for kept in
            KEPT.iter().chain(&["usr/lib/os-release", "usr/bin/nft", "usr/bin/admind", "etc/machine-id", "run", "tmp"])
        {
            assert!(there(kept), "{kept}");
        }
        for line in top.read("image/whitelist").unwrap().lines() {
            match line.split_whitespace().collect::<Vec<_>>()[..] {
                ["link", path, to] => {
                    assert_eq!(fs::read_link(dir.join(path.trim_start_matches('/'))).unwrap(), Path::new(to), "{path}");
                }
                ["dir", mode, path] => {
                    let found = fs::metadata(dir.join(path.trim_start_matches('/'))).unwrap().permissions().mode();
                    assert_eq!(format!("{:04o}", found & 0o7777), mode, "{path}");
                }
                _ => {}
            }
        }
        assert_eq!(fs::read(dir.join("usr/share/zoneinfo/Etc/UTC")).unwrap(), b"x");
        assert!(!there("usr/share/zoneinfo/posix"));
        assert!(there("/dev/null") && !there("/dev/console"));
        assert_eq!(
            fs::read(dir.join("etc/passwd")).unwrap(),
            fs::read(top.image().join("rootfs/common/etc/passwd")).unwrap()
        );
        let mount = fs::metadata(dir.join("usr/bin/mount")).unwrap().permissions().mode();
        assert_eq!(mount & 0o7777, 0o755);
    }
}

#[test]
fn what_the_whitelist_names_must_be_there() {
    let (top, home) = (Top(root()), tempfile::tempdir().unwrap());
    target(&top, home.path(), Role::Download);
    fs::remove_file(home.path().join("usr/bin/mkfs.xfs")).unwrap();
    fs::remove_file(home.path().join("usr/bin/stagerd")).unwrap();
    let output = post_fakeroot(&top, home.path(), Role::Download);
    let said = said(&output);
    assert!(
        !output.status.success() && said.contains("/usr/bin/mkfs.xfs") && said.contains("/usr/bin/stagerd"),
        "{said}"
    );
}

#[test]
fn a_link_must_lead_to_what_is_named() {
    let (top, home) = (Top(root()), tempfile::tempdir().unwrap());
    target(&top, home.path(), Role::Web);
    let program = home.path().join("usr/bin/e2fsck");
    fs::rename(&program, home.path().join("usr/bin/fsck.ext4")).unwrap();
    symlink("fsck.ext4", program).unwrap();
    let output = post_fakeroot(&top, home.path(), Role::Web);
    assert!(!output.status.success() && said(&output).contains("/usr/bin/e2fsck"), "{}", said(&output));
}

#[test]
fn a_kernel_without_a_module_stops_the_build() {
    let (top, home) = (Top(root()), tempfile::tempdir().unwrap());
    let modules = home.path().join("usr/lib/modules/1");
    fs::create_dir_all(&modules).unwrap();
    fs::write(modules.join("modules.builtin"), "kernel/drivers/nvme/nvme.ko\n").unwrap();
    let output = shared::script(&top, "post-build.sh", home.path(), Role::Web).output().unwrap();
    let said = said(&output);
    assert!(!output.status.success() && said.lines().any(|line| line == "xfs") && !said.contains("nvme\n"), "{said}");
}

/// A symbol on all of our lists that the kernel does not have.
#[test]
#[ignore = "long: needs the kernel's source"]
fn long_buildroot_kernel_symbol_that_debian_does_not_have() {
    let copy = Copy::new();
    copy.append(FRAGMENT, "CONFIG_NVME_FOR_ALL=y\n").append("buildroot/symbols/linux", "NVME_FOR_ALL\n");
    assert_eq!(quick(&copy.top).unwrap(), [""; 0]);
    let error = kernel::merge(&copy.top).unwrap_err().to_string();
    assert!(error.contains("CONFIG_NVME_FOR_ALL=y became nothing"), "{error}");
}

#[test]
#[ignore = "long: fetches the kernel's source, makes and boots images"]
fn long_buildroot_kernel_and_images() {
    check(true).unwrap();
}
