//! The rate limit by client and tenant, and the address by which a client counts.

use crate::harness::{Running, TempDir};
use crate::tenant::Tenant;

fn from(host: &str, forwarded: &str) -> String {
    format!(
        "GET / HTTP/1.1\r\nHost: {host}.localhost\r\nX-Forwarded-For: {forwarded}\r\nX-Forwarded-Proto: https\r\n\r\n"
    )
}

#[test]
fn a_client_over_the_rate_limit_gets_429_and_no_other_client_or_tenant_does() {
    let folder = TempDir::new("router").unwrap();
    let (acme, other) = (Tenant::new(&folder, 1, "acme"), Tenant::new(&folder, 2, "other"));
    let routes = vec![acme.running(), other.running()];
    let (_control, router) = Running::kept(routes, &folder, |settings| {
        settings.rate = "1:5".parse().unwrap();
        settings.trusted = "127.0.0.0/8".parse().unwrap();
    });
    let responses: Vec<_> = (0..40).map(|_| router.send(&from("acme", "203.0.113.9"))).collect();
    let (passed, refused): (Vec<_>, Vec<_>) =
        responses.iter().partition(|response| response.status == 200);
    assert!((5..40).contains(&passed.len()), "{responses:?}");
    assert_eq!(acme.heads().len(), passed.len(), "a refused request does not arrive");
    for response in refused {
        assert_eq!((response.status, response.code().as_str()), (429, "rate_limited"));
        assert!(response.has("retry-after: 1\r\n"), "{response:?}");
    }
    assert_eq!(router.send(&from("acme", "203.0.113.10")).status, 200, "another client");
    assert_eq!(router.send(&from("other", "203.0.113.9")).status, 200, "another tenant");
    assert_eq!(router.metric("cial_router_rate_limit_pairs_current"), "3");
    assert_ne!(router.metric("cial_router_rate_limited_total"), "0");
}

#[test]
fn only_trusted_proxies_name_the_client() {
    let folder = TempDir::new("router").unwrap();
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
        let response = router.send(&from("acme", "6.6.6.6, 203.0.113.9"));
        for line in lines {
            assert_eq!(response.body.matches(line).count(), 1, "{line}: {response:?}");
        }
        assert!(!response.body.contains("6.6.6.6"), "{response:?}");
    }
}
