//! Passwords that are among the first guesses of an attacker.
//!
//! `common_passwords.txt` is our own selection, in lower case, of what leads published counts of leaked passwords:
//! entries of eight characters and more, because shorter ones are refused by their length.

const LIST: &str = include_str!("common_passwords.txt");
/// Words to which people append digits and signs until a form accepts them.
const WORDS: [&str; 12] = [
    "password",
    "passwort",
    "passw0rd",
    "p@ssw0rd",
    "welcome",
    "qwerty",
    "admin",
    "letmein",
    "iloveyou",
    "changeme",
    "secret",
    "administrator",
];

/// Whether the password is a common one: in any case, and with digits and signs appended.
pub fn is_common(password: &str) -> bool {
    let lower = password.to_lowercase();
    let stem = lower.trim_end_matches(|c: char| c.is_ascii_digit() || c.is_ascii_punctuation());
    LIST.lines().any(|common| common == lower || common == stem) || WORDS.contains(&stem)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn common_passwords_are_known_in_their_usual_disguises() {
        for common in [
            "password",
            "PassWord",
            "Password123!",
            "qwerty2026",
            "123456789",
            "Welcome#1",
            "1q2w3e4r",
            "Secret!!",
        ] {
            assert!(is_common(common), "{common}");
        }
        for other in
            ["correct horse", "my password is long", "tr0ub4dor&3", "12345678a!x", "ÄÖÜäöüß!"]
        {
            assert!(!is_common(other), "{other}");
        }
    }

    #[test]
    fn the_list_holds_what_the_other_rules_let_through() {
        for line in LIST.lines() {
            assert!(line.len() >= 8 && line == line.to_lowercase(), "{line}");
        }
        assert!(LIST.lines().count() > 200);
    }
}
