//! The path at which a person continues after signing in.

use protocol::sign_in::stays_on_site;

/// Returns `next` when it is a path of this site, and the list of tenants otherwise.
///
/// The path may have any length: a sign-in at a tenant encodes a path of that tenant, which may triple its length.
pub fn safe_next(next: Option<&str>) -> &str {
    next.filter(|path| stays_on_site(path)).unwrap_or("/admin")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn next_stays_on_this_site() {
        for good in ["/admin", "/admin/tenants/acme?x=1#y", "/"] {
            assert_eq!(safe_next(Some(good)), good);
        }
        for bad in [
            "",
            "admin",
            "//evil.example",
            "/\\evil.example",
            "\\\\evil",
            "https://evil.example",
            "/\t/evil.example",
            "javascript:alert(1)",
            "/a b",
            "/ü",
        ] {
            assert_eq!(safe_next(Some(bad)), "/admin", "{bad:?}");
        }
        assert_eq!(safe_next(None), "/admin");
    }
}
