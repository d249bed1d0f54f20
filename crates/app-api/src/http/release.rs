//! The release of this service, on every response: a client of another release then knows that it may not fit.

use axum::extract::Request;
use axum::http::{HeaderName, HeaderValue};
use axum::middleware::Next;
use axum::response::Response;
use protocol::headers::RELEASE;

pub async fn layer(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    let release = HeaderValue::from_static(env!("CARGO_PKG_VERSION"));
    response.headers_mut().insert(HeaderName::from_static(RELEASE), release);
    response
}
