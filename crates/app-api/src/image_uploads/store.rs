//! Tarballs under way, in a folder that replicas may share: of each a file with the bytes that arrived, and one with its metadata.
//!
//! Locks of files keep replicas apart, and threads of one: whoever uses an upload holds its tarball, and whoever looks at all
//! uploads or changes a name holds the file `.lock`, and then waits for no tarball.
//!
//! Every function may wait for the disk: call them on a thread for that.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _, OpenOptionsExt as _};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use protocol::Timestamp;
use protocol::images::MAX_UPLOAD_BYTES;
use rustix::fs::statvfs;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use crate::disk_reserve::{self, RESERVE_BYTES};

/// Uploads at once, of one caller each.
pub const MAX_UPLOADS: usize = 8;
/// An upload without a part for this long is given up.
pub const ABANDONED_AFTER: Duration = Duration::from_secs(24 * 3_600);
const BUFFER_BYTES: usize = 1 << 20;
const METADATA: &str = "json";
const CONTENT: &str = "tar";
const LOCK: &str = ".lock";

/// The record of an upload beside its bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UploadMetadata {
    pub owner: Uuid,
    pub size: u64,
    pub sha256: String,
    /// The end of the last part.
    pub touched_at: Timestamp,
}

/// An upload with the bytes that arrived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upload {
    pub id: Uuid,
    pub metadata: UploadMetadata,
    pub offset: u64,
}

impl Upload {
    pub fn is_whole(&self) -> bool {
        self.offset == self.metadata.size
    }

    fn is_abandoned(&self, now: Timestamp) -> bool {
        (now - self.metadata.touched_at).to_std().is_ok_and(|passed| passed > ABANDONED_AFTER)
    }
}

/// The reason for which an upload is not taken or continued.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("an image may have 1 to {MAX_UPLOAD_BYTES} bytes")]
    Size,
    #[error("there are {MAX_UPLOADS} uploads already")]
    TooMany,
    #[error("no room on the disk")]
    DiskFull,
    #[error("another request writes the upload")]
    Busy,
    #[error("no such upload")]
    Missing,
    #[error("the next part begins at {0}")]
    Offset(u64),
    #[error("the part goes beyond the size of the upload")]
    TooLong,
    #[error(transparent)]
    Io(io::Error),
}

impl From<io::Error> for StoreError {
    fn from(error: io::Error) -> Self {
        let is_full = [io::ErrorKind::StorageFull, io::ErrorKind::QuotaExceeded];
        if is_full.contains(&error.kind()) {
            Self::DiskFull
        } else if error.kind() == io::ErrorKind::NotFound {
            Self::Missing
        } else {
            Self::Io(error)
        }
    }
}

#[derive(Debug)]
pub struct Store {
    directory: PathBuf,
}

/// The only use of an upload, until this is dropped.
#[derive(Debug)]
pub struct Claim {
    store: Arc<Store>,
    id: Uuid,
    /// Locked.
    content: File,
}

impl Drop for Claim {
    fn drop(&mut self) {
        // Not left to the end of the descriptor, of which a program that is being started has a copy for a moment.
        let _ = self.content.unlock();
    }
}

/// The uploads of the folder.
#[derive(Debug, Default, PartialEq, Eq)]
struct Listing {
    uploads: Vec<Upload>,
    /// Those that cannot be read take room, too.
    unreadable: usize,
}

impl Store {
    pub fn new(directory: PathBuf) -> Self {
        Self { directory }
    }

    /// Waits for the others that look at all uploads or change a name.
    ///
    /// # Errors
    /// [`StoreError::Missing`] before the first upload.
    fn lock(&self) -> Result<File, StoreError> {
        let mut options = OpenOptions::new();
        let path = self.directory.join(LOCK);
        let file = options.write(true).create(true).truncate(false).mode(0o600).open(path)?;
        file.lock()?;
        Ok(file)
    }

    /// Locks the content of an upload.
    ///
    /// # Errors
    /// [`StoreError::Busy`]; [`StoreError::Missing`].
    fn hold(&self, id: Uuid) -> Result<File, StoreError> {
        let content = File::open(self.path(id, CONTENT))?;
        match content.try_lock() {
            Ok(()) => Ok(content),
            Err(TryLockError::WouldBlock) => Err(StoreError::Busy),
            Err(TryLockError::Error(error)) => Err(error.into()),
        }
    }

    /// Begins an upload. The same tarball of the same caller goes on where it was; another one takes its place.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn begin(&self, new: UploadMetadata) -> Result<Upload, StoreError> {
        if !(1..=MAX_UPLOAD_BYTES).contains(&new.size) {
            return Err(StoreError::Size);
        }
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.directory)?;
        // Held until the files exist: of two that begin at once, the second one counts the first.
        let _lock = self.lock()?;
        self.remove_abandoned(new.touched_at)?;
        let Listing { uploads: mut all, unreadable } = self.all()?;
        if let Some(own) = all.iter().position(|upload| upload.metadata.owner == new.owner) {
            let own = all.swap_remove(own);
            if (own.metadata.size, &own.metadata.sha256) == (new.size, &new.sha256) {
                return Ok(own);
            }
            self.delete_unused(own.id)?;
        }
        if all.len() + unreadable >= MAX_UPLOADS {
            return Err(StoreError::TooMany);
        }
        let promised: u64 = all.iter().map(|upload| upload.metadata.size - upload.offset).sum();
        let disk = statvfs(&self.directory).map_err(io::Error::from)?;
        let reserve = promised.saturating_add(new.size).saturating_add(RESERVE_BYTES);
        if disk_reserve::is_reached(&disk, reserve) {
            return Err(StoreError::DiskFull);
        }
        let id = Uuid::now_v7();
        let mut options = OpenOptions::new();
        options
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(self.path(id, CONTENT))?
            .sync_all()?;
        self.write_metadata(id, &new)?;
        Ok(Upload { id, metadata: new, offset: 0 })
    }

    /// # Errors
    /// [`StoreError::Missing`], also for an upload of somebody else.
    pub fn find(&self, id: Uuid, owner: Uuid) -> Result<Upload, StoreError> {
        let upload = self.read(id)?;
        if upload.metadata.owner == owner { Ok(upload) } else { Err(StoreError::Missing) }
    }

    /// # Errors
    /// [`StoreError::Missing`]; [`StoreError::Busy`].
    pub fn claim(self: &Arc<Self>, id: Uuid, owner: Uuid) -> Result<(Claim, Upload), StoreError> {
        self.find(id, owner)?;
        let claim = Claim { store: self.clone(), id, content: self.hold(id)? };
        // Bytes of a request that just ended count, and an upload may have been deleted before the lock.
        Ok((claim, self.find(id, owner)?))
    }

    /// Deletes what nobody went on with.
    ///
    /// # Errors
    /// The file system's own.
    pub fn sweep(&self, now: Timestamp) -> Result<(), StoreError> {
        let _lock = match self.lock() {
            Err(StoreError::Missing) => return Ok(()),
            lock => lock?,
        };
        self.remove_abandoned(now)
    }

    /// Needs the lock of the folder.
    fn remove_abandoned(&self, now: Timestamp) -> Result<(), StoreError> {
        let uploads = self.all()?.uploads;
        for upload in uploads.iter().filter(|upload| upload.is_abandoned(now)) {
            match self.delete_unused(upload.id) {
                Ok(()) | Err(StoreError::Busy) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Lists all uploads, and deletes the rest of one that was begun or deleted when its process was killed. Needs the lock of
    /// the folder: without it, a file that another replica writes would count as such a rest.
    fn all(&self) -> Result<Listing, StoreError> {
        let mut all = Listing::default();
        for entry in fs::read_dir(&self.directory)? {
            let path = entry?.path();
            if path.file_name().is_some_and(|name| name == LOCK) {
                continue;
            }
            let stem = path.file_stem().and_then(|stem| stem.to_str());
            let id = stem.and_then(|stem| stem.parse().ok());
            let is_content = path.extension().is_some_and(|kind| kind == CONTENT);
            match id.map_or(Err(StoreError::Missing), |id| self.read(id)) {
                Ok(upload) if is_content => all.uploads.push(upload),
                Ok(_) => {}
                Err(StoreError::Missing) => fs::remove_file(&path)?,
                // Nobody knows whether it is needed. It is deleted by hand.
                Err(error) if is_content => {
                    all.unreadable += 1;
                    tracing::error!(path = %path.display(), %error, "upload of an image cannot be read");
                }
                Err(_) => {}
            }
        }
        Ok(all)
    }

    fn read(&self, id: Uuid) -> Result<Upload, StoreError> {
        let offset = fs::metadata(self.path(id, CONTENT))?.len();
        let text = fs::read(self.path(id, METADATA))?;
        let metadata: UploadMetadata = serde_json::from_slice(&text).map_err(io::Error::from)?;
        Ok(Upload { id, offset: offset.min(metadata.size), metadata })
    }

    fn write_metadata(&self, id: Uuid, metadata: &UploadMetadata) -> Result<(), StoreError> {
        let unfinished = self.directory.join(format!(".{id}"));
        let mut options = OpenOptions::new();
        let mut file =
            options.write(true).create(true).truncate(true).mode(0o600).open(&unfinished)?;
        file.write_all(&serde_json::to_vec(metadata).map_err(io::Error::from)?)?;
        file.sync_all()?;
        fs::rename(&unfinished, self.path(id, METADATA))?;
        Ok(File::open(&self.directory)?.sync_all()?)
    }

    /// # Errors
    /// [`StoreError::Busy`].
    fn delete_unused(&self, id: Uuid) -> Result<(), StoreError> {
        let _content = self.hold(id)?;
        self.delete(id)
    }

    fn delete(&self, id: Uuid) -> Result<(), StoreError> {
        // The metadata is last: without them, the content is deleted as what a kill left.
        fs::remove_file(self.path(id, CONTENT))?;
        Ok(fs::remove_file(self.path(id, METADATA))?)
    }

    fn path(&self, id: Uuid, kind: &str) -> PathBuf {
        self.directory.join(format!("{id}.{kind}"))
    }
}

impl Claim {
    /// Opens the content for further bytes. `offset` must be the end of what arrived.
    ///
    /// # Errors
    /// [`StoreError::Offset`].
    pub fn append(&self, upload: &Upload, offset: u64) -> Result<Part, StoreError> {
        if offset != upload.offset {
            return Err(StoreError::Offset(upload.offset));
        }
        let file = OpenOptions::new().write(true).open(self.store.path(self.id, CONTENT))?;
        Ok(Part { file, offset, size: upload.metadata.size })
    }

    /// Notes that a part ended: the upload is kept for another while.
    ///
    /// # Errors
    /// The file system's own.
    pub fn touch(&self, metadata: &UploadMetadata, now: Timestamp) -> Result<(), StoreError> {
        // A look at the folder would delete the file that is being written.
        let _lock = self.store.lock()?;
        self.store.write_metadata(self.id, &UploadMetadata { touched_at: now, ..metadata.clone() })
    }

    pub fn open(&self) -> Result<File, StoreError> {
        Ok(File::open(self.store.path(self.id, CONTENT))?)
    }

    /// The SHA-256 of the content, in hexadecimal digits.
    ///
    /// # Errors
    /// The file system's own.
    pub fn digest(&self) -> Result<String, StoreError> {
        let (mut file, mut buffer, mut hash) = (self.open()?, vec![0; BUFFER_BYTES], Sha256::new());
        loop {
            match file.read(&mut buffer)? {
                0 => break,
                read => hash.update(buffer.get(..read).unwrap_or_default()),
            }
        }
        Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
    }

    /// # Errors
    /// The file system's own.
    pub fn delete(self) -> Result<(), StoreError> {
        let _lock = self.store.lock()?;
        self.store.delete(self.id)
    }
}

/// The end of an upload, for a part.
#[derive(Debug)]
pub struct Part {
    file: File,
    offset: u64,
    size: u64,
}

impl Part {
    /// Writes bytes behind those that arrived. Whatever fitted stays.
    ///
    /// # Errors
    /// [`StoreError::TooLong`], with nothing written; [`StoreError::DiskFull`].
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        let end = self.offset + bytes.len() as u64;
        if end > self.size {
            return Err(StoreError::TooLong);
        }
        self.file.write_all_at(bytes, self.offset)?;
        self.offset = end;
        Ok(())
    }

    /// Returns once everything is on the disk.
    ///
    /// # Errors
    /// The file system's own.
    pub fn sync(&self) -> Result<(), StoreError> {
        Ok(self.file.sync_all()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(hours: i64) -> Timestamp {
        Timestamp::from_timestamp(hours * 3_600, 0).unwrap()
    }

    fn metadata(owner: u128, content: &[u8], now: Timestamp) -> UploadMetadata {
        let sha256 = Sha256::digest(content).iter().map(|byte| format!("{byte:02x}")).collect();
        UploadMetadata {
            owner: Uuid::from_u128(owner),
            size: content.len() as u64,
            sha256,
            touched_at: now,
        }
    }

    fn store() -> (Arc<Store>, tempfile::TempDir) {
        let directory = tempfile::tempdir().unwrap();
        (Arc::new(Store::new(directory.path().join("uploads"))), directory)
    }

    fn write(
        store: &Arc<Store>,
        upload: &Upload,
        offset: u64,
        bytes: &[u8],
    ) -> Result<(), StoreError> {
        let (claim, upload) = store.claim(upload.id, upload.metadata.owner)?;
        let mut part = claim.append(&upload, offset)?;
        part.write(bytes)?;
        part.sync()
    }

    #[test]
    fn an_upload_goes_on_where_it_was_and_another_tarball_takes_its_place() {
        let (store, _directory) = store();
        let begun = store.begin(metadata(1, b"tarball", at(0))).unwrap();
        write(&store, &begun, 0, b"tar").unwrap();
        let refused = write(&store, &begun, 2, b"r").unwrap_err();
        assert!(matches!(refused, StoreError::Offset(3)), "{refused}");
        assert!(matches!(write(&store, &begun, 3, b"balls"), Err(StoreError::TooLong)));
        let again = store.begin(metadata(1, b"tarball", at(1))).unwrap();
        assert_eq!((again.id, again.offset), (begun.id, 3));
        write(&store, &again, 3, b"ball").unwrap();
        let (claim, whole) = store.claim(begun.id, begun.metadata.owner).unwrap();
        assert!(whole.is_whole());
        assert_eq!(claim.digest().unwrap(), begun.metadata.sha256);
        assert!(matches!(store.claim(begun.id, begun.metadata.owner), Err(StoreError::Busy)));
        assert!(matches!(store.begin(metadata(1, b"other", at(1))), Err(StoreError::Busy)));
        drop(claim);
        assert!(matches!(store.find(begun.id, Uuid::from_u128(2)), Err(StoreError::Missing)));
        let other = store.begin(metadata(1, b"other", at(1))).unwrap();
        assert!(matches!(store.find(begun.id, begun.metadata.owner), Err(StoreError::Missing)));
        assert_eq!(store.all().unwrap().uploads, [other]);
    }

    #[test]
    fn uploads_are_bounded_and_abandoned_ones_make_room() {
        let (store, _directory) = store();
        for owner in 0..MAX_UPLOADS {
            store.begin(metadata(owner as u128, b"tarball", at(0))).unwrap();
        }
        assert!(matches!(store.begin(metadata(99, b"t", at(24))), Err(StoreError::TooMany)));
        store.begin(metadata(99, b"t", at(25))).unwrap();
        assert_eq!(store.all().unwrap().uploads.len(), 1);
        store.sweep(at(25 + 25)).unwrap();
        assert_eq!(store.all().unwrap(), Listing::default());
        let huge = UploadMetadata { size: MAX_UPLOAD_BYTES + 1, ..metadata(1, b"", at(0)) };
        assert!(matches!(store.begin(huge), Err(StoreError::Size)));
        assert!(matches!(store.begin(metadata(1, b"", at(0))), Err(StoreError::Size)));
    }

    #[test]
    fn the_rest_of_a_killed_process_goes() {
        let (store, directory) = store();
        let begun = store.begin(metadata(1, b"tarball", at(0))).unwrap();
        let folder = directory.path().join("uploads");
        for name in [".half".to_owned(), format!("{}.tar", Uuid::nil())] {
            fs::write(folder.join(name), "x").unwrap();
        }
        assert_eq!(store.all().unwrap().uploads, [begun]);
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 3);
    }

    #[test]
    fn replicas_share_a_folder() {
        let (one, directory) = store();
        let other = Arc::new(Store::new(directory.path().join("uploads")));
        let begun = one.begin(metadata(1, b"tarball", at(0))).unwrap();
        let (claim, upload) = one.claim(begun.id, begun.metadata.owner).unwrap();
        let mut part = claim.append(&upload, 0).unwrap();
        part.write(b"tar").unwrap();
        let refused = other.claim(begun.id, begun.metadata.owner).unwrap_err();
        assert!(matches!(refused, StoreError::Busy), "{refused}");
        assert!(matches!(other.begin(metadata(1, b"other", at(1))), Err(StoreError::Busy)));
        other.sweep(at(1_000)).unwrap();
        part.write(b"ball").unwrap();
        drop(claim);
        let (claim, whole) = other.claim(begun.id, begun.metadata.owner).unwrap();
        assert!(whole.is_whole());
        assert_eq!(claim.digest().unwrap(), begun.metadata.sha256);
        claim.delete().unwrap();
        assert!(matches!(one.find(begun.id, begun.metadata.owner), Err(StoreError::Missing)));
        // A sweep waits for the name that another replica writes.
        let _lock = one.lock().unwrap();
        let file = File::open(directory.path().join("uploads").join(LOCK)).unwrap();
        assert!(matches!(file.try_lock(), Err(TryLockError::WouldBlock)));
    }

    /// An error of the disk may pass.
    #[test]
    fn an_upload_that_cannot_be_read_stays_and_takes_room() {
        let (store, _directory) = store();
        let begun = store.begin(metadata(1, b"tarball", at(0))).unwrap();
        fs::write(store.path(begun.id, METADATA), "{").unwrap();
        store.sweep(at(1_000)).unwrap();
        let listing = Listing { uploads: Vec::new(), unreadable: 1 };
        assert_eq!(store.all().unwrap(), listing);
        assert!(fs::exists(store.path(begun.id, CONTENT)).unwrap());
        for owner in 2..=MAX_UPLOADS {
            store.begin(metadata(owner as u128, b"tarball", at(0))).unwrap();
        }
        assert!(matches!(store.begin(metadata(99, b"t", at(0))), Err(StoreError::TooMany)));
    }
}
