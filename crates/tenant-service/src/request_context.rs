//! The facts of a request that shape every response to it, and the error responses made from them.

use hyper::StatusCode;
use hyper::header::{self, HeaderMap};
use protocol::Problem;
use protocol::headers::{REQUEST_ID, is_navigation};
use service::request_id;

use crate::page;
use crate::response::{Response, html, insert_header, problem_json};
use protocol::problem::Code;

/// The id of a request, and whether a browser expects a page.
#[derive(Clone, Debug)]
pub struct RequestContext {
    pub request_id: String,
    pub is_navigation: bool,
}

impl RequestContext {
    /// Takes over a valid inbound request id and generates one otherwise.
    pub fn from_headers(headers: &HeaderMap) -> Self {
        Self::from_lookup(|name| headers.get(name).and_then(|value| value.to_str().ok()))
    }

    /// Like [`from_headers`](Self::from_headers), for headers that are kept in another form.
    pub fn from_lookup<'a>(header: impl Fn(&str) -> Option<&'a str>) -> Self {
        let bytes = |name| header(name).map(str::as_bytes);
        Self {
            request_id: request_id::accept_or_generate(header(REQUEST_ID)),
            is_navigation: is_navigation(bytes("sec-fetch-mode"), bytes("accept")),
        }
    }

    /// An error response: a page for a navigation, a JSON problem for any other request.
    pub fn problem(&self, code: Code, detail: &str) -> Response {
        self.problem_response(Problem::new(code, detail))
    }

    /// Like [`problem`](Self::problem), for a problem that carries errors of fields.
    pub fn problem_response(&self, mut problem: Problem) -> Response {
        let status =
            StatusCode::from_u16(problem.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        problem.request_id.clone_from(&self.request_id);
        let mut response = if self.is_navigation {
            html(status, page::render_problem(&problem))
        } else {
            problem_json(status, &problem)
        };
        // A cached error would outlive its cause.
        insert_header(&mut response, header::CACHE_CONTROL, "no-store");
        response
    }

    pub fn not_found(&self) -> Response {
        self.problem(Code::NotFound, "There is nothing at this address.")
    }

    pub fn method_not_allowed(&self, allow: &'static str) -> Response {
        let detail = format!("This address answers {allow} only.");
        let mut response = self.problem(Code::MethodNotAllowed, &detail);
        insert_header(&mut response, header::ALLOW, allow);
        response
    }

    /// A 500: the cause reaches the log, not the caller.
    pub fn internal(&self, cause: &dyn std::fmt::Display) -> Response {
        eprintln!("request failed: request_id={} error={cause}", self.request_id);
        self.problem(
            Code::Internal,
            "Something went wrong on our side. The request id finds it in the log.",
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_a_page_for_a_navigation_and_json_for_any_other_request() {
        let kind = |accept: &'static str| {
            let context = RequestContext::from_lookup(|name| (name == "accept").then_some(accept));
            context.not_found().headers()[header::CONTENT_TYPE].to_str().unwrap().to_owned()
        };
        assert_eq!(kind("text/html"), "text/html; charset=utf-8");
        assert_eq!(kind("*/*"), protocol::problem::CONTENT_TYPE);
    }
}
