//! The tenant's own files: lists, downloads with ranges, resumable uploads, moves and deletions.

mod download;
mod precondition;
mod range;
mod transfers;
mod upload;

use std::io;

use hyper::StatusCode;
use protocol::Problem;
use protocol::files::{
    DiskShare, FileFailure, FileList, FilePage, FilePath, FileRequest, FileSpace, MAX_ENTRIES,
    MakeFolder, MoveFile,
};
use protocol::problem::Code;
use tenant_service::{RequestBody, Response, response};

use super::query::Query;
use super::{Back, CallError, read, respond};
use crate::back::file_server::FileError;
pub(in crate::back) use transfers::{MAX_TRANSFERS, Transfers};

/// The size of one read or write.
const CHUNK_BYTES: usize = 128 << 10;

impl From<FileError> for CallError {
    fn from(error: FileError) -> Self {
        let (code, detail) = match &error {
            FileError::Refused { kind, detail } => match kind {
                FileFailure::NotFound => (Code::ResourceNotFound, format!("404: {detail}.")),
                FileFailure::Conflict => (Code::FileConflict, format!("409: {detail}.")),
                FileFailure::Denied => (Code::FileDenied, format!("403: {detail}.")),
                FileFailure::DiskFull => {
                    (Code::DiskFull, "507: the tenant's disk takes no more data.".to_owned())
                }
                FileFailure::Busy => (Code::FilesBusy, format!("503: {detail}.")),
                FileFailure::Other => (Code::FilesUnavailable, format!("502: {detail}.")),
            },
            FileError::Unavailable(_) => (Code::FilesUnavailable, format!("502: {error}.")),
        };
        Self::Problem(Box::new(Problem::new(code, detail)))
    }
}

impl From<io::Error> for CallError {
    fn from(error: io::Error) -> Self {
        let is_full =
            matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded);
        let (kind, detail) = match is_full {
            true => (FileFailure::DiskFull, String::new()),
            false => (FileFailure::Other, error.to_string()),
        };
        FileError::Refused { kind, detail }.into()
    }
}

impl Back {
    pub(super) async fn list_files(&self, query: Option<&str>) -> Result<Response, CallError> {
        let query = Query::parse(query, &["path", "after", "limit"])?;
        let limit = query.limit()?.map_or(MAX_ENTRIES, |limit| {
            u16::try_from(limit).unwrap_or(MAX_ENTRIES).clamp(1, MAX_ENTRIES)
        });
        let folder = query.file_path("path")?.unwrap_or_default();
        let request = FileRequest::List { folder, after: query.file_path("after")?, limit };
        let FilePage { items, next, free_bytes } = self.files.list(&request).await?;
        let space = FileSpace::new(self.disk_share(), free_bytes);
        respond(StatusCode::OK, &FileList { items, next, space })
    }

    /// `None` under an orchestrator that writes none.
    fn disk_share(&self) -> Option<DiskShare> {
        let text = std::fs::read(&self.disk_share).ok()?;
        serde_json::from_slice(&text).ok()
    }

    pub(super) async fn delete_file(&self, query: Option<&str>) -> Result<Response, CallError> {
        let path = required_path(&Query::parse(query, &["path"])?)?;
        self.files.perform(&FileRequest::Delete { path }).await?;
        Ok(response::empty(StatusCode::NO_CONTENT))
    }

    pub(super) async fn make_folder(&self, body: RequestBody) -> Result<Response, CallError> {
        let MakeFolder { path } = read(body).await?;
        self.files.perform(&FileRequest::MakeFolder { path }).await?;
        Ok(response::empty(StatusCode::NO_CONTENT))
    }

    pub(super) async fn move_file(&self, body: RequestBody) -> Result<Response, CallError> {
        let MoveFile { from, to, replace } = read(body).await?;
        self.files.perform(&FileRequest::Move { from, to, replace }).await?;
        Ok(response::empty(StatusCode::NO_CONTENT))
    }
}

fn required_path(query: &Query<'_>) -> Result<FilePath, Box<Problem>> {
    let missing = || Box::new(Problem::new(Code::InvalidQuery, "path must be given"));
    query.file_path("path")?.ok_or_else(missing)
}

fn conflict(why: &str) -> CallError {
    CallError::Problem(Box::new(Problem::new(Code::FileConflict, format!("409: {why}."))))
}
