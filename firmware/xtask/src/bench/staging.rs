//! How long staging takes, and that the size of the object does not matter: for the stager alone beside what its disk can do, which
//! is a benchmark of that crate, and for a customer's whole choice.

use super::{Row, crate_bench, median, of_crate, rows_of};
use crate::access::Access;
use crate::customer::Customer;
use crate::local::{Setup, directory};
use crate::test::cargo;
use crate::{host, test, up, workdir};
use anyhow::{Context, Result, bail};
use nix::sys::statvfs::statvfs;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

/// Where the stager is measured, if not on an XFS of its own.
const DIR: &str = "FFS_BENCH_DIR";

const XFS: &[host::Tool] = &[
    host::Tool::new("mkfs.xfs", "xfsprogs"),
    host::Tool::new("losetup", "mount"),
    host::Tool::new("unshare", "util-linux"),
];

/// Bytes of that XFS: the largest object, a copy of it, the smaller ones and some more.
const DISK: u64 = 24 << 30;
/// The least, for objects up to 64 MiB.
const LEAST: u64 = 2 << 30;
/// Bytes of its own disk that this machine keeps.
const KEPT: u64 = 4 << 30;

/// The loop device and the mount go with the last process in them. It is mounted as an appliance does it. All of its blocks are written
/// before: those of a disk are there, while a sparse file gets each when it is first written, with a commit of the host's file system.
const MOUNTED: &str = r#"
    dir=$1 size=$2; shift 2
    truncate --size "$size" "$dir/sparse"
    mkfs.xfs -q "$dir/sparse"
    cp --sparse=never --reflink=never "$dir/sparse" "$dir/disk"
    rm "$dir/sparse"
    sync "$dir/disk"
    mkdir "$dir/srv"
    loop=$(losetup --find --show --direct-io=on "$dir/disk")
    mount -o noatime,logbsize=256k "$loop" "$dir/srv" || { losetup --detach "$loop"; exit 1; }
    losetup --detach "$loop"
    FFS_BENCH_DIR=$dir/srv exec "$@"
"#;

/// How often each size is staged.
const TIMES: usize = 20;
/// The sizes in bytes.
const SIZES: [(&str, u64); 2] = [("2 KiB", 2 << 10), ("2 GiB", 2 << 30)];

pub(super) fn measure() -> Result<Vec<Row>> {
    let mut rows = stager()?;
    rows.extend(choice()?);
    Ok(rows)
}

/// The stager alone, on the file system that it is made for: an XFS of its own, mounted where nobody else sees it. Where that cannot be,
/// or `FFS_BENCH_DIR` names another place, it is measured there.
fn stager() -> Result<Vec<Row>> {
    if std::env::var_os(DIR).is_some() {
        return of_crate("stager", "staging");
    }
    if !nix::unistd::geteuid().is_root() {
        eprintln!("only root can mount an XFS: this is measured on the file system of target/, which is another");
        return of_crate("stager", "staging");
    }
    host::require(XFS)?;
    // Built before, so that nothing else happens on the disk then.
    let bench = crate_bench("stager", "staging");
    if !cargo().args(bench).arg("--no-run").status()?.success() {
        bail!("the benchmark cannot be built");
    }
    let dir = workdir().join("bench-xfs");
    if dir.exists() {
        std::fs::remove_dir_all(&dir)?;
    }
    std::fs::create_dir_all(&dir)?;
    let stat = statvfs(&dir)?;
    let room = (stat.blocks_available() * stat.fragment_size()).saturating_sub(KEPT);
    if room < LEAST {
        bail!("no room in {}: an XFS of {LEAST} bytes is made there and {KEPT} more stay free", dir.display());
    }
    eprintln!("an XFS of {} GiB, all of it written", DISK.min(room) >> 30);
    let cargo = cargo();
    let mut command = Command::new("unshare");
    command
        .args(["--mount", "sh", "-euc", MOUNTED, "sh"])
        .arg(&dir)
        .arg(DISK.min(room).to_string())
        .arg(cargo.get_program())
        .args(bench);
    let rows = rows_of(command.current_dir(crate::root())).with_context(|| {
        format!("on an XFS of its own, for which a loop device is needed; {DIR}=DIRECTORY names another place")
    });
    std::fs::remove_dir_all(&dir)?;
    rows
}

/// The whole of a customer's choice is timed, from his click to the page: portal, grants by the database, both leases by the stager.
fn choice() -> Result<Vec<Row>> {
    host::require(&host::local())?;
    let bins = test::build(true)?;
    host::become_root()?;
    let dir = directory(&workdir().join("bench"))?;
    let local = Setup::new(&bins, &dir).start()?;
    let rows = stage_all(local.access(), &dir);
    drop(local);
    std::fs::remove_dir_all(&dir)?;
    rows
}

fn stage_all(site: &Access, dir: &Path) -> Result<Vec<Row>> {
    site.operate(&["customer", "add", "bench"], "bench password\n")?;
    for (product, (name, size)) in ["small", "large"].into_iter().zip(SIZES) {
        eprintln!("an object of {name} goes into the storeroom");
        let file = dir.join(product);
        sparse_random_file(&file, size)?;
        site.operate(&["object", "put", &file.to_string_lossy(), "--product", product, "--version", "1"], "")?;
        site.operate(&["entitlement", "add", "bench", product, "--version", "1"], "")?;
        std::fs::remove_file(file)?;
    }
    let browser = Customer::new(&site.portal_url(), &site.ca(), &dir.join("jar"));
    browser.login("bench", "bench password")?;
    let csrf = browser.csrf()?;
    let mut times = [Vec::new(), Vec::new()];
    for _ in 0..TIMES {
        for (product, times) in ["small", "large"].into_iter().zip(&mut times) {
            let begin = Instant::now();
            let page = browser.choose_with(&csrf, product, "1")?;
            times.push(begin.elapsed().as_secs_f64() * 1000.0);
            if page.status != 200 {
                bail!("the portal answered {}", page.status);
            }
        }
    }
    let [small, large] = times.map(|mut t| median(&mut t));
    Ok(vec![Row {
        name: format!("a choice of {}", SIZES[1].0),
        value: large,
        unit: "ms".to_owned(),
        peer: format!("a choice of {}", SIZES[0].0),
        peer_value: small,
        ratio: large / small,
        n: TIMES,
    }])
}

/// Real bytes at both ends and once in each MiB, so that it is another file each time without taking long to make.
fn sparse_random_file(path: &Path, size: u64) -> Result<()> {
    use std::os::unix::fs::FileExt;
    up::random_file(path, size.min(4096))?;
    let file = std::fs::File::options().write(true).open(path)?;
    file.set_len(size)?;
    for at in (0..size).step_by(1 << 20) {
        file.write_all_at(&getrandom::u64()?.to_le_bytes(), at.min(size - 8))?;
    }
    Ok(())
}
