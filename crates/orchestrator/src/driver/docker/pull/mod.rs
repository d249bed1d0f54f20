//! Pulls images of apps from registries, and removes what it pulled.
//!
//! A pulled image has a name of our own beside its own ([`marker`]): images that people pulled or built have none, and are
//! never removed.

mod marker;
mod progress;
mod refusal;
mod removals;

use std::collections::{BTreeSet, HashSet};
use std::time::Duration;

use bollard::Docker as Client;
use bollard::auth::DockerCredentials;
use bollard::errors::Error;
use bollard::models::ImageSummary;
use bollard::query_parameters::{
    CreateImageOptionsBuilder, ListImagesOptionsBuilder, RemoveImageOptionsBuilder,
    TagImageOptionsBuilder,
};
use futures_util::StreamExt as _;
use protocol::images::{RegistryHost, RegistryImage, RegistryLogin, Repository};
use protocol::text::describe_bytes;
use tokio_util::sync::CancellationToken;

use self::progress::Progress;
use self::removals::Removal;
pub(super) use self::removals::Removals;
use super::DockerDriver;
use super::engine::{
    ACTION_TIMEOUT, INSPECT_TIMEOUT, driver_error, optional, status, with_timeout,
};
use crate::driver::{DriverError, DriverErrorCode, ImagePull, PullOutcome};

/// Bounds a whole pull.
const PULL_TIMEOUT: Duration = Duration::from_secs(30 * 60);
/// The engine tries an address for long before it says that nobody is there.
const FIRST_RESPONSE_TIMEOUT: Duration = Duration::from_secs(150);
/// The time between two checks of the disk and of the progress.
const CHECK_INTERVAL: Duration = Duration::from_millis(500);
/// How often a removal checks whether no container is being created, with [`CHECK_INTERVAL`] in between.
const LOCK_ATTEMPTS: u32 = 20;

impl DockerDriver {
    /// A pull that fails, or whose caller left, leaves nothing.
    pub(super) async fn pull(
        &self,
        pull: &ImagePull,
        abandoned: &CancellationToken,
    ) -> Result<PullOutcome, DriverError> {
        let client = self.engine.client().await?;
        let name = pull.image.to_string();
        let present = image_id(&client, &name).await?;
        if !pull.policy.wants_pull(&pull.image, present.is_some()) {
            if let Some(id) = &present {
                self.share(&client, id, pull.image.repository()).await?;
            }
            return Ok(PullOutcome { image_id: present, is_new: false });
        }
        let login = pull.login.as_ref().map(|login| {
            self.tenant_dirs.open_login(login).ok_or_else(|| foreign_login(&login.host))
        });
        let login = login.transpose()?;
        if self.is_below_reserve() {
            return Err(self.disk_reached(&pull.image));
        }
        let before = list(&client).await?;
        let known: HashSet<_> = before.iter().map(|image| image.id.as_str()).collect();
        tracing::info!(image = %name, "pull started");
        let received = self.receive(&client, pull, login, abandoned).await;
        let image_id = image_id(&client, &name).await;
        if let Err(error) = received {
            tracing::info!(image = %name, %error, "pull failed");
            // The engine may have been faster than the reason to give up.
            if let Ok(Some(id)) = image_id
                && !known.contains(id.as_str())
            {
                self.discard(&client, &id, pull.image.repository()).await;
            }
            return Err(error);
        }
        let image_id = image_id?.ok_or_else(|| removed_meanwhile(&name))?;
        let is_new = !known.contains(image_id.as_str());
        let found = before.iter().find(|image| image.id == image_id);
        if found.is_none_or(|image| image.repo_tags.iter().any(|name| marker::is_marker(name))) {
            let marked = self.mark(&client, &image_id, pull.image.repository()).await;
            if marked.is_err() && is_new {
                self.discard(&client, &image_id, pull.image.repository()).await;
            }
            marked?;
        }
        tracing::info!(image = %name, id = %image_id, is_new, "pull finished");
        Ok(PullOutcome { image_id: Some(image_id), is_new })
    }

    /// Reads the engine's report of a pull to its end.
    async fn receive(
        &self,
        client: &Client,
        ImagePull { image, meter, .. }: &ImagePull,
        login: Option<RegistryLogin>,
        abandoned: &CancellationToken,
    ) -> Result<(), DriverError> {
        let from = image.repository().to_string();
        let options =
            CreateImageOptionsBuilder::default().from_image(&from).tag(image.version()).build();
        let username = login.as_ref().map(|login| login.username.clone());
        let credentials = login.map(|RegistryLogin { username, password }| DockerCredentials {
            username: Some(username),
            password: Some(password),
            serveraddress: Some(image.host().to_string()),
            ..DockerCredentials::default()
        });
        let patient = client.clone().with_timeout(FIRST_RESPONSE_TIMEOUT);
        let mut pieces = patient.create_image(Some(options), None, credentials).boxed();
        let mut checks = tokio::time::interval(CHECK_INTERVAL);
        let mut progress = Progress::default();
        let whole = async {
            loop {
                tokio::select! {
                    piece = pieces.next() => match piece {
                        None => return Ok(()),
                        Some(Ok(piece)) => {
                            let text = |text: Option<String>| text.unwrap_or_default();
                            let (id, status) = (text(piece.id), text(piece.status));
                            let bytes = piece.progress_detail.unwrap_or_default();
                            let count = |bytes: Option<i64>| u64::try_from(bytes.unwrap_or(0)).unwrap_or(0);
                            progress.note_bytes(&id, &status, count(bytes.current), count(bytes.total));
                            meter.set(progress.summary());
                            let noted = progress.note(&id, &status);
                            noted.map_err(|fault| refusal::interrupted(image, &fault))?;
                        }
                        Some(Err(error)) => {
                            return Err(refused(&error, image, username.as_deref()));
                        }
                    },
                    _ = checks.tick() => {
                        if self.is_below_reserve() {
                            return Err(self.disk_reached(image));
                        }
                        let noted = progress.note_silence(CHECK_INTERVAL);
                        noted.map_err(|fault| refusal::interrupted(image, &fault))?;
                    }
                    () = abandoned.cancelled() => {
                        let detail = format!("Nobody waits for the pull of {image} any more.");
                        return Err(DriverError::new(DriverErrorCode::Internal, detail));
                    }
                }
            }
        };
        // The engine ends a pull whose report nobody reads.
        tokio::time::timeout(PULL_TIMEOUT, whole).await.unwrap_or_else(|_| {
            let minutes = PULL_TIMEOUT.as_secs() / 60;
            Err(refusal::too_slow(image, minutes))
        })
    }

    pub(super) fn is_below_reserve(&self) -> bool {
        self.below_reserve()()
    }

    pub(super) fn disk_reached(&self, image: &RegistryImage) -> DriverError {
        let reserve = describe_bytes(self.disk_reserve_bytes);
        let detail = format!(
            "The engine's disk has less left than the reserve of {reserve} (CIAL_DISK_RESERVE_BYTES), so {image} is not taken. Make room there."
        );
        DriverError::new(DriverErrorCode::DiskFull, detail)
    }

    /// Marks the image as pulled by this installation. An image without the mark would never be removed.
    pub(super) async fn mark(
        &self,
        client: &Client,
        image_id: &str,
        repository: &Repository,
    ) -> Result<(), DriverError> {
        let name = marker::name(&self.template.install, repository);
        let tag = marker::tag(image_id);
        let options = TagImageOptionsBuilder::default().repo(&name).tag(tag).build();
        with_timeout(ACTION_TIMEOUT, client.tag_image(image_id, Some(options))).await
    }

    /// Marks an image that another installation pulled as ours, too. Otherwise the other installation would remove it with its
    /// last release.
    async fn share(
        &self,
        client: &Client,
        image_id: &str,
        repository: &Repository,
    ) -> Result<(), DriverError> {
        let found = list(client).await?.into_iter().find(|image| image.id == image_id);
        let Some(image) = found else { return Ok(()) };
        let install = &self.template.install;
        let is_others = image.repo_tags.iter().any(|name| marker::is_of_another(install, name));
        if is_others && !self.markers(&image).contains(repository) {
            self.mark(client, image_id, repository).await?;
        }
        Ok(())
    }

    /// The ids of the images that this installation pulled.
    pub(super) async fn pulled(&self) -> Result<Vec<String>, DriverError> {
        let client = self.engine.client().await?;
        let images = list(&client).await?.into_iter();
        let ours = images.filter(|image| !self.markers(image).is_empty());
        Ok(ours.map(|image| image.id).collect())
    }

    /// The repositories from which this installation pulled the image.
    fn markers(&self, image: &ImageSummary) -> BTreeSet<Repository> {
        let install = &self.template.install;
        image.repo_tags.iter().filter_map(|name| marker::repository(install, name)).collect()
    }

    /// Removes a pulled image, unless a container or a wrapped image in use needs it. Returns whether it is gone.
    pub(super) async fn remove_pulled_image(&self, image_id: &str) -> Result<bool, DriverError> {
        let client = self.engine.client().await?;
        self.remove_unused_images(&client, Some(image_id)).await;
        let Some(_removal) = self.begin_removal(&client, image_id).await? else {
            return Ok(false);
        };
        let images = list(&client).await?;
        let Some(image) = images.into_iter().find(|image| image.id == image_id) else {
            return Ok(true);
        };
        let repositories = self.markers(&image);
        if repositories.is_empty() {
            return Ok(false);
        }
        let install = &self.template.install;
        let names = image.repo_tags.iter().chain(&image.repo_digests);
        let is_others = image.repo_tags.iter().any(|name| marker::is_of_another(install, name));
        let pulled = names.filter(|name| {
            let of = Repository::of_listed(name);
            !is_others && of.is_some_and(|of| repositories.contains(&of))
        });
        // The markers come last: without them the image would not count as ours.
        let markers = repositories.iter().map(|repository| {
            format!("{}:{}", marker::name(install, repository), marker::tag(image_id))
        });
        for name in pulled.cloned().chain(markers) {
            if !remove_name(&client, &name).await? {
                return Ok(false);
            }
        }
        tracing::info!(id = %image_id, "pulled image removed");
        Ok(true)
    }

    /// Keeps the image from being wrapped from now on. Returns `None` if the image is wrapped, or if its removal is under way.
    /// The lock is not held for the removal itself, which may take long: no creation of a container waits for it.
    async fn begin_removal(
        &self,
        client: &Client,
        image_id: &str,
    ) -> Result<Option<Removal<'_>>, DriverError> {
        for _ in 0..LOCK_ATTEMPTS {
            // A waiting writer would block all readers of the lock.
            if let Ok(_alone) = self.wrapping.try_write() {
                let is_wrapped = self.is_wrapped(client, image_id).await?;
                return Ok(if is_wrapped { None } else { self.removals.begin(image_id) });
            }
            tokio::time::sleep(CHECK_INTERVAL).await;
        }
        Ok(None)
    }

    /// Removes an image that nobody uses yet. Best effort.
    pub(super) async fn discard(&self, client: &Client, image_id: &str, repository: &Repository) {
        let images = list(client).await.unwrap_or_default();
        let image = images.into_iter().find(|image| image.id == image_id);
        let Some(image) = image else { return };
        for name in image.repo_tags.iter().chain(&image.repo_digests) {
            if Repository::of_listed(name).as_ref() == Some(repository)
                && let Err(error) = remove_name(client, name).await
            {
                tracing::warn!(image = %name, %error, "image of a failed pull not removed");
            }
        }
    }
}

/// Takes a name from an image, and removes the image with its last name. Returns `false` if a container needs it.
async fn remove_name(client: &Client, name: &str) -> Result<bool, DriverError> {
    let options = RemoveImageOptionsBuilder::default().build();
    let removed = client.remove_image(name, Some(options), None);
    match tokio::time::timeout(ACTION_TIMEOUT, removed).await {
        Ok(Err(error)) if status(&error) == Some(409) => Ok(false),
        // The digest goes with the last tag of its repository.
        Ok(Err(error)) if status(&error) == Some(404) => Ok(true),
        Ok(removed) => removed.map(|_| true).map_err(|error| driver_error(&error)),
        Err(_) => {
            let detail = "The container engine did not remove an image in time.";
            Err(DriverError::new(DriverErrorCode::EngineTimeout, detail))
        }
    }
}

pub(super) async fn image_id(client: &Client, name: &str) -> Result<Option<String>, DriverError> {
    let found = optional(INSPECT_TIMEOUT, client.inspect_image(name)).await?;
    Ok(found.and_then(|image| image.id))
}

pub(super) async fn list(client: &Client) -> Result<Vec<ImageSummary>, DriverError> {
    let options = ListImagesOptionsBuilder::default().digests(true).build();
    with_timeout(INSPECT_TIMEOUT, client.list_images(Some(options))).await
}

fn removed_meanwhile(name: &str) -> DriverError {
    let detail =
        format!("The image {name} was pulled and is gone again: somebody removed it. Try again.");
    DriverError::new(DriverErrorCode::ImageMissing, detail)
}

fn foreign_login(host: &RegistryHost) -> DriverError {
    let detail = format!(
        "The credentials of the registry {host} belong to another installation. Store them again: `cial registries set {host}`."
    );
    DriverError::new(DriverErrorCode::RegistryRefused, detail)
}

/// Tells refusals of the registry from those of the engine.
fn refused(error: &Error, image: &RegistryImage, username: Option<&str>) -> DriverError {
    if let Error::DockerStreamError { error: message }
    | Error::DockerResponseServerError { message, .. } = error
    {
        return refusal::classify(message, image, username);
    }
    if matches!(error, Error::RequestTimeoutError) {
        return refusal::no_response(image);
    }
    driver_error(error)
}
