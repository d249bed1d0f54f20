//! Connects to a unix socket in a directory that a tenant can write to.
//!
//! The tenant may put a symbolic link, a file or another directory in place of its socket. A
//! service of the control plane that followed the link would connect to another tenant's socket, or
//! to the engine's. Resolving the name, checking the type and connecting therefore use one file
//! descriptor, so that the tenant cannot swap the file in between.

use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::Path;

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags, fstat, open, openat2};
use rustix::io::Errno;
use tokio::net::UnixStream;

/// Connects to the socket at `path`, whose last component is in the tenant's directory.
///
/// # Errors
/// As [`connect_in`].
pub async fn connect(path: &Path) -> io::Result<UnixStream> {
    let name = path.file_name().and_then(|name| name.to_str());
    let (Some(directory), Some(name)) = (path.parent(), name) else {
        return Err(not_a_socket(&path.display().to_string()));
    };
    connect_in(directory, name).await
}

/// Connects to the socket `name` in `directory`.
///
/// # Errors
/// `NotFound` when nothing has that name, `ConnectionRefused` when no process listens, and
/// `InvalidInput` when `name` is not a plain socket in that very directory: a link, a path out of
/// it, or another type of file.
pub async fn connect_in(directory: &Path, name: &str) -> io::Result<UnixStream> {
    let socket = open_socket(directory, name)?;
    // An `O_PATH` descriptor cannot be connected directly; its entry in `/proc` is the same inode by definition.
    UnixStream::connect(format!("/proc/self/fd/{}", socket.as_raw_fd())).await
}

fn open_socket(directory: &Path, name: &str) -> io::Result<OwnedFd> {
    let parent =
        open(directory, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let opened = match openat2(&parent, name, flags, Mode::empty(), resolve) {
        // Kernels before 5.6 and some seccomp profiles do not have the call. One component cannot leave its directory.
        Err(Errno::NOSYS | Errno::PERM) if is_one_component(name) => {
            rustix::fs::openat(&parent, name, flags, Mode::empty())
        }
        opened => opened,
    };
    let socket = opened.map_err(|errno| match errno {
        Errno::LOOP | Errno::XDEV => not_a_socket(name),
        errno => errno.into(),
    })?;
    if FileType::from_raw_mode(fstat(&socket)?.st_mode) != FileType::Socket {
        return Err(not_a_socket(name));
    }
    Ok(socket)
}

fn is_one_component(name: &str) -> bool {
    !name.is_empty() && name != "." && name != ".." && !name.contains('/')
}

fn not_a_socket(name: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, format!("{name} is not a socket in its directory"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;
    use std::path::PathBuf;
    use tokio::net::UnixListener;

    struct Directory(PathBuf);

    impl Directory {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("cial-{name}-{}", std::process::id()));
            std::fs::create_dir_all(path.join("own")).unwrap();
            Self(path)
        }

        fn own(&self) -> PathBuf {
            self.0.join("own")
        }
    }

    impl Drop for Directory {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    #[tokio::test]
    async fn only_a_plain_socket_in_the_directory_is_connected() {
        let directory = Directory::new("connect-in");
        let (own, foreign) = (directory.own(), directory.0.join("foreign.sock"));
        let _own = UnixListener::bind(own.join("own.sock")).unwrap();
        let _foreign = UnixListener::bind(&foreign).unwrap();
        assert!(connect_in(&own, "own.sock").await.is_ok());

        symlink(&foreign, own.join("absolute")).unwrap();
        symlink("../foreign.sock", own.join("relative")).unwrap();
        symlink("own.sock", own.join("harmless")).unwrap();
        symlink("..", own.join("parent")).unwrap();
        std::fs::write(own.join("file"), "").unwrap();
        let kind = async |name| connect_in(&own, name).await.unwrap_err().kind();
        for name in [
            "absolute",
            "relative",
            "harmless",
            "parent/foreign.sock",
            "../foreign.sock",
            "file",
            ".",
        ] {
            assert_eq!(kind(name).await, io::ErrorKind::InvalidInput, "{name}");
        }
        assert_eq!(kind("nothing").await, io::ErrorKind::NotFound);
    }

    #[tokio::test]
    async fn a_socket_without_a_listener_refuses() {
        let directory = Directory::new("connect-in-refused");
        drop(UnixListener::bind(directory.own().join("own.sock")).unwrap());
        let error = connect_in(&directory.own(), "own.sock").await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
    }

    #[tokio::test]
    async fn a_path_longer_than_a_socket_address_is_no_limit() {
        let directory = Directory::new(&format!("connect-in-{}", "x".repeat(100)));
        let own = directory.own();
        // Binding has the limit; a short link to the directory serves the test only.
        let short = std::env::temp_dir().join(format!("cial-short-{}", std::process::id()));
        symlink(&own, &short).unwrap();
        let _listener = UnixListener::bind(short.join("own.sock")).unwrap();
        std::fs::remove_file(&short).unwrap();
        assert!(connect_in(&own, "own.sock").await.is_ok());
    }
}
