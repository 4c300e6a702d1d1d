use super::*;
use crate::gpt::{Guid, Partition};
use crate::state::ALIGN;
use keys::site::{Machine, Plan};
use std::fs;

const ESP: u64 = 8 << 20;
const SIZE: u64 = ALIGN + ESP + STATE + ALIGN;
const STATE: u64 = 16 << 20;

/// A site, and an image of a role with something in its ESP.
fn prepare(home: &Path, role: &str) -> (PathBuf, PathBuf) {
    let site = home.join("site");
    let machines = [Role::Web, Role::Database, Role::Download].map(|role| Machine::new(role, "10.0.0.1")).to_vec();
    let plan = Plan { name: "test".into(), operators: vec!["ann".into()], time: vec![], machines };
    plan.create(&site).unwrap();
    let part = |n: u128, kind, from: u64, to: u64, name: &str| Partition {
        kind,
        id: Guid(n),
        first: from / SECTOR,
        last: to / SECTOR - 1,
        attributes: 0,
        name: name.to_owned(),
    };
    let partitions = vec![
        part(1, Guid(7), ALIGN, ALIGN + ESP, &format!("{ESP_NAME}{role}")),
        part(2, gpt::LINUX, ALIGN + ESP, ALIGN + ESP + STATE, state::LABEL),
    ];
    let table = Table { id: Guid(3), partitions }.encode(SIZE / SECTOR).unwrap();
    let image = home.join("image");
    let file = File::create(&image).unwrap();
    file.set_len(SIZE).unwrap();
    file.write_all_at(&table.head, 0).unwrap();
    file.write_all_at(b"a kernel", ALIGN + 5_000_000).unwrap();
    (site, image)
}

#[test]
fn a_file_becomes_the_disk_of_a_machine() {
    let home = tempfile::tempdir().unwrap();
    let (site, image) = prepare(home.path(), "web");
    let image = Image::open(&image).unwrap();
    assert_eq!((image.role, image.size), (Role::Web, SIZE));
    let (folder, out) = (site.join("web"), home.path().join("disk"));
    let job = Job::new(&image, &folder, "web").unwrap();
    let size = SIZE + (64 << 20);
    let target = target::choose(&out, image.size, target::Allowed { force: false, size: Some(size) }).unwrap();
    let mut steps = Vec::new();
    let written = job.write(&out, target.size, false, &mut |step, done, all| steps.push((step, done, all))).unwrap();
    assert_eq!(steps.iter().filter(|s| s.1 == s.2).map(|s| s.0).collect::<Vec<_>>(), ["write", "state", "verify"]);
    assert_eq!(written.size, size);
    let bytes = fs::read(&out).unwrap();
    let at = usize::try_from(ALIGN + 5_000_000).unwrap();
    assert_eq!(&bytes[at..at + 8], b"a kernel");
    let table = Table::parse(&bytes[..34 * 512]).unwrap();
    assert_eq!(table.id, written.disk);
    assert!(table.id != Guid(3) && table.partitions[0].id != Guid(1) && table.partitions[1].id != Guid(2));
    assert_eq!(Table::parse_copy(&bytes[bytes.len() - 33 * 512..], size / SECTOR), Ok(table.clone()));
    // ext4's superblock is 1024 bytes into the partition, its label 120 into that.
    let state = usize::try_from(table.partitions[1].first * SECTOR).unwrap() + 1024;
    assert_eq!(&bytes[state + 120..state + 129], state::LABEL.as_bytes());
    // Most of it was never written.
    let blocks = std::os::unix::fs::MetadataExt::blocks(&fs::metadata(&out).unwrap()) * 512;
    assert!(blocks < size / 2, "{blocks}");
}

#[test]
fn a_compressed_image_becomes_the_same_disk() {
    let home = tempfile::tempdir().unwrap();
    let (site, plain) = prepare(home.path(), "web");
    let packed = home.path().join("image.zst");
    let mut encoder = zstd::Encoder::new(File::create(&packed).unwrap(), 3).unwrap();
    encoder.include_checksum(true).unwrap();
    encoder.set_pledged_src_size(Some(SIZE)).unwrap();
    io::copy(&mut File::open(&plain).unwrap(), &mut encoder).unwrap();
    encoder.finish().unwrap();
    let folder = site.join("web");
    let write = |image: &Path| {
        let image = Image::open(image).unwrap();
        assert_eq!((image.role, image.size), (Role::Web, SIZE));
        let out = home.path().join("disk");
        fs::write(&out, "").unwrap();
        Job::new(&image, &folder, "web").unwrap().write(&out, SIZE, false, &mut |_, _, _| {})
    };
    assert_eq!(write(&packed).unwrap().sha256, write(&plain).unwrap().sha256);
    // Cut off behind everything that is copied.
    let bytes = fs::read(&packed).unwrap();
    fs::write(&packed, &bytes[..bytes.len() - 2]).unwrap();
    assert!(matches!(write(&packed), Err(FlashError::Io { .. })));
    assert_eq!(Table::parse(&fs::read(home.path().join("disk")).unwrap()[..34 * 512]), Err(GptError::Missing));
}

#[test]
fn image_and_machine_fit_each_other() {
    let home = tempfile::tempdir().unwrap();
    let (site, path) = prepare(home.path(), "download");
    let image = Image::open(&path).unwrap();
    assert!(Job::new(&image, &site.join("download"), "download").is_ok());
    assert!(matches!(Job::new(&image, &site.join("web"), "web"), Err(FlashError::Role { .. })));
    assert!(matches!(Job::new(&image, &site, "download"), Err(FlashError::Folder { .. })));
    fs::remove_file(site.join("download/grant.public")).unwrap();
    assert!(matches!(Job::new(&image, &site.join("download"), "download"), Err(FlashError::Folder { .. })));
}

#[test]
fn what_is_no_image() {
    let home = tempfile::tempdir().unwrap();
    let (_, path) = prepare(home.path(), "web");
    let refused = |path: &Path| matches!(Image::open(path), Err(FlashError::Image { .. }));
    let file = OpenOptions::new().write(true).open(&path).unwrap();
    file.set_len(SIZE - 2 * ALIGN).unwrap();
    assert!(refused(&path), "it is cut off");
    assert!(refused(home.path()), "a directory");
    let text = home.path().join("text");
    fs::write(&text, "hello").unwrap();
    assert!(refused(&text));
    let other = tempfile::tempdir().unwrap();
    let (_, path) = prepare(other.path(), "toaster");
    assert!(refused(&path), "no role of ours");
}

#[test]
fn a_failure_leaves_a_disk_that_does_not_boot() {
    let home = tempfile::tempdir().unwrap();
    let (site, image) = prepare(home.path(), "web");
    let image = Image::open(&image).unwrap();
    let (folder, out) = (site.join("web"), home.path().join("disk"));
    let job = Job::new(&image, &folder, "web").unwrap();
    fs::copy(&image.path, &out).unwrap();
    // The folder loses what the state partition needs while the disk is written.
    let failed = job.write(&out, SIZE, true, &mut |step, _, _| {
        if step == "state" {
            let _ = fs::remove_file(folder.join("site.toml"));
        }
    });
    assert!(matches!(failed, Err(FlashError::State(_))), "{failed:?}");
    assert_eq!(Table::parse(&fs::read(&out).unwrap()[..34 * 512]), Err(GptError::Missing));
}

/// A loop device, for as long as it lives.
struct Loop(PathBuf);

impl Loop {
    /// `None` where there are none, as in many containers.
    fn of(file: &Path) -> Option<Self> {
        let losetup = crate::tools::find("losetup")?;
        let said = crate::tools::run(&losetup, &["--find", "--show", &file.to_string_lossy()], b"").ok()?;
        Some(Self(String::from_utf8_lossy(&said).trim().into()))
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let losetup = crate::tools::find("losetup").unwrap();
        let _ = crate::tools::run(&losetup, &["--detach", &self.0.to_string_lossy()], b"");
    }
}

#[test]
fn a_block_device_is_written_over_whole() {
    let home = tempfile::tempdir().unwrap();
    let (site, path) = prepare(home.path(), "web");
    let image = Image::open(&path).unwrap();
    let backing = home.path().join("backing");
    let size = SIZE + (8 << 20);
    let file = File::create(&backing).unwrap();
    file.set_len(size).unwrap();
    // What was on the disk before, where the image has zeros.
    file.write_all_at(b"old", ALIGN + 1000).unwrap();
    let Some(device) = Loop::of(&backing) else {
        eprintln!("skipped: there are no loop devices here, or not for this user");
        return;
    };
    let small = target::choose(&device.0, size + 1, target::Allowed::default()).unwrap_err().to_string();
    assert!(small.contains("the image needs"), "{small}");
    assert!(target::choose(&device.0, SIZE, target::Allowed { force: false, size: Some(size) }).is_err());
    let target = target::choose(&device.0, SIZE, target::Allowed::default()).unwrap();
    assert_eq!((target.size, target.device, &target.path), (size, true, &device.0));
    let folder = site.join("web");
    let job = Job::new(&image, &folder, "web").unwrap();
    job.write(&target.path, target.size, true, &mut |_, _, _| {}).unwrap();
    drop(device);
    let bytes = fs::read(&backing).unwrap();
    assert!(Table::parse(&bytes[..34 * 512]).is_ok());
    let at = usize::try_from(ALIGN).unwrap();
    assert_eq!(&bytes[at + 1000..at + 1003], &[0; 3]);
    assert_eq!(&bytes[at + 5_000_000..at + 5_000_008], b"a kernel");
}
