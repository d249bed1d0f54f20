//! Signing out ends the session itself, not only the cookie, and only on a request of the tenant's
//! own pages.

use hyper::{Method, StatusCode};
use protocol::inside::SSO_KEY;

use crate::harness::{Core, code, cookie, header};
use crate::tokens::{KEY, claims, hs256};

async fn signed_in() -> (Core, String) {
    let core = Core::start(&[(SSO_KEY, &KEY)]);
    let cookie = cookie(&core.sign_in(&hs256(&claims("a"))).await);
    (core, cookie)
}

#[tokio::test]
async fn a_browser_is_led_home_without_its_session() {
    let (core, cookie) = signed_in().await;
    let browser = [
        ("cookie", cookie.as_str()),
        ("accept", "text/html"),
        ("sec-fetch-mode", "navigate"),
        ("sec-fetch-site", "same-origin"),
    ];
    let answer = core.ask(Method::POST, "/.cial/sign-out", &browser).await;
    assert_eq!(answer.status(), StatusCode::SEE_OTHER);
    assert_eq!(header(&answer, "location"), Some("/"));
    assert!(header(&answer, "set-cookie").unwrap().contains("Max-Age=0"));
    assert_eq!(core.who(&cookie).await.status(), StatusCode::UNAUTHORIZED);
    let core = core.restarted().await;
    assert_eq!(core.who(&cookie).await.status(), StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn another_site_cannot_sign_a_visitor_out() {
    let (core, cookie) = signed_in().await;
    for foreign in [("sec-fetch-site", "cross-site"), ("origin", "http://evil.localhost")] {
        let headers = [("cookie", cookie.as_str()), foreign];
        let answer = core.ask(Method::POST, "/.cial/sign-out", &headers).await;
        assert_eq!(answer.status(), StatusCode::FORBIDDEN);
        assert_eq!(code(&answer), "cross_site");
    }
    let answer = core.ask(Method::GET, "/.cial/sign-out", &[("cookie", &cookie)]).await;
    assert_eq!(answer.status(), StatusCode::METHOD_NOT_ALLOWED);
    assert_eq!(core.who(&cookie).await.status(), StatusCode::OK);
}

#[tokio::test]
async fn hand_made_cookies_sign_nobody_in() {
    let (core, cookie) = signed_in().await;
    let long = "x".repeat(8000);
    for made in ["cial_session=1", "cial_session=", "cial_session=owner@example.com", &long] {
        assert_eq!(core.who(made).await.status(), StatusCode::UNAUTHORIZED, "{made}");
    }
    let planted = format!("{cookie}; cial_session=other");
    assert_eq!(core.who(&planted).await.status(), StatusCode::UNAUTHORIZED);
}
