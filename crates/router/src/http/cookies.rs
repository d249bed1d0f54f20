//! Removes the admin's cookies from requests: a browser sends them to every port of a host, tenants' included.

use std::borrow::Cow;

/// The cookie of an admin session, over plain HTTP and over HTTPS.
const ADMIN_COOKIES: [&[u8]; 2] = [b"cial_admin", b"__Host-cial_admin"];

/// Returns a `Cookie` value without the admin's cookies and with every other byte unchanged, or `None` when no cookie
/// is left.
pub(crate) fn without_admin_cookies(value: &[u8]) -> Option<Cow<'_, [u8]>> {
    // Both names hold the first. Hardly any request carries one of them.
    if memchr::memmem::find(value, ADMIN_COOKIES[0]).is_none() {
        return Some(Cow::Borrowed(value));
    }
    let kept: Vec<&[u8]> =
        value.split(|b| *b == b';').filter(|pair| !is_admin_cookie(pair)).collect();
    let kept = kept.join(&b';').trim_ascii().to_vec();
    (!kept.is_empty()).then_some(Cow::Owned(kept))
}

fn is_admin_cookie(pair: &[u8]) -> bool {
    let name = pair.split(|b| *b == b'=').next().unwrap_or_default().trim_ascii();
    ADMIN_COOKIES.contains(&name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_admin_cookies_are_removed() {
        for (value, kept) in [
            ("a=b", Some("a=b")),
            ("cial_admin=x", None),
            ("__Host-cial_admin=x", None),
            ("cial_admin=x; a=b", Some("a=b")),
            ("a=b; cial_admin=x", Some("a=b")),
            ("a=b; cial_admin=x;c=d ; __Host-cial_admin=y; e=\"f;g\"", Some("a=b;c=d ; e=\"f;g\"")),
            (
                "cial_session=x; cial_admin_theme=dark",
                Some("cial_session=x; cial_admin_theme=dark"),
            ),
            ("x=cial_admin", Some("x=cial_admin")),
            ("CIAL_ADMIN=x", Some("CIAL_ADMIN=x")),
            ("cial_admin", None),
            (" cial_admin = x", None),
            ("", Some("")),
        ] {
            let seen = without_admin_cookies(value.as_bytes());
            assert_eq!(seen.as_deref(), kept.map(str::as_bytes), "{value:?}");
        }
    }
}
