//! The rules for entries of a volume. The entries are unpacked by a process with all rights, in their order, so nothing in
//! them may lead it elsewhere.

use std::collections::HashSet;
use std::hash::{BuildHasher as _, RandomState};

use protocol::inside::{AGENT_UID, CIAL_UID};

use crate::tar_stream::{Entry, Kind};
use crate::{DATA, FILES};

const MAX_PATH_BYTES: usize = 4_096;
const MAX_NAME_BYTES: usize = 255;
/// The memory that the paths of entries may take.
const MAX_TREE_BYTES: usize = 64 << 20;
pub(crate) const SET_UID: u32 = 0o4000;
pub(crate) const SET_GID: u32 = 0o2000;
pub(crate) const MODE_BITS: u32 = 0o7777;
/// The bits of a mode that an entry of the core's volume may have: nobody but the core reads or changes it.
pub(crate) const CORE_MODE_BITS: u32 = 0o770;
/// The modes of the volumes themselves.
const DATA_MODE: u32 = 0o700;
const FILES_MODE: u32 = 0o750;

/// The entries so far. An entry must lie in a folder that the archive holds, and nothing takes the place of a link: so no link
/// leads a path elsewhere.
#[derive(Default)]
pub(crate) struct Tree {
    folders: HashSet<Vec<u8>>,
    links: HashSet<Vec<u8>>,
    /// Hashes of the paths of files and hard links: a wrong hit costs no more than an archive that cannot be unpacked.
    files: HashSet<u64>,
    left_out: HashSet<u64>,
    hasher: RandomState,
    path_bytes: usize,
}

impl Tree {
    /// # Errors
    /// The rule that the entry breaks, as the end of a sentence.
    pub(crate) fn check(&mut self, entry: &Entry) -> Result<(), &'static str> {
        let Entry { path, kind, .. } = entry;
        check_path(path)?;
        if belongs_to_one_tenant(path) {
            return Err(
                "holds sessions or the signing key, which belong to the tenant that was exported",
            );
        }
        check_owner_and_mode(entry)?;
        self.check_place(path, kind)?;
        match kind {
            Kind::Folder => {
                self.count(path)?;
                self.folders.insert(path.clone());
            }
            Kind::File => self.add_file(path)?,
            Kind::Symlink(target) => {
                check_symlink(path, target)?;
                self.count(path)?;
                self.links.insert(path.clone());
            }
            Kind::HardLink(target) => {
                self.check_hard_link(path, target)?;
                self.add_file(path)?;
            }
            Kind::Other => return Err("is neither a file, a folder nor a link"),
        }
        Ok(())
    }

    /// Remembers an entry that an export leaves out, and with it its further names.
    ///
    /// # Errors
    /// As for [`check`](Self::check).
    pub(crate) fn leave_out(&mut self, path: &[u8]) -> Result<(), &'static str> {
        self.count(&[])?;
        self.left_out.insert(self.hasher.hash_one(path));
        Ok(())
    }

    pub(crate) fn is_left_out(&self, path: &[u8]) -> bool {
        self.left_out.contains(&self.hasher.hash_one(path))
    }

    fn add_file(&mut self, path: &[u8]) -> Result<(), &'static str> {
        self.count(&[])?;
        self.files.insert(self.hasher.hash_one(path));
        Ok(())
    }

    fn check_hard_link(&self, path: &[u8], target: &[u8]) -> Result<(), &'static str> {
        let outside = "is a hard link to something outside its volume";
        check_path(target).map_err(|_| outside)?;
        if top(target) != top(path) || !self.has_parent(target) || self.folders.contains(target) {
            return Err(outside);
        }
        if belongs_to_one_tenant(target) {
            return Err("is a hard link to sessions or the signing key");
        }
        // Its target would count from another folder, and the engine may follow it.
        if self.links.contains(target) {
            return Err("is a hard link to a symbolic link");
        }
        if self.files.contains(&self.hasher.hash_one(target)) {
            Ok(())
        } else {
            Err("is a hard link to a file that the archive does not hold")
        }
    }

    pub(crate) fn has_both_volumes(&self) -> bool {
        [DATA, FILES].iter().all(|volume| self.folders.contains(volume.as_bytes()))
    }

    fn check_place(&self, path: &[u8], kind: &Kind) -> Result<(), &'static str> {
        if self.folders.contains(path) {
            return Err("takes the place of a folder");
        }
        if self.links.contains(path) {
            return Err("takes the place of a symbolic link");
        }
        if top(path) == path {
            return if *kind == Kind::Folder { Ok(()) } else { Err("must be a folder") };
        }
        if self.has_parent(path) { Ok(()) } else { Err("lies in no folder of the archive") }
    }

    fn has_parent(&self, path: &[u8]) -> bool {
        let slash = path.iter().rposition(|byte| *byte == b'/');
        slash.and_then(|at| path.get(..at)).is_some_and(|parent| self.folders.contains(parent))
    }

    /// An empty path is one of which the hash alone is kept.
    fn count(&mut self, path: &[u8]) -> Result<(), &'static str> {
        let fixed = if path.is_empty() { size_of::<u64>() } else { size_of::<Vec<u8>>() };
        self.path_bytes += path.len() + fixed;
        if self.path_bytes > MAX_TREE_BYTES {
            return Err("is one file, folder or link too many");
        }
        Ok(())
    }
}

/// The first part of a path.
pub(crate) fn top(path: &[u8]) -> &[u8] {
    path.split(|byte| *byte == b'/').next().unwrap_or_default()
}

/// Whether the path is the core's file of sessions or its signing key, or what an interrupted write or a damaged file left of
/// them. The sessions and assertions of one tenant must not be good for another.
pub(crate) fn belongs_to_one_tenant(path: &[u8]) -> bool {
    path.starts_with(b"data/sessions.") || path.starts_with(b"data/assertion-key.der")
}

/// The mode that the volume of this path has in every archive, whatever its program made of it; `None` for other paths.
pub(crate) fn mode_of_volume(path: &[u8]) -> Option<u32> {
    if path == DATA.as_bytes() {
        Some(DATA_MODE)
    } else {
        (path == FILES.as_bytes()).then_some(FILES_MODE)
    }
}

pub(crate) fn is_of_core(path: &[u8]) -> bool {
    top(path) == DATA.as_bytes()
}

/// The engine gives the volumes themselves the owner and the mode of their entries, too.
fn check_owner_and_mode(entry: &Entry) -> Result<(), &'static str> {
    let Entry { path, kind, mode, uid, gid, .. } = entry;
    let (cial, agent) = (u64::from(CIAL_UID), u64::from(AGENT_UID));
    if is_of_core(path) && (*uid, *gid) != (cial, cial) {
        return Err(
            "lies in the volume of the core and belongs to another user or group than 1000",
        );
    }
    if path == FILES.as_bytes() && (*uid, *gid) != (agent, agent) {
        return Err("belongs to another user or group than 1001");
    }
    if ![uid, gid].into_iter().all(|id| [cial, agent].contains(id)) {
        return Err("belongs to another user or group than the two of a tenant, 1000 and 1001");
    }
    if mode & !MODE_BITS != 0 {
        return Err("has a mode that is none");
    }
    if mode & SET_UID != 0 || (*kind != Kind::Folder && mode & SET_GID != 0) {
        return Err("has the set-uid or the set-gid bit");
    }
    if is_of_core(path) && mode & !CORE_MODE_BITS != 0 {
        return Err("lies in the volume of the core and is open to others");
    }
    match mode_of_volume(path) {
        Some(expected) if expected != *mode => Err("has not the mode of a volume, 0700 or 0750"),
        _ => Ok(()),
    }
}

fn check_path(path: &[u8]) -> Result<(), &'static str> {
    if path.len() > MAX_PATH_BYTES {
        return Err("has a path of more than 4,096 bytes");
    }
    if path.contains(&0) {
        return Err("has a NUL in its path");
    }
    if path.starts_with(b"/") {
        return Err("has an absolute path");
    }
    for name in path.split(|byte| *byte == b'/') {
        if matches!(name, b"" | b"." | b"..") {
            return Err("has an empty part, . or .. in its path");
        }
        if name.len() > MAX_NAME_BYTES {
            return Err("has a name of more than 255 bytes");
        }
    }
    if ![DATA, FILES].iter().any(|volume| volume.as_bytes() == top(path)) {
        return Err("is no part of an export");
    }
    Ok(())
}

/// In the tenant's own files, a link may lead anywhere: only the tenant's own program follows it, inside its container, where
/// it can make any link. The core trusts what is in its own volume, and makes no link there.
fn check_symlink(path: &[u8], target: &[u8]) -> Result<(), &'static str> {
    if target.is_empty() || target.len() > MAX_PATH_BYTES || target.contains(&0) {
        return Err("is a symbolic link without a valid target");
    }
    if is_of_core(path) {
        return Err("is a symbolic link in the volume of the core");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(path: &str, kind: Kind) -> Entry {
        let path = path.as_bytes().to_vec();
        let uid = if path.starts_with(b"data") { 1000 } else { 1001 };
        let mode = mode_of_volume(&path).unwrap_or(0o640);
        let gid = if path == b"files" { 1001 } else { 1000 };
        Entry { path, kind, mode, uid, gid, size: 0, mtime: 0 }
    }

    fn tree() -> Tree {
        let mut tree = Tree::default();
        for folder in ["data", "files", "files/a", "data/b"] {
            tree.check(&entry(folder, Kind::Folder)).unwrap();
        }
        tree
    }

    #[test]
    fn ordinary_entries_are_accepted() {
        let mut tree = tree();
        for (path, kind) in [
            ("files/a/x", Kind::File),
            ("files/a/y\n\u{fc}", Kind::File),
            ("files/a/l", Kind::HardLink(b"files/a/x".to_vec())),
            ("files/abs", Kind::Symlink(b"/usr/bin/python3".to_vec())),
            ("files/up", Kind::Symlink(b"../../x".to_vec())),
            ("files/sessions.json", Kind::File),
            ("files/assertion-key.der", Kind::File),
        ] {
            assert_eq!(tree.check(&entry(path, kind)), Ok(()), "{path:?}");
        }
        let shared = Entry { mode: 0o3770, ..entry("files/shared", Kind::Folder) };
        assert_eq!(tree.check(&shared), Ok(()));
        assert!(tree.has_both_volumes());
    }

    #[test]
    fn hostile_entries_are_refused() {
        let long = format!("files/{}", "n".repeat(256));
        let deep = format!("files/{}", "a/".repeat(3_000));
        let link = |target: &str| Kind::Symlink(target.as_bytes().to_vec());
        let hard = |target: &str| Kind::HardLink(target.as_bytes().to_vec());
        let outside = "is a hard link to something outside its volume";
        let of_one =
            "holds sessions or the signing key, which belong to the tenant that was exported";
        for (path, kind, rule) in [
            ("/files/x", Kind::File, "has an absolute path"),
            ("files/../x", Kind::File, "has an empty part, . or .. in its path"),
            ("files/./x", Kind::File, "has an empty part, . or .. in its path"),
            ("files//x", Kind::File, "has an empty part, . or .. in its path"),
            ("files/x/", Kind::File, "has an empty part, . or .. in its path"),
            ("", Kind::File, "has an empty part, . or .. in its path"),
            ("..", Kind::Folder, "has an empty part, . or .. in its path"),
            ("files/x\0", Kind::File, "has a NUL in its path"),
            (&long, Kind::File, "has a name of more than 255 bytes"),
            (&deep, Kind::File, "has a path of more than 4,096 bytes"),
            ("etc/passwd", Kind::File, "is no part of an export"),
            ("filesx/a", Kind::File, "is no part of an export"),
            ("files/none/x", Kind::File, "lies in no folder of the archive"),
            ("files/a", Kind::Folder, "takes the place of a folder"),
            ("files/a", link("/etc"), "takes the place of a folder"),
            ("data", link("/etc"), "takes the place of a folder"),
            ("files/fifo", Kind::Other, "is neither a file, a folder nor a link"),
            ("files/h", hard("/etc/passwd"), outside),
            ("files/h", hard("../etc/passwd"), outside),
            ("files/h", hard("data/b"), outside),
            ("files/h", hard("data/history.db"), outside),
            ("files/h", hard("files/a"), outside),
            ("files/h", hard("files/none/x"), outside),
            ("files/h", hard("files/x"), "is a hard link to a file that the archive does not hold"),
            ("data/h", hard("data/sessions.json"), "is a hard link to sessions or the signing key"),
            (
                "data/h",
                hard("data/assertion-key.der"),
                "is a hard link to sessions or the signing key",
            ),
            ("files/s", link(""), "is a symbolic link without a valid target"),
            ("data/s", link("/etc/passwd"), "is a symbolic link in the volume of the core"),
            ("data/s", link("b"), "is a symbolic link in the volume of the core"),
            ("data/sessions.json", Kind::File, of_one),
            ("data/assertion-key.der", Kind::File, of_one),
            ("data/assertion-key.der.new", Kind::File, of_one),
            ("data/assertion-key.der", link("b"), of_one),
        ] {
            assert_eq!(tree().check(&entry(path, kind)), Err(rule), "{path:?}");
        }
        assert_eq!(Tree::default().check(&entry("data", Kind::File)), Err("must be a folder"));
    }

    /// The way of a path through a link that the archive made before.
    #[test]
    fn nothing_is_written_through_a_link() {
        let mut tree = tree();
        tree.check(&entry("files/out", Kind::Symlink(b"/".to_vec()))).unwrap();
        let below = tree.check(&entry("files/out/etc", Kind::File));
        assert_eq!(below, Err("lies in no folder of the archive"));
        for kind in [Kind::Folder, Kind::File, Kind::Symlink(b"x".to_vec())] {
            let replaced = tree.check(&entry("files/out", kind));
            assert_eq!(replaced, Err("takes the place of a symbolic link"));
        }
        let through = tree.check(&entry("files/h", Kind::HardLink(b"files/out/etc".to_vec())));
        assert_eq!(through, Err("is a hard link to something outside its volume"));
        let second = tree.check(&entry("files/h", Kind::HardLink(b"files/out".to_vec())));
        assert_eq!(second, Err("is a hard link to a symbolic link"));
    }

    #[test]
    fn owners_and_modes_are_those_of_a_tenant() {
        let file = || entry("files/x", Kind::File);
        let core = || entry("data/x", Kind::File);
        for (bad, rule) in [
            (Entry { uid: 0, ..file() }, "belongs to another"),
            (Entry { gid: 1002, ..file() }, "belongs to another"),
            (Entry { uid: u64::from(u32::MAX) + 1001, ..file() }, "belongs to another"),
            (Entry { mode: 0o4755, ..file() }, "has the set-uid"),
            (Entry { mode: 0o2755, ..file() }, "has the set-uid"),
            (Entry { mode: 0o4755, ..entry("files/d", Kind::Folder) }, "has the set-uid"),
            (Entry { mode: 0o100_644, ..file() }, "has a mode"),
            (Entry { uid: 1001, ..core() }, "lies in the volume of the core and belongs"),
            (Entry { gid: 1001, ..core() }, "lies in the volume of the core and belongs"),
            (Entry { mode: 0o644, ..core() }, "lies in the volume of the core and is open"),
            (Entry { mode: 0o1700, ..core() }, "lies in the volume of the core and is open"),
        ] {
            let refused = tree().check(&bad).unwrap_err();
            assert!(refused.starts_with(rule), "{bad:?}: {refused}");
        }
    }
    #[test]
    fn the_volumes_themselves_have_one_owner_and_one_mode() {
        let (data, files) = (|| entry("data", Kind::Folder), || entry("files", Kind::Folder));
        for bad in [
            Entry { uid: 1001, ..data() },
            Entry { gid: 1001, ..data() },
            Entry { mode: 0o777, ..data() },
            Entry { mode: 0o750, ..data() },
            Entry { uid: 1000, ..files() },
            Entry { gid: 1000, ..files() },
            Entry { mode: 0o777, ..files() },
        ] {
            assert!(Tree::default().check(&bad).is_err(), "{bad:?}");
        }
        for good in [data(), files()] {
            assert_eq!(Tree::default().check(&good), Ok(()), "{good:?}");
        }
    }
}
