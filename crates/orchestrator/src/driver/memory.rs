//! An engine that exists in memory only. It follows its script in virtual time and records the
//! calls that it receives. The real engine's conformance suite holds for this engine, too.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;
use futures_util::stream::{self, BoxStream};
use protocol::busy::BusyList;
use protocol::exec::{ExecCommand, Output, TerminalSize};
use protocol::gauges::GaugeReport;
use protocol::images::RegistryImage;
use protocol::inside::{AGENT_UID, CIAL_UID, DEFAULT_APP_PORT};
use protocol::orchestrator::{Capacity, DiskUse, Drift, Exit, QuotaService, Upstream};
use protocol::process::{AppSpec, PreparedImage};
use protocol::sessions::RevokeSessions;
use protocol::spec::Spec;
use protocol::summaries::SummaryReport;
use protocol::variables::SealedAppEnv;
use protocol::{TenantId, Timestamp};
use tokio::io::AsyncReadExt as _;
use tokio::sync::broadcast;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{
    AppliedLimits, CommandControl, ContainerStatus, DiskQuota, DiskSpace, Driver, DriverError,
    DriverErrorCode, DriverFuture, EngineEvent, ExitStatus, ImagePull, LogOptions, LogStream,
    PullOutcome, ResourceUsage, RunState, RunningCommand, VOLUME_FOLDERS, VolumeSink, VolumeStream,
};
use crate::core_back::{self, BusyError};
use crate::revocation::RevokeError;

/// The behavior of a tenant after its start.
#[derive(Clone, Copy, Debug)]
pub struct TenantBehavior {
    /// How long the engine's calls for the tenant take.
    pub engine: Duration,
    /// `None`: the tenant never gets ready.
    pub ready_after: Option<Duration>,
    /// How soon the tenant responds during a thaw; `None`: not before the thaw call has ended.
    pub thawed_after: Option<Duration>,
    /// The container exits by itself after this time, with this code.
    pub exits_after: Option<(Duration, i64)>,
    pub image_exists: bool,
    /// The engine refuses to start or thaw the tenant.
    pub refuses_start: bool,
    pub refuses_thaw: bool,
    /// The release requires a secret that has no value.
    pub lacks_secret: bool,
    /// Calls of the engine for this tenant panic.
    pub breaks: bool,
}

impl Default for TenantBehavior {
    fn default() -> Self {
        Self {
            engine: Duration::from_millis(100),
            ready_after: Some(Duration::from_millis(10)),
            thawed_after: None,
            exits_after: None,
            image_exists: true,
            refuses_start: false,
            refuses_thaw: false,
            lacks_secret: false,
            breaks: false,
        }
    }
}

/// Cheap to clone; every clone is the same engine.
#[derive(Clone)]
pub struct MemoryDriver {
    state: Arc<Mutex<SimulatedEngine>>,
    events: broadcast::Sender<EngineEvent>,
}

#[derive(Default)]
struct SimulatedEngine {
    tenants: BTreeMap<TenantId, Tenant>,
    scripts: BTreeMap<TenantId, TenantBehavior>,
    /// The behavior of tenants without a script.
    default_script: TenantBehavior,
    /// Bytes in a tenant's volumes, where a test set them.
    disk_bytes: HashMap<TenantId, u64>,
    /// The limits that the filesystem enforces, where a test set them.
    quotas: HashMap<TenantId, u64>,
    /// The reports to tenants about their disk, in order.
    disk_reports: Vec<DiskUse>,
    /// The names of the images that were pulled.
    pulled: BTreeSet<String>,
    /// How long a pull takes.
    pull_duration: Duration,
    /// The images that names mean once they are prepared.
    moved: HashMap<String, String>,
    gauges: HashMap<TenantId, GaugeReport>,
    summaries: HashMap<TenantId, SummaryReport>,
    /// [`Spec::sealed_env`] of each tenant's last start.
    sealed_env: HashMap<TenantId, Option<String>>,
    /// [`Spec::app_env`] of each start, in their order.
    app_envs: Vec<Option<SealedAppEnv>>,
    /// Volumes outlive containers.
    volumes: BTreeSet<TenantId>,
    /// The tar of what is in a tenant's volumes, unless they are empty.
    volume_tars: HashMap<TenantId, Bytes>,
    /// The reason why the engine is unreachable, if it is.
    call_error: Option<DriverError>,
    /// Grows with each rebuild of the image.
    image: u32,
    /// A counter of events: each event is later than the one before.
    ticks: i64,
    calls: Vec<String>,
    /// The responses of tenants to requests for their busy list; an absent tenant is not busy.
    busy: BTreeMap<TenantId, Result<BusyList, BusyError>>,
    /// The lists of ended sessions that tenants acknowledged, in order.
    revoked: Vec<(TenantId, Vec<Uuid>)>,
    /// How many more deliveries of ended sessions fail.
    revoke_failures: BTreeMap<TenantId, u32>,
}

struct Tenant {
    generation: i64,
    limits: AppliedLimits,
    image: u32,
    /// Counts containers and starts, so that the effects of an earlier one do not reach a later
    /// one.
    start_number: i64,
    run: RunState,
    ready: bool,
    started_at: Option<Timestamp>,
}

struct SimulatedCommand {
    memory: MemoryDriver,
    tenant: TenantId,
    code: Arc<AtomicI64>,
}

/// The exit code of a command that somebody killed.
const KILLED: i64 = 137;

impl CommandControl for SimulatedCommand {
    fn resize(&self, TerminalSize { columns, rows }: TerminalSize) -> DriverFuture<'_, ()> {
        let call = format!("resize {columns}x{rows} {}", self.tenant);
        self.memory.state().calls.push(call);
        Box::pin(async { Ok(()) })
    }

    fn exit_code(&self) -> DriverFuture<'_, i64> {
        Box::pin(async { Ok(self.code.load(Ordering::Relaxed)) })
    }

    fn end(&self) -> DriverFuture<'_, ()> {
        self.memory.state().calls.push(format!("end {}", self.tenant));
        Box::pin(async { Ok(()) })
    }
}

/// The size of the simulated engine's disk.
const DISK_BYTES: u64 = 1 << 40;

impl Default for MemoryDriver {
    fn default() -> Self {
        Self { state: Arc::default(), events: broadcast::channel(4_096).0 }
    }
}

impl MemoryDriver {
    pub fn set_behavior(&self, id: TenantId, script: TenantBehavior) {
        self.state().scripts.insert(id, script);
    }

    /// Sets how long a pull of an image takes.
    pub fn set_pull_duration(&self, duration: Duration) {
        self.state().pull_duration = duration;
    }

    /// Gives the name of an image to another image, after its pull and before its preparation.
    pub fn move_name(&self, image: &str, id: &str) {
        self.state().moved.insert(image.to_owned(), id.to_owned());
    }

    /// Sets the behavior of tenants that have none of their own.
    pub fn set_default_behavior(&self, script: TenantBehavior) {
        self.state().default_script = script;
    }

    /// The calls that the engine received, in order: `create …`, `start …`, `stop …`, `freeze …`,
    /// `thaw …`, `busy …`, `remove …`, of images `pull …`, `abandon …`, `remove-image …`, and of commands `exec …`, `resize …`, `end …`.
    pub fn calls(&self) -> Vec<String> {
        self.state().calls.clone()
    }

    pub fn set_busy_list(&self, id: TenantId, response: Result<BusyList, BusyError>) {
        self.state().busy.insert(id, response);
    }

    pub fn set_gauges(&self, id: TenantId, report: GaugeReport) {
        self.state().gauges.insert(id, report);
    }

    /// The reports to tenants about their share of the disk, in order.
    pub fn disk_reports(&self) -> Vec<DiskUse> {
        self.state().disk_reports.clone()
    }

    pub fn set_summaries(&self, id: TenantId, report: SummaryReport) {
        self.state().summaries.insert(id, report);
    }

    pub fn set_disk_bytes(&self, id: TenantId, bytes: u64) {
        self.state().disk_bytes.insert(id, bytes);
    }

    /// Lets the filesystem enforce a tenant's limit.
    pub fn enforce_disk_limit(&self, id: TenantId, limit_bytes: u64) {
        self.state().quotas.insert(id, limit_bytes);
    }

    /// Lets the filesystem enforce no limit any more.
    pub fn end_quotas(&self) {
        self.state().quotas.clear();
    }

    /// Makes the next `count` deliveries of ended sessions to the tenant fail.
    pub fn fail_revocations(&self, id: TenantId, count: u32) {
        self.state().revoke_failures.insert(id, count);
    }

    /// The lists of ended sessions that the tenant acknowledged, in order.
    pub fn revoked(&self, id: TenantId) -> Vec<Vec<Uuid>> {
        let state = self.state();
        let of_tenant = state.revoked.iter().filter(|(tenant, _)| *tenant == id);
        of_tenant.map(|(_, sessions)| sessions.clone()).collect()
    }

    /// The variables of the app of each start, in their order.
    pub fn app_envs(&self) -> Vec<Option<SealedAppEnv>> {
        self.state().app_envs.clone()
    }

    /// The variables that the tenant received at its last start.
    pub fn sealed_env(&self, id: TenantId) -> Option<String> {
        self.state().sealed_env.get(&id).cloned().flatten()
    }

    pub fn has_volumes(&self, id: TenantId) -> bool {
        self.state().volumes.contains(&id)
    }

    pub fn disconnect(&self, why: &str) {
        self.fail_calls(DriverErrorCode::EngineUnreachable, why);
        self.publish(EngineEvent::Disconnected(why.to_owned()));
    }

    /// Makes every call fail, and sends no event.
    pub fn fail_calls(&self, code: DriverErrorCode, detail: &str) {
        self.state().call_error = Some(DriverError::new(code, detail));
    }

    pub fn reconnect(&self) {
        self.state().call_error = None;
        self.publish(EngineEvent::Reconnected);
    }

    pub fn rebuild_image(&self) {
        self.state().image += 1;
    }

    /// Removes the container as another program would, without the driver.
    pub fn remove_externally(&self, id: TenantId) {
        self.state().tenants.remove(&id);
        self.publish(EngineEvent::Changed(id));
    }

    pub fn pause_externally(&self, id: TenantId) {
        if let Some(tenant) = self.state().tenants.get_mut(&id) {
            tenant.run = RunState::Paused;
        }
        self.publish(EngineEvent::Changed(id));
    }

    /// Ends the process of the container.
    pub fn exit_container(&self, id: TenantId, code: i64) {
        let start_number = self.state().tenants.get(&id).map(|t| t.start_number);
        if let Some(start_number) = start_number {
            self.end_container(id, start_number, code);
        }
    }

    fn state(&self) -> MutexGuard<'_, SimulatedEngine> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn publish(&self, event: EngineEvent) {
        // An event without a reader is no error.
        let _ = self.events.send(event);
    }

    /// Begins every call: checks that the engine is reachable, and takes the engine's time.
    async fn call(&self, id: TenantId) -> Result<TenantBehavior, DriverError> {
        let script = self.state().script(id);
        tokio::time::sleep(script.engine).await;
        assert!(!script.breaks, "a scripted panic");
        self.check_reachable()?;
        Ok(script)
    }

    fn check_reachable(&self) -> Result<(), DriverError> {
        match &self.state().call_error {
            Some(error) => Err(error.clone()),
            None => Ok(()),
        }
    }

    fn end_container(&self, id: TenantId, start_number: i64, code: i64) {
        let mut state = self.state();
        let at = state.tick();
        let Some(tenant) = state.tenants.get_mut(&id).filter(|t| t.start_number == start_number)
        else {
            return;
        };
        if !tenant.run.is_alive() {
            return;
        }
        let was_ready = std::mem::take(&mut tenant.ready);
        tenant.run = RunState::Exited(ExitStatus { code, out_of_memory: false, at: Some(at) });
        let exit = Exit { at, code, out_of_memory: false, was_ready };
        drop(state);
        self.publish(EngineEvent::Died { id, container: container(id, start_number), exit });
    }

    fn status_of(&self, id: TenantId) -> Option<ContainerStatus> {
        let state = self.state();
        let tenant = state.tenants.get(&id)?;
        let alive = tenant.run.is_alive();
        Some(ContainerStatus {
            id,
            generation: tenant.generation,
            container: container(id, tenant.start_number),
            run: tenant.run.clone(),
            ready: tenant.ready && alive,
            started_at: tenant.started_at,
            port: None,
            upstream: alive.then(|| Upstream::Unix(format!("/memory/{id}/edge.sock"))),
            limits: Some(tenant.limits),
            drift: BTreeSet::from_iter((tenant.image != state.image).then_some(Drift::Image)),
        })
    }

    fn status_or_error(&self, id: TenantId) -> Result<ContainerStatus, DriverError> {
        self.status_of(id).ok_or_else(|| DriverError::no_such_tenant(id))
    }

    /// Plays the scripted events after a start.
    fn schedule_behavior(&self, id: TenantId, start_number: i64, script: TenantBehavior) {
        self.schedule_ready(id, start_number, script);
        if let Some((after, code)) = script.exits_after {
            let memory = self.clone();
            tokio::spawn(async move {
                tokio::time::sleep(after).await;
                memory.end_container(id, start_number, code);
            });
        }
    }

    fn schedule_ready(&self, id: TenantId, start_number: i64, script: TenantBehavior) {
        let Some(after) = script.ready_after else { return };
        let memory = self.clone();
        tokio::spawn(async move {
            tokio::time::sleep(after).await;
            let fits =
                |t: &&mut Tenant| t.start_number == start_number && t.run == RunState::Running;
            let became_ready =
                memory.state().tenants.get_mut(&id).filter(fits).map(|t| t.ready = true);
            if became_ready.is_some() {
                memory.publish(EngineEvent::Ready { id, container: container(id, start_number) });
            }
        });
    }

    fn set_run_state(
        &self,
        id: TenantId,
        call: &str,
        from: &RunState,
        to: RunState,
    ) -> Result<ContainerStatus, DriverError> {
        let mut state = self.state();
        if let Some(tenant) = state.tenants.get_mut(&id).filter(|t| t.run == *from) {
            tenant.run = to;
            state.calls.push(format!("{call} {id}"));
        }
        drop(state);
        self.status_or_error(id)
    }

    /// A command that writes its input out again; with the argument `fails` it writes nothing and exits with 3.
    fn run_command(
        &self,
        id: TenantId,
        call: &str,
        command: &ExecCommand,
    ) -> Result<RunningCommand, DriverError> {
        if self.status_or_error(id)?.run != RunState::Running {
            return Err(refused());
        }
        self.state().calls.push(format!("{call} {id}"));
        Ok(self.simulate_command(id, command))
    }

    /// Writes what it reads, until it reads `killed` or `ends`.
    fn simulate_command(&self, id: TenantId, command: &ExecCommand) -> RunningCommand {
        let fails = command.argv.iter().any(|arg| arg == "fails");
        let code = Arc::new(AtomicI64::new(if fails { 3 } else { 0 }));
        let (input, echo) = tokio::io::duplex(1 << 10);
        let pieces = stream::try_unfold((echo, code.clone()), async |(mut echo, code)| {
            let mut piece = bytes::BytesMut::with_capacity(1 << 10);
            if code.load(Ordering::Relaxed) != 0 || echo.read_buf(&mut piece).await? == 0 {
                return Ok(None);
            }
            if &piece[..] == b"killed" {
                code.store(KILLED, Ordering::Relaxed);
            }
            let goes_on = !matches!(&piece[..], b"killed" | b"ends");
            std::io::Result::Ok(goes_on.then(|| ((Output::Standard, piece.freeze()), (echo, code))))
        });
        let control = SimulatedCommand { memory: self.clone(), tenant: id, code };
        RunningCommand::new(Box::pin(input), pieces.boxed(), Arc::new(control))
    }

    async fn ensure_tenant(&self, spec: &Spec) -> Result<ContainerStatus, DriverError> {
        let script = self.call(spec.id).await?;
        let fits = {
            let state = self.state();
            let image = state.image;
            let fits = |t: &Tenant| {
                t.generation == spec.generation && (t.run.is_alive() || t.image == image)
            };
            state.tenants.get(&spec.id).is_some_and(fits)
        };
        if !fits {
            if !script.image_exists {
                let detail = "No such image. Build or load the image, or name another one.";
                return Err(DriverError::new(DriverErrorCode::ImageMissing, detail));
            }
            let mut state = self.state();
            state.tick();
            state.calls.push(format!("create {}", spec.slug));
            state.volumes.insert(spec.id);
            let tenant = Tenant {
                generation: spec.generation,
                limits: spec.limits.into(),
                image: state.image,
                start_number: state.ticks,
                run: RunState::Created,
                ready: false,
                started_at: None,
            };
            state.tenants.insert(spec.id, tenant);
        } else if let Some(tenant) = self.state().tenants.get_mut(&spec.id) {
            tenant.limits = spec.limits.into();
        }
        self.status_or_error(spec.id)
    }

    async fn start_tenant(&self, spec: &Spec) -> Result<ContainerStatus, DriverError> {
        let id = spec.id;
        let script = self.call(id).await?;
        self.check_start(spec)?;
        if script.refuses_start {
            return Err(refused());
        }
        let mut state = self.state();
        let at = state.tick();
        let tenant = state.tenants.get_mut(&id).ok_or_else(|| DriverError::no_such_tenant(id))?;
        let starts = !tenant.run.is_alive();
        tenant.run = RunState::Running;
        let start_number = tenant.start_number;
        if starts {
            tenant.ready = false;
            tenant.started_at = Some(at);
            state.calls.push(format!("start {id}"));
            state.sealed_env.insert(id, spec.sealed_env.clone());
            state.app_envs.push(spec.app_env.clone());
        }
        drop(state);
        if starts {
            self.schedule_behavior(id, start_number, script);
        }
        self.status_or_error(id)
    }

    async fn stop_tenant(&self, id: TenantId) -> Result<ContainerStatus, DriverError> {
        self.call(id).await?;
        if self.status_or_error(id)?.run.is_alive() {
            self.state().calls.push(format!("stop {id}"));
            self.exit_container(id, 0);
        }
        self.status_or_error(id)
    }

    async fn remove_tenant(&self, id: TenantId) -> Result<(), DriverError> {
        self.call(id).await?;
        let mut state = self.state();
        state.tenants.remove(&id);
        state.volumes.remove(&id);
        state.volume_tars.remove(&id);
        state.calls.push(format!("remove {id}"));
        drop(state);
        self.publish(EngineEvent::Changed(id));
        Ok(())
    }
}

impl SimulatedEngine {
    fn script(&self, id: TenantId) -> TenantBehavior {
        self.scripts.get(&id).copied().unwrap_or(self.default_script)
    }

    fn tick(&mut self) -> Timestamp {
        self.ticks += 1;
        chrono::DateTime::from_timestamp_nanos(self.ticks * 1_000_000_000)
    }
}

/// A tar with both folders and nothing in them.
fn empty_volumes() -> Bytes {
    let mut tar = tar::Builder::new(Vec::new());
    for (folder, user) in VOLUME_FOLDERS.into_iter().zip([CIAL_UID, AGENT_UID]) {
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(tar::EntryType::Directory);
        header.set_uid(user.into());
        header.set_gid(user.into());
        header.set_mode(0o700);
        header.set_size(0);
        let added = tar.append_data(&mut header, format!("{folder}/"), std::io::empty());
        added.expect("a tar in memory takes any name without `..`");
    }
    tar.into_inner().expect("a tar in memory has an end").into()
}

fn refused() -> DriverError {
    DriverError::new(
        DriverErrorCode::EngineRefused,
        "The container engine refused (500): scripted refusal.",
    )
}

fn container(id: TenantId, start_number: i64) -> String {
    format!("{id}#{start_number}")
}

impl Driver for MemoryDriver {
    fn ensure<'a>(&'a self, spec: &'a Spec) -> DriverFuture<'a, ContainerStatus> {
        Box::pin(self.ensure_tenant(spec))
    }

    fn check_start(&self, spec: &Spec) -> Result<(), DriverError> {
        if self.state().script(spec.id).lacks_secret {
            return Err(DriverError::secret_missing(&spec.slug, &["TOKEN".to_owned()]));
        }
        Ok(())
    }

    fn start<'a>(&'a self, spec: &'a Spec) -> DriverFuture<'a, ContainerStatus> {
        Box::pin(self.start_tenant(spec))
    }

    fn stop(&self, id: TenantId) -> DriverFuture<'_, ContainerStatus> {
        Box::pin(self.stop_tenant(id))
    }

    fn freeze(&self, id: TenantId) -> DriverFuture<'_, ContainerStatus> {
        Box::pin(async move {
            self.call(id).await?;
            self.set_run_state(id, "freeze", &RunState::Running, RunState::Paused)
        })
    }

    fn thaw(&self, id: TenantId) -> DriverFuture<'_, ()> {
        Box::pin(async move {
            if self.call(id).await?.refuses_thaw {
                return Err(refused());
            }
            self.set_run_state(id, "thaw", &RunState::Paused, RunState::Running).map(drop)
        })
    }

    fn wait_until_responsive(&self, id: TenantId) -> BoxFuture<'_, ()> {
        let state = self.state();
        let script = state.script(id);
        let after = match state.tenants.get(&id).map(|tenant| &tenant.run) {
            Some(RunState::Paused) => script.thawed_after,
            Some(RunState::Running) => script.ready_after,
            Some(RunState::Created | RunState::Restarting | RunState::Exited(_)) | None => None,
        };
        Box::pin(async move {
            match after {
                Some(after) => tokio::time::sleep(after).await,
                None => std::future::pending().await,
            }
        })
    }

    fn busy_list(&self, id: TenantId) -> BoxFuture<'_, Result<BusyList, BusyError>> {
        Box::pin(async move {
            let script = self.state().script(id);
            tokio::time::sleep(script.engine.min(core_back::CORE_BACK_TIMEOUT)).await;
            let mut state = self.state();
            state.calls.push(format!("busy {id}"));
            state.busy.get(&id).cloned().unwrap_or_else(|| Ok(BusyList::default()))
        })
    }

    fn gauges(&self, id: TenantId) -> BoxFuture<'_, Result<GaugeReport, BusyError>> {
        let gauges = self.state().gauges.get(&id).cloned();
        let gauges = gauges.ok_or_else(|| BusyError::NoResponse("scripted".to_owned()));
        Box::pin(async move { gauges })
    }

    fn summaries(
        &self,
        id: TenantId,
        position: i64,
    ) -> BoxFuture<'_, Result<SummaryReport, BusyError>> {
        let report = self.state().summaries.get(&id).cloned();
        let report = report.ok_or_else(|| BusyError::NoResponse("scripted".to_owned()));
        Box::pin(async move {
            let report = report?;
            let is_newer = report.position > position;
            Ok(if is_newer { report } else { SummaryReport { position, ..Default::default() } })
        })
    }

    fn revoke_sessions(
        &self,
        id: TenantId,
        revoked: RevokeSessions,
    ) -> BoxFuture<'_, Result<(), RevokeError>> {
        Box::pin(async move {
            let mut state = self.state();
            if let Some(failures) = state.revoke_failures.get_mut(&id).filter(|left| **left > 0) {
                *failures -= 1;
                return Err(RevokeError::NoResponse("scripted".to_owned()));
            }
            state.revoked.push((id, revoked.sessions));
            Ok(())
        })
    }

    fn remove(&self, id: TenantId) -> DriverFuture<'_, ()> {
        Box::pin(self.remove_tenant(id))
    }

    fn inspect(&self, id: TenantId) -> DriverFuture<'_, Option<ContainerStatus>> {
        Box::pin(async move {
            self.check_reachable()?;
            Ok(self.status_of(id))
        })
    }

    fn list(&self) -> DriverFuture<'_, Vec<ContainerStatus>> {
        Box::pin(async move {
            self.check_reachable()?;
            let ids: Vec<_> = self.state().tenants.keys().copied().collect();
            Ok(ids.into_iter().filter_map(|id| self.status_of(id)).collect())
        })
    }

    /// Like a new process, the watch does not know yet whether any tenant's health endpoint
    /// responds.
    fn watch(&self) -> BoxStream<'static, EngineEvent> {
        let events = self.events.subscribe();
        let mut state = self.state();
        let mut running = Vec::new();
        for (id, tenant) in &mut state.tenants {
            if tenant.run == RunState::Running && std::mem::take(&mut tenant.ready) {
                running.push((*id, tenant.start_number));
            }
        }
        for (id, start_number) in running {
            let script = state.script(id);
            self.schedule_ready(id, start_number, script);
        }
        super::stream_of(events)
    }

    fn logs(&self, id: TenantId, _: LogOptions) -> DriverFuture<'_, LogStream> {
        Box::pin(async move {
            let status = self.status_or_error(id)?;
            let line = Bytes::from(format!("container {}\n", status.container));
            Ok(stream::iter([Ok(line)]).boxed())
        })
    }

    fn start_task(&self, id: TenantId) -> DriverFuture<'_, RunningCommand> {
        Box::pin(async move {
            self.call(id).await?;
            self.run_command(id, "task", &ExecCommand::default())
        })
    }

    fn exec<'a>(
        &'a self,
        id: TenantId,
        command: &'a ExecCommand,
    ) -> DriverFuture<'a, RunningCommand> {
        Box::pin(async move {
            self.call(id).await?;
            self.run_command(id, "exec", command)
        })
    }

    fn stats(&self, id: TenantId) -> DriverFuture<'_, ResourceUsage> {
        Box::pin(async move { self.status_or_error(id).map(|_| ResourceUsage::default()) })
    }

    fn read_volumes(&self, id: TenantId, sink: VolumeSink) -> DriverFuture<'_, ()> {
        Box::pin(async move {
            self.call(id).await?;
            let tar = {
                let mut state = self.state();
                if !state.volumes.contains(&id) {
                    return Err(DriverError::no_volumes(id));
                }
                state.calls.push(format!("read {id}"));
                state.volume_tars.get(&id).cloned().unwrap_or_else(empty_volumes)
            };
            // In many pieces, so that a reader can leave between them.
            for piece in tar.chunks(512).map(Bytes::copy_from_slice) {
                sink.send(Ok(piece)).await.map_err(|_| DriverError::reader_gone())?;
            }
            Ok(())
        })
    }

    fn end_read(&self, _: TenantId) -> BoxFuture<'_, ()> {
        Box::pin(std::future::ready(()))
    }

    fn write_volumes(&self, id: TenantId, _: u64, mut tar: VolumeStream) -> DriverFuture<'_, ()> {
        Box::pin(async move {
            self.call(id).await?;
            if self.has_volumes(id) || self.status_of(id).is_some() {
                let detail = format!("Tenant {id} exists already.");
                return Err(DriverError::new(DriverErrorCode::NameTaken, detail));
            }
            let mut bytes = Vec::new();
            while let Some(piece) = tar.next().await {
                let broken = |_| {
                    let detail = "The tar broke off.";
                    DriverError::new(DriverErrorCode::EngineRefused, detail)
                };
                bytes.extend_from_slice(&piece.map_err(broken)?);
            }
            let mut state = self.state();
            state.volumes.insert(id);
            state.volume_tars.insert(id, bytes.into());
            state.calls.push(format!("write {id}"));
            Ok(())
        })
    }

    fn pull_image<'a>(
        &'a self,
        pull: &'a ImagePull,
        abandoned: &'a CancellationToken,
    ) -> DriverFuture<'a, PullOutcome> {
        Box::pin(async move {
            self.check_reachable()?;
            let name = pull.image.to_string();
            let (has_it, duration) = {
                let state = self.state();
                (state.pulled.contains(&name), state.pull_duration)
            };
            if !pull.policy.wants_pull(&pull.image, has_it) {
                let image_id = has_it.then(|| format!("sha256:{name}"));
                return Ok(PullOutcome { image_id, is_new: false });
            }
            self.state().calls.push(format!("pull {name}"));
            tokio::select! {
                () = tokio::time::sleep(duration) => {}
                () = abandoned.cancelled() => {
                    self.state().calls.push(format!("abandon {name}"));
                    return Err(DriverError::new(DriverErrorCode::Internal, "abandoned"));
                }
            }
            let is_new = self.state().pulled.insert(name.clone());
            Ok(PullOutcome { image_id: Some(format!("sha256:{name}")), is_new })
        })
    }

    fn load_image<'a>(
        &'a self,
        image: &'a RegistryImage,
        mut tar: VolumeStream,
        _abandoned: &'a CancellationToken,
    ) -> DriverFuture<'a, PullOutcome> {
        Box::pin(async move {
            self.check_reachable()?;
            while let Some(piece) = tar.next().await {
                if piece.is_err() {
                    return Err(DriverError::new(DriverErrorCode::Internal, "cut off"));
                }
            }
            let name = image.to_string();
            self.state().calls.push(format!("load {name}"));
            let is_new = self.state().pulled.insert(name.clone());
            Ok(PullOutcome { image_id: Some(format!("sha256:{name}")), is_new })
        })
    }

    fn list_pulled(&self) -> DriverFuture<'_, Vec<String>> {
        Box::pin(async move {
            self.check_reachable()?;
            Ok(self.state().pulled.iter().map(|name| format!("sha256:{name}")).collect())
        })
    }

    fn remove_pulled<'a>(&'a self, image_id: &'a str) -> DriverFuture<'a, bool> {
        Box::pin(async move {
            self.check_reachable()?;
            let name = image_id.strip_prefix("sha256:").unwrap_or(image_id);
            self.state().calls.push(format!("remove-image {name}"));
            self.state().pulled.remove(name);
            Ok(true)
        })
    }

    fn prepare_image<'a>(
        &'a self,
        image: &'a str,
        app: &'a AppSpec,
    ) -> DriverFuture<'a, PreparedImage> {
        Box::pin(async move {
            self.check_reachable()?;
            let moved = self.state().moved.get(image).cloned();
            Ok(PreparedImage {
                image_id: moved.unwrap_or_else(|| format!("sha256:{image}")),
                repository_digest: None,
                command: app.command.clone().unwrap_or_default(),
                port: app.port.unwrap_or(DEFAULT_APP_PORT),
            })
        })
    }

    fn capacity(&self) -> DriverFuture<'_, Capacity> {
        Box::pin(async move {
            self.check_reachable()?;
            let used = u32::try_from(self.state().tenants.len()).unwrap_or(u32::MAX);
            Ok(Capacity {
                networks_used: used,
                networks_total: 8_192,
                engine_version: "memory".to_owned(),
                api_version: "0".to_owned(),
                disk: None,
                quota: QuotaService::Absent,
            })
        })
    }

    fn disk_space(&self) -> Result<DiskSpace, DriverError> {
        let used: u64 = self.state().disk_bytes.values().sum();
        Ok(DiskSpace { free_bytes: DISK_BYTES.saturating_sub(used), total_bytes: DISK_BYTES })
    }

    fn measure_disk(&self) -> DriverFuture<'_, HashMap<TenantId, u64>> {
        Box::pin(async move {
            self.check_reachable()?;
            Ok(self.state().disk_bytes.clone())
        })
    }

    fn refresh_quotas(&self) -> BoxFuture<'_, ()> {
        Box::pin(std::future::ready(()))
    }

    fn set_quota(&self, id: TenantId, limit_bytes: u64) -> BoxFuture<'_, ()> {
        if let Some(limit) = self.state().quotas.get_mut(&id) {
            *limit = limit_bytes;
        }
        Box::pin(std::future::ready(()))
    }

    fn report_disk(&self, disk_use: Vec<DiskUse>) -> BoxFuture<'_, Vec<DiskUse>> {
        self.state().disk_reports.extend(&disk_use);
        Box::pin(std::future::ready(disk_use))
    }

    fn quota(&self, id: TenantId) -> Option<DiskQuota> {
        let state = self.state();
        let limit_bytes = *state.quotas.get(&id)?;
        let used_bytes = state.disk_bytes.get(&id).copied().unwrap_or_default();
        Some(DiskQuota { used_bytes, limit_bytes })
    }
}
