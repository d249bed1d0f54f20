//! The folder of an attempt, and what is unpacked into it.

use std::fs::{self, File, Permissions};
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use protocol::tasks::MAX_FRAME_BYTES;

const LOCK: &str = "lock";

/// The folder of one attempt. An attempt that died leaves its folder and no lock; the next one removes it.
pub(super) struct WorkFolder {
    pub(super) path: PathBuf,
    _lock: File,
}

impl WorkFolder {
    pub(super) fn make(parent: &Path, id: &str) -> io::Result<Self> {
        fs::create_dir_all(parent)?;
        fs::set_permissions(parent, Permissions::from_mode(0o700))?;
        // Without it, another attempt could take a folder that has no lock yet for one that was left.
        let making = File::create(parent.join(LOCK))?;
        making.lock()?;
        remove_left(parent);
        let path = parent.join(id);
        fs::create_dir(&path)?;
        let lock = File::create(path.join(LOCK))?;
        lock.lock()?;
        Ok(Self { path, _lock: lock })
    }
}

impl Drop for WorkFolder {
    fn drop(&mut self) {
        // The next attempt removes the rest.
        let _ = remove(&self.path);
    }
}

fn remove_left(parent: &Path) {
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        let is_left = File::open(entry.path().join(LOCK)).is_ok_and(|lock| lock.try_lock().is_ok());
        if is_left {
            let _ = remove(&entry.path());
        }
    }
}

/// Removes a folder, also one that the package or a task made unwritable.
fn remove(folder: &Path) -> io::Result<()> {
    open_up(folder)?;
    fs::remove_dir_all(folder)
}

fn open_up(folder: &Path) -> io::Result<()> {
    fs::set_permissions(folder, Permissions::from_mode(0o700))?;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            open_up(&entry.path())?;
        }
    }
    Ok(())
}

/// Unpacks a tar below `folder`. The archive was checked when it was uploaded; what another program made of it since reaches
/// no further than this user.
pub(super) fn unpack(tar: impl Read, folder: &Path) -> io::Result<()> {
    let mut archive = tar::Archive::new(tar);
    archive.set_preserve_mtime(false);
    archive.unpack(folder)?;
    // The rest after the end of the tar is padding.
    io::copy(&mut archive.into_inner(), &mut io::sink())?;
    Ok(())
}

pub(super) fn read_frame(input: &mut impl Read, max_bytes: usize) -> io::Result<Vec<u8>> {
    let mut length = [0; 4];
    input.read_exact(&mut length)?;
    let length = usize::try_from(u32::from_be_bytes(length)).map_err(io::Error::other)?;
    if length > max_bytes {
        return Err(io::Error::other("a frame is too long"));
    }
    let mut frame = vec![0; length];
    input.read_exact(&mut frame)?;
    Ok(frame)
}

/// Reads frames up to an empty one.
pub(super) struct FrameReader<R> {
    input: R,
    frame: io::Cursor<Vec<u8>>,
    has_ended: bool,
}

impl<R: Read> FrameReader<R> {
    pub(super) fn new(input: R) -> Self {
        Self { input, frame: io::Cursor::default(), has_ended: false }
    }
}

impl<R: Read> Read for FrameReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.frame.read(buffer)?;
        if read > 0 || self.has_ended || buffer.is_empty() {
            return Ok(read);
        }
        let frame = read_frame(&mut self.input, MAX_FRAME_BYTES)?;
        self.has_ended = frame.is_empty();
        self.frame = io::Cursor::new(frame);
        self.frame.read(buffer)
    }
}
