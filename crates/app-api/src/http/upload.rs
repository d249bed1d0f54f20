//! The upload of a file: a form of type `multipart/form-data` whose field `file` holds the file, and
//! whose field `signature` may hold a signature of it. An archive is a body of its own.

use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{FromRequest, Request};
use axum::http::header;
use futures_util::stream;
use multer::Multipart;
use protocol::problem::{Code, FieldCode};
use protocol::transfer::CONTENT_TYPE;
use service::api_error::ApiError;
use utoipa::openapi::Required;
use utoipa::openapi::content::ContentBuilder;
use utoipa::openapi::request_body::RequestBodyBuilder;
use utoipa::openapi::schema::{ObjectBuilder, Type};

use super::describe::{Call, DescribeInput, binary};
use super::request_body;
use crate::validation::refused_field;

const FIELD: &str = "file";
const SIGNATURE: &str = "signature";

/// An uploaded file.
pub struct UploadedFile {
    pub bytes: Bytes,
    /// As it was sent.
    pub signature: Option<String>,
}

impl<S: Sync> FromRequest<S> for UploadedFile {
    type Rejection = ApiError;

    async fn from_request(request: Request, _: &S) -> Result<Self, ApiError> {
        let header = request.headers().get(header::CONTENT_TYPE);
        let boundary = header.and_then(|value| value.to_str().ok()).map(multer::parse_boundary);
        let Some(Ok(boundary)) = boundary else {
            let detail = "Send the file as the field file of a multipart/form-data body.";
            return Err(ApiError::new(Code::UnsupportedMediaType, detail));
        };
        // The check of access has read the body within its bounds.
        let body = to_bytes(request.into_body(), request_body::UPLOAD_LIMIT).await;
        let body = body.map_err(|_| request_body::too_large(request_body::UPLOAD_LIMIT))?;
        let whole = stream::iter([Ok::<_, std::convert::Infallible>(body)]);
        let mut form = Multipart::new(whole, boundary);
        let (mut file, mut signature) = (None, None);
        while let Some(field) = form.next_field().await.map_err(invalid_form)? {
            match field.name() {
                Some(FIELD) => file = Some(field.bytes().await.map_err(invalid_form)?),
                Some(SIGNATURE) => signature = Some(field.text().await.map_err(invalid_form)?),
                Some(_) | None => {}
            }
        }
        let detail = "The form has no field file.";
        let bytes = file
            .ok_or_else(|| refused_field(Code::InvalidForm, FIELD, FieldCode::Required, detail))?;
        Ok(Self { bytes, signature })
    }
}

fn invalid_form(error: multer::Error) -> ApiError {
    ApiError::new(Code::InvalidForm, format!("The form: {error}."))
}

/// The body of a request that its handler reads piece by piece.
pub struct StreamedArchive(pub Body);

impl<S: Sync> FromRequest<S> for StreamedArchive {
    type Rejection = ApiError;

    async fn from_request(request: Request, _: &S) -> Result<Self, ApiError> {
        Ok(Self(request.into_body()))
    }
}

impl DescribeInput for StreamedArchive {
    fn describe(call: &mut Call) {
        let content = ContentBuilder::new().schema(Some(binary())).build();
        let body = RequestBodyBuilder::new().required(Some(Required::True));
        call.request_body = Some(body.content(CONTENT_TYPE, content).build());
    }
}

/// A part of a file of which the handler reads the bytes as they arrive.
pub struct StreamedPart(pub Body);

impl<S: Sync> FromRequest<S> for StreamedPart {
    type Rejection = ApiError;

    async fn from_request(request: Request, _: &S) -> Result<Self, ApiError> {
        Ok(Self(request.into_body()))
    }
}

impl DescribeInput for StreamedPart {
    fn describe(call: &mut Call) {
        let content = ContentBuilder::new().schema(Some(binary())).build();
        let body = RequestBodyBuilder::new().required(Some(Required::True));
        call.request_body = Some(body.content("application/octet-stream", content).build());
    }
}

impl DescribeInput for UploadedFile {
    fn describe(call: &mut Call) {
        let form = ObjectBuilder::new()
            .schema_type(Type::Object)
            .property(FIELD, binary())
            .property(SIGNATURE, ObjectBuilder::new().schema_type(Type::String))
            .required(FIELD);
        let content = ContentBuilder::new().schema(Some(form)).build();
        let body = RequestBodyBuilder::new().required(Some(Required::True));
        call.request_body = Some(body.content("multipart/form-data", content).build());
    }
}
