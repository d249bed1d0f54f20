//! A copy of the tenant's files from before a `migrate` hook, which takes their place again when the hook fails, or is
//! interrupted. A start that is killed at any moment leaves one of: no copy, an unfinished copy, a whole copy, or a whole copy
//! of which some entries are in their place already. The next start goes on from there.

use std::fs::{self, File, FileTimes, Metadata};
use std::io::{self, Read as _};
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::path::{Path, PathBuf};

use nix::sys::statvfs::statvfs;
use nix::unistd::{geteuid, syncfs};
use rustix::fs::ioctl_ficlone;

use super::folder::{StateFolder, entries, metadata, rename_any};
use protocol::files::{DiskShare, PLATFORM_FOLDERS};

/// A copy that the filesystem does not share with the files takes space and time: it is made up to these bounds.
const MAX_COPIED_BYTES: u64 = 1 << 30;
const MAX_ENTRIES: u32 = 100_000;

const UNFINISHED: &str = "copying";
const COPY: &str = "before-migrate";
/// The copy, once nothing of the hook is in the place of the files.
const RETURNING: &str = "restoring";

impl StateFolder {
    /// Copies the files: shared with them where the filesystem can, otherwise up to one half of the free space, and of what
    /// `share` leaves the tenant.
    ///
    /// # Errors
    /// There is no copy, and why.
    pub(super) fn copy_files(&self, share: Option<DiskShare>) -> io::Result<()> {
        let unfinished = self.entry(UNFINISHED);
        let copied = self.copy_into(&unfinished, share);
        if copied.is_err() {
            self.discard(&unfinished)?;
            self.empty_discarded();
        }
        copied
    }

    fn copy_into(&self, unfinished: &Path, share: Option<DiskShare>) -> io::Result<()> {
        self.discard(unfinished)?;
        fs::create_dir(unfinished)?;
        let space = statvfs(&self.files)?;
        let free = space.blocks_available() * space.fragment_size();
        let mut copying = Copying {
            bytes_left: MAX_COPIED_BYTES.min(free / 2),
            limit: share.and_then(LimitRoom::of),
            entries_left: MAX_ENTRIES,
        };
        for entry in self.own_entries()? {
            copying.copy(&entry, &in_folder(unfinished, &entry))?;
        }
        // The name must not reach the disk before the content.
        syncfs(File::open(unfinished)?)?;
        let copy = self.entry(COPY);
        self.discard(&copy)?;
        fs::rename(unfinished, copy)
    }

    pub(super) fn discard_copy(&self) -> io::Result<()> {
        self.discard(&self.entry(COPY))
    }

    /// Puts the copy in the place of the files, if there is one; returns whether there was. Moves entries, and so needs no
    /// space.
    pub(super) fn restore_files(&self) -> io::Result<bool> {
        let (copy, returning) = (self.entry(COPY), self.entry(RETURNING));
        self.discard(&self.entry(UNFINISHED))?;
        let is_folder =
            |path| metadata(path).map(|found| found.is_some_and(|found| found.is_dir()));
        if is_folder(&copy)? {
            for entry in self.own_entries()? {
                self.discard(&entry)?;
            }
            self.discard(&returning)?;
            fs::rename(&copy, &returning)?;
        }
        if !is_folder(&returning)? {
            return Ok(false);
        }
        for entry in entries(&returning)? {
            let place = in_folder(&self.files, &entry);
            self.discard(&place)?;
            rename_any(&entry, &place)?;
        }
        self.discard(&returning)?;
        Ok(true)
    }

    /// The entries of the files, without folders of the platform and what belongs to other users, such as `lost+found`.
    fn own_entries(&self) -> io::Result<Vec<PathBuf>> {
        let mut own = entries(&self.files)?;
        own.retain(|entry| {
            entry.file_name().is_some_and(|name| PLATFORM_FOLDERS.iter().all(|own| name != *own))
                && metadata(entry).ok().flatten().is_some_and(|found| is_own(&found))
        });
        Ok(own)
    }
}

struct Copying {
    /// For what the filesystem does not share.
    bytes_left: u64,
    limit: Option<LimitRoom>,
    entries_left: u32,
}

/// The room below a disk limit that is measured. A tenant that passes the limit is stopped, in the middle of its hook.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct LimitRoom {
    limit_bytes: u64,
    bytes_left: u64,
}

impl LimitRoom {
    /// `None` where the filesystem enforces the limit: it counts what is shared once, and refuses what is too much.
    fn of(share: DiskShare) -> Option<Self> {
        let DiskShare { limit_bytes, used_bytes, is_enforced } = share;
        let left = limit_bytes.saturating_sub(used_bytes.unwrap_or_default());
        // The rest is for the hook.
        (!is_enforced).then_some(Self { limit_bytes, bytes_left: left / 2 })
    }
}

impl Copying {
    /// Copies content, modes and times. Links stay links; a pipe or a socket has nothing to keep.
    fn copy(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        let refuse = |why: String| io::Error::other(format!("{}: {why}", from.display()));
        let named = |error: io::Error| refuse(error.to_string());
        let Some(left) = self.entries_left.checked_sub(1) else {
            return Err(io::Error::other(format!("there are more than {MAX_ENTRIES} of them")));
        };
        self.entries_left = left;
        let found = fs::symlink_metadata(from).map_err(named)?;
        if !is_own(&found) {
            return Err(refuse("belongs to another user".to_owned()));
        }
        if found.is_symlink() {
            return symlink(fs::read_link(from).map_err(named)?, to);
        }
        if found.is_file() {
            let mut source = File::open(from).map_err(named)?;
            let copied = File::create_new(to)?;
            self.copy_content(&mut source, &copied, found.len())?;
            return keep_attributes(&copied, &found);
        }
        if !found.is_dir() {
            return Ok(());
        }
        fs::create_dir(to)?;
        for entry in entries(from).map_err(named)? {
            self.copy(&entry, &in_folder(to, &entry))?;
        }
        keep_attributes(&File::open(to)?, &found)
    }

    fn copy_content(&mut self, from: &mut File, mut to: &File, bytes: u64) -> io::Result<()> {
        if let Some(room) = &mut self.limit {
            // A measurement counts what files share once for each.
            let left = room.bytes_left.checked_sub(bytes).ok_or_else(|| {
                let limit = room.limit_bytes;
                io::Error::other(format!(
                    "a copy needs too much of the disk limit of {limit} bytes"
                ))
            })?;
            room.bytes_left = left;
        }
        if ioctl_ficlone(to, &*from).is_ok() {
            return Ok(());
        }
        let Some(left) = self.bytes_left.checked_sub(bytes) else {
            return Err(io::Error::other("they are too large for a copy"));
        };
        self.bytes_left = left;
        io::copy(&mut from.take(bytes), &mut to).map(drop)
    }
}

/// The times first: the mode may keep this process out.
fn keep_attributes(copy: &File, of: &Metadata) -> io::Result<()> {
    copy.set_times(FileTimes::new().set_modified(of.modified()?))?;
    copy.set_permissions(of.permissions())
}

fn is_own(found: &Metadata) -> bool {
    found.uid() == geteuid().as_raw()
}

fn in_folder(folder: &Path, entry: &Path) -> PathBuf {
    entry.file_name().map_or_else(|| folder.to_owned(), |name| folder.join(name))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt as _;
    use std::time::{Duration, SystemTime};

    use proptest::prelude::*;
    use testkit::{Filesystem, SmallDisk, TempDir};

    use super::*;

    /// Path, mode and content of everything in the files but `.cial`.
    fn tree(files: &Path) -> BTreeMap<String, (u32, String)> {
        let mut found = BTreeMap::new();
        let mut left = entries(files).unwrap();
        left.retain(|entry| !entry.ends_with(protocol::inside::HOOK_STATE_DIR));
        while let Some(path) = left.pop() {
            let of = fs::symlink_metadata(&path).unwrap();
            let content = if of.is_dir() {
                left.extend(entries(&path).unwrap());
                "folder".to_owned()
            } else if of.is_symlink() {
                fs::read_link(&path).unwrap().display().to_string()
            } else {
                fs::read_to_string(&path).unwrap()
            };
            let name = path.strip_prefix(files).unwrap().display().to_string();
            found.insert(name, (of.mode() & 0o7777, content));
        }
        found
    }

    fn write(files: &Path, name: &str, content: &str) {
        let path = files.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    fn with_files() -> (TempDir, StateFolder) {
        let kept = TempDir::new("hooks-files").unwrap();
        for name in ["a", "b/c", "b/d/e", "f/g"] {
            write(kept.path(), name, name);
        }
        let folder = StateFolder::open(kept.path()).unwrap();
        (kept, folder)
    }

    /// Damages the files, as a hook that fails does.
    fn damage(files: &Path) {
        fs::remove_dir_all(files.join("b")).unwrap();
        fs::remove_file(files.join("a")).unwrap();
        for name in ["f/g", "f/new", "b", "new/h"] {
            write(files, name, "damaged");
        }
    }

    #[test]
    fn files_come_back_with_their_modes_times_and_links() {
        let (kept, folder) = with_files();
        let at = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        File::open(kept.path().join("b/c")).unwrap().set_modified(at).unwrap();
        fs::set_permissions(kept.path().join("b/d"), Permissions::from_mode(0o500)).unwrap();
        symlink("b/c", kept.path().join("link")).unwrap();
        symlink("/nowhere", kept.path().join("b/broken")).unwrap();
        let before = tree(kept.path());
        folder.copy_files(None).unwrap();
        assert_eq!(tree(kept.path()), before, "a copy changes nothing");
        damage(kept.path());
        assert!(folder.restore_files().unwrap());
        assert_eq!(tree(kept.path()), before);
        assert_eq!(fs::metadata(kept.path().join("b/c")).unwrap().modified().unwrap(), at);
        assert!(!folder.restore_files().unwrap(), "once");
        folder.empty_discarded();
        let left = entries(&folder.entry("discarded/0")).unwrap();
        assert_eq!(left, Vec::<PathBuf>::new());
    }

    #[test]
    fn a_copy_of_a_hook_that_succeeded_never_comes_back() {
        let (kept, folder) = with_files();
        folder.copy_files(None).unwrap();
        damage(kept.path());
        let after = tree(kept.path());
        folder.discard_copy().unwrap();
        assert!(!folder.restore_files().unwrap());
        assert_eq!(tree(kept.path()), after);
    }

    #[test]
    fn files_of_others_and_too_many_are_not_copied() {
        let (kept, folder) = with_files();
        std::os::unix::fs::chown(kept.path().join("f"), Some(7), None).unwrap();
        folder.copy_files(None).unwrap();
        assert!(!folder.entry(COPY).join("f").exists(), "a folder of another user stays alone");
        folder.discard_copy().unwrap();
        std::os::unix::fs::chown(kept.path().join("b/c"), Some(7), None).unwrap();
        let why = folder.copy_files(None).unwrap_err().to_string();
        assert!(why.ends_with("b/c: belongs to another user"), "{why}");
        let mut copying = Copying { bytes_left: 9, limit: None, entries_left: 1 };
        let why = copying.copy(&kept.path().join("b"), &kept.path().join("x")).unwrap_err();
        assert_eq!(why.to_string(), "there are more than 100000 of them");
        assert!(!folder.restore_files().unwrap(), "no part of a copy is one");
    }

    /// A file with more bytes than a half of what is free.
    #[test]
    fn a_copy_takes_no_space_where_the_filesystem_shares_and_at_most_a_half_elsewhere() {
        for (filesystem, is_copied) in [(Filesystem::Btrfs, true), (Filesystem::Ext4, false)] {
            let disk = SmallDisk::mount_as(filesystem, "hooks-disk", 256 << 20).unwrap();
            fs::write(disk.path().join("large"), vec![7; 100 << 20]).unwrap();
            let folder = StateFolder::open(disk.path()).unwrap();
            let copied = folder.copy_files(None).map_err(|error| error.to_string());
            if is_copied {
                assert_eq!(copied, Ok(()), "{filesystem:?}");
                fs::write(disk.path().join("large"), "damaged").unwrap();
                assert!(folder.restore_files().unwrap());
                let large = fs::read(disk.path().join("large")).unwrap();
                assert_eq!(large, vec![7; 100 << 20]);
            } else {
                assert_eq!(copied, Err("they are too large for a copy".to_owned()));
                assert_eq!(entries(&folder.entry("discarded/0")).unwrap(), Vec::<PathBuf>::new());
            }
        }
    }

    #[test]
    fn a_copy_leaves_a_tenant_below_a_limit_that_is_measured() {
        let (kept, folder) = with_files();
        write(kept.path(), "large", &"x".repeat(1_000));
        let share = |limit_bytes, used_bytes| {
            Some(DiskShare { limit_bytes, used_bytes, is_enforced: false })
        };
        let refused = "a copy needs too much of the disk limit of 4000 bytes";
        for (share, expected) in [
            (None, None),
            (share(4_000, Some(1_009)), None),
            (share(4_000, None), None),
            (share(4_000, Some(2_009)), Some(refused)),
            (share(4_000, Some(5_000)), Some(refused)),
            (share(4_000, Some(5_000)).map(|share| DiskShare { is_enforced: true, ..share }), None),
        ] {
            let copied = folder.copy_files(share).map_err(|error| error.to_string());
            assert_eq!(copied.err().as_deref(), expected, "{share:?}");
            folder.discard_copy().unwrap();
        }
    }

    /// Blocks that files share count once for each file.
    #[test]
    fn a_shared_copy_counts_below_a_limit_that_is_measured() {
        let disk = SmallDisk::mount_as(Filesystem::Btrfs, "hooks-share", 256 << 20).unwrap();
        fs::write(disk.path().join("large"), vec![7; 10 << 20]).unwrap();
        let folder = StateFolder::open(disk.path()).unwrap();
        let share = DiskShare { limit_bytes: 15 << 20, used_bytes: None, is_enforced: false };
        assert!(folder.copy_files(Some(share)).is_err());
        folder.copy_files(Some(DiskShare { is_enforced: true, ..share })).unwrap();
    }

    proptest! {
        // Each case waits for the disk.
        #![proptest_config(ProptestConfig::with_cases(16))]

        /// A start that is killed while it restores: so many entries are out of the way, or in their place again.
        #[test]
        fn a_restore_that_is_killed_goes_on_at_the_next_start(
            out in 0..5_usize, back in prop::option::of(0..4_usize), unfinished in any::<bool>()
        ) {
            let (kept, folder) = with_files();
            let before = tree(kept.path());
            folder.copy_files(None).unwrap();
            damage(kept.path());
            let all = if back.is_some() { usize::MAX } else { out };
            for entry in folder.own_entries().unwrap().iter().take(all) {
                folder.discard(entry).unwrap();
            }
            if let Some(back) = back {
                fs::rename(folder.entry(COPY), folder.entry(RETURNING)).unwrap();
                for entry in entries(&folder.entry(RETURNING)).unwrap().iter().take(back) {
                    rename_any(entry, &in_folder(kept.path(), entry)).unwrap();
                }
            }
            if unfinished {
                write(&folder.entry(UNFINISHED), "a", "half");
            }
            let next = StateFolder::open(kept.path()).unwrap();
            prop_assert!(next.restore_files().unwrap());
            prop_assert_eq!(tree(kept.path()), before);
            prop_assert!(!next.entry(UNFINISHED).exists());
        }
    }
}
