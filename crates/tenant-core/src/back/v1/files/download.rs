//! The content of a file, whole or a range of it.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Bytes;
use hyper::header::{
    ACCEPT_RANGES, CACHE_CONTROL, CONTENT_DISPOSITION, CONTENT_LENGTH, CONTENT_RANGE,
    CONTENT_SECURITY_POLICY, ETAG, HeaderValue,
};
use hyper::http::request::Parts;
use hyper::{Method, StatusCode};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use protocol::Problem;
use protocol::files::{FilePath, FileRequest};
use protocol::problem::Code;
use tenant_service::{RequestContext, Response, response};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::precondition::{self, Precondition};
use super::range::{self, Requested, Span};
use super::transfers::{Direction, Transfer};
use super::{CHUNK_BYTES, required_path};
use crate::back::Back;
use crate::back::v1::CallError;
use crate::back::v1::query::Query;
use crate::session_table::Session;

/// Chunks that wait for their reader.
const CHUNK_QUEUE: usize = 2;
/// A reader that takes nothing for this long counts as gone, so that it holds no place of a transfer.
const READER_TIMEOUT: Duration = Duration::from_secs(30);

impl Back {
    /// The content as bytes to keep: never as a page of this site, whose session it would have.
    pub(in crate::back::v1) async fn download_file(
        &self,
        context: &RequestContext,
        session: &Session,
        head: &Parts,
    ) -> Result<Response, CallError> {
        let path = required_path(&Query::parse(head.uri.query(), &["path"])?)?;
        let transfer = self.transfers.begin(Direction::Download, session)?;
        let file = self.files.open(&FileRequest::Open { path: path.clone() }).await?;
        let metadata = file.metadata()?;
        let (size, number) = (metadata.len(), metadata.ino());
        // The time of change, which no program can set back.
        let (changed, nanos) = (metadata.ctime(), metadata.ctime_nsec());
        let tag = format!("\"{number:x}-{size:x}-{changed:x}-{nanos:x}\"");
        // Before the range: RFC 9110, section 13.2.2.
        match precondition::evaluate(&head.headers, &tag) {
            Precondition::Fulfilled => {}
            Precondition::Failed => {
                let detail = "412: the file is of another version than If-Match names.";
                return Err(Box::new(Problem::new(Code::RevisionMismatch, detail)).into());
            }
            Precondition::NotModified => {
                let mut response = response::empty(StatusCode::NOT_MODIFIED);
                insert(&mut response, ETAG, &tag);
                insert(&mut response, CACHE_CONTROL, "no-store");
                return Ok(response);
            }
        }
        // A range is defined for GET alone.
        let requested = match head.method {
            Method::GET => range::requested(&head.headers, &tag, size),
            _ => Requested::Whole,
        };
        let (status, span) = match requested {
            Requested::Whole => (StatusCode::OK, Span { start: 0, length: size }),
            Requested::Part(span) => (StatusCode::PARTIAL_CONTENT, span),
            Requested::Unsatisfiable => {
                let detail = format!("416: the file has {size} bytes.");
                let problem = Problem::new(Code::RangeNotSatisfiable, detail);
                let mut response = context.problem_response(problem);
                insert(&mut response, CONTENT_RANGE, &format!("bytes */{size}"));
                return Ok(response);
            }
        };
        let (sender, chunks) = mpsc::channel(CHUNK_QUEUE);
        let mut response = response::streamed(status, "application/octet-stream", chunks);
        for (name, value) in [
            (CONTENT_LENGTH, span.length.to_string()),
            (ETAG, tag),
            (ACCEPT_RANGES, "bytes".to_owned()),
            (CONTENT_SECURITY_POLICY, "default-src 'none'; sandbox".to_owned()),
            (CONTENT_DISPOSITION, disposition(&path)),
        ] {
            insert(&mut response, name, &value);
        }
        if status == StatusCode::PARTIAL_CONTENT {
            let last = span.start + span.length - 1;
            insert(&mut response, CONTENT_RANGE, &format!("bytes {}-{last}/{size}", span.start));
        }
        if head.method == Method::GET {
            tokio::spawn(send_file(file, span, sender, transfer));
        }
        Ok(response)
    }
}

fn insert(response: &mut Response, name: hyper::header::HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        response.headers_mut().insert(name, value);
    }
}

fn disposition(path: &FilePath) -> String {
    let name = path.split().map_or("", |(_, name)| name);
    format!("attachment; filename*=UTF-8''{}", utf8_percent_encode(name, NON_ALPHANUMERIC))
}

/// Sends the bytes until the reader leaves. A file that became shorter meanwhile ends the connection, which the reader
/// notices by the missing bytes.
async fn send_file(file: File, span: Span, chunks: mpsc::Sender<Bytes>, transfer: Transfer) {
    let file = Arc::new(file);
    send_span(&file, span, chunks, &transfer).await;
    // The last close of a large file that was deleted frees its blocks, which takes time.
    let close = move || {
        drop(file);
        Ok(())
    };
    let _ = transfer.on_disk(close).await;
}

async fn send_span(file: &Arc<File>, span: Span, chunks: mpsc::Sender<Bytes>, transfer: &Transfer) {
    let (mut at, end) = (span.start, span.start + span.length);
    while at < end {
        let (file, left) = (file.clone(), usize::try_from(end - at).unwrap_or(usize::MAX));
        let read = transfer.on_disk(move || {
            let mut chunk = vec![0; left.min(CHUNK_BYTES)];
            let length = file.read_at(&mut chunk, at)?;
            chunk.truncate(length);
            io::Result::Ok(chunk)
        });
        let Ok(chunk) = read.await else { return };
        if chunk.is_empty() {
            return;
        }
        at += chunk.len() as u64;
        if !matches!(timeout(READER_TIMEOUT, chunks.send(chunk.into())).await, Ok(Ok(()))) {
            return;
        }
    }
}
