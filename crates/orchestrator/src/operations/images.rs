//! Images of apps: pulled, checked and tried for a release, and removed once no release has them.

use std::collections::HashMap;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Duration;

use protocol::images::{MAX_RELEASE_SECONDS, PullPolicy, PullProgress, PulledImage, RegistryImage};
use protocol::process::{PrepareImage, PreparedImage};
use tokio_util::sync::CancellationToken;

use super::volumes::bounded;
use super::{Operations, joined};
use crate::driver::{
    DriverError, DriverErrorCode, ImagePull, PullMeter, PullOutcome, VolumeStream,
};

/// Concurrent pulls. Each loads the disk and the network.
pub(crate) const MAX_PULLS: usize = 2;
/// How long an image that was prepared stays without a release: the caller has yet to write it. Also how long after its start
/// this process removes nothing, because an earlier one may have prepared images.
const HOLD_TIME: Duration = Duration::from_secs(2 * MAX_RELEASE_SECONDS);

/// The preparations that keep images from being removed. Pure: `now` is the time since the process started.
#[derive(Debug, Default)]
pub(super) struct ImageUses {
    images: HashMap<String, ImageUse>,
}

#[derive(Debug, Default)]
struct ImageUse {
    under_way: u32,
    preparations: u64,
    /// When a preparation last succeeded.
    prepared_at: Option<Duration>,
}

impl ImageUses {
    fn begin(&mut self, id: &str) {
        let image = self.images.entry(id.to_owned()).or_default();
        image.under_way += 1;
        image.preparations += 1;
    }

    /// Ends a preparation. Returns whether the image is unneeded: no preparation is under way, and none succeeded.
    fn end(&mut self, id: &str, prepared_at: Option<Duration>) -> bool {
        let image = self.images.entry(id.to_owned()).or_default();
        image.under_way = image.under_way.saturating_sub(1);
        image.prepared_at = prepared_at.or(image.prepared_at);
        image.under_way == 0 && image.prepared_at.is_none()
    }

    fn preparations(&self, id: &str) -> u64 {
        self.images.get(id).map_or(0, |image| image.preparations)
    }

    fn is_held(&self, id: &str, now: Duration) -> bool {
        let is_recent = |at: Duration| now.saturating_sub(at) < HOLD_TIME;
        let image = self.images.get(id);
        let is_in_use =
            |image: &ImageUse| image.under_way > 0 || image.prepared_at.is_some_and(is_recent);
        is_recent(Duration::ZERO) || image.is_some_and(is_in_use)
    }

    fn may_remove(&self, id: &str, preparations: u64, now: Duration) -> bool {
        self.preparations(id) == preparations && !self.is_held(id, now)
    }
}

impl Operations {
    /// Pulls an image for an app if that is requested, checks it, wraps it for tenants, and tries its program if that is requested.
    /// A pull ends when the caller leaves. An image is removed when its preparation fails.
    ///
    /// # Errors
    /// The driver's own; [`DriverErrorCode::ProgramFailed`] with the last lines of the log.
    pub async fn prepare_image(
        self: &Arc<Self>,
        request: PrepareImage,
    ) -> Result<PreparedImage, DriverError> {
        let abandoned = CancellationToken::new();
        let _caller = abandoned.clone().drop_guard();
        let operations = self.clone();
        // Continues when the caller leaves, so that nothing stays.
        let preparation =
            tokio::spawn(async move { operations.pull_and_prepare(&request, &abandoned).await });
        joined(preparation.await)
    }

    async fn pull_and_prepare(
        self: &Arc<Self>,
        request: &PrepareImage,
        abandoned: &CancellationToken,
    ) -> Result<PreparedImage, DriverError> {
        let PullOutcome { image_id, is_new } = self.pull(request, abandoned).await?;
        let Some(id) = image_id else {
            let prepared = self.check_and_try(request).await?;
            self.image_uses().begin(&prepared.image_id);
            self.image_uses().end(&prepared.image_id, Some(self.uptime()));
            return Ok(prepared);
        };
        self.image_uses().begin(&id);
        let prepared = self.check_and_try(request).await.and_then(|prepared| {
            // Only the image that was pulled is held, and the release is pinned to this one.
            if prepared.image_id == id { Ok(prepared) } else { Err(moved(&request.image)) }
        });
        let prepared_at = prepared.is_ok().then(|| self.uptime());
        let is_unused = self.image_uses().end(&id, prepared_at);
        if is_new && is_unused {
            let removed = self.driver.remove_pulled(&id).await;
            if !matches!(removed, Ok(true)) {
                tracing::warn!(image = %id, ?removed, "pulled image of a failed release stays");
            }
        }
        prepared
    }

    /// Pulls the image of a request whose name mentions a registry.
    async fn pull(
        &self,
        request: &PrepareImage,
        abandoned: &CancellationToken,
    ) -> Result<PullOutcome, DriverError> {
        let image = RegistryImage::parse(&request.image).map_err(|error| {
            let detail = format!("The name of the image {error}.");
            DriverError::new(DriverErrorCode::ImageInvalid, detail)
        })?;
        let Some(image) = image else { return Ok(PullOutcome { image_id: None, is_new: false }) };
        let (policy, login) = (request.pull, request.login.clone());
        let meter = PullMeter::default();
        let mut pull = ImagePull { image, policy: PullPolicy::Never, login, meter };
        // An image that is there does not wait for the pulls of others.
        let present = self.driver.pull_image(&pull, abandoned).await?;
        if !policy.wants_pull(&pull.image, present.image_id.is_some()) {
            return Ok(present);
        }
        pull.policy = policy;
        let _shown = self.show_pull(&pull);
        let _permit = tokio::select! {
            permit = self.pulls.acquire() => permit,
            () = abandoned.cancelled() => return Err(nobody_waits(&pull.image)),
        };
        self.driver.pull_image(&pull, abandoned).await
    }

    /// Loads an image from a tarball, and holds it until its release can be written.
    ///
    /// # Errors
    /// The driver's own; [`DriverErrorCode::ImageInvalid`] for a tarball that is not one of `docker save`.
    pub async fn load_image(
        self: &Arc<Self>,
        image: RegistryImage,
        tar: VolumeStream,
    ) -> Result<(), DriverError> {
        let abandoned = CancellationToken::new();
        let _caller = abandoned.clone().drop_guard();
        let operations = self.clone();
        let load = async move {
            let _permit = tokio::select! {
                permit = operations.pulls.acquire() => permit,
                () = abandoned.cancelled() => return Err(nobody_waits(&image)),
            };
            let PullOutcome { image_id, .. } =
                operations.driver.load_image(&image, bounded(tar), &abandoned).await?;
            if let Some(id) = image_id {
                operations.image_uses().begin(&id);
                operations.image_uses().end(&id, Some(operations.uptime()));
            }
            Ok(())
        };
        // Continues when the caller leaves, so that nothing stays.
        joined(tokio::spawn(load).await)
    }

    /// Shows what a pull does until the returned guard is dropped.
    fn show_pull(&self, pull: &ImagePull) -> ShownPull<'_> {
        let name = pull.image.to_string();
        self.pull_meters().insert(name.clone(), pull.meter.clone());
        ShownPull { operations: self, name, meter: pull.meter.clone() }
    }

    /// The progress of the pull of an image with this name; `None` where none is under way.
    pub fn pull_progress(&self, name: &str) -> Option<PullProgress> {
        let image = RegistryImage::parse(name).ok().flatten()?;
        self.pull_meters().get(&image.to_string()).map(PullMeter::get)
    }

    fn pull_meters(&self) -> MutexGuard<'_, HashMap<String, PullMeter>> {
        self.pull_meters.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The number of pulls that have begun and not ended.
    pub fn pulls_under_way(&self) -> usize {
        self.pulls.usage().current
    }

    /// The images that were pulled and that nobody prepares at the moment.
    ///
    /// # Errors
    /// The driver's own.
    pub async fn list_pulled_images(&self) -> Result<Vec<PulledImage>, DriverError> {
        let (ids, now) = (self.driver.list_pulled().await?, self.uptime());
        let uses = self.image_uses();
        let free = ids.into_iter().filter(|id| !uses.is_held(id, now));
        Ok(free
            .map(|image_id| {
                let preparations = uses.preparations(&image_id);
                PulledImage { image_id, preparations }
            })
            .collect())
    }

    /// Removes a pulled image that is as [`list_pulled_images`](Self::list_pulled_images) showed it: prepared so often, and not
    /// since. Returns whether it is gone.
    ///
    /// # Errors
    /// The driver's own.
    pub async fn remove_pulled_image(
        &self,
        image_id: &str,
        preparations: u64,
    ) -> Result<bool, DriverError> {
        let now = self.uptime();
        if !self.image_uses().may_remove(image_id, preparations, now) {
            return Ok(false);
        }
        self.driver.remove_pulled(image_id).await
    }

    fn image_uses(&self) -> MutexGuard<'_, ImageUses> {
        self.image_uses.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A pull that is shown.
struct ShownPull<'a> {
    operations: &'a Operations,
    name: String,
    meter: PullMeter,
}

impl Drop for ShownPull<'_> {
    fn drop(&mut self) {
        let mut meters = self.operations.pull_meters();
        // Another pull of the same name may have taken its place.
        if meters.get(&self.name).is_some_and(|meter| meter.is(&self.meter)) {
            meters.remove(&self.name);
        }
    }
}

fn moved(name: &str) -> DriverError {
    let detail = format!(
        "The image {name} became another one during its preparation: somebody pulled or built it anew. Try again."
    );
    DriverError::new(DriverErrorCode::ImageMissing, detail)
}

fn nobody_waits(image: &RegistryImage) -> DriverError {
    let detail = format!("Nobody waits for the pull of {image} any more.");
    DriverError::new(DriverErrorCode::Internal, detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn an_image_is_held_until_its_release_can_be_written() {
        let mut uses = ImageUses::default();
        assert!(uses.is_held("a", at(59)), "an earlier process may have prepared it");
        assert!(!uses.is_held("a", at(60)));
        uses.begin("a");
        uses.begin("a");
        assert!(uses.is_held("a", at(1_000)));
        assert!(!uses.end("a", None), "another preparation needs it");
        assert!(uses.is_held("a", at(1_000)));
        assert!(!uses.end("a", Some(at(1_000))), "that one succeeded");
        assert!(uses.is_held("a", at(1_059)) && !uses.is_held("a", at(1_060)));
        uses.begin("b");
        assert!(uses.end("b", None), "nobody needs it");
    }

    #[test]
    fn an_image_that_was_prepared_again_is_not_removed_by_an_older_list() {
        let mut uses = ImageUses::default();
        let seen = uses.preparations("a");
        assert!(uses.may_remove("a", seen, at(100)));
        uses.begin("a");
        assert!(!uses.may_remove("a", uses.preparations("a"), at(100)), "it is under way");
        uses.end("a", Some(at(100)));
        assert!(!uses.may_remove("a", seen, at(1_000)), "a release may have it");
        assert!(uses.may_remove("a", uses.preparations("a"), at(1_000)));
    }
}
