//! One image from one Dockerfile, by `docker build`: with BuildKit where the command has its plugin, otherwise with
//! the classic builder, which every engine has. `CIAL_BUILDER=classic` forces the latter.
//!
//! The builder's own cache decides what is out of date: it compares the files, and neither their dates nor their owners.

use anyhow::{Context as _, Result};
use docker_command::{Docker, pack_context};
use protocol::id::labels::MANAGED;
use serde_json::Value;

use super::binaries::BinarySource;
use crate::environment::{name_of, root, variable};

/// Everything that a stage needs to compile the workspace.
const SOURCES: [&str; 6] = ["Cargo.toml", "Cargo.lock", "bench", "crates", "fuzz", "xtask"];

pub(super) const FOREIGN: &str = "is not ours: used as it is";

/// The input of one image.
#[derive(Clone, Debug)]
pub(crate) struct ImageSpec {
    tag: String,
    base: String,
    arguments: Vec<String>,
    /// Files and folders of the checkout in the build context.
    context: Vec<String>,
    is_prebuilt: bool,
}

impl ImageSpec {
    /// An image from a Dockerfile of the checkout, on a base. Its context is the folder `docker`.
    pub(crate) fn new(tag: &str, dockerfile: &str, base: &str) -> Self {
        Self {
            tag: tag.to_owned(),
            base: base.to_owned(),
            arguments: vec![format!("--file={dockerfile}"), format!("--build-arg=BASE={base}")],
            context: vec!["docker".to_owned()],
            is_prebuilt: false,
        }
    }

    /// Adds what the source of the binaries needs to the context.
    #[must_use]
    pub(crate) fn binaries(mut self, source: BinarySource, set: &str) -> Self {
        self.is_prebuilt = source == BinarySource::Prebuilt;
        match source {
            BinarySource::Prebuilt => self.context.push(format!("dist/{set}")),
            BinarySource::Built => self.context.extend(SOURCES.map(str::to_owned)),
        }
        self.argument("BINARIES", &name_of(source))
    }

    /// Chooses the image of the stage that compiles, in place of the Dockerfile's.
    #[must_use]
    pub(crate) fn compiler(self, image: Option<&str>) -> Self {
        match image {
            Some(image) => self.argument("RUST", image),
            None => self,
        }
    }

    #[must_use]
    pub(crate) fn argument(mut self, name: &str, value: &str) -> Self {
        self.arguments.push(format!("--build-arg={name}={value}"));
        self
    }
}

/// Whether the tag names an image that somebody else made. Such an image is used unchanged, and
/// this function prints that.
pub(crate) fn is_foreign(docker: &Docker, tag: &str) -> Result<bool> {
    let is_foreign = is_made_by_others(docker.image(tag)?.as_ref());
    if is_foreign {
        eprintln!("image {tag} is not ours: using it as it is");
    }
    Ok(is_foreign)
}

fn is_made_by_others(image: Option<&Value>) -> bool {
    image.is_some_and(|image| image["Config"]["Labels"][MANAGED].is_null())
}

/// Builds an image, unless the tag names somebody else's. Returns what came of it, for a person.
pub(crate) fn build(docker: &Docker, spec: &ImageSpec) -> Result<&'static str> {
    let tag = &spec.tag;
    if is_foreign(docker, tag)? {
        return Ok(FOREIGN);
    }
    let id =
        || anyhow::Ok(docker.image(tag)?.unwrap_or_default()["Id"].as_str().map(str::to_owned));
    let before = id()?;
    run(docker, spec).with_context(|| format!("image {tag}"))?;
    if before == id()? {
        return Ok("is up to date");
    }
    eprintln!("    built image {tag}");
    if let Some(before) = before {
        // An image in use, or under another tag as well, stays.
        let _ = docker.run(&["image", "rm", &before]);
    }
    Ok("built")
}

fn run(docker: &Docker, spec: &ImageSpec) -> Result<()> {
    let has_buildkit = variable("CIAL_BUILDER").as_deref() != Some("classic")
        && docker.run(&["buildx", "version"]).is_ok();
    let mut args = vec![format!("--tag={}", spec.tag), format!("--label={MANAGED}=1")];
    args.extend_from_slice(&spec.arguments);
    if !has_buildkit && spec.is_prebuilt {
        // The classic builder runs every stage, also the one that compiles: any image is sufficient
        // for that stage. The last value of an argument holds.
        args.push(format!("--build-arg=RUST={}", spec.base));
    }
    docker.build(&args, pack_context(&root(), &spec.context)?, has_buildkit)
}

#[test]
fn only_an_image_with_our_label_is_replaced() {
    let labelled = |name: &str| serde_json::json!({ "Config": { "Labels": { name: "1" } } });
    let cases = [
        (None, false),
        (Some(serde_json::json!({ "Config": { "Labels": null } })), true),
        (Some(labelled("maintainer")), true),
        (Some(labelled(MANAGED)), false),
    ];
    for (image, is_others) in cases {
        assert_eq!(is_made_by_others(image.as_ref()), is_others, "{image:?}");
    }
}

/// The stage that compiles needs a manifest of every member of the workspace.
#[test]
fn sources_of_an_image_hold_the_whole_workspace() {
    let manifest = include_str!("../../../Cargo.toml");
    let members = manifest.lines().find(|line| line.starts_with("members")).unwrap();
    let ignored = include_str!("../../../.dockerignore");
    for member in members.split('"').skip(1).step_by(2) {
        let folder = member.split('/').next().unwrap();
        assert!(SOURCES.contains(&folder), "{folder}");
        assert!(ignored.lines().any(|line| line == format!("!{folder}")), "{folder}");
    }
}
