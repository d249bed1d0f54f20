//! Uploads of images as tarballs of `docker save`, in parts, so that one that breaks goes on.
//!
//! The bytes lie in the state folder until a release is made of them. The digest of the whole is checked before the
//! orchestrator, and with it the engine, sees the first one.

pub mod store;

use std::io::Read as _;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use futures_util::{StreamExt as _, stream};
use protocol::Timestamp;
use protocol::images::{
    ImageUpload, MAX_UPLOAD_PART_BYTES, NewImageUpload, RegistryImage, uploaded_image,
};
use protocol::problem::{Code, FieldCode};
use service::api_error::ApiError;
use tokio::time::timeout;
use uuid::Uuid;

use self::store::{Claim, Store, StoreError, Upload, UploadMetadata};
use crate::access::Principal;
use crate::app::App;
use crate::apps;
use crate::validation::refused_field;

/// A sender that stands still for this long is given up.
const READ_TIMEOUT: Duration = Duration::from_secs(30);
/// The bytes that are written to the disk at once.
const PIECE_BYTES: usize = 1 << 20;
const SWEEP_INTERVAL: Duration = Duration::from_secs(3_600);
const RETRY_DELAY: Duration = Duration::from_secs(60);

/// Begins an upload, or finds the caller's upload of the same tarball.
///
/// # Errors
/// `invalid_fields`; `busy`; `disk_full`; `upload_conflict`.
pub async fn begin(
    app: &App,
    caller: &Principal,
    new: &NewImageUpload,
) -> Result<ImageUpload, ApiError> {
    if uploaded_image(&new.sha256).is_none() {
        let detail = "sha256 must be 64 digits of 0-9 and a-f.".to_owned();
        return Err(refused_field(Code::InvalidFields, "sha256", FieldCode::Invalid, detail));
    }
    let metadata = UploadMetadata {
        owner: caller.owner_id(),
        size: new.size,
        sha256: new.sha256.clone(),
        touched_at: app.clock.now(),
    };
    let begun = on_disk(app, move |store| store.begin(metadata)).await?;
    tracing::info!(upload = %begun.id, size = begun.metadata.size, offset = begun.offset, %caller, "upload of an image begun");
    Ok(view(&begun))
}

/// # Errors
/// `resource_not_found`.
pub async fn show(app: &App, caller: &Principal, id: Uuid) -> Result<ImageUpload, ApiError> {
    let owner = caller.owner_id();
    Ok(view(&on_disk(app, move |store| store.find(id, owner)).await?))
}

/// # Errors
/// `resource_not_found`; `upload_conflict`.
pub async fn delete(app: &App, caller: &Principal, id: Uuid) -> Result<(), ApiError> {
    let owner = caller.owner_id();
    on_disk(app, move |store| store.claim(id, owner)?.0.delete()).await
}

/// Writes a part. What arrived of one that breaks off stays.
///
/// # Errors
/// `upload_conflict`, with the right offset; `body_too_large`; `disk_full`; `request_timed_out`.
pub async fn write_part(
    app: &App,
    caller: &Principal,
    id: Uuid,
    offset: u64,
    body: Body,
) -> Result<ImageUpload, ApiError> {
    let (app, owner) = (app.clone(), caller.owner_id());
    // Continues when the caller leaves, so that what arrived is kept.
    let written = tokio::spawn(async move {
        let (claim, upload, part) = on_disk(&app, move |store| {
            let (claim, upload) = store.claim(id, owner)?;
            let part = claim.append(&upload, offset)?;
            Ok((claim, upload, part))
        })
        .await?;
        let (part, received) = receive(&app, part, body).await?;
        let (metadata, now) = (upload.metadata, app.clock.now());
        let end = on_disk(&app, move |store| {
            part.sync()?;
            claim.touch(&metadata, now)?;
            store.find(id, owner)
        })
        .await?;
        received.map(|()| view(&end))
    });
    written.await.map_err(ApiError::internal)?
}

/// Writes what arrives, and returns why it ended early.
async fn receive(
    app: &App,
    mut part: store::Part,
    body: Body,
) -> Result<(store::Part, Result<(), ApiError>), ApiError> {
    let (mut pieces, mut buffer, mut total) = (body.into_data_stream(), Vec::new(), 0_u64);
    loop {
        let ended = match timeout(READ_TIMEOUT, pieces.next()).await {
            Err(_) => Some(Err(stalled())),
            Ok(None) => Some(Ok(())),
            // Nobody reads the response.
            Ok(Some(Err(_))) => Some(Err(stalled())),
            Ok(Some(Ok(piece))) => {
                total += piece.len() as u64;
                if total > MAX_UPLOAD_PART_BYTES {
                    Some(Err(part_too_large()))
                } else {
                    buffer.extend_from_slice(&piece);
                    None
                }
            }
        };
        if ended.is_some() || buffer.len() >= PIECE_BYTES {
            let bytes = std::mem::take(&mut buffer);
            let (kept, written) = on_disk(app, move |_| {
                let written = part.write(&bytes);
                Ok((part, written))
            })
            .await?;
            part = kept;
            if let Err(error) = written {
                return Ok((part, Err(refused(error))));
            }
        }
        if let Some(ended) = ended {
            return Ok((part, ended));
        }
    }
}

/// An upload whose image the engine has. It is deleted with [`Loaded::delete`] once a release has the image.
pub struct Loaded {
    pub image: RegistryImage,
    claim: Claim,
}

impl Loaded {
    pub async fn delete(self, app: &App) {
        let claim = self.claim;
        if let Err(error) = on_disk(app, move |_| claim.delete()).await {
            tracing::warn!(error = error.problem.detail, "upload of an image stays");
        }
    }
}

/// Checks that an upload is whole and the one that was announced, and hands it to the engine.
///
/// # Errors
/// `resource_not_found`; `upload_conflict` for one that is not whole; `image_invalid` for another digest, which deletes the upload,
/// and for what is no tarball of an image; `orchestrator_unavailable`.
pub async fn load(app: &App, caller: &Principal, id: Uuid) -> Result<Loaded, ApiError> {
    let owner = caller.owner_id();
    let (claim, upload, digest) = on_disk(app, move |store| {
        let (claim, upload) = store.claim(id, owner)?;
        let digest = if upload.is_whole() { Some(claim.digest()?) } else { None };
        Ok((claim, upload, digest))
    })
    .await?;
    let Some(digest) = digest else {
        let detail = format!(
            "The upload has {} of {} bytes. Send the rest first.",
            upload.offset, upload.metadata.size
        );
        return Err(ApiError::new(Code::UploadConflict, detail));
    };
    let image = uploaded_image(&digest).filter(|_| digest == upload.metadata.sha256);
    let Some(image) = image else {
        on_disk(app, move |_| claim.delete()).await?;
        let detail = format!(
            "What was uploaded has the SHA-256 {digest}, and {} was announced. The upload is deleted: begin again.",
            upload.metadata.sha256
        );
        return Err(refused_field(Code::ImageInvalid, "upload", Code::ImageInvalid, detail));
    };
    let tar = content(claim.open().map_err(refused)?);
    let loaded = app.orchestrator.load_image(&digest, tar).await;
    loaded.map_err(|error| apps::refused(&error))?;
    Ok(Loaded { image, claim })
}

/// The bytes of a file, read as they are taken.
fn content(file: std::fs::File) -> Body {
    let pieces = stream::unfold(Some(file), async |file| {
        let mut file = file?;
        let read = tokio::task::spawn_blocking(move || {
            let mut buffer = vec![0; PIECE_BYTES];
            let read = file.read(&mut buffer)?;
            buffer.truncate(read);
            std::io::Result::Ok((file, Bytes::from(buffer)))
        });
        match read.await.unwrap_or_else(|error| Err(std::io::Error::other(error))) {
            Ok((_, piece)) if piece.is_empty() => None,
            Ok((file, piece)) => Some((Ok(piece), Some(file))),
            Err(error) => Some((Err(error), None)),
        }
    });
    Body::from_stream(pieces)
}

/// Deletes what nobody went on with. Never ends.
pub async fn run(app: &App) {
    let mut ticks = tokio::time::interval(SWEEP_INTERVAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let now: Timestamp = app.clock.now();
        if let Err(error) = on_disk(app, move |store| store.sweep(now)).await {
            tracing::warn!(error = error.problem.detail, "sweep of uploads failed");
        }
    }
}

/// Runs what may wait for the disk.
async fn on_disk<T: Send + 'static>(
    app: &App,
    work: impl FnOnce(&Arc<Store>) -> Result<T, StoreError> + Send + 'static,
) -> Result<T, ApiError> {
    let store = app.image_uploads.clone();
    let done = tokio::task::spawn_blocking(move || work(&store)).await;
    done.map_err(ApiError::internal)?.map_err(refused)
}

fn view(upload: &Upload) -> ImageUpload {
    ImageUpload {
        id: upload.id,
        size: upload.metadata.size,
        offset: upload.offset,
        max_part_bytes: MAX_UPLOAD_PART_BYTES,
    }
}

fn refused(error: StoreError) -> ApiError {
    let detail = error.to_string();
    match error {
        StoreError::Size => {
            let detail = format!("{detail}, so this one is refused.");
            refused_field(Code::InvalidFields, "size", FieldCode::OutOfBounds, detail)
        }
        StoreError::TooMany => ApiError::new(
            Code::Busy,
            "Others are uploading images, and there is no room for more. Try again later.",
        )
        .with_retry_after(RETRY_DELAY),
        StoreError::DiskFull => ApiError::new(
            Code::DiskFull,
            "The control plane's disk has no room for the tarball. What arrived of it stays for a day. Make room there.",
        ),
        StoreError::Busy => ApiError::new(
            Code::UploadConflict,
            "Another request uses the upload. Wait for its end.",
        ),
        StoreError::Missing => ApiError::new(
            Code::ResourceNotFound,
            "There is no such upload of yours: it was given up, or a release was made of it.",
        ),
        StoreError::Offset(offset) => {
            let detail = format!("The next part begins at the offset {offset}.");
            ApiError::new(Code::UploadConflict, detail)
        }
        StoreError::TooLong => {
            let detail = "The part goes beyond the size that was announced. Begin another upload.";
            ApiError::new(Code::UploadConflict, detail)
        }
        StoreError::Io(error) => ApiError::internal(error),
    }
}

fn stalled() -> ApiError {
    ApiError::new(Code::RequestTimedOut, "The part broke off. Go on at the upload's offset.")
}

fn part_too_large() -> ApiError {
    let detail = format!("A part may have {MAX_UPLOAD_PART_BYTES} bytes.");
    ApiError::new(Code::BodyTooLarge, detail)
}
