//! Every code of a field's error, with its meaning. `docs/reference/problems.md` is made from this table.

use std::fmt;

use super::Code;

macro_rules! field_codes {
    ($($name:ident = $text:literal $means:literal,)+) => {
        /// The code of a [`FieldError`](super::FieldError): a stable name by which a client decides.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum FieldCode {
            $(#[doc = $means] $name,)+
            /// The value of the field is the reason for the whole problem, whose code it shares.
            Problem(Code),
        }

        impl FieldCode {
            /// Every code that is not also a problem's, with its meaning, in the order of the names.
            pub const MEANINGS: &'static [(Self, &'static str)] = &[$((Self::$name, $means),)+];

            /// The name on the wire.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)+
                    Self::Problem(code) => code.as_str(),
                }
            }
        }
    };
}

field_codes! {
    BuiltInApp = "built_in_app" "the built-in app has no releases to pin, and reads no variables",
    Died = "died" "the tenant exited while it started",
    ImageRefused = "image_refused" "the image is none of those that the installation lists",
    Invalid = "invalid" "the value breaks the rule that the message names",
    InvalidChallenge = "invalid_challenge" "the PKCE challenge of a command line's sign-in breaks the rule that the message names",
    InvalidEmail = "invalid_email" "it is no e-mail address",
    InvalidImage = "invalid_image" "it is no name of an image",
    InvalidIsAdmin = "invalid_is_admin" "a key with this role, or of one tenant, cannot be allowed everything",
    InvalidManifest = "invalid_manifest" "the manifest has the fault that the message names",
    InvalidName = "invalid_name" "the name has control characters, invisible characters or marks of direction",
    InvalidRedirect = "invalid_redirect" "the loopback address of a command line's sign-in breaks the rule that the message names",
    InvalidRole = "invalid_role" "the role is none of those that can be given there",
    InvalidText = "invalid_text" "the reason of a declaration breaks the rule that the message names",
    InvalidUrl = "invalid_url" "a webhook or the model cannot have this URL, for the reason that the message names",
    NoRelease = "no_release" "the app has no release yet",
    OutOfBounds = "out_of_bounds" "the number is none, or outside the bounds that the message names",
    OutOfRange = "out_of_range" "the time of a declaration breaks the rule that the message names",
    Refused = "refused" "the engine did not start the tenant",
    Required = "required" "the field is empty or shows nothing",
    SleepsBeforeItFreezes = "sleeps_before_it_freezes" "`sleep_after_seconds` is below `freeze_after_seconds`, and neither is 0",
    Slow = "slow" "some services of the tenant did not respond in time",
    TooCommon = "too_common" "the password is among the first to be guessed",
    TooLong = "too_long" "the text is longer than the message says",
    TooShort = "too_short" "the password has fewer than 8 characters",
    UnknownApp = "unknown_app" "there is no such app",
    UnknownCode = "unknown_code" "no sign-in of a command line waits under this code",
    UnknownRelease = "unknown_release" "the app has no such release",
    UnknownWord = "unknown_word" "the value is none of the words that the message names",
    Waits = "waits" "no error: how many wakes are before that of the tenant",
    WrongSecret = "wrong_secret" "it is not the password of the person, or no code of their second factor",
}

impl FieldCode {
    /// The code of a field with this name. `None` for a name of another release, and for a problem's.
    pub fn parse(name: &str) -> Option<Self> {
        Self::MEANINGS.iter().map(|(code, _)| *code).find(|code| code.as_str() == name)
    }
}

impl From<Code> for FieldCode {
    fn from(code: Code) -> Self {
        Self::Problem(code)
    }
}

impl fmt::Display for FieldCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_unique_names_in_order() {
        for pair in FieldCode::MEANINGS.windows(2) {
            assert!(pair[0].0.as_str() < pair[1].0.as_str(), "{} before {}", pair[0].0, pair[1].0);
        }
        for (code, _) in FieldCode::MEANINGS {
            assert!(code.as_str().bytes().all(|b| b.is_ascii_lowercase() || b == b'_'), "{code}");
            assert_eq!(Code::parse(code.as_str()), None, "{code} is a problem's");
            assert_eq!(FieldCode::parse(code.as_str()), Some(*code));
        }
    }
}
