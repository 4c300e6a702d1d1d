//! A file system whose disk hangs, by the kernel's own protocol (FUSE): `/whole` can be read, of `/hangs` only the beginning; who
//! reads on waits until the file system is gone.

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

/// Size of both files.
pub(crate) const SIZE: u64 = 8 << 20;
/// What can be read of the one that hangs.
pub(crate) const READABLE: u64 = 1 << 20;

const ROOT: u64 = 1;
const WHOLE: u64 = 2;
const HANGS: u64 = 3;

/// The mounted file system; gone when dropped, and then nobody waits for it any more.
pub(crate) struct Hanging(PathBuf);

impl Hanging {
    /// Mounts it over a directory. Needs root and /dev/fuse.
    pub(crate) fn over(directory: &Path) -> Self {
        let device = File::options().read(true).write(true).open("/dev/fuse").expect("/dev/fuse");
        let options = format!("fd={},rootmode=40000,user_id=0,group_id=0,allow_other", device.as_raw_fd());
        let flags = MsFlags::MS_NODEV | MsFlags::MS_NOSUID;
        mount(Some("hanging"), directory, Some("fuse"), flags, Some(options.as_str())).expect("root may mount");
        std::thread::spawn(move || serve(device));
        Self(directory.to_owned())
    }
}

impl Drop for Hanging {
    fn drop(&mut self) {
        let _ = umount2(&self.0, MntFlags::MNT_FORCE | MntFlags::MNT_DETACH);
    }
}

fn serve(mut device: File) {
    // The kernel hands nothing to a reader with less room than its largest request.
    let mut request = vec![0; 1 << 18];
    while let Ok(length) = device.read(&mut request) {
        let number = |at: usize| u64::from_le_bytes(request[at..at + 8].try_into().unwrap());
        let word = |at: usize| u32::from_le_bytes(request[at..at + 4].try_into().unwrap());
        let (opcode, unique, node, body) = (word(4), number(8), number(16), &request[40..length]);
        let answer = match opcode {
            // LOOKUP
            1 => match body.strip_suffix(&[0]) {
                Some(b"whole") => Ok(entry(WHOLE)),
                Some(b"hangs") => Ok(entry(HANGS)),
                _ => Err(libc::ENOENT),
            },
            // FORGET and BATCH_FORGET want no answer; an INTERRUPT does not end what hangs
            2 | 36 | 42 => continue,
            // GETATTR
            3 => Ok([&[0; 16][..], &attributes(node)].concat()),
            // OPEN and OPENDIR: a handle, and the flag that pages stay in the cache: an open(2) that throws them away would wait
            // for the one that is being read
            14 | 27 => Ok([0, 2_u64].map(u64::to_le_bytes).concat()),
            // READ
            15 => {
                let (offset, size) = (number(48), u64::from(word(56)));
                if node == HANGS && offset + size > READABLE {
                    continue;
                }
                Ok(vec![7; usize::try_from(size.min(SIZE.saturating_sub(offset))).unwrap()])
            }
            // INIT: version 7.31, nothing asked for, requests of up to 128 KiB
            26 => Ok(init()),
            // RELEASE, FLUSH, RELEASEDIR, ACCESS
            18 | 25 | 29 | 34 => Ok(Vec::new()),
            _ => Err(libc::ENOSYS),
        };
        let (error, data) = match answer {
            Ok(data) => (0, data),
            Err(errno) => (-errno, Vec::new()),
        };
        let length = u32::try_from(16 + data.len()).unwrap();
        let reply = [&length.to_le_bytes()[..], &error.to_le_bytes(), &unique.to_le_bytes(), &data].concat();
        if device.write_all(&reply).is_err() {
            return;
        }
    }
}

/// fuse_attr
fn attributes(node: u64) -> Vec<u8> {
    let (mode, size, links) =
        if node == ROOT { (libc::S_IFDIR | 0o755, 0, 2) } else { (libc::S_IFREG | 0o444, SIZE, 1) };
    let mut bytes = Vec::new();
    for number in [node, size, size / 512, 0, 0, 0] {
        bytes.extend_from_slice(&number.to_le_bytes());
    }
    for word in [0, 0, 0, mode, links, 0, 0, 0, 4096, 0_u32] {
        bytes.extend_from_slice(&word.to_le_bytes());
    }
    bytes
}

/// fuse_entry_out
fn entry(node: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    for number in [node, 0, 60, 60, 0] {
        bytes.extend_from_slice(&number.to_le_bytes());
    }
    bytes.extend(attributes(node));
    bytes
}

/// fuse_init_out
fn init() -> Vec<u8> {
    let mut bytes = Vec::new();
    for word in [7, 31, 1 << 17, 0, 0, 1 << 17, 1, 1_u32] {
        bytes.extend_from_slice(&word.to_le_bytes());
    }
    bytes.resize(64, 0);
    bytes
}
