//! Which installation is looked at.

use anyhow::Context as _;

/// An installation that is up and has no owner yet.
pub struct Installation {
    admin_url: String,
}

impl Installation {
    /// The one that `CIAL_E2E_ADMIN_URL` names, like `http://localhost:3100`.
    pub fn named() -> anyhow::Result<Self> {
        #[expect(clippy::disallowed_methods, reason = "a test's own input; there is no service here")]
        let admin_url = std::env::var("CIAL_E2E_ADMIN_URL").context(
            "CIAL_E2E_ADMIN_URL is not set: run the browser tests through `cargo xtask test browser`, \
             which brings an installation up for them",
        )?;
        Ok(Self { admin_url: admin_url.trim_end_matches('/').to_owned() })
    }

    pub fn admin(&self, path: &str) -> String {
        format!("{}{path}", self.admin_url)
    }
}
