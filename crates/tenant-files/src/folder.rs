//! Folders below the top of the volume. Every path is resolved by the kernel in one call that follows no link and cannot
//! leave the top.

use std::collections::BTreeSet;
use std::ffi::CStr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use protocol::files::{FileEntry, FileKind, FilePage, FilePath, MAX_ENTRIES};
use rustix::fs::{
    AtFlags, Dir, FileType, Mode, OFlags, RenameFlags, ResolveFlags, Stat, fstat, fstatvfs, fsync,
    mkdirat, openat, openat2, renameat_with, statat, unlinkat,
};
use rustix::io::{Errno, Result};

/// The mode of files that only `agent` and its group may read.
pub(crate) const FILE_MODE: Mode = Mode::from_raw_mode(0o640);
const FOLDER_MODE: Mode = Mode::from_raw_mode(0o750);

/// The top of the volume.
pub(crate) struct Top(OwnedFd);

/// A folder and a name in it.
pub(crate) struct Place<'a> {
    pub(crate) folder: OwnedFd,
    pub(crate) name: &'a str,
}

impl Top {
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        openat(rustix::fs::CWD, path, flags, Mode::empty()).map(Self)
    }

    /// Opens what is at `path`. `NONBLOCK`: a pipe must not hold the server.
    pub(crate) fn open_at(&self, path: &str, flags: OFlags, mode: Mode) -> Result<OwnedFd> {
        const RESOLVE: ResolveFlags = ResolveFlags::BENEATH
            .union(ResolveFlags::NO_SYMLINKS)
            .union(ResolveFlags::NO_MAGICLINKS)
            .union(ResolveFlags::NO_XDEV);
        let flags = flags | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let path = if path.is_empty() { "." } else { path };
        openat2(&self.0, path, flags, mode, RESOLVE)
    }

    pub(crate) fn open_folder(&self, path: &str) -> Result<OwnedFd> {
        self.open_at(path, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty())
    }

    /// Opens a regular file for reading.
    pub(crate) fn open_file(&self, path: &FilePath) -> Result<OwnedFd> {
        let file = self.open_at(path.as_str(), OFlags::RDONLY, Mode::empty())?;
        match kind(&fstat(&file)?) {
            FileKind::File => Ok(file),
            FileKind::Folder => Err(Errno::ISDIR),
            FileKind::Other => Err(Errno::LOOP),
        }
    }

    pub(crate) fn place<'a>(&self, path: &'a FilePath) -> Result<Place<'a>> {
        // The top is no place in a folder.
        let (folder, name) = path.split().ok_or(Errno::INVAL)?;
        Ok(Place { folder: self.open_folder(folder)?, name })
    }

    pub(crate) fn make_folder(&self, path: &FilePath) -> Result<()> {
        let place = self.place(path)?;
        mkdirat(&place.folder, place.name, FOLDER_MODE)?;
        fsync(&place.folder)
    }

    pub(crate) fn rename(&self, from: &FilePath, to: &FilePath, replace: bool) -> Result<()> {
        move_to(&self.place(from)?, &self.place(to)?, replace)
    }

    /// Deletes a file or an empty folder.
    pub(crate) fn delete(&self, path: &FilePath) -> Result<()> {
        let Place { folder, name } = self.place(path)?;
        match unlinkat(&folder, name, AtFlags::empty()) {
            Err(Errno::ISDIR) => unlinkat(&folder, name, AtFlags::REMOVEDIR)?,
            deleted => deleted?,
        }
        fsync(&folder)
    }

    /// The entries whose names come after `after`, in the order of their bytes. Names that no [`FilePath`] can hold are
    /// left out: nothing could be done with them.
    pub(crate) fn list(
        &self,
        folder: &FilePath,
        after: Option<&FilePath>,
        limit: u16,
    ) -> Result<FilePage> {
        let fd = self.open_folder(folder.as_str())?;
        let limit = usize::from(limit.clamp(1, MAX_ENTRIES));
        let mut names = BTreeSet::new();
        for entry in Dir::read_from(&fd)? {
            let entry = entry?;
            let Some(name) = readable_name(folder, entry.file_name()) else { continue };
            if after.is_none_or(|after| name.as_str() > after.as_str()) {
                names.insert(name);
                // One more than the page shows that another page follows.
                if names.len() > limit + 1 {
                    names.pop_last();
                }
            }
        }
        let is_more = names.len() > limit;
        let names: Vec<String> = names.into_iter().take(limit).collect();
        let next = names.last().filter(|_| is_more).cloned();
        // Files that are deleted meanwhile are not listed.
        let items = names.into_iter().filter_map(|name| entry(&fd, name)).collect();
        Ok(FilePage { items, next, free_bytes: self.free_bytes()? })
    }

    fn free_bytes(&self) -> Result<u64> {
        let space = fstatvfs(&self.0)?;
        Ok(space.f_bavail.saturating_mul(space.f_frsize))
    }
}

/// Moves within the volume. Both folders are on disk afterwards.
pub(crate) fn move_to(from: &Place<'_>, to: &Place<'_>, replace: bool) -> Result<()> {
    let flags = if replace { RenameFlags::empty() } else { RenameFlags::NOREPLACE };
    renameat_with(&from.folder, from.name, &to.folder, to.name, flags)?;
    fsync(&to.folder)?;
    fsync(&from.folder)
}

fn readable_name(folder: &FilePath, name: &CStr) -> Option<String> {
    let name = name.to_str().ok().filter(|name| !matches!(*name, "." | ".."))?;
    let folder = folder.as_str();
    let path = if folder.is_empty() { name.to_owned() } else { format!("{folder}/{name}") };
    FilePath::try_from(path).is_ok().then(|| name.to_owned())
}

fn entry(folder: impl AsFd, name: String) -> Option<FileEntry> {
    let stat = statat(folder, name.as_str(), AtFlags::SYMLINK_NOFOLLOW).ok()?;
    let size = u64::try_from(stat.st_size).unwrap_or_default();
    Some(FileEntry { name, kind: kind(&stat), size, modified_at: modified_at(&stat) })
}

pub(crate) fn modified_at(stat: &Stat) -> i64 {
    let nanos = i64::try_from(stat.st_mtime_nsec).unwrap_or_default();
    stat.st_mtime.saturating_mul(1_000).saturating_add(nanos / 1_000_000)
}

fn kind(stat: &Stat) -> FileKind {
    let kind = FileType::from_raw_mode(stat.st_mode);
    if kind.is_file() {
        FileKind::File
    } else if kind.is_dir() {
        FileKind::Folder
    } else {
        FileKind::Other
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Read as _;
    use std::os::unix::fs::symlink;
    use std::sync::atomic::{AtomicBool, Ordering};

    use proptest::prelude::*;

    use super::*;

    fn path(text: &str) -> FilePath {
        FilePath::try_from(text.to_owned()).unwrap()
    }

    #[test]
    fn a_folder_that_turns_into_a_link_meanwhile_leads_nowhere() {
        let (dir, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs::write(outside.path().join("f"), "outside").unwrap();
        fs::create_dir(dir.path().join("real")).unwrap();
        fs::write(dir.path().join("real/f"), "inside").unwrap();
        symlink(outside.path(), dir.path().join("link")).unwrap();
        let top = Top::open(dir.path()).unwrap();
        let at = |name: &str| dir.path().join(name);
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    for (from, to) in
                        [("real", "kept"), ("link", "real"), ("real", "link"), ("kept", "real")]
                    {
                        fs::rename(at(from), at(to)).unwrap();
                    }
                }
            });
            let (mut opened, mut refused, mut wrong) = (0, 0, Vec::new());
            while opened < 200 || refused < 200 {
                match top.open_file(&path("real/f")) {
                    Ok(file) => {
                        let mut text = String::new();
                        fs::File::from(file).read_to_string(&mut text).unwrap();
                        wrong.extend((text != "inside").then_some(text));
                        opened += 1;
                    }
                    Err(error) => {
                        let is_meant = matches!(error, Errno::LOOP | Errno::NOTDIR | Errno::NOENT);
                        wrong.extend((!is_meant).then(|| error.to_string()));
                        refused += 1;
                    }
                }
                // Whether they succeed depends on the moment.
                let _ = top.make_folder(&path("real/made"));
                let _ = top.rename(&path("real/made"), &path("real/moved"), true);
                let _ = top.delete(&path("real/moved"));
            }
            stop.store(true, Ordering::Relaxed);
            assert_eq!(wrong, [""; 0]);
        });
        assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 1);
    }

    #[test]
    fn names_that_are_no_text_are_left_out_and_hold_nothing_up() {
        use std::os::unix::ffi::OsStrExt as _;
        let dir = tempfile::tempdir().unwrap();
        for name in [&b"caf\xe9"[..], b"a", b"new\nline", b"back\\slash", b"\xff\xff"] {
            fs::write(dir.path().join(std::ffi::OsStr::from_bytes(name)), "").unwrap();
        }
        let list = Top::open(dir.path()).unwrap().list(&path(""), None, 10).unwrap();
        let names: Vec<_> = list.items.iter().map(|entry| entry.name.as_str()).collect();
        assert_eq!((names.as_slice(), list.next), (&["a"][..], None));
    }

    proptest! {
        /// Every name comes once and in order, whatever the size of a page.
        #[test]
        fn pages_follow_each_other(
            names in proptest::collection::btree_set("[a-zß.]{1,6}", 0..30),
            limit in 1..12_u16,
        ) {
            let names: Vec<_> =
                names.into_iter().filter(|name| !matches!(name.as_str(), "." | "..")).collect();
            let dir = tempfile::tempdir().unwrap();
            for name in &names {
                fs::write(dir.path().join(name), "").unwrap();
            }
            let top = Top::open(dir.path()).unwrap();
            let (mut found, mut after) = (Vec::new(), None);
            loop {
                let list = top.list(&path(""), after.as_ref(), limit).unwrap();
                prop_assert!(list.items.len() <= usize::from(limit));
                found.extend(list.items.into_iter().map(|entry| entry.name));
                let Some(next) = list.next else { break };
                after = Some(path(&next));
            }
            prop_assert_eq!(found, names);
        }
    }
}
