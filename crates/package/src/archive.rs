//! Reads the archive: every entry is checked, nothing is written.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, BufRead, Read};

use tar::{Archive, Entry};

use crate::{DESCRIPTION, Fault, MAX_BYTES, Package, description};

/// The most bytes of a package after decompression, folders and headers of the tar included.
pub const MAX_UNPACKED_BYTES: u64 = 256 << 20;
/// The most files and folders of a package.
pub const MAX_FILES: usize = 10_000;
/// The memory that a zstd archive may claim by its first bytes; `zstd -19` claims 8 MiB.
const MAX_WINDOW_BYTES: u64 = 16 << 20;
const MAX_PATH_BYTES: usize = 255;
const MAX_DEPTH: usize = 32;

const BZIP2_MAGIC: &[u8] = b"BZh";
const ZSTD_MAGIC: &[u8] = &[0x28, 0xb5, 0x2f, 0xfd];

/// Reads a compressed archive.
///
/// # Errors
/// The first fault of the archive, or all faults of its description.
pub fn read(bytes: &[u8]) -> Result<Package, Fault> {
    if bytes.is_empty() {
        return Err(Fault::Empty);
    }
    if bytes.len() > MAX_BYTES {
        return Err(Fault::TooLarge(format!("has more than {MAX_BYTES} bytes")));
    }
    if !bytes.starts_with(BZIP2_MAGIC) && !bytes.starts_with(ZSTD_MAGIC) {
        return Err(Fault::NotCompressed);
    }
    let unpacked = decompress(bytes).map_err(|error| Fault::Corrupt(error.to_string()))?;
    read_tar(unpacked)
}

/// Decompresses an archive as it is read. Whoever reads bounds what is read.
///
/// # Errors
/// When the bytes begin like no compressed archive.
pub fn decompress<'a>(
    mut bytes: impl BufRead + Send + 'a,
) -> io::Result<Box<dyn Read + Send + 'a>> {
    let begin = bytes.fill_buf()?;
    if begin.starts_with(BZIP2_MAGIC) {
        return Ok(Box::new(bzip2::bufread::MultiBzDecoder::new(bytes)));
    }
    let decoder =
        ruzstd::decoding::StreamingDecoder::new_with_max_window_size(bytes, MAX_WINDOW_BYTES);
    let decoder = decoder.map_err(io::Error::other)?;
    Ok(Box::new(decoder))
}

/// Reads the tar of an archive.
///
/// # Errors
/// As for [`read`].
pub fn read_tar(tar: impl Read) -> Result<Package, Fault> {
    let mut archive = Archive::new(Bounded { inner: tar, left: MAX_UNPACKED_BYTES });
    let mut contents = Contents::default();
    for entry in archive.entries().map_err(|error| read_error(&error))? {
        contents.add(entry.map_err(|error| read_error(&error))?)?;
    }
    // The rest after the end of the tar is padding; the checksum of the compression comes after it.
    io::copy(&mut archive.into_inner(), &mut io::sink()).map_err(|error| read_error(&error))?;
    contents.package()
}

/// Fails once more than `left` bytes are read.
struct Bounded<R> {
    inner: R,
    left: u64,
}

const TOO_MUCH: &str = "has more than 256 MiB after decompression";

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        let read_bytes = u64::try_from(read).unwrap_or(u64::MAX);
        match self.left.checked_sub(read_bytes) {
            Some(left) => {
                self.left = left;
                Ok(read)
            }
            None => Err(io::Error::new(io::ErrorKind::FileTooLarge, TOO_MUCH)),
        }
    }
}

/// A reader between may have wrapped the error.
fn read_error(error: &io::Error) -> Fault {
    let text = error.to_string();
    let is_too_much = error.kind() == io::ErrorKind::FileTooLarge || text.contains(TOO_MUCH);
    if is_too_much { Fault::TooLarge(TOO_MUCH.to_owned()) } else { Fault::Corrupt(text) }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Folder,
    File,
    Executable,
}

/// The entries so far.
#[derive(Default)]
struct Contents {
    /// By path, with the folder of the package.
    entries: BTreeMap<String, Kind>,
    description: Option<Vec<u8>>,
}

impl Contents {
    fn add(&mut self, mut entry: Entry<'_, impl Read>) -> Result<(), Fault> {
        let raw = entry.path_bytes();
        let shown = String::from_utf8_lossy(&raw).chars().take(MAX_PATH_BYTES).collect::<String>();
        let refuse = |rule| Fault::Unsafe { entry: shown.clone(), rule };
        let header = entry.header();
        let entry_type = header.entry_type();
        let kind = if entry_type.is_dir() {
            Kind::Folder
        } else if entry_type.is_file() || entry_type.is_contiguous() {
            let mode = header.mode().map_err(|error| read_error(&error))?;
            if mode & 0o111 == 0 { Kind::File } else { Kind::Executable }
        } else if entry_type.is_pax_global_extensions() {
            // Facts about the whole archive, which some tools write.
            return Ok(());
        } else {
            return Err(refuse("is neither a file nor a folder"));
        };
        let path = safe_path(&raw).map_err(refuse)?;
        if self.entries.len() >= MAX_FILES {
            return Err(Fault::TooLarge(format!("has more than {MAX_FILES} files and folders")));
        }
        match self.entries.insert(path.clone(), kind) {
            // Tools repeat folders.
            None | Some(Kind::Folder) if kind == Kind::Folder => {}
            None => {}
            Some(_) => return Err(refuse("is in the archive twice")),
        }
        let is_description = path.split_once('/').is_some_and(|(_, rest)| rest == DESCRIPTION);
        if is_description && kind != Kind::Folder {
            let limit = u64::try_from(description::MAX_BYTES).unwrap_or(u64::MAX);
            let mut text = Vec::new();
            let read = entry.by_ref().take(limit + 1).read_to_end(&mut text);
            read.map_err(|error| read_error(&error))?;
            self.description = Some(text);
        }
        Ok(())
    }

    fn package(self) -> Result<Package, Fault> {
        let Some(first) = self.entries.keys().next() else { return Err(Fault::Empty) };
        let folder = first.split('/').next().unwrap_or_default().to_owned();
        for (path, kind) in &self.entries {
            let refuse = |rule| Err(Fault::Unsafe { entry: path.clone(), rule });
            let (top, rest) = path.split_once('/').unwrap_or((path, ""));
            if top != folder || (rest.is_empty() && *kind != Kind::Folder) {
                return refuse("is not below the one folder of the package");
            }
            let parents = path.match_indices('/').map(|(at, _)| &path[..at]);
            let is_file =
                |parent: &str| self.entries.get(parent).is_some_and(|kind| *kind != Kind::Folder);
            if parents.into_iter().any(is_file) {
                return refuse("is below a file");
            }
        }
        let Some(text) = self.description else {
            let rule = "is missing below the folder of the package".to_owned();
            return Err(Fault::Invalid(vec![description::field(DESCRIPTION, rule)]));
        };
        let executables: BTreeSet<&str> = self
            .entries
            .iter()
            .filter(|(_, kind)| **kind == Kind::Executable)
            .filter_map(|(path, _)| path.split_once('/').map(|(_, rest)| rest))
            .collect();
        description::read(&text, &folder, &executables)
    }
}

/// Returns the path without the slash of a folder and without `./` at its begin.
fn safe_path(raw: &[u8]) -> Result<String, &'static str> {
    let Ok(text) = std::str::from_utf8(raw) else { return Err("has a name that is no UTF-8") };
    if text.len() > MAX_PATH_BYTES {
        return Err("has a path of more than 255 bytes");
    }
    if text.contains(|c: char| c.is_control() || c == '\\') {
        return Err("has a control character or a backslash in its path");
    }
    let text = text.strip_prefix("./").unwrap_or(text);
    let text = text.strip_suffix('/').unwrap_or(text);
    if text.starts_with('/') {
        return Err("has an absolute path");
    }
    if text.split('/').any(|part| matches!(part, "" | "." | "..")) {
        return Err("has an empty part, . or .. in its path");
    }
    if text.split('/').count() > MAX_DEPTH {
        return Err("lies deeper than 32 folders");
    }
    Ok(text.to_owned())
}
