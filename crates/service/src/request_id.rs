//! One id a request, in its log lines, its answer's header and its problem.

use axum::extract::Request;
use axum::http::HeaderValue;
use axum::middleware::Next;
use axum::response::Response;
use protocol::headers::REQUEST_ID;
use tracing::Instrument as _;
use uuid::Uuid;

tokio::task_local! {
    static CURRENT: String;
}

/// The id of the request being answered; empty outside one.
pub fn current() -> String {
    CURRENT.try_with(Clone::clone).unwrap_or_default()
}

/// Middleware: takes over a plausible inbound id, makes one otherwise, and puts it on the answer.
pub async fn layer(request: Request, next: Next) -> Response {
    let inbound =
        request.headers().get(REQUEST_ID).and_then(|v| v.to_str().ok()).filter(|v| plausible(v));
    let id = inbound.map_or_else(|| Uuid::new_v4().simple().to_string(), str::to_owned);
    let span = tracing::info_span!("request", request_id = %id, method = %request.method(), path = request.uri().path());
    let mut answer = CURRENT.scope(id.clone(), next.run(request).instrument(span)).await;
    if let Ok(value) = HeaderValue::from_str(&id) {
        answer.headers_mut().insert(REQUEST_ID, value);
    }
    answer
}

fn plausible(id: &str) -> bool {
    (8..=64).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
}
