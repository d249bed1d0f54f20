//! Docker Engine, API 1.41 and newer. The only place that knows bollard.

mod container;
mod engine;
mod events;
mod flags;
mod list;
mod logs;
mod network;
pub mod pool;
mod remove;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bollard::query_parameters::StatsOptionsBuilder;
use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use protocol::TenantId;
use protocol::busy::BusyList;
use protocol::orchestrator::Capacity;
use protocol::spec::Spec;
use tokio::sync::{OnceCell, broadcast};
use tokio_util::task::AbortOnDropHandle;

use self::engine::{Engine, LOOK, found, within};
pub use self::flags::House;
use self::pool::Pool;
use super::{Call, Code, Driver, LogStream, LogsWanted, Refusal, Seen, Sighting, Stats};
use crate::busy;
use crate::ready::Doors;
use crate::rooms::Rooms;

/// Where the engine finds the directories that we make.
#[derive(Clone, Debug)]
pub enum Mounts {
    /// We run in a container: they lie in the installation's two volumes.
    Volumes,
    /// We run beside the engine: our paths are its paths.
    Host { sockets: PathBuf, secrets: PathBuf },
}

pub struct Settings {
    pub socket: PathBuf,
    pub house: House,
    pub pool: Pool,
    pub mounts: Mounts,
}

pub struct Docker {
    engine: Arc<Engine>,
    house: House,
    /// Of the house, which does not change.
    flags: String,
    rooms: Rooms,
    doors: Arc<Doors>,
    mounts: Mounts,
    places: OnceCell<Places>,
    subnets: network::Subnets,
    sightings: broadcast::Sender<Sighting>,
    _events: AbortOnDropHandle<()>,
}

/// The two directories of directories, as the engine sees them.
struct Places {
    sockets: PathBuf,
    secrets: PathBuf,
}

/// Whoever lags by more than this lists again.
const BACKLOG: usize = 4_096;

impl Docker {
    /// Connects when first needed, again and again: an engine that is away is a state, not a failure. Must be
    /// called inside a runtime.
    pub fn new(settings: Settings, rooms: Rooms) -> std::io::Result<Self> {
        let Settings { socket, house, pool, mounts } = settings;
        let sightings = broadcast::channel(BACKLOG).0;
        let tell = sightings.clone();
        let doors = Arc::new(Doors::new(rooms.clone(), move |id, container| {
            // Nobody listening is no fault.
            let _ = tell.send(Sighting::Ready { id, container });
        })?);
        let engine = Arc::new(Engine::new(socket));
        let events =
            events::follow(engine.clone(), house.clone(), doors.clone(), sightings.clone());
        Ok(Self {
            engine,
            flags: house.flags(),
            house,
            rooms,
            doors,
            mounts,
            places: OnceCell::new(),
            subnets: network::Subnets::new(pool),
            sightings,
            _events: AbortOnDropHandle::new(tokio::spawn(events)),
        })
    }

    /// Asked of the engine once: mountpoints of volumes do not move.
    async fn places(&self) -> Result<&Places, Refusal> {
        let ask = async || match &self.mounts {
            Mounts::Host { sockets, secrets } => {
                Ok(Places { sockets: sockets.clone(), secrets: secrets.clone() })
            }
            Mounts::Volumes => {
                let install = &self.house.install;
                let (sockets, secrets) = tokio::try_join!(
                    self.mountpoint(install.sockets_volume()),
                    self.mountpoint(install.tenant_secrets_volume()),
                )?;
                Ok(Places { sockets, secrets })
            }
        };
        self.places.get_or_try_init(ask).await
    }

    async fn mountpoint(&self, name: String) -> Result<PathBuf, Refusal> {
        let client = self.engine.client().await?;
        if let Some(volume) = found(LOOK, client.inspect_volume(&name)).await? {
            return Ok(volume.mountpoint.into());
        }
        let made = client.create_volume(self.house.volume(&name, self.house.own_labels()));
        Ok(within(LOOK, made).await?.mountpoint.into())
    }

    /// The tenant's socket and secrets directories, as the engine sees them.
    async fn rooms_of(&self, id: TenantId) -> Result<(PathBuf, PathBuf), Refusal> {
        let places = self.places().await?;
        let of = |parent: &Path| parent.join(id.to_string());
        Ok((of(&places.sockets), of(&places.secrets)))
    }

    async fn usage(&self, id: TenantId) -> Result<Stats, Refusal> {
        let client = self.engine.client().await?;
        let once = StatsOptionsBuilder::default().stream(false).one_shot(true).build();
        let name = id.container();
        let mut answers = client.stats(&name, Some(once));
        let first = async { answers.next().await.transpose() };
        let none = || Refusal::no_such_tenant(id);
        let stats = found(LOOK, first).await?.flatten().ok_or_else(none)?;
        let cpu = stats.cpu_stats.and_then(|s| s.cpu_usage).and_then(|u| u.total_usage);
        Ok(Stats {
            memory_bytes: stats.memory_stats.and_then(|s| s.usage).unwrap_or(0),
            cpu_nanos: cpu.unwrap_or(0),
            pids: stats.pids_stats.and_then(|s| s.current).unwrap_or(0),
        })
    }

    async fn room(&self) -> Result<Capacity, Refusal> {
        let client = self.engine.client().await?;
        let (version, (total, used)) =
            tokio::try_join!(within(LOOK, client.version()), self.subnets.usage(&client))?;
        Ok(Capacity {
            networks_used: used,
            networks_total: total,
            engine_version: version.version.unwrap_or_default(),
            api_version: client.client_version().to_string(),
        })
    }
}

impl Driver for Docker {
    fn ensure<'a>(&'a self, spec: &'a Spec) -> Call<'a, Seen> {
        Box::pin(self.ensure_container(spec))
    }

    fn start(&self, id: TenantId) -> Call<'_, Seen> {
        Box::pin(self.start_container(id))
    }

    fn stop(&self, id: TenantId) -> Call<'_, Seen> {
        Box::pin(self.stop_container(id))
    }

    fn freeze(&self, id: TenantId) -> Call<'_, Seen> {
        Box::pin(self.freeze_container(id))
    }

    fn thaw(&self, id: TenantId) -> Call<'_, ()> {
        Box::pin(self.thaw_container(id))
    }

    fn answers(&self, id: TenantId) -> BoxFuture<'_, ()> {
        Box::pin(self.doors.answers(id))
    }

    fn busy(&self, id: TenantId) -> BoxFuture<'_, Result<BusyList, String>> {
        Box::pin(async move { busy::fetch_busy_list(&self.rooms.busy(id)).await })
    }

    fn remove(&self, id: TenantId) -> Call<'_, ()> {
        Box::pin(self.remove_all(id))
    }

    fn look(&self, id: TenantId) -> Call<'_, Option<Seen>> {
        Box::pin(self.look_at(id))
    }

    fn list(&self) -> Call<'_, Vec<Seen>> {
        Box::pin(self.list_all())
    }

    fn watch(&self) -> BoxStream<'static, Sighting> {
        super::stream_of(self.sightings.subscribe())
    }

    fn logs(&self, id: TenantId, wanted: LogsWanted) -> Call<'_, LogStream> {
        Box::pin(self.read_logs(id, wanted))
    }

    fn stats(&self, id: TenantId) -> Call<'_, Stats> {
        Box::pin(self.usage(id))
    }

    fn capacity(&self) -> Call<'_, Capacity> {
        Box::pin(self.room())
    }
}

/// A fault of our own disk, in words for a person.
fn on_disk(error: &std::io::Error) -> Refusal {
    let code = if error.kind() == std::io::ErrorKind::StorageFull {
        Code::DiskFull
    } else {
        Code::Internal
    };
    Refusal::new(
        code,
        format!("The tenant's socket and secrets directories cannot be made: {error}."),
    )
}
