//! Uploads: begun, grown part by part, and put in their place.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::StatusCode;
use hyper::body::{Body as _, Bytes};
use protocol::Problem;
use protocol::files::{FileFailure, FileRequest, FinishUpload, MAX_PART_BYTES, Upload};
use protocol::problem::Code;
use tenant_service::body::BodyError;
use tenant_service::{RequestBody, Response, response};
use tokio::time::timeout;
use uuid::Uuid;

use super::transfers::{Direction, Finish, Transfer, UploadLock};
use super::{CHUNK_BYTES, conflict};
use crate::back::Back;
use crate::back::file_server::FileError;
use crate::back::v1::query::Query;
use crate::back::v1::{CallError, read, respond};
use crate::session_table::Session;

/// A sender that is silent for this long counts as gone, so that it holds no place of a transfer.
const SENDER_TIMEOUT: Duration = Duration::from_secs(30);

/// The file of an upload. The lock lasts until the last write has ended, even if its request ended before.
struct UploadFile {
    file: File,
    _lock: UploadLock,
}

/// Why the file of an upload is not open.
enum OpenError {
    Locked(CallError),
    Files(FileError),
}

impl From<OpenError> for CallError {
    fn from(error: OpenError) -> Self {
        match error {
            OpenError::Locked(error) => error,
            OpenError::Files(error) => error.into(),
        }
    }
}

impl Back {
    pub(in crate::back::v1) async fn begin_upload(&self) -> Result<Response, CallError> {
        let id = Uuid::new_v4();
        self.files.open(&FileRequest::OpenUpload { id, is_new: true }).await?;
        respond(StatusCode::CREATED, &upload(id, 0))
    }

    pub(in crate::back::v1) async fn show_upload(&self, id: &str) -> Result<Response, CallError> {
        let id = upload_id(id)?;
        let file = self.files.open(&FileRequest::OpenUpload { id, is_new: false }).await?;
        respond(StatusCode::OK, &upload(id, file.metadata()?.len()))
    }

    pub(in crate::back::v1) async fn delete_upload(&self, id: &str) -> Result<Response, CallError> {
        let id = upload_id(id)?;
        let _lock = self.transfers.lock(id)?;
        self.files.perform(&FileRequest::DeleteUpload { id }).await?;
        self.transfers.forget_finish(id);
        Ok(response::empty(StatusCode::NO_CONTENT))
    }

    /// Adds a part at the end. What arrives of a part that is cut off stays, and the next part begins after it.
    pub(in crate::back::v1) async fn add_part(
        &self,
        session: &Session,
        id: &str,
        query: Option<&str>,
        body: RequestBody,
    ) -> Result<Response, CallError> {
        let id = upload_id(id)?;
        let offset = Query::parse(query, &["offset"])?.number("offset")?;
        if body.size_hint().lower() > MAX_PART_BYTES {
            return Err(too_large());
        }
        let transfer = self.transfers.begin(Direction::Upload, session)?;
        let file = self.open_upload(id).await?;
        let expected = file.file.metadata()?.len();
        if offset != expected {
            return Err(conflict(&format!("the next part begins at {expected}")));
        }
        let file = Arc::new(file);
        let arrived = receive_part(&transfer, &file, offset, body).await?;
        transfer.on_disk(move || file.file.sync_data()).await?;
        respond(StatusCode::OK, &upload(id, offset + arrived))
    }

    /// A request that is repeated, because the response to it was lost, has the same response.
    pub(in crate::back::v1) async fn finish_upload(
        &self,
        session: &Session,
        id: &str,
        body: RequestBody,
    ) -> Result<Response, CallError> {
        let id = upload_id(id)?;
        let FinishUpload { path, size, replace } = read(body).await?;
        let finish = Finish { id, path: path.clone(), size };
        let transfer = self.transfers.begin(Direction::Upload, session)?;
        let file = match self.open_upload(id).await {
            Err(OpenError::Files(FileError::Refused { kind: FileFailure::NotFound, .. }))
                if self.is_finished(&finish).await =>
            {
                return Ok(response::empty(StatusCode::NO_CONTENT));
            }
            opened => Arc::new(opened?),
        };
        let arrived = file.file.metadata()?.len();
        if arrived != size {
            return Err(conflict(&format!("{arrived} of {size} bytes arrived")));
        }
        let synced = file.clone();
        transfer.on_disk(move || synced.file.sync_all()).await?;
        // Before: whoever leaves now does not learn whether the file is in its place.
        self.transfers.note_finish(finish);
        let request = FileRequest::FinishUpload { id, path, replace };
        let finished = self.files.perform(&request).await;
        if matches!(finished, Err(FileError::Refused { .. })) {
            self.transfers.forget_finish(id);
        }
        finished?;
        Ok(response::empty(StatusCode::NO_CONTENT))
    }

    /// Whether an earlier request put the upload in its place, where it still is.
    async fn is_finished(&self, finish: &Finish) -> bool {
        if !self.transfers.is_noted(finish) {
            return false;
        }
        let opened = self.files.open(&FileRequest::Open { path: finish.path.clone() }).await;
        let size = opened.ok().and_then(|file| file.metadata().ok()).map(|found| found.len());
        size == Some(finish.size)
    }

    async fn open_upload(&self, id: Uuid) -> Result<UploadFile, OpenError> {
        let lock = self.transfers.lock(id).map_err(OpenError::Locked)?;
        let opened = self.files.open(&FileRequest::OpenUpload { id, is_new: false }).await;
        Ok(UploadFile { file: opened.map_err(OpenError::Files)?, _lock: lock })
    }
}

fn upload(id: Uuid, offset: u64) -> Upload {
    Upload { id, offset, max_part_bytes: MAX_PART_BYTES }
}

fn upload_id(id: &str) -> Result<Uuid, Box<Problem>> {
    let unknown =
        || Box::new(Problem::new(Code::ResourceNotFound, "404: there is no such upload."));
    crate::channel::parse_id(id).ok_or_else(unknown)
}

fn too_large() -> CallError {
    let detail = format!("413: a part has at most {MAX_PART_BYTES} bytes.");
    CallError::Problem(Box::new(Problem::new(Code::BodyTooLarge, detail)))
}

/// Writes the body behind what the file has, and returns how much came.
async fn receive_part(
    transfer: &Transfer,
    file: &Arc<UploadFile>,
    offset: u64,
    mut body: RequestBody,
) -> Result<u64, CallError> {
    let (mut arrived, mut waiting) = (0, Vec::new());
    loop {
        let frame = std::future::poll_fn(|context| Pin::new(&mut body).poll_frame(context));
        let frame = timeout(SENDER_TIMEOUT, frame).await;
        let (data, is_end, is_cut) = match frame {
            Ok(Some(Ok(frame))) => (frame.into_data().unwrap_or_default(), false, false),
            Ok(None) => (Bytes::new(), true, false),
            Ok(Some(Err(_))) | Err(_) => (Bytes::new(), true, true),
        };
        waiting.extend_from_slice(&data);
        if arrived + waiting.len() as u64 > MAX_PART_BYTES {
            // Nothing of it stays: its sender does not know where it was cut.
            let file = file.clone();
            transfer.on_disk(move || file.file.set_len(offset)).await?;
            return Err(too_large());
        }
        if is_end || waiting.len() >= CHUNK_BYTES {
            let (chunk, at) = (std::mem::take(&mut waiting), offset + arrived);
            arrived += chunk.len() as u64;
            let file = file.clone();
            transfer.on_disk(move || file.file.write_all_at(&chunk, at)).await?;
        }
        match (is_end, is_cut) {
            (true, true) => return Err(BodyError::Broken.into()),
            (true, false) => return Ok(arrived),
            (false, _) => {}
        }
    }
}
