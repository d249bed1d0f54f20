//! What every page inside a tenant shares: one small style sheet, one strict policy, the page of a problem.

use askama::Template;
use hyper::header::{self, HeaderName};
use protocol::Problem;

/// Inlined into each page. [`HEADERS`] names its hash, so nothing else is ever styled or run.
pub const STYLE: &str = include_str!("../../templates/inside.css");

/// On every page.
pub const HEADERS: [(HeaderName, &str); 4] = [
    (
        header::CONTENT_SECURITY_POLICY,
        "default-src 'none'; style-src 'sha256-FJex2fCpDnqJm98lAZGbikgZLmJzg3G1To8+aGr+dHk='; \
         form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    ),
    // Not `no-referrer`: browsers then send `Origin: null` with our own forms.
    (header::REFERRER_POLICY, "same-origin"),
    (header::CACHE_CONTROL, "no-store"),
    (header::X_FRAME_OPTIONS, "DENY"),
];

#[derive(Template)]
#[template(path = "problem.html")]
struct ProblemPage<'a> {
    style: &'static str,
    problem: &'a Problem,
}

/// The page of a problem.
pub fn problem(problem: &Problem) -> String {
    // Writing to a string fails only when a value's own Display does, and these are texts and numbers.
    ProblemPage { style: STYLE, problem }.render().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    use sha2::Digest as _;

    #[test]
    fn the_policy_allows_exactly_this_style_sheet() {
        let hash = STANDARD.encode(sha2::Sha256::digest(STYLE));
        let (_, policy) = &HEADERS[0];
        assert!(policy.contains(&format!("style-src 'sha256-{hash}'")), "the hash is {hash}");
    }

    #[test]
    fn a_problem_on_a_page_is_text_and_not_markup() {
        let mut bad = Problem::new(404, "not_found", "Not Found", "<script>alert(1)</script>");
        bad.request_id = "abc".to_owned();
        let page = problem(&bad);
        assert!(!page.contains("<script>"), "{page}");
        assert!(page.contains("not_found") && page.contains("abc"), "{page}");
    }
}
