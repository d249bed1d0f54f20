//! The image that is checked with a layer on top, for as long as it is needed. Nothing of such a layer is in any
//! other image.

use anyhow::Result;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

use super::stage::{Stage, remove_image};
use crate::images::build::{self, Recipe};

/// Builds the altered image, and hands back a stage for it.
pub(crate) async fn make(stage: &Stage, name: &str, layer: &str) -> Result<Stage> {
    let altered = stage.beside(name);
    let dockerfile = format!("ARG BASE\nFROM ${{BASE}}\n{layer}\n");
    let recipe = Recipe::inline(&altered.image, &dockerfile).base(&stage.image);
    build::build(&stage.docker, &recipe).await?;
    Ok(altered)
}

/// Removes what was run from it, and the image.
pub(crate) async fn discard(altered: &Stage) -> Result<()> {
    altered.clear().await?;
    remove_image(&altered.docker, &altered.image).await
}

/// A layer in which a program does something else first.
pub(crate) fn first(folder: &str, program: &str, act: &str) -> String {
    let path = format!("{folder}/{program}");
    let script = format!("#!/bin/bash\n{act}\nexec -a {program} {path}.kept \"$@\"\n");
    let script = BASE64.encode(script);
    format!(
        "RUN mv {path} {path}.kept && echo {script} | base64 -d > {path} \\\n    \
         && chmod 0755 {path} && chown --reference={path}.kept {path}"
    )
}
