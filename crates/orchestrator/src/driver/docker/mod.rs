//! Docker Engine, API 1.41 and newer. Only this module knows bollard.

mod command;
mod container;
mod disk;
mod engine;
mod events;
mod load;
mod logs;
mod network;
mod pull;
mod remove;
mod status;
pub mod subnet_pool;
mod template;
mod volumes;
mod wrap;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use bollard::query_parameters::StatsOptionsBuilder;
use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use protocol::TenantId;
use protocol::busy::BusyList;
use protocol::exec::ExecCommand;
use protocol::gauges::GaugeReport;
use protocol::images::RegistryImage;
use protocol::inside::supervisor_commands;
use protocol::orchestrator::{Capacity, DiskUse};
use protocol::process::{AppSpec, PreparedImage};
use protocol::sessions::RevokeSessions;
use protocol::spec::Spec;
use protocol::summaries::SummaryReport;
use tokio::sync::{OnceCell, RwLock, broadcast};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use self::engine::{Engine, INSPECT_TIMEOUT, optional, with_timeout};
use self::load::LoadLocks;
use self::pull::Removals;
use self::subnet_pool::Pool;
pub use self::template::ContainerTemplate;
use super::{
    ContainerStatus, DiskQuota, DiskSpace, Driver, DriverError, DriverErrorCode, DriverFuture,
    EngineEvent, ImagePull, LogOptions, LogStream, PullOutcome, ResourceUsage, RunningCommand,
    VolumeSink, VolumeStream,
};
use crate::core_back::{self, BusyError};
use crate::database_proxy::DatabaseProxy;
use crate::quota::{QuotaClient, VolumeUse};
use crate::readiness::ReadinessProbes;
use crate::revocation::{self, RevokeError};
use crate::tenant_dirs::{CreateError, DirRoots, TenantDirs};

/// The paths by which the engine finds our directories.
#[derive(Clone, Debug)]
pub enum EngineDirs {
    /// The orchestrator runs in a container, and the directories are in the installation's volumes.
    Volumes,
    /// The orchestrator runs beside the engine, and both use the same paths.
    Host(DirRoots),
}

pub struct DockerSettings {
    pub socket: PathBuf,
    pub template: ContainerTemplate,
    pub pool: Pool,
    pub dirs: EngineDirs,
    /// A directory on the disk that holds the engine's data. The free space of this directory
    /// counts as the engine's.
    pub state_dir: PathBuf,
    /// With less than this free, no new tenant is created and no image is pulled.
    pub disk_reserve_bytes: u64,
    /// Where the service `quota` listens, if the installation runs it.
    pub quota_socket: PathBuf,
}

pub struct DockerDriver {
    engine: Arc<Engine>,
    template: ContainerTemplate,
    /// The hash of the template, which does not change.
    template_hash: String,
    tenant_dirs: TenantDirs,
    probes: Arc<ReadinessProbes>,
    dirs: EngineDirs,
    /// The parents of the tenants' directories, as the engine sees them.
    engine_side_dirs: OnceCell<DirRoots>,
    database_proxy: DatabaseProxy,
    state_dir: PathBuf,
    disk_reserve_bytes: u64,
    quotas: QuotaClient,
    subnets: network::Subnets,
    /// Held to read by those who create a container from a wrapped image, and to write by those who
    /// wrap an image or remove one.
    wrapping: RwLock<()>,
    removals: Removals,
    loads: LoadLocks,
    events: broadcast::Sender<EngineEvent>,
    _follower: AbortOnDropHandle<()>,
}

/// A reader that lags by more than this must list again.
const EVENT_BACKLOG: usize = 4_096;

impl DockerDriver {
    /// Connects when first needed and reconnects after failures: an unreachable engine is a state,
    /// not a failure. Must be called inside a runtime.
    pub fn new(settings: DockerSettings, tenant_dirs: TenantDirs) -> std::io::Result<Self> {
        let DockerSettings { socket, template, pool, dirs, state_dir, .. } = settings;
        let events = broadcast::channel(EVENT_BACKLOG).0;
        let sender = events.clone();
        let probes = Arc::new(ReadinessProbes::new(tenant_dirs.clone(), move |id, container| {
            // An event without a reader is no error.
            let _ = sender.send(EngineEvent::Ready { id, container });
        })?);
        let engine = Arc::new(Engine::new(socket));
        let follower =
            events::follow(engine.clone(), template.clone(), probes.clone(), events.clone());
        Ok(Self {
            engine,
            template_hash: template.hash(),
            template,
            database_proxy: DatabaseProxy::new(tenant_dirs.clone()),
            tenant_dirs,
            probes,
            dirs,
            engine_side_dirs: OnceCell::new(),
            state_dir,
            disk_reserve_bytes: settings.disk_reserve_bytes,
            quotas: QuotaClient::new(settings.quota_socket),
            subnets: network::Subnets::new(pool),
            wrapping: RwLock::default(),
            removals: Removals::default(),
            loads: LoadLocks::default(),
            events,
            _follower: AbortOnDropHandle::new(tokio::spawn(follower)),
        })
    }

    /// Requests the directories from the engine once, because mountpoints of volumes do not move.
    async fn engine_side_dirs(&self) -> Result<&DirRoots, DriverError> {
        let read = async || match &self.dirs {
            EngineDirs::Host(roots) => Ok(roots.clone()),
            EngineDirs::Volumes => {
                let install = &self.template.install;
                let (sockets, secrets, databases, models) = tokio::try_join!(
                    self.mountpoint(install.sockets_volume()),
                    self.mountpoint(install.tenant_secrets_volume()),
                    self.mountpoint(install.tenant_databases_volume()),
                    self.mountpoint(install.models_volume()),
                )?;
                Ok(DirRoots { sockets, secrets, databases, models })
            }
        };
        self.engine_side_dirs.get_or_try_init(read).await
    }

    async fn mountpoint(&self, name: String) -> Result<PathBuf, DriverError> {
        let client = self.engine.client().await?;
        if let Some(volume) = optional(INSPECT_TIMEOUT, client.inspect_volume(&name)).await? {
            return Ok(volume.mountpoint.into());
        }
        let created = client.create_volume(self.template.volume(&name, self.template.own_labels()));
        Ok(with_timeout(INSPECT_TIMEOUT, created).await?.mountpoint.into())
    }

    async fn usage(&self, id: TenantId) -> Result<ResourceUsage, DriverError> {
        let client = self.engine.client().await?;
        let once = StatsOptionsBuilder::default().stream(false).one_shot(true).build();
        let name = id.container();
        let mut responses = client.stats(&name, Some(once));
        let first = async { responses.next().await.transpose() };
        let none = || DriverError::no_such_tenant(id);
        let stats = optional(INSPECT_TIMEOUT, first).await?.flatten().ok_or_else(none)?;
        let cpu = stats.cpu_stats.and_then(|s| s.cpu_usage).and_then(|u| u.total_usage);
        Ok(ResourceUsage {
            memory_bytes: stats.memory_stats.and_then(|s| s.usage).unwrap_or(0),
            cpu_nanos: cpu.unwrap_or(0),
            pids: stats.pids_stats.and_then(|s| s.current).unwrap_or(0),
            disk_bytes: None,
        })
    }

    async fn read_capacity(&self) -> Result<Capacity, DriverError> {
        let client = self.engine.client().await?;
        let (version, (total, used)) = tokio::try_join!(
            with_timeout(INSPECT_TIMEOUT, client.version()),
            self.subnets.usage(&client)
        )?;
        Ok(Capacity {
            networks_used: used,
            networks_total: total,
            engine_version: version.version.unwrap_or_default(),
            api_version: client.client_version().to_string(),
            disk: self.disk_capacity(),
            quota: self.quotas.service(),
        })
    }
}

impl Driver for DockerDriver {
    fn ensure<'a>(&'a self, spec: &'a Spec) -> DriverFuture<'a, ContainerStatus> {
        Box::pin(self.ensure_container(spec))
    }

    fn check_start(&self, spec: &Spec) -> Result<(), DriverError> {
        let variables = self.tenant_dirs.variables_of_start(spec);
        variables.map(drop).map_err(|error| start_error(spec, &error))
    }

    fn start<'a>(&'a self, spec: &'a Spec) -> DriverFuture<'a, ContainerStatus> {
        Box::pin(self.start_container(spec))
    }

    fn stop(&self, id: TenantId) -> DriverFuture<'_, ContainerStatus> {
        Box::pin(self.stop_container(id))
    }

    fn freeze(&self, id: TenantId) -> DriverFuture<'_, ContainerStatus> {
        Box::pin(self.freeze_container(id))
    }

    fn thaw(&self, id: TenantId) -> DriverFuture<'_, ()> {
        Box::pin(self.thaw_container(id))
    }

    fn wait_until_responsive(&self, id: TenantId) -> BoxFuture<'_, ()> {
        Box::pin(self.probes.wait_until_responsive(id))
    }

    fn busy_list(&self, id: TenantId) -> BoxFuture<'_, Result<BusyList, BusyError>> {
        Box::pin(async move {
            core_back::fetch_busy_list(&self.tenant_dirs.orchestrator_socket(id)).await
        })
    }

    fn gauges(&self, id: TenantId) -> BoxFuture<'_, Result<GaugeReport, BusyError>> {
        Box::pin(
            async move { core_back::fetch_gauges(&self.tenant_dirs.orchestrator_socket(id)).await },
        )
    }

    fn summaries(
        &self,
        id: TenantId,
        position: i64,
    ) -> BoxFuture<'_, Result<SummaryReport, BusyError>> {
        let socket = self.tenant_dirs.orchestrator_socket(id);
        Box::pin(async move { core_back::fetch_summaries(&socket, position).await })
    }

    fn revoke_sessions(
        &self,
        id: TenantId,
        revoked: RevokeSessions,
    ) -> BoxFuture<'_, Result<(), RevokeError>> {
        Box::pin(async move {
            revocation::send(&self.tenant_dirs.orchestrator_socket(id), &revoked).await
        })
    }

    fn remove(&self, id: TenantId) -> DriverFuture<'_, ()> {
        Box::pin(self.remove_all(id))
    }

    fn inspect(&self, id: TenantId) -> DriverFuture<'_, Option<ContainerStatus>> {
        Box::pin(self.inspect_tenant(id))
    }

    fn list(&self) -> DriverFuture<'_, Vec<ContainerStatus>> {
        Box::pin(self.list_all())
    }

    fn watch(&self) -> BoxStream<'static, EngineEvent> {
        super::stream_of(self.events.subscribe())
    }

    fn logs(&self, id: TenantId, wanted: LogOptions) -> DriverFuture<'_, LogStream> {
        Box::pin(self.read_logs(id, wanted))
    }

    fn exec<'a>(
        &'a self,
        id: TenantId,
        command: &'a ExecCommand,
    ) -> DriverFuture<'a, RunningCommand> {
        Box::pin(self.run_command(id, command))
    }

    fn start_task(&self, id: TenantId) -> DriverFuture<'_, RunningCommand> {
        Box::pin(async move {
            self.run_in_tenant(id, supervisor_commands::TASK, &ExecCommand::default()).await
        })
    }

    fn stats(&self, id: TenantId) -> DriverFuture<'_, ResourceUsage> {
        Box::pin(self.usage(id))
    }

    fn read_volumes(&self, id: TenantId, sink: VolumeSink) -> DriverFuture<'_, ()> {
        Box::pin(self.copy_volumes_out(id, sink))
    }

    fn end_read(&self, id: TenantId) -> BoxFuture<'_, ()> {
        Box::pin(self.remove_left_volume_work(id))
    }

    fn write_volumes(
        &self,
        id: TenantId,
        limit_bytes: u64,
        tar: VolumeStream,
    ) -> DriverFuture<'_, ()> {
        Box::pin(self.create_filled_volumes(id, limit_bytes, tar))
    }

    fn capacity(&self) -> DriverFuture<'_, Capacity> {
        Box::pin(self.read_capacity())
    }

    fn pull_image<'a>(
        &'a self,
        pull: &'a ImagePull,
        abandoned: &'a CancellationToken,
    ) -> DriverFuture<'a, PullOutcome> {
        Box::pin(self.pull(pull, abandoned))
    }

    fn load_image<'a>(
        &'a self,
        image: &'a RegistryImage,
        tar: VolumeStream,
        abandoned: &'a CancellationToken,
    ) -> DriverFuture<'a, PullOutcome> {
        Box::pin(self.load(image, tar, abandoned))
    }

    fn list_pulled(&self) -> DriverFuture<'_, Vec<String>> {
        Box::pin(self.pulled())
    }

    fn remove_pulled<'a>(&'a self, image_id: &'a str) -> DriverFuture<'a, bool> {
        Box::pin(self.remove_pulled_image(image_id))
    }

    fn prepare_image<'a>(
        &'a self,
        image: &'a str,
        app: &'a AppSpec,
    ) -> DriverFuture<'a, PreparedImage> {
        Box::pin(self.prepare(image, app))
    }

    fn disk_space(&self) -> Result<DiskSpace, DriverError> {
        self.read_disk_space()
    }

    fn measure_disk(&self) -> DriverFuture<'_, HashMap<TenantId, u64>> {
        Box::pin(self.measure_volumes())
    }

    fn refresh_quotas(&self) -> BoxFuture<'_, ()> {
        Box::pin(self.quotas.refresh())
    }

    fn set_quota(&self, id: TenantId, limit_bytes: u64) -> BoxFuture<'_, ()> {
        Box::pin(self.quotas.set(id, limit_bytes, VolumeUse::Mounted))
    }

    fn quota(&self, id: TenantId) -> Option<DiskQuota> {
        self.quotas.quota(id)
    }

    fn report_disk(&self, disk_use: Vec<DiskUse>) -> BoxFuture<'_, Vec<DiskUse>> {
        let tenant_dirs = self.tenant_dirs.clone();
        let report = move |disk_use: &DiskUse| {
            tenant_dirs.report_disk(disk_use).unwrap_or_else(|error| {
                tracing::warn!(tenant = %disk_use.tenant, %error, "share of the disk not reported");
                false
            })
        };
        Box::pin(async move {
            let reporting =
                tokio::task::spawn_blocking(|| disk_use.into_iter().filter(report).collect());
            reporting.await.unwrap_or_default()
        })
    }
}

/// Describes for a person why the directories of a start were not created.
fn start_error(spec: &Spec, error: &CreateError) -> DriverError {
    match error {
        CreateError::SecretMissing(names) => DriverError::secret_missing(&spec.slug, names),
        CreateError::Io(error) => disk_error(error),
    }
}

/// Describes an error of our own disk for a person.
fn disk_error(error: &std::io::Error) -> DriverError {
    let code = if error.kind() == std::io::ErrorKind::StorageFull {
        DriverErrorCode::DiskFull
    } else {
        DriverErrorCode::Internal
    };
    DriverError::new(
        code,
        format!("The tenant's socket and secrets directories cannot be made: {error}."),
    )
}
