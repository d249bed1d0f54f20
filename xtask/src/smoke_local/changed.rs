//! What tenants run, changed under the tag that they run: by an image that is broken, and by one that is built anew.

use anyhow::{Context as _, Result, ensure};
use bollard::Docker;
use bollard::query_parameters::TagImageOptionsBuilder;
use serde_json::{Value, json};

use super::faults::{Scene, patiently};
use super::journey::{self, expect};
use crate::images::build::{self, Recipe};
use crate::local;

/// Ends at once, and not well.
const BROKEN: &str = "ENTRYPOINT [\"/bin/false\"]";
/// Another image that does the same.
const REBUILT: &str = "LABEL cial.rebuilt=1";

/// The owner reads why the tenant does not run, and starts it again once it can.
pub(super) async fn broken(scene: &mut Scene<'_>) -> Result<()> {
    let tag = Tag::of(scene).await?;
    tag.put(&tag.like("broken", BROKEN).await?).await?;
    act(scene, "restart").await?;
    let tenant = becomes(scene, "error").await?;
    let reason = tenant["state_reason"].as_str().unwrap_or_default();
    ensure!(!reason.is_empty(), "expected a reason, saw {tenant}");
    tag.put(&tag.good).await?;
    act(scene, "start").await?;
    becomes(scene, "running").await?;
    scene.answers(journey::SLUG).await?;
    journey::sees_owner(&mut scene.cast).await
}

/// A tenant that runs is left alone; started anew, it runs the new image with the data that it had.
pub(super) async fn rebuilt(scene: &mut Scene<'_>) -> Result<()> {
    let tag = Tag::of(scene).await?;
    let rebuilt = tag.like("rebuilt", REBUILT).await?;
    tag.put(&rebuilt).await?;
    let runs = image_of_tenant(scene).await?;
    ensure!(runs == tag.good, "expected {}, before its next start, saw {runs}", tag.good);
    act(scene, "restart").await?;
    let moved =
        async || Ok(image_of_tenant(scene).await.is_ok_and(|runs| runs == rebuilt).then_some(()));
    patiently(moved).await.context("the image of the tenant's container")?;
    becomes(scene, "running").await?;
    scene.answers(journey::SLUG).await?;
    journey::sees_owner(&mut scene.cast).await?;
    tag.put(&tag.good).await
}

/// The tag that tenants of this installation run, with the image that it was built for.
struct Tag<'a> {
    docker: Docker,
    tag: &'a str,
    good: String,
}

impl<'a> Tag<'a> {
    async fn of(scene: &Scene<'a>) -> Result<Self> {
        let (docker, tag) = (scene.docker.clone(), scene.cast.installation.tenant_image.as_str());
        let is_own = tag.ends_with(&format!(":{}", scene.cast.installation.name));
        ensure!(is_own, "{tag} is others', too");
        let good = docker.inspect_image(tag).await?.id.context("an image without an id")?;
        Ok(Self { docker, tag, good })
    }

    /// An image like the good one but for a layer; its id.
    async fn like(&self, name: &str, layer: &str) -> Result<String> {
        let recipe = Recipe::inline(
            &format!("{}-{name}", self.tag),
            &format!("ARG BASE\nFROM ${{BASE}}\n{layer}\n"),
        )
        .base(self.tag);
        build::build(&self.docker, &recipe).await?;
        let made = self.docker.inspect_image(&format!("{}-{name}", self.tag)).await?;
        made.id.context("an image without an id")
    }

    async fn put(&self, image: &str) -> Result<()> {
        let (repository, version) = self.tag.split_once(':').context("a tag without a version")?;
        let options = TagImageOptionsBuilder::default().repo(repository).tag(version).build();
        Ok(self.docker.tag_image(image, Some(options)).await?)
    }
}

async fn act(scene: &mut Scene<'_>, what: &str) -> Result<()> {
    let path = format!("/api/admin/tenants/{}/{what}", journey::SLUG);
    expect(&scene.cast.owner.post(&path, &json!(null)).await?, 202)
}

async fn becomes(scene: &mut Scene<'_>, state: &str) -> Result<Value> {
    let path = format!("/api/admin/tenants/{}", journey::SLUG);
    let owner = &mut scene.cast.owner;
    let seen =
        journey::until(async || owner.get(&path).await, |answer| answer.json()["state"] == state);
    Ok(seen.await?.json())
}

async fn image_of_tenant(scene: &Scene<'_>) -> Result<String> {
    let found = local::of_tenant(&scene.docker, scene.cast.installation, journey::SLUG).await?;
    let id = found.first().context("the tenant has no container")?;
    let seen = scene.docker.inspect_container(id, None).await?;
    seen.image.context("a container without an image")
}
