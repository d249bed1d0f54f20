//! The settings of app-api, read once at the start. All faults are reported together.

use std::net::SocketAddr;
use std::path::PathBuf;

use protocol::control::EffectivePolicy;
use protocol::{Domain, InstallName, Slug};
use service::forwarded::TrustedProxies;
use service::logs::LogFilter;
use service::run::Env;
use service::settings::SettingsErrors;
use service::{Secret, SettingsReader};
use url::Url;

use crate::auth::api_key::KeyText;
use crate::auth::sso::Signer;
use crate::bootstrap_key;

#[derive(Clone)]
pub struct Settings {
    /// `CIAL_LOG`
    pub log: LogFilter,
    /// `CIAL_LISTEN`: the admin's pages and API.
    pub listen: SocketAddr,
    /// `CIAL_INTERNAL_LISTEN`: the route feed and metrics.
    pub internal_listen: SocketAddr,
    /// `CIAL_DATABASE_URL`, without a password.
    pub database_url: String,
    pub database_password: Secret,
    pub sso_secret: Secret,
    /// RS256 with `CIAL_SSO_PRIVATE_KEY_FILE`; without it HS256, with keys derived from `CIAL_SSO_SECRET`.
    pub signer: Signer,
    pub orchestrator_url: String,
    pub orchestrator_token: Secret,
    pub routes_token: Secret,
    pub install: InstallName,
    /// `CIAL_BOOTSTRAP_KEY`, `CIAL_BOOTSTRAP_KEY_FILE`, or else `CIAL_STATE_DIR`.
    pub bootstrap_key: Option<bootstrap_key::Source>,
    pub addresses: Addresses,
    /// `CIAL_TRUSTED_PROXIES`: the proxies whose `X-Forwarded-For` is believed.
    pub trusted: TrustedProxies,
    /// `CIAL_FREEZE_AFTER`, `CIAL_SLEEP_AFTER`: the orchestrator's values, shown to owners; 0 is never.
    pub policy: EffectivePolicy,
}

/// The public addresses of the admin and of the tenants.
#[derive(Clone, Debug)]
pub struct Addresses {
    /// `CIAL_ADMIN_URL`
    pub admin: Url,
    /// `CIAL_DOMAIN`
    pub domain: Domain,
    /// `CIAL_ROUTER_PORT`
    pub router_port: u16,
}

impl Addresses {
    pub fn is_secure(&self) -> bool {
        self.admin.scheme() == "https"
    }

    /// `http://acme.localhost:8080`
    pub fn tenant_url(&self, slug: &Slug) -> String {
        self.host_url(slug.as_str())
    }

    /// The source expression for all tenants in a content security policy.
    pub fn tenant_wildcard(&self) -> String {
        self.host_url("*")
    }

    /// `http://localhost:3100`
    pub fn admin_origin(&self) -> String {
        self.admin.origin().ascii_serialization()
    }

    fn host_url(&self, label: &str) -> String {
        let (scheme, default_port) = if self.is_secure() { ("https", 443) } else { ("http", 80) };
        let host = format!("{scheme}://{label}.{}", self.domain);
        if self.router_port == default_port { host } else { format!("{host}:{}", self.router_port) }
    }
}

impl Settings {
    pub fn read(env: &Env) -> Result<Self, SettingsErrors> {
        let mut vars = SettingsReader::new(env);
        let log = vars.or_default("CIAL_LOG", LogFilter::default());
        let listen = vars.or_default("CIAL_LISTEN", SocketAddr::from(([0, 0, 0, 0], 3100)));
        let internal_listen =
            vars.or_default("CIAL_INTERNAL_LISTEN", SocketAddr::from(([0, 0, 0, 0], 3101)));
        let database = Self::read_database(&mut vars);
        let sso_secret = vars.secret("CIAL_SSO_SECRET");
        let signer = read_signer(&mut vars, sso_secret.as_ref());
        let orchestrator_url =
            vars.or_default("CIAL_ORCHESTRATOR_URL", "http://orchestrator:3200".to_owned());
        let orchestrator_token = vars.secret("CIAL_ORCHESTRATOR_TOKEN");
        let routes_token = vars.secret("CIAL_ROUTES_TOKEN");
        let install = vars.or_default("CIAL_INSTALL", default_install());
        let bootstrap_key = read_bootstrap_key(&mut vars);
        let addresses = read_addresses(&mut vars);
        let trusted = read_trusted(&mut vars, addresses.as_ref());
        let default = EffectivePolicy::default();
        let freeze_after = vars.or_default("CIAL_FREEZE_AFTER", default.freeze_after_seconds);
        let sleep_after = vars.or_default("CIAL_SLEEP_AFTER", default.sleep_after_seconds);
        vars.finish(|| {
            let (database_url, database_password) = database?;
            Some(Self {
                log: log?,
                listen: listen?,
                internal_listen: internal_listen?,
                database_url,
                database_password,
                sso_secret: sso_secret?,
                signer: signer?,
                orchestrator_url: orchestrator_url?.trim_end_matches('/').to_owned(),
                orchestrator_token: orchestrator_token?,
                routes_token: routes_token?,
                install: install?,
                bootstrap_key: bootstrap_key?,
                addresses: addresses?,
                trusted: trusted?,
                policy: EffectivePolicy {
                    freeze_after_seconds: freeze_after?,
                    sleep_after_seconds: sleep_after?,
                    ..default
                },
            })
        })
    }

    /// Reads only the settings of the database, for the commands beside the service.
    pub fn read_database(vars: &mut SettingsReader<'_>) -> Option<(String, Secret)> {
        let url: Option<String> = vars.required("CIAL_DATABASE_URL");
        let password = vars.secret("CIAL_DATABASE_PASSWORD");
        let (url, password) = (url?, password?);
        if url.parse::<tokio_postgres::Config>().is_err() {
            return vars
                .reject("CIAL_DATABASE_URL", "must look like postgres://cial@postgres:5432/cial");
        }
        Some((url, password))
    }
}

pub fn read_addresses(vars: &mut SettingsReader<'_>) -> Option<Addresses> {
    let admin = vars.or_default("CIAL_ADMIN_URL", "http://localhost:3100".to_owned());
    let domain = vars.or_default("CIAL_DOMAIN", Domain::default());
    let router_port = vars.or_default("CIAL_ROUTER_PORT", 8080);
    let rule = "must be http:// or https:// with a host and nothing behind it";
    let admin = match Url::parse(&admin?) {
        Ok(url) if matches!(url.scheme(), "http" | "https") && url.path() == "/" => url,
        Ok(_) | Err(_) => return vars.reject("CIAL_ADMIN_URL", rule),
    };
    Some(Addresses { admin, domain: domain?, router_port: router_port? })
}

/// Behind an https address there is a proxy: unless it is named, all clients share one address and one limit.
fn read_trusted(
    vars: &mut SettingsReader<'_>,
    addresses: Option<&Addresses>,
) -> Option<TrustedProxies> {
    const NAME: &str = "CIAL_TRUSTED_PROXIES";
    match vars.optional(NAME)? {
        Some(trusted) => Some(trusted),
        None if addresses.is_some_and(Addresses::is_secure) => vars.reject(
            NAME,
            "must be set when CIAL_ADMIN_URL is https: name the proxies in front of the admin, like 10.0.0.0/8, or \
             say none",
        ),
        None => Some(TrustedProxies::default()),
    }
}

fn read_signer(vars: &mut SettingsReader<'_>, secret: Option<&Secret>) -> Option<Signer> {
    const NAME: &str = "CIAL_SSO_PRIVATE_KEY_FILE";
    let Some(path) = vars.optional::<String>(NAME)? else {
        return Some(Signer::derived(secret?.clone()));
    };
    match std::fs::read(&path) {
        Err(error) => vars.reject(NAME, &format!("cannot read {path}: {error}")),
        Ok(pem) => match Signer::rsa(&pem) {
            Ok(signer) => Some(signer),
            Err(error) => vars.reject(NAME, &format!("{path} is no RSA private key: {error}")),
        },
    }
}

/// A key that is supplied goes before one that would be made.
fn read_bootstrap_key(vars: &mut SettingsReader<'_>) -> Option<Option<bootstrap_key::Source>> {
    const FILE: &str = "CIAL_BOOTSTRAP_KEY_FILE";
    let directory = vars.optional::<PathBuf>("CIAL_STATE_DIR");
    let supplied = vars.optional::<KeyText>("CIAL_BOOTSTRAP_KEY");
    let from_file = match vars.optional::<String>(FILE)? {
        None => None,
        Some(path) => match std::fs::read_to_string(&path).map(|text| text.trim().parse()) {
            Err(error) => return vars.reject(FILE, &format!("cannot read {path}: {error}")),
            Ok(Err(malformed)) => return vars.reject(FILE, &format!("{path} {malformed}")),
            Ok(Ok(key)) => Some(key),
        },
    };
    match (from_file, supplied?) {
        (Some(_), Some(_)) => vars.reject(FILE, "must not be set beside CIAL_BOOTSTRAP_KEY"),
        (Some(key), None) | (None, Some(key)) => Some(Some(bootstrap_key::Source::Supplied(key))),
        (None, None) => Some(directory?.map(bootstrap_key::Source::Made)),
    }
}

fn default_install() -> InstallName {
    "local".parse().expect("a valid name")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_faults_are_reported_together() {
        let lookup = |name: &str| match name {
            "CIAL_LOG" => Some("inof".to_owned()),
            "CIAL_LISTEN" => Some("everywhere".to_owned()),
            "CIAL_DOMAIN" => Some("cial.example; script-src *".to_owned()),
            "CIAL_ADMIN_URL" => Some("ftp://localhost".to_owned()),
            "CIAL_INSTALL" => Some("My Install".to_owned()),
            "CIAL_TRUSTED_PROXIES" => Some("proxy".to_owned()),
            "CIAL_SSO_PRIVATE_KEY_FILE" => Some("/nowhere/key.pem".to_owned()),
            _ => None,
        };
        let Err(SettingsErrors(faults)) = Settings::read(&lookup) else {
            panic!("settings were accepted")
        };
        insta::assert_snapshot!(faults.join("\n"));
    }

    #[test]
    fn an_https_admin_must_name_its_proxies() {
        let trusted = |admin: &'static str, proxies: Option<&'static str>| {
            let lookup = move |name: &str| match name {
                "CIAL_ADMIN_URL" => Some(admin.to_owned()),
                "CIAL_TRUSTED_PROXIES" => proxies.map(str::to_owned),
                _ => None,
            };
            let mut vars = SettingsReader::new(&lookup);
            let addresses = read_addresses(&mut vars);
            let trusted = read_trusted(&mut vars, addresses.as_ref());
            vars.finish(|| trusted).map_err(|faults| faults.0.join("\n"))
        };
        assert!(trusted("http://localhost:3100", None).is_ok());
        assert!(trusted("https://cial.example", Some("none")).is_ok());
        assert!(trusted("https://cial.example", Some("10.0.0.0/8")).is_ok());
        for proxies in [None, Some("")] {
            let refused = trusted("https://cial.example", proxies).unwrap_err();
            assert!(refused.starts_with("CIAL_TRUSTED_PROXIES must be set"), "{refused}");
        }
    }

    #[test]
    fn urls_name_the_port_unless_it_is_the_default() {
        let of = |admin: &str, router_port| Addresses {
            admin: admin.parse().unwrap(),
            domain: "Cial.Example".parse().unwrap(),
            router_port,
        };
        let acme = "acme".parse().unwrap();
        assert_eq!(of("http://a.b:3100", 8080).tenant_url(&acme), "http://acme.cial.example:8080");
        assert_eq!(of("http://a.b", 80).tenant_url(&acme), "http://acme.cial.example");
        assert_eq!(of("https://a.b", 443).tenant_url(&acme), "https://acme.cial.example");
        assert_eq!(of("https://a.b", 443).tenant_wildcard(), "https://*.cial.example");
        assert_eq!(of("http://localhost:3100", 80).admin_origin(), "http://localhost:3100");
    }
}
