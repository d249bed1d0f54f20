//! Tarballs under way, in a folder of this process: of each a file with the bytes that arrived, and a file with what is known of it.
//!
//! Every function may wait for the disk: call them on a thread for that.

use std::collections::HashSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use protocol::Timestamp;
use protocol::images::MAX_UPLOAD_BYTES;
use rustix::fs::statvfs;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

/// Uploads at once, of one caller each.
pub const MAX_UPLOADS: usize = 8;
/// An upload without a part for this long is given up.
pub const ABANDONED_AFTER: Duration = Duration::from_secs(24 * 3_600);
/// The space that uploads leave on the disk, on which the database may lie, too.
const MIN_FREE_BYTES: u64 = 1 << 30;
const BUFFER_BYTES: usize = 1 << 20;
const FACTS: &str = "json";
const CONTENT: &str = "tar";

/// What is known of an upload.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
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
    pub facts: Facts,
    pub offset: u64,
}

impl Upload {
    pub fn is_whole(&self) -> bool {
        self.offset == self.facts.size
    }

    fn is_abandoned(&self, now: Timestamp) -> bool {
        (now - self.facts.touched_at).to_std().is_ok_and(|passed| passed > ABANDONED_AFTER)
    }
}

/// Why an upload is not taken or continued.
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
    /// The uploads that a request uses, by which one writes at a time.
    busy: Mutex<HashSet<Uuid>>,
}

/// The only use of an upload, until this is dropped.
#[derive(Debug)]
pub struct Claim {
    store: Arc<Store>,
    id: Uuid,
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.store.busy().remove(&self.id);
    }
}

impl Store {
    pub fn new(directory: PathBuf) -> Self {
        Self { directory, busy: Mutex::default() }
    }

    fn busy(&self) -> MutexGuard<'_, HashSet<Uuid>> {
        self.busy.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins an upload. The same tarball of the same caller goes on where it was; another one takes its place.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn begin(&self, new: Facts) -> Result<Upload, StoreError> {
        if !(1..=MAX_UPLOAD_BYTES).contains(&new.size) {
            return Err(StoreError::Size);
        }
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.directory)?;
        // Held until the files exist: of two that begin at once, the second one counts the first.
        let busy = self.busy();
        self.remove_abandoned(&busy, new.touched_at)?;
        let mut all = self.all()?;
        if let Some(own) = all.iter().position(|upload| upload.facts.owner == new.owner) {
            let own = all.swap_remove(own);
            if (own.facts.size, &own.facts.sha256) == (new.size, &new.sha256) {
                return Ok(own);
            }
            if busy.contains(&own.id) {
                return Err(StoreError::Busy);
            }
            self.delete(own.id)?;
        }
        if all.len() >= MAX_UPLOADS {
            return Err(StoreError::TooMany);
        }
        let promised: u64 = all.iter().map(|upload| upload.facts.size - upload.offset).sum();
        let disk = statvfs(&self.directory).map_err(io::Error::from)?;
        let free = disk.f_bavail.saturating_mul(disk.f_frsize);
        if free < promised.saturating_add(new.size).saturating_add(MIN_FREE_BYTES) {
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
        self.write_facts(id, &new)?;
        Ok(Upload { id, facts: new, offset: 0 })
    }

    /// # Errors
    /// [`StoreError::Missing`], also for an upload of somebody else.
    pub fn find(&self, id: Uuid, owner: Uuid) -> Result<Upload, StoreError> {
        let upload = self.read(id)?;
        if upload.facts.owner == owner { Ok(upload) } else { Err(StoreError::Missing) }
    }

    /// # Errors
    /// [`StoreError::Missing`]; [`StoreError::Busy`].
    pub fn claim(self: &Arc<Self>, id: Uuid, owner: Uuid) -> Result<(Claim, Upload), StoreError> {
        self.find(id, owner)?;
        if !self.busy().insert(id) {
            return Err(StoreError::Busy);
        }
        let claim = Claim { store: self.clone(), id };
        // What a request wrote that just ended counts.
        Ok((claim, self.find(id, owner)?))
    }

    /// Deletes what nobody went on with.
    ///
    /// # Errors
    /// The file system's own.
    pub fn sweep(&self, now: Timestamp) -> Result<(), StoreError> {
        let busy = self.busy();
        self.remove_abandoned(&busy, now)
    }

    fn remove_abandoned(&self, busy: &HashSet<Uuid>, now: Timestamp) -> Result<(), StoreError> {
        for upload in self.all()? {
            if upload.is_abandoned(now) && !busy.contains(&upload.id) {
                self.delete(upload.id)?;
            }
        }
        Ok(())
    }

    /// All uploads. What a kill left of one that began or was deleted goes.
    fn all(&self) -> Result<Vec<Upload>, StoreError> {
        let entries = match fs::read_dir(&self.directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries?,
        };
        let mut all = Vec::new();
        for entry in entries {
            let path = entry?.path();
            let stem = path.file_stem().and_then(|stem| stem.to_str());
            let id = stem.and_then(|stem| stem.parse().ok());
            let is_content = path.extension().is_some_and(|kind| kind == CONTENT);
            match id.map(|id| self.read(id)) {
                Some(Ok(upload)) if is_content => all.push(upload),
                Some(Ok(_)) => {}
                Some(Err(_)) | None => fs::remove_file(&path)?,
            }
        }
        Ok(all)
    }

    fn read(&self, id: Uuid) -> Result<Upload, StoreError> {
        let offset = fs::metadata(self.path(id, CONTENT))?.len();
        let text = fs::read(self.path(id, FACTS))?;
        let facts: Facts = serde_json::from_slice(&text).map_err(io::Error::from)?;
        Ok(Upload { id, offset: offset.min(facts.size), facts })
    }

    fn write_facts(&self, id: Uuid, facts: &Facts) -> Result<(), StoreError> {
        let unfinished = self.directory.join(format!(".{id}"));
        let mut options = OpenOptions::new();
        let mut file =
            options.write(true).create(true).truncate(true).mode(0o600).open(&unfinished)?;
        file.write_all(&serde_json::to_vec(facts).map_err(io::Error::from)?)?;
        file.sync_all()?;
        fs::rename(&unfinished, self.path(id, FACTS))?;
        Ok(File::open(&self.directory)?.sync_all()?)
    }

    fn delete(&self, id: Uuid) -> Result<(), StoreError> {
        // The facts last: without them, the content is deleted as what a kill left.
        fs::remove_file(self.path(id, CONTENT))?;
        Ok(fs::remove_file(self.path(id, FACTS))?)
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
        let file = OpenOptions::new().append(true).open(self.store.path(self.id, CONTENT))?;
        Ok(Part { file, offset, size: upload.facts.size })
    }

    /// Notes that a part ended: the upload is kept for another while.
    ///
    /// # Errors
    /// The file system's own.
    pub fn touch(&self, facts: &Facts, now: Timestamp) -> Result<(), StoreError> {
        // A look at the folder takes the file that is being written for what a kill left.
        let _alone = self.store.busy();
        self.store.write_facts(self.id, &Facts { touched_at: now, ..facts.clone() })
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
        let _alone = self.store.busy();
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
    /// Appends bytes. Whatever fitted stays.
    ///
    /// # Errors
    /// [`StoreError::TooLong`], with nothing written; [`StoreError::DiskFull`].
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        let end = self.offset + bytes.len() as u64;
        if end > self.size {
            return Err(StoreError::TooLong);
        }
        self.file.write_all(bytes)?;
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

    fn facts(owner: u128, content: &[u8], now: Timestamp) -> Facts {
        let sha256 = Sha256::digest(content).iter().map(|byte| format!("{byte:02x}")).collect();
        Facts { owner: Uuid::from_u128(owner), size: content.len() as u64, sha256, touched_at: now }
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
        let (claim, upload) = store.claim(upload.id, upload.facts.owner)?;
        let mut part = claim.append(&upload, offset)?;
        part.write(bytes)?;
        part.sync()
    }

    #[test]
    fn an_upload_goes_on_where_it_was_and_another_tarball_takes_its_place() {
        let (store, _directory) = store();
        let begun = store.begin(facts(1, b"tarball", at(0))).unwrap();
        write(&store, &begun, 0, b"tar").unwrap();
        let refused = write(&store, &begun, 2, b"r").unwrap_err();
        assert!(matches!(refused, StoreError::Offset(3)), "{refused}");
        assert!(matches!(write(&store, &begun, 3, b"balls"), Err(StoreError::TooLong)));
        let again = store.begin(facts(1, b"tarball", at(1))).unwrap();
        assert_eq!((again.id, again.offset), (begun.id, 3));
        write(&store, &again, 3, b"ball").unwrap();
        let (claim, whole) = store.claim(begun.id, begun.facts.owner).unwrap();
        assert!(whole.is_whole());
        assert_eq!(claim.digest().unwrap(), begun.facts.sha256);
        assert!(matches!(store.claim(begun.id, begun.facts.owner), Err(StoreError::Busy)));
        assert!(matches!(store.begin(facts(1, b"other", at(1))), Err(StoreError::Busy)));
        drop(claim);
        assert!(matches!(store.find(begun.id, Uuid::from_u128(2)), Err(StoreError::Missing)));
        let other = store.begin(facts(1, b"other", at(1))).unwrap();
        assert!(matches!(store.find(begun.id, begun.facts.owner), Err(StoreError::Missing)));
        assert_eq!(store.all().unwrap(), [other]);
    }

    #[test]
    fn uploads_are_bounded_and_abandoned_ones_make_room() {
        let (store, _directory) = store();
        for owner in 0..MAX_UPLOADS {
            store.begin(facts(owner as u128, b"tarball", at(0))).unwrap();
        }
        assert!(matches!(store.begin(facts(99, b"t", at(24))), Err(StoreError::TooMany)));
        store.begin(facts(99, b"t", at(25))).unwrap();
        assert_eq!(store.all().unwrap().len(), 1);
        store.sweep(at(25 + 25)).unwrap();
        assert_eq!(store.all().unwrap(), []);
        let huge = Facts { size: MAX_UPLOAD_BYTES + 1, ..facts(1, b"", at(0)) };
        assert!(matches!(store.begin(huge), Err(StoreError::Size)));
        assert!(matches!(store.begin(facts(1, b"", at(0))), Err(StoreError::Size)));
    }

    #[test]
    fn what_a_kill_left_goes() {
        let (store, directory) = store();
        let begun = store.begin(facts(1, b"tarball", at(0))).unwrap();
        let folder = directory.path().join("uploads");
        for name in [".half".to_owned(), format!("{}.tar", Uuid::nil())] {
            fs::write(folder.join(name), "x").unwrap();
        }
        assert_eq!(store.all().unwrap(), [begun]);
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 2);
    }
}
