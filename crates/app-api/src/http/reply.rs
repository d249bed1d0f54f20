//! Responses that describe themselves. Handlers of the API return these, so that the description follows the code.

use axum::Json;
use axum::http::header::IntoHeaderName;
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use super::describe::{Call, DescribeOutput};

/// A JSON body with this status and some headers.
pub struct Reply<const STATUS: u16, T> {
    body: T,
    headers: HeaderMap,
}

pub type Okay<T> = Reply<200, T>;
pub type Created<T> = Reply<201, T>;
pub type Accepted<T> = Reply<202, T>;

impl<const STATUS: u16, T> Reply<STATUS, T> {
    pub fn new(body: T) -> Self {
        Self { body, headers: HeaderMap::new() }
    }

    /// Adds a header.
    #[must_use]
    pub fn with_header(mut self, name: impl IntoHeaderName, value: HeaderValue) -> Self {
        self.headers.append(name, value);
        self
    }

    /// Adds a header from text.
    ///
    /// # Errors
    /// When the text is no header value.
    pub fn with_text(self, name: impl IntoHeaderName, text: &str) -> anyhow::Result<Self> {
        Ok(self.with_header(name, HeaderValue::try_from(text)?))
    }
}

impl<const STATUS: u16, T: Serialize> IntoResponse for Reply<STATUS, T> {
    fn into_response(self) -> Response {
        let status = const { status(STATUS) };
        (status, self.headers, Json(self.body)).into_response()
    }
}

impl<const STATUS: u16, T: ToSchema> DescribeOutput for Reply<STATUS, T> {
    fn describe(call: &mut Call) {
        call.json_response::<T>(STATUS);
    }
}

const fn status(number: u16) -> StatusCode {
    match number {
        200 => StatusCode::OK,
        201 => StatusCode::CREATED,
        202 => StatusCode::ACCEPTED,
        _ => panic!("add the status here"),
    }
}

/// 204.
#[derive(Default)]
pub struct NoContent {
    headers: HeaderMap,
}

impl NoContent {
    /// Adds a header.
    #[must_use]
    pub fn with_header(mut self, name: impl IntoHeaderName, value: HeaderValue) -> Self {
        self.headers.append(name, value);
        self
    }
}

impl IntoResponse for NoContent {
    fn into_response(self) -> Response {
        (StatusCode::NO_CONTENT, self.headers).into_response()
    }
}

impl DescribeOutput for NoContent {
    fn describe(call: &mut Call) {
        call.empty_response(204);
    }
}
