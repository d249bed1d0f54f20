//! Wraps an image for tenants: the supervisor, the edge and the core of the installation's own tenant
//! image are laid over it, and the result is kept under a tag of ours.
//!
//! The engine copies the files between two containers that never start, and commits the second. No
//! program of the image runs, so the image needs no shell, no accounts and no libraries.

mod program;

use std::collections::BTreeMap;

use bollard::Docker as Client;
use bollard::models::{ContainerConfig, ContainerCreateBody, ImageInspect};
use bollard::query_parameters::{
    CommitContainerOptionsBuilder, CreateContainerOptionsBuilder,
    DownloadFromContainerOptionsBuilder, ListImagesOptionsBuilder, RemoveImageOptionsBuilder,
    UploadToContainerOptionsBuilder,
};
use bytes::Bytes;
use futures_util::TryStreamExt as _;
use protocol::images::{RegistryImage, Repository};
use protocol::inside::{AGENT_UID, CIAL_UID};
use protocol::process::{AppProcess, AppSpec, PreparedImage};
use protocol::spec::Spec;
use tokio::sync::RwLockReadGuard;

use self::program::{ImageProgram, refused};
use super::DockerDriver;
use super::engine::{ACTION_TIMEOUT, INSPECT_TIMEOUT, optional, status, with_timeout};
use crate::driver::{DriverError, DriverErrorCode};

/// The id of the image that was wrapped.
const SOURCE_LABEL: &str = "cial.app.source";
/// The id of the tenant image whose files were laid over it.
const OVERLAY_LABEL: &str = "cial.app.overlay";
/// The [`ImageProgram`] as JSON.
const PROGRAM_LABEL: &str = "cial.app.program";
/// The containers that a wrapping needs. They never start, and an installation wraps one image at a time. They are found by
/// name: a committed image inherits the labels of its container, and a tenant's container those of its image.
const WORK_ROLES: [&str; 2] = ["overlay", "target"];

/// The image of a tenant's container.
pub(super) struct TenantImage<'a> {
    pub(super) tag: String,
    /// The program of an app, in a wrapped image; `None` is an image of ours.
    pub(super) app: Option<WrappedApp>,
    /// While the guard lives, no wrapped image is removed.
    _in_use: Option<RwLockReadGuard<'a, ()>>,
}

pub(super) struct WrappedApp {
    pub(super) process: AppProcess,
    /// Folders that the program may write to.
    pub(super) volumes: Vec<String>,
}

impl TenantImage<'_> {
    /// An image of ours.
    pub(super) fn own(tag: &str) -> Self {
        Self { tag: tag.to_owned(), app: None, _in_use: None }
    }
}

/// A wrapped image on the engine.
struct Wrapped {
    tag: String,
    source_id: String,
    program: ImageProgram,
}

/// A source image and the tenant image that is laid over it.
struct ImagePair {
    source_id: String,
    overlay_id: String,
    source: ImageInspect,
}

impl DockerDriver {
    /// The image for a spec. Wraps an app's image that is not wrapped yet.
    pub(super) async fn tenant_image(
        &self,
        client: &Client,
        spec: &Spec,
    ) -> Result<TenantImage<'_>, DriverError> {
        let tag = self.template.image(spec);
        let Some(app) = &spec.app else {
            return Ok(TenantImage::own(tag));
        };
        let images = self.find_images(client, tag).await?;
        let (wrapped, in_use) = self.wrapped(client, &images).await?;
        let process = wrapped.program.merge(&wrapped.source_id, app, &spec.env)?;
        let app = WrappedApp { process, volumes: wrapped.program.volumes().to_vec() };
        Ok(TenantImage { tag: wrapped.tag, app: Some(app), _in_use: Some(in_use) })
    }

    pub(super) async fn prepare(
        &self,
        image: &str,
        app: &AppSpec,
    ) -> Result<PreparedImage, DriverError> {
        let client = self.engine.client().await?;
        let registry_image = RegistryImage::parse(image).ok().flatten();
        let name = registry_image.as_ref().map_or_else(|| image.to_owned(), ToString::to_string);
        // A release that is refused leaves no wrapped image.
        let images = self.find_images(&client, &name).await?;
        let repository_digest = registry_image.and_then(|image| {
            let digests = images.source.repo_digests.iter().flatten();
            repository_digest(image.repository(), digests.map(String::as_str))
        });
        let program = read_program(&images.source)?;
        let process = program.merge(&images.source_id, app, &BTreeMap::new())?;
        let (wrapped, _in_use) = self.wrapped(&client, &images).await?;
        let AppProcess { command, port, .. } = process;
        Ok(PreparedImage { image_id: wrapped.source_id, repository_digest, command, port })
    }

    async fn wrapped(
        &self,
        client: &Client,
        images: &ImagePair,
    ) -> Result<(Wrapped, RwLockReadGuard<'_, ()>), DriverError> {
        let tag = self.wrapped_tag(images);
        let in_use = self.wrapping.read().await;
        self.removals.check(&images.source_id)?;
        if let Some(found) = find_wrapped(client, &tag, images).await? {
            return Ok((found, in_use));
        }
        drop(in_use);
        let alone = self.wrapping.write().await;
        self.removals.check(&images.source_id)?;
        // Another caller may have wrapped the image meanwhile.
        let wrapped = match find_wrapped(client, &tag, images).await? {
            Some(found) => found,
            None => self.wrap(client, &tag, images).await?,
        };
        Ok((wrapped, alone.downgrade()))
    }

    /// The tag names both images, so that a rebuild of either makes another wrapped image.
    fn wrapped_tag(&self, images: &ImagePair) -> String {
        let short =
            |id: &str| id.trim_start_matches("sha256:").chars().take(16).collect::<String>();
        let (source, overlay) = (short(&images.source_id), short(&images.overlay_id));
        format!("cial-app-{}:{source}-{overlay}", self.template.install)
    }

    async fn find_images(&self, client: &Client, source: &str) -> Result<ImagePair, DriverError> {
        let ((source_id, source), (overlay_id, overlay)) =
            tokio::try_join!(inspect(client, source), inspect(client, &self.template.image))?;
        let platform = |image: &ImageInspect| {
            let text = |text: &Option<String>| text.clone().unwrap_or_default();
            format!("{}/{}", text(&image.os), text(&image.architecture))
        };
        let (found, needed) = (platform(&source), platform(&overlay));
        if found != needed {
            let reason = format!("The image is for {found}, and this machine runs {needed}.");
            return Err(refused(reason, "Build the image for this machine."));
        }
        Ok(ImagePair { source_id, overlay_id, source })
    }

    async fn wrap(
        &self,
        client: &Client,
        tag: &str,
        images: &ImagePair,
    ) -> Result<Wrapped, DriverError> {
        let program = read_program(&images.source)?;
        // Leftovers of a wrapping that was interrupted.
        self.remove_work(client).await?;
        let made = self.lay_over(client, tag, images, &program).await;
        let removed = self.remove_work(client).await;
        made.and(removed)?;
        tracing::info!(image = %images.source_id, wrapped = %tag, "image wrapped");
        Ok(Wrapped { tag: tag.to_owned(), source_id: images.source_id.clone(), program })
    }

    async fn lay_over(
        &self,
        client: &Client,
        tag: &str,
        images: &ImagePair,
        program: &ImageProgram,
    ) -> Result<(), DriverError> {
        let [overlay, target] = WORK_ROLES;
        let overlay = self.create_work(client, overlay, &images.overlay_id).await?;
        let target = self.create_work(client, target, &images.source_id).await?;
        let core = download(client, &overlay, "/opt/cial-core").await?;
        let supervisor = download(client, &overlay, "/usr/local/bin/supervisor").await?;
        upload(client, &target, "/", skeleton(program.volumes(), PlatformFolders::Emptied).into())
            .await?;
        upload(client, &target, "/opt", core).await?;
        upload(client, &target, "/opt/cial", supervisor).await?;
        // The first time for the places, and again for owners and modes.
        upload(client, &target, "/", skeleton(program.volumes(), PlatformFolders::Kept).into())
            .await?;
        let (repo, version) = tag.split_once(':').unwrap_or((tag, "latest"));
        let options = CommitContainerOptionsBuilder::default()
            .container(&target)
            .repo(repo)
            .tag(version)
            .pause(false)
            .build();
        let mut labels = self.template.own_labels();
        labels.insert(SOURCE_LABEL.to_owned(), images.source_id.clone());
        labels.insert(OVERLAY_LABEL.to_owned(), images.overlay_id.clone());
        labels.insert(PROGRAM_LABEL.to_owned(), serde_json::to_string(program).unwrap_or_default());
        let config = ContainerConfig { labels: Some(labels), ..ContainerConfig::default() };
        with_timeout(ACTION_TIMEOUT, client.commit_container(options, config)).await?;
        Ok(())
    }

    /// Creates a container that is never started. Its entry point is never looked up.
    async fn create_work(
        &self,
        client: &Client,
        role: &str,
        image: &str,
    ) -> Result<String, DriverError> {
        let body = ContainerCreateBody {
            image: Some(image.to_owned()),
            // The engine never looks it up.
            entrypoint: Some(vec!["/never".to_owned()]),
            network_disabled: Some(true),
            labels: Some(self.template.own_labels()),
            ..ContainerCreateBody::default()
        };
        let name = self.work_name(role);
        let options = CreateContainerOptionsBuilder::default().name(&name).build();
        let made = client.create_container(Some(options), body);
        Ok(with_timeout(ACTION_TIMEOUT, made).await?.id)
    }

    async fn remove_work(&self, client: &Client) -> Result<(), DriverError> {
        for role in WORK_ROLES {
            self.remove_container(client, &self.work_name(role)).await?;
        }
        Ok(())
    }

    fn work_name(&self, role: &str) -> String {
        format!("cial-app-{}-{role}", self.template.install)
    }

    /// Whether a wrapped image exists that is made from this image. A container uses it, or is about to.
    pub(super) async fn is_wrapped(
        &self,
        client: &Client,
        source_id: &str,
    ) -> Result<bool, DriverError> {
        let mut filters = self.template.filters(None);
        let label = format!("{SOURCE_LABEL}={source_id}");
        filters.entry("label".to_owned()).or_default().push(label);
        let wanted = ListImagesOptionsBuilder::default().filters(&filters).build();
        let images = with_timeout(INSPECT_TIMEOUT, client.list_images(Some(wanted))).await?;
        Ok(!images.is_empty())
    }

    /// Removes wrapped images that no container is made from: those of one image, or all. Best effort: the next removal tries
    /// again.
    pub(super) async fn remove_unused_images(&self, client: &Client, source_id: Option<&str>) {
        // Somebody who creates a container needs the images.
        let Ok(_alone) = self.wrapping.try_write() else { return };
        let mut filters = self.template.filters(None);
        let label = source_id.map(|id| format!("{SOURCE_LABEL}={id}"));
        let label = label.unwrap_or_else(|| SOURCE_LABEL.to_owned());
        filters.entry("label".to_owned()).or_default().push(label);
        let wanted = ListImagesOptionsBuilder::default().filters(&filters).build();
        let images = with_timeout(INSPECT_TIMEOUT, client.list_images(Some(wanted))).await;
        let images = images.unwrap_or_default();
        for tag in images.into_iter().flat_map(|image| image.repo_tags) {
            // Without `noprune`, the engine also removes the app's own image when that has no tag.
            let options = RemoveImageOptionsBuilder::default().noprune(true).build();
            let removed = client.remove_image(&tag, Some(options), None);
            match tokio::time::timeout(ACTION_TIMEOUT, removed).await {
                Ok(Ok(_)) => tracing::info!(wrapped = %tag, "unused image removed"),
                // A container is made from the image, or somebody removed the image.
                Ok(Err(error)) if matches!(status(&error), Some(404 | 409)) => {}
                Ok(Err(error)) => tracing::warn!(wrapped = %tag, %error, "image removal failed"),
                Err(_) => tracing::warn!(wrapped = %tag, "image removal timed out"),
            }
        }
    }
}

/// The image as its repository names it for ever, by the digests that the engine lists.
fn repository_digest<'a>(
    repository: &Repository,
    mut listed: impl Iterator<Item = &'a str>,
) -> Option<String> {
    let of_repository = |name: &&str| Repository::of_listed(name).as_ref() == Some(repository);
    let (_, digest) = listed.find(of_repository)?.split_once('@')?;
    Some(format!("{repository}@{digest}"))
}

/// Inspects an image that must exist, and returns the id with it.
async fn inspect(client: &Client, name: &str) -> Result<(String, ImageInspect), DriverError> {
    let found = optional(INSPECT_TIMEOUT, client.inspect_image(name)).await?;
    let found = found.and_then(|image| Some((image.id.clone()?, image)));
    found.ok_or_else(|| {
        let remedy = "Build or load it, or name it with its registry, like registry.example.com/notes:1.4: then it is pulled.";
        let detail = format!("The engine has no image {name}. {remedy}");
        DriverError::new(DriverErrorCode::ImageMissing, detail)
    })
}

fn read_program(image: &ImageInspect) -> Result<ImageProgram, DriverError> {
    ImageProgram::read(&image.config.clone().unwrap_or_default())
}

/// Finds the wrapped image of exactly these images.
async fn find_wrapped(
    client: &Client,
    tag: &str,
    images: &ImagePair,
) -> Result<Option<Wrapped>, DriverError> {
    let found = optional(INSPECT_TIMEOUT, client.inspect_image(tag)).await?;
    let labels = found.and_then(|image| image.config).and_then(|config| config.labels);
    let Some(labels) = labels else { return Ok(None) };
    let has = |label: &str, id: &String| labels.get(label) == Some(id);
    let fits = has(SOURCE_LABEL, &images.source_id) && has(OVERLAY_LABEL, &images.overlay_id);
    let program = labels.get(PROGRAM_LABEL).filter(|_| fits);
    let program = program.and_then(|json| serde_json::from_str(json).ok());
    let source_id = images.source_id.clone();
    Ok(program.map(|program| Wrapped { tag: tag.to_owned(), source_id, program }))
}

/// Reads a path of a container as a tar, with the owners and modes of the files.
async fn download(client: &Client, container: &str, path: &str) -> Result<Bytes, DriverError> {
    let options = DownloadFromContainerOptionsBuilder::default().path(path).build();
    let pieces = client.download_from_container(container, Some(options));
    let pieces: Vec<Bytes> = with_timeout(ACTION_TIMEOUT, pieces.try_collect()).await?;
    Ok(pieces.concat().into())
}

async fn upload(
    client: &Client,
    container: &str,
    path: &str,
    tar: Bytes,
) -> Result<(), DriverError> {
    let options = UploadToContainerOptionsBuilder::default().path(path).build();
    let sent = client.upload_to_container(container, Some(options), bollard::body_full(tar));
    with_timeout(ACTION_TIMEOUT, sent).await
}

/// Whether the platform's folders lose the files that the image has in them.
#[derive(Clone, Copy, PartialEq, Eq)]
enum PlatformFolders {
    /// The engine would copy the image's files into a new volume, and mounts would follow the image's links.
    Emptied,
    /// The files are the platform's already.
    Kept,
}

/// The folders of the platform, and those of the mounts that it makes.
const OWN_FOLDERS: [&str; 4] = ["opt/cial", "opt/cial-core", "run/cial", "var/lib/cial"];

/// The folders of a tenant as a tar: owner, group and mode of each. Every parent is in it, also of the volumes, so that no
/// symbolic link of the image leads a path of the platform or a mount elsewhere.
fn skeleton(volumes: &[String], platform_folders: PlatformFolders) -> Vec<u8> {
    const ROOT: u32 = 0;
    let fixed = [
        ("opt", ROOT, ROOT, 0o755),
        ("opt/cial", ROOT, ROOT, 0o755),
        ("opt/cial-core", CIAL_UID, CIAL_UID, 0o700),
        ("run", ROOT, ROOT, 0o755),
        ("run/cial", ROOT, ROOT, 0o755),
        ("run/cial/core", CIAL_UID, CIAL_UID, 0o700),
        // The core's too: the app meets a socket there, and must not be able to replace it.
        ("run/cial/agent", CIAL_UID, AGENT_UID, 0o750),
        ("run/cial/ingress", ROOT, ROOT, 0o755),
        ("run/cial/secrets", ROOT, ROOT, 0o755),
        ("var", ROOT, ROOT, 0o755),
        ("var/lib", ROOT, ROOT, 0o755),
        ("var/lib/cial", CIAL_UID, CIAL_UID, 0o700),
        ("home", ROOT, ROOT, 0o755),
        ("home/agent", AGENT_UID, AGENT_UID, 0o755),
        ("home/agent/files", AGENT_UID, AGENT_UID, 0o750),
        ("tmp", AGENT_UID, AGENT_UID, 0o700),
    ];
    let mut tar = tar::Builder::new(Vec::new());
    let mut add = |path: &str, kind, (user, group, mode): (u32, u32, u32)| {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_uid(user.into());
        header.set_gid(group.into());
        header.set_mode(mode);
        header.set_size(0);
        let added = tar.append_data(&mut header, path, std::io::empty());
        added.expect("a tar in memory takes any name without `..`");
    };
    for (path, user, group, mode) in fixed {
        if platform_folders == PlatformFolders::Emptied && OWN_FOLDERS.contains(&path) {
            // The engine merges a folder with a folder, and replaces a folder by a file with all that it holds.
            add(path, tar::EntryType::Regular, (ROOT, ROOT, 0));
        }
        add(&format!("{path}/"), tar::EntryType::Directory, (user, group, mode));
    }
    let parents = volumes.iter().flat_map(|volume| {
        let path = volume.trim_start_matches('/');
        path.match_indices('/').map(|(end, _)| &path[..end]).chain([path])
    });
    for path in parents {
        if !fixed.iter().any(|(folder, ..)| *folder == path) {
            add(&format!("{path}/"), tar::EntryType::Directory, (ROOT, ROOT, 0o755));
        }
    }
    tar.into_inner().expect("a tar in memory has an end")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The engine replaces a link of the image only where the tar has a folder of that name, and before the folders below.
    #[test]
    fn the_skeleton_holds_every_parent_of_its_folders() {
        let tar = skeleton(&["/srv/notes/data".to_owned()], PlatformFolders::Emptied);
        let mut archive = tar::Archive::new(tar.as_slice());
        let mut seen = vec![std::path::PathBuf::new()];
        let mut emptied = Vec::new();
        for entry in archive.entries().unwrap() {
            let entry = entry.unwrap();
            let path = entry.path().unwrap().into_owned();
            assert!(seen.contains(&path.parent().unwrap().to_owned()), "{}", path.display());
            if entry.header().entry_type().is_file() {
                emptied.push(path.display().to_string());
            } else {
                seen.push(path);
            }
        }
        assert_eq!(emptied, OWN_FOLDERS);
        assert!(seen.contains(&"srv/notes/data".into()) && seen.len() > 16);
    }
}
