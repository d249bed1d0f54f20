//! The router's settings.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use protocol::Domain;
use service::forwarded::TrustedProxies;
use service::logs::LogFilter;
use service::run::Env;
use service::settings::{SettingsErrors, shared};
use service::{Secret, Setting, SettingsReader};

pub use crate::http::rate_limit::Rate;
pub use crate::leases::Limits;

const LISTEN: Setting = Setting::with_default("CIAL_LISTEN", "0.0.0.0:8080", "tenants, by Host");
const INTERNAL_LISTEN: Setting = Setting::with_default(
    "CIAL_INTERNAL_LISTEN",
    "0.0.0.0:8081",
    "health, readiness and metrics; never published",
);
const APP_API_URL: Setting = Setting::with_default(
    "CIAL_APP_API_URL",
    "http://app-api:3101",
    "app-api's internal listener, from which the routes come",
);
const ROUTES_CACHE: Setting = Setting::with_default(
    "CIAL_ROUTES_CACHE",
    "/var/lib/cial/routes.json",
    "the file with the last good routes, for a start without app-api",
);
const BODY_LIMIT: Setting = Setting::with_default(
    "CIAL_BODY_LIMIT",
    "50000000",
    "the most bytes that a request's body to a tenant may have; 0: no limit",
)
.for_operators();
const THREADS: Setting =
    Setting::computed("CIAL_THREADS", "the number of cores", "threads of the router")
        .for_operators();
const DRAIN: Setting = Setting::with_default(
    "CIAL_DRAIN",
    "30",
    "seconds from the stop until requests that are still under way are cut off; `stop_grace_period` in compose.yml is \
     longer",
);
const RATE_LIMIT: Setting = Setting::computed(
    "CIAL_RATE_LIMIT",
    "`50:1000`, or `off` on loopback",
    "requests per second of one client to one tenant and how many at once, like `50:1000`; one number is both; `off`: \
     no limit. The default is `off` only where `CIAL_DOMAIN` is `localhost` or ends in `.localhost` and \
     `CIAL_TRUSTED_PROXIES` is empty",
)
.for_operators();

/// Every variable that the router reads.
pub const SETTINGS: &[Setting] = &[
    shared::LOG,
    LISTEN,
    INTERNAL_LISTEN,
    APP_API_URL,
    shared::ROUTES_TOKEN,
    shared::ORCHESTRATOR_URL,
    shared::LEASES_TOKEN,
    shared::ROUTE_SECRET,
    shared::DOMAIN,
    ROUTES_CACHE,
    BODY_LIMIT,
    THREADS,
    DRAIN,
    shared::TRUSTED_PROXIES,
    RATE_LIMIT,
];

#[derive(Clone, Debug)]
pub struct Settings {
    pub log: LogFilter,
    /// Tenants, by Host.
    pub listen: SocketAddr,
    /// `/healthz`, `/readyz`, `/metrics`.
    pub internal: SocketAddr,
    /// app-api's internal listener.
    pub app_api: String,
    pub routes_token: Secret,
    /// The orchestrator, which grants leases on tenants.
    pub orchestrator: String,
    pub leases_token: Secret,
    /// Each tenant's route token and proof are derived from this secret.
    pub route_secret: Secret,
    /// Tenants are one label below it.
    pub domain: Domain,
    /// The file with the last good routes.
    pub cache: PathBuf,
    /// Bytes of a request's body, 0 for no limit.
    pub body_limit: u64,
    pub threads: usize,
    /// The time from the stop until requests still under way are cut off.
    pub drain: Duration,
    /// Requests per second and burst of one client to one tenant.
    pub rate: Rate,
    /// Their `X-Forwarded-For` is believed.
    pub trusted: TrustedProxies,
    /// Follows from the domain and the trusted proxies.
    pub exposure: Exposure,
    /// How long a request waits for its tenant.
    pub wait_times: WaitTimes,
    pub limits: Limits,
}

/// How long a request waits for a tenant that wakes.
#[derive(Clone, Copy, Debug)]
pub struct WaitTimes {
    /// A navigation; then the waiting page follows.
    pub pages: Duration,
    /// Any other request; then 503 follows.
    pub others: Duration,
    /// A request that was under way when its tenant died, unless the tenant is waking; then 502 follows.
    pub after_tenant_failure: Duration,
}

impl Default for WaitTimes {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self { pages: seconds(2), others: seconds(45), after_tenant_failure: seconds(3) }
    }
}

/// The reach of the installation: which clients can connect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exposure {
    /// The domain resolves to loopback, and no proxy in front passes requests of others on.
    Loopback,
    Public,
}

impl Exposure {
    fn new(domain: &Domain, trusted: &TrustedProxies) -> Self {
        let domain = domain.as_str();
        // RFC 6761 §6.3: these names resolve to loopback.
        let is_local = domain == "localhost" || domain.ends_with(".localhost");
        match is_local && *trusted == TrustedProxies::default() {
            true => Self::Loopback,
            false => Self::Public,
        }
    }

    fn rate(self) -> Rate {
        match self {
            Self::Loopback => Rate::OFF,
            Self::Public => Rate::default(),
        }
    }
}

impl Settings {
    /// Reads the settings and starts logging by them.
    ///
    /// # Errors
    /// Settings are missing or wrong: all of them are named.
    pub fn begin(env: &Env) -> Result<Self, SettingsErrors> {
        let settings = Self::read(env)?;
        service::logs::init(&settings.log);
        Ok(settings)
    }

    /// Reads the settings.
    ///
    /// # Errors
    /// Settings are missing or wrong: all of them are named.
    pub fn read(env: &Env) -> Result<Self, SettingsErrors> {
        let mut vars = SettingsReader::new(env);
        let log = vars.value(&shared::LOG);
        let listen = vars.value(&LISTEN);
        let internal = vars.value(&INTERNAL_LISTEN);
        let app_api = plain_url(&mut vars, &APP_API_URL);
        let routes_token = vars.secret(&shared::ROUTES_TOKEN);
        let orchestrator = plain_url(&mut vars, &shared::ORCHESTRATOR_URL);
        let leases_token = vars.secret(&shared::LEASES_TOKEN);
        let route_secret = vars.secret(&shared::ROUTE_SECRET);
        let domain = vars.value(&shared::DOMAIN);
        let cache = vars.value(&ROUTES_CACHE);
        let body_limit = vars.value(&BODY_LIMIT);
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        let threads = vars.value_or(&THREADS, cpus);
        let drain = vars.value(&DRAIN);
        let trusted: Option<Option<TrustedProxies>> = vars.optional(&shared::TRUSTED_PROXIES);
        let trusted = trusted.map(Option::unwrap_or_default);
        let exposure = domain.as_ref().zip(trusted.as_ref());
        let exposure = exposure.map(|(domain, trusted)| Exposure::new(domain, trusted));
        let rate = vars.value_or(&RATE_LIMIT, exposure.map_or(Rate::default(), Exposure::rate));
        vars.finish(|| {
            Some(Self {
                log: log?,
                listen: listen?,
                internal: internal?,
                app_api: app_api?,
                routes_token: routes_token?,
                orchestrator: orchestrator?,
                leases_token: leases_token?,
                route_secret: route_secret?,
                domain: domain?,
                cache: cache?,
                body_limit: body_limit?,
                threads: threads?.max(1),
                drain: Duration::from_secs(drain?),
                rate: rate?,
                trusted: trusted?,
                exposure: exposure?,
                wait_times: WaitTimes::default(),
                limits: Limits::default(),
            })
        })
    }
}

fn plain_url(vars: &mut SettingsReader<'_>, setting: &Setting) -> Option<String> {
    let url: String = vars.value(setting)?;
    match url.starts_with("http://") {
        true => Some(url.trim_end_matches('/').to_owned()),
        false => vars.reject(setting, "must begin with http://"),
    }
}

/// The address of this router's internal listener for a caller on the same machine.
///
/// # Errors
/// `CIAL_INTERNAL_LISTEN` is not an address.
pub fn own_health(env: &Env) -> Result<SocketAddr, SettingsErrors> {
    let mut vars = SettingsReader::new(env);
    let internal: Option<SocketAddr> = vars.value(&INTERNAL_LISTEN);
    vars.finish(|| {
        let mut address = internal?;
        if address.ip().is_unspecified() {
            address.set_ip(Ipv4Addr::LOCALHOST.into());
        }
        Some(address)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_faults_are_reported_together() {
        let env = |name: &str| match name {
            "CIAL_LOG" => Some("inof".to_owned()),
            "CIAL_LISTEN" => Some("8080".to_owned()),
            "CIAL_APP_API_URL" => Some("app-api".to_owned()),
            "CIAL_DOMAIN" => Some(".example".to_owned()),
            "CIAL_ORCHESTRATOR_URL" => Some("https://orchestrator".to_owned()),
            "CIAL_RATE_LIMIT" => Some("fast".to_owned()),
            "CIAL_TRUSTED_PROXIES" => Some("10.0.0.0/8, proxy".to_owned()),
            _ => None,
        };
        let faults = Settings::read(&env).err().unwrap();
        insta::assert_snapshot!(faults.0.join("\n"), @r#"
        CIAL_LOG must be off, error, warn, info, debug or trace, or levels of modules too, like info,router=debug (is "inof")
        CIAL_LISTEN invalid socket address syntax (is "8080")
        CIAL_APP_API_URL must begin with http://
        CIAL_ROUTES_TOKEN_FILE must name the file that holds the secret
        CIAL_ORCHESTRATOR_URL must begin with http://
        CIAL_LEASES_TOKEN_FILE must name the file that holds the secret
        CIAL_ROUTE_SECRET_FILE must name the file that holds the secret
        CIAL_DOMAIN must be labels of a-z, 0-9 and hyphen with dots between them (is ".example")
        CIAL_TRUSTED_PROXIES must be addresses or blocks like 10.0.0.0/8 with commas between them, not "proxy" (is "10.0.0.0/8, proxy")
        CIAL_RATE_LIMIT must be off, or requests a second, or these and how many at once, like 50:1000 (is "fast")
        "#);
    }

    #[test]
    fn the_table_names_every_variable_that_is_read() {
        let read = service::settings::variables_read(|env| drop(Settings::read(env)));
        assert_eq!(read, SETTINGS.iter().map(|setting| setting.name.to_owned()).collect());
        let table = service::settings::reference_table(SETTINGS);
        testkit::reference::check_table("docs/reference/settings.md", "### router", &table);
    }

    #[test]
    fn the_health_address_is_on_loopback() {
        assert_eq!(own_health(&|_| None).unwrap(), "127.0.0.1:8081".parse().unwrap());
        let env = |_: &str| Some("10.0.0.1:99".to_owned());
        assert_eq!(own_health(&env).unwrap(), "10.0.0.1:99".parse().unwrap());
    }

    #[test]
    fn only_an_installation_on_loopback_has_no_rate_limit() {
        let dir = testkit::TempDir::new("router-settings").unwrap();
        let secrets = dir.path().join("secret");
        std::fs::write(&secrets, "8vY2m0Qz5hYt1rKp7sXw3uBn6cEd9fGa").unwrap();
        let read = |domain: &'static str, trusted: &'static str, rate: &'static str| {
            let secrets = secrets.clone();
            let env = move |name: &str| match name {
                "CIAL_DOMAIN" => Some(domain.to_owned()),
                "CIAL_TRUSTED_PROXIES" => Some(trusted.to_owned()),
                "CIAL_RATE_LIMIT" => Some(rate.to_owned()),
                name if name.ends_with("_FILE") => Some(secrets.to_str().unwrap().to_owned()),
                _ => None,
            };
            let settings = Settings::read(&env).unwrap();
            (settings.rate, settings.exposure)
        };
        let (local, public) = (Exposure::Loopback, Exposure::Public);
        assert_eq!(read("localhost", "", ""), (Rate::OFF, local));
        assert_eq!(read("cial.localhost", "", ""), (Rate::OFF, local));
        assert_eq!(read("localhost", "10.0.0.1", ""), (Rate::default(), public));
        assert_eq!(read("notlocalhost", "", ""), (Rate::default(), public));
        assert_eq!(read("tenants.example", "10.0.0.1", ""), (Rate::default(), public));
        assert_eq!(read("tenants.example", "10.0.0.1", "off"), (Rate::OFF, public));
    }
}
