//! A separate installation for each test on the real engine, removed again whatever the outcome.

pub(crate) mod image;
pub(crate) mod private_engine;
pub(crate) mod registry;
pub(crate) mod router;
pub(crate) mod simulation;
pub(crate) mod virtual_machine;

use std::collections::HashMap;
use std::fs;
use std::panic::{AssertUnwindSafe, resume_unwind};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use bollard::Docker as Client;
use bollard::errors::Error;
use bollard::query_parameters::{
    ListContainersOptionsBuilder, ListImagesOptions, ListNetworksOptions, ListVolumesOptions,
    RemoveContainerOptionsBuilder, RemoveImageOptionsBuilder, RemoveVolumeOptions,
};
use futures_util::{FutureExt as _, StreamExt as _};
use orchestrator::controller::Controller;
use orchestrator::driver::LogOptions;
use orchestrator::driver::docker::{ContainerTemplate, DockerDriver, DockerSettings, EngineDirs};
use orchestrator::sleep::SleepSettings;
use orchestrator::tenant_dirs::{DirRoots, MasterKeys, TenantDirs};
use orchestrator::tenants::state_dir::StateDir;
use protocol::orchestrator::{ApplyRequest, ObservedTenant, Phase};
use protocol::spec::Spec;
use protocol::{InstallName, TenantId};
use service::Secret;
use service::sealing_keys::SealingKeys;
pub(crate) use testkit::TempDir;
use uuid::Uuid;

pub(crate) const SSO_MASTER: &str = "sso-master-of-a-test-0123456789abcdef";

/// Far longer than any step takes here; only a hanging step reaches this limit.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// No tenant falls asleep.
pub(crate) const AWAKE: SleepSettings = SleepSettings {
    concurrent_starts: 4,
    freeze_after: None,
    sleep_after: None,
    ..SleepSettings::DEFAULT
};

/// Tenants sleep after a second without a use, and are never frozen.
pub(crate) const STOPS: SleepSettings = SleepSettings {
    freeze_after: None,
    sleep_after: Some(Duration::from_secs(1)),
    // Nothing renews these leases: a request on a busy machine must end before.
    lease_duration: Duration::from_secs(5),
    ..SleepSettings::DEFAULT
};

pub(crate) const SOCKET: &str = "/var/run/docker.sock";

pub(crate) struct Install {
    pub(crate) name: InstallName,
    pub(crate) client: Client,
    pub(crate) socket: PathBuf,
    pub(crate) image: String,
    pub(crate) base: PathBuf,
    pub(crate) pool: String,
    pub(crate) egress: bool,
    pub(crate) disk_reserve_bytes: u64,
    /// Its disk counts as the engine's.
    pub(crate) state_dir: PathBuf,
}

/// Runs `test` with a separate installation and leaves nothing of it.
pub(crate) async fn with_install(test: impl AsyncFnOnce(&Install)) {
    let install = Install::new().await;
    let outcome = AssertUnwindSafe(test(&install)).catch_unwind().await;
    let remaining = install.remove_all().await;
    if let Err(panic) = outcome {
        resume_unwind(panic);
    }
    assert!(remaining.is_empty(), "not removed: {remaining:?}");
}

impl Install {
    async fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let n = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("orchestrator-{}-{n}", std::process::id());
        let client = Client::connect_with_local_defaults().unwrap();
        let client = client.negotiate_version().await.expect("these tests need a container engine");
        let image = image::tenant(&client).await;
        // The base is short, because the path of a socket has at most 107 bytes.
        let base = std::env::temp_dir().join(&name);
        Self::create(name, SOCKET.into(), client, image, base, pool(n))
    }

    /// An installation on another engine, which is removed with that engine.
    pub(crate) fn new_on(socket: PathBuf, client: Client, image: String, base: PathBuf) -> Self {
        let name = format!("private-{}", std::process::id());
        Self::create(name, socket, client, image, base, pool(0))
    }

    fn create(
        name: String,
        socket: PathBuf,
        client: Client,
        image: String,
        base: PathBuf,
        pool: String,
    ) -> Self {
        for directory in ["sockets", "secrets", "databases", "models", "state"] {
            fs::create_dir_all(base.join(directory)).unwrap();
        }
        Self {
            state_dir: base.join("state"),
            name: name.parse().unwrap(),
            client,
            socket,
            image,
            base,
            pool,
            egress: true,
            disk_reserve_bytes: 0,
        }
    }

    /// Nothing listens there unless a test starts the service `quota`.
    pub(crate) fn quota_socket(&self) -> PathBuf {
        self.base.join("quota.sock")
    }

    pub(crate) fn tenant_dirs(&self) -> TenantDirs {
        let master_keys = MasterKeys {
            sso: Secret::new(SSO_MASTER),
            sso_public: None,
            route: Secret::new("route-master-of-a-test-0123456789abcdef"),
            sealing: SealingKeys::new(Secret::new(SSO_MASTER), None),
        };
        TenantDirs::new(self.dir_roots(), master_keys)
    }

    fn dir_roots(&self) -> DirRoots {
        DirRoots {
            sockets: self.base.join("sockets"),
            secrets: self.base.join("secrets"),
            databases: self.base.join("databases"),
            models: self.base.join("models"),
        }
    }

    /// The same installation, for a test that changes a setting.
    pub(crate) fn sibling(&self) -> Self {
        Self {
            name: self.name.clone(),
            client: self.client.clone(),
            socket: self.socket.clone(),
            image: self.image.clone(),
            base: self.base.clone(),
            pool: self.pool.clone(),
            egress: self.egress,
            disk_reserve_bytes: self.disk_reserve_bytes,
            state_dir: self.state_dir.clone(),
        }
    }

    /// Creates a driver as a freshly started process does. Must be called inside a runtime.
    pub(crate) fn driver(&self) -> DockerDriver {
        self.driver_at(&self.socket.display().to_string())
    }

    pub(crate) fn driver_at(&self, socket: &str) -> DockerDriver {
        self.driver_with(socket, EngineDirs::Host(self.dir_roots()))
    }

    pub(crate) fn driver_with(&self, socket: &str, dirs: EngineDirs) -> DockerDriver {
        let settings = DockerSettings {
            socket: socket.into(),
            template: ContainerTemplate {
                install: self.name.clone(),
                image: self.image.clone(),
                publish: true,
                egress: self.egress,
            },
            pool: self.pool.parse().unwrap(),
            dirs,
            state_dir: self.state_dir.clone(),
            disk_reserve_bytes: self.disk_reserve_bytes,
            quota_socket: self.quota_socket(),
        };
        DockerDriver::new(settings, self.tenant_dirs()).unwrap()
    }

    /// Creates a controller as a freshly started process does, which follows the engine.
    pub(crate) fn controller(&self) -> Running {
        self.controller_with(1, AWAKE)
    }

    /// `epoch`: see [`Controller::new`].
    pub(crate) fn controller_with(&self, epoch: u64, settings: SleepSettings) -> Running {
        let state_dir = StateDir::new(self.base.join("state"));
        Running::new(Controller::new(Arc::new(self.driver()), state_dir, epoch, settings))
    }

    pub(crate) fn filters(&self, id: Option<TenantId>) -> HashMap<String, Vec<String>> {
        let mut labels = vec!["cial.managed=1".to_owned(), format!("cial.install={}", self.name)];
        labels.extend(id.map(|id| format!("cial.tenant={id}")));
        HashMap::from([("label".to_owned(), labels)])
    }

    pub(crate) fn labels(&self) -> HashMap<String, String> {
        let labels = [("cial.managed", "1"), ("cial.install", self.name.as_str())];
        labels.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
    }

    /// Lists ids or names on the engine: containers, networks, volumes.
    pub(crate) async fn objects(&self, id: Option<TenantId>) -> [Vec<String>; 3] {
        let all = ListContainersOptionsBuilder::default().all(true).filters(&self.filters(id));
        let containers = self.client.list_containers(Some(all.build())).await.unwrap();
        let filters = Some(self.filters(id));
        let networks = ListNetworksOptions { filters: filters.clone() };
        let networks = self.client.list_networks(Some(networks)).await.unwrap();
        let volumes = self.client.list_volumes(Some(ListVolumesOptions { filters })).await.unwrap();
        [
            containers.into_iter().filter_map(|c| c.id).collect(),
            networks.into_iter().filter_map(|n| n.id).collect(),
            volumes.volumes.unwrap_or_default().into_iter().map(|v| v.name).collect(),
        ]
    }

    pub(crate) async fn remove_container_by_hand(&self, container: &str) {
        let force = RemoveContainerOptionsBuilder::default().force(true).build();
        self.client.remove_container(container, Some(force)).await.unwrap();
    }

    /// Removes the installation; returns the objects that could not be removed, and why.
    async fn remove_all(&self) -> Vec<String> {
        let [containers, networks, volumes] = self.objects(None).await;
        let mut remaining = Vec::new();
        let mut record = |what: String, done: Result<(), Error>| match done {
            Ok(()) | Err(Error::DockerResponseServerError { status_code: 404, .. }) => {}
            Err(error) => remaining.push(format!("{what}: {error}")),
        };
        for container in containers {
            let force = RemoveContainerOptionsBuilder::default().force(true).build();
            record(container.clone(), self.client.remove_container(&container, Some(force)).await);
        }
        let labels = Some(self.filters(None));
        let images = ListImagesOptions { filters: labels, ..ListImagesOptions::default() };
        for image in self.client.list_images(Some(images)).await.unwrap_or_default() {
            let kept = RemoveImageOptionsBuilder::default().noprune(true).build();
            let removed = self.client.remove_image(&image.id, Some(kept), None).await;
            record(image.id.clone(), removed.map(drop));
        }
        for name in registry::pulled_names(&self.client, &self.name).await {
            record(name.clone(), registry::remove_name(&self.client, &name).await);
        }
        for network in networks {
            record(network.clone(), self.client.remove_network(&network).await);
        }
        for volume in volumes {
            let none = None::<RemoveVolumeOptions>;
            record(volume.clone(), self.client.remove_volume(&volume, none).await);
        }
        let folder = fs::remove_dir_all(&self.base);
        remaining.extend(folder.err().map(|error| format!("{}: {error}", self.base.display())));
        remaining
    }
}

/// Returns a range of 128 networks for the `n`th installation of this process, because tests run
/// beside each other and beside other installations. Processes of one run differ by their slot,
/// runs by their parent process.
fn pool(n: u32) -> String {
    #[expect(clippy::disallowed_methods, reason = "the test runner sets it; it is no setting")]
    let slot = std::env::var("NEXTEST_TEST_GLOBAL_SLOT").ok();
    let (run, place) = match slot.and_then(|slot| slot.parse::<u32>().ok()) {
        Some(slot) => (std::os::unix::process::parent_id(), n * 16 + slot),
        None => (std::process::id(), n),
    };
    format!("10.{}.{}.0/22", 202 + run % 50, place % 64 * 4)
}

/// A controller that follows its engine until it is dropped, as a process does until it is killed.
pub(crate) struct Running {
    pub(crate) controller: Arc<Controller>,
    following: tokio::task::JoinHandle<()>,
}

impl Running {
    pub(crate) fn new(controller: Arc<Controller>) -> Self {
        let following = tokio::spawn(controller.clone().run());
        Self { controller, following }
    }

    pub(crate) async fn run(&self, spec: &Spec) -> ObservedTenant {
        self.controller.operations.apply(apply(spec, true)).await.unwrap()
    }

    /// Waits until `fits` holds for the tenant, and returns it; `None` is a tenant without a
    /// container.
    pub(crate) async fn until(
        &self,
        id: TenantId,
        fits: impl Fn(Option<&ObservedTenant>) -> bool,
    ) -> Option<ObservedTenant> {
        let seen = async {
            // Before the first list, the feed reports nothing.
            while self.controller.store.feed().is_err() {
                self.controller.operations.resync().await;
            }
            let feed = self.controller.store.feed().unwrap();
            let mut changes = feed.subscribe();
            loop {
                let now = feed.get(&id);
                if fits(now.as_ref()) {
                    return now;
                }
                changes.recv().await.unwrap();
            }
        };
        let last = || self.controller.store.feed().ok().and_then(|f| f.get(&id));
        tokio::time::timeout(PATIENCE, seen).await.unwrap_or_else(|_| panic!("last: {:?}", last()))
    }

    pub(crate) async fn until_phase(&self, id: TenantId, phase: Phase) -> ObservedTenant {
        self.until(id, |o| o.is_some_and(|o| o.phase == phase)).await.unwrap()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.following.abort();
    }
}

pub(crate) fn spec(slug: &str, mode: &str) -> Spec {
    serde_json::from_value(serde_json::json!({
        "id": Uuid::now_v7(), "slug": slug, "generation": 1, "env": {"MODE": mode},
        "limits": {"cpu_millis": 500, "memory_bytes": 64 << 20, "pids": 32},
    }))
    .unwrap()
}

pub(crate) fn apply(spec: &Spec, run: bool) -> ApplyRequest {
    ApplyRequest { spec: spec.clone(), run, restart: false, revoked_sessions: Vec::new() }
}

/// Waits until the tenant's output holds `text`, and returns all of it. The engine's log may lag behind the tenant.
pub(crate) async fn until_logged(running: &Running, spec: &Spec, text: &str) -> String {
    let mut output = String::new();
    let logged = async {
        while !output.contains(text) {
            tokio::time::sleep(Duration::from_millis(20)).await;
            let pieces = running.controller.operations.logs(spec.id, LogOptions::default()).await;
            let pieces: Vec<_> = pieces.unwrap().map(|piece| piece.unwrap()).collect().await;
            output = String::from_utf8(pieces.concat()).unwrap();
        }
    };
    let is_logged = tokio::time::timeout(PATIENCE, logged).await.is_ok();
    assert!(is_logged, "{text:?} is not in {output:?}");
    output
}
