//! An engine that exists in memory only: does as its script says, in virtual time, and remembers what it was
//! told to do. Held to the same conformance suite as the real one.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;
use futures_util::stream::{self, BoxStream};
use protocol::busy::BusyList;
use protocol::orchestrator::{Capacity, Exit, Upstream};
use protocol::spec::Spec;
use protocol::{TenantId, Timestamp};
use tokio::sync::broadcast;

use super::{
    Call, Code, Driver, Ended, LogStream, LogsWanted, Refusal, Run, Seen, Sighting, Stats,
};
use crate::busy;

/// How a tenant behaves once it is started.
#[derive(Clone, Copy, Debug)]
pub struct Script {
    /// How long the engine's calls for it take.
    pub engine: Duration,
    /// `None`: it never gets ready.
    pub ready_after: Option<Duration>,
    /// How soon it answers while it is being thawed; `None`: not before that call has ended.
    pub thawed_after: Option<Duration>,
    /// Ends by itself, with this code.
    pub exits_after: Option<(Duration, i64)>,
    pub image_exists: bool,
    /// Its start is refused, its thaw.
    pub refuses_start: bool,
    pub refuses_thaw: bool,
    /// Whoever calls the engine for it breaks.
    pub breaks: bool,
}

impl Default for Script {
    fn default() -> Self {
        Self {
            engine: Duration::from_millis(100),
            ready_after: Some(Duration::from_millis(10)),
            thawed_after: None,
            exits_after: None,
            image_exists: true,
            refuses_start: false,
            refuses_thaw: false,
            breaks: false,
        }
    }
}

/// Cheap to clone; every clone is the same engine.
#[derive(Clone)]
pub struct Memory {
    world: Arc<Mutex<World>>,
    sightings: broadcast::Sender<Sighting>,
}

#[derive(Default)]
struct World {
    tenants: BTreeMap<TenantId, Tenant>,
    scripts: BTreeMap<TenantId, Script>,
    /// Volumes outlive containers.
    volumes: BTreeSet<TenantId>,
    /// The engine does not answer, and why.
    away: Option<String>,
    /// Grows with each rebuild of the image.
    image: u32,
    /// Ticks: each thing that happens is later than the one before.
    ticks: i64,
    calls: Vec<String>,
    /// What they answer when they are asked; who is not here is not busy.
    busy: BTreeMap<TenantId, Result<BusyList, String>>,
}

struct Tenant {
    generation: i64,
    image: u32,
    /// Counts containers and starts: what was set off for an earlier one must not hit a later one.
    life: i64,
    run: Run,
    ready: bool,
    started_at: Option<Timestamp>,
}

impl Default for Memory {
    fn default() -> Self {
        Self { world: Arc::default(), sightings: broadcast::channel(4_096).0 }
    }
}

impl Memory {
    pub fn script(&self, id: TenantId, script: Script) {
        self.world().scripts.insert(id, script);
    }

    /// What it was told to do, in order: `create …`, `start …`, `stop …`, `freeze …`, `thaw …`,
    /// `busy …`, `remove …`.
    pub fn calls(&self) -> Vec<String> {
        self.world().calls.clone()
    }

    pub fn answer_busy(&self, id: TenantId, answer: Result<BusyList, String>) {
        self.world().busy.insert(id, answer);
    }

    pub fn has_volumes(&self, id: TenantId) -> bool {
        self.world().volumes.contains(&id)
    }

    pub fn go_away(&self, why: &str) {
        self.world().away = Some(why.to_owned());
        self.tell(Sighting::Lost(why.to_owned()));
    }

    pub fn come_back(&self) {
        self.world().away = None;
        self.tell(Sighting::Found);
    }

    pub fn rebuild_image(&self) {
        self.world().image += 1;
    }

    /// Somebody removes the container, past us.
    pub fn remove_by_hand(&self, id: TenantId) {
        self.world().tenants.remove(&id);
        self.tell(Sighting::Changed(id));
    }

    pub fn pause_by_hand(&self, id: TenantId) {
        if let Some(tenant) = self.world().tenants.get_mut(&id) {
            tenant.run = Run::Paused;
        }
        self.tell(Sighting::Changed(id));
    }

    /// Its process ends.
    pub fn end(&self, id: TenantId, code: i64) {
        let life = self.world().tenants.get(&id).map(|t| t.life);
        if let Some(life) = life {
            self.ended(id, life, code);
        }
    }

    fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, sighting: Sighting) {
        // Nobody listening is no fault.
        let _ = self.sightings.send(sighting);
    }

    /// What every call begins with: the engine is there, and takes its time.
    async fn call(&self, id: TenantId) -> Result<Script, Refusal> {
        let script = self.world().scripts.get(&id).copied().unwrap_or_default();
        tokio::time::sleep(script.engine).await;
        assert!(!script.breaks, "it was told to");
        self.answering()?;
        Ok(script)
    }

    fn answering(&self) -> Result<(), Refusal> {
        match &self.world().away {
            Some(why) => Err(Refusal::new(Code::EngineUnreachable, why.clone())),
            None => Ok(()),
        }
    }

    fn ended(&self, id: TenantId, life: i64, code: i64) {
        let mut world = self.world();
        let at = world.tick();
        let Some(tenant) = world.tenants.get_mut(&id).filter(|t| t.life == life) else { return };
        if !tenant.run.is_alive() {
            return;
        }
        let was_ready = std::mem::take(&mut tenant.ready);
        tenant.run = Run::Ended(Ended { code, out_of_memory: false, at: Some(at) });
        let exit = Exit { at, code, out_of_memory: false, was_ready };
        drop(world);
        self.tell(Sighting::Died { id, container: container(id, life), exit });
    }

    fn seen(&self, id: TenantId) -> Option<Seen> {
        let world = self.world();
        let tenant = world.tenants.get(&id)?;
        let alive = tenant.run.is_alive();
        Some(Seen {
            id,
            generation: tenant.generation,
            container: container(id, tenant.life),
            run: tenant.run.clone(),
            ready: tenant.ready && alive,
            started_at: tenant.started_at,
            port: None,
            upstream: alive.then(|| Upstream::Unix(format!("/memory/{id}/edge.sock"))),
            image_outdated: tenant.image != world.image,
            flags_outdated: false,
        })
    }

    fn seen_or_none(&self, id: TenantId) -> Result<Seen, Refusal> {
        self.seen(id).ok_or_else(|| Refusal::no_such_tenant(id))
    }

    /// What happens after a start, by script.
    fn set_off(&self, id: TenantId, life: i64, script: Script) {
        self.answers_after(id, life, script);
        if let Some((after, code)) = script.exits_after {
            let memory = self.clone();
            tokio::spawn(async move {
                tokio::time::sleep(after).await;
                memory.ended(id, life, code);
            });
        }
    }

    fn answers_after(&self, id: TenantId, life: i64, script: Script) {
        let Some(after) = script.ready_after else { return };
        let memory = self.clone();
        tokio::spawn(async move {
            tokio::time::sleep(after).await;
            let fits = |t: &&mut Tenant| t.life == life && t.run == Run::Running;
            let hit = memory.world().tenants.get_mut(&id).filter(fits).map(|t| t.ready = true);
            if hit.is_some() {
                memory.tell(Sighting::Ready { id, container: container(id, life) });
            }
        });
    }

    fn set_run(&self, id: TenantId, word: &str, from: &Run, to: Run) -> Result<Seen, Refusal> {
        let mut world = self.world();
        if let Some(tenant) = world.tenants.get_mut(&id).filter(|t| t.run == *from) {
            tenant.run = to;
            world.calls.push(format!("{word} {id}"));
        }
        drop(world);
        self.seen_or_none(id)
    }

    async fn ensure_tenant(&self, spec: &Spec) -> Result<Seen, Refusal> {
        let script = self.call(spec.id).await?;
        let fits = {
            let world = self.world();
            let image = world.image;
            let fits = |t: &Tenant| {
                t.generation == spec.generation && (t.run.is_alive() || t.image == image)
            };
            world.tenants.get(&spec.id).is_some_and(fits)
        };
        if !fits {
            if !script.image_exists {
                let detail = "No such image. Build or load the image, or name another one.";
                return Err(Refusal::new(Code::ImageMissing, detail));
            }
            let mut world = self.world();
            world.tick();
            world.calls.push(format!("create {}", spec.slug));
            world.volumes.insert(spec.id);
            let tenant = Tenant {
                generation: spec.generation,
                image: world.image,
                life: world.ticks,
                run: Run::Created,
                ready: false,
                started_at: None,
            };
            world.tenants.insert(spec.id, tenant);
        }
        self.seen_or_none(spec.id)
    }

    async fn start_tenant(&self, id: TenantId) -> Result<Seen, Refusal> {
        let script = self.call(id).await?;
        if script.refuses_start {
            return Err(refused());
        }
        let mut world = self.world();
        let at = world.tick();
        let tenant = world.tenants.get_mut(&id).ok_or_else(|| Refusal::no_such_tenant(id))?;
        let starts = !tenant.run.is_alive();
        tenant.run = Run::Running;
        let life = tenant.life;
        if starts {
            tenant.ready = false;
            tenant.started_at = Some(at);
            world.calls.push(format!("start {id}"));
        }
        drop(world);
        if starts {
            self.set_off(id, life, script);
        }
        self.seen_or_none(id)
    }

    async fn stop_tenant(&self, id: TenantId) -> Result<Seen, Refusal> {
        self.call(id).await?;
        if self.seen_or_none(id)?.run.is_alive() {
            self.world().calls.push(format!("stop {id}"));
            self.end(id, 0);
        }
        self.seen_or_none(id)
    }

    async fn remove_tenant(&self, id: TenantId) -> Result<(), Refusal> {
        self.call(id).await?;
        let mut world = self.world();
        world.tenants.remove(&id);
        world.volumes.remove(&id);
        world.calls.push(format!("remove {id}"));
        drop(world);
        self.tell(Sighting::Changed(id));
        Ok(())
    }
}

impl World {
    fn tick(&mut self) -> Timestamp {
        self.ticks += 1;
        chrono::DateTime::from_timestamp_nanos(self.ticks * 1_000_000_000)
    }
}

fn refused() -> Refusal {
    Refusal::new(Code::EngineRefused, "The container engine refused (500): it was told to.")
}

fn container(id: TenantId, life: i64) -> String {
    format!("{id}#{life}")
}

impl Driver for Memory {
    fn ensure<'a>(&'a self, spec: &'a Spec) -> Call<'a, Seen> {
        Box::pin(self.ensure_tenant(spec))
    }

    fn start(&self, id: TenantId) -> Call<'_, Seen> {
        Box::pin(self.start_tenant(id))
    }

    fn stop(&self, id: TenantId) -> Call<'_, Seen> {
        Box::pin(self.stop_tenant(id))
    }

    fn freeze(&self, id: TenantId) -> Call<'_, Seen> {
        Box::pin(async move {
            self.call(id).await?;
            self.set_run(id, "freeze", &Run::Running, Run::Paused)
        })
    }

    fn thaw(&self, id: TenantId) -> Call<'_, ()> {
        Box::pin(async move {
            if self.call(id).await?.refuses_thaw {
                return Err(refused());
            }
            self.set_run(id, "thaw", &Run::Paused, Run::Running).map(drop)
        })
    }

    fn answers(&self, id: TenantId) -> BoxFuture<'_, ()> {
        let world = self.world();
        let script = world.scripts.get(&id).copied().unwrap_or_default();
        let after = match world.tenants.get(&id).map(|tenant| &tenant.run) {
            Some(Run::Paused) => script.thawed_after,
            Some(Run::Running) => script.ready_after,
            Some(Run::Created | Run::Restarting | Run::Ended(_)) | None => None,
        };
        Box::pin(async move {
            match after {
                Some(after) => tokio::time::sleep(after).await,
                None => std::future::pending().await,
            }
        })
    }

    fn busy(&self, id: TenantId) -> BoxFuture<'_, Result<BusyList, String>> {
        Box::pin(async move {
            let script = self.world().scripts.get(&id).copied().unwrap_or_default();
            tokio::time::sleep(script.engine.min(busy::BUSY_TIMEOUT)).await;
            let mut world = self.world();
            world.calls.push(format!("busy {id}"));
            world.busy.get(&id).cloned().unwrap_or_else(|| Ok(BusyList::default()))
        })
    }

    fn remove(&self, id: TenantId) -> Call<'_, ()> {
        Box::pin(self.remove_tenant(id))
    }

    fn look(&self, id: TenantId) -> Call<'_, Option<Seen>> {
        Box::pin(async move {
            self.answering()?;
            Ok(self.seen(id))
        })
    }

    fn list(&self) -> Call<'_, Vec<Seen>> {
        Box::pin(async move {
            self.answering()?;
            let ids: Vec<_> = self.world().tenants.keys().copied().collect();
            Ok(ids.into_iter().filter_map(|id| self.seen(id)).collect())
        })
    }

    /// As of a new process: whether anybody's health answers is yet to be learnt.
    fn watch(&self) -> BoxStream<'static, Sighting> {
        let sightings = self.sightings.subscribe();
        let mut world = self.world();
        let mut running = Vec::new();
        for (id, tenant) in &mut world.tenants {
            if tenant.run == Run::Running && std::mem::take(&mut tenant.ready) {
                running.push((*id, tenant.life));
            }
        }
        for (id, life) in running {
            let script = world.scripts.get(&id).copied().unwrap_or_default();
            self.answers_after(id, life, script);
        }
        super::stream_of(sightings)
    }

    fn logs(&self, id: TenantId, _: LogsWanted) -> Call<'_, LogStream> {
        Box::pin(async move {
            let seen = self.seen_or_none(id)?;
            let line = Bytes::from(format!("container {}\n", seen.container));
            Ok(stream::iter([Ok(line)]).boxed())
        })
    }

    fn stats(&self, id: TenantId) -> Call<'_, Stats> {
        Box::pin(async move { self.seen_or_none(id).map(|_| Stats::default()) })
    }

    fn capacity(&self) -> Call<'_, Capacity> {
        Box::pin(async move {
            self.answering()?;
            let used = u32::try_from(self.world().tenants.len()).unwrap_or(u32::MAX);
            Ok(Capacity {
                networks_used: used,
                networks_total: 8_192,
                engine_version: "memory".to_owned(),
                api_version: "0".to_owned(),
            })
        })
    }
}
