//! Translates a spec into the engine's container configuration. Pure: the same spec always gives
//! the same container.

use std::collections::HashMap;
use std::path::Path;

use bollard::models::{
    ContainerCreateBody, ContainerUpdateBody, EndpointSettings, HealthConfig, HostConfig, Ipam,
    IpamConfig, Mount, MountPoint, MountType, NetworkCreateRequest, PortBinding,
    VolumeCreateRequest,
};
use protocol::id::labels;
use protocol::spec::{Limits, Spec};
use protocol::{InstallName, TenantId, inside};

use super::subnet_pool::Net;
use super::wrap::{TenantImage, WrappedApp};
use crate::driver::{AppliedLimits, STOP_TIMEOUT};
use crate::tenant_dirs::TenantPaths;

/// Shared with `smoke-tenant`, so that the production flags exist only once.
const HOST_CONFIG: &str = include_str!("../../../../../docker/tenant.json");
const SECCOMP: &str = include_str!("../../../../../docker/seccomp.json");

/// The image tag that a container was created from. A list shows an id instead once the tag has
/// moved on.
pub(super) const IMAGE_LABEL: &str = "cial.image";

/// The hash of the settings that the installation adds to a container or network: see
/// [`ContainerTemplate::hash`].
pub(super) const TEMPLATE_HASH_LABEL: &str = "cial.flags";

/// The settings that all tenants of an installation share.
#[derive(Clone, Debug)]
pub struct ContainerTemplate {
    pub install: InstallName,
    /// The tag for specs that name no image.
    pub image: String,
    /// Whether port 8080 is published on a free port of 127.0.0.1.
    pub publish: bool,
    /// Whether tenants can reach addresses outside.
    pub egress: bool,
}

impl ContainerTemplate {
    pub(super) fn image<'a>(&'a self, spec: &'a Spec) -> &'a str {
        spec.image.as_deref().unwrap_or(&self.image)
    }

    /// Labels of objects that belong to the installation and to no tenant.
    pub(super) fn own_labels(&self) -> HashMap<String, String> {
        HashMap::from([
            (labels::MANAGED.to_owned(), "1".to_owned()),
            (labels::INSTALL.to_owned(), self.install.to_string()),
        ])
    }

    pub(super) fn labels(&self, id: TenantId) -> HashMap<String, String> {
        let mut labels = self.own_labels();
        labels.insert(labels::TENANT.to_owned(), id.to_string());
        labels
    }

    /// Filters that find all objects of this installation, or of one tenant where `id` is given.
    pub(super) fn filters(&self, id: Option<TenantId>) -> HashMap<String, Vec<String>> {
        let mut wanted =
            vec![format!("{}=1", labels::MANAGED), format!("{}={}", labels::INSTALL, self.install)];
        wanted.extend(id.map(|id| format!("{}={id}", labels::TENANT)));
        HashMap::from([("label".to_owned(), wanted)])
    }

    /// Whether an object belongs to this installation. Other objects are never touched.
    pub(super) fn owns(&self, found: &HashMap<String, String>) -> bool {
        found.get(labels::MANAGED).is_some_and(|v| v == "1")
            && found.get(labels::INSTALL).is_some_and(|v| v == self.install.as_str())
    }

    pub(super) fn owns_for(&self, found: &HashMap<String, String>, id: TenantId) -> bool {
        self.owns(found) && found.get(labels::TENANT).is_some_and(|v| *v == id.to_string())
    }

    pub(super) fn volume(
        &self,
        name: &str,
        labels: HashMap<String, String>,
    ) -> VolumeCreateRequest {
        VolumeCreateRequest {
            name: Some(name.to_owned()),
            driver: Some("local".to_owned()),
            labels: Some(labels),
            ..VolumeCreateRequest::default()
        }
    }

    pub(super) fn network(&self, id: TenantId, subnet: Net) -> NetworkCreateRequest {
        NetworkCreateRequest {
            name: id.network(),
            driver: Some("bridge".to_owned()),
            internal: Some(!self.egress),
            enable_ipv6: Some(false),
            ipam: Some(Ipam {
                driver: Some("default".to_owned()),
                config: Some(vec![IpamConfig {
                    subnet: Some(subnet.to_string()),
                    gateway: Some(subnet.gateway().to_string()),
                    ..IpamConfig::default()
                }]),
                options: None,
            }),
            labels: Some(self.labels_with_hash(id)),
            ..NetworkCreateRequest::default()
        }
    }

    fn labels_with_hash(&self, id: TenantId) -> HashMap<String, String> {
        let mut labels = self.labels(id);
        labels.insert(TEMPLATE_HASH_LABEL.to_owned(), self.hash());
        labels
    }

    /// A hash of all choices of the installation. An object with another hash is created again at
    /// its tenant's next start. All tenants have the same hash, so the labels of a list are enough
    /// for the comparison.
    pub(super) fn hash(&self) -> String {
        let nobody = TenantId::new(uuid::Uuid::nil());
        let placeholder = TenantPaths {
            ingress: "ingress".into(),
            secrets: "secrets".into(),
            database: "database".into(),
            models: "models".into(),
        };
        let host = HostConfig {
            // The spec sets the limits, and the engine applies them in place.
            nano_cpus: None,
            memory: None,
            memory_swap: None,
            pids_limit: None,
            ..self.host(mounts(nobody, &placeholder), nobody)
        };
        let mut all = serde_json::json!({ "host": host, "egress": self.egress });
        // The engine's types hold maps without a fixed order.
        all.sort_all_objects();
        format!("{:016x}", fnv1a(all.to_string().as_bytes()))
    }

    /// Builds the container configuration. `paths` are the tenant's own directories, as the engine
    /// sees them.
    pub(super) fn container(
        &self,
        spec: &Spec,
        paths: &TenantPaths,
        image: &TenantImage<'_>,
    ) -> ContainerCreateBody {
        let mut labels = self.labels_with_hash(spec.id);
        labels.insert(labels::SLUG.to_owned(), spec.slug.to_string());
        labels.insert(labels::GENERATION.to_owned(), spec.generation.to_string());
        labels.insert(IMAGE_LABEL.to_owned(), image.tag.clone());
        let limits = limits(spec.limits);
        let mut mounts = mounts(spec.id, paths);
        mounts.extend(spec.database_user.is_some().then(|| database_mount(paths)));
        mounts.extend(spec.uses_model().then(|| models_mount(paths)));
        let mut host = HostConfig {
            nano_cpus: limits.nano_cpus,
            memory: limits.memory,
            memory_swap: limits.memory_swap,
            pids_limit: limits.pids_limit,
            ..self.host(mounts, spec.id)
        };
        for volume in image.app.iter().flat_map(|app| &app.volumes) {
            host.tmpfs.get_or_insert_default().insert(volume.clone(), VOLUME_TMPFS.to_owned());
        }
        let common = ContainerCreateBody {
            hostname: Some(spec.slug.to_string()),
            image: Some(image.tag.clone()),
            env: Some(env(spec, image.app.as_ref())),
            labels: Some(labels),
            exposed_ports: self.publish.then(|| vec![port()]),
            host_config: Some(host),
            // Applies also to stops that are not ours: by the engine, a person, or a machine's
            // shutdown.
            stop_timeout: i64::try_from(STOP_TIMEOUT.as_secs()).ok(),
            ..ContainerCreateBody::default()
        };
        if image.app.is_some() { with_own_start(common) } else { common }
    }

    /// Builds the host configuration without the limits of a spec.
    fn host(&self, mounts: Vec<Mount>, id: TenantId) -> HostConfig {
        let mut host = base();
        host.network_mode = Some(id.network());
        host.mounts = Some(mounts);
        host.port_bindings = self.publish.then(|| {
            let any_free = PortBinding {
                host_ip: Some("127.0.0.1".to_owned()),
                host_port: Some(String::new()),
            };
            HashMap::from([(port(), Some(vec![any_free]))])
        });
        host
    }
}

/// Replaces all that an app's image says about the start of its container. The engine would run a
/// health check of the image as root inside the container.
fn with_own_start(container: ContainerCreateBody) -> ContainerCreateBody {
    let no_check = HealthConfig { test: Some(vec!["NONE".to_owned()]), ..HealthConfig::default() };
    ContainerCreateBody {
        entrypoint: Some(vec![inside::WRAPPED_SUPERVISOR.to_owned()]),
        cmd: Some(Vec::new()),
        user: Some("0:0".to_owned()),
        working_dir: Some("/".to_owned()),
        stop_signal: Some("SIGTERM".to_owned()),
        healthcheck: Some(no_check),
        ..container
    }
}

/// Builds the limits, which the engine applies in place, also to a running container.
pub(super) fn limits(limits: Limits) -> ContainerUpdateBody {
    let limits = AppliedLimits::from(limits);
    ContainerUpdateBody {
        nano_cpus: Some(limits.nano_cpus),
        memory: Some(limits.memory_bytes),
        memory_swap: Some(limits.memory_swap_bytes),
        pids_limit: Some(limits.pids),
        ..ContainerUpdateBody::default()
    }
}

/// The limits that an inspection shows. A missing value means "unlimited", which no tenant may be.
pub(super) fn applied_limits(host: &HostConfig) -> AppliedLimits {
    AppliedLimits {
        nano_cpus: host.nano_cpus.unwrap_or_default(),
        memory_bytes: host.memory.unwrap_or_default(),
        memory_swap_bytes: host.memory_swap.unwrap_or_default(),
        pids: host.pids_limit.unwrap_or_default(),
    }
}

/// Builds the mounts of every tenant.
fn mounts(id: TenantId, paths: &TenantPaths) -> Vec<Mount> {
    vec![
        volume(id.data_volume(), inside::DATA_DIR),
        volume(id.files_volume(), inside::FILES_DIR),
        bind(&paths.ingress, inside::INGRESS_DIR, false),
        bind(&paths.secrets, inside::SECRETS_DIR, true),
    ]
}

/// Builds the mount of a tenant whose app wants a database. Read-only: nobody inside puts another
/// socket in the place of the proxy's.
fn database_mount(paths: &TenantPaths) -> Mount {
    bind(&paths.database, inside::DATABASE_DIR, true)
}

/// Builds the mount of a tenant in whose chat the model of the installation replies. Read-only: all
/// tenants share it, and none puts anything into it.
fn models_mount(paths: &TenantPaths) -> Mount {
    bind(&paths.models, inside::MODELS_DIR, true)
}

/// Whether a container has exactly the mounts that [`ContainerTemplate::container`] gives it.
/// Mounts of the engine's own (tmpfs) do not count. The mounts of the database and of the model may
/// be there or not: another release, and with it another generation, decides about them.
pub(super) fn mounts_match(id: TenantId, paths: &TenantPaths, found: &[MountPoint]) -> bool {
    let (wanted, optional) = (mounts(id, paths), [database_mount(paths), models_mount(paths)]);
    let is_shared = |point: &&MountPoint| matches!(point.typ.as_deref(), Some("bind" | "volume"));
    let is_required = |point: &&MountPoint| !optional.iter().any(|mount| is_mount(mount, point));
    let shared = found.iter().filter(is_shared).filter(is_required);
    shared.count() == wanted.len()
        && wanted.iter().all(|mount| found.iter().any(|point| is_mount(mount, point)))
}

fn is_mount(mount: &Mount, point: &MountPoint) -> bool {
    let source = if point.typ.as_deref() == Some("volume") { &point.name } else { &point.source };
    point.destination == mount.target
        && *source == mount.source
        && point.rw == Some(!mount.read_only.unwrap_or_default())
}

/// Whether a container is attached to its tenant's network and to no other. An engine also shows
/// the network of a container that never started: an empty map always means that somebody
/// disconnected the container.
pub(super) fn networks_match(
    id: TenantId,
    networks: Option<&HashMap<String, EndpointSettings>>,
) -> bool {
    networks.is_some_and(|networks| networks.keys().eq([&id.network()]))
}

/// Whether all labels exist that [`ContainerTemplate::container`] sets, besides those that name the
/// owner.
pub(super) fn labels_match(found: &HashMap<String, String>) -> bool {
    [labels::SLUG, labels::GENERATION, IMAGE_LABEL].iter().all(|key| found.contains_key(*key))
}

fn base() -> HostConfig {
    let mut host: HostConfig =
        serde_json::from_str(HOST_CONFIG).expect("docker/tenant.json is a HostConfig, as tested");
    // The engine takes a profile as text; a newline more or less is not a difference.
    let profile: serde_json::Value =
        serde_json::from_str(SECCOMP).expect("docker/seccomp.json is JSON, as tested");
    host.security_opt.get_or_insert_default().push(format!("seccomp={profile}"));
    host
}

fn port() -> String {
    format!("{}/tcp", inside::INGRESS_PORT)
}

/// The hash is stored in labels, so it must be the same in every build. A collision gains nothing
/// for an attacker.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// The folders that an app's image declares as volumes: empty at each start, and the program's.
const VOLUME_TMPFS: &str = "rw,nosuid,nodev,size=256m,mode=0755,uid=1001,gid=1001";

fn env(spec: &Spec, app: Option<&WrappedApp>) -> Vec<String> {
    if let Some(app) = app {
        let process = serde_json::to_string(&app.process).unwrap_or_default();
        let public = spec.app.as_ref().map(|app| app.public_paths.as_slice()).unwrap_or_default();
        let public =
            (!public.is_empty()).then(|| serde_json::to_string(public).unwrap_or_default());
        let ours = [
            format!("{}={}", inside::TENANT_ID, spec.slug),
            format!("{}={}", inside::TENANT_UUID, spec.id),
            format!("{}={process}", inside::APP_PROCESS),
            format!("{}={}", inside::APP_PORT, app.process.port),
        ];
        let public = public.map(|paths| format!("{}={paths}", inside::PUBLIC_PATHS));
        return ours.into_iter().chain(public).collect();
    }
    let names: Vec<_> = spec.env.keys().map(String::as_str).collect();
    let mut ours = vec![
        format!("{}={}", inside::TENANT_ID, spec.slug),
        format!("{}={}", inside::TENANT_UUID, spec.id),
    ];
    if !names.is_empty() {
        ours.push(format!("{}={}", inside::APP_ENV, names.join(",")));
    }
    ours.into_iter().chain(spec.env.iter().map(|(key, value)| format!("{key}={value}"))).collect()
}

fn volume(name: String, target: &str) -> Mount {
    Mount {
        target: Some(target.to_owned()),
        source: Some(name),
        typ: Some(MountType::VOLUME),
        ..Mount::default()
    }
}

fn bind(source: &Path, target: &str, read_only: bool) -> Mount {
    Mount {
        target: Some(target.to_owned()),
        source: Some(source.display().to_string()),
        typ: Some(MountType::BIND),
        read_only: Some(read_only),
        // No propagation is set: for sources in its own folder, where volumes are, the engine
        // accepts only its own value.
        ..Mount::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::process::AppSpec;

    fn template() -> ContainerTemplate {
        ContainerTemplate {
            install: "local".parse().unwrap(),
            image: "cial-tenant:dev".to_owned(),
            publish: true,
            egress: true,
        }
    }

    fn spec() -> Spec {
        serde_json::from_value(serde_json::json!({
            "id": "0192f0c1-2345-7abc-8def-0123456789ab", "slug": "acme", "generation": 7,
            "env": {"COLOUR": "blue"},
        }))
        .unwrap()
    }

    fn paths() -> TenantPaths {
        TenantPaths {
            ingress: "/e/sockets/x".into(),
            secrets: "/e/secrets/x".into(),
            database: "/e/databases/x".into(),
            models: "/e/models".into(),
        }
    }

    fn container(template: &ContainerTemplate) -> serde_json::Value {
        let spec = spec();
        let image = TenantImage::own(template.image(&spec));
        let made = template.container(&spec, &paths(), &image);
        let mut made = serde_json::to_value(made).unwrap();
        made["Labels"][TEMPLATE_HASH_LABEL] = "…".into();
        for option in made["HostConfig"]["SecurityOpt"].as_array_mut().unwrap() {
            if option.as_str().unwrap().starts_with("seccomp={") {
                *option = "seccomp={…}".into();
            }
        }
        made
    }

    /// A subvolume that a tenant makes would be outside its quota group, and a file whose project it changes would be
    /// outside its project.
    #[test]
    fn the_ioctls_of_filesystems_are_those_that_read_and_those_that_share_blocks_of_files() {
        const BTRFS: u64 = 0x94;
        // Project quotas, and the rest of XFS.
        const XFS: u64 = b'X' as u64;
        // Flags of files, one of which ends the inheritance of a project, and the rest of ext4.
        const EXT4: u64 = b'f' as u64;
        const FICLONE: u64 = 0x4004_9409;
        const FICLONERANGE: u64 = 0x4020_940d;
        const FS_IOC_GETFLAGS: u64 = 0x8008_6601;
        const FS_IOC_FIEMAP: u64 = 0xc020_660b;
        const FS_IOC_FSGETXATTR: u64 = 0x801c_581f;
        const XFS_IOC_DIOINFO: u64 = 0x800c_581e;
        const SHARE: [u64; 2] = [FICLONE, FICLONERANGE];
        const READ: [u64; 4] = [FS_IOC_GETFLAGS, FS_IOC_FIEMAP, FS_IOC_FSGETXATTR, XFS_IOC_DIOINFO];
        let profile: serde_json::Value = serde_json::from_str(SECCOMP).unwrap();
        let rules = profile["syscalls"].as_array().unwrap().iter();
        let names_ioctl = |rule: &&serde_json::Value| {
            rule["names"].as_array().unwrap().iter().any(|name| name == "ioctl")
        };
        // Which bits of a request a rule reads, and what they must be.
        let mask_and_value = |rule: &serde_json::Value| {
            let [condition] = rule["args"].as_array().unwrap().as_slice() else { panic!("{rule}") };
            assert_eq!(condition["index"], 1);
            let [value, second] =
                ["value", "valueTwo"].map(|key| condition[key].as_u64().unwrap_or_default());
            match condition["op"].as_str().unwrap() {
                "SCMP_CMP_EQ" => (u64::MAX, value),
                "SCMP_CMP_MASKED_EQ" => (value, second),
                other => panic!("{other}"),
            }
        };
        let rules: Vec<_> = rules.filter(names_ioctl).map(mask_and_value).collect();
        let is_allowed = |request: u64| rules.iter().any(|(mask, value)| request & mask == *value);
        // Directions and sizes are in the bits above the type, which only the rules about single calls read. The kernel
        // reads 32 bits, and a library may extend the sign of these.
        let named = SHARE.iter().chain(&READ).map(|call| call >> 16);
        let extended = READ.iter().map(|call| call >> 16 | 0xffff_ffff_0000);
        let others = [0, 0x4008, 0x401c, 0x5000, 0xffff_ffff_ffff];
        for high in named.chain(extended).chain(others) {
            for low in 0..=0xffff_u64 {
                let request = high << 16 | low;
                let is_of_filesystem = [BTRFS, XFS, EXT4].contains(&(low >> 8));
                let is_named = SHARE.contains(&request) || READ.contains(&(request & 0xffff_ffff));
                assert_eq!(is_allowed(request), !is_of_filesystem || is_named, "{request:#x}");
            }
        }
    }

    /// Covers all values that `docker/tenant.json` does not fix; of the fixed ones, only the limits
    /// differ.
    #[test]
    fn the_whole_container() {
        let shared: serde_json::Value = serde_json::from_str(HOST_CONFIG).unwrap();
        let mut made = container(&template());
        let host = made["HostConfig"].as_object_mut().unwrap();
        for (key, value) in shared.as_object().unwrap() {
            match key.as_str() {
                "NanoCpus" | "Memory" | "MemorySwap" | "PidsLimit" => {}
                "SecurityOpt" => {
                    let options = host.get_mut(key).and_then(|o| o.as_array_mut()).unwrap();
                    assert_eq!(options.pop().unwrap(), "seccomp={…}");
                    assert_eq!(host.remove(key).as_ref(), Some(value));
                }
                _ => assert_eq!(host.remove(key).as_ref(), Some(value), "{key}"),
            }
        }
        // The engine's types hold labels without a fixed order.
        made.sort_all_objects();
        insta::assert_snapshot!(serde_json::to_string_pretty(&made).unwrap());
    }

    /// Covers the requirements that somebody named explicitly, apart from the rest of the snapshot.
    #[test]
    fn the_promises_about_a_container() {
        let made = container(&template());
        assert_eq!(made["StopTimeout"], 12, "longer than PID 1 drains");
        let host = &made["HostConfig"];
        assert_eq!(host["NanoCpus"], 2_000_000_000_i64);
        assert_eq!(host["Memory"], 4_294_967_296_i64);
        assert_eq!(host["MemorySwap"], host["Memory"]);
        assert_eq!(host["PidsLimit"], 512);
        assert_eq!(host["CapDrop"], serde_json::json!(["ALL"]));
        assert_eq!(host["ReadonlyRootfs"], true);
        assert!(host["Binds"].is_null(), "Binds would make a missing source as root");
        assert_eq!(host["PortBindings"]["8080/tcp"][0]["HostIp"], "127.0.0.1");
        assert!(host["SecurityOpt"].as_array().unwrap().contains(&"no-new-privileges".into()));
    }

    #[test]
    fn only_a_tenant_whose_app_wants_a_database_has_its_directory_and_cannot_write_there() {
        let has_mount = |spec: &Spec| {
            let image = TenantImage::own("cial-tenant:dev");
            let made = template().container(spec, &paths(), &image);
            let mounts = made.host_config.and_then(|host| host.mounts).unwrap();
            let database =
                mounts.iter().find(|m| m.target.as_deref() == Some(inside::DATABASE_DIR));
            database.map(|mount| (mount.source.clone().unwrap(), mount.read_only))
        };
        assert_eq!(has_mount(&spec()), None);
        let spec = Spec { database_user: Some("t_acme".to_owned()), ..spec() };
        assert_eq!(has_mount(&spec), Some(("/e/databases/x".to_owned(), Some(true))));
    }

    #[test]
    fn only_a_tenant_whose_chat_is_the_models_reaches_its_socket_and_cannot_write_there() {
        let mount = |chat: &str| {
            let app = AppSpec { chat: Some(chat.to_owned()), ..AppSpec::default() };
            let image = TenantImage::own("cial-tenant:dev");
            let spec = Spec { app: Some(app), ..spec() };
            let made = template().container(&spec, &paths(), &image);
            let mounts = made.host_config.and_then(|host| host.mounts).unwrap();
            let models = mounts.iter().find(|m| m.target.as_deref() == Some(inside::MODELS_DIR));
            models.map(|mount| (mount.source.clone().unwrap(), mount.read_only))
        };
        assert_eq!(mount("/chat"), None);
        assert_eq!(mount("model"), Some(("/e/models".to_owned(), Some(true))));
    }

    #[test]
    fn nothing_is_published_unless_asked_for() {
        let made = container(&ContainerTemplate { publish: false, ..template() });
        assert!(made["HostConfig"]["PortBindings"].is_null());
        assert!(made["ExposedPorts"].is_null());
    }

    #[test]
    fn without_egress_the_network_is_internal() {
        let subnet = "10.201.0.8/29".parse().unwrap();
        let made = ContainerTemplate { egress: false, ..template() }.network(spec().id, subnet);
        assert_eq!(made.internal, Some(true));
        assert_eq!(template().network(spec().id, subnet).internal, Some(false));
    }

    #[test]
    fn flags_are_the_installations_choices_and_nothing_of_a_tenant() {
        let flags = template().hash();
        assert_eq!(flags, template().hash(), "the same each time");
        for other in [
            ContainerTemplate { egress: false, ..template() },
            ContainerTemplate { publish: false, ..template() },
        ] {
            assert_ne!(other.hash(), flags, "{other:?}");
        }
        let image = "another:tag".to_owned();
        assert_eq!(
            ContainerTemplate { image, ..template() }.hash(),
            flags,
            "an image is looked at by its id"
        );
        let network = template().network(spec().id, "10.201.0.8/29".parse().unwrap());
        let image = TenantImage::own("cial-tenant:dev");
        let made = template().container(&spec(), &paths(), &image);
        for labels in [network.labels, made.labels] {
            assert_eq!(labels.unwrap()[TEMPLATE_HASH_LABEL], flags);
        }
    }

    #[test]
    fn a_hash_that_is_kept_is_the_published_one() {
        for (text, hash) in [("", 0xcbf2_9ce4_8422_2325), ("foobar", 0x8594_4171_f739_67e8)] {
            assert_eq!(fnv1a(text.as_bytes()), hash, "{text}");
        }
    }

    #[test]
    fn only_what_carries_both_labels_is_ours() {
        let ours = template().labels(spec().id);
        assert!(template().owns(&ours) && template().owns_for(&ours, spec().id));
        for key in [labels::MANAGED, labels::INSTALL] {
            let mut less = ours.clone();
            less.remove(key);
            assert!(!template().owns(&less), "{key}");
            less.insert(key.to_owned(), "other".to_owned());
            assert!(!template().owns(&less), "{key}");
        }
        let mut others = ours;
        others.insert(labels::TENANT.to_owned(), "other".to_owned());
        assert!(template().owns(&others) && !template().owns_for(&others, spec().id));
    }

    #[test]
    fn limits_are_compared_whole() {
        let made = container(&template());
        let mut host: HostConfig = serde_json::from_value(made["HostConfig"].clone()).unwrap();
        let wanted = AppliedLimits::from(Limits::default());
        assert_eq!(applied_limits(&host), wanted);
        host.memory_swap = Some(-1);
        assert_ne!(applied_limits(&host), wanted);
    }

    fn endpoints(names: &[String]) -> HashMap<String, EndpointSettings> {
        names.iter().map(|name| (name.clone(), EndpointSettings::default())).collect()
    }

    #[test]
    fn a_container_belongs_to_its_own_network_and_no_other() {
        let id = spec().id;
        let own = id.network();
        assert!(networks_match(id, Some(&endpoints(std::slice::from_ref(&own)))));
        assert!(!networks_match(id, Some(&endpoints(&[own, "bridge".to_owned()]))));
        assert!(!networks_match(id, Some(&endpoints(&[]))), "disconnected by hand");
        assert!(!networks_match(id, None));
    }

    #[test]
    fn mounts_are_compared_by_source_target_and_mode() {
        let (id, paths) = (spec().id, paths());
        let fitting: Vec<MountPoint> = serde_json::from_value(serde_json::json!([
            {"Type": "volume", "Name": id.data_volume(), "Source": "/v/a", "Destination": inside::DATA_DIR, "RW": true},
            {"Type": "volume", "Name": id.files_volume(), "Source": "/v/b", "Destination": inside::FILES_DIR, "RW": true},
            {"Type": "bind", "Source": paths.ingress, "Destination": inside::INGRESS_DIR, "RW": true},
            {"Type": "bind", "Source": paths.secrets, "Destination": inside::SECRETS_DIR, "RW": false},
            {"Type": "tmpfs", "Destination": "/tmp", "RW": true},
        ]))
        .unwrap();
        assert!(mounts_match(id, &paths, &fitting));
        let database = |writable: bool| -> MountPoint {
            serde_json::from_value(serde_json::json!({
                "Type": "bind", "Source": paths.database, "Destination": inside::DATABASE_DIR, "RW": writable,
            }))
            .unwrap()
        };
        let models = |source: &str| -> MountPoint {
            serde_json::from_value(serde_json::json!({
                "Type": "bind", "Source": source, "Destination": inside::MODELS_DIR, "RW": false,
            }))
            .unwrap()
        };
        for (point, fits) in [
            (database(false), true),
            (database(true), false),
            (models("/e/models"), true),
            (models("/e"), false),
        ] {
            let points: Vec<_> = fitting.iter().cloned().chain([point]).collect();
            assert_eq!(mounts_match(id, &paths, &points), fits, "{points:?}");
        }
        for (what, change) in [
            (
                "another volume",
                (|points| points[0].name = Some("other".to_owned())) as fn(&mut Vec<MountPoint>),
            ),
            ("another directory", |points| points[2].source = Some("/etc".to_owned())),
            ("writable secrets", |points| points[3].rw = Some(true)),
            ("one too few", |points| drop(points.remove(1))),
            ("one too many", |points| points.push(points[2].clone())),
        ] {
            let mut points = fitting.clone();
            change(&mut points);
            assert!(!mounts_match(id, &paths, &points), "{what}");
        }
    }
}
