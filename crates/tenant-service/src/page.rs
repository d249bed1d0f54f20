//! Parts of every page inside a tenant: the style sheet, the security headers, the page of a problem.

use askama::Template;
use hyper::header::{self, HeaderName};
use protocol::Problem;
use protocol::problem::Code;
use protocol::sign_in::START_PATH;

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
    /// The way out of the problem, where signing in is one.
    sign_in: Option<&'static str>,
}

/// Renders a problem as a page.
pub fn render_problem(problem: &Problem) -> String {
    let helps = [Code::InvalidToken, Code::NotSignedIn];
    let is_helped = helps.iter().any(|code| problem.code == code.as_str());
    let page = ProblemPage { style: STYLE, problem, sign_in: is_helped.then_some(START_PATH) };
    // Rendering fails only when the `Display` of a value does, and these values are texts and numbers.
    page.render().unwrap_or_default()
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
        let mut bad = Problem::new(Code::NotFound, "<script>alert(1)</script>");
        bad.request_id = "abc".to_owned();
        let page = render_problem(&bad);
        assert!(!page.contains("<script>"), "{page}");
        assert!(page.contains("not_found") && page.contains("abc"), "{page}");
    }

    #[test]
    fn the_page_of_a_visitor_who_is_not_signed_in_leads_to_sign_in() {
        for (code, leads) in
            [(Code::NotSignedIn, true), (Code::InvalidToken, true), (Code::NotFound, false)]
        {
            let page = render_problem(&Problem::new(code, ""));
            assert_eq!(page.contains(r#"<a href="/.cial/sign-in">Sign in</a>"#), leads, "{page}");
        }
    }
}
