//! An image with a layer on top of another one, for as long as a test needs it.

use std::collections::HashMap;

use anyhow::{Context as _, Result};
use bollard::Docker;
use bollard::query_parameters::{
    BuildImageOptionsBuilder, BuilderVersion, RemoveImageOptionsBuilder,
};
use bytes::Bytes;
use futures_util::TryStreamExt as _;

/// Builds `tag` from `base` and the lines of a Dockerfile.
///
/// # Errors
/// The build fails; the message holds what the engine reports.
pub async fn build_layer(
    docker: &Docker,
    tag: &str,
    base: &str,
    layer: &str,
    labels: &HashMap<String, String>,
) -> Result<()> {
    let dockerfile = format!("FROM {base}\n{layer}\n");
    let mut archive = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_ustar();
    header.set_size(dockerfile.len().try_into()?);
    header.set_mode(0o644);
    archive.append_data(&mut header, "Dockerfile", dockerfile.as_bytes())?;
    // Every engine has this builder, with or without BuildKit.
    let options = BuildImageOptionsBuilder::default()
        .t(tag)
        .labels(labels)
        .rm(true)
        .version(BuilderVersion::BuilderV1)
        .build();
    let body = bollard::body_full(Bytes::from(archive.into_inner()?));
    let steps = docker.build_image(options, None, Some(body));
    let built = steps.try_for_each(async |_| Ok(())).await;
    built.with_context(|| format!("cannot build {tag}"))
}

/// # Errors
/// The engine keeps the image.
pub async fn remove_image(docker: &Docker, image: &str) -> Result<()> {
    let options = RemoveImageOptionsBuilder::default().force(true).build();
    docker.remove_image(image, Some(options), None).await?;
    Ok(())
}
