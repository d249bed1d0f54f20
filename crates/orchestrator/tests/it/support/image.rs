//! The stand-in's image: one static program, compiled here and built through the engine's API.

use std::collections::hash_map::DefaultHasher;
use std::fs;
use std::hash::{Hash as _, Hasher as _};
use std::path::Path;
use std::process::Command;

use bollard::Docker;
use bollard::query_parameters::BuildImageOptionsBuilder;
use futures_util::TryStreamExt as _;
use nix::unistd::geteuid;
use protocol::inside::DATA_DIR;
use tokio::sync::OnceCell;

const SOURCE: &str = include_str!("tenant.rs");
const REPO: &str = "cial-test-orchestrator";

/// Builds an image whose only program is the stand-in, and returns its tag. The image is kept for
/// later runs, because its tag identifies its content.
pub(crate) async fn tenant(docker: &Docker) -> String {
    static BUILT: OnceCell<String> = OnceCell::const_new();
    BUILT.get_or_init(async || build_tenant(docker).await).await.clone()
}

/// Like [`tenant`], on any engine.
pub(crate) async fn build_tenant(docker: &Docker) -> String {
    let mut hasher = DefaultHasher::new();
    (SOURCE, recipe("")).hash(&mut hasher);
    let name = format!("{REPO}:{:016x}", hasher.finish());
    if docker.inspect_image(&name).await.is_err() {
        build(docker, &name, &recipe(""), &compiled()).await;
    }
    name
}

/// An image with the stand-in where the tenant image has the supervisor and the core.
pub(crate) async fn overlay(docker: &Docker) -> String {
    let mut hasher = DefaultHasher::new();
    (SOURCE, OVERLAY).hash(&mut hasher);
    let name = format!("{REPO}:overlay-{:016x}", hasher.finish());
    if docker.inspect_image(&name).await.is_err() {
        build(docker, &name, OVERLAY, &compiled()).await;
    }
    name
}

const OVERLAY: &str = "FROM scratch\nCOPY tenant /usr/local/bin/supervisor\n\
    COPY --chown=1000:1000 tenant /opt/cial-core/edge\nCOPY --chown=1000:1000 tenant /opt/cial-core/core\n\
    ENTRYPOINT [\"supervisor\"]\n";

/// An image of an app: one file, and what the lines of its recipe say.
pub(crate) async fn app(docker: &Docker, tag: &str, lines: &str) -> String {
    app_with(docker, tag, lines, b"a program").await
}

/// The same with another content of the file.
pub(crate) async fn app_with(docker: &Docker, tag: &str, lines: &str, program: &[u8]) -> String {
    let name = name(tag);
    // The tag comes first: the engine builds equal beginnings once, and removes them with the first of the images.
    let recipe = format!("FROM scratch\nENV TAG={tag}\nCOPY tenant /bin/notes\n{lines}");
    build(docker, &name, &recipe, program).await;
    name
}

pub(crate) fn name(tag: &str) -> String {
    format!("{REPO}:{tag}")
}

/// An image whose entry point does not exist.
pub(crate) async fn broken(docker: &Docker, tag: &str) -> String {
    let name = name(tag);
    let recipe = format!("FROM scratch\nENV TAG={tag}\nCOPY tenant /\nENTRYPOINT [\"/nope\"]\n");
    build(docker, &name, &recipe, b"text").await;
    name
}

/// Makes `tag` name another image with the same program, as a rebuild does. The new id belongs to
/// no other tag. For equal recipes the engine would give one image, whose removal would take it
/// from the other tags, too.
pub(crate) async fn rebuild(docker: &Docker, tag: &str, round: u32) -> String {
    let name = name(tag);
    build(docker, &name, &recipe(&format!("ENV TAG={tag} ROUND={round}\n")), &compiled()).await;
    docker.inspect_image(&name).await.unwrap().id.unwrap()
}

/// Removes an image whose tag belongs to one test.
pub(crate) async fn remove(docker: &Docker, name: &str) {
    let none = None::<bollard::query_parameters::RemoveImageOptions>;
    docker.remove_image(name, none, None).await.unwrap();
}

fn recipe(more: &str) -> String {
    // The creator of the directories must be the user who opens sockets in them.
    let user = if geteuid().is_root() { 1000 } else { geteuid().as_raw() };
    // A new volume belongs to the user only if the image has a non-empty folder of that user in its
    // place. PID 1 without handlers ignores any signal but this.
    let stop = "STOPSIGNAL SIGKILL";
    format!(
        "FROM scratch\nCOPY tenant /tenant\nCOPY --chown={user}:{user} Dockerfile {DATA_DIR}/\nUSER {user}:{user}\n{stop}\n{more}ENTRYPOINT [\"/tenant\"]\n"
    )
}

async fn build(docker: &Docker, name: &str, recipe: &str, program: &[u8]) {
    let options = BuildImageOptionsBuilder::default().t(name).rm(true).forcerm(true).build();
    let context = archive(&[("Dockerfile", recipe.as_bytes()), ("tenant", program)]);
    let steps = docker.build_image(options, None, Some(bollard::body_full(context.into())));
    steps.try_collect::<Vec<_>>().await.unwrap();
}

/// Compiles the stand-in. Test processes that start together each need separate files.
fn compiled() -> Vec<u8> {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join(std::process::id().to_string());
    fs::create_dir_all(&directory).unwrap();
    let (source, program) = (directory.join("tenant.rs"), directory.join("tenant"));
    fs::write(&source, SOURCE).unwrap();
    let mut rustc = Command::new("rustc");
    rustc.args(["--edition=2024", "-Copt-level=s", "-Cstrip=symbols"]);
    rustc.args(["-Ctarget-feature=+crt-static", "-o"]).arg(&program).arg(&source);
    assert!(rustc.status().unwrap().success(), "the stand-in compiles");
    let compiled = fs::read(program).unwrap();
    fs::remove_dir_all(directory).unwrap();
    compiled
}

/// An archive of executable files.
fn archive(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    for (name, content) in files {
        let mut header = tar::Header::new_ustar();
        header.set_size(content.len() as u64);
        header.set_mode(0o755);
        archive.append_data(&mut header, name, *content).unwrap();
    }
    archive.into_inner().unwrap()
}
