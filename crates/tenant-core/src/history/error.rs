//! Why a query or a change of the history failed.

use rusqlite::ErrorCode;
use rusqlite::ffi::SQLITE_IOERR_WRITE;
use thiserror::Error;

/// Cloned for every write of a transaction that failed as a whole.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum HistoryError {
    #[error("the disk takes no more data")]
    DiskFull,
    #[error("too many requests wait for the history")]
    Busy,
    #[error("the file is damaged: {0}")]
    Corrupt(String),
    #[error("the file has schema {found}, and this release knows {known}")]
    NewerSchema { found: usize, known: usize },
    #[error("{0}")]
    Other(String),
}

impl From<rusqlite::Error> for HistoryError {
    fn from(error: rusqlite::Error) -> Self {
        let failure = error.sqlite_error();
        let is = |codes: &[ErrorCode]| failure.is_some_and(|failure| codes.contains(&failure.code));
        // A file system with quotas refuses a write like this.
        let is_refused_write = failure.is_some_and(|f| f.extended_code == SQLITE_IOERR_WRITE);
        if is(&[ErrorCode::DiskFull]) || is_refused_write {
            Self::DiskFull
        } else if is(&[ErrorCode::DatabaseCorrupt, ErrorCode::NotADatabase]) {
            Self::Corrupt(error.to_string())
        } else {
            Self::Other(error.to_string())
        }
    }
}

impl From<std::io::Error> for HistoryError {
    fn from(error: std::io::Error) -> Self {
        use std::io::ErrorKind::{QuotaExceeded, StorageFull};
        match [StorageFull, QuotaExceeded].contains(&error.kind()) {
            true => Self::DiskFull,
            false => Self::Other(error.to_string()),
        }
    }
}
