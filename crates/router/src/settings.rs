//! The router's settings.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use protocol::Domain;
use service::forwarded::TrustedProxies;
use service::logs::LogFilter;
use service::run::Env;
use service::settings::SettingsErrors;
use service::{Secret, SettingsReader};

pub use crate::http::rate_limit::Rate;
pub use crate::leases::Limits;

#[derive(Clone, Debug)]
pub struct Settings {
    /// `CIAL_LOG`
    pub log: LogFilter,
    /// `CIAL_LISTEN`: tenants, by Host.
    pub listen: SocketAddr,
    /// `CIAL_INTERNAL_LISTEN`: `/healthz`, `/readyz`, `/metrics`.
    pub internal: SocketAddr,
    /// `CIAL_APP_API_URL`: app-api's internal listener.
    pub app_api: String,
    /// `CIAL_ROUTES_TOKEN_FILE`
    pub routes_token: Secret,
    /// `CIAL_ORCHESTRATOR_URL`: grants leases on tenants.
    pub orchestrator: String,
    /// `CIAL_LEASES_TOKEN_FILE`
    pub leases_token: Secret,
    /// `CIAL_ROUTE_SECRET_FILE`: each tenant's route token and proof are derived from this secret.
    pub route_secret: Secret,
    /// `CIAL_DOMAIN`: tenants are one label below it.
    pub domain: Domain,
    /// `CIAL_ROUTES_CACHE`: the file with the last good routes.
    pub cache: PathBuf,
    /// `CIAL_BODY_LIMIT`: bytes of a request's body, 0 for no limit.
    pub body_limit: u64,
    /// `CIAL_THREADS`: one per CPU by default.
    pub threads: usize,
    /// `CIAL_DRAIN`: seconds from the stop until requests still under way are cut off.
    pub drain: Duration,
    /// `CIAL_RATE_LIMIT`: requests per second and burst of one client to one tenant.
    pub rate: Rate,
    /// `CIAL_TRUSTED_PROXIES`: their `X-Forwarded-For` is believed.
    pub trusted: TrustedProxies,
    /// Follows from the domain and the trusted proxies.
    pub exposure: Exposure,
    /// How long a request waits for its tenant.
    pub hold: Hold,
    pub limits: Limits,
}

/// How long a request waits for a tenant that wakes.
#[derive(Clone, Copy, Debug)]
pub struct Hold {
    /// A navigation; then the waiting page follows.
    pub pages: Duration,
    /// Any other request; then 503 follows.
    pub others: Duration,
    /// A request that was under way when its tenant died, unless the tenant is waking; then 502 follows.
    pub again: Duration,
}

impl Default for Hold {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self { pages: seconds(2), others: seconds(45), again: seconds(3) }
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

const INTERNAL: (Ipv4Addr, u16) = (Ipv4Addr::UNSPECIFIED, 8081);

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
        let log = vars.or_default("CIAL_LOG", LogFilter::default());
        let listen = vars.or_default("CIAL_LISTEN", (Ipv4Addr::UNSPECIFIED, 8080).into());
        let internal = vars.or_default("CIAL_INTERNAL_LISTEN", INTERNAL.into());
        let app_api = vars.or_default("CIAL_APP_API_URL", "http://app-api:3101".to_owned());
        let app_api = app_api.and_then(|url| plain(&mut vars, "CIAL_APP_API_URL", &url));
        let routes_token = vars.secret("CIAL_ROUTES_TOKEN");
        let orchestrator =
            vars.or_default("CIAL_ORCHESTRATOR_URL", "http://orchestrator:3200".to_owned());
        let orchestrator =
            orchestrator.and_then(|url| plain(&mut vars, "CIAL_ORCHESTRATOR_URL", &url));
        let leases_token = vars.secret("CIAL_LEASES_TOKEN");
        let route_secret = vars.secret("CIAL_ROUTE_SECRET");
        let domain = vars.or_default("CIAL_DOMAIN", Domain::default());
        let cache =
            vars.or_default("CIAL_ROUTES_CACHE", PathBuf::from("/var/lib/cial/routes.json"));
        let body_limit = vars.or_default("CIAL_BODY_LIMIT", 50_000_000);
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        let threads = vars.or_default("CIAL_THREADS", cpus);
        let drain = vars.or_default("CIAL_DRAIN", 30);
        let trusted = vars.or_default("CIAL_TRUSTED_PROXIES", TrustedProxies::default());
        let exposure = domain.as_ref().zip(trusted.as_ref());
        let exposure = exposure.map(|(domain, trusted)| Exposure::new(domain, trusted));
        let rate =
            vars.or_default("CIAL_RATE_LIMIT", exposure.map_or(Rate::default(), Exposure::rate));
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
                hold: Hold::default(),
                limits: Limits::default(),
            })
        })
    }
}

fn plain(vars: &mut SettingsReader<'_>, name: &str, url: &str) -> Option<String> {
    match url.starts_with("http://") {
        true => Some(url.trim_end_matches('/').to_owned()),
        false => vars.reject(name, "must begin with http://"),
    }
}

/// The address of this router's internal listener for a caller on the same machine.
///
/// # Errors
/// `CIAL_INTERNAL_LISTEN` is not an address.
pub fn own_health(env: &Env) -> Result<SocketAddr, SettingsErrors> {
    let mut vars = SettingsReader::new(env);
    let internal: Option<SocketAddr> = vars.or_default("CIAL_INTERNAL_LISTEN", INTERNAL.into());
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
    fn the_health_address_is_on_loopback() {
        assert_eq!(own_health(&|_| None).unwrap(), "127.0.0.1:8081".parse().unwrap());
        let env = |_: &str| Some("10.0.0.1:99".to_owned());
        assert_eq!(own_health(&env).unwrap(), "10.0.0.1:99".parse().unwrap());
    }

    #[test]
    fn only_an_installation_on_loopback_has_no_rate_limit() {
        let secrets = std::env::temp_dir().join(format!("router-settings-{}", std::process::id()));
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
        std::fs::remove_file(secrets).unwrap();
    }
}
