//! One image from one Dockerfile, through the engine's own BuildKit: no CLI, no plugin. Engines that have none
//! (podman's socket) build with `CIAL_BUILDER=classic`.

use std::collections::{BTreeMap, HashMap};
use std::fmt;

use anyhow::{Context as _, Result, anyhow};
use bollard::Docker;
use bollard::errors::Error as EngineError;
use bollard::models::{BuildInfo, BuildInfoAux};
use bollard::query_parameters::{BuildImageOptionsBuilder, BuilderVersion};
use bytes::Bytes;
use futures_util::StreamExt as _;
use sha2::{Digest as _, Sha256};

use super::binaries::{Binaries, Set};
use super::context;
use crate::world;

/// On every image of ours.
const MANAGED: &str = "cial.managed";
/// Hash of all that went into an image.
const BUILD: &str = "cial.build";
/// Value of `CIAL_BUILDER` for engines without BuildKit.
const CLASSIC: &str = "classic";
/// How much is shown of a step.
const WIDTH: usize = 100;
/// How much of a failed build's output is shown.
const TAIL: usize = 40;

/// What one image is made from.
#[derive(Clone, Debug)]
pub struct Recipe {
    tag: String,
    dockerfile: String,
    target: String,
    base: Option<String>,
    args: BTreeMap<String, String>,
    /// Files and folders of the checkout that the build sees.
    context: Vec<String>,
    /// A Dockerfile that is no file of the checkout.
    inline: Option<String>,
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

impl Recipe {
    /// The Dockerfile's path is relative to the checkout; the build sees the folder `docker` at least.
    pub fn new(tag: &str, dockerfile: &str) -> Self {
        Self {
            tag: tag.to_owned(),
            dockerfile: dockerfile.to_owned(),
            target: String::new(),
            base: None,
            args: BTreeMap::new(),
            context: vec!["docker".to_owned()],
            inline: None,
        }
    }

    /// From the text of a Dockerfile; the build sees nothing else.
    pub fn inline(tag: &str, text: &str) -> Self {
        let inline = Some(text.to_owned());
        Self { context: Vec::new(), inline, ..Self::new(tag, "Dockerfile") }
    }

    /// Instead of the folder `docker`: only what the image really depends on, so that nothing else makes it anew.
    #[must_use]
    pub fn sees(mut self, parts: &[&str]) -> Self {
        self.context = parts.iter().map(|part| (*part).to_owned()).collect();
        self
    }

    /// Build argument `BASE`. The image is built anew when the base changes.
    #[must_use]
    pub fn base(mut self, image: &str) -> Self {
        self.base = Some(image.to_owned());
        self.arg("BASE", image)
    }

    /// Build argument `BINARIES`, and in the context what that choice needs.
    #[must_use]
    pub fn binaries(mut self, binaries: Binaries, set: Set) -> Self {
        match binaries {
            Binaries::Prebuilt => self.context.push(format!("dist/{}", set.name())),
            Binaries::Built => {
                let sources = ["Cargo.toml", "Cargo.lock", "crates", "xtask"];
                self.context.extend(sources.map(str::to_owned));
            }
        }
        self.arg("BINARIES", binaries.name())
    }

    #[must_use]
    pub fn arg(mut self, name: &str, value: &str) -> Self {
        self.args.insert(name.to_owned(), value.to_owned());
        self
    }

    /// The stage to stop at; the last one otherwise.
    #[must_use]
    pub fn target(mut self, stage: &str) -> Self {
        self.target = stage.to_owned();
        self
    }

    fn is_prebuilt(&self) -> bool {
        self.args.get("BINARIES").is_some_and(|from| from == Binaries::Prebuilt.name())
    }

    fn hash(&self, archive: &[u8], base_id: &str) -> String {
        let mut hash = Sha256::new();
        let recipe = format!("{:?}", (&self.dockerfile, &self.target, &self.args, base_id));
        hash.update(recipe.as_bytes());
        hash.update(archive);
        hash.finalize().iter().take(16).map(|byte| format!("{byte:02x}")).collect()
    }
}

/// Whether the tag already names an image that we did not make. Such an image is wanted as it is, and never
/// built over; that is said here.
pub async fn is_foreign(docker: &Docker, tag: &str) -> Result<bool> {
    let labels = match docker.inspect_image(tag).await {
        Ok(image) => Some(image.config.and_then(|config| config.labels).unwrap_or_default()),
        Err(EngineError::DockerResponseServerError { status_code: 404, .. }) => None,
        Err(error) => return Err(error).with_context(|| format!("cannot look for image {tag}")),
    };
    let is_foreign = is_anothers(labels.as_ref());
    if is_foreign {
        eprintln!("image {tag} is not ours: using it as it is");
    }
    Ok(is_foreign)
}

/// `labels` of an image, if there is one.
fn is_anothers(labels: Option<&HashMap<String, String>>) -> bool {
    labels.is_some_and(|labels| !labels.contains_key(MANAGED))
}

/// Builds an image, unless the one under its tag was made from the same things or is somebody else's.
pub async fn build(docker: &Docker, recipe: &Recipe) -> Result<Outcome> {
    if is_foreign(docker, &recipe.tag).await? {
        return Ok(Outcome::Foreign);
    }
    let archive = match &recipe.inline {
        Some(text) => context::pack_text(&recipe.dockerfile, text)?,
        None => context::pack(&world::root(), &recipe.context)?,
    };
    let base_id = match &recipe.base {
        Some(base) => docker.inspect_image(base).await.ok().and_then(|image| image.id),
        None => None,
    };
    let hash = recipe.hash(&archive, &base_id.unwrap_or_default());
    let before = docker.inspect_image(&recipe.tag).await.ok();
    let labels = before.as_ref().and_then(|i| i.config.as_ref()).and_then(|c| c.labels.clone());
    let labels = labels.unwrap_or_default();
    if labels.get(BUILD) == Some(&hash) {
        return Ok(Outcome::UpToDate);
    }
    eprintln!("building image {}", recipe.tag);
    run(docker, recipe, &hash, archive).await.with_context(|| format!("image {}", recipe.tag))?;
    if let Some(id) = before.and_then(|image| image.id).filter(|_| labels.contains_key(MANAGED)) {
        // In use by a container, or under another tag as well: then it stays.
        let _ = docker.remove_image(&id, None::<Unforced>, None).await;
    }
    Ok(Outcome::Built)
}

type Unforced = bollard::query_parameters::RemoveImageOptions;

async fn run(docker: &Docker, recipe: &Recipe, hash: &str, archive: Vec<u8>) -> Result<()> {
    let is_classic = world::var("CIAL_BUILDER").as_deref() == Some(CLASSIC);
    let labels = HashMap::from([(MANAGED, "1"), (BUILD, hash)]);
    let mut args: HashMap<_, _> = recipe.args.clone().into_iter().collect();
    if let Some(base) = recipe.base.clone().filter(|_| is_classic && recipe.is_prebuilt()) {
        // This builder runs every stage, also the one that would compile: there any image will do.
        args.insert("RUST".to_owned(), base);
    }
    let options = BuildImageOptionsBuilder::default()
        .t(&recipe.tag)
        .dockerfile(&recipe.dockerfile)
        .target(&recipe.target)
        .buildargs(&args)
        .labels(&labels);
    let options = match is_classic {
        true => options.version(BuilderVersion::BuilderV1),
        false => {
            let session = format!("cial-{hash}-{}", std::process::id());
            options.version(BuilderVersion::BuilderBuildKit).session(&session)
        }
    };
    let mut output = Output::default();
    let mut steps =
        docker.build_image(options.build(), None, Some(bollard::body_full(Bytes::from(archive))));
    while let Some(step) = steps.next().await {
        match step {
            Ok(info) => output.take(info),
            Err(error) if output.is_empty() && !is_classic => {
                return Err(anyhow!(
                    "{error} (an engine without BuildKit: set CIAL_BUILDER={CLASSIC})"
                ));
            }
            Err(error) => return Err(output.explain(&error)),
        }
    }
    Ok(())
}

/// What a build says, kept for the case that it fails.
#[derive(Default)]
struct Output {
    steps: usize,
    lines: Vec<String>,
}

impl Output {
    /// Whether the build did not even begin.
    fn is_empty(&self) -> bool {
        self.steps == 0 && self.lines.is_empty()
    }

    fn take(&mut self, info: BuildInfo) {
        self.lines.extend(info.stream.iter().flat_map(|text| text.lines()).map(str::to_owned));
        let Some(BuildInfoAux::BuildKit(status)) = info.aux else { return };
        self.steps += status.vertexes.len();
        for vertex in status.vertexes.iter().filter(|v| v.started.is_some() && !v.cached) {
            if vertex.completed.is_none() && vertex.name.starts_with('[') {
                eprintln!("  {}", vertex.name.chars().take(WIDTH).collect::<String>());
            }
        }
        for log in status.logs {
            let text = String::from_utf8_lossy(&log.msg).into_owned();
            self.lines.extend(text.lines().map(str::to_owned));
        }
    }

    fn explain(&self, error: &bollard::errors::Error) -> anyhow::Error {
        let from = self.lines.len().saturating_sub(TAIL);
        let tail = self.lines[from..].join("\n");
        let text = if tail.is_empty() { error.to_string() } else { format!("{error}\n{tail}") };
        anyhow!("the build failed: {text}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_image_with_our_label_is_built_over() {
        let labelled = |name: &str| HashMap::from([(name.to_owned(), "1".to_owned())]);
        let cases = [
            (None, false),
            (Some(HashMap::new()), true),
            (Some(labelled("maintainer")), true),
            (Some(labelled(MANAGED)), false),
        ];
        for (labels, anothers) in cases {
            assert_eq!(is_anothers(labels.as_ref()), anothers, "{labels:?}");
        }
    }

    #[test]
    fn whatever_goes_into_an_image_goes_into_its_hash() {
        let plain = Recipe::new("t", "docker/tenant.Dockerfile").base("b");
        let hash = plain.hash(b"files", "sha256:1");
        assert_eq!(hash, plain.hash(b"files", "sha256:1"));
        assert_ne!(hash, plain.hash(b"other", "sha256:1"));
        assert_ne!(hash, plain.hash(b"files", "sha256:2"));
        assert_ne!(hash, plain.clone().arg("X", "1").hash(b"files", "sha256:1"));
        assert_ne!(hash, plain.clone().target("s").hash(b"files", "sha256:1"));
    }
}
