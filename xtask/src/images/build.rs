//! One image from one Dockerfile, by `docker build`: with BuildKit where the command has its
//! plugin, otherwise with the classic builder, which every engine has. `CIAL_BUILDER=classic`
//! forces the latter.

use std::collections::BTreeMap;
use std::fmt;

use anyhow::{Context as _, Result};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use super::binaries::{BinarySet, BinarySource};
use super::context;
use crate::docker::Docker;
use crate::environment::{root, variable};

/// Label of every image of ours.
const MANAGED_LABEL: &str = "cial.managed";
/// Label with the hash of everything that went into an image.
const BUILD_LABEL: &str = "cial.build";
/// Value of `CIAL_BUILDER` for engines without BuildKit.
const CLASSIC: &str = "classic";

/// The input of one image.
#[derive(Clone, Debug)]
pub struct ImageSpec {
    tag: String,
    dockerfile: String,
    base: Option<String>,
    args: BTreeMap<String, String>,
    /// Files and folders of the checkout in the build context.
    context: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    UpToDate,
    Built,
    /// Somebody else's image has the tag.
    Foreign,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::UpToDate => "is up to date",
            Self::Built => "built",
            Self::Foreign => "is not ours: used as it is",
        })
    }
}

impl ImageSpec {
    /// The Dockerfile's path is relative to the checkout; the context is the folder `docker` at
    /// least.
    pub fn new(tag: &str, dockerfile: &str) -> Self {
        Self {
            tag: tag.to_owned(),
            dockerfile: dockerfile.to_owned(),
            base: None,
            args: BTreeMap::new(),
            context: vec!["docker".to_owned()],
        }
    }

    /// Replaces the folder `docker` by the files that the image depends on, so that no other change
    /// rebuilds it.
    #[must_use]
    pub fn context(mut self, parts: &[&str]) -> Self {
        self.context = parts.iter().map(|part| (*part).to_owned()).collect();
        self
    }

    /// Sets the build argument `BASE`. A changed base rebuilds the image.
    #[must_use]
    pub fn base(mut self, image: &str) -> Self {
        self.base = Some(image.to_owned());
        self.arg("BASE", image)
    }

    /// Sets the build argument `BINARIES`, and adds what that choice needs to the context.
    #[must_use]
    pub fn binaries(mut self, source: BinarySource, set: BinarySet) -> Self {
        match source {
            BinarySource::Prebuilt => self.context.push(format!("dist/{}", set.name())),
            BinarySource::Built => {
                let sources = ["Cargo.toml", "Cargo.lock", "bench", "crates", "xtask"];
                self.context.extend(sources.map(str::to_owned));
            }
        }
        self.arg("BINARIES", source.name())
    }

    #[must_use]
    pub fn arg(mut self, name: &str, value: &str) -> Self {
        self.args.insert(name.to_owned(), value.to_owned());
        self
    }

    fn is_prebuilt(&self) -> bool {
        self.args.get("BINARIES").is_some_and(|from| from == BinarySource::Prebuilt.name())
    }

    fn hash(&self, archive: &[u8], base_id: &str) -> String {
        let mut hash = Sha256::new();
        hash.update(format!("{:?}", (&self.dockerfile, &self.args, base_id)).as_bytes());
        hash.update(archive);
        hash.finalize().iter().take(16).map(|byte| format!("{byte:02x}")).collect()
    }
}

/// Whether the tag names an image that somebody else made. Such an image is used unchanged, and
/// this function prints that.
pub fn is_foreign(docker: &Docker, tag: &str) -> Result<bool> {
    let is_foreign = is_made_by_others(docker.image(tag)?.as_ref());
    if is_foreign {
        eprintln!("image {tag} is not ours: using it as it is");
    }
    Ok(is_foreign)
}

fn is_made_by_others(image: Option<&Value>) -> bool {
    image.is_some_and(|image| image["Config"]["Labels"][MANAGED_LABEL].is_null())
}

/// Builds an image unless the tag names one with the same input, or somebody else's.
pub fn build(docker: &Docker, spec: &ImageSpec) -> Result<Outcome> {
    if is_foreign(docker, &spec.tag)? {
        return Ok(Outcome::Foreign);
    }
    let archive = context::pack(&root(), &spec.context)?;
    let base_id = match &spec.base {
        Some(base) => docker.image(base)?.map(|image| image["Id"].to_string()),
        None => None,
    };
    let hash = spec.hash(&archive, &base_id.unwrap_or_default());
    let before = docker.image(&spec.tag)?.unwrap_or_default();
    if before["Config"]["Labels"][BUILD_LABEL] == hash.as_str() {
        return Ok(Outcome::UpToDate);
    }
    eprintln!("    building image {}", spec.tag);
    run(docker, spec, &hash, archive).with_context(|| format!("image {}", spec.tag))?;
    if let Some(id) = before["Id"].as_str() {
        // An image in use, or under another tag as well, stays.
        let _ = docker.run(&["image", "rm", id]);
    }
    Ok(Outcome::Built)
}

fn run(docker: &Docker, spec: &ImageSpec, hash: &str, archive: Vec<u8>) -> Result<()> {
    let has_buildkit = variable("CIAL_BUILDER").as_deref() != Some(CLASSIC)
        && docker.run(&["buildx", "version"]).is_ok();
    let mut words = vec![format!("--tag={}", spec.tag), format!("--file={}", spec.dockerfile)];
    words.extend(
        [MANAGED_LABEL, BUILD_LABEL]
            .iter()
            .zip(["1", hash])
            .map(|(name, value)| format!("--label={name}={value}")),
    );
    words.extend(spec.args.iter().map(|(name, value)| format!("--build-arg={name}={value}")));
    if let Some(base) = spec.base.as_ref().filter(|_| !has_buildkit && spec.is_prebuilt()) {
        // The classic builder runs every stage, also the one that compiles: any image is sufficient
        // for that stage.
        words.push(format!("--build-arg=RUST={base}"));
    }
    docker.build(&words, &archive, has_buildkit)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_an_image_with_our_label_is_replaced() {
        let labelled = |name: &str| json!({ "Config": { "Labels": { name: "1" } } });
        let cases = [
            (None, false),
            (Some(json!({ "Config": { "Labels": null } })), true),
            (Some(labelled("maintainer")), true),
            (Some(labelled(MANAGED_LABEL)), false),
        ];
        for (image, is_others) in cases {
            assert_eq!(is_made_by_others(image.as_ref()), is_others, "{image:?}");
        }
    }

    #[test]
    fn every_input_of_an_image_changes_its_hash() {
        let plain = ImageSpec::new("t", "docker/tenant.Dockerfile").base("b");
        let hash = plain.hash(b"files", "sha256:1");
        assert_eq!(hash, plain.hash(b"files", "sha256:1"));
        assert_ne!(hash, plain.hash(b"other", "sha256:1"));
        assert_ne!(hash, plain.hash(b"files", "sha256:2"));
        assert_ne!(hash, plain.clone().arg("X", "1").hash(b"files", "sha256:1"));
    }
}
