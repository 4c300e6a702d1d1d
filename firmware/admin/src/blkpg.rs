//! Telling the kernel that a partition has become larger (`BLKPG_RESIZE_PARTITION` of linux/blkpg.h).
//!
//! Reading the whole table anew (`BLKRRPART`) is refused as long as any partition of the disk is in use.

#![allow(unsafe_code, reason = "an ioctl that no safe interface has")]

use nix::libc::{c_int, c_longlong, c_void};
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

const RESIZE_PARTITION: c_int = 3;

/// `struct blkpg_partition`.
#[repr(C)]
struct Partition {
    start: c_longlong,
    length: c_longlong,
    number: c_int,
    name: [u8; 64],
    volume: [u8; 64],
}

/// `struct blkpg_ioctl_arg`.
#[repr(C)]
struct Argument {
    op: c_int,
    flags: c_int,
    length: c_int,
    data: *const c_void,
}

mod raw {
    // `_IO(0x12, 105)`; it takes a pointer all the same.
    nix::ioctl_write_ptr_bad!(blkpg, 0x1269, super::Argument);
}

/// Gives the partition of this number its place, in bytes. It may be in use.
///
/// # Errors
/// When the kernel refuses.
pub(crate) fn resize(disk: &File, number: u32, start: u64, length: u64) -> io::Result<()> {
    let large = |_| io::Error::from(io::ErrorKind::InvalidInput);
    let partition = Partition {
        start: start.try_into().map_err(large)?,
        length: length.try_into().map_err(large)?,
        number: number.try_into().map_err(large)?,
        name: [0; 64],
        volume: [0; 64],
    };
    let argument = Argument {
        op: RESIZE_PARTITION,
        flags: 0,
        length: size_of::<Partition>().try_into().map_err(large)?,
        data: (&raw const partition).cast(),
    };
    // SAFETY: both structures have the layout of linux/blkpg.h and outlive the call; the kernel only reads them.
    unsafe { raw::blkpg(disk.as_raw_fd(), &raw const argument) }?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layout_and_refusal() {
        assert_eq!(size_of::<Partition>(), 152);
        assert_eq!((size_of::<Argument>(), std::mem::offset_of!(Argument, data)), (24, 16));
        let file = tempfile::tempfile().unwrap();
        let refused = resize(&file, 1, 0, 512).unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(nix::libc::ENOTTY), "a file has no partitions: {refused}");
        assert_eq!(resize(&file, 1, u64::MAX, 512).unwrap_err().kind(), io::ErrorKind::InvalidInput);
    }
}
