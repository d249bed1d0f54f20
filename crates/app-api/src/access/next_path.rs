//! The path at which a person continues after signing in.

use protocol::sign_in::is_return_path;

/// Returns `next` when it is a path of this site, and the list of tenants otherwise.
pub fn safe_next(next: Option<&str>) -> &str {
    next.filter(|path| is_return_path(path)).unwrap_or("/admin")
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
