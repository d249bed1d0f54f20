//! All settings, read once. A failed start reports all invalid settings together.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use protocol::{InstallName, inside};
use service::logs::LogFilter;
use service::sealing_keys::SealingKeys;
use service::settings::{SettingsErrors, shared};
use service::{Env, Setting, SettingsReader};

use crate::access::Tokens;
use crate::allowed_images::{AllowedImages, ImageTags};
use crate::driver::docker::subnet_pool::Pool;
use crate::quota::QUOTA_SOCKET;
use crate::tenant_dirs::{DirRoots, MasterKeys};

pub(crate) const LISTEN: Setting = Setting::with_default(
    "CIAL_LISTEN",
    "0.0.0.0:3200",
    "the API, health and metrics; never published",
);
const SSO_PUBLIC_KEY: Setting = Setting::optional(
    "CIAL_SSO_PUBLIC_KEY_FILE",
    "with `CIAL_SSO_PRIVATE_KEY_FILE` of app-api: sign-on tokens are RS256 instead of HS256; see below",
)
.for_operators();
const TENANT_IMAGE: Setting =
    Setting::with_default("CIAL_TENANT_IMAGE", "cial-tenant:dev", "what tenants run")
        .for_operators();
const TENANT_IMAGES: Setting = Setting::optional(
    "CIAL_TENANT_IMAGES",
    "further tags, separated by commas, that a tenant may name; any other image is refused",
)
.for_operators();
pub(crate) const SUBNET_POOL: Setting = Setting::with_default(
    "CIAL_SUBNET_POOL",
    "10.201.0.0/16",
    "cut into a /29 for each tenant's network; the service firewall drops what these send to other containers",
)
.for_operators();
const PUBLISH: Setting = Setting::with_default(
    "CIAL_PUBLISH",
    "loopback",
    "`loopback` publishes each tenant's port on 127.0.0.1, `none` does not. A change reaches a tenant that exists at \
     its next start",
)
.for_operators();
const EGRESS: Setting = Setting::with_default(
    "CIAL_EGRESS",
    "open",
    "`none`: tenants reach nothing outside. A change reaches a tenant that exists at its next start: restart those \
     that run",
)
.for_operators();
const STATE_DIR: Setting = Setting::with_default(
    "CIAL_STATE_DIR",
    "/var/lib/cial",
    "what the orchestrator remembers over a restart",
);
const SOCKETS_DIR: Setting = Setting::with_default(
    "CIAL_SOCKETS_DIR",
    "/run/cial/sockets",
    "the tenants' sockets, which the router reaches",
);
const TENANT_SECRETS_DIR: Setting = Setting::with_default(
    "CIAL_TENANT_SECRETS_DIR",
    "/run/cial/tenant-secrets",
    "the tenants' secrets, which nothing else mounts",
);
const TENANT_DATABASES_DIR: Setting = Setting::with_default(
    "CIAL_TENANT_DATABASES_DIR",
    "/run/cial/tenant-databases",
    "where the database proxy listens for the tenants whose apps want a database",
);
const MODELS_DIR: Setting = Setting::with_default(
    "CIAL_MODELS_DIR",
    inside::MODELS_DIR,
    "where app-api takes calls of the model; with `CIAL_ENGINE_PATHS=volumes`, the engine says where that is. compose.yml leaves it out",
);
const ENGINE_PATHS: Setting = Setting::with_default(
    "CIAL_ENGINE_PATHS",
    "volumes",
    "`volumes`: the orchestrator runs in a container, and the tenants' directories are in the \
     installation's volumes; `host`: it runs beside the engine, and both use the same paths. compose.yml leaves it out",
);
const DOCKER_SOCKET: Setting = Setting::with_default(
    "CIAL_DOCKER_SOCKET",
    "/var/run/docker.sock",
    "the engine's socket; in `.env`: its path on the host",
)
.for_operators();
const DISK_RESERVE_BYTES: Setting = Setting::with_default(
    "CIAL_DISK_RESERVE_BYTES",
    "1073741824",
    "with less free on the engine's disk no new tenant is created and no image is pulled",
)
.for_operators();
const START_CONCURRENCY: Setting = Setting::computed(
    "CIAL_START_CONCURRENCY",
    "the number of cores",
    "how many tenants the engine starts at once",
)
.for_operators();

/// Every variable that the orchestrator reads.
pub const SETTINGS: &[Setting] = &[
    shared::LOG,
    LISTEN,
    shared::ORCHESTRATOR_TOKEN,
    shared::LEASES_TOKEN,
    shared::SSO_SECRET,
    shared::SEALING_KEYS,
    SSO_PUBLIC_KEY,
    shared::ROUTE_SECRET,
    shared::INSTALL,
    TENANT_IMAGE,
    TENANT_IMAGES,
    SUBNET_POOL,
    PUBLISH,
    EGRESS,
    STATE_DIR,
    SOCKETS_DIR,
    TENANT_SECRETS_DIR,
    TENANT_DATABASES_DIR,
    MODELS_DIR,
    ENGINE_PATHS,
    DOCKER_SOCKET,
    DISK_RESERVE_BYTES,
    QUOTA_SOCKET,
    START_CONCURRENCY,
    shared::FREEZE_AFTER,
    shared::SLEEP_AFTER,
];

#[derive(Debug)]
pub struct Settings {
    pub log: LogFilter,
    pub listen: SocketAddr,
    /// The two tokens differ.
    pub tokens: Tokens,
    pub master_keys: MasterKeys,
    pub install: InstallName,
    pub images: AllowedImages,
    pub pool: Pool,
    pub publish: Publish,
    pub egress: Egress,
    pub state: PathBuf,
    pub dirs: DirRoots,
    pub paths: EnginePaths,
    pub socket: PathBuf,
    /// With less free space on the engine's disk, no new tenant is created.
    pub disk_reserve_bytes: u64,
    /// Nothing is there where the service `quota` does not run.
    pub quota_socket: PathBuf,
    /// Concurrent starts of tenants; at least 1.
    pub starts: usize,
    /// `None`: never.
    pub freeze_after: Option<Duration>,
    pub sleep_after: Option<Duration>,
}

impl Settings {
    pub fn read(env: &Env) -> Result<Self, SettingsErrors> {
        let mut vars = SettingsReader::new(env);
        let log = vars.value(&shared::LOG);
        let listen = vars.value(&LISTEN);
        let control = vars.secret(&shared::ORCHESTRATOR_TOKEN);
        let leases = vars.secret(&shared::LEASES_TOKEN);
        if let (Some(control), Some(leases)) = (&control, &leases)
            && control.reveal() == leases.reveal()
        {
            let rule = "must hold another secret than CIAL_ORCHESTRATOR_TOKEN_FILE";
            vars.reject::<()>(&shared::LEASES_TOKEN, rule);
        }
        let sso = vars.secret(&shared::SSO_SECRET);
        let sealing_keys = vars.optional(&shared::SEALING_KEYS);
        let sso_public = public_key(&mut vars);
        let route = vars.secret(&shared::ROUTE_SECRET);
        let install = vars.value(&shared::INSTALL);
        let image: Option<String> = vars.value(&TENANT_IMAGE);
        let more_images: Option<Option<ImageTags>> = vars.optional(&TENANT_IMAGES);
        let pool = vars.value(&SUBNET_POOL);
        let publish = vars.value(&PUBLISH);
        let egress = vars.value(&EGRESS);
        let state = vars.value(&STATE_DIR);
        let sockets = vars.value(&SOCKETS_DIR);
        let secrets = vars.value(&TENANT_SECRETS_DIR);
        let databases = vars.value(&TENANT_DATABASES_DIR);
        let models = vars.value(&MODELS_DIR);
        let paths = vars.value(&ENGINE_PATHS);
        let socket = vars.value(&DOCKER_SOCKET);
        let disk_reserve_bytes = vars.value(&DISK_RESERVE_BYTES);
        let quota_socket = vars.value(&QUOTA_SOCKET);
        let cores = std::thread::available_parallelism().map_or(2, usize::from);
        let starts = vars.value_or(&START_CONCURRENCY, cores);
        if starts == Some(0) {
            vars.reject::<()>(&START_CONCURRENCY, "must be at least 1");
        }
        let freeze_after = vars.value(&shared::FREEZE_AFTER);
        let sleep_after = vars.value(&shared::SLEEP_AFTER);
        vars.finish(|| {
            Some(Self {
                log: log?,
                listen: listen?,
                tokens: Tokens { control: control?, leases: leases? },
                master_keys: MasterKeys {
                    sealing: SealingKeys::new(sso.clone()?, sealing_keys?),
                    sso: sso?,
                    sso_public: sso_public?,
                    route: route?,
                },
                install: install?,
                images: AllowedImages::new(image?, more_images?.unwrap_or_default()),
                pool: pool?,
                publish: publish?,
                egress: egress?,
                state: state?,
                dirs: DirRoots {
                    sockets: sockets?,
                    secrets: secrets?,
                    databases: databases?,
                    models: models?,
                },
                paths: paths?,
                socket: socket?,
                disk_reserve_bytes: disk_reserve_bytes?,
                quota_socket: quota_socket?,
                starts: starts?,
                freeze_after: seconds(freeze_after?),
                sleep_after: seconds(sleep_after?),
            })
        })
    }
}

/// Reads the engine's socket path, which is needed before all other settings.
pub(crate) fn socket(env: &Env) -> Result<PathBuf, SettingsErrors> {
    let mut vars = SettingsReader::new(env);
    let socket = vars.value(&DOCKER_SOCKET);
    vars.finish(|| socket)
}

/// Converts seconds to a duration; 0 means never.
pub(crate) fn seconds(seconds: u32) -> Option<Duration> {
    (seconds > 0).then(|| Duration::from_secs(seconds.into()))
}

fn public_key(vars: &mut SettingsReader<'_>) -> Option<Option<String>> {
    let Some(path) = vars.optional::<PathBuf>(&SSO_PUBLIC_KEY)? else { return Some(None) };
    match std::fs::read_to_string(&path) {
        Ok(pem) if pem.contains("-----BEGIN PUBLIC KEY-----") => Some(Some(pem)),
        Ok(_) => {
            vars.reject(&SSO_PUBLIC_KEY, &format!("{} must be a public key in PEM", path.display()))
        }
        Err(error) => {
            vars.reject(&SSO_PUBLIC_KEY, &format!("cannot read {}: {error}", path.display()))
        }
    }
}

/// Defines a setting that is one of two values.
macro_rules! one_of_two {
    ($name:ident { $($variant:ident = $value:literal),+ }) => {
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name { $($variant),+ }

        impl FromStr for $name {
            type Err = NotOneOf;

            fn from_str(text: &str) -> Result<Self, NotOneOf> {
                match text {
                    $($value => Ok(Self::$variant),)+
                    _ => Err(NotOneOf(&[$($value),+])),
                }
            }
        }
    };
}

one_of_two!(Publish { Loopback = "loopback", None = "none" });
one_of_two!(Egress { Open = "open", None = "none" });
one_of_two!(EnginePaths { Volumes = "volumes", Host = "host" });

#[derive(Debug)]
pub struct NotOneOf(&'static [&'static str]);

impl fmt::Display for NotOneOf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "must be {}", self.0.join(" or "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_names_every_variable_that_is_read() {
        let read = service::settings::variables_read(|env| drop(Settings::read(env)));
        assert_eq!(read, SETTINGS.iter().map(|setting| setting.name.to_owned()).collect());
        let table = service::settings::reference_table(SETTINGS);
        testkit::reference::check_table("docs/reference/settings.md", "### orchestrator", &table);
    }

    #[test]
    fn every_fault_of_a_start_is_told_with_its_rule() {
        let lookup = |name: &str| {
            let value = match name {
                "CIAL_LOG" => "inof",
                "CIAL_LISTEN" => "3200",
                "CIAL_INSTALL" => "Über",
                "CIAL_SUBNET_POOL" => "10.201.0.0/30",
                "CIAL_TENANT_IMAGES" => "a:1,,b:2",
                "CIAL_PUBLISH" => "everywhere",
                "CIAL_START_CONCURRENCY" => "0",
                "CIAL_FREEZE_AFTER" => "-1",
                _ => return None,
            };
            Some(value.to_owned())
        };
        insta::assert_snapshot!(Settings::read(&lookup).unwrap_err().0.join("\n"), @r#"
        CIAL_LOG must be off, error, warn, info, debug or trace, or levels of modules too, like info,router=debug (is "inof")
        CIAL_LISTEN invalid socket address syntax (is "3200")
        CIAL_ORCHESTRATOR_TOKEN_FILE must name the file that holds the secret
        CIAL_LEASES_TOKEN_FILE must name the file that holds the secret
        CIAL_SSO_SECRET_FILE must name the file that holds the secret
        CIAL_ROUTE_SECRET_FILE must name the file that holds the secret
        CIAL_INSTALL must be 1 to 40 of a-z, 0-9 and hyphen, and start with a letter or digit (is "Über")
        CIAL_TENANT_IMAGES must be names of images with their tags, separated by commas (is "a:1,,b:2")
        CIAL_SUBNET_POOL must be an IPv4 network of /8 to /29, like 10.201.0.0/16 (is "10.201.0.0/30")
        CIAL_PUBLISH must be loopback or none (is "everywhere")
        CIAL_START_CONCURRENCY must be at least 1
        CIAL_FREEZE_AFTER invalid digit found in string (is "-1")
        "#);
    }
}
