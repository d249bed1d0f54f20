//! One client cannot take a tenant from the others, and nobody is taken for somebody else.

use crate::harness::{Folder, Running};
use crate::tenant::Tenant;

fn from(host: &str, forwarded: &str) -> String {
    format!(
        "GET / HTTP/1.1\r\nHost: {host}.localhost\r\nX-Forwarded-For: {forwarded}\r\nX-Forwarded-Proto: https\r\n\r\n"
    )
}

#[test]
fn who_asks_too_often_is_told_when_to_come_back_and_nobody_else_notices() {
    let folder = Folder::new();
    let (acme, other) = (Tenant::new(&folder, 1, "acme"), Tenant::new(&folder, 2, "other"));
    let routes = vec![acme.running(), other.running()];
    let (_control, router) = Running::kept(routes, &folder, |settings| {
        // One a minute at most comes back while this runs.
        settings.rate = "1:5".parse().unwrap();
        settings.trusted = "127.0.0.0/8".parse().unwrap();
    });
    let statuses: Vec<_> =
        (0..40).map(|_| router.send(&from("acme", "203.0.113.9")).status).collect();
    let passed = statuses.iter().filter(|status| **status == 200).count();
    assert!((5..40).contains(&passed), "{statuses:?}");
    assert_eq!(acme.heads().len(), passed, "what is refused does not arrive");
    let refused = router.send(&from("acme", "203.0.113.9"));
    if refused.status != 200 {
        assert_eq!((refused.status, refused.code().as_str()), (429, "rate_limited"));
        assert!(refused.has("retry-after: 1\r\n"), "{refused:?}");
    }
    assert_eq!(router.send(&from("acme", "203.0.113.10")).status, 200, "another client");
    assert_eq!(router.send(&from("other", "203.0.113.9")).status, 200, "another tenant");
    assert_eq!(router.metric("cial_router_rate_limit_pairs"), "3");
    assert_ne!(router.metric("cial_router_rate_limited_total"), "0");
}

#[test]
fn only_trusted_proxies_say_on_whose_behalf_they_ask() {
    let folder = Folder::new();
    let acme = Tenant::new(&folder, 1, "acme");
    for (trusted, lines) in [
        ("", ["x-forwarded-for: 127.0.0.1", "x-real-ip: 127.0.0.1", "x-forwarded-proto: http"]),
        (
            "127.0.0.1",
            ["x-forwarded-for: 203.0.113.9", "x-real-ip: 203.0.113.9", "x-forwarded-proto: https"],
        ),
    ] {
        let (_control, router) = Running::kept(vec![acme.running()], &folder, |settings| {
            settings.trusted = trusted.parse().unwrap();
        });
        let answer = router.send(&from("acme", "6.6.6.6, 203.0.113.9"));
        for line in lines {
            assert_eq!(answer.body.matches(line).count(), 1, "{line}: {answer:?}");
        }
        assert!(!answer.body.contains("6.6.6.6"), "{answer:?}");
    }
}
