//! Parts of every page inside a tenant: the style sheet, the security headers, the page of a problem.

use askama::Template;
use hyper::header::{self, HeaderName};
use protocol::Problem;

/// The style sheet, inlined into each page. The policy in [`HEADERS`] allows this text by its hash and no other style
/// or script.
pub const STYLE: &str = include_str!("../templates/tenant.css");

/// The response headers of every page.
pub const HEADERS: [(HeaderName, &str); 4] = [
    (
        header::CONTENT_SECURITY_POLICY,
        "default-src 'none'; style-src 'sha256-FJex2fCpDnqJm98lAZGbikgZLmJzg3G1To8+aGr+dHk='; \
         form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    ),
    // With `no-referrer`, browsers send `Origin: null` with the forms of these pages.
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

/// Renders a problem as a page.
pub fn render_problem(problem: &Problem) -> String {
    // Rendering fails only when the `Display` of a value does, and these values are texts and numbers.
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
    fn the_texts_of_a_problem_are_escaped() {
        let mut bad = Problem::new(protocol::problem::Code::NotFound, "<script>alert(1)</script>");
        bad.request_id = "abc".to_owned();
        let page = render_problem(&bad);
        assert!(!page.contains("<script>"), "{page}");
        assert!(page.contains("not_found") && page.contains("abc"), "{page}");
    }
}
