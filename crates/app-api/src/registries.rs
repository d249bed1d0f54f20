//! Registries of images that want credentials: set, list, delete. No call returns a password; it reaches the orchestrator
//! encrypted, with a pull from its registry.

use protocol::images::{RegistryHost, RegistryLogin, SealedLogin, SetRegistry};
use protocol::problem::{Code, FieldCode};
use protocol::text::{LineError, check_line};
use serde_json::json;
use service::api_error::ApiError;
use service::sealing_keys::Purpose;

use crate::access::Principal;
use crate::app::App;
use crate::audit::{Action, Actor, Entry, Resource};
use crate::db::registry::{self, Registry};
use crate::db::{Conn, Transaction as _, audit_log};
use crate::validation::{FieldError, invalid_fields, refused_field};

const MAX_REGISTRIES: i64 = 100;
const MAX_USERNAME_CHARS: usize = 255;
/// Some clouds use a whole key file as the password.
const MAX_PASSWORD_BYTES: usize = 16 << 10;

/// All registries with credentials, by host.
pub async fn list(app: &App) -> Result<Vec<Registry>, ApiError> {
    Ok(registry::all(&mut *app.conn().await?).await?)
}

/// Sets the credentials of a registry, from the next pull on.
///
/// # Errors
/// `invalid_fields`.
pub async fn set(
    app: &App,
    caller: &Principal,
    host: &str,
    new: &SetRegistry,
) -> Result<(), ApiError> {
    let host = checked_host(host)?;
    check_login(new)?;
    let login = RegistryLogin { username: new.username.clone(), password: new.password.clone() };
    let (actor, now) = (Actor::from(caller), app.clock.now());
    let row = Registry {
        host: host.to_string(),
        username: login.username.clone(),
        sealed_login: app
            .sealing
            .seal(&Purpose::Registry(host.clone()), &serde_json::to_vec(&login)?)?,
        updated_by: actor.name.clone(),
        updated_at: now,
    };
    let entry = Entry::new(actor, Action::RegistrySet, Resource::new("registry", &host))
        .after(json!({ "username": row.username }));
    let mut conn = app.conn().await?;
    conn.transaction(async |conn| -> Result<_, ApiError> {
        registry::upsert(conn, &row).await?;
        audit_log::append(conn, &entry, now).await?;
        // Under the lock of the audit log: of two at once, the second counts the first.
        if registry::count(conn).await? > MAX_REGISTRIES {
            let detail =
                format!("There are {MAX_REGISTRIES} registries already. Delete one first.");
            return Err(refused_field(Code::InvalidFields, "host", FieldCode::OutOfBounds, detail));
        }
        Ok(())
    })
    .await?;
    tracing::info!(registry = %host, %caller, "credentials of a registry set");
    Ok(())
}

/// Deletes the credentials of a registry: what was pulled stays.
///
/// # Errors
/// `resource_not_found`.
pub async fn delete(app: &App, caller: &Principal, host: &str) -> Result<(), ApiError> {
    let nothing = || {
        let detail = "There are no credentials of this registry.";
        ApiError::new(Code::ResourceNotFound, detail)
    };
    let host: RegistryHost = host.parse().map_err(|_| nothing())?;
    let (mut conn, now) = (app.conn().await?, app.clock.now());
    conn.transaction(async |conn| -> Result<_, ApiError> {
        let found = registry::by_host(conn, host.as_str()).await?.ok_or_else(nothing)?;
        let resource = Resource::new("registry", &host);
        let entry = Entry::new(Actor::from(caller), Action::RegistryDelete, resource)
            .before(json!({ "username": found.username }));
        audit_log::append(conn, &entry, now).await?;
        if registry::delete(conn, host.as_str()).await? == 0 { Err(nothing()) } else { Ok(()) }
    })
    .await?;
    tracing::info!(registry = %host, %caller, "credentials of a registry deleted");
    Ok(())
}

/// The credentials of a registry, as the orchestrator takes them; `None` where none are stored.
pub async fn sealed_login(
    conn: &mut Conn,
    host: &RegistryHost,
) -> Result<Option<SealedLogin>, ApiError> {
    let found = registry::by_host(conn, host.as_str()).await?;
    Ok(found.map(|row| SealedLogin { host: host.clone(), sealed: row.sealed_login }))
}

fn checked_host(text: &str) -> Result<RegistryHost, ApiError> {
    text.parse().map_err(|error| {
        let detail = format!("The registry {error}.");
        refused_field(Code::InvalidFields, "host", FieldCode::Invalid, detail)
    })
}

fn check_login(new: &SetRegistry) -> Result<(), ApiError> {
    let fault = |code, message| Some(FieldError { code, message });
    let username = match check_line(&new.username, MAX_USERNAME_CHARS) {
        Ok(name) if name.contains(':') || name != new.username => fault(
            FieldCode::InvalidName,
            "Use no colon, and no blanks around the name: a registry cannot be sent them.",
        ),
        Ok(_) => None,
        Err(LineError::Blank) => fault(FieldCode::Required, "Enter the account's name."),
        Err(LineError::TooLong) => fault(FieldCode::TooLong, "Use at most 255 characters."),
        Err(LineError::Unprintable) => {
            fault(FieldCode::InvalidName, "Use no line breaks and no invisible characters.")
        }
    };
    let password = match new.password.as_str() {
        "" => fault(FieldCode::Required, "Enter the account's password or token."),
        text if text.len() > MAX_PASSWORD_BYTES => fault(FieldCode::TooLong, "Use at most 16 KiB."),
        text if text.contains('\0') => fault(FieldCode::Invalid, "Use no NUL."),
        _ => None,
    };
    if username.is_none() && password.is_none() {
        return Ok(());
    }
    Err(invalid_fields(&[("username", username), ("password", password)]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_login_is_what_a_registry_can_be_sent() {
        let long = "x".repeat(MAX_PASSWORD_BYTES + 1);
        let wide = "x".repeat(MAX_USERNAME_CHARS + 1);
        for (username, password, faults) in [
            ("bob", "hunter2", ""),
            ("robot$team+ci", "{\n\"key\": 1\n}", ""),
            ("_json_key", &long[1..], ""),
            ("", "", "username required, password required"),
            ("bob:x", "x", "username invalid_name"),
            (" bob", "x", "username invalid_name"),
            ("bo\nb", "x", "username invalid_name"),
            (&wide, "x", "username too_long"),
            ("bob", &long, "password too_long"),
            ("bob", "a\0b", "password invalid"),
        ] {
            let login =
                SetRegistry { username: username.to_owned(), password: password.to_owned() };
            let errors = check_login(&login).err().map(|error| error.problem.errors);
            let errors = errors.into_iter().flatten();
            let found: Vec<_> = errors.map(|e| format!("{} {}", e.field, e.code)).collect();
            assert_eq!(found.join(", "), faults, "{username:?}");
        }
    }
}
