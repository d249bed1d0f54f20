//! The keys of an installation from which the keys of [`sealed`] texts derive, so that one can replace another.
//!
//! A file holds them, one a line: the first one, the primary, seals, and all open. A text names the key that sealed it by the
//! key's id and a colon. Without a file, `CIAL_SSO_SECRET` seals; a text without an id was sealed with that secret, which opens
//! such texts forever. The file is read at each use: a rotation reaches services that run.

use std::fmt;
use std::io;
use std::path::PathBuf;

use protocol::TenantId;
use protocol::images::RegistryHost;
use uuid::Uuid;

use crate::sealed::{self, SealError};
use crate::{Secret, keys};

const MIN_KEY_CHARS: usize = 32;
/// The id of `CIAL_SSO_SECRET`, which stands in no text.
pub const SSO_SECRET_ID: &str = "sso-secret";

/// The use of a sealed text. A text opens for its own purpose alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Purpose {
    TenantEnv(TenantId),
    AppEnv(Uuid),
    Registry(RegistryHost),
    SecondFactor(Uuid),
    Model,
    Mail,
}

impl Purpose {
    fn derive(&self, master: &Secret) -> [u8; 32] {
        match self {
            Self::TenantEnv(tenant) => keys::env_key(master, *tenant),
            Self::AppEnv(app) => keys::app_env_key(master, *app),
            Self::Registry(host) => keys::registry_key(master, host),
            Self::SecondFactor(user) => keys::second_factor_key(master, *user),
            Self::Model => keys::model_key(master),
            Self::Mail => keys::mail_key(master),
        }
    }
}

/// The name of a key, which reveals nothing of it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KeyId(String);

impl KeyId {
    /// The id of the key that sealed this text.
    pub fn of_text(sealed: &str) -> Self {
        let id = sealed.split_once(':').map_or(SSO_SECRET_ID, |(id, _)| id);
        Self(id.to_owned())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A key of the file.
#[derive(Clone, Debug)]
pub struct SealingKey {
    pub id: KeyId,
    secret: Secret,
}

impl SealingKey {
    pub fn new(secret: Secret) -> Self {
        Self { id: KeyId(keys::sealing_key_id(&secret)), secret }
    }

    /// The key as its line of the file. Never pass it to a log or to an error.
    pub fn reveal(&self) -> &str {
        self.secret.reveal()
    }
}

impl PartialEq for SealingKey {
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id
    }
}

/// The reason for which a text cannot be sealed or opened.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SealingError {
    #[error("the text is sealed with the key {0}, which is not in the file of sealing keys")]
    UnknownKey(KeyId),
    /// The text belongs to another purpose or installation, or was changed.
    #[error("{error}: {id}")]
    Unopenable { id: KeyId, error: SealError },
    #[error("the file of sealing keys cannot be read: {0}")]
    File(String),
}

/// Where the keys are.
#[derive(Clone, Debug)]
pub struct SealingKeys {
    sso_secret: Secret,
    file: Option<PathBuf>,
}

impl SealingKeys {
    pub fn new(sso_secret: Secret, file: Option<PathBuf>) -> Self {
        Self { sso_secret, file }
    }

    /// Encrypts `plain` with the primary key.
    ///
    /// # Errors
    /// [`SealingError::File`]; the system gives no random bytes.
    pub fn seal(&self, purpose: &Purpose, plain: &[u8]) -> Result<String, SealingError> {
        self.read()?.seal(purpose, plain)
    }

    /// Decrypts a text that any of the keys sealed.
    ///
    /// # Errors
    /// [`SealingError`].
    pub fn open(&self, purpose: &Purpose, text: &str) -> Result<Vec<u8>, SealingError> {
        self.read()?.open(purpose, text)
    }

    /// Reads the file. One that is not there holds no key: before the first rotation there is none. Texts that name a key tell whether
    /// it is lost.
    ///
    /// # Errors
    /// [`SealingError::File`].
    pub fn read(&self) -> Result<Keyring, SealingError> {
        let keys = match &self.file {
            Some(path) => read_file(path)?,
            None => Vec::new(),
        };
        Ok(Keyring { sso_secret: self.sso_secret.clone(), keys })
    }
}

/// Reads the keys of a file, the primary first. A file that is not there holds none.
///
/// # Errors
/// [`SealingError::File`].
pub fn read_file(path: &std::path::Path) -> Result<Vec<SealingKey>, SealingError> {
    let refused = |rule: String| SealingError::File(format!("{}: {rule}", path.display()));
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(refused(error.to_string())),
    };
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let key = |line: &str| match line.len() {
        0..MIN_KEY_CHARS => Err(refused(format!("a key has at least {MIN_KEY_CHARS} characters"))),
        _ => Ok(SealingKey::new(Secret::new(line))),
    };
    lines.map(key).collect()
}

/// The keys at one moment.
#[derive(Clone, Debug)]
pub struct Keyring {
    sso_secret: Secret,
    keys: Vec<SealingKey>,
}

impl Keyring {
    /// The keys of the file, the primary first.
    pub fn keys(&self) -> &[SealingKey] {
        &self.keys
    }

    pub fn primary(&self) -> KeyId {
        self.keys.first().map_or_else(|| KeyId(SSO_SECRET_ID.to_owned()), |key| key.id.clone())
    }

    /// Returns whether a text of this key can be opened.
    pub fn knows(&self, id: &KeyId) -> bool {
        id.as_str() == SSO_SECRET_ID || self.keys.iter().any(|key| key.id == *id)
    }

    /// Encrypts `plain` with the primary key.
    ///
    /// # Errors
    /// The system gives no random bytes.
    pub fn seal(&self, purpose: &Purpose, plain: &[u8]) -> Result<String, SealingError> {
        let id = self.primary();
        let seal = |secret| {
            let sealed = sealed::seal(&purpose.derive(secret), plain);
            sealed.map_err(|error| SealingError::Unopenable { id: id.clone(), error })
        };
        match self.keys.first() {
            Some(key) => Ok(format!("{}:{}", key.id, seal(&key.secret)?)),
            None => seal(&self.sso_secret),
        }
    }

    /// Decrypts a text that any of the keys sealed.
    ///
    /// # Errors
    /// [`SealingError::UnknownKey`]; [`SealingError::Unopenable`].
    pub fn open(&self, purpose: &Purpose, text: &str) -> Result<Vec<u8>, SealingError> {
        let id = KeyId::of_text(text);
        let (secret, text) = match text.split_once(':') {
            None => (&self.sso_secret, text),
            Some((_, text)) => {
                let key = self.keys.iter().find(|key| key.id == id);
                (&key.ok_or_else(|| SealingError::UnknownKey(id.clone()))?.secret, text)
            }
        };
        let opened = sealed::open(&purpose.derive(secret), text);
        opened.map_err(|error| SealingError::Unopenable { id, error })
    }

    /// Seals the content of `text` with the primary key.
    ///
    /// # Errors
    /// [`SealingError::UnknownKey`]; [`SealingError::Unopenable`].
    pub fn reseal(&self, purpose: &Purpose, text: &str) -> Result<String, SealingError> {
        self.seal(purpose, &self.open(purpose, text)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: &str = "8vY2m0Qz5hYt1rKp7sXw3uBn6cEd9fGa";
    const NEW: &str = "Zt5h8vY2m0Qz1rKp7sXw3uBn6cEd9fGb";

    fn keyring(lines: &[&str]) -> Keyring {
        let keys = lines.iter().map(|line| SealingKey::new(Secret::new(*line))).collect();
        Keyring { sso_secret: Secret::new("sso-sso-sso-sso-sso-sso-sso-sso-"), keys }
    }

    #[test]
    fn every_key_opens_and_the_first_one_seals() {
        let (none, old, both, new) =
            (keyring(&[]), keyring(&[OLD]), keyring(&[NEW, OLD]), keyring(&[NEW]));
        let by_sso = none.seal(&Purpose::Mail, b"hush").unwrap();
        assert!(!by_sso.contains(':'), "{by_sso}");
        let by_old = old.seal(&Purpose::Mail, b"hush").unwrap();
        assert_eq!(KeyId::of_text(&by_old), old.primary());
        for text in [&by_sso, &by_old] {
            let by_new = both.reseal(&Purpose::Mail, text).unwrap();
            assert_eq!(KeyId::of_text(&by_new), new.primary());
            assert_eq!(both.open(&Purpose::Mail, text).unwrap(), b"hush");
            assert_eq!(new.open(&Purpose::Mail, &by_new).unwrap(), b"hush");
        }
        let unknown = SealingError::UnknownKey(old.primary());
        assert_eq!(new.open(&Purpose::Mail, &by_old), Err(unknown));
        assert!(both.open(&Purpose::Model, &by_old).is_err(), "another purpose");
    }

    #[test]
    fn a_key_of_the_file_opens_no_text_under_the_id_of_another() {
        let (old, both) = (keyring(&[OLD]), keyring(&[NEW, OLD]));
        let text = old.seal(&Purpose::Mail, b"hush").unwrap();
        let (_, sealed) = text.split_once(':').unwrap();
        for renamed in [format!("{}:{sealed}", both.primary()), sealed.to_owned()] {
            let opened = both.open(&Purpose::Mail, &renamed);
            assert!(matches!(opened, Err(SealingError::Unopenable { .. })), "{opened:?}");
        }
    }

    #[test]
    fn the_file_is_read_at_each_use_and_a_short_line_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("sealing-keys");
        let keys =
            SealingKeys::new(Secret::new("sso-sso-sso-sso-sso-sso-sso-sso-"), Some(path.clone()));
        assert_eq!(keys.read().unwrap().primary().as_str(), SSO_SECRET_ID);
        std::fs::write(&path, format!("{NEW}\n\n{OLD}\n")).unwrap();
        assert_eq!(keys.read().unwrap().keys(), keyring(&[NEW, OLD]).keys());
        std::fs::write(&path, "short\n").unwrap();
        let refused = keys.seal(&Purpose::Mail, b"hush").unwrap_err().to_string();
        assert!(refused.contains("32") && !refused.contains("short"), "{refused}");
    }
}
