//! What disks there are for data, and what is on them.

use super::plan::{Content, Disk, Inventory};
use super::record::{self, CURRENT};
use super::superblock::{self, Superblock};
use super::{StorageError, array, io_error};
use crate::block::{self, Block};
use crate::questions::Questions;
use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::Duration;

/// How much of both ends of a disk must be zeros for it to be blank.
pub(crate) const ENDS: u64 = 16 << 20;
/// Bytes that are read at once.
const BLOCK: usize = 1 << 20;
/// What is read of a superblock: with the roles of as many members as md allows (1920), and then some.
const SUPERBLOCK: usize = 8 << 10;
/// How long a disk may take to say whether it is a member. Those that turn have turned before: the kernel has read their tables.
const ANSWERS: Duration = Duration::from_secs(30);
/// The same where both of its ends are read, which is no proof of a disk that hangs where it takes a while.
const ANSWERS_DEEP: Duration = Duration::from_secs(90);

/// The disks that may be used for data: hardware, writable, not removable, and nothing of them mounted or built upon.
fn usable(blocks: &[Block], mounted: &BTreeSet<String>) -> Vec<Block> {
    let busy = |b: &Block| mounted.contains(&b.number) || !b.holders.is_empty();
    let part = |disk: &Block| blocks.iter().any(|b| b.parent.as_ref() == Some(&disk.name) && busy(b));
    let fit = |b: &&Block| b.physical && b.size > 0 && !b.read_only && !b.removable && !busy(b) && !part(b);
    blocks.iter().filter(fit).cloned().collect()
}

/// Whether a disk is at USB, by its place among the devices.
fn at_usb(sys: &Path, disk: &str) -> bool {
    let place = std::fs::canonicalize(sys.join("class/block").join(disk)).unwrap_or_default();
    let is_bus = |name: &str| name.strip_prefix("usb").is_some_and(|n| n.parse::<u32>().is_ok());
    place.iter().any(|part| part.to_str().is_some_and(is_bus))
}

/// Whether two names are of one disk: one with two ports is seen twice. Namespaces of NVMe share the serial number of their controller,
/// but each has a name in all the world.
fn same(sys: &Path, a: &Block, b: &Block) -> bool {
    let wwid = |disk: &Block| std::fs::read_to_string(sys.join("class/block").join(&disk.name).join("wwid")).ok();
    a.name != b.name && a.serial.is_some() && a.serial == b.serial && a.size == b.size && wwid(a) == wwid(b)
}

/// Leaves each disk once, lest it become its own mirror: by the name that is in use, else the first by which it can be read.
fn once(sys: &Path, disks: &mut [(Block, Content)], blocks: &[Block]) {
    for i in 0..disks.len() {
        let listed = |b: &Block| disks.iter().any(|(d, _)| d.name == b.name);
        let in_use = blocks.iter().find(|b| b.physical && !listed(b) && same(sys, b, &disks[i].0));
        let reads = |(_, content): &&(Block, Content)| !matches!(content, Content::Other(_));
        let earlier = || disks[..i].iter().filter(reads).map(|(b, _)| b).find(|b| same(sys, b, &disks[i].0));
        if let Some(name) = in_use.or_else(earlier).map(|b| b.name.clone()) {
            disks[i].1 = Content::Other(format!("it is {name} once more, by its serial number"));
        }
    }
}

/// What is on a disk. `deep`: whether to tell blank ones from others.
fn content(path: &Path, deep: bool) -> io::Result<Content> {
    let mut file = File::open(path)?;
    let size = file.seek(SeekFrom::End(0))?;
    let mut bytes = vec![0; SUPERBLOCK];
    if size >= superblock::OFFSET + SUPERBLOCK as u64 {
        file.read_exact_at(&mut bytes, superblock::OFFSET)?;
        if let Some(found) = Superblock::parse(&bytes) {
            return Ok(Content::Member(found));
        }
    }
    if !deep {
        return Ok(Content::Other("not looked at".into()));
    }
    let (mut block, zeros) = (vec![0; BLOCK], vec![0; BLOCK]);
    for (from, to) in [(0, ENDS.min(size)), (size.saturating_sub(ENDS), size)] {
        let mut at = from;
        while at < to {
            let n = BLOCK.min(usize::try_from(to - at).unwrap_or(BLOCK));
            file.read_exact_at(&mut block[..n], at)?;
            if block[..n] != zeros[..n] {
                let i = block.iter().position(|b| *b != 0).unwrap_or(0);
                return Ok(Content::Other(format!("there is something at byte {}", at + i as u64)));
            }
            at += n as u64;
        }
    }
    Ok(Content::Blank)
}

/// Makes a member blank again. Its superblock goes last: a disk on which this was cut is a member still, or blank.
///
/// # Errors
/// When it cannot be written.
pub(crate) fn wipe(path: &Path) -> io::Result<()> {
    let mut file = File::options().write(true).open(path)?;
    let size = file.seek(SeekFrom::End(0))?;
    let zeros = vec![0; BLOCK];
    for (from, to) in wiped(size) {
        let mut at = from;
        while at < to {
            let n = BLOCK.min(usize::try_from(to - at).unwrap_or(BLOCK));
            file.write_all_at(&zeros[..n], at)?;
            at += n as u64;
        }
        file.sync_all()?;
    }
    Ok(())
}

/// What is overwritten of a disk of this size, in this order.
fn wiped(size: u64) -> [(u64, u64); 4] {
    let superblock = (superblock::OFFSET, superblock::OFFSET + SUPERBLOCK as u64);
    let end = size.saturating_sub(ENDS).max(superblock.1);
    [(0, superblock.0), (superblock.1, ENDS.min(size)), (end, size), superblock].map(|(from, to)| (from, to.min(size)))
}

/// What is on these disks; of one that does not say so in time, that.
fn contents(asked: &Questions, disks: &[String], dev: &Path, within: Duration, deep: bool) -> Vec<Content> {
    let dev = dev.to_owned();
    let mut contents = asked.ask(disks, within, move |disk| content(&dev.join(disk), deep));
    let of = |disk| match contents.remove(disk) {
        Some(Ok(content)) => content,
        Some(Err(error)) => Content::Other(format!("it cannot be read: {error}")),
        None => Content::Other("it does not answer".into()),
    };
    disks.iter().map(of).collect()
}

/// Looks, which takes [`ANSWERS`] or [`ANSWERS_DEEP`] at most, and as long again for each who looks at the same time.
///
/// # Errors
/// When sysfs cannot be read. A disk that cannot be read is in the inventory, as such.
pub(crate) fn take(deep: bool) -> Result<Inventory, StorageError> {
    // One at a time: a disk that another one asks is none that does not answer.
    static ASKED: LazyLock<Mutex<Questions>> = LazyLock::new(Mutex::default);
    let asked = ASKED.lock().unwrap_or_else(PoisonError::into_inner);
    let sys = Path::new(block::SYS);
    let blocks = block::all(sys).map_err(io_error(sys))?;
    let mountinfo = "/proc/self/mountinfo";
    let mounted = std::fs::read_to_string(mountinfo).map_err(io_error(mountinfo))?;
    let mounted = block::mounts(&mounted).into_iter().map(|(number, _)| number).collect();
    let disks = usable(&blocks, &mounted);
    let names: Vec<String> = disks.iter().map(|b| b.name.clone()).collect();
    let within = if deep { ANSWERS_DEEP } else { ANSWERS };
    let contents = contents(&asked, &names, Path::new("/dev"), within, deep);
    let mut disks: Vec<(Block, Content)> = disks.into_iter().zip(contents).collect();
    once(sys, &mut disks, &blocks);
    let disk = |(b, content): (Block, Content)| Disk {
        usb: at_usb(sys, &b.name),
        name: b.name,
        serial: b.serial,
        size: b.size,
        discards: b.discards,
        content,
    };
    let disks = disks.into_iter().map(disk).collect();
    // What is not known is not held against any disk.
    let current = record::load(Path::new(CURRENT)).unwrap_or_else(|error| {
        tracing::warn!("which disks were up to date is not known: {}", daemon::report(&error));
        None
    });
    Ok(Inventory { disks, running: array::look(sys).map(|a| a.array), current })
}

#[cfg(test)]
mod tests {
    use super::super::superblock::Uuid;
    use super::*;

    #[test]
    fn which_disks_are_for_data() {
        let disk = |name: &str| Block {
            name: name.into(),
            number: format!("n:{name}"),
            size: 1 << 30,
            physical: true,
            ..Block::default()
        };
        let part = |name: &str, parent: &str| Block { parent: Some(parent.into()), physical: false, ..disk(name) };
        let blocks = [
            disk("boot"),
            part("boot2", "boot"),
            disk("free"),
            Block { read_only: true, ..disk("locked") },
            Block { removable: true, ..disk("stick") },
            Block { physical: false, ..disk("loop0") },
            Block { size: 0, ..disk("none") },
            Block { holders: vec!["md0".into()], ..disk("member") },
            disk("other"),
            Block { holders: vec!["dm-0".into()], ..part("other1", "other") },
            disk("whole"),
        ];
        let mounted = ["n:boot2".to_owned(), "n:whole".to_owned()].into();
        let names: Vec<String> = usable(&blocks, &mounted).into_iter().map(|b| b.name).collect();
        assert_eq!(names, ["free"]);
    }

    #[test]
    fn a_disk_that_is_seen_twice_is_one() {
        let disk = |name: &str, serial: Option<&str>, size| Block {
            name: name.into(),
            serial: serial.map(str::to_owned),
            size,
            physical: true,
            ..Block::default()
        };
        let blocks = [
            disk("sda", Some("S1"), 9),
            disk("sdb", Some("S2"), 9),
            disk("sdc", Some("S1"), 9),
            disk("sdd", Some("S2"), 8),
            disk("sde", None, 9),
            disk("sdf", None, 9),
            disk("sdg", Some("S1"), 9),
            disk("nvme0n1", Some("N"), 9),
            disk("nvme0n2", Some("N"), 9),
            disk("nvme1n1", Some("N"), 9),
        ];
        let wwid = |namespace: &str| format!("devices/x/{namespace}/wwid");
        let sys = block::tests::sysfs(&[
            ("devices/x/nvme0n1/dev", "1:1"),
            (&wwid("nvme0n1"), "eui.1\n"),
            ("devices/x/nvme0n2/dev", "1:2"),
            (&wwid("nvme0n2"), "eui.2\n"),
            ("devices/x/nvme1n1/dev", "1:3"),
            (&wwid("nvme1n1"), "eui.1\n"),
        ]);
        let twice = |of: &str| Content::Other(format!("it is {of} once more, by its serial number"));
        let look = |unread: &[&str], in_use: &[&str]| {
            let free = blocks.iter().filter(|b| !in_use.contains(&&*b.name));
            let content = |b: &Block| match unread.contains(&&*b.name) {
                true => Content::Other("it does not answer".into()),
                false => Content::Blank,
            };
            let mut disks: Vec<(Block, Content)> = free.map(|b| (b.clone(), content(b))).collect();
            once(sys.path(), &mut disks, &blocks);
            let other = |(b, c): (Block, Content)| (c != Content::Blank).then_some((b.name, c));
            disks.into_iter().filter_map(other).collect::<Vec<_>>()
        };
        let named = |name: &str, content: Content| (name.to_owned(), content);
        let nvme = named("nvme1n1", twice("nvme0n1"));
        assert_eq!(look(&[], &[]), [named("sdc", twice("sda")), named("sdg", twice("sda")), nvme.clone()]);
        let silent = Content::Other("it does not answer".into());
        assert_eq!(look(&["sda"], &[]), [named("sda", silent), named("sdg", twice("sdc")), nvme.clone()]);
        assert_eq!(look(&[], &["sdc"]), [named("sda", twice("sdc")), named("sdg", twice("sdc")), nvme]);
    }

    #[test]
    fn which_disks_are_at_usb() {
        let pci = "devices/pci0000:00/0000:00:14.0";
        let disks = ["usb2/2-1/2-1:1.0/host6/block/sdb", "ata1/host0/block/sda", "usbless/block/sdc"];
        let files = disks.map(|disk| (format!("{pci}/{disk}/dev"), "8:0\n"));
        let sys = block::tests::sysfs(&files.each_ref().map(|(path, text)| (&**path, *text)));
        let at_usb = |disk| at_usb(sys.path(), disk);
        assert_eq!(["sda", "sdb", "sdc", "gone"].map(at_usb), [false, true, false, false]);
    }

    #[test]
    fn a_member_is_wiped_and_its_superblock_goes_last() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let size = 2 * ENDS + (1 << 20);
        for size in [size, ENDS + 5, 1 << 20] {
            file.as_file().set_len(0).unwrap();
            file.as_file().write_all_at(&vec![7; usize::try_from(size).unwrap()], 0).unwrap();
            let sb = superblock::tests::sample(Uuid([3; 16]), 1, 2);
            file.as_file().write_all_at(&sb, superblock::OFFSET).unwrap();
            for (from, to) in wiped(size) {
                assert!(matches!(content(file.path(), true).unwrap(), Content::Member(_)), "cut before {from}");
                let zeros = vec![0; usize::try_from(to.saturating_sub(from)).unwrap()];
                file.as_file().write_all_at(&zeros, from).unwrap();
            }
            assert_eq!(content(file.path(), true).unwrap(), Content::Blank);
            file.as_file().write_all_at(&vec![7; usize::try_from(size).unwrap()], 0).unwrap();
            file.as_file().write_all_at(&sb, superblock::OFFSET).unwrap();
            wipe(file.path()).unwrap();
            assert_eq!(content(file.path(), true).unwrap(), Content::Blank);
            assert_eq!(file.as_file().metadata().unwrap().len(), size);
        }
    }

    #[test]
    fn a_disk_that_hangs_or_is_gone_is_not_blank() {
        let dev = tempfile::tempdir().unwrap();
        nix::unistd::mkfifo(&dev.path().join("hangs"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        File::create(dev.path().join("blank")).unwrap().set_len(2 * ENDS).unwrap();
        let disks = ["hangs", "blank", "gone"].map(str::to_owned);
        let asked = Questions::default();
        let look = |disks: &[String], within| contents(&asked, disks, dev.path(), within, true);
        let silent = Content::Other("it does not answer".into());
        for _ in 0..2 {
            let found = look(&disks[..1], Duration::from_millis(1));
            assert_eq!(found, std::slice::from_ref(&silent));
        }
        let found = look(&disks[1..], Duration::from_secs(60));
        assert_eq!(found[0], Content::Blank);
        assert!(matches!(&found[1], Content::Other(why) if why.contains("cannot be read")), "{found:?}");
    }

    #[test]
    fn blank_is_blank_at_both_ends() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let size = 2 * ENDS + (1 << 20);
        file.as_file().set_len(size).unwrap();
        let look = || content(file.path(), true).unwrap();
        assert_eq!(look(), Content::Blank);
        let mark = |at: u64, byte: u8| file.as_file().write_all_at(&[byte], at).unwrap();
        for at in [0, ENDS - 1, size - ENDS, size - 1] {
            mark(at, 1);
            assert_eq!(look(), Content::Other(format!("there is something at byte {at}")));
            mark(at, 0);
        }
        mark(ENDS, 1);
        assert_eq!(look(), Content::Blank, "the middle is not looked at");
        let sb = superblock::tests::sample(Uuid([3; 16]), 1, 2);
        file.as_file().write_all_at(&sb, superblock::OFFSET).unwrap();
        assert!(matches!(look(), Content::Member(s) if s.array == Uuid([3; 16])));
        assert!(content(Path::new("/nonexistent"), true).is_err());
        // Smaller than both ends together.
        let small = tempfile::NamedTempFile::new().unwrap();
        small.as_file().set_len(1 << 20).unwrap();
        assert_eq!(content(small.path(), true).unwrap(), Content::Blank);
    }
}
