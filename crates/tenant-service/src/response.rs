//! Responses: with a body that is held in memory, or with one that is sent as it comes.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body_util::Full;
use hyper::StatusCode;
use hyper::body::{Body, Frame, SizeHint};
use hyper::header::{self, HeaderName, HeaderValue};
use protocol::Problem;
use serde::Serialize;
use tokio::sync::mpsc;

use crate::page;

pub type Response = hyper::Response<ResponseBody>;

/// The body of a response.
pub enum ResponseBody {
    Whole(Full<Bytes>),
    /// Ends with its sender.
    Streamed(mpsc::Receiver<Bytes>),
}

impl Default for ResponseBody {
    fn default() -> Self {
        Self::Whole(Full::default())
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match self.get_mut() {
            Self::Whole(body) => Pin::new(body).poll_frame(context),
            Self::Streamed(chunks) => {
                chunks.poll_recv(context).map(|chunk| chunk.map(|chunk| Ok(Frame::data(chunk))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(body) => body.is_end_stream(),
            Self::Streamed(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(body) => body.size_hint(),
            Self::Streamed(_) => SizeHint::default(),
        }
    }
}

/// A stream of server-sent events.
pub fn events(events: mpsc::Receiver<Bytes>) -> Response {
    streamed(StatusCode::OK, "text/event-stream", events)
}

/// A body that arrives in chunks.
pub fn streamed(
    status: StatusCode,
    content_type: &'static str,
    chunks: mpsc::Receiver<Bytes>,
) -> Response {
    let mut response = Response::new(ResponseBody::Streamed(chunks));
    *response.status_mut() = status;
    insert_header(&mut response, header::CONTENT_TYPE, content_type);
    insert_header(&mut response, header::X_CONTENT_TYPE_OPTIONS, "nosniff");
    insert_header(&mut response, header::CACHE_CONTROL, "no-store");
    response
}

pub fn json(status: StatusCode, value: &impl Serialize) -> Response {
    let mut response = with_body(status, "application/json", to_json(value));
    insert_header(&mut response, header::CACHE_CONTROL, "no-store");
    response
}

/// JSON that is made already.
pub fn json_text(text: &'static str) -> Response {
    with_body(StatusCode::OK, "application/json", text)
}

pub fn text(status: StatusCode, text: String) -> Response {
    let mut response = with_body(status, "text/plain; charset=utf-8", text);
    insert_header(&mut response, header::CACHE_CONTROL, "no-store");
    response
}

pub fn html(status: StatusCode, text: String) -> Response {
    let mut response = with_body(status, "text/html; charset=utf-8", text);
    for (name, value) in page::HEADERS {
        insert_header(&mut response, name.clone(), value);
    }
    response
}

/// A redirect to `target`, or to `/` when the target cannot stand in a header.
pub fn see_other(target: &str) -> Response {
    let mut response = empty(StatusCode::SEE_OTHER);
    let target = HeaderValue::from_str(target).unwrap_or(HeaderValue::from_static("/"));
    response.headers_mut().insert(header::LOCATION, target);
    insert_header(&mut response, header::CACHE_CONTROL, "no-store");
    response
}

pub fn empty(status: StatusCode) -> Response {
    let mut response = Response::new(ResponseBody::default());
    *response.status_mut() = status;
    response
}

pub fn insert_header(response: &mut Response, name: HeaderName, value: &'static str) {
    response.headers_mut().insert(name, HeaderValue::from_static(value));
}

pub(crate) fn problem_json(status: StatusCode, problem: &Problem) -> Response {
    with_body(status, protocol::problem::CONTENT_TYPE, to_json(problem))
}

fn with_body(status: StatusCode, content_type: &'static str, text: impl Into<Bytes>) -> Response {
    let mut response = Response::new(ResponseBody::Whole(Full::new(text.into())));
    *response.status_mut() = status;
    insert_header(&mut response, header::CONTENT_TYPE, content_type);
    insert_header(&mut response, header::X_CONTENT_TYPE_OPTIONS, "nosniff");
    response
}

fn to_json(value: &impl Serialize) -> String {
    serde_json::to_string(value).unwrap_or_else(|_| "{}".to_owned())
}
