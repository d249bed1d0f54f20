//! Before anything is written: wait for the database and make sure that it is ours. Then migrate it.

use std::time::Duration;

use anyhow::Context as _;
use protocol::InstallName;
use service::settings::Faults;
use service::{Failed, Secret, keys};

use crate::db::connect::NoConnection;
use crate::db::installation::Found;
use crate::db::{Database, installation};

const PAUSE: Duration = Duration::from_millis(500);

/// Why a database is not opened.
enum Closed {
    /// Waiting helps.
    NotYet(anyhow::Error),
    /// It belongs to somebody else.
    NotOurs(String),
    /// It is ours, and refuses to become what this version needs.
    Never(anyhow::Error),
}

/// Returns once the database is ours and up to date; fails only if it never will be.
pub async fn open(
    database: &Database,
    install: &InstallName,
    master: &Secret,
) -> Result<(), Failed> {
    let mut said = String::new();
    loop {
        match try_open(database, install, master).await {
            Ok(()) => return Ok(()),
            Err(Closed::NotOurs(why)) => return Err(Faults(vec![why]).into()),
            Err(Closed::Never(error)) => return Err(error.into()),
            Err(Closed::NotYet(error)) => {
                let text = format!("{error:#}");
                if said != text {
                    tracing::warn!("waiting for the database: {text}");
                    said = text;
                }
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
}

async fn try_open(
    database: &Database,
    install: &InstallName,
    master: &Secret,
) -> Result<(), Closed> {
    let closed = |error| closed(error, install);
    let ours = keys::fingerprint(master);
    let mut conn = database.dial().await.map_err(closed)?;
    match installation::find(&mut conn).await.context("installation").map_err(Closed::NotYet)? {
        Found::Nothing => {}
        Found::Foreign => {
            let why = "CIAL_DATABASE_URL: the database holds tables that Cial did not make. Give Cial a database of its own.";
            return Err(Closed::NotOurs(why.to_owned()));
        }
        Found::Held(name, held) => compare(install, &ours, &name, &held)?,
    }
    database.migrate().await.map_err(closed)?;
    // Of two that start at once on an empty database, one was first.
    let (name, held) = installation::settle(&mut conn, install.as_str(), &ours)
        .await
        .context("installation")
        .map_err(Closed::NotYet)?;
    compare(install, &ours, &name, &held)
}

fn closed(error: NoConnection, install: &InstallName) -> Closed {
    match error {
        NoConnection::PasswordRefused => Closed::NotOurs(format!(
            "CIAL_DATABASE_PASSWORD_FILE: the database refuses this password, so it was made with other secrets. {}",
            ways_on(install)
        )),
        NoConnection::Unreachable(error) => Closed::NotYet(error),
        error @ NoConnection::Unmigratable(_) => Closed::Never(error.into()),
    }
}

fn compare(install: &InstallName, ours: &str, name: &str, held: &str) -> Result<(), Closed> {
    if name != install.as_str() {
        return Err(Closed::NotOurs(format!(
            "CIAL_INSTALL is {install}, but the database belongs to the installation {name}. {}",
            ways_on(install)
        )));
    }
    if held != ours {
        return Err(Closed::NotOurs(format!(
            "CIAL_SSO_SECRET_FILE: the database of {install} was made with other secrets. {}",
            ways_on(install)
        )));
    }
    Ok(())
}

fn ways_on(install: &InstallName) -> String {
    format!(
        "Two ways on: bring back the secrets volumes that belong to this database, or give its data up with \
         `cargo xtask local-down --purge` (installation {install}) and start anew."
    )
}
