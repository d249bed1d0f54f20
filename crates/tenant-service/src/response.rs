//! Responses whose body is held in memory.

use bytes::Bytes;
use http_body_util::Full;
use hyper::StatusCode;
use hyper::header::{self, HeaderName, HeaderValue};
use protocol::Problem;
use serde::Serialize;

use crate::page;

pub type Response = hyper::Response<Full<Bytes>>;

pub fn json(status: StatusCode, value: &impl Serialize) -> Response {
    let mut response = with_body(status, "application/json", to_json(value));
    insert_header(&mut response, header::CACHE_CONTROL, "no-store");
    response
}

/// JSON that is made already.
pub fn json_text(text: &'static str) -> Response {
    with_body(StatusCode::OK, "application/json", text)
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
    let mut response = Response::new(Full::default());
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
    let mut response = Response::new(Full::new(text.into()));
    *response.status_mut() = status;
    insert_header(&mut response, header::CONTENT_TYPE, content_type);
    insert_header(&mut response, header::X_CONTENT_TYPE_OPTIONS, "nosniff");
    response
}

fn to_json(value: &impl Serialize) -> String {
    serde_json::to_string(value).unwrap_or_else(|_| "{}".to_owned())
}
