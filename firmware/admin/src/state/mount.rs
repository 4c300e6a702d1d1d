//! At the start of a machine: its state partition is found, checked, grown and mounted (`admind state`).
//!
//! It is the one on the disk whose ESP was booted: systemd's stub leaves the identifier of that partition in an EFI variable. A
//! machine whose kernel was loaded otherwise has no such variable; there it is the only partition with the label. Two of them stop
//! with a message, since the wrong one would make this machine another.
//!
//! Then, in this order: the file system is checked; where the partition is the last of a disk that is larger, the table is written
//! anew (its copy first), the kernel is told, and the file system is made larger; it is mounted at [`MOUNT`]. A power cut between any
//! two of these steps is mended by the next start.
//!
//! The clock is set forward where it cannot be right ([`clock`]), and a factory reset that was ordered is carried out ([`reset`]).
//!
//! Beside `site/` there are then on it: `machine-id`, made once, which also becomes that of the running system (so `/etc` must be
//! writable then, and journald start later); `journal/` for systemd-journald and `lib/` for what daemons keep.

use super::{LABEL, StateError, clock, io_error, reset};
use crate::block::{self, Block};
use crate::gpt::{self, Encoded, GptError, Partition, SECTOR, Table};
use crate::questions::Questions;
use crate::tools::{self, ToolError};
use crate::{blkpg, durable};
use nix::mount::{MsFlags, mount};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

/// Where it is mounted.
pub const MOUNT: &str = "/state";
/// How long a disk may take to appear, where nobody knows that there is one.
const APPEARS: Duration = Duration::from_secs(20);
/// The same of the disk that was booted, which is certainly there: an HBA that counts its disks, or a USB stick that is slow, may
/// take a minute. `ffs-state.service` has more than that.
const APPEARS_BOOTED: Duration = Duration::from_secs(90);
/// How often is looked.
const LOOK: Duration = Duration::from_millis(50);
/// How long is waited for a disk that was found. One that takes longer is looked at again once it has answered.
const ANSWERS: Duration = Duration::from_secs(10);
/// A partition grows when it would gain at least this many bytes.
const WORTH: u64 = 1 << 20;
/// The EFI variable with the identifier of the ESP that was booted (systemd's boot loader interface).
const VARIABLE: &str = "LoaderDevicePartUUID-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f";
/// Where EFI variables are.
const EFIVARS: &str = "/sys/firmware/efi/efivars";

/// Why a machine has no state.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// There is none.
    #[error("no state partition ({LABEL}) {0} within {n} seconds; write this machine's disk with `ffsctl flash`", n = .1.as_secs())]
    None(String, Duration),
    /// There are several.
    #[error(
        "several state partitions ({LABEL}): {0}; take out the disks that are not this machine's, or boot from its own"
    )]
    Several(String),
    /// A file or device.
    #[error(transparent)]
    State(#[from] StateError),
    /// The table of its disk.
    #[error("the partition table of {disk} cannot be written")]
    Table {
        /// The disk.
        disk: String,
        /// Why.
        #[source]
        source: GptError,
    },
    /// The file system is damaged.
    #[error("the file system on {device} is damaged; write this machine's disk again with `ffsctl flash`")]
    Damaged {
        /// The partition.
        device: String,
        /// What the check said.
        #[source]
        source: ToolError,
    },
    /// A program.
    #[error("the state partition cannot be prepared")]
    Tool(#[from] ToolError),
    /// No randomness for a machine's identity.
    #[error("no randomness")]
    Random(#[from] getrandom::Error),
}

fn failed(path: &Path) -> impl FnOnce(io::Error) -> MountError {
    let error = io_error(path);
    move |source| error(source).into()
}

/// A state partition.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Found {
    disk: Block,
    partition: Block,
    /// Its number, from 1.
    number: u32,
    /// The table of its disk.
    table: Table,
}

/// The table of a disk: the first, or its copy where that is damaged.
fn table(path: &Path) -> io::Result<Result<Table, GptError>> {
    let mut file = File::open(path)?;
    let sectors = file.seek(SeekFrom::End(0))? / SECTOR;
    let bytes = |sectors: u64, at: u64| {
        let mut bytes = vec![0; usize::try_from(sectors * SECTOR).unwrap_or(0)];
        file.read_exact_at(&mut bytes, at * SECTOR).map(|()| bytes)
    };
    let first = Table::parse(&bytes(gpt::HEAD, 0)?);
    if first.is_ok() || sectors < gpt::HEAD + gpt::TAIL {
        return Ok(first);
    }
    Ok(Table::parse_copy(&bytes(gpt::TAIL, sectors - gpt::TAIL)?, sectors).or(first))
}

/// The tables of all disks. A disk that cannot be read, does not answer or has no table is not the one that was booted.
fn tables(asked: &Questions, blocks: &[Block], dev: &Path) -> Vec<(Block, Table)> {
    let disks = blocks.iter().filter(|b| b.physical && b.size > 0);
    let names: Vec<String> = disks.clone().map(|b| b.name.clone()).collect();
    let dev = dev.to_owned();
    let mut tables = asked.ask(&names, ANSWERS, move |disk| table(&dev.join(disk)));
    disks.filter_map(|disk| Some((disk.clone(), tables.remove(&disk.name)?.ok()?.ok()?))).collect()
}

/// The partition at this place of a disk.
fn partition<'a>(blocks: &'a [Block], disk: &Block, entry: &Partition) -> Option<&'a Block> {
    blocks.iter().find(|b| b.parent.as_deref() == Some(&*disk.name) && b.start == entry.first * SECTOR)
}

/// The state partitions of all disks.
fn candidates(asked: &Questions, sys: &Path, dev: &Path) -> io::Result<Vec<Found>> {
    let blocks = block::all(sys)?;
    let mut found = Vec::new();
    for (disk, table) in tables(asked, &blocks, dev) {
        for entry in table.partitions.iter().filter(|p| p.name == LABEL && p.kind == gpt::LINUX) {
            let Some(partition) = partition(&blocks, &disk, entry) else { continue };
            let digits = partition.name.rsplit(|c: char| !c.is_ascii_digit()).next().unwrap_or_default();
            let Ok(number) = digits.parse() else { continue };
            found.push(Found { disk: disk.clone(), partition: partition.clone(), number, table: table.clone() });
        }
    }
    Ok(found)
}

/// The one that is meant: on the disk with the booted ESP, else the only one.
fn choose(mut found: Vec<Found>, booted: Option<&str>) -> Result<Option<Found>, MountError> {
    if let Some(esp) = booted {
        let is_booted = |p: &Partition| p.id.to_string().eq_ignore_ascii_case(esp);
        found.retain(|f| f.table.partitions.iter().any(is_booted));
    }
    if found.len() > 1 {
        let names: Vec<&str> = found.iter().map(|f| &*f.partition.name).collect();
        return Err(MountError::Several(names.join(", ")));
    }
    Ok(found.pop())
}

/// The identifier of the ESP that was booted; `None` where systemd's boot loader had no part in it.
fn booted(efivars: &Path) -> io::Result<Option<String>> {
    let bytes = match fs::read(efivars.join(VARIABLE)) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    // Four bytes of attributes, then UTF-16 with a NUL.
    let units = bytes.get(4..).unwrap_or_default().chunks_exact(2).map(|u| u16::from_le_bytes([u[0], u[1]]));
    let text = String::from_utf16_lossy(&units.take_while(|u| *u != 0).collect::<Vec<_>>());
    Ok((!text.is_empty()).then_some(text))
}

/// The ESP that was booted; `None` where systemd's boot loader had no part in it.
///
/// # Errors
/// When the variables or the disks cannot be read, or that partition is no longer there.
pub(crate) fn booted_esp() -> io::Result<Option<Block>> {
    // For as long as the process runs: a disk that hangs is not asked again by each who wants to know.
    static ASKED: LazyLock<Questions> = LazyLock::new(Questions::default);
    let efivars = Path::new(EFIVARS);
    // Also where this machine's state was not found: the health gate then has to know what was booted all the more.
    show_variables(efivars)?;
    let Some(esp) = booted(efivars)? else { return Ok(None) };
    let blocks = block::all(Path::new(block::SYS))?;
    for (disk, table) in tables(&ASKED, &blocks, Path::new("/dev")) {
        if let Some(entry) = table.partitions.iter().find(|p| p.id.to_string().eq_ignore_ascii_case(&esp)) {
            return Ok(Some(partition(&blocks, &disk, entry).cloned().ok_or(io::ErrorKind::NotFound)?));
        }
    }
    Err(io::Error::new(io::ErrorKind::NotFound, format!("no disk has the partition {esp} that was booted")))
}

/// Makes the EFI variables visible, where the firmware has some and nobody did so before.
fn show_variables(efivars: &Path) -> io::Result<()> {
    if fs::read_dir(efivars).is_ok_and(|mut dir| dir.next().is_none()) {
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
        mount(Some("efivarfs"), efivars, Some("efivarfs"), flags, None::<&str>)?;
    }
    Ok(())
}

/// How long is waited for the disk.
fn patience(booted: Option<&str>) -> Duration {
    if booted.is_some() { APPEARS_BOOTED } else { APPEARS }
}

/// Waits until it is there.
fn locate() -> Result<Found, MountError> {
    let efivars = Path::new(EFIVARS);
    show_variables(efivars).map_err(failed(efivars))?;
    let esp = booted(efivars).map_err(failed(efivars))?;
    let (sys, begin, asked) = (Path::new(block::SYS), Instant::now(), Questions::default());
    loop {
        let found = candidates(&asked, sys, Path::new("/dev")).map_err(failed(sys))?;
        if let Some(found) = choose(found, esp.as_deref())? {
            return Ok(found);
        }
        let patience = patience(esp.as_deref());
        if begin.elapsed() >= patience {
            let where_ = esp.map(|esp| format!("on the disk that was booted (ESP {esp})"));
            return Err(MountError::None(where_.unwrap_or_else(|| "on any disk".to_owned()), patience));
        }
        std::thread::sleep(LOOK);
    }
}

/// The table in which the last partition reaches to the end of a disk of so many sectors; `None` where there is nothing to gain.
fn grown(table: &Table, first: u64, sectors: u64) -> Option<Table> {
    let align = super::ALIGN / SECTOR;
    // The copy of the table has the last sectors; the end is aligned as the begin is.
    let end = (sectors.checked_sub(gpt::TAIL)? / align * align).checked_sub(1)?;
    let last = table.last()?;
    if last.first != first || end < last.last + WORTH / SECTOR {
        return None;
    }
    let mut table = table.clone();
    table.partitions.iter_mut().filter(|p| p.first == first).for_each(|p| p.last = end);
    Some(table)
}

/// Writes a table, its copy first, so that one of them is whole at any time.
pub(crate) fn write_table(file: &File, table: &Encoded, size: u64) -> io::Result<()> {
    file.write_all_at(&table.tail, size - gpt::TAIL * SECTOR)?;
    file.sync_all()?;
    file.write_all_at(&table.head, 0)?;
    file.sync_all()
}

/// Makes the partition as large as its disk allows; gives its size then.
fn grow(found: &Found) -> Result<u64, MountError> {
    let first = found.partition.start / SECTOR;
    let Some(table) = grown(&found.table, first, found.disk.size / SECTOR) else { return Ok(found.partition.size) };
    let path = found.disk.path();
    let refused = |source| MountError::Table { disk: found.disk.name.clone(), source };
    let encoded = table.encode(found.disk.size / SECTOR).map_err(refused)?;
    let disk = OpenOptions::new().read(true).write(true).open(&path).map_err(failed(&path))?;
    write_table(&disk, &encoded, found.disk.size).map_err(failed(&path))?;
    let last = table.partitions.iter().find(|p| p.first == first).map_or(first, |p| p.last);
    let size = (last + 1 - first) * SECTOR;
    blkpg::resize(&disk, found.number, found.partition.start, size).map_err(failed(&path))?;
    tracing::info!(partition = found.partition.name, mib = size >> 20, "the state partition has grown");
    Ok(size)
}

/// Bytes of the ext4 file system in a partition, from its superblock.
fn file_system_size(device: &Path) -> io::Result<u64> {
    let mut block = [0; 1024];
    File::open(device)?.read_exact_at(&mut block, 1024)?;
    let word = |at: usize| u64::from(u32::from_le_bytes([block[at], block[at + 1], block[at + 2], block[at + 3]]));
    Ok((word(4) | word(0x150) << 32) << (10 + word(24).min(6)))
}

/// e2fsck's exit status: 0 and 1 are a file system in order, 1 after something was corrected.
fn check(device: &Path, force: bool) -> Result<(), MountError> {
    let e2fsck = tools::find("e2fsck").ok_or(StateError::Missing("e2fsck"))?;
    let name = device.to_string_lossy();
    let arguments: &[&str] = if force { &["-f", "-p", &name] } else { &["-p", &name] };
    match tools::run(&e2fsck, arguments, b"") {
        Err(ToolError::Failed { status, said, .. }) if status.code() == Some(1) => {
            tracing::warn!(said, "the state partition was repaired");
            Ok(())
        }
        Err(source) => Err(MountError::Damaged { device: name.into_owned(), source }),
        Ok(_) => Ok(()),
    }
}

/// Makes the file system as large as its device, without writing the tables of new inodes: on a large disk those are gigabytes of
/// zeros, more than a start has time for. The kernel writes them at its leisure once the file system is mounted. By itself resize2fs
/// leaves them to it only if ext4 is loaded already, which nothing but the mount to come does. `more`: of its environment.
fn enlarge(device: &Path, more: &[(&str, &str)]) -> Result<(), MountError> {
    let resize2fs = tools::find("resize2fs").ok_or(StateError::Missing("resize2fs"))?;
    let environment = [&[("RESIZE2FS_FORCE_LAZY_ITABLE_INIT", "1")], more].concat();
    tools::run_with(&resize2fs, &[&device.to_string_lossy()], &environment, b"")?;
    Ok(())
}

/// Finds, checks, grows and mounts the state partition, and gives this machine its identity.
///
/// # Errors
/// [`MountError`]: the machine does not know who it is, and nothing else may start.
pub fn run() -> Result<(), MountError> {
    let found = locate()?;
    let device = found.partition.path();
    let size = grow(&found)?;
    let small = file_system_size(&device).map_err(failed(&device))? + super::ALIGN <= size;
    check(&device, small)?;
    if small {
        enlarge(&device, &[])?;
    }
    let flags = MsFlags::MS_NODEV | MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC | MsFlags::MS_NOATIME;
    let at = Path::new(MOUNT);
    mount(Some(&device), at, Some("ext4"), flags, None::<&str>).map_err(|e| failed(at)(e.into()))?;
    tracing::info!(partition = found.partition.name, mib = size >> 20, "the state partition is mounted");
    clock::advance(at);
    if reset::carry_out(at).map_err(failed(at))? {
        tracing::warn!("factory reset: settings and journal are gone; site, key bags and data disks stay");
    }
    furnish(at)?;
    identify(at, Path::new("/etc/machine-id"))
}

/// The directories beside the site.
fn furnish(state: &Path) -> Result<(), MountError> {
    for name in ["journal", "lib"] {
        let dir = state.join(name);
        if !dir.is_dir() {
            fs::create_dir(&dir).map_err(failed(&dir))?;
        }
    }
    Ok(())
}

/// Whether this is what machine-id(5) wants.
fn is_machine_id(text: &str) -> bool {
    let id = text.trim_end();
    id.len() == 32 && id.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) && id.bytes().any(|b| b != b'0')
}

/// Makes the machine's identity if it has none, and writes it where the running system looks for it.
fn identify(state: &Path, system: &Path) -> Result<(), MountError> {
    let kept = state.join("machine-id");
    let id = match fs::read_to_string(&kept) {
        Ok(id) if is_machine_id(&id) => id,
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(&kept)(error)),
        _ => {
            let id = format!("{}\n", gpt::Guid::random()?.to_string().replace('-', ""));
            durable::write(&kept, id.as_bytes(), 0o444).map_err(failed(&kept))?;
            id
        }
    };
    // In place, not by a new file: it may be a mount of its own that systemd made.
    let file = OpenOptions::new().write(true).create(true).truncate(true).open(system).map_err(failed(system))?;
    file.write_all_at(id.as_bytes(), 0).map_err(failed(system))
}

#[cfg(test)]
mod tests;
