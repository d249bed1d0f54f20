//! A fake orchestrator: unreachable, obedient, or driven by a script that must be played completely.

use std::collections::{HashMap, HashSet, VecDeque};
use std::convert::Infallible;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use app_api::orchestrator::{CommandStream, OnMessage, Orchestrator};
use axum::body::Body;
use axum::http::HeaderValue;
use futures_util::future::BoxFuture;
use futures_util::{StreamExt as _, stream};
use protocol::images::{PullProgress, PullStatus, PulledImage, PulledImageList};
use protocol::orchestrator::{
    ApplyRequest, DiskUse, DiskUseList, Exit, LastStart, ObservedTenant, Phase, TenantAtRevision,
    Upstream,
};
use protocol::problem::Code;
use protocol::process::{PrepareImage, PreparedImage};
use protocol::sleep::{SleepStatus, SleepStatusList};
use protocol::spec::Spec;
use protocol::summaries::SummaryReport;
use protocol::tasks::{TaskMessage, TaskOutput};
use protocol::variables::Variables;
use protocol::watch::Message;
use protocol::{Problem, TenantId, Timestamp};
use serde_json::Value;
use service::client::CallError;
use service::watch::{Feed, WatchEnded};
use service::{Secret, keys, sealed};
use tokio::sync::watch;

use super::MASTER;

/// A call as the script expects it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Call {
    Run,
    Restart,
    Wake,
    Stop,
    Remove,
}

/// The result of a scripted call.
#[derive(Clone, Debug)]
pub(crate) enum Reply {
    /// Succeeds; the tenant is then observed in this phase.
    Observed(Phase),
    /// Like `Observed`, with generation 2.
    Newer(Phase),
    /// Succeeds; the container is gone.
    Gone,
    Refused(u16, &'static str),
    /// Succeeds on the engine, but the response is lost.
    ResponseLost(Phase),
}

/// How an attempt of a task goes.
#[derive(Clone, Debug)]
pub(crate) enum TaskReply {
    /// Writes a line, then ends.
    Ends { failure: Option<String>, result: Option<Value> },
    /// Writes this many lines, then ends with success.
    Writes(usize),
    /// Runs until nobody waits for it.
    NeverEnds,
    /// Begins once its tenant is awake, and ends with success.
    Wakes { wake: Duration, run: Duration },
    /// Does not begin.
    Refused(&'static str),
    /// The connection breaks once everything was sent.
    Breaks,
}

/// Counts what is under way, and keeps the most at once.
#[derive(Debug, Default)]
pub(crate) struct Gauge {
    current: AtomicUsize,
    most: AtomicUsize,
}

impl Gauge {
    /// Counts something until the returned value is dropped.
    fn enter(self: &Arc<Self>) -> Counted {
        let current = self.current.fetch_add(1, Ordering::Relaxed) + 1;
        self.most.fetch_max(current, Ordering::Relaxed);
        Counted(self.clone())
    }

    pub(crate) fn most(&self) -> usize {
        self.most.load(Ordering::Relaxed)
    }
}

struct Counted(Arc<Gauge>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.current.fetch_sub(1, Ordering::Relaxed);
    }
}

enum Behaviour {
    Obedient,
    Script(VecDeque<(Call, Reply)>),
}

pub(crate) struct FakeOrchestrator {
    behaviour: Mutex<Behaviour>,
    feed: Feed<ObservedTenant>,
    reachable: watch::Sender<bool>,
    calls: Mutex<Vec<Call>>,
    errors: Mutex<Vec<String>>,
    pub(crate) specs: Mutex<Vec<ApplyRequest>>,
    /// The disk use of the tenants that the orchestrator knows.
    pub(crate) disk_uses: Mutex<Vec<DiskUse>>,
    /// The sleep status of tenants; `None`: the call never returns.
    pub(crate) sleep_statuses: Mutex<Option<Vec<SleepStatus>>>,
    /// Tenants whose program ends at once, whatever their image.
    pub(crate) broken: Mutex<HashSet<TenantId>>,
    /// The reports of each tenant, in the order of their positions.
    pub(crate) summaries: Mutex<HashMap<TenantId, Vec<SummaryReport>>>,
    /// The positions after which summaries were requested.
    pub(crate) summary_requests: Mutex<Vec<i64>>,
    /// Logs stay open after their lines, like those of a tenant that runs.
    pub(crate) endless_logs: AtomicBool,
    /// The specs of the containers that were prepared. No script has these calls: nothing depends on their results.
    pub(crate) prepared_tenants: Mutex<Vec<Spec>>,
    /// The code and the reason with which images are refused.
    pub(crate) refuse_images: Mutex<Option<(Code, String)>>,
    /// The digest and the tarball of each image that was loaded.
    pub(crate) loaded_images: Mutex<Vec<(String, Vec<u8>)>>,
    /// The images that were pulled.
    pub(crate) pulled_images: Mutex<Vec<PulledImage>>,
    /// The image that the engine fails to remove.
    pub(crate) irremovable_image: Mutex<Option<String>>,
    /// The images that were prepared.
    pub(crate) prepared: Mutex<Vec<PrepareImage>>,
    /// The tenants and queries of commands that were started.
    pub(crate) commands: Mutex<Vec<(TenantId, String)>>,
    /// The number of commands whose connection is open. Each sends back what it receives.
    pub(crate) open_commands: watch::Sender<usize>,
    /// The code with which commands are refused.
    pub(crate) refuse_commands: Mutex<Option<Code>>,
    /// The tar of each tenant's volumes. One that ends without blocks of zeros breaks off.
    pub(crate) volumes: Mutex<HashMap<TenantId, Vec<u8>>>,
    /// The times of the last starts; a tenant without one started at the beginning of the epoch.
    pub(crate) last_starts: Mutex<HashMap<TenantId, Timestamp>>,
    /// The number of exports that began.
    pub(crate) exports: watch::Sender<usize>,
    /// Exports send their first piece, and no more while this is true.
    pub(crate) stalls_exports: watch::Sender<bool>,
    /// The code with which exports and imports are refused.
    pub(crate) refuse_transfers: Mutex<Option<Code>>,
    /// The next attempts of tasks; afterwards none begins.
    pub(crate) task_replies: Mutex<VecDeque<TaskReply>>,
    /// The jobs of the attempts that began.
    pub(crate) jobs: Mutex<Vec<Value>>,
    /// The package of each.
    pub(crate) task_archives: Mutex<Vec<Vec<u8>>>,
    /// The messages of tasks that were read.
    pub(crate) task_messages_read: Arc<AtomicUsize>,
    /// Tenants that wake for a task with [`TaskReply::Wakes`].
    pub(crate) waking: Arc<Gauge>,
    /// Such tasks, from the call to the end.
    pub(crate) tasks: Arc<Gauge>,
}

impl FakeOrchestrator {
    fn new(behaviour: Behaviour, reachable: bool) -> Self {
        Self {
            behaviour: Mutex::new(behaviour),
            feed: Feed::new(1),
            reachable: watch::Sender::new(reachable),
            calls: Mutex::default(),
            errors: Mutex::default(),
            specs: Mutex::default(),
            disk_uses: Mutex::default(),
            sleep_statuses: Mutex::new(Some(Vec::new())),
            broken: Mutex::default(),
            summaries: Mutex::default(),
            summary_requests: Mutex::default(),
            endless_logs: AtomicBool::new(false),
            prepared_tenants: Mutex::default(),
            refuse_images: Mutex::default(),
            loaded_images: Mutex::default(),
            pulled_images: Mutex::default(),
            irremovable_image: Mutex::default(),
            prepared: Mutex::default(),
            commands: Mutex::default(),
            open_commands: watch::Sender::new(0),
            refuse_commands: Mutex::default(),
            volumes: Mutex::default(),
            last_starts: Mutex::default(),
            exports: watch::Sender::new(0),
            stalls_exports: watch::Sender::new(false),
            refuse_transfers: Mutex::default(),
            task_replies: Mutex::default(),
            jobs: Mutex::default(),
            task_archives: Mutex::default(),
            task_messages_read: Arc::default(),
            waking: Arc::default(),
            tasks: Arc::default(),
        }
    }

    /// Cannot be reached.
    pub(crate) fn unreachable() -> Self {
        Self::new(Behaviour::Obedient, false)
    }

    /// Performs each call at once.
    pub(crate) fn obedient() -> Self {
        Self::new(Behaviour::Obedient, true)
    }

    pub(crate) fn scripted(script: &[(Call, Reply)]) -> Self {
        Self::new(Behaviour::Script(script.iter().cloned().collect()), true)
    }

    /// Connects or disconnects the orchestrator.
    pub(crate) fn set_reachable(&self, reachable: bool) {
        self.reachable.send_replace(reachable);
    }

    /// Publishes an observation of the engine.
    pub(crate) fn publish(&self, observed: ObservedTenant) {
        self.feed.put(observed);
    }

    pub(crate) fn publish_gone(&self, id: TenantId) {
        self.feed.remove(&id);
    }

    pub(crate) fn observed(&self, id: TenantId) -> Option<ObservedTenant> {
        self.feed.get(&id)
    }

    pub(crate) fn calls(&self) -> Vec<Call> {
        self.calls.lock().unwrap().clone()
    }

    /// Asserts that the script was played completely and in order.
    pub(crate) fn assert_script_done(&self) {
        assert_eq!(*self.errors.lock().unwrap(), Vec::<String>::new());
        if let Behaviour::Script(left) = &*self.behaviour.lock().unwrap() {
            assert!(left.is_empty(), "not called: {left:?}");
        }
    }

    fn is_obedient(&self) -> bool {
        matches!(*self.behaviour.lock().unwrap(), Behaviour::Obedient)
    }

    /// The container has the generation of its spec. A sleeping one sleeps on, and the engine refuses an image with the
    /// tag `broken`, and the tenants of the field `broken`.
    fn follow_spec(&self, apply: &ApplyRequest) -> Result<ObservedTenant, CallError> {
        let spec = &apply.spec;
        let is_broken = spec.image.as_ref().is_some_and(|image| image.ends_with(":broken"));
        if is_broken || self.broken.lock().unwrap().contains(&spec.id) {
            let problem = Problem::new(Code::EngineRefused, "The program ends at once.");
            return Err(CallError::Refused(Box::new(problem)));
        }
        let before = self.feed.get(&spec.id).map(|observed| observed.phase);
        let stays_asleep = before == Some(Phase::Sleeping) && !apply.restart;
        let missing = missing_secrets(spec);
        if !stays_asleep && !missing.is_empty() {
            let detail = format!("Its release requires {}.", missing.join(", "));
            return Err(CallError::Refused(Box::new(Problem::new(Code::SecretMissing, detail))));
        }
        let phase = if stays_asleep { Phase::Sleeping } else { Phase::Ready };
        let observed = ObservedTenant { generation: spec.generation, ..observed(spec.id, phase) };
        self.feed.put(observed.clone());
        Ok(observed)
    }

    fn next_reply(&self, call: Call) -> Reply {
        self.calls.lock().unwrap().push(call);
        match &mut *self.behaviour.lock().unwrap() {
            Behaviour::Obedient => match call {
                Call::Run | Call::Restart | Call::Wake => Reply::Observed(Phase::Ready),
                Call::Stop => Reply::Observed(Phase::Stopped),
                Call::Remove => Reply::Gone,
            },
            Behaviour::Script(script) => match script.pop_front() {
                Some((expected, reply)) if expected == call => reply,
                other => {
                    self.errors.lock().unwrap().push(format!("{call:?} instead of {other:?}"));
                    Reply::Refused(500, "off_script")
                }
            },
        }
    }

    fn perform(&self, id: TenantId, call: Call) -> Result<Option<ObservedTenant>, CallError> {
        if !*self.reachable.borrow() {
            return Err(CallError::Unreachable("connection refused".into()));
        }
        match self.next_reply(call) {
            Reply::Observed(phase) => {
                let observed = observed(id, phase);
                self.feed.put(observed.clone());
                Ok(Some(observed))
            }
            Reply::Newer(phase) => {
                let observed = ObservedTenant { generation: 2, ..observed(id, phase) };
                self.feed.put(observed.clone());
                Ok(Some(observed))
            }
            Reply::Gone => {
                self.feed.remove(&id);
                Ok(None)
            }
            Reply::ResponseLost(phase) => {
                self.feed.put(observed(id, phase));
                Err(CallError::Unreachable("the connection broke off".into()))
            }
            Reply::Refused(status, code) => {
                let detail = format!("The engine says {code}.");
                let code = code.to_owned();
                let problem = Problem { code, detail, ..Problem::about_blank(status) };
                Err(CallError::Refused(Box::new(problem)))
            }
        }
    }
}

/// The required secrets without a value, as the orchestrator finds them.
fn missing_secrets(spec: &Spec) -> Vec<String> {
    match &spec.app {
        Some(app) if !app.secrets.is_empty() => app.secrets.missing(&received(spec)),
        Some(_) | None => Vec::new(),
    }
}

/// The variables that the program of a start receives.
pub(crate) fn received(spec: &Spec) -> Variables {
    let master = Secret::new(MASTER.to_owned());
    let opened = |key: [u8; 32], text: &str| -> Variables {
        serde_json::from_slice(&sealed::open(&key, text).unwrap()).unwrap()
    };
    let mut all = Variables::new();
    if let Some(env) = &spec.app_env {
        all.extend(opened(keys::app_env_key(&master, env.app), &env.sealed));
    }
    if let Some(text) = &spec.sealed_env {
        all.extend(opened(keys::env_key(&master, spec.id), text));
    }
    all
}

fn line_of(message: &TaskMessage) -> String {
    serde_json::to_string(message).unwrap() + "\n"
}

fn frames(mut bytes: &[u8]) -> Vec<&[u8]> {
    let mut frames = Vec::new();
    while let Some((length, rest)) = bytes.split_first_chunk() {
        let (frame, rest) = rest.split_at(u32::from_be_bytes(*length).try_into().unwrap());
        frames.push(frame);
        bytes = rest;
    }
    frames
}

pub(crate) fn observed(id: TenantId, phase: Phase) -> ObservedTenant {
    let up = matches!(phase, Phase::Ready | Phase::Starting);
    ObservedTenant {
        id,
        generation: 1,
        phase,
        container_id: format!("container-of-{id}"),
        container_port: up.then_some(41_234),
        upstream: up.then(|| Upstream::Unix(format!("/run/cial/sockets/{id}/edge.sock"))),
        lacks_spec: false,
        image_outdated: false,
        drift: std::collections::BTreeSet::new(),
        exits: 0,
        last_exit: None,
        reason: None,
        last_lines: None,
    }
}

/// The `n`th exit of the container, `n` seconds after a fixed time.
pub(crate) fn crashed(id: TenantId, n: u32) -> ObservedTenant {
    let at = Timestamp::from_timestamp(1_700_000_000 + i64::from(n), 0).unwrap();
    let exit = Exit { at, code: 3, out_of_memory: false, was_ready: false };
    ObservedTenant { exits: n, last_exit: Some(exit), ..observed(id, Phase::Starting) }
}

impl Orchestrator for FakeOrchestrator {
    fn apply<'a>(
        &'a self,
        id: TenantId,
        apply: &'a ApplyRequest,
    ) -> BoxFuture<'a, Result<TenantAtRevision, CallError>> {
        Box::pin(async move {
            self.specs.lock().unwrap().push(apply.clone());
            let call = if apply.restart { Call::Restart } else { Call::Run };
            if self.is_obedient() && *self.reachable.borrow() {
                self.calls.lock().unwrap().push(call);
                let tenant = self.follow_spec(apply)?;
                return Ok(TenantAtRevision { revision: self.feed.revision(), tenant });
            }
            let tenant = self.perform(id, call)?;
            let nothing = || CallError::Unexpected("a start that leaves nothing".into());
            let tenant = tenant.ok_or_else(nothing)?;
            Ok(TenantAtRevision { revision: self.feed.revision(), tenant })
        })
    }

    fn prepare<'a>(&'a self, spec: &'a Spec) -> BoxFuture<'a, Result<(), CallError>> {
        self.prepared_tenants.lock().unwrap().push(spec.clone());
        let is_reachable = *self.reachable.borrow();
        let refused = CallError::Unreachable("connection refused".into());
        Box::pin(async move { if is_reachable { Ok(()) } else { Err(refused) } })
    }

    fn pull_status<'a>(&'a self, image: &'a str) -> BoxFuture<'a, Result<PullStatus, CallError>> {
        Box::pin(async move {
            let progress =
                PullProgress { layers: 3, layers_done: 1, bytes: 5 << 20, bytes_total: 9 << 20 };
            Ok(PullStatus { progress: image.starts_with("r.example/").then_some(progress) })
        })
    }

    fn load_image<'a>(
        &'a self,
        digest: &'a str,
        tar: Body,
    ) -> BoxFuture<'a, Result<(), CallError>> {
        Box::pin(async move {
            let tar = axum::body::to_bytes(tar, usize::MAX).await.unwrap();
            if let Some((code, detail)) = self.refuse_images.lock().unwrap().clone() {
                return Err(CallError::Refused(Box::new(Problem::new(code, &detail))));
            }
            self.loaded_images.lock().unwrap().push((digest.to_owned(), tar.to_vec()));
            Ok(())
        })
    }

    fn prepare_image<'a>(
        &'a self,
        request: &'a PrepareImage,
    ) -> BoxFuture<'a, Result<PreparedImage, CallError>> {
        Box::pin(async move {
            let PrepareImage { image, app, smoke_start, .. } = request;
            self.prepared.lock().unwrap().push(request.clone());
            if image == "missing:1" {
                let problem =
                    Problem::new(Code::ImageMissing, "The engine has no image missing:1.");
                return Err(CallError::Refused(Box::new(problem)));
            }
            if let Some((code, detail)) = self.refuse_images.lock().unwrap().clone() {
                return Err(CallError::Refused(Box::new(Problem::new(code, &detail))));
            }
            if image == "dead:1" && smoke_start.is_some() {
                let detail =
                    "The program ended before it was ready. The last lines of its log:\nno";
                let problem = Problem::new(Code::ProgramFailed, detail);
                return Err(CallError::Refused(Box::new(problem)));
            }
            Ok(PreparedImage {
                image_id: format!("sha256:of-{image}"),
                command: app.command.clone().unwrap_or_else(|| vec!["/bin/app".to_owned()]),
                port: app.port.unwrap_or(3000),
                repository_digest: image.contains('/').then(|| format!("{image}@sha256:1")),
            })
        })
    }

    fn pulled_images(&self) -> BoxFuture<'_, Result<PulledImageList, CallError>> {
        Box::pin(async move {
            let images = self.pulled_images.lock().unwrap().clone();
            Ok(PulledImageList { images })
        })
    }

    fn remove_image<'a>(
        &'a self,
        image: &'a PulledImage,
    ) -> BoxFuture<'a, Result<bool, CallError>> {
        Box::pin(async move {
            if self.irremovable_image.lock().unwrap().as_ref() == Some(&image.image_id) {
                let problem = Problem::new(Code::EngineTimeout, "Not in time.");
                return Err(CallError::Refused(Box::new(problem)));
            }
            self.pulled_images.lock().unwrap().retain(|pulled| pulled != image);
            Ok(true)
        })
    }

    fn wake(&self, id: TenantId) -> BoxFuture<'_, Result<(), CallError>> {
        Box::pin(async move { self.perform(id, Call::Wake).map(drop) })
    }

    fn sleep_status(&self, id: TenantId) -> BoxFuture<'_, Result<SleepStatus, CallError>> {
        Box::pin(async move {
            let status =
                self.all_sleep_status().await?.tenants.into_iter().find(|s| s.tenant == id);
            status.ok_or_else(|| CallError::Refused(Box::new(Problem::new(Code::NoSuchTenant, ""))))
        })
    }

    fn all_sleep_status(&self) -> BoxFuture<'_, Result<SleepStatusList, CallError>> {
        Box::pin(async move {
            let status = self.sleep_statuses.lock().unwrap().clone();
            match status {
                Some(tenants) => Ok(SleepStatusList { tenants }),
                None => std::future::pending().await,
            }
        })
    }

    fn disk_use(&self, tenant: TenantId) -> BoxFuture<'_, Result<DiskUse, CallError>> {
        Box::pin(async move {
            let mut list = self.all_disk_use().await?.tenants.into_iter();
            let found = list.find(|disk| disk.tenant == tenant);
            found.ok_or_else(|| CallError::Refused(Box::new(Problem::new(Code::NoSuchTenant, ""))))
        })
    }

    fn all_disk_use(&self) -> BoxFuture<'_, Result<DiskUseList, CallError>> {
        let tenants = self.disk_uses.lock().unwrap().clone();
        Box::pin(async move { Ok(DiskUseList { tenants }) })
    }

    fn summaries(
        &self,
        id: TenantId,
        position: i64,
    ) -> BoxFuture<'_, Result<SummaryReport, CallError>> {
        self.summary_requests.lock().unwrap().push(position);
        let reports = self.summaries.lock().unwrap().get(&id).cloned().unwrap_or_default();
        let newest = reports.last().map_or(0, |report| report.position);
        let position = if position > newest { 0 } else { position };
        let next = reports.into_iter().find(|report| report.position > position);
        let nothing = SummaryReport { summaries: Vec::new(), position };
        Box::pin(async move { Ok(next.unwrap_or(nothing)) })
    }

    fn stop(&self, id: TenantId) -> BoxFuture<'_, Result<(), CallError>> {
        Box::pin(async move { self.perform(id, Call::Stop).map(drop) })
    }

    fn remove(&self, id: TenantId) -> BoxFuture<'_, Result<(), CallError>> {
        Box::pin(async move {
            self.volumes.lock().unwrap().remove(&id);
            self.perform(id, Call::Remove).map(drop)
        })
    }

    fn last_start(&self, id: TenantId) -> BoxFuture<'_, Result<LastStart, CallError>> {
        Box::pin(async move {
            let Some(observed) = self.feed.get(&id) else {
                let problem = Problem::new(Code::NoSuchTenant, "It has no container.");
                return Err(CallError::Refused(Box::new(problem)));
            };
            let at = self.last_starts.lock().unwrap().get(&id).copied();
            let at = Some(at.unwrap_or(Timestamp::UNIX_EPOCH));
            let has_ended = matches!(observed.phase, Phase::Sleeping | Phase::Stopped);
            let container_id = observed.container_id;
            // Exported as if it rested, whatever it does.
            Ok(LastStart { container_id, at, has_ended, is_running: false })
        })
    }

    fn export_volumes(&self, id: TenantId) -> BoxFuture<'_, Result<Body, CallError>> {
        Box::pin(async move {
            if let Some(code) = *self.refuse_transfers.lock().unwrap() {
                return Err(CallError::Refused(Box::new(Problem::new(code, "Not now."))));
            }
            let Some(tar) = self.volumes.lock().unwrap().get(&id).cloned() else {
                let problem = Problem::new(Code::NoSuchTenant, "It has no volumes.");
                return Err(CallError::Refused(Box::new(problem)));
            };
            self.exports.send_modify(|count| *count += 1);
            let breaks_off = !tar.ends_with(&[0; 1_024]);
            let pieces: Vec<_> =
                tar.chunks(10_000).map(|piece| Ok::<_, std::io::Error>(piece.to_vec())).collect();
            let end = breaks_off.then(|| Err(std::io::ErrorKind::ConnectionReset.into()));
            let stalls = self.stalls_exports.subscribe();
            let pieces = stream::iter(pieces.into_iter().chain(end)).enumerate();
            let pieces = pieces.then(move |(n, piece)| {
                let mut stalls = stalls.clone();
                async move {
                    if n == 1 {
                        let _ = stalls.wait_for(|stalls| !*stalls).await;
                    }
                    piece
                }
            });
            Ok(Body::from_stream(pieces))
        })
    }

    fn import_volumes(
        &self,
        id: TenantId,
        _: u64,
        tar: Body,
    ) -> BoxFuture<'_, Result<(), CallError>> {
        Box::pin(async move {
            if let Some(code) = *self.refuse_transfers.lock().unwrap() {
                return Err(CallError::Refused(Box::new(Problem::new(code, "Not now."))));
            }
            let tar = axum::body::to_bytes(tar, usize::MAX).await;
            let tar = tar.map_err(|error| CallError::Unreachable(error.to_string()))?;
            self.volumes.lock().unwrap().insert(id, tar.to_vec());
            Ok(())
        })
    }

    fn logs<'a>(&'a self, id: TenantId, query: &'a str) -> BoxFuture<'a, Result<Body, CallError>> {
        let lines = format!("[edge] log of {id}, {query}\n");
        let body = match self.endless_logs.load(Ordering::Relaxed) {
            true => Body::from_stream(
                stream::iter([Ok::<_, Infallible>(lines)]).chain(stream::pending()),
            ),
            false => Body::from(lines),
        };
        Box::pin(async move { Ok(body) })
    }

    fn exec<'a>(
        &'a self,
        id: TenantId,
        query: &'a str,
        key: &'a HeaderValue,
    ) -> BoxFuture<'a, Result<CommandStream, CallError>> {
        Box::pin(async move {
            if !*self.reachable.borrow() {
                return Err(CallError::Unreachable("connection refused".into()));
            }
            if let Some(code) = *self.refuse_commands.lock().unwrap() {
                return Err(CallError::Refused(Box::new(Problem::new(code, "Not now."))));
            }
            self.commands.lock().unwrap().push((id, query.to_owned()));
            let (frames, far) = tokio::io::duplex(1 << 10);
            let open = self.open_commands.clone();
            open.send_modify(|count| *count += 1);
            tokio::spawn(async move {
                let (mut read, mut write) = tokio::io::split(far);
                let _ = tokio::io::copy(&mut read, &mut write).await;
                open.send_modify(|count| *count -= 1);
            });
            Ok(CommandStream { accept: key.clone(), frames: Box::new(frames) })
        })
    }

    fn run_task(&self, _: TenantId, input: Body) -> BoxFuture<'_, Result<Body, CallError>> {
        Box::pin(async move {
            let reply = self.task_replies.lock().unwrap().pop_front();
            let (first, rest) = match reply.unwrap_or(TaskReply::Refused("no_more_replies")) {
                TaskReply::Refused(code) => {
                    let problem = Problem { code: code.to_owned(), ..Problem::about_blank(503) };
                    return Err(CallError::Refused(Box::new(problem)));
                }
                TaskReply::Breaks => {
                    let _ = axum::body::to_bytes(input, usize::MAX).await;
                    return Err(CallError::Unreachable("the connection broke off".into()));
                }
                TaskReply::Writes(lines) => {
                    let text = "a line".to_owned();
                    let line = TaskMessage::Line { output: TaskOutput::Stdout, text };
                    let end = TaskMessage::Ended { failure: None, result: None };
                    let lines = std::iter::repeat_n(line, lines).chain([end]);
                    (lines.collect(), stream::empty().boxed())
                }
                TaskReply::NeverEnds => (Vec::new(), stream::pending().boxed()),
                TaskReply::Wakes { wake, run } => {
                    let (task, waking) = (self.tasks.enter(), self.waking.enter());
                    tokio::time::sleep(wake).await;
                    drop(waking);
                    let end = TaskMessage::Ended { failure: None, result: None };
                    let end = async move {
                        tokio::time::sleep(run).await;
                        drop(task);
                        Ok(line_of(&end))
                    };
                    (Vec::new(), stream::once(end).boxed())
                }
                TaskReply::Ends { failure, result } => {
                    let end = TaskMessage::Ended { failure, result };
                    (vec![end], stream::empty().boxed())
                }
            };
            let bytes = axum::body::to_bytes(input, usize::MAX).await;
            let bytes = bytes.map_err(|error| CallError::Unreachable(error.to_string()))?;
            let mut frames = frames(&bytes);
            let job: Value = serde_json::from_slice(frames.remove(0)).unwrap();
            assert_eq!(frames.pop(), Some(&b""[..]));
            self.task_archives.lock().unwrap().push(frames.concat());
            let text = format!("hello\u{1b}[31m from {}", job["task"].as_str().unwrap());
            self.jobs.lock().unwrap().push(job);
            let line = TaskMessage::Line { output: TaskOutput::Stdout, text };
            let lines = std::iter::once(line).chain(first);
            let lines = lines.map(|message| Ok::<_, Infallible>(line_of(&message)));
            let read = self.task_messages_read.clone();
            let lines = stream::iter(lines.collect::<Vec<_>>());
            let lines = lines.inspect(move |_| _ = read.fetch_add(1, Ordering::Relaxed));
            Ok(Body::from_stream(lines.chain(rest)))
        })
    }

    fn watch<'a>(&'a self, on_message: OnMessage<'a>) -> BoxFuture<'a, WatchEnded> {
        Box::pin(async move {
            let mut reachable = self.reachable.subscribe();
            let _ = reachable.wait_for(|reachable| *reachable).await;
            let mut lines = self.feed.subscribe();
            on_message(Message::Snapshot {
                revision: self.feed.revision(),
                items: self.feed.list(),
            });
            loop {
                tokio::select! {
                    line = lines.recv() => on_message(line.unwrap()),
                    _ = reachable.wait_for(|reachable| !*reachable) => break,
                }
            }
            WatchEnded::Broken("cut".into())
        })
    }
}
