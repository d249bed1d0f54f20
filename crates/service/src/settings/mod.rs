//! Settings: each described once, read once at the start of a service, with every error reported together.

mod reference;
mod secret_file;
pub mod shared;

use std::fmt;
use std::str::FromStr;

pub use reference::{reference_table, variables_read};

use crate::Secret;
use crate::run::Env;

/// One variable that a service reads. The constants of a service stand in one table, from which
/// `docs/reference/settings.md` is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Setting {
    /// The name of the variable; that of a secret ends in `_FILE`.
    pub name: &'static str,
    pub unset: Unset,
    pub set_in: SetIn,
    /// The meaning, for the reference.
    pub purpose: &'static str,
}

/// Where the value of a variable comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetIn {
    /// From compose.yml alone.
    Compose,
    /// From an operator, in `.env`.
    EnvFile,
    /// From the orchestrator, for the container of a tenant.
    Orchestrator,
}

/// The effect of a variable that is unset or empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unset {
    /// The service does not start.
    Refused,
    /// The service does not start. The variable names a file that holds a secret.
    SecretRefused,
    /// This text is parsed like a value.
    Default(&'static str),
    /// The service computes a value, which this text describes.
    Computed(&'static str),
    /// The feature is off.
    Off,
}

impl Setting {
    /// A variable that must be set.
    pub const fn required(name: &'static str, purpose: &'static str) -> Self {
        Self::new(name, Unset::Refused, purpose)
    }

    /// A variable that names the file of a secret, and must be set.
    pub const fn secret(name: &'static str, purpose: &'static str) -> Self {
        Self::new(name, Unset::SecretRefused, purpose)
    }

    /// A variable with a constant default.
    pub const fn with_default(
        name: &'static str,
        default: &'static str,
        purpose: &'static str,
    ) -> Self {
        Self::new(name, Unset::Default(default), purpose)
    }

    /// A variable whose default depends on the machine or on other settings.
    pub const fn computed(
        name: &'static str,
        default: &'static str,
        purpose: &'static str,
    ) -> Self {
        Self::new(name, Unset::Computed(default), purpose)
    }

    /// A variable that may be absent.
    pub const fn optional(name: &'static str, purpose: &'static str) -> Self {
        Self::new(name, Unset::Off, purpose)
    }

    const fn new(name: &'static str, unset: Unset, purpose: &'static str) -> Self {
        Self { name, unset, set_in: SetIn::Compose, purpose }
    }

    /// Marks a variable that an operator may set in `.env`.
    #[must_use]
    pub const fn for_operators(self) -> Self {
        Self { set_in: SetIn::EnvFile, ..self }
    }

    /// Marks a variable that the orchestrator sets for the container of a tenant.
    #[must_use]
    pub const fn by_orchestrator(self) -> Self {
        Self { set_in: SetIn::Orchestrator, ..self }
    }
}

/// Every error of one reading, one text each: the name of the variable and the rule that its value breaks.
#[derive(Debug, PartialEq, Eq)]
pub struct SettingsErrors(pub Vec<String>);

/// Reads environment variables and collects the errors.
///
/// Each method returns `None` for an error that is already collected, so that one start reports all of them.
pub struct SettingsReader<'a> {
    lookup: &'a Env,
    errors: Vec<String>,
}

impl<'a> SettingsReader<'a> {
    pub fn new(lookup: &'a Env) -> Self {
        Self { lookup, errors: Vec::new() }
    }

    /// Reads a variable that must be set, or that has a constant default.
    pub fn value<T: FromStr<Err: fmt::Display>>(&mut self, setting: &Setting) -> Option<T> {
        let text = match (self.text(setting), setting.unset) {
            (Some(text), _) => text,
            (None, Unset::Default(default)) => default.to_owned(),
            (None, _) => return self.reject(setting, "must be set"),
        };
        self.parse(setting, &text)
    }

    /// Reads a variable whose default the caller computes.
    pub fn value_or<T: FromStr<Err: fmt::Display>>(
        &mut self,
        setting: &Setting,
        default: T,
    ) -> Option<T> {
        debug_assert!(matches!(setting.unset, Unset::Computed(_)), "{setting:?}");
        match self.text(setting) {
            Some(text) => self.parse(setting, &text),
            None => Some(default),
        }
    }

    /// Reads a variable that may be absent: `Some(None)` when it is.
    pub fn optional<T: FromStr<Err: fmt::Display>>(
        &mut self,
        setting: &Setting,
    ) -> Option<Option<T>> {
        debug_assert_eq!(setting.unset, Unset::Off, "{setting:?}");
        match self.text(setting) {
            Some(text) => self.parse(setting, &text).map(Some),
            None => Some(None),
        }
    }

    /// Reads a secret from the file that the variable names: at least 32 characters, no placeholder.
    pub fn secret(&mut self, setting: &Setting) -> Option<Secret> {
        debug_assert_eq!(setting.unset, Unset::SecretRefused, "{setting:?}");
        let Some(path) = self.text(setting) else {
            return self.reject(setting, "must name the file that holds the secret");
        };
        match secret_file::read(&path) {
            Ok(secret) => Some(secret),
            Err(rule) => self.reject(setting, &rule),
        }
    }

    /// Collects an error of a variable that only the caller can detect.
    pub fn reject<T>(&mut self, setting: &Setting, rule: &str) -> Option<T> {
        self.reject_named(setting.name, rule)
    }

    /// Collects an error of something that is no variable, like a file at a fixed path.
    pub fn reject_named<T>(&mut self, name: &str, rule: &str) -> Option<T> {
        self.errors.push(format!("{name} {rule}"));
        None
    }

    /// Builds the settings.
    ///
    /// # Errors
    /// Every collected error, when there is any.
    pub fn finish<T>(self, build: impl FnOnce() -> Option<T>) -> Result<T, SettingsErrors> {
        if !self.errors.is_empty() {
            return Err(SettingsErrors(self.errors));
        }
        build().ok_or_else(|| SettingsErrors(vec!["settings are incomplete".to_owned()]))
    }

    /// A variable that is set but empty counts as unset.
    fn text(&self, setting: &Setting) -> Option<String> {
        (self.lookup)(setting.name).filter(|text| !text.is_empty())
    }

    fn parse<T: FromStr<Err: fmt::Display>>(&mut self, setting: &Setting, text: &str) -> Option<T> {
        match text.parse() {
            Ok(value) => Some(value),
            Err(rule) => self.reject(setting, &format!("{rule} (is {text:?})")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PORT: Setting = Setting::required("PORT", "");
    const URL: Setting = Setting::required("URL", "");
    const TOKEN: Setting = Setting::secret("TOKEN_FILE", "");
    const DRAIN: Setting = Setting::with_default("DRAIN", "30", "");

    #[test]
    fn every_error_is_reported_at_once() {
        let lookup = |name: &str| match name {
            "PORT" => Some("eighty".to_owned()),
            _ => None,
        };
        let mut settings = SettingsReader::new(&lookup);
        let port = settings.value::<u16>(&PORT);
        let url = settings.value::<String>(&URL);
        let token = settings.secret(&TOKEN);
        let errors = settings.finish(|| Some((port?, url?, token?))).err().unwrap();
        insta::assert_snapshot!(errors.0.join("\n"), @r#"
        PORT invalid digit found in string (is "eighty")
        URL must be set
        TOKEN_FILE must name the file that holds the secret
        "#);
    }

    #[test]
    fn an_empty_variable_has_its_default() {
        let lookup = |_: &str| Some(String::new());
        assert_eq!(SettingsReader::new(&lookup).value(&DRAIN), Some(30));
    }
}
