//! Writes an archive.

use sha2::{Digest as _, Sha256};

use crate::manifest::Checksums;
use crate::rules::{
    CORE_MODE_BITS, MODE_BITS, SET_GID, SET_UID, Tree, belongs_to_one_tenant, is_of_core,
    mode_of_volume,
};
use crate::tar_stream::{END, Entry, Item, Kind, TarReader, padding_after};
use crate::{
    CHECKSUMS, DATABASE_FILE_BYTES, Fault, MANIFEST, MAX_DATABASE_FILES, Manifest, database_file,
};

/// Turns what the container engine says about the volumes into the tar of an archive. The caller takes the bytes as often as it
/// likes.
///
/// Not exported are the core's sessions and its signing key, which would let people of one tenant into its copy; named pipes, which
/// hold nothing; further names of these; the set-uid and set-gid bits of files, which have no effect in a tenant; and the modes of
/// the volumes themselves and the rights of others in the core's.
pub struct Exporter {
    reader: TarReader,
    tree: Tree,
    sums: RunningSums,
    out: Vec<u8>,
    current: Current,
    limit_bytes: u64,
    volume_bytes: u64,
    /// SQL that does not fill a file yet.
    sql: Vec<u8>,
    database_files: u64,
}

/// The entry whose content arrives.
#[derive(Default)]
struct Current {
    is_left_out: bool,
    left: u64,
    padding: usize,
}

/// The checksum of what was written or read.
#[derive(Default)]
pub(crate) struct RunningSums {
    hash: Sha256,
    entries: u64,
}

impl RunningSums {
    pub(crate) fn add_header(&mut self, header: &[u8]) {
        self.hash.update(header);
        self.entries += 1;
    }

    pub(crate) fn add(&mut self, bytes: &[u8]) {
        self.hash.update(bytes);
    }

    pub(crate) fn checksums(&self) -> Checksums {
        let digest = self.hash.clone().finalize();
        let sha256 = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        Checksums { sha256, entries: self.entries }
    }
}

impl Exporter {
    /// # Errors
    /// The manifest cannot be written as JSON.
    pub fn new(manifest: &Manifest) -> Result<Self, Fault> {
        let mut exporter = Self::volumes_only();
        exporter.add_file(MANIFEST, &json(manifest)?);
        Ok(exporter)
    }

    pub(crate) fn volumes_only() -> Self {
        Self {
            reader: TarReader::default(),
            tree: Tree::default(),
            sums: RunningSums::default(),
            out: Vec::new(),
            current: Current::default(),
            limit_bytes: u64::MAX,
            volume_bytes: 0,
            sql: Vec::new(),
            database_files: 0,
        }
    }

    /// Bounds the size of the volumes, as they say it: a file without content may call itself larger than any disk, and the
    /// engine sends all of it.
    pub fn limit(&mut self, bytes: u64) {
        self.limit_bytes = bytes;
    }

    /// Takes the next bytes of the tar of the volumes.
    ///
    /// # Errors
    /// [`Fault::Corrupt`]; [`Fault::Unsafe`] for an entry that could not be imported; [`Fault::TooLargeToExport`].
    pub fn push_volumes(&mut self, bytes: &[u8]) -> Result<(), Fault> {
        self.reader.push(bytes);
        while let Some(item) = self.reader.next_item()? {
            match item {
                Item::Entry(entry) => self.begin_entry(entry)?,
                Item::Content(bytes) => self.add_content(&bytes),
            }
        }
        Ok(())
    }

    /// # Errors
    /// [`Fault::Corrupt`] when the tar was cut off, or lacks a volume.
    pub fn end_volumes(&self) -> Result<(), Fault> {
        if !self.reader.is_at_boundary() {
            return Err(Fault::corrupt("is cut off"));
        }
        if !self.tree.has_both_volumes() {
            return Err(Fault::corrupt("lacks a volume"));
        }
        Ok(())
    }

    /// Takes the next bytes of the SQL of the tenant's schema.
    ///
    /// # Errors
    /// [`Fault::DatabaseTooLarge`].
    pub fn push_sql(&mut self, bytes: &[u8]) -> Result<(), Fault> {
        self.sql.extend_from_slice(bytes);
        while self.sql.len() >= DATABASE_FILE_BYTES {
            let rest = self.sql.split_off(DATABASE_FILE_BYTES);
            self.add_database_file()?;
            self.sql = rest;
        }
        Ok(())
    }

    fn add_database_file(&mut self) -> Result<(), Fault> {
        self.database_files += 1;
        if self.database_files > MAX_DATABASE_FILES {
            return Err(Fault::DatabaseTooLarge);
        }
        let content = std::mem::take(&mut self.sql);
        self.add_file(&database_file(self.database_files), &content);
        Ok(())
    }

    /// Adds the checksum and the end of the tar.
    ///
    /// # Errors
    /// The checksum cannot be written as JSON; [`Fault::DatabaseTooLarge`].
    pub fn finish(&mut self) -> Result<(), Fault> {
        if !self.sql.is_empty() {
            self.add_database_file()?;
        }
        let checksums = json(&self.sums.checksums())?;
        self.add_file(CHECKSUMS, &checksums);
        self.out.extend_from_slice(&END);
        Ok(())
    }

    /// Returns the bytes since the last call.
    pub fn take(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.out)
    }

    fn begin_entry(&mut self, mut entry: Entry) -> Result<(), Fault> {
        let is_left_out = self.is_left_out(&entry);
        self.current =
            Current { is_left_out, left: entry.size, padding: padding_after(entry.size) };
        self.volume_bytes = self.volume_bytes.saturating_add(entry.size);
        if self.volume_bytes > self.limit_bytes {
            return Err(Fault::too_large_to_export(&entry.path, self.limit_bytes));
        }
        if is_left_out {
            let left_out = self.tree.leave_out(&entry.path);
            return left_out.map_err(|rule| Fault::entry(&entry.path, rule));
        }
        entry.mode = exported_mode(&entry);
        self.tree.check(&entry).map_err(|rule| Fault::entry(&entry.path, rule))?;
        let header = entry.header();
        self.sums.add_header(&header);
        self.out.extend_from_slice(&header);
        Ok(())
    }

    fn is_left_out(&self, entry: &Entry) -> bool {
        if entry.kind == Kind::Other || belongs_to_one_tenant(&entry.path) {
            return true;
        }
        let Kind::HardLink(target) = &entry.kind else { return false };
        belongs_to_one_tenant(target) || self.tree.is_left_out(target)
    }

    fn add_content(&mut self, bytes: &[u8]) {
        if self.current.is_left_out {
            return;
        }
        self.write(bytes);
        self.current.left -= bytes.len() as u64;
        if self.current.left == 0 {
            self.write(&END[..self.current.padding]);
        }
    }

    fn add_file(&mut self, path: &str, content: &[u8]) {
        let entry = Entry::own_file(path, content.len());
        let header = entry.header();
        self.sums.add_header(&header);
        self.out.extend_from_slice(&header);
        self.write(content);
        self.write(&END[..padding_after(entry.size)]);
    }

    fn write(&mut self, bytes: &[u8]) {
        self.sums.add(bytes);
        self.out.extend_from_slice(bytes);
    }
}

/// The engine writes the kind of a file into the mode, too.
fn exported_mode(entry: &Entry) -> u32 {
    if let Some(mode) = mode_of_volume(&entry.path) {
        return mode;
    }
    let mode = entry.mode & MODE_BITS & !SET_UID;
    if is_of_core(&entry.path) {
        mode & CORE_MODE_BITS
    } else if entry.kind == Kind::Folder {
        mode
    } else {
        mode & !SET_GID
    }
}

fn json(value: &impl serde::Serialize) -> Result<Vec<u8>, Fault> {
    let mut json = serde_json::to_vec_pretty(value)
        .map_err(|error| Fault::corrupt(format!("cannot be described: {error}")))?;
    json.push(b'\n');
    Ok(json)
}
