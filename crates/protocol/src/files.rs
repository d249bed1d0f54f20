//! The tenant's own files: what people call under `/.cial/api/v1/files`, and how core-back has them opened by the user who
//! owns them.
//!
//! core-back connects to [`FILES_SOCKET`](crate::inside::FILES_SOCKET), sends one [`FileRequest`] as JSON and ends its
//! side; the file server answers one [`FileReply`] and ends. With [`FileReply::Opened`] comes a descriptor.

use std::fmt;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::inside::HOOK_STATE_DIR;

/// The most entries of one page.
pub const MAX_ENTRIES: u16 = 200;
/// The most bytes of one part of an upload: the largest body that the router passes on by default.
pub const MAX_PART_BYTES: u64 = 50_000_000;
/// The folder of uploads under way, at the top of the volume. No path of the API leads there.
pub const UPLOADS_FOLDER: &str = ".cial-uploads";
/// Folders at the top of the volume that no call shows or changes.
pub const PLATFORM_FOLDERS: [&str; 2] = [UPLOADS_FOLDER, HOOK_STATE_DIR];

const MAX_PATH_BYTES: usize = 2_048;
const MAX_NAME_BYTES: usize = 255;
const MAX_DEPTH: usize = 32;

/// A path below the top of the tenant's files, whose spelling has one reading: names with `/` between them, or nothing for
/// the top itself.
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[cfg_attr(feature = "openapi", schema(value_type = String))]
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String")]
pub struct FilePath(String);

/// Why a text is no [`FilePath`]: the end of a sentence that begins with the field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FilePathError(&'static str);

impl fmt::Display for FilePathError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for FilePathError {}

impl TryFrom<String> for FilePath {
    type Error = FilePathError;

    fn try_from(text: String) -> Result<Self, FilePathError> {
        let names: Vec<_> = if text.is_empty() { Vec::new() } else { text.split('/').collect() };
        let rule = if text.len() > MAX_PATH_BYTES || names.len() > MAX_DEPTH {
            "must have at most 2048 bytes and 32 folders"
        } else if text.starts_with('/') {
            "must not begin with a slash: it is read from the top of the tenant's files"
        } else if names.iter().any(|name| matches!(*name, "" | "." | "..")) {
            "must not hold empty names, . or .."
        } else if names.iter().any(|name| name.len() > MAX_NAME_BYTES) {
            "must not hold a name of more than 255 bytes"
        } else if text.contains(|c: char| c.is_control() || c == '\\') {
            "must not hold control characters or backslashes"
        } else if names.first().is_some_and(|name| PLATFORM_FOLDERS.contains(name)) {
            "must not lead to a folder of the platform"
        } else {
            return Ok(Self(text));
        };
        Err(FilePathError(rule))
    }
}

impl FilePath {
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The folder and the name in it. `None` for the top.
    pub fn split(&self) -> Option<(&str, &str)> {
        match self.0.rsplit_once('/') {
            Some(split) => Some(split),
            None => (!self.0.is_empty()).then_some(("", &self.0)),
        }
    }
}

/// A file or a folder.
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileEntry {
    /// The last name of its path.
    pub name: String,
    pub kind: FileKind,
    pub size: u64,
    /// Milliseconds since 1970.
    pub modified_at: i64,
}

#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FileKind {
    File,
    Folder,
    /// A symbolic link, a socket, a pipe or a device: listed, and never opened.
    Other,
}

/// The content of the file [`DISK_SHARE`](crate::inside::DISK_SHARE): the tenant's share of the disk, for its files and those of
/// its core together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskShare {
    pub limit_bytes: u64,
    /// As last observed; `None` before the first measurement.
    pub used_bytes: Option<u64>,
    /// The filesystem refuses what is too much. Otherwise the use is measured, and a tenant over its limit is stopped.
    #[serde(default)]
    pub is_enforced: bool,
}

/// The tenant's room on the disk. The limit and the use count its files and those of its core together.
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileSpace {
    /// `null` while it is not known.
    pub limit_bytes: Option<u64>,
    /// As last observed; `null` while it is not known.
    pub used_bytes: Option<u64>,
    /// The bytes left of the limit, at most those left of the disk.
    pub available_bytes: u64,
}

impl FileSpace {
    /// The room of a tenant with this share of a disk that has `free_bytes` left.
    pub fn new(share: Option<DiskShare>, free_bytes: u64) -> Self {
        let used_bytes = share.and_then(|share| share.used_bytes);
        let left = share.map(|share| share.limit_bytes.saturating_sub(used_bytes.unwrap_or(0)));
        Self {
            limit_bytes: share.map(|share| share.limit_bytes),
            used_bytes,
            available_bytes: left.map_or(free_bytes, |left| left.min(free_bytes)),
        }
    }
}

/// A page of a folder, as the file server reads it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FilePage {
    pub items: Vec<FileEntry>,
    /// The last name of the page, unless it is the last page.
    pub next: Option<String>,
    /// The space that is free for a user without privileges.
    pub free_bytes: u64,
}

/// The entries of a folder by name.
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileList {
    pub items: Vec<FileEntry>,
    /// The `after` of the next page, or `null` after the last one.
    pub next: Option<String>,
    pub space: FileSpace,
}

/// A request of core-back to the file server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case", deny_unknown_fields)]
pub enum FileRequest {
    List {
        folder: FilePath,
        /// Only names after this one.
        after: Option<FilePath>,
        limit: u16,
    },
    /// Opens a file for reading.
    Open {
        path: FilePath,
    },
    /// Opens the file of an upload for writing.
    OpenUpload {
        id: Uuid,
        is_new: bool,
    },
    /// Puts a complete upload in its place.
    FinishUpload {
        id: Uuid,
        path: FilePath,
        replace: bool,
    },
    DeleteUpload {
        id: Uuid,
    },
    MakeFolder {
        path: FilePath,
    },
    Move {
        from: FilePath,
        to: FilePath,
        replace: bool,
    },
    /// Deletes a file or an empty folder.
    Delete {
        path: FilePath,
    },
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "reply", rename_all = "snake_case")]
pub enum FileReply {
    Listed(FilePage),
    Opened,
    Done,
    Failed {
        kind: FileFailure,
        /// A clause for the caller, which says what is in the way.
        detail: String,
    },
}

/// Why a request has no other reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FileFailure {
    NotFound,
    /// There is something else in the place.
    Conflict,
    /// The owner of the files, a program of the tenant, forbids it by the modes of files and folders.
    Denied,
    DiskFull,
    /// As many uploads are under way as may be.
    Busy,
    Other,
}

/// The body of `POST /files/folders`.
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MakeFolder {
    pub path: FilePath,
}

/// The body of `POST /files/move`.
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MoveFile {
    pub from: FilePath,
    pub to: FilePath,
    /// Without it, an existing file is a conflict.
    #[serde(default)]
    pub replace: bool,
}

/// An upload under way.
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Upload {
    /// Made by the server.
    pub id: Uuid,
    /// The bytes that arrived: where the next part begins.
    pub offset: u64,
    pub max_part_bytes: u64,
}

/// The body of `POST /files/uploads/{id}/finish`.
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FinishUpload {
    pub path: FilePath,
    /// The size of the whole file, which must have arrived.
    pub size: u64,
    /// Without it, an existing file is a conflict.
    #[serde(default)]
    pub replace: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(text: &str) -> Option<String> {
        FilePath::try_from(text.to_owned()).err().map(|error| error.to_string())
    }

    #[test]
    fn a_path_has_one_reading() {
        for path in ["", "a", "a/b.txt", "Bücher/ß 1%2f.txt", ".hidden", "a/...", &"x".repeat(255)]
        {
            assert_eq!(fault(path), None, "{path}");
        }
        for path in [
            "/",
            "/a",
            "a/",
            "a//b",
            ".",
            "..",
            "a/..",
            "../a",
            "a/./b",
            "a\\b",
            "a\0b",
            "a\nb",
            "a\u{85}b",
            ".cial-uploads",
            ".cial-uploads/x",
            ".cial",
            ".cial/release",
            &"x".repeat(256),
            &"a/".repeat(1_200),
            &format!("a{}", "/a".repeat(32)),
        ] {
            assert!(fault(path).is_some(), "{path:?}");
        }
    }

    #[test]
    fn what_is_available_is_left_of_both_the_limit_and_the_disk() {
        let available = |limit_bytes, used_bytes, free_bytes| {
            let share = DiskShare { limit_bytes, used_bytes, is_enforced: false };
            FileSpace::new(Some(share), free_bytes).available_bytes
        };
        assert_eq!(available(100, Some(30), 1_000), 70);
        assert_eq!(available(100, Some(30), 20), 20);
        assert_eq!(available(100, Some(130), 1_000), 0, "the limit was lowered");
        assert_eq!(available(100, None, 1_000), 100);
        let unknown = FileSpace::new(None, 1_000);
        assert_eq!((unknown.limit_bytes, unknown.available_bytes), (None, 1_000));
    }

    #[test]
    fn a_path_is_split_at_its_last_name() {
        let split = |text: &str| {
            let path = FilePath::try_from(text.to_owned()).unwrap();
            path.split().map(|(folder, name)| format!("{folder}|{name}"))
        };
        assert_eq!(split(""), None);
        assert_eq!(split("a").as_deref(), Some("|a"));
        assert_eq!(split("a/b/c").as_deref(), Some("a/b|c"));
    }
}
