//! The same commit, lock and keys give the same images, wherever the work tree is.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use xtask::image::Manifest;
use xtask::{root, target};

/// Builds all images in a work tree, as somebody with other habits would: their time zone, language and mask of permissions differ.
fn build(tree: &Path, keys: &Path, mask: &str, zone: &str) -> PathBuf {
    let mut command = Command::new("sh");
    let line = format!("umask {mask} && exec \"$0\" image --locked");
    command.args(["-c", &line, env!("CARGO_BIN_EXE_xtask")]).current_dir(tree);
    command.env("CARGO_MANIFEST_DIR", tree.join("firmware/xtask")).env_remove("CARGO_TARGET_DIR");
    command.env("FFS_RELEASE_KEY", keys.join("release/release.key"));
    command.env("FFS_SECURE_BOOT_KEY", keys.join("secure-boot/secure-boot.key"));
    command.env("FFS_SECURE_BOOT_CERT", keys.join("secure-boot/secure-boot.crt"));
    command.env("TZ", zone).env("LC_ALL", "C").env("SOURCE_DATE_EPOCH", "1");
    assert!(command.status().unwrap().success(), "the images cannot be built in {}", tree.display());
    tree.join("target/ffs/images")
}

/// Copies what is part of the tree, in its present state.
fn copy(from: &Path, to: &Path) {
    let listed = Command::new("git").args(["ls-files", "-z"]).current_dir(from).output().unwrap();
    assert!(listed.status.success(), "git is needed to know what is part of the tree");
    let names = String::from_utf8(listed.stdout).unwrap();
    for name in names.split('\0').filter(|name| !name.is_empty()) {
        let (old, new) = (from.join(name), to.join(name));
        fs::create_dir_all(new.parent().unwrap()).unwrap();
        match fs::read_link(&old) {
            Ok(link) => std::os::unix::fs::symlink(link, new).unwrap(),
            Err(_) => drop(fs::copy(old, new).unwrap()),
        }
    }
}

/// The manifest of a role without its update file, whose signature holds random numbers: what is in that is listed beside it.
fn manifest(images: &Path, role: &str) -> Manifest {
    let mut manifest: Manifest =
        serde_json::from_slice(&fs::read(images.join(role).join("manifest.json")).unwrap()).unwrap();
    assert!(manifest.files.remove(&format!("{role}.ffsup")).is_some());
    manifest
}

/// SHA-256 of everything that was made of a role, by the manifest.
fn hashes(manifest: &Manifest) -> BTreeMap<String, String> {
    let files = manifest.files.iter().map(|(name, file)| (name.clone(), file.sha256.clone()));
    files.chain(manifest.unsigned.iter().map(|(name, sha256)| (format!("unsigned {name}"), sha256.clone()))).collect()
}

#[test]
#[ignore = "long: builds all images twice"]
fn long_firmware_images_are_the_same_in_another_folder() {
    let (here, keys) = (root(), target().join("ffs"));
    // With nothing named, the keys of the work tree are made.
    let made = Command::new(env!("CARGO_BIN_EXE_xtask")).args(["image", "web"]).current_dir(&here).status();
    assert!(made.unwrap().success());
    let home = tempfile::tempdir().unwrap();
    let there = home.path().join("a folder of another and a rather longer name").join("ffs");
    copy(&here, &there);
    // Packages are the same by their hashes; everything that is made of them is made again.
    let debs = there.join("target/ffs/cache/debs");
    fs::create_dir_all(&debs).unwrap();
    for entry in fs::read_dir(keys.join("cache/debs")).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, debs.join(path.file_name().unwrap())).unwrap();
    }
    let one = build(&here, &keys, "022", "UTC");
    let other = build(&there, &keys, "077", "Pacific/Chatham");
    for role in ["download", "web", "database"] {
        let manifests = [&one, &other].map(|images| manifest(images, role));
        let hashes = manifests.each_ref().map(hashes);
        assert!(hashes[0].len() > 10, "{hashes:?}");
        assert_eq!(hashes[0], hashes[1], "{role}");
        let texts = manifests.map(|manifest| serde_json::to_string(&manifest).unwrap());
        assert_eq!(texts[0], texts[1], "the manifests of {role} differ");
    }
}
