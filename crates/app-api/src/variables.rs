//! Variables and secrets of a tenant's program: one encrypted record in the tenant's row. A change takes effect at the
//! next start.

use protocol::problem::{Code, FieldCode};
use protocol::spec::Desired;
use protocol::variables::{Variable, Variables};
use serde_json::json;
use service::api_error::ApiError;
use service::{keys, sealed};

use crate::access::Principal;
use crate::app::App;
use crate::audit::{Action, Actor, Entry, Resource};
use crate::db::{QueryResult, Transaction as _, audit_log, tenant};
use crate::tenant::Tenant;
use crate::tenant_actions::{MAX_WRITE_ATTEMPTS, being_deleted, changes_too_fast, read_again};
use crate::validation::refused_field;

const MAX_VALUE_BYTES: usize = 16 << 10;
/// All names and values of one tenant. The record is part of every spec.
const MAX_TOTAL_BYTES: usize = 32 << 10;

/// A kind of variable: the calls of one kind do not see the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Env,
    Secret,
}

impl Kind {
    fn of(variable: &Variable) -> Self {
        if variable.secret { Self::Secret } else { Self::Env }
    }

    const fn action(self) -> Action {
        match self {
            Self::Env => Action::TenantEnv,
            Self::Secret => Action::TenantSecret,
        }
    }
}

/// The variables of this kind.
///
/// # Errors
/// When the record was encrypted for another installation.
pub fn list(app: &App, tenant: &Tenant, kind: Kind) -> Result<Variables, ApiError> {
    let mut variables = open(app, tenant)?;
    variables.retain(|_, variable| Kind::of(variable) == kind);
    Ok(variables)
}

fn open(app: &App, tenant: &Tenant) -> Result<Variables, ApiError> {
    let sealed = tenant.app.as_ref().and_then(|app| app.sealed_env.as_deref());
    let Some(text) = sealed else { return Ok(Variables::new()) };
    let key = keys::env_key(&app.device_key, tenant.tenant_id());
    Ok(serde_json::from_slice(&sealed::open(&key, text)?)?)
}

/// Sets a variable, or deletes the variable without a `value`.
///
/// # Errors
/// `invalid_fields`; `resource_not_found` for a variable to delete that does not exist.
pub async fn set(
    app: &App,
    caller: &Principal,
    tenant: Tenant,
    (kind, name): (Kind, &str),
    value: Option<&str>,
) -> Result<(), ApiError> {
    if let Some(value) = value {
        check(&tenant, name, value)?;
    }
    let mut read = tenant;
    for _ in 0..MAX_WRITE_ATTEMPTS {
        if read.desired == Desired::Deleted {
            return Err(being_deleted());
        }
        let mut variables = open(app, &read)?;
        let found = variables.get(name);
        if let Some(other) = found.map(Kind::of).filter(|other| *other != kind && value.is_some()) {
            return Err(taken(name, other));
        }
        let before = found.filter(|variable| Kind::of(variable) == kind);
        if value.is_none() && before.is_none() {
            let detail = "The tenant has nothing of this name.";
            return Err(ApiError::new(Code::ResourceNotFound, detail));
        }
        let shown = |exists: bool| exists.then(|| json!({ "name": name }));
        let (was, is) = (shown(before.is_some()), shown(value.is_some()));
        match value {
            Some(value) => {
                let variable = Variable { value: value.to_owned(), secret: kind == Kind::Secret };
                variables.insert(name.to_owned(), variable);
            }
            None => drop(variables.remove(name)),
        }
        let total: usize = variables.iter().map(|(name, v)| name.len() + v.value.len()).sum();
        if total > MAX_TOTAL_BYTES {
            let detail = "All variables and secrets of a tenant together may have 32 KiB.";
            return Err(refused_field(Code::InvalidFields, "value", FieldCode::TooLong, detail));
        }
        let key = keys::env_key(&app.device_key, read.tenant_id());
        let text = sealed::seal(&key, &serde_json::to_vec(&variables)?)?;
        let sealed = (!variables.is_empty()).then_some(text);
        // The audit log has names only.
        let mut entry =
            Entry::new(Actor::from(caller), kind.action(), Resource::tenant(&read.slug));
        (entry.before, entry.after) = (was, is);
        let (mut conn, now) = (app.conn().await?, app.clock.now());
        let changed = conn
            .transaction(async |conn| {
                let changed = tenant::set_sealed_env(conn, &read, sealed, now).await?;
                if changed {
                    audit_log::append(conn, &entry, now).await?;
                }
                QueryResult::Ok(changed)
            })
            .await?;
        if changed {
            tracing::info!(tenant = %read.id, slug = %read.slug, ?kind, name, %caller, "tenant variable changed");
            app.reconcile.notify(read.tenant_id());
            return Ok(());
        }
        drop(conn);
        read = read_again(app, &read).await?;
    }
    Err(changes_too_fast())
}

/// A secret that became a readable variable, or the reverse, would surprise whoever set it.
fn taken(name: &str, by: Kind) -> ApiError {
    let kind = match by {
        Kind::Env => "variable",
        Kind::Secret => "secret",
    };
    let detail =
        format!("The tenant has a {kind} {name}. Delete it first, or choose another name.");
    refused_field(Code::VariableTaken, "name", Code::VariableTaken, detail)
}

fn check(tenant: &Tenant, name: &str, value: &str) -> Result<(), ApiError> {
    let refused = |field, code: FieldCode, detail: String| {
        Err(refused_field(Code::InvalidFields, field, code, detail))
    };
    if tenant.app.is_none() {
        let detail = "The built-in app reads no variables. Create a tenant with an app.";
        return refused("name", FieldCode::BuiltInApp, detail.to_owned());
    }
    if let Some(rule) = manifest::keys::env_fault(name) {
        return refused("name", FieldCode::Invalid, format!("The name {rule}."));
    }
    if name.len() > 128 {
        return refused("name", FieldCode::TooLong, "The name may have 128 characters.".to_owned());
    }
    if value.len() > MAX_VALUE_BYTES {
        return refused("value", FieldCode::TooLong, "The value may have 16 KiB.".to_owned());
    }
    if value.contains('\0') {
        return refused("value", FieldCode::Invalid, "The value must not contain NUL.".to_owned());
    }
    Ok(())
}
