//! The upload of a tarball, in parts: what breaks goes on by itself, also in another call of the command.

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use protocol::images::ImageUpload;
use protocol::problem::Code;
use protocol::text::describe_bytes;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::clock;
use crate::context::Context;
use crate::error::CliError;
use crate::http::{Method, Request};
use crate::interrupt;

const PATH: &str = "/v1/image-uploads";
const BUFFER_BYTES: usize = 1 << 20;
/// Small enough for a line of progress every few seconds.
const PART_BYTES: u64 = 8 << 20;
/// Attempts one after the other that bring the upload no further.
const MAX_ATTEMPTS: u32 = 8;
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const MAX_PAUSE: Duration = Duration::from_secs(10);
/// The time between two lines of progress.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(2);

/// Uploads a file, and returns the id of the upload.
///
/// # Errors
/// The file cannot be read; the server refuses, or cannot be reached for a while.
pub(super) fn upload(file: &Path, context: &Context<'_>) -> Result<Value, CliError> {
    let unread = |error: std::io::Error| {
        CliError::failed(format!("cannot read {}", file.display())).because(error)
    };
    let mut tarball = File::open(file).map_err(unread)?;
    let (size, sha256) = digest(&mut tarball).map_err(unread)?;
    let title = format!("upload {}", file.display());
    interrupt::explain(format!(
        "interrupted: what was sent of {} stays for a day; the same command goes on",
        file.display()
    ));
    let begin = Request::new(Method::POST, PATH, title.clone())
        .json(json!({ "size": size, "sha256": sha256 }));
    let mut attempts = Attempts::default();
    let mut upload = loop {
        match read(context, &begin) {
            Ok(upload) => break upload,
            Err(error) => attempts.pause_after(error, context)?,
        }
    };
    let mut progress = Lines { context, size, shown_at: None };
    if upload.offset > 0 {
        context.output.note(&format!("going on after {}", describe_bytes(upload.offset)));
    }
    let place = format!("{PATH}/{}", upload.id);
    let (mut attempts, mut next) = (Attempts::default(), None);
    while upload.offset < size {
        let request = match next.take() {
            Some(request) => request,
            None => {
                let bytes = part_of(&mut tarball, &upload).map_err(unread)?;
                let path = format!("{place}?offset={}", upload.offset);
                Request::new(Method::PUT, path, title.clone()).part(bytes)
            }
        };
        match read(context, &request) {
            Ok(now) => {
                if now.offset > upload.offset {
                    attempts = Attempts::default();
                }
                upload = now;
                progress.show(upload.offset);
            }
            Err(error) => {
                attempts.pause_after(error, context)?;
                next = Some(Request::get(place.clone(), title.clone()));
            }
        }
    }
    Ok(json!(upload.id))
}

/// The bytes of a file, and their SHA-256.
fn digest(file: &mut File) -> std::io::Result<(u64, String)> {
    let (mut buffer, mut hash, mut size) = (vec![0; BUFFER_BYTES], Sha256::new(), 0);
    loop {
        let read = file.read(&mut buffer)?;
        if read == 0 {
            break;
        }
        hash.update(buffer.get(..read).unwrap_or_default());
        size += read as u64;
    }
    Ok((size, hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()))
}

/// The next bytes that the server lacks.
fn part_of(file: &mut File, upload: &ImageUpload) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.seek(SeekFrom::Start(upload.offset))?;
    file.take(PART_BYTES.min(upload.max_part_bytes)).read_to_end(&mut bytes)?;
    if bytes.is_empty() {
        return Err(std::io::ErrorKind::UnexpectedEof.into());
    }
    Ok(bytes)
}

fn read(context: &Context<'_>, request: &Request) -> Result<ImageUpload, CliError> {
    let shown = context.call(request)?;
    serde_json::from_value(shown).map_err(|error| {
        CliError::failed(format!("cannot {}", request.title))
            .because(format!("the response: {error}"))
    })
}

/// Attempts that failed, one after the other.
#[derive(Default)]
struct Attempts(u32);

impl Attempts {
    /// Pauses before another attempt, unless it makes no sense.
    ///
    /// # Errors
    /// The error, where the server refuses for good, or too many attempts failed.
    fn pause_after(&mut self, error: CliError, context: &Context<'_>) -> Result<(), CliError> {
        self.0 += 1;
        // Another request may still write what this command sent before its connection broke.
        let is_passing = error.is_transient()
            || error.code() == Code::UploadConflict.as_str()
            || error.code() == Code::RequestTimedOut.as_str();
        if !is_passing || self.0 > MAX_ATTEMPTS {
            return Err(error);
        }
        let (what, _) = error.into_parts();
        context.output.note(&format!("{what}; trying again"));
        sleep((FIRST_PAUSE * 2_u32.pow(self.0 - 1)).min(MAX_PAUSE));
        Ok(())
    }
}

/// Lines of progress, bounded in number.
struct Lines<'a> {
    context: &'a Context<'a>,
    size: u64,
    shown_at: Option<Instant>,
}

impl Lines<'_> {
    fn show(&mut self, offset: u64) {
        let is_due = self.shown_at.is_none_or(|at| at.elapsed() >= PROGRESS_INTERVAL);
        if !is_due && offset < self.size {
            return;
        }
        self.shown_at = Some(clock::instant());
        let percent = offset.saturating_mul(100) / self.size.max(1);
        let (sent, whole) = (describe_bytes(offset), describe_bytes(self.size));
        self.context.output.note(&format!("uploaded {sent} of {whole} ({percent} %)"));
    }
}
