//! Parses a Host: one label below the installation's domain, the bare domain, another name, or invalid syntax. Pure.

use std::borrow::Cow;
use std::net::Ipv6Addr;

/// The meaning of a `Host` value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Host<'a> {
    /// One label below the domain, in lower case. Only the route table knows whether a tenant has this slug.
    Label(Cow<'a, str>),
    /// The domain itself.
    Bare,
    /// A valid name outside the domain, or an empty Host.
    Unknown,
    /// Not the syntax of a host (RFC 3986 §3.2.2).
    Invalid,
}

/// Parses the value of a `Host` header. `domain` is in lower case.
///
/// The port and one dot at the end are not part of the name (RFC 3986 §3.2.2).
pub(crate) fn parse<'a>(value: &'a [u8], domain: &str) -> Host<'a> {
    let Ok(text) = std::str::from_utf8(value) else { return Host::Invalid };
    match parse_common(text, domain) {
        Some(label) => Host::Label(label.into()),
        None => parse_any(text, domain),
    }
}

/// Parses the form of nearly every request in one pass: a label in lower case, the domain, perhaps a port.
fn parse_common<'a>(text: &'a str, domain: &str) -> Option<&'a str> {
    let lower = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    let at = text.bytes().position(|b| !lower(b)).filter(|at| (1..=63).contains(at))?;
    let rest = text[at..].strip_prefix('.')?.strip_prefix(domain)?;
    let is_end = match rest.strip_prefix(':') {
        Some(port) => {
            !port.starts_with('0')
                && (1..=4).contains(&port.len())
                && port.bytes().all(|b| b.is_ascii_digit())
        }
        None => rest.is_empty(),
    };
    is_end.then(|| &text[..at])
}

fn parse_any<'a>(text: &'a str, domain: &str) -> Host<'a> {
    if text.starts_with('[') {
        return parse_literal(text);
    }
    let (name, port) = text.split_once(':').unwrap_or((text, ""));
    if !is_port(port) {
        return Host::Invalid;
    }
    if name.is_empty() {
        return if text.is_empty() { Host::Unknown } else { Host::Invalid };
    }
    let name = name.strip_suffix('.').unwrap_or(name);
    if name.len() > 253 || !name.split('.').all(is_label) {
        return Host::Invalid;
    }
    if name.eq_ignore_ascii_case(domain) {
        return Host::Bare;
    }
    let label = name
        .len()
        .checked_sub(domain.len())
        .filter(|at| name[*at..].eq_ignore_ascii_case(domain))
        .and_then(|at| name[..at].strip_suffix('.'))
        .filter(|label| !label.contains('.'));
    match label {
        None => Host::Unknown,
        Some(label) if label.bytes().any(|b| b.is_ascii_uppercase()) => {
            Host::Label(label.to_ascii_lowercase().into())
        }
        Some(label) => Host::Label(label.into()),
    }
}

/// Parses an address in brackets, which is never a tenant.
fn parse_literal(text: &str) -> Host<'_> {
    match text[1..].split_once(']') {
        Some((address, port)) if address.parse::<Ipv6Addr>().is_ok() => {
            match port.strip_prefix(':').or(port.is_empty().then_some("")) {
                Some(port) if is_port(port) => Host::Unknown,
                _ => Host::Invalid,
            }
        }
        _ => Host::Invalid,
    }
}

fn is_port(text: &str) -> bool {
    text.is_empty()
        || (text.bytes().all(|b| b.is_ascii_digit()) && text.parse::<u16>().is_ok_and(|p| p > 0))
}

/// Underscores are not allowed in host names but occur. No slug holds one.
fn is_label(label: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
    (1..=63).contains(&label.len()) && label.bytes().all(plain)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn shown(host: &Host<'_>) -> String {
        match host {
            Host::Label(label) => format!("label {label}"),
            Host::Bare => "bare".to_owned(),
            Host::Unknown => "unknown".to_owned(),
            Host::Invalid => "invalid".to_owned(),
        }
    }

    #[test]
    fn hosts_by_syntax() {
        let table: String = [
            "acme.localhost",
            "acme.localhost:8080",
            "ACME.LocalHost:8080",
            "acme.localhost.",
            "acme.localhost.:8080",
            "acme.localhost:",
            "localhost",
            "localhost:8080",
            "LOCALHOST.",
            "",
            "nope.example",
            "127.0.0.1:8080",
            "[::1]",
            "[::1]:8080",
            "a.b.localhost",
            "acmelocalhost",
            "localhost.acme",
            "xn--bcher-kva.localhost",
            "a_b.localhost",
            "-a.localhost",
            "acme.localhost:80:80",
            "acme.localhost:0",
            "acme.localhost:65536",
            "acme.localhost:http",
            "acme.localhost:-1",
            "acme.localhost:+80",
            "u@acme.localhost",
            "u:p@acme.localhost",
            "acme.localhost/",
            "acme.localhost?x",
            "acme.localhost#x",
            "acme%2elocalhost",
            "acme..localhost",
            ".localhost",
            ".acme.localhost",
            "acme.localhost..",
            "acme localhost",
            " ",
            "acme,acme.localhost",
            "acme.localhost, b.localhost",
            "bücher.localhost",
            "acme\u{3002}localhost",
            "acme\\.localhost",
            "[::1",
            "[::1]x",
            "[]",
            "[acme.localhost]",
            "[fe80::1%25lo]",
            "::1",
            ":8080",
            ":",
            ".",
            "http://acme.localhost",
        ]
        .iter()
        .map(|text| format!("{text:<30} {}\n", shown(&parse(text.as_bytes(), "localhost"))))
        .collect();
        insta::assert_snapshot!(table, @r"
        acme.localhost                 label acme
        acme.localhost:8080            label acme
        ACME.LocalHost:8080            label acme
        acme.localhost.                label acme
        acme.localhost.:8080           label acme
        acme.localhost:                label acme
        localhost                      bare
        localhost:8080                 bare
        LOCALHOST.                     bare
                                       unknown
        nope.example                   unknown
        127.0.0.1:8080                 unknown
        [::1]                          unknown
        [::1]:8080                     unknown
        a.b.localhost                  unknown
        acmelocalhost                  unknown
        localhost.acme                 unknown
        xn--bcher-kva.localhost        label xn--bcher-kva
        a_b.localhost                  label a_b
        -a.localhost                   label -a
        acme.localhost:80:80           invalid
        acme.localhost:0               invalid
        acme.localhost:65536           invalid
        acme.localhost:http            invalid
        acme.localhost:-1              invalid
        acme.localhost:+80             invalid
        u@acme.localhost               invalid
        u:p@acme.localhost             invalid
        acme.localhost/                invalid
        acme.localhost?x               invalid
        acme.localhost#x               invalid
        acme%2elocalhost               invalid
        acme..localhost                invalid
        .localhost                     invalid
        .acme.localhost                invalid
        acme.localhost..               invalid
        acme localhost                 invalid
                                       invalid
        acme,acme.localhost            invalid
        acme.localhost, b.localhost    invalid
        bücher.localhost               invalid
        acme。localhost                 invalid
        acme\.localhost                invalid
        [::1                           invalid
        [::1]x                         invalid
        []                             invalid
        [acme.localhost]               invalid
        [fe80::1%25lo]                 invalid
        ::1                            invalid
        :8080                          invalid
        :                              invalid
        .                              invalid
        http://acme.localhost          invalid
        ");
        assert_eq!(parse(b"acme\xff.localhost", "localhost"), Host::Invalid);
        let long = format!("{}.localhost", "x".repeat(64));
        assert_eq!(parse(long.as_bytes(), "localhost"), Host::Invalid);
    }

    #[test]
    fn a_domain_may_have_dots() {
        assert_eq!(parse(b"acme.t.example.com", "t.example.com"), Host::Label("acme".into()));
        assert_eq!(parse(b"t.example.com", "t.example.com"), Host::Bare);
        assert_eq!(parse(b"example.com", "t.example.com"), Host::Unknown);
        assert_eq!(parse(b"xt.example.com", "t.example.com"), Host::Unknown);
    }

    proptest! {
        #[test]
        fn the_common_form_parses_as_any_form_does(text in "[a-zA-B0.-]{0,5}(\\.localhost)?(:[0-9]{0,5})?") {
            if let Some(label) = parse_common(&text, "localhost") {
                prop_assert_eq!(parse_any(&text, "localhost"), Host::Label(label.into()));
            }
        }

        #[test]
        fn arbitrary_bytes_never_panic_and_labels_are_lower_case(value in proptest::collection::vec(any::<u8>(), 0..40)) {
            if let Host::Label(label) = parse(&value, "localhost") {
                prop_assert!(label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_'));
            }
        }

        #[test]
        fn case_port_and_dot_change_nothing(label in "[a-z0-9][a-z0-9-]{0,20}[a-z0-9]", port in 1_u16..) {
            for text in [
                format!("{label}.localhost"),
                format!("{}.LOCALHOST:{port}", label.to_uppercase()),
                format!("{label}.localhost.:{port}"),
            ] {
                prop_assert_eq!(parse(text.as_bytes(), "localhost"), Host::Label(label.as_str().into()));
            }
        }
    }
}
