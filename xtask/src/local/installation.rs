//! Name, ports and images of one installation: read once from the environment and `.env`.

use std::path::PathBuf;

use anyhow::Result;
use clap::ValueEnum as _;
use docker_command::{ActionableError, InstallationObjects};

use super::{command_line, dotenv};
use crate::environment::{name_of, root, variable};
use crate::images::ImageChoices;
use crate::images::binaries::BinarySource;

pub(crate) const TENANT_IMAGE: &str = "cial-tenant:dev";
const SERVICES: [&str; 6] =
    ["postgres", "app-api", "database-proxy", "firewall", "orchestrator", "router"];
/// A service and its profile.
pub(super) const QUOTA: &str = "quota";

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Installation {
    pub(crate) name: String,
    pub(crate) domain: String,
    pub(crate) admin_url: String,
    pub(crate) admin_port: u16,
    pub(crate) router_port: u16,
    pub(crate) postgres_port: u16,
    /// The pool of tenants' subnets, as text.
    pub(crate) subnet_pool: String,
    /// Tag of the images of our services.
    pub(crate) tag: String,
    pub(crate) tenant_image: String,
    /// Choices of a person or of an earlier run; complete once the images are built.
    pub(crate) images: ImageChoices,
    /// The optional services of compose.yml, separated by commas.
    profiles: String,
    /// Whether the installation is removed after one command. If so, `.env` must not change.
    pub(crate) is_ephemeral: bool,
}

/// Marks an ephemeral installation for an xtask that a test calls.
const EPHEMERAL: &str = "CIAL_E2E_EPHEMERAL";
/// Settings that an ephemeral installation leaves at their defaults, regardless of `.env`.
const AS_DOCUMENTED: [(&str, &str); 20] = [
    ("CIAL_BACKUP_ACCESS_KEY_FILE", ""),
    ("CIAL_BACKUP_KEEP", ""),
    ("CIAL_BACKUP_SCHEDULE", ""),
    // Not the default: a test makes backups.
    ("CIAL_BACKUP_URL", "file:///backups"),
    ("CIAL_EGRESS", "open"),
    ("CIAL_ENGINE_VOLUMES", "/var/lib/docker/volumes"),
    ("CIAL_FREEZE_AFTER", "60"),
    ("CIAL_MAIL_FROM", ""),
    // Not the default: the model of a test listens on this machine.
    ("CIAL_MODEL_TARGETS", "any"),
    ("CIAL_PUBLISH", "loopback"),
    ("CIAL_RATE_LIMIT", ""),
    ("CIAL_SLEEP_AFTER", "1200"),
    ("CIAL_SMTP_CA_FILE", ""),
    ("CIAL_SMTP_PASSWORD_FILE", ""),
    ("CIAL_SMTP_URL", ""),
    ("CIAL_SSO_PRIVATE_KEY_FILE", ""),
    ("CIAL_SSO_PUBLIC_KEY_FILE", ""),
    ("CIAL_SUBNET_POOL", "10.201.0.0/16"),
    ("CIAL_TENANT_IMAGES", ""),
    ("CIAL_TRUSTED_PROXIES", ""),
];

impl Installation {
    /// The installation of this checkout.
    pub(crate) fn of_checkout() -> Result<Self> {
        let file = dotenv::read(&root().join(".env"));
        let from_file = |name: &str| dotenv::get(&file, name).map(str::to_owned);
        Self::read(&|name| variable(name).or_else(|| from_file(name)))
    }

    /// An installation that is removed after one command, with a separate name and free ports.
    pub(crate) fn ephemeral(purpose: &str) -> Result<Self> {
        let name = format!("{purpose}-{}", std::process::id());
        let [admin, router, postgres] = super::ports::find_free()?.map(|port| port.to_string());
        let installation = Self::read(&|name_of| match name_of {
            "CIAL_INSTALL" => Some(name.clone()),
            "CIAL_ADMIN_PORT" => Some(admin.clone()),
            "CIAL_ROUTER_PORT" => Some(router.clone()),
            "CIAL_POSTGRES_PORT" => Some(postgres.clone()),
            "CIAL_ADMIN_URL" | "CIAL_DOMAIN" | "CIAL_SUBNET_POOL" => None,
            other => variable(other),
        })?;
        Ok(Self { is_ephemeral: true, ..installation })
    }

    /// Gives the tenants a separate image, which a test may replace.
    pub(crate) fn with_own_tenant_image(&mut self) {
        self.tenant_image = format!("cial-tenant:{}", self.name);
    }

    pub(super) fn read(lookup: &dyn Fn(&str) -> Option<String>) -> Result<Self> {
        let text = |name: &str, default: &str| lookup(name).unwrap_or_else(|| default.to_owned());
        let mut errors = Vec::new();
        let mut require = |is_valid: bool, name: &str, rule: &str| {
            let cause = format!("{name} {rule} (is {:?})", text(name, ""));
            let fix = format!("correct {name} in the environment or in .env");
            errors.extend((!is_valid).then(|| ActionableError::new(cause, fix)));
        };
        let name = text("CIAL_INSTALL", "local");
        let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        let is_name = name.len() <= 40 && name.chars().all(allowed) && !name.starts_with('-');
        let rule = "takes 1 to 40 of a-z, 0-9 and -, and starts with none";
        require(is_name, "CIAL_INSTALL", rule);
        let mut port = |name: &str, default: u16| {
            let port = lookup(name).map_or(Ok(default), |text| text.parse()).unwrap_or_default();
            require(port > 0, name, "must be a port, 1 to 65535");
            port
        };
        let admin_port = port("CIAL_ADMIN_PORT", 3100);
        let router_port = port("CIAL_ROUTER_PORT", 8080);
        let postgres_port = port("CIAL_POSTGRES_PORT", 5432);
        let binaries = lookup("CIAL_BINARIES").map(|text| BinarySource::from_str(&text, false));
        let binaries = binaries.transpose();
        require(binaries.is_ok(), "CIAL_BINARIES", "must be built or prebuilt");
        if let Some(error) = ActionableError::joined(errors) {
            return Err(error.into());
        }
        let default_url = format!("http://localhost:{admin_port}");
        Ok(Self {
            domain: text("CIAL_DOMAIN", "localhost"),
            admin_url: text("CIAL_ADMIN_URL", &default_url),
            admin_port,
            router_port,
            postgres_port,
            subnet_pool: text("CIAL_SUBNET_POOL", "10.201.0.0/16"),
            tag: text("CIAL_TAG", "dev"),
            tenant_image: text("CIAL_TENANT_IMAGE", TENANT_IMAGE),
            images: ImageChoices {
                base: lookup("CIAL_BASE_IMAGE"),
                binaries: binaries.ok().flatten(),
                compiler: lookup("CIAL_RUST_IMAGE"),
                postgres: lookup("CIAL_POSTGRES_IMAGE"),
            },
            profiles: text("COMPOSE_PROFILES", ""),
            is_ephemeral: lookup(EPHEMERAL).is_some(),
            name,
        })
    }

    /// The name of the compose project, which prefixes its containers, networks and unnamed
    /// volumes.
    pub(crate) fn project(&self) -> String {
        format!("cial-{}", self.name)
    }

    /// The objects of the installation on the engine.
    pub(crate) fn objects(&self) -> InstallationObjects {
        InstallationObjects::of(&self.name)
    }

    /// Whether the installation runs the service `quota`, which needs an image of its own.
    pub(super) fn has_quota(&self) -> bool {
        self.profiles.split(',').any(|profile| profile.trim() == QUOTA)
    }

    /// The services that must run.
    pub(super) fn services(&self) -> impl Iterator<Item = &'static str> {
        SERVICES.into_iter().chain(self.has_quota().then_some(QUOTA))
    }

    /// The published ports, each with the variable that chooses the port.
    pub(super) fn ports(&self) -> [(&'static str, u16); 3] {
        [
            ("CIAL_ADMIN_PORT", self.admin_port),
            ("CIAL_ROUTER_PORT", self.router_port),
            ("CIAL_POSTGRES_PORT", self.postgres_port),
        ]
    }

    /// The folder in which local-up keeps its log and state.
    pub(crate) fn folder(&self) -> PathBuf {
        let folder = root().join(".cial");
        if self.is_ephemeral { folder.join(&self.name) } else { folder }
    }

    /// The command line's configuration, if it is not the person's own: that of an ephemeral installation.
    pub(crate) fn command_line_config(&self) -> Option<PathBuf> {
        self.is_ephemeral.then(|| self.folder().join("config.toml"))
    }

    pub(crate) fn admin_page(&self) -> String {
        format!("{}/admin", self.admin_url)
    }

    pub(crate) fn tenant_url(&self, slug: &str) -> String {
        format!("http://{slug}.{}:{}", self.domain, self.router_port)
    }

    /// The settings that `.env` stores. An address that follows from the port is left out, so that
    /// it keeps following.
    pub(crate) fn choices(&self) -> Vec<(&'static str, String)> {
        let follows = self.admin_url == "http://localhost:3100";
        let mut choices = self.variables();
        choices.retain(|(name, _)| !(follows && *name == "CIAL_ADMIN_URL"));
        choices
    }

    /// The variables that compose.yml reads. For an ephemeral installation they include every
    /// setting, so that the checkout's `.env` has no effect.
    pub(crate) fn variables(&self) -> Vec<(&'static str, String)> {
        let mut variables = vec![
            ("CIAL_INSTALL", self.name.clone()),
            ("CIAL_DOMAIN", self.domain.clone()),
            ("CIAL_ADMIN_URL", self.admin_url.clone()),
            ("CIAL_TAG", self.tag.clone()),
            ("CIAL_TENANT_IMAGE", self.tenant_image.clone()),
        ];
        variables.extend(self.ports().map(|(name, port)| (name, port.to_string())));
        let images = self.images.clone();
        let known = [
            ("CIAL_BASE_IMAGE", images.base),
            ("CIAL_BINARIES", images.binaries.map(name_of)),
            ("CIAL_POSTGRES_IMAGE", images.postgres),
            ("CIAL_RUST_IMAGE", images.compiler),
        ];
        variables.extend(known.into_iter().filter_map(|(name, value)| Some((name, value?))));
        if let Some(config) = self.command_line_config() {
            variables.push((EPHEMERAL, "1".to_owned()));
            variables.push(("COMPOSE_PROFILES", self.profiles.clone()));
            // For the tests: the command line and its configuration.
            variables.push(("CIAL_E2E_CIAL", command_line::program().display().to_string()));
            variables.push(("CIAL_E2E_CONFIG", config.display().to_string()));
            variables.extend(AS_DOCUMENTED.map(|(name, value)| (name, value.to_owned())));
        }
        variables
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pairs: &[(&str, &str)]) -> Result<Installation> {
        Installation::read(&|name| {
            let found = pairs.iter().find(|(key, _)| *key == name);
            found.map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn addresses_follow_from_the_settings() {
        let installation = read(&[]).unwrap();
        assert_eq!(installation.admin_page(), "http://localhost:3100/admin");
        assert_eq!(installation.tenant_url("acme"), "http://acme.localhost:8080");
        assert_eq!(installation.project(), "cial-local");
        let installation = read(&[("CIAL_ADMIN_PORT", "4100")]).unwrap();
        assert_eq!(installation.admin_page(), "http://localhost:4100/admin");
    }

    /// A run writes the choices to `.env`; the next run and compose read them from there.
    #[test]
    fn choices_about_images_are_kept() {
        let chosen = [
            ("CIAL_BASE_IMAGE", "debian:trixie-slim"),
            ("CIAL_BINARIES", "built"),
            ("CIAL_RUST_IMAGE", "rust:1.95-trixie"),
        ];
        let of_images = |installation: &Installation| {
            let mut variables = installation.variables();
            variables.retain(|(name, _)| chosen.iter().any(|(image, _)| image == name));
            variables
        };
        assert_eq!(of_images(&read(&[]).unwrap()), [], "nothing is chosen by itself");
        let installation = read(&chosen).unwrap();
        assert_eq!(installation.images.binaries, Some(BinarySource::Built));
        assert_eq!(of_images(&installation), chosen.map(|(name, value)| (name, value.to_owned())));
    }

    #[test]
    fn the_service_quota_runs_where_its_profile_is_chosen() {
        for (profiles, expected) in
            [("", false), ("quota", true), ("a, quota", true), ("quotas", false)]
        {
            let installation = read(&[("COMPOSE_PROFILES", profiles)]).unwrap();
            assert_eq!(installation.has_quota(), expected, "{profiles}");
            assert_eq!(installation.services().any(|service| service == "quota"), expected);
        }
    }

    #[test]
    fn all_invalid_settings_are_named_at_once() {
        let invalid = [
            ("CIAL_ROUTER_PORT", "0"),
            ("CIAL_ADMIN_PORT", "x"),
            ("CIAL_INSTALL", "Up"),
            ("CIAL_BINARIES", "Built"),
        ];
        let error = read(&invalid).err().unwrap().to_string();
        for (name, value) in invalid {
            let alone = read(&[(name, value)]).err().unwrap().to_string();
            assert!(alone.contains(name) && error.contains(&format!("{value:?}")), "{error}");
        }
    }
}
