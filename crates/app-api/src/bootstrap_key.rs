//! The first `is_admin` key: made, or taken from the settings, while no live `is_admin` key exists.
//!
//! The key is written to a file that only its owner reads, and nowhere else. A lost key is replaced by revoking all
//! `is_admin` keys in the database and starting again.

use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use protocol::Timestamp;
use protocol::api_keys::Role;
use serde_json::json;
use uuid::Uuid;

use crate::audit::{Action, Actor, Entry, Resource};
use crate::auth::api_key::KeyText;
use crate::db::Conn;
use crate::db::api_key::{self, Bootstrap, NewApiKey};

/// The name of the file in the state directory.
pub const FILE_NAME: &str = "bootstrap-key";

/// Where the first key comes from.
#[derive(Clone, Debug)]
pub enum Source {
    /// `CIAL_BOOTSTRAP_KEY`, `CIAL_BOOTSTRAP_KEY_FILE`
    Supplied(KeyText),
    /// Made at random and written to [`FILE_NAME`] in this directory, `CIAL_STATE_DIR`.
    Made(PathBuf),
}

/// Makes sure that there is a live `is_admin` key. Of several replicas that start at once, one creates it.
///
/// # Errors
/// When the supplied key was revoked, when the file cannot be written, or when the database fails.
pub async fn ensure(
    conn: &mut Conn,
    source: Option<&Source>,
    now: Timestamp,
) -> anyhow::Result<()> {
    let Some(source) = source else {
        if !api_key::live_admin_exists(conn, now).await? {
            tracing::warn!(
                "no bootstrap key: neither CIAL_BOOTSTRAP_KEY_FILE nor CIAL_STATE_DIR is set"
            );
        }
        return Ok(());
    };
    let key = match source {
        Source::Supplied(key) => key.clone(),
        Source::Made(_) => KeyText::random()?,
    };
    let row = NewApiKey {
        id: Uuid::now_v7(),
        key_hash: &key.hash(),
        name: "bootstrap",
        role: Role::Admin.as_str(),
        is_admin: true,
        tenant_id: None,
        person_id: None,
        created_by_user: None,
        created_by_key: None,
        created_at: now,
        expires_at: None,
    };
    // The file comes before the commit: a crash in between leaves a file whose key the next start replaces.
    let publish = || match source {
        Source::Supplied(_) => Ok(()),
        Source::Made(directory) => write(&directory.join(FILE_NAME), &key),
    };
    let entry =
        Entry::new(Actor::command("app-api"), Action::KeyCreate, Resource::new("key", row.id));
    let entry = entry.after(json!({ "name": row.name, "role": row.role, "is_admin": true }));
    match api_key::insert_bootstrap(conn, &row, &entry, now, publish).await? {
        Bootstrap::AdminKeyExists => {}
        Bootstrap::Created => tracing::info!(key = %row.id, "bootstrap key created"),
        Bootstrap::KeyIsNotLive => anyhow::bail!(
            "CIAL_BOOTSTRAP_KEY: this key was revoked or has expired. Supply another, or remove the setting."
        ),
    }
    Ok(())
}

/// Writes the key with mode 0600 from the first byte, and replaces the file as a whole.
fn write(path: &Path, key: &KeyText) -> anyhow::Result<()> {
    let write_file = || {
        let temporary = path.with_extension("new");
        if temporary.exists() {
            fs::remove_file(&temporary)?;
        }
        let mut file =
            OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
        writeln!(file, "{}", key.reveal())?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        path.parent().map_or(Ok(()), |directory| File::open(directory)?.sync_all())
    };
    write_file().with_context(|| format!("CIAL_STATE_DIR: cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn the_file_is_its_owners_alone_and_replaced_as_a_whole() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(FILE_NAME);
        // A temporary file that a crash left behind is replaced.
        fs::write(path.with_extension("new"), "half").unwrap();
        for _ in 0..2 {
            let key = KeyText::random().unwrap();
            write(&path, &key).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), format!("{}\n", key.reveal()));
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
            assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
        }
        let nowhere = write(Path::new("/nowhere/bootstrap-key"), &KeyText::random().unwrap());
        let error = format!("{:#}", nowhere.unwrap_err());
        assert!(error.starts_with("CIAL_STATE_DIR: cannot write /nowhere/"), "{error}");
    }
}
