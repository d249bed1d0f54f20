//! Directories of volumes. What a tenant named in them is opened below an open directory, and no link is followed.

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::dir::{Dir, Entry, Type};
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat};
use nix::sys::stat::{Mode, SFlag, fstat, fstatat};
use tokio_util::sync::CancellationToken;

use super::kernel::{Membership, set_membership};

/// The directory in that of a volume that containers mount.
const CONTENT: &CStr = c"_data";

/// A walk takes a descriptor a level.
const MAX_DEPTH: usize = 128;
/// A tenant waits for the walk before it starts.
const MAX_ENTRIES: usize = 100_000;

/// A directory that containers mount.
pub(super) struct Content(OwnedFd);

/// Why a directory did not become part of a project.
#[derive(Debug, thiserror::Error)]
pub(super) enum WalkError {
    #[error("it has more than {MAX_ENTRIES} files and directories")]
    TooMany,
    #[error("its directories are nested deeper than {MAX_DEPTH}")]
    TooDeep,
    #[error("its caller waits no longer")]
    Abandoned,
    #[error(transparent)]
    System(#[from] Errno),
}

impl Content {
    /// `None` where the engine has no such volume, and for a volume on another filesystem.
    pub(super) fn open(volumes: BorrowedFd<'_>, volume: &str) -> nix::Result<Option<Self>> {
        let Some(volume) = open(volumes, volume, OFlag::O_DIRECTORY)? else { return Ok(None) };
        let Some(content) = open(volume.as_fd(), CONTENT, OFlag::O_DIRECTORY)? else {
            return Ok(None);
        };
        let is_here = fstat(&content)?.st_dev == fstat(volumes)?.st_dev;
        Ok(is_here.then_some(Self(content)))
    }

    pub(super) fn membership(&self) -> nix::Result<Membership> {
        super::kernel::membership(&self.0)
    }

    /// Fails if [`Self::join`] would take too long.
    pub(super) fn check_size(&self, abandoned: &CancellationToken) -> Result<(), WalkError> {
        let mut entries = 0;
        walk(self.0.as_fd(), 0, &mut |_, _| {
            check(abandoned)?;
            entries += 1;
            if entries > MAX_ENTRIES { Err(WalkError::TooMany) } else { Ok(()) }
        })
    }

    /// Makes the directory and all that is in it part of a project, itself last: so it is whole once it is part of it.
    /// Nothing may write meanwhile. Fails once it is `abandoned`, with a part of the files in the project.
    pub(super) fn join(
        &self,
        project: u32,
        abandoned: &CancellationToken,
    ) -> Result<(), WalkError> {
        walk(self.0.as_fd(), 0, &mut |file, is_directory| {
            check(abandoned)?;
            let membership = Membership { project, is_inherited: is_directory };
            Ok(set_membership(file, membership)?)
        })
    }

    /// Makes the directory and all that is in it part of no project.
    pub(super) fn leave(&self) -> Result<(), WalkError> {
        walk(self.0.as_fd(), 0, &mut |file, _| Ok(set_membership(file, Membership::default())?))
    }
}

fn check(abandoned: &CancellationToken) -> Result<(), WalkError> {
    if abandoned.is_cancelled() { Err(WalkError::Abandoned) } else { Ok(()) }
}

/// Visits all directories and regular files, a directory after its content. The rest cannot be part of a project: links,
/// sockets and the like, which hold no data.
fn walk(
    directory: BorrowedFd<'_>,
    depth: usize,
    visit: &mut dyn FnMut(BorrowedFd<'_>, bool) -> Result<(), WalkError>,
) -> Result<(), WalkError> {
    if depth > MAX_DEPTH {
        return Err(WalkError::TooDeep);
    }
    let mut entries =
        Dir::openat(directory, c".", OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())?;
    for entry in entries.iter() {
        let entry = entry?;
        let name = entry.file_name();
        if [c".", c".."].contains(&name) {
            continue;
        }
        match kind(directory, &entry)? {
            Some(Type::Directory) => {
                if let Some(child) = open(directory, name, OFlag::O_DIRECTORY)? {
                    walk(child.as_fd(), depth + 1, visit)?;
                }
            }
            Some(Type::File) => {
                if let Some(file) = open(directory, name, OFlag::O_NONBLOCK)? {
                    visit(file.as_fd(), false)?;
                }
            }
            Some(
                Type::Fifo
                | Type::CharacterDevice
                | Type::BlockDevice
                | Type::Symlink
                | Type::Socket,
            )
            | None => {}
        }
    }
    visit(directory, true)
}

/// A filesystem need not name the kind in the entry.
fn kind(directory: BorrowedFd<'_>, entry: &Entry) -> nix::Result<Option<Type>> {
    if let Some(kind) = entry.file_type() {
        return Ok(Some(kind));
    }
    let status = fstatat(directory, entry.file_name(), AtFlags::AT_SYMLINK_NOFOLLOW)?;
    Ok(match SFlag::from_bits_truncate(status.st_mode) & SFlag::S_IFMT {
        SFlag::S_IFDIR => Some(Type::Directory),
        SFlag::S_IFREG => Some(Type::File),
        _ => None,
    })
}

/// `None` where there is nothing of that name.
fn open(
    directory: BorrowedFd<'_>,
    name: &(impl nix::NixPath + ?Sized),
    flags: OFlag,
) -> nix::Result<Option<OwnedFd>> {
    let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC | flags;
    match openat(directory, name, flags, Mode::empty()) {
        Err(Errno::ENOENT) => Ok(None),
        opened => opened.map(Some),
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::os::unix::fs::symlink;

    use testkit::TempDir;

    use super::*;

    #[test]
    fn nothing_but_a_directory_is_the_content_of_a_volume() {
        let volumes = TempDir::new("volumes").unwrap();
        let directory = File::open(volumes.path()).unwrap();
        let open = |volume: &str| Content::open(directory.as_fd(), volume);
        fs::create_dir_all(volumes.path().join("whole/_data")).unwrap();
        fs::create_dir(volumes.path().join("empty")).unwrap();
        fs::create_dir(volumes.path().join("led-away")).unwrap();
        symlink("../whole/_data", volumes.path().join("led-away/_data")).unwrap();
        symlink("whole", volumes.path().join("link")).unwrap();
        assert!(open("whole").unwrap().is_some());
        assert!(open("empty").unwrap().is_none());
        assert!(open("absent").unwrap().is_none());
        assert!(open("led-away").is_err());
        assert!(open("link").is_err());
    }

    #[test]
    fn a_walk_follows_no_link_and_ends_at_its_depth() {
        let volumes = TempDir::new("volumes").unwrap();
        let content = volumes.path().join("volume/_data");
        let nested = |depth: usize| (0..depth).fold(content.clone(), |path, _| path.join("d"));
        fs::create_dir_all(nested(MAX_DEPTH)).unwrap();
        symlink(&content, content.join("loop")).unwrap();
        fs::write(content.join("file"), "x").unwrap();
        let directory = File::open(volumes.path()).unwrap();
        let opened = Content::open(directory.as_fd(), "volume").unwrap().unwrap();
        let live = CancellationToken::new();
        opened.check_size(&live).unwrap();
        let mut visited = (0, 0);
        walk(opened.0.as_fd(), 0, &mut |_, is_directory| {
            if is_directory {
                visited.0 += 1
            } else {
                visited.1 += 1
            }
            Ok(())
        })
        .unwrap();
        assert_eq!(visited, (MAX_DEPTH + 1, 1));

        fs::create_dir(nested(MAX_DEPTH + 1)).unwrap();
        assert!(matches!(opened.check_size(&live), Err(WalkError::TooDeep)));

        fs::remove_dir(nested(MAX_DEPTH + 1)).unwrap();
        live.cancel();
        assert!(matches!(opened.check_size(&live), Err(WalkError::Abandoned)));
        assert!(matches!(opened.join(1, &live), Err(WalkError::Abandoned)));
    }
}
