//! Frames with descriptors, between processes of one machine (SCM_RIGHTS, unix(7)).
//!
//! The descriptors travel with the first byte of the frame. These calls block.

use crate::ipc::{Frame, IpcError};
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};
use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;

/// Most descriptors with one frame.
pub const MAX_FDS: usize = 4;

/// Sends a frame and gives the other end copies of these descriptors.
///
/// # Errors
/// As [`Frame::encode`]; [`IpcError::NotAFrame`] for more than [`MAX_FDS`]; [`IpcError::Io`].
pub fn send_frame(stream: &UnixStream, frame: &Frame, fds: &[BorrowedFd<'_>]) -> Result<(), IpcError> {
    if fds.len() > MAX_FDS {
        return Err(IpcError::NotAFrame);
    }
    let bytes = frame.encode()?;
    let raw: Vec<_> = fds.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&raw)];
    let control: &[_] = if raw.is_empty() { &[] } else { &rights };
    let sent = loop {
        let parts = [IoSlice::new(&bytes)];
        match sendmsg::<()>(stream.as_raw_fd(), &parts, control, MsgFlags::MSG_NOSIGNAL, None) {
            Err(nix::errno::Errno::EINTR) => {}
            other => break other.map_err(io::Error::from)?,
        }
    };
    let mut stream = stream;
    Ok(stream.write_all(&bytes[sent..])?)
}

/// Receives a frame with the descriptors that came with it, which close on exec; `None` when the connection ended before it.
///
/// # Errors
/// [`IpcError`], after which the connection is of no more use.
pub fn recv_frame(stream: &UnixStream) -> Result<Option<(Frame, Vec<OwnedFd>)>, IpcError> {
    let mut header = [0u8; 4];
    let (mut got, fds) = receive(stream, &mut header)?;
    if got == 0 {
        return Ok(None);
    }
    let mut reader = stream;
    while got < header.len() {
        match reader.read(&mut header[got..])? {
            0 => return Err(IpcError::Closed),
            n => got += n,
        }
    }
    let mut bytes = vec![0; Frame::length(header)?];
    reader.read_exact(&mut bytes).map_err(|_| IpcError::Closed)?;
    Ok(Some((Frame::decode(&bytes)?, fds)))
}

fn receive(stream: &UnixStream, into: &mut [u8]) -> Result<(usize, Vec<OwnedFd>), IpcError> {
    let mut space = nix::cmsg_space!([std::os::fd::RawFd; MAX_FDS]);
    let mut parts = [IoSliceMut::new(into)];
    let flags = MsgFlags::MSG_CMSG_CLOEXEC;
    let message = loop {
        match recvmsg::<()>(stream.as_raw_fd(), &mut parts, Some(&mut space), flags) {
            Err(nix::errno::Errno::EINTR) => {}
            other => break other.map_err(io::Error::from)?,
        }
    };
    let mut fds = Vec::new();
    for control in message.cmsgs().map_err(io::Error::from)? {
        if let ControlMessageOwned::ScmRights(raw) = control {
            fds.extend(raw.into_iter().map(own));
        }
    }
    Ok((message.bytes, fds))
}

#[allow(unsafe_code, reason = "the kernel hands descriptors over as numbers")]
fn own(raw: std::os::fd::RawFd) -> OwnedFd {
    // SAFETY: recvmsg has just put this descriptor into our table; nobody else knows of it yet.
    unsafe { OwnedFd::from_raw_fd(raw) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::os::fd::AsFd;
    use tobj::{Id, Message, Request};

    fn frame() -> Frame {
        let body = tobj::Body::Request(Request::Status {});
        Frame { label: String::new(), message: Message { id: Id::from([7; 16]), literal: None, body } }
    }

    #[test]
    fn descriptors_arrive_with_their_frame() {
        let (a, b) = UnixStream::pair().unwrap();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"through").unwrap();
        send_frame(&a, &frame(), &[]).unwrap();
        send_frame(&a, &frame(), &[file.as_fd(), a.as_fd()]).unwrap();
        drop(file);
        let (first, none) = recv_frame(&b).unwrap().unwrap();
        assert!(first == frame() && none.is_empty());
        let (second, fds) = recv_frame(&b).unwrap().unwrap();
        assert!(second == frame() && fds.len() == 2);
        let mut text = [0; 7];
        std::os::unix::fs::FileExt::read_exact_at(&File::from(fds[0].try_clone().unwrap()), &mut text, 0).unwrap();
        assert_eq!(&text, b"through");
        let flags = nix::fcntl::fcntl(&fds[0], nix::fcntl::FcntlArg::F_GETFD).unwrap();
        assert_ne!(flags & nix::libc::FD_CLOEXEC, 0);
        drop((a, fds));
        assert!(recv_frame(&b).unwrap().is_none());
    }

    #[test]
    fn the_limit_of_descriptors() {
        let (a, b) = UnixStream::pair().unwrap();
        let fds: Vec<_> = (0..=MAX_FDS).map(|_| a.as_fd()).collect();
        assert!(send_frame(&a, &frame(), &fds).is_err());
        send_frame(&a, &frame(), &fds[..MAX_FDS]).unwrap();
        assert_eq!(recv_frame(&b).unwrap().unwrap().1.len(), MAX_FDS);
    }
}
