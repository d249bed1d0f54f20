//! Calls of the tenant's file server, which opens the files of `agent` under that user. A program of the app may take the
//! server over, so its replies are bounded, and what it opened is checked.

use std::fs::File;
use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use protocol::files::{FileFailure, FilePage, FileReply, FileRequest};
use rustix::fs::{AtFlags, FileType, StatxFlags, statx};
use rustix::net::sockopt::set_socket_linger;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use thiserror::Error;
use tokio::io::{AsyncWriteExt as _, Interest};
use tokio::net::UnixStream;
use tokio::sync::Semaphore;
use tokio::time::timeout;

/// Bounds a call with its wait for the calls before it.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// More than the largest page of a folder.
const MAX_REPLY_BYTES: usize = 256 << 10;
const CHUNK_BYTES: usize = 8 << 10;
/// The most that the kernel passes with one message.
const MAX_DESCRIPTORS: usize = 253;

#[derive(Debug, Error)]
pub(super) enum FileError {
    #[error("{detail}")]
    Refused { kind: FileFailure, detail: String },
    #[error("the file server does not respond: {0}")]
    Unavailable(String),
}

impl From<io::Error> for FileError {
    fn from(error: io::Error) -> Self {
        Self::Unavailable(error.to_string())
    }
}

pub(super) struct FileServer {
    socket: Arc<Path>,
    /// The mount of the volume.
    mount: Option<u64>,
    /// The server performs one request after the other: more connections would wait there.
    turn: Arc<Semaphore>,
}

impl FileServer {
    /// Calls the server at `socket` about the volume at `dir`.
    ///
    /// # Errors
    /// When the table of mounts cannot be read.
    pub(super) fn new(socket: PathBuf, dir: &Path) -> io::Result<Self> {
        let mounts = std::fs::read_to_string("/proc/self/mountinfo")?;
        let turn = Arc::new(Semaphore::new(1));
        Ok(Self { socket: socket.into(), mount: mount_of(dir, &mounts), turn })
    }

    /// Has a regular file of the volume opened. Files of other mounts are refused: those of the kernel itself may hold a
    /// reader up for ever, and act on what is written.
    ///
    /// # Errors
    /// [`FileError`], also for what is no regular file.
    pub(super) async fn open(&self, request: &FileRequest) -> Result<File, FileError> {
        match self.call(request).await? {
            (FileReply::Opened, Some(file)) => {
                let wanted = StatxFlags::TYPE | StatxFlags::MNT_ID;
                let stat =
                    statx(&file, "", AtFlags::EMPTY_PATH, wanted).map_err(io::Error::from)?;
                let kind = FileType::from_raw_mode(stat.stx_mode.into());
                let has_mount = stat.stx_mask & StatxFlags::MNT_ID.bits() != 0;
                let mount = has_mount.then_some(stat.stx_mnt_id);
                let is_meant =
                    kind == FileType::RegularFile && mount.is_some() && mount == self.mount;
                if is_meant { Ok(file.into()) } else { Err(unexpected()) }
            }
            (reply, _) => Err(refusal(reply)),
        }
    }

    /// Has something done.
    ///
    /// # Errors
    /// [`FileError`].
    pub(super) async fn perform(&self, request: &FileRequest) -> Result<(), FileError> {
        match self.call(request).await? {
            (FileReply::Done, _) => Ok(()),
            (reply, _) => Err(refusal(reply)),
        }
    }

    /// # Errors
    /// [`FileError`].
    pub(super) async fn list(&self, request: &FileRequest) -> Result<FilePage, FileError> {
        match self.call(request).await? {
            (FileReply::Listed(page), _) => Ok(page),
            (reply, _) => Err(refusal(reply)),
        }
    }

    async fn call(&self, request: &FileRequest) -> Result<(FileReply, Option<OwnedFd>), FileError> {
        let request = serde_json::to_vec(request).map_err(io::Error::from)?;
        let in_turn = async {
            let turn = self.turn.clone().acquire_owned().await.map_err(io::Error::other)?;
            let exchange = exchange(self.socket.clone(), request);
            // The server goes on with the request of a caller who left, so the next one waits here, where it can leave too.
            let exchange = tokio::spawn(async move {
                let _turn = turn;
                timeout(CALL_TIMEOUT, exchange).await?
            });
            exchange.await.map_err(io::Error::other)?
        };
        let called = timeout(CALL_TIMEOUT, in_turn).await;
        let (reply, file) = called.map_err(|_| FileError::Unavailable("it is silent".into()))??;
        let reply = serde_json::from_slice(&reply);
        Ok((reply.map_err(|error| FileError::Unavailable(error.to_string()))?, file))
    }
}

async fn exchange(socket: Arc<Path>, request: Vec<u8>) -> io::Result<(Vec<u8>, Option<OwnedFd>)> {
    let mut stream = UnixStream::connect(socket).await?;
    stream.write_all(&request).await?;
    stream.shutdown().await?;
    let (mut reply, mut file) = (Vec::new(), None);
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        let receive = || receive(&stream, &mut chunk);
        let (length, received) = stream.async_io(Interest::READABLE, receive).await?;
        file = file.or(received);
        let Some(bytes) = chunk.get(..length).filter(|bytes| !bytes.is_empty()) else { break };
        reply.extend_from_slice(bytes);
        if reply.len() > MAX_REPLY_BYTES {
            return Err(io::Error::other("its reply is too long"));
        }
    }
    Ok((reply, file))
}

/// Reads bytes, and the last descriptor where some come with them. A socket whose close waits for its peer would hold this
/// thread up: none of them does.
fn receive(stream: &UnixStream, chunk: &mut [u8]) -> io::Result<(usize, Option<OwnedFd>)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut chunks = [IoSliceMut::new(chunk)];
    let message = recvmsg(stream, &mut chunks, &mut control, RecvFlags::CMSG_CLOEXEC)?;
    let mut file = None;
    for received in control.drain() {
        if let RecvAncillaryMessage::ScmRights(files) = received {
            for received in files {
                // Fails for what is no socket.
                let _ = set_socket_linger(&received, None);
                file = Some(received);
            }
        }
    }
    Ok((message.bytes, file))
}

/// The mount that holds `path`. The table tells it where the folder itself, which belongs to `agent`, may be closed to this
/// user.
fn mount_of(path: &Path, mounts: &str) -> Option<u64> {
    let mounts = mounts.lines().filter_map(|line| {
        let mut fields = line.split(' ');
        let id = fields.next()?.parse().ok()?;
        let point = fields.nth(3)?;
        path.starts_with(point).then_some((point.len(), id))
    });
    // A later mount covers an earlier one in the same place.
    mounts.max_by_key(|(length, _)| *length).map(|(_, id)| id)
}

fn refusal(reply: FileReply) -> FileError {
    match reply {
        FileReply::Failed { kind, detail } => FileError::Refused { kind, detail },
        FileReply::Listed(_) | FileReply::Opened | FileReply::Done => unexpected(),
    }
}

fn unexpected() -> FileError {
    FileError::Unavailable("its reply fits no request".to_owned())
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::os::unix::net::{UnixListener, UnixStream};

    use futures_util::FutureExt as _;
    use protocol::files::FilePath;

    use super::*;

    fn delete(path: &str) -> FileRequest {
        FileRequest::Delete { path: FilePath::try_from(path.to_owned()).unwrap() }
    }

    fn done(mut stream: &UnixStream) {
        stream.write_all(&serde_json::to_vec(&FileReply::Done).unwrap()).unwrap();
    }

    #[tokio::test]
    async fn a_caller_who_leaves_gives_its_turn_to_nobody_and_keeps_no_place_in_the_queue() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("files.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        listener.set_nonblocking(true).unwrap();
        let server = Arc::new(FileServer::new(socket, dir.path()).unwrap());
        let accept = async || loop {
            match listener.accept() {
                Ok((stream, _)) => break stream,
                Err(_) => tokio::task::yield_now().await,
            }
        };
        let called = server.clone();
        let first = tokio::spawn(async move { called.perform(&delete("first")).await.is_ok() });
        let under_way = accept().await;
        first.abort();
        assert!(first.await.unwrap_err().is_cancelled());

        let second_request = delete("second");
        let mut second = Box::pin(server.perform(&second_request));
        assert!(second.as_mut().now_or_never().is_none());
        assert!(listener.accept().is_err(), "the server has not ended the first request");
        drop(second);
        let called = server.clone();
        let third = tokio::spawn(async move { called.perform(&delete("third")).await.is_ok() });
        done(&under_way);
        drop(under_way);
        let mut stream = accept().await;
        // On another thread, because this one sends the request.
        let served = tokio::task::spawn_blocking(move || {
            let mut request = Vec::new();
            stream.read_to_end(&mut request).unwrap();
            done(&stream);
            serde_json::from_slice::<FileRequest>(&request).unwrap()
        });
        assert_eq!(served.await.unwrap(), delete("third"));
        assert!(third.await.unwrap());
        assert!(listener.accept().is_err(), "nobody waits for the second");
    }

    #[test]
    fn the_mount_of_a_folder_is_the_last_of_the_deepest_ones() {
        let mounts = "\
            21 1 0:19 / / rw - overlay overlay rw\n\
            30 21 8:1 /v/a /home/agent rw,relatime - ext4 /dev/sda1 rw\n\
            31 30 8:1 /v/b /home/agent/files rw,relatime shared:1 - ext4 /dev/sda1 rw\n\
            32 31 0:40 / /home/agent/files rw - tmpfs tmpfs rw\n\
            33 21 0:41 / /home/agent/files-of-others rw - tmpfs tmpfs rw\n";
        let of = |path: &str| mount_of(Path::new(path), mounts);
        assert_eq!(of("/home/agent/files"), Some(32));
        assert_eq!(of("/home/agent/files/a/b"), Some(32));
        assert_eq!(of("/home/agent"), Some(30));
        assert_eq!(of("/etc"), Some(21));
        assert_eq!(mount_of(Path::new("/a"), "no table"), None);
    }
}
