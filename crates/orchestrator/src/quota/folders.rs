//! The directories that the engine made for a tenant's volumes, and whether each is a subvolume.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::path::{Path, PathBuf};

use protocol::TenantId;

use super::btrfs::Btrfs;
use super::wire::QuotaError;

/// The inode of the root of every subvolume, and of no other directory.
const SUBVOLUME_INODE: u64 = 256;
/// The directory in that of a volume that containers mount.
const CONTENT: &str = "_data";

/// The tenant whose data a volume of this name holds.
pub(super) fn tenant_of(volume: &str) -> Option<TenantId> {
    volume.strip_prefix("cial-tenant-")?.strip_suffix("-data")?.parse().ok()
}

/// One volume of a tenant: the directory that containers mount.
pub(super) struct Folder {
    path: PathBuf,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Content {
    Subvolume,
    /// A directory without entries, or none: an earlier call ended between its removal and the subvolume.
    Empty,
    Filled,
}

impl Folder {
    /// Both volumes of a tenant.
    pub(super) fn both(volumes: &Path, tenant: TenantId) -> [Self; 2] {
        let folder = |volume: String| Self { path: volumes.join(volume).join(CONTENT) };
        [folder(tenant.data_volume()), folder(tenant.files_volume())]
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// # Errors
    /// The engine has no such volume, or something else than a directory is in its place.
    pub(super) fn content(&self) -> Result<Content, QuotaError> {
        let volume = self.path.parent().unwrap_or(&self.path);
        self.read(volume).map_err(|error| self.failed("cannot be read", &error))
    }

    fn read(&self, volume: &Path) -> io::Result<Content> {
        // Links are not followed: they could lead anywhere.
        if !fs::symlink_metadata(volume)?.is_dir() {
            return Err(io::ErrorKind::NotADirectory.into());
        }
        let metadata = match fs::symlink_metadata(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Content::Empty),
            metadata => metadata?,
        };
        if !metadata.is_dir() {
            return Err(io::ErrorKind::NotADirectory.into());
        }
        if metadata.ino() == SUBVOLUME_INODE {
            return Ok(Content::Subvolume);
        }
        let has_entry = fs::read_dir(&self.path)?.next().is_some();
        Ok(if has_entry { Content::Filled } else { Content::Empty })
    }

    /// Puts a subvolume in the place of an empty directory, with its owner and its mode.
    pub(super) fn become_subvolume(&self, btrfs: &Btrfs<'_>) -> Result<(), QuotaError> {
        let before = fs::symlink_metadata(&self.path);
        if before.is_ok() {
            fs::remove_dir(&self.path)
                .map_err(|error| self.failed("cannot be replaced", &error))?;
        }
        let created = btrfs.create_subvolume(&self.path);
        if created.is_err() {
            // The engine finds the directory that it made.
            let _ = fs::create_dir(&self.path);
        }
        if let Ok(before) = before {
            let mode = Permissions::from_mode(before.mode() & 0o7777);
            let same = chown(&self.path, Some(before.uid()), Some(before.gid()))
                .and_then(|()| fs::set_permissions(&self.path, mode));
            same.map_err(|error| self.failed("cannot be given to its owner", &error))?;
        }
        created
    }

    /// Removes the subvolume with its content, at once, and leaves an empty directory for the engine to remove.
    pub(super) fn remove_subvolume(&self, btrfs: &Btrfs<'_>) -> Result<(), QuotaError> {
        btrfs.delete_subvolume(&self.path)?;
        fs::create_dir(&self.path).map_err(|error| self.failed("cannot be created", &error))
    }

    fn failed(&self, what: &str, error: &io::Error) -> QuotaError {
        QuotaError::Failed(format!("{} {what}: {error}", self.path.display()))
    }
}
