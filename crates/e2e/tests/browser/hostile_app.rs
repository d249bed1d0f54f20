//! The app of a tenant is hostile: what its pages, workers and forms do in the browser of a visitor who is signed in at
//! the core's site. The two sites share a parent domain, so that cookies with `SameSite` travel between them.

use anyhow::{Context as _, ensure};
use e2e::{AppImages, Browser};
use serde_json::{Value, json};
use testkit::Installation;

use crate::first_owner::{EMAIL, PASSWORD};

const PROGRAM: &str = include_str!("hostile_app/program.rs");
const ATTACKS: &str = include_str!("hostile_app/attacks.js");
const SLUG: &str = "hostile";

/// The attacks, each with whether it succeeds on the tenant's own site: there the app is the same origin. The service
/// worker comes last, because it stays.
const ALL: [(&str, bool); 14] = [
    ("fetch", true),
    ("fetch_of_the_api", true),
    ("fetch_with_a_preflight", true),
    ("fetch_without_cors", true),
    ("beacon", true),
    ("form_in_a_frame", true),
    ("form_in_a_window", true),
    // No page shows the core in a frame.
    ("frame", false),
    ("window", true),
    ("worker", true),
    ("websocket", true),
    ("event_source", true),
    // The core holds nothing that an element could load.
    ("inclusion", false),
    ("service_worker", true),
];

/// Two browsers of one installation: a visitor with sessions everywhere, and the owner of the hostile app.
pub(crate) async fn does_nothing_at_the_core(installation: &Installation) -> anyhow::Result<()> {
    let image = AppImages::build(SLUG, PROGRAM, &["one"])?;
    let browser = Browser::start("visitor").await?;
    create_tenant(&browser, installation, &image.names[0]).await?;
    let own = installation.tenant_url(SLUG);
    let core = installation.tenant_url(&format!("core--{SLUG}"));
    sign_in(&browser, &core).await?;
    for (attack, succeeds_at_home) in ALL {
        sign_in(&browser, &own).await?;
        for (target, succeeds) in [(&own, succeeds_at_home), (&core, false)] {
            browser.open(&own).await?;
            browser.shows("Hostile app").await?;
            let obtained = browser.script(ATTACKS, vec![json!(attack), json!(target)]).await?;
            let is_signed_in = shows_user(&browser, target).await?;
            assert_eq!(
                obtained != Value::Null || !is_signed_in,
                succeeds,
                "{attack} on {target}: obtained {obtained}, signed in afterwards: {is_signed_in}"
            );
        }
    }
    a_return_path_leads_nowhere_else(&browser, &core).await?;
    a_planted_cookie_names_nobody(&browser, installation, (&own, &core)).await?;
    a_taken_token_signs_nobody_in_elsewhere(&browser, &own).await?;
    // Browsers note each refusal.
    browser.finish(&[SLUG]).await
}

async fn create_tenant(
    browser: &Browser,
    installation: &Installation,
    image: &str,
) -> anyhow::Result<()> {
    browser.open(&installation.admin("/admin")).await?;
    browser.fill("E-mail", EMAIL).await?;
    browser.fill("Password", PASSWORD).await?;
    browser.press("Sign in").await?;
    browser.shows("New tenant").await?;
    browser.fetch("POST", "/v1/apps", &json!({ "slug": SLUG, "name": SLUG })).await?;
    let releases = format!("/v1/apps/{SLUG}/releases");
    browser.fetch("POST", &releases, &json!({ "image": image })).await?;
    let tenant = json!({ "slug": SLUG, "name": SLUG, "app": SLUG });
    browser.fetch("POST", "/v1/tenants", &tenant).await?;
    let page = installation.admin(&format!("/admin/tenants/{SLUG}"));
    browser.open(&page).await?;
    browser.shows("running").await
}

/// Signs in at a site, by the session at the admin.
async fn sign_in(browser: &Browser, site: &str) -> anyhow::Result<()> {
    browser.open(&format!("{site}/.cial/sign-in?to=/.cial")).await?;
    browser.shows(EMAIL).await?;
    assert_eq!(browser.url().await?, format!("{site}/.cial"));
    Ok(())
}

async fn shows_user(browser: &Browser, site: &str) -> anyhow::Result<bool> {
    browser.open(&format!("{site}/.cial")).await?;
    browser.shows("Cial Core").await?;
    Ok(browser.text().await?.contains(EMAIL))
}

async fn a_return_path_leads_nowhere_else(browser: &Browser, core: &str) -> anyhow::Result<()> {
    for to in ["//evil.example/", "/%5Cevil.example/", "https://evil.example/", "/%09/evil.example"]
    {
        browser.open(&format!("{core}/.cial/sign-in?to={to}")).await?;
        browser.shows(EMAIL).await?;
        assert_eq!(browser.url().await?, format!("{core}/.cial"), "{to}");
    }
    browser.open(&format!("{core}/.cial/sign-in?to=/.cial/sign-out")).await?;
    browser.shows("answers POST only").await?;
    ensure!(shows_user(browser, core).await?, "a return path signed the visitor out");
    Ok(())
}

/// The app sets cookies for the whole domain. A second session cookie at the core counts as none until it is gone.
async fn a_planted_cookie_names_nobody(
    browser: &Browser,
    installation: &Installation,
    (own, core): (&str, &str),
) -> anyhow::Result<()> {
    for path in ["/", "/.cial"] {
        for (value, age, is_signed_in) in [("planted", 60, false), ("", 0, true)] {
            browser.open(own).await?;
            let domain = &installation.domain;
            let cookie = format!("cial_core={value}; Domain={domain}; Path={path}; Max-Age={age}");
            let plant = "document.cookie = arguments[0]; arguments[1](null)";
            browser.script(plant, vec![json!(cookie)]).await?;
            assert_eq!(shows_user(browser, core).await?, is_signed_in, "{cookie}");
        }
    }
    Ok(())
}

/// The service worker of the app takes the address with the token before it reaches the core.
async fn a_taken_token_signs_nobody_in_elsewhere(
    browser: &Browser,
    own: &str,
) -> anyhow::Result<()> {
    browser.open(&format!("{own}/.cial/sign-in?to=/.cial")).await?;
    browser.shows("Taken: ").await?;
    let text = browser.text().await?;
    let address = text.strip_prefix("Taken: ").context("no address")?.trim().to_owned();
    ensure!(address.starts_with(&format!("{own}/.cial/sso?token=")), "no token in {address}");
    let thief = Browser::start("thief").await?;
    thief.open(&address).await?;
    thief.shows("in the browser that began to sign in").await?;
    ensure!(!shows_user(&thief, own).await?, "a taken token signed somebody in");
    thief.finish(&[SLUG]).await?;
    // The token itself is good: in its own browser, past the service worker, it signs the visitor in.
    let unregister = "
        const done = arguments[0];
        navigator.serviceWorker.getRegistration('/').then((worker) => worker.unregister()).then(done);
    ";
    browser.open(own).await?;
    browser.script(unregister, vec![]).await?;
    browser.open(&address).await?;
    browser.shows(EMAIL).await
}
