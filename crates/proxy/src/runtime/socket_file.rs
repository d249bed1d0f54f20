//! Connects to a unix socket in a directory that another party may write to, without following symbolic links.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{FileType, Mode, OFlags, fstat, open, openat};
use rustix::io::Errno;
use tokio::net::UnixStream;

/// A unix socket file that was found in its directory. Connecting cannot be redirected to another file any more.
#[derive(Debug)]
pub struct SocketFile(OwnedFd);

impl SocketFile {
    /// Finds the socket `name` in `dir`. The path of `dir` is trusted; its content is not.
    ///
    /// # Errors
    /// `ELOOP` for a symbolic link, `ENOTSOCK` for another file, `EINVAL` for a name that is not a single component,
    /// and the errors of `open`.
    pub fn open_in(dir: &Path, name: &OsStr) -> io::Result<Self> {
        let mut components = Path::new(name).components();
        match (components.next(), components.next()) {
            (Some(Component::Normal(only)), None) if only == name => {}
            _ => return Err(Errno::INVAL.into()),
        }
        let dir = if dir.as_os_str().is_empty() { Path::new(".") } else { dir };
        let dir = open(dir, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        // With these flags the kernel opens a link itself instead of its target.
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = openat(&dir, name, flags, Mode::empty())?;
        let kind = FileType::from_raw_mode(fstat(&file)?.st_mode);
        if kind == FileType::Socket {
            Ok(Self(file))
        } else {
            Err(if kind == FileType::Symlink { Errno::LOOP } else { Errno::NOTSOCK }.into())
        }
    }

    /// A path for `connect`, valid while this value lives.
    pub fn path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.0.as_raw_fd()))
    }
}

/// Connects to the unix socket `name` in `dir`, see [`SocketFile::open_in`].
///
/// # Errors
/// The errors of [`SocketFile::open_in`] and of `connect`.
pub async fn connect_in(dir: &Path, name: &OsStr) -> io::Result<UnixStream> {
    let file = SocketFile::open_in(dir, name)?;
    UnixStream::connect(file.path()).await
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::os::unix::net::UnixListener;

    use super::*;

    struct Dir(PathBuf);

    impl Dir {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("proxy-{name}-{}", std::process::id()));
            std::fs::create_dir(&path).unwrap();
            Self(path)
        }
    }

    impl Drop for Dir {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_socket_is_reached_and_a_link_to_it_is_not() {
        let (dir, other) = (Dir::new("own"), Dir::new("other"));
        let own = UnixListener::bind(dir.0.join("own.sock")).unwrap();
        let _other = UnixListener::bind(other.0.join("other.sock")).unwrap();
        symlink(other.0.join("other.sock"), dir.0.join("link.sock")).unwrap();
        symlink(&other.0, dir.0.join("elsewhere")).unwrap();
        std::fs::write(dir.0.join("file"), "").unwrap();
        let connect = async |name: &str| connect_in(&dir.0, OsStr::new(name)).await;

        connect("own.sock").await.unwrap();
        for (name, errno) in [
            ("link.sock", Errno::LOOP),
            ("elsewhere", Errno::LOOP),
            ("file", Errno::NOTSOCK),
            ("absent", Errno::NOENT),
            ("elsewhere/other.sock", Errno::INVAL),
            ("../x", Errno::INVAL),
            ("..", Errno::INVAL),
            (".", Errno::INVAL),
            ("", Errno::INVAL),
            ("own.sock/", Errno::INVAL),
        ] {
            let error = connect(name).await.unwrap_err();
            assert_eq!(error.raw_os_error(), Some(errno.raw_os_error()), "{name}: {error}");
        }
        drop(own);
        let refused = connect("own.sock").await.unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
    }
}
