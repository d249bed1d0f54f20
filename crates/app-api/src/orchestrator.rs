//! The way to the orchestrator: one of the two seams at which tests put a scripted fake.

use std::time::Duration;

use axum::body::Body;
use axum::http::Method;
use futures_util::future::BoxFuture;
use protocol::TenantId;
use protocol::orchestrator::{ApplyRequest, ObservedTenant};
use protocol::sleep::{SleepStatus, SleepStatusList};
use protocol::watch::Message;
use serde::de::IgnoredAny;
use service::client::{CallError, Client};
use service::watch::{WatchEnded, follow};

/// Who listens to a watch.
pub type Listener<'a> = &'a (dyn Fn(Message<ObservedTenant>) + Send + Sync);

pub trait Orchestrator: Send + Sync + 'static {
    fn apply<'a>(
        &'a self,
        id: TenantId,
        apply: &'a ApplyRequest,
    ) -> BoxFuture<'a, Result<ObservedTenant, CallError>>;

    /// Begun once this returns; what comes of it is told by the watch.
    fn wake(&self, id: TenantId) -> BoxFuture<'_, Result<(), CallError>>;

    /// Done as well when there is nothing to stop.
    fn stop(&self, id: TenantId) -> BoxFuture<'_, Result<(), CallError>>;

    /// Done as well when nothing was left.
    fn remove(&self, id: TenantId) -> BoxFuture<'_, Result<(), CallError>>;

    /// Why it is awake or asleep, now. Asking keeps nobody awake.
    fn sleep(&self, id: TenantId) -> BoxFuture<'_, Result<SleepStatus, CallError>>;

    /// The same of all tenants.
    fn sleeps(&self) -> BoxFuture<'_, Result<SleepStatusList, CallError>>;

    /// `query` as the orchestrator takes it.
    fn logs<'a>(&'a self, id: TenantId, query: &'a str) -> BoxFuture<'a, Result<Body, CallError>>;

    /// Follows one watch to its end.
    fn watch<'a>(&'a self, tell: Listener<'a>) -> BoxFuture<'a, WatchEnded>;
}

/// The real one, over HTTP.
pub struct Remote {
    client: Client,
}

/// A start may wait its turn behind many others.
const START: Duration = Duration::from_secs(120);
const STOP: Duration = Duration::from_secs(60);
const HEAD: Duration = Duration::from_secs(10);

impl Remote {
    pub fn new(client: Client) -> Self {
        Self { client }
    }
}

impl Orchestrator for Remote {
    fn apply<'a>(
        &'a self,
        id: TenantId,
        apply: &'a ApplyRequest,
    ) -> BoxFuture<'a, Result<ObservedTenant, CallError>> {
        Box::pin(async move {
            let path = format!("/v1/tenants/{id}");
            self.client.call(Method::PUT, &path, Some(apply), START).await
        })
    }

    fn wake(&self, id: TenantId) -> BoxFuture<'_, Result<(), CallError>> {
        Box::pin(async move {
            let path = format!("/v1/tenants/{id}/wake");
            self.client.call(Method::POST, &path, None::<&()>, HEAD).await.map(|IgnoredAny| ())
        })
    }

    fn stop(&self, id: TenantId) -> BoxFuture<'_, Result<(), CallError>> {
        Box::pin(async move {
            let path = format!("/v1/tenants/{id}/stop");
            let answer: Result<serde_json::Value, _> =
                self.client.call(Method::POST, &path, None::<&()>, STOP).await;
            match answer {
                Err(CallError::Refused(problem)) if problem.status == 404 => Ok(()),
                Err(error) => Err(error),
                Ok(_) => Ok(()),
            }
        })
    }

    fn remove(&self, id: TenantId) -> BoxFuture<'_, Result<(), CallError>> {
        Box::pin(async move {
            let path = format!("/v1/tenants/{id}");
            self.client.call(Method::DELETE, &path, None::<&()>, STOP * 2).await
        })
    }

    fn sleep(&self, id: TenantId) -> BoxFuture<'_, Result<SleepStatus, CallError>> {
        Box::pin(async move {
            let path = format!("/v1/tenants/{id}/sleep");
            self.client.call(Method::GET, &path, None::<&()>, HEAD).await
        })
    }

    fn sleeps(&self) -> BoxFuture<'_, Result<SleepStatusList, CallError>> {
        Box::pin(async move { self.client.call(Method::GET, "/v1/sleep", None::<&()>, HEAD).await })
    }

    fn logs<'a>(&'a self, id: TenantId, query: &'a str) -> BoxFuture<'a, Result<Body, CallError>> {
        Box::pin(async move {
            let path = format!("/v1/tenants/{id}/logs?{query}");
            Ok(Body::new(self.client.stream(&path, HEAD).await?.into_body()))
        })
    }

    fn watch<'a>(&'a self, tell: Listener<'a>) -> BoxFuture<'a, WatchEnded> {
        Box::pin(async move {
            follow(&self.client, "/v1/tenants/watch", |_, message| tell(message.clone())).await
        })
    }
}
