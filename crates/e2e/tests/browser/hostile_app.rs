//! The app of a tenant is hostile: what its pages, workers and forms do in the browser of a visitor who is signed in at
//! the core's site. The two sites share a parent domain, so that cookies with `SameSite` travel between them.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use e2e::session::EMAIL;
use e2e::{AppImages, Browser, Checks, NetworkLog};
use serde_json::json;
use testkit::{Installation, eventually};

const PROGRAM: &str = include_str!("hostile_app/program.rs");
const ATTACKS: &str = include_str!("hostile_app/attacks.js");
const SLUG: &str = "hostile";
const PAGE: &str = "Hostile app";
/// Browsers note each refusal: with the address, or as that of the page that they show instead.
const REFUSALS: [&str; 2] = [SLUG, "chrome-error:"];
const REFUSAL: &str = "A page of another site cannot use the core of this tenant.";
/// The browser reports responses on another way than their effects, and somewhat later.
const TIMEOUT: Duration = Duration::from_secs(30);
/// The cookie of a session at the core's site, over HTTP.
const CORE_COOKIE: &str = "cial_core";

/// One attempt of a page of the app, with the outcome that the test expects at the app's own site, which is the page's
/// origin, and at the core's site.
struct Attack {
    name: &'static str,
    at_home: &'static str,
    at_core: &'static str,
    trace: Trace,
}

/// The evidence that an attack reached the core's site.
enum Trace {
    /// Responses to the page, each with its status and whether the browser sent the session.
    Responses(&'static [(u64, bool)]),
    /// A window that the app has lost, with this text.
    Window(&'static str),
    /// The browser's own report.
    Console(&'static str),
    /// The browser reports nothing about requests of service workers.
    Outcome,
}

use Trace::{Console, Outcome, Responses, Window};

const fn attack(
    name: &'static str,
    (at_home, at_core): (&'static str, &'static str),
    trace: Trace,
) -> Attack {
    Attack { name, at_home, at_core, trace }
}

const WITH_SESSION: [(u64, bool); 1] = [(403, true)];

const ALL: [Attack; 17] = [
    attack("fetch", (EMAIL, "TypeError"), Responses(&WITH_SESSION)),
    attack("fetch_of_the_api", ("a response", "TypeError"), Responses(&WITH_SESSION)),
    // Browsers send no cookie with a preflight, and nothing after a refused one.
    attack("fetch_with_a_preflight", ("signed out", "TypeError"), Responses(&[(403, false)])),
    attack("fetch_without_cors", ("signed out", "TypeError"), Responses(&WITH_SESSION)),
    attack("beacon", ("signed out", "sent"), Responses(&WITH_SESSION)),
    attack("form_in_a_frame", ("signed out", "sent"), Responses(&WITH_SESSION)),
    attack("form_in_a_window", ("signed out", "sent"), Window(REFUSAL)),
    // No page shows the core half in a frame, be it at home.
    attack("frame", ("nothing", "nothing"), Responses(&WITH_SESSION)),
    attack("frame_of_the_front_page", (PAGE, "nothing"), Responses(&WITH_SESSION)),
    // To open a page of the core is allowed. The person sees it, and the app loses the window.
    attack("window", (EMAIL, "nothing"), Window(EMAIL)),
    attack("post_message", (EMAIL, "nothing"), Window(EMAIL)),
    attack("prefetch", ("a resource", "nothing"), Responses(&WITH_SESSION)),
    attack("inclusion", ("/worker.js", "nothing"), Responses(&[(403, true); 5])),
    attack("websocket", ("a reply", "nothing"), Console("Unexpected response code: 403")),
    // The router itself serves the progress of a wake, which names nobody. The app cannot read it.
    attack("event_source", ("a stream", "nothing"), Responses(&[(200, true)])),
    attack("worker", (EMAIL, "TypeError"), Console("blocked by CORS policy")),
    // The last, because it stays.
    attack("service_worker", (EMAIL, "TypeError"), Outcome),
];

/// Two browsers of one installation: a visitor with sessions everywhere, and the owner of the hostile app.
pub(crate) async fn does_nothing_at_the_core(installation: &Installation) -> Result<()> {
    let image = AppImages::build(SLUG, PROGRAM, &["one"])?;
    let browser = Browser::start_with_network_log("visitor").await?;
    create_tenant(&browser, installation, &image.names[0]).await?;
    let own = installation.tenant_url(SLUG);
    let core = installation.tenant_url(&format!("core--{SLUG}"));
    sign_in(&browser, &core).await?;
    let mut checks = Checks::new();
    for attack in &ALL {
        sign_in(&browser, &own).await?;
        for target in [&own, &core] {
            run(&browser, &mut checks, attack, (&own, target)).await?;
        }
    }
    checks.finish()?;
    reads_no_cookie_of_ours(&browser, &own).await?;
    // The service worker of the app sees nothing of the way to the other site.
    sign_in(&browser, &core).await?;
    a_return_path_leads_nowhere_else(&browser, &core).await?;
    a_sign_in_of_another_browser_ends_in_none(&browser, installation, (&own, &core)).await?;
    a_planted_cookie_names_nobody(&browser, installation, (&own, &core)).await?;
    a_taken_token_signs_nobody_in_elsewhere(&browser, &own).await?;
    browser.finish(&REFUSALS).await
}

async fn create_tenant(browser: &Browser, installation: &Installation, image: &str) -> Result<()> {
    browser.open(&installation.admin("/admin")).await?;
    browser.sign_in().await?;
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

/// Runs an attack in a page of the app's own site; checks what the page obtains, and that the attack reached the core.
async fn run(
    browser: &Browser,
    checks: &mut Checks,
    attack: &Attack,
    (own, target): (&str, &str),
) -> Result<()> {
    let name = format!("hostile app: {}", attack.name);
    browser.open(own).await?;
    browser.shows(PAGE).await?;
    browser.read_network_log(&mut NetworkLog::default()).await?;
    let earlier = browser.take_console_errors().await?;
    let is_refusal = |error: &String| REFUSALS.iter().any(|part| error.contains(part));
    ensure!(earlier.iter().all(is_refusal), "{earlier:#?}");
    let arguments = vec![json!(attack.name), json!(target)];
    let obtained = browser.script(ATTACKS, arguments).await.context(name.clone())?;
    if own != target {
        let trace = attack.trace.find(browser, target).await;
        checks.succeeds(&format!("{name} reaches the core"), trace);
    }
    let outcome = match shows_user(browser, target).await? {
        true => obtained.as_str().unwrap_or_default(),
        false => "signed out",
    };
    let (place, expected) = match own == target {
        true => ("at home", attack.at_home),
        false => ("at the core", attack.at_core),
    };
    checks.equal(&format!("{name} {place}"), expected, outcome);
    Ok(())
}

impl Trace {
    async fn find(&self, browser: &Browser, core: &str) -> Result<()> {
        let (text, expected) = if let Window(text) = self { (*text, 1) } else { ("", 0) };
        let windows = browser.close_other_windows(text).await?;
        ensure!(windows == expected, "{windows} windows stay open instead of {expected}");
        let (mut log, mut seen, mut console) = (NetworkLog::default(), Vec::new(), Vec::new());
        let found = eventually("the trace", TIMEOUT, async || match self {
            Responses(expected) => {
                browser.read_network_log(&mut log).await?;
                seen = log.responses(core, CORE_COOKIE);
                Ok(seen == *expected)
            }
            Console(part) => {
                console.extend(browser.take_console_errors().await?);
                let is_about =
                    |error: &String| error.contains(core_host(core)) && error.contains(part);
                Ok(console.iter().any(is_about))
            }
            Window(_) | Outcome => Ok(true),
        })
        .await;
        found.with_context(|| format!("responses: {seen:?}, console: {console:#?}"))
    }
}

/// The host and port of a site, which URLs of every scheme contain.
fn core_host(site: &str) -> &str {
    site.trim_start_matches("http://")
}

/// Signs in at a site, by the session at the admin.
async fn sign_in(browser: &Browser, site: &str) -> Result<()> {
    browser.open(&format!("{site}/.cial/sign-in?to=/.cial")).await?;
    browser.shows(EMAIL).await?;
    assert_eq!(browser.url().await?, format!("{site}/.cial"));
    Ok(())
}

async fn shows_user(browser: &Browser, site: &str) -> Result<bool> {
    browser.open(&format!("{site}/.cial")).await?;
    browser.shows("Cial Core").await?;
    Ok(browser.text().await?.contains(EMAIL))
}

/// The app reads the cookies that it sets itself, and no others.
async fn reads_no_cookie_of_ours(browser: &Browser, own: &str) -> Result<()> {
    let read = "
        const done = arguments[0];
        document.cookie = 'mark=1';
        cookieStore.getAll().then((all) => done([document.cookie, ...all.map((cookie) => cookie.name)]));
    ";
    browser.open(own).await?;
    assert_eq!(browser.script(read, vec![]).await?, json!(["mark=1", "mark"]));
    Ok(())
}

async fn a_return_path_leads_nowhere_else(browser: &Browser, core: &str) -> Result<()> {
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

/// The app leads its visitor through the end of a sign-in that another browser began, for the core's site.
async fn a_sign_in_of_another_browser_ends_in_none(
    browser: &Browser,
    installation: &Installation,
    (own, core): (&str, &str),
) -> Result<()> {
    let nonce = "n".repeat(43);
    let path = format!("/admin/tenants/{SLUG}/sign-in?nonce={nonce}&site=core&to=/.cial");
    browser.open(own).await?;
    let lead = "arguments[1](null); location = arguments[0];";
    browser.script(lead, vec![json!(installation.admin(&path))]).await?;
    browser.shows("in the browser that began to sign in").await?;
    ensure!(browser.url().await?.starts_with(core), "the token went elsewhere");
    ensure!(shows_user(browser, core).await?, "a foreign token ended the visitor's session");
    Ok(())
}

/// The app sets cookies for the whole domain. A second session cookie at the core counts as none until it is gone.
async fn a_planted_cookie_names_nobody(
    browser: &Browser,
    installation: &Installation,
    (own, core): (&str, &str),
) -> Result<()> {
    for path in ["/", "/.cial"] {
        for (value, age, is_signed_in) in [("planted", 60, false), ("", 0, true)] {
            browser.open(own).await?;
            let domain = &installation.domain;
            let cookie =
                format!("{CORE_COOKIE}={value}; Domain={domain}; Path={path}; Max-Age={age}");
            let plant = "document.cookie = arguments[0]; arguments[1](null)";
            browser.script(plant, vec![json!(cookie)]).await?;
            assert_eq!(shows_user(browser, core).await?, is_signed_in, "{cookie}");
        }
    }
    Ok(())
}

/// The service worker of the app takes the address with the token before it reaches the core.
async fn a_taken_token_signs_nobody_in_elsewhere(browser: &Browser, own: &str) -> Result<()> {
    browser.open(&format!("{own}/.cial/sign-in?to=/.cial")).await?;
    browser.shows("Taken: ").await?;
    let text = browser.text().await?;
    let address = text.strip_prefix("Taken: ").context("no address")?.trim().to_owned();
    ensure!(address.starts_with(&format!("{own}/.cial/sso?token=")), "no token in {address}");
    let thief = Browser::start("thief").await?;
    thief.open(&address).await?;
    thief.shows("in the browser that began to sign in").await?;
    ensure!(!shows_user(&thief, own).await?, "a taken token signed somebody in");
    thief.finish(&REFUSALS).await?;
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
