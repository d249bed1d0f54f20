//! The three forms of a key: `env:VARIABLE`, `file:PATH`, or the key itself.

use std::fmt;
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

/// Where a key is. Its `Debug` form does not show a key.
#[derive(Clone, PartialEq, Eq)]
pub enum Credential {
    Variable(String),
    File(PathBuf),
    Key(String),
}

/// A key that cannot be had.
#[derive(Debug)]
pub enum CredentialError {
    /// The text names neither a key, a variable nor a file.
    Empty,
    /// The variable is not set, or empty.
    Unset(String),
    Unreadable(PathBuf, std::io::Error),
    EmptyFile(PathBuf),
    /// The key has characters that a header cannot carry, like a line break.
    NotAKey,
}

impl Credential {
    /// `home` replaces `~` in front of a file's path.
    pub fn parse(text: &str, home: Option<&Path>) -> Self {
        if let Some(name) = text.strip_prefix("env:") {
            Self::Variable(name.to_owned())
        } else if let Some(path) = text.strip_prefix("file:") {
            match (path.strip_prefix("~/"), home) {
                (Some(below), Some(home)) => Self::File(home.join(below)),
                (_, _) => Self::File(PathBuf::from(path)),
            }
        } else {
            Self::Key(text.to_owned())
        }
    }

    /// Returns the key.
    ///
    /// # Errors
    /// There is none where the text points.
    pub fn read(&self, lookup: impl Fn(&str) -> Option<String>) -> Result<String, CredentialError> {
        let key = match self {
            Self::Key(key) => key.clone(),
            Self::Variable(name) => {
                lookup(name).ok_or_else(|| CredentialError::Unset(name.clone()))?
            }
            Self::File(path) => {
                let text = std::fs::read_to_string(path);
                let text = text.map_err(|e| CredentialError::Unreadable(path.clone(), e))?;
                let key = text.trim_end_matches(['\n', '\r']);
                if key.is_empty() {
                    return Err(CredentialError::EmptyFile(path.clone()));
                }
                key.to_owned()
            }
        };
        if key.is_empty() {
            return Err(CredentialError::Empty);
        }
        // RFC 6750 §2.1 and RFC 9110 §5.5: a token without blanks and control characters.
        if !key.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(CredentialError::NotAKey);
        }
        Ok(key)
    }

    /// The text for lists: names of variables and files, never a key.
    pub fn describe(&self) -> String {
        match self {
            Self::Variable(name) => format!("env:{name}"),
            Self::File(path) => format!("file:{}", path.display()),
            Self::Key(_) => "(a key, hidden)".to_owned(),
        }
    }
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.describe())
    }
}

impl fmt::Display for CredentialError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("the key is empty"),
            Self::Unset(name) => write!(f, "the variable {name} is not set"),
            Self::Unreadable(path, error) => {
                write!(f, "{} cannot be read: {error}", path.display())
            }
            Self::EmptyFile(path) => write!(f, "{} is empty", path.display()),
            Self::NotAKey => {
                f.write_str("the key has blanks, line breaks or other characters that no key has")
            }
        }
    }
}

/// The permissions of a file that holds a secret, if others than its owner can read it.
pub fn is_open_to_others(path: &Path) -> Option<Permissions> {
    let permissions = std::fs::metadata(path).ok()?.permissions();
    (permissions.mode() & 0o077 != 0).then_some(permissions)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<String, String> {
        let lookup = |name: &str| (name == "SET").then(|| "cial_x".to_owned());
        Credential::parse(text, Some(Path::new("/home/me"))).read(lookup).map_err(|e| e.to_string())
    }

    #[test]
    fn the_three_forms_are_told_apart() {
        let parse = |text| Credential::parse(text, Some(Path::new("/home/me")));
        assert_eq!(parse("env:A"), Credential::Variable("A".to_owned()));
        assert_eq!(parse("file:/a/b"), Credential::File(PathBuf::from("/a/b")));
        assert_eq!(parse("file:~/b"), Credential::File(PathBuf::from("/home/me/b")));
        assert_eq!(parse("cial_abc"), Credential::Key("cial_abc".to_owned()));
        assert_eq!(format!("{:?}", parse("cial_abc")), "(a key, hidden)");
    }

    #[test]
    fn a_missing_key_names_where_it_was_looked_for() {
        assert_eq!(read("env:SET"), Ok("cial_x".to_owned()));
        assert_eq!(read("env:UNSET"), Err("the variable UNSET is not set".to_owned()));
        assert_eq!(read(""), Err("the key is empty".to_owned()));
        assert!(read("file:/not/there").unwrap_err().starts_with("/not/there cannot be read"));
        assert!(read("cial_x\r\nX-Other: 1").unwrap_err().contains("line breaks"));
    }

    #[test]
    fn only_line_breaks_at_the_end_of_a_file_are_left_out() {
        let path = std::env::temp_dir().join(format!("cial-key-{}", std::process::id()));
        let read = |content: &str| {
            std::fs::write(&path, content).unwrap();
            Credential::File(path.clone()).read(|_| None).map_err(|error| error.to_string())
        };
        assert_eq!(read("cial_x\n"), Ok("cial_x".to_owned()));
        assert_eq!(read("cial_x\r\n\n"), Ok("cial_x".to_owned()));
        assert!(read("\n").unwrap_err().ends_with("is empty"));
        assert!(read("cial_x \n").is_err());
        std::fs::remove_file(&path).unwrap();
    }
}
