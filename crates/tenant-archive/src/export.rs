//! Writes an archive.

use sha2::{Digest as _, Sha256};

use crate::manifest::Checksums;
use crate::rules::{MODE_BITS, SET_GID, SET_UID, Tree, is_session};
use crate::tar_stream::{END, Entry, Item, Kind, TarReader, padding_after};
use crate::{CHECKSUMS, Fault, MANIFEST, Manifest};

/// Turns what the container engine says about the volumes into the tar of an archive. The caller takes the bytes as often as it
/// likes.
///
/// Not exported are the core's sessions, which would let people of one tenant into its copy; named pipes, which hold nothing; and
/// the set-uid and set-gid bits of files, which have no effect in a tenant.
pub struct Exporter {
    reader: TarReader,
    tree: Tree,
    sums: RunningSums,
    out: Vec<u8>,
    current: Current,
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
        }
    }

    /// Takes the next bytes of the tar of the volumes.
    ///
    /// # Errors
    /// [`Fault::Corrupt`]; [`Fault::Unsafe`] for an entry that could not be imported.
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

    /// Adds a part of the tenant's schema; the name is one below [`DATABASE`](crate::DATABASE).
    pub fn add_database_file(&mut self, name: &str, content: &[u8]) {
        self.add_file(&format!("{}/{name}", crate::DATABASE), content);
    }

    /// Adds the checksum and the end of the tar.
    ///
    /// # Errors
    /// The checksum cannot be written as JSON.
    pub fn finish(&mut self) -> Result<(), Fault> {
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
        let links_to_sessions = matches!(&entry.kind, Kind::HardLink(target) if is_session(target));
        let is_left_out = entry.kind == Kind::Other || is_session(&entry.path) || links_to_sessions;
        self.current =
            Current { is_left_out, left: entry.size, padding: padding_after(entry.size) };
        if is_left_out {
            return Ok(());
        }
        // The engine writes the kind of a file into the mode, too.
        entry.mode &= MODE_BITS & !SET_UID;
        if entry.kind != Kind::Folder {
            entry.mode &= !SET_GID;
        }
        self.tree.check(&entry).map_err(|rule| Fault::entry(&entry.path, rule))?;
        let header = entry.header();
        self.sums.add_header(&header);
        self.out.extend_from_slice(&header);
        Ok(())
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

fn json(value: &impl serde::Serialize) -> Result<Vec<u8>, Fault> {
    let mut json = serde_json::to_vec_pretty(value)
        .map_err(|error| Fault::corrupt(format!("cannot be described: {error}")))?;
    json.push(b'\n');
    Ok(json)
}
