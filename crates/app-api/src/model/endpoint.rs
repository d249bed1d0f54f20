//! The rules for the endpoint of the model. Pure.

use protocol::model::SetModel;
use protocol::problem::FieldCode;
use protocol::text::{LineError, check_line};
use service::Secret;
use url::Url;

use crate::outbound::target::Targets;
use crate::validation::FieldError;

pub const DEFAULT_REQUESTS_PER_MINUTE: u32 = 20;
pub const DEFAULT_TOKENS_PER_DAY: u64 = 200_000;

const MAX_URL_BYTES: usize = 2_000;
const MAX_MODEL_CHARS: usize = 200;
const MAX_KEY_BYTES: usize = 4 << 10;
const MAX_PROMPT_BYTES: usize = 16 << 10;
const MAX_MAX_TOKENS: u32 = 1_000_000;
const MAX_REQUESTS_PER_MINUTE: u32 = 100_000;
const MAX_TOKENS_PER_DAY: u64 = 1_000_000_000_000;

/// An endpoint that keeps the rules.
#[derive(Debug)]
pub struct CheckedModel {
    /// Without a slash at its end.
    pub base_url: String,
    pub model: String,
    pub key: KeyChange,
    pub system_prompt: Option<String>,
    pub max_tokens: Option<i32>,
    pub requests_per_minute: i32,
    pub tokens_per_day: i64,
}

/// A change of the key.
#[derive(Debug)]
pub enum KeyChange {
    Keep,
    Remove,
    Replace(Secret),
}

/// Checks all fields. `targets`: where the endpoint may be; a name is checked when it is resolved.
///
/// # Errors
/// The fields that break a rule.
pub fn check(
    wanted: &SetModel,
    targets: Targets,
) -> Result<CheckedModel, Vec<(&'static str, FieldError)>> {
    let mut faults = Vec::new();
    let base_url = note("base_url", check_url(&wanted.base_url, targets), &mut faults);
    let model = note("model", check_model(&wanted.model), &mut faults);
    let key = note("key", check_key(wanted.key.as_deref()), &mut faults);
    let prompt = wanted.system_prompt.as_deref().unwrap_or_default();
    let system_prompt = note("system_prompt", check_prompt(prompt), &mut faults);
    let max_tokens = wanted.max_tokens.map(|tokens| {
        let message = "Use a number from 1 to 1,000,000.";
        within(tokens.into(), MAX_MAX_TOKENS.into(), message)
    });
    let max_tokens = note("max_tokens", max_tokens.transpose(), &mut faults).flatten();
    let requests = wanted.requests_per_minute.unwrap_or(DEFAULT_REQUESTS_PER_MINUTE);
    let message = "Use a number from 1 to 100,000.";
    let requests = within(requests.into(), MAX_REQUESTS_PER_MINUTE.into(), message);
    let requests = note("requests_per_minute", requests, &mut faults);
    let tokens = wanted.tokens_per_day.unwrap_or(DEFAULT_TOKENS_PER_DAY);
    let message = "Use a number from 1 to 1,000,000,000,000.";
    let tokens = note("tokens_per_day", within(tokens, MAX_TOKENS_PER_DAY, message), &mut faults);
    let checked = (|| {
        Some(CheckedModel {
            base_url: base_url?,
            model: model?,
            key: key?,
            system_prompt: system_prompt?,
            max_tokens: max_tokens.map(i32::try_from).transpose().ok()?,
            requests_per_minute: i32::try_from(requests?).ok()?,
            tokens_per_day: tokens?,
        })
    })();
    checked.filter(|_| faults.is_empty()).ok_or(faults)
}

/// Whether both addresses lead to the same server: a key is never sent to another one than it was given for.
pub fn is_same_server(one: &str, other: &str) -> bool {
    let origin = |url: &str| Url::parse(url).ok().map(|url| url.origin());
    origin(one).is_some_and(|one| Some(one) == origin(other))
}

/// The address of completions.
pub fn completions_url(base_url: &str) -> String {
    format!("{base_url}/chat/completions")
}

fn note<T>(
    field: &'static str,
    checked: Result<T, FieldError>,
    faults: &mut Vec<(&'static str, FieldError)>,
) -> Option<T> {
    checked.map_err(|fault| faults.push((field, fault))).ok()
}

const fn fault<T>(code: FieldCode, message: &'static str) -> Result<T, FieldError> {
    Err(FieldError { code, message })
}

fn check_url(text: &str, targets: Targets) -> Result<String, FieldError> {
    let text = text.trim();
    if text.len() > MAX_URL_BYTES {
        return fault(FieldCode::TooLong, "Use at most 2,000 characters.");
    }
    let example = "Enter a URL like https://api.example.com/v1.";
    let Ok(url) = Url::parse(text) else { return fault(FieldCode::InvalidUrl, example) };
    if !matches!(url.scheme(), "http" | "https") {
        return fault(FieldCode::InvalidUrl, "Use http or https.");
    }
    if !url.username().is_empty() || url.password().is_some() {
        return fault(FieldCode::InvalidUrl, "Leave out the user name and the password.");
    }
    if url.query().is_some() || url.fragment().is_some() {
        return fault(FieldCode::InvalidUrl, "Leave out what follows the path.");
    }
    if !targets.permits_url(&url) {
        let message = "Use a public address, or permit private ones with CIAL_MODEL_TARGETS=any.";
        return fault(FieldCode::InvalidUrl, message);
    }
    Ok(url.as_str().trim_end_matches('/').to_owned())
}

fn check_model(text: &str) -> Result<String, FieldError> {
    match check_line(text, MAX_MODEL_CHARS) {
        Ok(model) => Ok(model.to_owned()),
        Err(LineError::Blank) => fault(FieldCode::Required, "Enter the name of a model."),
        Err(LineError::TooLong) => fault(FieldCode::TooLong, "Use at most 200 characters."),
        Err(LineError::Unprintable) => {
            fault(FieldCode::InvalidName, "Use no line breaks and no control characters.")
        }
    }
}

fn check_key(key: Option<&str>) -> Result<KeyChange, FieldError> {
    let Some(key) = key else { return Ok(KeyChange::Keep) };
    if key.is_empty() {
        return Ok(KeyChange::Remove);
    }
    if key.len() > MAX_KEY_BYTES {
        return fault(FieldCode::TooLong, "Use at most 4,096 characters.");
    }
    if !key.bytes().all(|byte| byte.is_ascii_graphic()) {
        return fault(FieldCode::Invalid, "Use visible characters of ASCII, and no blanks.");
    }
    Ok(KeyChange::Replace(Secret::new(key)))
}

/// An empty prompt is none.
fn check_prompt(prompt: &str) -> Result<Option<String>, FieldError> {
    if prompt.len() > MAX_PROMPT_BYTES {
        return fault(FieldCode::TooLong, "Use at most 16 KiB.");
    }
    if prompt.contains('\0') {
        return fault(FieldCode::Invalid, "Use no NUL.");
    }
    Ok((!prompt.trim().is_empty()).then(|| prompt.to_owned()))
}

fn within(number: u64, max: u64, message: &'static str) -> Result<i64, FieldError> {
    match i64::try_from(number) {
        Ok(fits) if (1..=max).contains(&number) => Ok(fits),
        Ok(_) | Err(_) => fault(FieldCode::Invalid, message),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn model(base_url: &str) -> SetModel {
        SetModel {
            base_url: base_url.to_owned(),
            model: "small".to_owned(),
            key: None,
            system_prompt: None,
            max_tokens: None,
            requests_per_minute: None,
            tokens_per_day: None,
        }
    }

    fn faults(wanted: &SetModel) -> Vec<&'static str> {
        let faults =
            check(wanted, Targets::Public).map(|_| Vec::new()).unwrap_or_else(|faults| faults);
        faults.into_iter().map(|(field, _)| field).collect()
    }

    #[test]
    fn what_is_absent_has_its_default() {
        let checked = check(&model(" https://api.example.com/v1/ "), Targets::Public).unwrap();
        assert_eq!(checked.base_url, "https://api.example.com/v1");
        assert_eq!((checked.requests_per_minute, checked.tokens_per_day), (20, 200_000));
        assert!(matches!(checked.key, KeyChange::Keep));
        assert_eq!((checked.max_tokens, checked.system_prompt), (None, None));
        let checked = check(&model("http://127.0.0.1:8000"), Targets::Any).unwrap();
        let url = completions_url(&checked.base_url);
        assert_eq!(url, "http://127.0.0.1:8000/chat/completions");
    }

    #[test]
    fn every_field_that_breaks_a_rule_is_named() {
        for url in [
            "",
            "api.example.com",
            "ftp://a.b",
            "https://u@a.b",
            "https://:p@a.b",
            "http://a.b?x=1",
            "http://a.b#x",
            "http://127.0.0.1:8000",
            "http://[::ffff:10.0.0.1]/v1",
            "http://0xa9fea9fe/latest",
        ] {
            assert_eq!(faults(&model(url)), ["base_url"], "{url}");
        }
        let all = SetModel {
            base_url: format!("http://a.b/{}", "x".repeat(2_000)),
            model: "a\nb".to_owned(),
            key: Some("two words".to_owned()),
            system_prompt: Some("x".repeat(MAX_PROMPT_BYTES + 1)),
            max_tokens: Some(0),
            requests_per_minute: Some(0),
            tokens_per_day: Some(u64::MAX),
        };
        let fields = [
            "base_url",
            "model",
            "key",
            "system_prompt",
            "max_tokens",
            "requests_per_minute",
            "tokens_per_day",
        ];
        assert_eq!(faults(&all), fields);
        for key in ["k\u{e9}y".to_owned(), "k\n".to_owned(), "k".repeat(MAX_KEY_BYTES + 1)] {
            assert_eq!(faults(&SetModel { key: Some(key), ..model("http://a.b") }), ["key"]);
        }
    }

    #[test]
    fn a_key_belongs_to_one_server() {
        let base = "https://api.example.com/v1";
        assert!(is_same_server(base, "https://api.example.com:443/v2"));
        for other in [
            "http://api.example.com/v1",
            "https://api.example.com:8443/v1",
            "https://evil.example/v1",
            "x",
        ] {
            assert!(!is_same_server(base, other), "{other}");
        }
    }
}
