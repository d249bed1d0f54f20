//! Whether a page can be used by everybody: axe-core's rules, on the page as it stands, in both themes.

use anyhow::{Context as _, ensure};
use serde_json::json;

use crate::Browser;

const THEMES: [&str; 2] = ["light", "dark"];
/// Without fetching style sheets a second time, which the pages' policy refuses and the console would tell.
const RUN: &str = "
    const done = arguments[arguments.length - 1];
    const brief = (violation) => `${violation.id} (${violation.impact}): ${violation.help}: `
        + violation.nodes.map((node) => node.target.join(' ')).join(', ');
    axe.run(document, { preload: false }).then(
        (found) => done({ passes: found.passes.length, violations: found.violations.map(brief) }),
        (error) => done({ passes: 0, violations: [String(error)] }),
    );
";

/// The program text of axe-core.
pub struct Axe(String);

impl Axe {
    /// The file that `CIAL_E2E_AXE` names.
    pub fn named() -> anyhow::Result<Self> {
        #[expect(
            clippy::disallowed_methods,
            reason = "a test's own input; there is no service here"
        )]
        let path = std::env::var("CIAL_E2E_AXE").context(
            "CIAL_E2E_AXE is not set: run the browser tests through `cargo xtask test browser`",
        )?;
        Ok(Self(std::fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?))
    }

    /// Fails with every rule that the page breaks in either theme.
    pub async fn accepts(&self, browser: &Browser, page: &str) -> anyhow::Result<()> {
        let mut broken = Vec::new();
        for theme in THEMES {
            browser.wear(theme).await?;
            browser.execute(&self.0).await?;
            let found = browser.execute_async(RUN).await?;
            let passes = found["passes"].as_u64().unwrap_or_default();
            let violations = found["violations"].as_array().cloned().unwrap_or_default();
            ensure!(
                passes > 5 || !violations.is_empty(),
                "axe looked at nothing of {page}: {found}"
            );
            broken.extend(violations.iter().map(|rule| format!("{page}, {theme}: {rule}")));
        }
        browser.wear("").await?;
        ensure!(broken.is_empty(), "rules of axe are broken:\n{}", broken.join("\n"));
        Ok(())
    }
}

impl Browser {
    /// Pretends that its owner prefers this theme; an empty one ends the pretence.
    async fn wear(&self, theme: &str) -> anyhow::Result<()> {
        let feature = json!({ "name": "prefers-color-scheme", "value": theme });
        let params = json!({ "features": [feature] });
        self.web().cdp().send_raw("Emulation.setEmulatedMedia", params).await?;
        if !theme.is_empty() {
            let is_worn = format!("return matchMedia('(prefers-color-scheme: {theme})').matches");
            ensure!(self.execute(&is_worn).await? == json!(true), "the theme {theme} is not shown");
        }
        Ok(())
    }

    async fn execute(&self, script: &str) -> anyhow::Result<serde_json::Value> {
        Ok(self.web().execute(script, []).await?.json().clone())
    }

    async fn execute_async(&self, script: &str) -> anyhow::Result<serde_json::Value> {
        Ok(self.web().execute_async(script, []).await?.json().clone())
    }
}
