//! The server: one request a connection, one connection after the other. No request waits for anything but the disk.

use std::io::{self, IoSlice, Read as _, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use protocol::files::{FileFailure, FileReply, FileRequest};
use rustix::io::Errno;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};

use crate::folder::Top;

/// Bounds the read of a request and the write of a reply.
const EXCHANGE_TIMEOUT: Duration = Duration::from_secs(2);
const MAX_REQUEST_BYTES: u64 = 16 << 10;
/// The pause after a failed accept, so that a lack of descriptors does not become a busy loop.
const ACCEPT_RETRY_DELAY: Duration = Duration::from_millis(50);

/// Serves requests about the files below `top`. Never ends.
pub fn serve(listener: &UnixListener, top: &Path) {
    loop {
        match listener.accept() {
            Ok((stream, _)) => {
                // The caller sees a broken exchange on its own side.
                let _ = serve_one(stream, top);
            }
            Err(_) => std::thread::sleep(ACCEPT_RETRY_DELAY),
        }
    }
}

fn serve_one(mut stream: UnixStream, top: &Path) -> io::Result<()> {
    stream.set_read_timeout(Some(EXCHANGE_TIMEOUT))?;
    stream.set_write_timeout(Some(EXCHANGE_TIMEOUT))?;
    let mut request = Vec::new();
    (&mut stream).take(MAX_REQUEST_BYTES).read_to_end(&mut request)?;
    let (reply, file) = match serde_json::from_slice(&request) {
        Ok(request) => perform(request, top).unwrap_or_else(|error| (failed(error), None)),
        Err(error) => {
            let detail = error.to_string();
            (FileReply::Failed { kind: FileFailure::Other, detail }, None)
        }
    };
    send(&mut stream, &serde_json::to_vec(&reply)?, file)
}

fn perform(request: FileRequest, top: &Path) -> Result<(FileReply, Option<OwnedFd>), Errno> {
    let top = Top::open(top)?;
    let opened = |file| (FileReply::Opened, Some(file));
    let done = |()| (FileReply::Done, None);
    match request {
        FileRequest::List { folder, after, limit } => {
            top.list(&folder, after.as_ref(), limit).map(|page| (FileReply::Listed(page), None))
        }
        FileRequest::Open { path } => top.open_file(&path).map(opened),
        FileRequest::OpenUpload { id, is_new } => top.open_upload(id, is_new, now()).map(opened),
        FileRequest::FinishUpload { id, path, replace } => {
            top.finish_upload(id, &path, replace).map(done)
        }
        FileRequest::DeleteUpload { id } => top.delete_upload(id).map(done),
        FileRequest::MakeFolder { path } => top.make_folder(&path).map(done),
        FileRequest::Move { from, to, replace } => top.rename(&from, &to, replace).map(done),
        FileRequest::Delete { path } => top.delete(&path).map(done),
    }
}

fn failed(error: Errno) -> FileReply {
    let (kind, detail) = match error {
        Errno::NOENT => (FileFailure::NotFound, "there is no such file"),
        Errno::EXIST => (FileFailure::Conflict, "there is something of this name already"),
        Errno::ISDIR => (FileFailure::Conflict, "it is a folder"),
        Errno::NOTDIR => (FileFailure::Conflict, "a file is where a folder would have to be"),
        Errno::NOTEMPTY => (FileFailure::Conflict, "the folder is not empty"),
        Errno::INVAL => (FileFailure::Conflict, "the top stays, and no folder moves into itself"),
        Errno::LOOP | Errno::NXIO | Errno::NODEV => {
            (FileFailure::Conflict, "links, pipes, sockets and devices are not opened")
        }
        Errno::XDEV => (FileFailure::Conflict, "another file system is mounted there"),
        Errno::BUSY | Errno::AGAIN | Errno::TXTBSY => (FileFailure::Conflict, "a program uses it"),
        Errno::ACCESS | Errno::PERM => (FileFailure::Denied, "its modes forbid it"),
        Errno::ROFS => (FileFailure::Denied, "the volume is read-only"),
        Errno::NOSPC | Errno::DQUOT => (FileFailure::DiskFull, "the disk is full"),
        Errno::USERS => (FileFailure::Busy, "too many uploads are under way"),
        error => {
            let detail = io::Error::from(error).to_string();
            return FileReply::Failed { kind: FileFailure::Other, detail };
        }
    };
    FileReply::Failed { kind, detail: detail.to_owned() }
}

/// The descriptor travels with the first bytes.
fn send(stream: &mut UnixStream, reply: &[u8], file: Option<OwnedFd>) -> io::Result<()> {
    let Some(file) = file else { return stream.write_all(reply) };
    let (files, mut space) =
        ([file.as_fd()], [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))]);
    let mut control = SendAncillaryBuffer::new(&mut space);
    control.push(SendAncillaryMessage::ScmRights(&files));
    let sent = sendmsg(&*stream, &[IoSlice::new(reply)], &mut control, SendFlags::NOSIGNAL)?;
    stream.write_all(reply.get(sent..).unwrap_or_default())
}

#[expect(clippy::disallowed_methods, reason = "the shell reads the clock")]
fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
