//! Prepares the database at the start: waits for it, checks that it belongs to this installation, migrates it, and
//! makes sure that it holds an `is_admin` key.

use std::time::Duration;

use anyhow::Context as _;
use protocol::{InstallName, Timestamp};
use service::settings::SettingsErrors;
use service::{Secret, ServiceError, keys};

use crate::bootstrap_key;
use crate::db::connect::ConnectError;
use crate::db::installation::DatabaseOwner;
use crate::db::{Database, DatabaseError, installation, roles};

const RETRY_DELAY: Duration = Duration::from_millis(500);
/// A migration that fails this often on a reachable database ends the process with the reason.
const MAX_MIGRATION_ATTEMPTS: u32 = 2;

/// The reason for which one attempt failed.
enum SetupError {
    /// A retry may succeed.
    Transient(anyhow::Error),
    /// A migration failed on a reachable database.
    Migration(String),
    /// The database belongs to another installation or program. The text names the setting and the ways out.
    WrongDatabase(String),
    /// No retry can succeed: the database refuses what this version needs, or the bootstrap key cannot be used.
    Permanent(anyhow::Error),
}

/// Returns once the database is ready.
///
/// # Errors
/// When no retry can succeed.
pub async fn prepare_database(
    database: &Database,
    install: &InstallName,
    master: &Secret,
    key: Option<&bootstrap_key::Source>,
    now: Timestamp,
) -> Result<(), ServiceError> {
    let mut last_error = String::new();
    let mut failed_migrations = 0;
    loop {
        match try_prepare(database, install, master, key, now).await {
            Ok(()) => return Ok(()),
            Err(SetupError::WrongDatabase(why)) => return Err(SettingsErrors(vec![why]).into()),
            Err(SetupError::Permanent(error)) => return Err(error.into()),
            Err(SetupError::Migration(error)) => {
                failed_migrations += 1;
                if failed_migrations == MAX_MIGRATION_ATTEMPTS {
                    return Err(anyhow::anyhow!(
                        "the database cannot be migrated: it failed {failed_migrations} times, at last by: {error}"
                    )
                    .into());
                }
                tracing::warn!(error, "migration failed, retrying");
            }
            Err(SetupError::Transient(error)) => {
                let error = format!("{error:#}");
                // The same error is logged once, not at every attempt.
                if last_error != error {
                    tracing::warn!(%error, "database unreachable, retrying");
                    last_error = error;
                }
            }
        }
        tokio::time::sleep(RETRY_DELAY).await;
    }
}

async fn try_prepare(
    database: &Database,
    install: &InstallName,
    master: &Secret,
    key: Option<&bootstrap_key::Source>,
    now: Timestamp,
) -> Result<(), SetupError> {
    let classify = |error| classify_error(error, install);
    let own_fingerprint = keys::fingerprint(master);
    let mut conn = database.connect_owner().await.map_err(classify)?;
    let owner = installation::find(&mut conn).await.context("installation");
    match owner.map_err(SetupError::Transient)? {
        DatabaseOwner::None => {}
        DatabaseOwner::Foreign => {
            let why = "CIAL_DATABASE_URL: the database holds tables that Cial did not make. Give Cial a database of its own.";
            return Err(SetupError::WrongDatabase(why.to_owned()));
        }
        DatabaseOwner::Installation { name, fingerprint } => {
            check_owner(install, &own_fingerprint, &name, &fingerprint)?;
        }
    }
    database.migrate().await.map_err(classify)?;
    if roles::is_createrole_wide(&mut conn)
        .await
        .context("version")
        .map_err(SetupError::Transient)?
    {
        tracing::warn!(
            "the Postgres server is older than version 16: the role that makes tenants' roles can change those of other programs, too"
        );
    }
    // Two installations may have started on the same empty database: the first claim counts.
    let (name, fingerprint) = installation::claim(&mut conn, install.as_str(), &own_fingerprint)
        .await
        .context("installation")
        .map_err(SetupError::Transient)?;
    check_owner(install, &own_fingerprint, &name, &fingerprint)?;
    bootstrap_key::ensure(&mut conn, key, now).await.map_err(|error| {
        if DatabaseError::find(&error).is_some() {
            SetupError::Transient(error)
        } else {
            SetupError::Permanent(error)
        }
    })
}

fn classify_error(error: ConnectError, install: &InstallName) -> SetupError {
    match error {
        ConnectError::PasswordRefused => SetupError::WrongDatabase(format!(
            "CIAL_DATABASE_PASSWORD_FILE: the database refuses this password, so it was made with other secrets. {}",
            ways_out(install)
        )),
        ConnectError::Unreachable(error) => SetupError::Transient(error),
        ConnectError::MigrationFailed(error) => SetupError::Migration(error),
        error @ ConnectError::Unmigratable(_) => SetupError::Permanent(error.into()),
    }
}

fn check_owner(
    install: &InstallName,
    own_fingerprint: &str,
    name: &str,
    fingerprint: &str,
) -> Result<(), SetupError> {
    if name != install.as_str() {
        return Err(SetupError::WrongDatabase(format!(
            "CIAL_INSTALL is {install}, but the database belongs to the installation {name}. {}",
            ways_out(install)
        )));
    }
    if fingerprint != own_fingerprint {
        return Err(SetupError::WrongDatabase(format!(
            "CIAL_SSO_SECRET_FILE: the database of {install} was made with other secrets. {}",
            ways_out(install)
        )));
    }
    Ok(())
}

fn ways_out(install: &InstallName) -> String {
    format!(
        "Two ways on: bring back the secrets volumes that belong to this database, or give its data up with \
         `cargo xtask local-down --purge` (installation {install}) and start anew."
    )
}
