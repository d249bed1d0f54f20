//! The admin's cookies stay with the admin: a browser sends them to every port of its host.

use std::borrow::Cow;

/// The admin session's cookie, over plain HTTP and over HTTPS.
const ADMINS: [&[u8]; 2] = [b"cial_admin", b"__Host-cial_admin"];

/// A `Cookie` value without the admin's; everything else stays byte for byte. `None` when nothing is left.
pub(crate) fn without_admins(value: &[u8]) -> Option<Cow<'_, [u8]>> {
    // All of them end so; hardly any request has one.
    if memchr::memmem::find(value, ADMINS[0]).is_none() {
        return Some(Cow::Borrowed(value));
    }
    let kept: Vec<&[u8]> = value.split(|b| *b == b';').filter(|pair| !is_admins(pair)).collect();
    let kept = kept.join(&b';').trim_ascii().to_vec();
    (!kept.is_empty()).then_some(Cow::Owned(kept))
}

fn is_admins(pair: &[u8]) -> bool {
    let name = pair.split(|b| *b == b'=').next().unwrap_or_default().trim_ascii();
    ADMINS.contains(&name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_admins_go() {
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
            let seen = without_admins(value.as_bytes());
            assert_eq!(seen.as_deref(), kept.map(str::as_bytes), "{value:?}");
        }
    }
}
