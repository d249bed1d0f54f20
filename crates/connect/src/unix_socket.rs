//! Connects to a unix socket in a directory that another party may write to.
//!
//! A tenant may put a symbolic link, a file or a directory in place of its socket. A process that
//! followed the link would connect to another tenant's socket, or to the engine's. Resolving the
//! name, checking the type and connecting therefore use one file descriptor, so that the tenant
//! cannot swap the file in between.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{FileType, Mode, OFlags, fstat, open, openat};
use tokio::net::UnixStream;

/// A unix socket file that was found in its directory. Connecting cannot be redirected to another
/// file any more.
#[derive(Debug)]
pub struct SocketFile(OwnedFd);

impl SocketFile {
    /// Finds the socket at `path`. The path of its directory is trusted; the directory's content
    /// is not.
    ///
    /// # Errors
    /// `InvalidInput` when `path` does not end in a name, or the file of that name is a symbolic
    /// link or no socket; `NotFound` when there is no such file; and the errors of `open`.
    pub fn open(path: &Path) -> io::Result<Self> {
        let Some(name) = file_name(path) else {
            return Err(invalid(format!("{} does not end in the name of a file", path.display())));
        };
        let directory = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            Some(_) | None => Path::new("."),
        };
        let directory =
            open(directory, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        // With these flags the kernel opens a link itself instead of its target. One component
        // cannot leave its directory.
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = openat(&directory, name, flags, Mode::empty())?;
        let kind = FileType::from_raw_mode(fstat(&file)?.st_mode);
        if kind == FileType::Socket {
            return Ok(Self(file));
        }
        let kind = if kind == FileType::Symlink { "a symbolic link" } else { "not a socket" };
        Err(invalid(format!("{} is {kind}", name.display())))
    }

    /// A path for `connect`, valid while this value lives.
    pub fn path(&self) -> PathBuf {
        // An `O_PATH` descriptor cannot be connected directly; its entry in `/proc` is the same
        // inode by definition.
        PathBuf::from(format!("/proc/self/fd/{}", self.0.as_raw_fd()))
    }
}

/// Connects to the unix socket at `path`, see [`SocketFile::open`].
///
/// # Errors
/// The errors of [`SocketFile::open`] and of `connect`: `ConnectionRefused` when no process
/// listens, `WouldBlock` when the accept queue is full.
pub async fn connect_unix(path: &Path) -> io::Result<UnixStream> {
    let file = SocketFile::open(path)?;
    UnixStream::connect(file.path()).await
}

/// The last component, unless the path ends in `..`, `.` or a slash.
fn file_name(path: &Path) -> Option<&OsStr> {
    let name = match path.components().next_back()? {
        Component::Normal(name) => name,
        Component::Prefix(_) | Component::RootDir | Component::CurDir | Component::ParentDir => {
            return None;
        }
    };
    // `components` drops a trailing slash or dot, with which only a directory can be meant.
    path.as_os_str().as_encoded_bytes().ends_with(name.as_encoded_bytes()).then_some(name)
}

fn invalid(text: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, text)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::os::unix::net::UnixListener;

    use super::*;

    #[tokio::test]
    async fn only_a_plain_socket_in_its_directory_is_connected() {
        let base = tempfile::tempdir().unwrap();
        let own = base.path().join("own");
        std::fs::create_dir(&own).unwrap();
        let foreign = base.path().join("foreign.sock");
        let listener = UnixListener::bind(own.join("own.sock")).unwrap();
        let _foreign = UnixListener::bind(&foreign).unwrap();
        symlink(&foreign, own.join("absolute")).unwrap();
        symlink("../foreign.sock", own.join("relative")).unwrap();
        symlink("own.sock", own.join("harmless")).unwrap();
        symlink("..", own.join("parent")).unwrap();
        std::fs::write(own.join("file"), "").unwrap();

        connect_unix(&own.join("own.sock")).await.unwrap();
        for (name, kind, text) in [
            ("absolute", io::ErrorKind::InvalidInput, "absolute is a symbolic link"),
            ("relative", io::ErrorKind::InvalidInput, "relative is a symbolic link"),
            ("harmless", io::ErrorKind::InvalidInput, "harmless is a symbolic link"),
            ("parent", io::ErrorKind::InvalidInput, "parent is a symbolic link"),
            ("file", io::ErrorKind::InvalidInput, "file is not a socket"),
            ("..", io::ErrorKind::InvalidInput, "does not end in the name of a file"),
            (".", io::ErrorKind::InvalidInput, "does not end in the name of a file"),
            ("", io::ErrorKind::InvalidInput, "does not end in the name of a file"),
            ("own.sock/", io::ErrorKind::InvalidInput, "does not end in the name of a file"),
            ("own.sock/.", io::ErrorKind::InvalidInput, "does not end in the name of a file"),
            ("absent", io::ErrorKind::NotFound, ""),
        ] {
            let error = connect_unix(&own.join(name)).await.unwrap_err();
            assert_eq!(error.kind(), kind, "{name}: {error}");
            assert!(error.to_string().contains(text), "{name}: {error}");
        }
        drop(listener);
        let refused = connect_unix(&own.join("own.sock")).await.unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
    }

    #[tokio::test]
    async fn a_path_longer_than_a_socket_address_is_no_limit() {
        let base = tempfile::tempdir().unwrap();
        let own = base.path().join("x".repeat(120));
        std::fs::create_dir(&own).unwrap();
        // Binding has the limit; a short link to the directory serves the test only.
        let short = base.path().join("short");
        symlink(&own, &short).unwrap();
        let _listener = UnixListener::bind(short.join("own.sock")).unwrap();
        connect_unix(&own.join("own.sock")).await.unwrap();
    }
}
