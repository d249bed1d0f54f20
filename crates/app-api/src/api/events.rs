//! `/api/admin/events`: what changes, as it happens.

use axum::extract::State;
use axum::http::{HeaderName, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use protocol::events::Event;
use service::api_error::ApiError;

use crate::access::Caller;
use crate::app::App;
use crate::events::stream;
use crate::http::describe::{Call, DescribeOutput};
use crate::http::request_headers::LastEventId;

/// Server-sent events.
pub struct EventStream(Response);

impl IntoResponse for EventStream {
    fn into_response(self) -> Response {
        self.0
    }
}

impl DescribeOutput for EventStream {
    fn describe(call: &mut Call) {
        call.event_stream_response::<Event>();
    }
}

pub async fn stream_events(
    State(app): State<App>,
    Caller(caller): Caller,
    LastEventId(last): LastEventId,
) -> Result<EventStream, ApiError> {
    let mut response = stream::open(&app, caller, last).await?;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    // nginx holds small responses back otherwise.
    let buffering = HeaderName::from_static("x-accel-buffering");
    headers.insert(buffering, HeaderValue::from_static("no"));
    Ok(EventStream(response))
}
