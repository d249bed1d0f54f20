//! Names of headers and cookies, in lower case, and the classification of requests by their
//! headers.

/// The prefix of the platform's own headers. A header with this prefix that comes from outside is
/// removed.
pub const PREFIX: &str = "x-cial-";

/// Router → edge: proves that the request came through the router for this tenant.
pub const ROUTE_TOKEN: &str = "x-cial-route-token";
/// Router → edge, in the place of [`ROUTE_TOKEN`] and with the same value: the request counts on the edge to keep the
/// sites of a tenant apart and to obey [`REQUIRE_SIGN_IN`]. An edge of an earlier release, which would pass the request
/// to the app, does not know this name and refuses the request. The next such duty of an edge takes a third name.
pub const STRICT_ROUTE_TOKEN: &str = "x-cial-route-token-2";
/// Edge → router: proves that this tenant answered. The router removes it.
pub const PROOF: &str = "x-cial-proof";
/// Edge → platform: `sub` of the signed-in user.
pub const USER: &str = "x-cial-user";
/// Edge → platform: e-mail address of the signed-in user.
pub const EMAIL: &str = "x-cial-email";
/// Edge → platform: name of the signed-in user.
pub const NAME: &str = "x-cial-name";
/// Edge → platform: role of the signed-in user on this tenant, a [`MemberRole`](crate::people::MemberRole).
pub const ROLE: &str = "x-cial-role";
/// Edge → platform: a signed statement of the four headers above, for programs that check a signature.
pub const ASSERTION: &str = "x-cial-assertion";
/// Platform → core, in the response to a message of the chat or in its trailer: the tokens that the reply took.
pub const TOKENS: &str = "x-cial-tokens";
/// App-api → core, in the trailer of a model's reply that broke off: the [`Code`](crate::problem::Code) of the reason.
pub const PROBLEM: &str = "x-cial-problem";
/// Edge → core half: the [`Site`](crate::site::Site) to which the request was sent.
pub const SITE: &str = "x-cial-site";
/// Router → edge, with any value: only signed-in members reach the tenant's own app.
pub const REQUIRE_SIGN_IN: &str = "x-cial-require-sign-in";
/// Router → edge → core-back, where a sign-in begins: the address of the admin's page that signs visitors in.
pub const SIGN_IN_URL: &str = "x-cial-sign-in-url";
/// App-api → its clients: the release of the service. The command line warns when the release is too far from its own.
pub const RELEASE: &str = "x-cial-release";
/// Every request inside the platform and every response that leaves the platform carries this
/// header.
pub const REQUEST_ID: &str = "x-request-id";

/// Returns whether a browser expects a page as the response. `Accept` must name HTML, and Fetch
/// Metadata, if present, must contain `navigate`.
pub fn is_navigation(sec_fetch_mode: Option<&[u8]>, accept: Option<&[u8]>) -> bool {
    const HTML: &[u8] = b"text/html";
    let accepts_html =
        |accept: &[u8]| accept.windows(HTML.len()).any(|part| part.eq_ignore_ascii_case(HTML));
    sec_fetch_mode.is_none_or(|mode| mode == b"navigate") && accept.is_some_and(accepts_html)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_navigation_accepts_html_and_is_not_contradicted_by_fetch_metadata() {
        for (mode, accept, expected) in [
            (None, Some("text/html,*/*"), true),
            (None, Some("TEXT/HTML"), true),
            (Some("navigate"), Some("text/html"), true),
            (Some("cors"), Some("text/html"), false),
            (Some("navigate"), Some("application/json"), false),
            (Some("navigate"), None, false),
            (None, Some("*/*"), false),
            (None, None, false),
        ] {
            let is = is_navigation(mode.map(str::as_bytes), accept.map(str::as_bytes));
            assert_eq!(is, expected, "{mode:?} {accept:?}");
        }
    }
}
