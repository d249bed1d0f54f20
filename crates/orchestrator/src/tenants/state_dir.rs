//! The state that must outlive this process and is not on the engine: one small file per tenant. A lost file costs one
//! idle period and a few reasons, never a tenant.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use protocol::sleep::LastWake;
use protocol::spec::Spec;
use protocol::{TenantId, Timestamp};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;
use uuid::Uuid;

/// The state that was last requested for a tenant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TargetState {
    /// Also the default for an unknown tenant: a container that ended under this target ended by itself.
    #[default]
    Running,
    /// Stopped by its owner.
    Stopped,
    /// Stopped because it was idle.
    Asleep,
}

/// The content of one file. Each field is read by itself: a missing or unreadable field is `None`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct PersistedState {
    #[serde(rename = "intent", deserialize_with = "readable_or_default")]
    pub target: TargetState,
    /// Includes the sleep policy. A wake makes the container from this spec when none exists.
    #[serde(deserialize_with = "spec_of_any_build")]
    pub spec: Option<Spec>,
    #[serde(deserialize_with = "readable_or_default")]
    pub last_use: Option<Timestamp>,
    #[serde(deserialize_with = "readable_or_default")]
    pub asleep_because: Option<String>,
    #[serde(deserialize_with = "readable_or_default")]
    pub last_wake: Option<LastWake>,
    /// Admin sessions that have ended, as app-api last reported them.
    #[serde(deserialize_with = "readable_or_default")]
    pub revoked_sessions: Vec<Uuid>,
}

/// The directory of all state files: `{id}.json`, written as `.{id}.json` and renamed.
#[derive(Debug)]
pub struct StateDir {
    directory: PathBuf,
    /// One write at a time: the state that is written last is the latest.
    writing: Mutex<()>,
}

impl StateDir {
    /// Does no I/O.
    pub fn new(directory: PathBuf) -> Self {
        Self { directory, writing: Mutex::default() }
    }

    /// Returns the default for a tenant without a file. A file that exists and cannot be parsed, after a loss of power,
    /// reads as asleep: as running, the tenant would look crashed, and all such tenants would be started at once.
    pub fn read(&self, id: TenantId) -> PersistedState {
        let Ok(text) = fs::read(self.path(id)) else { return PersistedState::default() };
        let unreadable =
            || PersistedState { target: TargetState::Asleep, ..PersistedState::default() };
        serde_json::from_slice(&text).unwrap_or_else(|_| unreadable())
    }

    /// Writes the state that `latest` returns, and nothing for `None`. `latest` is called with this directory's lock held.
    /// Returns whether a file was written.
    ///
    /// # Errors
    /// The file system's own, [`io::ErrorKind::StorageFull`] among them. The old file is intact then.
    pub(super) fn write_latest(
        &self,
        id: TenantId,
        latest: impl FnOnce() -> Option<PersistedState>,
    ) -> io::Result<bool> {
        let _one = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(state) = latest() else { return Ok(false) };
        self.write(id, &state)?;
        Ok(true)
    }

    /// Replaces the file as a whole, as far as a kill of this process goes. A loss of power may undo the write or empty the
    /// file: leases are granted on the same threads, and visitors must not wait for a disk.
    fn write(&self, id: TenantId, state: &PersistedState) -> io::Result<()> {
        let temporary = self.temporary_path(id);
        let written = write_file(&temporary, &serde_json::to_vec(state)?)
            .and_then(|()| fs::rename(&temporary, self.path(id)));
        if written.is_err() {
            // Frees the bytes of a full disk.
            let _ = fs::remove_file(&temporary);
        }
        written
    }

    /// Removes the file, and the temporary file of an interrupted write. Succeeds when neither exists.
    ///
    /// # Errors
    /// The file system's own.
    pub fn remove(&self, id: TenantId) -> io::Result<()> {
        let _one = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        remove_if_present(&self.temporary_path(id))?;
        remove_if_present(&self.path(id))
    }

    /// Removes the temporary files that a process left behind when it was killed during a write. Must run before this
    /// process writes; returns the number of files removed.
    ///
    /// # Errors
    /// The file system's own.
    pub fn remove_temporary_files(&self) -> io::Result<usize> {
        let mut removed = 0;
        for entry in fs::read_dir(&self.directory)? {
            let name = entry?.file_name();
            if name.to_str().is_some_and(is_temporary) {
                remove_if_present(&self.directory.join(&name))?;
                removed += 1;
            }
        }
        Ok(removed)
    }

    fn path(&self, id: TenantId) -> PathBuf {
        self.directory.join(format!("{id}.json"))
    }

    fn temporary_path(&self, id: TenantId) -> PathBuf {
        self.directory.join(format!(".{id}.json"))
    }
}

/// Only names that [`StateDir::temporary_path`] makes: the directory may hold files of others.
fn is_temporary(name: &str) -> bool {
    let id = name.strip_prefix('.').and_then(|name| name.strip_suffix(".json"));
    id.is_some_and(|id| id.parse::<TenantId>().is_ok())
}

fn write_file(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut options = OpenOptions::new();
    let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(path)?;
    file.write_all(content)
}

fn remove_if_present(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

fn readable_or_default<'de, D, T>(from: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: DeserializeOwned + Default,
{
    Ok(serde_json::from_value(Value::deserialize(from)?).unwrap_or_default())
}

fn spec_of_any_build<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Spec>, D::Error> {
    Ok(Option::<Value>::deserialize(from)?.and_then(lenient::spec))
}

/// [`Spec`] refuses unknown fields of a caller. In a file they come from a later build and are skipped.
mod lenient {
    use std::collections::BTreeMap;

    use protocol::process::AppSpec;
    use protocol::spec::{Limits, Policy, Spec, WakeOn};
    use protocol::{Slug, TenantId};
    use serde::{Deserialize, Deserializer};
    use serde_json::Value;

    pub(super) fn spec(value: Value) -> Option<Spec> {
        #[derive(Deserialize)]
        struct Any(#[serde(with = "AnySpec")] Spec);
        serde_json::from_value(value).ok().map(|Any(spec)| spec)
    }

    #[derive(Deserialize)]
    #[serde(remote = "Spec")]
    struct AnySpec {
        id: TenantId,
        slug: Slug,
        generation: i64,
        #[serde(default)]
        image: Option<String>,
        #[serde(default)]
        env: BTreeMap<String, String>,
        #[serde(default)]
        sealed_env: Option<String>,
        #[serde(default, deserialize_with = "app")]
        app: Option<AppSpec>,
        #[serde(default, with = "AnyLimits")]
        limits: Limits,
        #[serde(default, with = "AnyPolicy")]
        policy: Policy,
    }

    fn app<'de, D: Deserializer<'de>>(from: D) -> Result<Option<AppSpec>, D::Error> {
        #[derive(Deserialize)]
        struct Any(#[serde(with = "AnyApp")] AppSpec);
        Ok(Option::<Any>::deserialize(from)?.map(|Any(app)| app))
    }

    #[derive(Deserialize)]
    #[serde(remote = "AppSpec")]
    struct AnyApp {
        #[serde(default)]
        command: Option<Vec<String>>,
        #[serde(default)]
        port: Option<u16>,
        #[serde(default)]
        health_path: Option<String>,
        #[serde(default)]
        public_paths: Vec<String>,
    }

    #[derive(Deserialize)]
    #[serde(remote = "Limits")]
    struct AnyLimits {
        cpu_millis: u32,
        memory_bytes: u64,
        pids: u32,
        /// Absent in files of earlier versions.
        #[serde(default = "default_disk_bytes")]
        disk_bytes: u64,
    }

    fn default_disk_bytes() -> u64 {
        Limits::default().disk_bytes
    }

    #[derive(Deserialize)]
    #[serde(remote = "Policy")]
    struct AnyPolicy {
        #[serde(default)]
        freeze_after_seconds: Option<u32>,
        #[serde(default)]
        sleep_after_seconds: Option<u32>,
        #[serde(default)]
        max_awake_seconds: Option<u32>,
        #[serde(default)]
        wake_on: Option<WakeOn>,
        #[serde(default)]
        require_sign_in: bool,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::sleep::{IdleState, WakePhases};

    struct Folder(PathBuf);

    impl Folder {
        fn new() -> Self {
            let path = std::env::temp_dir().join(format!("cial-state-{}", uuid::Uuid::now_v7()));
            fs::create_dir_all(&path).unwrap();
            Self(path)
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn whole(id: TenantId) -> PersistedState {
        let spec = serde_json::json!({
            "id": id, "slug": "acme", "generation": 3, "env": {"A": "b"}, "limits": {"pids": 64},
            "policy": {"freeze_after_seconds": 5, "wake_on": "any_request"},
        });
        let at = chrono::DateTime::from_timestamp(1_700_000_000, 0).unwrap();
        PersistedState {
            target: TargetState::Asleep,
            spec: serde_json::from_value(spec).unwrap(),
            last_use: Some(at),
            asleep_because: Some("Nobody used it for 20 minutes.".to_owned()),
            last_wake: Some(LastWake {
                at,
                from: IdleState::Sleeping,
                total_ms: 300,
                phases_ms: WakePhases { queue: 1, engine: 250, boot: 20, first_byte: None },
            }),
            revoked_sessions: vec![Uuid::from_u128(7)],
        }
    }

    #[test]
    fn a_written_file_reads_back_a_missing_one_is_the_default_and_a_broken_one_is_asleep() {
        let folder = Folder::new();
        let (dir, id) = (StateDir::new(folder.0.clone()), TenantId::new(uuid::Uuid::now_v7()));
        assert_eq!(dir.read(id), PersistedState::default());
        let state = whole(id);
        dir.write(id, &state).unwrap();
        assert_eq!(dir.read(id), state);
        for broken in ["", "{", "\0\0\0\0"] {
            fs::write(dir.path(id), broken).unwrap();
            assert_eq!(
                dir.read(id),
                PersistedState { target: TargetState::Asleep, ..PersistedState::default() }
            );
        }
        dir.remove(id).unwrap();
        dir.remove(id).unwrap();
    }

    #[test]
    fn unknown_fields_of_a_later_build_are_skipped_at_every_depth() {
        let folder = Folder::new();
        let (dir, id) = (StateDir::new(folder.0.clone()), TenantId::new(uuid::Uuid::now_v7()));
        let mut later = serde_json::to_value(whole(id)).unwrap();
        later["snapshot"] = "x".into();
        later["spec"]["region"] = "x".into();
        later["spec"]["limits"]["io"] = 7.into();
        later["spec"]["policy"]["hibernate_after_seconds"] = 7.into();
        later["last_wake"]["phases_ms"]["restore"] = 7.into();
        fs::write(dir.path(id), later.to_string()).unwrap();
        assert_eq!(dir.read(id), whole(id));
    }

    #[test]
    fn an_unreadable_field_does_not_affect_the_others() {
        let folder = Folder::new();
        let (dir, id) = (StateDir::new(folder.0.clone()), TenantId::new(uuid::Uuid::now_v7()));
        let mut odd = serde_json::to_value(whole(id)).unwrap();
        odd["last_wake"]["from"] = "hibernating".into();
        odd["spec"]["slug"] = "No Slug".into();
        fs::write(dir.path(id), odd.to_string()).unwrap();
        assert_eq!(dir.read(id), PersistedState { spec: None, last_wake: None, ..whole(id) });
        // As the first builds wrote it.
        fs::write(dir.path(id), r#"{"intent":"stopped"}"#).unwrap();
        assert_eq!(
            dir.read(id),
            PersistedState { target: TargetState::Stopped, ..PersistedState::default() }
        );
    }

    fn names(folder: &Folder) -> Vec<String> {
        let entries = fs::read_dir(&folder.0).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn temporary_files_of_a_killed_process_are_removed_and_no_other_file_is() {
        let folder = Folder::new();
        let (dir, id) = (StateDir::new(folder.0.clone()), TenantId::new(uuid::Uuid::now_v7()));
        dir.write(id, &whole(id)).unwrap();
        for name in [format!(".{id}.json"), ".keep".to_owned(), ".other.json".to_owned()] {
            fs::write(folder.0.join(name), "{").unwrap();
        }
        assert_eq!(dir.remove_temporary_files().unwrap(), 1);
        assert_eq!(
            names(&folder),
            [".keep".to_owned(), ".other.json".to_owned(), format!("{id}.json")]
        );
        assert_eq!(dir.read(id), whole(id));
    }

    #[test]
    fn a_delete_removes_the_temporary_file_too() {
        let folder = Folder::new();
        let (dir, id) = (StateDir::new(folder.0.clone()), TenantId::new(uuid::Uuid::now_v7()));
        dir.write(id, &whole(id)).unwrap();
        fs::write(dir.temporary_path(id), "{").unwrap();
        dir.remove(id).unwrap();
        assert_eq!(names(&folder), [""; 0]);
    }
}
