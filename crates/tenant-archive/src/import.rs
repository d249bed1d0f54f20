//! Reads an archive that anybody may have written.

use std::collections::VecDeque;

use bytes::Bytes;

use crate::export::RunningSums;
use crate::manifest::Checksums;
use crate::rules::{Tree, top};
use crate::tar_stream::{END, Entry, Item, Kind, TarReader, padding_after};
use crate::{
    CHECKSUMS, DATA, DATABASE, DATABASE_FILE_BYTES, FILES, Fault, MANIFEST, MAX_DATABASE_FILES,
    Manifest, database_file,
};

/// A checked part of an archive.
#[derive(Clone, Debug, PartialEq)]
pub enum Part {
    /// The first.
    Manifest(Box<Manifest>),
    /// The next bytes of a tar with the folders [`DATA`] and [`FILES`].
    Volumes(Bytes),
    /// The next bytes of the SQL of the tenant's schema. The volumes are complete.
    Sql(Vec<u8>),
}

/// Reads the tar of an archive. Nothing that was read counts until [`finish`](Self::finish) accepts the whole.
pub struct Importer {
    reader: TarReader,
    tree: Tree,
    sums: RunningSums,
    stage: Stage,
    current: Current,
    parts: VecDeque<Part>,
    limit_bytes: u64,
    volume_bytes: u64,
    /// Whether the manifest names a schema.
    has_database: bool,
    database_files: u64,
    /// A file that is shorter than the others is the last one.
    ends_database: bool,
}

/// The parts in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    Nothing,
    Manifest,
    Volumes,
    Database,
    Checksums,
}

/// The entry whose content arrives.
enum Current {
    None,
    Volume {
        left: u64,
        padding: usize,
    },
    /// Is kept until it is whole.
    Own {
        path: String,
        content: Vec<u8>,
        size: usize,
    },
}

const MAX_MANIFEST_BYTES: usize = 1 << 20;
const MAX_CHECKSUMS_BYTES: usize = 64 << 10;
/// The space that an entry takes on a disk besides its content.
const ENTRY_BYTES: u64 = 512;
/// Content takes whole blocks of a disk.
const BLOCK_BYTES: u64 = 4_096;

impl Default for Importer {
    fn default() -> Self {
        Self::new()
    }
}

impl Importer {
    pub fn new() -> Self {
        Self {
            reader: TarReader::default(),
            tree: Tree::default(),
            sums: RunningSums::default(),
            stage: Stage::Nothing,
            current: Current::None,
            parts: VecDeque::new(),
            limit_bytes: u64::MAX,
            volume_bytes: 0,
            has_database: false,
            database_files: 0,
            ends_database: false,
        }
    }

    /// Bounds the size of the volumes.
    pub fn limit(&mut self, bytes: u64) {
        self.limit_bytes = bytes;
    }

    /// Takes the next bytes of the tar.
    pub fn push(&mut self, bytes: &[u8]) {
        self.reader.push(bytes);
    }

    /// Returns the next part; `None` when more bytes are needed.
    ///
    /// # Errors
    /// The first [`Fault`]. Nothing can be read after it.
    pub fn next_part(&mut self) -> Result<Option<Part>, Fault> {
        loop {
            if let Some(part) = self.parts.pop_front() {
                return Ok(Some(part));
            }
            match self.reader.next_item()? {
                None => return Ok(None),
                Some(Item::Entry(entry)) => self.begin(entry)?,
                Some(Item::Content(bytes)) => self.add(bytes)?,
            }
        }
    }

    /// Checks that the archive is whole.
    ///
    /// # Errors
    /// [`Fault::Corrupt`].
    pub fn finish(&self) -> Result<(), Fault> {
        if self.stage == Stage::Checksums && self.reader.is_at_boundary() && self.parts.is_empty() {
            return Ok(());
        }
        Err(Fault::corrupt(if self.stage == Stage::Nothing {
            "is empty or cut off"
        } else {
            "is cut off"
        }))
    }

    fn begin(&mut self, entry: Entry) -> Result<(), Fault> {
        let name = String::from_utf8(entry.path.clone()).ok();
        let first = top(&entry.path);
        let is_volume = [DATA, FILES].iter().any(|volume| volume.as_bytes() == first);
        let (stage, max_bytes) = match name.as_deref() {
            _ if is_volume => (Stage::Volumes, usize::MAX),
            Some(MANIFEST) => (Stage::Manifest, MAX_MANIFEST_BYTES),
            Some(CHECKSUMS) => (Stage::Checksums, MAX_CHECKSUMS_BYTES),
            Some(_) if first == DATABASE.as_bytes() => (Stage::Database, DATABASE_FILE_BYTES),
            _ => return Err(Fault::entry(&entry.path, "is no part of an export")),
        };
        self.advance(stage, &entry)?;
        if stage == Stage::Volumes {
            return self.begin_volume_entry(&entry);
        }
        let size = usize::try_from(entry.size).unwrap_or(usize::MAX);
        if entry.kind != Kind::File || size > max_bytes {
            return Err(Fault::entry(&entry.path, "is no file, or too large"));
        }
        if stage == Stage::Database {
            self.check_database_file(&entry, size)?;
        }
        let path = name.unwrap_or_default();
        if stage != Stage::Checksums {
            // As an export writes it, whatever else the header says.
            self.sums.add_header(&Entry::own_file(&path, size).header());
        }
        self.current = Current::Own { path, content: Vec::new(), size };
        if size == 0 { self.end_own_file() } else { Ok(()) }
    }

    /// All but the last have the same length, so that a schema arrives in few pieces.
    fn check_database_file(&mut self, entry: &Entry, size: usize) -> Result<(), Fault> {
        self.database_files += 1;
        if self.database_files > MAX_DATABASE_FILES {
            return Err(Fault::DatabaseTooLarge);
        }
        if *entry != Entry::own_file(&database_file(self.database_files), size) {
            return Err(Fault::entry(&entry.path, "is no part of a schema as an export writes it"));
        }
        if !self.has_database || self.ends_database || size == 0 {
            return Err(Fault::entry(&entry.path, "belongs to no schema of the archive"));
        }
        self.ends_database = size < DATABASE_FILE_BYTES;
        Ok(())
    }

    fn advance(&mut self, stage: Stage, entry: &Entry) -> Result<(), Fault> {
        let repeats = matches!(stage, Stage::Volumes | Stage::Database) && stage == self.stage;
        if self.stage == Stage::Nothing && stage != Stage::Manifest {
            return Err(Fault::corrupt(
                "is no export of a tenant: manifest.json is not its first entry",
            ));
        }
        if stage <= self.stage && !repeats {
            return Err(Fault::entry(&entry.path, "is not in its place in the archive"));
        }
        if stage > Stage::Volumes && !self.tree.has_both_volumes() {
            return Err(Fault::corrupt("lacks a volume"));
        }
        if stage == Stage::Checksums && self.has_database && self.database_files == 0 {
            return Err(Fault::corrupt("lacks the schema that its manifest names"));
        }
        self.stage = stage;
        Ok(())
    }

    fn begin_volume_entry(&mut self, entry: &Entry) -> Result<(), Fault> {
        self.tree.check(entry).map_err(|rule| Fault::entry(&entry.path, rule))?;
        let content = entry.size.checked_next_multiple_of(BLOCK_BYTES).unwrap_or(u64::MAX);
        let taken = content.saturating_add(ENTRY_BYTES);
        self.volume_bytes = self.volume_bytes.saturating_add(taken);
        if self.volume_bytes > self.limit_bytes {
            return Err(Fault::TooLarge { limit_bytes: self.limit_bytes });
        }
        let header = entry.header();
        self.sums.add_header(&header);
        self.parts.push_back(Part::Volumes(header.into()));
        self.current = Current::Volume { left: entry.size, padding: padding_after(entry.size) };
        Ok(())
    }

    fn add(&mut self, bytes: Bytes) -> Result<(), Fault> {
        match &mut self.current {
            Current::None => Ok(()),
            Current::Volume { left, padding } => {
                *left -= bytes.len() as u64;
                let ending = if *left == 0 { *padding } else { 0 };
                self.sums.add(&bytes);
                self.parts.push_back(Part::Volumes(bytes));
                if ending > 0 {
                    let padding = Bytes::from_static(&END).slice(..ending);
                    self.sums.add(&padding);
                    self.parts.push_back(Part::Volumes(padding));
                }
                Ok(())
            }
            Current::Own { content, size, .. } => {
                content.extend_from_slice(&bytes);
                if content.len() == *size { self.end_own_file() } else { Ok(()) }
            }
        }
    }

    fn end_own_file(&mut self) -> Result<(), Fault> {
        let Current::Own { path, content, .. } =
            std::mem::replace(&mut self.current, Current::None)
        else {
            return Ok(());
        };
        if path == CHECKSUMS {
            let expected: Checksums = serde_json::from_slice(&content)
                .map_err(|error| Fault::corrupt(format!("has invalid checksums: {error}")))?;
            let is_right = expected == self.sums.checksums();
            return if is_right { Ok(()) } else { Err(Fault::WrongChecksum) };
        }
        self.sums.add(&content);
        self.sums.add(&END[..padding_after(content.len() as u64)]);
        if self.stage == Stage::Database {
            self.parts.push_back(Part::Sql(content));
            return Ok(());
        }
        let manifest = Manifest::read(&content)?;
        self.has_database = manifest.database.is_some();
        self.parts.push_back(Part::Manifest(Box::new(manifest)));
        Ok(())
    }
}

#[cfg(test)]
#[path = "import_tests.rs"]
mod tests;
