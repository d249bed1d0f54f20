//! A tar that arrives piece by piece, and the headers of one that is written.
//!
//! Read are the forms that the container engine, GNU tar and bsdtar write: ustar, with extensions of PAX (POSIX.1-2001) or
//! GNU for long names and large numbers. Written is ustar, with PAX where a value does not fit.

use bytes::{Buf as _, Bytes, BytesMut};
use tar::{EntryType, Header};

use crate::Fault;

const BLOCK: usize = 512;
/// The most bytes of one extension; a path and the target of a link have 4,096 each.
const MAX_EXTENSION_BYTES: u64 = 64 << 10;
/// The longest name in a header of ustar.
const MAX_SHORT_NAME: usize = 100;
/// The largest numbers of a header of ustar: 11 octal digits.
const MAX_SHORT_NUMBER: u64 = 0o777_7777_7777;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Folder,
    File,
    Symlink(Vec<u8>),
    HardLink(Vec<u8>),
    /// A named pipe, a device, or a kind that this crate does not know.
    Other,
}

/// One entry without its content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    /// Without a slash at the end.
    pub(crate) path: Vec<u8>,
    pub(crate) kind: Kind,
    pub(crate) mode: u32,
    pub(crate) uid: u64,
    pub(crate) gid: u64,
    /// The bytes of content that follow; 0 unless a file.
    pub(crate) size: u64,
    /// Seconds since 1970.
    pub(crate) mtime: i64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Item {
    Entry(Entry),
    /// Content of the last entry, never empty.
    Content(Bytes),
}

/// Reads a tar. Blocks of zeros between entries are passed over, so one tar may follow another.
#[derive(Default)]
pub(crate) struct TarReader {
    buffer: BytesMut,
    expects: Expects,
    extensions: Extensions,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Expects {
    #[default]
    Header,
    Extension {
        kind: ExtensionKind,
        bytes: usize,
    },
    Content {
        left: u64,
        padding: usize,
    },
    Padding {
        bytes: usize,
    },
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum ExtensionKind {
    Pax,
    /// Facts about the whole archive, which some tools write.
    PaxGlobal,
    GnuPath,
    GnuLink,
}

impl ExtensionKind {
    fn of(entry_type: EntryType) -> Option<Self> {
        if entry_type.is_pax_local_extensions() {
            Some(Self::Pax)
        } else if entry_type.is_pax_global_extensions() {
            Some(Self::PaxGlobal)
        } else if entry_type.is_gnu_longname() {
            Some(Self::GnuPath)
        } else if entry_type.is_gnu_longlink() {
            Some(Self::GnuLink)
        } else {
            None
        }
    }
}

/// The fields of the next entry that extensions set.
#[derive(Default)]
struct Extensions {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    uid: Option<u64>,
    gid: Option<u64>,
    mtime: Option<i64>,
}

impl TarReader {
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// Returns the next item; `None` when more bytes are needed.
    pub(crate) fn next_item(&mut self) -> Result<Option<Item>, Fault> {
        loop {
            match self.expects {
                Expects::Header => {
                    if self.buffer.len() < BLOCK {
                        return Ok(None);
                    }
                    let block = self.buffer.split_to(BLOCK);
                    if let Some(entry) = self.read_header(&block)? {
                        return Ok(Some(Item::Entry(entry)));
                    }
                }
                Expects::Extension { kind, bytes } => {
                    if self.buffer.len() < bytes {
                        return Ok(None);
                    }
                    let extension = self.buffer.split_to(bytes);
                    self.extensions.read(kind, &extension)?;
                    self.expects = Expects::Padding { bytes: padding_after(bytes as u64) };
                }
                Expects::Content { left, padding } => {
                    let available = u64::try_from(self.buffer.len()).unwrap_or(u64::MAX);
                    let taken = usize::try_from(available.min(left)).unwrap_or_default();
                    if taken == 0 {
                        return Ok(None);
                    }
                    let left = left - taken as u64;
                    self.expects = if left > 0 {
                        Expects::Content { left, padding }
                    } else {
                        Expects::Padding { bytes: padding }
                    };
                    return Ok(Some(Item::Content(self.buffer.split_to(taken).freeze())));
                }
                Expects::Padding { bytes } => {
                    if self.buffer.len() < bytes {
                        return Ok(None);
                    }
                    self.buffer.advance(bytes);
                    self.expects = Expects::Header;
                }
            }
        }
    }

    /// Whether the bytes so far end between two entries.
    pub(crate) fn is_at_boundary(&self) -> bool {
        self.expects == Expects::Header && self.buffer.is_empty() && self.extensions.is_empty()
    }

    /// Returns `None` for a block of zeros and for an extension, whose content comes next.
    fn read_header(&mut self, block: &[u8]) -> Result<Option<Entry>, Fault> {
        if block.iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        let mut header = Header::new_old();
        header.as_mut_bytes().copy_from_slice(block);
        check_sum(&header)?;
        let size = number(header.entry_size())?;
        let extension = ExtensionKind::of(header.entry_type());
        if let Some(kind) = extension {
            let bytes = Some(size).filter(|size| *size <= MAX_EXTENSION_BYTES);
            let bytes = bytes.and_then(|size| usize::try_from(size).ok());
            let bytes = bytes.ok_or_else(|| Fault::corrupt("has a header of more than 64 KiB"))?;
            self.expects = Expects::Extension { kind, bytes };
            return Ok(None);
        }
        let entry = std::mem::take(&mut self.extensions).apply(&header, size)?;
        self.expects = match entry.size {
            0 => Expects::Header,
            left => Expects::Content { left, padding: padding_after(left) },
        };
        Ok(Some(entry))
    }
}

impl Extensions {
    const fn is_empty(&self) -> bool {
        self.path.is_none()
            && self.link.is_none()
            && self.size.is_none()
            && self.uid.is_none()
            && self.gid.is_none()
            && self.mtime.is_none()
    }

    fn read(&mut self, kind: ExtensionKind, bytes: &[u8]) -> Result<(), Fault> {
        let without_nul = || bytes.strip_suffix(b"\0").unwrap_or(bytes).to_vec();
        match kind {
            ExtensionKind::Pax => self.read_pax(bytes)?,
            ExtensionKind::PaxGlobal => {}
            ExtensionKind::GnuPath => self.path = Some(without_nul()),
            ExtensionKind::GnuLink => self.link = Some(without_nul()),
        }
        Ok(())
    }

    /// Reads records like `30 mtime=1321711775.972059463\n`. The number counts the whole record, because a value may hold
    /// any byte.
    fn read_pax(&mut self, mut records: &[u8]) -> Result<(), Fault> {
        while !records.is_empty() {
            let (key, value, rest) = split_record(records).ok_or_else(damaged_record)?;
            records = rest;
            let text = || std::str::from_utf8(value).map_err(|_| damaged_record());
            let unsigned = || text()?.parse::<u64>().map_err(|_| damaged_record());
            match key {
                b"path" => self.path = Some(value.to_vec()),
                b"linkpath" => self.link = Some(value.to_vec()),
                b"size" => self.size = Some(unsigned()?),
                b"uid" => self.uid = Some(unsigned()?),
                b"gid" => self.gid = Some(unsigned()?),
                b"mtime" => {
                    let seconds = text()?.split('.').next().unwrap_or_default();
                    self.mtime = Some(seconds.parse().map_err(|_| damaged_record())?);
                }
                _ if key.starts_with(b"GNU.sparse.") => {
                    return Err(Fault::corrupt("holds a file in the sparse form of GNU tar"));
                }
                // Extended attributes and times of access are not kept.
                _ => {}
            }
        }
        Ok(())
    }

    fn apply(self, header: &Header, size: u64) -> Result<Entry, Fault> {
        let mut path = self.path.unwrap_or_else(|| header.path_bytes().into_owned());
        let link = || {
            let short = || header.link_name_bytes().map(std::borrow::Cow::into_owned);
            self.link.or_else(short).unwrap_or_default()
        };
        let entry_type = header.entry_type();
        let kind = if entry_type.is_dir() {
            Kind::Folder
        } else if entry_type.is_file() || entry_type.is_contiguous() {
            Kind::File
        } else if entry_type.is_symlink() {
            Kind::Symlink(link())
        } else if entry_type.is_hard_link() {
            Kind::HardLink(link())
        } else {
            Kind::Other
        };
        if kind == Kind::Folder && path.ends_with(b"/") {
            path.pop();
        }
        let size = self.size.unwrap_or(size);
        if size > 0 && kind != Kind::File {
            return Err(Fault::entry(&path, "has content and is no file"));
        }
        let mtime = match self.mtime {
            Some(mtime) => mtime,
            None => i64::try_from(number(header.mtime())?).unwrap_or(i64::MAX),
        };
        Ok(Entry {
            kind,
            mode: number(header.mode())?,
            uid: self.uid.map_or_else(|| number(header.uid()), Ok)?,
            gid: self.gid.map_or_else(|| number(header.gid()), Ok)?,
            size,
            mtime,
            path,
        })
    }
}

fn number<T>(read: std::io::Result<T>) -> Result<T, Fault> {
    read.map_err(|_| Fault::corrupt("is damaged: a header holds no number where one belongs"))
}

fn damaged_record() -> Fault {
    Fault::corrupt("is damaged: an extended header cannot be read")
}

/// The sum of all bytes, with blanks in the place of the sum.
fn check_sum(header: &Header) -> Result<(), Fault> {
    const SUM: std::ops::Range<usize> = 148..156;
    let bytes = header.as_bytes().iter().enumerate();
    let sum: u32 = bytes
        .map(|(at, byte)| if SUM.contains(&at) { u32::from(b' ') } else { u32::from(*byte) })
        .sum();
    if header.cksum().ok() == Some(sum) {
        Ok(())
    } else {
        Err(Fault::corrupt("is damaged: a header has a wrong sum"))
    }
}

fn split_record(records: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let blank = records.iter().position(|byte| *byte == b' ')?;
    let (digits, _) = records.split_at(blank);
    let length: usize = std::str::from_utf8(digits).ok()?.parse().ok()?;
    let (record, rest) = records.split_at_checked(length)?;
    let record = record.get(blank + 1..)?.strip_suffix(b"\n")?;
    let equals = record.iter().position(|byte| *byte == b'=')?;
    let (key, value) = record.split_at(equals);
    Some((key, value.get(1..)?, rest))
}

/// The bytes up to the next block.
pub(crate) fn padding_after(bytes: u64) -> usize {
    let block = BLOCK as u64;
    usize::try_from((block - bytes % block) % block).unwrap_or_default()
}

/// Two blocks of zeros.
pub(crate) const END: [u8; 2 * BLOCK] = [0; 2 * BLOCK];

impl Entry {
    /// A file of the archive's own.
    pub(crate) fn own_file(path: &str, size: usize) -> Self {
        Self {
            path: path.as_bytes().to_vec(),
            kind: Kind::File,
            mode: 0o644,
            uid: 0,
            gid: 0,
            size: size as u64,
            mtime: 0,
        }
    }

    /// Writes the header, with what must come before it.
    pub(crate) fn header(&self) -> Vec<u8> {
        let mut name = self.path.clone();
        if self.kind == Kind::Folder {
            name.push(b'/');
        }
        let (entry_type, link) = match &self.kind {
            Kind::Folder => (EntryType::Directory, [].as_slice()),
            Kind::File => (EntryType::Regular, [].as_slice()),
            Kind::Symlink(target) => (EntryType::Symlink, target.as_slice()),
            Kind::HardLink(target) => (EntryType::Link, target.as_slice()),
            Kind::Other => (EntryType::Fifo, [].as_slice()),
        };
        let mut records = Vec::new();
        if name.len() > MAX_SHORT_NAME {
            add_record(&mut records, "path", &name);
        }
        if link.len() > MAX_SHORT_NAME {
            add_record(&mut records, "linkpath", link);
        }
        if self.size > MAX_SHORT_NUMBER {
            add_record(&mut records, "size", self.size.to_string().as_bytes());
        }
        let mtime = u64::try_from(self.mtime).ok().filter(|mtime| *mtime <= MAX_SHORT_NUMBER);
        if mtime.is_none() {
            add_record(&mut records, "mtime", self.mtime.to_string().as_bytes());
        }
        let mut bytes = Vec::new();
        if !records.is_empty() {
            let mut extension = Header::new_ustar();
            set_name(&mut extension.as_old_mut().name, b"PaxHeaders/entry");
            extension.set_entry_type(EntryType::XHeader);
            extension.set_size(records.len() as u64);
            extension.set_cksum();
            bytes.extend_from_slice(extension.as_bytes());
            bytes.extend_from_slice(&records);
            bytes.resize(bytes.len() + padding_after(records.len() as u64), 0);
        }
        let mut header = Header::new_ustar();
        set_name(&mut header.as_old_mut().name, &name);
        set_name(&mut header.as_old_mut().linkname, link);
        header.set_entry_type(entry_type);
        header.set_mode(self.mode);
        header.set_uid(self.uid);
        header.set_gid(self.gid);
        header.set_size(self.size.min(MAX_SHORT_NUMBER));
        header.set_mtime(mtime.unwrap_or_default());
        header.set_cksum();
        bytes.extend_from_slice(header.as_bytes());
        bytes
    }
}

/// Writes the begin of a name that is too long: its record holds all of it.
fn set_name(field: &mut [u8; MAX_SHORT_NAME], name: &[u8]) {
    for (place, byte) in field.iter_mut().zip(name) {
        *place = *byte;
    }
}

fn add_record(records: &mut Vec<u8>, key: &str, value: &[u8]) {
    let rest = key.len() + value.len() + " =\n".len();
    let mut length = rest;
    // The length counts its own digits.
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    records.extend_from_slice(format!("{length} {key}=").as_bytes());
    records.extend_from_slice(value);
    records.push(b'\n');
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(bytes: &[u8], step: usize) -> Result<Vec<(Entry, Vec<u8>)>, Fault> {
        let mut reader = TarReader::default();
        let mut entries: Vec<(Entry, Vec<u8>)> = Vec::new();
        for chunk in bytes.chunks(step) {
            reader.push(chunk);
            while let Some(item) = reader.next_item()? {
                match item {
                    Item::Entry(entry) => entries.push((entry, Vec::new())),
                    Item::Content(bytes) => entries.last_mut().unwrap().1.extend_from_slice(&bytes),
                }
            }
        }
        assert!(reader.is_at_boundary());
        Ok(entries)
    }

    fn any_entry() -> impl Strategy<Value = (Entry, Vec<u8>)> {
        // Every byte but NUL and the slash may be in a name.
        let name =
            || prop::collection::vec((1_u8..=255).prop_filter("a name", |b| *b != b'/'), 1..300);
        let kind = prop_oneof![
            Just(Kind::Folder),
            Just(Kind::File),
            name().prop_map(Kind::Symlink),
            name().prop_map(Kind::HardLink),
        ];
        let content = prop::collection::vec(any::<u8>(), 0..1_500);
        (name(), kind, 0_u32..0o10000, 0_u64..70_000, any::<i64>(), content).prop_map(
            |(path, kind, mode, id, mtime, content)| {
                let content = if kind == Kind::File { content } else { Vec::new() };
                let size = content.len() as u64;
                (Entry { path, kind, mode, uid: id, gid: id / 2, size, mtime }, content)
            },
        )
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_however_it_is_cut(
            entries in prop::collection::vec(any_entry(), 0..6),
            step in 1_usize..2_000,
        ) {
            let mut bytes = Vec::new();
            for (entry, content) in &entries {
                bytes.extend(entry.header());
                bytes.extend(content);
                bytes.resize(bytes.len() + padding_after(entry.size), 0);
                // As between two tars.
                bytes.extend(END);
            }
            prop_assert_eq!(read(&bytes, step).unwrap(), entries);
        }
    }

    #[test]
    fn a_large_file_has_its_size_in_a_record() {
        let mut entry = Entry::own_file("a", 0);
        entry.size = 1 << 40;
        let mut reader = TarReader::default();
        reader.push(&entry.header());
        assert_eq!(reader.next_item(), Ok(Some(Item::Entry(entry))));
    }

    #[test]
    fn long_names_of_gnu_are_read() {
        let name = "n".repeat(300);
        let mut builder = tar::Builder::new(Vec::new());
        let numbers = |entry_type, size| {
            let mut header = Header::new_gnu();
            header.set_entry_type(entry_type);
            header.set_size(size);
            header.set_mode(0o600);
            header.set_uid(1001);
            header.set_gid(1001);
            header.set_mtime(7);
            header
        };
        let mut header = numbers(EntryType::Regular, 2);
        builder.append_data(&mut header, &name, b"ab".as_slice()).unwrap();
        let mut link = numbers(EntryType::Symlink, 0);
        builder.append_link(&mut link, "short", &name).unwrap();
        let entries = read(&builder.into_inner().unwrap(), 100).unwrap();
        assert_eq!(entries[0].0.path, name.as_bytes());
        assert_eq!(entries[0].1, b"ab");
        assert_eq!(entries[1].0.kind, Kind::Symlink(name.into_bytes()));
    }

    #[test]
    fn damaged_headers_are_refused() {
        let header = Entry::own_file("a", 0).header();
        let mut flipped = header.clone();
        flipped[3] ^= 1;
        assert_eq!(
            read(&flipped, 512),
            Err(Fault::corrupt("is damaged: a header has a wrong sum"))
        );
        for records in [
            "7 path=",
            "12 path=a\n",
            "0 \n",
            "99999999999999999999 a=b\n",
            "13 mtime=now\n",
            "26 GNU.sparse.realsize=10\n",
        ] {
            let mut extension = Header::new_ustar();
            extension.set_entry_type(EntryType::XHeader);
            extension.set_size(records.len() as u64);
            extension.set_cksum();
            let mut bytes = extension.as_bytes().to_vec();
            bytes.extend(records.as_bytes());
            bytes.resize(2 * BLOCK, 0);
            assert!(read(&bytes, 512).is_err(), "{records}");
        }
        let mut huge = Header::new_ustar();
        huge.set_entry_type(EntryType::XHeader);
        huge.set_size(MAX_EXTENSION_BYTES + 1);
        huge.set_cksum();
        assert!(read(huge.as_bytes(), 512).is_err());
    }
}
