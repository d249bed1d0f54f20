//! The context of a command: its flags, its settings, its client. Each is made when the command first needs it.

use std::cell::OnceCell;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::args::GlobalArgs;
use crate::config::{
    ConfigFile, Credential, ProfileChoice, Resolved, ServerUrl, Setting, Sources,
    is_open_to_others, resolve,
};
use crate::environment::Environment;
use crate::error::{CliError, Exit};
use crate::http::{Client, Request, Response, Server};
use crate::output::Output;

pub(crate) struct Context<'a> {
    pub(crate) args: GlobalArgs,
    pub(crate) environment: &'a Environment,
    pub(crate) output: Output,
    config: OnceCell<ConfigFile>,
    client: OnceCell<Client>,
}

impl<'a> Context<'a> {
    pub(crate) fn new(args: GlobalArgs, environment: &'a Environment, output: Output) -> Self {
        Self { args, environment, output, config: OnceCell::new(), client: OnceCell::new() }
    }

    pub(crate) fn config_path(&self) -> Result<PathBuf, CliError> {
        self.environment.config_file().ok_or_else(|| {
            CliError::usage("cannot find the configuration file")
                .because("the variable HOME is not set")
                .next("set CIAL_CONFIG to the path of the file")
        })
    }

    /// The configuration file; warns of what is wrong with it.
    pub(crate) fn config(&self) -> Result<&ConfigFile, CliError> {
        if let Some(config) = self.config.get() {
            return Ok(config);
        }
        // Without a home there are still flags and variables.
        let config = match self.environment.config_file() {
            Some(path) => self.read_config(&path)?,
            None => ConfigFile::default(),
        };
        Ok(self.config.get_or_init(|| config))
    }

    fn read_config(&self, path: &Path) -> Result<ConfigFile, CliError> {
        let title = format!("cannot read {}", path.display());
        let read =
            ConfigFile::read(path).map_err(|error| CliError::failed(&title).because(error))?;
        let config = read.map_err(|error| {
            CliError::failed(title)
                .because(error.0)
                .next("correct the file; its form: cial help profiles")
        })?;
        self.warn_if_open(path);
        for key in &config.unknown_keys {
            self.output.warning(&format!("{} has {key}, which means nothing", path.display()));
        }
        Ok(config)
    }

    fn warn_if_open(&self, path: &Path) {
        if let Some(permissions) = is_open_to_others(path) {
            let (path, mode) = (path.display(), permissions.mode() & 0o777);
            self.output.warning(&format!(
                "others can read {path} (mode {mode:04o}), which may hold a key: chmod 600 {path}"
            ));
        }
    }

    /// The settings in effect.
    pub(crate) fn resolved(&self) -> Result<Resolved, CliError> {
        self.resolve(self.args.profile.as_deref())
    }

    /// The settings without the profile that `--profile` names: that one may be about to be made.
    pub(crate) fn resolved_without_profile(&self) -> Result<Resolved, CliError> {
        self.resolve(None)
    }

    fn resolve(&self, profile: Option<&str>) -> Result<Resolved, CliError> {
        let (args, variable) = (&self.args, |name| self.environment.variable(name));
        let sources = Sources {
            flags: ProfileChoice {
                server: args.server.as_deref(),
                api_key: args.api_key.as_deref(),
                profile,
                tenant: args.tenant.as_deref(),
            },
            variables: ProfileChoice {
                server: variable("CIAL_SERVER"),
                api_key: variable("CIAL_API_KEY"),
                profile: variable("CIAL_PROFILE"),
                tenant: variable("CIAL_TENANT"),
            },
        };
        let config = self.config()?;
        resolve(&sources, config).map_err(|unknown| unknown_profile(&unknown.0, config))
    }

    pub(crate) fn server(&self, resolved: &Resolved) -> Result<Server, CliError> {
        let setting = resolved.server.as_ref().ok_or_else(|| {
            CliError::usage("no server configured")
                .because("neither --server, CIAL_SERVER nor a profile names one")
                .next("cial login --server https://cial.example.com, or see: cial help profiles")
        })?;
        let url = ServerUrl::parse(&setting.value).map_err(|rule| {
            CliError::usage(format!("the server's address {:?} {rule}", setting.value))
                .next(format!("correct it where it comes from: {}", setting.origin))
        })?;
        Ok(Server { url, origin: setting.origin.clone() })
    }

    /// The key in effect, read from where it is.
    pub(crate) fn key(&self, resolved: &Resolved) -> Result<Option<String>, CliError> {
        let Some(setting) = &resolved.api_key else { return Ok(None) };
        let credential = Credential::parse(&setting.value, self.environment.home().as_deref());
        if let Credential::File(path) = &credential {
            self.warn_if_open(path);
        }
        let lookup = |name: &str| self.environment.variable(name).map(str::to_owned);
        let key = credential.read(lookup).map_err(|error| {
            CliError::new(Exit::NotAuthenticated, "no API key")
                .because(error)
                .next(format!("correct the key where it comes from: {}", setting.origin))
        })?;
        Ok(Some(key))
    }

    /// A client with a key.
    pub(crate) fn client(&self) -> Result<&Client, CliError> {
        if let Some(client) = self.client.get() {
            return Ok(client);
        }
        let resolved = self.resolved()?;
        let server = self.server(&resolved)?;
        let key = self.key(&resolved)?.ok_or_else(|| no_key(&resolved, &server))?;
        Ok(self.client.get_or_init(|| self.connect(server, Some(key))))
    }

    /// A client that may have no key, for calls that anyone may make.
    pub(crate) fn open_client(&self) -> Result<&Client, CliError> {
        if let Some(client) = self.client.get() {
            return Ok(client);
        }
        let resolved = self.resolved()?;
        let (server, key) = (self.server(&resolved)?, self.key(&resolved)?);
        Ok(self.client.get_or_init(|| self.connect(server, key)))
    }

    pub(crate) fn connect(&self, server: Server, key: Option<String>) -> Client {
        let url = &server.url;
        if key.is_some() && !url.is_https() && !url.is_this_machine() {
            self.output.warning(&format!("the key travels unencrypted to {url}: use https"));
        }
        Client::new(server, key)
    }

    /// Makes a call and returns the JSON of its response.
    pub(crate) fn call(&self, request: &Request) -> Result<Value, CliError> {
        let client = self.client()?;
        client.call(request)?.json(request, client)
    }

    /// Makes a call whose response has nothing to show.
    pub(crate) fn send(&self, request: &Request) -> Result<Response, CliError> {
        self.client()?.call(request)
    }

    /// The tenant of a command that belongs to one.
    ///
    /// # Errors
    /// Neither flags, variables nor the profile name one, and the key is for the whole installation.
    pub(crate) fn tenant(&self) -> Result<String, CliError> {
        self.optional_tenant()?.ok_or_else(|| {
            CliError::usage("no tenant given")
                .because("the key is for the whole installation, so it belongs to no tenant")
                .next("pass --tenant, or set CIAL_TENANT")
        })
    }

    /// The tenant from flags, variables, the profile, or the key; `None` for a key of the whole installation.
    pub(crate) fn optional_tenant(&self) -> Result<Option<String>, CliError> {
        if let Some(setting) = self.resolved()?.tenant {
            return Ok(Some(setting.value));
        }
        let whoami = self.call(&Request::get("/v1/auth/whoami", "find the tenant of the key"))?;
        Ok(whoami["tenant"].as_str().map(str::to_owned))
    }

    /// Warns when the server that responded is more than one minor version away.
    pub(crate) fn warn_about_version(&self) {
        let server = self.client.get().and_then(Client::server_version);
        if let Some(warning) = server.and_then(|server| version_warning(server, OWN_VERSION)) {
            self.output.warning(&warning);
        }
    }
}

pub(crate) const OWN_VERSION: &str = env!("CARGO_PKG_VERSION");

/// The warning about a server whose release is too far from this program's.
pub(crate) fn version_warning(server: &str, own: &str) -> Option<String> {
    let parts = |version: &str| {
        let mut numbers = version.split(['.', '-', '+']).map(str::parse::<u64>);
        Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
    };
    let ((server_major, server_minor), (major, minor)) = (parts(server)?, parts(own)?);
    if server_major == major && server_minor.abs_diff(minor) <= 1 {
        return None;
    }
    let older = if (server_major, server_minor) < (major, minor) { "the server" } else { "cial" };
    Some(format!("cial {own} may not fit the server's release {server}: upgrade {older}"))
}

fn unknown_profile(chosen: &Setting, config: &ConfigFile) -> CliError {
    let known: Vec<_> = config.profiles.keys().map(String::as_str).collect();
    let error = CliError::usage(format!("there is no profile {:?}", chosen.value))
        .because(format!("it is chosen by {}", chosen.origin));
    if known.is_empty() {
        return error
            .next("create one: cial login --server URL, or cial profile set NAME --server URL");
    }
    error.next(format!("choose from: {}", known.join(", ")))
}

fn no_key(resolved: &Resolved, server: &Server) -> CliError {
    let error = CliError::new(Exit::NotAuthenticated, format!("no API key for {}", server.url));
    if resolved.withholds_key {
        return error
            .because(format!(
                "the profile's key is for another server; this one comes from {}",
                server.origin
            ))
            .next("pass --api-key or set CIAL_API_KEY for this server");
    }
    error
        .because("neither --api-key, CIAL_API_KEY nor the profile names one")
        .next("cial login, or set CIAL_API_KEY")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_one_minor_version_away_fits() {
        for (server, own, fits) in [
            ("0.1.0", "0.1.0", true),
            ("0.2.7", "0.1.0", true),
            ("0.1.0", "0.2.0-rc.1", true),
            ("0.3.0", "0.1.0", false),
            ("1.0.0", "0.9.0", false),
            ("unheard of", "0.1.0", true),
        ] {
            assert_eq!(version_warning(server, own).is_none(), fits, "{server} {own}");
        }
        assert!(version_warning("0.3.0", "0.1.0").unwrap().ends_with("upgrade cial"));
        assert!(version_warning("0.1.0", "0.3.0").unwrap().ends_with("upgrade the server"));
    }
}
