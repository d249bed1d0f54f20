//! One owner at the admin, and one browser at a tenant's URL.

use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};
use testkit::{Client, Installation, Response, wait_for};

pub const EMAIL: &str = "owner@example.com";
pub const PASSWORD: &str = "a long enough pass phrase";
const NAME: &str = "Olivia Owner";
/// Bound of everything that the engine does: start, stop, remove a container.
pub const TIMEOUT: Duration = Duration::from_secs(60);

pub struct Session {
    pub installation: Installation,
    pub owner: Client,
    pub guest: Client,
    pub slug: String,
}

impl Session {
    /// A signed-in owner: the first session of an installation signs up, the others sign in.
    ///
    /// # Errors
    /// Neither succeeds.
    pub async fn of_owner(installation: &Installation, slug: &str) -> Result<Self> {
        let mut owner = Client::new("localhost", installation.admin_port);
        let account = json!({ "email": EMAIL, "password": PASSWORD, "name": NAME });
        let signed_up = owner.post("/api/auth/sign-up/email", &account).await?;
        if signed_up.status == 201 {
            let listed = owner.get("/api/admin/tenants").await?;
            listed.expect_status(200)?;
            let tenants = &listed.json()["tenants"];
            ensure!(*tenants == json!([]), "expected no tenants, got {}", listed.summary());
        } else {
            signed_up.expect_status(403)?;
            let account = json!({ "email": EMAIL, "password": PASSWORD });
            owner.post("/api/auth/sign-in/email", &account).await?.expect_status(200)?;
        }
        let guest = Client::new(&installation.tenant_host(slug), installation.router_port);
        Ok(Self { installation: installation.clone(), owner, guest, slug: slug.to_owned() })
    }

    /// [`Self::of_owner`] with a tenant that runs and answers, created unless it exists.
    ///
    /// # Errors
    /// The tenant never runs.
    pub async fn with_tenant(installation: &Installation, slug: &str) -> Result<Self> {
        let mut session = Self::of_owner(installation, slug).await?;
        if session.owner.get(&session.path("")).await?.status == 404 {
            session.create().await?;
        } else {
            // The tenant may have fallen asleep since the last test, and only a visit wakes it.
            session.url_answers(200).await?;
        }
        session.becomes("running").await?;
        session.url_answers(200).await?;
        Ok(session)
    }

    /// [`Self::with_tenant`], with the guest signed in as the owner.
    ///
    /// # Errors
    /// The sign-on fails.
    pub async fn signed_in(installation: &Installation, slug: &str) -> Result<Self> {
        let mut session = Self::with_tenant(installation, slug).await?;
        let address = session.open().await?;
        session.sign_on(&address).await?;
        Ok(session)
    }

    /// The path of this session's tenant in the admin API.
    pub fn path(&self, rest: &str) -> String {
        format!("/api/admin/tenants/{}{rest}", self.slug)
    }

    /// A client without a session, at the admin.
    pub fn anonymous(&self) -> Client {
        Client::new("localhost", self.installation.admin_port)
    }

    /// # Errors
    /// The API refuses, or answers with another URL.
    pub async fn create(&mut self) -> Result<()> {
        let body = json!({ "slug": self.slug, "name": "Acme Inc." });
        let created = self.owner.post("/api/admin/tenants", &body).await?;
        created.expect_status(201)?;
        let expected = self.installation.tenant_url(&self.slug);
        let url = created.json()["url"].as_str().unwrap_or_default().to_owned();
        let url = url.trim_end_matches('/');
        ensure!(url == expected, "expected the URL {expected}, got {url}");
        Ok(())
    }

    /// Calls `…/start`, `…/stop` or `…/restart`.
    ///
    /// # Errors
    /// The API refuses.
    pub async fn act(&mut self, action: &str) -> Result<()> {
        self.owner.post(&self.path(&format!("/{action}")), &Value::Null).await?.expect_status(202)
    }

    /// Waits until the owner reads this state; returns the tenant.
    ///
    /// # Errors
    /// The tenant never reaches the state.
    pub async fn becomes(&mut self, state: &str) -> Result<Value> {
        let path = self.path("");
        let owner = &mut self.owner;
        let (what, mut shown) = (format!("the state {state}"), Vec::new());
        let wanted = wait_for(&what, TIMEOUT, async || {
            let tenant = owner.get(&path).await?.json();
            let line = format!(
                "{} since {}, {}",
                tenant["state"], tenant["state_since"], tenant["state_reason"]
            );
            if shown.last() != Some(&line) {
                shown.push(line);
            }
            Ok((tenant["state"] == state).then_some(tenant))
        });
        match wanted.await {
            Ok(tenant) => Ok(tenant),
            Err(error) => bail!("{error:#}; {} was {}", self.slug, shown.join(", then ")),
        }
    }

    /// Waits until the tenant's URL answers with this status.
    ///
    /// # Errors
    /// The URL never does.
    pub async fn url_answers(&mut self, status: u16) -> Result<Response> {
        let guest = &mut self.guest;
        until(async || guest.get("/").await, |page| page.status == status).await
    }

    /// Waits until the tenant's page shows this text.
    ///
    /// # Errors
    /// The page never does.
    pub async fn shows(&mut self, text: &str) -> Result<Response> {
        let guest = &mut self.guest;
        until(async || guest.get("/").await, |page| page.body.contains(text)).await
    }

    /// Sets the seconds without use after which the tenant is frozen, and after which it sleeps; 0 is never.
    ///
    /// # Errors
    /// The API refuses.
    pub async fn set_policy(&mut self, freeze_after: u32, sleep_after: u32) -> Result<()> {
        let policy =
            json!({ "freeze_after_seconds": freeze_after, "sleep_after_seconds": sleep_after });
        let path = self.path("");
        self.owner.patch(&path, &json!({ "policy": policy })).await?.expect_status(200)
    }

    /// Follows *Open* from the admin to the tenant, which begins the sign-in in the guest, and from there through the
    /// admin. Returns the path and query with the token, to which this leads.
    ///
    /// # Errors
    /// *Open* leads somewhere else, or admits an anonymous client.
    pub async fn open(&mut self) -> Result<String> {
        let path = self.path("/open");
        self.anonymous().post(&path, &Value::Null).await?.expect_status(401)?;
        let tenant = self.installation.tenant_url(&self.slug);
        let begin = redirect(&self.owner.get(&path).await?, &tenant)?;
        let admin = self.installation.admin("");
        let through = redirect(&self.guest.get(&begin).await?, &admin)?;
        let address = redirect(&self.owner.get(&through).await?, &tenant)?;
        ensure!(address.starts_with("/.cial/sso?token="), "expected a token, got {address}");
        Ok(address)
    }

    /// Signs the owner in at the core's site; returns a client with the session there.
    ///
    /// # Errors
    /// The site does not lead through the admin and back.
    pub async fn sign_in_at_core(&mut self) -> Result<Client> {
        let (installation, label) = (&self.installation, format!("core--{}", self.slug));
        let site = installation.tenant_url(&label);
        let mut core = Client::new(&installation.tenant_host(&label), installation.router_port);
        let begun = core.get("/.cial/sign-in?to=/.cial").await?;
        let through = redirect(&begun, &installation.admin(""))?;
        let address = redirect(&self.owner.get(&through).await?, &site)?;
        let landed = core.get(&address).await?;
        landed.expect_status(303)?;
        ensure!(landed.location() == "/.cial", "expected /.cial, got {}", landed.location());
        Ok(core)
    }

    /// # Errors
    /// The token does not sign the guest in.
    pub async fn sign_on(&mut self, address: &str) -> Result<()> {
        let landed = self.guest.get(address).await?;
        landed.expect_status(303)?;
        ensure!(landed.location() == "/", "expected a redirect to /, got {}", landed.location());
        self.guest_is_owner().await
    }

    /// # Errors
    /// The tenant's page does not greet the owner.
    pub async fn guest_is_owner(&mut self) -> Result<()> {
        let page = self.guest.get("/").await?;
        page.expect_status(200)?;
        let greets = page.body.contains("signed in as") && page.body.contains(EMAIL);
        ensure!(greets, "expected \"signed in as … ({EMAIL})\", got {}", page.body);
        Ok(())
    }
}

/// The path and query of a redirect to this site.
fn redirect(response: &Response, site: &str) -> Result<String> {
    response.expect_status(303)?;
    let path = response.location().strip_prefix(site).map(str::to_owned);
    path.with_context(|| format!("expected a URL of {site}, got {}", response.location()))
}

/// Sends a request until its response is as wanted; a failure shows the last response.
///
/// # Errors
/// A request fails, or no response is as wanted in time.
pub async fn until(
    mut request: impl AsyncFnMut() -> Result<Response>,
    is_wanted: impl Fn(&Response) -> bool,
) -> Result<Response> {
    let mut last = String::new();
    let wanted = wait_for("the response", TIMEOUT, async || {
        let response = request().await?;
        last = response.summary();
        Ok(is_wanted(&response).then_some(response))
    });
    match wanted.await {
        Ok(response) => Ok(response),
        Err(error) if last.is_empty() => Err(error),
        Err(error) => bail!("{error:#}; the last one: {last}"),
    }
}
