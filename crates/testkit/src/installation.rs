//! The installation that a test or a bench works on: up already, named by the environment.

use anyhow::{Context as _, Result};

/// Set by `cargo xtask`, which brings the installation up and removes it afterwards.
#[derive(Clone, Debug)]
pub struct Installation {
    pub name: String,
    pub domain: String,
    pub admin_url: String,
    pub admin_port: u16,
    pub router_port: u16,
    pub postgres_port: u16,
    pub tenant_image: String,
}

/// Reads a variable of the environment; an empty one counts as absent.
#[expect(
    clippy::disallowed_methods,
    reason = "the input of tests and benches; there is no service"
)]
pub fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|text| !text.is_empty())
}

/// Like [`variable`], for one that must be set.
///
/// # Errors
/// The variable is absent.
pub fn required(name: &str) -> Result<String> {
    variable(name).with_context(|| format!("{name} is not set: run this through `cargo xtask`"))
}

impl Installation {
    /// Reads the variables that compose.yml reads, too.
    ///
    /// # Errors
    /// A variable is absent, or a port is no number.
    pub fn from_env() -> Result<Self> {
        let port = |name: &str| required(name)?.parse().with_context(|| name.to_owned());
        Ok(Self {
            name: required("CIAL_INSTALL")?,
            domain: required("CIAL_DOMAIN")?,
            admin_url: required("CIAL_ADMIN_URL")?.trim_end_matches('/').to_owned(),
            admin_port: port("CIAL_ADMIN_PORT")?,
            router_port: port("CIAL_ROUTER_PORT")?,
            postgres_port: port("CIAL_POSTGRES_PORT")?,
            tenant_image: required("CIAL_TENANT_IMAGE")?,
        })
    }

    /// The compose project.
    pub fn project(&self) -> String {
        format!("cial-{}", self.name)
    }

    pub fn admin(&self, path: &str) -> String {
        format!("{}{path}", self.admin_url)
    }

    pub fn tenant_host(&self, slug: &str) -> String {
        format!("{slug}.{}", self.domain)
    }

    pub fn tenant_url(&self, slug: &str) -> String {
        format!("http://{}:{}", self.tenant_host(slug), self.router_port)
    }
}
