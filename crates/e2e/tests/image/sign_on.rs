//! Sign-on with a token: once, from the control plane, for this tenant. Every other token is refused.

use anyhow::Result;
use e2e::Checks;
use serde_json::{Value, json};
use testkit::engine::{Endpoint, TenantContainer};

use super::token::{Keys, claims, header, nonce_cookie, unsigned};

pub(crate) async fn check(
    checks: &mut Checks,
    tenant: &TenantContainer,
    endpoint: Endpoint<'_>,
    name: &str,
    keys: &Keys,
) -> Result<()> {
    let good = keys.sign(&header(), &claims(name, "smoke-good", now()));
    let elsewhere = endpoint.get(&format!("/.cial/sso?token={good}"), &[]).await?;
    checks.equal("a token in another browser is refused", 401, elsewhere.status);
    let seen = endpoint.get(&format!("/.cial/sso?token={good}"), &[&nonce_cookie()]).await?;
    let place = seen.header("location").unwrap_or_default();
    checks.equal("a good token signs in", "303 /", format_args!("{} {place}", seen.status));
    let cookie = seen.header("set-cookie").unwrap_or_default().to_owned();
    let lower = cookie.to_ascii_lowercase();
    let is_narrow =
        lower.contains("httponly") && lower.contains("samesite=lax") && !lower.contains("domain=");
    checks.holds(
        "its cookie is this host's alone",
        "HttpOnly, SameSite=Lax, no Domain",
        &cookie,
        is_narrow,
    );
    let pair = cookie.split(';').next().unwrap_or_default();
    let home = endpoint.get("/", &[&format!("cookie: {pair}")]).await?;
    checks.contains(
        "the page names the signed-in owner",
        "signed in as owner-1 (owner@example.com)",
        &home.body,
    );
    let forged = endpoint
        .get(
            "/",
            &[
                "cookie: cial_session=0123456789abcdef0123456789abcdef",
                "x-cial-user: owner-1",
                "x-cial-email: owner@example.com",
            ],
        )
        .await?;
    checks.equal(
        "a made-up cookie or header signs nobody in",
        false,
        forged.body.contains("signed in as"),
    );
    refuse(checks, endpoint, "replayed", &good).await?;
    for (what, token) in bad_tokens(name, keys)? {
        refuse(checks, endpoint, what, &token).await?;
    }
    for path in ["/.cial/sso", "/.cial/sso?token=", "/.cial/sso?token=a.b.c"] {
        let seen = endpoint.get(path, &[]).await?;
        checks.equal(&format!("{path} is refused"), 401, seen.status);
    }
    // A line reaches the engine's log after the response that it tells of: this one is the last.
    let last = "is no token of three parts";
    tenant.wait_for("the last refusal", async || tenant.logged(last).await).await?;
    let logs = tenant.logs().await?;
    let part = good.rsplit('.').next().unwrap_or(&good);
    checks.equal("no token in a log", false, logs.contains(part));
    Ok(())
}

fn bad_tokens(name: &str, keys: &Keys) -> Result<Vec<(&'static str, String)>> {
    let fresh = |jti: &str| claims(name, jti, now());
    let with = |jti: &str, change: Value| {
        let mut claims = fresh(jti);
        for (claim, value) in change.as_object().into_iter().flatten() {
            claims[claim] = value.clone();
        }
        keys.sign(&header(), &claims)
    };
    let tampered = {
        let token = keys.sign(&header(), &fresh("smoke-tampered"));
        let (text, signature) = token.rsplit_once('.').unwrap_or((&token, ""));
        format!("{text}.{}", signature.chars().rev().collect::<String>())
    };
    Ok(vec![
        ("expired", keys.sign(&header(), &claims(name, "smoke-old", now() - 61))),
        ("signed by another", Keys::random()?.sign(&header(), &fresh("smoke-other"))),
        ("tampered with", tampered),
        ("unsigned (alg: none)", unsigned(&fresh("smoke-none"))),
        ("of another tenant", keys.sign(&header(), &claims("other", "smoke-aud", now()))),
        ("from the future", with("smoke-iat", json!({ "iat": now() + 30, "exp": now() + 60 }))),
        ("not yet valid", with("smoke-nbf", json!({ "nbf": now() + 30 }))),
        ("valid too long", with("smoke-exp", json!({ "exp": now() + 3_600 }))),
        ("of another issuer", with("smoke-iss", json!({ "iss": "somebody" }))),
        (
            "with unknown extensions",
            keys.sign(&json!({ "alg": "HS256", "crit": ["x"], "x": 1 }), &fresh("smoke-crit")),
        ),
        ("of a wider algorithm", keys.sign(&json!({ "alg": "HS512" }), &fresh("smoke-alg"))),
    ])
}

async fn refuse(
    checks: &mut Checks,
    endpoint: Endpoint<'_>,
    what: &str,
    token: &str,
) -> Result<()> {
    let seen = endpoint.get(&format!("/.cial/sso?token={token}"), &[&nonce_cookie()]).await?;
    let cookie = seen.header("set-cookie").unwrap_or("no cookie");
    let seen = format!("{} {cookie}", seen.status);
    checks.equal(&format!("a token {what} is refused"), "401 no cookie", seen);
    Ok(())
}

fn now() -> u64 {
    testkit::clock::unix_time().as_secs()
}
