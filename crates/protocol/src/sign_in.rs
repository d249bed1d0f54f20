//! Signing in at a tenant, which begins at the tenant and is carried by the browser.
//!
//! | step | address |
//! |---|---|
//! | core-back sets a cookie with a nonce and redirects | [`START_PATH`]`?to={path}` |
//! | app-api authenticates, checks the membership and redirects | the address in [`SIGN_IN_URL`](crate::headers::SIGN_IN_URL) with `?nonce={hash}&site={site}&to={path}` |
//! | core-back accepts the token with the cookie of that nonce | [`END_PATH`]`?token={token}` |

/// The path of a tenant at which a sign-in begins.
pub const START_PATH: &str = "/.cial/sign-in";
/// The path of a tenant at which a sign-in ends, with a token in the query.
pub const END_PATH: &str = "/.cial/sso";
/// The path of a tenant that ends its session, by POST.
pub const SIGN_OUT_PATH: &str = "/.cial/sign-out";

/// Keeps a token that carries the path within the limits of a request head.
pub const MAX_RETURN_PATH_BYTES: usize = 2_000;
/// A SHA-256 hash as base64url without padding.
const NONCE_HASH_CHARS: usize = 43;

/// Whether a sign-in keeps `path` as the place at which the visitor continues. A longer one is `/`.
pub fn is_return_path(path: &str) -> bool {
    path.len() <= MAX_RETURN_PATH_BYTES && stays_on_site(path)
}

/// Whether a browser that follows `path` stays on the site: path and query that begin with one slash.
pub fn stays_on_site(path: &str) -> bool {
    path.starts_with('/')
        && !path.starts_with("//")
        // Browsers read a backslash as a slash and skip tabs and line breaks (WHATWG URL).
        && path.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'\\')
}

/// Whether `text` has the form of the hash of a nonce.
pub fn is_nonce_hash(text: &str) -> bool {
    text.len() == NONCE_HASH_CHARS
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_return_path_stays_on_the_site() {
        for good in ["/", "/admin/tenants/acme?x=1#y", "/a?to=//b", "/%5c"] {
            assert!(is_return_path(good), "{good}");
        }
        let long = format!("/{}", "x".repeat(MAX_RETURN_PATH_BYTES));
        for bad in [
            "",
            "admin",
            "//evil.example",
            "/\\evil.example",
            "/a\\b",
            "\\\\evil",
            "https://evil.example",
            "/\t/evil.example",
            "/\r\nset-cookie: a=b",
            "javascript:alert(1)",
            "/a b",
            "/ü",
            &long,
        ] {
            assert!(!is_return_path(bad), "{bad:?}");
        }
    }

    #[test]
    fn a_nonce_hash_is_43_characters_of_base64url() {
        assert!(is_nonce_hash(&"aZ0-_".repeat(9)[..43]));
        for bad in ["", "a", &"a".repeat(42), &"a".repeat(44), &"=".repeat(43)] {
            assert!(!is_nonce_hash(bad), "{bad}");
        }
    }
}
