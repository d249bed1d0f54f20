//! What must outlive this process and is not on the engine: one small file a tenant. Losing it costs one idle period
//! and a few reasons, never a tenant.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;

use protocol::sleep::LastWake;
use protocol::spec::Spec;
use protocol::{TenantId, Timestamp};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

/// What was last asked of a tenant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Intent {
    /// Also where nothing is known: what ended then did so by itself.
    #[default]
    Running,
    /// By its owner.
    Stopped,
    /// For want of use.
    Asleep,
}

/// Each field stands for itself: what of it cannot be read, or is not there, is `None`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Note {
    #[serde(deserialize_with = "readable_or_default")]
    pub intent: Intent,
    /// With its policy: what a wake makes the container of, should there be none.
    #[serde(deserialize_with = "spec_of_any_build")]
    pub spec: Option<Spec>,
    #[serde(deserialize_with = "readable_or_default")]
    pub last_use: Option<Timestamp>,
    #[serde(deserialize_with = "readable_or_default")]
    pub asleep_because: Option<String>,
    #[serde(deserialize_with = "readable_or_default")]
    pub last_wake: Option<LastWake>,
}

#[derive(Clone, Debug)]
pub struct Notes {
    directory: PathBuf,
}

impl Notes {
    pub fn new(directory: PathBuf) -> Self {
        Self { directory }
    }

    /// Nothing is known of a tenant without a note. One whose note is there and says nothing, after a loss of power, rests
    /// until it is asked for: taken for running, it would look as if it had crashed, and all such would be started.
    pub fn read(&self, id: TenantId) -> Note {
        let Ok(text) = fs::read(self.path(id)) else { return Note::default() };
        let unsaid = || Note { intent: Intent::Asleep, ..Note::default() };
        serde_json::from_slice(&text).unwrap_or_else(|_| unsaid())
    }

    /// Whole or not at all, as far as a kill of this process goes. A loss of power may take it back or empty it: leases are
    /// given on the same threads, and visitors must not wait for a disk.
    pub fn write(&self, id: TenantId, note: &Note) -> io::Result<()> {
        let unfinished = self.directory.join(format!(".{id}.json"));
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&unfinished)?;
        file.write_all(&serde_json::to_vec(note)?)?;
        fs::rename(&unfinished, self.path(id))
    }

    pub fn remove(&self, id: TenantId) -> io::Result<()> {
        match fs::remove_file(self.path(id)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    fn path(&self, id: TenantId) -> PathBuf {
        self.directory.join(format!("{id}.json"))
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

/// [`Spec`] as a caller sends it refuses unknown fields; here they are of a later build and passed over.
mod lenient {
    use std::collections::BTreeMap;

    use protocol::spec::{Limits, Policy, Spec, WakeOn};
    use protocol::{Slug, TenantId};
    use serde::Deserialize;
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
        #[serde(default, with = "AnyLimits")]
        limits: Limits,
        #[serde(default, with = "AnyPolicy")]
        policy: Policy,
    }

    #[derive(Deserialize)]
    #[serde(remote = "Limits")]
    struct AnyLimits {
        cpu_millis: u32,
        memory_bytes: u64,
        pids: u32,
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
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::sleep::{IdleState, WakePhases};

    struct Folder(PathBuf);

    impl Folder {
        fn new() -> Self {
            let path = std::env::temp_dir().join(format!("cial-note-{}", uuid::Uuid::now_v7()));
            fs::create_dir_all(&path).unwrap();
            Self(path)
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn whole(id: TenantId) -> Note {
        let spec = serde_json::json!({
            "id": id, "slug": "acme", "generation": 3, "env": {"A": "b"}, "limits": {"pids": 64},
            "policy": {"freeze_after_seconds": 5, "wake_on": "any_request"},
        });
        let at = chrono::DateTime::from_timestamp(1_700_000_000, 0).unwrap();
        Note {
            intent: Intent::Asleep,
            spec: serde_json::from_value(spec).unwrap(),
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

    #[test]
    fn what_was_written_is_read_none_is_the_default_and_a_broken_one_rests() {
        let folder = Folder::new();
        let (notes, id) = (Notes::new(folder.0.clone()), TenantId::new(uuid::Uuid::now_v7()));
        assert_eq!(notes.read(id), Note::default());
        let note = whole(id);
        notes.write(id, &note).unwrap();
        assert_eq!(notes.read(id), note);
        for broken in ["", "{", "\0\0\0\0"] {
            fs::write(notes.path(id), broken).unwrap();
            assert_eq!(notes.read(id), Note { intent: Intent::Asleep, ..Note::default() });
        }
        notes.remove(id).unwrap();
        notes.remove(id).unwrap();
    }

    #[test]
    fn what_a_later_build_added_is_passed_over_at_every_depth() {
        let folder = Folder::new();
        let (notes, id) = (Notes::new(folder.0.clone()), TenantId::new(uuid::Uuid::now_v7()));
        let mut later = serde_json::to_value(whole(id)).unwrap();
        later["snapshot"] = "x".into();
        later["spec"]["region"] = "x".into();
        later["spec"]["limits"]["io"] = 7.into();
        later["spec"]["policy"]["hibernate_after_seconds"] = 7.into();
        later["last_wake"]["phases_ms"]["restore"] = 7.into();
        fs::write(notes.path(id), later.to_string()).unwrap();
        assert_eq!(notes.read(id), whole(id));
    }

    #[test]
    fn a_field_that_cannot_be_read_takes_no_other_with_it() {
        let folder = Folder::new();
        let (notes, id) = (Notes::new(folder.0.clone()), TenantId::new(uuid::Uuid::now_v7()));
        let mut odd = serde_json::to_value(whole(id)).unwrap();
        odd["last_wake"]["from"] = "hibernating".into();
        odd["spec"]["slug"] = "No Slug".into();
        fs::write(notes.path(id), odd.to_string()).unwrap();
        assert_eq!(notes.read(id), Note { spec: None, last_wake: None, ..whole(id) });
        // As the first builds wrote it.
        fs::write(notes.path(id), r#"{"intent":"stopped"}"#).unwrap();
        assert_eq!(notes.read(id), Note { intent: Intent::Stopped, ..Note::default() });
    }
}
