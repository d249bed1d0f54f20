//! The state that must outlive this process and is not on the engine: two small files per tenant.
//!
//! `{id}.spec.json` holds what the control plane requested, and survives a loss of power: a start with an older spec would
//! hand the program variables that its owner replaced. `{id}.json` holds the rest, may be lost, and costs one idle period and
//! a few reasons then.

use std::fs::{self, File, OpenOptions};
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

/// The content of both files. Each field is read by itself: a missing or unreadable field is `None`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct PersistedState {
    #[serde(rename = "intent", deserialize_with = "readable_or_default")]
    pub target: TargetState,
    /// In `{id}.spec.json`. Earlier builds wrote one file, which [`StateDir::recover`] splits.
    #[serde(flatten, skip_serializing)]
    pub requested: RequestedState,
    #[serde(deserialize_with = "readable_or_default")]
    pub last_use: Option<Timestamp>,
    #[serde(deserialize_with = "readable_or_default")]
    pub asleep_because: Option<String>,
    #[serde(deserialize_with = "readable_or_default")]
    pub last_wake: Option<LastWake>,
}

/// The spec and the ended sessions that the control plane requested of a tenant.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct RequestedState {
    /// Includes the sleep policy. A wake makes the container from this spec when none exists. `None`: the spec was lost, and
    /// the control plane must apply it before the tenant is started.
    #[serde(deserialize_with = "spec_of_any_build")]
    pub spec: Option<Spec>,
    /// Admin sessions that have ended, as app-api last reported them.
    #[serde(deserialize_with = "readable_or_default")]
    pub revoked_sessions: Vec<Uuid>,
}

/// The directory of all state files. Each is written under a name that begins with a dot, and renamed.
#[derive(Debug)]
pub struct StateDir {
    directory: PathBuf,
    /// One write at a time: the state that is written last is the latest.
    writing: Mutex<()>,
}

impl StateDir {
    /// Makes the value without I/O.
    pub fn new(directory: PathBuf) -> Self {
        Self { directory, writing: Mutex::default() }
    }

    /// Returns the default for a tenant without files. A `{id}.json` that exists and cannot be parsed, after a loss of power,
    /// reads as asleep: as running, the tenant would look crashed, and all such tenants would be started at once.
    pub fn read(&self, id: TenantId) -> PersistedState {
        let unreadable =
            || PersistedState { target: TargetState::Asleep, ..PersistedState::default() };
        let mut state = match fs::read(self.path(id)) {
            Ok(text) => serde_json::from_slice(&text).unwrap_or_else(|_| unreadable()),
            Err(_) => PersistedState::default(),
        };
        if let Ok(text) = fs::read(self.requested_path(id)) {
            state.requested = serde_json::from_slice(&text).unwrap_or_default();
        }
        state
    }

    /// Writes all but [`PersistedState::requested`] of the state that `latest` returns, and nothing for `None`. `latest` is
    /// called with this directory's lock held. Returns whether a file was written.
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
        replace(&self.path(id), &serde_json::to_vec(state)?, |_| Ok(()))
    }

    /// Replaces what was requested, so that a loss of power leaves the old file or the new one, and the new one once this
    /// returned. Waits for the disk: must not be called on a thread that grants leases. One call at a time for each tenant.
    ///
    /// # Errors
    /// The file system's own, [`io::ErrorKind::StorageFull`] among them. The old file is intact then.
    pub(super) fn write_requested(&self, id: TenantId, state: &RequestedState) -> io::Result<()> {
        replace(&self.requested_path(id), &serde_json::to_vec(state)?, File::sync_all)?;
        File::open(&self.directory)?.sync_all()
    }

    /// Removes both files, and the temporary files of interrupted writes. Succeeds when none exists.
    ///
    /// # Errors
    /// The file system's own.
    pub fn remove(&self, id: TenantId) -> io::Result<()> {
        let _one = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        for path in [self.requested_path(id), self.path(id)] {
            remove_if_present(&temporary(&path))?;
            remove_if_present(&path)?;
        }
        Ok(())
    }

    /// Removes the temporary files that a process left behind when it was killed during a write, and splits the files of
    /// earlier builds. Must run before this process writes; returns the number of temporary files.
    ///
    /// # Errors
    /// The file system's own.
    pub fn recover(&self) -> io::Result<usize> {
        let mut removed = 0;
        for entry in fs::read_dir(&self.directory)? {
            let name = entry?.file_name();
            let Some((kind, id)) = name.to_str().and_then(parse_name) else { continue };
            match kind {
                FileKind::Temporary => {
                    remove_if_present(&self.directory.join(&name))?;
                    removed += 1;
                }
                FileKind::State if !self.requested_path(id).exists() => {
                    let requested = self.read(id).requested;
                    if requested.spec.is_some() {
                        self.write_requested(id, &requested)?;
                    }
                }
                FileKind::State | FileKind::Requested => {}
            }
        }
        Ok(removed)
    }

    fn path(&self, id: TenantId) -> PathBuf {
        self.directory.join(format!("{id}.json"))
    }

    fn requested_path(&self, id: TenantId) -> PathBuf {
        self.directory.join(format!("{id}.spec.json"))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum FileKind {
    State,
    Requested,
    Temporary,
}

/// Only names that [`StateDir`] makes: the directory may hold files of others.
fn parse_name(name: &str) -> Option<(FileKind, TenantId)> {
    let (is_temporary, name) = match name.strip_prefix('.') {
        Some(name) => (true, name),
        None => (false, name),
    };
    let stem = name.strip_suffix(".json")?;
    let (kind, id) = match stem.strip_suffix(".spec") {
        Some(id) => (FileKind::Requested, id),
        None => (FileKind::State, stem),
    };
    Some((if is_temporary { FileKind::Temporary } else { kind }, id.parse().ok()?))
}

/// The name under which a file is written before it replaces the old one.
fn temporary(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}"))
}

/// Writes a whole file and puts it in the place of `path`. `before_rename` gets the written file.
fn replace(
    path: &Path,
    content: &[u8],
    before_rename: impl FnOnce(&File) -> io::Result<()>,
) -> io::Result<()> {
    let temporary = temporary(path);
    let write = || {
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o600);
        let mut file = options.open(&temporary)?;
        file.write_all(content)?;
        before_rename(&file)?;
        fs::rename(&temporary, path)
    };
    let written = write();
    if written.is_err() {
        // Frees the bytes of a full disk.
        let _ = fs::remove_file(&temporary);
    }
    written
}

/// Removes a file. Succeeds when none exists.
pub(crate) fn remove_if_present(path: &Path) -> io::Result<()> {
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

    use protocol::process::{AppSpec, Hooks};
    use protocol::spec::{Limits, Policy, Spec, WakeOn};
    use protocol::variables::{SealedAppEnv, SecretNames};
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
        #[serde(default)]
        app_env: Option<SealedAppEnv>,
        #[serde(default)]
        database_user: Option<String>,
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
        #[serde(default)]
        database: bool,
        #[serde(default)]
        chat: Option<String>,
        #[serde(default, with = "AnyHooks")]
        hooks: Hooks,
        #[serde(default)]
        secrets: SecretNames,
    }

    #[derive(Deserialize)]
    #[serde(remote = "Hooks")]
    struct AnyHooks {
        #[serde(default)]
        before_first_start: Option<Vec<String>>,
        #[serde(default)]
        migrate: Option<Vec<String>>,
        #[serde(default)]
        timeout_seconds: Option<u32>,
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
        #[serde(default = "default_database_bytes")]
        database_bytes: u64,
    }

    fn default_disk_bytes() -> u64 {
        Limits::default().disk_bytes
    }

    fn default_database_bytes() -> u64 {
        Limits::default().database_bytes
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
            "app": {"command": ["/bin/notes"], "hooks": {"migrate": ["/bin/notes", "up"]}},
        });
        let at = chrono::DateTime::from_timestamp(1_700_000_000, 0).unwrap();
        PersistedState {
            target: TargetState::Asleep,
            requested: RequestedState {
                spec: serde_json::from_value(spec).unwrap(),
                revoked_sessions: vec![Uuid::from_u128(7)],
            },
            last_use: Some(at),
            asleep_because: Some("Nobody used it for 20 minutes.".to_owned()),
            last_wake: Some(LastWake {
                at,
                from: IdleState::Sleeping,
                total_ms: 300,
                phases_ms: WakePhases { queue: 1, engine: 250, boot: 20, first_byte: None },
            }),
        }
    }

    fn write(dir: &StateDir, id: TenantId, state: &PersistedState) {
        dir.write(id, state).unwrap();
        dir.write_requested(id, &state.requested).unwrap();
    }

    /// Both parts in one object, as earlier builds wrote them.
    fn in_one_file(state: &PersistedState) -> Value {
        let mut value = serde_json::to_value(state).unwrap();
        let requested = serde_json::to_value(&state.requested).unwrap();
        value.as_object_mut().unwrap().extend(requested.as_object().unwrap().clone());
        value
    }

    #[test]
    fn written_files_read_back_missing_ones_are_the_default_and_a_broken_one_is_asleep() {
        let folder = Folder::new();
        let (dir, id) = (StateDir::new(folder.0.clone()), TenantId::new(uuid::Uuid::now_v7()));
        assert_eq!(dir.read(id), PersistedState::default());
        let state = whole(id);
        write(&dir, id, &state);
        assert_eq!(dir.read(id), state);
        let unknown = RequestedState::default();
        for broken in ["", "{", "\0\0\0\0"] {
            write(&dir, id, &state);
            fs::write(dir.path(id), broken).unwrap();
            let asleep = PersistedState { target: TargetState::Asleep, ..Default::default() };
            let kept = PersistedState { requested: state.requested.clone(), ..asleep };
            assert_eq!(dir.read(id), kept, "the spec is in another file");
            write(&dir, id, &state);
            fs::write(dir.requested_path(id), broken).unwrap();
            let lost = PersistedState { requested: unknown.clone(), ..state.clone() };
            assert_eq!(dir.read(id), lost);
        }
        dir.remove(id).unwrap();
        dir.remove(id).unwrap();
    }

    #[test]
    fn the_file_of_an_earlier_build_is_split_once() {
        let folder = Folder::new();
        let (dir, id) = (StateDir::new(folder.0.clone()), TenantId::new(uuid::Uuid::now_v7()));
        let old = whole(id);
        fs::write(dir.path(id), in_one_file(&old).to_string()).unwrap();
        dir.recover().unwrap();
        dir.write(id, &old).unwrap();
        assert_eq!(dir.read(id), old, "its next write does not lose the spec");
        // From then on the spec in the file of an earlier build is out of date.
        let mut spec = old.requested.spec.clone().unwrap();
        spec.generation += 1;
        let requested = RequestedState { spec: Some(spec), ..RequestedState::default() };
        dir.write_requested(id, &requested).unwrap();
        fs::write(dir.path(id), in_one_file(&old).to_string()).unwrap();
        dir.recover().unwrap();
        assert_eq!(dir.read(id).requested, requested);
    }

    #[test]
    fn unknown_fields_of_a_later_build_are_skipped_at_every_depth() {
        let folder = Folder::new();
        let (dir, id) = (StateDir::new(folder.0.clone()), TenantId::new(uuid::Uuid::now_v7()));
        let mut later = in_one_file(&whole(id));
        later["snapshot"] = "x".into();
        later["spec"]["region"] = "x".into();
        later["spec"]["limits"]["io"] = 7.into();
        later["spec"]["app"]["cron"] = "x".into();
        later["spec"]["app"]["hooks"]["retries"] = 7.into();
        later["spec"]["policy"]["hibernate_after_seconds"] = 7.into();
        later["last_wake"]["phases_ms"]["restore"] = 7.into();
        fs::write(dir.path(id), later.to_string()).unwrap();
        assert_eq!(dir.read(id), whole(id));
    }

    #[test]
    fn an_unreadable_field_does_not_affect_the_others() {
        let folder = Folder::new();
        let (dir, id) = (StateDir::new(folder.0.clone()), TenantId::new(uuid::Uuid::now_v7()));
        let mut odd = in_one_file(&whole(id));
        odd["last_wake"]["from"] = "hibernating".into();
        odd["spec"]["slug"] = "No Slug".into();
        fs::write(dir.path(id), odd.to_string()).unwrap();
        let requested = RequestedState { spec: None, ..whole(id).requested };
        assert_eq!(dir.read(id), PersistedState { requested, last_wake: None, ..whole(id) });
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
        write(&dir, id, &whole(id));
        let others = [".keep", ".other.json", "other.spec.json"].map(str::to_owned);
        let left = [format!(".{id}.json"), format!(".{id}.spec.json")];
        for name in others.iter().chain(&left) {
            fs::write(folder.0.join(name), "{").unwrap();
        }
        assert_eq!(dir.recover().unwrap(), left.len());
        let mut expected = [format!("{id}.json"), format!("{id}.spec.json")].to_vec();
        expected.extend(others);
        expected.sort();
        assert_eq!(names(&folder), expected);
        assert_eq!(dir.read(id), whole(id));
    }

    #[test]
    fn a_delete_removes_the_temporary_files_too() {
        let folder = Folder::new();
        let (dir, id) = (StateDir::new(folder.0.clone()), TenantId::new(uuid::Uuid::now_v7()));
        write(&dir, id, &whole(id));
        for path in [dir.path(id), dir.requested_path(id)] {
            fs::write(temporary(&path), "{").unwrap();
        }
        dir.remove(id).unwrap();
        assert_eq!(names(&folder), [""; 0]);
    }
}
