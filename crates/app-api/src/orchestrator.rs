//! The client of the orchestrator's API. Tests replace the [`Orchestrator`] trait by a scripted fake.

use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderValue, Method};
use futures_util::future::BoxFuture;
use protocol::TenantId;
use protocol::images::{PulledImage, PulledImageList, RemovedImage};
use protocol::orchestrator::{
    ApplyRequest, DiskUse, DiskUseList, LastStart, ObservedTenant, TenantAtRevision,
};
use protocol::process::{PrepareImage, PreparedImage};
use protocol::sleep::{SleepStatus, SleepStatusList};
use protocol::spec::Spec;
use protocol::summaries::SummaryReport;
use protocol::watch::Message;
use serde::de::IgnoredAny;
use service::client::{CallError, Client};
use service::watch::{WatchEnded, follow};
use tokio::io::{AsyncRead, AsyncWrite};

/// Called with each message of a watch.
pub type OnMessage<'a> = &'a (dyn Fn(Message<ObservedTenant>) + Send + Sync);

/// The WebSocket of a command: frames, which this process passes on unread.
pub struct CommandStream {
    /// The value of `Sec-WebSocket-Accept`.
    pub accept: HeaderValue,
    pub frames: Box<dyn Frames>,
}

/// A connection in both directions.
pub trait Frames: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Frames for S {}

pub trait Orchestrator: Send + Sync + 'static {
    fn apply<'a>(
        &'a self,
        id: TenantId,
        apply: &'a ApplyRequest,
    ) -> BoxFuture<'a, Result<TenantAtRevision, CallError>>;

    /// Makes the container of a tenant without one, and does not start it.
    fn prepare<'a>(&'a self, spec: &'a Spec) -> BoxFuture<'a, Result<(), CallError>>;

    /// Pulls an image if that is requested, checks that it can run an app, and makes it ready for tenants. A pull ends when the
    /// returned future is dropped.
    fn prepare_image<'a>(
        &'a self,
        request: &'a PrepareImage,
    ) -> BoxFuture<'a, Result<PreparedImage, CallError>>;

    /// The images that were pulled and that nobody prepares at the moment.
    fn pulled_images(&self) -> BoxFuture<'_, Result<PulledImageList, CallError>>;

    /// Removes a pulled image, unless something needs it. Returns whether it is gone.
    fn remove_image<'a>(&'a self, image: &'a PulledImage)
    -> BoxFuture<'a, Result<bool, CallError>>;

    /// Returns once the wake has begun; the watch reports its result.
    fn wake(&self, id: TenantId) -> BoxFuture<'_, Result<(), CallError>>;

    /// Succeeds also when the tenant has no container.
    fn stop(&self, id: TenantId) -> BoxFuture<'_, Result<(), CallError>>;

    /// Succeeds also when nothing of the tenant is left.
    fn remove(&self, id: TenantId) -> BoxFuture<'_, Result<(), CallError>>;

    /// Reads why a tenant is awake or asleep. Read-only: does not reset the idle timer.
    fn sleep_status(&self, id: TenantId) -> BoxFuture<'_, Result<SleepStatus, CallError>>;

    /// Like [`Self::sleep_status`], for all tenants.
    fn all_sleep_status(&self) -> BoxFuture<'_, Result<SleepStatusList, CallError>>;

    /// Reads what the tenant's volumes hold and may hold.
    fn disk_use(&self, id: TenantId) -> BoxFuture<'_, Result<DiskUse, CallError>>;

    /// Reads the summaries of a running tenant's conversations that changed after `position`. Wakes nobody.
    fn summaries(
        &self,
        id: TenantId,
        position: i64,
    ) -> BoxFuture<'_, Result<SummaryReport, CallError>>;

    /// Reads the disk use of all tenants.
    fn all_disk_use(&self) -> BoxFuture<'_, Result<DiskUseList, CallError>>;

    /// Streams the log. `query` is the query string of the orchestrator's API.
    fn logs<'a>(&'a self, id: TenantId, query: &'a str) -> BoxFuture<'a, Result<Body, CallError>>;

    /// Starts a command and opens the WebSocket of its streams, with the caller's `Sec-WebSocket-Key`. `query` is the query
    /// string of the orchestrator's API.
    fn exec<'a>(
        &'a self,
        id: TenantId,
        query: &'a str,
        key: &'a HeaderValue,
    ) -> BoxFuture<'a, Result<CommandStream, CallError>>;

    /// Runs an attempt of a task inside a tenant, which is woken and stays awake meanwhile. Takes and returns what
    /// [`protocol::tasks`] describes. The attempt ends with the returned body, also with one that is dropped.
    fn run_task(&self, id: TenantId, input: Body) -> BoxFuture<'_, Result<Body, CallError>>;

    /// Reads the last start of the tenant's container from the engine. Wakes nobody.
    fn last_start(&self, id: TenantId) -> BoxFuture<'_, Result<LastStart, CallError>>;

    /// Reads the volumes of a tenant that rests, as a tar. The tenant is not woken until the returned body ends or is dropped.
    fn export_volumes(&self, id: TenantId) -> BoxFuture<'_, Result<Body, CallError>>;

    /// Makes the volumes of a tenant without any from a tar. A tar that breaks off leaves nothing.
    fn import_volumes(
        &self,
        id: TenantId,
        limit_bytes: u64,
        tar: Body,
    ) -> BoxFuture<'_, Result<(), CallError>>;

    /// Follows one watch to its end.
    fn watch<'a>(&'a self, on_message: OnMessage<'a>) -> BoxFuture<'a, WatchEnded>;
}

/// Calls the orchestrator over HTTP.
pub struct OrchestratorClient {
    client: Client,
}

/// A start may queue behind many others.
const APPLY_TIMEOUT: Duration = Duration::from_secs(120);
/// A pull of half an hour after one other, and the trial of the program. The orchestrator bounds each of these itself.
const PREPARE_TIMEOUT: Duration = Duration::from_secs(70 * 60);
const IMAGES_TIMEOUT: Duration = Duration::from_secs(120);
const STOP_TIMEOUT: Duration = Duration::from_secs(60);
const REMOVE_TIMEOUT: Duration = Duration::from_secs(120);
/// The tenant may have to wake first.
const EXEC_TIMEOUT: Duration = Duration::from_secs(75);
/// A wake, and the way of a package into the tenant.
const TASK_START_TIMEOUT: Duration = Duration::from_secs(240);
/// Other exports may come first.
const EXPORT_START_TIMEOUT: Duration = Duration::from_secs(600);
/// The whole of an import; both sides end one that stalls.
const IMPORT_TIMEOUT: Duration = Duration::from_secs(6 * 3_600);
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(10);

impl OrchestratorClient {
    pub fn new(client: Client) -> Self {
        Self { client }
    }
}

impl Orchestrator for OrchestratorClient {
    fn apply<'a>(
        &'a self,
        id: TenantId,
        apply: &'a ApplyRequest,
    ) -> BoxFuture<'a, Result<TenantAtRevision, CallError>> {
        Box::pin(async move {
            let path = format!("/v1/tenants/{id}");
            self.client.call(Method::PUT, &path, Some(apply), APPLY_TIMEOUT).await
        })
    }

    fn prepare<'a>(&'a self, spec: &'a Spec) -> BoxFuture<'a, Result<(), CallError>> {
        Box::pin(async move {
            let path = format!("/v1/tenants/{}/prepare", spec.id);
            let called = self.client.call(Method::POST, &path, Some(spec), APPLY_TIMEOUT);
            called.await.map(|IgnoredAny| ())
        })
    }

    fn prepare_image<'a>(
        &'a self,
        request: &'a PrepareImage,
    ) -> BoxFuture<'a, Result<PreparedImage, CallError>> {
        Box::pin(async move {
            let path = "/v1/images/prepare";
            self.client.call(Method::POST, path, Some(request), PREPARE_TIMEOUT).await
        })
    }

    fn pulled_images(&self) -> BoxFuture<'_, Result<PulledImageList, CallError>> {
        Box::pin(async move {
            self.client.call(Method::GET, "/v1/images", None::<&()>, IMAGES_TIMEOUT).await
        })
    }

    fn remove_image<'a>(
        &'a self,
        PulledImage { image_id, preparations }: &'a PulledImage,
    ) -> BoxFuture<'a, Result<bool, CallError>> {
        Box::pin(async move {
            let path = format!("/v1/images/{image_id}?preparations={preparations}");
            let removed = self.client.call(Method::DELETE, &path, None::<&()>, IMAGES_TIMEOUT);
            removed.await.map(|RemovedImage { removed }| removed)
        })
    }

    fn wake(&self, id: TenantId) -> BoxFuture<'_, Result<(), CallError>> {
        Box::pin(async move {
            let path = format!("/v1/tenants/{id}/wake");
            let called = self.client.call(Method::POST, &path, None::<&()>, RESPONSE_TIMEOUT);
            called.await.map(|IgnoredAny| ())
        })
    }

    fn stop(&self, id: TenantId) -> BoxFuture<'_, Result<(), CallError>> {
        Box::pin(async move {
            let path = format!("/v1/tenants/{id}/stop");
            let response: Result<serde_json::Value, _> =
                self.client.call(Method::POST, &path, None::<&()>, STOP_TIMEOUT).await;
            match response {
                Err(CallError::Refused(problem)) if problem.status == 404 => Ok(()),
                Err(error) => Err(error),
                Ok(_) => Ok(()),
            }
        })
    }

    fn remove(&self, id: TenantId) -> BoxFuture<'_, Result<(), CallError>> {
        Box::pin(async move {
            let path = format!("/v1/tenants/{id}");
            self.client.call(Method::DELETE, &path, None::<&()>, REMOVE_TIMEOUT).await
        })
    }

    fn sleep_status(&self, id: TenantId) -> BoxFuture<'_, Result<SleepStatus, CallError>> {
        Box::pin(async move {
            let path = format!("/v1/tenants/{id}/sleep");
            self.client.call(Method::GET, &path, None::<&()>, RESPONSE_TIMEOUT).await
        })
    }

    fn all_sleep_status(&self) -> BoxFuture<'_, Result<SleepStatusList, CallError>> {
        Box::pin(async move {
            self.client.call(Method::GET, "/v1/sleep", None::<&()>, RESPONSE_TIMEOUT).await
        })
    }

    fn disk_use(&self, id: TenantId) -> BoxFuture<'_, Result<DiskUse, CallError>> {
        Box::pin(async move {
            let path = format!("/v1/tenants/{id}/disk");
            self.client.call(Method::GET, &path, None::<&()>, RESPONSE_TIMEOUT).await
        })
    }

    fn summaries(
        &self,
        id: TenantId,
        position: i64,
    ) -> BoxFuture<'_, Result<SummaryReport, CallError>> {
        Box::pin(async move {
            let path = format!("/v1/tenants/{id}/summaries?after={position}");
            self.client.call(Method::GET, &path, None::<&()>, RESPONSE_TIMEOUT).await
        })
    }

    fn all_disk_use(&self) -> BoxFuture<'_, Result<DiskUseList, CallError>> {
        Box::pin(async move {
            self.client.call(Method::GET, "/v1/disk", None::<&()>, RESPONSE_TIMEOUT).await
        })
    }

    fn logs<'a>(&'a self, id: TenantId, query: &'a str) -> BoxFuture<'a, Result<Body, CallError>> {
        Box::pin(async move {
            let path = format!("/v1/tenants/{id}/logs?{query}");
            Ok(Body::new(self.client.stream(&path, RESPONSE_TIMEOUT).await?.into_body()))
        })
    }

    fn exec<'a>(
        &'a self,
        id: TenantId,
        query: &'a str,
        key: &'a HeaderValue,
    ) -> BoxFuture<'a, Result<CommandStream, CallError>> {
        Box::pin(async move {
            let path = format!("/v1/tenants/{id}/exec?{query}");
            let (accept, stream) = self.client.open_websocket(&path, key, EXEC_TIMEOUT).await?;
            Ok(CommandStream { accept, frames: Box::new(stream) })
        })
    }

    fn run_task(&self, id: TenantId, input: Body) -> BoxFuture<'_, Result<Body, CallError>> {
        Box::pin(async move {
            let path = format!("/v1/tenants/{id}/tasks");
            Ok(Body::new(self.client.exchange(&path, input, TASK_START_TIMEOUT).await?.into_body()))
        })
    }

    fn last_start(&self, id: TenantId) -> BoxFuture<'_, Result<LastStart, CallError>> {
        Box::pin(async move {
            let path = format!("/v1/tenants/{id}/last-start");
            self.client.call(Method::GET, &path, None::<&()>, RESPONSE_TIMEOUT).await
        })
    }

    fn export_volumes(&self, id: TenantId) -> BoxFuture<'_, Result<Body, CallError>> {
        Box::pin(async move {
            let path = format!("/v1/tenants/{id}/volumes");
            Ok(Body::new(self.client.stream(&path, EXPORT_START_TIMEOUT).await?.into_body()))
        })
    }

    fn import_volumes(
        &self,
        id: TenantId,
        limit_bytes: u64,
        tar: Body,
    ) -> BoxFuture<'_, Result<(), CallError>> {
        Box::pin(async move {
            let path = format!("/v1/tenants/{id}/volumes?limit_bytes={limit_bytes}");
            self.client.upload(&path, tar, IMPORT_TIMEOUT).await
        })
    }

    fn watch<'a>(&'a self, on_message: OnMessage<'a>) -> BoxFuture<'a, WatchEnded> {
        Box::pin(async move {
            let path = "/v1/tenants/watch";
            follow(&self.client, path, |_, message| on_message(message.clone())).await
        })
    }
}
