use super::*;
use crate::block::tests::sysfs;
use crate::gpt::Guid;
use crate::state::{ALIGN, MIN_SIZE};
use std::path::PathBuf;

const ESP: Guid = Guid(0xaaaa_bbbb_cccc_4ddd_8eee_ffff_0000_1111);
const SECTORS: u64 = 128 << 11;

fn part(id: Guid, first: u64, last: u64, name: &str) -> Partition {
    Partition { kind: gpt::LINUX, id, first, last, attributes: 0, name: name.into() }
}

/// An ESP of 8 MiB, then a state partition up to 64 MiB.
fn with_esp(id: Guid) -> Table {
    let partitions = vec![part(id, 2048, 18_431, "FFS-ESP web"), part(Guid(2), 18_432, (64 << 11) - 1, LABEL)];
    Table { id: Guid(1), partitions }
}

/// The disk `name` as sysfs has it, with the places of these partitions.
fn shown(name: &str, table: &Table) -> Vec<(String, String)> {
    let dir = format!("devices/x/{name}");
    let file = |path: String, content: String| (path, content);
    let mut files = vec![
        file(format!("{dir}/dev"), format!("254:{name}")),
        file(format!("{dir}/size"), SECTORS.to_string()),
        file(format!("{dir}/device/x"), String::new()),
    ];
    for (n, p) in (1..).zip(&table.partitions) {
        let part = format!("{dir}/{name}{n}");
        files.extend([
            file(format!("{part}/dev"), format!("254:{name}{n}")),
            file(format!("{part}/partition"), n.to_string()),
            file(format!("{part}/start"), p.first.to_string()),
            file(format!("{part}/size"), (p.last + 1 - p.first).to_string()),
        ]);
    }
    files
}

/// A machine with these disks: its sysfs and its /dev.
fn machine(disks: &[(&str, Table)]) -> (tempfile::TempDir, tempfile::TempDir) {
    let dev = tempfile::tempdir().unwrap();
    let mut files = Vec::new();
    for (name, table) in disks {
        files.extend(shown(name, table));
        let file = File::create(dev.path().join(name)).unwrap();
        file.set_len(SECTORS * SECTOR).unwrap();
        write_table(&file, &table.encode(SECTORS).unwrap(), SECTORS * SECTOR).unwrap();
    }
    let files: Vec<(&str, &str)> = files.iter().map(|(a, b)| (&**a, &**b)).collect();
    (sysfs(&files), dev)
}

#[test]
fn the_disk_that_was_booted_has_the_state() {
    let other = with_esp(Guid(7));
    let (sys, dev) =
        machine(&[("vda", with_esp(ESP)), ("vdb", other), ("vdc", Table { id: Guid(9), partitions: vec![] })]);
    // One whose medium is gone, or that is not partitioned, is no obstacle.
    fs::remove_file(dev.path().join("vdc")).unwrap();
    let found = candidates(&Questions::default(), sys.path(), dev.path()).unwrap();
    assert_eq!(found.iter().map(|f| &*f.partition.name).collect::<Vec<_>>(), ["vda2", "vdb2"]);
    assert_eq!(found[0].number, 2);
    let chosen = choose(found.clone(), Some(&ESP.to_string().to_uppercase())).unwrap().unwrap();
    assert_eq!(chosen.disk.name, "vda");
    let two = choose(found.clone(), None).unwrap_err().to_string();
    assert!(two.contains("vda2, vdb2"), "{two}");
    assert_eq!(choose(found.clone(), Some("00000000-0000-0000-0000-000000000000")).unwrap(), None);
    assert_eq!(choose(found[1..].to_vec(), None).unwrap().unwrap().disk.name, "vdb");
}

#[test]
fn a_disk_that_hangs_does_not_keep_the_machine_from_its_state() {
    let (sys, dev) = machine(&[("vda", with_esp(Guid(7))), ("vdb", with_esp(ESP))]);
    fs::remove_file(dev.path().join("vda")).unwrap();
    nix::unistd::mkfifo(&dev.path().join("vda"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let asked = Questions::default();
    for _ in 0..2 {
        let found = candidates(&asked, sys.path(), dev.path()).unwrap();
        assert_eq!(found.iter().map(|f| &*f.partition.name).collect::<Vec<_>>(), ["vdb2"]);
    }
}

#[test]
fn the_disk_that_was_booted_is_waited_for_longer() {
    assert!(patience(Some("ABCD")) >= Duration::from_secs(90) && patience(None) == Duration::from_secs(20));
    let refused = MountError::None("on any disk".into(), patience(None)).to_string();
    assert!(refused.contains("on any disk within 20 seconds"), "{refused}");
    // The file system is still to be checked and mounted then.
    let unit =
        concat!(env!("CARGO_MANIFEST_DIR"), "/../../image/rootfs/common/usr/lib/systemd/system/ffs-state.service");
    let unit = fs::read_to_string(unit).unwrap();
    let limit = unit.lines().find_map(|l| l.strip_prefix("TimeoutStartSec=")?.strip_suffix('s')?.parse().ok());
    assert!(Duration::from_secs(limit.unwrap()) >= APPEARS_BOOTED + ANSWERS + Duration::from_secs(90), "{limit:?}");
}

#[test]
fn two_on_the_booted_disk_stop_as_well() {
    let mut table = with_esp(ESP);
    table.partitions.push(part(Guid(3), 64 << 11, (96 << 11) - 1, LABEL));
    let (sys, dev) = machine(&[("nvme0n1p", table)]);
    let found = candidates(&Questions::default(), sys.path(), dev.path()).unwrap();
    assert!(matches!(choose(found, Some(&ESP.to_string())), Err(MountError::Several(_))));
}

#[test]
fn a_damaged_table_is_read_from_its_copy() {
    let (sys, dev) = machine(&[("vda", with_esp(ESP))]);
    let file = OpenOptions::new().write(true).open(dev.path().join("vda")).unwrap();
    file.write_all_at(&[0xff; 600], 512).unwrap();
    assert_eq!(candidates(&Questions::default(), sys.path(), dev.path()).unwrap()[0].table, with_esp(ESP));
    file.write_all_at(&[0xff; 600], (SECTORS - 1) * SECTOR - 88).unwrap();
    assert_eq!(candidates(&Questions::default(), sys.path(), dev.path()).unwrap(), []);
}

#[test]
fn what_the_boot_loader_said() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(booted(dir.path()).unwrap(), None);
    let mut bytes = vec![6, 0, 0, 0];
    bytes.extend("ABCD-12\0".encode_utf16().flat_map(u16::to_le_bytes));
    fs::write(dir.path().join(VARIABLE), bytes).unwrap();
    assert_eq!(booted(dir.path()).unwrap().as_deref(), Some("ABCD-12"));
    for nothing in [&[][..], &[6, 0, 0], &[6, 0, 0, 0], &[6, 0, 0, 0, 0, 0]] {
        fs::write(dir.path().join(VARIABLE), nothing).unwrap();
        assert_eq!(booted(dir.path()).unwrap(), None);
    }
}

#[test]
fn only_the_last_partition_grows_and_only_if_it_gains() {
    let table = with_esp(ESP);
    let end = |sectors| grown(&table, 18_432, sectors).map(|t| t.partitions[1].last + 1);
    // The copy of the table takes 33 sectors: of 128 MiB, 127 are left.
    assert_eq!(end(128 << 11), Some(127 << 11));
    assert_eq!(end((128 << 11) + gpt::TAIL), Some(128 << 11));
    assert_eq!(end((65 << 11) + gpt::TAIL - 1), None, "nothing to gain");
    assert_eq!(end((65 << 11) + gpt::TAIL), Some(65 << 11));
    assert_eq!(end(0), None);
    assert_eq!(grown(&table, 2048, 128 << 11), None, "it is not the last");
    assert!(grown(&table, 18_432, 128 << 11).unwrap().encode(128 << 11).is_ok());
}

/// A file with an ext4 file system.
fn ext4(home: &Path, size: u64) -> PathBuf {
    let path = home.join("fs");
    File::create(&path).unwrap().set_len(size).unwrap();
    let mkfs = tools::find("mkfs.ext4").unwrap();
    tools::run(&mkfs, &["-q", "-F", "-b", "4096", "-L", LABEL, &path.to_string_lossy()], b"").unwrap();
    path
}

#[test]
fn damage_is_repaired_or_named() {
    let home = tempfile::tempdir().unwrap();
    let path = ext4(home.path(), MIN_SIZE);
    assert_eq!(file_system_size(&path).unwrap(), MIN_SIZE);
    check(&path, false).unwrap();
    let file = OpenOptions::new().write(true).open(&path).unwrap();
    // A wrong count of free blocks is what a power cut may leave; it is set right.
    let debugfs = tools::find("debugfs").unwrap();
    let spoil = b"set_super_value free_blocks_count 7\nset_super_value state 0\n";
    tools::run(&debugfs, &["-w", "-f", "-", &path.to_string_lossy()], spoil).unwrap();
    check(&path, false).unwrap();
    check(&path, true).unwrap();
    // A root directory that is gone is beyond what is done without asking.
    tools::run(&debugfs, &["-w", "-f", "-", &path.to_string_lossy()], b"clri <2>\nset_super_value state 0\n").unwrap();
    let damaged = check(&path, true).unwrap_err();
    assert!(damaged.to_string().contains("ffsctl flash"), "{damaged}");
    file.write_all_at(&vec![0; usize::try_from(2 * ALIGN).unwrap()], 0).unwrap();
    assert!(matches!(check(&path, false), Err(MountError::Damaged { .. })));
}

/// On a disk as large as they come, and as where ext4 is not loaded yet: the host of this test has it, so resize2fs is told to write
/// all tables, too, which the order to write none overrides.
#[test]
fn a_large_disk_is_had_without_writing_it() {
    use std::os::unix::fs::MetadataExt;
    let home = tempfile::tempdir().unwrap();
    // As large as images have it.
    let path = ext4(home.path(), 192 << 20);
    let before = fs::metadata(&path).unwrap().blocks();
    let size = 64 << 30;
    OpenOptions::new().write(true).open(&path).unwrap().set_len(size).unwrap();
    check(&path, true).unwrap();
    enlarge(&path, &[("RESIZE2FS_FORCE_ITABLE_INIT", "1")]).unwrap();
    assert_eq!(file_system_size(&path).unwrap(), size);
    let written = (fs::metadata(&path).unwrap().blocks() - before) * 512;
    assert!(written < 64 << 20, "{written} bytes");
    check(&path, true).unwrap();
}

#[test]
fn an_identity_is_made_once() {
    let home = tempfile::tempdir().unwrap();
    let (state, system) = (home.path().join("state"), home.path().join("machine-id"));
    fs::create_dir(&state).unwrap();
    fs::write(&system, "0123456789abcdef0123456789abcdef and what systemd wrote\n").unwrap();
    identify(&state, &system).unwrap();
    let first = fs::read_to_string(&system).unwrap();
    assert!(is_machine_id(&first) && first.len() == 33, "{first}");
    assert_eq!(fs::read_to_string(state.join("machine-id")).unwrap(), first);
    fs::write(&system, "").unwrap();
    identify(&state, &system).unwrap();
    assert_eq!(fs::read_to_string(&system).unwrap(), first);
    // One that a power cut left empty is none.
    fs::remove_file(state.join("machine-id")).unwrap();
    fs::write(state.join("machine-id"), "").unwrap();
    identify(&state, &system).unwrap();
    assert_ne!(fs::read_to_string(&system).unwrap(), first);
    for bad in ["", "0123", "00000000000000000000000000000000", "0123456789ABCDEF0123456789abcdef"] {
        assert!(!is_machine_id(bad), "{bad}");
    }
    furnish(&state).unwrap();
    furnish(&state).unwrap();
    assert!(state.join("journal").is_dir() && state.join("lib").is_dir());
}
