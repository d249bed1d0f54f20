//! Answers that fit in memory. Every error is a problem, or a page with the same facts.

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::{Response, StatusCode};
use protocol::Problem;
use protocol::headers::REQUEST_ID;
use serde::Serialize;
use uuid::Uuid;

use super::page;

pub type Answer = Response<Full<Bytes>>;

const LONGEST_ID: usize = 64;

/// Who asks: the id of the request, and whether a person looks at the answer.
#[derive(Clone, Debug)]
pub struct Asker {
    pub request_id: String,
    pub wants_page: bool,
}

impl Asker {
    /// Takes over a plausible inbound request id and makes one otherwise.
    pub fn of(headers: &HeaderMap) -> Self {
        Self::told_by(|name| headers.get(name).and_then(|value| value.to_str().ok()))
    }

    /// The same for headers that are kept in another form.
    pub fn told_by<'a>(header: impl Fn(&str) -> Option<&'a str>) -> Self {
        let request_id = match header(REQUEST_ID).filter(|id| is_plausible(id)) {
            Some(id) => id.to_owned(),
            None => Uuid::now_v7().simple().to_string(),
        };
        Self { request_id, wants_page: wants_page(header) }
    }

    /// The problem in the form that this asker can read.
    pub fn problem(&self, status: StatusCode, code: &str, detail: &str) -> Answer {
        let title = status.canonical_reason().unwrap_or("Error");
        self.tell(status, Problem::new(status.as_u16(), code, title, detail))
    }

    /// A problem that says more than a status, a code and a text.
    pub fn tell(&self, status: StatusCode, mut problem: Problem) -> Answer {
        problem.request_id.clone_from(&self.request_id);
        let mut answer = if self.wants_page {
            html(status, page::problem(&problem))
        } else {
            body(status, protocol::problem::CONTENT_TYPE, to_json(&problem))
        };
        // An error is never worth keeping: the next try may go well.
        set(&mut answer, header::CACHE_CONTROL, "no-store");
        answer
    }

    pub fn not_found(&self) -> Answer {
        self.problem(StatusCode::NOT_FOUND, "not_found", "There is nothing at this address.")
    }

    pub fn method_not_allowed(&self, allow: &'static str) -> Answer {
        let detail = format!("This address answers {allow} only.");
        let mut answer =
            self.problem(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", &detail);
        set(&mut answer, header::ALLOW, allow);
        answer
    }

    /// A fault of ours: the caller learns only that it happened, the log learns why.
    pub fn internal(&self, cause: &dyn std::fmt::Display) -> Answer {
        eprintln!("request {}: {cause}", self.request_id);
        self.problem(
            StatusCode::INTERNAL_SERVER_ERROR,
            "internal",
            "Something went wrong on our side. The request id finds it in the log.",
        )
    }
}

pub fn json(status: StatusCode, value: &impl Serialize) -> Answer {
    let mut answer = body(status, "application/json", to_json(value));
    set(&mut answer, header::CACHE_CONTROL, "no-store");
    answer
}

pub fn html(status: StatusCode, text: String) -> Answer {
    let mut answer = body(status, "text/html; charset=utf-8", text);
    for (name, value) in page::HEADERS {
        set(&mut answer, name.clone(), value);
    }
    answer
}

pub fn see_other(target: &'static str) -> Answer {
    let mut answer = empty(StatusCode::SEE_OTHER);
    set(&mut answer, header::LOCATION, target);
    set(&mut answer, header::CACHE_CONTROL, "no-store");
    answer
}

pub fn empty(status: StatusCode) -> Answer {
    let mut answer = Response::new(Full::default());
    *answer.status_mut() = status;
    answer
}

pub fn set(answer: &mut Answer, name: HeaderName, value: &'static str) {
    answer.headers_mut().insert(name, HeaderValue::from_static(value));
}

fn body(status: StatusCode, kind: &'static str, text: String) -> Answer {
    let mut answer = Response::new(Full::new(Bytes::from(text)));
    *answer.status_mut() = status;
    set(&mut answer, header::CONTENT_TYPE, kind);
    set(&mut answer, header::X_CONTENT_TYPE_OPTIONS, "nosniff");
    answer
}

fn to_json(value: &impl Serialize) -> String {
    serde_json::to_string(value).unwrap_or_else(|_| "{}".to_owned())
}

/// A page is for a navigation: an `Accept` of HTML that Fetch Metadata, where sent, does not contradict.
fn wants_page<'a>(header: impl Fn(&str) -> Option<&'a str>) -> bool {
    let navigates = header("sec-fetch-mode").is_none_or(|mode| mode == "navigate");
    navigates && header("accept").is_some_and(|accept| accept.contains("text/html"))
}

fn is_plausible(id: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    (1..=LONGEST_ID).contains(&id.len()) && id.bytes().all(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asker(headers: &[(&'static str, &'static str)]) -> Asker {
        let pair = |&(n, v)| (HeaderName::from_static(n), HeaderValue::from_static(v));
        Asker::of(&headers.iter().map(pair).collect())
    }

    #[test]
    fn a_page_is_for_navigations_only() {
        assert!(asker(&[("accept", "text/html,*/*")]).wants_page);
        assert!(asker(&[("accept", "text/html"), ("sec-fetch-mode", "navigate")]).wants_page);
        assert!(!asker(&[("accept", "text/html"), ("sec-fetch-mode", "cors")]).wants_page);
        assert!(!asker(&[("accept", "*/*")]).wants_page);
        assert!(!asker(&[]).wants_page);
    }

    #[test]
    fn a_request_id_is_taken_over_when_it_is_plain() {
        assert_eq!(asker(&[("x-request-id", "0192f0c1-ab")]).request_id, "0192f0c1-ab");
        for odd in ["", "a b", "<script>", "x/../y"] {
            assert_ne!(asker(&[("x-request-id", odd)]).request_id, odd);
        }
    }
}
