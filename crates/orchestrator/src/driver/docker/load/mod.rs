//! Loads an image from a tarball of `docker save`, and marks it like a pulled one: it goes with its last release.

mod archive;
mod locks;

use std::collections::HashSet;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bollard::Docker as Client;
use bollard::query_parameters::ImportImageOptionsBuilder;
use bytes::Bytes;
use futures_util::stream;
use futures_util::{Stream, StreamExt as _};
use protocol::images::RegistryImage;
use tokio_util::sync::CancellationToken;

use self::archive::{Fault, Filter};
pub(super) use self::locks::LoadLocks;
use super::DockerDriver;
use super::engine::driver_error;
use super::pull::{image_id, list};
use crate::driver::{DriverError, DriverErrorCode, PullOutcome, VolumeStream};

/// The whole of a load.
const LOAD_TIMEOUT: Duration = Duration::from_secs(30 * 60);
const DISK_CHECK_INTERVAL: Duration = Duration::from_millis(500);
/// An engine that has the whole tarball may finish a load that was given up. For this long its image is looked for, so that
/// none stays without a mark, which nobody would remove.
const LATE_IMAGE_TIMEOUT: Duration = Duration::from_secs(60);
const LATE_IMAGE_INTERVAL: Duration = Duration::from_millis(500);
const MAX_MESSAGE_CHARS: usize = 300;

/// The progress of the stream to the engine.
#[derive(Debug, Default)]
struct Sent {
    /// The reason for which the stream ended early.
    fault: Option<Fault>,
    /// Without the end of the tarball, the engine loads nothing.
    is_whole: bool,
}

type SharedSent = Arc<Mutex<Sent>>;

/// A load that failed.
#[derive(Debug)]
struct FailedLoad {
    error: DriverError,
    /// The engine has the whole tarball and has not answered.
    may_finish: bool,
}

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
        let name = image.to_string();
        let _alone = tokio::select! {
            guard = self.loads.lock(&name) => guard,
            () = abandoned.cancelled() => return Err(nobody_waits()),
        };
        let before = list(&client).await?;
        let known: HashSet<_> = before.iter().map(|image| image.id.as_str()).collect();
        tracing::info!(image = %name, "load started");
        let loaded = self.send(&client, image, tar, abandoned).await;
        let found = match &loaded {
            Err(FailedLoad { may_finish: true, .. }) => await_image(&client, &name).await,
            _ => image_id(&client, &name).await,
        };
        let marked = match (loaded, &found) {
            (Ok(()), Ok(Some(id))) => self.mark(&client, id, image.repository()).await,
            (Ok(()), _) => Err(internal("The engine has no image after it loaded the tarball.")),
            (Err(failed), _) => Err(failed.error),
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
    ) -> Result<(), FailedLoad> {
        let sent = SharedSent::default();
        let pieces = filtered(Filter::new(image.to_string()), tar, sent.clone());
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
                        return Err(nobody_waits());
                    }
                }
            }
        };
        let answered = tokio::time::timeout(LOAD_TIMEOUT, whole).await.unwrap_or_else(|_| {
            let detail = "The container engine did not load the tarball within half an hour.";
            Err(DriverError::new(DriverErrorCode::EngineTimeout, detail))
        });
        let mut sent = lock(&sent);
        outcome(sent.fault.take(), sent.is_whole, answered)
    }
}

/// Decides the outcome of a load.
fn outcome(
    fault: Option<Fault>,
    is_whole: bool,
    answered: Result<(), DriverError>,
) -> Result<(), FailedLoad> {
    let invalid = |detail: String| FailedLoad {
        error: DriverError::new(DriverErrorCode::ImageInvalid, detail),
        may_finish: false,
    };
    match (fault, answered) {
        (Some(fault), _) => Err(invalid(format!("The tarball {fault}."))),
        // The engine's reply to a tarball that it received as a whole concerns the tarball.
        (None, Err(error)) if error.code == DriverErrorCode::EngineRefused => {
            let said: String = error.detail.chars().take(MAX_MESSAGE_CHARS).collect();
            Err(invalid(format!("The engine does not take the tarball: {said}")))
        }
        (None, Err(error)) => Err(FailedLoad { error, may_finish: is_whole }),
        (None, Ok(())) => Ok(()),
    }
}

/// Looks for the image of a load that was given up, until it is there or [`LATE_IMAGE_TIMEOUT`] is over.
async fn await_image(client: &Client, name: &str) -> Result<Option<String>, DriverError> {
    let appears = async {
        loop {
            if let Ok(Some(id)) = image_id(client, name).await {
                return id;
            }
            tokio::time::sleep(LATE_IMAGE_INTERVAL).await;
        }
    };
    match tokio::time::timeout(LATE_IMAGE_TIMEOUT, appears).await {
        Ok(id) => Ok(Some(id)),
        Err(_) => image_id(client, name).await,
    }
}

/// The tarball as the engine gets it. Ends with an error where it must not be loaded.
fn filtered(
    filter: Filter,
    tar: VolumeStream,
    sent: SharedSent,
) -> impl Stream<Item = io::Result<Bytes>> + Send + 'static {
    stream::unfold(Some((filter, tar, sent)), async |state| {
        let (mut filter, mut tar, sent) = state?;
        loop {
            let piece = match tar.next().await {
                None => {
                    let ended = filter.finish().err().map(|fault| note(&sent, fault));
                    return ended.map(|error| (Err(error), None));
                }
                Some(Err(error)) => return Some((Err(error), None)),
                Some(Ok(piece)) => filter.push(&piece),
            };
            match piece {
                Err(fault) => return Some((Err(note(&sent, fault)), None)),
                Ok(piece) if piece.is_empty() => {}
                Ok(piece) => {
                    lock(&sent).is_whole = filter.is_whole();
                    return Some((Ok(piece.into()), Some((filter, tar, sent))));
                }
            }
        }
    })
}

/// Notes the reason for which the stream ends, and ends it.
fn note(sent: &SharedSent, fault: Fault) -> io::Error {
    lock(sent).fault = Some(fault);
    io::Error::from(io::ErrorKind::InvalidData)
}

fn lock(sent: &SharedSent) -> MutexGuard<'_, Sent> {
    sent.lock().unwrap_or_else(PoisonError::into_inner)
}

fn nobody_waits() -> DriverError {
    internal("Nobody waits for the load of the tarball any more.")
}

fn internal(detail: &str) -> DriverError {
    DriverError::new(DriverErrorCode::Internal, detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_engine_that_did_not_answer_may_finish_a_whole_tarball() {
        let error = |code| Err(DriverError::new(code, "said"));
        let late = |fault, is_whole, code| outcome(fault, is_whole, error(code)).unwrap_err();
        assert!(late(None, true, DriverErrorCode::EngineTimeout).may_finish);
        assert!(!late(None, false, DriverErrorCode::EngineTimeout).may_finish);
        assert!(!late(Some(Fault::CutOff), true, DriverErrorCode::EngineTimeout).may_finish);
        let refused = late(None, true, DriverErrorCode::EngineRefused);
        assert_eq!(
            (refused.error.code, refused.may_finish),
            (DriverErrorCode::ImageInvalid, false)
        );
        assert!(outcome(None, true, Ok(())).is_ok());
    }
}
