//! The disk image of a role: a partition table, an ESP with systemd-boot and the UKI, and room for the state partition, which
//! `ffsctl flash` fills. Identifiers are fixed here, so that the same input gives the same bytes; flashing makes fresh ones.

use super::tree::TIME;
use admin::gpt::{self, Guid, Partition, SECTOR, Table};
use anyhow::{Context, Result, bail};
use std::collections::BTreeSet;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, Stdio};

/// Bytes of the ESP: room for two UKIs and a third while an update is written.
pub(crate) const ESP: u64 = 320 << 20;
/// Bytes of the state partition; it is the last one, so that it can grow on a larger disk.
pub(crate) const STATE: u64 = 192 << 20;
/// Partitions begin at multiples of this.
pub(crate) const ALIGN: u64 = admin::state::ALIGN;
/// The type of an EFI system partition.
pub(crate) const ESP_KIND: Guid = Guid(0xc12a_7328_f81f_11d2_ba4b_00a0_c93e_c93b);
/// What everything that is fixed begins with: "FFS" and a number.
pub(crate) const ID: u128 = 0x4646_5300_0000_4000_8000_0000_0000_0000;

/// A program of the host with everything that would make its output differ from day to day set.
fn tool(program: &str) -> Result<Command> {
    let path = crate::host::find(program).with_context(|| format!("{program} is not installed"))?;
    let mut command = Command::new(path);
    command.env("SOURCE_DATE_EPOCH", TIME.to_string()).env("TZ", "UTC").env("MTOOLS_SKIP_CHECK", "1");
    Ok(command)
}

fn run(command: &mut Command) -> Result<()> {
    let output = command.output()?;
    if !output.status.success() {
        bail!("{command:?} failed: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

/// Writes a disk image with these files on its ESP, by path. The UKI is named so that it counts as good; updates bring others with
/// tries to count.
pub(crate) fn write(out: &Path, files: &[(String, Vec<u8>)], role: &str) -> Result<()> {
    let esp = out.with_extension("esp.tmp");
    make_esp(&esp, files)?;
    let first = |at: u64| at / SECTOR;
    let (begin, middle, end) = (ALIGN, ALIGN + ESP, ALIGN + ESP + STATE);
    let size = end + ALIGN;
    let partition = |n: u128, kind, from: u64, to: u64, name: &str| Partition {
        kind,
        id: Guid(ID + n),
        first: first(from),
        last: first(to) - 1,
        attributes: 0,
        name: name.to_owned(),
    };
    let partitions = vec![
        partition(1, ESP_KIND, begin, middle, &format!("{}{role}", admin::flash::ESP_NAME)),
        partition(2, gpt::LINUX, middle, end, admin::state::LABEL),
    ];
    let table = Table { id: Guid(ID), partitions }.encode(size / SECTOR)?;
    let partial = out.with_extension("img.tmp");
    let file = File::create(&partial)?;
    file.set_len(size)?;
    file.write_all_at(&table.head, 0)?;
    file.write_all_at(&table.tail, size - gpt::TAIL * SECTOR)?;
    copy_sparse(&File::open(&esp)?, &file, begin)?;
    std::fs::remove_file(esp)?;
    Ok(std::fs::rename(partial, out)?)
}

/// Copies a file into another, without writing what is zero.
fn copy_sparse(from: &File, to: &File, offset: u64) -> Result<()> {
    let mut block = vec![0; 1 << 20];
    let mut at = 0;
    loop {
        let n = from.read_at(&mut block, at)?;
        if n == 0 {
            return Ok(());
        }
        if block[..n].iter().any(|b| *b != 0) {
            to.write_all_at(&block[..n], offset + at)?;
        }
        at += u64::try_from(n)?;
    }
}

/// The ESP of a disk that was made here, as mtools take it.
fn esp_of(disk: &Path) -> std::ffi::OsString {
    let mut name = disk.as_os_str().to_owned();
    name.push(format!("@@{ALIGN}"));
    name
}

/// Reads a file of the ESP of a disk.
pub(super) fn read_esp(disk: &Path, path: &str) -> Result<Vec<u8>> {
    let output = tool("mtype")?.arg("-i").arg(esp_of(disk)).arg(format!("::{path}")).output()?;
    if !output.status.success() {
        bail!("{path} cannot be read: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(output.stdout)
}

/// Writes files of the ESP of a disk, and the folder that they are in.
pub(super) fn write_esp(disk: &Path, folder: &str, files: &[(&str, Vec<u8>)]) -> Result<()> {
    let dir = tempfile::tempdir()?;
    // It may be there already.
    let _ = run(tool("mmd")?.arg("-i").arg(esp_of(disk)).arg(format!("::{folder}")).stdin(Stdio::null()));
    for (name, bytes) in files {
        let from = dir.path().join(name);
        std::fs::write(&from, bytes)?;
        run(tool("mcopy")?.args(["-o", "-i"]).arg(esp_of(disk)).arg(&from).arg(format!("::{folder}/{name}")))?;
    }
    Ok(())
}

fn make_esp(esp: &Path, files: &[(String, Vec<u8>)]) -> Result<()> {
    File::create(esp)?.set_len(ESP)?;
    run(tool("mkfs.vfat")?.args(["-F", "32", "-n", "FFS-ESP", "-i", "46465300", "--invariant"]).arg(esp))?;
    let mut dirs = BTreeSet::from(["loader/entries"]);
    for (path, _) in files {
        dirs.extend(path.match_indices('/').map(|(at, _)| &path[..at]));
    }
    dirs.insert("loader");
    for dir in dirs {
        run(tool("mmd")?.arg("-i").arg(esp).arg(format!("::{dir}")))?;
    }
    let same_time = esp.with_extension("copy.tmp");
    for (path, bytes) in files {
        std::fs::write(&same_time, bytes)?;
        // It goes into the directory entries.
        let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(TIME.into());
        File::options().append(true).open(&same_time)?.set_modified(time)?;
        run(tool("mcopy")?.arg("-m").arg("-i").arg(esp).arg(&same_time).arg(format!("::{path}")))?;
    }
    Ok(std::fs::remove_file(same_time)?)
}
