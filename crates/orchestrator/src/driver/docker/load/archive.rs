//! Filters a tarball of `docker save` on its way to the engine. Pure.
//!
//! The engine gives an image every name that the tarball mentions, also one that another image has, such as those of the platform. So the
//! list of images is replaced by one with a name of our own, other lists are left out, and every header is written anew: the engine
//! cannot read another name or size than this code judged.
//!
//! The engine decompresses a tarball by its first bytes, which are those of the first entry's name. So the first entry is our own
//! ([`DIRECTORY`]): it begins like no compressed file, whatever the tarball begins with.

use std::collections::HashSet;
use std::str;

use serde::Deserialize;
use serde_json::json;

const BLOCK: usize = 512;
/// The first entry that the engine gets: an empty directory, which no image needs.
const DIRECTORY: &str = "upload";
const MANIFEST: &str = "manifest.json";
/// Lists of images in other formats. With any of them an engine may ignore [`MANIFEST`].
const OTHER_LISTS: [&str; 3] = ["repositories", "index.json", "oci-layout"];
const MAX_MANIFEST_BYTES: u64 = 1 << 20;
const MAX_NAME_BYTES: usize = 100;
const MAX_ENTRIES: usize = 10_000;
/// The largest number of eleven octal digits.
const MAX_ENTRY_BYTES: u64 = (8 << 30) - 1;
const LAYER: &str = "/layer.tar";

/// A fault for which a tarball is not loaded. The message completes "the tarball …".
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Fault {
    #[error("is compressed or no tar: give what `docker save` writes, as it is")]
    NoTar,
    #[error("ends before its end")]
    CutOff,
    #[error("has no {MANIFEST}: give what `docker save` writes")]
    NoManifest,
    #[error("has a {MANIFEST} that cannot be read: {0}")]
    InvalidManifest(String),
    #[error("holds {0} images: save one alone")]
    SeveralImages(usize),
    #[error("has an entry that no image needs: {0:?}")]
    Entry(String),
    #[error("has more than {MAX_ENTRIES} entries")]
    TooManyEntries,
    #[error("has an entry of more than 8 GiB: {0:?}")]
    TooLarge(String),
}

/// The treatment of an entry's content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Handling {
    Keep,
    Drop,
    /// The list of images is read as a whole.
    Collect,
}

/// The reader's place in the tarball.
#[derive(Debug)]
enum Position {
    Start,
    Header,
    /// In the content of an entry and the zeros behind it.
    Content {
        handling: Handling,
        left: u64,
        padding: usize,
    },
    End,
}

/// Filters a tarball piece by piece.
#[derive(Debug)]
pub(super) struct Filter {
    /// The name that the image gets.
    name: String,
    position: Position,
    /// The part of a header that has arrived.
    header: Vec<u8>,
    manifest: Vec<u8>,
    has_manifest: bool,
    names: HashSet<String>,
    links: HashSet<String>,
}

impl Filter {
    pub(super) fn new(name: String) -> Self {
        Self {
            name,
            position: Position::Start,
            header: Vec::with_capacity(BLOCK),
            manifest: Vec::new(),
            has_manifest: false,
            names: HashSet::from([DIRECTORY.to_owned()]),
            links: HashSet::new(),
        }
    }

    /// Takes the next bytes and returns what the engine gets of them.
    ///
    /// # Errors
    /// The tarball must not be loaded.
    pub(super) fn push(&mut self, mut bytes: &[u8]) -> Result<Vec<u8>, Fault> {
        let mut out = Vec::with_capacity(bytes.len() + BLOCK);
        while !bytes.is_empty() {
            bytes = match self.position {
                Position::Start => {
                    let name = format!("{DIRECTORY}/");
                    let entry = Entry { name, kind: b'5', bytes: 0, link: String::new() };
                    out.extend_from_slice(&entry.header());
                    self.position = Position::Header;
                    bytes
                }
                Position::Header => self.take_header(bytes, &mut out)?,
                Position::Content { handling, left, padding } => {
                    self.take_content(bytes, &mut out, handling, left, padding)?
                }
                // Zeros, or what nobody reads.
                Position::End => &[],
            };
        }
        Ok(out)
    }

    /// Returns whether the engine gets nothing more: it has an image to load.
    pub(super) fn is_whole(&self) -> bool {
        matches!(self.position, Position::End)
    }

    /// Checks that the tarball is whole.
    ///
    /// # Errors
    /// It ended too early.
    pub(super) fn finish(&self) -> Result<(), Fault> {
        if self.is_whole() { Ok(()) } else { Err(Fault::CutOff) }
    }

    fn take_header<'a>(&mut self, bytes: &'a [u8], out: &mut Vec<u8>) -> Result<&'a [u8], Fault> {
        let (now, rest) = bytes.split_at(bytes.len().min(BLOCK - self.header.len()));
        self.header.extend_from_slice(now);
        if self.header.len() < BLOCK {
            return Ok(rest);
        }
        let block = std::mem::take(&mut self.header);
        if block.iter().all(|byte| *byte == 0) {
            // Before the end marker, after which the engine loads what it has.
            if !self.has_manifest {
                return Err(Fault::NoManifest);
            }
            out.extend_from_slice(&[0; 2 * BLOCK]);
            self.position = Position::End;
            return Ok(rest);
        }
        let entry = Entry::read(&block)?;
        let handling = self.judge(&entry)?;
        if handling == Handling::Keep {
            out.extend_from_slice(&entry.header());
        }
        self.manifest.clear();
        self.go_on(handling, entry.bytes, padding_of(entry.bytes));
        if entry.bytes == 0 && handling == Handling::Collect {
            return Err(Fault::NoManifest);
        }
        Ok(rest)
    }

    fn take_content<'a>(
        &mut self,
        bytes: &'a [u8],
        out: &mut Vec<u8>,
        handling: Handling,
        left: u64,
        padding: usize,
    ) -> Result<&'a [u8], Fault> {
        if left == 0 {
            let (_, rest) = bytes.split_at(bytes.len().min(padding));
            self.go_on(handling, 0, padding - (bytes.len() - rest.len()));
            return Ok(rest);
        }
        let count = usize::try_from(left).map_or(bytes.len(), |left| left.min(bytes.len()));
        let (now, rest) = bytes.split_at(count);
        match handling {
            Handling::Keep => out.extend_from_slice(now),
            Handling::Collect => self.manifest.extend_from_slice(now),
            Handling::Drop => {}
        }
        let left = left - count as u64;
        if left == 0 {
            match handling {
                // Zeros of our own: the engine gets no byte that is not judged.
                Handling::Keep => out.resize(out.len() + padding, 0),
                Handling::Collect => self.write_manifest(out)?,
                Handling::Drop => {}
            }
        }
        self.go_on(handling, left, padding);
        Ok(rest)
    }

    fn go_on(&mut self, handling: Handling, left: u64, padding: usize) {
        let is_over = left == 0 && padding == 0;
        self.position =
            if is_over { Position::Header } else { Position::Content { handling, left, padding } };
    }

    fn judge(&mut self, entry: &Entry) -> Result<Handling, Fault> {
        let refused = || Err(Fault::Entry(entry.name.clone()));
        if self.names.len() == MAX_ENTRIES {
            return Err(Fault::TooManyEntries);
        }
        // Comments on the next entry, such as a time with fractions. One that renames it or gives its size is not believed: the next
        // header must be complete.
        if matches!(entry.kind, b'x' | b'g') {
            return Ok(Handling::Drop);
        }
        let name = entry.name.strip_suffix('/').unwrap_or(&entry.name);
        let has_link_above =
            name.match_indices('/').any(|(at, _)| self.links.contains(&name[..at]));
        if !name.split('/').all(is_plain) || has_link_above || !self.names.insert(name.to_owned()) {
            return refused();
        }
        match entry.kind {
            b'0' if name == MANIFEST => {
                if entry.bytes > MAX_MANIFEST_BYTES {
                    return Err(Fault::TooLarge(name.to_owned()));
                }
                Ok(Handling::Collect)
            }
            b'0' if OTHER_LISTS.contains(&name) => Ok(Handling::Drop),
            b'0' => Ok(Handling::Keep),
            b'5' if entry.bytes == 0 => Ok(Handling::Keep),
            // Engines before version 25 save a layer that is there already as a link to it.
            b'2' if name.ends_with(LAYER) && entry.is_link_to_layer() => {
                self.links.insert(name.to_owned());
                Ok(Handling::Keep)
            }
            _ => refused(),
        }
    }

    /// Writes the list of images with the name of our own alone.
    fn write_manifest(&mut self, out: &mut Vec<u8>) -> Result<(), Fault> {
        #[derive(Deserialize)]
        struct Image {
            #[serde(rename = "Config")]
            config: String,
            #[serde(rename = "Layers")]
            layers: Vec<String>,
        }
        let images: Vec<Image> = serde_json::from_slice(&self.manifest)
            .map_err(|error| Fault::InvalidManifest(error.to_string()))?;
        let [Image { config, layers }] = images.as_slice() else {
            return Err(Fault::SeveralImages(images.len()));
        };
        let list = json!([{ "Config": config, "Layers": layers, "RepoTags": [self.name] }]);
        let text = list.to_string();
        let bytes = text.len() as u64;
        let entry = Entry { name: MANIFEST.to_owned(), kind: b'0', bytes, link: String::new() };
        out.extend_from_slice(&entry.header());
        out.extend_from_slice(text.as_bytes());
        out.resize(out.len() + padding_of(bytes), 0);
        self.has_manifest = true;
        Ok(())
    }
}

/// The part of a header that counts.
#[derive(Debug)]
struct Entry {
    name: String,
    kind: u8,
    bytes: u64,
    link: String,
}

impl Entry {
    fn read(block: &[u8]) -> Result<Self, Fault> {
        let header = tar::Header::from_byte_slice(block);
        let is_sound = header.cksum().is_ok_and(|sum| sum == sum_of(block));
        if !is_sound || header.as_ustar().is_none() && header.as_gnu().is_none() {
            return Err(Fault::NoTar);
        }
        let text = |bytes: Option<&[u8]>| {
            let text = str::from_utf8(bytes.unwrap_or_default()).map(str::to_owned);
            text.map_err(|_| {
                Fault::Entry(String::from_utf8_lossy(bytes.unwrap_or_default()).into())
            })
        };
        let name = text(Some(&*header.path_bytes()))?;
        let link = text(header.link_name_bytes().as_deref())?;
        let bytes = header.size().map_err(|_| Fault::NoTar)?;
        if bytes > MAX_ENTRY_BYTES {
            return Err(Fault::TooLarge(name));
        }
        if name.len() > MAX_NAME_BYTES || link.len() > MAX_NAME_BYTES {
            return Err(Fault::Entry(name));
        }
        let kind = match header.entry_type().as_byte() {
            0 => b'0',
            kind => kind,
        };
        Ok(Self { name, kind, bytes, link })
    }

    fn is_link_to_layer(&self) -> bool {
        let mut parts = self.link.split('/');
        self.bytes == 0
            && self.link.ends_with(LAYER)
            && parts.all(|part| part == ".." || is_plain(part))
    }

    /// A header that says this and nothing else.
    fn header(&self) -> [u8; BLOCK] {
        let mut header = tar::Header::new_ustar();
        let fields = header.as_old_mut();
        // Names are not longer than their fields.
        for (field, text) in [(&mut fields.name, &self.name), (&mut fields.linkname, &self.link)] {
            for (byte, of_text) in field.iter_mut().zip(text.bytes()) {
                *byte = of_text;
            }
        }
        header.set_entry_type(tar::EntryType::new(self.kind));
        header.set_size(self.bytes);
        header.set_mode(if self.kind == b'5' { 0o755 } else { 0o644 });
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_cksum();
        *header.as_bytes()
    }
}

/// Returns whether a part of a name has the characters of `docker save` alone: no control character, and none that a reader of
/// another format takes for its own.
fn is_plain(part: &str) -> bool {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-:".contains(&byte);
    !part.is_empty() && part != "." && part != ".." && part.bytes().all(is_allowed)
}

/// The sum of a header, whose own field counts as blanks.
fn sum_of(block: &[u8]) -> u32 {
    let counted = |(at, byte): (usize, &u8)| match at {
        148..156 => u32::from(b' '),
        _ => u32::from(*byte),
    };
    block.iter().enumerate().map(counted).sum()
}

const fn padding_of(bytes: u64) -> usize {
    let over = (bytes % BLOCK as u64) as usize;
    if over == 0 { 0 } else { BLOCK - over }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    const NAME: &str = "upload.example/tarball:1";
    const LIST: &str = r#"[{"Config":"c.json","RepoTags":["cial-app-api:dev"],"Layers":["a/layer.tar"],"Parent":"x"}]"#;

    fn entry(kind: u8, name: &str, link: &str, content: &[u8]) -> Vec<u8> {
        let bytes = content.len() as u64;
        let (name, link) = (name.to_owned(), link.to_owned());
        let mut out = Entry { name, kind, bytes, link }.header().to_vec();
        out.extend_from_slice(content);
        out.resize(out.len() + padding_of(bytes), 0);
        out
    }

    fn file(name: &str, content: &[u8]) -> Vec<u8> {
        entry(b'0', name, "", content)
    }

    fn tarball(entries: &[Vec<u8>]) -> Vec<u8> {
        [entries.concat(), vec![0; 2 * BLOCK]].concat()
    }

    fn filter(tarball: &[u8], piece: usize) -> Result<Vec<u8>, Fault> {
        let mut filter = Filter::new(NAME.to_owned());
        let mut out = Vec::new();
        for piece in tarball.chunks(piece) {
            out.extend(filter.push(piece)?);
        }
        filter.finish().map(|()| out)
    }

    fn contents(tar: &[u8]) -> Vec<(String, String)> {
        let mut archive = tar::Archive::new(tar);
        let read = |entry: Result<tar::Entry<'_, &[u8]>, _>| {
            let mut entry = entry.unwrap();
            let name = entry.path().unwrap().display().to_string();
            let mut text = String::new();
            entry.read_to_string(&mut text).unwrap();
            (name, text)
        };
        archive.entries().unwrap().map(read).collect()
    }

    #[test]
    fn the_image_gets_our_name_alone_wherever_the_list_is_and_however_the_bytes_arrive() {
        let layer = "x".repeat(1_500);
        let others = [
            file("c.json", b"{}"),
            entry(b'5', "a/", "", b""),
            file("a/layer.tar", layer.as_bytes()),
            entry(b'2', "b/layer.tar", "../a/layer.tar", b""),
            entry(b'x', "pax", "", b"20 atime=1.5\n"),
            file("repositories", b"{\"cial-app-api\":{}}"),
            file("index.json", b"{}"),
            file("oci-layout", b"{}"),
        ];
        for at in [0, others.len()] {
            let mut entries = others.to_vec();
            entries.insert(at, file(MANIFEST, LIST.as_bytes()));
            let tarball = tarball(&entries);
            let whole = filter(&tarball, tarball.len()).unwrap();
            for piece in [1, 511, 512, 513, 4_096] {
                assert_eq!(filter(&tarball, piece).unwrap(), whole, "{piece}");
            }
            assert!(whole.starts_with(b"upload/"));
            let mut found = contents(&whole);
            found.sort();
            let list = found.iter().position(|(name, _)| name == MANIFEST).unwrap();
            let (_, list) = found.remove(list);
            assert_eq!(
                serde_json::from_str::<serde_json::Value>(&list).unwrap(),
                json!([{ "Config": "c.json", "RepoTags": [NAME], "Layers": ["a/layer.tar"] }])
            );
            let expected = [
                ("a/", ""),
                ("a/layer.tar", &layer),
                ("b/layer.tar", ""),
                ("c.json", "{}"),
                ("upload/", ""),
            ];
            let found: Vec<_> = found.iter().map(|(n, t)| (n.as_str(), t.as_str())).collect();
            assert_eq!(found, expected);
        }
    }

    /// The engine reads the first bytes as the magic number of a compression.
    #[test]
    fn the_engine_takes_no_name_for_the_beginning_of_a_compressed_tarball() {
        let list = file(MANIFEST, LIST.as_bytes());
        for name in ["P*M\x18x\x7f", "BZh91AY&SY", "a/P*M\x18", "BZh91AY SY", "é"] {
            let mut filter = Filter::new(NAME.to_owned());
            let error = filter.push(&tarball(&[file(name, b""), list.clone()])).unwrap_err();
            assert_eq!(error, Fault::Entry(name.to_owned()));
        }
        for name in ["BZh91AYxSY", "blobs/sha256/a-b_c:d.e"] {
            let out = filter(&tarball(&[file(name, b""), list.clone()]), 512).unwrap();
            assert!(out.starts_with(b"upload/"), "{name}");
            assert!(contents(&out).iter().any(|(found, _)| found == name), "{name}");
        }
    }

    #[test]
    fn a_tarball_without_a_list_gets_no_end() {
        let mut filter = Filter::new(NAME.to_owned());
        let pushed = filter.push(&tarball(&[file("c.json", b"{}")]));
        assert_eq!((pushed, filter.is_whole()), (Err(Fault::NoManifest), false));
    }

    #[test]
    fn whatever_could_name_another_image_is_refused() {
        let list = || file(MANIFEST, LIST.as_bytes());
        let two = r#"[{"Config":"a","Layers":[]},{"Config":"b","Layers":[]}]"#;
        for (entries, fault) in [
            (vec![list(), list()], "entry that no image needs"),
            (vec![list(), file("./manifest.json", b"[]")], "entry that no image needs"),
            (vec![list(), file("a/../manifest.json", b"[]")], "entry that no image needs"),
            (vec![list(), file("/manifest.json", b"[]")], "entry that no image needs"),
            (vec![entry(b'1', MANIFEST, "a", b"")], "entry that no image needs"),
            (vec![entry(b'2', "a", ".", b""), file("a/manifest.json", b"[]")], "no image needs"),
            (
                vec![entry(b'2', "a/layer.tar", "../b/layer.tar", b""), file("a/layer.tar/x", b"")],
                "no image needs",
            ),
            (vec![entry(b'2', "a/layer.tar", "/etc/layer.tar", b"")], "no image needs"),
            (vec![file(DIRECTORY, b"")], "no image needs"),
            (vec![entry(b'L', "././@LongLink", "", b"manifest.json")], "no image needs"),
            (vec![file(MANIFEST, two.as_bytes())], "holds 2 images"),
            (vec![file(MANIFEST, b"[]")], "holds 0 images"),
            (vec![file(MANIFEST, b"{")], "cannot be read"),
            (vec![file("c.json", b"{}")], "has no manifest.json"),
        ] {
            let error = filter(&tarball(&entries), 700).unwrap_err().to_string();
            assert!(error.contains(fault), "{fault}: {error}");
        }
        assert_eq!(filter(b"\x1f\x8b\x08 compressed", 4), Err(Fault::CutOff));
        assert_eq!(filter(&[0x1f; 2_048], 512), Err(Fault::NoTar));
        let whole = tarball(&[list()]);
        for bytes in 0..whole.len() - BLOCK {
            let error = filter(&whole[..bytes], 512).unwrap_err();
            assert!(matches!(error, Fault::CutOff), "{bytes}: {error}");
        }
    }
}
