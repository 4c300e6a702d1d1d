//! What the disk does without a stager.

use nix::fcntl::{FallocateFlags, fallocate};
use nix::sys::statvfs::statvfs;
use sha2::{Digest, Sha256 as Hasher};
use std::fs::{DirBuilder, File, OpenOptions};
use std::os::unix::fs::{DirBuilderExt, FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tobj::Sha256;

/// What stays free in bytes, for the ledger and the links.
const SPARE: u64 = 1 << 30;

/// Puts objects of zeros into a storeroom that nobody serves yet; the first start takes them in.
pub(crate) fn objects(root: &Path, sizes: &[(&'static str, u64)]) -> Vec<(&'static str, u64, Sha256)> {
    let stat = statvfs(root).unwrap();
    let mut free = stat.blocks_available() * stat.fragment_size();
    let (mut hasher, mut hashed, zeros) = (Hasher::new(), 0, vec![0; 1 << 20]);
    let mut made = Vec::new();
    for &(name, size) in sizes {
        // Twice: `cp` makes another one.
        if 2 * size + SPARE > free {
            eprintln!("an object of {name} is left out: {free} bytes are free");
            continue;
        }
        free -= size;
        eprintln!("an object of {name}");
        while hashed < size {
            let most = usize::try_from(size - hashed).map_or(zeros.len(), |left| left.min(zeros.len()));
            hasher.update(&zeros[..most]);
            hashed += most as u64;
        }
        let hash: [u8; 32] = hasher.clone().finalize().into();
        let sha256 = Sha256::from(hash);
        let path = path_of(root, sha256);
        DirBuilder::new().recursive(true).mode(0o700).create(path.parent().unwrap()).unwrap();
        let file = File::create_new(&path).unwrap();
        fallocate(&file, FallocateFlags::empty(), 0, i64::try_from(size).unwrap()).unwrap();
        file.set_permissions(std::fs::Permissions::from_mode(0o444)).unwrap();
        file.sync_all().unwrap();
        made.push((name, size, sha256));
    }
    // The stager makes a ledger only where there is nothing that one would explain.
    let (storeroom, aside) = (root.join("storeroom"), root.join("aside"));
    std::fs::rename(&storeroom, &aside).unwrap();
    drop(stager::Storage::open(&empty(root), &|| {}).unwrap());
    std::fs::remove_dir(&storeroom).unwrap();
    std::fs::rename(&aside, &storeroom).unwrap();
    made
}

fn empty(root: &Path) -> stager::config::Config {
    daemon::config::load(&root.parent().unwrap().join("stagerd.toml")).unwrap()
}

fn path_of(root: &Path, sha256: Sha256) -> PathBuf {
    let name = sha256.to_string();
    root.join("storeroom").join(&name[..2]).join(name)
}

/// Copies an object as somebody would who cannot link, and syncs the copy.
pub(crate) fn copy(root: &Path, sha256: Sha256) -> Duration {
    let to = root.join("copy");
    let begun = Instant::now();
    let cp =
        Command::new("cp").args(["--sparse=never", "--reflink=never"]).arg(path_of(root, sha256)).arg(&to).status();
    assert!(cp.unwrap().success(), "cp failed");
    File::open(&to).unwrap().sync_all().unwrap();
    let took = begun.elapsed();
    std::fs::remove_file(to).unwrap();
    took
}

/// A page that is written and synced again and again.
pub(crate) struct Page {
    file: File,
    count: u8,
}

impl Page {
    pub(crate) fn new(dir: &Path, name: &str) -> Self {
        let file = OpenOptions::new().create_new(true).write(true).open(dir.join(name)).unwrap();
        file.write_all_at(&[0; 4096], 0).unwrap();
        file.sync_all().unwrap();
        Self { file, count: 0 }
    }

    /// One `fdatasync` of it.
    pub(crate) fn sync(&mut self) -> Duration {
        self.count = self.count.wrapping_add(1);
        self.file.write_all_at(&[self.count; 4096], 0).unwrap();
        let begun = Instant::now();
        self.file.sync_data().unwrap();
        begun.elapsed()
    }
}

/// What a staging does on the disk, and nothing else.
pub(crate) struct Steps {
    log: Page,
    tickets: PathBuf,
    object: PathBuf,
    next: u64,
}

impl Steps {
    pub(crate) fn new(parent: &Path) -> Self {
        let (tickets, object) = (parent.join("steps"), parent.join("linked"));
        std::fs::create_dir(&tickets).unwrap();
        std::fs::write(&object, [7; 1024]).unwrap();
        Self { log: Page::new(parent, "log"), tickets, object, next: 0 }
    }

    /// One staging.
    pub(crate) fn take(&mut self) -> Duration {
        self.next += 1;
        let ticket = self.tickets.join(self.next.to_string());
        let begun = Instant::now();
        self.log.sync();
        std::fs::create_dir(&ticket).unwrap();
        std::fs::hard_link(&self.object, ticket.join("file")).unwrap();
        for dir in [&ticket, &self.tickets] {
            File::open(dir).unwrap().sync_all().unwrap();
        }
        begun.elapsed()
    }
}

/// Links without leases: a directory and a link each, in batches that are synced by several threads.
pub(crate) struct Bare {
    dir: PathBuf,
    object: PathBuf,
    next: u64,
    tasks: Sender<Task>,
}

/// A directory to be synced, and who is told.
type Task = (PathBuf, Sender<()>);

/// As many as make it fast on file systems of all kinds.
const THREADS: usize = 16;

impl Bare {
    pub(crate) fn new(parent: &Path) -> Self {
        let (dir, object) = (parent.join("bare"), parent.join("object"));
        std::fs::create_dir(&dir).unwrap();
        std::fs::write(&object, [7; 1024]).unwrap();
        let (tasks, queue) = channel::<Task>();
        let queue: Arc<Mutex<Receiver<Task>>> = Arc::new(Mutex::new(queue));
        for _ in 0..THREADS {
            let queue = queue.clone();
            std::thread::spawn(move || {
                loop {
                    let Ok((dir, done)) = queue.lock().unwrap().recv() else { return };
                    File::open(dir).unwrap().sync_all().unwrap();
                    done.send(()).unwrap();
                }
            });
        }
        Self { dir, object, next: 0, tasks }
    }

    /// One batch, durable at its end.
    pub(crate) fn batch(&mut self, links: usize) {
        let (done, results) = channel();
        let mut dirs = vec![self.dir.clone()];
        for _ in 0..links {
            self.next += 1;
            let ticket = self.dir.join(self.next.to_string());
            std::fs::create_dir(&ticket).unwrap();
            std::fs::hard_link(&self.object, ticket.join("file")).unwrap();
            dirs.push(ticket);
        }
        for dir in dirs {
            self.tasks.send((dir, done.clone())).unwrap();
        }
        drop(done);
        assert_eq!(results.iter().count(), links + 1);
    }
}
