//! A headless Chromium of Debian's, driven over WebDriver, with a profile of its own that is
//! removed at the end.

use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use serde_json::{Value, json};
use testkit::{eventually, wait_for};
use thirtyfour::LoggingPrefsLogLevel;
use thirtyfour::error::WebDriverErrorInner;
use thirtyfour::prelude::*;

use crate::NetworkLog;
use crate::session::{EMAIL, PASSWORD};

/// Longer than five tenants with a hundredth of a CPU each take to fall asleep on a busy machine.
const TIMEOUT: Duration = Duration::from_secs(120);
const INTERVAL: Duration = Duration::from_millis(100);
/// The log of chromedriver that holds the events of the network.
const NETWORK_LOG: &str = "performance";

pub struct Browser {
    web: WebDriver,
    // Dropped after the session: ends the driver and its browser, then the profile.
    _driver: Driver,
    profile: PathBuf,
    screenshots: PathBuf,
}

/// The `chromedriver` process; killed on drop, also when a test panics.
struct Driver(Child);

impl Drop for Driver {
    fn drop(&mut self) {
        // The process may have exited already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.profile);
    }
}

impl Browser {
    /// Starts a browser. `name` separates its profile and screenshots from those of other tests.
    ///
    /// # Errors
    /// Chromium or its driver does not start.
    pub async fn start(name: &str) -> anyhow::Result<Self> {
        Self::start_with(name, None).await
    }

    /// The same with a log of all requests, for [`read_network_log`](Self::read_network_log).
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub async fn start_with_network_log(name: &str) -> anyhow::Result<Self> {
        Self::start_with(name, Some(NETWORK_LOG)).await
    }

    async fn start_with(name: &str, log: Option<&str>) -> anyhow::Result<Self> {
        let (driver, port) = start_driver()?;
        let profile = std::env::temp_dir().join(format!("cial-e2e-{name}-{}", std::process::id()));
        let screenshots = std::env::temp_dir().join("cial-e2e-screenshots").join(name);
        std::fs::create_dir_all(&screenshots)?;
        let mut capabilities = DesiredCapabilities::chrome();
        capabilities.set_headless()?;
        // Chromium's own sandbox needs a user that is not root; the tests load nothing but our own pages.
        capabilities.set_no_sandbox()?;
        capabilities.add_arg("--disable-dev-shm-usage")?;
        capabilities.add_arg("--window-size=1100,900")?;
        capabilities.add_arg(&format!("--user-data-dir={}", profile.display()))?;
        capabilities.set_browser_log_level(LoggingPrefsLogLevel::All)?;
        if let Some(log) = log {
            capabilities.set_logging_prefs(log, LoggingPrefsLogLevel::All)?;
        }
        let web = WebDriver::new(&format!("http://127.0.0.1:{port}"), capabilities).await?;
        web.set_script_timeout(TIMEOUT).await?;
        Ok(Self { web, _driver: driver, profile, screenshots })
    }

    pub(crate) fn web(&self) -> &WebDriver {
        &self.web
    }

    pub async fn open(&self, url: &str) -> anyhow::Result<()> {
        self.web.goto(url).await.with_context(|| format!("opening {url}"))
    }

    pub async fn url(&self) -> anyhow::Result<String> {
        Ok(self.web.current_url().await?.to_string())
    }

    /// Types into the field that a label of this text names.
    pub async fn fill(&self, label: &str, text: &str) -> anyhow::Result<()> {
        let field = self.labelled(label).await?;
        field.clear().await?;
        field.send_keys(text).await?;
        Ok(())
    }

    /// Signs the owner in at the form of the admin, which the page shows.
    pub async fn sign_in(&self) -> anyhow::Result<()> {
        self.fill("E-mail", EMAIL).await?;
        self.fill("Password", PASSWORD).await?;
        self.press("Sign in").await
    }

    /// Clicks the button or link of this text.
    pub async fn press(&self, text: &str) -> anyhow::Result<()> {
        let path = format!(
            "//button[normalize-space()={0}] | //a[normalize-space()={0}] | //input[@type='submit' and @value={0}]",
            quoted(text)
        );
        wait_for("a click", TIMEOUT, async || {
            let by = By::XPath(path.as_str());
            let found = self.web.query(by).wait(TIMEOUT, INTERVAL).and_clickable().first().await;
            let found = found.with_context(|| format!("no button or link {text:?}"))?;
            // A page that refreshes replaces its elements.
            match found.click().await {
                Ok(()) => Ok(Some(())),
                Err(e) if matches!(*e, WebDriverErrorInner::StaleElementReference(_)) => Ok(None),
                Err(error) => Err(error.into()),
            }
        })
        .await
    }

    /// Waits until the page shows this text, also across refreshes.
    pub async fn shows(&self, text: &str) -> anyhow::Result<()> {
        let path = format!("//body[contains(normalize-space(.), {})]", quoted(text));
        match self.web.query(By::XPath(path)).wait(TIMEOUT, INTERVAL).first().await {
            Ok(_) => Ok(()),
            Err(_) => {
                bail!(
                    "{} never showed {text:?}; it shows: {}",
                    self.url().await?,
                    self.text().await?
                )
            }
        }
    }

    /// Reloads a page until it shows this text.
    pub async fn shows_after_reloads(&self, url: &str, text: &str) -> anyhow::Result<()> {
        let shown = eventually(text, TIMEOUT, async || {
            self.open(url).await?;
            Ok(self.text().await?.contains(text))
        });
        match shown.await {
            Ok(()) => Ok(()),
            Err(error) => bail!("{error:#}; {url} shows: {}", self.text().await?),
        }
    }

    /// Sends a request as a script of the current page: with its session, from its origin.
    ///
    /// # Errors
    /// The response is no success.
    pub async fn fetch(&self, method: &str, path: &str, body: &Value) -> anyhow::Result<()> {
        let script = "
            const [method, path, body, done] = arguments;
            fetch(path, { method, headers: { 'Content-Type': 'application/json' }, body: JSON.stringify(body) })
                .then(async (answer) => done({ well: answer.ok, text: await answer.text() }))
                .catch((error) => done({ well: false, text: String(error) }));
        ";
        let answer = self.script(script, vec![method.into(), path.into(), body.clone()]).await?;
        ensure!(answer["well"] == true, "{method} {path}: {answer}");
        Ok(())
    }

    /// Runs a script in the current page, and returns what it gives to its last argument, a function.
    ///
    /// # Errors
    /// The script throws, or does not end in time.
    pub async fn script(&self, script: &str, arguments: Vec<Value>) -> anyhow::Result<Value> {
        Ok(self.web.execute_async(script, arguments).await?.json().clone())
    }

    /// Moves what the browser has logged since the last call into `log`.
    ///
    /// # Errors
    /// The browser was started without that log.
    pub async fn read_network_log(&self, log: &mut NetworkLog) -> anyhow::Result<()> {
        let entries = self.web.get_log(NETWORK_LOG).await?;
        entries.iter().for_each(|entry| log.add(&entry.message));
        Ok(())
    }

    /// Takes the errors of the console since the last call: [`finish`](Self::finish) does not see them.
    pub async fn take_console_errors(&self) -> anyhow::Result<Vec<String>> {
        let log = self.web.browser_log().await?;
        Ok(log.into_iter().filter(|e| e.level == "SEVERE").map(|e| e.message).collect())
    }

    /// Waits until every window but the current one shows this text, and closes them. Returns their number.
    ///
    /// A page whose window another window covers is hidden: Chromium loads no media there.
    pub async fn close_other_windows(&self, text: &str) -> anyhow::Result<usize> {
        let current = self.web.window().await?;
        let mut others = self.web.windows().await?;
        others.retain(|window| *window != current);
        for window in &others {
            self.web.switch_to_window(window.clone()).await?;
            self.shows(text).await?;
            self.web.close_window().await?;
        }
        self.web.switch_to_window(current).await?;
        Ok(others.len())
    }

    /// Opens `source` as a page of its own that no script and no header replaces.
    pub async fn open_still(&self, source: &str) -> anyhow::Result<()> {
        let without_script = source.split("<script").next().unwrap_or_default();
        let encoded: String = without_script.bytes().map(|byte| format!("%{byte:02x}")).collect();
        self.open(&format!("data:text/html;charset=utf-8,{encoded}")).await
    }

    pub async fn source(&self) -> anyhow::Result<String> {
        Ok(self.web.source().await?)
    }

    /// Allows or forbids scripts of pages from now on. The driver's own scripts go on.
    pub async fn set_scripts_enabled(&self, enabled: bool) -> anyhow::Result<()> {
        let params = json!({ "value": !enabled });
        self.web.cdp().send_raw("Emulation.setScriptExecutionDisabled", params).await?;
        Ok(())
    }

    /// Lays pages out as on a screen of this width, in CSS pixels; `None` ends that.
    pub async fn emulate_width(&self, width: Option<u32>) -> anyhow::Result<()> {
        let screen =
            json!({ "width": width, "height": 844, "deviceScaleFactor": 1, "mobile": false });
        let (command, params) = match width {
            Some(_) => ("Emulation.setDeviceMetricsOverride", screen),
            None => ("Emulation.clearDeviceMetricsOverride", json!({})),
        };
        self.web.cdp().send_raw(command, params).await?;
        Ok(())
    }

    /// Plugs in an authenticator of the browser's own, which verifies its user without asking.
    pub async fn add_authenticator(&self) -> anyhow::Result<()> {
        self.web.cdp().send_raw("WebAuthn.enable", json!({})).await?;
        let options = json!({ "options": {
            "protocol": "ctap2", "transport": "internal", "hasResidentKey": true,
            "hasUserVerification": true, "isUserVerified": true,
        } });
        self.web.cdp().send_raw("WebAuthn.addVirtualAuthenticator", options).await?;
        Ok(())
    }

    /// Waits until the page no longer shows this text.
    pub async fn hides(&self, text: &str) -> anyhow::Result<()> {
        let path = format!("//body[not(contains(normalize-space(.), {}))]", quoted(text));
        let found = self.web.query(By::XPath(path)).wait(TIMEOUT, INTERVAL).first().await;
        found.with_context(|| format!("the page goes on showing {text:?}"))?;
        Ok(())
    }

    /// The text of the page. Between two pages there is a moment without a body, and a body may be replaced before its
    /// text is read.
    pub async fn text(&self) -> anyhow::Result<String> {
        wait_for("a page", TIMEOUT, async || {
            let Ok(body) = self.web.find(By::Tag("body")).await else { return Ok(None) };
            Ok(body.text().await.ok())
        })
        .await
    }

    /// Saves a screenshot for people to look at.
    pub async fn screenshot(&self, name: &str) -> anyhow::Result<()> {
        self.web.screenshot(&self.screenshots.join(format!("{name}.png"))).await?;
        Ok(())
    }

    /// Ends the session.
    ///
    /// # Errors
    /// A page wrote an error to the console, such as a script, style or form that the content security policy refuses.
    /// `expected` lists parts of the errors that the test provokes on purpose.
    pub async fn finish(self, expected: &[&str]) -> anyhow::Result<()> {
        let mut errors = self.take_console_errors().await?;
        errors.retain(|message| !expected.iter().any(|part| message.contains(part)));
        ensure!(errors.is_empty(), "the console holds errors: {errors:#?}");
        self.web.clone().quit().await?;
        Ok(())
    }

    async fn labelled(&self, label: &str) -> anyhow::Result<WebElement> {
        let path = format!(
            "//*[@id=//label[starts-with(normalize-space(), {0})]/@for] | //label[starts-with(normalize-space(), {0})]//input",
            quoted(label)
        );
        let found = self.web.query(By::XPath(path)).wait(TIMEOUT, INTERVAL).first().await;
        found.with_context(|| format!("no field labelled {label:?}"))
    }
}

/// Starts the driver on a port of its own choice and reads the port from the driver's first lines.
fn start_driver() -> anyhow::Result<(Driver, u16)> {
    let mut child = Command::new("chromedriver")
        .arg("--port=0")
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .context("chromedriver does not start: install Debian's chromium and chromium-driver")?;
    let output = child.stdout.take().context("chromedriver has no output")?;
    let driver = Driver(child);
    for line in BufReader::new(output).lines() {
        let line = line?;
        if let Some(rest) = line.split("started successfully on port ").nth(1) {
            return Ok((driver, rest.trim_end_matches('.').parse()?));
        }
    }
    bail!("chromedriver ended before it named its port")
}

/// A text as an XPath literal.
fn quoted(text: &str) -> String {
    if text.contains('"') { format!("'{text}'") } else { format!("\"{text}\"") }
}
