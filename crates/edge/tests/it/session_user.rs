//! Only core-back decides who is signed in, and only the edge passes the user on to pages.

use crate::raw::get;
use crate::world::{SIGNED_IN, TOKEN, Tenant};

#[tokio::test]
async fn the_front_services_receive_the_signed_in_user() {
    let tenant = Tenant::open().await;
    let cookie = format!("Cookie: {SIGNED_IN}; theirs=1");
    for path in ["/", "/.cial"] {
        let seen = get(tenant.tcp, path, &[&cookie]).await.json();
        assert_eq!(seen["headers"]["x-cial-user"], "u-1");
        assert_eq!(seen["headers"]["x-cial-email"], "owner@exämple.com");
        assert_eq!(seen["headers"]["x-cial-name"], "Ölaf Owner");
        assert_eq!(seen["headers"]["x-cial-role"], "member");
    }
    let platform = get(tenant.tcp, "/", &[&cookie]).await.json();
    assert_eq!(platform["headers"]["x-cial-assertion"], "a.signed.statement");
    let core = get(tenant.tcp, "/.cial", &[&cookie]).await.json();
    assert_eq!(core["headers"].get("x-cial-assertion"), None, "the core needs no proof of its own");
    assert_eq!(platform["headers"]["cookie"], "theirs=1", "the platform cannot act as the owner");
    let core = get(tenant.tcp, "/.cial/api/x", &[&cookie]).await.json();
    assert_eq!(core["headers"]["cookie"], format!("{SIGNED_IN}; theirs=1"));
}

#[tokio::test]
async fn an_app_s_cookie_in_another_alphabet_signs_nobody_out() {
    let tenant = Tenant::open().await;
    let cookie = format!("Cookie: name=Jürgen; {SIGNED_IN}");
    let seen = get(tenant.tcp, "/", &[&cookie]).await.json();
    assert_eq!(seen["headers"]["x-cial-user"], "u-1");
    assert_eq!(seen["headers"]["cookie"], "name=Jürgen");
}

#[tokio::test]
async fn a_client_cannot_claim_to_be_signed_in() {
    let tenant = Tenant::open().await;
    let lies = [
        "X-Cial-User: owner",
        "x_cial_email: owner",
        "X-Cial-Role: admin",
        "X-Cial-Assertion: a.forged.statement",
        "Cookie: cial_session=made-up",
        "Cookie: signed=in",
    ];
    for lie in lies {
        let headers = &get(tenant.tcp, "/", &[lie]).await.json()["headers"];
        let names = [
            "x-cial-user",
            "x-cial-email",
            "x-cial-role",
            "x-cial-assertion",
            "x_cial_user",
            "x_cial_email",
        ];
        for name in names {
            assert_eq!(headers.get(name), None, "{lie}");
        }
    }
}

#[tokio::test]
async fn the_scheme_decides_which_cookie_counts() {
    let tenant = Tenant::guarded().await;
    let token = format!("x-cial-route-token: {TOKEN}");
    let secure = "Cookie: __Host-cial_session=good";
    let https = get(tenant.tcp, "/", &[&token, "x-forwarded-proto: https", secure]).await;
    assert_eq!(https.json()["headers"]["x-cial-user"], "u-1");
    let http = get(tenant.tcp, "/", &[&token, "x-forwarded-proto: http", secure]).await;
    assert_eq!(http.json()["headers"].get("x-cial-user"), None);
}

#[tokio::test]
async fn without_core_back_a_session_is_neither_valid_nor_invalid() {
    let tenant = Tenant::open().await;
    tenant.core_back.cancel();
    // The stand-in closes its listener once it has drained.
    let cookie = format!("Cookie: {SIGNED_IN}");
    let mut response = get(tenant.tcp, "/", &[&cookie]).await;
    while response.status == 200 {
        response = get(tenant.tcp, "/", &[&cookie]).await;
    }
    assert_eq!((response.status, response.code().as_str()), (502, "core_unreachable"));
    let anonymous = get(tenant.tcp, "/", &["Cookie: theirs=1"]).await;
    assert_eq!(anonymous.status, 200, "who holds no session needs no core");
}
