//! Extractors for handlers. Each refuses with a problem that names the rule.

use std::net::{IpAddr, SocketAddr};

use axum::body::{Body, Bytes};
use axum::extract::{ConnectInfo, FromRequest, FromRequestParts, RawPathParams, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, header};
use protocol::problem::Code;
use serde::de::DeserializeOwned;
use service::api_error::ApiError;

use crate::app::App;
use crate::http::request_body;
use crate::validation::refused_field;

/// A JSON body of exactly this shape.
pub struct Json<T> {
    pub value: T,
    /// The body as received, to compare two requests with the same idempotency key.
    pub bytes: Bytes,
}

/// A form, URL-encoded.
pub struct Form<T>(pub T);

/// The query string, of exactly this shape.
pub struct Query<T>(pub T);

/// The client's address: the first address that belongs to no trusted proxy.
pub struct ClientAddress(pub IpAddr);

/// The `id` in the path. A text that is no UUID names nothing.
pub struct IdPath(pub uuid::Uuid);

/// The `app` in the path, as text. A text that is no slug names nothing.
pub struct AppPath(pub String);

impl<T: DeserializeOwned, S: Sync> FromRequest<S> for Json<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, _: &S) -> Result<Self, ApiError> {
        require_content_type(request.headers(), "application/json")?;
        let bytes = request_body::read(request.into_body()).await?;
        let value = service::json_object::from_slice(&bytes)
            .map_err(|error| ApiError::new(Code::InvalidJson, format!("The body: {error}.")))?;
        Ok(Self { value, bytes })
    }
}

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Form<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        require_content_type(request.headers(), "application/x-www-form-urlencoded")?;
        let (parts, body) = request.into_parts();
        let body = request_body::read(body).await?;
        let request = Request::from_parts(parts, Body::from(body));
        let read = axum::Form::from_request(request, state).await;
        read.map(|form| Self(form.0)).map_err(|error| {
            let detail = format!("The form: {}.", error.body_text());
            ApiError::new(Code::InvalidForm, detail)
        })
    }
}

impl<T: DeserializeOwned, S: Sync> FromRequestParts<S> for Query<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        axum::extract::Query::try_from_uri(&parts.uri).map(|query| Self(query.0)).map_err(|error| {
            let detail = format!("The query: {}.", error.body_text());
            ApiError::new(Code::InvalidQuery, detail)
        })
    }
}

impl FromRequestParts<App> for ClientAddress {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, ApiError> {
        let ConnectInfo(peer) = ConnectInfo::<SocketAddr>::from_request_parts(parts, app).await?;
        let lines = parts.headers.get_all("x-forwarded-for").iter().map(|line| line.as_bytes());
        Ok(Self(app.trusted.client_origin(peer.ip(), lines, || None).client))
    }
}

/// Returns the part of the path for the `wanted` parameter of the route.
pub fn path_part<'a>(params: &'a RawPathParams, wanted: &str) -> Option<&'a str> {
    params.iter().find_map(|(name, value)| (name == wanted).then_some(value))
}

impl<S: Send + Sync> FromRequestParts<S> for IdPath {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let params = RawPathParams::from_request_parts(parts, state).await.ok();
        let id = params.as_ref().and_then(|params| path_part(params, "id"));
        let id = id.and_then(|id| id.parse().ok()).map(Self);
        id.ok_or_else(|| ApiError::new(Code::NotFound, "There is nothing of this id."))
    }
}

impl<S: Send + Sync> FromRequestParts<S> for AppPath {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let params = RawPathParams::from_request_parts(parts, state).await.ok();
        let app = params.as_ref().and_then(|params| path_part(params, "app"));
        let app = app.map(|app| Self(app.to_owned()));
        app.ok_or_else(|| ApiError::new(Code::NotFound, "There is no app of this name."))
    }
}

/// A 400 for a query parameter that breaks `rule`, like "must be 0 or 1".
pub fn invalid_query(field: &str, rule: &str) -> ApiError {
    let detail = format!("The query's {field} {rule}.");
    refused_field(Code::InvalidQuery, field, Code::InvalidQuery, detail)
}

fn require_content_type(headers: &HeaderMap, wanted: &str) -> Result<(), ApiError> {
    let given = headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let essence = given.split(';').next().unwrap_or_default().trim();
    if essence.eq_ignore_ascii_case(wanted) {
        return Ok(());
    }
    let detail = format!("Send the body as {wanted}.");
    Err(ApiError::new(Code::UnsupportedMediaType, detail))
}
