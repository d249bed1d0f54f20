//! What an engine must be able to do for us.
//!
//! Every call is idempotent, ends within a time of its own, and either shows what is true now or says in words
//! that a person can act on why not. One conformance suite holds all drivers to that.

pub mod docker;
mod error;
pub mod memory;

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;
use futures_util::stream::{self, BoxStream};
use protocol::busy::BusyList;
use protocol::orchestrator::{Capacity, Exit, Upstream};
use protocol::spec::Spec;
use protocol::{TenantId, Timestamp};
use serde::Serialize;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;

use crate::busy::BusyError;
pub use error::{DriverError, DriverErrorCode};

pub type DriverFuture<'a, T> = BoxFuture<'a, Result<T, DriverError>>;

pub trait Driver: Send + Sync + 'static {
    /// All of the tenant's resources exist and its limits apply. A container that runs is left alone unless it
    /// is of another generation; one that rests is made anew when its image was rebuilt, or when the installation's
    /// settings are others than it was made with.
    fn ensure<'a>(&'a self, spec: &'a Spec) -> DriverFuture<'a, ContainerStatus>;
    /// Its start call has returned. Thaws what is frozen, leaves alone what runs.
    fn start(&self, id: TenantId) -> DriverFuture<'_, ContainerStatus>;
    /// Ended in order: asked first, killed after [`STOP_TIMEOUT`].
    fn stop(&self, id: TenantId) -> DriverFuture<'_, ContainerStatus>;
    fn freeze(&self, id: TenantId) -> DriverFuture<'_, ContainerStatus>;
    /// It runs. Does not look at what it shows then: nobody should wait for more than it takes.
    fn thaw(&self, id: TenantId) -> DriverFuture<'_, ()>;
    /// Ends once its health answers well, which one that is being thawed does before the engine has said so. Never
    /// ends where nobody listens, or where it answers otherwise.
    fn wait_until_responsive(&self, id: TenantId) -> BoxFuture<'_, ()>;
    /// What in it is under way, as it says itself, with_timeout [`busy::BUSY_TIMEOUT`](crate::busy::BUSY_TIMEOUT). `Err`: why it
    /// did not say, in words that end a sentence.
    fn busy_list(&self, id: TenantId) -> BoxFuture<'_, Result<BusyList, BusyError>>;
    /// Nothing of the tenant is left, and that was looked at. Works on leftovers of any kind.
    fn remove(&self, id: TenantId) -> DriverFuture<'_, ()>;
    fn inspect(&self, id: TenantId) -> DriverFuture<'_, Option<ContainerStatus>>;
    fn list(&self) -> DriverFuture<'_, Vec<ContainerStatus>>;
    /// Hints from now on. Never ends; whoever lags is told to list again.
    fn watch(&self) -> BoxStream<'static, EngineEvent>;
    fn logs(&self, id: TenantId, wanted: LogOptions) -> DriverFuture<'_, LogStream>;
    fn stats(&self, id: TenantId) -> DriverFuture<'_, ResourceUsage>;
    fn capacity(&self) -> DriverFuture<'_, Capacity>;
}

/// How long a tenant may take to end by itself; its own bound is 10 s.
pub const STOP_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(12);

/// A container as the engine shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerStatus {
    pub id: TenantId,
    pub generation: i64,
    pub container: String,
    pub run: RunState,
    /// Its health has answered since its last start.
    pub ready: bool,
    /// The engine's clock; `None` where only an inspection would tell.
    pub started_at: Option<Timestamp>,
    pub port: Option<u16>,
    pub upstream: Option<Upstream>,
    pub image_outdated: bool,
    /// It was made with other settings of the installation than are in force now.
    pub template_outdated: bool,
}

/// What a container does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RunState {
    Created,
    Running,
    Paused,
    /// Ended by itself; the engine starts it again.
    Restarting,
    Exited(ExitStatus),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExitStatus {
    pub code: i64,
    pub out_of_memory: bool,
    /// `None` where only an inspection would tell.
    pub at: Option<Timestamp>,
}

impl RunState {
    /// A process of the tenant exists, or is about to.
    pub const fn is_alive(&self) -> bool {
        match self {
            Self::Running | Self::Paused | Self::Restarting => true,
            Self::Created | Self::Exited(_) => false,
        }
    }
}

/// Something happened on the engine. A hint: only [`Driver::look`] and [`Driver::list`] tell what is true.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EngineEvent {
    /// Look at this tenant.
    Changed(TenantId),
    /// Its health answered for the first time since its start.
    Ready { id: TenantId, container: String },
    /// A container ended, for whatever reason.
    Died { id: TenantId, container: String, exit: Exit },
    /// Hints may have been missed: list.
    EventsMissed,
    /// The engine does not answer.
    Disconnected(String),
    /// It answers again: list.
    Reconnected,
}

/// Which lines of a tenant's output.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogOptions {
    /// `None` is all that the engine kept.
    pub tail: Option<u32>,
    /// Seconds since 1970.
    pub since: Option<i64>,
    pub follow: bool,
}

/// PlainTextFilter text: no escape sequences, no framing.
pub type LogStream = BoxStream<'static, std::io::Result<Bytes>>;

/// What a tenant uses now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ResourceUsage {
    pub memory_bytes: u64,
    pub cpu_nanos: u64,
    pub pids: u64,
}

/// A receiver as a stream that never ends while its sender lives.
fn stream_of(events: Receiver<EngineEvent>) -> BoxStream<'static, EngineEvent> {
    stream::unfold(events, async |mut events| match events.recv().await {
        Ok(event) => Some((event, events)),
        Err(RecvError::Lagged(_)) => Some((EngineEvent::EventsMissed, events)),
        Err(RecvError::Closed) => None,
    })
    .boxed()
}
