//! The edge's own answers: problems, pages with the same facts, and the silence of the guard.

use protocol::headers::{PROOF, REQUEST_ID};
use proxy::{ErrorOrigin, ProxyError, Response};
use service::inside::{Asker, page};

/// What a stranger gets from a guarded edge: nothing to tell a tenant by.
pub(crate) fn nothing_here() -> Response {
    Response::new(404)
}

/// A fault that struck before anyone knew who asks.
pub(crate) fn bare(fault: &ProxyError) -> Response {
    Response::new(fault.status())
}

/// An error in the form that this asker can read.
pub(crate) fn problem(asker: &Asker, status: u16, code: &str, detail: &str) -> Response {
    let known = title(status);
    let mut problem = protocol::Problem::new(status, code, known, detail);
    problem.request_id.clone_from(&asker.request_id);
    let answer = Response::new(status).header(REQUEST_ID, asker.request_id.clone());
    if asker.wants_page {
        let kind = "text/html; charset=utf-8";
        let answer = answer.body(kind, page::problem(&problem));
        page::HEADERS
            .into_iter()
            .fold(answer, |answer, (name, value)| answer.header(name.as_str().to_owned(), value))
    } else {
        // A problem is strings and numbers: it always serialises.
        let body = serde_json::to_vec(&problem).unwrap_or_default();
        answer.body(protocol::problem::CONTENT_TYPE, body).header("cache-control", "no-store")
    }
}

/// A fault of the engine's, logged where it is ours and told in the form that this asker can read.
pub(crate) fn fault(asker: &Asker, fault: &ProxyError, who: &str) -> Response {
    if fault.origin() == ErrorOrigin::Upstream {
        eprintln!("request {}: {who}: {fault:?}", asker.request_id);
    }
    problem(asker, fault.status(), fault.code(), fault.public_detail())
}

/// Tells the router that it is this very tenant that answers.
pub(crate) fn proven(answer: Response, proof: Option<&str>) -> Response {
    match proof {
        Some(proof) => answer.header(PROOF, proof.to_owned()),
        None => answer,
    }
}

fn title(status: u16) -> &'static str {
    match status {
        400 => "Bad Request",
        403 => "Forbidden",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        413 => "Content Too Large",
        414 => "URI Too Long",
        417 => "Expectation Failed",
        426 => "Upgrade Required",
        431 => "Request Header Fields Too Large",
        502 => "Bad Gateway",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        _ => "Error",
    }
}
