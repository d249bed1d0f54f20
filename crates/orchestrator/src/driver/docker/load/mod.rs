//! Loads an image from a tarball of `docker save`, and marks it like a pulled one: it goes with its last release.

mod archive;

use std::collections::HashSet;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bollard::Docker as Client;
use bollard::query_parameters::ImportImageOptionsBuilder;
use bytes::Bytes;
use futures_util::stream;
use futures_util::{Stream, StreamExt as _};
use protocol::images::RegistryImage;
use tokio_util::sync::CancellationToken;

use self::archive::{Fault, Filter};
use super::DockerDriver;
use super::engine::driver_error;
use super::pull::{image_id, list};
use crate::driver::{DriverError, DriverErrorCode, PullOutcome, VolumeStream};

/// The whole of a load.
const LOAD_TIMEOUT: Duration = Duration::from_secs(30 * 60);
const DISK_CHECK_INTERVAL: Duration = Duration::from_millis(500);
const MAX_MESSAGE_CHARS: usize = 300;

/// Why the stream of a load ended early.
type FaultSlot = Arc<Mutex<Option<Fault>>>;

impl DockerDriver {
    /// A load that fails, or whose caller left, leaves no name.
    pub(super) async fn load(
        &self,
        image: &RegistryImage,
        tar: VolumeStream,
        abandoned: &CancellationToken,
    ) -> Result<PullOutcome, DriverError> {
        let client = self.engine.client().await?;
        if self.is_below_reserve() {
            return Err(self.disk_reached(image));
        }
        let before = list(&client).await?;
        let known: HashSet<_> = before.iter().map(|image| image.id.as_str()).collect();
        let name = image.to_string();
        tracing::info!(image = %name, "load started");
        let loaded = self.send(&client, image, tar, abandoned).await;
        let found = image_id(&client, &name).await;
        let marked = match (loaded, &found) {
            (Ok(()), Ok(Some(id))) => self.mark(&client, id, image.repository()).await,
            (Ok(()), _) => Err(internal("The engine has no image after it loaded the tarball.")),
            (Err(error), _) => Err(error),
        };
        let image_id = found?;
        let is_new = image_id.as_ref().is_some_and(|id| !known.contains(id.as_str()));
        if let Err(error) = marked {
            tracing::info!(image = %name, %error, "load failed");
            if let Some(id) = image_id.filter(|_| is_new) {
                self.discard(&client, &id, image.repository()).await;
            }
            return Err(error);
        }
        tracing::info!(image = %name, id = image_id, is_new, "load finished");
        Ok(PullOutcome { image_id, is_new })
    }

    async fn send(
        &self,
        client: &Client,
        image: &RegistryImage,
        tar: VolumeStream,
        abandoned: &CancellationToken,
    ) -> Result<(), DriverError> {
        let fault = FaultSlot::default();
        let pieces = filtered(Filter::new(image.to_string()), tar, fault.clone());
        let options = ImportImageOptionsBuilder::default().quiet(true).build();
        let patient = client.clone().with_timeout(LOAD_TIMEOUT);
        let mut report = patient.import_image_stream(options, pieces, None).boxed();
        let mut checks = tokio::time::interval(DISK_CHECK_INTERVAL);
        let whole = async {
            loop {
                tokio::select! {
                    line = report.next() => match line {
                        None => return Ok(()),
                        Some(Ok(_)) => {}
                        Some(Err(error)) => return Err(driver_error(&error)),
                    },
                    _ = checks.tick() => if self.is_below_reserve() {
                        return Err(self.disk_reached(image));
                    },
                    () = abandoned.cancelled() => {
                        return Err(internal("Nobody waits for the load of the tarball any more."));
                    }
                }
            }
        };
        let sent = tokio::time::timeout(LOAD_TIMEOUT, whole).await.unwrap_or_else(|_| {
            let detail = "The container engine did not load the tarball within half an hour.";
            Err(DriverError::new(DriverErrorCode::EngineTimeout, detail))
        });
        let fault = fault.lock().unwrap_or_else(PoisonError::into_inner).take();
        match (fault, sent) {
            (Some(fault), _) => {
                let detail = format!("The tarball {fault}.");
                Err(DriverError::new(DriverErrorCode::ImageInvalid, detail))
            }
            // What the engine says of a tarball that it received as a whole concerns the tarball.
            (None, Err(error)) if error.code == DriverErrorCode::EngineRefused => {
                let said: String = error.detail.chars().take(MAX_MESSAGE_CHARS).collect();
                let detail = format!("The engine does not take the tarball: {said}");
                Err(DriverError::new(DriverErrorCode::ImageInvalid, detail))
            }
            (None, sent) => sent,
        }
    }
}

/// The tarball as the engine gets it. Ends with an error where it must not be loaded.
fn filtered(
    filter: Filter,
    tar: VolumeStream,
    fault: FaultSlot,
) -> impl Stream<Item = io::Result<Bytes>> + Send + 'static {
    let note = move |found: Fault| {
        *fault.lock().unwrap_or_else(PoisonError::into_inner) = Some(found);
        io::Error::from(io::ErrorKind::InvalidData)
    };
    stream::unfold(Some((filter, tar, note)), async |state| {
        let (mut filter, mut tar, note) = state?;
        loop {
            let piece = match tar.next().await {
                None => {
                    let ended = filter.finish().err().map(note);
                    return ended.map(|error| (Err(error), None));
                }
                Some(Err(error)) => return Some((Err(error), None)),
                Some(Ok(piece)) => filter.push(&piece),
            };
            match piece {
                Err(fault) => return Some((Err(note(fault)), None)),
                Ok(piece) if piece.is_empty() => {}
                Ok(piece) => return Some((Ok(piece.into()), Some((filter, tar, note)))),
            }
        }
    })
}

fn internal(detail: &str) -> DriverError {
    DriverError::new(DriverErrorCode::Internal, detail)
}
