//! Why bytes are no archive that may be imported.

use std::fmt;

use crate::{FORMAT, MAX_DATABASE_BYTES};

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The bytes are not compressed by zstd, or the compressed bytes are damaged.
    NotCompressed(String),
    /// The archive is damaged, cut off, or no export of a tenant.
    Corrupt(String),
    /// The archive is of a later format.
    UnknownFormat(u64),
    /// An entry must not be unpacked.
    Unsafe { entry: String, rule: &'static str },
    /// The volumes hold more than they may.
    TooLarge { limit_bytes: u64 },
    /// The volumes say that they hold more than an export may. The entry is the first beyond it.
    TooLargeToExport { entry: String, limit_bytes: u64 },
    /// The schema is longer than an archive may hold.
    DatabaseTooLarge,
    /// The content is not what was exported.
    WrongChecksum,
}

impl Fault {
    pub(crate) fn corrupt(why: impl Into<String>) -> Self {
        Self::Corrupt(why.into())
    }

    pub(crate) fn entry(path: &[u8], rule: &'static str) -> Self {
        Self::Unsafe { entry: shown(path), rule }
    }

    pub(crate) fn too_large_to_export(path: &[u8], limit_bytes: u64) -> Self {
        Self::TooLargeToExport { entry: shown(path), limit_bytes }
    }
}

fn shown(path: &[u8]) -> String {
    const MAX_SHOWN_CHARS: usize = 200;
    String::from_utf8_lossy(path).chars().take(MAX_SHOWN_CHARS).collect()
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotCompressed(why) => {
                write!(f, "The file is not compressed by zstd, or is damaged: {why}.")
            }
            Self::Corrupt(why) => write!(f, "The archive {why}."),
            Self::UnknownFormat(format) => write!(
                f,
                "The archive has format {format}; this server knows formats up to {FORMAT}. Upgrade the server."
            ),
            Self::Unsafe { entry, rule } => write!(f, "The entry {entry:?} {rule}."),
            Self::TooLarge { limit_bytes } => write!(
                f,
                "The volumes hold more than the disk limit of the tenant, {limit_bytes} bytes."
            ),
            Self::TooLargeToExport { entry, limit_bytes } => write!(
                f,
                "With the entry {entry:?}, the files are larger than an export of this tenant may be, {limit_bytes} bytes. Remove or shorten sparse files, or raise the disk limit."
            ),
            Self::DatabaseTooLarge => write!(
                f,
                "The tenant's schema has more than {MAX_DATABASE_BYTES} bytes as text. Save it by pg_dump, then export without the database."
            ),
            Self::WrongChecksum => {
                f.write_str("The checksum is wrong: the content is not what was exported.")
            }
        }
    }
}

impl std::error::Error for Fault {}
