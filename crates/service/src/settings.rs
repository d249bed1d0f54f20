//! Settings: parsed once, at the edge, with every fault of a start reported together.

use std::fmt;
use std::str::FromStr;

use crate::run::Env;

/// All faults of one reading; each names the variable and the rule.
#[derive(Debug, PartialEq, Eq)]
pub struct Faults(pub Vec<String>);

/// Reads variables and remembers what was wrong with each.
pub struct Vars<'a> {
    lookup: &'a Env,
    faults: Vec<String>,
}

/// A value that never shows itself: not by `Debug`, not in a log.
#[derive(Clone)]
pub struct Secret(String);

impl Secret {
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

const SECRET_LENGTH: usize = 32;
const PLACEHOLDERS: &[&str] = &[
    "changeme",
    "change-me",
    "change_me",
    "placeholder",
    "secret",
    "password",
    "example",
    "default",
    "xxxx",
];

impl<'a> Vars<'a> {
    pub fn new(lookup: &'a Env) -> Self {
        Self { lookup, faults: Vec::new() }
    }

    /// A variable without which the service cannot run. `None` is a fault that is already remembered.
    pub fn required<T: FromStr<Err: fmt::Display>>(&mut self, name: &str) -> Option<T> {
        match self.text(name) {
            Some(text) => self.parse(name, &text),
            None => self.fault(name, "must be set"),
        }
    }

    /// A variable with a default; set but empty counts as unset.
    pub fn or<T: FromStr<Err: fmt::Display>>(&mut self, name: &str, default: T) -> Option<T> {
        match self.text(name) {
            Some(text) => self.parse(name, &text),
            None => Some(default),
        }
    }

    /// A variable that may be absent.
    pub fn optional<T: FromStr<Err: fmt::Display>>(&mut self, name: &str) -> Option<Option<T>> {
        match self.text(name) {
            Some(text) => self.parse(name, &text).map(Some),
            None => Some(None),
        }
    }

    /// A secret, read from the file that `<NAME>_FILE` names: at least 32 characters, no placeholder.
    pub fn secret(&mut self, name: &str) -> Option<Secret> {
        let variable = format!("{name}_FILE");
        let Some(path) = self.text(&variable) else {
            return self.fault(&variable, "must name the file that holds the secret");
        };
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text.trim_end_matches(['\r', '\n']).to_owned(),
            Err(error) => return self.fault(&variable, &format!("cannot read {path}: {error}")),
        };
        match weakness(&text) {
            Some(rule) => self.fault(&variable, &format!("{path} {rule}")),
            None => Some(Secret(text)),
        }
    }

    /// Remembers a fault of `name` that only the caller can see.
    pub fn fault<T>(&mut self, name: &str, rule: &str) -> Option<T> {
        self.faults.push(format!("{name} {rule}"));
        None
    }

    /// The settings, unless anything was wrong.
    pub fn finish<T>(self, build: impl FnOnce() -> Option<T>) -> Result<T, Faults> {
        if !self.faults.is_empty() {
            return Err(Faults(self.faults));
        }
        build().ok_or_else(|| Faults(vec!["settings are incomplete".to_owned()]))
    }

    fn text(&self, name: &str) -> Option<String> {
        (self.lookup)(name).filter(|text| !text.is_empty())
    }

    fn parse<T: FromStr<Err: fmt::Display>>(&mut self, name: &str, text: &str) -> Option<T> {
        match text.parse() {
            Ok(value) => Some(value),
            Err(why) => self.fault(name, &format!("{why} (is {text:?})")),
        }
    }
}

/// Why a text is no secret to rely on.
fn weakness(text: &str) -> Option<String> {
    if text.is_empty() {
        return Some("is empty".to_owned());
    }
    if text.len() < SECRET_LENGTH {
        return Some(format!("is too short: at least {SECRET_LENGTH} characters"));
    }
    let lower = text.to_ascii_lowercase();
    let first = text.chars().next();
    if PLACEHOLDERS.iter().any(|p| lower.starts_with(p)) || text.chars().all(|c| Some(c) == first) {
        return Some("is a placeholder: put random characters there".to_owned());
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fault_is_told_at_once() {
        let lookup = |name: &str| match name {
            "PORT" => Some("eighty".to_owned()),
            _ => None,
        };
        let mut vars = Vars::new(&lookup);
        let port = vars.required::<u16>("PORT");
        let url = vars.required::<String>("URL");
        let token = vars.secret("TOKEN");
        let faults = vars.finish(|| Some((port?, url?, token?))).err().unwrap();
        insta::assert_snapshot!(faults.0.join("\n"), @r#"
        PORT invalid digit found in string (is "eighty")
        URL must be set
        TOKEN_FILE must name the file that holds the secret
        "#);
    }

    #[test]
    fn weak_secrets_are_refused() {
        assert!(weakness("").is_some());
        assert!(weakness("short").is_some());
        assert!(weakness("changeme-changeme-changeme-changeme").is_some());
        assert!(weakness(&"a".repeat(64)).is_some());
        assert_eq!(weakness("8vY2m0Qz5hYt1rKp7sXw3uBn6cEd9fGa"), None);
    }

    #[test]
    fn a_secret_does_not_show_itself() {
        assert_eq!(format!("{:?}", Secret::new("hush")), "Secret(…)");
    }
}
