//! `/v1/image-uploads`: tarballs of images, in parts. See [`crate::image_uploads`].

use axum::Json as Reply;
use axum::extract::State;
use axum::http::header;
use protocol::images::{ImageUpload, NewImageUpload};
use serde::Deserialize;
use service::api_error::ApiError;
use utoipa::IntoParams;

use crate::access::Caller;
use crate::access::layer::StillAdmitted;
use crate::app::App;
use crate::http::extract::{IdPath, Json, Query};
use crate::http::reply::{Created, NoContent};
use crate::http::upload::StreamedPart;
use crate::image_uploads;

pub async fn begin_upload(
    State(app): State<App>,
    Caller(caller): Caller,
    body: Json<NewImageUpload>,
) -> Result<Created<ImageUpload>, ApiError> {
    let begun = image_uploads::begin(&app, &caller, &body.value).await?;
    let location = format!("/v1/image-uploads/{}", begun.id);
    Ok(Created::new(begun).with_text(header::LOCATION, &location)?)
}

pub async fn show_upload(
    State(app): State<App>,
    Caller(caller): Caller,
    IdPath(id): IdPath,
) -> Result<Reply<ImageUpload>, ApiError> {
    Ok(Reply(image_uploads::show(&app, &caller, id).await?))
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub struct PartQuery {
    /// The bytes that arrived before: where the part begins.
    offset: u64,
}

pub async fn write_part(
    State(app): State<App>,
    Caller(caller): Caller,
    IdPath(id): IdPath,
    Query(PartQuery { offset }): Query<PartQuery>,
    admitted: StillAdmitted,
    StreamedPart(body): StreamedPart,
) -> Result<Reply<ImageUpload>, ApiError> {
    let written = image_uploads::write_part(&app, &caller, id, offset, body).await;
    // A caller who lost the access meanwhile learns nothing else.
    admitted.check().await?;
    Ok(Reply(written?))
}

pub async fn delete_upload(
    State(app): State<App>,
    Caller(caller): Caller,
    IdPath(id): IdPath,
) -> Result<NoContent, ApiError> {
    image_uploads::delete(&app, &caller, id).await?;
    Ok(NoContent::default())
}
