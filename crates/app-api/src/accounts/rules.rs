//! What an e-mail address, a name and a password must be. Pure.

/// Why a field's value is refused.
use protocol::busy::is_direction_mark;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    pub code: &'static str,
    pub message: &'static str,
}

const fn fault<T>(code: &'static str, message: &'static str) -> Result<T, Fault> {
    Err(Fault { code, message })
}

pub const EMAIL_LENGTH: usize = 254;
const NAME_LENGTH: usize = 100;

/// The address in its one form: trimmed, lower case.
pub fn email(text: &str) -> Result<String, Fault> {
    let email = text.trim().to_lowercase();
    if email.is_empty() {
        return fault("required", "Enter an e-mail address.");
    }
    let parts = email.split_once('@');
    let plain = |c: char| !c.is_whitespace() && !c.is_control() && !"<>()[]\\,;:\"".contains(c);
    let fits = parts.is_some_and(|(local, domain)| {
        let label = |l: &str| !l.is_empty() && l.chars().all(|c| c.is_alphanumeric() || c == '-');
        (1..=64).contains(&local.len()) && domain.split('.').all(label)
    });
    if email.len() > EMAIL_LENGTH || !fits || !email.chars().all(plain) {
        return fault("invalid_email", "Enter an e-mail address like name@example.com.");
    }
    Ok(email)
}

/// A name for people to read: of a person or of a tenant.
pub fn name(text: &str) -> Result<String, Fault> {
    let name = text.trim();
    if name.is_empty() {
        return fault("required", "Enter a name.");
    }
    if name.chars().count() > NAME_LENGTH {
        return fault("too_long", "Use at most 100 characters.");
    }
    if name.chars().any(|c| c.is_control() || is_direction_mark(c)) {
        return fault(
            "invalid_name",
            "Use no line breaks, control characters or marks of direction.",
        );
    }
    Ok(name.to_owned())
}

pub fn password(text: &str, email: &str) -> Result<(), Fault> {
    const COMMON: &[&str] =
        &["password", "12345678", "123456789", "1234567890", "qwertyuiop", "iloveyou", "changeme"];
    let length = text.chars().count();
    if length < 8 {
        return fault("too_short", "Use at least 8 characters.");
    }
    if length > 256 {
        return fault("too_long", "Use at most 256 characters.");
    }
    let (lower, first) = (text.to_lowercase(), text.chars().next());
    let guessable = COMMON.contains(&lower.as_str())
        || lower == email.trim().to_lowercase()
        || text.chars().all(|c| Some(c) == first);
    if guessable {
        return fault("too_common", "Choose a password that is harder to guess.");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_by_the_table() {
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
    fn passwords_by_the_table() {
        for good in ["correct horse", "ÄÖÜäöüß!", &"ab".repeat(128)] {
            assert_eq!(password(good, "a@b"), Ok(()), "{good}");
        }
        for (bad, code) in [
            ("", "too_short"),
            ("1234567", "too_short"),
            ("PassWord", "too_common"),
            ("aaaaaaaaaaaa", "too_common"),
            ("Ada@example.com", "too_common"),
            ("ab".repeat(129).as_str(), "too_long"),
        ] {
            assert_eq!(password(bad, "ada@example.com").unwrap_err().code, code, "{bad}");
        }
    }

    #[test]
    fn names_by_the_table() {
        assert_eq!(name("  Ada ").unwrap(), "Ada");
        for bad in ["", "  ", "a\nb", "a\u{202e}b", "a\u{2066}b", "a\u{200f}b", &"x".repeat(101)] {
            assert!(name(bad).is_err(), "{bad:?}");
        }
    }
}
