//! The image that tenants run, replaced under its tag: by one that is broken, and by one that is rebuilt.

use std::collections::HashMap;

use anyhow::{Context as _, Result, ensure};
use bollard::query_parameters::TagImageOptionsBuilder;
use e2e::session::TIMEOUT;
use testkit::engine::{build_layer, remove_image};
use testkit::eventually;

use super::engine::Fixture;

/// Exits at once, with a failure.
const BROKEN: &str = "ENTRYPOINT [\"/bin/false\"]";
/// Another image that does the same.
const REBUILT: &str = "LABEL cial.rebuilt=1";

/// The owner reads why the tenant does not run, and starts the tenant again once the tenant can
/// run.
pub(crate) async fn broken(fixture: &mut Fixture) -> Result<()> {
    let tag = Tag::of(fixture).await?;
    let broken = tag.derive(fixture, "broken", BROKEN).await?;
    tag.set(fixture, &broken).await?;
    fixture.session.act("restart").await?;
    let tenant = fixture.session.becomes("error").await?;
    let reason = tenant["state_reason"].as_str().unwrap_or_default();
    ensure!(!reason.is_empty(), "expected a reason, got {tenant}");
    tag.set(fixture, &tag.good).await?;
    fixture.session.act("start").await?;
    fixture.session.becomes("running").await?;
    fixture.url_answers(crate::SLUG).await?;
    fixture.session.guest_is_owner().await?;
    tag.remove_derived(fixture, "broken").await
}

/// A running tenant is left alone; a restarted one runs the new image with its data.
pub(crate) async fn rebuilt(fixture: &mut Fixture) -> Result<()> {
    let tag = Tag::of(fixture).await?;
    let rebuilt = tag.derive(fixture, "rebuilt", REBUILT).await?;
    tag.set(fixture, &rebuilt).await?;
    let running = image_of_tenant(fixture).await?;
    ensure!(running == tag.good, "expected {} before a restart, got {running}", tag.good);
    fixture.session.act("restart").await?;
    eventually("the new image", TIMEOUT, async || {
        Ok(image_of_tenant(fixture).await.is_ok_and(|running| running == rebuilt))
    })
    .await?;
    fixture.session.becomes("running").await?;
    fixture.url_answers(crate::SLUG).await?;
    fixture.session.guest_is_owner().await?;
    tag.set(fixture, &tag.good).await
}

/// The tag that tenants of this installation run, with the image that it was built for.
struct Tag {
    name: String,
    good: String,
}

impl Tag {
    async fn of(fixture: &Fixture) -> Result<Self> {
        let installation = &fixture.session.installation;
        let name = installation.tenant_image.clone();
        let is_own = name.ends_with(&format!(":{}", installation.name));
        ensure!(is_own, "other installations run {name}, too");
        let good =
            fixture.docker.inspect_image(&name).await?.id.context("an image without an id")?;
        Ok(Self { name, good })
    }

    /// Builds an image like the good one with a layer on top; returns its id.
    async fn derive(&self, fixture: &Fixture, suffix: &str, layer: &str) -> Result<String> {
        let tag = format!("{}-{suffix}", self.name);
        let labels = HashMap::from([("cial.managed".to_owned(), "1".to_owned())]);
        build_layer(&fixture.docker, &tag, &self.name, layer, &labels).await?;
        fixture.docker.inspect_image(&tag).await?.id.context("an image without an id")
    }

    async fn remove_derived(&self, fixture: &Fixture, suffix: &str) -> Result<()> {
        remove_image(&fixture.docker, &format!("{}-{suffix}", self.name)).await
    }

    async fn set(&self, fixture: &Fixture, image: &str) -> Result<()> {
        let (repository, tag) = self.name.split_once(':').context("a tag without a version")?;
        let options = TagImageOptionsBuilder::default().repo(repository).tag(tag).build();
        Ok(fixture.docker.tag_image(image, Some(options)).await?)
    }
}

async fn image_of_tenant(fixture: &Fixture) -> Result<String> {
    let tenant = fixture.tenant().await?;
    Ok(tenant.inspected["Image"].as_str().context("a container without an image")?.to_owned())
}
