//! Files of uploads under way, in a folder of their own on the same volume, so that a finished one is moved in one step.

use std::os::fd::OwnedFd;

use protocol::files::{FilePath, UPLOADS_FOLDER};
use rustix::fs::{AtFlags, Dir, Mode, OFlags, fsync, mkdirat, statat, unlinkat};
use rustix::io::{Errno, Result};
use uuid::Uuid;

use crate::folder::{FILE_MODE, Place, Top, modified_at, move_to};

/// Uploads at once.
const MAX_UPLOADS: usize = 64;
/// An upload without a part for this long is given up once another begins.
const ABANDONED_MILLIS: i64 = 24 * 60 * 60 * 1_000;

impl Top {
    /// Opens the file of an upload for writing.
    pub(crate) fn open_upload(&self, id: Uuid, is_new: bool, now: i64) -> Result<OwnedFd> {
        let path = format!("{UPLOADS_FOLDER}/{id}");
        if !is_new {
            return self.open_at(&path, OFlags::WRONLY, Mode::empty());
        }
        self.make_room(now)?;
        let file =
            self.open_at(&path, OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL, FILE_MODE)?;
        // A part is acknowledged when it is on disk, and so must be the name under which it is found.
        fsync(self.open_folder(UPLOADS_FOLDER)?)?;
        Ok(file)
    }

    pub(crate) fn finish_upload(&self, id: Uuid, path: &FilePath, replace: bool) -> Result<()> {
        let name = id.to_string();
        let from = Place { folder: self.open_folder(UPLOADS_FOLDER)?, name: &name };
        move_to(&from, &self.place(path)?, replace)
    }

    pub(crate) fn delete_upload(&self, id: Uuid) -> Result<()> {
        unlinkat(self.open_folder(UPLOADS_FOLDER)?, id.to_string(), AtFlags::empty())
    }

    /// Makes the folder, deletes abandoned uploads, and fails with `USERS` when no place is left.
    fn make_room(&self, now: i64) -> Result<()> {
        let top = self.open_folder("")?;
        match mkdirat(&top, UPLOADS_FOLDER, Mode::from_raw_mode(0o700)) {
            Ok(()) => return fsync(&top),
            Err(Errno::EXIST) => {}
            Err(error) => return Err(error),
        }
        let folder = self.open_folder(UPLOADS_FOLDER)?;
        let mut live = 0;
        for entry in Dir::read_from(&folder)? {
            let entry = entry?;
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            // A program of the tenant may have deleted it meanwhile.
            let Ok(stat) = statat(&folder, name, AtFlags::SYMLINK_NOFOLLOW) else { continue };
            if now.saturating_sub(modified_at(&stat)) > ABANDONED_MILLIS {
                // A folder that somebody made here stays, and counts.
                live += usize::from(unlinkat(&folder, name, AtFlags::empty()).is_err());
            } else {
                live += 1;
            }
        }
        if live >= MAX_UPLOADS { Err(Errno::USERS) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{MetadataExt as _, symlink};

    use super::*;

    fn names(dir: &std::path::Path) -> usize {
        fs::read_dir(dir.join(UPLOADS_FOLDER)).unwrap().count()
    }

    #[test]
    fn uploads_are_bounded_and_abandoned_ones_make_room() {
        let dir = tempfile::tempdir().unwrap();
        let top = Top::open(dir.path()).unwrap();
        let now = fs::metadata(dir.path()).unwrap().mtime() * 1_000;
        for number in 0..MAX_UPLOADS {
            top.open_upload(Uuid::from_u128(number as u128), true, now).unwrap();
        }
        let next = Uuid::from_u128(1_000);
        assert_eq!(top.open_upload(next, true, now).err(), Some(Errno::USERS));
        top.open_upload(Uuid::from_u128(1), false, now).unwrap();
        assert_eq!(top.open_upload(next, false, now).err(), Some(Errno::NOENT));
        let tomorrow = now + 2 * ABANDONED_MILLIS;
        top.open_upload(next, true, tomorrow).unwrap();
        assert_eq!(names(dir.path()), 1);
        assert_eq!(top.open_upload(next, true, now).err(), Some(Errno::EXIST), "an id is new once");
    }

    #[test]
    fn a_link_in_the_place_of_the_folder_is_not_followed() {
        let (dir, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        symlink(outside.path(), dir.path().join(UPLOADS_FOLDER)).unwrap();
        let top = Top::open(dir.path()).unwrap();
        let refused = top.open_upload(Uuid::nil(), true, 0).err();
        assert!(matches!(refused, Some(Errno::LOOP | Errno::NOTDIR)), "{refused:?}");
        assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0);
    }
}
