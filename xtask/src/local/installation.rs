//! What one installation is called, where it listens and what it runs: read once from the environment and `.env`.

use std::path::PathBuf;

use anyhow::Result;

use super::dotenv;
use crate::fault::Fault;
use crate::images::Chosen;
use crate::images::binaries::Binaries;
use crate::world;

pub(super) const TENANT_IMAGE: &str = "cial-tenant:dev";
pub(super) const SERVICES: [&str; 4] = ["postgres", "app-api", "orchestrator", "router"];

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Installation {
    pub name: String,
    pub domain: String,
    pub admin_url: String,
    pub admin_port: u16,
    pub router_port: u16,
    pub postgres_port: u16,
    /// What tenants' networks are cut from; not parsed yet.
    pub subnet_pool: String,
    /// Tag of the images of our services.
    pub tag: String,
    pub tenant_image: String,
    /// What the images are made of: the person's choice or that of an earlier run, and everything once it is known.
    pub chosen: Chosen,
    /// Chosen by the person or by an earlier run; otherwise by what can be had.
    pub postgres_image: Option<String>,
    /// Whether its choices go to `.env`: a passing installation must not change what plain compose does.
    pub is_passing: bool,
}

pub(super) type Lookup<'a> = &'a dyn Fn(&str) -> Option<String>;

const AMEND_BINARIES: &str = "correct CIAL_BINARIES in the environment or in .env";

/// What a passing installation leaves at its default, whatever `.env` says.
const AS_DOCUMENTED: [(&str, &str); 10] = [
    ("CIAL_EGRESS", "open"),
    ("CIAL_FREEZE_AFTER", "60"),
    ("CIAL_PUBLISH", "loopback"),
    ("CIAL_RATE_LIMIT", ""),
    ("CIAL_SLEEP_AFTER", "1200"),
    ("CIAL_SSO_PRIVATE_KEY_FILE", ""),
    ("CIAL_SSO_PUBLIC_KEY_FILE", ""),
    ("CIAL_SUBNET_POOL", "10.201.0.0/16"),
    ("CIAL_TENANT_IMAGES", ""),
    ("CIAL_TRUSTED_PROXIES", ""),
];

impl Installation {
    /// The installation of this checkout.
    pub fn of_checkout() -> Result<Self> {
        let file = dotenv::read(&world::root().join(".env"));
        let from_file = |name: &str| dotenv::get(&file, name).map(str::to_owned);
        Self::read(&|name| world::var(name).or_else(|| from_file(name)))
    }

    /// An installation that comes and goes beside the others: a name of its own, ports that are free now.
    pub fn passing(purpose: &str) -> Result<Self> {
        let name = format!("{purpose}-{}", std::process::id());
        let [admin, router, postgres] = super::ports::free()?.map(|port| port.to_string());
        let installation = Self::read(&|variable| match variable {
            "CIAL_INSTALL" => Some(name.clone()),
            "CIAL_ADMIN_PORT" => Some(admin.clone()),
            "CIAL_ROUTER_PORT" => Some(router.clone()),
            "CIAL_POSTGRES_PORT" => Some(postgres.clone()),
            "CIAL_ADMIN_URL" | "CIAL_DOMAIN" | "CIAL_SUBNET_POOL" => None,
            other => world::var(other),
        })?;
        Ok(Self { is_passing: true, ..installation })
    }

    /// Lets its tenants run an image that is nobody else's, and may be changed under them.
    pub fn with_own_tenant_image(&mut self) {
        self.tenant_image = format!("cial-tenant:{}", self.name);
    }

    pub(super) fn read(lookup: Lookup<'_>) -> Result<Self> {
        let text = |name: &str, default: &str| lookup(name).unwrap_or_else(|| default.to_owned());
        let name = text("CIAL_INSTALL", "local");
        let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        let mut faults = Vec::new();
        if name.len() > 40 || !name.chars().all(allowed) || name.starts_with('-') {
            let rule = "CIAL_INSTALL takes 1 to 40 of a-z, 0-9 and -, and starts with none";
            faults.push(Fault::new(format!("{rule} (is {name:?})"), "name it otherwise"));
        }
        let mut port = |name: &str, default: u16| {
            port(lookup, name, default).unwrap_or_else(|fault| {
                faults.push(fault);
                default
            })
        };
        let admin_port = port("CIAL_ADMIN_PORT", 3100);
        let router_port = port("CIAL_ROUTER_PORT", 8080);
        let postgres_port = port("CIAL_POSTGRES_PORT", 5432);
        let binaries = lookup("CIAL_BINARIES").and_then(|text| {
            let wrong = |rule| Fault::new(format!("{rule} (is {text:?})"), AMEND_BINARIES);
            Binaries::read(&text).map_err(|rule| faults.push(wrong(rule))).ok()
        });
        if let Some(fault) = Fault::joined(faults) {
            return Err(fault.into());
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
            chosen: Chosen { base: lookup("CIAL_BASE_IMAGE"), binaries },
            postgres_image: lookup("CIAL_POSTGRES_IMAGE"),
            is_passing: false,
            name,
        })
    }

    /// The compose project: its containers, networks and unnamed volumes start with this.
    pub fn project(&self) -> String {
        format!("cial-{}", self.name)
    }

    /// What is published on loopback, by the variable that chooses it.
    pub(super) fn ports(&self) -> [(&'static str, u16); 3] {
        [
            ("CIAL_ADMIN_PORT", self.admin_port),
            ("CIAL_ROUTER_PORT", self.router_port),
            ("CIAL_POSTGRES_PORT", self.postgres_port),
        ]
    }

    /// Where local-up keeps its log and state.
    pub fn folder(&self) -> PathBuf {
        let folder = world::root().join(".cial");
        if self.is_passing { folder.join(&self.name) } else { folder }
    }

    pub fn admin_page(&self) -> String {
        format!("{}/admin", self.admin_url)
    }

    pub fn tenant_url(&self, slug: &str) -> String {
        format!("http://{slug}.{}:{}", self.domain, self.router_port)
    }

    /// What goes to `.env`. An address that follows from the port is left out, to follow it when the port changes.
    pub fn choices(&self) -> Vec<(&'static str, String)> {
        let follows = self.admin_url == "http://localhost:3100";
        let mut choices = self.variables();
        choices.retain(|(name, _)| !(follows && *name == "CIAL_ADMIN_URL"));
        choices
    }

    /// What compose.yml asks for. For a passing installation that is all but where the engine is, so that the
    /// `.env` of the checkout decides nothing.
    pub fn variables(&self) -> Vec<(&'static str, String)> {
        let mut variables = vec![
            ("CIAL_INSTALL", self.name.clone()),
            ("CIAL_DOMAIN", self.domain.clone()),
            ("CIAL_ADMIN_URL", self.admin_url.clone()),
            ("CIAL_ADMIN_PORT", self.admin_port.to_string()),
            ("CIAL_ROUTER_PORT", self.router_port.to_string()),
            ("CIAL_POSTGRES_PORT", self.postgres_port.to_string()),
            ("CIAL_TAG", self.tag.clone()),
            ("CIAL_TENANT_IMAGE", self.tenant_image.clone()),
        ];
        let known = [
            ("CIAL_BASE_IMAGE", self.chosen.base.as_deref()),
            ("CIAL_BINARIES", self.chosen.binaries.map(Binaries::name)),
            ("CIAL_POSTGRES_IMAGE", self.postgres_image.as_deref()),
        ];
        variables
            .extend(known.into_iter().filter_map(|(name, value)| Some((name, value?.to_owned()))));
        if self.is_passing {
            variables.extend(AS_DOCUMENTED.map(|(name, value)| (name, value.to_owned())));
        }
        variables
    }
}

fn port(lookup: Lookup<'_>, name: &str, default: u16) -> Result<u16, Fault> {
    let Some(text) = lookup(name) else { return Ok(default) };
    match text.parse() {
        Ok(port) if port > 0 => Ok(port),
        Ok(_) | Err(_) => {
            let cause = format!("{name} must be a port, 1 to 65535 (is {text:?})");
            Err(Fault::new(cause, format!("correct {name} in the environment or in .env")))
        }
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
    fn nothing_set_is_the_documented_installation() {
        let installation = read(&[]).unwrap();
        assert_eq!(installation.admin_page(), "http://localhost:3100/admin");
        assert_eq!(installation.tenant_url("acme"), "http://acme.localhost:8080");
        assert_eq!(installation.project(), "cial-local");
    }

    #[test]
    fn another_port_shows_in_the_url() {
        let installation = read(&[("CIAL_ADMIN_PORT", "4100")]).unwrap();
        assert_eq!(installation.admin_page(), "http://localhost:4100/admin");
    }

    /// What a run wrote to `.env` is what the next one makes images of, and what compose is told.
    #[test]
    fn what_images_are_made_of_is_kept() {
        let of_images = |installation: &Installation| {
            let mut variables = installation.variables();
            variables.retain(|(name, _)| matches!(*name, "CIAL_BASE_IMAGE" | "CIAL_BINARIES"));
            variables
        };
        assert_eq!(of_images(&read(&[]).unwrap()), [], "nothing is chosen by itself");
        let chosen = [("CIAL_BASE_IMAGE", "debian:trixie-slim"), ("CIAL_BINARIES", "built")];
        let installation = read(&chosen).unwrap();
        assert_eq!(installation.chosen.base.as_deref(), Some("debian:trixie-slim"));
        assert_eq!(installation.chosen.binaries, Some(Binaries::Built));
        assert_eq!(of_images(&installation), chosen.map(|(name, value)| (name, value.to_owned())));
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (name, value) in [
            ("CIAL_ROUTER_PORT", "0"),
            ("CIAL_ADMIN_PORT", "x"),
            ("CIAL_INSTALL", "Up"),
            ("CIAL_BINARIES", "Built"),
        ] {
            let error = read(&[(name, value)]).err().unwrap().to_string();
            assert!(error.contains(name) && error.contains(value), "{error}");
        }
        let all =
            read(&[("CIAL_ROUTER_PORT", "0"), ("CIAL_ADMIN_PORT", "x"), ("CIAL_INSTALL", "Up")]);
        let error = all.err().unwrap().to_string();
        assert!(
            error.contains("\"0\"") && error.contains("\"x\"") && error.contains("\"Up\""),
            "{error}"
        );
    }
}
