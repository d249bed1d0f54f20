//! The settings of app-api, read once at the start. All faults are reported together.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

use protocol::control::EffectivePolicy;
use protocol::site::{CORE_HOST_PREFIX, Site};
use protocol::{Domain, InstallName, Slug};
use service::forwarded::TrustedProxies;
use service::logs::LogFilter;
use service::run::Env;
use service::settings::{SettingsErrors, shared};
use service::{Secret, Setting, SettingsReader};
use url::{Host, Url};

use crate::auth::api_key::KeyText;
use crate::auth::sso::Signer;
use crate::backups::settings::{self as backups, BackupSettings};
use crate::bootstrap_key;
use crate::mail::settings::{self as mail, MailSettings};
use crate::outbound::target::Targets;
use crate::tenant::database::RolePrefix;
use crate::transfer::DumpSettings;

pub(crate) const LISTEN: Setting =
    Setting::with_default("CIAL_LISTEN", "0.0.0.0:3100", "the admin's pages and API");
const INTERNAL_LISTEN: Setting = Setting::with_default(
    "CIAL_INTERNAL_LISTEN",
    "0.0.0.0:3101",
    "the routes, for routers, and metrics; never published",
);
pub(crate) const DATABASE_URL: Setting =
    Setting::required("CIAL_DATABASE_URL", "the database, without a password");
const DATABASE_PASSWORD: Setting =
    Setting::secret("CIAL_DATABASE_PASSWORD_FILE", "the password of the database");
const TENANT_ROLE_PREFIX: Setting = Setting::with_default(
    "CIAL_TENANT_ROLE_PREFIX",
    "t_",
    "the first part of the names of tenants' database roles; two installations on one Postgres server need two prefixes. \
     A tenant keeps its role when the prefix changes",
)
.for_operators();
const SSO_PRIVATE_KEY: Setting = Setting::optional(
    "CIAL_SSO_PRIVATE_KEY_FILE",
    "with `CIAL_SSO_PUBLIC_KEY_FILE` of the orchestrator: sign-on tokens are RS256 instead of HS256; see below",
)
.for_operators();
const STATE_DIR: Setting = Setting::optional(
    "CIAL_STATE_DIR",
    "the directory in which app-api leaves `bootstrap-key`, and keeps the schema of a tenant while it is exported, at most 4 GiB \
     before compression; without it no key is made, and the schema lies in `/tmp`",
);
const PG_DUMP: Setting = Setting::with_default(
    "CIAL_PG_DUMP",
    "pg_dump",
    "the program that reads the schema of a tenant that is exported; not older than the database server. \
     compose.yml leaves it out: the image has the program of the server's image",
);
const BOOTSTRAP_KEY: Setting = Setting::optional(
    "CIAL_BOOTSTRAP_KEY",
    "the first API key with `is_admin`, taken while there is no live one; without it app-api makes one; \
     [API keys](../api-keys.md)",
)
.for_operators();
const BOOTSTRAP_KEY_FILE: Setting =
    Setting::optional("CIAL_BOOTSTRAP_KEY_FILE", "the same, in a file. compose.yml leaves it out");
const ADMIN_URL: Setting = Setting::with_default(
    "CIAL_ADMIN_URL",
    "http://localhost:3100",
    "how browsers reach the admin; `local-up` derives it from the port, plain compose takes it as it is",
)
.for_operators();
const ROUTER_PORT: Setting = Setting::with_default(
    "CIAL_ROUTER_PORT",
    "8080",
    "the port in the tenants' URLs, where compose.yml publishes the router on 127.0.0.1",
)
.for_operators();

const WEBHOOK_TARGETS: Setting = Setting::with_default(
    "CIAL_WEBHOOK_TARGETS",
    "public",
    "where webhooks may go: `public` addresses only, or `any`, private and loopback ones included",
)
.for_operators();

const MODEL_TARGETS: Setting = Setting::with_default(
    "CIAL_MODEL_TARGETS",
    "public",
    "where the endpoint of the model may be: at `public` addresses only, or `any`, private and loopback ones included; \
     [a model in the chat](../models.md)",
)
.for_operators();
const PACKAGE_SIGNATURES: Setting = Setting::with_default(
    "CIAL_PACKAGE_SIGNATURES",
    "optional",
    "`required`: packages without a signature of a [trusted key](../packages.md#signatures) are refused, and their workflows do \
     not run. With `optional` a signature is checked where there is one",
)
.for_operators();
const MODELS_SOCKET: Setting = Setting::optional(
    "CIAL_MODELS_SOCKET",
    "the socket on which tenants call the model of the installation; without it, no model replies in a chat",
);

const DEV_LOGIN: Setting = Setting::with_default(
    "CIAL_DEV_LOGIN",
    "off",
    "`on`: the development profile. `POST /auth/login` signs anybody in without a password, and `POST /warmup` wakes their \
     tenant. Refused unless `CIAL_LISTEN` and `CIAL_ADMIN_URL` are loopback addresses; compose.yml leaves it out",
);

/// Every variable that app-api reads.
pub const SETTINGS: &[Setting] = &[
    shared::LOG,
    LISTEN,
    INTERNAL_LISTEN,
    DATABASE_URL,
    DATABASE_PASSWORD,
    TENANT_ROLE_PREFIX,
    shared::SSO_SECRET,
    shared::SEALING_KEYS,
    SSO_PRIVATE_KEY,
    shared::ORCHESTRATOR_URL,
    shared::ORCHESTRATOR_TOKEN,
    shared::ROUTES_TOKEN,
    shared::INSTALL,
    STATE_DIR,
    PG_DUMP,
    BOOTSTRAP_KEY,
    BOOTSTRAP_KEY_FILE,
    ADMIN_URL,
    shared::DOMAIN,
    ROUTER_PORT,
    shared::TRUSTED_PROXIES,
    shared::FREEZE_AFTER,
    shared::SLEEP_AFTER,
    WEBHOOK_TARGETS,
    MODEL_TARGETS,
    MODELS_SOCKET,
    PACKAGE_SIGNATURES,
    DEV_LOGIN,
    mail::URL,
    mail::PASSWORD,
    mail::CA,
    mail::FROM,
    backups::URL,
    backups::ACCESS_KEY,
    backups::SCHEDULE,
    backups::KEEP,
];

#[derive(Clone)]
pub struct Settings {
    pub log: LogFilter,
    /// The admin's pages and API.
    pub listen: SocketAddr,
    /// The route feed and metrics.
    pub internal_listen: SocketAddr,
    /// Without a password.
    pub database_url: String,
    pub database_password: Secret,
    pub role_prefix: RolePrefix,
    pub sso_secret: Secret,
    /// `None`: secrets at rest are encrypted with keys that derive from the SSO secret.
    pub sealing_keys: Option<PathBuf>,
    /// RS256 with a private key; without one HS256, with keys derived from the SSO secret.
    pub signer: Signer,
    pub orchestrator_url: String,
    pub orchestrator_token: Secret,
    pub routes_token: Secret,
    pub install: InstallName,
    /// Where the first key with `is_admin` comes from; `None`: nowhere.
    pub bootstrap_key: Option<bootstrap_key::Source>,
    pub dumps: DumpSettings,
    pub addresses: Addresses,
    /// The proxies whose `X-Forwarded-For` is believed.
    pub trusted: TrustedProxies,
    /// The orchestrator's values, shown to owners; 0 is never.
    pub policy: EffectivePolicy,
    /// Whether webhooks may go to private addresses.
    pub webhook_targets: Targets,
    /// Whether the model's endpoint may be at a private address.
    pub model_targets: Targets,
    pub models_socket: Option<PathBuf>,
    pub package_signatures: PackageSignatures,
    pub dev_login: DevLogin,
    /// `None`: no mail is sent.
    pub mail: Option<MailSettings>,
    /// `None`: no backups are made.
    pub backups: Option<BackupSettings>,
}

/// Whether anybody signs in without a password.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DevLogin {
    Off,
    On,
}

impl FromStr for DevLogin {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "off" => Ok(Self::Off),
            "on" => Ok(Self::On),
            _ => Err("must be on or off"),
        }
    }
}

/// Whether packages need a signature of a trusted key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PackageSignatures {
    /// A signature is checked where there is one.
    Optional,
    Required,
}

impl FromStr for PackageSignatures {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "optional" => Ok(Self::Optional),
            "required" => Ok(Self::Required),
            _ => Err("must be optional or required"),
        }
    }
}

/// The public addresses of the admin and of the tenants.
#[derive(Clone, Debug)]
pub struct Addresses {
    pub admin: Url,
    pub domain: Domain,
    pub router_port: u16,
}

impl Addresses {
    pub fn is_secure(&self) -> bool {
        self.admin.scheme() == "https"
    }

    /// Whether the admin's address leads to this machine.
    fn is_loopback(&self) -> bool {
        match self.admin.host() {
            Some(Host::Domain(name)) => name == "localhost",
            Some(Host::Ipv4(ip)) => ip.is_loopback(),
            Some(Host::Ipv6(ip)) => ip.is_loopback(),
            None => false,
        }
    }

    /// `http://acme.localhost:8080`
    pub fn tenant_url(&self, slug: &Slug) -> String {
        self.host_url(slug.as_str())
    }

    /// `http://acme.localhost:8080`, or `http://core--acme.localhost:8080`
    pub fn site_url(&self, slug: &Slug, site: Site) -> String {
        match site {
            Site::Tenant => self.tenant_url(slug),
            Site::Core => self.host_url(&format!("{CORE_HOST_PREFIX}{slug}")),
        }
    }

    /// `http://localhost:3100/admin/tenants/acme/sign-in`
    pub fn sign_in_url(&self, slug: &Slug) -> String {
        format!("{}/admin/tenants/{slug}/sign-in", self.admin_origin())
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
        let log = vars.value(&shared::LOG);
        let listen = vars.value(&LISTEN);
        let internal_listen = vars.value(&INTERNAL_LISTEN);
        let database = Self::read_database(&mut vars);
        let role_prefix = vars.value(&TENANT_ROLE_PREFIX);
        let sso_secret = vars.secret(&shared::SSO_SECRET);
        let sealing_keys = vars.optional(&shared::SEALING_KEYS);
        let signer = read_signer(&mut vars, sso_secret.as_ref());
        let orchestrator_url: Option<String> = vars.value(&shared::ORCHESTRATOR_URL);
        let orchestrator_token = vars.secret(&shared::ORCHESTRATOR_TOKEN);
        let routes_token = vars.secret(&shared::ROUTES_TOKEN);
        let install = vars.value(&shared::INSTALL);
        let state_directory = vars.optional::<PathBuf>(&STATE_DIR);
        let bootstrap_key = read_bootstrap_key(&mut vars, state_directory.clone());
        let pg_dump = vars.value(&PG_DUMP);
        let addresses = read_addresses(&mut vars);
        let trusted = read_trusted(&mut vars, addresses.as_ref());
        let freeze_after = vars.value(&shared::FREEZE_AFTER);
        let sleep_after = vars.value(&shared::SLEEP_AFTER);
        let webhook_targets = vars.value(&WEBHOOK_TARGETS);
        let model_targets = vars.value(&MODEL_TARGETS);
        let models_socket = vars.optional(&MODELS_SOCKET);
        let package_signatures = vars.value(&PACKAGE_SIGNATURES);
        let dev_login = read_dev_login(&mut vars, listen, addresses.as_ref());
        let mail = MailSettings::read(&mut vars);
        let backups = BackupSettings::read(&mut vars);
        vars.finish(|| {
            let (database_url, database_password) = database?;
            Some(Self {
                log: log?,
                listen: listen?,
                internal_listen: internal_listen?,
                database_url,
                database_password,
                role_prefix: role_prefix?,
                sso_secret: sso_secret?,
                sealing_keys: sealing_keys?,
                signer: signer?,
                orchestrator_url: orchestrator_url?.trim_end_matches('/').to_owned(),
                orchestrator_token: orchestrator_token?,
                routes_token: routes_token?,
                install: install?,
                bootstrap_key: bootstrap_key?,
                dumps: DumpSettings {
                    program: pg_dump?,
                    directory: state_directory?.unwrap_or_else(|| PathBuf::from("/tmp")),
                },
                addresses: addresses?,
                trusted: trusted?,
                policy: EffectivePolicy {
                    freeze_after_seconds: freeze_after?,
                    sleep_after_seconds: sleep_after?,
                    ..EffectivePolicy::default()
                },
                webhook_targets: webhook_targets?,
                model_targets: model_targets?,
                models_socket: models_socket?,
                package_signatures: package_signatures?,
                dev_login: dev_login?,
                mail: mail?,
                backups: backups?,
            })
        })
    }

    /// Reads only the settings of the database, for the commands beside the service.
    pub fn read_database(vars: &mut SettingsReader<'_>) -> Option<(String, Secret)> {
        let url: Option<String> = vars.value(&DATABASE_URL);
        let password = vars.secret(&DATABASE_PASSWORD);
        let (url, password) = (url?, password?);
        if url.parse::<tokio_postgres::Config>().is_err() {
            return vars.reject(&DATABASE_URL, "must look like postgres://cial@postgres:5432/cial");
        }
        Some((url, password))
    }

    /// Reads only the settings of encryption at rest, for the command that rotates its key: the SSO secret, and the file.
    pub fn read_sealing_keys(vars: &mut SettingsReader<'_>) -> Option<(Secret, PathBuf)> {
        let secret = vars.secret(&shared::SSO_SECRET);
        match vars.optional(&shared::SEALING_KEYS)? {
            Some(path) => Some((secret?, path)),
            None => vars.reject(&shared::SEALING_KEYS, "must be set: where the keys will be"),
        }
    }
}

pub fn read_addresses(vars: &mut SettingsReader<'_>) -> Option<Addresses> {
    let admin: Option<String> = vars.value(&ADMIN_URL);
    let domain = vars.value(&shared::DOMAIN);
    let router_port = vars.value(&ROUTER_PORT);
    let rule = "must be http:// or https:// with a host and nothing behind it";
    let admin = match Url::parse(&admin?) {
        Ok(url) if matches!(url.scheme(), "http" | "https") && url.path() == "/" => url,
        Ok(_) | Err(_) => return vars.reject(&ADMIN_URL, rule),
    };
    Some(Addresses { admin, domain: domain?, router_port: router_port? })
}

/// Behind an https address there is a proxy: unless it is named, all clients share one address and one limit.
fn read_trusted(
    vars: &mut SettingsReader<'_>,
    addresses: Option<&Addresses>,
) -> Option<TrustedProxies> {
    match vars.optional(&shared::TRUSTED_PROXIES)? {
        Some(trusted) => Some(trusted),
        None if addresses.is_some_and(Addresses::is_secure) => vars.reject(
            &shared::TRUSTED_PROXIES,
            "must be set when CIAL_ADMIN_URL is https: name the proxies in front of the admin, like 10.0.0.0/8, or \
             say none",
        ),
        None => Some(TrustedProxies::default()),
    }
}

/// Refuses the development profile on an address that other machines reach: its sign-in asks for no password.
fn read_dev_login(
    vars: &mut SettingsReader<'_>,
    listen: Option<SocketAddr>,
    addresses: Option<&Addresses>,
) -> Option<DevLogin> {
    let dev_login = vars.value(&DEV_LOGIN)?;
    let is_private = listen.is_none_or(|listen| listen.ip().is_loopback())
        && addresses.is_none_or(Addresses::is_loopback);
    if dev_login == DevLogin::On && !is_private {
        return vars.reject(
            &DEV_LOGIN,
            "must be off, unless CIAL_LISTEN and CIAL_ADMIN_URL are loopback addresses, like 127.0.0.1:3100 and \
             http://localhost:3100",
        );
    }
    Some(dev_login)
}

fn read_signer(vars: &mut SettingsReader<'_>, secret: Option<&Secret>) -> Option<Signer> {
    let Some(path) = vars.optional::<String>(&SSO_PRIVATE_KEY)? else {
        return Some(Signer::derived(secret?.clone()));
    };
    match std::fs::read(&path) {
        Err(error) => vars.reject(&SSO_PRIVATE_KEY, &format!("cannot read {path}: {error}")),
        Ok(pem) => match Signer::rsa(&pem) {
            Ok(signer) => Some(signer),
            Err(error) => {
                vars.reject(&SSO_PRIVATE_KEY, &format!("{path} is no RSA private key: {error}"))
            }
        },
    }
}

/// A key that is supplied goes before one that would be made. No error shows the key.
fn read_bootstrap_key(
    vars: &mut SettingsReader<'_>,
    directory: Option<Option<PathBuf>>,
) -> Option<Option<bootstrap_key::Source>> {
    let supplied: Option<String> = vars.optional(&BOOTSTRAP_KEY)?;
    let supplied = match supplied.map(|text| text.parse::<KeyText>()).transpose() {
        Ok(key) => key,
        Err(malformed) => return vars.reject(&BOOTSTRAP_KEY, &malformed.to_string()),
    };
    let from_file = match vars.optional::<String>(&BOOTSTRAP_KEY_FILE)? {
        None => None,
        Some(path) => match std::fs::read_to_string(&path).map(|text| text.trim().parse()) {
            Err(error) => {
                return vars.reject(&BOOTSTRAP_KEY_FILE, &format!("cannot read {path}: {error}"));
            }
            Ok(Err(malformed)) => {
                return vars.reject(&BOOTSTRAP_KEY_FILE, &format!("{path} {malformed}"));
            }
            Ok(Ok(key)) => Some(key),
        },
    };
    match (from_file, supplied) {
        (Some(_), Some(_)) => {
            vars.reject(&BOOTSTRAP_KEY_FILE, "must not be set beside CIAL_BOOTSTRAP_KEY")
        }
        (Some(key), None) | (None, Some(key)) => Some(Some(bootstrap_key::Source::Supplied(key))),
        (None, None) => Some(directory?.map(bootstrap_key::Source::Made)),
    }
}

/// Reads a part of the settings from these variables alone.
///
/// # Errors
/// The rules that are broken, one a line.
#[cfg(test)]
pub(crate) fn read_pairs<T>(
    pairs: &[(&str, &str)],
    read: impl FnOnce(&mut SettingsReader<'_>) -> Option<T>,
) -> Result<T, String> {
    let own = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
    let pairs: std::collections::HashMap<_, _> = pairs.iter().map(own).collect();
    let lookup = move |name: &str| pairs.get(name).cloned();
    let mut vars = SettingsReader::new(&lookup);
    let read = read(&mut vars);
    vars.finish(|| read).map_err(|faults| faults.0.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_names_every_variable_that_is_read() {
        let read = service::settings::variables_read(|env| drop(Settings::read(env)));
        assert_eq!(read, SETTINGS.iter().map(|setting| setting.name.to_owned()).collect());
        let table = service::settings::reference_table(SETTINGS);
        testkit::reference::check_table("docs/reference/settings.md", "### app-api", &table);
    }

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
    fn a_bootstrap_key_that_is_none_refuses_the_start_and_is_not_shown() {
        let key = KeyText::random().unwrap().reveal().to_owned();
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            std::fs::write(dir.path().join(name), text).unwrap();
            dir.path().join(name).display().to_string()
        };
        let (good, bad) = (file("good", &format!("{key}\n")), file("bad", "cial_almost"));
        let missing = dir.path().join("missing").display().to_string();
        let read = |supplied: Option<&str>, from: Option<&str>| {
            let pairs = [("CIAL_BOOTSTRAP_KEY", supplied), ("CIAL_BOOTSTRAP_KEY_FILE", from)];
            let set: Vec<_> =
                pairs.into_iter().filter_map(|(name, value)| Some((name, value?))).collect();
            read_pairs(&set, |vars| read_bootstrap_key(vars, Some(None)))
        };
        let is_supplied = |source| matches!(source, Ok(Some(bootstrap_key::Source::Supplied(_))));
        assert!(is_supplied(read(Some(&key), None)));
        assert!(is_supplied(read(None, Some(&good))));
        assert!(matches!(read(None, None), Ok(None)));
        for (supplied, from) in [
            (Some("cial_almost"), None),
            (None, Some(&bad)),
            (None, Some(&missing)),
            (Some(key.as_str()), Some(&good)),
        ] {
            let Err(refused) = read(supplied, from.map(String::as_str)) else {
                panic!("accepted: {supplied:?} {from:?}")
            };
            assert!(refused.starts_with("CIAL_BOOTSTRAP_KEY"), "{refused}");
            assert!(!refused.contains(&key) && !refused.contains("almost"), "{refused}");
        }
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
