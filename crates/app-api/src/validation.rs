//! The rules for e-mail addresses, names and passwords.

use std::fmt::Display;

use protocol::problem::{Code, FieldCode};
use protocol::text::{LineError, check_line};
use service::api_error::ApiError;

use crate::auth::common_passwords::is_common;

/// The reason for which a field's value is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FieldError {
    pub code: FieldCode,
    pub message: &'static str,
}

const fn error<T>(code: FieldCode, message: &'static str) -> Result<T, FieldError> {
    Err(FieldError { code, message })
}

pub const MAX_EMAIL_BYTES: usize = 254;
const MAX_NAME_CHARS: usize = 100;

/// Returns the address in its normal form: trimmed, lower case.
pub fn email(text: &str) -> Result<String, FieldError> {
    let email = text.trim().to_lowercase();
    if email.is_empty() {
        return error(FieldCode::Required, "Enter an e-mail address.");
    }
    let parts = email.split_once('@');
    let plain = |c: char| !c.is_whitespace() && !c.is_control() && !"<>()[]\\,;:\"".contains(c);
    let fits = parts.is_some_and(|(local, domain)| {
        let label = |l: &str| !l.is_empty() && l.chars().all(|c| c.is_alphanumeric() || c == '-');
        (1..=64).contains(&local.len()) && domain.split('.').all(label)
    });
    if email.len() > MAX_EMAIL_BYTES || !fits || !email.chars().all(plain) {
        return error(FieldCode::InvalidEmail, "Enter an e-mail address like name@example.com.");
    }
    Ok(email)
}

/// Returns the trimmed name of a person or of a tenant.
///
/// # Errors
/// By [`check_line`]: a name needs at least one visible character.
pub fn name(text: &str) -> Result<String, FieldError> {
    match check_line(text, MAX_NAME_CHARS) {
        Ok(name) => Ok(name.to_owned()),
        Err(LineError::Blank) => error(FieldCode::Required, "Enter a name."),
        Err(LineError::TooLong) => error(FieldCode::TooLong, "Use at most 100 characters."),
        Err(LineError::Unprintable) => error(
            FieldCode::InvalidName,
            "Use no line breaks, control characters, invisible characters or marks of direction.",
        ),
    }
}

/// Checks a new password.
pub fn password(text: &str, email: &str) -> Result<(), FieldError> {
    let length = text.chars().count();
    if length < 8 {
        return error(FieldCode::TooShort, "Use at least 8 characters.");
    }
    if length > 256 {
        return error(FieldCode::TooLong, "Use at most 256 characters.");
    }
    let (lower, first) = (text.to_lowercase(), text.chars().next());
    let guessable = is_common(text)
        || lower == email.trim().to_lowercase()
        || text.chars().all(|c| Some(c) == first);
    if guessable {
        return error(FieldCode::TooCommon, "Choose a password that is harder to guess.");
    }
    Ok(())
}

/// A refusal for one field of the request. The detail and the field's message are the same sentence.
pub fn refused_field(
    code: Code,
    field: &str,
    reason: impl Into<FieldCode>,
    detail: impl Into<String>,
) -> ApiError {
    let detail = detail.into();
    ApiError::new(code, detail.clone()).with_field_error(field, reason, detail)
}

/// A refusal of a slug; `why` is the rule, like "must …".
pub fn invalid_slug(why: impl Display) -> ApiError {
    refused_field(Code::InvalidSlug, "slug", Code::InvalidSlug, format!("The slug {why}."))
}

/// A 422 that names the error of each field that has one.
pub fn invalid_fields(errors: &[(&str, Option<FieldError>)]) -> ApiError {
    let detail = "Some fields need another value.";
    let failure = ApiError::new(Code::InvalidFields, detail);
    errors
        .iter()
        .filter_map(|(field, error)| Some((field, error.as_ref()?)))
        .fold(failure, |failure, (field, error)| {
            failure.with_field_error(field, error.code, error.message)
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn e_mail_addresses_are_checked() {
        assert_eq!(email(" Ada@Example.COM ").unwrap(), "ada@example.com");
        for good in ["a@b", "a.b+c@d-e.org", "ü@müller.de", "o'x@y.z"] {
            assert!(email(good).is_ok(), "{good}");
        }
        let long = format!("{}@b.c", "x".repeat(65));
        let longer = format!("a@{}", "b.".repeat(130));
        for bad in
            ["", "a", "@b", "a@", "a b@c.d", "a@b..c", "a@b@c", "a@b\n.c", "<a@b>", &long, &longer]
        {
            assert!(email(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn guessable_passwords_are_refused() {
        for good in ["correct horse", "ÄÖÜäöüß!", &"ab".repeat(128)] {
            assert_eq!(password(good, "a@b"), Ok(()), "{good}");
        }
        for (bad, code) in [
            ("", FieldCode::TooShort),
            ("1234567", FieldCode::TooShort),
            ("PassWord", FieldCode::TooCommon),
            ("aaaaaaaaaaaa", FieldCode::TooCommon),
            ("Ada@example.com", FieldCode::TooCommon),
            ("ab".repeat(129).as_str(), FieldCode::TooLong),
        ] {
            assert_eq!(password(bad, "ada@example.com").unwrap_err().code, code, "{bad}");
        }
    }

    #[test]
    fn unreadable_names_are_refused() {
        assert_eq!(name("  Ada ").unwrap(), "Ada");
        for bad in ["", "  ", "a\nb", "a\u{202e}b", "a\u{2066}b", "a\u{200f}b", &"x".repeat(101)] {
            assert!(name(bad).is_err(), "{bad:?}");
        }
        for blank in
            ["\u{200b}", "\u{ad}", "\u{2800}", "\u{3164}", "\u{feff}", "\u{2060}", "\u{e0041}"]
        {
            assert_eq!(name(blank).unwrap_err().code, FieldCode::Required, "{blank:?}");
        }
        assert_eq!(name("👩\u{200d}💻").unwrap(), "👩\u{200d}💻");
    }
}
