//! The two copies of the file of sealing keys: one of app-api, one of the orchestrator, which must be able to open whatever app-api
//! seals. So a key is added to the orchestrator's first and removed from it last, and each file changes by a rename.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, chown};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use protocol::inside::CIAL_UID;
use service::sealing_keys::{SealingKey, read_file};

/// The files at their paths.
#[derive(Clone, Debug)]
pub struct KeyFiles {
    pub app_api: PathBuf,
    pub orchestrator: PathBuf,
}

/// The keys in both files.
#[derive(Clone, Debug, PartialEq)]
pub struct KeySets {
    pub app_api: Vec<SealingKey>,
    pub orchestrator: Vec<SealingKey>,
}

/// The difference between the files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Copies {
    Equal,
    /// The orchestrator has a further key in front: the addition was interrupted.
    AdditionUnfinished,
    /// The orchestrator has further keys at the end: the removal was interrupted.
    RemovalUnfinished,
    /// Somebody changed one of them by hand.
    Differ,
}

impl KeySets {
    pub fn compare(&self) -> Copies {
        let Self { app_api, orchestrator } = self;
        if app_api == orchestrator {
            Copies::Equal
        } else if orchestrator.ends_with(app_api) {
            Copies::AdditionUnfinished
        } else if orchestrator.starts_with(app_api) {
            Copies::RemovalUnfinished
        } else {
            Copies::Differ
        }
    }
}

impl KeyFiles {
    /// # Errors
    /// A file that cannot be read.
    pub fn read(&self) -> anyhow::Result<KeySets> {
        Ok(KeySets {
            app_api: read_file(&self.app_api)?,
            orchestrator: read_file(&self.orchestrator)?,
        })
    }

    /// Writes both files, the orchestrator's first.
    ///
    /// # Errors
    /// The file system's own.
    pub fn add(&self, keys: &[SealingKey]) -> anyhow::Result<()> {
        write(&self.orchestrator, keys)?;
        write(&self.app_api, keys)
    }

    /// Writes both files, the orchestrator's last.
    ///
    /// # Errors
    /// The file system's own.
    pub fn remove(&self, kept: &[SealingKey]) -> anyhow::Result<()> {
        write(&self.app_api, kept)?;
        write(&self.orchestrator, kept)
    }
}

/// Replaces a file as a whole, so that a kill or a loss of power leaves the old one or the new one.
fn write(path: &Path, keys: &[SealingKey]) -> anyhow::Result<()> {
    let text: String = keys.iter().map(|key| format!("{}\n", key.reveal())).collect();
    replace(path, &text).with_context(|| format!("cannot write {}", path.display()))
}

fn replace(path: &Path, text: &str) -> io::Result<()> {
    let directory = path.parent().unwrap_or(Path::new("/"));
    let unfinished = directory.join(".sealing-keys");
    let mut options = OpenOptions::new();
    // A kill may have left one. It is readable for its owner alone from its first byte on.
    match fs::remove_file(&unfinished) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let mut file = options.write(true).create_new(true).mode(0o400).open(&unfinished)?;
    file.write_all(text.as_bytes())?;
    // The services read it as another user than root, as which the command runs in its container.
    if rustix::process::geteuid().is_root() {
        chown(&unfinished, Some(CIAL_UID), Some(CIAL_UID))?;
    }
    file.sync_all()?;
    fs::rename(&unfinished, path)?;
    File::open(directory)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use service::Secret;

    fn keys(names: &str) -> Vec<SealingKey> {
        let key = |name: char| SealingKey::new(Secret::new(name.to_string().repeat(32)));
        names.chars().map(key).collect()
    }

    #[test]
    fn an_interrupted_change_shows_in_the_copies() {
        for (app_api, orchestrator, copies) in [
            ("", "", Copies::Equal),
            ("ba", "ba", Copies::Equal),
            ("", "a", Copies::AdditionUnfinished),
            ("a", "ba", Copies::AdditionUnfinished),
            ("b", "ba", Copies::RemovalUnfinished),
            ("ba", "a", Copies::Differ),
            ("a", "b", Copies::Differ),
        ] {
            let sets = KeySets { app_api: keys(app_api), orchestrator: keys(orchestrator) };
            assert_eq!(sets.compare(), copies, "{app_api:?} {orchestrator:?}");
        }
    }

    #[test]
    fn files_are_replaced_whatever_an_interrupted_write_left() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| {
            fs::create_dir_all(directory.path().join(name)).unwrap();
            fs::write(directory.path().join(name).join(".sealing-keys"), "half").unwrap();
            directory.path().join(name).join("sealing-keys")
        };
        let files = KeyFiles { app_api: at("app-api"), orchestrator: at("orchestrator") };
        files.add(&keys("ba")).unwrap();
        assert_eq!(
            files.read().unwrap(),
            KeySets { app_api: keys("ba"), orchestrator: keys("ba") }
        );
        files.remove(&keys("b")).unwrap();
        assert_eq!(files.read().unwrap(), KeySets { app_api: keys("b"), orchestrator: keys("b") });
        assert!(!directory.path().join("app-api/.sealing-keys").exists());
    }
}
