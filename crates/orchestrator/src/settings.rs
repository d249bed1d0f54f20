//! All settings, read once. A failed start reports all invalid settings together.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use protocol::InstallName;
use service::logs::LogFilter;
use service::settings::SettingsErrors;
use service::{Env, SettingsReader};

use crate::access::Tokens;
use crate::allowed_images::{AllowedImages, ImageTags};
use crate::driver::docker::subnet_pool::Pool;
use crate::tenant_dirs::MasterKeys;

pub const LISTEN: &str = "CIAL_LISTEN";

#[derive(Debug)]
pub struct Settings {
    /// `CIAL_LOG`, default `info`.
    pub log: LogFilter,
    /// `CIAL_LISTEN`, default `0.0.0.0:3200`.
    pub listen: SocketAddr,
    /// `CIAL_ORCHESTRATOR_TOKEN_FILE` and `CIAL_LEASES_TOKEN_FILE`. The two tokens must differ.
    pub tokens: Tokens,
    /// `CIAL_SSO_SECRET_FILE`, `CIAL_SSO_PUBLIC_KEY_FILE` (optional), `CIAL_ROUTE_SECRET_FILE`.
    pub master_keys: MasterKeys,
    /// `CIAL_INSTALL`, default `local`.
    pub install: InstallName,
    /// `CIAL_TENANT_IMAGE`, default `cial-tenant:dev`, and `CIAL_TENANT_IMAGES` (optional).
    pub images: AllowedImages,
    /// `CIAL_SUBNET_POOL`, default `10.201.0.0/16`.
    pub pool: Pool,
    /// `CIAL_PUBLISH`, `loopback` or `none`.
    pub publish: Publish,
    /// `CIAL_EGRESS`, `open` or `none`.
    pub egress: Egress,
    /// `CIAL_STATE_DIR`, default `/var/lib/cial`.
    pub state: PathBuf,
    /// `CIAL_SOCKETS_DIR`, default `/run/cial/sockets`.
    pub sockets: PathBuf,
    /// `CIAL_TENANT_SECRETS_DIR`, default `/run/cial/tenant-secrets`.
    pub secrets: PathBuf,
    /// `CIAL_ENGINE_PATHS`. `volumes`: the orchestrator runs in a container and the two directories
    /// are the installation's volumes. `host`: the orchestrator runs beside the engine and both use
    /// the same paths.
    pub paths: EnginePaths,
    /// `CIAL_DOCKER_SOCKET`, default `/var/run/docker.sock`.
    pub socket: PathBuf,
    /// `CIAL_DISK_RESERVE_BYTES`, default 1 GiB. With less free space on the engine's disk, no new
    /// tenant is created.
    pub disk_reserve_bytes: u64,
    /// `CIAL_START_CONCURRENCY`, default the number of cores.
    pub starts: usize,
    /// `CIAL_FREEZE_AFTER`, default 60, and `CIAL_SLEEP_AFTER`, default 1,200 seconds without use;
    /// 0 means never.
    pub freeze_after: Option<Duration>,
    pub sleep_after: Option<Duration>,
}

impl Settings {
    pub fn read(env: &Env) -> Result<Self, SettingsErrors> {
        let mut vars = SettingsReader::new(env);
        let log = vars.or_default("CIAL_LOG", LogFilter::default());
        let listen = vars.or_default(LISTEN, SocketAddr::from(([0, 0, 0, 0], 3200)));
        let control = vars.secret("CIAL_ORCHESTRATOR_TOKEN");
        let leases = vars.secret("CIAL_LEASES_TOKEN");
        if let (Some(control), Some(leases)) = (&control, &leases)
            && control.reveal() == leases.reveal()
        {
            let rule = "must hold another secret than CIAL_ORCHESTRATOR_TOKEN_FILE";
            vars.reject::<()>("CIAL_LEASES_TOKEN_FILE", rule);
        }
        let sso = vars.secret("CIAL_SSO_SECRET");
        let sso_public = public_key(&mut vars);
        let route = vars.secret("CIAL_ROUTE_SECRET");
        let install = vars.or_default("CIAL_INSTALL", Word("local".parse().ok()));
        let image = vars.or_default("CIAL_TENANT_IMAGE", "cial-tenant:dev".to_owned());
        let more_images = vars.or_default("CIAL_TENANT_IMAGES", ImageTags::default());
        let pool = vars.or_default("CIAL_SUBNET_POOL", Word("10.201.0.0/16".parse::<Pool>().ok()));
        let publish = vars.or_default("CIAL_PUBLISH", Publish::Loopback);
        let egress = vars.or_default("CIAL_EGRESS", Egress::Open);
        let state = vars.or_default("CIAL_STATE_DIR", PathBuf::from("/var/lib/cial"));
        let sockets = vars.or_default("CIAL_SOCKETS_DIR", PathBuf::from("/run/cial/sockets"));
        let secrets =
            vars.or_default("CIAL_TENANT_SECRETS_DIR", PathBuf::from("/run/cial/tenant-secrets"));
        let paths = vars.or_default("CIAL_ENGINE_PATHS", EnginePaths::Volumes);
        let socket = docker_socket(&mut vars);
        let disk_reserve_bytes = vars.or_default("CIAL_DISK_RESERVE_BYTES", 1 << 30);
        let cores = std::thread::available_parallelism().map_or(2, usize::from);
        let starts = vars.or_default("CIAL_START_CONCURRENCY", cores);
        if starts == Some(0) {
            vars.reject::<()>("CIAL_START_CONCURRENCY", "must be at least 1");
        }
        let freeze_after = vars.or_default("CIAL_FREEZE_AFTER", 60);
        let sleep_after = vars.or_default("CIAL_SLEEP_AFTER", 1_200);
        vars.finish(|| {
            Some(Self {
                log: log?,
                listen: listen?,
                tokens: Tokens { control: control?, leases: leases? },
                master_keys: MasterKeys { sso: sso?, sso_public: sso_public?, route: route? },
                install: install?.0?,
                images: AllowedImages::new(image?, more_images?),
                pool: pool?.0?,
                publish: publish?,
                egress: egress?,
                state: state?,
                sockets: sockets?,
                secrets: secrets?,
                paths: paths?,
                socket: socket?,
                disk_reserve_bytes: disk_reserve_bytes?,
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
    let socket = docker_socket(&mut vars);
    vars.finish(|| socket)
}

fn docker_socket(vars: &mut SettingsReader<'_>) -> Option<PathBuf> {
    vars.or_default("CIAL_DOCKER_SOCKET", PathBuf::from("/var/run/docker.sock"))
}

/// Converts seconds to a duration; 0 means never.
pub(crate) fn seconds(seconds: u32) -> Option<Duration> {
    (seconds > 0).then(|| Duration::from_secs(seconds.into()))
}

fn public_key(vars: &mut SettingsReader<'_>) -> Option<Option<String>> {
    const NAME: &str = "CIAL_SSO_PUBLIC_KEY_FILE";
    let Some(path) = vars.optional::<PathBuf>(NAME)? else { return Some(None) };
    match std::fs::read_to_string(&path) {
        Ok(pem) if pem.contains("-----BEGIN PUBLIC KEY-----") => Some(Some(pem)),
        Ok(_) => vars.reject(NAME, &format!("{} must be a public key in PEM", path.display())),
        Err(error) => vars.reject(NAME, &format!("cannot read {}: {error}", path.display())),
    }
}

/// Holds a default that is a constant text and is parsed like any other value.
struct Word<T>(Option<T>);

impl<T: FromStr> FromStr for Word<T> {
    type Err = T::Err;

    fn from_str(text: &str) -> Result<Self, T::Err> {
        text.parse().map(|value| Self(Some(value)))
    }
}

/// Defines a setting that is one of two words.
macro_rules! one_of_two {
    ($name:ident { $($variant:ident = $word:literal),+ }) => {
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name { $($variant),+ }

        impl FromStr for $name {
            type Err = NotOneOf;

            fn from_str(text: &str) -> Result<Self, NotOneOf> {
                match text {
                    $($word => Ok(Self::$variant),)+
                    _ => Err(NotOneOf(&[$($word),+])),
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
