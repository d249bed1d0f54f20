//! The contract between the orchestrator and a container engine.
//!
//! Every call is idempotent and bounded in time. It returns what the engine shows now, or a
//! [`DriverError`] that a person can act on. One conformance suite holds every implementation to
//! this contract. Support for another engine, such as Kubernetes, is a module beside [`docker`].

mod command;
mod disk_guard;
pub mod docker;
mod drift;
mod error;
mod images;
pub mod memory;

use std::collections::{BTreeSet, HashMap};

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;
use futures_util::stream::{self, BoxStream};
use protocol::busy::BusyList;
use protocol::exec::ExecCommand;
use protocol::gauges::GaugeReport;
use protocol::images::RegistryImage;
use protocol::orchestrator::{Capacity, DiskUse, Drift, Exit, Upstream};
use protocol::process::{AppSpec, PreparedImage};
use protocol::sessions::RevokeSessions;
use protocol::spec::Spec;
use protocol::summaries::SummaryReport;
use protocol::{TenantId, Timestamp};
use serde::Serialize;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;
use tokio_util::sync::CancellationToken;

use crate::core_back::BusyError;
use crate::revocation::RevokeError;

pub use command::{CommandControl, CommandHandle, CommandOutput, RunningCommand};
pub use disk_guard::{DiskExcess, DiskGuard, DiskQuota, DiskSpace};
pub use drift::{AppliedLimits, describe_drift};
pub use error::{DriverError, DriverErrorCode};
pub use images::{ImagePull, PullMeter, PullOutcome};

pub type DriverFuture<'a, T> = BoxFuture<'a, Result<T, DriverError>>;

pub trait Driver: Send + Sync + 'static {
    /// Creates what the tenant lacks and applies its limits.
    ///
    /// A running container is kept unless its generation differs from the spec. A stopped container
    /// is created again when it drifted from its spec, its image or the installation's settings.
    fn ensure<'a>(&'a self, spec: &'a Spec) -> DriverFuture<'a, ContainerStatus>;
    /// Decides whether [`start`](Self::start) would refuse `spec` by its secrets alone. Changes nothing, and calls no engine.
    ///
    /// # Errors
    /// [`DriverErrorCode::SecretMissing`]; variables that cannot be decrypted.
    fn check_start(&self, spec: &Spec) -> Result<(), DriverError>;
    /// Starts the container and returns when the engine's start call has returned. Unpauses a
    /// paused container. From this start on, the program receives the variables and the database of `spec`.
    fn start<'a>(&'a self, spec: &'a Spec) -> DriverFuture<'a, ContainerStatus>;
    /// Stops the container with a signal; the engine kills it after [`STOP_TIMEOUT`].
    fn stop(&self, id: TenantId) -> DriverFuture<'_, ContainerStatus>;
    fn freeze(&self, id: TenantId) -> DriverFuture<'_, ContainerStatus>;
    /// Unpauses the container. Does not inspect it afterwards, because a request waits for this
    /// call.
    fn thaw(&self, id: TenantId) -> DriverFuture<'_, ()>;
    /// Ends once the tenant's health endpoint answers 200, which may be before [`thaw`](Self::thaw)
    /// returns. Never ends while nothing listens there, or while the endpoint responds with another
    /// status.
    fn wait_until_responsive(&self, id: TenantId) -> BoxFuture<'_, ()>;
    /// Reads the tenant's busy leases within [`CORE_BACK_TIMEOUT`](crate::core_back::CORE_BACK_TIMEOUT).
    ///
    /// # Errors
    /// [`BusyError`]: why there is no list.
    fn busy_list(&self, id: TenantId) -> BoxFuture<'_, Result<BusyList, BusyError>>;
    /// Reads the tenant's gauges within [`CORE_BACK_TIMEOUT`](crate::core_back::CORE_BACK_TIMEOUT).
    ///
    /// # Errors
    /// [`BusyError`]: why there are none.
    fn gauges(&self, id: TenantId) -> BoxFuture<'_, Result<GaugeReport, BusyError>>;
    /// Reads the tenant's summaries of conversations that changed after `position`, within
    /// [`SUMMARIES_TIMEOUT`](crate::core_back::SUMMARIES_TIMEOUT).
    ///
    /// # Errors
    /// [`BusyError`]: why there is no report.
    fn summaries(
        &self,
        id: TenantId,
        position: i64,
    ) -> BoxFuture<'_, Result<SummaryReport, BusyError>>;
    /// Reports ended admin sessions to the tenant within
    /// [`REVOKE_TIMEOUT`](crate::revocation::REVOKE_TIMEOUT).
    ///
    /// # Errors
    /// [`RevokeError`]: why the tenant did not acknowledge.
    fn revoke_sessions(
        &self,
        id: TenantId,
        revoked: RevokeSessions,
    ) -> BoxFuture<'_, Result<(), RevokeError>>;
    /// Removes everything of the tenant and verifies that nothing is left.
    fn remove(&self, id: TenantId) -> DriverFuture<'_, ()>;
    fn inspect(&self, id: TenantId) -> DriverFuture<'_, Option<ContainerStatus>>;
    fn list(&self) -> DriverFuture<'_, Vec<ContainerStatus>>;
    /// Events from now on. The stream never ends; a reader that lags receives
    /// [`EngineEvent::EventsMissed`].
    fn watch(&self) -> BoxStream<'static, EngineEvent>;
    fn logs(&self, id: TenantId, options: LogOptions) -> DriverFuture<'_, LogStream>;
    /// Starts a command in the platform half of a container that runs, as `agent` and never as another user. The command
    /// counts against the limits of the tenant.
    fn exec<'a>(
        &'a self,
        id: TenantId,
        command: &'a ExecCommand,
    ) -> DriverFuture<'a, RunningCommand>;
    /// Starts the program that runs one attempt of a task, like [`exec`](Self::exec).
    fn start_task(&self, id: TenantId) -> DriverFuture<'_, RunningCommand>;
    fn stats(&self, id: TenantId) -> DriverFuture<'_, ResourceUsage>;
    /// Sends both volumes of a tenant as one or more tars, one after the other, with the folders of [`VOLUME_FOLDERS`]. Starts
    /// and thaws nothing. The caller sees to it that nothing writes to the volumes meanwhile.
    fn read_volumes(&self, id: TenantId, sink: VolumeSink) -> DriverFuture<'_, ()>;
    /// Removes what a dropped [`read_volumes`](Self::read_volumes) left.
    fn end_read(&self, id: TenantId) -> BoxFuture<'_, ()>;
    /// Makes the volumes of a tenant that has neither volumes nor a container, and fills them from a tar with the folders of
    /// [`VOLUME_FOLDERS`], whose entries the caller has checked. Owners, modes, times and links are kept. Leaves nothing when it
    /// fails, and when the tar ends with an error.
    fn write_volumes(
        &self,
        id: TenantId,
        limit_bytes: u64,
        tar: VolumeStream,
    ) -> DriverFuture<'_, ()>;
    fn capacity(&self) -> DriverFuture<'_, Capacity>;
    /// Pulls an image from its registry if its policy wants that. A pull that fails, or that is abandoned, leaves nothing.
    fn pull_image<'a>(
        &'a self,
        pull: &'a ImagePull,
        abandoned: &'a CancellationToken,
    ) -> DriverFuture<'a, PullOutcome>;
    /// Loads an image from a tarball of `docker save` and gives it this name and no other. A load that fails, or that is abandoned,
    /// leaves nothing with a name.
    fn load_image<'a>(
        &'a self,
        image: &'a RegistryImage,
        tar: VolumeStream,
        abandoned: &'a CancellationToken,
    ) -> DriverFuture<'a, PullOutcome>;
    /// The ids of the images that [`pull_image`](Self::pull_image) and [`load_image`](Self::load_image) brought to the engine.
    fn list_pulled(&self) -> DriverFuture<'_, Vec<String>>;
    /// Removes an image of [`list_pulled`](Self::list_pulled), unless a container needs it. Returns whether it is gone.
    fn remove_pulled<'a>(&'a self, image_id: &'a str) -> DriverFuture<'a, bool>;
    /// Checks that an image of the engine can run an app, and makes it ready for tenants.
    fn prepare_image<'a>(
        &'a self,
        image: &'a str,
        app: &'a AppSpec,
    ) -> DriverFuture<'a, PreparedImage>;
    /// Reads the free space of the disk that holds the engine's data. Cheap.
    ///
    /// # Errors
    /// The directory that is read in its place is not accessible.
    fn disk_space(&self) -> Result<DiskSpace, DriverError>;
    /// Measures the volumes of all tenants, in bytes. Expensive: the engine walks every file.
    fn measure_disk(&self) -> DriverFuture<'_, HashMap<TenantId, u64>>;
    /// Observes again which limits the filesystem enforces. After a failure, it counts as enforcing none.
    fn refresh_quotas(&self) -> BoxFuture<'_, ()>;
    /// Sets the limit that the filesystem enforces. Changes nothing for a tenant whose limit it cannot enforce.
    fn set_quota(&self, id: TenantId, limit_bytes: u64) -> BoxFuture<'_, ()>;
    /// The limit that the filesystem enforces, as last observed; `None` where it enforces none.
    fn quota(&self, id: TenantId) -> Option<DiskQuota>;
    /// Lets tenants know their share of the disk. Returns those that know it now: the others never started, or failed.
    fn report_disk(&self, disk_use: Vec<DiskUse>) -> BoxFuture<'_, Vec<DiskUse>>;
}

/// How long a container may take to stop. PID 1 of a tenant bounds itself to 10 s.
pub const STOP_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(12);

/// A container as the engine shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerStatus {
    pub id: TenantId,
    pub generation: i64,
    pub container: String,
    pub run: RunState,
    /// The tenant's health endpoint has answered since the last start.
    pub ready: bool,
    /// By the engine's clock; `None` where only an inspection shows it.
    pub started_at: Option<Timestamp>,
    pub port: Option<u16>,
    pub upstream: Option<Upstream>,
    /// `None` where only an inspection shows the limits.
    pub limits: Option<AppliedLimits>,
    /// Differences that can be judged without the spec. [`ContainerStatus::drift_from`] adds the
    /// others.
    pub drift: BTreeSet<Drift>,
}

impl ContainerStatus {
    /// All known differences between this container and `spec`. Never names limits that were not
    /// inspected.
    pub fn drift_from(&self, spec: &Spec) -> BTreeSet<Drift> {
        let mut drift = self.drift.clone();
        if self.limits.is_some_and(|limits| limits != AppliedLimits::from(spec.limits)) {
            drift.insert(Drift::Limits);
        }
        drift
    }
}

/// The run state of a container, as the engine reports it. Not the tenant's phase, which depends on
/// its target too.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RunState {
    Created,
    Running,
    Paused,
    /// The container exited by itself and the engine starts it again.
    Restarting,
    Exited(ExitStatus),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExitStatus {
    pub code: i64,
    pub out_of_memory: bool,
    /// `None` where only an inspection shows it.
    pub at: Option<Timestamp>,
}

impl RunState {
    /// A process of the tenant exists, or the engine is about to start one.
    pub const fn is_alive(&self) -> bool {
        match self {
            Self::Running | Self::Paused | Self::Restarting => true,
            Self::Created | Self::Exited(_) => false,
        }
    }
}

/// A change on the engine. Only a hint: [`Driver::inspect`] and [`Driver::list`] show the truth.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EngineEvent {
    /// Something about this tenant's container changed.
    Changed(TenantId),
    /// The tenant's health endpoint answered for the first time since its start.
    Ready { id: TenantId, container: String },
    /// A container exited, for any reason.
    Died { id: TenantId, container: String, exit: Exit },
    /// Events may have been missed; the reader must list again.
    EventsMissed,
    /// The engine does not answer, with the reason.
    Disconnected(String),
    /// The engine answers again; the reader must list again.
    Reconnected,
}

/// Which lines of a tenant's output to read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogOptions {
    /// `None` reads all lines that the engine kept.
    pub tail: Option<u32>,
    /// Seconds since 1970.
    pub since: Option<i64>,
    pub follow: bool,
    /// Begin every line with the time at which the engine received the line, by RFC 3339 with nanoseconds, and a blank.
    pub timestamps: bool,
}

/// Plain text: no escape sequences, no framing.
pub type LogStream = BoxStream<'static, std::io::Result<Bytes>>;

/// The folders of the volumes in a tar: that of the core half, and that of the tenant's own files.
pub const VOLUME_FOLDERS: [&str; 2] = ["data", "files"];

/// The next bytes of a tar, never empty, or why it breaks off.
pub type VolumePiece = Result<Bytes, DriverError>;

/// Receives the tar of a tenant's volumes. It is closed when the reader is gone.
pub type VolumeSink = tokio::sync::mpsc::Sender<VolumePiece>;

/// The tar of a tenant's volumes.
pub type VolumeStream = BoxStream<'static, std::io::Result<Bytes>>;

/// Resources that a tenant uses now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ResourceUsage {
    pub memory_bytes: u64,
    pub cpu_nanos: u64,
    pub pids: u64,
    /// Both volumes, as they were last measured; `None` before the first measurement.
    pub disk_bytes: Option<u64>,
}

/// Turns a receiver into a stream that ends only with its sender.
fn stream_of(events: Receiver<EngineEvent>) -> BoxStream<'static, EngineEvent> {
    stream::unfold(events, async |mut events| match events.recv().await {
        Ok(event) => Some((event, events)),
        Err(RecvError::Lagged(_)) => Some((EngineEvent::EventsMissed, events)),
        Err(RecvError::Closed) => None,
    })
    .boxed()
}
