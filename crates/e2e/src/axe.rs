//! Accessibility of a page: axe-core's rules, on the page as it is, in both themes.

use anyhow::{Context as _, ensure};
use serde_json::json;
use testkit::installation::required;

use crate::Browser;

const THEMES: [&str; 2] = ["light", "dark"];
/// `preload: false`, because the policy of the pages refuses a second fetch of a style sheet, and the console logs that.
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
    pub fn from_env() -> anyhow::Result<Self> {
        let path = required("CIAL_E2E_AXE")?;
        Ok(Self(std::fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?))
    }

    /// # Errors
    /// The page breaks a rule in either theme; the message lists all of them.
    pub async fn accepts(&self, browser: &Browser, page: &str) -> anyhow::Result<()> {
        let mut broken = Vec::new();
        for theme in THEMES {
            browser.emulate_theme(theme).await?;
            browser.execute(&self.0).await?;
            let found = browser.script(RUN, Vec::new()).await?;
            let passes = found["passes"].as_u64().unwrap_or_default();
            let violations = found["violations"].as_array().cloned().unwrap_or_default();
            ensure!(
                passes > 5 || !violations.is_empty(),
                "axe looked at nothing of {page}: {found}"
            );
            broken.extend(violations.iter().map(|rule| format!("{page}, {theme}: {rule}")));
        }
        browser.emulate_theme("").await?;
        ensure!(broken.is_empty(), "rules of axe are broken:\n{}", broken.join("\n"));
        Ok(())
    }
}

impl Browser {
    /// Emulates a preferred colour scheme; an empty one ends the emulation.
    async fn emulate_theme(&self, theme: &str) -> anyhow::Result<()> {
        let feature = json!({ "name": "prefers-color-scheme", "value": theme });
        let params = json!({ "features": [feature] });
        self.web().cdp().send_raw("Emulation.setEmulatedMedia", params).await?;
        if !theme.is_empty() {
            let is_shown = format!("return matchMedia('(prefers-color-scheme: {theme})').matches");
            ensure!(
                self.execute(&is_shown).await? == json!(true),
                "the theme {theme} is not shown"
            );
        }
        Ok(())
    }

    async fn execute(&self, script: &str) -> anyhow::Result<serde_json::Value> {
        Ok(self.web().execute(script, []).await?.json().clone())
    }
}
